//! The contract between the services: ids, topics, envelope and payloads.
//!
//! In: facts that a service has decided. Out: [`Event`]s, as records of the log and back, and the JSON Schemas of `docs/events/`.
//! Pure: no clock, no random source, no I/O. May not touch: bus adapters, runtime, any service.

pub mod bounds;
mod decode;
mod encode;
mod examples;
mod ids;
mod payload;
pub mod schemas;
mod topic;
mod trace;

pub use decode::{DecodeError, dead_letter_of};
pub use encode::{
    HEADER_CONTENT_TYPE, HEADER_ID, HEADER_SOURCE, HEADER_SPECVERSION, HEADER_SUBJECT, HEADER_TIME, HEADER_TRACEPARENT,
    HEADER_TRACESTATE, HEADER_TYPE, InvalidEntry, Record,
};
#[cfg(test)]
pub(crate) use examples::example;
pub use ids::{
    ActionId, AlertId, CorrelationId, EventId, IncidentId, NotificationId, alert_key, fingerprint_of, target_key,
};
pub use payload::*;
pub use topic::{Topic, UnknownTopic};
pub use trace::{InvalidTraceparent, TraceContext, parent_of};

use jiff::Timestamp;

/// One fact, decided once. Its id is derived from what it says, so the same fact published again is the same event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Derived from type, subject and transition.
    pub id: EventId,
    /// When the transition was decided; never renewed by a republication.
    pub time: Timestamp,
    /// The service that decided it, like `eventpulse/rules`.
    pub source: String,
    /// What it speaks of, by id.
    pub subject: String,
    /// The key that chooses the partition (design, section 3).
    pub key: String,
    /// W3C trace context: of an event that was decided, the span that it was decided in; of one that was read, its own, which is derived
    /// from the former and its id.
    pub traceparent: Option<String>,
    /// What is said.
    pub payload: Payload,
}

impl Event {
    /// The topic that this event belongs on.
    pub fn topic(&self) -> Topic {
        self.payload.topic()
    }
}
