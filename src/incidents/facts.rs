//! What is known about an incident, as a join semilattice: joining is idempotent, commutative and associative, so every
//! interleaving and repetition of the same events gives the same end (design, section 5, incidents). Pure.
//!
//! Where a list is bounded, what is dropped depends on keys that never change, and everything that pushed it out stays: what was
//! dropped once can never come back, so the bound is part of the join.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    reason::ConditionReason,
    text::{BY_MAX, FINGERPRINT_MAX, MESSAGE_MAX, NAME_MAX, TARGET_MAX, USER_MAX, WHAT_MAX, cut, sane},
};
use crate::{
    api::v1alpha1::{
        HistoryEntry, INCIDENT_ACTIONS_MAX, INCIDENT_ALERTS_MAX, INCIDENT_HISTORY_MAX, IncidentActionState,
        IncidentAlertState, IncidentDecision, IncidentDecisionType, IncidentPhase,
    },
    mutants::{Mutant, mutated},
};

/// The most bytes of JSON of the whole history: the newest entries that fit are kept.
pub const HISTORY_BYTES_MAX: usize = 10 * 1024;
/// Bytes of JSON of an entry beside its texts: field names, punctuation, the time.
const HISTORY_ENTRY_OVERHEAD: usize = 78;

/// Everything that events and people have said about one incident.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The furthest phase that was reached, also one that nothing below explains.
    pub phase: IncidentPhase,
    /// What the first action will act on, as incident.opened says it.
    pub first_target: Option<String>,
    /// By attempt and step: what is known of an action.
    pub actions: BTreeMap<(i32, String), ActionFacts>,
    /// By id: what is known of an alert.
    pub alerts: BTreeMap<String, AlertFacts>,
    /// How many alerts there were.
    pub alert_count: i32,
    /// When a channel last accepted a message.
    pub last_notified_at: Option<Timestamp>,
    /// The earliest end of the ladder without success.
    pub failure: Option<Mark>,
    /// The earliest of what resolved the incident.
    pub resolution: Option<Mark>,
    /// What people decided; of each type the earliest.
    pub decisions: BTreeMap<IncidentDecisionType, IncidentDecision>,
    /// What happened.
    pub history: BTreeSet<HistoryEntry>,
}

/// When and why a state was reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// When.
    pub time: Timestamp,
    /// The condition's reason.
    pub reason: String,
    /// The condition's message.
    pub message: String,
}

impl Mark {
    /// A mark with its message cut.
    pub fn new(time: Timestamp, reason: ConditionReason, message: &str) -> Self {
        Self::read(time, &reason.to_string(), message)
    }

    /// A mark as a status has it, whoever wrote that, with its texts cut.
    pub fn read(time: Timestamp, reason: &str, message: &str) -> Self {
        Self { time: sane(time), reason: cut(reason, NAME_MAX), message: cut(message, MESSAGE_MAX) }
    }
}

/// What is known of one alert. Each field is joined by itself: of a highly available pair one may tell of the end and the other of an
/// earlier beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertFacts {
    /// When it began: the earliest that was said.
    pub starts_at: Timestamp,
    /// Whether it goes on.
    pub state: IncidentAlertState,
    /// Alertmanager's fingerprint.
    pub fingerprint: String,
}

impl AlertFacts {
    fn join(&mut self, other: Self) {
        self.starts_at = self.starts_at.min(other.starts_at);
        raise(&mut self.state, other.state);
        raise(&mut self.fingerprint, other.fingerprint);
    }
}

/// What is known of one action. Each field is joined by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct ActionFacts {
    /// Place in the ladder.
    pub step_index: i32,
    /// The Action's name.
    pub action: String,
    /// The runbook.
    pub runbook: Option<String>,
    /// What it acts on.
    pub target: String,
    /// When it was decided.
    pub requested_at: Option<Timestamp>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of an action. Of two the greater counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outcome {
    /// The state.
    pub state: IncidentActionState,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Why.
    pub reason: Option<String>,
}

impl ActionFacts {
    fn join(&mut self, other: Self) {
        self.step_index = self.step_index.max(other.step_index);
        raise(&mut self.action, other.action);
        raise(&mut self.runbook, other.runbook);
        raise(&mut self.target, other.target);
        raise(&mut self.requested_at, other.requested_at);
        raise(&mut self.outcome, other.outcome);
    }
}

impl Facts {
    /// Adds what another says. Idempotent, commutative and associative.
    pub fn join(&mut self, other: Self) {
        raise(&mut self.phase, other.phase);
        if mutated(Mutant::LastPhaseWins) {
            self.phase = other.phase;
            self.resolution = None;
        }
        raise(&mut self.first_target, other.first_target);
        raise(&mut self.alert_count, other.alert_count);
        raise(&mut self.last_notified_at, other.last_notified_at);
        earliest(&mut self.failure, other.failure);
        earliest(&mut self.resolution, other.resolution);
        for (key, action) in other.actions {
            match self.actions.get_mut(&key) {
                Some(known) => known.join(action),
                None => drop(self.actions.insert(key, action)),
            }
        }
        for (id, alert) in other.alerts {
            match self.alerts.get_mut(&id) {
                Some(known) => known.join(alert),
                None => drop(self.alerts.insert(id, alert)),
            }
        }
        for (kind, decision) in other.decisions {
            match self.decisions.get_mut(&kind) {
                Some(known) if *known <= decision => {}
                _ => drop(self.decisions.insert(kind, decision)),
            }
        }
        self.history.extend(other.history);
        self.bound();
    }

    /// Adds an action, with its texts cut.
    pub fn add_action(&mut self, step: &str, attempt: i32, action: ActionFacts) {
        let action = ActionFacts {
            step_index: action.step_index.max(0),
            action: cut(&action.action, NAME_MAX),
            runbook: action.runbook.map(|name| cut(&name, NAME_MAX)),
            target: cut(&action.target, TARGET_MAX),
            requested_at: action.requested_at.map(sane),
            outcome: Outcome {
                state: action.outcome.state,
                finished_at: action.outcome.finished_at.map(sane),
                reason: action.outcome.reason.map(|reason| cut(&reason, NAME_MAX)),
            },
        };
        self.actions.insert((attempt.max(0), cut(step, NAME_MAX)), action);
    }

    /// Adds an alert, with its texts cut.
    pub fn add_alert(&mut self, id: &str, starts_at: Timestamp, state: IncidentAlertState, fingerprint: &str) {
        let alert = AlertFacts { starts_at: sane(starts_at), state, fingerprint: cut(fingerprint, FINGERPRINT_MAX) };
        let id = cut(id, NAME_MAX);
        match self.alerts.get_mut(&id) {
            Some(known) => known.join(alert),
            None => drop(self.alerts.insert(id, alert)),
        }
    }

    /// Adds a person's decision, with its texts cut.
    pub fn add_decision(&mut self, decision: IncidentDecision) {
        let decision = IncidentDecision { time: sane(decision.time), by: cut(&decision.by, USER_MAX), ..decision };
        self.decisions.insert(decision.r#type, decision);
    }

    /// Adds an entry of the history, with its texts cut: in all at most 900 bytes of JSON.
    pub fn add_history(&mut self, time: Timestamp, id: &str, event: &str, by: &str, what: &str) {
        self.history.insert(HistoryEntry {
            time: sane(time),
            id: cut(id, NAME_MAX),
            event: cut(event, 29),
            by: cut(by, BY_MAX),
            what: cut(what, WHAT_MAX),
        });
    }

    /// Drops what exceeds the bounds (promise 6).
    pub fn bound(&mut self) {
        while self.actions.len() > INCIDENT_ACTIONS_MAX {
            // The earliest attempt goes; a ladder of one attempt for each step never comes here.
            self.actions.pop_first();
        }
        while self.alerts.len() > INCIDENT_ALERTS_MAX {
            // By id, which is all of an alert that never changes: its beginning may turn out to be earlier, and then one that was
            // dropped for its age would come back without what was known of it.
            self.alerts.pop_first();
        }
        let mut size = 0;
        let fit = self
            .history
            .iter()
            .rev()
            .take(INCIDENT_HISTORY_MAX)
            .take_while(|entry| {
                size += entry_size(entry);
                size <= HISTORY_BYTES_MAX
            })
            .count();
        for _ in fit..self.history.len() {
            self.history.pop_first();
        }
    }

    /// The phase that all of this amounts to.
    pub fn reached(&self) -> IncidentPhase {
        let implied = if self.resolution.is_some() {
            IncidentPhase::Resolved
        } else if self.failure.is_some() {
            IncidentPhase::Failed
        } else if !self.actions.is_empty() {
            IncidentPhase::Mitigating
        } else {
            IncidentPhase::Open
        };
        self.phase.max(implied)
    }
}

/// An upper bound of an entry's bytes of JSON, the same wherever it is computed.
fn entry_size(entry: &HistoryEntry) -> usize {
    let json = |text: &str| text.len() + text.bytes().filter(|b| matches!(b, b'"' | b'\\')).count();
    HISTORY_ENTRY_OVERHEAD + json(&entry.id) + json(&entry.event) + json(&entry.by) + json(&entry.what)
}

fn raise<T: Ord>(known: &mut T, said: T) {
    if said > *known {
        *known = said;
    }
}

fn earliest(known: &mut Option<Mark>, said: Option<Mark>) {
    if let Some(said) = said
        && known.as_ref().is_none_or(|known| said < *known)
    {
        *known = Some(said);
    }
}
