//! (c) What comes again changes nothing.

use std::{collections::BTreeMap, time::Duration};

use eventpulse_e2e::{START, Shop};
use eventpulse_testkit::alerts::{Alert, webhook};
use jiff::Timestamp;

const TOPICS: [&str; 9] = [
    "alert.raised",
    "incident.opened",
    "incident.updated",
    "action.requested",
    "action.completed",
    "action.failed",
    "notification.requested",
    "notification.delivered",
    "notification.failed",
];

/// Those of them on which this story leaves something.
const HAPPENED: [&str; 7] = [
    "action.completed",
    "action.requested",
    "alert.raised",
    "incident.opened",
    "incident.updated",
    "notification.delivered",
    "notification.requested",
];

/// Fifty deliveries by two senders; then every event so far once more under an id of its own; then everything from the beginning of
/// the log: one incident, one replica more, one message.
#[tokio::test(flavor = "multi_thread")]
async fn c_an_alert_fifty_times_republished_and_read_again_from_the_beginning_acts_once() {
    let shop = Shop::open("e2e-c", true).await.unwrap();
    let kafka = shop.environment.kafka();
    let eventpulse = shop.launcher("eventpulse").kafka(&kafka.bootstrap(), "").start(START).await.unwrap();
    let body = webhook(&[Alert::cpu_high("svc-a", Timestamp::now())]);
    for _ in 0..25 {
        let (one, two) = tokio::join!(
            eventpulse.post("webhooks/alertmanager", &body),
            eventpulse.post("webhooks/alertmanager", &body)
        );
        assert!(one.unwrap().is_success() && two.unwrap().is_success());
    }
    shop.incidents_in(1, &["Resolved"]).await;
    shop.messages(1).await;

    let mut again = BTreeMap::new();
    for topic in TOPICS {
        let records: Vec<_> = kafka.client().read(&[topic]).await.unwrap();
        let renamed: Vec<_> = records
            .into_iter()
            .enumerate()
            .map(|(i, record)| record.with_header("ce_id", format!("again-{}-{i}", topic.replace('.', "-"))))
            .collect();
        if !renamed.is_empty() {
            kafka.client().produce(topic, &renamed).await.unwrap();
        }
        again.insert(topic, renamed.len());
    }
    let published: Vec<_> = again.iter().filter(|(_, count)| **count > 0).map(|(topic, _)| *topic).collect();
    assert_eq!(published, HAPPENED, "published again under other ids");
    assert_eq!(again["alert.raised"], 50, "each delivery is a record");
    let again: usize = again.values().sum();
    settled(&shop).await;

    assert!(eventpulse.stop(START).await);
    let rewound = kafka.client().rewind_every_group().await.unwrap();
    let groups = ["actions", "incidents", "notify", "rules"];
    assert!(groups.iter().all(|group| rewound.contains(group)), "{rewound}");
    let unread = kafka.client().lag().await.unwrap();
    assert!(unread >= 2 * again, "{unread} records are to be read again");
    let eventpulse = eventpulse.start_again(START).await.unwrap();
    // What is posted now comes after all that is read again.
    assert!(eventpulse.post("webhooks/alertmanager", &body).await.unwrap().is_success());
    settled(&shop).await;
    assert!(eventpulse.stop(START).await, "an ordered stop, which stores every offset");
    assert_eq!(kafka.client().lag().await.unwrap(), 0, "all of it was read again");
    settled(&shop).await;
    println!("  {again} events published again under other ids, then {unread} records read again from the beginning");
    shop.environment.stop().await;
}

async fn settled(shop: &Shop) {
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!((shop.replicas("svc-a"), shop.get("incidents").len(), shop.sink.received().len()), (4, 1, 1));
    assert_eq!((shop.get("actions").len(), shop.get("notifications").len()), (1, 1));
    shop.assert_no_action_twice();
}
