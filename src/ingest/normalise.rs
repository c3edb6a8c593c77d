//! Bodies as alerts. Each alert stands for itself: a broken one is refused with the name of its field, and the others are accepted.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::bounds;
use crate::events::{
    AlertId, AlertRaised, AlertStatus, DeadLetter, DeadLetterReason, Event, EventId, Topic, alert_key, dead_letter_of,
    fingerprint_of,
};

/// Who sends, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `POST /webhooks/alertmanager`: Alertmanager's webhook, version 4.
    Webhook,
    /// `POST /api/v2/alerts`: the list that Prometheus sends to an Alertmanager.
    Alerts,
}

impl Format {
    /// The path of the endpoint.
    pub const fn path(self) -> &'static str {
        match self {
            Format::Webhook => "/webhooks/alertmanager",
            Format::Alerts => "/api/v2/alerts",
        }
    }
}

/// A body that is no list of alerts at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// No JSON.
    #[error("the body is no JSON: {0}")]
    Json(String),
    /// JSON of another shape.
    #[error("{0}")]
    Shape(String),
    /// Too many alerts.
    #[error("alerts: {0} in one request, at most {max} are accepted", max = bounds::ALERTS)]
    TooMany(usize),
}

/// What a body holds.
#[derive(Debug, Default)]
pub struct Batch {
    /// The events of the alerts that are accepted.
    pub accepted: Vec<Event>,
    /// The others.
    pub rejected: Vec<DeadLetter>,
}

/// What the facts of a request are, beside its body.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The format of its endpoint.
    pub format: Format,
    /// The configured name of the sender.
    pub source: &'a str,
    /// When it came.
    pub now: Timestamp,
}

/// Reads a body.
pub fn normalise(body: &[u8], request: &Request<'_>) -> Result<Batch, BodyError> {
    let value: Value = serde_json::from_slice(body).map_err(|error| BodyError::Json(error.to_string()))?;
    let alerts = match request.format {
        Format::Webhook => webhook_alerts(&value)?,
        Format::Alerts => {
            value.as_array().ok_or_else(|| BodyError::Shape("the body must be a list of alerts".into()))?
        }
    };
    if alerts.len() > bounds::ALERTS {
        return Err(BodyError::TooMany(alerts.len()));
    }
    let mut batch = Batch::default();
    for (index, alert) in alerts.iter().enumerate() {
        match read_alert(alert, request) {
            Ok(raised) => batch.accepted.push(event_of(raised, request)),
            Err(problem) => batch.rejected.push(letter_of(alert, index, &problem, request)),
        }
    }
    Ok(batch)
}

fn webhook_alerts(value: &Value) -> Result<&Vec<Value>, BodyError> {
    let shape = |text: &str| BodyError::Shape(text.to_owned());
    let body =
        value.as_object().ok_or_else(|| shape("the body must be an object, as Alertmanager's webhook sends it"))?;
    match body.get("version").and_then(Value::as_str) {
        Some("4") => {}
        Some(other) => return Err(BodyError::Shape(format!("version: {:?}, only \"4\" is known", cut(other)))),
        None => return Err(shape("version: missing or no text, must be \"4\"")),
    }
    match body.get("alerts").and_then(Value::as_array) {
        // Alertmanager never sends it: whoever does has a mistake that a 200 would hide.
        Some(alerts) if alerts.is_empty() => Err(shape("alerts: the list is empty")),
        Some(alerts) => Ok(alerts),
        None => Err(shape("alerts: missing or no list")),
    }
}

/// Reads one alert; the error names its field.
fn read_alert(alert: &Value, request: &Request<'_>) -> Result<AlertRaised, String> {
    let alert = alert.as_object().ok_or("is no object")?;
    let labels = texts(alert, "labels", bounds::LABEL_VALUE_BYTES)?;
    if labels.is_empty() {
        return Err("labels: missing or without any value".into());
    }
    let annotations = texts(alert, "annotations", bounds::ANNOTATION_VALUE_BYTES)?;
    let ends_at = time(alert, "endsAt")?;
    let starts_at = match time(alert, "startsAt")? {
        Some(starts_at) => starts_at,
        // As Alertmanager's own API does: an alert without a beginning begins now, or ends when it begins.
        None => ends_at.filter(|ends_at| *ends_at < request.now).unwrap_or(request.now),
    };
    if ends_at.is_some_and(|ends_at| ends_at < starts_at) {
        return Err("endsAt: is before startsAt".into());
    }
    if starts_at.duration_since(request.now) > bounds::AHEAD {
        return Err(format!("startsAt: {starts_at} lies in the future"));
    }
    let status = status(alert, request, ends_at)?;
    let fingerprint = fingerprint(alert, request.format)?.unwrap_or_else(|| fingerprint_of(&labels));
    let generator_url = alert.get("generatorURL").and_then(Value::as_str);
    let raised = AlertRaised {
        alert_id: Some(AlertId::new(request.source, &fingerprint, starts_at)),
        source: request.source.to_owned(),
        fingerprint: Some(fingerprint),
        status,
        labels,
        annotations,
        starts_at,
        ends_at,
        generator_url: generator_url.filter(|url| !url.is_empty() && url.len() <= bounds::URL_BYTES).map(str::to_owned),
        accepted_at: request.now,
    };
    let size: usize =
        raised.labels.iter().chain(&raised.annotations).map(|(name, value)| name.len() + value.len()).sum();
    if size > bounds::ALERT_BYTES {
        return Err(format!(
            "labels and annotations: {size} bytes in all, at most {} are accepted",
            bounds::ALERT_BYTES
        ));
    }
    Ok(raised)
}

/// A map of texts. Empty values are as good as none (Prometheus' data model).
fn texts(alert: &Map<String, Value>, field: &str, value_bytes: usize) -> Result<BTreeMap<String, String>, String> {
    let map = match alert.get(field) {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(format!("{field}: is no object")),
    };
    if map.len() > bounds::LABELS {
        return Err(format!("{field}: {} of them, at most {} are accepted", map.len(), bounds::LABELS));
    }
    let mut read = BTreeMap::new();
    for (name, value) in map {
        let value = value.as_str().ok_or_else(|| format!("{field}.{}: is no text", cut(name)))?;
        if name.is_empty() {
            return Err(format!("{field}: a name is empty"));
        }
        if name.len() > bounds::NAME_BYTES {
            return Err(format!("{field}.{}: the name is longer than {} bytes", cut(name), bounds::NAME_BYTES));
        }
        if value.len() > value_bytes {
            return Err(format!("{field}.{}: is longer than {value_bytes} bytes", cut(name)));
        }
        if !value.is_empty() {
            read.insert(name.clone(), value.to_owned());
        }
    }
    Ok(read)
}

/// A time; Go's zero time stands for none.
fn time(alert: &Map<String, Value>, field: &str) -> Result<Option<Timestamp>, String> {
    let text = match alert.get(field) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.is_empty() || text.starts_with("0001-01-01T00:00:00") => return Ok(None),
        Some(Value::String(text)) => text,
        Some(_) => return Err(format!("{field}: is no text")),
    };
    let time: Timestamp = text.parse().map_err(|_| format!("{field}: {:?} is no RFC 3339 time", cut(text)))?;
    // Ids are of whole milliseconds; so is what they are derived from.
    let millis = time.as_millisecond();
    if !(0..=253_402_300_799_000).contains(&millis) {
        return Err(format!("{field}: {:?} is not from the years 1970 to 9999", cut(text)));
    }
    Timestamp::from_millisecond(millis).map(Some).map_err(|error| format!("{field}: {error}"))
}

fn status(
    alert: &Map<String, Value>,
    request: &Request<'_>,
    ends_at: Option<Timestamp>,
) -> Result<AlertStatus, String> {
    match (request.format, alert.get("status")) {
        (Format::Webhook, Some(Value::String(status))) if status == "firing" => Ok(AlertStatus::Firing),
        (Format::Webhook, Some(Value::String(status))) if status == "resolved" => Ok(AlertStatus::Resolved),
        (Format::Webhook, _) => Err("status: must be \"firing\" or \"resolved\"".into()),
        (Format::Alerts, _) if ends_at.is_some_and(|ends_at| ends_at <= request.now) => Ok(AlertStatus::Resolved),
        (Format::Alerts, _) => Ok(AlertStatus::Firing),
    }
}

/// Alertmanager's own, where it is given and can be one: 16 hexadecimal digits.
fn fingerprint(alert: &Map<String, Value>, format: Format) -> Result<Option<String>, String> {
    match alert.get("fingerprint") {
        Some(Value::String(text)) if format == Format::Webhook && !text.is_empty() => {
            let valid = text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            if valid {
                Ok(Some(text.clone()))
            } else {
                Err(format!("fingerprint: {:?} is not 16 hexadecimal digits", cut(text)))
            }
        }
        _ => Ok(None),
    }
}

fn event_of(raised: AlertRaised, request: &Request<'_>) -> Event {
    let alert_id = raised.alert_id.as_ref().map(ToString::to_string).unwrap_or_default();
    let fingerprint = raised.fingerprint.clone().unwrap_or_default();
    // Sent again with a later end it is a further fact of the same alert: rules moves its expiry.
    let transition = format!("{:?} {:?}", raised.status, raised.ends_at.map(|at| at.as_millisecond()));
    let id = EventId::new(Topic::AlertRaised.name(), &alert_id, &transition);
    Event {
        id,
        time: request.now,
        source: "eventpulse/ingest".into(),
        subject: alert_id,
        key: alert_key(&raised.source, &fingerprint),
        // Of the request, which is named after its events.
        traceparent: None,
        payload: raised.into(),
    }
}

fn letter_of(alert: &Value, index: usize, problem: &str, request: &Request<'_>) -> DeadLetter {
    let origin = format!("{} alerts[{index}]", request.format.path());
    let bytes = Bytes::from(alert.to_string());
    let message = format!("alerts[{index}].{problem}");
    dead_letter_of(&bytes, DeadLetterReason::InvalidAlert, message, origin, BTreeMap::new(), None)
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::events::Payload;

    const NOW: &str = "2026-01-01T12:00:00Z";

    fn read(format: Format, body: &str) -> Result<Batch, BodyError> {
        let now = NOW.parse().unwrap();
        normalise(body.as_bytes(), &Request { format, source: "alertmanager", now })
    }

    fn webhook(alerts: Value) -> String {
        json!({"version": "4", "status": "firing", "receiver": "x", "alerts": alerts}).to_string()
    }

    fn alert() -> Value {
        json!({
            "status": "firing", "labels": {"alertname": "CPUHigh", "empty": ""}, "annotations": {"summary": "busy"},
            "startsAt": "2026-01-01T11:59:00.123456789Z", "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "http://prometheus/graph", "fingerprint": "0123456789abcdef",
        })
    }

    fn raised(event: &Event) -> &AlertRaised {
        let Payload::AlertRaised(raised) = &event.payload else { panic!("no alert") };
        raised
    }

    #[test]
    fn alertmanagers_webhook_is_read() {
        let batch = read(Format::Webhook, &webhook(json!([alert()]))).unwrap();
        let event = &batch.accepted[0];
        let alert = raised(event);
        assert_eq!((alert.fingerprint.as_deref(), alert.ends_at), (Some("0123456789abcdef"), None));
        assert_eq!(alert.starts_at.to_string(), "2026-01-01T11:59:00.123Z");
        assert_eq!(alert.labels, BTreeMap::from([("alertname".into(), "CPUHigh".into())]), "an empty value is none");
        assert_eq!(event.key, alert_key("alertmanager", "0123456789abcdef"));
    }

    #[test]
    fn what_prometheus_sends_is_read_as_alertmanager_does() {
        let labels = json!({"alertname": "A"});
        for (alert, starts_at, status) in [
            (json!({"labels": labels}), NOW, AlertStatus::Firing),
            (json!({"labels": labels, "endsAt": "2026-01-01T12:04:00Z"}), NOW, AlertStatus::Firing),
            (
                json!({"labels": labels, "endsAt": "2026-01-01T11:00:00Z"}),
                "2026-01-01T11:00:00Z",
                AlertStatus::Resolved,
            ),
            (
                json!({"labels": labels, "startsAt": "2026-01-01T10:00:00Z", "endsAt": NOW}),
                "2026-01-01T10:00:00Z",
                AlertStatus::Resolved,
            ),
        ] {
            let batch = read(Format::Alerts, &json!([alert]).to_string()).unwrap();
            let read = raised(&batch.accepted[0]);
            assert_eq!((read.starts_at.to_string().as_str(), read.status), (starts_at, status), "{alert}");
            assert_eq!(read.fingerprint.as_deref(), Some(fingerprint_of(&read.labels).as_str()));
        }
    }

    #[test]
    fn an_alert_sent_again_is_the_same_event_and_with_a_later_end_a_further_one() {
        let body = |ends_at: &str| json!([{"labels": {"a": "b"}, "startsAt": NOW, "endsAt": ends_at}]).to_string();
        let ids = |ends_at: &str| {
            let batch = read(Format::Alerts, &body(ends_at)).unwrap();
            (batch.accepted[0].id.clone(), raised(&batch.accepted[0]).alert_id.clone())
        };
        let (first, again, later) =
            (ids("2026-01-01T12:04:00Z"), ids("2026-01-01T12:04:00Z"), ids("2026-01-01T12:05:00Z"));
        assert_eq!(first, again);
        assert_eq!(first.1, later.1);
        assert_ne!(first.0, later.0);
    }

    #[test]
    fn a_broken_alert_is_named_by_its_field_and_the_others_are_accepted() {
        let many: Map<String, Value> = (0..129).map(|i| (format!("l{i}"), json!("x"))).collect();
        let huge: Map<String, Value> = (0..40).map(|i| (format!("l{i}"), json!("x".repeat(4096)))).collect();
        for (field, value, says) in [
            ("labels", Value::Null, "labels: missing"),
            ("labels", json!({}), "labels: missing"),
            ("labels", json!({"a": ""}), "labels: missing"),
            ("labels", json!([]), "labels: is no object"),
            ("labels", json!({"a": 1}), "labels.a: is no text"),
            ("labels", json!({"a": null}), "labels.a: is no text"),
            ("labels", json!({"": "x"}), "labels: a name is empty"),
            ("labels", json!({"a".repeat(257): "x"}), "labels.aaa"),
            ("labels", json!({"a": "x".repeat(4097)}), "labels.a: is longer than 4096 bytes"),
            ("labels", Value::Object(many), "labels: 129 of them"),
            ("labels", Value::Object(huge), "labels and annotations: "),
            ("annotations", json!("x"), "annotations: is no object"),
            ("startsAt", json!("yesterday"), "startsAt: \"yesterday\" is no RFC 3339 time"),
            ("startsAt", json!(1_700_000_000), "startsAt: is no text"),
            ("startsAt", json!("1969-12-31T23:59:59Z"), "startsAt: \"1969"),
            ("startsAt", json!("99999-01-01T00:00:00Z"), "startsAt: "),
            ("startsAt", json!("2099-01-01T00:00:00Z"), "startsAt: 2099-01-01T00:00:00Z lies in the future"),
            ("endsAt", json!("2026-01-01T11:00:00Z"), "endsAt: is before startsAt"),
            ("status", json!("pending"), "status: must be"),
            ("status", Value::Null, "status: must be"),
            ("fingerprint", json!("0123"), "fingerprint: \"0123\" is not 16"),
            ("fingerprint", json!("0123456789ABCDEF"), "fingerprint: "),
        ] {
            let mut broken = alert();
            broken[field] = value;
            let batch = read(Format::Webhook, &webhook(json!([alert(), broken, alert()]))).unwrap();
            assert_eq!((batch.accepted.len(), batch.rejected.len()), (2, 1), "{field} {says}");
            let message = &batch.rejected[0].message;
            assert!(message.starts_with(&format!("alerts[1].{says}")), "{message}");
        }
        let batch = read(Format::Webhook, &webhook(json!([null, 7, "x", [], alert()]))).unwrap();
        assert_eq!((batch.accepted.len(), batch.rejected.len()), (1, 4));
    }

    #[test]
    fn hostile_values_are_only_values() {
        let hostile = "\u{0}\u{1b}[31m'; DROP TABLE--\n$(x){{y}}<script>\u{202e}\u{10ffff}";
        let mut odd = alert();
        odd["labels"][hostile] = json!(hostile);
        let batch = read(Format::Webhook, &webhook(json!([odd]))).unwrap();
        assert_eq!(raised(&batch.accepted[0]).labels[hostile], hostile);
        assert_eq!(batch.accepted[0].encode().unwrap().decode().unwrap(), batch.accepted[0]);
    }

    #[test]
    fn a_body_that_is_no_list_of_alerts_says_where() {
        let deep = "[".repeat(100_000);
        let many = json!(vec![json!({}); 5_001]).to_string();
        for (format, body, says) in [
            (Format::Webhook, "", "the body is no JSON: EOF while parsing a value at line 1"),
            (
                Format::Webhook,
                "{\"version\":\"4\",\n\"alerts\":[}",
                "the body is no JSON: expected value at line 2 column 11",
            ),
            (Format::Webhook, &deep, "the body is no JSON: recursion limit"),
            (Format::Webhook, "null", "the body must be an object"),
            (Format::Webhook, "[]", "the body must be an object"),
            (Format::Webhook, "{\"alerts\":[]}", "version: missing"),
            (Format::Webhook, "{\"version\":4,\"alerts\":[]}", "version: missing or no text"),
            (Format::Webhook, "{\"version\":\"5\",\"alerts\":[]}", "version: \"5\""),
            (Format::Webhook, "{\"version\":\"4\"}", "alerts: missing or no list"),
            (Format::Webhook, "{\"version\":\"4\",\"alerts\":null}", "alerts: missing or no list"),
            (Format::Webhook, "{\"version\":\"4\",\"alerts\":[]}", "alerts: the list is empty"),
            (Format::Alerts, "{}", "the body must be a list of alerts"),
            (Format::Alerts, &many, "alerts: 5001 in one request"),
        ] {
            let error = read(format, body).unwrap_err().to_string();
            assert!(error.starts_with(says), "{:.80}: {error}", body);
        }
        // As Alertmanager's own API does.
        assert!(read(Format::Alerts, "[]").unwrap().accepted.is_empty());
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
            let text = String::from_utf8_lossy(&body);
            let _ = read(Format::Webhook, &text);
            let _ = read(Format::Alerts, &text);
        }

        #[test]
        fn every_alert_is_accepted_or_rejected(kinds in proptest::collection::vec(0_u8..4, 1..20)) {
            let alerts: Vec<Value> = kinds.iter().map(|kind| match kind {
                0 => alert(),
                1 => json!({"labels": {"a": 1}}),
                2 => Value::Null,
                _ => json!({"status": "resolved", "labels": {"a": "b"}, "endsAt": NOW}),
            }).collect();
            let batch = read(Format::Webhook, &webhook(json!(alerts))).unwrap();
            prop_assert_eq!(batch.accepted.len() + batch.rejected.len(), kinds.len());
        }
    }
}
