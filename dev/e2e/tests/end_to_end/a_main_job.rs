//! (a) From a metric to a resolved incident.

use std::{collections::BTreeMap, time::Duration};

use eventpulse_e2e::{
    START, Shop,
    effects::{Speed, committed},
};
use eventpulse_env::PlainRecord;
use eventpulse_testkit::{eventpulse::EventPulse, gauge::Gauge, sink::Received};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

const TOPICS: [&str; 10] = [
    "alert.raised",
    "alert.decided",
    "incident.opened",
    "incident.resolved",
    "incident.updated",
    "action.requested",
    "action.completed",
    "action.failed",
    "notification.requested",
    "notification.delivered",
];

/// What the history says, entry by entry: event, who, what. The last two come from services that do not wait for each other.
const HISTORY: [(&str, &str, &str); 4] = [
    ("incident.opened", "rule cpu-high", "opened: CPU is at 97 %"),
    ("action.requested", "rule cpu-high", "add-replica requested: runbook scale-up on Deployment/svc-a"),
    ("action.completed", "runbook scale-up as system:serviceaccount:shop:remediator", "Deployment/svc-a 3 → 4"),
    ("notification.delivered", "channel ops-slack", "IncidentOpened delivered for Opened"),
];

/// From the gauge to EventPulse: a Prometheus that scrapes every second, and an Alertmanager that tells of what fires at once, and
/// again every second or two.
async fn start_monitoring(shop: &mut Shop, gauge: &Gauge, eventpulse: &EventPulse) {
    let alertmanager = format!(
        "route: {{receiver: eventpulse, group_wait: 0s, group_interval: 1s, repeat_interval: 1s, group_by: [alertname, service]}}\n\
         receivers:\n- name: eventpulse\n  webhook_configs: [{{url: '{}', send_resolved: true}}]\n",
        eventpulse.url("/webhooks/alertmanager")
    );
    let address = shop.environment.start_alertmanager("alertmanager", &alertmanager).await.unwrap().address();
    let prometheus = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yml]\nscrape_configs: [{{job_name: shop, \
         static_configs: [{{targets: ['{}']}}]}}]\nalerting: {{alertmanagers: [{{static_configs: [{{targets: ['{address}']}}]}}]}}\n",
        gauge.address()
    );
    let rules = "groups:\n- name: shop\n  rules:\n  - alert: CPUHigh\n    expr: cpu_percent > 90\n    labels: {severity: warning, service: \
                 svc-a, namespace: shop}\n    annotations: {summary: 'CPU is at {{ $value }} %'}\n";
    shop.environment.start_prometheus(&prometheus, rules).await.unwrap();
}

/// A real Prometheus sees a metric cross its threshold, a real Alertmanager delivers the alert again and again, Kafka carries the
/// events, the Deployment has one more replica, the incident is Resolved with its history, and one message was received.
#[tokio::test(flavor = "multi_thread")]
async fn a_a_metric_crosses_its_threshold_and_the_deployment_is_scaled_over_kafka() {
    let mut shop = Shop::open("e2e-a", true).await.unwrap();
    let kafka = shop.environment.kafka().bootstrap();
    let eventpulse = shop.launcher("eventpulse").kafka(&kafka, "").start(START).await.unwrap();
    let gauge = Gauge::start("cpu_percent", 50).await.unwrap();
    start_monitoring(&mut shop, &gauge, &eventpulse).await;
    shop.environment.versions().iter().for_each(|line| println!("  {line}"));

    // Below the threshold, seen and evaluated: nothing follows.
    shop.wait_for("five scrapes", || (gauge.scrapes() >= 5).then_some(())).await;
    assert_eq!((shop.get("incidents").len(), shop.replicas("svc-a")), (0, 3));
    gauge.set(97);
    let crossed = Timestamp::now();
    let name = shop.incidents_in(1, &["Resolved"]).await.remove(0)["metadata"]["name"].clone();
    let messages = shop.messages(1).await;
    let incident = shop
        .wait_for("the whole history", || {
            let incident = shop.get("incidents").into_iter().find(|found| found["metadata"]["name"] == name)?;
            entries(&incident).iter().any(|entry| entry["event"] == "notification.delivered").then_some(incident)
        })
        .await;
    let text = messages[0].json().to_string();
    assert!(text.contains("CPU is at 97 %"), "{text}");
    assert_eq!(shop.replicas("svc-a"), 4);
    assert_history(&incident);
    // Apart from one another: while the alert is repeated, new records of one topic would take the places of others' first ones. Those
    // of alert.raised are all of one partition.
    let mut records = Vec::new();
    for topics in [&TOPICS[..1], &TOPICS[1..2], &TOPICS[2..]] {
        records.extend(shop.environment.kafka().client().read(topics).await.unwrap());
    }
    assert_last_notified(&incident, &records, &messages[0]);
    print_hops(&shop, &records, &messages[0], crossed);
    print!("\n{}", Speed::since(accepted(&records), shop.environment.plane(), messages[0].at));

    // Alertmanager goes on telling of the alert; nothing follows from it.
    let repeated = async || eventpulse.metric("eventpulse_alerts_decided_total", "reason=\"repeated\"").await;
    shop.wait_for_async("three repetitions", async || (repeated().await >= 3.0).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((shop.replicas("svc-a"), shop.get("incidents").len(), shop.sink.received().len()), (4, 1, 1));
    shop.assert_no_action_twice();
    assert!(eventpulse.stop(START).await, "an ordered stop");
    shop.environment.stop().await;
}

fn entries(incident: &Value) -> Vec<Value> {
    incident["status"]["history"].as_array().cloned().unwrap_or_default()
}

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

/// The first event of a type, with its data.
fn first_of(records: &[PlainRecord], kind: &str) -> Option<(PlainRecord, Value)> {
    let ours = |record: &&PlainRecord| record.header("ce_type") == Some(&format!("io.eventpulse.{kind}.v1"));
    let first = records.iter().filter(ours).min_by_key(|record| record.timestamp_ms)?;
    Some((first.clone(), serde_json::from_str(&first.value).ok()?))
}

fn accepted(records: &[PlainRecord]) -> Timestamp {
    time(&first_of(records, "alert.raised").unwrap().1["acceptedAt"])
}

/// The very moment of which the delivery told: after the message was received. Incidents keep milliseconds.
fn assert_last_notified(incident: &Value, records: &[PlainRecord], message: &Received) {
    let notified = time(&incident["status"]["lastNotifiedAt"]);
    let delivered = time(&first_of(records, "notification.delivered").unwrap().1["deliveredAt"]);
    assert_eq!(notified.as_millisecond(), delivered.as_millisecond());
    assert!(notified >= message.at - SignedDuration::from_millis(1), "{notified}, and it came at {}", message.at);
}

fn assert_history(incident: &Value) {
    let entries = entries(incident);
    for entry in &entries {
        println!("  {} {:<24} {} — {}", entry["time"], entry["event"], entry["by"], entry["what"]);
    }
    // Not as texts: they have as many digits as they need.
    let times: Vec<Timestamp> = entries.iter().map(|entry| time(&entry["time"])).collect();
    assert!(times.is_sorted(), "the history is in the order of time: {times:?}");
    let mut told: Vec<_> =
        entries.iter().map(|entry| ["event", "by", "what"].map(|field| entry[field].as_str().unwrap())).collect();
    told[2..].sort();
    assert_eq!(told, HISTORY.map(|(event, by, what)| [event, by, what]));
}

/// One moment on the way, from whoever knows it best.
fn print_hops(shop: &Shop, records: &[PlainRecord], message: &Received, crossed: Timestamp) {
    let plane = shop.environment.plane();
    let mut hops: Vec<(Timestamp, String)> = vec![(crossed, "the metric crosses its threshold".into())];
    for kind in TOPICS {
        if let Some((record, _)) = first_of(records, kind) {
            let time = record.header("ce_time").and_then(|time| time.parse().ok());
            hops.push((time.unwrap_or(Timestamp::UNIX_EPOCH), format!("{kind} decided")));
            let published = Timestamp::from_millisecond(record.timestamp_ms).unwrap_or_default();
            hops.push((published, format!("{kind} published")));
        }
    }
    let (_, alert) = first_of(records, "alert.raised").unwrap();
    hops.push((time(&alert["startsAt"]), "Prometheus: the alert is active".into()));
    let mut seen: BTreeMap<String, ()> = BTreeMap::new();
    for write in committed(plane, "") {
        let interesting = matches!(
            write.resource.as_str(),
            "alertgroups" | "actions" | "actions/status" | "incidents" | "incidents/status" | "notifications"
        ) || write.effect_of().is_some();
        let what = format!("API server: {} {}", write.verb, write.resource);
        if interesting && seen.insert(what.clone(), ()).is_none() {
            hops.push((write.at, what));
        }
    }
    hops.push((message.at, "the Slack endpoint has the message".into()));
    hops.sort();
    let accepted = hops.iter().find(|(_, what)| what == "alert.raised decided").map_or(hops[0].0, |(at, _)| *at);
    println!("  {:>10}  {:>9}", "since the", "since the");
    println!("  {:>10}  {:>9}", "webhook/ms", "hop/ms");
    let mut previous = hops[0].0;
    for (at, what) in &hops {
        let since = |from: Timestamp| at.duration_since(from).as_secs_f64() * 1e3;
        println!("  {:>10.1}  {:>9.1}  {what}", since(accepted), since(previous));
        previous = *at;
    }
}
