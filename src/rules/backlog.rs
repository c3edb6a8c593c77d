//! Whether alerts may wait in the log that this replica has not read. Pure; the service tells it what happens.
//!
//! After a takeover, an outage of the log or a pause the clock is ahead of what was read: repetitions that keep alerts from expiring
//! wait there. Until the log is read up to the present nothing is due by itself.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use super::input::plus;

/// However much comes, and however old it says it is, nothing waits for longer (promise 6).
const BEHIND_MAX: SignedDuration = SignedDuration::from_mins(15);

/// What was read since reading began anew.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Since when it is read without interruption; none while it is not read.
    since: Option<Timestamp>,
    /// By partition.
    read: HashMap<u32, Read>,
}

#[derive(Debug)]
struct Read {
    /// When the newest alert of the partition was accepted.
    accepted_at: Timestamp,
    /// When the last one was read.
    at: Timestamp,
}

impl Backlog {
    /// Partitions were taken over, or reading goes on after it stopped: what waits in them is unknown.
    pub fn begin(&mut self, now: Timestamp) {
        *self = Self { since: Some(now), read: HashMap::new() };
    }

    /// Nothing is read now.
    pub fn stop(&mut self) {
        *self = Self::default();
    }

    /// Whether it is read.
    pub fn is_reading(&self) -> bool {
        self.since.is_some()
    }

    /// An alert was read.
    pub fn read(&mut self, partition: u32, accepted_at: Timestamp, now: Timestamp) {
        let read = self.read.entry(partition).or_insert(Read { accepted_at, at: now });
        *read = Read { accepted_at: read.accepted_at.max(accepted_at), at: now };
    }

    /// Whether something may wait: a partition is read up to the present once an alert of it was accepted after reading began, or
    /// when nothing came of it for as long as `quiet`.
    pub fn is_behind(&self, quiet: SignedDuration, now: Timestamp) -> bool {
        let Some(since) = self.since else { return true };
        if now >= plus(since, BEHIND_MAX) {
            return false;
        }
        now < plus(since, quiet)
            || self.read.values().any(|read| read.accepted_at < since && now < plus(read.at, quiet))
    }
}
