//! What several targets hold.

use std::{collections::BTreeMap, fmt::Debug, sync::OnceLock};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use eventpulse::{
    api::v1alpha1::OutboxEntry,
    bus::MAX_RECORD_BYTES,
    events::{AlertRaised, DeadLetter, Event, EventId, Payload, Record, Topic, TraceContext, bounds},
    rules::RaisedAlert,
};
use jiff::{SignedDuration, Timestamp};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// What every target takes for now: noon.
pub(crate) fn now() -> Timestamp {
    "2026-01-02T12:00:00Z".parse().expect("a time")
}

/// So many seconds later.
pub(crate) fn after(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

/// What the API server keeps of a value and gives back.
pub(crate) fn reread<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let text = serde_json::to_string(value).expect("what is written is JSON");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("what was written cannot be read again: {error}: {text}"))
}

/// What is written is read again as it was.
pub(crate) fn is_kept<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    assert_eq!(&reread(value), value, "what was written reads otherwise");
}

/// An event is published as one record, is read again as it was, and says the same when it is published again.
pub(crate) fn is_published(event: &Event) {
    let record = event.encode().expect("an event is JSON");
    let size = |(name, value): &(String, bytes::Bytes)| name.len() + value.len();
    let bytes = record.value.len() + record.headers.iter().map(size).sum::<usize>();
    assert!(bytes <= MAX_RECORD_BYTES, "a record of {bytes} bytes");
    let read = record.decode().unwrap_or_else(|error| panic!("what is published cannot be read: {error}: {event:?}"));
    let own = |parent: TraceContext| parent.of_event(event.id.as_str(), event.time).to_string();
    let traceparent = TraceContext::read(event.traceparent.as_deref()).map(own);
    assert_eq!(read, Event { traceparent, ..event.clone() }, "what is published reads otherwise");
    let kept = reread(&OutboxEntry::try_from(event).expect("an event is JSON"));
    assert_eq!(
        kept.to_record(&event.source).expect("an entry of ours"),
        record,
        "from the outbox it says something else"
    );
}

/// A dead letter is within its bounds, and published like every event.
pub(crate) fn is_letter(letter: &DeadLetter) {
    assert!(!letter.message.is_empty() && letter.message.len() <= bounds::DEAD_LETTER_MESSAGE_BYTES, "{letter:?}");
    assert!(letter.headers.len() <= bounds::DEAD_LETTER_HEADERS, "{} headers", letter.headers.len());
    let key = letter.key.clone().unwrap_or_else(|| letter.origin.clone());
    assert!(key.len() <= bounds::DEAD_LETTER_KEY_BYTES, "a key of {} bytes", key.len());
    let data = BASE64.decode(&letter.data).expect("base 64");
    assert!(data.len() <= bounds::DEAD_LETTER_DATA_BYTES, "{} bytes of data", data.len());
    is_published(&Event {
        id: EventId::new(Topic::DeadLetter.name(), &letter.origin, &letter.message),
        time: now(),
        source: "eventpulse/ingest".into(),
        subject: letter.origin.clone(),
        key,
        traceparent: None,
        payload: letter.clone().into(),
    });
}

/// An error is for people: it says something, and not endlessly.
pub(crate) fn is_told(error: &impl ToString, most: usize) {
    let text = error.to_string();
    assert!(!text.trim().is_empty(), "an error that says nothing");
    assert!(text.chars().count() <= most, "an error of {} characters: {:.200}", text.chars().count(), text);
}

/// The alert of `docs/events`, accepted now.
pub(crate) fn example_alert() -> AlertRaised {
    let Payload::AlertRaised(alert) = example(Topic::AlertRaised).payload else { panic!("alert.raised is an alert") };
    AlertRaised { alert_id: None, starts_at: after(-60), accepted_at: now(), ..*alert }
}

/// An alert as rules reads it.
pub(crate) fn raised(alert: AlertRaised, id: &str) -> RaisedAlert {
    let id = EventId::new(Topic::AlertRaised.name(), id, "fuzzed");
    RaisedAlert::read(id, None, alert, now()).expect("an alert within its bounds")
}

/// The example of `docs/events` for a topic.
pub(crate) fn example(topic: Topic) -> Event {
    static EXAMPLES: OnceLock<BTreeMap<Topic, Event>> = OnceLock::new();
    EXAMPLES.get_or_init(|| Topic::ALL.map(|topic| (topic, read_example(topic))).into())[&topic].clone()
}

fn read_example(topic: Topic) -> Event {
    macro_rules! text {
        ($name:literal) => {
            include_str!(concat!("../../../docs/events/", $name, ".example.json"))
        };
    }
    let text = match topic {
        Topic::AlertRaised => text!("alert.raised"),
        Topic::AlertDecided => text!("alert.decided"),
        Topic::IncidentOpened => text!("incident.opened"),
        Topic::IncidentResolved => text!("incident.resolved"),
        Topic::IncidentUpdated => text!("incident.updated"),
        Topic::ActionRequested => text!("action.requested"),
        Topic::ActionCompleted => text!("action.completed"),
        Topic::ActionFailed => text!("action.failed"),
        Topic::NotificationRequested => text!("notification.requested"),
        Topic::NotificationDelivered => text!("notification.delivered"),
        Topic::NotificationFailed => text!("notification.failed"),
        Topic::DeadLetter => text!("dead.letter"),
    };
    let document: Value = serde_json::from_str(text).expect("an example is JSON");
    let headers = document["headers"].as_object().expect("headers");
    let record = Record {
        topic,
        key: document["key"].as_str().map(str::to_owned),
        headers: headers
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().expect("a text").to_owned().into()))
            .collect(),
        value: document["data"].to_string().into(),
    };
    record.decode().expect("an example is an event")
}
