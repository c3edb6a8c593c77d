//! Bodies as alerts. Each alert stands for itself: a broken one is refused with the name of its field, and the others are accepted.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::{Timestamp, fmt::temporal::Pieces};
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

/// The configured names of the senders, by the shape of what they send: an alert that comes by HTTP and on a topic is one.
#[derive(Clone, Copy, Debug)]
pub struct Senders<'a> {
    /// Of Alertmanager's webhook.
    pub webhook: &'a str,
    /// Of `/api/v2/alerts`.
    pub alerts: &'a str,
}

/// A record of a topic that is not ours.
#[derive(Clone, Copy, Debug)]
pub struct ForeignRecord<'a> {
    /// Its value.
    pub value: &'a [u8],
    /// Where it stands.
    pub origin: &'a str,
    /// When it was written: that is when its alerts were accepted. Read again it says the same, and what waited for long is old.
    pub written_at: Timestamp,
}

/// Reads a record: Alertmanager's webhook, or one alert or a list of them. An alert with a text as `status` is one of the webhook's,
/// one without is one of `/api/v2/alerts`.
pub fn normalise_record(record: ForeignRecord<'_>, senders: Senders<'_>) -> Result<Batch, BodyError> {
    if record.value.len() > bounds::BODY_BYTES {
        let (bytes, max) = (record.value.len(), bounds::BODY_BYTES);
        return Err(BodyError::Shape(format!("the record has {bytes} bytes, at most {max} are accepted")));
    }
    let value: Value = serde_json::from_slice(record.value).map_err(|error| BodyError::Json(error.to_string()))?;
    let (alerts, format): (&[Value], Option<Format>) = match &value {
        Value::Array(alerts) => (alerts, None),
        Value::Object(object) if object.contains_key("alerts") => (webhook_alerts(&value)?, Some(Format::Webhook)),
        Value::Object(object) if object.contains_key("labels") => (std::slice::from_ref(&value), None),
        _ => {
            let problem = "the record must be Alertmanager's webhook, an alert with labels, or a list of alerts";
            return Err(BodyError::Shape(problem.into()));
        }
    };
    read_all(alerts, record.origin, |alert| {
        let format = format.unwrap_or_else(|| format_of(alert));
        Request {
            format,
            source: if format == Format::Webhook { senders.webhook } else { senders.alerts },
            now: record.written_at,
        }
    })
}

/// What an alert on its own is: only the webhook's have a status, and what Alertmanager's API lists has an object in its place.
fn format_of(alert: &Value) -> Format {
    match alert.get("status") {
        None | Some(Value::Null | Value::Object(_)) => Format::Alerts,
        Some(_) => Format::Webhook,
    }
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
    read_all(alerts, request.format.path(), |_| request.clone())
}

fn read_all<'a>(
    alerts: &[Value],
    origin: &str,
    request_of: impl Fn(&Value) -> Request<'a>,
) -> Result<Batch, BodyError> {
    if alerts.len() > bounds::ALERTS {
        return Err(BodyError::TooMany(alerts.len()));
    }
    let mut batch = Batch::default();
    for (index, alert) in alerts.iter().enumerate() {
        let request = request_of(alert);
        match read_alert(alert, &request) {
            Ok(raised) => batch.accepted.push(event_of(raised, &request)),
            Err(problem) => batch.rejected.push(letter_of(alert, index, &problem, origin)),
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

/// What is wrong with an alert as a whole.
const NO_OBJECT: &str = "is no object";

/// Reads one alert; the error names its field.
fn read_alert(alert: &Value, request: &Request<'_>) -> Result<AlertRaised, String> {
    let alert = alert.as_object().ok_or(NO_OBJECT)?;
    let labels = texts(alert, "labels", bounds::LABEL_VALUE_BYTES)?;
    if labels.is_empty() {
        return Err("labels: missing or without any value".into());
    }
    let annotations = texts(alert, "annotations", bounds::ANNOTATION_VALUE_BYTES)?;
    let mut ends_at = time(alert, "endsAt")?;
    let starts_at = match time(alert, "startsAt")? {
        Some(starts_at) => starts_at,
        // As Alertmanager's own API does: an alert without a beginning begins now, or ends when it begins.
        None => ends_at.filter(|ends_at| *ends_at < request.now).unwrap_or(request.now),
    };
    if starts_at.duration_since(request.now) > bounds::AHEAD {
        return Err(format!("startsAt: {starts_at} lies in the future"));
    }
    let status = status(alert, request, ends_at)?;
    if ends_at.is_some_and(|ends_at| ends_at < starts_at) {
        // What begins ahead of us, by its sender's clock, may end by another clock before that: it ends when it begins.
        if status != AlertStatus::Resolved || starts_at <= request.now {
            return Err("endsAt: is before startsAt".into());
        }
        ends_at = Some(starts_at);
    }
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
    let beyond = || format!("{field}: {:?} is not from 1970-01-01 to 9999-12-30T22:00:00Z", cut(text));
    let is_time = || Pieces::parse(text).is_ok_and(|found| found.time().is_some() && found.offset().is_some());
    let time: Timestamp = text.parse().map_err(|_| match is_time() {
        true => beyond(),
        false => format!("{field}: {:?} is no RFC 3339 time", cut(text)),
    })?;
    // Ids are of whole milliseconds; so is what they are derived from.
    let millis = time.as_millisecond();
    if millis < 0 {
        return Err(beyond());
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

fn letter_of(alert: &Value, index: usize, problem: &str, origin: &str) -> DeadLetter {
    let origin = format!("{origin} alerts[{index}]");
    let bytes = Bytes::from(alert.to_string());
    // Else the problem begins with the name of a field.
    let separator = if problem == NO_OBJECT { ": " } else { "." };
    let message = format!("alerts[{index}]{separator}{problem}");
    dead_letter_of(&bytes, DeadLetterReason::InvalidAlert, message, origin, BTreeMap::new(), None)
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
#[path = "normalise_tests.rs"]
mod tests;
