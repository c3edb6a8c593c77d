//! `Rule`: which alerts make an incident, and what is done about it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, LocalReference, ParameterValue, TargetReference, duration::within};

/// Which alerts make an incident, and what is done about it.
///
/// A rule matches alerts whose `namespace` label is its own namespace, or which carry none, and acts only in its own namespace.
/// Names are at most 40 characters, because the incidents are named after the rule.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "eventpulse.io",
    version = "v1alpha1",
    kind = "Rule",
    namespaced,
    category = "eventpulse",
    status = "RuleStatus",
    derive = "PartialEq",
    validation = kube::core::Rule::new("size(self.metadata.name) <= 40")
        .message("metadata.name: at most 40 characters, because incidents are named after the rule"),
    validation = kube::core::Rule::new("!self.metadata.name.contains('.')")
        .message("metadata.name: no dots, because incidents are named after the rule"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Storm", type_ = "string", json_path = ".status.conditions[?(@.type==\"Storm\")].status"),
    printcolumn(name = "Suspended", type_ = "boolean", json_path = ".spec.suspend"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!has(self.actions) || (has(self.incident) && has(self.incident.resolveOn) && self.incident.resolveOn == 'AlertResolved') || self.actions.all(a, !has(a.when) || a.when != 'Resolved')", "actions: a step for Resolved needs incident.resolveOn AlertResolved: with ActionCompleted it would take back at once what has just been done"))]
pub struct RuleSpec {
    /// While true no new incident opens, and no further step or message of an open one is requested. Read live. When it becomes
    /// false again, what still fires opens its incident then, and an open incident goes on where it was.
    #[serde(default)]
    pub suspend: bool,
    /// Which alerts the rule is about.
    pub r#match: AlertMatch,
    /// Names of labels: alerts with the same values make one group, and a group has at most one open incident.
    /// Empty: every fingerprint is a group of its own.
    #[serde(default)]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Set)]
    pub group_by: Vec<String>,
    /// What the incident says and when it ends.
    #[serde(default)]
    pub incident: IncidentTemplate,
    /// A ladder: the first is requested when the incident opens, the next one when one fails. Beside it, steps that are requested when
    /// the incident is over.
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    #[x_kube(validation = ("self.all(a, !has(a.when) || a.when != 'Resolved' || has(a.undoes))", "when: a step for Resolved needs undoes"))]
    #[x_kube(validation = ("self.all(a, !has(a.undoes) || self.exists(b, b.name == a.undoes && b.name != a.name && !has(b.undoes)))", "undoes: must name another step of the ladder, which undoes none itself"))]
    #[x_kube(validation = ("self.all(a, !has(a.undoes) || self.all(b, b.name != a.undoes || b.targetRef == a.targetRef))", "undoes: needs the targetRef of the step that it names"))]
    pub actions: Vec<RuleAction>,
    /// Who is told what, and when.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Atomic)]
    pub notifications: Vec<RuleNotification>,
    /// No new incident of the same group for so long after one ended. An alert still firing at its end opens one then.
    #[serde(default)]
    #[x_kube(validation = within("cooldown", "0s", "168h"))]
    pub cooldown: Duration,
    /// An alert without an end of its own, and not repeated for so long, is taken as resolved.
    /// Alertmanager's webhook gives no endsAt while an alert fires.
    #[serde(default = "default_expire_after")]
    #[x_kube(validation = within("expireAfter", "1s", "720h"))]
    pub expire_after: Duration,
    /// An alert opens an incident only if it was accepted less than this ago: an old event that comes again is `stale`.
    #[serde(default = "default_accept_window")]
    #[x_kube(validation = within("acceptWindow", "1s", "168h"))]
    pub accept_window: Duration,
}

fn default_expire_after() -> Duration {
    Duration::from_secs(12 * 3600)
}

fn default_accept_window() -> Duration {
    Duration::from_secs(3600)
}

/// Which alerts a rule is about: all matchers and all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("(has(self.matchers) && size(self.matchers) > 0) || (has(self.conditions) && size(self.conditions) > 0)", "matchers: at least one matcher or condition is needed; to match every alert write alertname=~\".+\""))]
pub struct AlertMatch {
    /// Matchers in Alertmanager's own syntax, like `severity=~"warning|critical"`.
    #[serde(default)]
    #[schemars(length(max = 32), inner(length(min = 1, max = 1024)))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Atomic)]
    pub matchers: Vec<String>,
    /// CEL expressions over `alert`, for what matchers cannot say.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    pub conditions: Vec<MatchCondition>,
}

/// One CEL expression that must be true.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatchCondition {
    /// Name, so that an explanation can say which one did not hold.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// A CEL expression that gives a boolean, like `has(alert.labels.service)`.
    #[schemars(length(min = 1, max = 4096))]
    pub expression: String,
}

/// What the incident says and when it ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncidentTemplate {
    /// Severity; may hold `$(…)` with CEL over `alert`.
    #[serde(default = "default_severity")]
    #[schemars(length(min = 1, max = 1024))]
    pub severity: String,
    /// One line for people; may hold `$(…)` with CEL over `alert`.
    #[serde(default = "default_summary")]
    #[schemars(length(min = 1, max = 2048))]
    pub summary: String,
    /// What ends the incident, beside a person's decision and the alerts' own end.
    #[serde(default)]
    pub resolve_on: ResolveOn,
}

impl Default for IncidentTemplate {
    fn default() -> Self {
        Self { severity: default_severity(), summary: default_summary(), resolve_on: ResolveOn::default() }
    }
}

fn default_severity() -> String {
    "$('severity' in alert.labels ? alert.labels.severity : 'none')".into()
}

fn default_summary() -> String {
    "$('summary' in alert.annotations ? alert.annotations.summary : alert.labels.alertname)".into()
}

/// What ends an incident, beside a person's decision and the alerts' own end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ResolveOn {
    /// The first action that completes.
    #[default]
    ActionCompleted,
    /// Nothing but the alerts' end: all of the group are resolved or expired.
    AlertResolved,
}

/// One step of the ladder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleAction {
    /// Name of the step, unique within the rule.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The runbook to run.
    pub runbook_ref: LocalReference,
    /// The workload to act on.
    pub target_ref: TargetReference,
    /// Values for the runbook's parameters.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    pub parameters: Vec<ParameterValue>,
    /// How long after it was decided the step may still act: waiting, its turn and its run are in it.
    #[serde(default = "default_action_deadline")]
    #[x_kube(validation = within("deadline", "1s", "24h"))]
    pub deadline: Duration,
    /// What follows when it cannot be known whether the step took effect: by default the ladder stops there.
    #[serde(default)]
    pub on_unknown_outcome: OnUnknownOutcome,
    /// When it is requested: in its place of the ladder, or when the incident is over.
    #[serde(default)]
    pub when: StepWhen,
    /// Name of the earlier step whose change of replicas it takes back; for runbooks of type `ScaleBack`. It acts on the same target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub undoes: Option<String>,
}

/// When a step is requested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StepWhen {
    /// In its place of the ladder: the first when the incident opens, each further one when the one before has failed.
    #[default]
    Ladder,
    /// When the incident is over, because its alerts ended or a person decided.
    Resolved,
}

fn default_action_deadline() -> Duration {
    Duration::from_secs(300)
}

/// What follows an unknown outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnUnknownOutcome {
    /// The ladder stops and the incident fails: a person has to look.
    #[default]
    Stop,
    /// The next step of the ladder is requested, as after any other failure.
    Continue,
}

/// Who is told what, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!has(self.repeatInterval) || self.events.exists(e, e == 'Failed')", "repeatInterval: only a notification for Failed repeats"))]
pub struct RuleNotification {
    /// The channel to send to.
    pub channel_ref: LocalReference,
    /// Name of a built-in template, or of one that the channel defines.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Za-z][A-Za-z0-9]*$"))]
    pub template: String,
    /// What happens to the incident that this notification is for.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Set)]
    pub events: Vec<IncidentEvent>,
    /// A failed incident is told again after each such interval, until it is resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = within("repeatInterval", "1s", "168h"))]
    pub repeat_interval: Option<Duration>,
    /// How long after it was decided the message may still be sent.
    #[serde(default = "default_notification_deadline")]
    #[x_kube(validation = within("deadline", "1s", "24h"))]
    pub deadline: Duration,
}

fn default_notification_deadline() -> Duration {
    Duration::from_secs(3600)
}

/// What happens to an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum IncidentEvent {
    /// It opened.
    Opened,
    /// Its first action was requested.
    Mitigating,
    /// One of its actions failed, the last one too.
    ActionFailed,
    /// It was resolved.
    Resolved,
    /// Its ladder is at an end without success.
    Failed,
}

/// What EventPulse says about a rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleStatus {
    /// The generation that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: everything in the rule compiles and everything it refers to is there.
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
