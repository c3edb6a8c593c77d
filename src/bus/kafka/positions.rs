//! Where each assigned partition stands, and what a record says that is not the next one.

use std::collections::{HashMap, HashSet};

use crate::bus::TopicPartition;

/// How a record stands to what was handed over before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It comes after all of it.
    New,
    /// Fetched twice around a pause; it was handed over.
    Again,
    /// The partition's log was cut, or is another one: its offsets have begun anew, and what was handed over is gone.
    Rewound,
}

/// The next offset expected of each assigned partition, once it is known.
#[derive(Default)]
pub(super) struct Positions {
    next: HashMap<TopicPartition, u64>,
    /// Paused by us, with nothing new since: here, and nowhere else, a record may be fetched twice.
    paused: HashSet<TopicPartition>,
}

impl Positions {
    pub(super) fn get(&self, at: TopicPartition) -> Option<u64> {
        self.next.get(&at).copied()
    }

    pub(super) fn forget(&mut self, at: TopicPartition) {
        self.next.remove(&at);
        self.paused.remove(&at);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn pause(&mut self, at: TopicPartition) {
        self.paused.insert(at);
    }

    /// Judges a record that has come, and goes on behind it.
    pub(super) fn see(&mut self, at: TopicPartition, offset: u64) -> Seen {
        let is_behind = self.next.get(&at).is_some_and(|next| offset < *next);
        if is_behind && self.paused.contains(&at) {
            return Seen::Again;
        }
        self.paused.remove(&at);
        self.next.insert(at, offset + 1);
        if is_behind { Seen::Rewound } else { Seen::New }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Topic;

    const AT: TopicPartition = TopicPartition { topic: Topic::AlertRaised, partition: 0 };

    #[test]
    fn a_record_that_is_fetched_twice_around_a_pause_is_handed_over_once() {
        let mut positions = Positions::default();
        for offset in [5, 6, 9] {
            assert_eq!(positions.see(AT, offset), Seen::New, "gaps are fine");
        }
        positions.pause(AT);
        assert_eq!((positions.see(AT, 6), positions.see(AT, 9)), (Seen::Again, Seen::Again));
        assert_eq!((positions.see(AT, 10), positions.get(AT)), (Seen::New, Some(11)));
    }

    #[test]
    fn a_log_that_was_cut_is_read_from_its_new_beginning() {
        let mut positions = Positions::default();
        positions.see(AT, 500);
        assert_eq!(positions.see(AT, 0), Seen::Rewound);
        assert_eq!((positions.see(AT, 1), positions.get(AT)), (Seen::New, Some(2)));
        positions.pause(AT);
        positions.see(AT, 2);
        assert_eq!(positions.see(AT, 0), Seen::Rewound, "the pause is over");
    }

    #[test]
    fn a_new_assignment_begins_anew() {
        let mut positions = Positions::default();
        positions.see(AT, 500);
        positions.forget(AT);
        assert_eq!((positions.get(AT), positions.see(AT, 3)), (None, Seen::New));
    }
}
