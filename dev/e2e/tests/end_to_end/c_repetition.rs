//! (c) What comes again changes nothing.

use std::time::Duration;

use eventpulse_e2e::{START, Shop};
use eventpulse_testkit::alerts::{Alert, webhook};
use jiff::Timestamp;

/// (c) Fifty deliveries by two senders are one incident, one replica more, one message; and a restart changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn c_the_same_alert_fifty_times_by_two_senders_acts_once() {
    let shop = Shop::open("e2e-c", false).await.unwrap();
    let eventpulse = shop.launcher("eventpulse").start(START).await.unwrap();
    let body = webhook(&[Alert::cpu_high("svc-a", Timestamp::now())]);
    for _ in 0..25 {
        let (one, two) = tokio::join!(
            eventpulse.post("webhooks/alertmanager", &body),
            eventpulse.post("webhooks/alertmanager", &body)
        );
        assert!(one.unwrap().is_success() && two.unwrap().is_success());
    }
    shop.incidents_in(1, &["Resolved"]).await;
    shop.sink.wait_for(1, START).await.unwrap();
    assert!(eventpulse.stop(START).await);
    let eventpulse = eventpulse.start_again(START).await.unwrap();
    assert!(eventpulse.post("webhooks/alertmanager", &body).await.unwrap().is_success());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((shop.replicas("svc-a"), shop.get("incidents").len(), shop.sink.received().len()), (4, 1, 1));
    shop.environment.stop().await;
}
