//! What was accepted and is not on the log yet: a table on disk. An answer of 2xx means that it is in here (promise 1).

use std::{path::Path, sync::Arc};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;

use crate::{
    api::v1alpha1::OutboxEntry,
    runtime::{
        directory_lock::{DirectoryLock, DirectoryLockError},
        group_commit::{GroupCommit, OpenError, Schema, WriteError},
    },
};

const FILE: &str = "ingest.db";
const SCHEMA: Schema = Schema {
    application_id: 0x4570_4f62,
    migrations: &["CREATE TABLE outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, entry TEXT NOT NULL) STRICT"],
};

/// Why something was not taken.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// Its bound is reached: the broker has been away for long.
    #[error("the outbox is full: {held} of {max} alerts wait for the broker")]
    Full {
        /// How many wait.
        held: u64,
        /// How many may.
        max: u64,
    },
    /// The disk.
    #[error("the outbox cannot be written: {0}")]
    Write(#[from] WriteError),
}

/// Why it could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OutboxOpenError {
    /// Another process has the directory.
    #[error(transparent)]
    Lock(#[from] DirectoryLockError),
    /// The file.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What it holds.
    #[error("read the outbox: {0}")]
    Read(#[from] WriteError),
}

/// See the module's text.
pub(super) struct Outbox {
    file: GroupCommit,
    /// How many wait, as everybody may see; reserved before they are written.
    held: Gauge,
    max: u64,
    appended: Notify,
}

/// An entry and its place.
pub(super) struct Held {
    pub seq: i64,
    pub entry: OutboxEntry,
}

impl Outbox {
    /// `held` shows how many wait.
    pub(super) async fn open(dir: &Path, max: u64, held: Gauge) -> Result<Arc<Self>, OutboxOpenError> {
        let lock = Arc::new(DirectoryLock::acquire(dir)?);
        let file = GroupCommit::open(lock, FILE, SCHEMA)?;
        held.set(file.write(|db| db.query_row("SELECT count(*) FROM outbox", [], |row| row.get(0))).await?);
        Ok(Arc::new(Self { file, held, max, appended: Notify::new() }))
    }

    /// Returns when all of them are on disk. Not to be dropped before it returns: it counts.
    pub(super) async fn append(&self, entries: Vec<OutboxEntry>) -> Result<(), OutboxError> {
        let count = i64::try_from(entries.len()).unwrap_or(i64::MAX);
        let held = u64::try_from(self.held.inc_by(count)).unwrap_or(0);
        if held.saturating_add(entries.len() as u64) > self.max {
            self.held.dec_by(count);
            return Err(OutboxError::Full { held, max: self.max });
        }
        let rows: Vec<String> = entries.iter().filter_map(|entry| serde_json::to_string(entry).ok()).collect();
        let written = self
            .file
            .write(move |db| {
                let mut insert = db.prepare_cached("INSERT INTO outbox (entry) VALUES (?1)")?;
                rows.iter().try_for_each(|row| insert.execute([row]).map(drop))
            })
            .await;
        if let Err(error) = written {
            self.held.dec_by(count);
            return Err(error.into());
        }
        self.appended.notify_one();
        Ok(())
    }

    /// The oldest entries. One that cannot be read is said, and taken out.
    pub(super) async fn oldest(&self, limit: usize) -> Result<Vec<Held>, WriteError> {
        let rows = self
            .file
            .write(move |db| {
                let mut select = db.prepare_cached("SELECT seq, entry FROM outbox ORDER BY seq LIMIT ?1")?;
                let limit = i64::try_from(limit).unwrap_or(i64::MAX);
                select
                    .query_map([limit], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?
                    .collect::<Result<Vec<(i64, String)>, _>>()
            })
            .await?;
        let mut held = Vec::with_capacity(rows.len());
        for (seq, text) in rows {
            match serde_json::from_str(&text) {
                Ok(entry) => held.push(Held { seq, entry }),
                Err(error) => {
                    tracing::error!(seq, %error, "The outbox holds a row that is no entry; it is taken out.");
                    self.remove(vec![seq]).await?;
                }
            }
        }
        Ok(held)
    }

    /// Takes out what the log has acknowledged.
    pub(super) async fn remove(&self, seqs: Vec<i64>) -> Result<(), WriteError> {
        let removed = self
            .file
            .write(move |db| {
                let mut delete = db.prepare_cached("DELETE FROM outbox WHERE seq = ?1")?;
                seqs.iter().try_fold(0, |count, seq| delete.execute([seq]).map(|one| count + one))
            })
            .await?;
        self.held.dec_by(i64::try_from(removed).unwrap_or(0));
        Ok(())
    }

    /// Waits until something was appended since the last wait.
    pub(super) async fn appended(&self) {
        self.appended.notified().await;
    }

    /// Writes what was handed over and gives the directory back.
    pub(super) async fn close(&self) {
        self.file.close().await;
    }
}
