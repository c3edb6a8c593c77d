//! A JSON webhook: a documented, versioned body, an idempotency key, and a signature as Standard Webhooks has it
//! (github.com/standard-webhooks/standard-webhooks, spec: `webhook-id`, `webhook-timestamp`, `webhook-signature`).

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::{Channel, Message, marks_of};
use crate::{
    api::v1alpha1::IncidentAlert,
    notify::{
        deliver::Outcome,
        http::{HttpRequest, HttpTransport, Secret, judge},
        render::{Markup, render},
    },
};

/// Standard Webhooks: the message's id, the same as the idempotency key.
pub const HEADER_WEBHOOK_ID: &str = "webhook-id";
/// Standard Webhooks: seconds since 1970 at which this copy was sent.
pub const HEADER_WEBHOOK_TIMESTAMP: &str = "webhook-timestamp";
/// Standard Webhooks: `v1,` and the base 64 of HMAC-SHA256 over `id.timestamp.body`.
pub const HEADER_WEBHOOK_SIGNATURE: &str = "webhook-signature";
/// Of the body's shape; it changes when a field goes or changes its meaning.
const VERSION: &str = "1";

/// One receiver.
pub struct Webhook {
    /// The way out.
    pub http: Arc<dyn HttpTransport>,
    /// Where to.
    pub url: Secret,
    /// The key of the signature. None: messages are not signed.
    pub signing_key: Option<SigningKey>,
}

/// The key of signatures.
#[derive(Clone)]
pub struct SigningKey(Vec<u8>);

impl SigningKey {
    /// Of a Secret's value: `whsec_` and base 64, as Standard Webhooks writes keys, or else the very bytes, but for one newline at
    /// their end, which files have and nobody sees. None for an empty key, which would sign nothing.
    pub fn new(value: &[u8]) -> Option<Self> {
        let value = value.strip_suffix(b"\n").unwrap_or(value);
        let value = value.strip_suffix(b"\r").unwrap_or(value);
        let decoded = value.strip_prefix(b"whsec_").and_then(|text| BASE64.decode(text).ok());
        let key = decoded.unwrap_or_else(|| value.to_vec());
        (!key.is_empty()).then_some(Self(key))
    }

    fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> Option<String> {
        // HMAC takes keys of every length.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        Some(format!("v1,{}", BASE64.encode(mac.finalize().into_bytes())))
    }
}

#[async_trait]
impl Channel for Webhook {
    async fn send(&self, message: Message<'_>, timeout: Duration) -> Outcome {
        let body = payload(message).to_string();
        let (id, timestamp) = (&message.name.name, message.now.as_second());
        let mut headers = marks_of(message);
        headers.push((HEADER_WEBHOOK_ID, id.clone()));
        headers.push((HEADER_WEBHOOK_TIMESTAMP, timestamp.to_string()));
        if let Some(key) = &self.signing_key {
            match key.sign(id, timestamp, body.as_bytes()) {
                Some(signature) => headers.push((HEADER_WEBHOOK_SIGNATURE, signature)),
                None => return Outcome::Refused { reason: "the signing key cannot be used".into(), retry_after: None },
            }
        }
        let request = HttpRequest { url: self.url.clone(), headers, body: Bytes::from(body) };
        judge(self.http.post(&request, timeout).await, &self.url, message.now)
    }
}

/// The body; `docs/notifications.md` describes it field by field.
fn payload(message: Message<'_>) -> Value {
    let Message { name, spec, templates, .. } = message;
    let rendered = render(name, spec, templates, Markup::Plain);
    let incident = &spec.incident;
    let alert = |alert: &IncidentAlert| {
        json!({
            "alertID": alert.alert_id, "fingerprint": alert.fingerprint, "startsAt": alert.starts_at.to_string(),
            "state": format!("{:?}", alert.state),
        })
    };
    let mut body = json!({
        "version": VERSION,
        "notificationID": name.name,
        "event": format!("{:?}", spec.event),
        "template": spec.template,
        "occurrence": spec.occurrence,
        "decidedAt": spec.decided_at.to_string(),
        "duplicatePossible": spec.duplicate_possible,
        "message": {"title": rendered.title, "body": rendered.body},
        "incident": {
            "incidentID": incident.incident_id, "namespace": name.namespace, "rule": spec.rule_ref.name,
            "correlationID": incident.correlation_id, "severity": incident.severity, "summary": incident.summary,
            "openedAt": incident.opened_at.to_string(), "alertCount": incident.alert_count,
            "alerts": incident.alerts.iter().map(alert).collect::<Vec<_>>(),
        },
        // What is not known is left out.
        "context": serde_json::to_value(&spec.context).unwrap_or_default(),
    });
    if let Some(note) = rendered.note {
        body["message"]["note"] = json!(note);
    }
    body
}

#[cfg(test)]
#[path = "webhook_tests.rs"]
mod tests;
