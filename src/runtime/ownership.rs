//! Which objects are this replica's: those whose key belongs to one of its partitions of the service's home topic.
//!
//! Ownership only saves work: timers, reconciliation and sweeps need it. Safety never does (design, section 1).

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::sync::watch;

use crate::{
    bus::{Bus, SubscriptionEvent, TopicPartition},
    events::Topic,
};

/// The partitions of one home topic that this replica has now.
pub struct Ownership {
    home: Topic,
    bus: Arc<dyn Bus>,
    partitions: RwLock<BTreeSet<u32>>,
    takeovers: watch::Sender<u64>,
}

impl Ownership {
    /// Owns nothing yet.
    pub fn new(bus: Arc<dyn Bus>, home: Topic) -> Arc<Self> {
        Arc::new(Self { home, bus, partitions: RwLock::default(), takeovers: watch::Sender::new(0) })
    }

    /// Follows the assignments of the service's consumer group.
    pub fn apply(&self, event: &SubscriptionEvent) {
        let home = |list: &[TopicPartition]| -> Vec<u32> {
            list.iter().filter(|at| at.topic == self.home).map(|at| at.partition).collect()
        };
        let mut partitions = self.partitions.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            SubscriptionEvent::Assigned(list) => {
                let new = home(list);
                if !new.is_empty() {
                    partitions.extend(new);
                    drop(partitions);
                    self.takeovers.send_modify(|count| *count += 1);
                }
            }
            SubscriptionEvent::Revoked(list) => home(list).iter().for_each(|partition| {
                partitions.remove(partition);
            }),
            SubscriptionEvent::Message(_) => {}
        }
    }

    /// Nothing is owned any more: the group was left.
    pub fn clear(&self) {
        self.partitions.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether the object with this key is this replica's, with the topic's number of partitions as it is now.
    pub fn owns(&self, key: &str) -> bool {
        let partition = crate::bus::partition_of(key, self.bus.partitions(self.home));
        self.partitions.read().unwrap_or_else(PoisonError::into_inner).contains(&partition)
    }

    /// Whether any partition is this replica's.
    pub fn any(&self) -> bool {
        !self.partitions.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Changes whenever partitions were taken over: their outboxes and unfinished objects need a look.
    pub fn takeovers(&self) -> watch::Receiver<u64> {
        self.takeovers.subscribe()
    }
}
