//! An event as a record of the log: CloudEvents 1.0, Kafka protocol binding, binary content mode.

use bytes::Bytes;

use super::{Event, EventId, Payload, Topic, trace::own_headers};
use crate::api::v1alpha1::OutboxEntry;

/// The event's id.
pub const HEADER_ID: &str = "ce_id";
/// The event's type, versioned.
pub const HEADER_TYPE: &str = "ce_type";
/// Who decided it.
pub const HEADER_SOURCE: &str = "ce_source";
/// CloudEvents' own version, `1.0`.
pub const HEADER_SPECVERSION: &str = "ce_specversion";
/// When it was decided, RFC 3339.
pub const HEADER_TIME: &str = "ce_time";
/// What it speaks of.
pub const HEADER_SUBJECT: &str = "ce_subject";
/// W3C trace context.
pub const HEADER_TRACEPARENT: &str = "traceparent";
/// What `traceparent` belongs under (W3C trace context); other vendors' entries are not handed on.
pub const HEADER_TRACESTATE: &str = "tracestate";
/// The data's media type.
pub const HEADER_CONTENT_TYPE: &str = "content-type";

/// A record of the log, as it is written or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The topic it is on.
    pub topic: Topic,
    /// The key that chooses the partition; a foreign producer may leave it out.
    pub key: Option<String>,
    /// Headers in their order; a foreign producer may repeat them or write bytes that are no text.
    pub headers: Vec<(String, Bytes)>,
    /// The data; empty for a tombstone.
    pub value: Bytes,
}

impl Event {
    /// The record to write. Fails only if the data cannot be JSON, which no payload of ours can bring about.
    pub fn encode(&self) -> serde_json::Result<Record> {
        OutboxEntry::try_from(self).map(|entry| encode_entry(self.topic(), &self.source, &entry))
    }
}

fn encode_entry(topic: Topic, source: &str, entry: &OutboxEntry) -> Record {
    let mut headers: Vec<(String, Bytes)> = [
        (HEADER_SPECVERSION, "1.0".to_owned()),
        (HEADER_ID, entry.id.clone()),
        (HEADER_TYPE, topic.event_type()),
        (HEADER_SOURCE, source.to_owned()),
        (HEADER_TIME, entry.time.to_string()),
        (HEADER_SUBJECT, entry.subject.clone()),
        (HEADER_CONTENT_TYPE, "application/json".to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), Bytes::from(value)))
    .collect();
    for (name, value) in [(HEADER_TRACEPARENT, &entry.traceparent), (HEADER_TRACESTATE, &entry.tracestate)] {
        headers.extend(value.as_ref().map(|value| (name.into(), Bytes::from(value.clone()))));
    }
    Record { topic, key: Some(entry.key.clone()), headers, value: Bytes::from(entry.data.clone()) }
}

impl TryFrom<&Event> for OutboxEntry {
    type Error = serde_json::Error;

    fn try_from(event: &Event) -> serde_json::Result<Self> {
        let (traceparent, tracestate) = own_headers(event);
        Ok(Self {
            id: event.id.to_string(),
            topic: event.topic().name().to_owned(),
            key: event.key.clone(),
            subject: event.subject.clone(),
            time: event.time,
            traceparent,
            tracestate,
            data: event.payload.to_json()?,
        })
    }
}

/// Why an outbox entry, which somebody may have edited in its resource, cannot be published.
#[derive(Debug, thiserror::Error)]
#[error("outbox entry {id:?}: {problem}")]
pub struct InvalidEntry {
    id: String,
    problem: String,
}

impl OutboxEntry {
    /// The record to write, after a check that the entry says what its topic's events say.
    pub fn to_record(&self, source: &str) -> Result<Record, InvalidEntry> {
        let invalid = |problem: String| InvalidEntry { id: self.id.chars().take(64).collect(), problem };
        let topic: Topic = self.topic.parse().map_err(|e: super::topic::UnknownTopic| invalid(e.to_string()))?;
        EventId::try_from(self.id.clone()).map_err(|e| invalid(e.to_string()))?;
        Payload::from_json(topic, self.data.as_bytes()).map_err(|e| invalid(e.to_string()))?;
        Ok(encode_entry(topic, source, self))
    }
}
