//! Records and offsets in one SQLite file.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, params};
use tokio::sync::Notify;

use super::headers;
use crate::{
    bus::{
        BusError, EmbeddedConfig, TopicPartition,
        faults::Faults,
        local::{Chunk, Storage, StoredOffset, StoredRecord},
        queue::size_of,
    },
    events::{Record, Topic},
    runtime::{
        directory_lock::DirectoryLock,
        disk_room::has_room,
        group_commit::{GroupCommit, Schema, WriteError},
        liveness::waiting,
    },
};

pub(super) const FILE: &str = "log.sqlite";
/// "EPlg". `seq` is the order of arrival, which retention goes by.
pub(super) const SCHEMA: Schema = Schema {
    application_id: 0x4550_6c67,
    migrations: &["
        CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL) STRICT;
        CREATE TABLE records (
            seq INTEGER PRIMARY KEY, topic INTEGER NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
            timestamp_ms INTEGER NOT NULL, key TEXT, headers BLOB NOT NULL, value BLOB NOT NULL) STRICT;
        CREATE UNIQUE INDEX records_place ON records (topic, partition, offset);
        CREATE TABLE offsets (
            consumer_group TEXT NOT NULL, topic INTEGER NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
            PRIMARY KEY (consumer_group, topic, partition)) STRICT, WITHOUT ROWID;
        CREATE TABLE consumer_groups (name TEXT PRIMARY KEY, seen_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    "],
};
/// What one read takes at most, in bytes of records; a last record may go beyond it.
const READ_BYTES: usize = 4 << 20;
/// The part of the log's work that writes records, as the health names it.
const RECORDS: &str = "write records";
/// Read connections that are kept.
const READERS: usize = 4;

/// The records and offsets of one data directory.
pub struct EmbeddedStorage {
    pub(super) file: GroupCommit,
    pub(super) topics: Arc<Topics>,
    pub(super) config: EmbeddedConfig,
    /// Bytes of the file that hold something.
    pub(super) used_bytes: AtomicU64,
    /// More than half of the bytes are used.
    pub(super) pressure: Arc<Notify>,
    pub(super) faults: Faults,
    readers: Arc<Mutex<Vec<Connection>>>,
}

/// What the file says of the topics.
pub(super) struct Topics {
    ids: HashMap<Topic, (i64, u32)>,
    places: HashMap<TopicPartition, Place>,
}

#[derive(Default)]
struct Place {
    /// The offset of the next record; only the writer's thread takes it, so offsets grow in the order of the commits.
    next: AtomicU64,
    /// One after the newest record that is committed.
    end: AtomicU64,
}

impl Topics {
    pub(super) fn id(&self, topic: Topic) -> i64 {
        self.ids.get(&topic).map_or(-1, |(id, _)| *id)
    }

    pub(super) fn of_id(&self, id: i64) -> Option<Topic> {
        self.ids.iter().find(|(_, (of, _))| *of == id).map(|(topic, _)| *topic)
    }
}

impl EmbeddedStorage {
    /// Blocks on the disk.
    pub(super) fn open(config: EmbeddedConfig) -> Result<(Self, Vec<StoredOffset>), BusError> {
        let open = |error: &dyn std::fmt::Display| BusError::Open(error.to_string());
        let lock = DirectoryLock::acquire(&config.directory).map_err(|e| open(&e))?;
        let file = GroupCommit::open(Arc::new(lock), FILE, SCHEMA).map_err(|e| open(&e))?;
        let partitions = config.partitions.max(1);
        let prepared = file.write_blocking(move |c| {
            let topics = read_topics(c, partitions)?;
            Ok((read_offsets(c, &topics)?, used_bytes(c)?, topics))
        });
        let (offsets, used, topics) = prepared.map_err(|e| open(&e))?;
        let storage = Self {
            file,
            topics: Arc::new(topics),
            config,
            used_bytes: AtomicU64::new(used),
            pressure: Arc::default(),
            faults: Faults::default(),
            readers: Arc::default(),
        };
        Ok((storage, offsets))
    }

    /// Runs a write, and remembers for the health whether this part of the log's work succeeds.
    pub(super) async fn write<T, F>(&self, part: &str, work: F) -> Result<T, BusError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let result = self.file.write(work).await;
        self.faults.note(part, &result);
        result.map_err(|error| match error {
            WriteError::Closed => BusError::Closed,
            other => BusError::Publish(other.to_string()),
        })
    }

    /// After records could not be written, whether they can be now. Nothing of it stays. It must not wait for the next record:
    /// while the health says that nothing can be written, nobody may bring one.
    pub(super) async fn look_again(&self) {
        if self.faults.is_set(RECORDS) {
            let write = |c: &Connection| {
                c.execute("INSERT INTO records VALUES (NULL, -1, -1, 0, 0, NULL, x'', zeroblob(4096))", [])?;
                c.execute("DELETE FROM records WHERE seq = ?1", [c.last_insert_rowid()])
            };
            // An error is said by the health.
            let _ = self.write(RECORDS, write).await;
        }
    }

    /// Runs a read, and remembers for the health whether this part of the log's work succeeds.
    pub(super) async fn query<T, F>(&self, part: &str, query: F) -> Result<T, String>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let result = self.look(query).await;
        self.faults.note(part, &result);
        result
    }

    /// Runs a read on a connection of its own, away from the async threads.
    async fn look<T, F>(&self, query: F) -> Result<T, String>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (readers, file) = (Arc::clone(&self.readers), self.file.clone());
        let read = move || {
            let kept = lock(&readers).pop();
            let connection = kept.map_or_else(|| file.reader(), Ok)?;
            let result = query(&connection)?;
            // One that failed is not used again.
            let mut readers = lock(&readers);
            if readers.len() < READERS {
                readers.push(connection);
            }
            Ok::<_, rusqlite::Error>(result)
        };
        match waiting(tokio::task::spawn_blocking(read)).await {
            Ok(result) => result.map_err(|error| format!("read the log: {error}")),
            Err(error) => Err(format!("read the log: {error}")),
        }
    }

    fn place(&self, at: TopicPartition) -> Option<&Place> {
        self.topics.places.get(&at)
    }

    fn notice_pressure(&self) {
        if self.used_bytes.load(Ordering::Relaxed) >= self.config.max_bytes / 2 {
            self.pressure.notify_one();
        }
    }

    /// Alerts are what everything else comes from: refused here, the rest drains and makes room.
    fn refuse_when_full(&self) -> Result<(), String> {
        let (used, max) = (self.used_bytes.load(Ordering::Relaxed), self.config.max_bytes);
        if used >= max {
            return Err(format!("the log is full ({used} of {max} bytes) of what is not consumed yet"));
        }
        has_room(&self.config.directory).map_err(|error| error.to_string())
    }
}

#[async_trait]
impl Storage for EmbeddedStorage {
    const KEEPS_OFFSETS: bool = true;

    fn partitions(&self, topic: Topic) -> u32 {
        self.topics.ids.get(&topic).map_or(1, |(_, partitions)| *partitions)
    }

    fn end(&self, at: TopicPartition) -> u64 {
        self.place(at).map_or(0, |place| place.end.load(Ordering::SeqCst))
    }

    async fn append(&self, records: Vec<(TopicPartition, Record)>, now: Timestamp) -> Result<(), BusError> {
        self.notice_pressure();
        if records.iter().any(|(at, _)| at.topic == Topic::AlertRaised) {
            self.refuse_when_full().map_err(BusError::Publish)?;
        }
        let topics = Arc::clone(&self.topics);
        let (written, used) = self
            .write(RECORDS, move |c| {
                let written = insert(c, &topics, &records, now)?;
                Ok((written, used_bytes(c)?))
            })
            .await?;
        self.used_bytes.store(used, Ordering::Relaxed);
        for (at, offset) in written {
            if let Some(place) = self.place(at) {
                place.end.fetch_max(offset + 1, Ordering::SeqCst);
            }
        }
        Ok(())
    }

    async fn read(&self, at: TopicPartition, from: u64, limit: usize) -> Result<Chunk, String> {
        let (topic, end) = (self.topics.id(at.topic), self.end(at));
        let (records, all) = self.look(move |c| select(c, topic, at, from, limit)).await?;
        // A write that was rolled back leaves a gap, perhaps up to the end.
        let after_last = records.last().map_or(from, |last| last.offset + 1);
        let next = if all { end.max(after_last) } else { after_last };
        Ok(Chunk { records, next })
    }

    async fn store_offsets(&self, offsets: Vec<StoredOffset>) -> Result<(), BusError> {
        let topics = Arc::clone(&self.topics);
        self.write("store offsets", move |c| {
            let mut upsert = c.prepare_cached(
                "INSERT INTO offsets VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (consumer_group, topic, partition) DO UPDATE SET offset = excluded.offset",
            )?;
            for StoredOffset { group, at, offset } in &offsets {
                upsert.execute(params![group, topics.id(at.topic), at.partition, *offset as i64])?;
            }
            Ok(())
        })
        .await
    }

    fn health(&self) -> Result<(), String> {
        self.faults.check().and_then(|()| self.refuse_when_full())
    }

    async fn failed(&self) -> String {
        self.faults.panicked().await
    }

    fn can_read(&self) -> bool {
        // A damaged partition holds up none of the others.
        true
    }

    async fn close(&self) {
        lock(&self.readers).clear();
        self.file.close().await;
    }
}

fn insert(
    c: &Connection,
    topics: &Topics,
    records: &[(TopicPartition, Record)],
    now: Timestamp,
) -> rusqlite::Result<Vec<(TopicPartition, u64)>> {
    let mut insert = c.prepare_cached(
        "INSERT INTO records (topic, partition, offset, timestamp_ms, key, headers, value)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    let mut written = Vec::with_capacity(records.len());
    for (at, record) in records {
        let Some(place) = topics.places.get(at) else { continue };
        let offset = place.next.fetch_add(1, Ordering::SeqCst);
        insert.execute(params![
            topics.id(at.topic),
            at.partition,
            offset as i64,
            now.as_millisecond(),
            record.key,
            headers::encode(&record.headers),
            &record.value[..],
        ])?;
        written.push((*at, offset));
    }
    Ok(written)
}

/// Whether these are all of them comes second.
fn select(
    c: &Connection,
    topic: i64,
    at: TopicPartition,
    from: u64,
    limit: usize,
) -> rusqlite::Result<(Vec<StoredRecord>, bool)> {
    let mut select = c.prepare_cached(
        "SELECT offset, timestamp_ms, key, headers, value FROM records
         WHERE topic = ?1 AND partition = ?2 AND offset >= ?3 ORDER BY offset LIMIT ?4",
    )?;
    let mut rows = select.query(params![topic, at.partition, from as i64, limit as i64])?;
    let mut records = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let headers = headers::decode(row.get_ref(3)?.as_blob()?)
            .map_err(|e| rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Blob, Box::new(e)))?;
        let record = Record {
            topic: at.topic,
            key: row.get(2)?,
            headers,
            value: bytes::Bytes::copy_from_slice(row.get_ref(4)?.as_blob()?),
        };
        bytes += size_of(&record);
        let timestamp = Timestamp::from_millisecond(row.get(1)?).unwrap_or(Timestamp::UNIX_EPOCH);
        records.push(StoredRecord { offset: row.get::<_, i64>(0)? as u64, timestamp, record });
        if bytes >= READ_BYTES {
            return Ok((records, false));
        }
    }
    let all = records.len() < limit;
    Ok((records, all))
}

/// Adds the topics that are new; the others keep their partitions.
fn read_topics(c: &Connection, partitions: u32) -> rusqlite::Result<Topics> {
    let mut topics = Topics { ids: HashMap::new(), places: HashMap::new() };
    for topic in Topic::ALL {
        c.execute(
            "INSERT OR IGNORE INTO topics (name, partitions) VALUES (?1, ?2)",
            params![topic.name(), partitions],
        )?;
        let (id, count) = c.query_row("SELECT id, partitions FROM topics WHERE name = ?1", [topic.name()], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, u32>(1)?.max(1)))
        })?;
        if count != partitions {
            tracing::info!(%topic, count, wanted = partitions, "A topic keeps its number of partitions.");
        }
        topics.ids.insert(topic, (id, count));
        for partition in 0..count {
            // Retention leaves the newest record of each partition, so that no offset is ever used twice.
            let newest = c
                .query_row(
                    "SELECT max(offset) FROM records WHERE topic = ?1 AND partition = ?2",
                    params![id, partition],
                    |row| row.get::<_, Option<i64>>(0),
                )?
                .map(|offset| offset as u64);
            let end = newest.map_or(0, |offset| offset + 1);
            let place = Place { next: end.into(), end: end.into() };
            topics.places.insert(TopicPartition { topic, partition }, place);
        }
    }
    Ok(topics)
}

fn read_offsets(c: &Connection, topics: &Topics) -> rusqlite::Result<Vec<StoredOffset>> {
    let mut select = c.prepare("SELECT consumer_group, topic, partition, offset FROM offsets")?;
    let rows = select.query_map([], |row| {
        let (topic, partition) = (topics.of_id(row.get(1)?), row.get(2)?);
        let (group, offset) = (row.get(0)?, row.get::<_, i64>(3)? as u64);
        Ok(topic.map(|topic| StoredOffset { group, at: TopicPartition { topic, partition }, offset }))
    })?;
    rows.filter_map(Result::transpose).collect()
}

pub(super) fn used_bytes(c: &Connection) -> rusqlite::Result<u64> {
    let read = |name: &str| c.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let used = (read("page_count")? - read("freelist_count")?) * read("page_size")?;
    Ok(u64::try_from(used).unwrap_or(0))
}

/// No panic happens while a lock is held, so a poisoned one holds a whole state.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
