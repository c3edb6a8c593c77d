//! What the events say. One struct for each topic; what several share stands first.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ActionId, AlertId, CorrelationId, EventId, IncidentId, NotificationId, Topic};
use crate::api::v1alpha1::{IncidentEvent, OnUnknownOutcome, ParameterValue, StepWhen, TargetReference};

pub use crate::api::v1alpha1::IncidentPhase;

/// The most alerts that an incident's header links; beyond it there is the count.
pub const HEADER_ALERTS_MAX: usize = 20;

/// A resource by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespacedName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Whether an alert is still going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AlertStatus {
    /// It is.
    Firing,
    /// It ended.
    Resolved,
}

/// One alert of an incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertLink {
    /// The alert.
    #[serde(rename = "alertID")]
    pub alert_id: AlertId,
    /// Alertmanager's fingerprint of its labels.
    pub fingerprint: String,
    /// When it began.
    pub starts_at: Timestamp,
    /// Whether it goes on.
    pub status: AlertStatus,
}

/// Carried by every event after alert.raised, so that any of them can create what is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncidentHeader {
    /// The incident, and its resource's name.
    #[serde(rename = "incidentID")]
    pub incident_id: IncidentId,
    /// The group that it is an episode of.
    #[serde(rename = "correlationID")]
    pub correlation_id: CorrelationId,
    /// The rule; its namespace is the incident's.
    pub rule: NamespacedName,
    /// The newest alerts, at most 20.
    pub alerts: Vec<AlertLink>,
    /// How many alerts there were in all.
    pub alert_count: u32,
    /// Severity, computed when the incident opened.
    pub severity: String,
    /// One line for people, computed when the incident opened.
    pub summary: String,
    /// When it opened.
    pub opened_at: Timestamp,
    /// When the alert that opened it was accepted, to measure by; absent where it was held back on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<Timestamp>,
}

impl IncidentHeader {
    /// The alert that lines of the log about the incident name: the one that opened it, whose trace it keeps, or the newest where so
    /// many came later that it is not among them any more. None for a storm, which has no alerts.
    pub fn alert(&self) -> Option<&AlertId> {
        let opened = |link: &&AlertLink| {
            IncidentId::new(&self.rule.name, &self.correlation_id, &link.alert_id) == self.incident_id
        };
        self.alerts.iter().find(opened).or(self.alerts.first()).map(|link| &link.alert_id)
    }
}

/// alert.raised: an alert was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertRaised {
    /// Derived from source, fingerprint and startsAt. A foreign producer may leave it out.
    #[serde(rename = "alertID", default, skip_serializing_if = "Option::is_none")]
    pub alert_id: Option<AlertId>,
    /// The configured name of the sender.
    pub source: String,
    /// Alertmanager's fingerprint. A foreign producer may leave it out: it is then computed from the labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Whether it goes on.
    pub status: AlertStatus,
    /// Its labels, `alertname` among them.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// When it began.
    pub starts_at: Timestamp,
    /// When it ended, or when it is taken as ended if it is not sent again. Alertmanager's webhook gives none while it fires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Timestamp>,
    /// Where it comes from, for people.
    #[serde(rename = "generatorURL", default, skip_serializing_if = "Option::is_none")]
    pub generator_url: Option<String>,
    /// When ingest accepted it.
    pub accepted_at: Timestamp,
}

/// Why an accepted alert did what it did, for one rule, or for none. A closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DecisionReason {
    /// It opened an incident.
    Opened,
    /// It belongs to an incident that was open.
    Joined,
    /// It was known already, or belongs to an episode that has ended.
    Repeated,
    /// It ended an alert that was known.
    Resolved,
    /// It ended an alert that nobody knew; it is remembered in case its beginning comes later.
    NothingToResolve,
    /// No rule matched it.
    NoRule,
    /// It waits for the end of the rule's cooldown.
    Cooldown,
    /// The rule is suspended.
    Suspended,
    /// The rule has too many open groups; it waits until they are fewer, or was only counted.
    Storm,
    /// It was accepted before the rule was there, or too long ago.
    Stale,
    /// It could not be decided: an expression of the rule failed on it.
    Invalid,
    /// The API server refused the group's object for good.
    Refused,
}

/// alert.decided: one entry of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AlertDecided {
    /// The alert.
    #[serde(rename = "alertID")]
    pub alert_id: AlertId,
    /// The alert.raised event that was decided.
    #[serde(rename = "alertEventID")]
    pub alert_event_id: EventId,
    /// The sender's configured name.
    pub source: String,
    /// Alertmanager's fingerprint.
    pub fingerprint: String,
    /// When the alert began.
    pub starts_at: Timestamp,
    /// Whether it goes on.
    pub status: AlertStatus,
    /// The rule that matched; none where no rule did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<NamespacedName>,
    /// Why.
    pub reason: DecisionReason,
    /// The incident that it concerns, where there is one.
    #[serde(rename = "incidentID", default, skip_serializing_if = "Option::is_none")]
    pub incident_id: Option<IncidentId>,
    /// What people should know beside the reason.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// incident.opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncidentOpened {
    /// The incident.
    pub incident: IncidentHeader,
    /// What the first action acts on, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetReference>,
}

/// Why rules say that an incident is over. A completed action and a person's decision are told by their own events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ResolvedReason {
    /// Every alert was resolved by its sender.
    AlertsResolved,
    /// Some alerts were not repeated in time and are taken as resolved.
    AlertsExpired,
    /// It was a rule's storm, and the storm is over.
    StormOver,
}

/// incident.resolved: the alerts ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncidentResolved {
    /// The incident.
    pub incident: IncidentHeader,
    /// Why.
    pub reason: ResolvedReason,
}

/// What made an incident's resource change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpdateCause {
    /// An event.
    Event,
    /// A person's decision in the spec.
    Decision,
}

/// incident.updated: the incident's resource changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncidentUpdated {
    /// The incident.
    pub incident: IncidentHeader,
    /// Its state now.
    pub phase: IncidentPhase,
    /// What made it change.
    pub cause: UpdateCause,
    /// A person has seen it.
    pub acknowledged: bool,
    /// A person has decided that it is over.
    pub resolved: bool,
    /// Who decided, where a person did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
}

/// action.requested: a step of the ladder is to be taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActionRequested {
    /// The incident.
    pub incident: IncidentHeader,
    /// The action, and its resource's name.
    #[serde(rename = "actionID")]
    pub action_id: ActionId,
    /// Name of the rule's step.
    pub step: String,
    /// Its place in the ladder, from 0.
    pub step_index: u32,
    /// Which try of the step, from 1.
    pub attempt: u32,
    /// The runbook, in the rule's namespace.
    pub runbook: String,
    /// What it acts on, in the rule's namespace.
    pub target: TargetReference,
    /// Values for the runbook's parameters.
    #[serde(default)]
    pub parameters: Vec<ParameterValue>,
    /// When it was decided: one target's actions run in this order.
    pub decided_at: Timestamp,
    /// Until when it may act.
    pub deadline: Timestamp,
    /// Whether its completion resolves the incident.
    pub resolves: bool,
    /// Whether the ladder ends with it.
    pub last: bool,
    /// Whether an unknown outcome ends the ladder.
    #[serde(default)]
    pub on_unknown_outcome: OnUnknownOutcome,
    /// Whether it is a step of the ladder, or one for when the incident is over.
    #[serde(default)]
    pub when: StepWhen,
    /// The action of the same incident whose change of replicas it takes back, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<ActionId>,
}

/// action.completed: a step took effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActionCompleted {
    /// The incident.
    pub incident: IncidentHeader,
    /// The action.
    #[serde(rename = "actionID")]
    pub action_id: ActionId,
    /// Name of the rule's step.
    pub step: String,
    /// Its place in the ladder, from 0.
    pub step_index: u32,
    /// Which try of the step, from 1.
    pub attempt: u32,
    /// What was acted on.
    pub target: TargetReference,
    /// Whether this resolves the incident (copied from the request: nobody decides it twice).
    pub resolves: bool,
    /// What was done, for people: `Deployment/svc-a 3 → 4`.
    pub what: String,
    /// Who did it: `runbook scale-up as system:serviceaccount:shop:remediator`.
    pub by: String,
}

/// Why a step did not take effect. A closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ActionFailureReason {
    /// The retries are used up.
    RetriesExhausted,
    /// The deadline passed.
    DeadlineExceeded,
    /// The API server refused for good.
    Refused,
    /// The account may not do it.
    Forbidden,
    /// There is no such target.
    TargetNotFound,
    /// Somebody else governs the target's replicas.
    TargetGoverned,
    /// The runbook is missing or does not fit the request.
    InvalidRunbook,
    /// Nothing would change: the target is at its bound already, or what was to be taken back has not taken effect.
    NothingToDo,
    /// What was to be taken back is no longer as it was left: somebody has changed the target since.
    TargetChanged,
    /// First seen past its deadline, or for a target created after the decision: never run.
    Stale,
    /// The rule was suspended or deleted before anything was sent.
    Suspended,
    /// Its incident was resolved before anything was sent.
    IncidentResolved,
    /// Nobody can know whether it took effect; it is never sent again.
    OutcomeUnknown,
}

/// action.failed: a step did not take effect, or nobody can know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActionFailed {
    /// The incident.
    pub incident: IncidentHeader,
    /// The action.
    #[serde(rename = "actionID")]
    pub action_id: ActionId,
    /// Name of the rule's step.
    pub step: String,
    /// Its place in the ladder, from 0.
    pub step_index: u32,
    /// Which try of the step, from 1.
    pub attempt: u32,
    /// What was acted on.
    pub target: TargetReference,
    /// Why.
    pub reason: ActionFailureReason,
    /// What people should know beside the reason.
    pub message: String,
    /// Who tried: `runbook scale-up as system:serviceaccount:shop:remediator`.
    pub by: String,
    /// Whether the incident fails with it: the request was the ladder's last, or the outcome is unknown and the rule stops there.
    pub ends_ladder: bool,
}

/// notification.requested: a message is to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotificationRequested {
    /// The incident.
    pub incident: IncidentHeader,
    /// The message, and its resource's name.
    #[serde(rename = "notificationID")]
    pub notification_id: NotificationId,
    /// The channel, in the rule's namespace.
    pub channel: String,
    /// Name of the template.
    pub template: String,
    /// What happened to the incident.
    pub event: IncidentEvent,
    /// Tells apart what is said more than once.
    pub occurrence: String,
    /// What the event was about.
    #[serde(default)]
    pub context: NotificationContext,
    /// When it was decided.
    pub decided_at: Timestamp,
    /// Until when it may be sent.
    pub deadline: Timestamp,
}

/// What a message can tell beside the incident's header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotificationContext {
    /// What is acted on, like `Deployment/svc-a`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The ladder's step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Why, as a reason of the closed lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was done or went wrong, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What follows: the next step's name, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_step: Option<String>,
    /// How often this was told before.
    #[serde(default)]
    pub repetition: u32,
}

/// notification.delivered: the channel accepted a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotificationDelivered {
    /// The incident.
    pub incident: IncidentHeader,
    /// The message.
    #[serde(rename = "notificationID")]
    pub notification_id: NotificationId,
    /// The channel.
    pub channel: String,
    /// The template.
    pub template: String,
    /// What happened to the incident.
    pub event: IncidentEvent,
    /// When the channel accepted it.
    pub delivered_at: Timestamp,
    /// How many tries it took.
    pub tries: u32,
    /// It may have been accepted once before: the sender died between sending and writing it down.
    pub duplicate_possible: bool,
}

/// notification.failed: no channel accepted the message until its deadline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotificationFailed {
    /// The incident.
    pub incident: IncidentHeader,
    /// The message.
    #[serde(rename = "notificationID")]
    pub notification_id: NotificationId,
    /// The channel.
    pub channel: String,
    /// The template.
    pub template: String,
    /// What happened to the incident.
    pub event: IncidentEvent,
    /// The last error, without secrets.
    pub message: String,
    /// How many tries were made.
    pub tries: u32,
}

/// Why something became a dead letter. A closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DeadLetterReason {
    /// A header is missing or broken.
    InvalidHeaders,
    /// The data is no JSON, or not of the type's shape.
    InvalidData,
    /// The type is unknown or of another version.
    UnknownType,
    /// An alert breaks a bound or a rule of the format.
    InvalidAlert,
    /// The API server refused the object, or the log the record, for good.
    Refused,
}

/// dead.letter: what could not be used, so that nothing is lost and nothing is blocked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// Why.
    pub reason: DeadLetterReason,
    /// What is wrong, naming the field, cut at 1 KiB.
    pub message: String,
    /// Where it came from: `alert.raised/3@1207`, or `/webhooks/alertmanager alerts[2]`.
    pub origin: String,
    /// Its first 32 headers, as far as they are text, each cut at 1 KiB.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Its key, where there was one, cut at 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The original bytes, in base 64, cut at 64 KiB.
    pub data: String,
    /// Whether the bytes were cut.
    #[serde(default)]
    pub truncated: bool,
}

macro_rules! payload {
    ($($topic:ident($type:ty)),+ $(,)?) => {
        /// What an event says: one member for each topic.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)] // Each member is its topic, documented there.
        pub enum Payload {
            $($topic(Box<$type>)),+
        }

        impl Payload {
            /// The topic that it belongs on.
            pub fn topic(&self) -> Topic {
                match self {
                    $(Payload::$topic(_) => Topic::$topic),+
                }
            }

            /// As JSON text. Every payload is of strings, numbers, lists and maps with text keys, so this cannot fail.
            pub(super) fn to_json(&self) -> serde_json::Result<String> {
                match self {
                    $(Payload::$topic(data) => serde_json::to_string(data)),+
                }
            }

            /// Reads the data of one topic's events. An error names the field.
            pub(super) fn from_json(
                topic: Topic,
                data: &[u8],
            ) -> Result<Self, serde_path_to_error::Error<serde_json::Error>> {
                let mut reader = serde_json::Deserializer::from_slice(data);
                let payload = match topic {
                    $(Topic::$topic => Payload::$topic(serde_path_to_error::deserialize(&mut reader)?)),+
                };
                let root = serde_path_to_error::Track::new().path();
                reader.end().map_err(|error| serde_path_to_error::Error::new(root, error))?;
                Ok(payload)
            }

            /// The JSON Schema of one topic's data.
            pub fn schema(topic: Topic) -> schemars::Schema {
                match topic {
                    $(Topic::$topic => schemars::schema_for!($type)),+
                }
            }
        }

        $(impl From<$type> for Payload {
            fn from(data: $type) -> Self {
                Payload::$topic(Box::new(data))
            }
        })+
    };
}

payload! {
    AlertRaised(AlertRaised),
    AlertDecided(AlertDecided),
    IncidentOpened(IncidentOpened),
    IncidentResolved(IncidentResolved),
    IncidentUpdated(IncidentUpdated),
    ActionRequested(ActionRequested),
    ActionCompleted(ActionCompleted),
    ActionFailed(ActionFailed),
    NotificationRequested(NotificationRequested),
    NotificationDelivered(NotificationDelivered),
    NotificationFailed(NotificationFailed),
    DeadLetter(DeadLetter),
}

/// Whether an incident of this severity goes before others where there is more to do than can be done at once: `critical` or `page`, the
/// two words that rules of Prometheus wake people with, in any case.
pub fn is_urgent(severity: &str) -> bool {
    ["critical", "page"].iter().any(|word| severity.eq_ignore_ascii_case(word))
}

impl Payload {
    /// The incident's header, in every event that concerns one.
    pub fn incident(&self) -> Option<&IncidentHeader> {
        match self {
            Payload::AlertRaised(_) | Payload::AlertDecided(_) | Payload::DeadLetter(_) => None,
            Payload::IncidentOpened(data) => Some(&data.incident),
            Payload::IncidentResolved(data) => Some(&data.incident),
            Payload::IncidentUpdated(data) => Some(&data.incident),
            Payload::ActionRequested(data) => Some(&data.incident),
            Payload::ActionCompleted(data) => Some(&data.incident),
            Payload::ActionFailed(data) => Some(&data.incident),
            Payload::NotificationRequested(data) => Some(&data.incident),
            Payload::NotificationDelivered(data) => Some(&data.incident),
            Payload::NotificationFailed(data) => Some(&data.incident),
        }
    }
}
