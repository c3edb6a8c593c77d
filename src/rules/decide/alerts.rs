//! What an alert means for its group, by Alertmanager's own semantics: overlapping intervals of one fingerprint are one alert
//! with the earliest start, the later end wins, an end matches by fingerprint.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::Turn;
use crate::{
    api::v1alpha1::{GROUP_ALERTS_MAX, GroupAlert, HeldFacts},
    events::{AlertId, AlertStatus, DecisionReason},
    mutants::{Mutant, mutated},
    rules::input::{RaisedAlert, plus},
};

/// The most bytes of labels and annotations that a group keeps of alerts that wait, and of one of them: annotations are cut.
const HELD_FACTS_TOTAL_MAX: usize = 32 * 1024;
const HELD_FACTS_SIZE_MAX: usize = 8 * 1024;
/// An alert that has ended goes on only if it was told so long after its end. The two of a highly available pair end theirs seconds
/// apart, and each repeats what fires once a minute: what the later one still says of the same interval begins no other one.
const GOES_ON_AFTER: SignedDuration = SignedDuration::from_mins(1);
/// How much the clock of who accepted an alert may be ahead, before what it says of a time is no evidence.
const CLOCKS_DIFFER_MAX: SignedDuration = SignedDuration::from_mins(1);
/// Beyond it alerts that are only counted are not even counted: the number is approximate anyway.
const COUNT_MAX: i32 = 99_999;

/// The reason for the ledger, and what people should know beside it.
type Verdict = (DecisionReason, String);

fn because(reason: DecisionReason) -> Verdict {
    (reason, String::new())
}

impl Turn<'_> {
    pub(super) fn alert(&mut self, raised: &RaisedAlert) {
        let known = self.find(&raised.fingerprint).map(|index| self.group.alerts[index].last_starts_at);
        let (reason, detail) = match raised.alert.status {
            AlertStatus::Firing => self.firing(raised),
            AlertStatus::Resolved => self.resolved(raised),
        };
        // Whatever a newer state holds: this start is known to it, too.
        self.certain = known.is_some_and(|last| raised.alert.starts_at <= last);
        self.ledger(raised, reason, detail);
    }

    pub(super) fn find(&self, fingerprint: &str) -> Option<usize> {
        self.group.alerts.iter().position(|alert| alert.fingerprint == fingerprint)
    }

    fn firing(&mut self, raised: &RaisedAlert) -> Verdict {
        let Some(index) = self.find(&raised.fingerprint) else {
            if self.only_known {
                return because(DecisionReason::NoRule);
            }
            if self.is_stale(raised) {
                return because(DecisionReason::Stale);
            }
            return self.begin(raised, None);
        };
        let before = self.group.alerts[index].clone();
        match before.status {
            AlertStatus::Firing => self.still_firing(raised, index, before),
            AlertStatus::Resolved if raised.alert.starts_at <= known_through(&before) => {
                if self.begins_again(raised, &before) {
                    return self.begin_at(raised, raised.alert.accepted_at, Some(before));
                }
                self.group.alerts[index].merge_start(raised.alert.starts_at);
                self.revive(raised, index, &before);
                if mutated(Mutant::RepetitionOpens) && self.group.episode.is_none() {
                    return self.begin(raised, Some(before));
                }
                because(DecisionReason::Repeated)
            }
            // The rule does not match it any more: what it begins is the open incident's, or nobody's.
            AlertStatus::Resolved if self.only_known && !before.in_episode => because(DecisionReason::NoRule),
            AlertStatus::Resolved if self.is_stale(raised) => because(DecisionReason::Stale),
            AlertStatus::Resolved => self.begin(raised, Some(before)),
        }
    }

    /// An alert that is known to fire is told again, or told by the other one of a highly available pair.
    fn still_firing(&mut self, raised: &RaisedAlert, index: usize, before: GroupAlert) -> Verdict {
        let closed = is_closed(&before);
        let starts_at = raised.alert.starts_at;
        self.extend(raised, index);
        let alert = &mut self.group.alerts[index];
        if closed {
            // One alert, with whatever start: its incident has ended, and a later start of the same interval opens no second one.
            if starts_at > alert.last_starts_at {
                alert.last_starts_at = starts_at;
                alert.closed_through = alert.closed_through.max(Some(starts_at));
            }
            return because(DecisionReason::Repeated);
        }
        alert.merge_start(starts_at);
        // Accepted no later than what this interval is known by, and with a start of one that is over: it was a repetition when it came
        // first, and is one when it comes again. Only what began the interval under its old start has this one's as its time.
        let of_earlier_interval = before.closed_through.is_some_and(|floor| starts_at <= floor)
            && raised.accepted_at(self.now) <= before.accepted_at.max(before.starts_at)
            && raised.alert.accepted_at != before.starts_at;
        if before.in_episode || of_earlier_interval || (self.only_known && self.group.episode.is_none()) {
            return because(DecisionReason::Repeated);
        }
        // It waits for a cooldown's end, or for the rule to be taken up again.
        let waiting = self.group.alerts[index].clone();
        self.begin_from(raised, waiting.clone(), Some(waiting))
    }

    /// An alert that was taken as ended goes on: later evidence than its end, while its incident is open.
    fn revive(&mut self, raised: &RaisedAlert, index: usize, before: &GroupAlert) {
        let newer = raised.accepted_at(self.now) > before.accepted_at;
        if before.in_episode && ends_later(raised, before) && newer && self.group.episode.is_some() {
            let expires_at = raised.first_expiry(self.expiry(), self.now);
            let accepted_at = raised.accepted_at(self.now);
            let alert = &mut self.group.alerts[index];
            alert.status = AlertStatus::Firing;
            alert.ends_at = raised.alert.ends_at;
            alert.expires_at = Some(expires_at);
            alert.accepted_at = accepted_at;
        }
    }

    /// Whether an alert that was taken as ended, and of whose end nobody doubts by now, still fires under its old start: as
    /// Alertmanager does, what is told later and holds for longer than the known end is believed. Judged by what the event says
    /// and not by the clock, so that it says the same when it comes again (promise 5).
    fn begins_again(&self, raised: &RaisedAlert, before: &GroupAlert) -> bool {
        let told_at = raised.alert.accepted_at;
        let newer = told_at > before.accepted_at && told_at > plus(known_through(before), GOES_ON_AFTER);
        let newer = newer || mutated(Mutant::OldEvidenceCounts);
        !self.only_known
            && !before.in_episode
            && newer
            && ends_later(raised, before)
            && told_at <= plus(self.now, CLOCKS_DIFFER_MAX)
            && !self.is_stale(raised)
    }

    /// A new interval of an alert: `before` is what is known of earlier ones.
    fn begin(&mut self, raised: &RaisedAlert, before: Option<GroupAlert>) -> Verdict {
        self.begin_at(raised, raised.alert.starts_at, before)
    }

    /// The same as of a time that is the event's, so that the ids which follow from it are the same when it comes again.
    fn begin_at(&mut self, raised: &RaisedAlert, starts_at: Timestamp, before: Option<GroupAlert>) -> Verdict {
        let (alert_id, accepted_at) = if starts_at == raised.alert.starts_at {
            (raised.alert_id.clone(), raised.accepted_at(self.now))
        } else {
            // Not the clock's time, whatever is ahead: the same event is no later than its own interval.
            (AlertId::new(&raised.alert.source, &raised.fingerprint, starts_at), starts_at)
        };
        let alert = GroupAlert {
            fingerprint: raised.fingerprint.clone(),
            source: raised.alert.source.clone(),
            alert_id,
            starts_at,
            last_starts_at: starts_at,
            ends_at: raised.alert.ends_at,
            status: AlertStatus::Firing,
            accepted_at,
            expires_at: Some(raised.first_expiry(self.expiry(), self.now)),
            in_episode: false,
            // Earlier intervals are over: what belongs to them is a repetition.
            closed_through: before.as_ref().map(known_through),
            facts: None,
        };
        self.begin_from(raised, alert, before)
    }

    /// Joins, opens, or says why not. Where nothing begins, the group keeps what it knew before.
    fn begin_from(&mut self, raised: &RaisedAlert, mut alert: GroupAlert, before: Option<GroupAlert>) -> Verdict {
        if self.group.episode.is_some() {
            alert.facts = None;
            self.join(alert);
            return because(DecisionReason::Joined);
        }
        if self.rule.suspended {
            // Held like in a cooldown: it opens when the rule is taken up again, and not because its event comes again (promise 5).
            if self.rule.rule.is_some() && !self.rule.crowded {
                self.hold(raised, alert);
            }
            return because(DecisionReason::Suspended);
        }
        if self.group.cooldown_until.is_some_and(|until| self.now < until) {
            self.hold(raised, alert);
            return because(DecisionReason::Cooldown);
        }
        if self.rule.storm {
            // Held, too, as far as there is room: it opens when the storm is over, and not only when its event comes again.
            if !self.rule.crowded {
                self.hold(raised, alert);
            }
            return because(DecisionReason::Storm);
        }
        let Some(rule) = self.rule.rule else {
            return (DecisionReason::Invalid, "the rule does not compile any more".into());
        };
        let scope = crate::rules::matching::scope_of(&raised.alert, &raised.fingerprint);
        match rule.plan(&scope, &raised.alert.labels) {
            Ok(plan) => {
                let note = plan.note.clone();
                debug_assert!(before.is_none_or(|before| before.fingerprint == alert.fingerprint));
                self.open(alert, plan, raised.traceparent.clone());
                (DecisionReason::Opened, note)
            }
            Err(error) => (DecisionReason::Invalid, error.to_string()),
        }
    }

    fn join(&mut self, mut alert: GroupAlert) {
        alert.in_episode = true;
        let stored = self.store_alert(alert);
        if let Some(episode) = &mut self.group.episode {
            episode.alert_count = episode.alert_count.saturating_add(1).min(COUNT_MAX);
            episode.approximate |= !stored;
        }
    }

    fn hold(&mut self, raised: &RaisedAlert, mut alert: GroupAlert) {
        // Those that it waits with stay: a repetition is no reason to write.
        if alert.facts.is_none() {
            let others = self.group.alerts.iter().filter(|known| known.fingerprint != alert.fingerprint);
            let held: usize = others.filter_map(|known| known.facts.as_ref()).map(size_of_facts).sum();
            let facts = facts_of(raised);
            alert.facts = facts.filter(|facts| held + size_of_facts(facts) <= HELD_FACTS_TOTAL_MAX);
        }
        self.store_alert(alert);
    }

    /// Remembers an alert under its fingerprint. At the bound, what ended longest ago gives way, then what fires of incidents that
    /// have ended; false when there is nothing of the kind (promise 6).
    pub(super) fn store_alert(&mut self, alert: GroupAlert) -> bool {
        if let Some(index) = self.find(&alert.fingerprint) {
            self.group.alerts[index] = alert;
            return true;
        }
        if self.group.alerts.len() >= GROUP_ALERTS_MAX {
            let dispensable = (0..self.group.alerts.len())
                .filter(|index| !self.group.alerts[*index].in_episode)
                .min_by_key(|index| {
                    let known = &self.group.alerts[*index];
                    (known.status == AlertStatus::Firing, !is_closed(known), known.accepted_at)
                });
            let Some(index) = dispensable else { return false };
            self.group.alerts.swap_remove(index);
        }
        self.group.alerts.push(alert);
        true
    }

    fn resolved(&mut self, raised: &RaisedAlert) -> Verdict {
        let end = raised.alert.ends_at.unwrap_or(raised.alert.accepted_at);
        let Some(index) = self.find(&raised.fingerprint) else { return self.resolved_unknown(raised, end) };
        let accepted_at = raised.accepted_at(self.now);
        let alert = &mut self.group.alerts[index];
        let starts_at = raised.alert.starts_at;
        match alert.status {
            AlertStatus::Firing => {
                let of_earlier_interval = end < alert.starts_at;
                let outdated = alert.ends_at.is_some_and(|known| known > end) && alert.accepted_at > accepted_at;
                if of_earlier_interval || outdated {
                    return because(DecisionReason::Repeated);
                }
                alert.status = AlertStatus::Resolved;
                alert.ends_at = Some(end);
                alert.expires_at = None;
                alert.facts = None;
                alert.merge_start(starts_at);
                alert.accepted_at = alert.accepted_at.max(accepted_at);
                because(DecisionReason::Resolved)
            }
            AlertStatus::Resolved if end < alert.starts_at || alert.ends_at.is_some_and(|known| end <= known) => {
                because(DecisionReason::Repeated)
            }
            AlertStatus::Resolved => {
                let later_interval = starts_at > known_through(alert);
                if later_interval {
                    alert.closed_through = Some(known_through(alert));
                    alert.alert_id = raised.alert_id.clone();
                    alert.starts_at = starts_at;
                }
                alert.merge_start(starts_at);
                alert.ends_at = Some(end);
                alert.accepted_at = alert.accepted_at.max(accepted_at);
                because(if later_interval { DecisionReason::NothingToResolve } else { DecisionReason::Repeated })
            }
        }
    }

    /// Remembered, in case its beginning was overtaken and comes later.
    fn resolved_unknown(&mut self, raised: &RaisedAlert, end: Timestamp) -> Verdict {
        if self.only_known {
            return because(DecisionReason::NoRule);
        }
        if self.is_stale(raised) {
            return because(DecisionReason::Stale);
        }
        self.store_alert(GroupAlert {
            fingerprint: raised.fingerprint.clone(),
            source: raised.alert.source.clone(),
            alert_id: raised.alert_id.clone(),
            starts_at: raised.alert.starts_at,
            last_starts_at: raised.alert.starts_at,
            ends_at: Some(end),
            status: AlertStatus::Resolved,
            accepted_at: raised.accepted_at(self.now),
            expires_at: None,
            in_episode: false,
            closed_through: None,
            facts: None,
        });
        because(DecisionReason::NothingToResolve)
    }

    /// Accepted before the rule was there, or too long ago to begin anything (promise 5).
    fn is_stale(&self, raised: &RaisedAlert) -> bool {
        // By what it says and not by the clock, which may have been set back: it says the same when it comes again.
        let before_rule = self.rule.rule.is_some_and(|rule| raised.alert.accepted_at < rule.created_at);
        before_rule || plus(raised.accepted_at(self.now), self.accept_window()) < self.now
    }

    /// Moves the expiry, but only when less than half of its window was left when the repetition was accepted: one every minute is
    /// not a write every minute. Judged by what it says and not by the clock, so that it says the same when it comes again.
    fn extend(&mut self, raised: &RaisedAlert, index: usize) {
        let accepted_at = raised.accepted_at(self.now);
        let told = raised.told_expiry(self.expiry(), self.now);
        let alert = &mut self.group.alerts[index];
        let gained = alert.expires_at.map_or(i128::MAX, |known| told.duration_since(known).as_millis());
        let window = told.duration_since(accepted_at).as_millis();
        if accepted_at > alert.accepted_at && gained > 0 && gained.saturating_mul(2) >= window {
            alert.expires_at = Some(told);
            alert.ends_at = alert.ends_at.max(raised.alert.ends_at);
            alert.accepted_at = accepted_at;
        }
    }
}

impl GroupAlert {
    /// One more start of the same interval; what belongs to an earlier one says nothing of this one.
    fn merge_start(&mut self, starts_at: Timestamp) {
        if self.closed_through.is_none_or(|floor| starts_at > floor) {
            self.starts_at = self.starts_at.min(starts_at);
            self.last_starts_at = self.last_starts_at.max(starts_at);
        }
    }
}

/// Whether what an alert says of its end is later than what was known when it ended. One that ended without an end of its own was
/// not repeated in time; that it is told at all is more.
fn ends_later(raised: &RaisedAlert, before: &GroupAlert) -> bool {
    before.ends_at.is_none_or(|known| raised.alert.ends_at.is_some_and(|end| end > known))
}

fn size_of(texts: &BTreeMap<String, String>) -> usize {
    texts.iter().map(|(name, value)| name.len() + value.len()).sum()
}

fn size_of_facts(facts: &HeldFacts) -> usize {
    size_of(&facts.labels) + size_of(&facts.annotations)
}

/// What an incident that opens later needs of an alert. Labels say what is acted on, and are kept whole or not at all; of the
/// annotations the longest are cut to what is left.
fn facts_of(raised: &RaisedAlert) -> Option<HeldFacts> {
    let labels = raised.alert.labels.clone();
    let mut annotations = raised.alert.annotations.clone();
    let room = HELD_FACTS_SIZE_MAX.checked_sub(size_of(&labels))?;
    if size_of(&annotations) > room {
        let names: usize = annotations.keys().map(String::len).sum();
        match room.checked_sub(names) {
            Some(room) => cut_longest(&mut annotations, room),
            None => annotations.clear(),
        }
    }
    Some(HeldFacts { labels, annotations })
}

/// Cuts the longest values to one length, so that all of them need at most `room` bytes.
fn cut_longest(annotations: &mut BTreeMap<String, String>, mut room: usize) {
    let mut lengths: Vec<usize> = annotations.values().map(String::len).collect();
    lengths.sort_unstable();
    let mut left = lengths.len();
    let mut share = room;
    for length in lengths {
        share = room / left.max(1);
        if length > share {
            break;
        }
        room -= length;
        left -= 1;
    }
    for value in annotations.values_mut().filter(|value| value.len() > share) {
        *value = cut_with_mark(value, share);
    }
}

fn cut_with_mark(text: &str, max: usize) -> String {
    const MARK: &str = "…";
    match max.checked_sub(MARK.len()) {
        Some(room) => format!("{}{MARK}", &text[..text.floor_char_boundary(room)]),
        None => String::new(),
    }
}

/// Whether everything of the alert belongs to incidents that have ended.
pub(super) fn is_closed(alert: &GroupAlert) -> bool {
    alert.closed_through.is_some_and(|through| alert.last_starts_at <= through)
}

/// Until when an alert that ended is known: whatever began until then overlaps it, or is older.
pub fn known_through(alert: &GroupAlert) -> Timestamp {
    [Some(alert.last_starts_at), alert.ends_at, alert.closed_through]
        .into_iter()
        .flatten()
        .max()
        .unwrap_or(alert.last_starts_at)
}
