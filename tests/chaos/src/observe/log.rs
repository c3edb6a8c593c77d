//! Every record on the log: by Kafka's own console consumer, or out of the embedded log's file.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use eventpulse_env::KafkaClient;
use eventpulse_oracle::Record;
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

/// What the services say to each other, and what nobody could read.
pub(crate) const TOPICS: [&str; 11] = [
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

/// Of the embedded log of this data directory.
pub(crate) fn of_file(data_dir: &Path) -> Result<Vec<Record>> {
    let path = data_dir.join(FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let file = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .with_context(|| format!("open {}", path.display()))?;
    file.busy_timeout(std::time::Duration::from_secs(10))?;
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
}
