//! Which member of a group gets which partition: pure, balanced for each topic, and moving as little as it can.

use std::collections::{BTreeMap, BTreeSet};

use crate::{bus::TopicPartition, events::Topic};

/// A member of a consumer group, by the order of joining.
pub(super) type MemberId = u64;

/// Splits the partitions of every topic among the members that want it. `current` is kept where balance allows.
pub(super) fn assign(
    members: &BTreeMap<MemberId, BTreeSet<Topic>>,
    partitions: impl Fn(Topic) -> u32,
    current: &BTreeMap<TopicPartition, MemberId>,
) -> BTreeMap<TopicPartition, MemberId> {
    let topics: BTreeSet<Topic> = members.values().flatten().copied().collect();
    let mut total: BTreeMap<MemberId, usize> = members.keys().map(|id| (*id, 0)).collect();
    let mut result = BTreeMap::new();
    for topic in topics {
        let wanting: BTreeSet<MemberId> =
            members.iter().filter(|(_, wanted)| wanted.contains(&topic)).map(|(id, _)| *id).collect();
        for (at, id) in assign_topic(topic, partitions(topic), &wanting, current, &total) {
            *total.entry(id).or_default() += 1;
            result.insert(at, id);
        }
    }
    result
}

fn assign_topic(
    topic: Topic,
    partitions: u32,
    wanting: &BTreeSet<MemberId>,
    current: &BTreeMap<TopicPartition, MemberId>,
    total: &BTreeMap<MemberId, usize>,
) -> BTreeMap<TopicPartition, MemberId> {
    let mut held: BTreeMap<MemberId, Vec<TopicPartition>> = wanting.iter().map(|id| (*id, Vec::new())).collect();
    let mut free = Vec::new();
    for partition in 0..partitions {
        let at = TopicPartition { topic, partition };
        match current.get(&at).and_then(|id| held.get_mut(id)) {
            Some(list) => list.push(at),
            None => free.push(at),
        }
    }
    let load = |held: &BTreeMap<MemberId, Vec<TopicPartition>>, id: &MemberId| {
        (held.get(id).map_or(0, Vec::len), total.get(id).copied().unwrap_or(0), *id)
    };
    for at in free {
        let Some(least) = wanting.iter().min_by_key(|id| load(&held, id)) else { break };
        held.entry(*least).or_default().push(at);
    }
    while let (Some(most), Some(least)) =
        (wanting.iter().max_by_key(|id| load(&held, id)), wanting.iter().min_by_key(|id| load(&held, id)))
        && load(&held, most).0 > load(&held, least).0 + 1
        && let Some(moved) = held.get_mut(most).and_then(Vec::pop)
    {
        held.entry(*least).or_default().push(moved);
    }
    held.into_iter().flat_map(|(id, list)| list.into_iter().map(move |at| (at, id))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(ids: &[MemberId]) -> BTreeMap<MemberId, BTreeSet<Topic>> {
        ids.iter().map(|id| (*id, BTreeSet::from([Topic::AlertRaised, Topic::ActionFailed]))).collect()
    }

    fn moved(before: &BTreeMap<TopicPartition, MemberId>, after: &BTreeMap<TopicPartition, MemberId>) -> usize {
        before.iter().filter(|(at, id)| after.get(at) != Some(id)).count()
    }

    #[test]
    fn a_joining_member_takes_its_share_and_a_leaving_one_gives_only_its_own() {
        let one = assign(&members(&[1]), |_| 6, &BTreeMap::new());
        assert_eq!(one.len(), 12);
        let two = assign(&members(&[1, 2]), |_| 6, &one);
        assert_eq!(moved(&one, &two), 6);
        let three = assign(&members(&[1, 2, 3]), |_| 6, &two);
        assert_eq!(moved(&two, &three), 4);
        let left = assign(&members(&[1, 3]), |_| 6, &three);
        assert_eq!(moved(&three, &left), 4);
        assert_eq!(assign(&members(&[]), |_| 6, &left), BTreeMap::new());
    }

    #[test]
    fn topics_of_one_partition_are_spread_over_the_members() {
        let owners: BTreeSet<MemberId> = assign(&members(&[1, 2]), |_| 1, &BTreeMap::new()).into_values().collect();
        assert_eq!(owners, BTreeSet::from([1, 2]));
    }

    proptest! {
        #[test]
        fn every_wanted_partition_has_one_owner_that_wants_it_and_shares_differ_by_one_at_most(
            wanted in proptest::collection::btree_map(0_u64..8, proptest::collection::btree_set(0_usize..4, 0..4), 0..6),
            before in proptest::collection::btree_map((0_usize..4, 0_u32..9), 0_u64..10, 0..20),
            partitions in 1_u32..9,
        ) {
            let members: BTreeMap<MemberId, BTreeSet<Topic>> = wanted
                .into_iter()
                .map(|(id, topics)| (id, topics.into_iter().map(|i| Topic::ALL[i]).collect()))
                .collect();
            let current: BTreeMap<TopicPartition, MemberId> = before
                .into_iter()
                .map(|((topic, partition), id)| (TopicPartition { topic: Topic::ALL[topic], partition }, id))
                .collect();
            let result = assign(&members, |_| partitions, &current);
            for topic in Topic::ALL {
                let wanting: Vec<_> = members.iter().filter(|(_, t)| t.contains(&topic)).map(|(id, _)| *id).collect();
                let owned: Vec<_> = result.iter().filter(|(at, _)| at.topic == topic).map(|(_, id)| *id).collect();
                prop_assert_eq!(owned.len(), if wanting.is_empty() { 0 } else { partitions as usize });
                let shares: Vec<usize> =
                    wanting.iter().map(|id| owned.iter().filter(|owner| *owner == id).count()).collect();
                prop_assert_eq!(shares.iter().sum::<usize>(), owned.len());
                if let (Some(most), Some(least)) = (shares.iter().max(), shares.iter().min()) {
                    prop_assert!(most - least <= 1);
                }
            }
            prop_assert_eq!(assign(&members, |_| partitions, &result), result);
        }
    }
}
