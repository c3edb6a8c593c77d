//! The service on the API server in memory.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{reason, reconcile::FIELD_MANAGER, run};
use crate::{
    bus::MemoryBus,
    testing::{FakeApi, Fault, TestContext},
};

const RULES: &str = "/apis/eventpulse.io/v1alpha1/rules";
const RUNBOOKS: &str = "/apis/eventpulse.io/v1alpha1/runbooks";
const CHANNELS: &str = "/apis/eventpulse.io/v1alpha1/notificationchannels";
const SECRETS: &str = "/api/v1/secrets";

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

fn rule(name: &str) -> Value {
    object(
        "Rule",
        name,
        json!({
            "match": {"matchers": ["alertname=CPUHigh"]},
            "actions": [{
                "name": "add", "runbookRef": {"name": "restart"},
                "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "svc-a"},
            }],
            "notifications": [{"channelRef": {"name": "ops"}, "template": "IncidentOpened", "events": ["Opened"]}],
        }),
    )
}

fn runbook() -> Value {
    object("Runbook", "restart", json!({"steps": [{"name": "r", "type": "Restart", "restart": {}}]}))
}

fn channel() -> Value {
    object(
        "NotificationChannel",
        "ops",
        json!({"type": "Slack", "slack": {"webhookURLSecretRef": {"name": "s", "key": "url"}}}),
    )
}

fn secret() -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "shop"}, "data": {"url": "aHR0cDovL3g="}})
}

async fn started(api: &FakeApi) -> TestContext {
    let test = TestContext::with_api("config", Arc::new(MemoryBus::new(4)), api.clone());
    test.ctx.tasks.spawn("config", run(test.ctx.clone()));
    test
}

/// The condition's status and reason, once there is one as wanted.
async fn becomes(api: &FakeApi, collection: &str, name: &str, status: &str, reason: &str) -> Value {
    let mut last = Value::Null;
    for _ in 0..2_000 {
        last = api.get(collection, "shop", name).map_or(Value::Null, |object| object["status"].clone());
        let condition = &last["conditions"][0];
        if condition["status"] == status && condition["reason"] == reason {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{name} never became {status} {reason}: {last}");
}

fn status_writes(api: &FakeApi) -> usize {
    api.seen().iter().filter(|seen| seen.is_write()).count()
}

#[tokio::test(start_paused = true)]
async fn a_rule_becomes_ready_when_what_it_refers_to_appears_and_not_ready_when_it_goes() {
    let api = FakeApi::new();
    api.put(RULES, rule("cpu-high"));
    let _test = started(&api).await;
    becomes(&api, RULES, "cpu-high", "False", reason::RUNBOOK_NOT_FOUND).await;
    api.put(RUNBOOKS, runbook());
    becomes(&api, RULES, "cpu-high", "False", reason::CHANNEL_NOT_FOUND).await;
    api.put(CHANNELS, channel());
    becomes(&api, CHANNELS, "ops", "False", reason::SECRET_NOT_FOUND).await;
    becomes(&api, RULES, "cpu-high", "False", reason::CHANNEL_NOT_READY).await;
    // Nobody tells that a Secret appeared: the next round finds it.
    api.put(SECRETS, secret());
    let status = becomes(&api, RULES, "cpu-high", "True", reason::VALID).await;
    assert_eq!((&status["observedGeneration"], &status["conditions"][0]["observedGeneration"]), (&json!(1), &json!(1)));
    api.remove(RUNBOOKS, "shop", "restart");
    becomes(&api, RULES, "cpu-high", "False", reason::RUNBOOK_NOT_FOUND).await;
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_cannot_be_read_is_marked_and_holds_up_nobody() {
    let api = FakeApi::new();
    let mut broken = rule("broken");
    broken["spec"]["match"] = json!({"matchers": 7});
    api.put(RULES, broken);
    api.put(RUNBOOKS, object("Runbook", "restart", json!({"steps": "none"})));
    let test = started(&api).await;
    becomes(&api, RULES, "broken", "False", reason::MALFORMED).await;
    becomes(&api, RUNBOOKS, "restart", "False", reason::MALFORMED).await;
    api.put(RULES, rule("cpu-high"));
    becomes(&api, RULES, "cpu-high", "False", reason::RUNBOOK_NOT_READY).await;
    assert!(test.health.is_ready(), "{:?}", test.health.report());
    // Mended, both are as any other.
    api.put(SECRETS, secret());
    api.put(CHANNELS, channel());
    api.put(RUNBOOKS, runbook());
    api.put(RULES, rule("broken"));
    becomes(&api, RULES, "broken", "True", reason::VALID).await;
    becomes(&api, RULES, "cpu-high", "True", reason::VALID).await;
}

#[tokio::test(start_paused = true)]
async fn a_status_is_written_only_when_it_differs_and_only_as_the_field_manager() {
    let api = FakeApi::new();
    for (collection, object) in
        [(RULES, rule("cpu-high")), (RUNBOOKS, runbook()), (CHANNELS, channel()), (SECRETS, secret())]
    {
        api.put(collection, object);
    }
    let test = started(&api).await;
    becomes(&api, RULES, "cpu-high", "True", reason::VALID).await;
    becomes(&api, CHANNELS, "ops", "True", reason::VALID).await;
    becomes(&api, RUNBOOKS, "restart", "True", reason::VALID).await;
    let writes: Vec<_> = api.seen().into_iter().filter(|seen| seen.is_write()).collect();
    assert!(
        writes.iter().all(|seen| seen.path.ends_with("/status") && seen.query.contains(FIELD_MANAGER)),
        "{writes:?}"
    );
    assert!(
        writes.iter().all(|seen| seen.body["metadata"]["resourceVersion"].is_string() && seen.body["spec"].is_null()),
        "{writes:?}"
    );
    // Rounds pass, and somebody writes a label: nothing to say.
    let before = status_writes(&api);
    let mut labelled = api.get(RULES, "shop", "cpu-high").unwrap();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    api.put(RULES, labelled);
    tokio::time::sleep(super::ROUND * 4).await;
    assert_eq!(status_writes(&api), before);
    // Another process begins: nothing to say either.
    test.ctx.shutdown.cancel();
    let _other = started(&api).await;
    tokio::time::sleep(super::ROUND * 2).await;
    assert_eq!(status_writes(&api), before);
}

#[tokio::test(start_paused = true)]
async fn the_api_server_away_or_refusing_is_waited_out() {
    let api = FakeApi::new();
    for (collection, object) in
        [(RULES, rule("cpu-high")), (RUNBOOKS, runbook()), (CHANNELS, channel()), (SECRETS, secret())]
    {
        api.put(collection, object);
    }
    api.on_request(|seen| match (seen.is_write(), seen.path.contains("/secrets/"), seen.index % 3) {
        (true, _, 0) => Fault::Answer(503),
        (true, _, 1) => Fault::Answer(403),
        (true, ..) => Fault::DropAnswer,
        (_, true, _) => Fault::Answer(500),
        _ => Fault::None,
    });
    let test = started(&api).await;
    tokio::time::sleep(super::ROUND * 3).await;
    assert_ne!(api.get(CHANNELS, "shop", "ops").unwrap()["status"]["conditions"][0]["status"], "True");
    api.no_faults();
    becomes(&api, RULES, "cpu-high", "True", reason::VALID).await;
    becomes(&api, CHANNELS, "ops", "True", reason::VALID).await;
    becomes(&api, RUNBOOKS, "restart", "True", reason::VALID).await;
    test.ctx.shutdown.cancel();
    test.ctx.tasks.finished().await;
}
