//! A story: what was asked for, which rules were tried, what happened, and what is waited for. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::{
    gather::Facts,
    rules::{self, TriedRule},
    timeline::{self, Entry},
    waiting,
};
use crate::events::{AlertRaised, AlertStatus, Payload};

/// The most rules of a story.
pub(super) const RULES_MAX: usize = 1000;

/// What is told.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Story {
    /// What was asked for.
    pub(super) subject: String,
    /// Its incidents, by name.
    pub(super) incidents: Vec<String>,
    /// The alert that the rules were tried on: the newest of the story that the log has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) alert: Option<AlertOfStory>,
    /// The only namespace that was looked at, where one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<String>,
    /// The rules as they are now, tried on that alert: those that match first.
    pub(super) rules: Vec<TriedRule>,
    /// What happened, in the order of time.
    pub(super) timeline: Vec<Entry>,
    /// What is going on, and what is waited for.
    pub(super) now: Vec<String>,
    /// What could not be read, or is not what it seems.
    pub(super) notes: Vec<String>,
}

impl Story {
    /// Whether nothing is known.
    pub(super) fn is_empty(&self) -> bool {
        self.incidents.is_empty() && self.timeline.is_empty()
    }
}

/// An alert.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AlertOfStory {
    #[serde(rename = "alertID")]
    pub(super) alert_id: String,
    pub(super) fingerprint: String,
    pub(super) source: String,
    pub(super) status: AlertStatus,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) starts_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ends_at: Option<Timestamp>,
    pub(super) accepted_at: Timestamp,
}

/// Puts it together.
pub(super) fn tell(subject: &str, facts: &Facts, repetitions: bool, now: Timestamp) -> Story {
    let raised = newest_alert(facts);
    let mut notes = facts.notes.clone();
    let alert = raised.map(|raised| AlertOfStory {
        alert_id: raised.alert_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        fingerprint: raised.fingerprint.clone().unwrap_or_default(),
        source: raised.source.clone(),
        status: raised.status,
        labels: raised.labels.clone(),
        starts_at: raised.starts_at,
        ends_at: raised.ends_at,
        accepted_at: raised.accepted_at,
    });
    if let Some(namespace) = facts.ids.namespace.as_ref().filter(|_| !facts.ids.elsewhere.is_empty()) {
        let elsewhere: Vec<&str> = facts.ids.elsewhere.iter().map(String::as_str).collect();
        notes.push(format!(
            "There is more of {subject} in the namespace {}; only {namespace} was looked at: give another -n, or none.",
            elsewhere.join(", ")
        ));
    }
    let mut tried = raised
        .map(|raised| rules::try_all(&facts.rules, raised, raised.fingerprint.as_deref().unwrap_or_default()))
        .unwrap_or_default();
    if tried.len() > RULES_MAX {
        notes.push(format!("{} rules were tried, the nearest {RULES_MAX} are told.", tried.len()));
        tried.truncate(RULES_MAX);
    }
    if let Some(log) = &facts.log {
        if raised.is_none() && !facts.incidents.is_empty() {
            notes.push(format!(
                "The alert itself is no longer in the log, which was read from {}; rules cannot be tried on it.",
                log.oldest.map_or_else(|| "its end".into(), |oldest| oldest.to_string())
            ));
        }
        if log.cut {
            notes.push("There are more events than a story holds; a shorter --since shows the newest.".into());
        }
    }
    Story {
        subject: subject.to_owned(),
        incidents: facts.ids.incidents.iter().cloned().collect(),
        alert,
        namespace: facts.ids.namespace.clone(),
        rules: tried,
        timeline: timeline::tell(facts, repetitions),
        now: waiting::tell(facts, now),
        notes,
    }
}

/// The newest acceptance of what was asked for; of an incident, of the alert that opened it.
fn newest_alert(facts: &Facts) -> Option<&AlertRaised> {
    let events = || facts.log.iter().flat_map(|log| &log.events);
    let raised = events().filter_map(|heard| match &heard.event.payload {
        Payload::AlertRaised(raised) => Some(&**raised),
        _ => None,
    });
    if facts.ids.of_alert {
        return raised.max_by_key(|raised| raised.accepted_at);
    }
    // An incident's story begins with the alert that was first.
    raised.min_by_key(|raised| raised.accepted_at)
}
