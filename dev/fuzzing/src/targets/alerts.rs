//! What ingest makes of bodies and of records that are not ours: each alert for itself, within its bounds, the same again.

use std::collections::BTreeSet;

use eventpulse::{
    events::{AlertId, AlertStatus, Event, Payload, alert_key, bounds},
    ingest::normalise::{Batch, BodyError, ForeignRecord, Format, Request, Senders, normalise, normalise_record},
    rules::RaisedAlert,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::check::{is_letter, is_published, is_told, now};

/// Of both formats, so that what comes by HTTP and on a topic is comparable.
const SOURCE: &str = "alertmanager-main";
/// The most characters of what is said about a body; texts of it are cut.
const TOLD_MAX: usize = 512;

pub(crate) fn webhook(data: &[u8]) {
    body(data, Format::Webhook);
}

pub(crate) fn alerts(data: &[u8]) {
    body(data, Format::Alerts);
}

fn body(data: &[u8], format: Format) {
    let read_at = |now: Timestamp| normalise(data, &Request { format, source: SOURCE, now });
    let Some(batch) = taken(read_at(now())) else { return };
    let value: Value = serde_json::from_slice(data).expect("what is read is JSON");
    let given = if format == Format::Webhook { &value["alerts"] } else { &value };
    is_batch(&batch, given, format.path());
    let again = read_at(now() + SignedDuration::from_secs(1)).expect("a body is read whenever it comes");
    for id in ids_before(&batch.accepted, now()) {
        let known = again.accepted.iter().any(|event| alert_of(event).0 == Some(&id));
        assert!(known, "sent again the alert {id} is another one");
    }
}

pub(crate) fn foreign_record(data: &[u8]) {
    let origin = "alerts/3@1207";
    let senders = Senders { webhook: SOURCE, alerts: SOURCE };
    let Some(batch) = taken(normalise_record(ForeignRecord { value: data, origin, written_at: now() }, senders)) else {
        return;
    };
    let value: Value = serde_json::from_slice(data).expect("what is read is JSON");
    let (given, format) = match &value {
        Value::Object(object) if object.contains_key("alerts") => (object["alerts"].clone(), Some(Format::Webhook)),
        Value::Object(_) => (Value::Array(vec![value.clone()]), None),
        list => (list.clone(), None),
    };
    is_batch(&batch, &given, origin);
    let has_status = |alert: &Value| !matches!(&alert["status"], Value::Null | Value::Object(_));
    let alerts = given.as_array().expect("a list");
    let format = format.or_else(|| (!alerts.iter().any(has_status)).then_some(Format::Alerts));
    // By whatever way an alert comes, it is the same one.
    if let Some(format) = format {
        let body = if format == Format::Webhook { data.to_vec() } else { given.to_string().into_bytes() };
        let posted = normalise(&body, &Request { format, source: SOURCE, now: now() }).expect("the same by HTTP");
        assert_eq!(posted.accepted, batch.accepted, "by HTTP it is something else");
        assert_eq!(posted.rejected.len(), batch.rejected.len());
    }
}

fn taken(result: Result<Batch, BodyError>) -> Option<Batch> {
    result.inspect_err(|error| is_told(error, TOLD_MAX)).ok()
}

fn is_batch(batch: &Batch, given: &Value, origin: &str) {
    let given = given.as_array().map_or(0, Vec::len);
    assert_eq!(batch.accepted.len() + batch.rejected.len(), given, "an alert is neither accepted nor rejected");
    batch.accepted.iter().for_each(is_accepted);
    for letter in &batch.rejected {
        is_letter(letter);
        assert!(letter.message.starts_with("alerts[") && letter.origin.starts_with(origin), "{letter:?}");
    }
}

/// Whatever ingest accepts can be decided: rules holds all of it to the bounds, and knows it by the same id.
fn is_accepted(event: &Event) {
    is_published(event);
    let Payload::AlertRaised(alert) = &event.payload else { panic!("{event:?} is no alert") };
    let read = RaisedAlert::read(event.id.clone(), None, (**alert).clone(), now())
        .unwrap_or_else(|error| panic!("rules refuses what ingest accepts: {error}: {alert:?}"));
    assert_eq!(alert.alert_id.as_ref(), Some(&read.alert_id));
    assert_eq!(event.key, alert_key(&alert.source, &read.fingerprint));
    assert!(!alert.labels.is_empty() && alert.labels.values().all(|value| !value.is_empty()), "{alert:?}");
    assert!(alert.starts_at.duration_since(alert.accepted_at) <= bounds::AHEAD, "{alert:?}");
    let ends_before = alert.ends_at.is_some_and(|end| end < alert.starts_at);
    assert!(!ends_before, "an alert that ends before it begins: {alert:?}");
    assert!(alert.status == AlertStatus::Resolved || alert.ends_at.is_none_or(|end| end >= alert.starts_at));
}

/// The alerts that began before a time, so that their beginning is their own.
fn ids_before(events: &[Event], time: Timestamp) -> BTreeSet<AlertId> {
    let began = events.iter().map(alert_of).filter(|(_, starts_at)| *starts_at < time);
    began.filter_map(|(id, _)| id.cloned()).collect()
}

fn alert_of(event: &Event) -> (Option<&AlertId>, Timestamp) {
    match &event.payload {
        Payload::AlertRaised(alert) => (alert.alert_id.as_ref(), alert.starts_at),
        _ => (None, Timestamp::MAX),
    }
}
