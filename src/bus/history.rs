//! What the log holds, read from the side: no group is joined, no offset is stored, nothing is created. For tools that tell people
//! what happened, like `eventpulse explain`; no service reads like this.
//!
//! In: which topics, and from when. Out: each record, in the order of its partition. May not touch: what the log keeps.

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
    let reading = tokio::task::spawn_blocking(move || {
        match &config {
            BusConfig::Memory { .. } => Err(BusError::Open("a log in memory belongs to its process alone".into())),
            BusConfig::Embedded(config) => embedded::history::read(&config.directory, &topics, since, &mut visitor),
            BusConfig::Kafka(config) => kafka::history::read(config, &topics, since, &mut visitor),
        }?;
        Ok(visitor)
    });
    reading.await.unwrap_or_else(|error| Err(BusError::Open(format!("read the log: {error}"))))
}
