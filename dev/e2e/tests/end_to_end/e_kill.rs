//! (e) Killed at any moment, on the embedded log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use eventpulse_e2e::{START, Shop, effects::effects_by_action, runs};
use eventpulse_testkit::{alerts::webhook, client};
use jiff::Timestamp;
use rand::{RngExt, SeedableRng, rngs::StdRng};

const ALERTS: usize = 200;
const RUNS: usize = 10;
const SENDERS: usize = 4;
/// Between two alerts of one sender: so many that the kill meets every stage of other alerts' way.
const PACE: Duration = Duration::from_millis(30);

/// (e) The embedded log, killed with -9 at a random moment in two hundred alerts and started again, ten times over; the senders send
/// again only what got no 2xx. Set `EVENTPULSE_SEED` to the number that was printed to have the same moments again.
#[tokio::test(flavor = "multi_thread")]
async fn e_killed_with_9_at_a_random_moment_nothing_is_lost_and_nothing_done_twice() {
    let seed = std::env::var("EVENTPULSE_SEED")
        .map_or_else(|_| Timestamp::now().as_microsecond(), |text| text.parse().unwrap());
    println!("\n  EVENTPULSE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed as u64);
    let shop = Shop::open("e2e-e", false).await.unwrap();
    shop.add_targets(ALERTS).unwrap();
    shop.environment.plane().apply(&(0..RUNS).map(|run| runs::rule("run", "Run", run)).collect::<String>()).unwrap();
    let mut eventpulse = shop.launcher("eventpulse").start(START).await.unwrap();
    for run in 0..RUNS {
        let begin = Instant::now();
        let answered = Arc::new(AtomicUsize::new(0));
        let senders = send(eventpulse.url("webhooks/alertmanager"), run, Arc::clone(&answered));
        let (after, delay) = (random.random_range(0..=ALERTS), Duration::from_millis(random.random_range(0..50)));
        while answered.load(Ordering::SeqCst) < after {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(delay).await;
        eventpulse.kill();
        let at = answered.load(Ordering::SeqCst);
        eventpulse = eventpulse.start_again(START).await.unwrap();
        let again: usize = senders.await.unwrap();
        shop.wait_for(&format!("{ALERTS} resolved incidents in run {run}, seed {seed}"), || {
            let phases = shop.phases("incidents", &format!("eventpulse.io/rule=run-{run}"));
            (phases.len() == ALERTS && phases.iter().all(|phase| phase == "Resolved")).then_some(())
        })
        .await;
        let seconds = begin.elapsed().as_secs_f32();
        println!(
            "  run {run}: killed when {at} of {ALERTS} were answered, {again} sent again, all resolved after {seconds:.1} s"
        );
        let wrong: Vec<_> = shop.targets().into_iter().filter(|(_, replicas)| *replicas != run as i64 + 1).collect();
        assert!(wrong.is_empty(), "each target once in each run; run {run}, seed {seed}: {wrong:?}");
    }
    // Whatever the last run would still do twice.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let wrong: Vec<_> = shop.targets().into_iter().filter(|(_, replicas)| *replicas != RUNS as i64).collect();
    assert!(wrong.is_empty(), "each target once in each run, also later; seed {seed}: {wrong:?}");
    // A patch whose sender died before its answer is a 504 in the audit log, whether it was committed or not: few are.
    let effects = effects_by_action(shop.environment.plane()).len();
    assert!(
        effects > RUNS * ALERTS * 9 / 10 && effects <= RUNS * ALERTS,
        "{effects} effects in the audit log, seed {seed}"
    );
    shop.assert_no_action_twice();
    assert_eq!(shop.get("incidents").len(), RUNS * ALERTS, "seed {seed}");
    shop.environment.stop().await;
}

/// Each alert in a request of its own, several at a time; gives how many had to be sent again.
fn send(url: String, run: usize, answered: Arc<AtomicUsize>) -> tokio::task::JoinHandle<usize> {
    let next = Arc::new(AtomicUsize::new(0));
    let starts_at = Timestamp::now();
    tokio::spawn(async move {
        let senders: Vec<_> = (0..SENDERS)
            .map(|_| {
                let (url, next, answered) = (url.clone(), Arc::clone(&next), Arc::clone(&answered));
                tokio::spawn(async move {
                    let mut again = 0;
                    loop {
                        let target = next.fetch_add(1, Ordering::SeqCst);
                        if target >= ALERTS {
                            return again;
                        }
                        let body = webhook(&[runs::alert("Run", run, target, starts_at)]);
                        while !client::post(&url, &body).await.is_ok_and(|reply| reply.is_success()) {
                            again += 1;
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                        answered.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(PACE).await;
                    }
                })
            })
            .collect();
        let mut again = 0;
        for sender in senders {
            again += sender.await.unwrap_or_default();
        }
        again
    })
}
