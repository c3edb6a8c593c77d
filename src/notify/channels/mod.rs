//! The channels: each gives a message its form and sends it once. Behind one port with one method; a new kind of channel is a new file.

mod email;
mod slack;
mod teams;
mod webhook;

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

pub use email::Email;
pub use slack::Slack;
pub use teams::Teams;
pub use webhook::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, SigningKey, Webhook};

use super::deliver::Outcome;
use crate::{
    api::v1alpha1::{MessageTemplate, NotificationSpec},
    events::{HEADER_TRACEPARENT, NamespacedName, TraceContext},
};

/// The same for every copy of a message: a receiver that has seen it takes the further ones for repetitions.
pub const HEADER_IDEMPOTENCY: &str = "idempotency-key";
/// `true` on a copy that may not be the first.
pub const HEADER_DUPLICATE: &str = "eventpulse-duplicate-possible";

/// What is to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The notification; its name is the idempotency key.
    pub name: &'a NamespacedName,
    /// Its state, which says what happened, and whether a copy may have been accepted already.
    pub spec: &'a NotificationSpec,
    /// The channel's own templates.
    pub templates: &'a [MessageTemplate],
    /// When it is sent.
    pub now: Timestamp,
}

/// The headers of every message, whatever its form: what tells copies of one message from another one (promise 4).
fn marks_of(message: Message<'_>) -> Vec<(&'static str, String)> {
    let mut marks = vec![(HEADER_IDEMPOTENCY, message.name.name.clone())];
    if let Some(under) = TraceContext::read(message.spec.traceparent.as_deref()) {
        marks.push((HEADER_TRACEPARENT, under.of_message(&message.name.name, message.spec.tries).to_string()));
    }
    if message.spec.duplicate_possible {
        marks.push((HEADER_DUPLICATE, "true".into()));
    }
    marks
}

/// Where messages go.
#[async_trait]
pub trait Channel: Send + Sync {
    /// Sends once, and says what became of it within `timeout`. Reasons hold no secrets.
    async fn send(&self, message: Message<'_>, timeout: Duration) -> Outcome;
}
