//! A log inside one process: consumer groups, memberships and wake-ups over a [`Storage`]. Memory and embedded adapter share it.
//!
//! In: records, memberships. Out: deliveries. The storage keeps records and offsets and knows nothing of groups.

mod assign;
mod group;
mod member;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::member::Member;
use super::{
    Bus, BusError, Consumes, DeliveryQueue, Membership, SubscribeOptions, Subscription, TopicPartition, check_record,
    faults::{self, Faults},
    partition_of, repaired_wakeups, set_lag,
};
use crate::{
    events::{Record, Topic},
    runtime::{Liveness, Metrics, clock::Clock, liveness::LOOP_BOUND},
};

pub(super) use group::Groups;
pub use group::StoredOffset;

/// A record with its place.
#[derive(Clone, Debug)]
pub struct StoredRecord {
    /// Its place in the partition.
    pub offset: u64,
    /// When the log took it.
    pub timestamp: Timestamp,
    /// The record.
    pub record: Record,
}

/// What one read gave.
#[derive(Debug)]
pub struct Chunk {
    /// The records.
    pub records: Vec<StoredRecord>,
    /// Where to read next: every record before it is in this chunk or in an earlier one.
    pub next: u64,
}

/// Where the records and the offsets are.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// Whether offsets are written by [`Storage::store_offsets`], some time after they changed.
    const KEEPS_OFFSETS: bool;

    /// How many partitions a topic has.
    fn partitions(&self, topic: Topic) -> u32;
    /// One after the newest record that can be read.
    fn end(&self, at: TopicPartition) -> u64;
    /// Returns when the records are as durable as this storage makes them.
    async fn append(&self, records: Vec<(TopicPartition, Record)>, now: Timestamp) -> Result<(), BusError>;
    /// The next records at or after an offset, in order, at most `limit` (at least 1).
    async fn read(&self, at: TopicPartition, from: u64, limit: usize) -> Result<Chunk, String>;
    /// Keeps offsets for the next start.
    async fn store_offsets(&self, offsets: Vec<StoredOffset>) -> Result<(), BusError>;
    /// Whether it works, and if not, why.
    fn health(&self) -> Result<(), String>;

    /// Waits until a part of it has ended that should not have, and gives which and why.
    async fn failed(&self) -> String {
        std::future::pending().await
    }

    /// Whether records can be read now, whatever else is wrong.
    fn can_read(&self) -> bool;
    /// Ends it, after everything else.
    async fn close(&self);
}

/// Settings of a log inside one process.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// How often a member that was not woken looks by itself.
    pub watch_interval: Duration,
    /// How long changed offsets may wait before they are written; a crash repeats what they would have saved.
    pub store_interval: Duration,
    /// Whether the members go on.
    pub liveness: Liveness,
    /// What this process is going to consume: retention leaves it what it has not consumed, even before it joins for the first time.
    pub consumers: Vec<Consumes>,
}

impl Default for LocalOptions {
    fn default() -> Self {
        Self {
            watch_interval: Duration::from_secs(1),
            store_interval: Duration::from_millis(200),
            liveness: Liveness::default(),
            consumers: Vec::new(),
        }
    }
}

/// The [`Bus`] over a [`Storage`]. Cheap to clone; all clones are the same log.
pub struct LocalBus<S> {
    core: Arc<Core<S>>,
}

impl<S> Clone for LocalBus<S> {
    fn clone(&self) -> Self {
        Self { core: Arc::clone(&self.core) }
    }
}

/// Keeps nothing alive.
pub(super) struct WeakBus<S>(Weak<Core<S>>);

impl<S> WeakBus<S> {
    /// None when nobody has the log any more.
    pub(super) fn upgrade(&self) -> Option<LocalBus<S>> {
        self.0.upgrade().map(|core| LocalBus { core })
    }
}

struct Core<S> {
    storage: S,
    groups: Groups,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    options: LocalOptions,
    closed: CancellationToken,
    members: TaskTracker,
    /// Offsets have changed.
    dirty: Arc<Notify>,
    /// One writer of offsets at a time, so that an older one never overwrites a newer one.
    storing: tokio::sync::Mutex<()>,
    keyless: AtomicU32,
    suppressed: AtomicU32,
    /// Of the log's own tasks; the storage has its own.
    faults: Faults,
}

impl<S: Storage> LocalBus<S> {
    pub(super) fn with_storage(
        storage: S,
        offsets: Vec<StoredOffset>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        options: LocalOptions,
    ) -> Self {
        let core = Core {
            storage,
            groups: Groups::new(offsets, options.consumers.clone()),
            clock,
            metrics,
            options,
            closed: CancellationToken::new(),
            members: TaskTracker::new(),
            dirty: Arc::default(),
            storing: tokio::sync::Mutex::default(),
            keyless: AtomicU32::new(0),
            suppressed: AtomicU32::new(0),
            faults: Faults::default(),
        };
        let bus = Self { core: Arc::new(core) };
        bus.measure();
        if S::KEEPS_OFFSETS {
            // Not a member, so that closing can wait for the members and then store their last offsets.
            let interval = bus.core.options.store_interval;
            let store = store_offsets_when_dirty(Arc::downgrade(&bus.core), bus.core.closed.clone(), interval);
            tokio::spawn(bus.core.faults.clone().guard("offsets".into(), store));
        }
        bus
    }

    /// The metrics tell of every group how far it is behind.
    fn measure(&self) {
        let core = Arc::downgrade(&self.core);
        self.core.metrics.on_sample(move |metrics| {
            let Some(core) = core.upgrade() else { return };
            let lags = core.groups.lag(|topic| core.storage.partitions(topic), |at| core.storage.end(at));
            for (group, topic, records) in lags {
                set_lag(metrics, &group, topic, records);
            }
        });
    }

    pub(super) fn storage(&self) -> &S {
        &self.core.storage
    }

    pub(super) fn groups(&self) -> &Groups {
        &self.core.groups
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        self.core.clock.as_ref()
    }

    pub(super) fn closed(&self) -> CancellationToken {
        self.core.closed.clone()
    }

    pub(super) fn downgrade(&self) -> WeakBus<S> {
        WeakBus(Arc::downgrade(&self.core))
    }

    /// The offset that a group goes on from in a partition.
    pub fn stored_offset(&self, group: &str, at: TopicPartition) -> Option<u64> {
        self.core.groups.stored(group, at)
    }

    /// For the simulator: the members of a group, in the order of joining.
    pub fn members(&self, group: &str) -> Vec<u64> {
        self.core.groups.members(group)
    }

    /// For the simulator: whether the group hears of a member from now on. One that it does not hear of, because it is frozen or cut
    /// off, loses its partitions to the others, and has its share again when it is heard. Gives how many of its partitions are to be
    /// another member's.
    pub fn hear(&self, group: &str, member: u64, is_heard: bool) -> usize {
        self.core.groups.hear(group, member, is_heard, |topic| self.core.storage.partitions(topic))
    }

    /// For the simulator: how long a member takes from now on for one record of each of its partitions; as fast as it can by default.
    pub fn slow(&self, group: &str, member: u64, pace: Duration) {
        self.core.groups.set_pace(group, member, pace);
    }

    /// For the simulator: how many records lie behind what a group has finished.
    pub fn lag(&self, group: &str) -> u64 {
        let lags = self.core.groups.lag(|topic| self.core.storage.partitions(topic), |at| self.core.storage.end(at));
        lags.into_iter().filter(|(of, ..)| of == group).map(|(_, _, records)| records).sum()
    }

    /// For the simulator: a group's last offsets are lost, at most `by` of each partition that no member has now. Gives of how many.
    pub fn rewind(&self, group: &str, by: u64) -> usize {
        self.core.groups.rewind(group, by)
    }

    /// For the contract suite: the members are not told of the next records that are published.
    pub fn suppress_next_wakeup(&self) {
        self.core.suppressed.fetch_add(1, Ordering::SeqCst);
    }
}

impl<S: Storage> Core<S> {
    fn place(&self, record: Record) -> Result<(TopicPartition, Record), BusError> {
        check_record(&record)?;
        let partitions = self.storage.partitions(record.topic);
        let partition = match &record.key {
            Some(key) => partition_of(key, partitions),
            None => self.keyless.fetch_add(1, Ordering::Relaxed) % partitions.max(1),
        };
        Ok((TopicPartition { topic: record.topic, partition }, record))
    }

    fn wake(&self, topics: &BTreeSet<Topic>) {
        let suppressed = self.suppressed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if suppressed.is_err() {
            topics.iter().for_each(|topic| self.groups.wake(*topic));
        }
    }

    fn count_missed_wakeup(&self, group: &str) {
        tracing::warn!(group, "Records waited without a wake-up; going on.");
        repaired_wakeups(&self.metrics, group);
    }

    async fn store_offsets(&self) {
        let _one_at_a_time = self.storing.lock().await;
        let offsets = self.groups.take_dirty();
        if offsets.is_empty() {
            return;
        }
        if let Err(error) = self.storage.store_offsets(offsets.clone()).await {
            tracing::warn!(%error, "Offsets were not stored; trying again.");
            self.groups.put_back(offsets);
            self.dirty.notify_one();
        }
    }
}

impl<S> Drop for Core<S> {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

/// Until the log is closed, or nobody has it any more.
async fn store_offsets_when_dirty<S: Storage>(core: Weak<Core<S>>, closed: CancellationToken, interval: Duration) {
    while let Some(dirty) = core.upgrade().map(|core| Arc::clone(&core.dirty)) {
        tokio::select! {
            () = closed.cancelled() => return,
            () = dirty.notified() => {}
        }
        tokio::select! {
            () = closed.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        if let Some(core) = core.upgrade() {
            core.store_offsets().await;
        }
    }
}

#[async_trait]
impl<S: Storage> Bus for LocalBus<S> {
    async fn publish(&self, records: Vec<Record>) -> Result<(), BusError> {
        if self.core.closed.is_cancelled() {
            return Err(BusError::Closed);
        }
        let placed = records.into_iter().map(|record| self.core.place(record)).collect::<Result<Vec<_>, _>>()?;
        if placed.is_empty() {
            return Ok(());
        }
        let (core, now) = (Arc::clone(&self.core), self.core.clock.now());
        let append = async move {
            let topics = placed.iter().map(|(at, _)| at.topic).collect();
            core.storage.append(placed, now).await?;
            core.wake(&topics);
            Ok(())
        };
        if !S::KEEPS_OFFSETS {
            // In memory it is done before anybody can drop it.
            return append.await;
        }
        // A caller that goes away drops this future, and the write that it began is committed all the same: its readers must hear.
        tokio::spawn(append).await.unwrap_or_else(|error| Err(BusError::Publish(error.to_string())))
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription, BusError> {
        let core = &self.core;
        if core.closed.is_cancelled() {
            return Err(BusError::Closed);
        }
        let wake = Arc::new(Notify::new());
        let queue = DeliveryQueue::new(options.max_in_flight, Arc::clone(&wake));
        let id = core.groups.join(&options.group, &options.topics, Arc::clone(&wake), |t| core.storage.partitions(t));
        let leave = CancellationToken::new();
        let member = Member {
            core: Arc::clone(core),
            group: options.group,
            id,
            queue: Arc::clone(&queue),
            wake,
            leave: leave.clone(),
            generation: 0,
            positions: Default::default(),
            unreadable: Default::default(),
        };
        let part = faults::consumer(&member.group);
        core.faults.clear(&part);
        let running = core.options.liveness.follow(part.clone(), LOOP_BOUND, member.run());
        let task = core.members.spawn(core.faults.clone().guard(part, running));
        let membership = LocalMembership { core: Arc::clone(core), leave, task: tokio::sync::Mutex::new(Some(task)) };
        Ok(Subscription::new(queue, Arc::new(membership)))
    }

    fn partitions(&self, topic: Topic) -> u32 {
        self.core.storage.partitions(topic)
    }

    fn health(&self) -> Result<(), String> {
        if self.core.closed.is_cancelled() {
            return Err(BusError::Closed.to_string());
        }
        self.core.faults.check().and_then(|()| self.core.storage.health())
    }

    async fn failed(&self) -> String {
        tokio::select! {
            part = self.core.faults.panicked() => part,
            part = self.core.storage.failed() => part,
        }
    }

    fn can_read(&self, group: &str) -> bool {
        let core = &self.core;
        !core.closed.is_cancelled() && !core.faults.is_set(&faults::consumer(group)) && core.storage.can_read()
    }

    fn is_local(&self) -> bool {
        true
    }

    async fn close(&self, timeout: Duration) {
        self.core.closed.cancel();
        self.core.members.close();
        let ending = async {
            self.core.members.wait().await;
            self.core.store_offsets().await;
            self.core.storage.close().await;
        };
        if tokio::time::timeout(timeout, ending).await.is_err() {
            tracing::warn!("The log was not closed in time; what its last offsets would have saved comes again.");
        }
    }
}

struct LocalMembership<S> {
    core: Arc<Core<S>>,
    leave: CancellationToken,
    task: tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
}

#[async_trait]
impl<S: Storage> Membership for LocalMembership<S> {
    async fn leave(&self) {
        self.leave.cancel();
        if let Some(task) = self.task.lock().await.take() {
            // A member that panicked has left as well.
            let _ = task.await;
        }
        if S::KEEPS_OFFSETS {
            self.core.store_offsets().await;
        }
    }
}
