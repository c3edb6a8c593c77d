//! The topics, each with one type of event.

use std::{fmt, str::FromStr};

/// A topic by its public name; the configured prefix is added by the bus adapters only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// An alert was accepted.
    AlertRaised,
    /// The ledger: why an alert did or did not do something, for each rule.
    AlertDecided,
    /// An incident opened.
    IncidentOpened,
    /// The alerts of an incident ended.
    IncidentResolved,
    /// An incident's resource changed.
    IncidentUpdated,
    /// A step of the ladder was requested.
    ActionRequested,
    /// A step took effect.
    ActionCompleted,
    /// A step did not take effect, or nobody can know.
    ActionFailed,
    /// A message was requested.
    NotificationRequested,
    /// A message was accepted by its channel.
    NotificationDelivered,
    /// A message was not accepted by its channel until its deadline.
    NotificationFailed,
    /// What could not be decoded, validated or written, with its reason.
    DeadLetter,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Topic; 12] = [
        Topic::AlertRaised,
        Topic::AlertDecided,
        Topic::IncidentOpened,
        Topic::IncidentResolved,
        Topic::IncidentUpdated,
        Topic::ActionRequested,
        Topic::ActionCompleted,
        Topic::ActionFailed,
        Topic::NotificationRequested,
        Topic::NotificationDelivered,
        Topic::NotificationFailed,
        Topic::DeadLetter,
    ];

    /// The public name, without the configured prefix.
    pub const fn name(self) -> &'static str {
        match self {
            Topic::AlertRaised => "alert.raised",
            Topic::AlertDecided => "alert.decided",
            Topic::IncidentOpened => "incident.opened",
            Topic::IncidentResolved => "incident.resolved",
            Topic::IncidentUpdated => "incident.updated",
            Topic::ActionRequested => "action.requested",
            Topic::ActionCompleted => "action.completed",
            Topic::ActionFailed => "action.failed",
            Topic::NotificationRequested => "notification.requested",
            Topic::NotificationDelivered => "notification.delivered",
            Topic::NotificationFailed => "notification.failed",
            Topic::DeadLetter => "dead.letter",
        }
    }

    /// The `ce_type` of the events on it: versioned, so that a later shape can live beside this one.
    pub fn event_type(self) -> String {
        format!("io.eventpulse.{}.v1", self.name())
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is none of the topics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no topic of EventPulse")]
pub struct UnknownTopic(String);

impl FromStr for Topic {
    type Err = UnknownTopic;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|topic| topic.name() == name).ok_or_else(|| UnknownTopic(name.into()))
    }
}
