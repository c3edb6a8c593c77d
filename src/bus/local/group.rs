//! The consumer groups of one process: members, who has which partition, stored offsets. All under one short lock, no I/O.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use super::assign::{MemberId, assign};
use crate::{
    bus::{Consumes, DeliveryQueue, TopicPartition},
    events::Topic,
};

/// An offset that a group has reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredOffset {
    /// The group.
    pub group: String,
    /// Of this partition.
    pub at: TopicPartition,
    /// The offset to go on from.
    pub offset: u64,
}

pub(in crate::bus) struct Groups {
    groups: Mutex<HashMap<String, Group>>,
    /// What is going to consume here, whether it has joined before or not.
    expected: Vec<Consumes>,
}

#[derive(Default)]
struct Group {
    members: BTreeMap<MemberId, Member>,
    next_member: MemberId,
    /// Who should have a partition.
    target: BTreeMap<TopicPartition, MemberId>,
    /// Who has it: the last owner gives it back before the next one takes it, so that no two deliver it at once.
    owner: BTreeMap<TopicPartition, MemberId>,
    stored: BTreeMap<TopicPartition, u64>,
    dirty: HashSet<TopicPartition>,
    /// Grows whenever a member should look at its assignment.
    generation: u64,
}

struct Member {
    topics: BTreeSet<Topic>,
    wake: Arc<Notify>,
    /// Whether its group hears of it; one that it does not hear of has no partitions.
    is_heard: bool,
    /// How long it takes for a record of each partition.
    pace: Duration,
}

impl Groups {
    pub(super) fn new(stored: Vec<StoredOffset>, expected: Vec<Consumes>) -> Self {
        let mut groups: HashMap<String, Group> = HashMap::new();
        for StoredOffset { group, at, offset } in stored {
            groups.entry(group).or_default().stored.insert(at, offset);
        }
        Self { groups: Mutex::new(groups), expected }
    }

    pub(super) fn join(
        &self,
        group: &str,
        topics: &[Topic],
        wake: Arc<Notify>,
        partitions: impl Fn(Topic) -> u32,
    ) -> MemberId {
        let mut groups = self.lock();
        let group = groups.entry(group.to_owned()).or_default();
        let id = group.next_member;
        group.next_member += 1;
        group.members.insert(
            id,
            Member { topics: topics.iter().copied().collect(), wake, is_heard: true, pace: Duration::ZERO },
        );
        group.rebalance(partitions);
        id
    }

    /// Gives everything back, with the offsets that the member's queue says may be stored.
    pub(super) fn leave(&self, group: &str, id: MemberId, queue: &DeliveryQueue, partitions: impl Fn(Topic) -> u32) {
        let mut groups = self.lock();
        let Some(group) = groups.get_mut(group) else { return };
        group.release(id, &queue.assigned(), queue);
        group.members.remove(&id);
        group.rebalance(partitions);
    }

    /// Revokes what another member should have and takes what is free. Gives the offsets where the new partitions begin, none
    /// for a partition without a stored one. Nothing is done while `generation` is the group's own.
    pub(super) fn reconcile(
        &self,
        group: &str,
        id: MemberId,
        queue: &DeliveryQueue,
        generation: &mut u64,
    ) -> Vec<(TopicPartition, Option<u64>)> {
        let mut groups = self.lock();
        let Some(group) = groups.get_mut(group) else { return Vec::new() };
        if *generation == group.generation {
            return Vec::new();
        }
        let lost: Vec<TopicPartition> =
            queue.assigned().into_iter().filter(|at| group.target.get(at) != Some(&id)).collect();
        if !lost.is_empty() {
            group.release(id, &lost, queue);
            group.wake_all();
        }
        *generation = group.generation;
        let gained: Vec<TopicPartition> = group
            .target
            .iter()
            .filter(|(at, to)| **to == id && !group.owner.contains_key(at))
            .map(|(at, _)| *at)
            .collect();
        group.owner.extend(gained.iter().map(|at| (*at, id)));
        queue.assign(&gained);
        gained.into_iter().map(|at| (at, group.stored.get(&at).copied())).collect()
    }

    /// Notes the offsets of partitions that the member still has. True if any is new.
    pub(super) fn store(&self, group: &str, id: MemberId, offsets: Vec<(TopicPartition, u64)>) -> bool {
        let mut groups = self.lock();
        let Some(group) = groups.get_mut(group) else { return false };
        for (at, offset) in &offsets {
            if group.owner.get(at) == Some(&id) {
                group.store(*at, *offset);
            }
        }
        !offsets.is_empty()
    }

    /// The members of a group, in the order of joining.
    pub(super) fn members(&self, group: &str) -> Vec<MemberId> {
        self.lock().get(group).map(|group| group.members.keys().copied().collect()).unwrap_or_default()
    }

    /// Whether the group hears of a member from now on. Gives how many of its partitions are to be another member's.
    pub(super) fn hear(&self, group: &str, id: MemberId, is_heard: bool, partitions: impl Fn(Topic) -> u32) -> usize {
        let mut groups = self.lock();
        let Some(group) = groups.get_mut(group) else { return 0 };
        let Some(member) = group.members.get_mut(&id) else { return 0 };
        member.is_heard = is_heard;
        let before = group.target.clone();
        group.rebalance(partitions);
        let moved = |at: &TopicPartition| group.target.get(at).is_some_and(|to| *to != id);
        before.iter().filter(|(at, to)| **to == id && moved(at)).count()
    }

    /// How long a member takes for a record of each partition from now on.
    pub(super) fn set_pace(&self, group: &str, id: MemberId, pace: Duration) {
        let mut groups = self.lock();
        if let Some(member) = groups.get_mut(group).and_then(|group| group.members.get_mut(&id)) {
            member.pace = pace;
        }
    }

    pub(super) fn pace(&self, group: &str, id: MemberId) -> Duration {
        self.lock().get(group).and_then(|group| group.members.get(&id)).map_or(Duration::ZERO, |member| member.pace)
    }

    /// Takes stored offsets back, each by at most `by`, of partitions that nobody has. Gives how many.
    pub(super) fn rewind(&self, group: &str, by: u64) -> usize {
        let mut groups = self.lock();
        let Some(group) = groups.get_mut(group) else { return 0 };
        let mut rewound = 0;
        for (at, offset) in &mut group.stored {
            if !group.owner.contains_key(at) && *offset > 0 {
                *offset = offset.saturating_sub(by);
                group.dirty.insert(*at);
                rewound += 1;
            }
        }
        rewound
    }

    pub(super) fn stored(&self, group: &str, at: TopicPartition) -> Option<u64> {
        self.lock().get(group)?.stored.get(&at).copied()
    }

    /// What every group that knows the partition, or is going to, has behind it; none when there is no such group.
    pub(in crate::bus) fn consumed(&self, at: TopicPartition) -> Option<u64> {
        let groups = self.lock();
        let has = |name: &str| groups.get(name).is_some_and(|group| group.stored.contains_key(&at));
        if self.expected.iter().any(|of| of.topics.contains(&at.topic) && !has(of.group)) {
            return Some(0);
        }
        groups.values().filter_map(|group| group.stored.get(&at).copied()).min()
    }

    /// How many records lie behind what each group with members has finished, by topic, where these are the ends of partitions.
    pub(super) fn lag(
        &self,
        partitions: impl Fn(Topic) -> u32,
        end: impl Fn(TopicPartition) -> u64,
    ) -> Vec<(String, Topic, u64)> {
        let mut lags = Vec::new();
        for (name, group) in self.lock().iter() {
            let topics: BTreeSet<Topic> = group.members.values().flat_map(|member| member.topics.clone()).collect();
            for topic in topics {
                let places = (0..partitions(topic)).map(|partition| TopicPartition { topic, partition });
                let behind = |at| end(at).saturating_sub(group.stored.get(&at).copied().unwrap_or(0));
                lags.push((name.clone(), topic, places.map(behind).sum()));
            }
        }
        lags
    }

    /// The offsets that changed since the last call.
    pub(super) fn take_dirty(&self) -> Vec<StoredOffset> {
        let mut taken = Vec::new();
        for (name, group) in self.lock().iter_mut() {
            for at in group.dirty.drain() {
                if let Some(offset) = group.stored.get(&at) {
                    taken.push(StoredOffset { group: name.clone(), at, offset: *offset });
                }
            }
        }
        taken
    }

    /// They could not be written: they come again from [`Groups::take_dirty`].
    pub(super) fn put_back(&self, offsets: Vec<StoredOffset>) {
        let mut groups = self.lock();
        for StoredOffset { group, at, .. } in offsets {
            groups.entry(group).or_default().dirty.insert(at);
        }
    }

    /// Every group, and whether it has a member.
    pub(in crate::bus) fn list(&self) -> Vec<(String, bool)> {
        self.lock().iter().map(|(name, group)| (name.clone(), !group.members.is_empty())).collect()
    }

    /// Forgets a group that still has no member.
    pub(in crate::bus) fn forget(&self, group: &str) {
        let mut groups = self.lock();
        if groups.get(group).is_some_and(|group| group.members.is_empty()) {
            groups.remove(group);
        }
    }

    /// Wakes the members that want this topic.
    pub(super) fn wake(&self, topic: Topic) {
        let groups = self.lock();
        let members = groups.values().flat_map(|group| group.members.values());
        members.filter(|member| member.topics.contains(&topic)).for_each(|member| member.wake.notify_one());
    }

    /// No panic happens while the lock is held, so a poisoned one holds a whole state.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    fn rebalance(&mut self, partitions: impl Fn(Topic) -> u32) {
        let heard = self.members.iter().filter(|(_, member)| member.is_heard);
        let wanted = heard.map(|(id, member)| (*id, member.topics.clone())).collect();
        self.target = assign(&wanted, partitions, &self.target);
        self.wake_all();
    }

    fn release(&mut self, id: MemberId, partitions: &[TopicPartition], queue: &DeliveryQueue) {
        for (at, offset) in queue.revoke(partitions) {
            self.store(at, offset);
        }
        for at in partitions {
            if self.owner.get(at) == Some(&id) {
                self.owner.remove(at);
            }
        }
    }

    fn store(&mut self, at: TopicPartition, offset: u64) {
        if self.stored.insert(at, offset) != Some(offset) {
            self.dirty.insert(at);
        }
    }

    fn wake_all(&mut self) {
        self.generation += 1;
        self.members.values().for_each(|member| member.wake.notify_one());
    }
}
