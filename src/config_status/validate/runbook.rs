//! What is wrong with a Runbook.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Problem, check_parameter};
use crate::{
    api::v1alpha1::{ParameterType, Runbook, RunbookParameter},
    config_status::reason,
    expression::{Parameter, Scope, Template, Variable},
};

const PARAMS: &[Variable] = &[Variable::Params];
/// As the schema bounds constants.
const DELTA_MAX: i64 = 1_000;
const REPLICAS_MAX: i64 = 10_000;

/// Everything that is wrong with the runbook, in the order of its fields.
pub(in crate::config_status) fn runbook(runbook: &Runbook) -> Vec<Problem> {
    let spec = &runbook.spec;
    let mut problems = Vec::new();
    for (index, parameter) in spec.parameters.iter().enumerate() {
        let default = parameter.default.as_deref().map_or(Ok(()), |default| check_parameter(parameter, default));
        if let Err(message) = default {
            problems.push(Problem::new(
                format!("spec.parameters[{index}].default"),
                reason::INVALID_PARAMETER,
                message,
            ));
        }
    }
    for (index, step) in spec.steps.iter().enumerate() {
        let Some(scale) = &step.scale else { continue };
        let at = format!("spec.steps[{index}].scale");
        let delta = |number: i64| {
            (number != 0 && number.abs() <= DELTA_MAX).then_some(()).ok_or("a delta is from -1000 to 1000 and not 0")
        };
        let replicas =
            |number: i64| (0..=REPLICAS_MAX).contains(&number).then_some(()).ok_or("replicas are from 0 to 10000");
        if let Some(IntOrString::String(text)) = &scale.delta {
            number(&format!("{at}.delta"), text, &spec.parameters, delta, &mut problems);
        }
        if let Some(IntOrString::String(text)) = &scale.replicas {
            number(&format!("{at}.replicas"), text, &spec.parameters, replicas, &mut problems);
        }
    }
    problems
}

/// A whole number computed from parameters.
fn number(
    field: &str,
    text: &str,
    parameters: &[RunbookParameter],
    fits: impl Fn(i64) -> Result<(), &'static str>,
    problems: &mut Vec<Problem>,
) {
    let template = match Template::compile(field, text, PARAMS) {
        Ok(template) => template,
        Err(error) => return problems.push(Problem::expression(error)),
    };
    if !template.is_one_expression() {
        return problems.push(Problem::new(
            field,
            reason::INVALID_EXPRESSION,
            "must be a whole number or one $(…), with nothing beside it",
        ));
    }
    let named = template.fields_of(Variable::Params);
    let unknown: Vec<&str> = named
        .iter()
        .map(String::as_str)
        .filter(|name| !parameters.iter().any(|parameter| parameter.name == **name))
        .collect();
    if !unknown.is_empty() {
        let message = format!("the runbook has no parameter {}", unknown.join(", "));
        return problems.push(Problem::new(field, reason::UNKNOWN_PARAMETER, message));
    }
    // With values for all that it names, the expression can be tried; without, only a rule's values will tell.
    let values: Option<BTreeMap<String, Parameter>> =
        parameters.iter().filter(|parameter| named.contains(&parameter.name)).map(default_of).collect();
    let Some(values) = values else { return };
    let computed = template.integer(&Scope::default().with_params(&values));
    match computed.map(|number| (number, fits(number))) {
        Err(error) => problems.push(Problem::expression(error)),
        Ok((number, Err(bound))) => {
            let message = format!("gives {number} with the parameters' defaults; {bound}");
            problems.push(Problem::new(field, reason::INVALID_EXPRESSION, message));
        }
        Ok((_, Ok(()))) => {}
    }
}

/// A parameter's name and default, as an expression sees it.
fn default_of(parameter: &RunbookParameter) -> Option<(String, Parameter)> {
    let default = parameter.default.as_ref()?;
    let value = match parameter.r#type {
        ParameterType::Integer => Parameter::Integer(default.trim().parse().ok()?),
        ParameterType::String => Parameter::String(default.clone()),
    };
    Some((parameter.name.clone(), value))
}
