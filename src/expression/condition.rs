//! A CEL expression that gives a boolean.

use cel::Value;

use super::{ExpressionError, Problem, Scope, Variable, program::Program};

/// A compiled condition.
#[derive(Debug)]
pub struct Condition {
    field: String,
    program: Program,
}

impl Condition {
    /// Compiles the text of `field`, which may speak of `variables`.
    pub fn compile(field: &str, source: &str, variables: &[Variable]) -> Result<Self, ExpressionError> {
        match Program::compile(source, variables) {
            Ok(program) if program.is_never_a_truth() => {
                let text = "gives neither true nor false: a condition asks something, like alert.labels.team == 'web'";
                Err(Problem::at(0, text).in_field(field, source, 0))
            }
            Ok(program) => Ok(Self { field: field.to_owned(), program }),
            Err(problem) => Err(problem.in_field(field, source, 0)),
        }
    }

    /// The field that it was compiled from.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// The most that evaluating it may cost, in the unit of [`super::COST_MAX`].
    pub fn cost(&self) -> u64 {
        self.program.cost()
    }

    /// Whether it holds. A missing key, or a value that is no boolean, is an error.
    pub fn holds(&self, scope: &Scope) -> Result<bool, ExpressionError> {
        self.program
            .evaluate(scope)
            .and_then(|value| match value {
                Value::Bool(value) => Ok(value),
                other => Err(Problem::at(0, format!("gives a {}, a condition needs true or false", other.type_of()))),
            })
            .map_err(|problem| problem.in_field(&self.field, "", 0))
    }
}
