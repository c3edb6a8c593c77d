//! What an event says about an incident: the one place that gives each type its meaning (design, section 5, incidents). Pure.

use jiff::{SignedDuration, Timestamp};

use super::{
    facts::{ActionFacts, Facts, Mark, Outcome},
    reason::ConditionReason,
    text::{TARGET_MAX, cut, sane},
};
use crate::{
    api::v1alpha1::{IncidentActionState, IncidentEvent},
    events::{
        ActionCompleted, ActionFailed, ActionFailureReason, ActionId, ActionRequested, Event, IncidentHeader,
        NotificationDelivered, NotificationFailed, Payload, ResolvedReason,
    },
};

/// A time in an event's data may lie so far ahead of the event itself; beyond it it is taken for nonsense, which would stay the
/// newest for ever.
const AHEAD_MAX: SignedDuration = SignedDuration::from_hours(24);

/// What the event says. None of a topic that incidents does not follow.
pub fn said(event: &Event) -> Option<Facts> {
    let header = event.payload.incident()?;
    let mut facts = Facts::default();
    let entry = match &event.payload {
        Payload::IncidentOpened(data) => {
            facts.first_target = data.target.as_ref().map(|target| cut(&target.display(), TARGET_MAX));
            (rule(header), format!("opened: {}", header.summary))
        }
        Payload::IncidentResolved(data) => {
            let (reason, message) = match data.reason {
                ResolvedReason::StormOver => (ConditionReason::StormOver, "the storm of the rule is over"),
                ResolvedReason::AlertsResolved => (ConditionReason::AlertsResolved, "every alert is resolved"),
                ResolvedReason::AlertsExpired => {
                    (ConditionReason::AlertsExpired, "every alert is resolved or was not repeated in time")
                }
            };
            facts.resolution = Some(Mark::new(event.time, reason, message));
            let by = if data.reason == ResolvedReason::StormOver { rule(header) } else { "alerts".to_owned() };
            (by, format!("resolved: {message}"))
        }
        Payload::ActionRequested(data) => requested(&mut facts, data, event),
        Payload::ActionCompleted(data) => completed(&mut facts, data, event),
        Payload::ActionFailed(data) => failed(&mut facts, data, event),
        Payload::NotificationDelivered(data) => delivered(&mut facts, data, event),
        Payload::NotificationFailed(data) => undelivered(data),
        Payload::AlertRaised(_)
        | Payload::AlertDecided(_)
        | Payload::IncidentUpdated(_)
        | Payload::NotificationRequested(_)
        | Payload::DeadLetter(_) => return None,
    };
    let (by, what) = entry;
    facts.add_history(event.time, event.id.as_str(), event.topic().name(), &by, &what);
    facts.alert_count = i32::try_from(header.alert_count).unwrap_or(i32::MAX);
    for alert in &header.alerts {
        let starts_at = not_ahead(alert.starts_at, event);
        facts.add_alert(alert.alert_id.as_str(), starts_at, alert.status.into(), &alert.fingerprint);
    }
    facts.bound();
    Some(facts)
}

/// Who and what, for the history.
type Entry = (String, String);

fn requested(facts: &mut Facts, data: &ActionRequested, event: &Event) -> Entry {
    let target = data.target.display();
    let what = format!("{} requested: runbook {} on {target}", step(&data.step, data.attempt), data.runbook);
    let outcome = Outcome { state: IncidentActionState::Requested, finished_at: None, reason: None };
    let action = ActionFacts {
        step_index: int(data.step_index),
        action: data.action_id.to_string(),
        runbook: Some(data.runbook.clone()),
        target,
        requested_at: Some(not_ahead(data.decided_at, event)),
        outcome,
    };
    facts.add_action(&data.step, int(data.attempt), action);
    (rule(&data.incident), what)
}

fn completed(facts: &mut Facts, data: &ActionCompleted, event: &Event) -> Entry {
    let outcome = Outcome { state: IncidentActionState::Completed, finished_at: Some(event.time), reason: None };
    let action = ended(&data.action_id, data.step_index, data.target.display(), outcome);
    facts.add_action(&data.step, int(data.attempt), action);
    if data.resolves {
        facts.resolution = Some(Mark::new(event.time, ConditionReason::ActionCompleted, &data.what));
    }
    (data.by.clone(), data.what.clone())
}

fn failed(facts: &mut Facts, data: &ActionFailed, event: &Event) -> Entry {
    let state = match data.reason {
        ActionFailureReason::Stale
        | ActionFailureReason::Suspended
        | ActionFailureReason::IncidentResolved
        | ActionFailureReason::TargetChanged => IncidentActionState::SkippedStale,
        _ => IncidentActionState::Failed,
    };
    let reason = reason_text(data.reason);
    let outcome = Outcome { state, finished_at: Some(event.time), reason: Some(reason.clone()) };
    let action = ended(&data.action_id, data.step_index, data.target.display(), outcome);
    facts.add_action(&data.step, int(data.attempt), action);
    let verb = if state == IncidentActionState::SkippedStale { "skipped" } else { "failed" };
    let message = if data.message.is_empty() { String::new() } else { format!(": {}", data.message) };
    let what = format!("{} on {} {verb}: {reason}{message}", step(&data.step, data.attempt), data.target.display());
    // A step that a suspended rule let go is asked for anew when the rule is taken up again.
    if data.ends_ladder && data.reason != ActionFailureReason::Suspended {
        let why = if data.reason == ActionFailureReason::OutcomeUnknown {
            ConditionReason::OutcomeUnknown
        } else {
            ConditionReason::LadderExhausted
        };
        facts.failure = Some(Mark::new(event.time, why, &what));
    }
    (data.by.clone(), what)
}

fn delivered(facts: &mut Facts, data: &NotificationDelivered, event: &Event) -> Entry {
    facts.last_notified_at = Some(sane(not_ahead(data.delivered_at, event)));
    let tries = if data.tries > 1 { format!(" after {} tries", data.tries) } else { String::new() };
    let duplicate = if data.duplicate_possible { ", possibly twice" } else { "" };
    (channel(&data.channel), format!("{} delivered for {}{tries}{duplicate}", data.template, happening(data.event)))
}

fn undelivered(data: &NotificationFailed) -> Entry {
    let what = format!(
        "{} for {} not delivered after {} tries: {}",
        data.template,
        happening(data.event),
        data.tries,
        data.message
    );
    (channel(&data.channel), what)
}

fn not_ahead(time: Timestamp, event: &Event) -> Timestamp {
    time.min(event.time.saturating_add(AHEAD_MAX).unwrap_or(event.time))
}

fn ended(action: &ActionId, step_index: u32, target: String, outcome: Outcome) -> ActionFacts {
    ActionFacts {
        step_index: int(step_index),
        action: action.to_string(),
        runbook: None,
        target,
        requested_at: None,
        outcome,
    }
}

fn rule(header: &IncidentHeader) -> String {
    format!("rule {}", header.rule.name)
}

fn channel(name: &str) -> String {
    format!("channel {name}")
}

fn step(name: &str, attempt: u32) -> String {
    if attempt > 1 { format!("{name} (attempt {attempt})") } else { name.to_owned() }
}

fn happening(event: IncidentEvent) -> String {
    format!("{event:?}")
}

/// The reason as it stands in the event: its JSON text.
fn reason_text(reason: ActionFailureReason) -> String {
    serde_json::to_value(reason).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn int(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
