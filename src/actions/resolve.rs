//! A runbook and a request make a snapshot in which nothing is left to compute.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::{
    api::v1alpha1::{
        ParameterType, ParameterValue, ResolvedScale, Runbook, RunbookParameter, RunbookSnapshot, RunbookStep,
        ScaleStep,
    },
    expression::{Parameter, Scope, Template, Variable},
};

/// Why a runbook does not fit a request, naming the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Unfit {
    field: String,
    problem: String,
}

fn unfit(field: impl Into<String>, problem: impl Into<String>) -> Unfit {
    Unfit { field: field.into(), problem: problem.into() }
}

/// Puts the parameters in.
pub fn resolve(runbook: &Runbook, given: &[ParameterValue]) -> Result<RunbookSnapshot, Unfit> {
    let spec = &runbook.spec;
    let params = parameters(&spec.parameters, given)?;
    let [step] = spec.steps.as_slice() else { return Err(unfit("spec.steps", "exactly one step is needed")) };
    Ok(RunbookSnapshot {
        name: runbook.name_any(),
        service_account_name: spec.service_account_name.clone(),
        step: step.name.clone(),
        r#type: step.r#type,
        scale: scale(step, &Scope::default().with_params(&params))?,
        timeout: step.timeout,
        retry: spec.retry.clone(),
        circuit_breaker: spec.circuit_breaker.clone(),
        git_ops: spec.git_ops,
    })
}

fn parameters(declared: &[RunbookParameter], given: &[ParameterValue]) -> Result<BTreeMap<String, Parameter>, Unfit> {
    if let Some(unknown) = given.iter().find(|value| !declared.iter().any(|parameter| parameter.name == value.name)) {
        return Err(unfit(format!("parameters[{}]", unknown.name), "the runbook has no such parameter"));
    }
    declared.iter().map(|parameter| Ok((parameter.name.clone(), value_of(parameter, given)?))).collect()
}

fn value_of(parameter: &RunbookParameter, given: &[ParameterValue]) -> Result<Parameter, Unfit> {
    let field = format!("parameters[{}]", parameter.name);
    let given = given.iter().find(|value| value.name == parameter.name).map(|value| &value.value);
    let text = given
        .or(parameter.default.as_ref())
        .ok_or_else(|| unfit(&field, "is needed: the runbook has no default for it"))?;
    if parameter.r#type == ParameterType::String {
        return Ok(Parameter::String(text.clone()));
    }
    let number: i64 = text.trim().parse().map_err(|_| unfit(&field, format!("{text:?} is no whole number")))?;
    let (least, most) = (parameter.minimum.unwrap_or(i64::MIN), parameter.maximum.unwrap_or(i64::MAX));
    if !(least..=most).contains(&number) {
        return Err(unfit(&field, format!("{number} is not from {least} to {most}")));
    }
    Ok(Parameter::Integer(number))
}

fn scale(step: &RunbookStep, scope: &Scope) -> Result<Option<ResolvedScale>, Unfit> {
    let Some(ScaleStep { delta, replicas, min_replicas, max_replicas, under_autoscaler }) = &step.scale else {
        return Ok(None);
    };
    let number = |field: &str, value: &Option<IntOrString>| {
        value.as_ref().map(|value| integer(&format!("spec.steps[0].scale.{field}"), value, scope)).transpose()
    };
    let (delta, replicas) = (number("delta", delta)?, number("replicas", replicas)?);
    if delta == Some(0) {
        return Err(unfit("spec.steps[0].scale.delta", "is 0, which changes nothing"));
    }
    if replicas.is_some_and(|replicas| replicas < 0) {
        return Err(unfit("spec.steps[0].scale.replicas", "is below 0"));
    }
    Ok(Some(ResolvedScale {
        delta,
        replicas,
        min_replicas: *min_replicas,
        max_replicas: *max_replicas,
        under_autoscaler: *under_autoscaler,
    }))
}

fn integer(field: &str, value: &IntOrString, scope: &Scope) -> Result<i32, Unfit> {
    match value {
        IntOrString::Int(number) => Ok(*number),
        IntOrString::String(text) => {
            let template =
                Template::compile(field, text, &[Variable::Params]).map_err(|error| unfit(field, error.to_string()))?;
            let number = template.integer(scope).map_err(|error| unfit(field, error.to_string()))?;
            i32::try_from(number).map_err(|_| unfit(field, format!("{number} is no number of replicas")))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn runbook(delta: serde_json::Value) -> Runbook {
        serde_json::from_value(json!({
            "apiVersion": "eventpulse.io/v1alpha1", "kind": "Runbook", "metadata": {"name": "scale-up", "namespace": "shop"},
            "spec": {
                "serviceAccountName": "remediator",
                "parameters": [{"name": "delta", "type": "Integer", "default": "1", "minimum": 1, "maximum": 5},
                               {"name": "why", "type": "String"}],
                "steps": [{"name": "scale", "type": "Scale", "scale": {"delta": delta, "maxReplicas": 10}}],
            },
        }))
        .unwrap()
    }

    fn given(values: &[(&str, &str)]) -> Vec<ParameterValue> {
        values.iter().map(|(name, value)| ParameterValue { name: (*name).into(), value: (*value).into() }).collect()
    }

    #[test]
    fn parameters_are_put_in() {
        let expression = json!("$(params.delta)");
        for (values, delta) in
            [(&[("why", "x")][..], 1), (&[("why", "x"), ("delta", "3")], 3), (&[("why", ""), ("delta", " 5 ")], 5)]
        {
            let snapshot = resolve(&runbook(expression.clone()), &given(values)).unwrap();
            assert_eq!(snapshot.scale.unwrap().delta, Some(delta), "{values:?}");
        }
        assert_eq!(resolve(&runbook(json!(-2)), &given(&[("why", "x")])).unwrap().scale.unwrap().delta, Some(-2));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (delta, values, says) in [
            (json!(1), &[][..], "parameters[why]: is needed"),
            (json!(1), &[("why", "x"), ("who", "y")], "parameters[who]: the runbook has no such parameter"),
            (json!(1), &[("why", "x"), ("delta", "6")], "parameters[delta]: 6 is not from 1 to 5"),
            (json!(1), &[("why", "x"), ("delta", "1; rm -rf")], "parameters[delta]: \"1; rm -rf\" is no whole number"),
            (json!(1), &[("why", "x"), ("delta", "99999999999999999999")], "parameters[delta]: "),
            (json!("$(params.why)"), &[("why", "x")], "spec.steps[0].scale.delta: "),
            (json!("$(params.delta - 1)"), &[("why", "x")], "spec.steps[0].scale.delta: is 0"),
            (
                json!("$(params.delta * 4000000000)"),
                &[("why", "x")],
                "spec.steps[0].scale.delta: 4000000000 is no number",
            ),
            (json!("$(nonsense"), &[("why", "x")], "spec.steps[0].scale.delta: "),
        ] {
            let error = resolve(&runbook(delta.clone()), &given(values)).unwrap_err().to_string();
            assert!(error.starts_with(says), "{delta} {values:?}: {error}");
        }
    }
}
