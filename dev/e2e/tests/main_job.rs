//! What EventPulse exists for, on real parts.

#![allow(clippy::unwrap_used)] // A helper that fails is a test that fails.

use std::time::Duration;

use eventpulse_e2e::Shop;
use eventpulse_env::ControlPlaneOptions;
use eventpulse_testkit::alerts::{Alert, webhook};
use eventpulse_testkit::eventpulse::Launcher;
use eventpulse_testkit::proxy::{Fault, Proxy, When};
use jiff::Timestamp;
use serde_json::Value;

const START: Duration = Duration::from_secs(60);

/// Events and who is behind them, in the order of the incident's history.
fn history(incident: &Value) -> Vec<(String, String)> {
    let entries = incident["status"]["history"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    entries.iter().map(|entry| (text(&entry["event"]), text(&entry["by"]))).collect()
}

fn has(incident: &Value, event: &str, by: &str) -> bool {
    history(incident).iter().any(|(e, b)| e == event && b == by)
}

/// (a) A real Prometheus sees a metric cross its threshold, a real Alertmanager delivers the alert, Kafka carries the events, the
/// Deployment has one more replica, the incident is Resolved with its history, and one message was received.
#[tokio::test(flavor = "multi_thread")]
async fn a_a_metric_crosses_its_threshold_and_the_deployment_is_scaled_over_kafka() {
    let mut shop = Shop::open("e2e-a", true).await.unwrap();
    let kafka = shop.environment.kafka().bootstrap();
    let eventpulse = shop.launcher("eventpulse").kafka(&kafka, "").start(START).await.unwrap();
    let alertmanager = format!(
        "route: {{receiver: eventpulse, group_wait: 0s, group_interval: 1s, group_by: [alertname, service]}}\nreceivers:\n- name: \
         eventpulse\n  webhook_configs: [{{url: '{}', send_resolved: true}}]\n",
        eventpulse.url("/webhooks/alertmanager")
    );
    let address = shop.environment.start_alertmanager("alertmanager", &alertmanager).await.unwrap().address();
    let prometheus = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yml]\nalerting: {{alertmanagers: \
         [{{static_configs: [{{targets: ['{address}']}}]}}]}}\n"
    );
    let rules = "groups:\n- name: shop\n  rules:\n  - alert: CPUHigh\n    expr: vector(97) > 90\n    labels: {severity: warning, service: \
                 svc-a, namespace: shop}\n    annotations: {summary: 'CPU is at {{ $value }} %'}\n";
    shop.environment.start_prometheus(&prometheus, rules).await.unwrap();
    shop.environment.versions().iter().for_each(|line| println!("  {line}"));

    let incident = shop.incidents_in(1, &["Resolved"]).await.remove(0);
    assert_eq!(shop.replicas("svc-a"), 4);
    let messages = shop.sink.wait_for(1, START).await.unwrap();
    assert!(messages[0].json().to_string().contains("CPU is at 97 %"), "{}", messages[0].json());
    let incident = shop
        .wait_for("the whole history", || {
            let incident = shop
                .get("incidents")
                .into_iter()
                .find(|found| found["metadata"]["name"] == incident["metadata"]["name"])?;
            (history(&incident).len() >= 4).then_some(incident)
        })
        .await;
    assert!(has(&incident, "incident.opened", "rule cpu-high"), "{:?}", history(&incident));
    assert!(has(&incident, "action.requested", "rule cpu-high"), "{:?}", history(&incident));
    assert!(
        has(&incident, "action.completed", "runbook scale-up as system:serviceaccount:shop:remediator"),
        "{:?}",
        history(&incident)
    );
    assert!(has(&incident, "notification.delivered", "channel ops-slack"), "{:?}", history(&incident));
    assert!(incident["status"]["lastNotifiedAt"].is_string(), "{incident:#}");
    for entry in incident["status"]["history"].as_array().unwrap() {
        println!("  {} {:<24} {} — {}", entry["time"], entry["event"], entry["by"], entry["what"]);
    }
    // Prometheus and Alertmanager go on telling of the alert; nothing follows from it.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!((shop.replicas("svc-a"), shop.get("incidents").len(), shop.sink.received().len()), (4, 1, 1));
    assert!(eventpulse.stop(START).await, "an ordered stop");
    shop.environment.stop().await;
}

/// (c) Fifty deliveries by two senders are one incident, one replica more, one message; and a restart changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn c_the_same_alert_fifty_times_by_two_senders_acts_once() {
    let shop = Shop::open("e2e-c", false).await.unwrap();
    let eventpulse = shop.launcher("eventpulse").start(START).await.unwrap();
    let body = webhook(&[Alert::cpu_high("svc-a", Timestamp::now())]);
    for _ in 0..25 {
        let (one, two) = tokio::join!(
            eventpulse.post("webhooks/alertmanager", &body),
            eventpulse.post("webhooks/alertmanager", &body)
        );
        assert!(one.unwrap().is_success() && two.unwrap().is_success());
    }
    shop.incidents_in(1, &["Resolved"]).await;
    shop.sink.wait_for(1, START).await.unwrap();
    assert!(eventpulse.stop(START).await);
    let eventpulse = eventpulse.start_again(START).await.unwrap();
    assert!(eventpulse.post("webhooks/alertmanager", &body).await.unwrap().is_success());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((shop.replicas("svc-a"), shop.get("incidents").len(), shop.sink.received().len()), (4, 1, 1));
    shop.environment.stop().await;
}

async fn shop_behind_a_proxy(name: &str) -> (Shop, Proxy, Launcher) {
    let shop = Shop::open(name, false).await.unwrap();
    let proxy = Proxy::before(&shop.environment.plane().kubeconfig()).await.unwrap();
    let kubeconfig = shop.environment.dir().join("proxy.kubeconfig");
    proxy.write_kubeconfig(&kubeconfig).unwrap();
    let launcher = Launcher::new("eventpulse", shop.environment.dir(), &kubeconfig);
    (shop, proxy, launcher)
}

/// (b) Scaling is refused with 503 until the retries are used up: fence, action.failed, the restart is requested, a second message,
/// Resolved.
#[tokio::test(flavor = "multi_thread")]
async fn b_when_scaling_fails_the_restart_follows_and_resolves() {
    let (shop, proxy, launcher) = shop_behind_a_proxy("e2e-b1").await;
    let refused = proxy.rule("no scaling", When::patch_of_replicas(), Fault::Answer(503));
    let eventpulse = launcher.start(START).await.unwrap();
    let body = webhook(&[Alert::cpu_high("svc-a", Timestamp::now())]);
    assert!(eventpulse.post("webhooks/alertmanager", &body).await.unwrap().is_success());
    let incident = shop.incidents_in(1, &["Resolved"]).await.remove(0);
    assert_eq!(
        (refused.matched(), shop.replicas("svc-a")),
        (4, 3),
        "one try and three retries, and nothing of them took effect"
    );
    shop.sink.wait_for(2, START).await.unwrap();
    let deployment = shop.get("deployments").remove(0);
    let ring = deployment["metadata"]["annotations"]["eventpulse.io/applied-actions"].as_str().unwrap().to_owned();
    assert!(ring.contains(":aborted"), "the fence stands: {ring}");
    assert!(!deployment["spec"]["template"]["metadata"]["annotations"].is_null(), "it was restarted");
    assert!(
        has(&incident, "action.failed", "runbook scale-up as system:serviceaccount:shop:remediator"),
        "{:?}",
        history(&incident)
    );
    shop.environment.stop().await;
}

/// (b) Every PATCH is refused, the fence too: nobody can know, so the ladder stops there, visibly.
#[tokio::test(flavor = "multi_thread")]
async fn b_when_even_the_fence_cannot_be_written_the_outcome_is_unknown_and_the_ladder_stops() {
    let (shop, proxy, launcher) = shop_behind_a_proxy("e2e-b3").await;
    proxy.rule("no patch", When::patch().path_contains("/deployments/"), Fault::Answer(503));
    let eventpulse = launcher.start(START).await.unwrap();
    let body = webhook(&[Alert::cpu_high("svc-a", Timestamp::now())]);
    assert!(eventpulse.post("webhooks/alertmanager", &body).await.unwrap().is_success());
    shop.incidents_in(1, &["Failed"]).await;
    let actions = shop.get("actions");
    assert_eq!(actions.len(), 1, "no further step");
    assert_eq!(actions[0]["status"]["reason"], "OutcomeUnknown");
    let messages = shop.sink.wait_for(2, START).await.unwrap();
    assert!(messages.iter().any(|message| message.json().to_string().contains("ailed")), "people are told");
    assert_eq!(shop.replicas("svc-a"), 3);
    shop.environment.stop().await;
}

/// (e) The embedded log, killed with -9 in the middle and started again; the sender resends only what got no 2xx.
#[tokio::test(flavor = "multi_thread")]
async fn e_killed_with_9_in_the_middle_of_forty_alerts_nothing_is_lost_and_nothing_done_twice() {
    const ALERTS: usize = 40;
    let options = ControlPlaneOptions::default();
    let environment = eventpulse_env::Environment::builder("e2e-e").control_plane(options).start().await.unwrap();
    let shop = Shop::furnish(environment).await.unwrap();
    for i in 0..ALERTS {
        shop.add_deployment(&format!("t{i}")).unwrap();
    }
    let mut eventpulse = shop.launcher("eventpulse").start(START).await.unwrap();
    let seed = Timestamp::now().as_millisecond() as usize;
    let kill_at = 5 + seed % (ALERTS - 10);
    println!("  killed at alert {kill_at} of {ALERTS}");
    let starts_at = Timestamp::now();
    for i in 0..ALERTS {
        if i == kill_at {
            eventpulse.kill();
            eventpulse = eventpulse.start_again(START).await.unwrap();
        }
        let body = webhook(&[Alert::cpu_high(&format!("t{i}"), starts_at)]);
        while !eventpulse.post("webhooks/alertmanager", &body).await.is_ok_and(|reply| reply.is_success()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    shop.incidents_in(ALERTS, &["Resolved"]).await;
    for i in 0..ALERTS {
        assert_eq!(shop.replicas(&format!("t{i}")), 2, "t{i}, killed at {kill_at}");
    }
    shop.environment.stop().await;
}
