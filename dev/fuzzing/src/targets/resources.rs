//! What people write: a Rule, a Runbook or a NotificationChannel is taken, or every mistake in it is told by its field; what is taken can
//! be used for every alert and every request.

use eventpulse::{
    actions::resolve::resolve,
    api::v1alpha1::{NotificationChannel, ParameterValue, Rule, Runbook},
    compile::{FieldError, addresses, compile, one_line},
    rules::{RuleSet, scope_of},
    template,
};
use serde_json::Value;

use crate::check::{example_alert, is_kept, is_told, raised};

/// The most characters of what is said about a field.
const TOLD_MAX: usize = 16 * 1024;

pub(crate) fn resource(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(value) = serde_norway::from_str::<Value>(text) else { return };
    match value["kind"].as_str() {
        Some("Rule") => serde_json::from_value(value).iter().for_each(rule),
        Some("Runbook") => serde_json::from_value(value).iter().for_each(runbook),
        Some("NotificationChannel") => serde_json::from_value(value).iter().for_each(channel),
        _ => {}
    }
}

fn are_told(errors: &[FieldError]) {
    assert!(!errors.is_empty(), "a mistake that is not told");
    for error in errors {
        is_told(error, TOLD_MAX);
        assert!(error.field.starts_with("spec") || error.field.starts_with("metadata"), "{error} names no field");
    }
}

fn rule(rule: &Rule) {
    is_kept(rule);
    let compiled = match compile(rule) {
        Ok(compiled) => std::sync::Arc::new(compiled),
        Err(errors) => return are_told(&errors),
    };
    let alert = raised(example_alert(), "x");
    let (labels, scope) = (&alert.alert.labels, || scope_of(&alert.alert, &alert.fingerprint));
    // The index finds a rule exactly where it says itself that it matches.
    let found = RuleSet::new(vec![std::sync::Arc::clone(&compiled)]).matches(&alert.alert, &alert.fingerprint);
    let verdict = compiled.verdict(labels, scope);
    let is_undecided = verdict.condition.as_ref().is_some_and(|condition| condition.error.is_some());
    assert_eq!(!found.is_empty(), verdict.matches() || is_undecided, "{verdict:?} is not what the index says");
    let planned = compiled.plan(&scope(), labels);
    match planned {
        Err(error) => is_told(&error, TOLD_MAX),
        Ok(plan) => {
            is_kept(&plan.rule);
            let again = compiled.plan(&scope(), labels).expect("the same facts, another plan");
            assert_eq!(
                (&plan.severity, &plan.summary),
                (&again.severity, &again.summary),
                "the same facts, another text"
            );
            assert_eq!(plan.rule, again.rule, "the same facts, another plan");
            let is_line = |text: &str| !text.trim().is_empty() && !text.contains(char::is_control);
            assert!(is_line(&plan.severity) && is_line(&plan.summary), "{:?} {:?}", plan.severity, plan.summary);
            assert!(plan.severity.len() <= 128 && plan.summary.len() <= 1024);
            let steps = plan.rule.ladder.iter().chain(&plan.rule.on_resolved);
            for name in steps.map(|step| step.target.name.as_str()) {
                let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
                assert!(
                    !name.is_empty() && name.len() <= 253 && name.chars().all(fits),
                    "{name:?} would change a path"
                );
            }
            let line = one_line(&plan.summary, 64);
            assert!(line.len() <= 64 && plan.summary.starts_with(&line), "{line:?}");
        }
    }
    is_kept(&compiled.storm_plan(10).rule);
}

fn runbook(runbook: &Runbook) {
    is_kept(runbook);
    let declared = runbook.spec.parameters.iter();
    let given = |value: &str| -> Vec<ParameterValue> {
        declared.clone().map(|parameter| ParameterValue { name: parameter.name.clone(), value: value.into() }).collect()
    };
    for given in [Vec::new(), given("1"), given("-9223372036854775808"), given("$(params.x)")] {
        match resolve(runbook, &given) {
            Ok(snapshot) => {
                is_kept(&snapshot);
                let scale = snapshot.scale.unwrap_or_default();
                assert!(scale.delta != Some(0) && scale.replicas.is_none_or(|replicas| replicas >= 0), "{scale:?}");
            }
            Err(unfit) => is_told(&unfit, TOLD_MAX),
        }
    }
}

fn channel(channel: &NotificationChannel) {
    is_kept(channel);
    if let Some(email) = &channel.spec.email {
        match addresses(email) {
            Err(errors) => are_told(&errors),
            Ok(addresses) => {
                assert!(!addresses.to.is_empty(), "a mail to nobody");
                for mailbox in addresses.to.iter().chain(&addresses.cc).chain([&addresses.from]) {
                    let text = mailbox.to_string();
                    assert!(!text.contains(char::is_control), "{text:?} may end a header");
                    assert!(mailbox.email.to_string().is_ascii(), "{text:?}");
                }
            }
        }
    }
    for own in &channel.spec.templates {
        for text in [Some(own.title.as_str()), own.body.as_deref()].into_iter().flatten() {
            if let Err(error) = template::check(text) {
                is_told(&error, TOLD_MAX);
                assert!((1..=text.lines().count().max(1) + 1).contains(&error.line), "{error} of {text:?}");
            }
        }
    }
}
