//! Records as librdkafka's messages and back. What a foreign producer wrote may be anything; it is never a panic.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
};

use bytes::Bytes;
use jiff::Timestamp;
use rdkafka::{
    Message,
    message::{BorrowedMessage, Header, Headers, OwnedHeaders},
};

use crate::events::{Record, Topic};

pub(super) fn headers_of(record: &Record) -> OwnedHeaders {
    record.headers.iter().fold(OwnedHeaders::new_with_capacity(record.headers.len()), |headers, (name, value)| {
        headers.insert(Header { key: name, value: Some(&value[..]) })
    })
}

pub(super) fn read(topic: Topic, message: &BorrowedMessage<'_>) -> (Record, Timestamp) {
    let record = Record {
        topic,
        // A key that is no text only chose the partition; the event says what it is about.
        key: message.key().map(|key| String::from_utf8_lossy(key).into_owned()),
        headers: read_headers(message),
        value: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
    };
    let timestamp = message.timestamp().to_millis().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    (record, timestamp.unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Tells a record from another one that has its place, within one process.
pub(super) fn digest(message: &BorrowedMessage<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (message.timestamp().to_millis(), message.key(), message.payload()).hash(&mut hasher);
    hasher.finish()
}

/// A header whose name is no text is left out: the binding panics on it.
fn read_headers(message: &BorrowedMessage<'_>) -> Vec<(String, Bytes)> {
    let Some(headers) = message.headers() else { return Vec::new() };
    let read = |i| {
        let header = headers.try_get(i)?;
        Some((header.key.to_owned(), Bytes::copy_from_slice(header.value.unwrap_or_default())))
    };
    (0..headers.count()).filter_map(|i| catch_unwind(AssertUnwindSafe(|| read(i))).ok().flatten()).collect()
}
