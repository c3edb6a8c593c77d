//! (e) Killed at any moment, on the embedded log.

use std::time::Duration;

use eventpulse_e2e::{START, Shop};
use eventpulse_env::ControlPlaneOptions;
use eventpulse_testkit::alerts::{Alert, webhook};
use jiff::Timestamp;

/// (e) The embedded log, killed with -9 in the middle and started again; the sender resends only what got no 2xx.
#[tokio::test(flavor = "multi_thread")]
async fn e_killed_with_9_in_the_middle_of_forty_alerts_nothing_is_lost_and_nothing_done_twice() {
    const ALERTS: usize = 40;
    let options = ControlPlaneOptions::default();
    let environment = eventpulse_env::Environment::builder("e2e-e").control_plane(options).start().await.unwrap();
    let shop = Shop::furnish(environment).await.unwrap();
    for i in 0..ALERTS {
        shop.add_deployment(&format!("t{i}")).unwrap();
    }
    let mut eventpulse = shop.launcher("eventpulse").start(START).await.unwrap();
    let seed = Timestamp::now().as_millisecond() as usize;
    let kill_at = 5 + seed % (ALERTS - 10);
    println!("  killed at alert {kill_at} of {ALERTS}");
    let starts_at = Timestamp::now();
    for i in 0..ALERTS {
        if i == kill_at {
            eventpulse.kill();
            eventpulse = eventpulse.start_again(START).await.unwrap();
        }
        let body = webhook(&[Alert::cpu_high(&format!("t{i}"), starts_at)]);
        while !eventpulse.post("webhooks/alertmanager", &body).await.is_ok_and(|reply| reply.is_success()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    shop.incidents_in(ALERTS, &["Resolved"]).await;
    for i in 0..ALERTS {
        assert_eq!(shop.replicas(&format!("t{i}")), 2, "t{i}, killed at {kill_at}");
    }
    shop.environment.stop().await;
}
