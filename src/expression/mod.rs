//! Expressions in resources: CEL conditions, and texts with `$(…)` (design, section 8).
//!
//! In: the text of a field, compiled once, and a [`Scope`] of values. Out: booleans, texts and whole numbers, or an
//! [`ExpressionError`] that names the field and the place in it. Everything is bounded and total: no text that somebody writes
//! into a resource panics, overflows the stack or takes memory without end (promise 6). Pure: no clock, no I/O, no service.

mod condition;
mod cost;
mod order;
mod patterns;
mod program;
mod scan;
mod scope;
mod template;

pub use condition::Condition;
pub use cost::COST_MAX;
pub use scope::{AlertFacts, Parameter, Scope, Variable};
pub use template::Template;

/// The most bytes of one expression.
pub const EXPRESSION_LEN_MAX: usize = 4096;
/// The most bytes of a text that may hold expressions.
pub const TEMPLATE_LEN_MAX: usize = 8192;
/// The most `$(…)` in one text.
pub const TEMPLATE_EXPRESSIONS_MAX: usize = 16;
/// How deep brackets may be nested in an expression: the parser and the evaluation recurse with them.
pub const NESTING_MAX: usize = 16;
/// The most operators in an expression: a chain of them nests as deeply as it is long.
pub const OPERATORS_MAX: usize = 256;
/// The most `+` in an expression: each may double a text.
pub const CONCATENATIONS_MAX: usize = 32;
/// The most macros (`all`, `exists`, `exists_one`, `map`, `filter`) in an expression.
pub const COMPREHENSIONS_MAX: usize = 4;
/// How deep macros may be nested: each multiplies the work.
pub const COMPREHENSION_NESTING_MAX: usize = 2;

/// Why an expression cannot be used, or has no value for these facts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}, at character {position}: {problem}")]
pub struct ExpressionError {
    /// The field that holds the text, like `spec.incident.summary`.
    pub field: String,
    /// The place in the field's text, in characters from 1.
    pub position: usize,
    /// What is wrong.
    pub problem: String,
}

/// The longest problem that is told; what a parser says about hostile text can be long.
const PROBLEM_LEN_MAX: usize = 400;

/// What is wrong, before it is known which field it is in: the byte offset within the expression, and the problem.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    offset: usize,
    text: String,
}

impl Problem {
    fn at(offset: usize, text: impl Into<String>) -> Self {
        let text: String = text.into();
        Self { offset, text: text.chars().take(PROBLEM_LEN_MAX).collect() }
    }

    /// `source` is the field's whole text, and the expression begins at byte `begin` in it.
    fn in_field(self, field: &str, source: &str, begin: usize) -> ExpressionError {
        let end = (begin + self.offset).min(source.len());
        let position = source.char_indices().take_while(|(at, _)| *at < end).count() + 1;
        ExpressionError { field: field.to_owned(), position, problem: self.text }
    }
}

#[cfg(test)]
mod tests;
