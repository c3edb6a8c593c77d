//! What the oracle sees: what etcd keeps and has kept, who wrote it by the audit log, what the log holds, what arrived outside.

pub(crate) mod audit;
pub(crate) mod counts;
pub(crate) mod etcd;
pub(crate) mod log;
pub(crate) mod timeline;

use std::sync::Arc;

use eventpulse_oracle::{Message, Write};
use eventpulse_testkit::sink::Received;
use serde_json::Value;

use self::{
    audit::{Audit, Who},
    etcd::Change,
};

const RING: &str = "/metadata/annotations/eventpulse.io~1applied-actions";

/// A change, and who made it.
pub(crate) fn write(change: Change, audit: &Audit) -> Write {
    let version = change.after.as_ref().and_then(|object| object.pointer("/metadata/resourceVersion")?.as_str());
    let known = version.and_then(|version| audit.who(&change.kind, &change.object, version)).cloned();
    let who = known.unwrap_or_else(|| of_nobody(&change));
    Write {
        at: change.at,
        ours: who.ours,
        account: who.account,
        kind: change.kind,
        object: change.object,
        before: change.before,
        after: change.after,
    }
}

/// The API server has told nobody of it. Of our own kinds, and of what an action changes, EventPulse is the writer: people's writes are
/// answered.
fn of_nobody(change: &Change) -> Who {
    if change.kind != "deployments" {
        return Who { ours: true, account: None };
    }
    let at = |object: &Option<Arc<Value>>, path: &str| object.as_ref().and_then(|object| object.pointer(path).cloned());
    let changes = |path: &str| at(&change.before, path) != at(&change.after, path);
    let ours = change.before.is_some() && (changes("/spec") || changes(RING));
    Who { ours, account: ours.then(|| "unknown".to_owned()) }
}

/// A message as its receiver saw it.
pub(crate) fn message(received: &Received) -> Message {
    let body = received.json();
    let text = |path: &str| body.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let key = received.header("webhook-id").or(received.idempotency_key()).unwrap_or_default().to_owned();
    Message {
        at: received.at,
        key,
        marked: body["duplicatePossible"] == true,
        // It was read to its end: of an answer that was lost its receiver knows nothing.
        taken: received.answered.is_none_or(|status| (200..300).contains(&status)),
        of: (text("/incident/incidentID"), "chaos".into(), text("/template"), text("/occurrence")),
    }
}

/// Whether a target was ever acted on.
pub(crate) fn is_acted_on(target: &Value) -> bool {
    target.pointer(RING).is_some()
}
