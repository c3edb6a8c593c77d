//! What the log holds, read from the side: no group is joined, no offset is stored, nothing is created. For tools that tell people
//! what happened, like `eventpulse explain`; no service reads like this.
//!
//! In: which topics, and from when. Out: each record, in the order of its partition. May not touch: what the log keeps.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{BusConfig, BusError, TopicPartition, embedded, kafka};
use crate::events::{Record, Topic};

/// A record that the log holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Past {
    /// The record.
    pub record: Record,
    /// Where it stands.
    pub at: TopicPartition,
    /// Its place there.
    pub offset: u64,
    /// When the log took it.
    pub timestamp: Timestamp,
}

impl Past {
    /// As dead letters and logs say it: `alert.raised/3@1207`.
    pub fn origin(&self) -> String {
        format!("{}@{}", self.at, self.offset)
    }
}

/// How far a consumer group has come in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The partition.
    pub partition: u32,
    /// The oldest record.
    pub first: u64,
    /// The record that the group goes on with: everything before it is done. None where it has stored nothing, and begins with the oldest.
    pub next: Option<u64>,
    /// One after the newest record.
    pub end: u64,
}

/// Takes what is read, record by record.
pub trait Visit: Send {
    /// One record; they come topic by topic, each partition in its order.
    fn visit(&mut self, past: Past);
}

/// Reads these topics from `since` to what is there now, and gives the visitor back. A topic that is absent holds nothing. Takes as
/// long as the log is long, on a thread of its own.
///
/// Fails with [`BusError::Open`] when there is no such log, when it cannot be reached for 30 s, or when it cannot be read.
pub async fn read<V: Visit + 'static>(
    config: BusConfig,
    topics: Vec<Topic>,
    since: Timestamp,
    mut visitor: V,
) -> Result<V, BusError> {
    aside(move || {
        match &config {
            BusConfig::Memory { .. } => Err(in_memory()),
            BusConfig::Embedded(config) => embedded::history::read(&config.directory, &topics, since, &mut visitor),
            BusConfig::Kafka(config) => kafka::history::read(config, &topics, since, &mut visitor),
        }?;
        Ok(visitor)
    })
    .await
}

/// How far a group has come in each partition of a topic; nothing where the topic is absent. The group is not joined for it.
///
/// Fails as [`read`] does, and where this account may not look at the group.
pub async fn progress(config: BusConfig, group: &'static str, topic: Topic) -> Result<Vec<Progress>, BusError> {
    aside(move || match &config {
        BusConfig::Memory { .. } => Err(in_memory()),
        BusConfig::Embedded(config) => embedded::history::progress(&config.directory, group, topic),
        BusConfig::Kafka(config) => kafka::history::progress(config, group, topic),
    })
    .await
}

/// The first record of each partition of a topic that the log took at `since` or later; none where there is no such record, and
/// nothing where the topic is absent. Fails as [`read`] does.
pub async fn begin(config: BusConfig, topic: Topic, since: Timestamp) -> Result<BTreeMap<u32, Option<u64>>, BusError> {
    aside(move || match &config {
        BusConfig::Memory { .. } => Err(in_memory()),
        BusConfig::Embedded(config) => embedded::history::begin(&config.directory, topic, since),
        BusConfig::Kafka(config) => kafka::history::begin(config, topic, since),
    })
    .await
}

/// The record at a place, or none where the log does not hold it any more, or never did. Fails as [`read`] does.
pub async fn find(config: BusConfig, at: TopicPartition, offset: u64) -> Result<Option<Past>, BusError> {
    aside(move || match &config {
        BusConfig::Memory { .. } => Err(in_memory()),
        BusConfig::Embedded(config) => embedded::history::find(&config.directory, at, offset),
        BusConfig::Kafka(config) => kafka::history::find(config, at, offset),
    })
    .await
}

async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T, BusError> + Send + 'static) -> Result<T, BusError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(BusError::Open(format!("read the log: {error}"))))
}

fn in_memory() -> BusError {
    BusError::Open("a log in memory belongs to its process alone".into())
}
