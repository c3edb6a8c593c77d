//! (j) The API server is away: what was accepted waits, and nothing is done twice when it is back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use eventpulse_e2e::{START, Shop, effects::effects_by_action};
use eventpulse_testkit::{
    alerts::{Alert, webhook},
    client,
};
use jiff::Timestamp;
use tokio::task::JoinHandle;

const ALERTS: usize = 100;
const PACE: Duration = Duration::from_millis(300);
const AWAY: Duration = Duration::from_secs(20);

/// Alerts one after the other, all the time; each is accepted, whatever is away behind ingest. Gives what was not.
fn send(url: String, answered: Arc<AtomicUsize>) -> JoinHandle<Vec<String>> {
    let starts_at = Timestamp::now();
    tokio::spawn(async move {
        let mut refused = Vec::new();
        for target in 0..ALERTS {
            let reply = client::post(&url, &webhook(&[Alert::cpu_high(&format!("t{target}"), starts_at)])).await;
            match reply {
                Ok(reply) if reply.is_success() => {}
                Ok(reply) => refused.push(format!("t{target}: {} {}", reply.status, reply.text())),
                Err(error) => refused.push(format!("t{target}: {error}")),
            }
            answered.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(PACE).await;
        }
        refused
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn j_while_the_api_server_is_away_what_is_accepted_waits_and_is_done_once_when_it_is_back() {
    let mut shop = Shop::open("e2e-j", false).await.unwrap();
    shop.add_targets(ALERTS).unwrap();
    // Calls that nobody answers open it; half a minute more is not the question here.
    shop.patch("runbook/scale-up", r#"{"spec": {"circuitBreaker": {"failureThreshold": 5, "openDuration": "2s"}}}"#)
        .unwrap();
    let eventpulse = shop.launcher("eventpulse").start(START).await.unwrap();
    let answered = Arc::new(AtomicUsize::new(0));
    let sender = send(eventpulse.url("webhooks/alertmanager"), Arc::clone(&answered));
    shop.wait_for("a tenth of the alerts", || (answered.load(Ordering::SeqCst) >= ALERTS / 10).then_some(())).await;

    shop.environment.plane_mut().stop_apiserver().await;
    let (away, before) = (tokio::time::Instant::now(), answered.load(Ordering::SeqCst));
    let said = shop
        .wait_for_async("/readyz that says that the API server is away", async || {
            eventpulse.readiness().await.filter(|reply| reply.status == 503)
        })
        .await
        .text();
    println!("\n  /readyz meanwhile:\n{}", said.lines().map(|line| format!("    {line}\n")).collect::<String>());
    tokio::time::sleep_until(away + AWAY).await;
    let during = answered.load(Ordering::SeqCst) - before;
    assert_eq!(eventpulse.readiness().await.map(|reply| reply.status), Some(503), "it is still away");
    shop.environment.plane_mut().start_apiserver().await.unwrap();
    eventpulse.wait_ready(START).await.unwrap();
    assert_eq!(sender.await.unwrap(), Vec::<String>::new(), "every alert was accepted");
    println!("  {during} alerts were accepted while it was away");
    assert!(during > 0);

    shop.incidents_in(ALERTS, &["Resolved"]).await;
    shop.messages(ALERTS).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let wrong: Vec<_> = shop.targets().into_iter().filter(|(_, replicas)| *replicas != 1).collect();
    assert!(wrong.is_empty(), "each target once: {wrong:?}");
    assert_eq!((shop.get("incidents").len(), shop.get("actions").len()), (ALERTS, ALERTS));
    assert_eq!(shop.sink.count_by_key().len(), ALERTS);
    shop.assert_no_action_twice();
    // A patch whose answer went with the API server may not be in its log.
    let effects = effects_by_action(shop.environment.plane()).len();
    assert!(effects <= ALERTS && effects > ALERTS * 9 / 10, "{effects} effects in the audit log");
    shop.environment.stop().await;
}
