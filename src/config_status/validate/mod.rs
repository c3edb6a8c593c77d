//! What is wrong with a resource. Pure: the resource and what it refers to come in, a list of problems goes out.
//!
//! What the schema can say is refused by the API server already (`src/api/v1alpha1`); here is what it cannot.

mod channel;
mod rule;
mod runbook;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

pub(super) use channel::{channel, secrets};
pub(super) use rule::rule;
pub(super) use runbook::runbook;

use super::reason;
use crate::{
    api::v1alpha1::{NotificationChannel, ParameterType, Runbook, RunbookParameter},
    compile::{FieldError, FieldErrorKind},
    expression::ExpressionError,
};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// The field, like `spec.match.matchers[0]`.
    pub field: String,
    /// One of [`reason::ALL`].
    pub reason: &'static str,
    /// What is wrong and, where it is not plain, what to do.
    pub message: String,
}

impl Problem {
    fn new(field: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Self {
        Self { field: field.into(), reason, message: message.into() }
    }

    fn field(error: FieldError) -> Self {
        let reason = match error.kind {
            FieldErrorKind::Schema => reason::MALFORMED,
            FieldErrorKind::Matcher => reason::INVALID_MATCHER,
            FieldErrorKind::Expression => reason::INVALID_EXPRESSION,
            FieldErrorKind::Target => reason::INVALID_TARGET,
            FieldErrorKind::Address => reason::INVALID_ADDRESS,
        };
        Self::new(error.field, reason, error.message)
    }

    fn expression(error: ExpressionError) -> Self {
        let message = format!("at character {}: {}", error.position, error.problem);
        Self::new(error.field, reason::INVALID_EXPRESSION, message)
    }
}

/// What a name leads to.
#[derive(Clone, Debug)]
pub(super) enum Referent<K> {
    /// There is no such resource.
    Missing,
    /// There is one, and it cannot be read.
    Malformed,
    /// This one.
    Found(Arc<K>),
}

/// What a rule refers to, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct RuleReferences {
    /// Every runbook that the rule names.
    pub runbooks: BTreeMap<String, Referent<Runbook>>,
    /// Every channel that the rule names.
    pub channels: BTreeMap<String, Referent<NotificationChannel>>,
    /// Why custom kinds that the rule's steps act on cannot be scaled, by API version and kind.
    pub unfit_kinds: BTreeMap<(String, String), String>,
}

/// What is known of one key of a Secret; never its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SecretFact {
    /// It is there.
    Present,
    /// The Secret is there, the key is not.
    KeyMissing,
    /// The Secret is not there.
    Missing,
    /// EventPulse may not read it.
    Forbidden,
}

/// What a channel refers to: Secrets, by name and key.
pub(super) type ChannelReferences = BTreeMap<(String, String), SecretFact>;

/// Whether a resource was found unusable. One that nobody has looked at yet is not: its own status will say.
fn unready(conditions: &[Condition], generation: Option<i64>) -> Option<&str> {
    conditions
        .iter()
        .find(|condition| condition.type_ == reason::READY && condition.observed_generation == generation)
        .filter(|condition| condition.status == "False")
        .map(|condition| condition.reason.as_str())
}

/// Whether a text can be a parameter's value.
fn check_parameter(parameter: &RunbookParameter, value: &str) -> Result<(), String> {
    if parameter.r#type == ParameterType::String {
        return Ok(());
    }
    let number: i64 = value.trim().parse().map_err(|_| format!("{value:?} is no whole number"))?;
    if parameter.minimum.is_some_and(|minimum| number < minimum) {
        return Err(format!("{number} is below the minimum {}", parameter.minimum.unwrap_or_default()));
    }
    if parameter.maximum.is_some_and(|maximum| number > maximum) {
        return Err(format!("{number} is above the maximum {}", parameter.maximum.unwrap_or_default()));
    }
    Ok(())
}
