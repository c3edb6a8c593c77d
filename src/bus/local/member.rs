//! One membership: a task that moves records from the storage into the member's queue as long as there is room.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Chunk, Core, Storage, assign::MemberId};
use crate::bus::{DeliveryQueue, TopicPartition, faults};

/// How many records are read at once.
const READ_LIMIT: usize = 256;
/// How long a member waits after a partition could not be read.
const READ_RETRY: Duration = Duration::from_millis(200);
/// What a publisher may need between its write and its wake-up.
const WAKE_UP_GRACE: Duration = Duration::from_millis(20);

pub(super) struct Member<S: Storage> {
    pub(super) core: Arc<Core<S>>,
    pub(super) group: String,
    pub(super) id: MemberId,
    pub(super) queue: Arc<DeliveryQueue>,
    pub(super) wake: Arc<Notify>,
    pub(super) leave: CancellationToken,
    pub(super) generation: u64,
    /// Where each assigned partition is read next.
    pub(super) positions: BTreeMap<TopicPartition, u64>,
    /// When a partition that could not be read is read again: it holds up no other.
    pub(super) unreadable: BTreeMap<TopicPartition, Instant>,
}

impl<S: Storage> Member<S> {
    /// Until the member leaves, its subscription is dropped, or the log is closed.
    pub(super) async fn run(mut self) {
        while !self.has_ended() {
            self.follow_assignment();
            self.store();
            let pace = self.core.groups.pace(&self.group, self.id);
            let limit = if pace.is_zero() { READ_LIMIT } else { 1 };
            if !self.deliver(limit).await {
                self.wait().await;
            } else if !pace.is_zero() {
                self.linger(pace).await;
            }
        }
    }

    fn has_ended(&self) -> bool {
        self.leave.is_cancelled() || self.core.closed.is_cancelled() || self.queue.is_abandoned()
    }

    fn follow_assignment(&mut self) {
        let gained = self.core.groups.reconcile(&self.group, self.id, &self.queue, &mut self.generation);
        for (at, stored) in gained {
            let position = stored.unwrap_or(0);
            self.positions.insert(at, position);
            self.unreadable.remove(&at);
            if stored.is_none() {
                // From now on retention knows that this group has yet to read the partition.
                self.core.groups.store(&self.group, self.id, vec![(at, position)]);
                self.core.dirty.notify_one();
            }
        }
    }

    fn store(&self) {
        if self.core.groups.store(&self.group, self.id, self.queue.take_storable()) {
            self.core.dirty.notify_one();
        }
    }

    /// One round over the partitions, with at most `limit` records of each. True if anything was handed over.
    async fn deliver(&mut self, limit: usize) -> bool {
        let mut any = false;
        let assigned = self.queue.assigned();
        let lost: Vec<_> = self.unreadable.keys().filter(|at| !assigned.contains(at)).copied().collect();
        lost.into_iter().for_each(|at| self.mended(at));
        for at in assigned {
            let Some((position, room)) = self.readable(at) else { continue };
            if self.unreadable.get(&at).is_some_and(|again| Instant::now() < *again) {
                continue;
            }
            match self.core.storage.read(at, position, room.min(limit)).await {
                Ok(Chunk { records, next }) => {
                    for stored in records {
                        any |= self.queue.push(at, stored.offset, stored.timestamp, stored.record);
                    }
                    self.positions.insert(at, next);
                    self.mended(at);
                }
                Err(error) => {
                    let is_new = self.unreadable.insert(at, Instant::now() + READ_RETRY).is_none();
                    self.core.faults.set(&self.part(at), error.clone());
                    if is_new {
                        tracing::warn!(group = self.group, %at, error, "A partition could not be read; trying again.");
                    }
                }
            }
        }
        any
    }

    /// A partition as this group reads it: that another group can, for it reads elsewhere, mends nothing here.
    fn part(&self, at: TopicPartition) -> String {
        format!("{at} for {}", faults::consumer(&self.group))
    }

    /// It can be read, or is another member's to read.
    fn mended(&mut self, at: TopicPartition) {
        if self.unreadable.remove(&at).is_some() {
            self.core.faults.clear(&self.part(at));
        }
    }

    /// Position and room, where there is something to read and room for it.
    fn readable(&self, at: TopicPartition) -> Option<(u64, usize)> {
        let position = *self.positions.get(&at)?;
        let room = self.queue.room(at);
        (room > 0 && position < self.core.storage.end(at)).then_some((position, room))
    }

    /// A slow member's time for what it was handed; its end does not wait for it.
    async fn linger(&self, pace: Duration) {
        tokio::select! {
            () = self.leave.cancelled() => {}
            () = self.core.closed.cancelled() => {}
            () = tokio::time::sleep(pace) => {}
        }
    }

    /// Until something happens. What is found without a wake-up is counted: nothing may depend on one (design, section 6).
    async fn wait(&self) {
        let retry = (!self.unreadable.is_empty()).then_some(READ_RETRY);
        tokio::select! {
            () = self.wake.notified() => return,
            () = self.leave.cancelled() => return,
            () = self.core.closed.cancelled() => return,
            () = tokio::time::sleep(retry.unwrap_or(self.core.options.watch_interval)) => {}
        }
        let stuck = || self.queue.assigned().into_iter().any(|at| self.readable(at).is_some());
        if retry.is_some() || !stuck() {
            return;
        }
        if tokio::time::timeout(WAKE_UP_GRACE, self.wake.notified()).await.is_ok() {
            return;
        }
        if stuck() && self.wake.notified().now_or_never().is_none() {
            self.core.count_missed_wakeup(&self.group);
        }
    }
}

/// However it ends, by a panic too: what it had is given back, and the service hears that its membership has ended.
impl<S: Storage> Drop for Member<S> {
    fn drop(&mut self) {
        let unreadable: Vec<_> = self.unreadable.keys().copied().collect();
        unreadable.into_iter().for_each(|at| self.mended(at));
        self.core.groups.leave(&self.group, self.id, &self.queue, |topic| self.core.storage.partitions(topic));
        self.queue.close();
        self.core.dirty.notify_one();
    }
}
