//! Which stored offset becomes which. Pure.

use jiff::Timestamp;

use crate::{
    bus::{StoredOffset, TopicPartition, history::Progress},
    events::Topic,
};

/// One partition as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// The group.
    pub(super) group: &'static str,
    /// The topic.
    pub(super) topic: Topic,
    /// The first record that is wanted again; the partition's end where there is none.
    pub(super) begin: u64,
    /// How far the group has come.
    pub(super) progress: Progress,
}

/// What becomes of a partition's stored offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// It goes back.
    Back {
        /// To this offset.
        new: u64,
        /// How many records come again.
        again: u64,
    },
    /// It lies behind the end, because the topic was made anew: it goes to the oldest record, so that none is passed over.
    Anew {
        /// To this offset.
        new: u64,
        /// How many records come.
        again: u64,
    },
    /// There is none: the group begins with the oldest record by itself.
    Unstored,
    /// The group has nothing behind it that is wanted again.
    Stays,
}

impl Move {
    fn of(held: &Held) -> Self {
        let Progress { first, next, end, .. } = held.progress;
        let Some(stored) = next else { return Self::Unstored };
        if stored > end {
            return Self::Anew { new: first, again: end.saturating_sub(first) };
        }
        let new = held.begin.max(first);
        if new < stored { Self::Back { new, again: stored - new } } else { Self::Stays }
    }

    /// The new offset, and how many records come again by it.
    pub(super) fn to(self) -> Option<(u64, u64)> {
        match self {
            Self::Back { new, again } | Self::Anew { new, again } => Some((new, again)),
            Self::Unstored | Self::Stays => None,
        }
    }
}

/// Of each partition, what becomes of its stored offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// From when on; none for everything.
    pub(super) since: Option<Timestamp>,
    /// In the order of services, topics and partitions.
    pub(super) partitions: Vec<(Held, Move)>,
}

impl Plan {
    /// Never forward: what a group has not consumed stays before it.
    pub(super) fn new(since: Option<Timestamp>, held: Vec<Held>) -> Self {
        Self { since, partitions: held.into_iter().map(|held| (held, Move::of(&held))).collect() }
    }

    /// What is to be stored.
    pub(super) fn offsets(&self) -> Vec<StoredOffset> {
        let offset = |(held, is): &(Held, Move)| {
            let at = TopicPartition { topic: held.topic, partition: held.progress.partition };
            is.to().map(|(offset, _)| StoredOffset { group: held.group.to_owned(), at, offset })
        };
        self.partitions.iter().filter_map(offset).collect()
    }

    /// How many records come again.
    pub(super) fn again(&self) -> u64 {
        self.partitions.iter().filter_map(|(_, is)| is.to()).fold(0, |sum, (_, again)| sum.saturating_add(again))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cli::replay) fn held(begin: u64, first: u64, next: Option<u64>, end: u64) -> Held {
        let progress = Progress { partition: 2, first, next, end };
        Held { group: "incidents", topic: Topic::IncidentOpened, begin, progress }
    }

    #[test]
    fn an_offset_goes_back_to_what_is_held_and_wanted_and_never_forward() {
        for (held, becomes) in [
            (held(3, 3, Some(10), 12), Move::Back { new: 3, again: 7 }),
            (held(8, 3, Some(10), 12), Move::Back { new: 8, again: 2 }),
            // The log has let go of it.
            (held(0, 3, Some(10), 12), Move::Back { new: 3, again: 7 }),
            (held(10, 3, Some(10), 12), Move::Stays),
            // Nothing is so young, and what waits is not passed over.
            (held(12, 3, Some(10), 12), Move::Stays),
            (held(3, 3, Some(1), 12), Move::Stays),
            (held(0, 0, Some(0), 0), Move::Stays),
            (held(0, 0, None, 12), Move::Unstored),
            (held(12, 0, None, 12), Move::Unstored),
            (held(4, 0, Some(500), 12), Move::Anew { new: 0, again: 12 }),
            (held(0, 0, Some(u64::MAX), 0), Move::Anew { new: 0, again: 0 }),
        ] {
            assert_eq!(Move::of(&held), becomes, "{held:?}");
        }
    }

    #[test]
    fn what_is_stored_is_what_is_printed() {
        let plan = Plan::new(None, vec![held(3, 3, Some(10), 12), held(0, 0, None, 5), held(4, 0, Some(500), 12)]);
        let at = TopicPartition { topic: Topic::IncidentOpened, partition: 2 };
        let stored = |offset| StoredOffset { group: "incidents".into(), at, offset };
        assert_eq!((plan.offsets(), plan.again()), (vec![stored(3), stored(0)], 19));
    }
}
