//! (g) `resolveOn: AlertResolved`: the incident ends with its alerts, however their end is told, or not told.

use std::time::Duration;

use eventpulse_e2e::{START, Shop};
use eventpulse_testkit::{
    alerts::{Alert, api_v2, webhook},
    eventpulse::EventPulse,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

async fn shop(name: &str, spec: &str) -> (Shop, EventPulse) {
    let shop = Shop::open(name, false).await.unwrap();
    shop.patch("rule/cpu-high", spec).unwrap();
    // The grace after endsAt is minutes by default.
    let eventpulse = shop.launcher("eventpulse").arg("--ends-at-grace=2s").start(START).await.unwrap();
    (shop, eventpulse)
}

async fn post(eventpulse: &EventPulse, alert: &Alert) {
    assert!(
        eventpulse.post("webhooks/alertmanager", &webhook(std::slice::from_ref(alert))).await.unwrap().is_success()
    );
}

/// The incident once its one action is Completed: it is Mitigating, because its alert still fires.
async fn mitigated(shop: &Shop) -> Value {
    shop.wait_for("a completed action", || {
        let actions = shop.get("actions");
        actions.iter().any(|action| action["status"]["phase"] == "Completed").then_some(())
    })
    .await;
    shop.incidents_in(1, &["Mitigating"]).await.remove(0)
}

/// How often the ledger gave this reason.
async fn decided(eventpulse: &EventPulse, reason: &str) -> f64 {
    eventpulse.metric("eventpulse_alerts_decided_total", &format!("reason=\"{reason}\"")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn g_the_incident_ends_with_its_alert_whether_the_end_overtakes_or_is_repeated() {
    let (shop, eventpulse) =
        shop("e2e-g1", r#"{"spec": {"cooldown": "0s", "incident": {"resolveOn": "AlertResolved"}}}"#).await;
    // The end overtakes its beginning: the beginning that comes late opens nothing.
    let early = Alert::cpu_high("svc-a", Timestamp::now() - SignedDuration::from_secs(30));
    post(&eventpulse, &early.clone().resolved(Timestamp::now())).await;
    post(&eventpulse, &early).await;
    shop.wait_for_async("both decided", async || (decided(&eventpulse, "repeated").await >= 1.0).then_some(())).await;
    assert_eq!(decided(&eventpulse, "nothing_to_resolve").await, 1.0, "{}", eventpulse.metrics().await);
    assert_eq!((shop.get("incidents").len(), shop.replicas("svc-a")), (0, 3));

    // It fires anew: the action completes, and the incident stays until the alert clears.
    let alert = Alert::cpu_high("svc-a", Timestamp::now());
    post(&eventpulse, &alert).await;
    mitigated(&shop).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(mitigated(&shop).await["status"]["phase"], "Mitigating", "the action alone does not resolve it");
    let resolved = alert.clone().resolved(Timestamp::now());
    post(&eventpulse, &resolved).await;
    let incident = shop.incidents_in(1, &["Resolved"]).await.remove(0);
    assert_eq!(reason(&incident), "AlertsResolved");
    // Repeated: nothing changes any more.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = shop.get("incidents").remove(0)["metadata"]["resourceVersion"].clone();
    for repetition in [&resolved, &alert, &resolved, &alert, &resolved, &alert] {
        let known = decided(&eventpulse, "repeated").await;
        post(&eventpulse, repetition).await;
        let counted = async || (decided(&eventpulse, "repeated").await > known).then_some(());
        shop.wait_for_async("a repetition that is decided as such", counted).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = shop.incidents_in(1, &["Resolved"]).await.remove(0);
    assert_eq!((&after["metadata"]["resourceVersion"], shop.replicas("svc-a")), (&before, 4));
    shop.assert_no_action_twice();
    shop.environment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g_an_end_that_never_comes_is_the_end_of_expire_after() {
    let spec = r#"{"spec": {"expireAfter": "5s", "incident": {"resolveOn": "AlertResolved"}}}"#;
    let (shop, eventpulse) = shop("e2e-g2", spec).await;
    let alert = Alert::cpu_high("svc-a", Timestamp::now());
    post(&eventpulse, &alert).await;
    let told = Timestamp::now();
    let incident = shop.incidents_in(1, &["Resolved"]).await.remove(0);
    assert_eq!((reason(&incident).as_str(), shop.replicas("svc-a")), ("AlertsExpired", 4));
    let resolved: Timestamp = incident["status"]["resolvedAt"].as_str().unwrap().parse().unwrap();
    assert!(resolved.duration_since(told) >= SignedDuration::from_secs(4), "{resolved} is before it may expire");
    shop.environment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g_an_end_that_never_comes_is_the_one_that_prometheus_gave_in_advance() {
    let (shop, eventpulse) = shop("e2e-g3", r#"{"spec": {"incident": {"resolveOn": "AlertResolved"}}}"#).await;
    let now = Timestamp::now();
    let alert = Alert::cpu_high("svc-a", now).ends_at(now + SignedDuration::from_secs(4));
    assert!(eventpulse.post("api/v2/alerts", &api_v2(&[alert])).await.unwrap().is_success());
    mitigated(&shop).await;
    let incident = shop.incidents_in(1, &["Resolved"]).await.remove(0);
    assert_eq!((reason(&incident).as_str(), shop.replicas("svc-a")), ("AlertsExpired", 4));
    let resolved: Timestamp = incident["status"]["resolvedAt"].as_str().unwrap().parse().unwrap();
    assert!(resolved.duration_since(now) >= SignedDuration::from_secs(6), "{resolved} is before endsAt and its grace");
    shop.environment.stop().await;
}

fn reason(incident: &Value) -> String {
    let conditions = incident["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let resolved = conditions.into_iter().find(|condition| condition["type"] == "Resolved");
    resolved.and_then(|condition| condition["reason"].as_str().map(str::to_owned)).unwrap_or_default()
}
