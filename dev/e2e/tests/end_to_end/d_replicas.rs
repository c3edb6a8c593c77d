//! (d) Every service as processes of its own, two replicas of each, and one of each killed under load.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use eventpulse_e2e::{START, Shop};
use eventpulse_testkit::{
    alerts::{Alert, webhook},
    client,
    eventpulse::{EventPulse, Launcher},
};
use jiff::Timestamp;
use tokio::task::JoinSet;

const ALERTS: usize = 100;
const SENDERS: usize = 4;
const PACE: Duration = Duration::from_millis(100);
const SERVICES: [&str; 6] = ["ingest", "rules", "actions", "incidents", "notify", "config"];

fn launcher(shop: &Shop, service: &str, replica: usize) -> Launcher {
    let kafka = shop.environment.kafka().bootstrap();
    let launcher = shop.launcher(&format!("{service}-{replica}")).services(&[service]).kafka(&kafka, "");
    // A dead member is missed after 6 s instead of 10: the least that the broker allows.
    launcher.arg("--kafka-config=session.timeout.ms=6000").arg("--kafka-config=heartbeat.interval.ms=1000")
}

/// Whether a sink's receiver could know that this is not the first copy.
/// Alerts one after the other, each to the ingest that answered last, and to the other one when that does not answer.
async fn send(urls: [String; 2], next: Arc<AtomicUsize>, starts_at: Timestamp) {
    let mut place = 0;
    loop {
        let target = next.fetch_add(1, Ordering::SeqCst);
        if target >= ALERTS {
            return;
        }
        let body = webhook(&[Alert::cpu_high(&format!("t{target}"), starts_at)]);
        while !client::post(&urls[place % 2], &body).await.is_ok_and(|reply| reply.is_success()) {
            place += 1;
            tokio::time::sleep(PACE / 2).await;
        }
        tokio::time::sleep(PACE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d_with_two_replicas_of_each_service_and_one_of_each_killed_every_alert_has_one_effect() {
    let shop = Shop::open("e2e-d", true).await.unwrap();
    shop.add_targets(ALERTS).unwrap();
    let mut replicas: BTreeMap<&str, Vec<EventPulse>> = BTreeMap::new();
    for service in SERVICES {
        // The first one creates the topics that it needs; the second one finds them.
        for replica in 0..2 {
            replicas.entry(service).or_default().push(launcher(&shop, service, replica).start(START).await.unwrap());
        }
    }
    let urls = [0, 1].map(|replica| replicas["ingest"][replica].url("webhooks/alertmanager"));
    let (next, starts_at) = (Arc::new(AtomicUsize::new(0)), Timestamp::now());
    let mut senders: JoinSet<()> = (0..SENDERS).map(|_| send(urls.clone(), Arc::clone(&next), starts_at)).collect();

    // One of each, at different moments of the load.
    for (i, service) in SERVICES.iter().enumerate() {
        let moment = (i + 1) * ALERTS / 8;
        while next.load(Ordering::SeqCst) < moment {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        replicas[service][i % 2].kill();
    }
    println!("\n  one replica of each service killed while {ALERTS} alerts came");
    // What the dead ingest had accepted is on its disk: it is published when that comes back.
    let again = replicas["ingest"][0].start_again(START).await.unwrap();
    while let Some(sender) = senders.join_next().await {
        sender.unwrap();
    }

    shop.incidents_in(ALERTS, &["Resolved"]).await;
    let wrong: Vec<_> = shop.targets().into_iter().filter(|(_, replicas)| *replicas != 1).collect();
    assert!(wrong.is_empty(), "each target once: {wrong:?}");
    shop.assert_no_action_twice();
    assert_eq!(shop.get("actions").len(), ALERTS);

    // One message for each incident; a second copy is possible where the sender died, and says so.
    shop.wait_for("a message for each incident", || (shop.sink.count_by_key().len() >= ALERTS).then_some(())).await;
    shop.wait_for("every notification delivered", || {
        let notifications = shop.get("notifications");
        notifications.iter().all(|notification| notification["spec"]["phase"] == "Delivered").then_some(())
    })
    .await;
    assert_eq!((shop.sink.count_by_key().len(), shop.get("notifications").len()), (ALERTS, ALERTS));
    shop.assert_further_copies_are_marked();
    println!("  {ALERTS} incidents, {ALERTS} effects, {} messages", shop.sink.received().len());
    drop(again);
    shop.environment.stop().await;
}
