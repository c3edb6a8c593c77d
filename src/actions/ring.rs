//! The annotation on the target: a bounded ring of the actions that were applied to it, and a counter that grows with every write.
//!
//! Effect and record are one write of the API server, so whoever reads the target knows what was done to it (promise 2). Written as
//! `COUNTER ID:EXPIRY ID:EXPIRY:aborted …`, times in seconds since 1970.

use std::fmt;

use jiff::Timestamp;

use crate::{
    events::ActionId,
    mutants::{Mutant, mutated},
};

/// The most entries. One leaves only when it has expired; a full ring makes the next action wait.
pub const RING_MAX: usize = 32;

/// The largest counter; after it comes 0, so that whatever is read can be written and read again.
const COUNTER_MAX: i64 = i64::MAX / 2;

/// What stands in the annotation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// Grows with every write of ours; after the largest it begins anew.
    pub counter: i64,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    id: ActionId,
    expiry_s: i64,
    aborted: bool,
}

/// What the ring knows of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It took effect.
    Applied,
    /// It was given up: nothing of it can take effect any more.
    Aborted,
}

/// An annotation that is not ours to read: somebody has edited it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "annotation eventpulse.io/applied-actions is malformed ({0}); remove it when no action of the target is running"
)]
pub struct MalformedRing(String);

/// The ring is full of entries that have not expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the target's ring of applied actions is full ({RING_MAX} entries)")]
pub struct RingFull;

impl Ring {
    /// Reads the annotation; none is an empty ring.
    pub fn parse(annotation: Option<&str>) -> Result<Self, MalformedRing> {
        let Some(text) = annotation.filter(|text| !text.is_empty()) else { return Ok(Self::default()) };
        let malformed = |what: &str| MalformedRing(what.chars().take(80).collect());
        let mut words = text.split(' ');
        let counter =
            words.next().and_then(|word| word.parse().ok()).filter(|counter| (0..=COUNTER_MAX).contains(counter));
        let counter = counter.ok_or_else(|| malformed("it does not begin with a counter"))?;
        let entries =
            words.map(parse_entry).collect::<Option<Vec<_>>>().ok_or_else(|| malformed("an entry is no ID:EXPIRY"))?;
        if entries.len() > RING_MAX {
            return Err(malformed("it has too many entries"));
        }
        Ok(Self { counter, entries })
    }

    /// What it knows of an action.
    pub fn mark(&self, id: &ActionId) -> Option<Mark> {
        self.entries
            .iter()
            .find(|entry| &entry.id == id)
            .map(|entry| if entry.aborted { Mark::Aborted } else { Mark::Applied })
    }

    /// The ring after one more write. `expiry` is when nothing of the action can come any more.
    pub fn with(&self, id: &ActionId, mark: Mark, expiry: Timestamp, now: Timestamp) -> Result<Self, RingFull> {
        let mut entries: Vec<Entry> =
            self.entries.iter().filter(|entry| entry.expiry_s >= now.as_second()).cloned().collect();
        if entries.len() >= RING_MAX {
            return Err(RingFull);
        }
        if mutated(Mutant::RingOfOne) {
            entries.clear();
        }
        entries.push(Entry { id: id.clone(), expiry_s: expiry.as_second(), aborted: mark == Mark::Aborted });
        let counter = if self.counter < COUNTER_MAX { self.counter + 1 } else { 0 };
        Ok(Self { counter, entries })
    }
}

fn parse_entry(word: &str) -> Option<Entry> {
    let mut parts = word.split(':');
    let id = ActionId::try_from(parts.next()?.to_owned()).ok()?;
    let expiry_s = parts.next()?.parse().ok()?;
    let aborted = match parts.next() {
        None => false,
        Some("aborted") => true,
        Some(_) => return None,
    };
    parts.next().is_none().then_some(Entry { id, expiry_s, aborted })
}

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.counter)?;
        for entry in &self.entries {
            write!(f, " {}:{}{}", entry.id, entry.expiry_s, if entry.aborted { ":aborted" } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> ActionId {
        ActionId::try_from(name.to_owned()).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let ring = Ring::default().with(&id("a"), Mark::Applied, at(100), at(1)).unwrap();
        let ring = ring.with(&id("b"), Mark::Aborted, at(200), at(2)).unwrap();
        assert_eq!(ring.to_string(), "2 a:100 b:200:aborted");
        assert_eq!(Ring::parse(Some(&ring.to_string())), Ok(ring.clone()));
        assert_eq!(
            [ring.mark(&id("a")), ring.mark(&id("b")), ring.mark(&id("c"))],
            [Some(Mark::Applied), Some(Mark::Aborted), None]
        );
    }

    #[test]
    fn after_the_largest_counter_it_is_still_read() {
        let ring = Ring::parse(Some("4611686018427387902")).unwrap();
        let ring = ring.with(&id("a"), Mark::Applied, at(100), at(1)).unwrap();
        assert_eq!(Ring::parse(Some(&ring.to_string())), Ok(ring.clone()));
        let ring = ring.with(&id("b"), Mark::Applied, at(100), at(1)).unwrap();
        assert_eq!(ring.to_string(), "0 a:100 b:100");
    }

    /// What a target knows of two actions is no longer known where its ring holds one.
    #[test]
    fn a_ring_of_one_forgets() {
        let marks = || {
            let ring = Ring::default().with(&id("a"), Mark::Applied, at(100), at(1)).unwrap();
            let ring = ring.with(&id("b"), Mark::Applied, at(200), at(2)).unwrap();
            [ring.mark(&id("a")), ring.mark(&id("b"))]
        };
        assert_eq!(marks(), [Some(Mark::Applied); 2]);
        assert_eq!(crate::mutants::with(Mutant::RingOfOne, marks), [None, Some(Mark::Applied)]);
    }

    #[test]
    fn an_entry_leaves_when_it_has_expired_and_not_before() {
        let mut ring = Ring::default();
        for i in 0..RING_MAX {
            ring = ring.with(&id(&format!("a{i}")), Mark::Applied, at(100), at(1)).unwrap();
        }
        assert_eq!(ring.with(&id("next"), Mark::Applied, at(300), at(100)), Err(RingFull));
        let later = ring.with(&id("next"), Mark::Applied, at(300), at(101)).unwrap();
        assert_eq!(later.to_string(), "33 next:300");
    }

    #[test]
    fn an_annotation_that_was_edited_is_refused_and_never_taken_for_an_empty_one() {
        for text in [
            "x",
            "-1",
            " ",
            "1 ",
            "1 a",
            "1 a:",
            "1 a:b",
            "1 A:1",
            "1 a:1:done",
            "1 a:1:aborted:x",
            "1  a:1",
            "1 ../x:1",
            "1.5",
            "{}",
            "99999999999999999999",
            "1 a:99999999999999999999",
            "\u{0}",
            "９",
        ] {
            assert!(Ring::parse(Some(text)).is_err(), "{text:?}");
        }
        let many = (0..33).map(|i| format!(" a{i}:1")).collect::<String>();
        assert!(Ring::parse(Some(&format!("40{many}"))).is_err());
        assert_eq!(Ring::parse(None), Ok(Ring::default()));
        assert_eq!(Ring::parse(Some("")), Ok(Ring::default()));
    }
}
