//! What happened, in the order of time: the log's events, and what only the resources know (plans, tries, people's decisions, and
//! the history of what the log has forgotten). Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::{gather::Facts, log::Heard};
use crate::{
    api::v1alpha1::{Action, Notification},
    cli::reasons::{meaning, word},
    events::{AlertDecided, DecisionReason, Payload, UpdateCause},
};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    /// When.
    pub(super) time: Timestamp,
    /// Who: a service, or a person.
    pub(super) by: String,
    /// The event's topic, or what a resource tells: `plan`, `try`, `decision`.
    pub(super) event: String,
    /// What was done or decided.
    pub(super) what: String,
    /// Why, as a word of a closed list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// What that word means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) meaning: Option<String>,
    /// Where it stands in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) origin: Option<String>,
    /// How often it came again; the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) again: Option<(usize, Timestamp)>,
}

/// Everything in its order. Without `repetitions` an alert that is sent again and again is one entry with a count.
pub(super) fn tell(facts: &Facts, repetitions: bool) -> Vec<Entry> {
    let mut seen = BTreeSet::new();
    let mut entries = Vec::new();
    // An alert is of no namespace; what is decided about it is of its rule's.
    let is_looked_at = |heard: &&Heard| match &heard.event.payload {
        Payload::AlertDecided(decided) => decided.rule.as_ref().is_none_or(|rule| facts.ids.looks_at(rule)),
        _ => true,
    };
    let mut heard: Vec<&Heard> = facts.log.iter().flat_map(|log| &log.events).filter(is_looked_at).collect();
    heard.sort_by_key(|heard| (heard.event.time, heard.logged_at));
    let mut phases = BTreeMap::new();
    for heard in heard {
        // The same event comes again after a crash, and changes nothing; that an alert is sent again is worth a word.
        let first = seen.insert(heard.event.id.to_string());
        if (first || matches!(heard.event.payload, Payload::AlertRaised(_)))
            && let Some(entry) = of_event(heard, &mut phases)
        {
            entries.push(entry);
        }
    }
    let history =
        facts.incidents.iter().filter_map(|incident| incident.status.as_ref()).flat_map(|status| &status.history);
    entries.extend(
        history
            .filter(|entry| !seen.contains(&entry.id))
            .map(|entry| Entry { by: entry.by.clone(), ..plain(entry.time, "", &entry.event, entry.what.clone()) }),
    );
    entries.extend(facts.actions.iter().flat_map(of_plans));
    entries.extend(facts.notifications.iter().filter_map(of_try));
    entries.sort_by_key(|entry| entry.time);
    if repetitions { entries } else { fold(entries) }
}

fn plain(time: Timestamp, by: &str, event: &str, what: String) -> Entry {
    let (by, event) = (by.to_owned(), event.to_owned());
    Entry { time, by, event, what, reason: None, meaning: None, origin: None, again: None }
}

/// None for what says nothing new: an update of an incident that a person did not make and that moves no phase.
fn of_event(heard: &Heard, phases: &mut BTreeMap<String, String>) -> Option<Entry> {
    let event = &heard.event;
    let mut reason = None;
    let what = match &event.payload {
        Payload::AlertRaised(data) => {
            let name = data.labels.get("alertname").map_or("", String::as_str);
            format!("accepted {name} of {}: {}", data.source, word(&data.status))
        }
        Payload::AlertDecided(data) => {
            reason = Some((word(&data.reason), meaning(&data.reason)));
            decided(data)
        }
        Payload::IncidentOpened(data) => {
            let header = &data.incident;
            format!("opened {} ({}): {}", header.incident_id, header.severity, header.summary)
        }
        Payload::IncidentResolved(data) => {
            reason = Some((word(&data.reason), meaning(&data.reason)));
            format!("{} is over", data.incident.incident_id)
        }
        Payload::IncidentUpdated(data) => {
            let phase = format!("{:?}", data.phase);
            let moved = phases.insert(data.incident.incident_id.to_string(), phase.clone()).as_ref() != Some(&phase);
            match (data.cause, &data.decided_by) {
                (UpdateCause::Decision, Some(by)) => format!("{by} decided; {} is {phase}", data.incident.incident_id),
                _ if moved => format!("{} is {phase}", data.incident.incident_id),
                _ => return None,
            }
        }
        Payload::ActionRequested(data) => format!(
            "requested step {} (try {}): runbook {} on {}/{}, until {}",
            data.step, data.attempt, data.runbook, data.target.kind, data.target.name, data.deadline
        ),
        Payload::ActionCompleted(data) => {
            let resolves = if data.resolves { "; this resolves the incident" } else { "" };
            format!("step {} took effect: {}, by {}{resolves}", data.step, data.what, data.by)
        }
        Payload::ActionFailed(data) => {
            reason = Some((word(&data.reason), meaning(&data.reason)));
            let ends = if data.ends_ladder { "; the ladder ends" } else { "" };
            format!("step {} did not take effect: {}{ends}", data.step, data.message)
        }
        Payload::NotificationRequested(data) => {
            format!("requested a message to {}: {} ({})", data.channel, data.template, data.occurrence)
        }
        Payload::NotificationDelivered(data) => {
            let twice = if data.duplicate_possible { "; it may have been accepted twice" } else { "" };
            format!("{} accepted the message {} at try {}{twice}", data.channel, data.template, data.tries)
        }
        Payload::NotificationFailed(data) => {
            format!(
                "the message {} to {} was given up after {} tries: {}",
                data.template, data.channel, data.tries, data.message
            )
        }
        Payload::DeadLetter(data) => {
            reason = Some((word(&data.reason), meaning(&data.reason)));
            format!("could not be used: {} ({})", data.message, data.origin)
        }
    };
    let (reason, meaning) = reason.unzip();
    let by = event.source.trim_start_matches("eventpulse/");
    Some(Entry {
        reason,
        meaning,
        origin: Some(heard.origin.clone()),
        ..plain(event.time, by, event.topic().name(), what)
    })
}

fn decided(data: &AlertDecided) -> String {
    let rule = data.rule.as_ref().map_or_else(|| "no rule".into(), |rule| format!("rule {rule}"));
    let incident = data.incident_id.as_ref().map(|id| format!(", incident {id}")).unwrap_or_default();
    let detail = if data.detail.is_empty() { String::new() } else { format!(": {}", data.detail) };
    format!("{rule}{incident}{detail}")
}

fn of_plans(action: &Action) -> Vec<Entry> {
    let (spec, status) = (&action.spec, action.status.as_ref());
    let later = status.map(|status| status.plans.as_slice()).unwrap_or_default();
    let first = spec.plan.iter().filter(|plan| !later.iter().any(|other| other.planned_at == plan.planned_at));
    let mut entries: Vec<Entry> = first
        .chain(later)
        .map(|plan| {
            let target = format!("{}/{}", spec.target.kind, spec.target.name);
            let what = format!("step {}: {target} {}, planned by {}", spec.step, plan.what, plan.sender);
            let (reason, meaning) = plan.outcome.as_ref().map(|outcome| (word(outcome), meaning(outcome))).unzip();
            Entry { reason, meaning, ..plain(plan.planned_at, "actions", "plan", what) }
        })
        .collect();
    entries.sort_by_key(|entry| entry.time);
    entries
}

/// The last failed try of a message; the others are only counted.
fn of_try(message: &Notification) -> Option<Entry> {
    let spec = &message.spec;
    let error = spec.last_error.as_ref()?;
    let time = spec.finished_at.or(spec.due).unwrap_or(spec.decided_at);
    let what = format!(
        "message {} to {}: {} tries, the last failed: {error}",
        spec.template, spec.channel_ref.name, spec.tries
    );
    Some(plain(time.min(spec.delivered_at.unwrap_or(time)), "notify", "try", what))
}

/// Acceptances of one alert, and decisions that it is repeated, become one entry each with a count: the first stays in its place.
fn fold(entries: Vec<Entry>) -> Vec<Entry> {
    let repeated = word(&DecisionReason::Repeated);
    let mut first: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut folded: Vec<Entry> = Vec::new();
    for entry in entries {
        let is_repeated = entry.reason.as_ref() == Some(&repeated);
        if entry.event != "alert.raised" && !is_repeated {
            folded.push(entry);
            continue;
        }
        match first.get(&(entry.event.clone(), entry.what.clone())) {
            Some(at) => {
                let (count, _) = folded[*at].again.unwrap_or((0, entry.time));
                folded[*at].again = Some((count + 1, entry.time));
            }
            None => {
                first.insert((entry.event.clone(), entry.what.clone()), folded.len());
                folded.push(entry);
            }
        }
    }
    folded
}
