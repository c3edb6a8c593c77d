//! One membership: a consumer that is polled on a thread of its own, whatever the service does.
//!
//! librdkafka's own client is polled all the time, so max.poll.interval is never exceeded; backpressure pauses partitions. No
//! call of it runs on the async threads. Offsets are stored for the contiguous prefix only, and librdkafka commits what is
//! stored: every 200 ms, when partitions are revoked, and when the group is left.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{Connection, LogContext},
    record,
    watch::{Look, Watch},
};
use crate::{
    bus::{DeliveryQueue, TopicPartition, repaired_wakeups},
    events::Topic,
    runtime::Metrics,
};

/// How long one poll waits: while partitions are paused, and else. Leaving waits for it.
const POLL_PAUSED: Duration = Duration::from_millis(2);
const POLL: Duration = Duration::from_millis(25);
/// How many records are taken before offsets and pauses are looked after.
const BURST: usize = 200;
const CREATE_RETRY: Duration = Duration::from_secs(1);

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
    pub(super) repaired: Arc<AtomicU64>,
    pub(super) metrics: Metrics,
    pub(super) watch_interval: Duration,
}

/// librdkafka's callbacks, on the thread that polls.
struct Context {
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
            Rebalance::Error(error) => tracing::warn!(%error, "A rebalance failed; the consumer joins again."),
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
    let mut list = TopicPartitionList::new();
    for (at, offset) in offsets {
        let offset = i64::try_from(*offset).unwrap_or(i64::MAX);
        // Only an unrepresentable offset is refused, and a broker gives none.
        let _ =
            list.add_partition_offset(&connection.topic_name(at.topic), partition_number(*at), Offset::Offset(offset));
    }
    if let Err(error) = consumer.store_offsets(&list) {
        // The partition was lost between the acknowledgement and now: its next owner repeats the work.
        tracing::debug!(%error, "Offsets were not stored.");
    }
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
    topics: Vec<Topic>,
    max_in_flight: usize,
    /// The next offset expected of each assigned partition, once it is known.
    positions: HashMap<TopicPartition, u64>,
    paused: HashSet<TopicPartition>,
    watch: Watch,
    is_deaf: bool,
}

impl Member {
    pub(super) fn new(shared: Arc<Shared>, connection: Connection, topics: Vec<Topic>, max_in_flight: usize) -> Self {
        Self {
            shared,
            connection,
            topics,
            max_in_flight: max_in_flight.max(1),
            positions: HashMap::new(),
            paused: HashSet::new(),
            watch: Watch::default(),
            is_deaf: false,
        }
    }

    /// The thread.
    pub(super) fn run(mut self) {
        while !self.has_ended() {
            match self.consumer() {
                Ok(consumer) => {
                    let end = self.session(&consumer);
                    store(&consumer, &self.connection, &self.shared.queue.take_storable());
                    // Gives the partitions back, commits and leaves the group.
                    drop(consumer);
                    if matches!(end, End::Left) {
                        break;
                    }
                }
                Err(error) => {
                    let error = self.connection.describe(&error);
                    tracing::warn!(group = self.shared.group, error, "A consumer could not be made; trying again.");
                    std::thread::sleep(CREATE_RETRY);
                }
            }
            self.forget_session();
        }
        self.shared.queue.close();
        self.shared.ended.cancel();
    }

    fn has_ended(&self) -> bool {
        self.shared.leave.is_cancelled() || self.shared.queue.is_abandoned()
    }

    fn forget_session(&mut self) {
        // Nothing is left when the consumer gave all back; after a fatal error something may be.
        self.shared.queue.revoke(&self.shared.queue.assigned());
        self.positions.clear();
        self.paused.clear();
        self.is_deaf = false;
    }

    fn consumer(&self) -> Result<BaseConsumer<Context>, KafkaError> {
        let context = Context {
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

    fn session(&mut self, consumer: &BaseConsumer<Context>) -> End {
        let mut next_look = Instant::now() + self.shared.watch_interval;
        while !self.has_ended() {
            let mut timeout = if self.paused.is_empty() { POLL } else { POLL_PAUSED };
            for _ in 0..BURST {
                let polled = consumer.poll(timeout);
                self.follow_rebalance(consumer);
                match polled {
                    Some(Ok(message)) => self.take(consumer, &message),
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
            self.positions.remove(at);
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

    fn take(&mut self, consumer: &BaseConsumer<Context>, message: &BorrowedMessage<'_>) {
        if self.is_deaf || self.shared.deafen.swap(false, Ordering::SeqCst) {
            self.is_deaf = true;
            return;
        }
        let at = place(&self.connection, message.topic(), message.partition());
        let (Some(at), Ok(offset)) = (at, u64::try_from(message.offset())) else { return };
        if self.positions.get(&at).is_some_and(|position| offset < *position) {
            // Fetched twice around a pause; it was handed over.
            return;
        }
        self.positions.insert(at, offset + 1);
        let (record, timestamp) = record::read(at.topic, message);
        self.shared.queue.push(at, offset, timestamp, record);
        if self.shared.queue.room(at) == 0 && self.paused.insert(at) {
            self.set_paused(consumer, at, true);
        }
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
    fn is_fatal(&self, error: &KafkaError) -> bool {
        let text = self.connection.describe(error);
        let group = &self.shared.group;
        match error {
            KafkaError::MessageConsumptionFatal(_) => {
                tracing::warn!(group, error = text, "A consumer has failed for good; making a new one.");
                true
            }
            _ if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) => false,
            _ => {
                tracing::warn!(group, error = text, "A consumer has a problem; it goes on by itself.");
                false
            }
        }
    }

    /// Compares what was handed over with what the brokers have. True, and counted, when records wait that nothing told us of.
    fn has_stopped_waking(&mut self, consumer: &BaseConsumer<Context>) -> bool {
        let idle: Vec<Look> = self
            .shared
            .queue
            .assigned()
            .into_iter()
            .filter(|at| !self.paused.contains(at) && self.shared.queue.room(*at) > 0)
            .map(|at| Look { at, position: self.positions.get(&at).copied() })
            .collect();
        let Some(stuck) = self.watch.look(consumer, &self.connection, idle) else { return false };
        tracing::warn!(group = self.shared.group, at = %stuck, "Records waited without a wake-up; making a new consumer.");
        self.shared.repaired.fetch_add(1, Ordering::Relaxed);
        repaired_wakeups(&self.shared.metrics, &self.shared.group);
        true
    }
}
