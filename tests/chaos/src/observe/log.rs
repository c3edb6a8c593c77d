//! Every record on the log: by Kafka's own console consumer, or out of the embedded log's file.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use eventpulse::{bus::Consumes, config::Service, services::consumes};
use eventpulse_env::KafkaClient;
use eventpulse_oracle::Record;
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

/// What the services say to each other, and what nobody could read.
pub(crate) const TOPICS: [&str; 12] = [
    "alert.raised",
    "alert.decided",
    "incident.opened",
    "incident.updated",
    "incident.resolved",
    "action.requested",
    "action.completed",
    "action.failed",
    "notification.requested",
    "notification.delivered",
    "notification.failed",
    "dead.letter",
];
/// Below a data directory.
pub(crate) const FILE: &str = "log/log.sqlite";
const TYPE: (&str, &str) = ("io.eventpulse.", ".v1");

/// Of a broker.
pub(crate) async fn of_kafka(client: &KafkaClient) -> Result<Vec<Record>> {
    let there = client.topics().await?;
    let topics: Vec<&str> = TOPICS.into_iter().filter(|topic| there.iter().any(|name| name == topic)).collect();
    if topics.is_empty() {
        return Ok(Vec::new());
    }
    let records = client.read(&topics).await?;
    records
        .into_iter()
        .map(|record| {
            let kind = record.header("ce_type").unwrap_or_default();
            let topic = kind.strip_prefix(TYPE.0).and_then(|kind| kind.strip_suffix(TYPE.1)).unwrap_or(kind).to_owned();
            Ok(Record {
                topic,
                at: Timestamp::from_millisecond(record.timestamp_ms)?,
                id: record.header("ce_id").map(str::to_owned),
                data: serde_json::from_str(&record.value).unwrap_or_default(),
            })
        })
        .collect()
}

/// Each consumer group with each topic that it reads.
pub(crate) fn reads() -> Vec<(&'static str, &'static str)> {
    let of = |consumes: Consumes| consumes.topics.iter().map(move |topic| (consumes.group, topic.name()));
    Service::ALL.iter().filter_map(|service| consumes(*service)).flat_map(of).collect()
}

/// How many records of the embedded log of this data directory its groups have yet to read, all together.
pub(crate) fn unread_of_file(data_dir: &Path) -> Result<usize> {
    let Some(file) = open(data_dir)? else { return Ok(0) };
    let mut query = file.prepare(
        "SELECT count(*) FROM records JOIN topics ON topics.id = records.topic
         LEFT JOIN offsets ON consumer_group = ?1 AND offsets.topic = records.topic AND offsets.partition = records.partition
         WHERE topics.name = ?2 AND records.offset >= coalesce(offsets.offset, 0)",
    )?;
    let mut unread = 0;
    for (group, topic) in reads() {
        unread += query.query_row([group, topic], |row| row.get::<_, u32>(0))? as usize;
    }
    Ok(unread)
}

/// None where there is no log yet.
fn open(data_dir: &Path) -> Result<Option<Connection>> {
    let path = data_dir.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let file = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .with_context(|| format!("open {}", path.display()))?;
    file.busy_timeout(std::time::Duration::from_secs(10))?;
    Ok(Some(file))
}

/// Of the embedded log of this data directory.
pub(crate) fn of_file(data_dir: &Path) -> Result<Vec<Record>> {
    let Some(file) = open(data_dir)? else { return Ok(Vec::new()) };
    let mut query = file.prepare(
        "SELECT topics.name, timestamp_ms, headers, value FROM records JOIN topics ON topics.id = records.topic ORDER BY seq",
    )?;
    let rows = query.query_map([], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, Vec<u8>>(2)?, row.get::<_, Vec<u8>>(3)?))
    })?;
    rows.map(|row| {
        let (topic, milliseconds, headers, value) = row?;
        Ok(Record {
            topic,
            at: Timestamp::from_millisecond(milliseconds)?,
            id: header(&headers, "ce_id")?,
            data: serde_json::from_slice::<Value>(&value).unwrap_or_default(),
        })
    })
    .collect()
}

/// Headers are names and values in turn, each behind its length (u32, little endian).
fn header(mut bytes: &[u8], name: &str) -> Result<Option<String>> {
    let mut part = || -> Result<Option<String>> {
        let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
        let Some((text, rest)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else {
            bail!("the headers of a record are damaged");
        };
        bytes = rest;
        Ok(Some(String::from_utf8_lossy(text).into_owned()))
    };
    while let Some(found) = part()? {
        let value = part()?;
        if found == name {
            return Ok(value);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_found_by_its_name() {
        let bytes: Vec<u8> = ["ce_type", "x", "ce_id", "7"]
            .into_iter()
            .flat_map(|text| [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat())
            .collect();
        assert_eq!(header(&bytes, "ce_id").unwrap().as_deref(), Some("7"));
        assert_eq!(header(&bytes, "ce_time").unwrap(), None);
        assert!(header(&bytes[..bytes.len() - 1], "ce_id").is_err());
    }

    #[test]
    fn what_a_group_has_not_read_is_counted_for_each_group() {
        let dir = std::env::temp_dir().join(format!("eventpulse-chaos-unread-{}", std::process::id()));
        assert_eq!(unread_of_file(&dir).unwrap(), 0);
        std::fs::create_dir_all(dir.join("log")).unwrap();
        let file = Connection::open(dir.join(FILE)).unwrap();
        file.execute_batch(
            "CREATE TABLE topics (id, name);
             CREATE TABLE records (topic, partition, offset);
             CREATE TABLE offsets (consumer_group, topic, partition, offset);
             INSERT INTO topics VALUES (1, 'action.requested'), (2, 'alert.decided');
             INSERT INTO records VALUES (1, 0, 0), (1, 0, 1), (1, 1, 0), (2, 0, 0);",
        )
        .unwrap();
        let readers = reads().iter().filter(|(_, topic)| *topic == "action.requested").count();
        assert!(readers > 1, "actions does, and incidents");
        assert_eq!(unread_of_file(&dir).unwrap(), 3 * readers);
        file.execute("INSERT INTO offsets VALUES ('actions', 1, 0, 1), ('actions', 1, 1, 1)", []).unwrap();
        assert_eq!(unread_of_file(&dir).unwrap(), 3 * readers - 2);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
