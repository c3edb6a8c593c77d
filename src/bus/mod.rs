//! The log that the services talk through: one port, three adapters (design, section 6).
//!
//! In: [`Record`]s to publish. Out: acknowledgements, and [`Delivery`]s to the members of consumer groups.
//! May not touch: any service, kube, the custom resources.

mod ack;
pub mod beside;
pub mod embedded;
mod faults;
pub mod history;
pub mod kafka;
mod local;
pub mod memory;
mod partition;
mod queue;
mod settings;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

pub use ack::{Ack, AckTracker, Ending};
pub use embedded::{EmbeddedBus, check_file as check_embedded_file};
pub use kafka::{KafkaBus, KafkaOptions, check_client, check_settings};
pub use local::{LocalBus, LocalOptions, StoredOffset};
pub use memory::MemoryBus;
pub use partition::partition_of;
pub use queue::DeliveryQueue;
use queue::size_of;
pub use settings::{BusConfig, EmbeddedConfig, KafkaConfig, Retention};

use crate::{
    events::{Record, Topic},
    runtime::{
        Liveness, Metrics,
        clock::Clock,
        metrics::catalogue::{BUS_REPAIRED_WAKEUPS, CONSUMER_LAG},
    },
};

/// The largest record that any adapter takes, in bytes: a dead letter with a whole webhook body (1 MiB, in base64) fits.
pub const MAX_RECORD_BYTES: usize = 2 << 20;

/// Opens the log that the configuration names, for a process that is going to consume this; its consumers are followed by this
/// liveness.
pub async fn open(
    config: BusConfig,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    liveness: Liveness,
    consumers: Vec<Consumes>,
) -> Result<Arc<dyn Bus>, BusError> {
    let local = LocalOptions { liveness: liveness.clone(), consumers, ..LocalOptions::default() };
    match config {
        BusConfig::Memory { partitions } => Ok(Arc::new(MemoryBus::with(partitions, clock, metrics, local))),
        BusConfig::Embedded(config) => Ok(Arc::new(EmbeddedBus::open(config, clock, metrics, local).await?)),
        BusConfig::Kafka(config) => {
            if let Some(directory) = config.former_log.clone() {
                embedded::check_that_nothing_waits(directory).await?;
            }
            Ok(Arc::new(KafkaBus::open(config, metrics, KafkaOptions { liveness, ..KafkaOptions::default() }).await?))
        }
    }
}

/// What no adapter takes.
fn check_record(record: &Record) -> Result<(), BusError> {
    let bytes = size_of(record);
    if bytes > MAX_RECORD_BYTES {
        let problem = format!("a record of {bytes} bytes on {}; at most {MAX_RECORD_BYTES} are taken", record.topic);
        return Err(BusError::Refused(problem));
    }
    // Kafka's C client cannot write it.
    if record.headers.iter().any(|(name, _)| name.contains('\0')) {
        return Err(BusError::Refused(format!("a header of a record on {} has a NUL in its name", record.topic)));
    }
    Ok(())
}

/// A member went on after a wake-up was lost (design, section 6).
fn repaired_wakeups(metrics: &Metrics, group: &str) {
    metrics.count(&BUS_REPAIRED_WAKEUPS, [group], 1);
}

/// How far a group is behind, in this replica's partitions.
fn set_lag(metrics: &Metrics, group: &str, topic: Topic, records: u64) {
    let records = i64::try_from(records).unwrap_or(i64::MAX);
    metrics.gauge(&CONSUMER_LAG, [group, topic.name()]).set(records);
}

/// One partition of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Topic,
    /// Its partition, from 0.
    pub partition: u32,
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Why the log did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BusError {
    /// The records, or some of them, are not acknowledged; publishing all of them again is safe.
    #[error("publish to the log: {0}")]
    Publish(String),
    /// The record can never be accepted, for example because it is too large.
    #[error("the log refuses the record for good: {0}")]
    Refused(String),
    /// The log could not be opened.
    #[error("open the log: {0}")]
    Open(String),
    /// The consumer group could not be joined.
    #[error("subscribe to the log: {0}")]
    Subscribe(String),
    /// A topic is missing and could not be created, or has other settings than it must have.
    #[error("topic {topic}: {problem}")]
    Topic {
        /// Its full name.
        topic: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Offsets were not stored, or not all of them; storing all of them again is safe.
    #[error("store offsets: {0}")]
    Store(String),
    /// A process has what must be nobody's for this.
    #[error("{0}")]
    InUse(String),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

impl BusError {
    /// A bounded label for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            BusError::Publish(_) => "publish",
            BusError::Refused(_) => "refused",
            BusError::Open(_) => "open",
            BusError::Subscribe(_) => "subscribe",
            BusError::Topic { .. } => "topic",
            BusError::Store(_) => "store",
            BusError::InUse(_) => "in_use",
            BusError::Closed => "closed",
        }
    }

    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, BusError::Publish(_) | BusError::Subscribe(_))
    }
}

/// The log.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Writes records and returns when every one of them is acknowledged by all in-sync replicas (or is on disk).
    /// After an error any part of them may have been written: publish them all again, consumers expect repetitions.
    async fn publish(&self, records: Vec<Record>) -> Result<(), BusError>;

    /// Joins a consumer group. Deliveries begin at the group's stored offset, or at the oldest record where there is none.
    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription, BusError>;

    /// Joins a consumer group on a topic that is not ours, by its whole name: no prefix is put before it, it is never created, and its
    /// settings are nobody's business here. Its deliveries say [`Topic::AlertRaised`], which it feeds; `options.topics` counts for
    /// nothing. On Kafka only.
    async fn subscribe_foreign(&self, topic: &str, _options: SubscribeOptions) -> Result<Subscription, BusError> {
        Err(BusError::Topic { topic: topic.into(), problem: "is not ours, and only Kafka has topics of others".into() })
    }

    /// Whether the topics that are not ours can be read. It is no part of the health: nothing else waits for them.
    fn foreign_health(&self) -> Result<(), String> {
        Ok(())
    }

    /// How many partitions a topic has. Fixed for a topic's life.
    fn partitions(&self, topic: Topic) -> u32;

    /// Whether the log can be reached now and every consumer of this process can read it, and if not, why.
    fn health(&self) -> Result<(), String>;

    /// Waits until a part of the log has ended that should not have, and gives which and why. Whoever runs the log ends with it.
    async fn failed(&self) -> String {
        std::future::pending().await
    }

    /// Whether this group can read now. The health tells more: a log that is full, or another group's consumer.
    fn can_read(&self, group: &str) -> bool;

    /// Whether an acknowledged record is on this machine's disk, so that ingest needs no outbox of its own.
    fn is_local(&self) -> bool;

    /// Waits until what was handed over is written, at most until the deadline, and stores the last offsets.
    async fn close(&self, timeout: std::time::Duration);
}

/// What a service consumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consumes {
    /// Its group, without the configured prefix, like `rules`.
    pub group: &'static str,
    /// The topics.
    pub topics: &'static [Topic],
}

impl Consumes {
    /// As a member of the group asks for it; `max_in_flight` as in [`SubscribeOptions`].
    pub fn options(&self, max_in_flight: usize) -> SubscribeOptions {
        SubscribeOptions { group: self.group.to_owned(), topics: self.topics.to_vec(), max_in_flight }
    }
}

/// How a member of a consumer group wants its deliveries.
#[derive(Clone, Debug)]
pub struct SubscribeOptions {
    /// The group, without the configured prefix, like `rules`.
    pub group: String,
    /// The topics to consume.
    pub topics: Vec<Topic>,
    /// The most deliveries of one partition that are not acknowledged yet; beyond it the partition is paused (promise 6).
    pub max_in_flight: usize,
}

/// A membership in a consumer group. Dropping it leaves the group.
pub struct Subscription {
    queue: Arc<DeliveryQueue>,
    membership: Arc<dyn Membership>,
}

/// What an adapter does for a membership.
#[async_trait]
pub trait Membership: Send + Sync {
    /// Stores the offsets of what is acknowledged, and leaves the group.
    async fn leave(&self);
}

impl Subscription {
    /// For adapters: `queue` is what [`Subscription::next`] hands out.
    pub fn new(queue: Arc<DeliveryQueue>, membership: Arc<dyn Membership>) -> Self {
        Self { queue, membership }
    }

    /// The next thing that happens; none after the log was closed or the group was left. Nothing is lost when the future is
    /// dropped before it is ready.
    pub async fn next(&mut self) -> Option<SubscriptionEvent> {
        self.queue.next().await
    }

    /// Stops deliveries and keeps the membership, for as long as one likes. Assignments are still handed out.
    pub fn pause(&self) {
        self.queue.set_paused(true);
    }

    /// Resumes deliveries.
    pub fn resume(&self) {
        self.queue.set_paused(false);
    }

    /// How many deliveries of the present assignments were handed out and are not acknowledged.
    pub fn in_flight(&self) -> usize {
        self.queue.in_flight()
    }

    /// How many of them are still worked on; the others were dropped, and come again after a restart.
    pub fn held(&self) -> usize {
        self.queue.held()
    }

    /// Stores what is acknowledged and leaves the group, so that another member takes over at once.
    pub async fn leave(self) {
        self.membership.leave().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.queue.abandon();
    }
}

/// What happens to a member of a consumer group.
#[derive(Debug)]
pub enum SubscriptionEvent {
    /// These partitions are the member's now, in addition to those it had. None: it has joined, and there are none for it.
    Assigned(Vec<TopicPartition>),
    /// These are no longer. Work on their deliveries may go on, but its acknowledgements are ignored (safety is never ownership).
    Revoked(Vec<TopicPartition>),
    /// A record, in the order of its partition.
    Message(Delivery),
}

/// A record that was handed to this member.
#[derive(Debug)]
pub struct Delivery {
    /// The record.
    pub record: Record,
    /// Where it stands.
    pub at: TopicPartition,
    /// Its place there.
    pub offset: u64,
    /// When the log took it.
    pub timestamp: Timestamp,
    /// To be called when every effect of the record is durable. Dropped without: the record comes again after a restart.
    pub ack: Ack,
}

impl Delivery {
    /// As dead letters and logs say it: `alert.raised/3@1207`.
    pub fn origin(&self) -> String {
        format!("{}@{}", self.at, self.offset)
    }
}
