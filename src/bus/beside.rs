//! Records that a command writes beside the processes that run, like `eventpulse dead-letters retry`; no service writes like this.
//!
//! In: records as they are to stand on the log. Out: the log has them. Topics are not created, and no group is joined.

use super::{BusConfig, BusError, embedded, kafka};
use crate::events::Record;

/// Publishes records and returns when the log has each. The embedded log belongs to one process: the one that runs writes them,
/// asked over a socket in its data directory; where none runs, the file is opened for the moment.
///
/// Fails as [`Bus::publish`](super::Bus::publish) does, and with [`BusError::Open`] where there is no such log or it cannot be had. After
/// an error any part of the records may have been written: publishing them again is safe.
pub async fn publish(config: BusConfig, records: Vec<Record>) -> Result<(), BusError> {
    match config {
        BusConfig::Memory { .. } => Err(BusError::Open("a log in memory belongs to its process alone".into())),
        BusConfig::Embedded(config) => embedded::beside::publish(config, records).await,
        BusConfig::Kafka(config) => kafka::publish_beside(config, records).await,
    }
}
