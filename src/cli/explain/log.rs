//! What the log says of some ids. The log is read as often as new ids turn up: an action leads to its incident, that to its alerts.

use std::collections::BTreeSet;

use anyhow::Context as _;
use jiff::Timestamp;

use crate::{
    bus::{BusConfig, history},
    cli::progress,
    events::{Event, NamespacedName, Payload, Topic},
};

/// The most events that a story is made of (promise 6).
const EVENTS_MAX: usize = 20_000;
/// An action that is gone leads to its incident, that to its alerts; one more finds nothing new.
const PASSES_MAX: usize = 4;

/// An event that the log holds.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    /// The event.
    pub(super) event: Event,
    /// Where it stands: `alert.raised/3@1207`.
    pub(super) origin: String,
    /// When the log took it.
    pub(super) logged_at: Timestamp,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub(super) struct FromLog {
    /// Topic by topic, in the order of each partition.
    pub(super) events: Vec<Heard>,
    /// How many records were read in one pass.
    pub(super) records: u64,
    /// The oldest of them.
    pub(super) oldest: Option<Timestamp>,
    /// Whether there were more events than a story holds.
    pub(super) cut: bool,
}

/// The ids that a story is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ids {
    /// What was asked for.
    pub(super) subject: String,
    /// The only namespace that is looked at, where one was given. Alerts belong to none.
    pub(super) namespace: Option<String>,
    /// The other namespaces that have what was asked for.
    pub(super) elsewhere: BTreeSet<String>,
    /// The incidents.
    pub(super) incidents: BTreeSet<String>,
    /// The alerts' ids.
    pub(super) alerts: BTreeSet<String>,
    /// Whether the story is an alert's: then its incidents belong to it; else the incident's alerts do.
    pub(super) of_alert: bool,
}

impl Ids {
    /// Learns which ids belong to the story from an event that names one of them.
    fn learn(&mut self, event: &Event) {
        match &event.payload {
            Payload::AlertRaised(_) | Payload::DeadLetter(_) => {}
            Payload::AlertDecided(decided) => {
                let is_subject = self.is_alert(decided.alert_id.as_str(), &decided.fingerprint);
                if let Some(rule) = decided.rule.as_ref().filter(|rule| !self.looks_at(rule)) {
                    if is_subject {
                        self.elsewhere.insert(rule.namespace.clone());
                    }
                    return;
                }
                self.of_alert |= is_subject;
                if let Some(incident) = &decided.incident_id {
                    if is_subject {
                        self.incidents.insert(incident.to_string());
                    } else if self.incidents.contains(incident.as_str()) {
                        self.alerts.insert(decided.alert_id.to_string());
                    }
                }
            }
            payload => {
                let Some(header) = payload.incident() else { return };
                let names_subject = match payload {
                    Payload::ActionRequested(data) => data.action_id.as_str() == self.subject,
                    Payload::ActionCompleted(data) => data.action_id.as_str() == self.subject,
                    Payload::ActionFailed(data) => data.action_id.as_str() == self.subject,
                    Payload::NotificationRequested(data) => data.notification_id.as_str() == self.subject,
                    Payload::NotificationDelivered(data) => data.notification_id.as_str() == self.subject,
                    Payload::NotificationFailed(data) => data.notification_id.as_str() == self.subject,
                    _ => header.incident_id.as_str() == self.subject,
                };
                let alert =
                    header.alerts.iter().any(|alert| self.is_alert(alert.alert_id.as_str(), &alert.fingerprint));
                if !self.looks_at(&header.rule) {
                    if names_subject || alert {
                        self.elsewhere.insert(header.rule.namespace.clone());
                    }
                    return;
                }
                self.of_alert |= alert;
                if names_subject || alert {
                    self.incidents.insert(header.incident_id.to_string());
                }
                if self.incidents.contains(header.incident_id.as_str()) && !self.of_alert {
                    self.alerts.extend(header.alerts.iter().map(|alert| alert.alert_id.to_string()));
                }
            }
        }
    }

    /// A rule's namespace is that of all that it leads to.
    pub(super) fn looks_at(&self, rule: &NamespacedName) -> bool {
        self.namespace.as_ref().is_none_or(|only| *only == rule.namespace)
    }

    fn is_alert(&self, alert_id: &str, fingerprint: &str) -> bool {
        alert_id == self.subject || fingerprint == self.subject
    }

    /// Whether an event belongs to the story.
    pub(super) fn concern(&self, event: &Event) -> bool {
        match &event.payload {
            Payload::AlertRaised(raised) => {
                let id = raised.alert_id.as_ref().map_or("", |id| id.as_str());
                self.alerts.contains(id) || self.is_alert(id, raised.fingerprint.as_deref().unwrap_or_default())
            }
            Payload::AlertDecided(decided) => {
                self.alerts.contains(decided.alert_id.as_str())
                    || self.is_alert(decided.alert_id.as_str(), &decided.fingerprint)
                    || decided.incident_id.as_ref().is_some_and(|id| self.incidents.contains(id.as_str()))
            }
            // Its bytes are somebody's; that they name an id is all that is known.
            Payload::DeadLetter(_) => true,
            payload => payload.incident().is_some_and(|header| self.incidents.contains(header.incident_id.as_str())),
        }
    }

    fn are_named_in(&self, text: &str) -> bool {
        text.contains(&self.subject) || self.incidents.iter().chain(&self.alerts).any(|id| text.contains(id))
    }
}

/// Reads until no new id turns up; `ids` are those that the resources led to. Gives those of the whole story with it.
pub(super) async fn read(config: &BusConfig, since: Timestamp, ids: Ids) -> anyhow::Result<(FromLog, Ids)> {
    let mut sieve = Sieve::new(ids);
    for _ in 0..PASSES_MAX {
        let known = sieve.known.clone();
        sieve = history::read(config.clone(), Topic::ALL.to_vec(), since, sieve).await.context("read the log")?;
        if sieve.ids == known {
            break;
        }
        sieve = Sieve { found: sieve.found, ..Sieve::new(sieve.ids) };
    }
    let Sieve { mut found, ids, .. } = sieve;
    found.events.retain(|heard| ids.concern(&heard.event));
    Ok((found, ids))
}

/// Keeps what names an id of the story, and learns further ids from it.
struct Sieve {
    /// What this pass looks for.
    known: Ids,
    /// What the next one would look for.
    ids: Ids,
    found: FromLog,
    has_begun: bool,
}

impl Sieve {
    fn new(ids: Ids) -> Self {
        Self { known: ids.clone(), ids, found: FromLog::default(), has_begun: false }
    }
}

impl history::Visit for Sieve {
    fn visit(&mut self, past: history::Past) {
        // What an earlier pass found is found again.
        if !self.has_begun {
            (self.has_begun, self.found) = (true, FromLog::default());
        }
        let found = &mut self.found;
        found.records += 1;
        if found.records.is_multiple_of(100_000) {
            progress(&format!("Reading the log: {} records", found.records));
        }
        found.oldest = Some(found.oldest.map_or(past.timestamp, |oldest| oldest.min(past.timestamp)));
        let named = std::str::from_utf8(&past.record.value).is_ok_and(|text| self.known.are_named_in(text));
        // What cannot be decoded has a dead letter, which names it.
        let Some(event) = named.then(|| past.record.decode().ok()).flatten() else { return };
        self.ids.learn(&event);
        if found.events.len() < EVENTS_MAX {
            found.events.push(Heard { event, origin: past.origin(), logged_at: past.timestamp });
        } else {
            found.cut = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{history::Visit as _, *};
    use crate::{bus::TopicPartition, events::example};

    #[test]
    fn a_story_is_made_of_a_bounded_number_of_events() {
        let event = example(Topic::IncidentOpened);
        let subject = event.payload.incident().unwrap().incident_id.to_string();
        let mut sieve = Sieve::new(Ids { subject, ..Ids::default() });
        let past = history::Past {
            record: event.encode().unwrap(),
            at: TopicPartition { topic: Topic::IncidentOpened, partition: 0 },
            offset: 0,
            timestamp: event.time,
        };
        for offset in 0..=EVENTS_MAX as u64 {
            assert!(!sieve.found.cut, "{offset}");
            sieve.visit(history::Past { offset, ..past.clone() });
        }
        assert_eq!((sieve.found.events.len(), sieve.found.cut), (EVENTS_MAX, true));
    }
}
