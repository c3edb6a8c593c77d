//! (s) What is seen of an incident: Events where `kubectl describe` shows them, each once; metrics; and how many writes it took.

use std::collections::BTreeMap;

use eventpulse_e2e::{
    START, Shop,
    effects::{Committed, committed},
};
use eventpulse_testkit::{
    alerts::{Alert, webhook},
    client,
};
use jiff::Timestamp;
use serde_json::Value;

/// The most writes of one incident with one action and one message; clears of what was told are counted apart.
const WRITES_MAX: usize = 12;

/// What a write says, without what only the store is about.
fn said(write: &Committed) -> Value {
    let mut said = write.request.clone();
    for part in ["status", "spec"] {
        if let Some(part) = said.get_mut(part).and_then(Value::as_object_mut) {
            part.remove("outbox");
        }
    }
    if let Some(object) = said.as_object_mut() {
        object.remove("metadata");
    }
    said
}

/// The writes of EventPulse by kind, and how many of them only clear an outbox.
fn writes(shop: &Shop) -> (BTreeMap<String, usize>, usize) {
    let (mut counted, mut clears) = (BTreeMap::new(), 0);
    let mut last: BTreeMap<(String, String), Value> = BTreeMap::new();
    for write in committed(shop.environment.plane(), "") {
        let root = write.resource.split('/').next().unwrap_or_default().to_owned();
        let own = ["alertgroups", "incidents", "actions", "notifications"].contains(&root.as_str());
        let effect = root == "deployments" && write.effect_of().is_some();
        // The control plane writes Events of its own.
        let event = root == "events" && write.request["reportingController"] == "eventpulse.io/eventpulse";
        if !(own || effect || event) || write.verb == "delete" {
            continue;
        }
        let words = said(&write);
        if last.insert((root.clone(), write.name.clone()), words.clone()).as_ref() == Some(&words) {
            clears += 1;
            continue;
        }
        *counted.entry(format!("{} {}", write.verb, write.resource)).or_default() += 1;
    }
    (counted, clears)
}

fn events(shop: &Shop, reason: &str) -> Vec<Value> {
    shop.get("events.v1.events.k8s.io").into_iter().filter(|event| event["reason"] == reason).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn s_an_incident_is_seen_where_people_look_and_takes_few_writes() {
    let shop = Shop::open("e2e-s", false).await.unwrap();
    let eventpulse = shop.launcher("eventpulse").start(START).await.unwrap();
    let alert = webhook(&[Alert::cpu_high("svc-a", Timestamp::now())]);
    let post = async || client::post(&eventpulse.url("webhooks/alertmanager"), &alert).await.unwrap();
    assert!(post().await.is_success());
    let incident = shop.incidents_in(1, &["Resolved"]).await.remove(0);
    shop.messages(1).await;
    let one = |reason: &str| (events(&shop, reason).len() == 1).then_some(());
    shop.wait_for("an Event on the target", || one("ActionCompleted")).await;
    shop.wait_for("an Event on the incident", || one("IncidentResolved")).await;
    shop.wait_for("the end of the message", || {
        (shop.get("notifications").first()?["spec"]["phase"] == "Delivered").then_some(())
    })
    .await;

    let plane = shop.environment.plane();
    let describe = |kind: &str, name: &str| plane.run_kubectl(&["describe", "-n", "shop", kind, name]).unwrap();
    let target = describe("deployment", "svc-a");
    assert!(target.contains("ActionCompleted") && target.contains("Deployment/svc-a 3 → 4"), "{target}");
    let name = incident["metadata"]["name"].as_str().unwrap();
    assert!(target.contains(name), "the note names the incident: {target}");
    let described = describe("incident", name);
    assert!(described.contains("IncidentResolved"), "{described}");

    // Told again, nothing is said again.
    assert!(post().await.is_success());
    eventpulse.kill();
    let eventpulse = shop.launcher("again").start(START).await.unwrap();
    assert!(client::post(&eventpulse.url("webhooks/alertmanager"), &alert).await.unwrap().is_success());
    let metrics = async || eventpulse.metrics().await;
    let decided = |text: &str| {
        text.lines().any(|line| {
            line.starts_with("eventpulse_alerts_decided_total{reason=\"repeated\"}") && !line.ends_with(" 0")
        })
    };
    let text = shop
        .wait_for_async("the repetition is decided", async || {
            let text = metrics().await;
            decided(&text).then_some(text)
        })
        .await;
    for line in [
        "process_resident_memory_bytes ",
        "eventpulse_ready{service=\"rules\"} 1",
        "eventpulse_consumer_lag_records{group=\"rules\"",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    assert_eq!((events(&shop, "ActionCompleted").len(), events(&shop, "IncidentResolved").len()), (1, 1));

    let (by_kind, clears) = writes(&shop);
    let total: usize = by_kind.values().sum();
    by_kind.iter().for_each(|(kind, count)| println!("    {count} × {kind}"));
    println!("    {total} writes for an incident with one action and one message, and {clears} clears");
    assert!(total <= WRITES_MAX, "{total} writes: {by_kind:#?}");
    shop.environment.stop().await;
}
