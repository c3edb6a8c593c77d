//! The log in one SQLite file: durable, for one process that holds the data directory; the default when no brokers are given.
//!
//! In: records, offsets. Out: both again after any crash; records go when they are old and consumed. Writes share their fsync
//! (`runtime::group_commit`); reads have connections of their own, away from the async threads.

mod headers;
mod retention;
mod storage;

use std::sync::Arc;

pub use storage::EmbeddedStorage;

use super::{
    BusError, EmbeddedConfig,
    local::{LocalBus, LocalOptions},
};
use crate::runtime::{Metrics, clock::Clock};

/// The log in a data directory. Clones are the same log; the directory is free again when it is closed.
pub type EmbeddedBus = LocalBus<EmbeddedStorage>;

impl EmbeddedBus {
    /// Takes the data directory and reads what is there. Fails at once, and clearly, when another process has it.
    pub async fn open(
        config: EmbeddedConfig,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        options: LocalOptions,
    ) -> Result<Self, BusError> {
        let opened = tokio::task::spawn_blocking(move || EmbeddedStorage::open(config)).await;
        let (storage, offsets) = opened.map_err(|error| BusError::Open(error.to_string()))??;
        let bus = Self::with_storage(storage, offsets, clock, metrics, options);
        tokio::spawn(retention::run(bus.downgrade(), bus.closed()));
        Ok(bus)
    }
}
