//! What was accepted and is not on the log yet: a table on disk. An answer of 2xx means that it is in here (promise 1).

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;

use crate::{
    api::v1alpha1::OutboxEntry,
    events::Record,
    runtime::{
        directory_lock::{DirectoryLock, DirectoryLockError},
        disk_room::has_room,
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
    #[error("the outbox is full: {held} of {max} {what} wait for the broker")]
    Full {
        /// Alerts or bytes.
        what: &'static str,
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

/// Whether the outbox's file in this directory is one, as far as its head says. Writes nothing.
pub fn check_file(directory: &Path) -> Result<(), OpenError> {
    GroupCommit::check(&directory.join(FILE), SCHEMA)
}

/// See the module's text.
pub(super) struct Outbox {
    file: GroupCommit,
    directory: PathBuf,
    bounds: Bounds,
    appended: Notify,
    /// When the oldest alert was accepted, as the relay last saw it.
    oldest_since: Mutex<Option<Timestamp>>,
}

/// What waits, as everybody may see, and how much may. Room is reserved before it is written.
pub(super) struct Bounds {
    pub alerts: Gauge,
    pub max_alerts: u64,
    pub bytes: Gauge,
    pub max_bytes: u64,
}

impl Bounds {
    fn reserve(&self, alerts: i64, bytes: i64) -> Result<(), OutboxError> {
        let (alerts_before, bytes_before) = (self.alerts.inc_by(alerts), self.bytes.inc_by(bytes));
        let fits = within("alerts", alerts_before, alerts, self.max_alerts)
            .and_then(|()| within("bytes", bytes_before, bytes, self.max_bytes));
        fits.inspect_err(|_| self.release(alerts, bytes))
    }

    fn release(&self, alerts: i64, bytes: i64) {
        self.alerts.dec_by(alerts);
        self.bytes.dec_by(bytes);
    }

    /// Whether a tenth is free: what is full to the last alert would be full again at once.
    fn have_room(&self) -> Result<(), OutboxError> {
        let tenth = |max: u64| i64::try_from(max / 10).unwrap_or(i64::MAX);
        within("alerts", self.alerts.get(), tenth(self.max_alerts).max(1), self.max_alerts)?;
        within("bytes", self.bytes.get(), tenth(self.max_bytes), self.max_bytes)
    }
}

fn within(what: &'static str, held: i64, more: i64, max: u64) -> Result<(), OutboxError> {
    let (held, more) = (u64::try_from(held).unwrap_or(0), u64::try_from(more).unwrap_or(0));
    if held.saturating_add(more) > max { Err(OutboxError::Full { what, held, max }) } else { Ok(()) }
}

/// An entry and its place.
pub(super) struct Held {
    pub seq: i64,
    pub text: String,
}

impl Held {
    /// The record to publish; else what is wrong with the entry.
    pub(super) fn record(&self, source: &str) -> Result<Record, String> {
        let entry: OutboxEntry = serde_json::from_str(&self.text).map_err(|error| error.to_string())?;
        entry.to_record(source).map_err(|error| error.to_string())
    }
}

impl Outbox {
    /// Whether a directory has one.
    pub(super) fn is_in(dir: &Path) -> bool {
        dir.join(FILE).exists()
    }

    /// Takes the directory and counts what waits in it.
    pub(super) async fn open(dir: &Path, bounds: Bounds) -> Result<Arc<Self>, OutboxOpenError> {
        let lock = Arc::new(DirectoryLock::acquire(dir)?);
        let file = GroupCommit::open(lock, FILE, SCHEMA)?;
        let count = "SELECT count(*), coalesce(sum(octet_length(entry)), 0) FROM outbox";
        let (alerts, bytes) = file.write(|db| db.query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?)))).await?;
        bounds.alerts.set(alerts);
        bounds.bytes.set(bytes);
        let (directory, appended) = (dir.to_owned(), Notify::new());
        Ok(Arc::new(Self { file, directory, bounds, appended, oldest_since: Mutex::default() }))
    }

    /// Returns when all rows are on disk. Not to be dropped before it returns: it counts.
    pub(super) async fn append(&self, rows: Vec<String>) -> Result<(), OutboxError> {
        has_room(&self.directory)?;
        let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let bytes = i64::try_from(rows.iter().map(String::len).sum::<usize>()).unwrap_or(i64::MAX);
        self.bounds.reserve(count, bytes)?;
        let written = self
            .file
            .write(move |db| {
                let mut insert = db.prepare_cached("INSERT INTO outbox (entry) VALUES (?1)")?;
                rows.iter().try_for_each(|row| insert.execute([row]).map(drop))
            })
            .await;
        if let Err(error) = written {
            self.bounds.release(count, bytes);
            return Err(error.into());
        }
        self.appended.notify_one();
        Ok(())
    }

    /// What waits, of what may; and whether that is more than half.
    pub(super) fn filling(&self) -> (String, bool) {
        let Bounds { alerts, max_alerts, bytes, max_bytes } = &self.bounds;
        let held = |gauge: &Gauge| u64::try_from(gauge.get()).unwrap_or(0);
        let (alerts, bytes) = (held(alerts), held(bytes));
        let text = format!("{alerts} of {max_alerts} alerts, {bytes} of {max_bytes} bytes wait for the log");
        (text, alerts > max_alerts / 2 || bytes > max_bytes / 2)
    }

    /// Whether there is room, and the disk takes a write. Nothing of it stays.
    pub(super) async fn accepts(&self) -> Result<(), OutboxError> {
        self.bounds.have_room()?;
        has_room(&self.directory)?;
        let write = self.file.write(|db| {
            db.execute("INSERT INTO outbox (entry) VALUES ('')", [])?;
            db.execute("DELETE FROM outbox WHERE seq = ?1", [db.last_insert_rowid()])
        });
        write.await?;
        Ok(())
    }

    /// The oldest entries after this place.
    pub(super) async fn oldest_after(&self, place: i64, limit: usize) -> Result<Vec<Held>, WriteError> {
        self.file
            .write(move |db| {
                let mut select =
                    db.prepare_cached("SELECT seq, entry FROM outbox WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
                let limit = i64::try_from(limit).unwrap_or(i64::MAX);
                select.query_map([place, limit], |row| Ok(Held { seq: row.get(0)?, text: row.get(1)? }))?.collect()
            })
            .await
    }

    /// The relay has seen what waits: since when the first of it does; none where nothing does.
    pub(super) fn note_oldest(&self, held: Option<&Held>) {
        let entry = held.and_then(|held| serde_json::from_str::<OutboxEntry>(&held.text).ok());
        *self.oldest_since.lock().unwrap_or_else(PoisonError::into_inner) = entry.map(|entry| entry.time);
    }

    /// Since when the oldest alert has waited.
    pub(super) fn oldest_since(&self) -> Option<Timestamp> {
        *self.oldest_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out the oldest entries up to this place, which the log has acknowledged. Gives how many those were.
    pub(super) async fn remove_through(&self, place: i64, limit: usize) -> Result<usize, WriteError> {
        let (alerts, bytes) = self
            .file
            .write(move |db| {
                let mut delete = db.prepare_cached(
                    "DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE seq <= ?1 ORDER BY seq LIMIT ?2) \
                     RETURNING octet_length(entry)",
                )?;
                let limit = i64::try_from(limit).unwrap_or(i64::MAX);
                let mut removed = (0, 0);
                for bytes in delete.query_map([place, limit], |row| row.get::<_, i64>(0))? {
                    removed = (removed.0 + 1, removed.1 + bytes?);
                }
                Ok(removed)
            })
            .await?;
        self.bounds.release(alerts, bytes);
        Ok(usize::try_from(alerts).unwrap_or(usize::MAX))
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
