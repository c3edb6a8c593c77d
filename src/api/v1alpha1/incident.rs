//! `Incident`: one episode of trouble, from its first alert to its end. The truth that `kubectl get incidents` shows.

use std::cmp::Ordering;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LocalReference, OutboxEntry};
use crate::events::{AlertId, AlertLink, AlertStatus};

/// The most alerts that an incident lists; `alertCount` says how many there were (promise 6).
pub const INCIDENT_ALERTS_MAX: usize = 20;
/// The most actions that an incident lists: a ladder has at most 8 steps.
pub const INCIDENT_ACTIONS_MAX: usize = 12;
/// The most entries of an incident's history.
pub const INCIDENT_HISTORY_MAX: usize = 32;

/// One episode of trouble, from its first alert to its end.
///
/// Written by EventPulse. People acknowledge and resolve it: `spec.acknowledged` and `spec.resolved` may become true, together with
/// `spec.decidedBy`. Everything else in the spec is fixed when the incident opens.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "eventpulse.io",
    version = "v1alpha1",
    kind = "Incident",
    namespaced,
    shortname = "inc",
    category = "eventpulse",
    status = "IncidentStatus",
    derive = "PartialEq",
    validation = kube::core::cel::Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')")
        .message("metadata.name: must be a DNS label of at most 63 characters, because the name is the incident's id"),
    printcolumn(name = "Rule", type_ = "string", json_path = ".spec.ruleRef.name"),
    printcolumn(name = "Severity", type_ = "string", json_path = ".spec.severity"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Target", type_ = "string", json_path = ".status.target"),
    printcolumn(name = "Alerts", type_ = "integer", json_path = ".status.alertCount"),
    printcolumn(name = "Last Action", type_ = "string", json_path = ".status.lastAction"),
    printcolumn(name = "Acknowledged", type_ = "boolean", json_path = ".spec.acknowledged", priority = 1),
    printcolumn(name = "Summary", type_ = "string", json_path = ".spec.summary", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.traceparent) == has(oldSelf.traceparent) && (!has(self.traceparent) || self.traceparent == oldSelf.traceparent)", "traceparent: is fixed when the incident opens"))]
#[x_kube(validation = ("(!self.acknowledged && !self.resolved) || has(self.decidedBy)", "decidedBy: needed with acknowledged or resolved: the name of the user who decides"))]
#[x_kube(validation = ("self.acknowledged != oldSelf.acknowledged || self.resolved != oldSelf.resolved || (has(self.decidedBy) == has(oldSelf.decidedBy) && (!has(self.decidedBy) || self.decidedBy == oldSelf.decidedBy))", "decidedBy: changes only together with acknowledged or resolved"))]
pub struct IncidentSpec {
    /// The rule that opened it, in the same namespace. The rule may be gone; its incidents stay.
    #[x_kube(validation = ("self == oldSelf", "ruleRef: is fixed when the incident opens"))]
    pub rule_ref: LocalReference,
    /// The group of alerts that it is an episode of: derived from the rule and the values of its groupBy labels.
    #[serde(rename = "correlationID")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    #[x_kube(validation = ("self == oldSelf", "correlationID: is fixed when the incident opens"))]
    pub correlation_id: String,
    /// How bad it is, as the rule computed it when the incident opened, for example `critical`.
    #[schemars(length(max = 128))]
    #[x_kube(validation = ("self == oldSelf", "severity: is fixed when the incident opens"))]
    pub severity: String,
    /// One line for people, as the rule computed it when the incident opened.
    #[schemars(length(max = 1024))]
    #[x_kube(validation = ("self == oldSelf", "summary: is fixed when the incident opens"))]
    pub summary: String,
    /// When the rule opened it.
    #[x_kube(validation = ("self == oldSelf", "openedAt: is fixed when the incident opens"))]
    pub opened_at: Timestamp,
    /// W3C trace context of the event that created this resource: the trace of the whole incident.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub traceparent: Option<String>,
    /// Set to true by a person who has seen the incident and takes care of it. Never becomes false again.
    #[serde(default)]
    #[x_kube(validation = ("self || !oldSelf", "acknowledged: never becomes false again"))]
    pub acknowledged: bool,
    /// Set to true by a person who decides that the incident is over. No further step or message is requested then. Never becomes
    /// false again.
    #[serde(default)]
    #[x_kube(validation = ("self || !oldSelf", "resolved: never becomes false again"))]
    pub resolved: bool,
    /// The user who decided last; needed with `acknowledged` and `resolved`. Where EventPulse's admission policy is installed it must
    /// be the name that the API server knows the user by; without the policy the history says `unverified`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub decided_by: Option<String>,
}

/// What an incident's state is. The order is the one that it can move in (design, section 5, incidents).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum IncidentPhase {
    /// It was opened and nothing is done yet.
    #[default]
    Open,
    /// An action was requested.
    Mitigating,
    /// The ladder is at its end without success.
    Failed,
    /// It is over.
    Resolved,
}

/// What EventPulse knows about an incident. The same events give the same status, in whatever order and however often they come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncidentStatus {
    /// `Open`: nothing is done yet. `Mitigating`: an action was requested. `Failed`: the ladder is at its end without success; the
    /// incident is told about periodically until it is resolved. `Resolved`: it is over. It only ever moves forward in this order.
    #[serde(default)]
    pub phase: IncidentPhase,
    /// What the last action acts on, as kind and name, like `Deployment/svc-a`; before the first action, what that will act on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Alerts of the incident, at most 20, by their beginning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["alertID".into()]))]
    pub alerts: Vec<IncidentAlert>,
    /// How many alerts the incident has had in all, also those that are no longer listed.
    #[serde(default)]
    pub alert_count: i32,
    /// The actions of the incident, in the order of the rule's ladder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 12))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["step".into(), "attempt".into()]))]
    pub actions: Vec<IncidentAction>,
    /// The last action and its state, in one line, like `restart Completed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_action: Option<String>,
    /// When a channel last accepted a message about the incident.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_notified_at: Option<Timestamp>,
    /// When a person acknowledged it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged_at: Option<Timestamp>,
    /// When the ladder came to its end without success, if it ever did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<Timestamp>,
    /// When it was over: the earliest of what resolved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<Timestamp>,
    /// What people decided, and who.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    pub decisions: Vec<IncidentDecision>,
    /// What happened, in the order of time: the newest 32 entries, fewer where they are very long.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Atomic)]
    pub history: Vec<HistoryEntry>,
    /// `Resolved`, `Acknowledged` and `Failed`, so that `kubectl wait --for=condition=Resolved` works. `Failed` is no longer true once
    /// the incident is resolved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// What EventPulse still has to tell its other services about this incident; empty a moment later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Atomic)]
    pub outbox: Vec<OutboxEntry>,
    /// The generation of the spec, that is of what people decided, which this status takes account of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// One alert of an incident.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncidentAlert {
    /// When the alert began.
    pub starts_at: Timestamp,
    /// The alert's id, by which alert.raised and alert.decided tell of it.
    #[serde(rename = "alertID")]
    pub alert_id: String,
    /// Alertmanager's fingerprint of the alert's labels.
    pub fingerprint: String,
    /// `Firing`, or `Resolved` when its sender said so or it was not repeated in time.
    pub state: IncidentAlertState,
}

impl IncidentAlert {
    /// As events name it; none of one whose id somebody has made up.
    pub fn link(&self) -> Option<AlertLink> {
        Some(AlertLink {
            alert_id: AlertId::try_from(self.alert_id.clone()).ok()?,
            fingerprint: self.fingerprint.clone(),
            starts_at: self.starts_at,
            status: self.state.into(),
        })
    }
}

/// Whether an alert goes on. The order is the one that it can move in: a new beginning is another alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum IncidentAlertState {
    /// It goes on.
    Firing,
    /// It ended.
    Resolved,
}

/// One try of one step of the ladder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncidentAction {
    /// Name of the rule's step.
    pub step: String,
    /// Which try of the step, from 1.
    pub attempt: i32,
    /// The step's place in the ladder, from 0.
    pub step_index: i32,
    /// The Action that carries it out, in the same namespace.
    pub action_ref: LocalReference,
    /// The runbook that it runs, in the same namespace; missing until the request is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runbook: Option<String>,
    /// What it acts on, as kind and name, like `Deployment/svc-a`.
    pub target: String,
    /// `Requested`, `Running`, `SkippedStale` (it was never run: `reason` says why), `Failed` or `Completed`.
    pub state: IncidentActionState,
    /// Why it was skipped or failed, as action.failed says it, like `outcomeUnknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was decided; missing until the request is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

/// What became of an action. The order is the one of what counts more (design, section 5, incidents).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum IncidentActionState {
    /// It was requested.
    Requested,
    /// It is being carried out.
    Running,
    /// It was never run: seen too late, for a target created after the decision, or the rule was suspended first.
    SkippedStale,
    /// It did not take effect, or nobody can know.
    Failed,
    /// It took effect.
    Completed,
}

impl From<AlertStatus> for IncidentAlertState {
    fn from(status: AlertStatus) -> Self {
        match status {
            AlertStatus::Firing => Self::Firing,
            AlertStatus::Resolved => Self::Resolved,
        }
    }
}

impl From<IncidentAlertState> for AlertStatus {
    fn from(state: IncidentAlertState) -> Self {
        match state {
            IncidentAlertState::Firing => Self::Firing,
            IncidentAlertState::Resolved => Self::Resolved,
        }
    }
}

/// What a person decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncidentDecision {
    /// `Acknowledged` or `Resolved`.
    pub r#type: IncidentDecisionType,
    /// When EventPulse took account of it.
    pub time: Timestamp,
    /// The user who decided, as `spec.decidedBy` says.
    pub by: String,
    /// Whether the admission policy held `by` to the authenticated user.
    pub verified: bool,
}

/// What a person can decide about an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum IncidentDecisionType {
    /// Somebody takes care of it.
    Acknowledged,
    /// It is over.
    Resolved,
}

/// One thing that happened. Ordered by time; of one moment an incident's opening comes first, and then ids decide, so that every
/// replica has the same order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// When it was decided.
    pub time: Timestamp,
    /// The event's id.
    pub id: String,
    /// The event's topic, like `action.completed`, or `decision` for what a person decided.
    pub event: String,
    /// Who: the rule, the runbook with its service account, the channel, the alerts, or a person.
    pub by: String,
    /// What was done or happened.
    pub what: String,
}

impl Ord for HistoryEntry {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |entry: &Self| (entry.time, entry.event != "incident.opened");
        key(self).cmp(&key(other)).then_with(|| {
            (&self.id, &self.event, &self.by, &self.what).cmp(&(&other.id, &other.event, &other.by, &other.what))
        })
    }
}

impl PartialOrd for HistoryEntry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
