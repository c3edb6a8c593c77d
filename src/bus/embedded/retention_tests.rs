use jiff::SignedDuration;

use super::*;
use crate::{
    bus::{
        Bus, Consumes, EmbeddedConfig, LocalOptions, SubscribeOptions, Subscription, SubscriptionEvent, partition_of,
    },
    events::{Record, Topic},
    runtime::{Metrics, clock::ManualClock},
};

const HOUR: Duration = Duration::from_secs(3_600);
const AT: TopicPartition = TopicPartition { topic: Topic::AlertRaised, partition: 0 };

struct Log {
    bus: EmbeddedBus,
    clock: Arc<ManualClock>,
    directory: tempfile::TempDir,
}

async fn log(max_bytes: u64) -> Log {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new("2026-01-01T12:00:00Z".parse().unwrap()));
    let bus = open(directory.path(), &clock, max_bytes).await.unwrap();
    Log { bus, clock, directory }
}

async fn open(directory: &std::path::Path, clock: &Arc<ManualClock>, max_bytes: u64) -> Result<EmbeddedBus, BusError> {
    open_for(directory, clock, max_bytes, Vec::new()).await
}

async fn open_for(
    directory: &std::path::Path,
    clock: &Arc<ManualClock>,
    max_bytes: u64,
    consumers: Vec<Consumes>,
) -> Result<EmbeddedBus, BusError> {
    let retention = Retention { events: HOUR, ledger: HOUR * 3 };
    let config = EmbeddedConfig { partitions: 1, retention, max_bytes, ..EmbeddedConfig::new(directory) };
    let clock = Arc::clone(clock) as Arc<dyn crate::runtime::clock::Clock>;
    let options = LocalOptions { consumers, ..LocalOptions::default() };
    EmbeddedBus::open(config, clock, Metrics::default(), options).await
}

impl Log {
    async fn publish(&self, topic: Topic, count: usize, bytes: usize) -> Result<(), BusError> {
        let value = bytes::Bytes::from(vec![b'x'; bytes]);
        let record = Record { topic, key: Some("k".into()), headers: Vec::new(), value };
        self.bus.publish(vec![record; count]).await
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(SignedDuration::try_from(by).unwrap());
    }

    async fn offsets(&self, topic: Topic) -> Vec<u64> {
        let chunk = self.bus.storage().read(TopicPartition { topic, partition: 0 }, 0, 10_000).await.unwrap();
        chunk.records.iter().map(|record| record.offset).collect()
    }

    async fn join(&self, group: &str) -> Subscription {
        let options = SubscribeOptions { group: group.into(), topics: vec![Topic::AlertRaised], max_in_flight: 1_000 };
        self.bus.subscribe(options).await.unwrap()
    }

    /// Joins, is done with everything before this offset, and leaves.
    async fn consume(&self, group: &str, up_to: u64) {
        let mut subscription = self.join(group).await;
        while self.bus.stored_offset(group, AT).is_none_or(|stored| stored < up_to) {
            tokio::select! {
                event = subscription.next() => {
                    if let Some(SubscriptionEvent::Message(delivery)) = event && delivery.offset < up_to {
                        delivery.ack.done();
                    }
                }
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
        subscription.leave().await;
    }
}

#[tokio::test]
async fn a_record_goes_when_it_is_old_and_every_group_is_done_with_it() {
    let log = log(1 << 30).await;
    log.publish(Topic::AlertRaised, 10, 10).await.unwrap();
    log.consume("rules", 10).await;
    log.consume("audit", 4).await;
    assert_eq!(pass(&log.bus).await, Ok(0), "everything is young");
    log.advance(HOUR + Duration::from_millis(1));
    log.publish(Topic::AlertRaised, 2, 10).await.unwrap();
    assert_eq!(pass(&log.bus).await, Ok(4));
    assert_eq!(log.offsets(Topic::AlertRaised).await, (4..12).collect::<Vec<_>>());
    log.consume("audit", 12).await;
    log.consume("rules", 12).await;
    assert_eq!(pass(&log.bus).await, Ok(6), "the two young ones stay");
}

#[tokio::test]
async fn the_ledger_goes_by_its_own_age_and_what_a_service_has_yet_to_join_for_stays() {
    let log = log(1 << 30).await;
    log.publish(Topic::AlertRaised, 3, 10).await.unwrap();
    log.publish(Topic::AlertDecided, 3, 10).await.unwrap();
    log.advance(HOUR * 2);
    assert_eq!(pass(&log.bus).await, Ok(0));
    log.advance(HOUR * 2);
    assert_eq!(pass(&log.bus).await, Ok(2));
    assert_eq!(log.offsets(Topic::AlertDecided).await, [2]);
    assert_eq!(log.offsets(Topic::AlertRaised).await, [0, 1, 2]);
}

#[tokio::test]
async fn what_one_service_is_done_with_stays_for_another_that_has_yet_to_join() {
    let log = log(1 << 30).await;
    log.publish(Topic::AlertRaised, 3, 10).await.unwrap();
    log.consume("rules", 3).await;
    log.bus.close(Duration::from_secs(10)).await;
    let expects = |group| vec![Consumes { group, topics: &[Topic::AlertRaised] }];
    log.advance(HOUR * 2);
    for (group, goes) in [("audit", 0), ("rules", 2)] {
        let bus = open_for(log.directory.path(), &log.clock, 1 << 30, expects(group)).await.unwrap();
        assert_eq!(pass(&bus).await, Ok(goes), "{group} is expected");
        bus.close(Duration::from_secs(10)).await;
    }
}

#[tokio::test]
async fn records_of_a_topic_that_a_newer_version_knew_hold_up_nothing_and_stay() {
    let log = log(1 << 30).await;
    let unknown = |c: &Connection| {
        let mut insert = c.prepare("INSERT INTO records VALUES (NULL, 999, 0, ?1, 0, NULL, x'', x'')")?;
        (0..2 * STEP as i64).try_for_each(|offset| insert.execute([offset]).map(drop))
    };
    log.bus.storage().write("a test", unknown).await.unwrap();
    log.publish(Topic::AlertDecided, 3, 10).await.unwrap();
    log.advance(HOUR * 4);
    assert_eq!(pass(&log.bus).await, Ok(2));
    let left = log.bus.storage().query("a test", |c| {
        c.query_row("SELECT count(*) FROM records WHERE topic = 999", [], |row| row.get::<_, i64>(0))
    });
    assert_eq!(left.await, Ok(2 * STEP as i64));
}

#[tokio::test]
async fn no_offset_is_used_twice_even_when_all_records_are_gone() {
    let log = log(1 << 30).await;
    log.publish(Topic::AlertDecided, 5, 10).await.unwrap();
    log.advance(HOUR * 4);
    assert_eq!(pass(&log.bus).await, Ok(4));
    log.bus.close(Duration::from_secs(10)).await;
    let again = Log { bus: open(log.directory.path(), &log.clock, 1 << 30).await.unwrap(), ..log };
    again.publish(Topic::AlertDecided, 1, 10).await.unwrap();
    assert_eq!(again.offsets(Topic::AlertDecided).await, [4, 5]);
}

#[tokio::test]
async fn a_growing_file_lets_consumed_records_go_early_and_shrinks() {
    let log = log(4 << 20).await;
    log.publish(Topic::AlertRaised, 300, 10_000).await.unwrap();
    let used = || log.bus.storage().used_bytes.load(Ordering::Relaxed);
    let before = used();
    assert!(before > 3_000_000, "{before}");
    log.consume("rules", 299).await;
    pass(&log.bus).await.unwrap();
    assert!(used() < 2 << 20, "{}", used());
    assert!(log.offsets(Topic::AlertRaised).await.len() > 1, "no more goes than has to");
    let pages =
        log.bus.storage().query("a test", |c| c.pragma_query_value(None, "freelist_count", |row| row.get::<_, i64>(0)));
    assert!(pages.await.unwrap() < 300);
}

#[tokio::test]
async fn a_full_log_takes_no_alert_but_lets_what_is_behind_them_drain() {
    let log = log(1 << 20).await;
    let mut taken = 0;
    let error = loop {
        match log.publish(Topic::AlertRaised, 1, 50_000).await {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 100);
    };
    assert!(error.is_transient() && error.to_string().contains("full"), "{error}");
    assert_eq!(pass(&log.bus).await, Ok(0), "nothing that is not consumed goes");
    log.publish(Topic::IncidentOpened, 1, 50_000).await.unwrap();
    log.consume("rules", taken).await;
    pass(&log.bus).await.unwrap();
    log.publish(Topic::AlertRaised, 1, 50_000).await.unwrap();
}

#[tokio::test]
async fn a_group_that_nobody_belongs_to_is_forgotten_in_the_end() {
    let log = log(1 << 30).await;
    log.publish(Topic::AlertRaised, 5, 10).await.unwrap();
    log.consume("old-name", 2).await;
    log.advance(HOUR * 2);
    assert_eq!(pass(&log.bus).await, Ok(2));
    // A member that is there keeps its group, however long it takes.
    let kept = log.join("rules").await;
    while log.bus.stored_offset("rules", AT).is_none() {
        tokio::task::yield_now().await;
    }
    log.advance(HOUR * 4);
    assert_eq!(pass(&log.bus).await, Ok(0), "a group holds it back");
    assert_eq!(log.bus.stored_offset("old-name", AT), None);
    log.advance(HOUR * 4);
    pass(&log.bus).await.unwrap();
    assert_eq!(log.bus.stored_offset("rules", AT), Some(0));
    drop(kept);
}

#[tokio::test]
async fn a_second_log_in_the_directory_is_told_who_has_it() {
    let log = log(1 << 30).await;
    let Err(error) = open(log.directory.path(), &log.clock, 1 << 30).await else { panic!("two logs, one directory") };
    let text = error.to_string();
    assert!(text.contains(&log.directory.path().display().to_string()), "{text}");
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    assert!(!error.is_transient());
    log.bus.close(Duration::from_secs(10)).await;
    open(log.directory.path(), &log.clock, 1 << 30).await.unwrap();
}

#[tokio::test]
async fn topics_keep_their_partitions_for_life() {
    let log = log(1 << 30).await;
    log.bus.close(Duration::from_secs(10)).await;
    let config = EmbeddedConfig { partitions: 9, ..EmbeddedConfig::new(log.directory.path()) };
    let clock = Arc::clone(&log.clock) as Arc<dyn crate::runtime::clock::Clock>;
    let bus = EmbeddedBus::open(config, clock, Metrics::default(), LocalOptions::default()).await.unwrap();
    assert_eq!(bus.partitions(Topic::AlertRaised), 1);
    assert_eq!(partition_of("anything", bus.partitions(Topic::AlertRaised)), 0);
}
