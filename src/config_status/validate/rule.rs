//! What is wrong with a Rule.

use super::{Problem, Referent, RuleReferences, check_parameter, unready};
use crate::{
    api::v1alpha1::{Fitness, Rule, RuleAction, Runbook, StepType},
    compile::compile,
    config_status::reason,
    expression::{Scope, Template, Variable},
    template,
};

const ALERT: &[Variable] = &[Variable::Alert];
/// The longest value of a parameter.
const PARAMETER_LEN_MAX: usize = 1024;

/// Everything that is wrong with the rule, what does not compile first.
pub(in crate::config_status) fn rule(rule: &Rule, references: &RuleReferences) -> Vec<Problem> {
    let mut problems: Vec<Problem> = compile(rule).err().into_iter().flatten().map(Problem::field).collect();
    for action in &rule.spec.actions {
        step(rule, action, &format!("spec.actions[{}]", action.name), references, &mut problems);
    }
    notifications(rule, references, &mut problems);
    problems
}

fn step(rule: &Rule, action: &RuleAction, at: &str, references: &RuleReferences, problems: &mut Vec<Problem>) {
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
    target(rule, action, at, runbook, references, problems);
    let Some(runbook) = runbook else { return };
    let conditions = runbook.status.as_ref().map_or(&[][..], |status| &status.conditions);
    if let Some(why) = unready(conditions, runbook.metadata.generation) {
        let message = format!("the Runbook {name} is not ready: {why}");
        problems.push(Problem::new(format!("{at}.runbookRef"), reason::RUNBOOK_NOT_READY, message));
    }
    parameters(action, at, runbook, problems);
}

/// What the step does that this one undoes, where both are known.
fn undone_type(rule: &Rule, action: &RuleAction, references: &RuleReferences) -> Option<StepType> {
    let undone = rule.spec.actions.iter().find(|other| Some(&other.name) == action.undoes.as_ref())?;
    match references.runbooks.get(&undone.runbook_ref.name)? {
        Referent::Found(runbook) => runbook.spec.steps.first().map(|step| step.r#type),
        _ => None,
    }
}

fn target(
    rule: &Rule,
    action: &RuleAction,
    at: &str,
    runbook: Option<&Runbook>,
    references: &RuleReferences,
    problems: &mut Vec<Problem>,
) {
    let target = &action.target_ref;
    let name = &action.runbook_ref.name;
    for step in runbook.into_iter().flat_map(|runbook| &runbook.spec.steps) {
        let kind = (target.api_version.clone(), target.kind.clone());
        let unfit = match step.r#type.fitness(&target.api_version, &target.kind) {
            Fitness::Fits(_) => None,
            Fitness::Unfit(why) => Some(why),
            Fitness::Ask => references.unfit_kinds.get(&kind).cloned(),
        };
        if let Some(why) = unfit {
            let message = format!("the Runbook {name} ({:?}): {why}", step.r#type);
            problems.push(Problem::new(format!("{at}.targetRef.kind"), reason::UNSUPPORTED_TARGET, message));
        }
        if (step.r#type == StepType::ScaleBack) != action.undoes.is_some() {
            let message = match &action.undoes {
                Some(undone) => {
                    format!("to undo {undone} needs a Runbook of type ScaleBack; {name} is {:?}", step.r#type)
                }
                None => format!("the Runbook {name} is of type ScaleBack: say which step it undoes"),
            };
            problems.push(Problem::new(format!("{at}.undoes"), reason::STEP_MISMATCH, message));
        }
        let undone = undone_type(rule, action, references);
        if let Some(undone) = undone.filter(|undone| *undone != StepType::Scale) {
            let message = format!("only a step of type Scale can be undone, not one of type {undone:?}");
            problems.push(Problem::new(format!("{at}.undoes"), reason::STEP_MISMATCH, message));
        }
    }
}

fn parameters(action: &RuleAction, at: &str, runbook: &Runbook, problems: &mut Vec<Problem>) {
    for given in &action.parameters {
        let field = format!("{at}.parameters[{}]", given.name);
        let Some(parameter) = runbook.spec.parameters.iter().find(|parameter| parameter.name == given.name) else {
            let message = format!("the Runbook {} has no parameter {}", action.runbook_ref.name, given.name);
            problems.push(Problem::new(format!("{field}.name"), reason::UNKNOWN_PARAMETER, message));
            continue;
        };
        // What is computed is checked when it is computed.
        let constant = Template::compile(&field, &given.value, ALERT).ok().filter(Template::is_constant);
        let Some(Ok(value)) = constant.map(|value| value.render(&Scope::default(), PARAMETER_LEN_MAX)) else {
            continue;
        };
        let checked = check_parameter(parameter, &value);
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
