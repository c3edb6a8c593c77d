//! Whatever ends otherwise than it should has a cause that can be seen. Without this, whoever calls every alert stale and every action
//! refused would keep all the other promises.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::{
    Findings, Observed,
    view::{list, rule_of, rule_of_object, text, time},
};

/// Reasons of an alert that need one of the setting's.
const ALERTS: [&str; 4] = ["stale", "storm", "invalid", "refused"];
/// Those of an action.
const ACTIONS: [&str; 2] = ["Refused", "RetriesExhausted"];
/// Clocks that agree may do so by this much less.
const CLOCKS: SignedDuration = SignedDuration::from_secs(1);

pub(crate) fn judge(observed: &Observed, found: &mut Findings) {
    alerts(observed, found);
    actions(observed, found);
    messages(observed, found);
}

impl Observed {
    /// Rules (`namespace/name`) that somebody suspended, deleted or changed to be so at some time.
    pub(crate) fn suspended_rules(&self) -> BTreeSet<String> {
        let stopped = self.writes_of("rules").filter(|write| {
            let suspends = |rule: &Value| rule.pointer("/spec/suspend") == Some(&Value::Bool(true));
            write.after.as_ref().is_none_or(|rule| suspends(rule))
        });
        stopped.map(|write| format!("{}/{}", write.object.0, write.object.1)).collect()
    }
}

fn alerts(observed: &Observed, found: &mut Findings) {
    let suspended = observed.suspended_rules();
    let mut told = BTreeSet::new();
    for record in observed.on("alert.decided") {
        let (reason, rule) =
            (text(&record.data, "/reason"), record.data.pointer("/rule").map(rule_of).unwrap_or_default());
        let has_cause = match reason {
            reason if ALERTS.contains(&reason) => observed.possible.alerts.contains(&reason),
            "suspended" => suspended.contains(&rule),
            "cooldown" => observed.asks_of.get(&rule).is_none_or(|asks| asks.cooldown),
            _ => true,
        };
        if !has_cause && told.insert((reason, rule.clone())) {
            found.add(format!(
                "an alert {} for the rule {rule:?} is {reason}, and nothing led to it",
                text(&record.data, "/fingerprint")
            ));
        }
    }
}

fn actions(observed: &Observed, found: &mut Findings) {
    let suspended = observed.suspended_rules();
    for (name, (action, _)) in observed.last_of("actions") {
        let (phase, reason) = (text(action, "/status/phase"), text(action, "/status/reason"));
        let ended = time(action, "/status/finishedAt");
        let is_late = || is_late(observed, ended, time(action, "/spec/deadline"));
        let has_cause = match (phase, reason) {
            ("Failed" | "Skipped", reason) if ACTIONS.contains(&reason) => observed.possible.actions.contains(&reason),
            ("Failed" | "Skipped", "DeadlineExceeded") => is_late(),
            ("Failed" | "Skipped", "Stale") => is_late() || was_removed(observed, action),
            ("Failed" | "Skipped", "TargetNotFound") => was_removed(observed, action),
            ("Failed" | "Skipped", "Suspended") => suspended.contains(&rule_of_object(action, &name.0)),
            ("Failed" | "Skipped", "IncidentResolved") => was_resolved(observed, action, ended),
            ("Failed", "OutcomeUnknown") => {
                list(action, "/status/plans").iter().any(|plan| text(plan, "/outcome").is_empty())
            }
            ("Failed" | "Skipped", _) => false,
            _ => true,
        };
        if !has_cause {
            found.add(format!(
                "the action {} of {} is {phase} {reason}, and nothing led to it",
                name.1,
                text(action, "/spec/target/name")
            ));
        }
    }
}

/// Whether it ended at its deadline or after it, as far as clocks tell.
fn is_late(observed: &Observed, ended: Option<Timestamp>, deadline: Option<Timestamp>) -> bool {
    let late = ended.zip(deadline).is_some_and(|(ended, deadline)| ended + CLOCKS >= deadline);
    late || !observed.clocks_agree
}

/// Whether somebody took its target away, to create it again or not.
fn was_removed(observed: &Observed, action: &Value) -> bool {
    let target = text(action, "/spec/target/name");
    let of_target = |write: &&crate::Write| write.kind == "deployments" && write.object.1 == target;
    observed.writes.iter().filter(of_target).any(|write| write.after.is_none())
}

fn was_resolved(observed: &Observed, action: &Value, ended: Option<Timestamp>) -> bool {
    let incident = text(action, "/spec/incidentRef/name");
    let over = observed.writes_of("incidents").filter(|write| write.object.1 == incident).any(|write| {
        write.after.as_ref().is_none_or(|incident| {
            let by_person = incident.pointer("/spec/resolved") == Some(&Value::Bool(true));
            by_person || text(incident, "/status/phase") == "Resolved"
        })
    });
    over && ended.is_some()
}

fn messages(observed: &Observed, found: &mut Findings) {
    for (name, (notification, _)) in observed.last_of("notifications") {
        let (phase, channel) = (text(notification, "/spec/phase"), text(notification, "/spec/channelRef/name"));
        let (ended, deadline) = (time(notification, "/spec/finishedAt"), time(notification, "/spec/deadline"));
        let is_late = is_late(observed, ended, deadline);
        let is_refused = observed.possible.refusing_channels.contains(&channel);
        if ["Failed", "Stale"].contains(&phase) && !is_late && !is_refused {
            found.add(format!("the message {} to {channel} is {phase}, and nothing led to it", name.1));
        }
    }
}
