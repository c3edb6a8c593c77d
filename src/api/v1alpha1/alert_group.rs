//! `AlertGroup`: the memory of the rules service for one group of alerts. Written by EventPulse only.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use litemap::LiteMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Duration, IncidentEvent, LocalReference, OUTBOX_MAX, OnUnknownOutcome, OutboxEntry, ParameterValue, ResolveOn,
    TargetReference,
};
use crate::events::{ActionFailureReason, AlertId, AlertStatus, CorrelationId, IncidentId, IncidentPhase};

/// The most alerts that one group remembers; beyond it they are only counted (promise 6).
pub const GROUP_ALERTS_MAX: usize = 200;
/// The most bytes of one AlertGroup as JSON (promise 6).
pub const GROUP_SIZE_MAX: usize = 256 * 1024;

/// What EventPulse knows of one group of alerts: those with the same values of the rule's `groupBy` labels.
///
/// It holds the open incident with the rule as it was when the incident opened, the alerts and how long each is believed, what
/// is due when, and the events that were decided and may not be published yet. Like a Lease it has no status: creating it writes
/// everything at once. People read it; nobody but EventPulse writes it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "eventpulse.io",
    version = "v1alpha1",
    kind = "AlertGroup",
    namespaced,
    shortname = "ag",
    category = "eventpulse",
    derive = "PartialEq",
    printcolumn(name = "Rule", type_ = "string", json_path = ".spec.ruleRef.name"),
    printcolumn(name = "Incident", type_ = "string", json_path = ".spec.episode.incidentID"),
    printcolumn(name = "Alerts", type_ = "integer", json_path = ".spec.firing"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".spec.episode.phase"),
    printcolumn(name = "Next", type_ = "string", json_path = ".spec.nextTimer"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct AlertGroupSpec {
    /// The rule, in the same namespace.
    #[x_kube(validation = ("self == oldSelf", "ruleRef: is what makes the group"))]
    pub rule_ref: LocalReference,
    /// The group's id, and the resource's name: derived from the rule and the values of the groupBy labels.
    #[serde(rename = "correlationID")]
    #[x_kube(validation = ("self == oldSelf", "correlationID: is what makes the group"))]
    pub correlation_id: CorrelationId,
    /// The values of the groupBy labels that make the group.
    #[serde(default, skip_serializing_if = "LabelValues::is_empty")]
    #[schemars(with = "BTreeMap<String, String>")]
    #[x_kube(validation = ("self == oldSelf", "groupBy: is what makes the group"))]
    pub group_by: LabelValues,
    /// The open incident. None: there is none now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub episode: Option<Episode>,
    /// The incident that ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_episode: Option<EndedEpisode>,
    /// The alerts, by fingerprint: those that fire, and those that ended and whose late repetitions must still be known.
    #[serde(default)]
    #[schemars(length(max = 200))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["fingerprint".into()]))]
    pub alerts: Vec<GroupAlert>,
    /// How many of the alerts fire.
    #[serde(default)]
    pub firing: i32,
    /// No incident opens before. Set when one ends, from the rule's cooldown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown_until: Option<Timestamp>,
    /// Where the group is no group of alerts, but its rule's storm: so many groups of the rule are open that no further one opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storm: Option<GroupStorm>,
    /// The next time at which something is due by itself: an expiry, a repeated notification, the cooldown's end, an overdue step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_timer: Option<Timestamp>,
    /// When the group last changed. Long after that, without an incident and without an alert that fires, it is deleted.
    pub changed_at: Timestamp,
    /// Events that were decided with this state and may not be published yet.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["id".into()]))]
    pub outbox: Vec<OutboxEntry>,
}

/// Labels by name. Of the many groups in memory nearly all have one or two, for which a `BTreeMap` takes half a KiB.
pub type LabelValues = LiteMap<String, String>;

// One write may hold a whole opening beside what it carries over.
const _: () = assert!(OUTBOX_MAX <= 64);

/// A storm of a rule. Its incident has no alerts and no actions; a person may resolve it, and the storm goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupStorm {
    /// When it began.
    pub began_at: Timestamp,
    /// When it was over; none while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// An open incident, with the rule as it was when it opened: an edit of the rule changes the next one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Episode {
    /// The incident.
    #[serde(rename = "incidentID")]
    pub incident_id: IncidentId,
    /// When it opened.
    pub opened_at: Timestamp,
    /// When the alert that opened it was accepted, to measure by; absent where it was held back on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_at: Option<Timestamp>,
    /// Severity, as computed then.
    #[schemars(length(max = 1024))]
    pub severity: String,
    /// One line for people, as computed then.
    #[schemars(length(max = 2048))]
    pub summary: String,
    /// What the incident's state is, as far as the rules decide it.
    pub phase: IncidentPhase,
    /// How many alerts there were, those beyond the bound included.
    #[serde(default)]
    pub alert_count: i32,
    /// Whether alerts were left out, so that the count and the end of the incident are approximate.
    #[serde(default)]
    pub approximate: bool,
    /// W3C trace context of the alert that opened it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub traceparent: Option<String>,
    /// The rule as it was.
    pub rule: RuleSnapshot,
    /// The steps that were requested, in their order.
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["step".into()]))]
    pub steps: Vec<StepState>,
    /// Whether the next step waits because the rule is suspended.
    #[serde(default)]
    pub step_pending: bool,
    /// Not before this time is it asked for anew, unless the rule changes: who let it go may know more of the rule than we do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_until: Option<Timestamp>,
    /// Since when the ladder is at its end without success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<Timestamp>,
    /// Notifications for `Failed` that repeat until the incident is resolved.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["channel".into(), "template".into()]))]
    pub repetitions: Vec<Repetition>,
    /// Whether an alert of this incident was taken as resolved because it was not repeated.
    #[serde(default)]
    pub expired: bool,
}

/// What of the rule an open incident needs, with every expression computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleSnapshot {
    /// The rule's uid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The rule's generation.
    #[serde(default)]
    pub generation: i64,
    /// What ends the incident beside its alerts' end.
    pub resolve_on: ResolveOn,
    /// The ladder.
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    pub ladder: Vec<LadderStep>,
    /// What is requested when the incident is over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    pub on_resolved: Vec<LadderStep>,
    /// Who is told what, and when.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Atomic)]
    pub notifications: Vec<SnapshotNotification>,
    /// No new incident for so long after this one ended.
    pub cooldown: Duration,
    /// An alert without an end of its own, and not repeated for so long, is taken as resolved.
    pub expire_after: Duration,
}

/// One step of the ladder, with every expression computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LadderStep {
    /// Name of the step.
    #[schemars(length(max = 63))]
    pub name: String,
    /// The runbook.
    #[schemars(length(max = 253))]
    pub runbook: String,
    /// What it acts on.
    pub target: TargetReference,
    /// Values for the runbook's parameters.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    pub parameters: Vec<ParameterValue>,
    /// How long after it was decided it may act.
    pub deadline: Duration,
    /// What follows when nobody can know whether it took effect.
    pub on_unknown_outcome: OnUnknownOutcome,
    /// Name of the earlier step that it takes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub undoes: Option<String>,
}

/// One notification of the rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotNotification {
    /// The channel.
    #[schemars(length(max = 253))]
    pub channel: String,
    /// The template.
    #[schemars(length(max = 63))]
    pub template: String,
    /// What it is for.
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Set)]
    pub events: Vec<IncidentEvent>,
    /// A failed incident is told again after each such interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat_interval: Option<Duration>,
    /// How long after it was decided it may be sent.
    pub deadline: Duration,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum StepOutcome {
    /// It was requested and has not answered.
    Requested,
    /// It did not take effect, or nobody can know.
    Failed,
    /// It took effect.
    Completed,
}

/// A step that was requested.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepState {
    /// Name of the step.
    #[schemars(length(max = 63))]
    pub step: String,
    /// Which try of it, from 1.
    pub attempt: i32,
    /// When it was decided.
    pub decided_at: Timestamp,
    /// Until when it may act.
    pub deadline: Timestamp,
    /// What became of it.
    pub outcome: StepOutcome,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ActionFailureReason>,
    /// When it will be asked for again, because it should have answered before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdue_at: Option<Timestamp>,
    /// How often it was asked for again.
    #[serde(default)]
    pub asked_again: i32,
}

/// A notification that repeats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Repetition {
    /// The channel.
    #[schemars(length(max = 253))]
    pub channel: String,
    /// The template.
    #[schemars(length(max = 63))]
    pub template: String,
    /// How often it was repeated.
    pub count: i32,
    /// When it is told again.
    pub next_at: Timestamp,
}

/// How an incident ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EpisodeEnd {
    /// A step of the ladder took effect.
    ActionCompleted,
    /// Every alert was resolved by its sender.
    AlertsResolved,
    /// Some alerts were not repeated in time and were taken as resolved.
    AlertsExpired,
    /// A person decided so.
    Decision,
    /// It was a storm, and the storm is over.
    StormOver,
}

/// The incident that ended last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndedEpisode {
    /// The incident.
    #[serde(rename = "incidentID")]
    pub incident_id: IncidentId,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How.
    pub how: EpisodeEnd,
}

/// One alert of the group. Overlapping intervals of one fingerprint are one alert, as in Alertmanager.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupAlert {
    /// Alertmanager's fingerprint of its labels.
    #[schemars(length(min = 1, max = 64))]
    pub fingerprint: String,
    /// The sender's configured name.
    #[schemars(length(max = 128))]
    pub source: String,
    /// Its id, from the start that was seen first.
    #[serde(rename = "alertID")]
    pub alert_id: AlertId,
    /// Its earliest start.
    pub starts_at: Timestamp,
    /// Its latest start: the two of a highly available pair differ by seconds.
    pub last_starts_at: Timestamp,
    /// Its latest end that was told: of one that fires, when it is taken as ended unless it is repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Timestamp>,
    /// Whether it goes on.
    pub status: AlertStatus,
    /// When it was last accepted, as far as that was written.
    pub accepted_at: Timestamp,
    /// When an alert that fires is taken as resolved unless it is repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Whether it belongs to the open incident.
    #[serde(default)]
    pub in_episode: bool,
    /// Everything that began until then belongs to an incident that has ended, and is a repetition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_through: Option<Timestamp>,
    /// Labels and annotations of an alert that waits for the cooldown's end: the incident may open from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<HeldFacts>,
}

/// What an incident that opens later needs of its alert.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldFacts {
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}
