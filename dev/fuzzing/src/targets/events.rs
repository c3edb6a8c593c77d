//! Records of our topics, from whoever wrote them: an event that is published as it was read, or a dead letter with the original.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use eventpulse::events::{DeadLetterReason, Record, Topic, bounds};

use crate::check::{is_letter, is_published};

/// A line `TOPIC KEY`, headers `NAME: VALUE`, an empty line, and the data. Bytes that are no text stay what they are.
fn record(data: &[u8]) -> Option<Record> {
    let end = data.windows(2).position(|pair| pair == b"\n\n")?;
    let (head, value) = (&data[..end], &data[end + 2..]);
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = std::str::from_utf8(lines.next()?).ok()?;
    let (topic, key) = first.split_once(' ').map_or((first, None), |(topic, key)| (topic, Some(key.to_owned())));
    let header = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = String::from_utf8_lossy(&line[..colon]).into_owned();
        let value = &line[colon + 1..];
        Some((name, Bytes::copy_from_slice(value.strip_prefix(b" ").unwrap_or(value))))
    };
    let topic: Topic = topic.parse().ok()?;
    Some(Record { topic, key, headers: lines.filter_map(header).collect(), value: Bytes::copy_from_slice(value) })
}

pub(crate) fn event(data: &[u8]) {
    let Some(record) = record(data) else { return };
    match record.decode() {
        Ok(event) => {
            assert_eq!(event.topic(), record.topic);
            assert_eq!(event.key, record.key.clone().unwrap_or_default());
            is_published(&event);
        }
        Err(error) => is_buried(&record, error.reason(), error.to_string()),
    }
}

pub(crate) fn dead_letter(data: &[u8]) {
    if let Some(record) = record(data) {
        let message = format!("data: {}", String::from_utf8_lossy(&record.value));
        is_buried(&record, DeadLetterReason::Refused, message);
    }
}

/// Whatever was written, its letter has the original bytes, and says where they stood.
fn is_buried(record: &Record, reason: DeadLetterReason, message: String) {
    let letter = record.to_dead_letter(reason, message, "alert.raised/3@1207".into());
    is_letter(&letter);
    let kept = BASE64.decode(&letter.data).expect("base 64");
    assert!(record.value.starts_with(&kept), "other bytes are kept");
    assert_eq!(letter.truncated, kept.len() < record.value.len());
    assert!(letter.truncated || record.value.len() <= bounds::DEAD_LETTER_DATA_BYTES);
    assert_eq!(letter.key.is_some(), record.key.is_some());
    for value in letter.headers.values() {
        // A byte that is no text becomes a character of three.
        assert!(value.len() <= 3 * bounds::DEAD_LETTER_HEADER_BYTES, "a header of {} bytes", value.len());
    }
}
