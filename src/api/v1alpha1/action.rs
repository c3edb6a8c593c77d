//! `Action`: one try of one step on one target, from its claim to its end. Written by EventPulse only.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    CircuitBreaker, Duration, GitOps, LocalReference, OutboxEntry, Retry, StepType, TargetReference, UnderAutoscaler,
};

/// The most plans of one action: planning again after somebody else's change is no try, but has its own bound (promise 6).
pub const ACTION_PLANS_MAX: usize = 32;
/// The most characters of an action's message.
pub const ACTION_MESSAGE_MAX: usize = 1024;

/// One try of one step on one target.
///
/// It is the claim of whoever runs it: it exists before anything is sent, so nothing is done twice, and it stays until nothing can
/// repeat it any more. People read it; nobody but EventPulse writes it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "eventpulse.io",
    version = "v1alpha1",
    kind = "Action",
    namespaced,
    shortname = "act",
    category = "eventpulse",
    status = "ActionStatus",
    derive = "PartialEq",
    printcolumn(name = "Incident", type_ = "string", json_path = ".spec.incidentRef.name"),
    printcolumn(name = "Step", type_ = "string", json_path = ".spec.step"),
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.target.kind"),
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.target.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "What", type_ = "string", json_path = ".status.what"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Waiting For", type_ = "string", json_path = ".status.waitingFor"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self == oldSelf", "spec: an action is a claim and never changes"))]
pub struct ActionSpec {
    /// The incident that it is for, in the same namespace.
    pub incident_ref: LocalReference,
    /// The rule whose ladder it is a step of, in the same namespace.
    pub rule_ref: LocalReference,
    /// Name of the rule's step.
    #[schemars(length(max = 63))]
    pub step: String,
    /// Which try of the step, from 1.
    #[schemars(range(min = 1))]
    pub attempt: i32,
    /// What it acts on, in the same namespace.
    pub target: TargetReference,
    /// The runbook as it was when the action was claimed; missing where there was none that fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runbook: Option<RunbookSnapshot>,
    /// When it was decided. The actions of one target run in this order.
    pub decided_at: Timestamp,
    /// Until when it may act.
    pub deadline: Timestamp,
    /// The first plan, made before the claim, so that claim and plan are one write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<ActionPlan>,
    /// The data of the action.requested event, as it came.
    #[schemars(length(max = 65536))]
    pub request: String,
    /// W3C trace context of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub traceparent: Option<String>,
}

/// A runbook with its parameters put in, as it was when the action was claimed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunbookSnapshot {
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// The account that every call is made as.
    #[schemars(length(max = 253))]
    pub service_account_name: String,
    /// Name of its step.
    #[schemars(length(max = 63))]
    pub step: String,
    /// What it does.
    pub r#type: StepType,
    /// How the number of replicas changes; for type `Scale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<ResolvedScale>,
    /// How long one try may take.
    pub timeout: Duration,
    /// Tries after the first one.
    pub retry: Retry,
    /// When to stop trying for a while.
    pub circuit_breaker: CircuitBreaker,
    /// What becomes of a change of replicas that a GitOps tool may take back.
    #[serde(default)]
    pub git_ops: GitOps,
}

/// How the number of replicas changes: by `delta` or to `replicas`, within bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedScale {
    /// How many more, or fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<i32>,
    /// To how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Never fewer than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<i32>,
    /// Never more than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_replicas: Option<i32>,
    /// What is done where an autoscaler governs the target's replicas.
    #[serde(default)]
    pub under_autoscaler: UnderAutoscaler,
}

/// What is to be sent, and what the target was like when that was decided. Recorded before it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActionPlan {
    /// The process that made it and may send it.
    #[schemars(length(max = 63))]
    pub sender: String,
    /// When it was made.
    pub planned_at: Timestamp,
    /// What it does, for people: `3 → 4`.
    #[schemars(length(max = 256))]
    pub what: String,
    /// The object that is patched, where it is not the target itself: its HorizontalPodAutoscaler. It is the same in every plan of
    /// one action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<TargetReference>,
    /// The number that is changed, as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<i64>,
    /// The number that it becomes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<i64>,
    /// The object's uid. Another uid is another object.
    #[schemars(length(max = 128))]
    pub uid: String,
    /// The object's resourceVersion: the patch applies to this version and to no other.
    #[schemars(length(max = 64))]
    pub resource_version: String,
    /// The object's generation, which grows with every change of its spec; missing for a kind that does not keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// The object's revision (`deployment.kubernetes.io/revision`), where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub revision: Option<String>,
    /// Hash of the object's pod template, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub template_hash: Option<String>,
    /// Counter of the object's annotation: it grows with every write of ours.
    pub ring_counter: i64,
    /// What the API server answered, where its own sender has recorded that: `Refused` or `Conflict` mean that it did not take
    /// effect and never will.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<PlanOutcome>,
}

/// An answer of the API server that settles a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PlanOutcome {
    /// The target had changed: the patch did not apply.
    Conflict,
    /// It was refused for good.
    Refused,
    /// The server asked for patience and did nothing.
    Throttled,
    /// It never left: the deadline passed, the rule was suspended or the circuit breaker opened before its turn to be sent.
    NotSent,
}

/// Where an action is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ActionPhase {
    /// It waits; `waitingFor` says for what.
    #[default]
    Waiting,
    /// Its plan is sent.
    Running,
    /// It is given up, and makes sure that nothing sent earlier can still take effect.
    Fencing,
    /// It took effect.
    Completed,
    /// It did not take effect, or nobody can know.
    Failed,
    /// It was never run.
    Skipped,
}

impl ActionPhase {
    /// Whether nothing follows.
    pub fn is_terminal(self) -> bool {
        matches!(self, ActionPhase::Completed | ActionPhase::Failed | ActionPhase::Skipped)
    }
}

/// How an action goes on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActionStatus {
    /// `Waiting`, `Running`, `Fencing`, `Completed`, `Failed` or `Skipped`.
    #[serde(default)]
    pub phase: ActionPhase,
    /// Why it is given up, or ended without effect, as one word of a closed list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub reason: Option<String>,
    /// What people should know beside the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// What it waits for: its turn, a retry, a circuit breaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub waiting_for: Option<String>,
    /// What was done, for people: `Deployment/svc-a 3 → 4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub what: Option<String>,
    /// How often it was sent, not counting plans that met a changed target.
    #[serde(default)]
    pub tries: i32,
    /// Every plan, oldest first, the spec's first one among them.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Atomic)]
    pub plans: Vec<ActionPlan>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// `Completed`, once it has ended: `True` when it took effect, else `False` with the reason, so that `kubectl wait` works.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Its result, as long as its publication is not acknowledged.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["id".into()]))]
    pub outbox: Vec<OutboxEntry>,
}
