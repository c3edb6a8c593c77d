//! Each broken resource gives the reason and the field of what is wrong with it.

use serde_json::{Value, json};

use super::*;
use crate::api::v1alpha1::Rule;

fn rule_of(spec: Value) -> Rule {
    serde_json::from_value(json!({
        "apiVersion": "eventpulse.io/v1alpha1", "kind": "Rule", "metadata": {"name": "cpu-high", "namespace": "shop"}, "spec": spec,
    }))
    .unwrap()
}

fn runbook_of(spec: Value) -> Runbook {
    serde_json::from_value(json!({
        "apiVersion": "eventpulse.io/v1alpha1", "kind": "Runbook",
        "metadata": {"name": "scale-up", "namespace": "shop", "generation": 3}, "spec": spec,
    }))
    .unwrap()
}

fn channel_of(spec: Value) -> NotificationChannel {
    serde_json::from_value(json!({
        "apiVersion": "eventpulse.io/v1alpha1", "kind": "NotificationChannel",
        "metadata": {"name": "ops-slack", "namespace": "shop", "generation": 2}, "spec": spec,
    }))
    .unwrap()
}

fn scale_up() -> Runbook {
    runbook_of(json!({
        "parameters": [
            {"name": "delta", "type": "Integer", "default": "1", "minimum": 1, "maximum": 5},
            {"name": "why", "type": "String"},
        ],
        "steps": [{"name": "scale", "type": "Scale", "scale": {"delta": "$(params.delta)"}}],
    }))
}

fn ops_slack() -> NotificationChannel {
    channel_of(json!({
        "type": "Slack", "slack": {"webhookURLSecretRef": {"name": "s", "key": "url"}},
        "templates": [{"name": "Mine", "title": "{{ incident.summary }}"}],
    }))
}

fn references() -> RuleReferences {
    RuleReferences {
        runbooks: [("scale-up".into(), Referent::Found(Arc::new(scale_up()))), ("broken".into(), Referent::Malformed)]
            .into(),
        channels: [
            ("ops-slack".into(), Referent::Found(Arc::new(ops_slack()))),
            ("broken".into(), Referent::Malformed),
        ]
        .into(),
        unfit_kinds: [(
            ("example.com/v1".to_owned(), "Gadget".to_owned()),
            "Gadget has no scale subresource".to_owned(),
        )]
        .into(),
    }
}

/// A rule with one action, changed.
fn with_action(change: Value) -> Rule {
    let mut action = json!({
        "name": "add", "runbookRef": {"name": "scale-up"},
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "$(alert.labels.service)"},
        "parameters": [{"name": "why", "value": "$(alert.labels.alertname)"}],
    });
    json_patch::merge(&mut action, &change);
    rule_of(json!({"match": {"matchers": ["a=b"]}, "actions": [action]}))
}

fn with_notifications(notifications: Value) -> Rule {
    rule_of(json!({"match": {"matchers": ["a=b"]}, "notifications": notifications}))
}

fn seen(problems: &[Problem]) -> Vec<(&'static str, &str)> {
    assert!(
        problems.iter().all(|problem| reason::ALL.contains(&problem.reason) && !problem.message.is_empty()),
        "{problems:?}"
    );
    problems.iter().map(|problem| (problem.reason, problem.field.as_str())).collect()
}

#[test]
fn the_seed_rule_has_nothing_wrong_with_it() {
    let notification = json!([
        {"channelRef": {"name": "ops-slack"}, "template": "IncidentOpened", "events": ["Opened"]},
        {"channelRef": {"name": "ops-slack"}, "template": "IncidentOpened", "events": ["Failed"], "repeatInterval": "30m"},
        {"channelRef": {"name": "ops-slack"}, "template": "Mine", "events": ["Opened"]},
    ]);
    assert_eq!(seen(&rule(&with_action(json!({})), &references())), []);
    assert_eq!(seen(&rule(&with_notifications(notification), &references())), []);
}

#[test]
fn what_a_rule_matches_must_compile() {
    let broken = rule_of(json!({
        "match": {
            "matchers": ["a=b", "a=~\"(\"", "="],
            "conditions": [{"name": "ok", "expression": "alert.status == 'firing'"}, {"name": "no", "expression": "alert.labels["}],
        },
        "incident": {"severity": "$(alert.labels.severity", "summary": "$(params.x)"},
    }));
    assert_eq!(
        seen(&rule(&broken, &references())),
        [
            ("InvalidMatcher", "spec.match.matchers[1]"),
            ("InvalidMatcher", "spec.match.matchers[2]"),
            ("InvalidExpression", "spec.match.conditions[no].expression"),
            ("InvalidExpression", "spec.incident.severity"),
            ("InvalidExpression", "spec.incident.summary"),
        ]
    );
}

#[test]
fn what_a_step_refers_to_must_be_there_and_fit() {
    let parameter = |name: &str, value: &str| json!({"name": name, "value": value});
    let why = parameter("why", "x");
    for (change, expected) in [
        (json!({"runbookRef": {"name": "gone"}}), vec![("RunbookNotFound", "spec.actions[add].runbookRef")]),
        (json!({"runbookRef": {"name": "broken"}}), vec![("RunbookNotReady", "spec.actions[add].runbookRef")]),
        (json!({"targetRef": {"kind": "Pod"}}), vec![("UnsupportedTarget", "spec.actions[add].targetRef.kind")]),
        (
            json!({"targetRef": {"apiVersion": "apps/v1beta1"}}),
            vec![("UnsupportedTarget", "spec.actions[add].targetRef.kind")],
        ),
        (json!({"targetRef": {"kind": "DaemonSet"}}), vec![("UnsupportedTarget", "spec.actions[add].targetRef.kind")]),
        (json!({"targetRef": {"kind": "StatefulSet"}}), vec![]),
        (json!({"targetRef": {"apiVersion": "v1", "kind": "ReplicationController"}}), vec![]),
        (json!({"targetRef": {"apiVersion": "example.com/v1", "kind": "Widget"}}), vec![]),
        (
            json!({"targetRef": {"apiVersion": "example.com/v1", "kind": "Gadget"}}),
            vec![("UnsupportedTarget", "spec.actions[add].targetRef.kind")],
        ),
        (json!({"targetRef": {"name": "Svc_A"}}), vec![("InvalidTarget", "spec.actions[add].targetRef.name")]),
        (json!({"targetRef": {"name": "a..b"}}), vec![("InvalidTarget", "spec.actions[add].targetRef.name")]),
        (json!({"targetRef": {"name": "$(nobody)"}}), vec![("InvalidExpression", "spec.actions[add].targetRef.name")]),
        (json!({"parameters": []}), vec![("MissingParameter", "spec.actions[add].parameters")]),
        (
            json!({"parameters": [why, parameter("dleta", "1")]}),
            vec![("UnknownParameter", "spec.actions[add].parameters[dleta].name")],
        ),
        (
            json!({"parameters": [why, parameter("delta", "9")]}),
            vec![("InvalidParameter", "spec.actions[add].parameters[delta].value")],
        ),
        (
            json!({"parameters": [why, parameter("delta", "0")]}),
            vec![("InvalidParameter", "spec.actions[add].parameters[delta].value")],
        ),
        (
            json!({"parameters": [why, parameter("delta", "two")]}),
            vec![("InvalidParameter", "spec.actions[add].parameters[delta].value")],
        ),
        (
            json!({"parameters": [why, parameter("delta", "$(")]}),
            vec![("InvalidExpression", "spec.actions[add].parameters[delta].value")],
        ),
        (json!({"parameters": [why, parameter("delta", "$(alert.labels.n)")]}), vec![]),
        (json!({"targetRef": {"name": "svc-a.eu"}}), vec![]),
    ] {
        assert_eq!(seen(&rule(&with_action(change.clone()), &references())), expected, "{change}");
    }
}

#[test]
fn who_is_told_what_must_be_there_and_said_once() {
    let told = |channel: &str, template: &str, events: Value| json!({"channelRef": {"name": channel}, "template": template, "events": events});
    for (notifications, expected) in [
        (
            json!([told("gone", "IncidentOpened", json!(["Opened"]))]),
            vec![("ChannelNotFound", "spec.notifications[0].channelRef")],
        ),
        (
            json!([told("broken", "IncidentOpened", json!(["Opened"]))]),
            vec![("ChannelNotReady", "spec.notifications[0].channelRef")],
        ),
        (
            json!([told("ops-slack", "Theirs", json!(["Opened"]))]),
            vec![("TemplateNotFound", "spec.notifications[0].template")],
        ),
        (
            json!([
                told("ops-slack", "Mine", json!(["Opened", "Failed"])),
                told("ops-slack", "Mine", json!(["Resolved", "Failed"]))
            ]),
            vec![("DuplicateNotification", "spec.notifications[1]")],
        ),
        (json!([told("ops-slack", "Mine", json!(["Opened"])), told("ops-slack", "Mine", json!(["Failed"]))]), vec![]),
    ] {
        assert_eq!(seen(&rule(&with_notifications(notifications.clone()), &references())), expected, "{notifications}");
    }
}

#[test]
fn a_rule_is_not_ready_when_what_it_refers_to_is_not_but_only_for_the_generation_that_was_looked_at() {
    let with_status = |generation: i64, status: &str| {
        let mut runbook = serde_json::to_value(scale_up()).unwrap();
        runbook["status"] = json!({"observedGeneration": generation, "conditions": [{
            "type": "Ready", "status": status, "reason": "UnknownParameter", "message": "m", "observedGeneration": generation,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]});
        let runbook = Referent::Found(Arc::new(serde_json::from_value(runbook).unwrap()));
        RuleReferences { runbooks: [("scale-up".into(), runbook)].into(), ..references() }
    };
    let reasons = |references| {
        rule(&with_action(json!({})), &references).into_iter().map(|problem| problem.reason).collect::<Vec<_>>()
    };
    assert_eq!(reasons(with_status(3, "False")), ["RunbookNotReady"]);
    assert!(reasons(with_status(3, "True")).is_empty());
    assert!(reasons(with_status(2, "False")).is_empty(), "the runbook has changed since");
}

#[test]
fn a_runbook_computes_a_number_that_fits() {
    let scale = |parameters: Value, scale: Value| {
        runbook_of(json!({"parameters": parameters, "steps": [{"name": "s", "type": "Scale", "scale": scale}]}))
    };
    let delta = "spec.steps[0].scale.delta";
    let integer = |default: &str| json!([{"name": "n", "type": "Integer", "default": default}]);
    for (parameters, scaled, expected) in [
        (json!([]), json!({"delta": 1}), vec![]),
        (json!([]), json!({"delta": "$(1 + 1)"}), vec![]),
        (json!([]), json!({"delta": "$(params.n)"}), vec![("UnknownParameter", delta)]),
        (json!([]), json!({"delta": "$(params['n'])"}), vec![("UnknownParameter", delta)]),
        (json!([]), json!({"delta": "$(alert.labels.n)"}), vec![("InvalidExpression", delta)]),
        (json!([]), json!({"delta": "$(1)$(2)"}), vec![("InvalidExpression", delta)]),
        (json!([]), json!({"delta": "$(1 +)"}), vec![("InvalidExpression", delta)]),
        (json!([]), json!({"delta": "$(1 - 1)"}), vec![("InvalidExpression", delta)]),
        (json!([]), json!({"delta": "$('two')"}), vec![("InvalidExpression", delta)]),
        (json!([]), json!({"replicas": "$(-1)"}), vec![("InvalidExpression", "spec.steps[0].scale.replicas")]),
        (integer("0"), json!({"delta": "$(params.n)"}), vec![("InvalidExpression", delta)]),
        (integer("0"), json!({"replicas": "$(params.n)"}), vec![]),
        (integer("2"), json!({"delta": "$(-params.n)"}), vec![]),
        (integer("2000"), json!({"delta": "$(params.n)"}), vec![("InvalidExpression", delta)]),
        (integer("x"), json!({"replicas": 1}), vec![("InvalidParameter", "spec.parameters[0].default")]),
        (json!([{"name": "n", "type": "String"}]), json!({"delta": "$(int(params.n))"}), vec![]),
        (json!([{"name": "n", "type": "String", "default": "2"}]), json!({"delta": "$(int(params.n))"}), vec![]),
    ] {
        assert_eq!(seen(&runbook(&scale(parameters.clone(), scaled.clone()))), expected, "{parameters} {scaled}");
    }
}

#[test]
fn a_channel_needs_its_secrets_and_templates_that_compile() {
    let key = ("s".to_owned(), "url".to_owned());
    let slack = "spec.slack.webhookURLSecretRef";
    for (fact, expected) in [
        (Some(SecretFact::Present), vec![]),
        (Some(SecretFact::KeyMissing), vec![("SecretKeyNotFound", slack)]),
        (Some(SecretFact::Missing), vec![("SecretNotFound", slack)]),
        (Some(SecretFact::Forbidden), vec![("SecretForbidden", slack)]),
        (None, vec![("SecretNotFound", slack)]),
    ] {
        let references = fact.map(|fact| (key.clone(), fact)).into_iter().collect();
        assert_eq!(seen(&channel(&ops_slack(), &references)), expected, "{fact:?}");
    }
    let webhook = channel_of(json!({
        "type": "Webhook",
        "webhook": {"urlSecretRef": {"name": "w", "key": "url"}, "signingSecretRef": {"name": "w", "key": "hmac"}},
        "templates": [{"name": "A", "title": "{{ x", "body": "{% if %}"}, {"name": "B", "title": "fine"}, {"name": "C", "title": "{{ x | nope }}"}],
    }));
    assert_eq!(
        seen(&channel(&webhook, &ChannelReferences::new())),
        [
            ("SecretNotFound", "spec.webhook.urlSecretRef"),
            ("SecretNotFound", "spec.webhook.signingSecretRef"),
            ("InvalidTemplate", "spec.templates[0].title"),
            ("InvalidTemplate", "spec.templates[0].body"),
            ("InvalidTemplate", "spec.templates[2].title"),
        ]
    );
}
