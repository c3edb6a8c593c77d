//! An embedded log whose place Kafka has taken: nothing that waits in it may be forgotten (promise 1).

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::storage::FILE;
use crate::{
    bus::{BusError, Retention},
    events::Topic,
};

/// Fails when a directory holds an embedded log with records that a service has yet to consume.
pub(in crate::bus) async fn check_that_nothing_waits(directory: PathBuf) -> Result<(), BusError> {
    let checked = tokio::task::spawn_blocking(move || check(&directory)).await;
    checked.map_err(|error| BusError::Open(error.to_string()))?
}

fn check(directory: &Path) -> Result<(), BusError> {
    let file = directory.join(FILE);
    if !file.exists() {
        return Ok(());
    }
    let waiting = count(&file).map_err(|error| {
        let place = file.display();
        BusError::Open(format!("{place} is an embedded log that cannot be read ({error}); mend it, or move it away"))
    })?;
    if waiting == 0 {
        return Ok(());
    }
    Err(BusError::Open(format!(
        "{} is an embedded log in which {waiting} records wait that Kafka would never see; run once more without \
         --kafka-brokers until they are consumed, or move it away if they are not needed",
        file.display()
    )))
}

fn count(file: &Path) -> rusqlite::Result<u64> {
    let log = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    let mut waiting = log.prepare(
        "SELECT count(*) FROM records JOIN topics ON topics.id = records.topic WHERE topics.name = ?1 AND offset >= coalesce(
             (SELECT min(offsets.offset) FROM offsets
              WHERE offsets.topic = records.topic AND offsets.partition = records.partition), 0)",
    )?;
    let consumed = Topic::ALL.into_iter().filter(|topic| !Retention::is_ledger(*topic));
    let counts = consumed.map(|topic| waiting.query_row([topic.name()], |row| row.get::<_, i64>(0)));
    let total: i64 = counts.sum::<rusqlite::Result<i64>>()?;
    Ok(u64::try_from(total).unwrap_or(0))
}
