//! Which rules an alert was tried on, and why each did or did not match. Pure: the rules are those of now, which is said.

use jiff::Timestamp;
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    api::v1alpha1::Rule,
    cli::reasons::meaning,
    compile::{self, Verdict},
    events::{AlertRaised, NamespacedName},
    rules::scope_of,
};

/// Why a rule does or does not match an alert. A closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RuleReason {
    /// Every matcher matches and every condition holds.
    Matches,
    /// It matches, and is suspended: nothing new begins.
    Suspended,
    /// It matches, and was created after the alert was accepted: it opens no incident for it.
    YoungerThanAlert,
    /// A condition has no value for this alert, like one that asks for a label which is missing.
    Undecided,
    /// Its labels match, and a condition does not hold.
    Condition,
    /// A matcher does not match the alert's labels.
    Matcher,
    /// The alert's `namespace` label is another namespace than the rule's.
    OtherNamespace,
    /// The rule cannot be used: its condition Ready says why.
    Broken,
}

/// One rule that was tried.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TriedRule {
    /// The rule.
    pub(super) rule: NamespacedName,
    /// Why it does or does not match.
    pub(super) reason: RuleReason,
    /// What that means.
    pub(super) meaning: String,
    /// Which matcher or condition, and what the alert says.
    pub(super) details: Vec<String>,
}

/// Tries every rule, those that match first, then those that nearly do.
pub(super) fn try_all(rules: &[Rule], raised: &AlertRaised, fingerprint: &str) -> Vec<TriedRule> {
    let mut tried: Vec<TriedRule> = rules.iter().map(|rule| try_one(rule, raised, fingerprint)).collect();
    tried.sort_by(|a, b| (a.reason, a.details.len(), &a.rule).cmp(&(b.reason, b.details.len(), &b.rule)));
    tried
}

fn try_one(rule: &Rule, raised: &AlertRaised, fingerprint: &str) -> TriedRule {
    let (reason, details) = match compile::compile(rule) {
        Err(errors) => (RuleReason::Broken, errors.iter().map(ToString::to_string).collect()),
        Ok(compiled) => {
            let verdict = compiled.verdict(&raised.labels, || scope_of(raised, fingerprint));
            (reason_of(&verdict, rule, raised.accepted_at), details_of(&verdict, rule))
        }
    };
    let rule = NamespacedName { namespace: rule.namespace().unwrap_or_default(), name: rule.name_any() };
    TriedRule { rule, reason, meaning: meaning(&reason), details }
}

fn reason_of(verdict: &Verdict, rule: &Rule, accepted_at: Timestamp) -> RuleReason {
    let younger = rule.creation_timestamp().is_some_and(|created| created.0 > accepted_at);
    match verdict {
        Verdict { other_namespace: Some(_), .. } => RuleReason::OtherNamespace,
        Verdict { mismatches, .. } if !mismatches.is_empty() => RuleReason::Matcher,
        Verdict { condition: Some(failed), .. } if failed.error.is_some() => RuleReason::Undecided,
        Verdict { condition: Some(_), .. } => RuleReason::Condition,
        _ if rule.spec.suspend => RuleReason::Suspended,
        _ if younger => RuleReason::YoungerThanAlert,
        _ => RuleReason::Matches,
    }
}

fn details_of(verdict: &Verdict, rule: &Rule) -> Vec<String> {
    let mut details: Vec<String> =
        verdict.other_namespace.iter().map(|namespace| format!("the alert belongs to namespace {namespace}")).collect();
    details.extend(verdict.mismatches.iter().map(|mismatch| match &mismatch.value {
        Some(value) => format!("{}: the label is {value:?}", mismatch.matcher),
        None => format!("{}: the alert has no such label", mismatch.matcher),
    }));
    if let Some(failed) = &verdict.condition {
        let name = failed.field.trim_start_matches("spec.match.conditions[").split(']').next().unwrap_or_default();
        let conditions = &rule.spec.r#match.conditions;
        let text = conditions.iter().find(|condition| condition.name == name).map_or("", |found| &found.expression);
        details.push(match &failed.error {
            None => format!("condition {name} is false: {text}"),
            Some(error) => format!("condition {name} has no value ({}): {text}", error.problem),
        });
    }
    details
}
