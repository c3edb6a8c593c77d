//! What goes, and when: records that are old and consumed by every group, consumed ones earlier when the file grows, and groups
//! that nobody belongs to any more. In small steps, so that no publisher waits for long.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rusqlite::{Connection, params};
use tokio_util::sync::CancellationToken;

use super::{EmbeddedBus, EmbeddedStorage, LOOK_INTERVAL, storage::used_bytes};
use crate::bus::local::Storage;
use crate::bus::{BusError, Retention, TopicPartition, local::WeakBus};

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(300);
/// How often at most, however full the file is: while something goes, and while nothing may.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_STUCK: Duration = Duration::from_secs(15);
/// As the health names it.
const PART: &str = "remove old records";
/// How many records one step looks at.
const STEP: usize = 100;
/// How many pages one step gives back to the disk.
const VACUUM_PAGES: u32 = 512;

pub(super) async fn run(bus: WeakBus<EmbeddedStorage>, closed: CancellationToken) {
    let (mut pause, mut fails) = (PAUSE, false);
    loop {
        tokio::select! {
            () = closed.cancelled() => return,
            () = wait(&bus, pause, if fails { Duration::ZERO } else { INTERVAL }) => {}
        }
        let Some(bus) = bus.upgrade() else { return };
        let result = pass(&bus).await;
        if let Err(error) = &result
            && !fails
        {
            tracing::warn!(error, "Old records could not be removed; trying again until they can be.");
        }
        fails = result.is_err();
        pause = match result {
            Ok(0) => PAUSE_STUCK,
            Ok(_) => PAUSE,
            // The health says so until it succeeds, and meanwhile the replica is not ready: it must not outlast its cause.
            Err(_) => LOOK_INTERVAL,
        };
    }
}

/// For the pause, and then until the interval is over or the file is more than half full.
async fn wait(bus: &WeakBus<EmbeddedStorage>, pause: Duration, interval: Duration) {
    tokio::time::sleep(pause).await;
    let Some(pressure) = bus.upgrade().map(|bus| Arc::clone(&bus.storage().pressure)) else { return };
    // An error says that the interval is over.
    let _ = tokio::time::timeout(interval, pressure.notified()).await;
}

/// A record, as far as its end is concerned.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    seq: i64,
    /// None for one of a topic that only a newer version knew: it is left alone.
    at: Option<TopicPartition>,
    offset: u64,
    age: Duration,
}

/// One look at everything from the oldest record on. Gives how many were removed.
pub(super) async fn pass(bus: &EmbeddedBus) -> Result<usize, String> {
    forget_groups(bus).await.map_err(|error| error.to_string())?;
    let storage = bus.storage();
    let (mut cursor, mut removed) = (0, 0);
    loop {
        let candidates = candidates(bus, cursor).await?;
        let Some(last) = candidates.last() else { break };
        cursor = last.seq;
        let pressed = storage.used_bytes.load(Ordering::Relaxed) >= storage.config.max_bytes / 2;
        let gone: Vec<i64> = candidates.iter().filter(|c| may_go(bus, c, pressed)).map(|c| c.seq).collect();
        removed += gone.len();
        if !gone.is_empty() {
            let used = storage.write(PART, move |c| remove(c, &gone)).await.map_err(|error| error.to_string())?;
            storage.used_bytes.store(used, Ordering::Relaxed);
        }
        // Records stand in the order of their arrival: behind a young one there are only younger ones.
        let Retention { events, ledger } = storage.config.retention;
        if !pressed && last.age < events.min(ledger) {
            break;
        }
    }
    Ok(removed)
}

fn may_go(bus: &EmbeddedBus, candidate: &Candidate, pressed: bool) -> bool {
    let Candidate { at: Some(at), offset, age, .. } = *candidate else { return false };
    let storage = bus.storage();
    // The newest of a partition stays: the next offset is known by it.
    let is_newest = offset + 1 >= storage.end(at);
    // A service that has never joined yet will (promise 1): it may be waiting for the API server since the first start.
    let is_consumed = bus.groups().consumed(at).map_or(Retention::is_ledger(at.topic), |consumed| offset < consumed);
    let is_old = age > storage.config.retention.of(at.topic);
    !is_newest && is_consumed && (is_old || pressed)
}

async fn candidates(bus: &EmbeddedBus, after: i64) -> Result<Vec<Candidate>, String> {
    let topics = Arc::clone(&bus.storage().topics);
    let now_ms = bus.clock().now().as_millisecond();
    let rows = bus.storage().query(PART, move |c| {
        let mut select = c.prepare_cached(
            "SELECT seq, topic, partition, offset, timestamp_ms FROM records WHERE seq > ?1 ORDER BY seq LIMIT ?2",
        )?;
        let rows = select.query_map(params![after, STEP as i64], |row| {
            let age_ms = u64::try_from(now_ms.saturating_sub(row.get(4)?)).unwrap_or(0);
            let (seq, partition, offset) = (row.get(0)?, row.get(2)?, row.get::<_, i64>(3)? as u64);
            let at = topics.of_id(row.get(1)?).map(|topic| TopicPartition { topic, partition });
            Ok(Candidate { seq, at, offset, age: Duration::from_millis(age_ms) })
        })?;
        rows.collect()
    });
    rows.await
}

fn remove(c: &Connection, seqs: &[i64]) -> rusqlite::Result<u64> {
    let mut delete = c.prepare_cached("DELETE FROM records WHERE seq = ?1")?;
    for seq in seqs {
        delete.execute([seq])?;
    }
    // One row for each page that is given back.
    let mut vacuum = c.prepare(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
    let mut pages = vacuum.query([])?;
    while pages.next()?.is_some() {}
    drop(pages);
    used_bytes(c)
}

/// A group that had no member for as long as the ledger is kept holds no record back any more: it was renamed or removed.
async fn forget_groups(bus: &EmbeddedBus) -> Result<(), BusError> {
    let now_ms = bus.clock().now().as_millisecond();
    let keep_ms = i64::try_from(bus.storage().config.retention.ledger.as_millis()).unwrap_or(i64::MAX);
    let groups = bus.groups().list();
    let forgotten = bus
        .storage()
        .write(PART, move |c| {
            let mut forgotten = Vec::new();
            for (group, is_alive) in groups {
                let sql = if is_alive {
                    "INSERT INTO consumer_groups VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET seen_ms = ?2"
                } else {
                    "INSERT OR IGNORE INTO consumer_groups VALUES (?1, ?2)"
                };
                c.execute(sql, params![group, now_ms])?;
                let expired = "DELETE FROM consumer_groups WHERE name = ?1 AND seen_ms < ?2";
                if c.execute(expired, params![group, now_ms.saturating_sub(keep_ms)])? > 0 {
                    c.execute("DELETE FROM offsets WHERE consumer_group = ?1", [&group])?;
                    forgotten.push(group);
                }
            }
            Ok(forgotten)
        })
        .await?;
    for group in forgotten {
        tracing::info!(group, "A consumer group without members is forgotten.");
        bus.groups().forget(&group);
    }
    Ok(())
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
