//! Stored offsets of groups that nobody is in, set by a command: while no process has the data directory.

use std::path::Path;

use super::{EmbeddedStorage, storage::FILE};
use crate::{
    bus::{
        BusError, EmbeddedConfig,
        local::{Storage as _, StoredOffset},
    },
    runtime::directory_lock::{DirectoryLock, DirectoryLockError},
};

/// See [`crate::bus::beside::check_idle`].
pub(in crate::bus) fn check_idle(directory: &Path) -> Result<(), BusError> {
    let file = directory.join(FILE);
    if !file.exists() {
        return Err(BusError::Open(format!("there is no embedded log at {}", file.display())));
    }
    DirectoryLock::check(directory).map_err(|error| match error {
        DirectoryLockError::InUse { .. } => BusError::InUse(error.to_string()),
        DirectoryLockError::Prepare { .. } => BusError::Open(error.to_string()),
    })
}

/// See [`crate::bus::beside::store_offsets`].
pub(in crate::bus) async fn store(config: EmbeddedConfig, offsets: Vec<StoredOffset>) -> Result<(), BusError> {
    let opened = tokio::task::spawn_blocking(move || {
        check_idle(&config.directory)?;
        EmbeddedStorage::open(config)
    });
    let (storage, _) = opened.await.map_err(|error| BusError::Store(error.to_string()))??;
    let stored = storage.store_offsets(offsets).await;
    storage.close().await;
    stored.map_err(|error| BusError::Store(error.to_string()))
}
