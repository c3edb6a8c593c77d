//! What commands write beside the processes that run, or while none runs: records, and how far a group has come. No service writes like
//! this.
//!
//! In: records as they are to stand on the log; stored offsets. Out: the log has them. Topics are not created, and no group is joined.

use std::collections::BTreeSet;

use super::{BusConfig, BusError, StoredOffset, embedded, kafka};
use crate::events::Record;

/// Publishes records and returns when the log has each. The embedded log belongs to one process: the one that runs writes them,
/// asked over a socket in its data directory; where none runs, the file is opened for the moment.
///
/// Fails as [`Bus::publish`](super::Bus::publish) does, and with [`BusError::Open`] where there is no such log or it cannot be had. After
/// an error any part of the records may have been written: publishing them again is safe.
pub async fn publish(config: BusConfig, records: Vec<Record>) -> Result<(), BusError> {
    match config {
        BusConfig::Memory { .. } => Err(in_memory()),
        BusConfig::Embedded(config) => embedded::beside::publish(config, records).await,
        BusConfig::Kafka(config) => kafka::publish_beside(config, records).await,
    }
}

/// Whether nobody is in these groups now: on Kafka they have no members, and no process has the embedded log.
///
/// Fails with [`BusError::InUse`], which says who is, and with [`BusError::Open`] where there is no such log or it cannot be reached.
pub async fn check_idle(config: BusConfig, groups: BTreeSet<&'static str>) -> Result<(), BusError> {
    blocking(move || match &config {
        BusConfig::Memory { .. } => Err(in_memory()),
        BusConfig::Embedded(config) => embedded::offsets::check_idle(&config.directory),
        BusConfig::Kafka(config) => kafka::offsets::check_idle(config, &groups),
    })
    .await
}

/// Stores offsets of groups that nobody is in, and returns when the log has them: their members go on from there when they join again.
///
/// Fails as [`check_idle`] does before anything is stored, and with [`BusError::Store`] when only a part of it was.
pub async fn store_offsets(config: BusConfig, offsets: Vec<StoredOffset>) -> Result<(), BusError> {
    match config {
        BusConfig::Memory { .. } => Err(in_memory()),
        BusConfig::Embedded(config) => embedded::offsets::store(config, offsets).await,
        BusConfig::Kafka(config) => blocking(move || kafka::offsets::store(&config, &offsets)).await,
    }
}

async fn blocking(work: impl FnOnce() -> Result<(), BusError> + Send + 'static) -> Result<(), BusError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(BusError::Store(error.to_string())))
}

fn in_memory() -> BusError {
    BusError::Open("a log in memory belongs to its process alone".into())
}
