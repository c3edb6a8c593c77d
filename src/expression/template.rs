//! A text that may hold `$(…)`.

use std::collections::BTreeSet;

use cel::Value;

use super::{
    ExpressionError, Problem, Scope, TEMPLATE_EXPRESSIONS_MAX, TEMPLATE_LEN_MAX, Variable, program::Program, scan::scan,
};

/// A compiled text. `$(…)` holds CEL, `$$(` stands for `$(`, and any other `$` for itself, as in Kubernetes and Tekton.
#[derive(Debug)]
pub struct Template {
    field: String,
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Text(String),
    /// The expression, and where its `$(` stands, in characters from 1.
    Expression(Program, usize),
}

impl Template {
    /// Compiles the text of `field`, whose expressions may speak of `variables`.
    pub fn compile(field: &str, source: &str, variables: &[Variable]) -> Result<Self, ExpressionError> {
        if source.len() > TEMPLATE_LEN_MAX {
            let problem = Problem::at(0, format!("a text with expressions has at most {TEMPLATE_LEN_MAX} bytes"));
            return Err(problem.in_field(field, source, 0));
        }
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut at = 0;
        let mut expressions = 0;
        while let Some(found) = source[at..].find('$') {
            text.push_str(&source[at..at + found]);
            at += found;
            let rest = &source[at..];
            if rest.starts_with("$$(") {
                text.push_str("$(");
                at += 3;
            } else if let Some(inner) = rest.strip_prefix("$(") {
                let begin = at + 2;
                let expression = scan(inner, true).map_err(|problem| problem.in_field(field, source, begin))?;
                expressions += 1;
                if expressions > TEMPLATE_EXPRESSIONS_MAX {
                    let problem = Problem::at(0, format!("a text has at most {TEMPLATE_EXPRESSIONS_MAX} expressions"));
                    return Err(problem.in_field(field, source, at));
                }
                let program = Program::compile(&inner[..expression], variables)
                    .map_err(|problem| problem.in_field(field, source, begin))?;
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(Part::Expression(program, source[..at].chars().count() + 1));
                at = begin + expression + 1;
            } else {
                text.push('$');
                at += 1;
            }
        }
        text.push_str(&source[at..]);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self { field: field.to_owned(), parts })
    }

    /// Whether the text is the same for all facts.
    pub fn is_constant(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// The most that evaluating its expressions may cost, in the unit of [`super::COST_MAX`].
    pub fn cost(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| match part {
            Part::Text(_) => sum,
            Part::Expression(program, _) => sum.saturating_add(program.cost()),
        })
    }

    /// Whether the text is one `$(…)` and nothing beside it.
    pub fn is_one_expression(&self) -> bool {
        matches!(self.parts.as_slice(), [Part::Expression(..)])
    }

    /// The fields of `variable` that the expressions name, as `params.delta` or `params["delta"]`.
    pub fn fields_of(&self, variable: Variable) -> BTreeSet<String> {
        let mut fields = BTreeSet::new();
        for part in &self.parts {
            if let Part::Expression(program, _) = part {
                program.fields_of(variable, &mut fields);
            }
        }
        fields
    }

    /// The text for these facts, at most `max` bytes; a longer one is an error, because a name or number that was cut means
    /// something else.
    pub fn render(&self, scope: &Scope, max: usize) -> Result<String, ExpressionError> {
        // Cut between characters, of which the longest has four bytes, a longer text is still longer.
        let text = self.render_cut(scope, max.saturating_add(4))?;
        if text.len() > max {
            return Err(self.error(format!("gives more than {max} bytes")));
        }
        Ok(text)
    }

    /// The text for these facts, cut at `max` bytes: for what only people read.
    pub fn render_cut(&self, scope: &Scope, max: usize) -> Result<String, ExpressionError> {
        let mut text = String::new();
        for part in &self.parts {
            let complete = match part {
                Part::Text(constant) => push_cut(&mut text, constant, max),
                Part::Expression(program, position) => {
                    let value = program
                        .evaluate(scope)
                        .and_then(|value| as_text(&value))
                        .map_err(|problem| self.error_at(*position, problem.text))?;
                    push_cut(&mut text, &value, max)
                }
            };
            if !complete {
                break;
            }
        }
        Ok(text)
    }

    /// The whole number that the text gives: an integer of CEL, or digits.
    pub fn integer(&self, scope: &Scope) -> Result<i64, ExpressionError> {
        let text = self.render(scope, 32)?;
        text.trim().parse().map_err(|_| self.error(format!("gives {text:?}, a whole number is needed")))
    }

    /// An error that this text as a whole is to blame for, like a result that cannot be a name.
    pub fn error(&self, problem: String) -> ExpressionError {
        self.error_at(1, problem)
    }

    fn error_at(&self, position: usize, problem: String) -> ExpressionError {
        ExpressionError { field: self.field.clone(), position, problem }
    }
}

/// Appends as much of `more` as keeps `text` within `max` bytes and its characters whole. False when that was not all.
fn push_cut(text: &mut String, more: &str, max: usize) -> bool {
    let mut room = max.saturating_sub(text.len()).min(more.len());
    while !more.is_char_boundary(room) {
        room -= 1;
    }
    text.push_str(&more[..room]);
    room == more.len()
}

fn as_text(value: &Value) -> Result<String, Problem> {
    match value {
        Value::String(text) => Ok(text.as_str().to_owned()),
        Value::Int(number) => Ok(number.to_string()),
        Value::UInt(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Timestamp(time) => Ok(time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)),
        other => Err(Problem::at(0, format!("gives a {}, a text or a number is needed", other.type_of()))),
    }
}
