//! When a rule's storm begins and when it is over, and which of the groups that wait may open. Pure; the clock asks it.
//!
//! What is seen is the index of all groups, which every replica has: a restart or a takeover goes on where it was. Each replica does
//! what concerns its own groups, and the one that owns the storm's group begins and ends it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::timers::GroupIndex;
use crate::events::NamespacedName;

/// Looks after which a group that was told of room, and did not open, is told again: its rule may be suspended, or edited.
const TOLD_AGAIN_AFTER: u32 = 20;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StormStep {
    /// A rule's storm begins.
    Begins(NamespacedName),
    /// A rule's storm is over.
    Ends(NamespacedName),
    /// There is room for this group.
    Room(NamespacedName),
}

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Storms {
    /// By rule whose storm goes on: since when so few groups are open that it may be over.
    calm: BTreeMap<NamespacedName, Timestamp>,
    told: BTreeSet<NamespacedName>,
    looks: u32,
}

impl Storms {
    /// A storm begins with `threshold` open groups. It is over when a tenth of them has been free for as long as `calm_for`, so that
    /// what waits finds its room first, and one that comes and goes is one.
    pub fn look(
        &mut self,
        index: &GroupIndex,
        threshold: usize,
        calm_for: SignedDuration,
        now: Timestamp,
    ) -> Vec<StormStep> {
        let begins = index.open_by_rule().filter(|(rule, open)| *open >= threshold && !index.storms().contains(*rule));
        let mut steps: Vec<StormStep> = begins.map(|(rule, _)| StormStep::Begins(rule.clone())).collect();
        self.looks += 1;
        if self.looks >= TOLD_AGAIN_AFTER {
            self.looks = 0;
            self.told.clear();
        }
        self.calm.retain(|rule, _| index.storms().contains(rule));
        for rule in index.storms().iter().map(AsRef::as_ref) {
            let open = index.open_groups(rule);
            let room = threshold.saturating_sub(open);
            let waiting = index.waiting_of(rule).filter(|name| !self.told.contains(*name)).take(room);
            let waiting: Vec<NamespacedName> = waiting.cloned().collect();
            self.told.extend(waiting.iter().cloned());
            steps.extend(waiting.into_iter().map(StormStep::Room));
            if open * 10 > threshold * 9 {
                self.calm.remove(rule);
                continue;
            }
            let since = *self.calm.entry(rule.clone()).or_insert(now);
            // A clock that was set back begins anew.
            if now < since {
                self.calm.insert(rule.clone(), now);
            } else if now.duration_since(since) >= calm_for {
                steps.push(StormStep::Ends(rule.clone()));
            }
        }
        steps
    }
}
