//! The account: what was accepted against what was decided, record by record. Pure, and of a fixed size for each alert (promise 6).
//!
//! In: the records of dead.letter, alert.raised and alert.decided, in this order, each partition in its own. Out: what is missing or
//! contradictory, and what has to be looked for outside of what was read, which `search` does.

use std::collections::{BTreeMap, HashMap, HashSet};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::{
    cli::dead_letters::Origin,
    events::{AlertDecided, AlertStatus, DeadLetter, DeadLetterReason, DecisionReason, NamespacedName, Topic},
    rules::RaisedAlert,
};

/// The most alerts of an account, and the most of each other thing that it is made of (promise 6).
pub(super) const ALERTS_MAX: usize = 1_000_000;
/// The most decisions: an alert has one for each rule that it matched.
pub(super) const DECISIONS_MAX: usize = 2_000_000;
/// The most of each kind of problem that is named; the rest is counted.
pub(super) const NAMED_MAX: usize = 1_000;
/// The most rules that have a line of their own; those that came later share one.
pub(super) const RULES_MAX: usize = 10_000;

/// Some facts in 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Digest([u8; 16]);

impl Digest {
    fn of(parts: &[&str]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        let mut short = [0; 16];
        short.copy_from_slice(&hasher.finalize()[..16]);
        Self(short)
    }

    /// An accepted alert is a distinct source, fingerprint, startsAt (all in its id) and status (promise 1).
    pub(super) fn of_alert(alert_id: &str, status: AlertStatus) -> Self {
        Self::of(&[alert_id, word(status)])
    }
}

/// As the events have it.
pub(super) fn word(status: AlertStatus) -> &'static str {
    match status {
        AlertStatus::Firing => "firing",
        AlertStatus::Resolved => "resolved",
    }
}

/// Where a record stands in its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) partition: u32,
    pub(super) offset: u64,
}

/// What cannot be held any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are more than {max} {what} since then, which is more than an account holds; give a later --since")]
pub(super) struct Full {
    what: &'static str,
    max: usize,
}

/// How far the group `rules` had come before anything else was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// The record that it goes on with, of each partition where that is known.
    pub(super) next: BTreeMap<u32, u64>,
    /// Where it is not known: what the log has taken after this may be under way.
    pub(super) graced_from: Timestamp,
}

impl Progress {
    /// What is done before an offset is stored is published before it is stored, so a reason that is not there will not come.
    fn may_come(&self, place: Place, taken: Timestamp) -> bool {
        match self.next.get(&place.partition) {
            Some(next) => place.offset >= *next,
            None => taken >= self.graced_from,
        }
    }
}

/// An accepted alert.
#[derive(Clone, Copy, Debug)]
struct Alert {
    /// Of the first record.
    place: Place,
    taken_ms: i64,
    /// The first and the last time that it was accepted: it may be told again and again.
    accepted_ms: (i64, i64),
    decided: bool,
    lettered: bool,
}

/// The first decision of an alert and a rule, which counts.
#[derive(Clone, Copy, Debug)]
struct Decision {
    reason: DecisionReason,
    incident: u64,
}

/// A decision of an alert that was not read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Orphan {
    /// Of the first decision.
    pub(super) place: Place,
    /// When the alert began.
    pub(super) starts_at: Timestamp,
    /// Whether its raising was found after all.
    pub(super) raised: bool,
}

/// Two decisions for one alert and one rule, of which one cannot be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Contradiction {
    /// Where the later one stands.
    pub(super) place: Place,
    /// The later one.
    pub(super) decided: AlertDecided,
    /// What the first one says, which counts.
    pub(super) first: DecisionReason,
}

/// An accepted alert without a reason, or a record that is none and has no dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// Its first record.
    pub(super) place: Place,
    /// When the log took that.
    pub(super) taken: Timestamp,
}

/// Reasons with their numbers.
pub(super) type Reasons = BTreeMap<DecisionReason, u64>;
/// Dead letters by reason, and the topic of ours that they were for.
pub(super) type Letters = BTreeMap<(DeadLetterReason, Option<Topic>), u64>;

/// See the module's text.
#[derive(Default)]
pub(super) struct Account {
    progress: Progress,
    alerts: HashMap<Digest, Alert>,
    decisions: HashMap<Digest, Decision>,
    letters: HashSet<Digest>,
    /// Records of alert.raised that have a dead letter.
    buried: HashSet<Place>,
    /// Decisions that the log refused; their dead letters hold them.
    refused: Vec<AlertDecided>,
    orphans: HashMap<Digest, Orphan>,
    full: Option<Full>,
    /// Records of alert.raised that are no alerts and have no dead letter.
    unread: Vec<Missing>,
    /// The numbers so far.
    pub(super) counts: Counts,
    /// The first of them.
    pub(super) contradictions: Vec<Contradiction>,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Counts {
    /// Records of alert.raised.
    pub(super) raised_records: u64,
    /// Of those, the ones that are no alerts: what cannot be decoded, or breaks a bound.
    pub(super) raised_unusable: u64,
    /// Of those, the ones whose dead letter may still come.
    pub(super) unusable_under_way: u64,
    /// Of those, the ones that have no dead letter.
    pub(super) unusable_missing: u64,
    /// Decisions by reason, the first of each alert and rule.
    pub(super) reasons: Reasons,
    /// The same for each rule; without a name where none matched.
    pub(super) rules: BTreeMap<Option<NamespacedName>, Reasons>,
    /// Decisions of rules that found no line of their own.
    pub(super) other_rules: Reasons,
    /// Records that say of an alert and a rule what was said, or that it was said.
    pub(super) repetitions: u64,
    /// Records that decide anew an alert that was told again, or that had been left open.
    pub(super) decided_anew: u64,
    /// Records that contradict the first one.
    pub(super) contradictions: u64,
    /// Records of alert.decided that are no decisions.
    pub(super) decisions_unreadable: u64,
    /// Dead letters, each once.
    pub(super) letters: Letters,
}

/// How the accepted alerts add up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Balance {
    /// Every alert.
    pub(super) accepted: u64,
    /// Those that have a reason.
    pub(super) decided: u64,
    /// Those that have none, and whose record is a dead letter.
    pub(super) buried: u64,
    /// Those that rules has not worked off yet.
    pub(super) under_way: u64,
    /// When the log took the oldest of these.
    pub(super) oldest_under_way: Option<Timestamp>,
    /// The others, in the order of their places.
    pub(super) missing: Vec<(Digest, Missing)>,
}

impl Account {
    /// `progress` must have been read before every record that follows.
    pub(super) fn new(progress: Progress) -> Self {
        Self { progress, ..Self::default() }
    }

    /// A dead letter, with its event's id and source. They come first.
    pub(super) fn letter(&mut self, id: &str, source: &str, letter: DeadLetter) {
        if !self.holds("dead letters", self.letters.len(), ALERTS_MAX) || !self.letters.insert(Digest::of(&[id])) {
            return;
        }
        let origin = Origin::of(&letter, source);
        *self.counts.letters.entry((letter.reason, origin.topic())).or_default() += 1;
        match origin {
            Origin::Record { at, offset } if at.topic == Topic::AlertRaised => {
                self.buried.insert(Place { partition: at.partition, offset });
            }
            Origin::Unwritten(Topic::AlertDecided) if self.refused.len() < NAMED_MAX => {
                let bytes = BASE64.decode(&letter.data).unwrap_or_default();
                self.refused.extend(serde_json::from_slice::<AlertDecided>(&bytes));
            }
            _ => {}
        }
    }

    /// A record of alert.raised; none where it is no alert. They come second.
    pub(super) fn raised(&mut self, place: Place, taken: Timestamp, alert: Option<&RaisedAlert>) {
        self.counts.raised_records += 1;
        let is_buried = self.buried.contains(&place);
        let Some(raised) = alert else {
            self.counts.raised_unusable += 1;
            match (is_buried, self.progress.may_come(place, taken)) {
                (true, _) => {}
                (false, true) => self.counts.unusable_under_way += 1,
                (false, false) => {
                    self.counts.unusable_missing += 1;
                    if self.unread.len() < NAMED_MAX {
                        self.unread.push(Missing { place, taken });
                    }
                }
            }
            return;
        };
        let key = Digest::of_alert(raised.alert_id.as_str(), raised.alert.status);
        let accepted_ms = raised.alert.accepted_at.as_millisecond();
        if let Some(known) = self.alerts.get_mut(&key) {
            known.accepted_ms = (known.accepted_ms.0.min(accepted_ms), known.accepted_ms.1.max(accepted_ms));
            known.lettered |= is_buried;
        } else if self.holds("alerts", self.alerts.len(), ALERTS_MAX) {
            let alert = Alert {
                place,
                taken_ms: taken.as_millisecond(),
                accepted_ms: (accepted_ms, accepted_ms),
                decided: false,
                lettered: is_buried,
            };
            self.alerts.insert(key, alert);
        }
    }

    /// A record of alert.decided, with its event's time; none where it is no decision. They come last.
    pub(super) fn decided(&mut self, place: Place, decision: Option<(Timestamp, AlertDecided)>) {
        let Some((time, decided)) = decision else {
            self.counts.decisions_unreadable += 1;
            return;
        };
        let alert_key = Digest::of_alert(decided.alert_id.as_str(), decided.status);
        let Some(alert) = self.alerts.get_mut(&alert_key) else {
            if self.holds("decisions of alerts that were accepted before", self.orphans.len(), ALERTS_MAX) {
                let orphan = Orphan { place, starts_at: decided.starts_at, raised: false };
                self.orphans.entry(alert_key).or_insert(orphan);
            }
            return;
        };
        alert.decided = true;
        let (first_accepted, last_accepted) = alert.accepted_ms;
        // A decision that is older than the acceptance is of an earlier telling, which was not read.
        let told_once = first_accepted == last_accepted && time.as_millisecond() >= first_accepted;
        self.enter(place, decided, told_once);
    }

    fn enter(&mut self, place: Place, decided: AlertDecided, told_once: bool) {
        let rule = decided.rule.as_ref().map(ToString::to_string).unwrap_or_default();
        let key = Digest::of(&[decided.alert_id.as_str(), word(decided.status), &rule]);
        let incident = decided.incident_id.as_ref().map_or(0, |id| {
            let Digest(bytes) = Digest::of(&[id.as_str()]);
            bytes.iter().take(8).fold(0, |all, byte| (all << 8) | u64::from(*byte))
        });
        let further = Decision { reason: decided.reason, incident };
        let Some(first) = self.decisions.get(&key).copied() else {
            if self.holds("decisions", self.decisions.len(), DECISIONS_MAX) {
                self.decisions.insert(key, further);
                self.count(decided.rule, decided.reason);
            }
            return;
        };
        match judge(first, further, told_once) {
            Further::Repetition => self.counts.repetitions += 1,
            Further::Anew => self.counts.decided_anew += 1,
            Further::Contradiction => {
                self.counts.contradictions += 1;
                if self.contradictions.len() < NAMED_MAX {
                    self.contradictions.push(Contradiction { place, decided, first: first.reason });
                }
            }
        }
    }

    fn count(&mut self, rule: Option<NamespacedName>, reason: DecisionReason) {
        *self.counts.reasons.entry(reason).or_default() += 1;
        let rules = &mut self.counts.rules;
        let of_rule = if rules.len() < RULES_MAX || rules.contains_key(&rule) {
            rules.entry(rule).or_default()
        } else {
            &mut self.counts.other_rules
        };
        *of_rule.entry(reason).or_default() += 1;
    }

    fn holds(&mut self, what: &'static str, count: usize, max: usize) -> bool {
        if count >= max {
            self.full.get_or_insert(Full { what, max });
        }
        count < max
    }

    /// Adds up, when every record was read. Fails where there were more than an account holds.
    pub(super) fn balance(&mut self) -> Result<Balance, Full> {
        for decided in std::mem::take(&mut self.refused) {
            let alert = self.alerts.get_mut(&Digest::of_alert(decided.alert_id.as_str(), decided.status));
            if let Some(alert) = alert.filter(|alert| !alert.decided) {
                alert.decided = true;
                self.count(decided.rule, decided.reason);
            }
        }
        if let Some(full) = self.full {
            return Err(full);
        }
        let mut balance = Balance { accepted: self.alerts.len() as u64, ..Balance::default() };
        for (key, alert) in &self.alerts {
            let taken = Timestamp::from_millisecond(alert.taken_ms).unwrap_or(Timestamp::UNIX_EPOCH);
            if alert.decided {
                balance.decided += 1;
            } else if alert.lettered {
                balance.buried += 1;
            } else if self.progress.may_come(alert.place, taken) {
                balance.under_way += 1;
                let oldest = balance.oldest_under_way;
                balance.oldest_under_way = Some(oldest.map_or(taken, |oldest| oldest.min(taken)));
            } else {
                balance.missing.push((*key, Missing { place: alert.place, taken }));
            }
        }
        balance.missing.sort_by_key(|(_, missing)| missing.place);
        Ok(balance)
    }

    /// Decisions of alerts that were not read.
    pub(super) fn take_orphans(&mut self) -> HashMap<Digest, Orphan> {
        std::mem::take(&mut self.orphans)
    }

    /// Records of alert.raised that are no alerts and have no dead letter, the first of them.
    pub(super) fn unread(&self) -> &[Missing] {
        &self.unread
    }
}

/// What a further decision of an alert and a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Further {
    Repetition,
    Anew,
    Contradiction,
}

/// An event that comes again changes nothing (promise 5) and says so, so what one telling was decided to be, it stays; but a cooldown,
/// a suspended rule, a storm, an expression or a server that refuses leave an alert open, and one that is told again may begin anew.
fn judge(first: Decision, further: Decision, told_once: bool) -> Further {
    use DecisionReason::{
        Cooldown, Invalid, Joined, NoRule, NothingToResolve, Opened, Refused, Repeated, Resolved, Stale, Storm,
        Suspended,
    };
    if (first.reason, first.incident) == (further.reason, further.incident) {
        return Further::Repetition;
    }
    match (first.reason, further.reason) {
        // Which incident it is said of tells nothing more.
        (_, Repeated | Stale) => Further::Repetition,
        (Cooldown | Invalid | Refused | Stale | Storm | Suspended, _) => Further::Anew,
        (Joined | NoRule | NothingToResolve | Opened | Repeated | Resolved, _) if told_once => Further::Contradiction,
        (Joined | NoRule | NothingToResolve | Opened | Repeated | Resolved, _) => Further::Anew,
    }
}

#[cfg(test)]
#[path = "account_tests.rs"]
mod tests;
