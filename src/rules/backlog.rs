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
    /// How long it was read in all since it was last read up to the present: a log that comes and goes holds up nothing for ever.
    spent: SignedDuration,
    /// Whether it was read up to the present since reading began.
    caught_up: bool,
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
        self.stop(now);
        self.since = Some(now);
    }

    /// Nothing is read now.
    pub fn stop(&mut self, now: Timestamp) {
        let read_for = self.since.take().map(|since| now.duration_since(since).max(SignedDuration::ZERO));
        self.spent = if self.caught_up { SignedDuration::ZERO } else { self.spent + read_for.unwrap_or_default() };
        self.caught_up = false;
        self.read.clear();
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
    pub fn is_behind(&mut self, quiet: SignedDuration, now: Timestamp) -> bool {
        let Some(since) = self.since else { return true };
        if now < since {
            // The clock was set back: what was measured with it says nothing any more.
            self.begin(now);
            return true;
        }
        let waits = |read: &Read| read.accepted_at < since && now < plus(read.at, quiet) && read.at <= now;
        let behind = self.spent + now.duration_since(since) < BEHIND_MAX
            && (now < plus(since, quiet) || self.read.values().any(waits));
        self.caught_up |= !behind;
        behind
    }
}
