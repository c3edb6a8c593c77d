//! What is wrong with a Rule.

use super::{Problem, Referent, RuleReferences, check_parameter, unready};
use crate::{
    api::v1alpha1::{Rule, RuleAction, Runbook},
    config_status::reason,
    expression::{Condition, ExpressionError, Scope, Template, Variable},
    matcher, template,
};

const ALERT: &[Variable] = &[Variable::Alert];
/// The longest name of a resource.
const NAME_LEN_MAX: usize = 253;
/// The longest value of a parameter.
const PARAMETER_LEN_MAX: usize = 1024;

/// Everything that is wrong with the rule, in the order of its fields.
pub(in crate::config_status) fn rule(rule: &Rule, references: &RuleReferences) -> Vec<Problem> {
    let spec = &rule.spec;
    let mut problems = Vec::new();
    for (index, text) in spec.r#match.matchers.iter().enumerate() {
        if let Err(error) = matcher::parse(text) {
            problems.push(Problem::new(
                format!("spec.match.matchers[{index}]"),
                reason::INVALID_MATCHER,
                error.to_string(),
            ));
        }
    }
    for (index, condition) in spec.r#match.conditions.iter().enumerate() {
        let field = format!("spec.match.conditions[{index}].expression");
        problems.extend(Condition::compile(&field, &condition.expression, ALERT).err().map(Problem::expression));
    }
    for (field, text) in
        [("spec.incident.severity", &spec.incident.severity), ("spec.incident.summary", &spec.incident.summary)]
    {
        problems.extend(Template::compile(field, text, ALERT).err().map(Problem::expression));
    }
    for (index, action) in spec.actions.iter().enumerate() {
        step(action, &format!("spec.actions[{index}]"), references, &mut problems);
    }
    notifications(rule, references, &mut problems);
    problems
}

fn step(action: &RuleAction, at: &str, references: &RuleReferences, problems: &mut Vec<Problem>) {
    let name = &action.runbook_ref.name;
    let runbook = match references.runbooks.get(name) {
        Some(Referent::Found(runbook)) => Some(runbook.as_ref()),
        Some(Referent::Malformed) => {
            let message = format!("the Runbook {name} cannot be read");
            problems.push(Problem::new(format!("{at}.runbookRef"), reason::RUNBOOK_NOT_READY, message));
            None
        }
        Some(Referent::Missing) | None => {
            let message = format!("there is no Runbook {name} in this namespace");
            problems.push(Problem::new(format!("{at}.runbookRef"), reason::RUNBOOK_NOT_FOUND, message));
            None
        }
    };
    target(action, at, runbook, problems);
    let Some(runbook) = runbook else { return };
    let conditions = runbook.status.as_ref().map_or(&[][..], |status| &status.conditions);
    if let Some(why) = unready(conditions, runbook.metadata.generation) {
        let message = format!("the Runbook {name} is not ready: {why}");
        problems.push(Problem::new(format!("{at}.runbookRef"), reason::RUNBOOK_NOT_READY, message));
    }
    parameters(action, at, runbook, problems);
}

fn target(action: &RuleAction, at: &str, runbook: Option<&Runbook>, problems: &mut Vec<Problem>) {
    let target = &action.target_ref;
    let field = format!("{at}.targetRef.name");
    match Template::compile(&field, &target.name, ALERT) {
        Err(error) => problems.push(Problem::expression(error)),
        Ok(name) if name.is_constant() => match name.render(&Scope::default(), NAME_LEN_MAX) {
            Ok(name) if is_resource_name(&name) => {}
            _ => problems.push(Problem::new(
                field,
                reason::INVALID_TARGET,
                format!("{:?} is no name of a resource", target.name),
            )),
        },
        Ok(_) => {}
    }
    for step in runbook.into_iter().flat_map(|runbook| &runbook.spec.steps) {
        if !step.r#type.acts_on(&target.api_version, &target.kind) {
            let message = format!(
                "the Runbook {} ({:?}) cannot act on {} {}; it acts on apps/v1 Deployment",
                action.runbook_ref.name, step.r#type, target.api_version, target.kind
            );
            problems.push(Problem::new(format!("{at}.targetRef.kind"), reason::UNSUPPORTED_TARGET, message));
        }
    }
}

fn parameters(action: &RuleAction, at: &str, runbook: &Runbook, problems: &mut Vec<Problem>) {
    for (index, given) in action.parameters.iter().enumerate() {
        let field = format!("{at}.parameters[{index}]");
        let value = match Template::compile(&format!("{field}.value"), &given.value, ALERT) {
            Ok(value) => value,
            Err(error) => {
                problems.push(Problem::expression(error));
                continue;
            }
        };
        let Some(parameter) = runbook.spec.parameters.iter().find(|parameter| parameter.name == given.name) else {
            let message = format!("the Runbook {} has no parameter {}", action.runbook_ref.name, given.name);
            problems.push(Problem::new(format!("{field}.name"), reason::UNKNOWN_PARAMETER, message));
            continue;
        };
        if !value.is_constant() {
            continue;
        }
        let checked = value
            .render(&Scope::default(), PARAMETER_LEN_MAX)
            .map_err(|error: ExpressionError| error.problem)
            .and_then(|value| check_parameter(parameter, &value));
        if let Err(message) = checked {
            problems.push(Problem::new(format!("{field}.value"), reason::INVALID_PARAMETER, message));
        }
    }
    for parameter in runbook.spec.parameters.iter().filter(|parameter| parameter.default.is_none()) {
        if !action.parameters.iter().any(|given| given.name == parameter.name) {
            let message = format!("the Runbook {} needs the parameter {}", action.runbook_ref.name, parameter.name);
            problems.push(Problem::new(format!("{at}.parameters"), reason::MISSING_PARAMETER, message));
        }
    }
}

fn notifications(rule: &Rule, references: &RuleReferences, problems: &mut Vec<Problem>) {
    let all = &rule.spec.notifications;
    for (index, notification) in all.iter().enumerate() {
        let at = format!("spec.notifications[{index}]");
        let name = &notification.channel_ref.name;
        match references.channels.get(name) {
            Some(Referent::Found(channel)) => {
                let conditions = channel.status.as_ref().map_or(&[][..], |status| &status.conditions);
                if let Some(why) = unready(conditions, channel.metadata.generation) {
                    let message = format!("the NotificationChannel {name} is not ready: {why}");
                    problems.push(Problem::new(format!("{at}.channelRef"), reason::CHANNEL_NOT_READY, message));
                }
                let own = channel.spec.templates.iter().any(|template| template.name == notification.template);
                if !own && !template::BUILT_IN.contains(&notification.template.as_str()) {
                    let message = format!(
                        "the NotificationChannel {name} has no template {}; built in are {}",
                        notification.template,
                        template::BUILT_IN.join(", ")
                    );
                    problems.push(Problem::new(format!("{at}.template"), reason::TEMPLATE_NOT_FOUND, message));
                }
            }
            Some(Referent::Malformed) => {
                let message = format!("the NotificationChannel {name} cannot be read");
                problems.push(Problem::new(format!("{at}.channelRef"), reason::CHANNEL_NOT_READY, message));
            }
            Some(Referent::Missing) | None => {
                let message = format!("there is no NotificationChannel {name} in this namespace");
                problems.push(Problem::new(format!("{at}.channelRef"), reason::CHANNEL_NOT_FOUND, message));
            }
        }
        // Promise 4: one notification for each (incident, channel, template, occurrence), so the second would never be sent.
        let same = all[..index].iter().position(|before| {
            before.channel_ref == notification.channel_ref
                && before.template == notification.template
                && before.events.iter().any(|event| notification.events.contains(event))
        });
        if let Some(before) = same {
            let message =
                format!("says the same as spec.notifications[{before}]: channel, template and an event are the same");
            problems.push(Problem::new(at, reason::DUPLICATE_NOTIFICATION, message));
        }
    }
}

/// RFC 1123 subdomain.
fn is_resource_name(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let label = |part: &str| {
        edge(part.chars().next())
            && edge(part.chars().last())
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    name.split('.').all(label)
}
