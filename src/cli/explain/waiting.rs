//! What is going on now, and what is waited for. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kube::ResourceExt;

use super::gather::Facts;
use crate::{
    api::v1alpha1::{Action, AlertGroup, Incident, IncidentPhase, Notification, NotificationPhase},
    events::Payload,
};

/// One line for each thing.
pub(super) fn tell(facts: &Facts, now: Timestamp) -> Vec<String> {
    let published: BTreeSet<&str> =
        facts.log.iter().flat_map(|log| &log.events).map(|heard| heard.event.id.as_str()).collect();
    let mut lines: Vec<String> = facts.incidents.iter().map(|incident| of_incident(incident, now)).collect();
    lines.extend(facts.actions.iter().filter_map(|action| of_action(action, &published, now)));
    lines.extend(facts.notifications.iter().filter_map(of_notification));
    lines.extend(facts.groups.iter().flat_map(|group| of_group(group, &published, now)));
    lines.extend(undecided(facts));
    if lines.is_empty() {
        lines.push("Nothing is waited for.".into());
    }
    lines
}

fn of_incident(incident: &Incident, now: Timestamp) -> String {
    let name = incident.name_any();
    let Some(status) = &incident.status else { return format!("Incident {name} has no status yet.") };
    let firing =
        status.alerts.iter().filter(|alert| alert.state == crate::api::v1alpha1::IncidentAlertState::Firing).count();
    let alerts = match firing {
        0 => String::new(),
        1 => "; an alert fires on".to_owned(),
        n => format!("; {n} alerts fire on"),
    };
    let since = |time: Option<Timestamp>| time.map(|time| format!(" since {}", ago(time, now))).unwrap_or_default();
    match status.phase {
        IncidentPhase::Resolved => format!("Incident {name} is Resolved{}{alerts}.", since(status.resolved_at)),
        IncidentPhase::Failed => format!(
            "Incident {name} is Failed{}: its ladder is at its end. It is resolved when its alerts clear, or when a person sets \
             spec.resolved{alerts}.",
            since(status.failed_at)
        ),
        IncidentPhase::Mitigating => format!("Incident {name} is Mitigating: a step was requested{alerts}."),
        IncidentPhase::Open => format!("Incident {name} is Open: no step was requested yet{alerts}."),
    }
}

fn of_action(action: &Action, published: &BTreeSet<&str>, now: Timestamp) -> Option<String> {
    let (name, spec) = (action.name_any(), &action.spec);
    let what = format!("Action {name} (step {}, try {})", spec.step, spec.attempt);
    let until = format!("it may act until {}", ago(spec.deadline, now));
    let Some(status) = &action.status else {
        return Some(format!("{what} is claimed and has told nothing yet; {until}."));
    };
    if status.phase.is_terminal() {
        // What was published stays in the outbox until the next write or sweep.
        let waits = status.outbox.iter().any(|entry| !published.contains(entry.id.as_str()));
        return waits.then(|| format!("{what} is over; that its result is published cannot be seen yet."));
    }
    let waits = status.waiting_for.as_ref().map(|reason| format!(" and waits for {reason}")).unwrap_or_default();
    Some(format!("{what} is {:?}{waits}; {until}.", status.phase))
}

fn of_notification(message: &Notification) -> Option<String> {
    let spec = &message.spec;
    let what = format!("The message {} to channel {}", spec.template, spec.channel_ref.name);
    let after = spec.last_error.as_ref().map(|error| format!(", after: {error}")).unwrap_or_default();
    match spec.phase {
        NotificationPhase::Sending => {
            let until = spec.send_until.map(|time| format!(" until {time}")).unwrap_or_default();
            Some(format!("{what} is being sent by {}{until}{after}.", spec.sender.as_deref().unwrap_or("nobody")))
        }
        NotificationPhase::Waiting => {
            let due = spec.due.map(|time| format!(" at {time}")).unwrap_or_default();
            Some(format!("{what} is tried again{due}, until {}{after}.", spec.deadline))
        }
        NotificationPhase::Delivered | NotificationPhase::Failed | NotificationPhase::Stale => None,
    }
}

fn of_group(group: &AlertGroup, published: &BTreeSet<&str>, now: Timestamp) -> Vec<String> {
    let (spec, name) = (&group.spec, format!("Rule {}", group.spec.rule_ref.name));
    let mut lines = Vec::new();
    if let Some(until) = spec.cooldown_until.filter(|until| *until > now && spec.episode.is_none()) {
        lines.push(format!("{name} opens no incident for this group before its cooldown ends, {}.", ago(until, now)));
    }
    if spec.episode.as_ref().is_some_and(|episode| episode.step_pending) {
        lines.push(format!("{name} is suspended: the next step waits until it no longer is."));
    }
    if let Some(next) = spec.episode.as_ref().and(spec.next_timer) {
        lines.push(format!("{name} looks at the group again {}, if nothing happens before.", ago(next, now)));
    }
    let waiting = spec.outbox.iter().filter(|entry| !published.contains(entry.id.as_str()));
    let topics: Vec<&str> = waiting.map(|entry| entry.topic.as_str()).collect::<BTreeSet<_>>().into_iter().collect();
    if !topics.is_empty() {
        lines.push(format!("{name} decided more; that it is published cannot be seen yet, on {}.", topics.join(", ")));
    }
    lines
}

/// Acceptances that no decision names.
fn undecided(facts: &Facts) -> Vec<String> {
    let events = || facts.log.iter().flat_map(|log| &log.events);
    let decided: BTreeSet<&str> = events()
        .filter_map(|heard| match &heard.event.payload {
            Payload::AlertDecided(decided) => Some(decided.alert_event_id.as_str()),
            _ => None,
        })
        .collect();
    let open = events().filter(|heard| {
        matches!(heard.event.payload, Payload::AlertRaised(_)) && !decided.contains(heard.event.id.as_str())
    });
    open.map(|heard| {
        format!(
            "Nothing was decided yet about {} ({}): the service rules has still to read it.",
            heard.origin, heard.event.time
        )
    })
    .collect()
}

/// A time with its distance from now: `2026-11-26T00:00:00Z (3 m ago)`.
fn ago(time: Timestamp, now: Timestamp) -> String {
    let seconds = (now - time).total(jiff::Unit::Second).unwrap_or_default();
    let distance = match seconds.abs() {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} days", s / 86_400.0),
    };
    if seconds < 0.0 { format!("{time} (in {distance})") } else { format!("{time} ({distance} ago)") }
}
