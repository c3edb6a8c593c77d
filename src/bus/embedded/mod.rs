//! The log in one SQLite file: durable, for one process that holds the data directory; the default when no brokers are given.
//!
//! In: records, offsets. Out: both again after any crash; records go when they are old and consumed. Writes share their fsync
//! (`runtime::group_commit`); reads have connections of their own, away from the async threads.

pub(super) mod beside;
mod headers;
pub(super) mod history;
mod leftover;
pub(super) mod offsets;
mod retention;
mod storage;
#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc, time::Duration};

pub use storage::EmbeddedStorage;
use tokio_util::sync::CancellationToken;

pub(super) use self::leftover::check_that_nothing_waits;
use super::{
    BusError, EmbeddedConfig,
    local::{LocalBus, LocalOptions, WeakBus},
};
use crate::runtime::{
    Metrics,
    clock::Clock,
    group_commit::{GroupCommit, OpenError},
};

/// How often it is looked whether what could not be written can be written now.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Whether the log's file in this directory is one, as far as its head says. Writes nothing.
pub fn check_file(directory: &Path) -> Result<(), OpenError> {
    GroupCommit::check(&directory.join(storage::FILE), storage::SCHEMA)
}

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
        let faults = &bus.storage().faults;
        tokio::spawn(faults.clone().guard("retention".into(), retention::run(bus.downgrade(), bus.closed())));
        tokio::spawn(faults.clone().guard("health".into(), watch_health(bus.downgrade(), bus.closed())));
        match beside::open(&bus.storage().config.directory) {
            Ok(listener) => {
                let serving = beside::serve(bus.downgrade(), listener, bus.closed());
                tokio::spawn(faults.clone().guard("commands".into(), serving));
            }
            // Nothing but `dead-letters retry` needs it.
            Err(error) => {
                tracing::warn!(%error, "Commands cannot ask this process to write records; they have to wait for its end.")
            }
        }
        Ok(bus)
    }
}

/// Until the log is closed, or nobody has it any more.
async fn watch_health(bus: WeakBus<EmbeddedStorage>, closed: CancellationToken) {
    loop {
        tokio::select! {
            () = closed.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        let Some(bus) = bus.upgrade() else { return };
        bus.storage().look_again().await;
    }
}
