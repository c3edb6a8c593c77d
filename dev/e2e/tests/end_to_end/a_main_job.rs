//! (a) From a metric to a resolved incident.

use std::time::Duration;

use eventpulse_e2e::{START, Shop, has, history};

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
