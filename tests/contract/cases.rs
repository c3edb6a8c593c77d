//! The cases. Every public function here is one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use eventpulse::{
    bus::{BusError, MAX_RECORD_BYTES, SubscriptionEvent},
    events::Topic,
};

use super::*;

pub async fn order_within_a_key_is_kept<H: Harness>() {
    let harness = H::fresh().await;
    let bus = harness.bus();
    let mut member = Member::join(&*bus, "order", 1_000).await;
    let publisher = tokio::spawn({
        let bus = Arc::clone(&bus);
        async move {
            for round in 0..40 {
                let batch = (0..10).map(|key| record(&format!("key-{key}"), format!("{key}:{round}"))).collect();
                bus.publish(batch).await.unwrap();
            }
        }
    });
    member.until_messages(400).await;
    publisher.await.unwrap();
    let mut next: BTreeMap<String, usize> = BTreeMap::new();
    let mut offsets: BTreeMap<TopicPartition, u64> = BTreeMap::new();
    for delivery in &member.messages {
        let value = text(delivery);
        let (key, round) = value.split_once(':').unwrap();
        let expected = next.entry(key.to_owned()).or_default();
        assert_eq!(round.parse::<usize>().unwrap(), *expected, "key {key}");
        *expected += 1;
        assert_eq!(delivery.at.partition, partition_of(delivery.record.key.as_deref().unwrap(), PARTITIONS));
        let before = offsets.insert(delivery.at, delivery.offset);
        assert!(before.is_none_or(|before| before < delivery.offset));
    }
    assert!(offsets.len() > 1, "the keys are on more than one partition");
}

pub async fn a_record_comes_out_as_it_went_in<H: Harness>() {
    let harness = H::fresh().await;
    let bus = harness.bus();
    let header = |name: &str, value: &'static [u8]| (name.to_owned(), Bytes::from_static(value));
    let odd = Record {
        topic: TOPIC,
        key: Some("schlüssel \u{1f511}".into()),
        headers: vec![header("ce_id", b"1"), header("twice", b""), header("twice", b"\xff\x00\xfe")],
        value: Bytes::from_static(b"\x00\xff no JSON"),
    };
    let large = Record { value: Bytes::from(vec![b'x'; MAX_RECORD_BYTES - 1_000]), ..record("large", "") };
    let keyless = Record { key: None, ..record("", "keyless") };
    let empty = record("empty", "");
    let sent = vec![odd, large, keyless, empty];
    let too_large = Record { value: Bytes::from(vec![b'x'; MAX_RECORD_BYTES]), ..record("large", "") };
    let refused = bus.publish(vec![too_large]).await;
    assert!(matches!(refused, Err(BusError::Refused(_))), "{refused:?}");
    bus.publish(Vec::new()).await.unwrap();
    bus.publish(sent.clone()).await.unwrap();

    let mut member = Member::join(&*bus, "content", 10).await;
    member.until_messages(4).await;
    for delivery in &member.messages {
        assert!(sent.contains(&delivery.record), "{:?}", delivery.record.key);
        assert!(delivery.timestamp > jiff::Timestamp::UNIX_EPOCH);
    }
    let keys: BTreeSet<_> = member.messages.iter().map(|delivery| delivery.record.key.clone()).collect();
    assert_eq!(keys.len(), 4);
}

pub async fn every_group_gets_every_record<H: Harness>() {
    let harness = H::fresh().await;
    let bus = harness.bus();
    bus.publish(records(0, 3)).await.unwrap();
    for group in ["rules", "incidents"] {
        let mut member = Member::join(&*bus, group, 10).await;
        member.until_messages(3).await;
        assert_eq!(member.finish(), numbers(0..3), "{group}");
        member.subscription.leave().await;
    }
}

pub async fn a_group_goes_on_where_it_left<H: Harness>() {
    let harness = H::fresh().await;
    let bus = harness.bus();
    bus.publish(records(2, 6)).await.unwrap();
    let mut member = Member::join(&*bus, "rules", 10).await;
    member.until_messages(6).await;
    // The fourth is not done, so the fifth and sixth come again too.
    for (n, delivery) in member.messages.drain(..).enumerate() {
        if n != 3 {
            delivery.ack.done();
        }
    }
    member.subscription.leave().await;
    assert_eq!(harness.stored_offset("rules", place(2)).await, Some(3));

    let mut again = Member::join(&*bus, "rules", 10).await;
    again.until_messages(3).await;
    assert_eq!(again.finish(), numbers(3..6));
    // Dropped, not left: what was acknowledged counts, and the next member need not wait.
    drop(again);
    eventually("what was acknowledged is stored", async || harness.stored_offset("rules", place(2)).await == Some(6))
        .await;
    bus.publish(vec![record(&key_for(2), "new")]).await.unwrap();
    let mut last = Member::join(&*bus, "rules", 10).await;
    last.until_messages(1).await;
    assert_eq!(last.finish(), ["new"]);
}

pub async fn a_crash_before_the_offset_is_stored_repeats_the_record<H: Harness>() {
    let mut harness = H::fresh().await;
    harness.bus().publish(records(1, 10)).await.unwrap();
    let crash = Crash { group: "rules", at: place(1), take: 6, acknowledge: &[0, 1, 2, 4], stored: 3 };
    harness.crash(crash).await;
    let bus = harness.bus();
    let mut member = Member::join(&*bus, "rules", 10).await;
    member.until_messages(7).await;
    assert_eq!(member.messages[0].offset, 3);
    assert_eq!(member.finish(), numbers(3..10));
}

pub async fn two_members_share_the_work_through_a_rebalance_under_load<H: Harness>() {
    let harness = H::fresh().await;
    let (bus, other) = (harness.bus(), harness.another().await);
    let stop = Arc::new(AtomicBool::new(false));
    let publisher = tokio::spawn(publish_until(Arc::clone(&bus), Arc::clone(&stop)));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let first = Worker::start(Member::join(&*bus, "rules", 20).await, &seen);
    eventually("the first works", async || first.count.load(Ordering::SeqCst) > 100).await;
    let second = Worker::start(Member::join(&*other, "rules", 20).await, &seen);
    eventually("the second works too", async || second.count.load(Ordering::SeqCst) > 50).await;
    let both = first.count.load(Ordering::SeqCst);
    eventually("the first works on", async || first.count.load(Ordering::SeqCst) > both + 20).await;
    let revoked = first.stop().await;
    assert!(!revoked.is_empty(), "the first gave nothing to the second");
    let alone = second.count.load(Ordering::SeqCst);
    eventually("the second works alone", async || second.count.load(Ordering::SeqCst) > alone + 50).await;
    stop.store(true, Ordering::SeqCst);
    let rounds = within("publishing", publisher).await.unwrap();
    let all = || seen.lock().unwrap().iter().cloned().collect::<BTreeSet<_>>().len();
    eventually("every record was seen", async || all() == rounds * LOAD_KEYS).await;
    second.stop().await;

    // A record may come twice around a rebalance; what is new of a key comes in order.
    let mut next: BTreeMap<usize, usize> = BTreeMap::new();
    for (key, round) in seen.lock().unwrap().iter() {
        let expected = next.entry(*key).or_default();
        assert!(*round <= *expected, "key {key}: {round} before {expected}");
        *expected = (*expected).max(round + 1);
    }
    eventually("every offset is stored", async || {
        let mut stored = 0;
        for partition in 0..PARTITIONS {
            stored += harness.stored_offset("rules", place(partition)).await.unwrap_or(0);
        }
        stored == (rounds * LOAD_KEYS) as u64
    })
    .await;
}

const LOAD_KEYS: usize = 12;

/// Gives the number of rounds, each with one record of each key.
async fn publish_until(bus: Arc<dyn Bus>, stop: Arc<AtomicBool>) -> usize {
    let mut round = 0;
    while !stop.load(Ordering::SeqCst) {
        let batch = (0..LOAD_KEYS).map(|key| record(&format!("key-{key}"), format!("{key}:{round}"))).collect();
        bus.publish(batch).await.unwrap();
        round += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    round
}

/// A member that acknowledges at once whatever it gets.
struct Worker {
    count: Arc<AtomicUsize>,
    stop: Arc<tokio::sync::Notify>,
    task: tokio::task::JoinHandle<BTreeSet<TopicPartition>>,
}

impl Worker {
    fn start(mut member: Member, seen: &Arc<Mutex<Vec<(usize, usize)>>>) -> Self {
        let (count, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Notify::new()));
        let (seen, counted, stopped) = (Arc::clone(seen), Arc::clone(&count), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    () = stopped.notified() => break,
                    event = member.subscription.next() => event.expect("the membership ended"),
                };
                match event {
                    SubscriptionEvent::Assigned(_) => {}
                    SubscriptionEvent::Revoked(list) => member.revoked.extend(list),
                    SubscriptionEvent::Message(delivery) => {
                        let value = text(&delivery);
                        let (key, round) = value.split_once(':').unwrap();
                        seen.lock().unwrap().push((key.parse().unwrap(), round.parse().unwrap()));
                        counted.fetch_add(1, Ordering::SeqCst);
                        delivery.ack.done();
                    }
                }
            }
            member.subscription.leave().await;
            member.revoked
        });
        Self { count, stop, task }
    }

    /// Gives what was revoked while it lived.
    async fn stop(self) -> BTreeSet<TopicPartition> {
        self.stop.notify_one();
        within("leaving", self.task).await.unwrap()
    }
}

pub async fn nothing_of_a_lost_assignment_is_stored<H: Harness>() {
    let harness = H::fresh().await;
    let (bus, other) = (harness.bus(), harness.another().await);
    for partition in 0..PARTITIONS {
        bus.publish(records(partition, 3)).await.unwrap();
    }
    let mut first = Member::join(&*bus, "rules", 10).await;
    first.until_messages(3 * PARTITIONS as usize).await;
    let mut second = Member::join(&*other, "rules", 10).await;
    tokio::join!(
        first.until("the first gives its share", |member| member.revoked.len() == 2),
        second.until("the second gets the same records", |member| member.messages.len() == 6),
    );
    let (kept, lost) = (first.assigned.clone(), first.revoked.clone());
    assert_eq!(second.assigned, lost);
    assert_eq!(first.subscription.in_flight(), 6, "what is lost is not in flight");
    first.finish();
    for at in &kept {
        eventually("what is kept is stored", async || harness.stored_offset("rules", *at).await == Some(3)).await;
    }
    for at in &lost {
        assert_eq!(harness.stored_offset("rules", *at).await.unwrap_or(0), 0, "{at} is the second's");
    }
    second.finish();
    for at in &lost {
        eventually("the second's is stored", async || harness.stored_offset("rules", *at).await == Some(3)).await;
    }
}

pub async fn backpressure_for_longer_than_the_poll_interval_keeps_the_membership<H: Harness>() {
    let harness = H::fresh().await;
    let bus = harness.bus();
    let mut member = Member::join(&*bus, "rules", 4).await;
    member.until("assigned", |member| member.assigned.len() == PARTITIONS as usize).await;
    bus.publish(records(0, 50)).await.unwrap();
    member.until_messages(4).await;
    // Neither a fifth record nor a revocation.
    member.hears_nothing(harness.patience()).await;
    assert_eq!(member.subscription.in_flight(), 4);
    let mut seen = member.finish();
    while seen.len() < 50 {
        member.until_messages(1).await;
        assert!(member.subscription.in_flight() <= 4);
        seen.extend(member.finish());
    }
    assert_eq!(seen, numbers(0..50), "once each, in order");
    assert!(member.revoked.is_empty());
    eventually("all is stored", async || harness.stored_offset("rules", place(0)).await == Some(50)).await;
}

pub async fn a_paused_member_keeps_its_membership<H: Harness>() {
    let harness = H::fresh().await;
    let bus = harness.bus();
    let mut member = Member::join(&*bus, "rules", 4).await;
    member.until("assigned", |member| member.assigned.len() == PARTITIONS as usize).await;
    member.subscription.pause();
    bus.publish(records(3, 20)).await.unwrap();
    member.hears_nothing(harness.patience()).await;
    assert_eq!(member.subscription.in_flight(), 0, "nothing is on its way, so a drain ends");
    member.subscription.resume();
    let mut seen = Vec::new();
    while seen.len() < 20 {
        member.until_messages(1).await;
        seen.extend(member.finish());
    }
    assert_eq!(seen, numbers(0..20));
    assert!(member.revoked.is_empty());
}

pub async fn a_suppressed_wakeup_is_noticed_and_repaired<H: Harness>() {
    let harness = H::fresh().await;
    let bus = harness.bus();
    let mut member = Member::join(&*bus, "rules", 10).await;
    member.until("assigned", |member| member.assigned.len() == PARTITIONS as usize).await;
    // The first time nothing of the partition was ever heard, the second time its place is known. Another wake-up, like that of
    // an acknowledgement, may happen to find a record; then it is tried again.
    for repaired in 1..=2 {
        eventually("a wake-up is missed", async || {
            harness.suppress_next_wakeup();
            bus.publish(vec![record(&key_for(0), "missed")]).await.unwrap();
            member.until_messages(1).await;
            assert_eq!(member.finish(), ["missed"], "it comes nevertheless");
            counter(&harness.metrics(), "eventpulse_bus_repaired_wakeups_total{group=\"rules\"}") >= repaired
        })
        .await;
    }
    bus.publish(vec![record(&key_for(0), "heard again")]).await.unwrap();
    member.until_messages(1).await;
    assert_eq!(member.finish(), ["heard again"]);
}

pub async fn an_outage_loses_nothing_and_ends_by_itself<H: Harness>() {
    let mut harness = H::fresh_for_outage().await;
    let bus = harness.bus();
    bus.publish(records(0, 5)).await.unwrap();
    let mut member = Member::join(&*bus, "rules", 10).await;
    member.until_messages(5).await;
    let values: Vec<String> = member.messages.drain(..3).map(finish).collect();
    assert_eq!(values, numbers(0..3));
    eventually("three are stored", async || harness.stored_offset("rules", place(0)).await == Some(3)).await;
    assert!(bus.health().is_ok());

    harness.go_away().await;
    eventually("the health says so", async || bus.health().is_err()).await;
    let publishing = bus.publish(vec![record(&key_for(0), "5")]);
    let outcome = tokio::time::timeout(Duration::from_millis(300), publishing).await;
    assert!(!matches!(outcome, Ok(Ok(()))), "acknowledged by nobody");
    harness.come_back().await;

    let bus = harness.bus();
    eventually("the health says so", async || bus.health().is_ok()).await;
    eventually("publishing works", async || bus.publish(vec![record(&key_for(0), "6")]).await.is_ok()).await;
    let mut seen: Vec<String> = Vec::new();
    if H::MEMBERS_SURVIVE {
        seen.extend(member.finish());
    } else {
        member = Member::join(&*bus, "rules", 10).await;
    }
    while !seen.contains(&"6".to_owned()) {
        member.until_messages(1).await;
        seen.extend(member.finish());
    }
    // A member that was away for too long gets again what it had not acknowledged, and what was published twice may come twice;
    // what nobody acknowledged may be there or not.
    let mut first = BTreeSet::new();
    seen.retain(|value| first.insert(value.clone()));
    assert!(seen == ["3", "4", "6"] || seen == ["3", "4", "5", "6"], "{seen:?}");
}

pub async fn topics_have_their_settings_and_keep_their_partitions<H: Harness>() {
    let mut harness = H::fresh().await;
    let bus = harness.bus();
    for topic in Topic::ALL {
        assert_eq!(bus.partitions(topic), PARTITIONS, "{topic}");
    }
    bus.publish(records(3, 1)).await.unwrap();
    let again = harness.reopen_with(PARTITIONS + 5).await;
    for topic in Topic::ALL {
        assert_eq!(again.partitions(topic), PARTITIONS, "{topic}");
    }
    again.publish(records(3, 1)).await.unwrap();
    let mut member = Member::join(&*again, "rules", 10).await;
    member.until_messages(2).await;
    assert!(member.messages.iter().all(|delivery| delivery.at == place(3)));
    harness.check_topic_settings().await;
}
