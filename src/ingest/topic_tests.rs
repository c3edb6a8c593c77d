//! The reader between a topic of others and the log.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::{
    bus::{Bus, MemoryBus, Subscription},
    events::{AlertRaised, DeadLetter, Payload, Record, Topic},
    ingest::normalise::{Format, Request, normalise},
    testing::TestContext,
};

/// Our log, and beside it theirs.
struct Two {
    ours: MemoryBus,
    theirs: MemoryBus,
    away: AtomicBool,
    trouble: Mutex<Option<String>>,
    /// How many records each publication had.
    published: Mutex<Vec<usize>>,
}

#[async_trait]
impl Bus for Two {
    async fn publish(&self, records: Vec<Record>) -> Result<(), BusError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(BusError::Publish("the broker is away".into()));
        }
        self.published.lock().unwrap().push(records.len());
        self.ours.publish(records).await
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription, BusError> {
        self.ours.subscribe(options).await
    }

    async fn subscribe_foreign(&self, topic: &str, options: SubscribeOptions) -> Result<Subscription, BusError> {
        assert_eq!(topic, "their.alerts");
        self.theirs.subscribe(SubscribeOptions { topics: vec![Topic::AlertRaised], ..options }).await
    }

    fn foreign_health(&self) -> Result<(), String> {
        self.trouble.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn partitions(&self, topic: Topic) -> u32 {
        self.ours.partitions(topic)
    }

    fn health(&self) -> Result<(), String> {
        Ok(())
    }

    fn can_read(&self, _: &str) -> bool {
        true
    }

    fn is_local(&self) -> bool {
        false
    }

    async fn close(&self, timeout: Duration) {
        self.ours.close(timeout).await;
    }
}

fn two() -> Arc<Two> {
    Arc::new(Two {
        ours: MemoryBus::new(1),
        theirs: MemoryBus::new(1),
        away: AtomicBool::new(false),
        trouble: Mutex::default(),
        published: Mutex::default(),
    })
}

fn start(bus: &Arc<Two>) -> TestContext {
    let test = TestContext::new("ingest", Arc::clone(bus) as Arc<dyn Bus>);
    test.ctx.health.ready("service");
    let reader = Reader::new(&test.ctx, "their.alerts".into(), "alertmanager".into(), "prometheus".into());
    test.ctx.tasks.spawn("ingest-topic", run(test.ctx.clone(), reader));
    test
}

async fn stop(test: TestContext) {
    test.ctx.shutdown.cancel();
    test.ctx.tasks.finished().await;
}

fn alert(n: usize) -> Value {
    json!({"labels": {"alertname": "CPUHigh", "n": n.to_string()}, "startsAt": "2026-01-01T11:59:00Z"})
}

fn webhook(n: usize) -> Value {
    let mut alert = alert(n);
    alert["status"] = json!("firing");
    json!({"version": "4", "status": "firing", "alerts": [alert]})
}

impl Two {
    async fn write(&self, values: &[String]) {
        let record = |value: &String| Record {
            topic: Topic::AlertRaised,
            key: Some("theirs".into()),
            headers: vec![("x".into(), Bytes::from_static(b"y"))],
            value: Bytes::copy_from_slice(value.as_bytes()),
        };
        self.theirs.publish(values.iter().map(record).collect()).await.unwrap();
    }

    async fn raised(&self, count: usize) -> Vec<AlertRaised> {
        let records = self.records(Topic::AlertRaised, count).await;
        let alerts = records.into_iter().map(|record| match record.decode().unwrap().payload {
            Payload::AlertRaised(alert) => *alert,
            other => panic!("{other:?}"),
        });
        alerts.collect()
    }

    async fn letters(&self, count: usize) -> Vec<DeadLetter> {
        let records = self.records(Topic::DeadLetter, count).await;
        let letters = records.into_iter().map(|record| match record.decode().unwrap().payload {
            Payload::DeadLetter(letter) => *letter,
            other => panic!("{other:?}"),
        });
        letters.collect()
    }

    async fn records(&self, topic: Topic, count: usize) -> Vec<Record> {
        for _ in 0..2_000 {
            let records = self.ours.records(topic);
            if records.len() >= count {
                return records;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{} records on {topic}, {count} were to come", self.ours.records(topic).len());
    }
}

#[tokio::test]
async fn what_is_good_is_raised_and_what_is_broken_is_a_dead_letter_with_its_place() {
    let bus = two();
    let test = start(&bus);
    let huge = json!({"labels": {"a": "b"}, "annotations": {"x": "y".repeat(3 << 19)}}).to_string();
    let values = [
        webhook(1).to_string(),
        "no JSON".into(),
        huge,
        String::new(),
        json!([alert(2), {"labels": {}}, alert(3)]).to_string(),
        alert(4).to_string(),
    ];
    bus.write(&values).await;
    let raised = bus.raised(4).await;
    let mut of: Vec<(&str, &str)> =
        raised.iter().map(|alert| (alert.labels["n"].as_str(), alert.source.as_str())).collect();
    of.sort_unstable();
    assert_eq!(of, [("1", "alertmanager"), ("2", "prometheus"), ("3", "prometheus"), ("4", "prometheus")]);
    let mut letters = bus.letters(4).await;
    letters.sort_by(|a, b| a.origin.cmp(&b.origin));
    let told: Vec<(&str, DeadLetterReason)> =
        letters.iter().map(|letter| (letter.origin.as_str(), letter.reason)).collect();
    assert_eq!(
        told,
        [
            ("their.alerts/0@1", DeadLetterReason::InvalidData),
            ("their.alerts/0@2", DeadLetterReason::InvalidData),
            ("their.alerts/0@3", DeadLetterReason::InvalidData),
            ("their.alerts/0@4 alerts[1]", DeadLetterReason::InvalidAlert),
        ]
    );
    assert!(letters[1].message.starts_with("the record has 157") && letters[1].truncated, "{}", letters[1].message);
    assert_eq!((letters[0].key.as_deref(), letters[0].headers["x"].as_str()), (Some("theirs"), "y"));
    stop(test).await;
}

#[tokio::test]
async fn an_alert_that_comes_by_http_too_is_one() {
    let bus = two();
    let test = start(&bus);
    bus.write(&[webhook(1).to_string()]).await;
    let on_topic = bus.records(Topic::AlertRaised, 1).await.remove(0).decode().unwrap();
    let request = Request { format: Format::Webhook, source: "alertmanager", now: test.ctx.clock.now() };
    let by_http = normalise(webhook(1).to_string().as_bytes(), &request).unwrap().accepted.remove(0);
    assert_eq!((on_topic.id, on_topic.subject, on_topic.key), (by_http.id, by_http.subject, by_http.key));
    stop(test).await;
}

#[tokio::test]
async fn an_offset_is_stored_after_the_acknowledgement_and_what_comes_again_says_the_same() {
    let bus = two();
    bus.away.store(true, Ordering::SeqCst);
    let first = start(&bus);
    bus.write(&[alert(1).to_string()]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    // It read the record, could not hand it over, and ends.
    stop(first).await;
    assert_eq!(bus.ours.records(Topic::AlertRaised).len(), 0);
    bus.away.store(false, Ordering::SeqCst);
    let second = start(&bus);
    let events = bus.records(Topic::AlertRaised, 1).await;
    stop(second).await;
    let third = start(&bus);
    bus.write(&[alert(2).to_string()]).await;
    let all = bus.records(Topic::AlertRaised, 2).await;
    assert_eq!((all.len(), &all[..1]), (2, &events[..]), "the first one did not come a third time");
    stop(third).await;
}

#[tokio::test]
async fn a_topic_that_is_missing_is_said_and_makes_nobody_unready() {
    let bus = two();
    *bus.trouble.lock().unwrap() = Some("consumer group ingest-alerts: unknown topic".into());
    let test = start(&bus);
    let troubles = async || {
        for _ in 0..600 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let troubles = test.health.troubles();
            if troubles.is_empty() == bus.trouble.lock().unwrap().is_none() {
                return troubles;
            }
        }
        panic!("{:?}", test.health.troubles());
    };
    let told = troubles().await;
    assert_eq!(told[0].0, "ingest/alerts-topic");
    assert!(
        told[0].1.starts_with("--alerts-topic their.alerts: consumer group ingest-alerts: unknown topic"),
        "{told:?}"
    );
    assert!(test.health.is_ready(), "{:?}", test.health.report());
    *bus.trouble.lock().unwrap() = None;
    assert_eq!(troubles().await, []);
    stop(test).await;
}

#[tokio::test]
async fn what_is_published_together_has_a_bound_which_a_record_alone_may_pass() {
    let bus = two();
    bus.away.store(true, Ordering::SeqCst);
    let test = start(&bus);
    let of = |from: usize, count: usize| Value::Array((from..from + count).map(alert).collect()).to_string();
    // The first holds the partition while the others wait behind it.
    bus.write(&[of(0, 1)]).await;
    bus.write(&[of(1, 600), of(601, 600), of(1_201, 600), of(1_801, 2_000), of(3_801, 1)]).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    bus.away.store(false, Ordering::SeqCst);
    bus.raised(3_802).await;
    let published = bus.published.lock().unwrap().clone();
    assert!(published.iter().all(|count| *count < TOGETHER + 2_000) && published.contains(&1), "{published:?}");
    stop(test).await;
}
