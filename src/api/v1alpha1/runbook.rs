//! `Runbook`: what an action does to its target, and how carefully.

use k8s_openapi::apimachinery::pkg::{apis::meta::v1::Condition, util::intstr::IntOrString};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DNS_SUBDOMAIN_PATTERN, Duration, duration::within};

/// What an action does to its target, and how carefully.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "eventpulse.io",
    version = "v1alpha1",
    kind = "Runbook",
    namespaced,
    category = "eventpulse",
    status = "RunbookStatus",
    derive = "PartialEq",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Step", type_ = "string", json_path = ".spec.steps[0].type"),
    printcolumn(name = "Account", type_ = "string", json_path = ".spec.serviceAccountName"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RunbookSpec {
    /// Every call is made as this account of the runbook's namespace. By default `default`, which may do nothing.
    #[serde(default = "default_service_account")]
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_SUBDOMAIN_PATTERN))]
    pub service_account_name: String,
    /// What a rule may set.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    pub parameters: Vec<RunbookParameter>,
    /// What is done. Exactly one step: one action is one committed effect, and what follows a failure is the rule's ladder.
    #[schemars(length(min = 1, max = 1))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    pub steps: Vec<RunbookStep>,
    /// What is done when the API server refuses for now.
    #[serde(default)]
    pub retry: Retry,
    /// When to stop trying for a while.
    #[serde(default)]
    pub circuit_breaker: CircuitBreaker,
    /// What becomes of a `Scale` or `ScaleBack` of a target that Argo CD or Flux keeps as it is in Git.
    #[serde(default)]
    pub git_ops: GitOps,
}

/// What becomes of a change of replicas that a GitOps tool may take back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GitOps {
    /// It is refused, with a reason that says what to do.
    #[default]
    Refuse,
    /// It is done: the tool leaves the number of replicas alone.
    Allow,
}

fn default_service_account() -> String {
    "default".into()
}

/// A parameter of a runbook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self.type == 'Integer' || (!has(self.minimum) && !has(self.maximum))", "minimum and maximum: for type Integer only"))]
#[x_kube(validation = ("!has(self.minimum) || !has(self.maximum) || self.minimum <= self.maximum", "minimum: must not be above maximum"))]
#[x_kube(validation = ("self.type != 'Integer' || !has(self.default) || self.default.matches('^-?[0-9]{1,9}$')", "default: type Integer needs a whole number"))]
#[x_kube(validation = ("self.type != 'Integer' || !has(self.default) || !self.default.matches('^-?[0-9]{1,9}$') || ((!has(self.minimum) || int(self.default) >= self.minimum) && (!has(self.maximum) || int(self.default) <= self.maximum))", "default: must be from minimum to maximum"))]
pub struct RunbookParameter {
    /// Name, as `$(params.NAME)` uses it.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z][a-zA-Z0-9_]*$"))]
    pub name: String,
    /// What its value must be.
    pub r#type: ParameterType,
    /// The value when the rule gives none. Without a default the rule must give one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub default: Option<String>,
    /// The least value of an Integer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<i64>,
    /// The greatest value of an Integer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<i64>,
}

/// What a parameter's value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ParameterType {
    /// A whole number.
    Integer,
    /// Any text.
    String,
}

/// One thing done to the target. `type` names the member that is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("(self.type == 'Scale') == has(self.scale)", "scale: needed for type Scale and for no other"))]
#[x_kube(validation = ("(self.type == 'Restart') == has(self.restart)", "restart: needed for type Restart and for no other"))]
#[x_kube(validation = ("(self.type == 'ScaleBack') == has(self.scaleBack)", "scaleBack: needed for type ScaleBack and for no other"))]
pub struct RunbookStep {
    /// Name of the step.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Which member says what to do.
    pub r#type: StepType,
    /// Change the number of replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<ScaleStep>,
    /// Roll the workload's pods, as `kubectl rollout restart` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartStep>,
    /// Put back the number of replicas that an earlier step of the same incident has changed: the one that the rule's step `undoes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_back: Option<ScaleBackStep>,
    /// How long one try may take.
    #[serde(default = "default_step_timeout")]
    #[x_kube(validation = within("timeout", "100ms", "10m"))]
    pub timeout: Duration,
}

fn default_step_timeout() -> Duration {
    Duration::from_secs(30)
}

/// The member of a step's union.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StepType {
    /// `scale` is set.
    Scale,
    /// `restart` is set.
    Restart,
    /// `scaleBack` is set.
    ScaleBack,
}

/// Change the number of replicas, by `delta` or to `replicas`, within bounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.delta) != has(self.replicas)", "delta and replicas: exactly one of them is needed"))]
#[x_kube(validation = ("!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas", "minReplicas: must not be above maxReplicas"))]
#[x_kube(validation = ("!has(self.replicas) || type(self.replicas) != int || ((!has(self.minReplicas) || self.replicas >= self.minReplicas) && (!has(self.maxReplicas) || self.replicas <= self.maxReplicas))", "replicas: must be from minReplicas to maxReplicas"))]
pub struct ScaleStep {
    /// How many more (or, negative, fewer): a whole number, not 0, or one `$(…)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("type(self) == int ? self != 0 && self >= -1000 && self <= 1000 : self.matches('^\\\\$\\\\(.+\\\\)$')", "delta: a whole number from -1000 to 1000 that is not 0, or one $(…)"))]
    pub delta: Option<IntOrString>,
    /// To how many: a whole number from 0, or one `$(…)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("type(self) == int ? self >= 0 && self <= 10000 : self.matches('^\\\\$\\\\(.+\\\\)$')", "replicas: a whole number from 0 to 10000, or one $(…)"))]
    pub replicas: Option<IntOrString>,
    /// Never fewer than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub min_replicas: Option<i32>,
    /// Never more than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub max_replicas: Option<i32>,
    /// What is done where a HorizontalPodAutoscaler governs the target's replicas.
    #[serde(default)]
    pub under_autoscaler: UnderAutoscaler,
}

/// What a `Scale` does where a HorizontalPodAutoscaler governs the target's replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UnderAutoscaler {
    /// Nothing: it is refused, with a reason that says so.
    #[default]
    Refuse,
    /// It changes the autoscaler's `minReplicas`, within its `maxReplicas`.
    MinReplicas,
}

/// Roll the workload's pods. There is nothing to say yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestartStep {}

/// Put back what an earlier step has changed. There is nothing to say yet: which step is the rule's `undoes`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScaleBackStep {}

/// Tries after the first one, when the API server refuses for now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Tries after the first.
    #[serde(default = "default_retry_limit")]
    #[schemars(range(min = 0, max = 20))]
    pub limit: u8,
    /// How long between them, exponentially growing, with full jitter.
    #[serde(default)]
    pub backoff: Backoff,
}

fn default_retry_limit() -> u8 {
    3
}

impl Default for Retry {
    fn default() -> Self {
        Self { limit: default_retry_limit(), backoff: Backoff::default() }
    }
}

/// Exponential backoff with full jitter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("duration(self.initial) <= duration(self.max)", "initial: must not be above max"))]
pub struct Backoff {
    /// The longest wait before the first retry; doubled for each further one.
    #[serde(default = "default_backoff_initial")]
    #[x_kube(validation = within("initial", "1ms", "5m"))]
    pub initial: Duration,
    /// The longest wait of all.
    #[serde(default = "default_backoff_max")]
    #[x_kube(validation = within("max", "1ms", "1h"))]
    pub max: Duration,
}

fn default_backoff_initial() -> Duration {
    Duration::from_millis(500)
}

fn default_backoff_max() -> Duration {
    Duration::from_secs(10)
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: default_backoff_initial(), max: default_backoff_max() }
    }
}

/// Stops the runbook's calls for one kind of target for a while, after many failures in a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Failed calls in a row that open it.
    #[serde(default = "default_failure_threshold")]
    #[schemars(range(min = 1, max = 1000))]
    pub failure_threshold: u16,
    /// How long it stays open before one call is let through.
    #[serde(default = "default_open_duration")]
    #[x_kube(validation = within("openDuration", "100ms", "1h"))]
    pub open_duration: Duration,
}

fn default_failure_threshold() -> u16 {
    5
}

fn default_open_duration() -> Duration {
    Duration::from_secs(30)
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self { failure_threshold: default_failure_threshold(), open_duration: default_open_duration() }
    }
}

/// What EventPulse says about a runbook.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunbookStatus {
    /// The generation that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: every expression compiles and the parameters fit.
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
