//! A producer that is not ours writes alert.raised: Kafka's own console producer, with the headers that `docs/events/README.md` asks
//! for.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use eventpulse_e2e::{START, Shop, root};
use eventpulse_env::PlainRecord;
use jiff::Timestamp;
use serde_json::{Value, json};

/// The documented example's data, of now: older than the rule's acceptWindow it would be `stale`.
fn alert() -> Value {
    let text = std::fs::read_to_string(root().join("docs/events/alert.raised.example.json")).unwrap();
    let mut data = serde_json::from_str::<Value>(&text).unwrap()["data"].take();
    let now = json!(Timestamp::now().to_string());
    data["acceptedAt"] = now.clone();
    data["startsAt"] = now;
    data.as_object_mut().unwrap().remove("alertID");
    data.as_object_mut().unwrap().remove("fingerprint");
    data
}

fn record(id: &str, data: impl ToString) -> PlainRecord {
    let record = PlainRecord { key: "cpu-high-svc-a".into(), value: data.to_string(), ..PlainRecord::default() };
    record
        .with_header("ce_specversion", "1.0")
        .with_header("ce_type", "io.eventpulse.alert.raised.v1")
        .with_header("ce_id", id)
        .with_header("ce_source", "my-monitoring")
        .with_header("ce_time", Timestamp::now().to_string())
}

fn without(record: PlainRecord, header: &str) -> PlainRecord {
    PlainRecord { headers: record.headers.into_iter().filter(|(name, _)| name != header).collect(), ..record }
}

fn with(field: &str, value: Value) -> Value {
    let mut data = alert();
    data[field] = value;
    data
}

/// Broken in one way each, with the reason that the dead letter gives and what its message names.
fn broken() -> Vec<(PlainRecord, &'static str, &'static str)> {
    let good = |id: &str| record(id, alert());
    vec![
        (record("b1", "no JSON"), "invalidData", "data"),
        (record("b2", "[1, 2]"), "invalidData", "data"),
        (record("b3", with("labels", json!(null))), "invalidData", "labels"),
        (record("b4", with("labels", json!({"alertname": 7}))), "invalidData", "labels"),
        (record("b5", with("startsAt", json!("yesterday"))), "invalidData", "startsAt"),
        (record("b6", with("status", json!("burning"))), "invalidData", "status"),
        (
            record("b7", with("labels", json!({"alertname": "CPUHigh", "x": "y".repeat(5_000)}))),
            "invalidAlert",
            "labels",
        ),
        (without(good("b8"), "ce_id"), "invalidHeaders", "ce_id"),
        (without(good("b9"), "ce_specversion"), "invalidHeaders", "ce_specversion"),
        (without(good("b10"), "ce_time"), "invalidHeaders", "ce_time"),
        (good("b11").with_header("ce_time", "now"), "invalidHeaders", "ce_time"),
        (good("b12").with_header("ce_id", "NOT/an id"), "invalidHeaders", "ce_id"),
        (good("b13").with_header("ce_type", "io.eventpulse.alert.raised.v9"), "unknownType", "ce_type"),
        (without(good("b14"), "ce_type"), "invalidHeaders", "ce_type"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_producer_raises_an_alert_and_what_it_breaks_is_a_dead_letter_that_blocks_nothing() {
    let shop = Shop::open("e2e-producer", true).await.unwrap();
    let kafka = shop.environment.kafka();
    let _eventpulse = shop.launcher("eventpulse").kafka(&kafka.bootstrap(), "").start(START).await.unwrap();
    // One key, so one partition: the good one comes after all that are broken.
    let broken = broken();
    let mut records: Vec<_> = broken.iter().map(|(record, ..)| record.clone()).collect();
    records.push(record("my-first-event", alert()));
    kafka.client().produce("alert.raised", &records).await.unwrap();

    shop.incidents_in(1, &["Resolved"]).await;
    shop.messages(1).await;
    assert_eq!(shop.replicas("svc-a"), 4);
    let letters = shop
        .wait_for_async("a dead letter for each broken record", async || {
            let letters = kafka.client().read(&["dead.letter"]).await.unwrap();
            (letters.len() >= broken.len()).then_some(letters)
        })
        .await;
    assert_eq!(letters.len(), broken.len());
    for (record, reason, names) in &broken {
        let original = STANDARD.encode(&record.value);
        let found = letters.iter().map(|letter| serde_json::from_str::<Value>(&letter.value).unwrap()).find(|letter| {
            let same = |(name, value): &(String, String)| letter["headers"][name] == json!(value);
            letter["data"] == json!(original) && record.headers.iter().all(same)
        });
        let Some(letter) = found else { panic!("no dead letter holds the bytes of {record:?}: {letters:#?}") };
        assert_eq!(letter["reason"], *reason, "{letter}");
        assert!(letter["message"].as_str().unwrap().contains(names), "{names}: {letter}");
        assert!(letter["origin"].as_str().unwrap().starts_with("alert.raised/"), "{letter}");
        assert_eq!(letter["key"], json!(record.key));
        println!("  {:<15} {}", reason, letter["message"].as_str().unwrap());
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((shop.replicas("svc-a"), shop.get("incidents").len(), shop.sink.received().len()), (4, 1, 1));
    shop.environment.stop().await;
}
