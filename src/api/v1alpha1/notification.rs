//! `Notification`: one message to one channel, from its request to its end. Written by EventPulse only.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{IncidentAlert, IncidentEvent, LocalReference, OutboxEntry};

/// The most alerts of an incident that a notification links; `alertCount` says how many there were (promise 6).
pub const NOTIFICATION_ALERTS_MAX: usize = 20;
/// The most characters of a notification's last error.
pub const NOTIFICATION_ERROR_MAX: usize = 1024;

/// One message to one channel.
///
/// It is claim, memory and outbox of the service that sends it: whoever created it sends it, and nobody else before `sendUntil`. Like a
/// Lease it has no status: creating it writes everything at once. People read it; nobody but EventPulse writes it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "eventpulse.io",
    version = "v1alpha1",
    kind = "Notification",
    namespaced,
    shortname = "ntf",
    category = "eventpulse",
    derive = "PartialEq",
    printcolumn(name = "Incident", type_ = "string", json_path = ".spec.incident.incidentID"),
    printcolumn(name = "Event", type_ = "string", json_path = ".spec.event"),
    printcolumn(name = "Channel", type_ = "string", json_path = ".spec.channelRef.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".spec.phase"),
    printcolumn(name = "Tries", type_ = "integer", json_path = ".spec.tries"),
    printcolumn(name = "Delivered", type_ = "date", json_path = ".spec.deliveredAt"),
    printcolumn(name = "Template", type_ = "string", json_path = ".spec.template", priority = 1),
    printcolumn(name = "Last Error", type_ = "string", json_path = ".spec.lastError", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct NotificationSpec {
    /// The incident that the message tells of.
    #[x_kube(validation = ("self == oldSelf", "incident: is fixed when it is decided"))]
    pub incident: NotificationIncident,
    /// The rule that wants it, in the same namespace.
    #[x_kube(validation = ("self == oldSelf", "ruleRef: is fixed when it is decided"))]
    pub rule_ref: LocalReference,
    /// The channel that it goes to, in the same namespace.
    #[x_kube(validation = ("self == oldSelf", "channelRef: is fixed when it is decided"))]
    pub channel_ref: LocalReference,
    /// Name of the template: a built-in one, or one of the channel's own.
    #[schemars(length(max = 63))]
    #[x_kube(validation = ("self == oldSelf", "template: is fixed when it is decided"))]
    pub template: String,
    /// What happened to the incident.
    #[x_kube(validation = ("self == oldSelf", "event: is fixed when it is decided"))]
    pub event: IncidentEvent,
    /// Tells apart what is said more than once with one template, like `ActionFailed/restart/1` or `Failed/3`.
    #[schemars(length(max = 253))]
    #[x_kube(validation = ("self == oldSelf", "occurrence: is fixed when it is decided"))]
    pub occurrence: String,
    /// What the event was about.
    #[serde(default)]
    pub context: NotificationFacts,
    /// When the message was decided.
    #[x_kube(validation = ("self == oldSelf", "decidedAt: is fixed when it is decided"))]
    pub decided_at: Timestamp,
    /// Until when it may be sent.
    #[x_kube(validation = ("self == oldSelf", "deadline: is fixed when it is decided"))]
    pub deadline: Timestamp,
    /// Where it is on its way: `Sending`, `Waiting`, `Delivered`, `Failed` or `Stale`.
    pub phase: NotificationPhase,
    /// The replica that sends it now; missing unless the phase is `Sending`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub sender: Option<String>,
    /// Until when nobody but `sender` may send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_until: Option<Timestamp>,
    /// When the next try is due; missing unless the phase is `Waiting`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// How many tries were begun.
    #[serde(default)]
    pub tries: i32,
    /// Why the last try did not succeed, without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub last_error: Option<String>,
    /// A copy may have been accepted already, although nobody could write that down. Further copies say so, and carry the same
    /// idempotency key, which is this resource's name.
    #[serde(default)]
    pub duplicate_possible: bool,
    /// When the channel accepted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<Timestamp>,
    /// When it came to its end: delivered, failed or stale. It is deleted some time after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// W3C trace context of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub traceparent: Option<String>,
    /// Events that were decided with this state and may not be published yet; empty or out of date a moment later.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["id".into()]))]
    pub outbox: Vec<OutboxEntry>,
}

/// The incident that a message tells of, as it was when the message was decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotificationIncident {
    /// The incident, and its resource's name.
    #[serde(rename = "incidentID")]
    #[schemars(length(max = 63))]
    pub incident_id: String,
    /// The group of alerts that it is an episode of.
    #[serde(rename = "correlationID")]
    #[schemars(length(max = 63))]
    pub correlation_id: String,
    /// How bad it is.
    #[schemars(length(max = 1024))]
    pub severity: String,
    /// One line for people.
    #[schemars(length(max = 2048))]
    pub summary: String,
    /// When it opened.
    pub opened_at: Timestamp,
    /// When the alert that opened it was accepted, to measure by; absent where it was held back on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<Timestamp>,
    /// The newest alerts, at most 20.
    #[serde(default)]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["alertID".into()]))]
    pub alerts: Vec<IncidentAlert>,
    /// How many alerts there were in all.
    #[serde(default)]
    pub alert_count: i32,
}

/// What a message can tell beside the incident itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotificationFacts {
    /// What is acted on, like `Deployment/svc-a`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub target: Option<String>,
    /// The step of the rule's ladder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub step: Option<String>,
    /// Why, as a word of the closed lists, like `retriesExhausted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub reason: Option<String>,
    /// What was done or went wrong, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub message: Option<String>,
    /// What follows: the next step's name, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub next_step: Option<String>,
    /// How often this was told before.
    #[serde(default)]
    pub repetition: i32,
}

/// Where a message is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum NotificationPhase {
    /// `sender` is sending it; nobody else does before `sendUntil`.
    Sending,
    /// A try did not succeed, or the channel is busy; the next one is due at `due`.
    Waiting,
    /// The channel accepted it.
    Delivered,
    /// No try succeeded until the deadline, or the channel refused it for good.
    Failed,
    /// It was first seen past its deadline and was never sent.
    Stale,
}

impl NotificationPhase {
    /// Whether it is over.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Delivered | Self::Failed | Self::Stale)
    }
}
