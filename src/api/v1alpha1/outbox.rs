//! What an owned object still has to say: events decided together with its state, in the same write.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most entries that one object's outbox holds; a full one lets its inputs wait (promise 6).
pub const OUTBOX_MAX: usize = 32;

/// One event that was decided and may not have been published yet (design, section 5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutboxEntry {
    /// The event's id, derived from what it says; a repeated publication carries the same one.
    pub id: String,
    /// The topic without its prefix, like `action.requested`.
    pub topic: String,
    /// The key that chooses the partition.
    pub key: String,
    /// What the event speaks of (`ce_subject`).
    pub subject: String,
    /// When the transition was decided (`ce_time`); never renewed.
    pub time: Timestamp,
    /// W3C trace context of the event itself, where there is one; derived from its id, so a repetition says the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Under which span that stands: the decision's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
    /// The event's data, as JSON text.
    pub data: String,
}
