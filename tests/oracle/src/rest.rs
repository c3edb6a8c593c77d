//! When every alert has ended and there was time: what had to be asked for was, nothing is under way, nothing waits to be told, and what
//! was told is so.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    ACTION_ENDS, Findings, NOTIFICATION_ENDS, Observed, Told,
    view::{list, named, rule_of, rule_of_object, text},
};

pub(crate) fn judge(observed: &Observed, found: &mut Findings) {
    if !observed.at_rest {
        return;
    }
    for kind in ["alertgroups", "actions", "incidents", "notifications"] {
        for (name, (object, gone)) in observed.last_of(kind) {
            let entries = list(object, "/spec/outbox").len() + list(object, "/status/outbox").len();
            if entries > 0 && !gone {
                found.add(format!("{kind} {} still has {entries} events to tell", named(name)));
            }
        }
    }
    ends(observed, "actions", "/status/phase", &ACTION_ENDS, found);
    ends(observed, "incidents", "/status/phase", &["Resolved"], found);
    ends(observed, "notifications", "/spec/phase", &NOTIFICATION_ENDS, found);
    openings(observed, found);
    later_messages(observed, found);
    requests(observed, found);
    results(observed, found);
    deliveries(observed, found);
    resolutions(observed, found);
}

fn ends(observed: &Observed, kind: &str, path: &str, ends: &[&str], found: &mut Findings) {
    for (name, (object, gone)) in observed.last_of(kind) {
        let phase = text(object, path);
        if !ends.contains(&phase) {
            let how = if gone { "is gone and was" } else { "is" };
            found.add(format!("{kind} {} {how} {phase:?}", named(name)));
        }
    }
}

/// Incident, channel, template and occurrence of each message that was asked for.
fn messages_asked_for(observed: &Observed) -> BTreeSet<[&str; 4]> {
    let of = ["/incident/incidentID", "/channel", "/template", "/occurrence"];
    observed.on("notification.requested").map(|record| of.map(|path| text(&record.data, path))).collect()
}

/// An incident asks for its first step and for the messages of its opening in the very decision that opens it, so nothing that comes later
/// excuses it. A storm's incident has no alerts, and asks for no step.
fn openings(observed: &Observed, found: &mut Findings) {
    let of = "/incident/incidentID";
    let steps: BTreeSet<(&str, &str)> =
        observed.on("action.requested").map(|record| (text(&record.data, of), text(&record.data, "/step"))).collect();
    let messages = messages_asked_for(observed);
    let opened: BTreeMap<&str, &Value> =
        observed.on("incident.opened").map(|record| (text(&record.data, of), &record.data)).collect();
    for (incident, data) in opened {
        let rule = data.pointer("/incident/rule").map(rule_of).unwrap_or_default();
        let Some(asks) = observed.asks_of.get(&rule) else { continue };
        let has_alerts = !list(data, "/incident/alerts").is_empty();
        if let Some(step) = asks.step.as_deref().filter(|step| has_alerts && !steps.contains(&(incident, *step))) {
            found.add(format!("{incident} opened, and its step {step} was never asked for"));
        }
        for Told { channel, template, .. } in asks.messages.iter().filter(|told| told.event == "Opened") {
            if !messages.contains(&[incident, channel, template, "Opened"]) {
                found.add(format!("{incident} opened, and the message {template} to {channel} was never asked for"));
            }
        }
    }
}

/// An incident that failed or is over has people told of it where its rule wants that, unless somebody suspended the rule: then it says
/// nothing. Of a failure that was over before the rules had heard of it nobody is told: they read their topics in no order, and what they
/// heard first is that it is over (docs/resources/rule.md). Where it lasted for longer than a service can be deaf they
/// have heard of it.
fn later_messages(observed: &Observed, found: &mut Findings) {
    let asked = messages_asked_for(observed);
    let suspended = observed.suspended_rules();
    let failed = failed_as_the_rules_know(observed);
    let mut reached: BTreeSet<(&str, &str, String)> = BTreeSet::new();
    for write in observed.writes_of("incidents") {
        let Some(incident) = &write.after else { continue };
        let rule = rule_of_object(incident, &write.object.0);
        let phase = text(incident, "/status/phase");
        let name = write.object.1.as_str();
        if (phase == "Resolved" || phase == "Failed" && failed.contains(name)) && !suspended.contains(&rule) {
            reached.insert((name, phase, rule));
        }
    }
    for (incident, phase, rule) in reached {
        let Some(asks) = observed.asks_of.get(&rule) else { continue };
        let occurrence = if phase == "Failed" { "Failed/0" } else { "Resolved" };
        for Told { channel, template, .. } in asks.messages.iter().filter(|told| told.event == phase) {
            if !asked.contains(&[incident, channel, template, occurrence]) {
                found
                    .add(format!("{incident} is {phase}, and the message {template} to {channel} was never asked for"));
            }
        }
    }
}

/// Incidents that failed, by what the rules wrote themselves, or for so long that they must have heard of it.
fn failed_as_the_rules_know(observed: &Observed) -> BTreeSet<&str> {
    let groups = observed.writes_of("alertgroups").filter_map(|write| write.after.as_deref());
    let told = groups.filter(|group| text(group, "/spec/episode/phase") == "Failed");
    let mut failed: BTreeSet<&str> = told.map(|group| text(group, "/spec/episode/incidentID")).collect();
    let mut since: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for write in observed.writes_of("incidents") {
        let Some(incident) = &write.after else { continue };
        let name = write.object.1.as_str();
        match text(incident, "/status/phase") {
            "Failed" => drop(since.entry(name).or_insert(write.at)),
            "Resolved" => {
                let lasted = since.remove(name).map(|since| write.at.duration_since(since).as_secs());
                failed.extend(lasted.filter(|seconds| *seconds > observed.possible.deaf_s).map(|_| name));
            }
            _ => {}
        }
    }
    failed.extend(since.into_keys());
    failed
}

/// Whatever was asked for has an object of its own, or an event that says why not.
fn requests(observed: &Observed, found: &mut Findings) {
    for (topic, id, kind, ends) in [
        ("action.requested", "/actionID", "actions", ["action.completed", "action.failed"]),
        (
            "notification.requested",
            "/notificationID",
            "notifications",
            ["notification.delivered", "notification.failed"],
        ),
    ] {
        let names: BTreeSet<&str> = observed.last_of(kind).keys().map(|name| name.1.as_str()).collect();
        let told: BTreeSet<&str> =
            ends.iter().flat_map(|topic| observed.on(topic)).map(|record| text(&record.data, id)).collect();
        for record in observed.on(topic) {
            let id = text(&record.data, id);
            if !names.contains(id) && !told.contains(id) {
                found.add(format!("{topic} asked for {id}, and nothing ever came of it"));
            }
        }
    }
}

/// An Action that has ended was told of, once and as it is; and the incident knows of it.
fn results(observed: &Observed, found: &mut Findings) {
    let mut told: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for topic in ["action.completed", "action.failed"] {
        for record in observed.on(topic) {
            told.entry(text(&record.data, "/actionID")).or_default().insert(topic);
        }
    }
    for (name, (action, _)) in observed.last_of("actions") {
        let expected = match text(action, "/status/phase") {
            "Completed" => "action.completed",
            "Failed" | "Skipped" => "action.failed",
            _ => continue,
        };
        match told.get(name.1.as_str()) {
            None => found.add(format!("the action {} ended, and nobody was told", name.1)),
            Some(topics) if *topics != BTreeSet::from([expected]) => {
                found.add(format!("the action {} was told of as {topics:?}, and is {expected}", name.1));
            }
            Some(_) => {}
        }
    }
    let mut known = BTreeMap::new();
    for (_, (incident, _)) in observed.last_of("incidents") {
        for action in list(incident, "/status/actions") {
            known.insert(text(action, "/actionRef/name"), text(action, "/state"));
        }
    }
    for (name, (action, _)) in observed.last_of("actions") {
        let state = known.get(name.1.as_str()).copied().unwrap_or("unknown");
        let agrees = match text(action, "/status/phase") {
            "Completed" => state == "Completed",
            "Failed" => ["SkippedStale", "Failed"].contains(&state),
            "Skipped" => ["SkippedStale", "Failed"].contains(&state),
            _ => true,
        };
        if !agrees {
            let phase = text(action, "/status/phase");
            found.add(format!("the action {} is {phase}, and its incident says {state}", name.1));
        }
    }
}

/// A message that has ended was told of as it ended.
fn deliveries(observed: &Observed, found: &mut Findings) {
    let told =
        |topic| -> BTreeSet<&str> { observed.on(topic).map(|record| text(&record.data, "/notificationID")).collect() };
    let (delivered, failed) = (told("notification.delivered"), told("notification.failed"));
    for (name, (notification, _)) in observed.last_of("notifications") {
        let (phase, name) = (text(notification, "/spec/phase"), name.1.as_str());
        let is_told = match phase {
            "Delivered" => delivered.contains(name),
            "Failed" | "Stale" => failed.contains(name),
            _ => continue,
        };
        if !is_told {
            found.add(format!("the message {name} is {phase}, and nobody was told"));
        }
    }
}

/// An incident is over because its alerts are, because its action was completed, or because somebody said so: an event tells which.
fn resolutions(observed: &Observed, found: &mut Findings) {
    let of = "/incident/incidentID";
    let mut over: BTreeSet<&str> = BTreeSet::new();
    for topic in ["incident.resolved", "action.completed"] {
        over.extend(observed.on(topic).map(|record| text(&record.data, of)));
    }
    let decided = observed.on("incident.updated").filter(|record| record.data["resolved"] == true);
    over.extend(decided.map(|record| text(&record.data, of)));
    for (name, (incident, _)) in observed.last_of("incidents") {
        if text(incident, "/status/phase") == "Resolved" && !over.contains(name.1.as_str()) {
            found.add(format!("the incident {} is Resolved, and no event led to it", name.1));
        }
    }
}
