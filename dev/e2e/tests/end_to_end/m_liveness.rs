//! (m) What is away or frozen outside makes EventPulse not ready and leaves it alive; a receiver that hangs does not keep it from
//! stopping. How long it takes to be ready is printed.

use std::time::{Duration, Instant};

use eventpulse_e2e::{START, Shop};
use eventpulse_testkit::{
    alerts::{Alert, webhook},
    client,
    eventpulse::{EventPulse, Launcher},
    sink::Answer,
};
use jiff::Timestamp;

const CHANNEL: &str = "/services/T000/B000/demo";
/// How long what is frozen stays so: longer than any probe would have patience.
const FROZEN: Duration = Duration::from_secs(30);
const MESSAGES: usize = 8;

/// Starts it, and prints how long it took to be ready, and what it waited for.
async fn timed(what: &str, launcher: Launcher) -> EventPulse {
    let begin = Instant::now();
    let eventpulse = launcher.spawn().unwrap();
    let mut waits: Vec<(Duration, String)> = Vec::new();
    loop {
        if let Some(reply) = eventpulse.readiness().await {
            let text = reply.text().lines().next().unwrap_or_default().to_owned();
            let part = text.split(": ").next().unwrap_or_default().to_owned();
            if waits.last().is_none_or(|(_, last)| *last != part) {
                waits.push((begin.elapsed(), part));
            }
            if reply.is_success() {
                break;
            }
        }
        assert!(begin.elapsed() < START, "{what}: {waits:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("  start to ready, {what}: {} ms", begin.elapsed().as_millis());
    for (at, part) in waits {
        println!("    {:>6} ms {part}", at.as_millis());
    }
    eventpulse
}

async fn status(eventpulse: &EventPulse, path: &str) -> u16 {
    client::get(&eventpulse.admin_url(path)).await.map_or(0, |reply| reply.status)
}

/// Waits until it says that it is not ready, and holds it to being alive for a while.
async fn is_red_and_alive(shop: &Shop, eventpulse: &EventPulse, part: &str) {
    let red = async || {
        let reply = eventpulse.readiness().await?;
        (reply.status == 503 && reply.text().contains(part)).then(|| reply.text())
    };
    let text = shop.wait_for_async(&format!("/readyz that tells of {part}"), red).await;
    println!("  /readyz: {}", text.lines().next().unwrap_or_default());
    let begin = Instant::now();
    while begin.elapsed() < FROZEN {
        assert_eq!(status(eventpulse, "livez").await, 200, "it would be restarted, which mends nothing");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(status(eventpulse, "readyz").await, 503, "it is still frozen");
}

#[tokio::test(flavor = "multi_thread")]
async fn m_what_is_frozen_outside_makes_it_not_ready_and_leaves_it_alive() {
    let shop = Shop::open("e2e-m", true).await.unwrap();
    println!();
    let embedded = timed("embedded log", shop.launcher("embedded")).await;
    assert!(embedded.stop(START).await);
    let kafka = || shop.launcher("eventpulse").kafka(&shop.environment.kafka().bootstrap(), "");
    let first = timed("Kafka, topics to be created", kafka()).await;
    assert!(first.stop(START).await);
    let eventpulse = timed("Kafka", kafka()).await;

    shop.environment.kafka().process().freeze();
    is_red_and_alive(&shop, &eventpulse, "process/bus").await;
    // Alerts are taken until the outbox is full.
    assert_eq!(status(&eventpulse, "readyz/ingest").await, 200);
    let alert = webhook(&[Alert::firing("Nobody", Timestamp::now())]);
    assert_eq!(eventpulse.post("webhooks/alertmanager", &alert).await.unwrap().status, 200);
    shop.environment.kafka().process().thaw();
    eventpulse.wait_ready(START).await.unwrap();

    let apiserver = shop.environment.plane().apiserver().unwrap();
    apiserver.freeze();
    is_red_and_alive(&shop, &eventpulse, "/watch ").await;
    assert_eq!((status(&eventpulse, "readyz/ingest").await, status(&eventpulse, "readyz/rules").await), (200, 503));
    apiserver.thaw();
    eventpulse.wait_ready(START).await.unwrap();
    assert!(eventpulse.stop(START).await);
    shop.environment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn m_a_receiver_that_hangs_does_not_keep_it_from_stopping_and_nothing_new_is_begun() {
    let shop = Shop::open("e2e-m-stop", false).await.unwrap();
    shop.add_targets(MESSAGES).unwrap();
    shop.sink.always(CHANNEL, Some(Answer::hang()));
    let eventpulse = shop.launcher("eventpulse").start(START).await.unwrap();
    let starts_at = Timestamp::now();
    let alerts: Vec<Alert> = (0..MESSAGES).map(|n| Alert::cpu_high(&format!("t{n}"), starts_at)).collect();
    assert_eq!(eventpulse.post("webhooks/alertmanager", &webhook(&alerts)).await.unwrap().status, 200);
    // Some hang, the others wait for their turn.
    shop.messages(1).await;
    shop.incidents_in(MESSAGES, &["Resolved"]).await;
    let (begin, at) = (Instant::now(), Timestamp::now());
    assert!(eventpulse.stop(START).await, "it ends by itself and well: {}", eventpulse.process().last_lines());
    println!("\n  SIGTERM with a receiver that hangs: {} ms", begin.elapsed().as_millis());
    // The defaults grant 28 s; Kubernetes kills after 30.
    assert!(begin.elapsed() < Duration::from_secs(28));
    let late = shop.sink.received().iter().filter(|message| message.at > at + Duration::from_secs(1)).count();
    assert_eq!(late, 0, "messages that were begun after it was asked to stop");
    shop.sink.always(CHANNEL, None);
    let again = eventpulse.start_again(START).await.unwrap();
    shop.wait_for("every message", || (shop.sink.count_by_key().len() == MESSAGES).then_some(())).await;
    shop.assert_further_copies_are_marked();
    assert!(again.stop(START).await);
    shop.environment.stop().await;
}
