//! Where each assigned partition stands, and what a record says that is not the next one.

use std::collections::{HashMap, VecDeque};

use crate::bus::TopicPartition;

/// Of how many records of a partition is known what they are, to tell the same one from another in its place. With all topics and groups
/// there are some 200 partitions, and where little comes it takes an hour until each knows that many: 2 KiB each.
const KNOWN: usize = 128;

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
pub(super) struct Positions(HashMap<TopicPartition, Place>);

#[derive(Default)]
struct Place {
    next: u64,
    /// Paused by us, with nothing new since: here, and nowhere else, a record may be fetched twice.
    is_paused: bool,
    /// Offset and digest of the last ones that were handed over.
    known: VecDeque<(u64, u64)>,
}

impl Positions {
    pub(super) fn get(&self, at: TopicPartition) -> Option<u64> {
        self.0.get(&at).map(|place| place.next)
    }

    pub(super) fn forget(&mut self, at: TopicPartition) {
        self.0.remove(&at);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn pause(&mut self, at: TopicPartition) {
        if let Some(place) = self.0.get_mut(&at) {
            place.is_paused = true;
        }
    }

    /// Judges a record that has come, by its offset and a digest of what it is, and goes on behind it. A log may be cut while it is
    /// paused, too: then other records stand where those were that are known. One of which nothing is known any more is handed over again,
    /// which changes nothing.
    pub(super) fn see(&mut self, at: TopicPartition, offset: u64, digest: u64) -> Seen {
        let place = self.0.entry(at).or_default();
        let is_behind = offset < place.next;
        if is_behind && place.is_paused && place.known.contains(&(offset, digest)) {
            return Seen::Again;
        }
        (place.is_paused, place.next) = (false, offset + 1);
        if is_behind {
            place.known.clear();
        } else if place.known.len() >= KNOWN {
            place.known.pop_front();
        }
        place.known.push_back((offset, digest));
        if is_behind { Seen::Rewound } else { Seen::New }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Topic;

    const AT: TopicPartition = TopicPartition { topic: Topic::AlertRaised, partition: 0 };

    /// A record that is at this offset as long as the log is not cut.
    fn see(positions: &mut Positions, offset: u64) -> Seen {
        positions.see(AT, offset, offset * 7)
    }

    #[test]
    fn a_record_that_is_fetched_twice_around_a_pause_is_handed_over_once() {
        let mut positions = Positions::default();
        for offset in [5, 6, 9] {
            assert_eq!(see(&mut positions, offset), Seen::New, "gaps are fine");
        }
        positions.pause(AT);
        assert_eq!((see(&mut positions, 6), see(&mut positions, 9)), (Seen::Again, Seen::Again));
        assert_eq!((see(&mut positions, 10), positions.get(AT)), (Seen::New, Some(11)));
    }

    #[test]
    fn a_log_that_was_cut_is_read_from_its_new_beginning() {
        let mut positions = Positions::default();
        see(&mut positions, 500);
        assert_eq!(see(&mut positions, 0), Seen::Rewound);
        assert_eq!((see(&mut positions, 1), positions.get(AT)), (Seen::New, Some(2)));
        positions.pause(AT);
        see(&mut positions, 2);
        assert_eq!(see(&mut positions, 0), Seen::Rewound, "the pause is over");
    }

    #[test]
    fn a_log_that_was_cut_during_a_pause_is_read_from_where_it_was_cut() {
        let mut positions = Positions::default();
        assert!((0..10).all(|offset| see(&mut positions, offset) == Seen::New));
        positions.pause(AT);
        // From 7 on others stand there.
        assert!((0..7).all(|offset| see(&mut positions, offset) == Seen::Again));
        assert_eq!(positions.see(AT, 7, 1), Seen::Rewound);
        assert_eq!((positions.see(AT, 8, 2), positions.get(AT)), (Seen::New, Some(9)));
    }

    #[test]
    fn what_is_too_long_ago_to_be_known_is_handed_over_again() {
        let mut positions = Positions::default();
        let end = KNOWN as u64 + 10;
        assert!((0..end).all(|offset| see(&mut positions, offset) == Seen::New));
        positions.pause(AT);
        assert_eq!((see(&mut positions, 10), see(&mut positions, 9)), (Seen::Again, Seen::Rewound));
        assert_eq!(see(&mut positions, 10), Seen::New);
        assert!(positions.0[&AT].known.len() <= KNOWN);
    }

    #[test]
    fn a_new_assignment_begins_anew() {
        let mut positions = Positions::default();
        see(&mut positions, 500);
        positions.forget(AT);
        assert_eq!((positions.get(AT), see(&mut positions, 3)), (None, Seen::New));
    }
}
