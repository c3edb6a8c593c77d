//! The file, read beside the process that writes it.

use std::{collections::BTreeMap, path::Path};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, types::Type};

use super::{headers, storage::FILE};
use crate::{
    bus::{
        BusError, TopicPartition,
        history::{Past, Progress, Visit},
    },
    events::{Record, Topic},
};

/// See [`crate::bus::history::read`].
pub(in crate::bus) fn read(
    directory: &Path,
    topics: &[Topic],
    since: Timestamp,
    visitor: &mut impl Visit,
) -> Result<(), BusError> {
    with(directory, |log| topics.iter().try_for_each(|topic| read_topic(log, *topic, since, visitor)))
}

/// See [`crate::bus::history::progress`].
pub(in crate::bus) fn progress(directory: &Path, group: &str, topic: Topic) -> Result<Vec<Progress>, BusError> {
    with(directory, |log| {
        let Some((id, partitions)) = known(log, topic)? else { return Ok(Vec::new()) };
        let mut stored = log.prepare(
            "SELECT (SELECT offset FROM offsets WHERE consumer_group = ?1 AND topic = ?2 AND partition = ?3), min(offset), max(offset) + 1
             FROM records WHERE topic = ?2 AND partition = ?3",
        )?;
        let mut one = |partition: u32| {
            stored.query_row((group, id, partition), |row| {
                let offset =
                    |column| row.get::<_, Option<i64>>(column).map(|offset| offset.map(|offset| offset as u64));
                let (first, end) = (offset(1)?.unwrap_or_default(), offset(2)?.unwrap_or_default());
                Ok(Progress { partition, first, next: offset(0)?, end })
            })
        };
        (0..partitions).map(&mut one).collect()
    })
}

/// See [`crate::bus::history::begin`].
pub(in crate::bus) fn begin(
    directory: &Path,
    topic: Topic,
    since: Timestamp,
) -> Result<BTreeMap<u32, Option<u64>>, BusError> {
    with(directory, |log| {
        let Some((id, partitions)) = known(log, topic)? else { return Ok(BTreeMap::new()) };
        let mut select =
            log.prepare("SELECT min(offset) FROM records WHERE topic = ?1 AND partition = ?2 AND timestamp_ms >= ?3")?;
        let mut one = |partition: u32| {
            let first =
                select.query_row((id, partition, since.as_millisecond()), |row| row.get::<_, Option<i64>>(0))?;
            Ok((partition, first.map(|offset| offset as u64)))
        };
        (0..partitions).map(&mut one).collect()
    })
}

/// A topic's id and how many partitions it has; none where it is absent.
fn known(log: &Connection, topic: Topic) -> rusqlite::Result<Option<(i64, u32)>> {
    let known = log.query_row("SELECT id, partitions FROM topics WHERE name = ?1", [topic.name()], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, u32>(1)?))
    });
    known.optional()
}

/// See [`crate::bus::history::find`].
pub(in crate::bus) fn find(directory: &Path, at: TopicPartition, offset: u64) -> Result<Option<Past>, BusError> {
    let Ok(offset) = i64::try_from(offset) else { return Ok(None) };
    with(directory, |log| {
        let mut select = log.prepare(
            "SELECT partition, offset, timestamp_ms, key, headers, value FROM records
             WHERE topic = (SELECT id FROM topics WHERE name = ?1) AND partition = ?2 AND offset = ?3",
        )?;
        select.query_row((at.topic.name(), at.partition, offset), |row| past(at.topic, row)).optional()
    })
}

/// Opens the file to read it, whoever writes it meanwhile.
fn with<T>(directory: &Path, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, BusError> {
    let file = directory.join(FILE);
    let place = file.display();
    if !file.exists() {
        return Err(BusError::Open(format!("there is no embedded log at {place}")));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let result = Connection::open_with_flags(&file, flags).and_then(|log| read(&log));
    result.map_err(|error| BusError::Open(format!("{place} cannot be read: {error}")))
}

fn read_topic(log: &Connection, topic: Topic, since: Timestamp, visitor: &mut impl Visit) -> rusqlite::Result<()> {
    let mut select = log.prepare(
        "SELECT partition, offset, timestamp_ms, key, headers, value FROM records
         WHERE topic = (SELECT id FROM topics WHERE name = ?1) AND timestamp_ms >= ?2 ORDER BY partition, offset",
    )?;
    let mut rows = select.query((topic.name(), since.as_millisecond()))?;
    while let Some(row) = rows.next()? {
        visitor.visit(past(topic, row)?);
    }
    Ok(())
}

fn past(topic: Topic, row: &Row<'_>) -> rusqlite::Result<Past> {
    let headers = headers::decode(row.get_ref(4)?.as_blob()?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(4, Type::Blob, Box::new(error)))?;
    let value = bytes::Bytes::copy_from_slice(row.get_ref(5)?.as_blob()?);
    Ok(Past {
        record: Record { topic, key: row.get(3)?, headers, value },
        at: TopicPartition { topic, partition: row.get(0)? },
        offset: row.get::<_, i64>(1)? as u64,
        timestamp: Timestamp::from_millisecond(row.get(2)?).unwrap_or(Timestamp::UNIX_EPOCH),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        bus::{Bus, BusConfig, EmbeddedBus, EmbeddedConfig, LocalOptions, history},
        runtime::{Metrics, clock::SystemClock},
    };

    #[derive(Default)]
    struct All(Vec<Past>);

    impl Visit for All {
        fn visit(&mut self, past: Past) {
            self.0.push(past);
        }
    }

    async fn read_all(directory: &Path, since: Timestamp) -> Result<Vec<Past>, BusError> {
        let config = BusConfig::Embedded(EmbeddedConfig::new(directory));
        history::read(config, Topic::ALL.to_vec(), since, All::default()).await.map(|all| all.0)
    }

    #[tokio::test]
    async fn what_a_running_process_has_written_is_read_beside_it_and_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig::new(directory.path());
        let clock = Arc::new(SystemClock);
        let bus = EmbeddedBus::open(config, clock, Metrics::default(), LocalOptions::default()).await.unwrap();
        let record = |topic, text: &str| Record {
            topic,
            key: Some(text.into()),
            headers: vec![("ce_id".into(), text.to_owned().into())],
            value: text.to_owned().into(),
        };
        let written: Vec<Record> =
            (0..20).map(|n| record(Topic::ALL[n % Topic::ALL.len()], &format!("record-{n}"))).collect();
        bus.publish(written.clone()).await.unwrap();
        for _ in 0..2 {
            let found = read_all(directory.path(), Timestamp::UNIX_EPOCH).await.unwrap();
            assert_eq!(found.len(), written.len());
            assert!(written.iter().all(|record| found.iter().any(|past| past.record == *record)), "{found:?}");
        }
        let later = Timestamp::now() + jiff::SignedDuration::from_hours(1);
        assert_eq!(read_all(directory.path(), later).await.unwrap(), []);
        bus.close(std::time::Duration::from_secs(5)).await;
        assert_eq!(
            read_all(directory.path(), Timestamp::UNIX_EPOCH).await.unwrap().len(),
            20,
            "of a process that has ended"
        );
    }

    #[tokio::test]
    async fn how_far_a_group_has_come_is_read_beside_it_and_a_record_is_found_by_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let config = EmbeddedConfig { partitions: 1, ..EmbeddedConfig::new(directory.path()) };
        let options = LocalOptions { store_interval: std::time::Duration::ZERO, ..LocalOptions::default() };
        let bus = EmbeddedBus::open(config.clone(), Arc::new(SystemClock), Metrics::default(), options).await.unwrap();
        let log = BusConfig::Embedded(config);
        let progress = async || history::progress(log.clone(), "rules", Topic::AlertRaised).await.unwrap();
        assert_eq!(progress().await, [Progress { partition: 0, first: 0, next: None, end: 0 }]);
        let record = |text: &str| Record {
            topic: Topic::AlertRaised,
            key: None,
            headers: vec![("h".into(), "v".into())],
            value: text.to_owned().into(),
        };
        bus.publish(vec![record("a"), record("b"), record("c")]).await.unwrap();
        let subscribe =
            crate::bus::SubscribeOptions { group: "rules".into(), topics: vec![Topic::AlertRaised], max_in_flight: 8 };
        let mut member = bus.subscribe(subscribe).await.unwrap();
        let mut done = 0;
        while done < 2 {
            if let Some(crate::bus::SubscriptionEvent::Message(delivery)) = member.next().await {
                delivery.ack.done();
                done += 1;
            }
        }
        member.leave().await;
        bus.close(std::time::Duration::from_secs(5)).await;
        assert_eq!(progress().await, [Progress { partition: 0, first: 0, next: Some(2), end: 3 }]);
        let at = TopicPartition { topic: Topic::AlertRaised, partition: 0 };
        let found = async |offset| history::find(log.clone(), at, offset).await.unwrap();
        assert_eq!(
            found(1).await.map(|past| (past.origin(), past.record)),
            Some(("alert.raised/0@1".into(), record("b")))
        );
        assert_eq!((found(3).await, found(u64::MAX).await), (None, None));
    }

    #[tokio::test]
    async fn where_there_is_no_log_it_is_said_and_none_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let error = read_all(directory.path(), Timestamp::UNIX_EPOCH).await.unwrap_err();
        assert!(error.to_string().contains("there is no embedded log at "), "{error}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        std::fs::write(directory.path().join(FILE), "no database").unwrap();
        let error = read_all(directory.path(), Timestamp::UNIX_EPOCH).await.unwrap_err();
        assert!(error.to_string().contains("cannot be read: "), "{error}");
    }
}
