//! Rules decide what an alert means: an incident, its ladder of actions, its messages, its end.
//!
//! In: `alert.raised`, `action.completed`, `action.failed`, `incident.updated`, and the Rules of the cluster. Out:
//! `incident.opened`, `incident.resolved`, `action.requested`, `notification.requested`, and `alert.decided`, the ledger.
//! Owns: `AlertGroup`, named by correlation id, which is its memory and its outbox. May not touch: another service.
//!
//! `matching`, `routing`, `input`, `decide`, `timers`, `storms` and `backlog` are pure.

mod adoption;
mod backlog;
mod decide;
mod group;
mod input;
mod matching;
mod routing;
mod service;
mod storms;
mod timers;

pub use decide::{Adopted, Decision, GroupKey, Limits, RuleView, decide, next_timer, quiet_since};
pub use input::{Input, InvalidAlert, RaisedAlert};
pub use matching::{RuleMatch, RuleSet, scope_of};
pub use service::{CONSUMES, RulesConfig, RulesError, run};

#[cfg(test)]
mod tests;
