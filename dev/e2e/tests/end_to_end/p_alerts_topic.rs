//! (p) A topic of alerts that is not ours, written by Kafka's own console producer.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use eventpulse_e2e::{START, Shop, runs};
use eventpulse_env::{KafkaClient, PlainRecord};
use eventpulse_testkit::{
    alerts::{api_v2, webhook},
    eventpulse::EventPulse,
};
use jiff::Timestamp;
use serde_json::{Value, json};

const TOPIC: &str = "their.alerts";
const PREFIX: &str = "ep-";
const TARGETS: usize = 120;
const RUNS: usize = 3;

fn record(key: usize, value: &Value) -> PlainRecord {
    // The console producer wants a header; it says nothing to us.
    let record = PlainRecord { key: format!("k{key}"), value: value.to_string(), ..PlainRecord::default() };
    record.with_header("from", "their-monitoring")
}

/// A third of the alerts as webhooks of one, a third in lists of ten as Prometheus has them, a third each on its own; between them what
/// is broken, with the text that its dead letter names.
fn records(run: usize, starts_at: Timestamp) -> (Vec<PlainRecord>, BTreeMap<String, &'static str>) {
    let one = |target| runs::alert("Topic", run, target, starts_at);
    let third = TARGETS / 3;
    let mut records: Vec<PlainRecord> = (0..third).map(|target| record(target, &webhook(&[one(target)]))).collect();
    for first in (third..2 * third).step_by(10) {
        records.push(record(first, &api_v2(&(first..first + 10).map(one).collect::<Vec<_>>())));
    }
    records.extend((2 * third..TARGETS).map(|target| record(target, &api_v2(&[one(target)])[0])));
    let huge =
        json!({"labels": {"alertname": "Topic"}, "annotations": {"run": run.to_string(), "x": "y".repeat(3 << 20)}});
    let broken = [
        (json!(format!("run {run}")), "the record must be"),
        (json!({"labels": {"run": run.to_string(), "a": 7}}), "alerts[0].labels.a: is no text"),
        (json!({"labels": {"run": run.to_string()}, "startsAt": "yesterday"}), "alerts[0].startsAt"),
        (json!({"version": "5", "alerts": [], "run": run}), "version: \"5\""),
        (huge, "the record has 314"),
    ];
    let mut told = BTreeMap::new();
    for (place, (value, says)) in broken.into_iter().enumerate() {
        records.insert(place * 7, record(0, &value));
        told.insert(value.to_string(), says);
    }
    (records, told)
}

async fn trouble(shop: &Shop, eventpulse: &EventPulse, is_told: bool) {
    shop.wait_for_async("what readiness says of the topic", async || {
        let reply = eventpulse.readiness().await?;
        let told = reply.text().contains(&format!("[!] ingest/alerts-topic: --alerts-topic {TOPIC}: "));
        (reply.status == 200 && told == is_told).then_some(())
    })
    .await;
}

/// The distinct events of one of our topics, by id.
async fn events(client: &KafkaClient, topic: &str) -> BTreeMap<String, Value> {
    let records = client.read(&[&format!("{PREFIX}{topic}")]).await.unwrap();
    let event =
        |record: &PlainRecord| Some((record.header("ce_id")?.to_owned(), serde_json::from_str(&record.value).ok()?));
    records.iter().filter_map(event).collect()
}

/// (p) The topic is missing at first; then three runs, each of them killed with -9 while it reads, and each written twice.
#[tokio::test(flavor = "multi_thread")]
async fn p_alerts_of_a_topic_that_is_not_ours_act_once_and_its_broken_records_hold_up_nothing() {
    let shop = Shop::open("e2e-p", true).await.unwrap();
    shop.add_targets(TARGETS).unwrap();
    shop.environment
        .plane()
        .apply(&(0..RUNS).map(|run| runs::rule("topic", "Topic", run)).collect::<String>())
        .unwrap();
    let kafka = shop.environment.kafka();
    let client = kafka.client();
    let launcher = shop.launcher("eventpulse").kafka(&kafka.bootstrap(), PREFIX).arg(format!("--alerts-topic={TOPIC}"));
    let mut eventpulse = launcher.start(START).await.unwrap();
    trouble(&shop, &eventpulse, true).await;
    assert!(!client.topics().await.unwrap().contains(&TOPIC.to_owned()), "it is not ours to create");
    client.create_topic(TOPIC, 3, &[("max.message.bytes", "8388608")]).await.unwrap();
    trouble(&shop, &eventpulse, false).await;

    let (mut broken, mut written) = (BTreeMap::new(), 0);
    for run in 0..RUNS {
        let (records, told) = records(run, Timestamp::now());
        broken.extend(told);
        written += records.len();
        let producer = client.clone();
        let producing = tokio::spawn(async move { producer.produce(TOPIC, &records).await.map(|()| records) });
        let before = eventpulse.metric("eventpulse_ingest_alerts_total", "accepted").await;
        let wanted = before + (run * TARGETS / RUNS) as f64;
        let reached =
            async || (eventpulse.metric("eventpulse_ingest_alerts_total", "accepted").await > wanted).then_some(());
        shop.wait_for_async("alerts of the topic", reached).await;
        let at = eventpulse.metric("eventpulse_ingest_alerts_total", "accepted").await - before;
        eventpulse.kill();
        let records = producing.await.unwrap().unwrap();
        eventpulse = eventpulse.start_again(START).await.unwrap();
        // All of it once more, and one of it over HTTP.
        client.produce(TOPIC, &records).await.unwrap();
        let body: Value =
            serde_json::from_str(&records.iter().find(|r| r.value.contains("\"version\":\"4\"")).unwrap().value)
                .unwrap();
        assert!(eventpulse.post("webhooks/alertmanager", &body).await.unwrap().is_success());
        shop.wait_for(&format!("{TARGETS} resolved incidents in run {run}"), || {
            let phases = shop.phases("incidents", &format!("eventpulse.io/rule=topic-{run}"));
            (phases.len() == TARGETS && phases.iter().all(|phase| phase == "Resolved")).then_some(())
        })
        .await;
        println!(
            "  run {run}: {written} records so far, each written twice; killed when {at} of {TARGETS} alerts were accepted"
        );
    }
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert!(eventpulse.stop(START).await, "an ordered stop, which stores every offset");
    assert_eq!(client.lag().await.unwrap(), 0, "all of it was read");
    let wrong: Vec<_> = shop.targets().into_iter().filter(|(_, replicas)| *replicas != RUNS as i64).collect();
    assert!(wrong.is_empty(), "each target once in each run: {wrong:?}");
    assert_eq!(shop.get("incidents").len(), RUNS * TARGETS);
    shop.assert_no_action_twice();
    let raised = events(&client, "alert.raised").await;
    let ids: BTreeSet<&str> = raised.values().filter_map(|alert| alert["alertID"].as_str()).collect();
    assert_eq!(
        (raised.len(), ids.len()),
        (RUNS * TARGETS, RUNS * TARGETS),
        "an alert is one event, however often it came"
    );
    all_are_dead_letters(&events(&client, "dead.letter").await, &broken);
    shop.environment.stop().await;
}

fn all_are_dead_letters(letters: &BTreeMap<String, Value>, broken: &BTreeMap<String, &str>) {
    for (value, says) in broken {
        let kept = STANDARD.encode(&value.as_bytes()[..value.len().min(64 << 10)]);
        let found: Vec<&Value> = letters.values().filter(|letter| letter["data"] == json!(kept)).collect();
        assert_eq!(found.len(), 2, "written twice, so at two places: {says}: {found:?}");
        for letter in found {
            assert!(letter["message"].as_str().unwrap().starts_with(says), "{says}: {}", letter["message"]);
            assert!(letter["origin"].as_str().unwrap().starts_with(&format!("{TOPIC}/")), "{}", letter["origin"]);
        }
    }
    assert_eq!(letters.len(), 2 * broken.len());
    println!("  {} dead letters for {} broken records, each written twice", letters.len(), broken.len());
}
