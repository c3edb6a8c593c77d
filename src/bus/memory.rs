//! The log in memory: for tests and the simulator. It ends with the process.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    BusError, TopicPartition,
    local::{Chunk, LocalBus, LocalOptions, Storage, StoredOffset, StoredRecord},
};
use crate::{
    events::{Record, Topic},
    runtime::{
        Metrics,
        clock::{Clock, SystemClock},
    },
};

/// The most records of one partition; beyond it the oldest go, read or not (promise 6).
const PARTITION_RECORDS: usize = 1 << 17;

/// The log in memory. Clones are the same log.
pub type MemoryBus = LocalBus<MemoryStorage>;

impl MemoryBus {
    /// Every topic has `partitions` partitions; the machine's clock.
    pub fn new(partitions: u32) -> Self {
        Self::with(partitions, Arc::new(SystemClock), Metrics::default(), LocalOptions::default())
    }

    /// With a clock, and counting in these metrics.
    pub fn with(partitions: u32, clock: Arc<dyn Clock>, metrics: Metrics, options: LocalOptions) -> Self {
        let storage = MemoryStorage {
            partitions: partitions.max(1),
            available: AtomicBool::new(true),
            records: Mutex::default(),
        };
        Self::with_storage(storage, Vec::new(), clock, metrics, options)
    }

    /// As if the broker went away, or came back.
    pub fn set_available(&self, available: bool) {
        self.storage().available.store(available, Ordering::SeqCst);
    }

    /// Every record of a topic that is there, by partition, then by offset.
    pub fn records(&self, topic: Topic) -> Vec<Record> {
        let storage = self.storage();
        let partitions = storage.lock();
        let at = |partition| TopicPartition { topic, partition };
        (0..storage.partitions)
            .filter_map(|partition| partitions.get(&at(partition)))
            .flat_map(|log| log.records.iter().map(|(_, record)| record.clone()))
            .collect()
    }
}

/// The records in memory.
pub struct MemoryStorage {
    partitions: u32,
    available: AtomicBool,
    records: Mutex<HashMap<TopicPartition, Partition>>,
}

#[derive(Default)]
struct Partition {
    start: u64,
    records: VecDeque<(Timestamp, Record)>,
}

impl MemoryStorage {
    /// No panic happens while the lock is held, so a poisoned one holds a whole state.
    fn lock(&self) -> MutexGuard<'_, HashMap<TopicPartition, Partition>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    const KEEPS_OFFSETS: bool = false;

    fn partitions(&self, _topic: Topic) -> u32 {
        self.partitions
    }

    fn end(&self, at: TopicPartition) -> u64 {
        self.lock().get(&at).map_or(0, |partition| partition.start + partition.records.len() as u64)
    }

    async fn append(&self, records: Vec<(TopicPartition, Record)>, now: Timestamp) -> Result<(), BusError> {
        self.health().map_err(BusError::Publish)?;
        let mut partitions = self.lock();
        for (at, record) in records {
            let partition = partitions.entry(at).or_default();
            partition.records.push_back((now, record));
            if partition.records.len() > PARTITION_RECORDS {
                partition.records.pop_front();
                partition.start += 1;
            }
        }
        Ok(())
    }

    async fn read(&self, at: TopicPartition, from: u64, limit: usize) -> Result<Chunk, String> {
        self.health()?;
        let partitions = self.lock();
        let Some(partition) = partitions.get(&at) else { return Ok(Chunk { records: Vec::new(), next: from }) };
        let first = partition.start.max(from);
        let skip = usize::try_from(first - partition.start).unwrap_or(usize::MAX);
        let records: Vec<StoredRecord> = (first..)
            .zip(partition.records.iter().skip(skip))
            .take(limit)
            .map(|(offset, (timestamp, record))| StoredRecord { offset, timestamp: *timestamp, record: record.clone() })
            .collect();
        let next = first + records.len() as u64;
        Ok(Chunk { records, next })
    }

    async fn store_offsets(&self, _offsets: Vec<StoredOffset>) -> Result<(), BusError> {
        Ok(())
    }

    fn health(&self) -> Result<(), String> {
        if self.available.load(Ordering::SeqCst) { Ok(()) } else { Err("the log is away, as a test wants it".into()) }
    }

    fn can_read(&self) -> bool {
        self.available.load(Ordering::SeqCst)
    }

    async fn close(&self) {}
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::bus::{Bus, SubscribeOptions, Subscription, SubscriptionEvent};

    fn record(key: &str, value: &str) -> Record {
        let value = Bytes::from(value.to_owned());
        Record { topic: Topic::AlertRaised, key: Some(key.into()), headers: Vec::new(), value }
    }

    fn options() -> SubscribeOptions {
        SubscribeOptions { group: "rules".into(), topics: vec![Topic::AlertRaised], max_in_flight: 10 }
    }

    async fn next_value(subscription: &mut Subscription) -> String {
        loop {
            if let Some(SubscriptionEvent::Message(delivery)) = subscription.next().await {
                delivery.ack.done();
                return String::from_utf8(delivery.record.value.to_vec()).unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_group_goes_on_where_it_left() {
        let bus = MemoryBus::new(3);
        bus.publish(vec![record("a", "1"), record("a", "2")]).await.unwrap();
        let mut subscription = bus.subscribe(options()).await.unwrap();
        assert_eq!(next_value(&mut subscription).await, "1");
        subscription.leave().await;
        let mut again = bus.subscribe(options()).await.unwrap();
        assert_eq!(next_value(&mut again).await, "2");
        assert_eq!(bus.records(Topic::AlertRaised).len(), 2);
    }

    #[tokio::test]
    async fn a_closed_log_ends_its_members_and_takes_nothing() {
        let bus = MemoryBus::new(1);
        let mut subscription = bus.subscribe(options()).await.unwrap();
        bus.close(std::time::Duration::from_secs(10)).await;
        while let Some(event) = subscription.next().await {
            assert!(matches!(event, SubscriptionEvent::Assigned(_)));
        }
        assert!(matches!(bus.publish(vec![record("a", "1")]).await, Err(BusError::Closed)));
        assert!(matches!(bus.subscribe(options()).await, Err(BusError::Closed)));
        assert!(bus.health().is_err());
    }

    #[tokio::test]
    async fn the_oldest_records_go_when_a_partition_is_full() {
        let bus = MemoryBus::new(1);
        let all = (0..PARTITION_RECORDS + 5).map(|n| record("a", &n.to_string())).collect();
        bus.publish(all).await.unwrap();
        assert_eq!(bus.records(Topic::AlertRaised).len(), PARTITION_RECORDS);
        let mut subscription = bus.subscribe(options()).await.unwrap();
        assert_eq!(next_value(&mut subscription).await, "5");
    }
}
