//! The reasons: every word that EventPulse gives as a cause is of a closed list, and documented. The sentences are the documentation
//! of the types, so that code and text cannot differ.

use std::fmt::Write as _;

use schemars::{JsonSchema, schema_for};
use serde::Serialize;
use serde_json::Value;

use crate::{
    api::v1alpha1::{ActionPhase, NotificationPhase, PlanOutcome},
    cli::explain::RuleReason,
    events::{ActionFailureReason, DeadLetterReason, DecisionReason, ResolvedReason},
    incidents::reason::ConditionReason,
    runtime::kube_events,
};

/// One closed list.
struct List {
    title: &'static str,
    intro: &'static str,
    reasons: Vec<(String, String)>,
}

fn lists() -> Vec<List> {
    let list = |title, intro, reasons| List { title, intro, reasons };
    vec![
        list(
            "What became of an alert",
            "`reason` on the topic alert.decided, the ledger: one for each rule that an alert matched, or one where none did.",
            described::<DecisionReason>(),
        ),
        list(
            "Why a rule did or did not match",
            "`reason` of a rule in `eventpulse explain`.",
            described::<RuleReason>(),
        ),
        list(
            "Why an action did not take effect",
            "`reason` on action.failed, and of an action in its Incident. `status.reason` of an Action, and of its condition `Completed`, is the same \
             word with a capital letter, as Kubernetes has it: `OutcomeUnknown`.",
            described::<ActionFailureReason>(),
        ),
        list(
            "What became of one plan of an action",
            "`outcome` in `status.plans` of an Action.",
            described::<PlanOutcome>(),
        ),
        list("Where an action is", "`status.phase` of an Action.", described::<ActionPhase>()),
        list("Where a message is", "`spec.phase` of a Notification.", described::<NotificationPhase>()),
        list("Why an incident is over", "`reason` on incident.resolved.", described::<ResolvedReason>()),
        list(
            "Why a condition of an incident is as it is",
            "`reason` of the conditions `Resolved`, `Acknowledged` and `Failed` of an Incident.",
            described::<ConditionReason>(),
        ),
        list(
            "What Kubernetes Events tell",
            "`reason` of an Event, as `kubectl describe` shows it on the target or the Incident; its note says the rest.",
            described::<kube_events::Reason>(),
        ),
        list("Why something is a dead letter", "`reason` on dead.letter.", described::<DeadLetterReason>()),
    ]
}

/// Every member of an enum with its documentation, from its JSON Schema.
fn described<T: JsonSchema>() -> Vec<(String, String)> {
    let schema = schema_for!(T).to_value();
    let members = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    let text = |member: &Value, key: &str| member.get(key).and_then(Value::as_str).map(one_line);
    members
        .filter_map(|member| Some((text(member, "const")?, text(member, "description").unwrap_or_default())))
        .collect()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a reason means, in one sentence.
pub fn meaning<T: JsonSchema + Serialize>(reason: &T) -> String {
    let word = word(reason);
    described::<T>().into_iter().find(|(found, _)| *found == word).map(|(_, meaning)| meaning).unwrap_or_default()
}

/// Every word of a list.
pub fn words<T: JsonSchema>() -> Vec<String> {
    described::<T>().into_iter().map(|(word, _)| word).collect()
}

/// A reason as it is written.
pub fn word<T: Serialize>(reason: &T) -> String {
    // A unit variant is a text.
    serde_json::to_value(reason).ok().as_ref().and_then(Value::as_str).map(str::to_owned).unwrap_or_default()
}

/// `docs/reasons.md`.
pub fn document() -> String {
    let mut text = String::from(
        "# Reasons\n\n<!-- Made by `make generate` from the documentation of the types; see src/cli/reasons.rs. -->\n\n\
         Whatever EventPulse gives as a reason is one word of a closed list. `eventpulse explain` prints it with its meaning; the \
         conditions of Rules, Runbooks and NotificationChannels have [a list of their own](resources/conditions.md).\n",
    );
    for List { title, intro, reasons } in lists() {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n## {title}\n\n{intro}\n\n| reason | meaning |\n|---|---|\n");
        for (reason, meaning) in reasons {
            let _ = writeln!(text, "| `{reason}` | {} |", meaning.replace('|', "\\|"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_every_list_says_what_it_means() {
        for List { title, reasons, .. } in lists() {
            assert!(reasons.len() >= 2, "{title}: {reasons:?}");
            assert!(reasons.iter().all(|(_, meaning)| meaning.len() > 5), "{title}: {reasons:?}");
        }
        assert_eq!(meaning(&DecisionReason::Opened), "It opened an incident.");
        assert_eq!(word(&ActionFailureReason::OutcomeUnknown), "outcomeUnknown");
        let listed: Vec<String> = described::<kube_events::Reason>().into_iter().map(|(reason, _)| reason).collect();
        assert_eq!(listed, kube_events::Reason::ALL.map(kube_events::Reason::name), "as they stand in Events");
    }
}
