//! The file, read beside the process that writes it.

use std::path::Path;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, Row, types::Type};

use super::{headers, storage::FILE};
use crate::{
    bus::{
        BusError, TopicPartition,
        history::{Past, Visit},
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
    let file = directory.join(FILE);
    let place = file.display();
    if !file.exists() {
        return Err(BusError::Open(format!("there is no embedded log at {place}")));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let log = Connection::open_with_flags(&file, flags);
    let result = log.and_then(|log| topics.iter().try_for_each(|topic| read_topic(&log, *topic, since, visitor)));
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
