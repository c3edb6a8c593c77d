//! A Rule, checked and compiled once. After this nobody touches the raw spec. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kube::ResourceExt;

use super::one_line;
use crate::{
    api::v1alpha1::{
        Duration, IncidentEvent, LabelValues, LadderStep, OnUnknownOutcome, ParameterValue, ResolveOn, Rule,
        RuleAction, RuleSnapshot, SnapshotNotification, StepWhen, TargetReference,
    },
    events::{CorrelationId, NamespacedName},
    expression::{COST_MAX, Condition, ExpressionError, Scope, Template, Variable},
    matcher::{self, Matcher},
};

/// The most characters of a rule's name: incidents are named after it.
pub const RULE_NAME_MAX: usize = 40;
const SEVERITY_MAX: usize = 128;
const SUMMARY_MAX: usize = 1024;
const NAME_MAX: usize = 253;
/// Of a storm's incident: while it lasts, alerts have no effect.
const STORM_SEVERITY: &str = "critical";
const PARAMETER_MAX: usize = 1024;
/// The most bytes of one value of a groupBy label in the group's resource.
pub const GROUP_VALUE_MAX: usize = 256;
/// The most bytes of all parameters of a ladder together: the group that remembers them has a bound (promise 6).
const PARAMETERS_MAX: usize = 16 * 1024;
/// The label that says which tenant an alert belongs to.
const LABEL_NAMESPACE: &str = "namespace";

/// What is wrong with one field of a Rule or a NotificationChannel, for its `Ready` condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// The field, like `spec.match.matchers[0]`.
    pub field: String,
    /// What kind of thing is wrong.
    pub kind: FieldErrorKind,
    /// What is wrong with it.
    pub message: String,
}

/// What kind of thing is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// What the schema refuses too; seen only where an older one is installed.
    Schema,
    /// A matcher does not parse.
    Matcher,
    /// An expression does not compile.
    Expression,
    /// A constant target is no name of a resource.
    Target,
    /// An address is none that mail can be sent to, or a host name is none.
    Address,
}

impl From<ExpressionError> for FieldError {
    fn from(error: ExpressionError) -> Self {
        let message = format!("at character {}: {}", error.position, error.problem);
        Self { field: error.field, kind: FieldErrorKind::Expression, message }
    }
}

/// A rule that can be used.
#[derive(Debug)]
pub struct CompiledRule {
    /// Its namespace and name.
    pub name: NamespacedName,
    /// Alerts that were accepted before do not open an incident.
    pub created_at: Timestamp,
    /// Whether nothing new may begin.
    pub suspended: bool,
    /// How old an accepted alert may be to open an incident.
    pub accept_window: Duration,
    /// How long an alert without an end of its own is believed.
    pub expire_after: Duration,
    uid: String,
    generation: i64,
    matchers: Vec<Matcher>,
    conditions: Vec<Condition>,
    group_by: Vec<String>,
    severity: Template,
    summary: Template,
    resolve_on: ResolveOn,
    cooldown: Duration,
    ladder: Vec<CompiledStep>,
    on_resolved: Vec<CompiledStep>,
    notifications: Vec<SnapshotNotification>,
}

#[derive(Debug)]
struct CompiledStep {
    name: String,
    runbook: String,
    api_version: String,
    kind: String,
    target: Template,
    parameters: Vec<(String, Template)>,
    deadline: Duration,
    on_unknown_outcome: OnUnknownOutcome,
    when: StepWhen,
    undoes: Option<String>,
}

/// Why a rule does or does not match an alert.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The namespace that the alert belongs to, where it is another one's.
    pub other_namespace: Option<String>,
    /// The matchers that do not match.
    pub mismatches: Vec<Mismatch>,
    /// The first condition that does not hold.
    pub condition: Option<FailedCondition>,
}

impl Verdict {
    /// Whether nothing speaks against it.
    pub fn matches(&self) -> bool {
        self.other_namespace.is_none() && self.mismatches.is_empty() && self.condition.is_none()
    }
}

/// A matcher that an alert does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The matcher, as Alertmanager writes it.
    pub matcher: String,
    /// The label's value; none where the alert has no such label.
    pub value: Option<String>,
}

/// A condition that does not hold.
#[derive(Clone, Debug, PartialEq)]
pub struct FailedCondition {
    /// The field that it stands in.
    pub field: String,
    /// Why it has no value; none where it is false.
    pub error: Option<ExpressionError>,
}

/// What an incident is opened with: the rule as it is now, with every expression computed for one alert.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// How bad it is.
    pub severity: String,
    /// One line for people.
    pub summary: String,
    /// The rest of the rule.
    pub rule: RuleSnapshot,
    /// What could not be computed and was replaced, because only people read it.
    pub note: String,
}

/// Compiles a rule, or says everything that is wrong with it.
pub fn compile(rule: &Rule) -> Result<CompiledRule, Vec<FieldError>> {
    let mut errors = Errors::default();
    let spec = &rule.spec;
    let name = NamespacedName { namespace: rule.namespace().unwrap_or_default(), name: rule.name_any() };
    errors.require(name.name.chars().count() <= RULE_NAME_MAX, "metadata.name", || {
        format!("at most {RULE_NAME_MAX} characters, because incidents are named after the rule")
    });
    let alert = &[Variable::Alert];
    let mut matchers = Vec::new();
    for (index, text) in spec.r#match.matchers.iter().enumerate() {
        match matcher::parse(text) {
            Ok(parsed) => matchers.extend(parsed),
            Err(error) => {
                errors.add(format!("spec.match.matchers[{index}]"), FieldErrorKind::Matcher, error.to_string())
            }
        }
    }
    let conditions: Vec<Condition> = spec
        .r#match
        .conditions
        .iter()
        .filter_map(|condition| {
            let field = format!("spec.match.conditions[{}].expression", condition.name);
            errors.keep(Condition::compile(&field, &condition.expression, alert))
        })
        .collect();
    errors.require(!spec.r#match.matchers.is_empty() || !spec.r#match.conditions.is_empty(), "spec.match", || {
        "at least one matcher or condition is needed".into()
    });
    let severity = errors.keep(Template::compile("spec.incident.severity", &spec.incident.severity, alert));
    let summary = errors.keep(Template::compile("spec.incident.summary", &spec.incident.summary, alert));
    let steps: Vec<CompiledStep> = spec.actions.iter().filter_map(|action| compile_step(action, &mut errors)).collect();
    check_undoing(rule, &mut errors);
    let names: BTreeSet<&str> = spec.actions.iter().map(|action| action.name.as_str()).collect();
    errors.require(names.len() == spec.actions.len(), "spec.actions", || "two steps have the same name".into());
    let templates = steps.iter().flat_map(CompiledStep::templates).chain(&severity).chain(&summary);
    errors.bound_cost(conditions.iter().map(Condition::cost).chain(templates.map(Template::cost)));
    let notifications = spec.notifications.iter().map(|notification| SnapshotNotification {
        channel: notification.channel_ref.name.clone(),
        template: notification.template.clone(),
        events: notification.events.clone(),
        repeat_interval: notification.repeat_interval,
        deadline: notification.deadline,
    });
    let (Some(severity), Some(summary), true) = (severity, summary, errors.0.is_empty()) else {
        return Err(errors.0);
    };
    let (ladder, on_resolved) = steps.into_iter().partition(|step| step.when == StepWhen::Ladder);
    Ok(CompiledRule {
        name,
        created_at: rule.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        suspended: spec.suspend,
        accept_window: spec.accept_window,
        expire_after: spec.expire_after,
        uid: rule.uid().unwrap_or_default(),
        generation: rule.metadata.generation.unwrap_or_default(),
        matchers,
        conditions,
        group_by: spec.group_by.clone(),
        severity,
        summary,
        resolve_on: spec.incident.resolve_on,
        cooldown: spec.cooldown,
        ladder,
        on_resolved,
        notifications: notifications.collect(),
    })
}

fn compile_step(action: &RuleAction, errors: &mut Errors) -> Option<CompiledStep> {
    let at = format!("spec.actions[{}]", action.name);
    let alert = &[Variable::Alert];
    let target_field = format!("{at}.targetRef.name");
    let target = errors.keep(Template::compile(&target_field, &action.target_ref.name, alert));
    if let Some(target) = &target
        && target.is_constant()
        && let Err(error) = target_name(target, &Scope::default())
    {
        errors.add(error.field, FieldErrorKind::Target, error.problem);
    }
    let parameters: Vec<(String, Template)> = action
        .parameters
        .iter()
        .filter_map(|parameter| {
            let field = format!("{at}.parameters[{}].value", parameter.name);
            let value = errors.keep(Template::compile(&field, &parameter.value, alert))?;
            Some((parameter.name.clone(), value))
        })
        .collect();
    Some(CompiledStep {
        name: action.name.clone(),
        runbook: action.runbook_ref.name.clone(),
        api_version: action.target_ref.api_version.clone(),
        kind: action.target_ref.kind.clone(),
        target: target?,
        parameters,
        deadline: action.deadline,
        on_unknown_outcome: action.on_unknown_outcome,
        when: action.when,
        undoes: action.undoes.clone(),
    })
}

/// What the schema says of steps that take back others, and one thing that it does not: within the ladder the other one stands before.
fn check_undoing(rule: &Rule, errors: &mut Errors) {
    let actions = &rule.spec.actions;
    for (index, action) in actions.iter().enumerate() {
        let field = format!("spec.actions[{}].undoes", action.name);
        let Some(name) = &action.undoes else {
            let message = || "a step for Resolved needs undoes".into();
            errors.require(action.when == StepWhen::Ladder, &format!("spec.actions[{}].when", action.name), message);
            continue;
        };
        let undone = actions.iter().position(|other| &other.name == name);
        let fits = undone.is_some_and(|at| {
            let other = &actions[at];
            let earlier = at < index || action.when == StepWhen::Resolved;
            earlier && at != index && other.undoes.is_none() && other.when == StepWhen::Ladder
        });
        errors.require(fits, &field, || format!("{name} is no earlier step of the ladder that itself undoes none"));
        let same = undone.is_none_or(|at| actions[at].target_ref == action.target_ref);
        errors.require(same, &field, || format!("the targetRef must be that of {name}"));
    }
    let waits = rule.spec.incident.resolve_on == ResolveOn::AlertResolved;
    let none = actions.iter().all(|action| action.when == StepWhen::Ladder);
    errors.require(waits || none, "spec.incident.resolveOn", || {
        "a step for Resolved needs AlertResolved: with ActionCompleted it would take back at once what has just been done".into()
    });
}

#[derive(Default)]
struct Errors(Vec<FieldError>);

impl Errors {
    fn add(&mut self, field: impl Into<String>, kind: FieldErrorKind, message: String) {
        self.0.push(FieldError { field: field.into(), kind, message });
    }

    fn require(&mut self, holds: bool, field: &str, message: impl FnOnce() -> String) {
        if !holds {
            self.add(field, FieldErrorKind::Schema, message());
        }
    }

    /// What a rule may cost for one alert is bounded as a whole: each expression alone is bounded already.
    fn bound_cost(&mut self, costs: impl Iterator<Item = u64>) {
        let cost = costs.fold(0, u64::saturating_add);
        if cost > COST_MAX {
            let message =
                format!("all expressions together may cost {cost} steps for one alert, at most {COST_MAX} are allowed");
            self.add("spec", FieldErrorKind::Expression, message);
        }
    }

    fn keep<T>(&mut self, result: Result<T, ExpressionError>) -> Option<T> {
        result.map_err(|error| self.0.push(error.into())).ok()
    }
}

impl CompiledRule {
    /// The matchers that an alert's labels must all match.
    pub fn matchers(&self) -> &[Matcher] {
        &self.matchers
    }

    /// Whether there are conditions, which need a [`Scope`].
    pub fn has_conditions(&self) -> bool {
        !self.conditions.is_empty()
    }

    /// Whether the labels match, and belong to the rule's tenant: its own namespace, or none.
    pub fn matches_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let namespace = labels.get(LABEL_NAMESPACE).map_or("", String::as_str);
        (namespace.is_empty() || namespace == self.name.namespace)
            && self.matchers.iter().all(|matcher| matcher.matches(labels))
    }

    /// Why the rule does or does not match an alert, in full: what [`CompiledRule::matches_labels`] and
    /// [`CompiledRule::conditions_hold`] decide, for people. Conditions are asked only where the labels match, as then.
    pub fn verdict(&self, labels: &BTreeMap<String, String>, scope: impl FnOnce() -> Scope) -> Verdict {
        let tenant = labels.get(LABEL_NAMESPACE).map_or("", String::as_str);
        let value = |matcher: &Matcher| labels.get(matcher.name()).cloned();
        let mut verdict = Verdict {
            other_namespace: (!tenant.is_empty() && tenant != self.name.namespace).then(|| tenant.to_owned()),
            mismatches: self
                .matchers
                .iter()
                .filter(|matcher| !matcher.matches(labels))
                .map(|matcher| Mismatch { matcher: matcher.to_string(), value: value(matcher) })
                .collect(),
            condition: None,
        };
        if verdict.matches() && self.has_conditions() {
            let scope = scope();
            let failed = |condition: &Condition| match condition.holds(&scope) {
                Ok(true) => None,
                Ok(false) => Some(FailedCondition { field: condition.field().to_owned(), error: None }),
                Err(error) => Some(FailedCondition { field: condition.field().to_owned(), error: Some(error) }),
            };
            verdict.condition = self.conditions.iter().find_map(failed);
        }
        verdict
    }

    /// Whether every condition holds for these facts. The first one that has no value is the error.
    pub fn conditions_hold(&self, scope: &Scope) -> Result<bool, ExpressionError> {
        for condition in &self.conditions {
            if !condition.holds(scope)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The group that an alert belongs to, with the labels that make it (design, section 3).
    pub fn group_of(&self, labels: &BTreeMap<String, String>, fingerprint: &str) -> (CorrelationId, LabelValues) {
        let value = |name: &String| labels.get(name).map_or("", String::as_str);
        let values: Vec<&str> =
            if self.group_by.is_empty() { vec![fingerprint] } else { self.group_by.iter().map(value).collect() };
        // The id is made of the whole values; these are for people.
        let group = self.group_by.iter().map(|name| (name.clone(), one_line(value(name), GROUP_VALUE_MAX))).collect();
        (CorrelationId::new(&self.name.namespace, &self.name.name, &values), group)
    }

    /// The rule as it is now, with every expression computed. What is done must be computed exactly, so an error there is an
    /// error; what only people read is replaced, because a missing annotation must not keep an incident from opening.
    pub fn plan(&self, scope: &Scope, labels: &BTreeMap<String, String>) -> Result<Plan, ExpressionError> {
        let ladder = self.ladder.iter().map(|step| step.plan(scope)).collect::<Result<Vec<_>, _>>()?;
        let on_resolved = self.on_resolved.iter().map(|step| step.plan(scope)).collect::<Result<Vec<_>, _>>()?;
        let steps = ladder.iter().chain(&on_resolved);
        let size: usize = steps.flat_map(|step| &step.parameters).map(|p| p.name.len() + p.value.len()).sum();
        if size > PARAMETERS_MAX {
            let problem = format!("the parameters of all steps are more than {PARAMETERS_MAX} bytes together");
            return Err(ExpressionError { field: "spec.actions".into(), position: 1, problem });
        }
        let mut note = String::new();
        let severity = self.severity_or(scope, labels, &mut note);
        let summary = or_label(&self.summary, SUMMARY_MAX, scope, labels.get("alertname"), &self.name.name, &mut note);
        let rule = RuleSnapshot {
            uid: self.uid.clone(),
            generation: self.generation,
            resolve_on: self.resolve_on,
            ladder,
            on_resolved,
            notifications: self.notifications.clone(),
            cooldown: self.cooldown,
            expire_after: self.expire_after,
        };
        Ok(Plan { severity, summary, rule, note })
    }
}

impl CompiledRule {
    /// The severity of an incident that this alert would open.
    pub fn severity(&self, scope: &Scope, labels: &BTreeMap<String, String>) -> String {
        self.severity_or(scope, labels, &mut String::new())
    }

    fn severity_or(&self, scope: &Scope, labels: &BTreeMap<String, String>, note: &mut String) -> String {
        or_label(&self.severity, SEVERITY_MAX, scope, labels.get("severity"), "none", note)
    }

    /// What its storm's incident is opened with, beyond so many open groups: no alert, no action, one message for its beginning and one
    /// for its end to each channel of the rule.
    pub fn storm_plan(&self, threshold: usize) -> Plan {
        let mut notifications: Vec<SnapshotNotification> = Vec::new();
        for known in &self.notifications {
            if notifications.iter().any(|told| told.channel == known.channel) {
                continue;
            }
            for (template, event) in
                [("IncidentOpened", IncidentEvent::Opened), ("IncidentResolved", IncidentEvent::Resolved)]
            {
                notifications.push(SnapshotNotification {
                    channel: known.channel.clone(),
                    template: template.into(),
                    events: vec![event],
                    repeat_interval: None,
                    deadline: known.deadline,
                });
            }
        }
        let rule = RuleSnapshot {
            uid: self.uid.clone(),
            generation: self.generation,
            resolve_on: ResolveOn::AlertResolved,
            ladder: Vec::new(),
            on_resolved: Vec::new(),
            notifications,
            cooldown: Duration::default(),
            expire_after: self.expire_after,
        };
        let summary = format!(
            "Storm: {threshold} incidents of rule {} are open at once; its further alerts open none until fewer are",
            self.name.name
        );
        Plan { severity: STORM_SEVERITY.into(), summary, rule, note: String::new() }
    }
}

/// One line; the alert's own label where the template fails, which `note` tells then.
fn or_label(
    template: &Template,
    max: usize,
    scope: &Scope,
    label: Option<&String>,
    otherwise: &str,
    note: &mut String,
) -> String {
    let text = template.render_cut(scope, max).unwrap_or_else(|error| {
        *note = error.to_string();
        label.cloned().unwrap_or_default()
    });
    let line = one_line(text.trim(), max);
    if line.trim().is_empty() { otherwise.to_owned() } else { line }
}

impl CompiledStep {
    fn templates(&self) -> impl Iterator<Item = &Template> {
        self.parameters.iter().map(|(_, value)| value).chain([&self.target])
    }

    fn plan(&self, scope: &Scope) -> Result<LadderStep, ExpressionError> {
        let parameters = self
            .parameters
            .iter()
            .map(|(name, value)| Ok(ParameterValue { name: name.clone(), value: value.render(scope, PARAMETER_MAX)? }))
            .collect::<Result<Vec<_>, ExpressionError>>()?;
        Ok(LadderStep {
            name: self.name.clone(),
            runbook: self.runbook.clone(),
            target: TargetReference {
                api_version: self.api_version.clone(),
                kind: self.kind.clone(),
                name: target_name(&self.target, scope)?,
            },
            parameters,
            deadline: self.deadline,
            on_unknown_outcome: self.on_unknown_outcome,
            undoes: self.undoes.clone(),
        })
    }
}

/// A target's name comes from a label, which anybody may have written: it must be a resource's name (RFC 1123 subdomain).
fn target_name(template: &Template, scope: &Scope) -> Result<String, ExpressionError> {
    let name = template.render(scope, NAME_MAX)?;
    let label = |part: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(part.chars().next())
            && edge(part.chars().last())
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    if name.split('.').all(label) {
        Ok(name)
    } else {
        let shown: String = name.chars().take(80).collect();
        Err(template.error(format!("gives {shown:?}, which is no name of a resource")))
    }
}
