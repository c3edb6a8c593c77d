//! The payload is what a workflow takes; the testkit's sink checks it as the Adaptive Card schema does (see the service's tests).

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{
    api::v1alpha1::NotificationSpec,
    events::NamespacedName,
    notify::testing::{noon, spec},
};

fn sent(change: impl FnOnce(&mut NotificationSpec)) -> String {
    let mut spec = spec();
    change(&mut spec);
    let name = NamespacedName { namespace: "shop".into(), name: "ntf-1".into() };
    payload(Message { name: &name, spec: &spec, templates: &[], now: noon() })
}

fn message(change: impl FnOnce(&mut NotificationSpec)) -> Value {
    serde_json::from_str(&sent(change)).unwrap()
}

fn body(message: &Value) -> Vec<Value> {
    message["attachments"][0]["content"]["body"].as_array().unwrap().clone()
}

#[test]
fn a_message_is_a_card_with_title_text_and_facts() {
    let message = message(|spec| spec.context.target = Some("Deployment/svc_a".into()));
    assert_eq!(message["type"], "message");
    let attachment = &message["attachments"][0];
    assert_eq!(attachment["contentType"], "application/vnd.microsoft.card.adaptive");
    assert_eq!(
        (&attachment["content"]["type"], &attachment["content"]["version"]),
        (&"AdaptiveCard".into(), &"1.4".into())
    );
    let body = body(&message);
    assert_eq!(body[0]["text"], "Incident opened: CPU of svc-a above 90 %");
    assert_eq!(body[0]["color"], "Warning");
    let facts: Vec<String> = body[2]["facts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fact| format!("{}: {}", fact["title"].as_str().unwrap(), fact["value"].as_str().unwrap()))
        .collect();
    assert_eq!(
        facts[..7],
        [
            "State: Opened",
            "Severity: warning",
            "Rule: shop/cpu-high",
            "Alerts: 1",
            "Target: Deployment/svc\\_a",
            "Opened: 2026-01-01T12:00:00Z",
            "Decided: 2026-01-01T12:00:00Z",
        ]
    );
    assert!(facts[7].starts_with("Incident: cpu-high-"), "{facts:?}");
    assert!(body[3]["text"].as_str().unwrap().starts_with("kubectl -n shop describe incident cpu-high-"));
    assert!(!message.to_string().contains("repetition"));
}

#[test]
fn a_copy_that_may_be_the_second_says_so() {
    let body = body(&message(|spec| spec.duplicate_possible = true));
    assert_eq!(body.last().unwrap()["text"], "possibly a repetition");
}

#[test]
fn the_longest_and_most_hostile_values_fit_and_are_cut_with_a_mark() {
    for filler in ["[x](https://evil.example)", "*_`", "\\", "🚨", "\"", "ü"] {
        let long = |count: usize| filler.repeat(count / filler.chars().count());
        let text = sent(|spec| {
            spec.incident.summary = long(2_048);
            spec.incident.severity = long(1_024);
            spec.context.target = Some(long(512));
            spec.context.message = Some(long(2_048));
            spec.duplicate_possible = true;
            spec.template = "None".into();
        });
        assert!(text.len() <= MESSAGE_MAX, "{filler}: {}", text.len());
        assert!(text.contains('…') && text.contains("possibly a repetition"), "{filler}");
    }
}

#[test]
fn a_body_that_is_too_long_is_cut_and_the_rest_stays() {
    let mut spec = spec();
    spec.incident.summary = "🚨".repeat(2_000);
    let own = [crate::api::v1alpha1::MessageTemplate {
        name: "IncidentOpened".into(),
        title: "t".into(),
        body: Some("{% for i in range(9) %}{{ incident.summary }}{% endfor %}".into()),
    }];
    let name = NamespacedName { namespace: "shop".into(), name: "ntf-1".into() };
    let text = payload(Message { name: &name, spec: &spec, templates: &own, now: noon() });
    assert!(text.len() <= MESSAGE_MAX && text.len() > MESSAGE_MAX / 2, "{}", text.len());
    let body = body(&serde_json::from_str(&text).unwrap());
    assert!(body[1]["text"].as_str().unwrap().ends_with("🚨…"));
    assert_eq!(body[2]["type"], "FactSet");
}

/// Whether a text could be read as Markdown: a mark that no backslash takes the meaning of.
fn has_open_mark(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if !chars.next().is_some_and(|next| next.is_ascii_punctuation()) => return true,
            '*' | '_' | '`' | '~' | '[' | ']' | '<' | '>' | '#' => return true,
            _ => {}
        }
    }
    text.lines().any(|line| line.trim_start().starts_with(['-', '+']))
}

#[test]
fn values_become_no_markup() {
    for hostile in [
        "[click](https://evil.example)",
        "<at>everyone</at> **bold** _it_ `code` ~~no~~",
        "# heading",
        "- list\n+ list\n1. list",
        "![image](https://evil.example/x.png)",
        "\\[x\\](y)",
        "&lt;at&gt;",
    ] {
        let message = message(|spec| {
            spec.incident.severity = hostile.into();
            spec.incident.summary = hostile.into();
            spec.context.target = Some(hostile.into());
        });
        let body = body(&message);
        let facts = body[2]["facts"].as_array().unwrap().iter().map(|fact| &fact["value"]);
        for text in facts.chain([&body[0]["text"], &body[3]["text"]]) {
            assert!(!has_open_mark(text.as_str().unwrap()), "{text}");
        }
    }
    assert!(has_open_mark("a *b*") && has_open_mark("a\\") && !has_open_mark("a \\*b\\*"));
}

proptest! {
    #[test]
    fn whatever_is_told_it_fits_and_stays_text(value in "\\PC{0,300}", repeat in 1_usize..20) {
        let text = sent(|spec| {
            spec.incident.severity = value.clone();
            spec.incident.summary = value.repeat(repeat).chars().take(2_048).collect();
        });
        prop_assert!(text.len() <= MESSAGE_MAX);
        let message: Value = serde_json::from_str(&text).unwrap();
        let severity = &body(&message)[2]["facts"][1]["value"];
        prop_assert!(!has_open_mark(severity.as_str().unwrap().trim_end_matches('…')), "{}", severity);
    }
}
