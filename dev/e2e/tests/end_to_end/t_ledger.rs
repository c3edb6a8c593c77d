//! (t) `eventpulse ledger` after kills at random moments: what was accepted equals the sum of the reasons, and what is taken away is named.

use std::{
    path::Path,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use eventpulse_e2e::{START, Shop, runs};
use eventpulse_testkit::{
    alerts::webhook,
    client,
    eventpulse::{Launcher, find_binary},
};
use jiff::Timestamp;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rusqlite::Connection;
use serde_json::Value;

const ALERTS: usize = 100;
const KILLS: usize = 4;
const SENDERS: usize = 4;
/// Between two alerts of one sender: so many that a kill meets every stage of other alerts' way.
const PACE: Duration = Duration::from_millis(20);

fn ledger(log: &[String]) -> Output {
    Command::new(find_binary().unwrap()).arg("ledger").args(log).args(["-o", "json"]).output().unwrap()
}

/// The account, and the exit code that it ended with.
fn account(log: &[String]) -> (Option<i32>, Value) {
    let output = ledger(log);
    let account = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), account)
}

/// `ALERTS` alerts of a run, and half as many that no rule matches; what got no 2xx is sent again, so that each is accepted at last.
fn send(url: String, run: usize, answered: Arc<AtomicUsize>) -> tokio::task::JoinHandle<()> {
    let (next, starts_at) = (Arc::new(AtomicUsize::new(0)), Timestamp::now());
    tokio::spawn(async move {
        let senders = (0..SENDERS).map(|_| {
            let (url, next, answered) = (url.clone(), Arc::clone(&next), Arc::clone(&answered));
            tokio::spawn(async move {
                loop {
                    let target = next.fetch_add(1, Ordering::SeqCst);
                    if target >= ALERTS {
                        return;
                    }
                    let mut alerts = vec![runs::alert("Run", run, target, starts_at)];
                    if target % 2 == 0 {
                        alerts.push(runs::alert("Unmatched", run, target, starts_at));
                    }
                    while !client::post(&url, &webhook(&alerts)).await.is_ok_and(|reply| reply.is_success()) {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    answered.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(PACE).await;
                }
            })
        });
        for sender in senders.collect::<Vec<_>>() {
            sender.await.unwrap();
        }
    })
}

async fn every_alert_has_its_reason(
    name: &str,
    kafka: bool,
) -> (Shop, Vec<String>, eventpulse_testkit::eventpulse::EventPulse) {
    let seed = std::env::var("EVENTPULSE_SEED")
        .map_or_else(|_| Timestamp::now().as_microsecond(), |text| text.parse().unwrap());
    println!("\n  EVENTPULSE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed as u64);
    let shop = Shop::open(name, kafka).await.unwrap();
    shop.add_targets(ALERTS).unwrap();
    shop.environment.plane().apply(&(0..KILLS).map(|run| runs::rule("run", "Run", run)).collect::<String>()).unwrap();
    let data = shop.environment.dir().join("data");
    let mut log = vec![format!("--data-dir={}", data.display())];
    let mut launcher: Launcher = shop.launcher("eventpulse").data_dir(&data);
    if kafka {
        let brokers = shop.environment.kafka().bootstrap();
        launcher = launcher.kafka(&brokers, "t-");
        log.extend([format!("--kafka-brokers={brokers}"), "--topic-prefix=t-".to_owned()]);
    }
    let mut eventpulse = launcher.start(START).await.unwrap();
    for run in 0..KILLS {
        let answered = Arc::new(AtomicUsize::new(0));
        let senders = send(eventpulse.url("webhooks/alertmanager"), run, Arc::clone(&answered));
        let (after, delay) = (random.random_range(0..=ALERTS), Duration::from_millis(random.random_range(0..50)));
        while answered.load(Ordering::SeqCst) < after {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // On Kafka it takes the session timeout of the member that was killed until rules has its partitions.
        let decides = async || (eventpulse.metric("eventpulse_alerts_decided_total", "").await > 0.0).then_some(());
        shop.wait_for_async("the first decision", decides).await;
        tokio::time::sleep(delay).await;
        eventpulse.kill();
        // Whatever lies between acceptance and decision is under way, and nothing is missing.
        let (code, found) = account(&log);
        assert_eq!(code, Some(0), "run {run}, seed {seed}: {found:#}");
        println!("  run {run}: killed when {after} of {ALERTS} were answered: {}", found["alerts"]);
        eventpulse = eventpulse.start_again(START).await.unwrap();
        senders.await.unwrap();
    }
    let accepted = (KILLS * ALERTS * 3 / 2) as u64;
    let all = shop
        .wait_for(&format!("{accepted} decided alerts, seed {seed}"), || {
            let (code, found) = account(&log);
            assert_eq!(code, Some(0), "seed {seed}: {found:#}");
            (found["alerts"]["decided"] == accepted).then_some(found)
        })
        .await;
    assert_eq!((&all["alerts"]["accepted"], &all["alerts"]["underWay"]), (&accepted.into(), &0.into()), "{all:#}");
    // One reason for each alert, and by the rule: opened once, or no rule.
    let reasons = &all["decisions"]["reasons"];
    assert_eq!(
        (&reasons["opened"], &reasons["noRule"]),
        (&(accepted * 2 / 3).into(), &(accepted / 3).into()),
        "{all:#}"
    );
    assert_eq!(all["decisions"]["counted"], accepted, "{all:#}");
    println!("  decisions: {}", all["decisions"]);
    (shop, log, eventpulse)
}

/// Takes every record of a topic out of the log that speaks of this alert.
fn take_away(data: &Path, topic: &str, alert_id: &str) {
    let log = Connection::open(data.join("log/log.sqlite")).unwrap();
    let taken = log.execute(
        "DELETE FROM records WHERE topic = (SELECT id FROM topics WHERE name = ?1) AND instr(CAST(value AS TEXT), ?2) > 0",
        [topic, alert_id],
    );
    assert!(taken.unwrap() > 0, "nothing on {topic} speaks of {alert_id}");
}

/// The last alert of this name. Without the first records of a partition it would look as if the log had let go of them.
fn some_alert(data: &Path, alertname: &str) -> Value {
    let log = Connection::open(data.join("log/log.sqlite")).unwrap();
    let text: String = log
        .query_row(
            "SELECT CAST(value AS TEXT) FROM records WHERE topic = (SELECT id FROM topics WHERE name = 'alert.raised')
             AND instr(CAST(value AS TEXT), ?1) > 0 ORDER BY seq DESC LIMIT 1",
            [format!("\"alertname\":\"{alertname}\"")],
            |row| row.get(0),
        )
        .unwrap();
    serde_json::from_str(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn t_killed_at_random_moments_every_accepted_alert_has_its_reason_and_what_is_taken_away_is_named() {
    let (shop, log, eventpulse) = every_alert_has_its_reason("e2e-t", false).await;
    let data = shop.environment.dir().join("data");
    assert!(eventpulse.stop(START).await);
    let (withheld, stolen) = (some_alert(&data, "Unmatched"), some_alert(&data, "Run"));
    let id = |alert: &Value| alert["alertID"].as_str().unwrap().to_owned();
    take_away(&data, "alert.decided", &id(&withheld));
    let (code, found) = account(&log);
    assert_eq!((code, &found["alerts"]["missing"]), (Some(1), &1.into()), "{found:#}");
    let missing = &found["missing"][0];
    for field in ["alertID", "fingerprint", "source", "acceptedAt"] {
        assert_eq!(missing[field], withheld[field], "{found:#}");
    }
    assert_eq!(missing["alertname"], "Unmatched");
    take_away(&data, "alert.raised", &id(&stolen));
    let (code, found) = account(&log);
    assert_eq!((code, &found["alerts"]["neverRaised"]), (Some(1), &1.into()), "{found:#}");
    assert_eq!(found["neverRaised"][0]["alertID"], stolen["alertID"], "{found:#}");
    let said = String::from_utf8(ledger(&log).stderr).unwrap();
    assert!(said.contains("1 accepted alerts have no reason; 1 alerts were decided and never raised"), "{said}");
    shop.environment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t_killed_at_random_moments_on_kafka_every_accepted_alert_has_its_reason() {
    let (shop, _, eventpulse) = every_alert_has_its_reason("e2e-t-kafka", true).await;
    assert!(eventpulse.stop(START).await);
    shop.environment.stop().await;
}
