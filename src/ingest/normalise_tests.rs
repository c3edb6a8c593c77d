//! Bodies and records as alerts: good ones, broken ones, and whatever bytes there are.

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
        (json!({"labels": labels, "endsAt": "2026-01-01T11:00:00Z"}), "2026-01-01T11:00:00Z", AlertStatus::Resolved),
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
    let (first, again, later) = (ids("2026-01-01T12:04:00Z"), ids("2026-01-01T12:04:00Z"), ids("2026-01-01T12:05:00Z"));
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
        (
            "endsAt",
            json!("9999-12-31T23:59:59Z"),
            "endsAt: \"9999-12-31T23:59:59Z\" is not from 1970-01-01 to 9999-12-30T22:00:00Z",
        ),
        ("endsAt", json!("9999-12-31"), "endsAt: \"9999-12-31\" is no RFC 3339 time"),
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
    assert_eq!(batch.rejected[3].message, "alerts[3]: is no object");
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

fn read_record(value: &str) -> Result<Batch, BodyError> {
    let senders = Senders { webhook: "alertmanager", alerts: "prometheus" };
    let written_at = NOW.parse().unwrap();
    let record = ForeignRecord { value: value.as_bytes(), origin: "theirs/0@7", written_at };
    normalise_record(record, senders)
}

#[test]
fn a_record_is_read_by_what_it_holds() {
    let plain = json!({"labels": {"a": "b"}, "startsAt": "2026-01-01T11:00:00Z"});
    let ended = json!({"labels": {"a": "b"}, "startsAt": "2026-01-01T11:00:00Z", "endsAt": "2026-01-01T11:30:00Z"});
    // As `GET /api/v2/alerts` lists it.
    let listed = json!({"labels": {"a": "b"}, "fingerprint": "0000000000000001", "status": {"state": "active"}});
    let (firing, resolved) = (AlertStatus::Firing, AlertStatus::Resolved);
    for (value, source, status, count) in [
        (webhook(json!([alert(), alert()])), "alertmanager", firing, 2),
        (alert().to_string(), "alertmanager", firing, 1),
        (json!([alert()]).to_string(), "alertmanager", firing, 1),
        (plain.to_string(), "prometheus", firing, 1),
        (json!([plain, plain]).to_string(), "prometheus", firing, 2),
        (ended.to_string(), "prometheus", resolved, 1),
        (listed.to_string(), "prometheus", firing, 1),
    ] {
        let batch = read_record(&value).unwrap();
        assert_eq!((batch.accepted.len(), batch.rejected.len()), (count, 0), "{value}");
        let raised = raised(&batch.accepted[0]);
        assert_eq!((raised.source.as_str(), raised.status), (source, status), "{value}");
        assert_ne!(raised.fingerprint.as_deref(), Some("0000000000000001"));
    }
    assert!(read_record("[]").unwrap().accepted.is_empty());
}

#[test]
fn a_record_that_is_none_says_why() {
    let many = json!(vec![json!({}); 5_001]).to_string();
    for (value, says) in [
        ("", "the body is no JSON: EOF"),
        ("null", "the record must be Alertmanager's webhook, an alert with labels, or a list of alerts"),
        ("7", "the record must be"),
        ("{}", "the record must be"),
        ("{\"alerts\":[]}", "version: missing"),
        ("{\"version\":\"4\",\"alerts\":[]}", "alerts: the list is empty"),
        (&many, "alerts: 5001"),
        (&"x".repeat((1 << 20) + 1), "the record has 1048577 bytes, at most 1048576 are accepted"),
    ] {
        let error = read_record(value).unwrap_err().to_string();
        assert!(error.starts_with(says), "{value:.80}: {error}");
    }
    for (status, says) in [(json!(7), "status: must be"), (json!("pending"), "status: must be")] {
        let batch = read_record(&json!([{"labels": {"a": "b"}, "status": status}]).to_string()).unwrap();
        assert_eq!(batch.rejected[0].origin, "theirs/0@7 alerts[0]");
        assert!(batch.rejected[0].message.starts_with(&format!("alerts[0].{says}")), "{status}");
    }
}

#[test]
fn an_alert_of_a_clock_ahead_may_end_by_another_clock() {
    let mut ahead = alert();
    (ahead["status"], ahead["startsAt"], ahead["endsAt"]) =
        (json!("resolved"), json!("2026-01-01T12:30:00Z"), json!("2026-01-01T12:00:00Z"));
    let batch = read(Format::Webhook, &webhook(json!([ahead]))).unwrap();
    let raised = raised(&batch.accepted[0]);
    assert_eq!((raised.status, raised.ends_at), (AlertStatus::Resolved, Some(raised.starts_at)));
    ahead["status"] = json!("firing");
    let batch = read(Format::Webhook, &webhook(json!([ahead]))).unwrap();
    assert_eq!(batch.rejected[0].message, "alerts[0].endsAt: is before startsAt");
}

#[test]
fn a_generator_url_that_is_too_long_is_left_out() {
    for (bytes, is_kept) in [(bounds::URL_BYTES, true), (bounds::URL_BYTES + 1, false)] {
        let mut long = alert();
        long["generatorURL"] = json!("x".repeat(bytes));
        let batch = read(Format::Webhook, &webhook(json!([long]))).unwrap();
        assert_eq!(raised(&batch.accepted[0]).generator_url.is_some(), is_kept, "{bytes}");
    }
}

proptest! {
    #[test]
    fn no_body_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        let text = String::from_utf8_lossy(&body);
        let _ = read(Format::Webhook, &text);
        let _ = read(Format::Alerts, &text);
        let _ = read_record(&text);
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
