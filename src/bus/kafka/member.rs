//! One membership: a consumer that is polled on a thread of its own, whatever the service does.
//!
//! librdkafka's own client is polled all the time, so max.poll.interval is never exceeded; backpressure pauses partitions. No
//! call of it runs on the async threads. Offsets are stored for the contiguous prefix only, and librdkafka commits what is
//! stored: every second, when partitions are revoked, and when the group is left.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Connection, LogContext},
    positions::{Positions, Seen},
    record,
    watch::{self, Asker, Look, Watch},
};
use crate::{
    bus::{
        DeliveryQueue, TopicPartition,
        faults::{self, Faults},
        repaired_wakeups, set_lag,
    },
    events::Topic,
    runtime::{
        Liveness, Metrics,
        liveness::{Beat, LOOP_BOUND},
    },
};

/// How long one poll waits: while partitions are paused, and else. A record ends it at once, and a rebalance is answered at once; the
/// service hears of its partitions, offsets are stored, and the group is left, up to so much later. Each wake-up costs an idle process.
const POLL_PAUSED: Duration = Duration::from_millis(2);
const POLL: Duration = Duration::from_millis(200);
/// How many records are taken before offsets and pauses are looked after.
const BURST: usize = 200;
const CREATE_RETRY: Duration = Duration::from_secs(1);
/// How often the brokers are asked how far the group is behind.
const LAG_INTERVAL: Duration = Duration::from_secs(5);
/// How often the brokers are asked whether the group's offsets are still there.
const OFFSETS_INTERVAL: Duration = Duration::from_secs(2);
/// How long a new consumer may take to join its group before its health says so.
const JOIN_PATIENCE: Duration = Duration::from_secs(60);

/// What the thread and the rest of the process share.
pub(super) struct Shared {
    pub(super) group: String,
    pub(super) queue: Arc<DeliveryQueue>,
    /// The service leaves, or the log is closed.
    pub(super) leave: CancellationToken,
    /// The thread has ended.
    pub(super) ended: CancellationToken,
    /// For the contract suite: from its next record on, this consumer is not heard any more.
    pub(super) deafen: AtomicBool,
    pub(super) faults: Faults,
    pub(super) metrics: Metrics,
    pub(super) watch_interval: Duration,
    pub(super) liveness: Liveness,
}

/// Stands on the thread's stack: however the thread ends, the service hears that its membership has ended and joins again, and
/// who waits for the end waits no longer.
pub(super) struct Ended(pub(super) Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        let part = faults::consumer(&self.0.group);
        if std::thread::panicking() {
            self.0.faults.set(&part, "its thread panicked");
        } else {
            self.0.faults.clear(&part);
        }
        self.0.queue.close();
        self.0.ended.cancel();
    }
}

/// librdkafka's callbacks, on the thread that polls.
struct Context {
    group: String,
    /// A rebalance has given this consumer its partitions, or told it that there are none for it.
    has_joined: AtomicBool,
    log: LogContext,
    connection: Connection,
    queue: Arc<DeliveryQueue>,
    changes: Mutex<Changes>,
}

/// What a rebalance changed since the thread last looked.
#[derive(Default)]
struct Changes {
    assigned: Vec<TopicPartition>,
    revoked: Vec<TopicPartition>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.log.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(error, reason);
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        match rebalance {
            Rebalance::Assign(list) => {
                let partitions = self.partitions(list);
                self.queue.assign(&partitions);
                changes.assigned.extend(partitions);
                self.has_joined.store(true, Ordering::SeqCst);
            }
            Rebalance::Revoke(list) => {
                let partitions = self.partitions(list);
                let storable = self.queue.revoke(&partitions);
                // librdkafka commits what is stored when it gives the partitions back. When they are lost already, somebody else
                // has them, and nothing of them is stored.
                if !consumer.assignment_lost() {
                    store(consumer, &self.connection, &storable);
                }
                changes.revoked.extend(partitions);
            }
            Rebalance::Error(error) => {
                let error = self.connection.describe(error);
                tracing::warn!(error, "A rebalance failed; the consumer joins again.");
                self.has_joined.store(false, Ordering::SeqCst);
                self.connection.faults.set(&faults::consumer(&self.group), error);
            }
        }
    }
}

impl Context {
    fn partitions(&self, list: &TopicPartitionList) -> Vec<TopicPartition> {
        let elements = list.elements();
        elements.iter().filter_map(|e| place(&self.connection, e.topic(), e.partition())).collect()
    }
}

fn place(connection: &Connection, topic: &str, partition: i32) -> Option<TopicPartition> {
    Some(TopicPartition { topic: connection.topic_of(topic)?, partition: u32::try_from(partition).ok()? })
}

fn store(consumer: &BaseConsumer<Context>, connection: &Connection, offsets: &[(TopicPartition, u64)]) {
    if offsets.is_empty() {
        return;
    }
    if let Err(error) = consumer.store_offsets(&list_of(connection, offsets)) {
        // The partition was lost between the acknowledgement and now: its next owner repeats the work.
        tracing::debug!(%error, "Offsets were not stored.");
    }
}

fn list_of(connection: &Connection, offsets: &[(TopicPartition, u64)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (at, offset) in offsets {
        let offset = i64::try_from(*offset).unwrap_or(i64::MAX);
        // Only an unrepresentable offset is refused, and a broker gives none.
        let _ =
            list.add_partition_offset(&connection.topic_name(at.topic), partition_number(*at), Offset::Offset(offset));
    }
    list
}

pub(super) fn partition_number(at: TopicPartition) -> i32 {
    i32::try_from(at.partition).unwrap_or(i32::MAX)
}

enum End {
    Left,
    Rebuild,
}

/// The thread's own state.
pub(super) struct Member {
    shared: Arc<Shared>,
    connection: Connection,
    asker: Asker,
    topics: Vec<Topic>,
    max_in_flight: usize,
    positions: Positions,
    paused: HashSet<TopicPartition>,
    /// Those for which the group had stored an offset at the last look.
    committed: HashSet<TopicPartition>,
    watch: Watch,
    is_deaf: bool,
    /// When this consumer was made.
    began: Instant,
    /// How often was looked since the last problem.
    looks_since_problem: u32,
}

impl Member {
    pub(super) fn new(
        shared: Arc<Shared>,
        connection: Connection,
        asker: Asker,
        topics: Vec<Topic>,
        max_in_flight: usize,
    ) -> Self {
        Self {
            shared,
            connection,
            asker,
            topics,
            max_in_flight: max_in_flight.max(1),
            positions: Positions::default(),
            paused: HashSet::new(),
            committed: HashSet::new(),
            watch: Watch::default(),
            is_deaf: false,
            began: Instant::now(),
            looks_since_problem: 0,
        }
    }

    /// The thread.
    pub(super) fn run(mut self) {
        let beat = self.shared.liveness.beat(faults::consumer(&self.shared.group), LOOP_BOUND);
        while !self.has_ended() {
            beat.moves();
            match self.consumer() {
                Ok(consumer) => {
                    let end = self.session(&consumer, &beat);
                    store(&consumer, &self.connection, &self.shared.queue.take_storable());
                    // Gives the partitions back, commits and leaves the group.
                    drop(consumer);
                    if matches!(end, End::Left) {
                        self.forget_lag();
                        break;
                    }
                }
                Err(error) => {
                    let error = self.connection.describe(&error);
                    tracing::warn!(group = self.shared.group, error, "A consumer could not be made; trying again.");
                    self.has_problem(error);
                    std::thread::sleep(CREATE_RETRY);
                }
            }
            self.forget_session();
        }
    }

    fn has_ended(&self) -> bool {
        self.shared.leave.is_cancelled() || self.shared.queue.is_abandoned()
    }

    fn forget_session(&mut self) {
        // Nothing is left when the consumer gave all back; after a fatal error something may be.
        self.shared.queue.revoke(&self.shared.queue.assigned());
        self.forget_lag();
        self.positions.clear();
        self.paused.clear();
        self.committed.clear();
        self.is_deaf = false;
    }

    fn consumer(&self) -> Result<BaseConsumer<Context>, KafkaError> {
        let context = Context {
            group: self.shared.group.clone(),
            has_joined: AtomicBool::new(false),
            log: self.connection.context(),
            connection: self.connection.clone(),
            queue: Arc::clone(&self.shared.queue),
            changes: Mutex::default(),
        };
        let consumer: BaseConsumer<Context> =
            self.connection.consumer(&self.shared.group).create_with_context(context)?;
        let names: Vec<String> = self.topics.iter().map(|topic| self.connection.topic_name(*topic)).collect();
        consumer.subscribe(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
        Ok(consumer)
    }

    fn session(&mut self, consumer: &BaseConsumer<Context>, beat: &Beat) -> End {
        self.began = Instant::now();
        let mut next_look = self.began + self.shared.watch_interval;
        let mut next_lag = self.began + self.shared.watch_interval;
        let mut next_offsets = self.began + OFFSETS_INTERVAL;
        while !self.has_ended() {
            beat.moves();
            let mut timeout = if self.paused.is_empty() { POLL } else { POLL_PAUSED };
            for _ in 0..BURST {
                let polled = consumer.poll(timeout);
                self.follow_rebalance(consumer);
                match polled {
                    Some(Ok(message)) if !self.take(consumer, &message) => return End::Rebuild,
                    Some(Ok(_)) => {}
                    Some(Err(error)) if self.is_fatal(&error) => return End::Rebuild,
                    Some(Err(_)) => {}
                    None => break,
                }
                timeout = Duration::ZERO;
            }
            store(consumer, &self.connection, &self.shared.queue.take_storable());
            self.resume(consumer);
            if Instant::now() >= next_look {
                next_look = Instant::now() + self.shared.watch_interval;
                if self.has_stopped_waking(consumer) {
                    return End::Rebuild;
                }
                self.look_after_problem(consumer);
            }
            if Instant::now() >= next_offsets {
                next_offsets = Instant::now() + OFFSETS_INTERVAL;
                if self.has_lost_its_topics(consumer) {
                    return End::Rebuild;
                }
            }
            if Instant::now() >= next_lag {
                self.tell_lag(consumer);
                next_lag = Instant::now() + LAG_INTERVAL;
            }
        }
        End::Left
    }

    fn follow_rebalance(&mut self, consumer: &BaseConsumer<Context>) {
        let changes = {
            let mut changes = consumer.context().changes.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *changes)
        };
        for at in changes.revoked.iter().chain(&changes.assigned) {
            self.positions.forget(*at);
            self.committed.remove(at);
            self.watch.forget(*at);
        }
        for at in changes.revoked {
            self.paused.remove(&at);
        }
        for at in changes.assigned {
            if self.paused.remove(&at) {
                self.set_paused(consumer, at, false);
            }
        }
    }

    /// False when a new consumer has to be made.
    fn take(&mut self, consumer: &BaseConsumer<Context>, message: &BorrowedMessage<'_>) -> bool {
        if self.is_deaf || self.shared.deafen.swap(false, Ordering::SeqCst) {
            self.is_deaf = true;
            return true;
        }
        let at = place(&self.connection, message.topic(), message.partition());
        let (Some(at), Ok(offset)) = (at, u64::try_from(message.offset())) else { return true };
        match self.positions.see(at, offset, record::digest(message)) {
            Seen::New => {}
            Seen::Again => return true,
            Seen::Rewound if !self.begin_anew(consumer, at, offset) => return false,
            Seen::Rewound => {}
        }
        let (record, timestamp) = record::read(at.topic, message);
        self.shared.queue.push(at, offset, timestamp, record);
        if self.shared.queue.room(at) == 0 && self.paused.insert(at) {
            self.positions.pause(at);
            self.set_paused(consumer, at, true);
        }
        true
    }

    /// What is acknowledged of the old log from now on must not be stored as an offset of the new one. False where records before the cut
    /// are unfinished: this consumer has read past them, and a new one is to begin with them.
    fn begin_anew(&mut self, consumer: &BaseConsumer<Context>, at: TopicPartition, offset: u64) -> bool {
        tracing::warn!(group = self.shared.group, %at, offset, "The log of a partition was cut; reading it from its new beginning.");
        let unfinished = self.shared.queue.first_unfinished(at).filter(|first| *first < offset);
        let begin = [(at, unfinished.unwrap_or(offset))];
        self.shared.queue.revoke(&[at]);
        self.shared.queue.assign(&[at]);
        // Of what is stored librdkafka commits, by itself, only what lies beyond the last commit; and what is stored of the old log it would
        // commit again. Either way a crash would skip what lies between.
        store(consumer, &self.connection, &begin);
        if let Err(error) = consumer.commit(&list_of(&self.connection, &begin), CommitMode::Async) {
            tracing::warn!(%error, %at, offset, "The beginning of a log that was cut could not be committed.");
        }
        self.watch.forget(at);
        if self.paused.remove(&at) {
            self.set_paused(consumer, at, false);
        }
        unfinished.is_none()
    }

    /// A topic that is deleted takes its groups' offsets along, and nothing else tells of it: a consumer goes on where it stood, past
    /// whatever a new topic of the same name begins with. A new consumer begins where that does.
    fn has_lost_its_topics(&mut self, consumer: &BaseConsumer<Context>) -> bool {
        let assigned = self.shared.queue.assigned();
        if assigned.is_empty() {
            return false;
        }
        let Some(committed) = watch::committed(consumer, &self.connection, &assigned) else { return false };
        let before = std::mem::replace(&mut self.committed, committed);
        let lost: Vec<TopicPartition> = before.difference(&self.committed).copied().collect();
        let Some(at) = lost.first() else { return false };
        let group = &self.shared.group;
        tracing::warn!(group, topic = %at.topic, "A topic was deleted; whatever has its name is read from its beginning.");
        // What is acknowledged of the old topic is no offset of the new one.
        self.shared.queue.revoke(&lost);
        true
    }

    /// Partitions that were paused under backpressure and have room for half of what they may hold.
    fn resume(&mut self, consumer: &BaseConsumer<Context>) {
        let enough = self.max_in_flight.div_ceil(2);
        let ready: Vec<TopicPartition> =
            self.paused.iter().filter(|at| self.shared.queue.room(**at) >= enough).copied().collect();
        for at in ready {
            self.paused.remove(&at);
            self.set_paused(consumer, at, false);
        }
    }

    fn set_paused(&self, consumer: &BaseConsumer<Context>, at: TopicPartition, paused: bool) {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.connection.topic_name(at.topic), partition_number(at));
        let result = if paused { consumer.pause(&list) } else { consumer.resume(&list) };
        if let Err(error) = result {
            // Not assigned any more: the rebalance that says so comes with the next poll.
            tracing::debug!(%error, %at, paused, "A partition could not be paused or resumed.");
        }
    }

    /// Whether the consumer has to be made anew.
    fn is_fatal(&mut self, error: &KafkaError) -> bool {
        let text = self.connection.describe(error);
        let group = &self.shared.group;
        if let KafkaError::MessageConsumptionFatal(_) = error {
            tracing::warn!(group, error = text, "A consumer has failed for good; making a new one.");
            return true;
        }
        if error.rdkafka_error_code().is_none_or(|code| !passes(code)) {
            tracing::warn!(group, error = text, "A consumer has a problem; it goes on when that is gone.");
            self.has_problem(text);
        } else {
            tracing::debug!(group, error = text, "A consumer waits for a broker.");
        }
        false
    }

    fn has_problem(&mut self, reason: String) {
        self.shared.faults.set(&faults::consumer(&self.shared.group), reason);
        self.looks_since_problem = 0;
    }

    /// librdkafka says once that something is wrong, and never that it is right again: after a problem the brokers are asked,
    /// until the group is joined, its offsets and its topics may be read, and no record waits.
    fn look_after_problem(&mut self, consumer: &BaseConsumer<Context>) {
        let part = faults::consumer(&self.shared.group);
        let has_joined = consumer.context().has_joined.load(Ordering::SeqCst);
        if !self.shared.faults.is_set(&part) {
            if !has_joined && self.began.elapsed() >= JOIN_PATIENCE {
                self.has_problem(format!("it has not joined its group for {} s", JOIN_PATIENCE.as_secs()));
            }
            return;
        }
        self.looks_since_problem += 1;
        // Whether a record waits is known by two looks.
        if self.looks_since_problem < 2 || !has_joined || self.watch.is_anything_waiting() {
            return;
        }
        let names: Vec<String> = self.topics.iter().map(|topic| self.connection.topic_name(*topic)).collect();
        match watch::ask(consumer, &self.connection, &names) {
            Ok(()) => {
                tracing::info!(group = self.shared.group, "The consumer has no problem any more.");
                self.shared.faults.clear(&part);
            }
            Err(reason) => {
                self.shared.faults.set(&part, reason);
            }
        }
    }

    /// How far the group is behind in the partitions of this consumer. While the brokers do not answer, the last word stands.
    fn tell_lag(&self, consumer: &BaseConsumer<Context>) {
        let assigned = self.shared.queue.assigned();
        let looks: Vec<Look> = assigned.iter().map(|at| Look { at: *at, position: self.positions.get(*at) }).collect();
        let reached = if looks.is_empty() {
            Default::default()
        } else {
            watch::reach(consumer, &self.asker, &self.connection, &looks)
        };
        if reached.len() < looks.len() {
            return;
        }
        let mut behind: BTreeMap<Topic, u64> = self.topics.iter().map(|topic| (*topic, 0)).collect();
        for (at, (position, end)) in reached {
            let unfinished = u64::try_from(self.shared.queue.outstanding(at)).unwrap_or(u64::MAX);
            *behind.entry(at.topic).or_default() += end.saturating_sub(position).saturating_add(unfinished);
        }
        for (topic, records) in behind {
            set_lag(&self.shared.metrics, &self.shared.group, topic, records);
        }
    }

    /// Another member has them now.
    fn forget_lag(&self) {
        self.topics.iter().for_each(|topic| set_lag(&self.shared.metrics, &self.shared.group, *topic, 0));
    }

    /// Compares what was handed over with what the brokers have. True, and counted, when records wait that nothing told us of.
    fn has_stopped_waking(&mut self, consumer: &BaseConsumer<Context>) -> bool {
        let idle: Vec<Look> = self
            .shared
            .queue
            .assigned()
            .into_iter()
            .filter(|at| !self.paused.contains(at) && self.shared.queue.room(*at) > 0)
            .map(|at| Look { at, position: self.positions.get(at) })
            .collect();
        let Some(stuck) = self.watch.look(consumer, &self.asker, &self.connection, idle) else { return false };
        tracing::warn!(group = self.shared.group, at = %stuck, "Records waited without a wake-up; making a new consumer.");
        repaired_wakeups(&self.shared.metrics, &self.shared.group);
        true
    }
}

/// What passes without anybody's help, or is a matter of the brokers, whose health is watched for itself.
fn passes(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::NetworkException
            | RDKafkaErrorCode::CoordinatorLoadInProgress
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::NotCoordinator
            | RDKafkaErrorCode::LeaderNotAvailable
            | RDKafkaErrorCode::NotLeaderForPartition
            | RDKafkaErrorCode::RebalanceInProgress
            | RDKafkaErrorCode::IllegalGeneration
            | RDKafkaErrorCode::UnknownMemberId
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared() -> Arc<Shared> {
        Arc::new(Shared {
            group: "rules".into(),
            queue: DeliveryQueue::new(1, Arc::default()),
            leave: CancellationToken::new(),
            ended: CancellationToken::new(),
            deafen: AtomicBool::new(false),
            faults: Faults::default(),
            metrics: Metrics::default(),
            watch_interval: Duration::from_secs(1),
            liveness: Liveness::default(),
        })
    }

    #[tokio::test]
    async fn a_thread_that_panics_ends_its_membership_and_is_said() {
        for panics in [true, false] {
            let shared = shared();
            let ended = Ended(Arc::clone(&shared));
            shared.faults.set("consumer group rules", "a problem of before");
            let thread = std::thread::spawn(move || {
                let _ended = ended;
                assert!(!panics, "as a test wants it");
            });
            assert_eq!(thread.join().is_err(), panics);
            assert!(shared.queue.next().await.is_none());
            assert!(shared.ended.is_cancelled());
            assert_eq!(shared.faults.check().err(), panics.then(|| "consumer group rules: its thread panicked".into()));
        }
    }

    #[test]
    fn what_a_person_has_to_change_does_not_pass() {
        for code in [
            RDKafkaErrorCode::GroupAuthorizationFailed,
            RDKafkaErrorCode::TopicAuthorizationFailed,
            RDKafkaErrorCode::UnknownTopicOrPartition,
            RDKafkaErrorCode::InconsistentGroupProtocol,
        ] {
            assert!(!passes(code), "{code}");
        }
    }
}
