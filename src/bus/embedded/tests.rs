use std::path::Path;

use futures::FutureExt;

use super::*;
use crate::{
    bus::{Bus, SubscribeOptions, Subscription, SubscriptionEvent, TopicPartition, local::Storage, partition_of},
    events::{Record, Topic},
    runtime::clock::SystemClock,
};

const PARTITIONS: u32 = 2;

async fn open(directory: &Path) -> EmbeddedBus {
    let config = EmbeddedConfig { partitions: PARTITIONS, ..EmbeddedConfig::new(directory) };
    let options = LocalOptions { store_interval: Duration::from_millis(5), ..LocalOptions::default() };
    EmbeddedBus::open(config, Arc::new(SystemClock), Metrics::default(), options).await.unwrap()
}

fn at(partition: u32) -> TopicPartition {
    TopicPartition { topic: Topic::AlertRaised, partition }
}

fn record(partition: u32) -> Record {
    let key = (0..).map(|n: u32| n.to_string()).find(|key| partition_of(key, PARTITIONS) == partition);
    Record { topic: Topic::AlertRaised, key, headers: Vec::new(), value: "x".into() }
}

/// Somebody else's hand in the file.
fn in_file(directory: &Path, sql: &str) {
    let file = rusqlite::Connection::open(directory.join("log.sqlite")).unwrap();
    file.busy_timeout(Duration::from_secs(5)).unwrap();
    file.execute_batch(sql).unwrap();
}

async fn join(bus: &EmbeddedBus) -> Subscription {
    let options = SubscribeOptions { group: "rules".into(), topics: vec![Topic::AlertRaised], max_in_flight: 10 };
    bus.subscribe(options).await.unwrap()
}

async fn next_partition(subscription: &mut Subscription) -> u32 {
    let message = async {
        loop {
            if let SubscriptionEvent::Message(delivery) = subscription.next().await.unwrap() {
                delivery.ack.done();
                return delivery.at.partition;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), message).await.unwrap()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("took too long: {what}"));
}

#[tokio::test]
async fn a_damaged_record_holds_up_its_own_partition_alone_and_the_health_says_which() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(directory.path()).await;
    bus.publish(vec![record(0), record(1)]).await.unwrap();
    in_file(directory.path(), "UPDATE records SET headers = x'ff' WHERE partition = 0");
    let mut subscription = join(&bus).await;
    assert_eq!(next_partition(&mut subscription).await, 1);
    bus.publish(vec![record(1)]).await.unwrap();
    assert_eq!(next_partition(&mut subscription).await, 1);
    let reason = bus.health().unwrap_err();
    assert!(reason.starts_with("alert.raised/0 for consumer group ") && reason.contains("read the log"), "{reason}");
    // It is the member's trouble: with the member it goes, and comes with the next one.
    drop(subscription);
    eventually("nobody reads it", || bus.health().is_ok()).await;
    let mut subscription = join(&bus).await;
    eventually("somebody reads it", || bus.health().is_err()).await;
    in_file(directory.path(), "UPDATE records SET headers = x'' WHERE partition = 0");
    assert_eq!(next_partition(&mut subscription).await, 0);
    assert_eq!(bus.health(), Ok(()));
}

#[tokio::test]
async fn records_that_cannot_be_written_are_not_hidden_by_other_writes_and_the_health_mends_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(directory.path()).await;
    in_file(
        directory.path(),
        "CREATE TRIGGER refuse BEFORE INSERT ON records BEGIN SELECT RAISE(ABORT, 'as a test wants it'); END",
    );
    bus.publish(vec![record(0)]).await.unwrap_err();
    bus.storage().store_offsets(Vec::new()).await.unwrap();
    bus.storage().look_again().await;
    let reason = bus.health().unwrap_err();
    assert!(reason.starts_with("write records: "), "{reason}");
    in_file(directory.path(), "DROP TRIGGER refuse");
    eventually("nobody publishes, and it is well again", || bus.health().is_ok()).await;
    bus.publish(vec![record(0)]).await.unwrap();
    let chunk = bus.storage().read(at(0), 0, 10).await.unwrap();
    assert_eq!(chunk.records.len(), 1, "of looking again nothing stays");
}

/// Nobody is ready for alerts meanwhile: it must not wait for the next time that retention looks.
#[tokio::test]
async fn old_records_that_cannot_be_removed_are_tried_again_soon() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(directory.path()).await;
    let _member = join(&bus).await;
    in_file(
        directory.path(),
        "CREATE TRIGGER refuse BEFORE INSERT ON consumer_groups BEGIN SELECT RAISE(ABORT, 'as a test wants it'); END",
    );
    bus.storage().pressure.notify_one();
    eventually("retention fails", || bus.health().is_err()).await;
    let reason = bus.health().unwrap_err();
    assert!(reason.starts_with("remove old records: "), "{reason}");
    in_file(directory.path(), "DROP TRIGGER refuse");
    eventually("it is well again", || bus.health().is_ok()).await;
}

#[tokio::test]
async fn one_read_takes_a_bounded_number_of_records_and_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(directory.path()).await;
    let large = Record { value: vec![b'x'; 1_500_000].into(), ..record(0) };
    for _ in 0..5 {
        bus.publish(vec![large.clone()]).await.unwrap();
    }
    let chunk = bus.storage().read(at(0), 0, 10).await.unwrap();
    assert_eq!((chunk.records.len(), chunk.next), (3, 3), "4 MiB, and the record that goes beyond them");
    let chunk = bus.storage().read(at(0), 3, 1).await.unwrap();
    assert_eq!((chunk.records.len(), chunk.next), (1, 4));
    let chunk = bus.storage().read(at(0), 4, 10).await.unwrap();
    assert_eq!((chunk.records.len(), chunk.next), (1, 5));
}

#[tokio::test]
async fn a_record_whose_publisher_went_away_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(directory.path()).await;
    assert!(bus.publish(vec![record(0)]).now_or_never().is_none(), "dropped while it is written");
    eventually("its place is known", || bus.storage().end(at(0)) == 1).await;
    let mut subscription = join(&bus).await;
    assert_eq!(next_partition(&mut subscription).await, 0);
}

#[tokio::test]
async fn a_log_with_records_that_wait_is_not_left_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    assert!(check_that_nothing_waits(path.join("absent")).await.is_ok());
    let bus = open(&path).await;
    check_that_nothing_waits(path.clone()).await.unwrap();
    let ledger = Record { topic: Topic::AlertDecided, ..record(0) };
    bus.publish(vec![record(0), record(1), ledger]).await.unwrap();
    let mut subscription = join(&bus).await;
    next_partition(&mut subscription).await;
    subscription.leave().await;
    let error = check_that_nothing_waits(path.clone()).await.unwrap_err().to_string();
    assert!(error.contains("in which 1 records wait") && error.contains("without --kafka-brokers"), "{error}");
    let mut subscription = join(&bus).await;
    next_partition(&mut subscription).await;
    subscription.leave().await;
    bus.close(Duration::from_secs(10)).await;
    check_that_nothing_waits(path).await.unwrap();
}

/// Its readers would find no file, and its writer would not notice.
#[tokio::test]
async fn a_log_whose_files_were_removed_takes_nothing_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(directory.path()).await;
    bus.publish(vec![record(0)]).await.unwrap();
    for name in ["log.sqlite", "log.sqlite-wal", "log.sqlite-shm"] {
        std::fs::remove_file(directory.path().join(name)).unwrap();
    }
    let error = bus.publish(vec![record(0)]).await.unwrap_err().to_string();
    assert!(error.contains("log.sqlite was removed or replaced"), "{error}");
    bus.storage().look_again().await;
    let reason = bus.health().unwrap_err();
    assert!(reason.contains("start the process again"), "{reason}");
}
