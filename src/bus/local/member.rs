//! One membership: a task that moves records from the storage into the member's queue as long as there is room.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::FutureExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Chunk, Core, Storage, assign::MemberId};
use crate::bus::{DeliveryQueue, TopicPartition};

/// How many records are read at once.
const READ_LIMIT: usize = 256;
/// How long a member waits after the storage could not be read.
const READ_RETRY: Duration = Duration::from_millis(200);
/// What a publisher may need between its write and its wake-up.
const WAKE_UP_GRACE: Duration = Duration::from_millis(20);

pub(super) struct Member<S> {
    pub(super) core: Arc<Core<S>>,
    pub(super) group: String,
    pub(super) id: MemberId,
    pub(super) queue: Arc<DeliveryQueue>,
    pub(super) wake: Arc<Notify>,
    pub(super) leave: CancellationToken,
    pub(super) generation: u64,
    /// Where each assigned partition is read next.
    pub(super) positions: BTreeMap<TopicPartition, u64>,
}

impl<S: Storage> Member<S> {
    /// Until the member leaves, its subscription is dropped, or the log is closed.
    pub(super) async fn run(mut self) {
        while !self.has_ended() {
            self.follow_assignment();
            self.store();
            let retry = match self.deliver().await {
                Ok(true) => continue,
                Ok(false) => None,
                Err(error) => {
                    tracing::warn!(group = self.group, error, "The log could not be read.");
                    Some(READ_RETRY)
                }
            };
            self.wait(retry).await;
        }
        self.core.groups.leave(&self.group, self.id, &self.queue, |topic| self.core.storage.partitions(topic));
        self.queue.close();
        self.core.dirty.notify_one();
    }

    fn has_ended(&self) -> bool {
        self.leave.is_cancelled() || self.core.closed.is_cancelled() || self.queue.is_abandoned()
    }

    fn follow_assignment(&mut self) {
        let gained = self.core.groups.reconcile(&self.group, self.id, &self.queue, &mut self.generation);
        for (at, stored) in gained {
            let position = stored.unwrap_or(0);
            self.positions.insert(at, position);
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

    /// One round over the partitions. True if anything was handed over.
    async fn deliver(&mut self) -> Result<bool, String> {
        let mut any = false;
        for at in self.queue.assigned() {
            let Some((position, room)) = self.readable(at) else { continue };
            let Chunk { records, next } = self.core.storage.read(at, position, room.min(READ_LIMIT)).await?;
            for stored in records {
                any |= self.queue.push(at, stored.offset, stored.timestamp, stored.record);
            }
            self.positions.insert(at, next);
        }
        Ok(any)
    }

    /// Position and room, where there is something to read and room for it.
    fn readable(&self, at: TopicPartition) -> Option<(u64, usize)> {
        let position = *self.positions.get(&at)?;
        let room = self.queue.room(at);
        (room > 0 && position < self.core.storage.end(at)).then_some((position, room))
    }

    /// Until something happens. What is found without a wake-up is counted: nothing may depend on one (design, section 6).
    async fn wait(&self, retry: Option<Duration>) {
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
            self.core.missed_wakeups.fetch_add(1, Ordering::Relaxed);
            self.core.count_missed_wakeup(&self.group);
        }
    }
}
