//! What every adapter of the bus must do, whatever lies below it. Each case is one function over a [`Harness`]; the macro
//! [`bus_contract!`] makes one test of each, by name, for an adapter, and a test holds that it makes all of them.

pub mod cases;

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use eventpulse::{
    bus::{Bus, Delivery, SubscribeOptions, Subscription, SubscriptionEvent, TopicPartition, partition_of},
    events::{Record, Topic},
    runtime::Metrics,
};

/// Nothing takes this long; a case that waits longer has failed.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// How many partitions the topics have.
pub const PARTITIONS: u32 = 4;
/// The topic that most cases use.
pub const TOPIC: Topic = Topic::AlertRaised;

/// What a member does before it dies.
#[derive(Clone, Debug)]
pub struct Crash {
    /// Its group.
    pub group: &'static str,
    /// In this partition.
    pub at: TopicPartition,
    /// How many records it takes.
    pub take: usize,
    /// Which of them, by offset, it acknowledges.
    pub acknowledge: &'static [u64],
    /// The offset that is stored before it dies.
    pub stored: u64,
}

/// One log for one case, with its storage.
#[async_trait(?Send)]
pub trait Harness: Sized + 'static {
    /// Whether members live through an outage.
    const MEMBERS_SURVIVE: bool;

    /// A log without records, its topics with [`PARTITIONS`] partitions.
    async fn fresh() -> Self;
    /// The same, where nobody else is hurt by an outage.
    async fn fresh_for_outage() -> Self {
        Self::fresh().await
    }
    /// This process's handle.
    fn bus(&self) -> Arc<dyn Bus>;
    /// The handle of another process, or the same one where there is only one process.
    async fn another(&self) -> Arc<dyn Bus>;
    /// The offset that a group would go on from after a crash.
    async fn stored_offset(&self, group: &str, at: TopicPartition) -> Option<u64>;
    /// A member does as it is told and dies without a goodbye. Afterwards [`Harness::bus`] is the log as it is found then.
    async fn crash(&mut self, crash: Crash);
    /// The log cannot be reached, until [`Harness::come_back`].
    async fn go_away(&mut self);
    /// It can again.
    async fn come_back(&mut self);
    /// Longer than a member may go without polling.
    fn patience(&self) -> Duration;
    /// The members are not told of the next record.
    fn suppress_next_wakeup(&self);
    /// What this process's handle counts in.
    fn metrics(&self) -> Metrics;
    /// A process starts again and wants another number of partitions for its topics.
    async fn reopen_with(&mut self, partitions: u32) -> Arc<dyn Bus>;
    /// What only this adapter promises of its topics.
    async fn check_topic_settings(&mut self);
}

/// A member of a group, with what it was told so far.
pub struct Member {
    pub subscription: Subscription,
    pub assigned: BTreeSet<TopicPartition>,
    pub revoked: BTreeSet<TopicPartition>,
    pub messages: Vec<Delivery>,
}

impl Member {
    pub async fn join(bus: &dyn Bus, group: &str, max_in_flight: usize) -> Self {
        let options = SubscribeOptions { group: group.into(), topics: vec![TOPIC], max_in_flight };
        let subscription = within("joining", bus.subscribe(options)).await.unwrap();
        Self { subscription, assigned: BTreeSet::new(), revoked: BTreeSet::new(), messages: Vec::new() }
    }

    /// Takes what comes, and keeps it unacknowledged, until this holds.
    pub async fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                match self.subscription.next().await.expect("the membership ended") {
                    SubscriptionEvent::Assigned(list) => self.assigned.extend(list),
                    SubscriptionEvent::Revoked(list) => {
                        list.iter().for_each(|at| assert!(self.assigned.remove(at), "{at} was not assigned"));
                        self.revoked.extend(list);
                    }
                    SubscriptionEvent::Message(delivery) => {
                        assert!(self.assigned.contains(&delivery.at), "{} is not assigned", delivery.at);
                        self.messages.push(delivery);
                    }
                }
            }
        };
        within(what, waiting).await;
    }

    pub async fn until_messages(&mut self, count: usize) {
        self.until("messages", |member| member.messages.len() >= count).await;
    }

    /// Acknowledges everything that it holds, and gives the values.
    pub fn finish(&mut self) -> Vec<String> {
        self.messages.drain(..).map(finish).collect()
    }

    /// Nothing comes although there is time for it.
    pub async fn hears_nothing(&mut self, time: Duration) {
        if let Ok(event) = tokio::time::timeout(time, self.subscription.next()).await {
            panic!("unexpected: {event:?}");
        }
    }
}

pub fn finish(delivery: Delivery) -> String {
    let value = text(&delivery);
    delivery.ack.done();
    value
}

pub fn text(delivery: &Delivery) -> String {
    String::from_utf8(delivery.record.value.to_vec()).unwrap()
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("took too long: {what}"))
}

/// Asks again until it holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

pub fn record(key: &str, value: impl Into<String>) -> Record {
    Record { topic: TOPIC, key: Some(key.into()), headers: Vec::new(), value: Bytes::from(value.into()) }
}

pub fn place(partition: u32) -> TopicPartition {
    TopicPartition { topic: TOPIC, partition }
}

/// A key that belongs to a partition.
pub fn key_for(partition: u32) -> String {
    (0..).map(|n: u32| format!("key-{n}")).find(|key| partition_of(key, PARTITIONS) == partition).unwrap()
}

/// Records `0..count` for one partition.
pub fn records(partition: u32, count: usize) -> Vec<Record> {
    (0..count).map(|n| record(&key_for(partition), n.to_string())).collect()
}

pub fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// What a counter stands at, by its whole name with labels; 0 before it first counts.
pub fn counter(metrics: &Metrics, name: &str) -> u64 {
    let text = metrics.encode().unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}

/// Runs a case on two threads.
pub fn run(case: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap().block_on(case);
}

/// One test for each case, for one adapter, and one that holds that none is left out.
#[macro_export]
macro_rules! bus_contract {
    ($adapter:ident, $harness:ty) => {
        $crate::bus_contract_cases! { $adapter, $harness:
            order_within_a_key_is_kept,
            a_record_comes_out_as_it_went_in,
            every_group_gets_every_record,
            a_group_goes_on_where_it_left,
            a_crash_before_the_offset_is_stored_repeats_the_record,
            two_members_share_the_work_through_a_rebalance_under_load,
            nothing_of_a_lost_assignment_is_stored,
            backpressure_for_longer_than_the_poll_interval_keeps_the_membership,
            a_paused_member_keeps_its_membership,
            a_suppressed_wakeup_is_noticed_and_repaired,
            an_outage_loses_nothing_and_ends_by_itself,
            topics_have_their_settings_and_keep_their_partitions,
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! bus_contract_cases {
    ($adapter:ident, $harness:ty: $($case:ident,)*) => {
        mod $adapter {
            use super::*;

            $(#[test]
            fn $case() {
                $crate::contract::run($crate::contract::cases::$case::<$harness>());
            })*

            #[test]
            fn no_case_is_left_out() {
                let written: std::collections::BTreeSet<&str> = include_str!("contract/cases.rs")
                    .lines()
                    .filter_map(|line| line.strip_prefix("pub async fn ")?.split_once('<').map(|(name, _)| name))
                    .collect();
                assert_eq!(written, std::collections::BTreeSet::from([$(stringify!($case)),*]));
            }
        }
    };
}
