//! (f) The broker is away for a minute: what was answered 2xx is not lost, and what was refused did not happen.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use eventpulse_e2e::{START, Shop};
use eventpulse_testkit::{
    alerts::{Alert, webhook},
    client::{self, Reply},
    eventpulse::EventPulse,
};
use jiff::Timestamp;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinHandle};

const AWAY: Duration = Duration::from_secs(60);
const SENDERS: usize = 2;
const PACE: Duration = Duration::from_millis(20);
const SMALL_OUTBOX: usize = 50;

/// What became of every alert that was sent, by its label `n`.
#[derive(Default)]
struct Sent {
    accepted: BTreeSet<String>,
    refused: BTreeSet<String>,
    unanswered: BTreeSet<String>,
    /// Answers that a sender cannot make sense of: neither 2xx nor a 503 that says when to come again.
    strange: Vec<String>,
}

/// Senders at work on one ingest.
struct Load {
    sent: Arc<Mutex<Sent>>,
    over: Arc<AtomicBool>,
    senders: Vec<JoinHandle<()>>,
}

impl Load {
    fn on(name: &'static str, eventpulse: &EventPulse) -> Self {
        let (sent, over) = (Arc::<Mutex<Sent>>::default(), Arc::<AtomicBool>::default());
        let (next, starts_at) = (Arc::new(AtomicUsize::new(0)), Timestamp::now());
        let url = eventpulse.url("webhooks/alertmanager");
        let senders = (0..SENDERS).map(|_| {
            let (sent, over, next, url) = (Arc::clone(&sent), Arc::clone(&over), Arc::clone(&next), url.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    let place = next.fetch_add(1, Ordering::SeqCst);
                    let n = format!("{name}-{place}");
                    let body = webhook(&[Alert::firing("Load", starts_at).label("n", &n)]);
                    // One of fifty hangs up before its answer comes.
                    let reply = if place % 50 == 49 {
                        hang_up(&url, &body).await
                    } else {
                        client::post(&url, &body).await.ok()
                    };
                    sent.lock().unwrap().note(n, reply);
                    tokio::time::sleep(PACE).await;
                }
            })
        });
        Self { senders: senders.collect(), sent, over }
    }

    async fn end(self) -> Sent {
        self.over.store(true, Ordering::SeqCst);
        for sender in self.senders {
            sender.await.unwrap();
        }
        std::mem::take(&mut self.sent.lock().unwrap())
    }

    fn accepted(&self) -> usize {
        self.sent.lock().unwrap().accepted.len()
    }

    fn refused(&self) -> usize {
        self.sent.lock().unwrap().refused.len()
    }
}

impl Sent {
    fn note(&mut self, n: String, reply: Option<Reply>) {
        match reply {
            None => self.unanswered.insert(n),
            Some(reply) if reply.is_success() => self.accepted.insert(n),
            Some(reply)
                if reply.status == 503
                    && reply.retry_after.as_deref().is_some_and(|text| text.parse::<u32>().is_ok()) =>
            {
                self.refused.insert(n)
            }
            Some(reply) => {
                self.strange.push(format!("{n}: {} {}", reply.status, reply.text()));
                true
            }
        };
    }
}

/// Sends the request whole and closes the connection.
async fn hang_up(url: &str, body: &Value) -> Option<Reply> {
    let (address, path) = url.strip_prefix("http://")?.split_once('/')?;
    let body = body.to_string();
    let head = format!(
        "POST /{path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all((head + &body).as_bytes()).await.ok()?;
    None
}

/// Two ingests under load while the broker stops for a minute: one whose outbox is large enough, and one whose outbox fills.
#[tokio::test(flavor = "multi_thread")]
async fn f_while_the_broker_is_away_what_is_accepted_waits_and_what_is_refused_is_not_done() {
    let mut shop = Shop::open("e2e-f", true).await.unwrap();
    let brokers = shop.environment.kafka().bootstrap();
    let ingest = |name: &str| shop.launcher(name).services(&["ingest"]).kafka(&brokers, "");
    let large = ingest("large").start(START).await.unwrap();
    let small = ingest("small").arg(format!("--outbox-max-alerts={SMALL_OUTBOX}")).start(START).await.unwrap();
    let (on_large, on_small) = (Load::on("large", &large), Load::on("small", &small));
    // One that only consumes: nothing that it publishes tells it that the broker is away.
    let consumer = shop.launcher("rules").services(&["rules"]).kafka(&brokers, "").start(START).await.unwrap();
    until(&shop, "a hundred accepted by each", || on_large.accepted() >= 100 && on_small.accepted() >= 100).await;

    shop.environment.kafka().stop().await;
    let (before, accepted) = (on_large.accepted(), on_small.accepted());
    let away = tokio::time::Instant::now();
    for (name, eventpulse) in [("large", &large), ("small", &small), ("rules", &consumer)] {
        says_that_the_broker_is_away(&shop, name, eventpulse).await;
    }
    tokio::time::sleep_until(away + AWAY).await;
    let waiting = large.metric("eventpulse_outbox_entries", "").await;
    let (during, refused) = (on_large.accepted() - before, on_small.refused());
    println!("\n  a minute without a broker: the large outbox accepted {during}, {waiting} of them wait");
    println!("  the small one accepted {} and refused {refused}", on_small.accepted() - accepted);
    assert!(during > 100 && waiting >= during as f64, "all that the large one accepted waits: {waiting} of {during}");
    assert!(refused > 100, "the small one is full");
    assert!(small.metric("eventpulse_outbox_entries", "").await <= SMALL_OUTBOX as f64);

    shop.environment.kafka_mut().restart().await.unwrap();
    let accepted = on_small.accepted();
    until(&shop, "the small one accepts again", || on_small.accepted() >= accepted + 200).await;
    let (large_sent, small_sent) = (on_large.end().await, on_small.end().await);
    for (name, eventpulse) in [("large", &large), ("small", &small)] {
        let empty = async || (eventpulse.metric("eventpulse_outbox_entries", "").await == 0.0).then_some(());
        shop.wait_for_async(&format!("the {name} outbox is empty"), empty).await;
        eventpulse.wait_ready(START).await.unwrap();
    }
    consumer.wait_ready(START).await.unwrap();
    assert!(large_sent.refused.is_empty(), "{} were refused by the large one", large_sent.refused.len());

    let records = shop.environment.kafka().client().read(&["alert.raised"]).await.unwrap();
    let on_topic: BTreeSet<String> = records
        .iter()
        .filter_map(|record| {
            let data: Value = serde_json::from_str(&record.value).ok()?;
            data["labels"]["n"].as_str().map(str::to_owned)
        })
        .collect();
    for (name, sent) in [("large", large_sent), ("small", small_sent)] {
        assert_as_answered(name, &sent, &on_topic);
    }
    shop.environment.stop().await;
}

/// What was answered 2xx is on the topic; what is there beside it was never answered.
fn assert_as_answered(name: &str, sent: &Sent, on_topic: &BTreeSet<String>) {
    let of_it: BTreeSet<_> = on_topic.iter().filter(|n| n.starts_with(name)).cloned().collect();
    let (lost, extra) = (&sent.accepted - &of_it, &of_it - &sent.accepted);
    println!(
        "  {name}: {} accepted, {} refused, {} unanswered; on the topic {}, {} of them unanswered",
        sent.accepted.len(),
        sent.refused.len(),
        sent.unanswered.len(),
        of_it.len(),
        extra.len()
    );
    assert!(sent.strange.is_empty(), "{:?}", sent.strange);
    assert!(lost.is_empty(), "{name}: answered 2xx and not on the topic: {lost:?}");
    assert!(extra.is_subset(&sent.unanswered), "{name}: refused, and on the topic: {:?}", &extra - &sent.unanswered);
    assert!(!extra.is_empty(), "{name}: what hung up after its request was sent whole may be accepted, and mostly is");
}

async fn says_that_the_broker_is_away(shop: &Shop, name: &str, eventpulse: &EventPulse) {
    let says_so = async || {
        let reply = eventpulse.readiness().await?;
        (reply.status == 503 && reply.text().contains("/bus: ")).then_some(())
    };
    shop.wait_for_async(&format!("/readyz of {name} that says that the broker is away"), says_so).await;
}

async fn until(shop: &Shop, what: &str, check: impl Fn() -> bool) {
    shop.wait_for(what, || check().then_some(())).await;
}
