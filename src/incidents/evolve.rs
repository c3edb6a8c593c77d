//! An incident's status as a function of what was said about it. Total: every status, also one that somebody has edited into
//! nonsense, and every event give a status that can be written. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{
    facts::{ActionFacts, Facts, Mark, Outcome},
    reason::ConditionReason,
    said::said,
    text::{TARGET_MAX, cut, sane, whole_seconds},
};
use crate::{
    api::v1alpha1::{
        IncidentAction, IncidentAlert, IncidentDecision, IncidentDecisionType, IncidentPhase, IncidentStatus,
        LocalReference,
    },
    events::Event,
};

/// The condition that is true once the incident is over.
pub const CONDITION_RESOLVED: &str = "Resolved";
/// The condition that is true once a person has acknowledged the incident.
pub const CONDITION_ACKNOWLEDGED: &str = "Acknowledged";
/// The condition that is true while the ladder is at its end without success.
pub const CONDITION_FAILED: &str = "Failed";

/// Something that happens to an incident.
#[derive(Clone, Debug, PartialEq)]
pub enum Input<'a> {
    /// An event of another service.
    Event(&'a Event),
    /// A person's decision in the spec, as it was seen for the first time.
    Decision {
        /// What and who.
        decision: &'a IncidentDecision,
        /// The history entry's id: derived, so that every replica gives it the same one.
        id: &'a str,
    },
}

/// The status after an input. `status` is none before the first one. `opened_at` is the spec's.
///
/// Every field is a join of what was said, so every order, repetition and interruption gives the same end (promise 5). The outbox
/// and the observed generation are not this function's, and stay as they are.
pub fn evolve(status: Option<&IncidentStatus>, opened_at: Timestamp, input: &Input<'_>) -> IncidentStatus {
    let mut facts = status.map(known).unwrap_or_default();
    apply(&mut facts, input);
    to_status(facts, opened_at, status)
}

/// Joins an input to what is known, without making a status of it: for several inputs at once.
pub fn apply(facts: &mut Facts, input: &Input<'_>) {
    match input {
        Input::Event(event) => {
            if let Some(more) = said(event) {
                facts.join(more);
            }
        }
        Input::Decision { decision, id } => facts.join(decided(decision, id)),
    }
}

fn decided(decision: &IncidentDecision, id: &str) -> Facts {
    let mut facts = Facts::default();
    let by = person(decision);
    let what = match decision.r#type {
        IncidentDecisionType::Acknowledged => "acknowledged",
        IncidentDecisionType::Resolved => {
            facts.resolution = Some(Mark::new(decision.time, ConditionReason::Decision, &format!("by {by}")));
            "resolved"
        }
    };
    facts.add_history(decision.time, id, "decision", &by, what);
    facts.add_decision(decision.clone());
    facts
}

/// As the history and the conditions name a person.
fn person(decision: &IncidentDecision) -> String {
    if decision.verified { decision.by.clone() } else { format!("{} (unverified)", decision.by) }
}

/// Reads a status back. What it cannot mean is left out or cut.
pub fn known(status: &IncidentStatus) -> Facts {
    let mark = |time: Option<Timestamp>, condition: &str| {
        let time = time?;
        let found = status.conditions.iter().find(|found| found.type_ == condition && found.status == "True");
        Some(found.map_or_else(
            || Mark::new(time, ConditionReason::Unrecorded, ""),
            |found| Mark::read(time, &found.reason, &found.message),
        ))
    };
    let mut facts = Facts {
        phase: status.phase,
        first_target: status.target.as_ref().map(|target| cut(target, TARGET_MAX)),
        alert_count: status.alert_count.max(0),
        last_notified_at: status.last_notified_at.map(sane),
        failure: mark(status.failed_at, CONDITION_FAILED),
        resolution: mark(status.resolved_at, CONDITION_RESOLVED),
        history: Default::default(),
        ..Facts::default()
    };
    for alert in &status.alerts {
        facts.add_alert(&alert.alert_id, alert.starts_at, alert.state, &alert.fingerprint);
    }
    for action in &status.actions {
        let outcome = Outcome { state: action.state, finished_at: action.finished_at, reason: action.reason.clone() };
        let known = ActionFacts {
            step_index: action.step_index,
            action: action.action_ref.name.clone(),
            runbook: action.runbook.clone(),
            target: action.target.clone(),
            requested_at: action.requested_at,
            outcome,
        };
        facts.add_action(&action.step, action.attempt, known);
    }
    for decision in &status.decisions {
        facts.add_decision(decision.clone());
    }
    for entry in &status.history {
        facts.add_history(entry.time, &entry.id, &entry.event, &entry.by, &entry.what);
    }
    facts.bound();
    facts
}

/// The status that the facts amount to. Takes outbox and observed generation from `previous`.
pub fn to_status(facts: Facts, opened_at: Timestamp, previous: Option<&IncidentStatus>) -> IncidentStatus {
    let phase = facts.reached();
    let observed_generation = previous.and_then(|status| status.observed_generation);
    let conditions = conditions(&facts, phase, sane(opened_at), observed_generation);
    let mut actions: Vec<IncidentAction> = facts.actions.into_iter().map(|(key, action)| listed(key, action)).collect();
    actions.sort_by(|a, b| (a.step_index, a.attempt, &a.step).cmp(&(b.step_index, b.attempt, &b.step)));
    let mut alerts: Vec<IncidentAlert> = facts
        .alerts
        .into_iter()
        .map(|(alert_id, alert)| IncidentAlert {
            starts_at: alert.starts_at,
            alert_id,
            fingerprint: alert.fingerprint,
            state: alert.state,
        })
        .collect();
    alerts.sort();
    IncidentStatus {
        phase,
        target: actions.last().map(|action| action.target.clone()).or(facts.first_target),
        alert_count: facts.alert_count.max(i32::try_from(alerts.len()).unwrap_or(i32::MAX)),
        alerts,
        last_action: actions.last().map(in_one_line),
        actions,
        last_notified_at: facts.last_notified_at,
        acknowledged_at: facts.decisions.get(&IncidentDecisionType::Acknowledged).map(|decision| decision.time),
        failed_at: facts.failure.map(|mark| mark.time),
        resolved_at: facts.resolution.map(|mark| mark.time),
        decisions: facts.decisions.into_values().collect(),
        history: facts.history.into_iter().collect(),
        conditions,
        outbox: previous.map(|status| status.outbox.clone()).unwrap_or_default(),
        observed_generation,
    }
}

fn listed((attempt, step): (i32, String), action: ActionFacts) -> IncidentAction {
    IncidentAction {
        step,
        attempt,
        step_index: action.step_index,
        action_ref: LocalReference { name: action.action },
        runbook: action.runbook,
        target: action.target,
        state: action.outcome.state,
        reason: action.outcome.reason,
        requested_at: action.requested_at,
        finished_at: action.outcome.finished_at,
    }
}

fn in_one_line(action: &IncidentAction) -> String {
    let reason = action.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!("{} {:?}{reason}", action.step, action.state)
}

/// The conditions, derived. A transition's time is that of the fact that brought it about, so it moves only when a status does, or
/// when an earlier fact arrives late; a repetition never moves it.
fn conditions(facts: &Facts, phase: IncidentPhase, opened_at: Timestamp, generation: Option<i64>) -> Vec<Condition> {
    let condition = |kind: &str, value: bool, since: Timestamp, reason: &str, message: &str| Condition {
        type_: kind.to_owned(),
        status: if value { "True" } else { "False" }.to_owned(),
        last_transition_time: Time(whole_seconds(since)),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
    };
    let phase_reason = ConditionReason::from(phase).to_string();
    let unrecorded = Mark::new(opened_at, ConditionReason::Unrecorded, "");
    let over = phase == IncidentPhase::Resolved;
    let resolved = if over {
        let mark = facts.resolution.as_ref().unwrap_or(&unrecorded);
        condition(CONDITION_RESOLVED, true, mark.time, &mark.reason, &mark.message)
    } else {
        condition(CONDITION_RESOLVED, false, opened_at, &phase_reason, "")
    };
    let acknowledged = match facts.decisions.get(&IncidentDecisionType::Acknowledged) {
        Some(decision) => {
            let by = cut(&format!("by {}", person(decision)), super::text::MESSAGE_MAX);
            condition(CONDITION_ACKNOWLEDGED, true, decision.time, &ConditionReason::Decision.to_string(), &by)
        }
        None => {
            let reason = ConditionReason::NotAcknowledged.to_string();
            condition(CONDITION_ACKNOWLEDGED, false, opened_at, &reason, "")
        }
    };
    let failed = if phase == IncidentPhase::Failed {
        let mark = facts.failure.as_ref().unwrap_or(&unrecorded);
        condition(CONDITION_FAILED, true, mark.time, &mark.reason, &mark.message)
    } else {
        // It was true between its failure and its resolution, where both are known in this order.
        let since = match (&facts.failure, &facts.resolution) {
            (Some(failure), Some(resolution)) if failure.time < resolution.time => resolution.time,
            _ => opened_at,
        };
        condition(CONDITION_FAILED, false, since, &phase_reason, "")
    };
    vec![resolved, acknowledged, failed]
}
