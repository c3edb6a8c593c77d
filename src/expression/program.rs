//! One CEL expression, compiled once and evaluated without ever panicking.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use cel::{
    ExecutionError, Value,
    common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue},
};

use super::{
    COMPREHENSION_NESTING_MAX, COMPREHENSIONS_MAX, COST_MAX, EXPRESSION_LEN_MAX, Problem, Scope, Variable,
    cost::cost,
    order::put_in_order,
    patterns::Patterns,
    scan::scan,
    scope::{ALERT_FIELDS, env},
};

/// Functions of CEL's standard library that the interpreter knows; operators and macros are syntax.
const FUNCTIONS: [&str; 34] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "string",
    "int",
    "uint",
    "double",
    "bytes",
    "bool",
    "duration",
    "timestamp",
    "type",
    "dyn",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "of",
    "none",
    "ofNonZeroValue",
    "hasValue",
    "value",
    "or",
    "orValue",
    "optMap",
    "optFlatMap",
];
/// Names that are no variables: types that an expression may compare with, and namespaces of functions.
const KNOWN_NAMES: [&str; 14] = [
    "bool",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
    "google",
    "optional",
    "optional_type",
    "dyn",
];

/// A compiled expression.
#[derive(Debug)]
pub(super) struct Program {
    root: IdedExpr,
    patterns: Patterns,
    cost: u64,
}

impl Program {
    /// Compiles `source`, which may use CEL's standard library and `variables`.
    pub(super) fn compile(source: &str, variables: &[Variable]) -> Result<Self, Problem> {
        if source.len() > EXPRESSION_LEN_MAX {
            return Err(Problem::at(0, format!("an expression has at most {EXPRESSION_LEN_MAX} bytes")));
        }
        if source.trim().is_empty() {
            return Err(Problem::at(0, "the expression is empty"));
        }
        scan(source, false)?;
        // The parser is a port of ANTLR's runtime: whatever it does on hostile text must not end the process.
        let compiled = catch_unwind(|| env().compile(source))
            .map_err(|_| Problem::at(0, "the expression cannot be parsed"))?
            .map_err(|errors| parse_problem(source, &errors))?;
        let mut check = Check { variables, bound: Vec::new(), comprehensions: 0 };
        let place = |problem: NodeProblem| match compiled.source_info().offset_for(problem.id) {
            Some((begin, _)) => Problem::at(byte_offset(source, begin as usize), problem.text),
            None => Problem::at(0, problem.text),
        };
        check.expr(compiled.expression()).map_err(place)?;
        let mut root = compiled.expression().clone();
        let patterns = Patterns::take_from(&mut root).map_err(place)?;
        let cost = cost(&root, &patterns);
        if cost > COST_MAX {
            let text = format!(
                "may cost {cost} steps for one alert, at most {COST_MAX} are allowed; macros in macros, and patterns and + in \
                 macros, cost most"
            );
            return Err(Problem::at(0, text));
        }
        put_in_order(&mut root);
        Ok(Self { root, patterns, cost })
    }

    /// The most that evaluating it may cost, in the unit of [`COST_MAX`].
    pub(super) fn cost(&self) -> u64 {
        self.cost
    }

    /// The expression's value for these facts.
    pub(super) fn evaluate(&self, scope: &Scope) -> Result<Value, Problem> {
        catch_unwind(AssertUnwindSafe(|| self.patterns.evaluate(&self.root, &scope.0)))
            .map_err(|_| Problem::at(0, "the expression cannot be evaluated"))?
            .map_err(|error| Problem::at(0, execution_problem(&error)))
    }

    /// Whether it can be seen without any alert that this gives neither true nor false.
    pub(super) fn is_never_a_truth(&self) -> bool {
        match &self.root.expr {
            Expr::Literal(literal) => !matches!(literal, LiteralValue::Boolean(_)),
            Expr::Ident(_) | Expr::List(_) | Expr::Map(_) => true,
            // Of an alert itself, of its labels or annotations: has(…) is another thing.
            Expr::Select(select) if !select.test => {
                let of = |node: &IdedExpr| matches!(&node.expr, Expr::Ident(name) if name == Variable::Alert.name());
                of(&select.operand) || matches!(&select.operand.expr, Expr::Select(inner) if of(&inner.operand))
            }
            _ => false,
        }
    }

    /// The fields of `variable` that the expression names, as `params.delta` or `params["delta"]`.
    pub(super) fn fields_of(&self, variable: Variable, fields: &mut BTreeSet<String>) {
        fields_of(&self.root, variable.name(), fields);
    }
}

fn fields_of(node: &IdedExpr, variable: &str, fields: &mut BTreeSet<String>) {
    let is_variable = |node: &IdedExpr| matches!(&node.expr, Expr::Ident(name) if name == variable);
    match &node.expr {
        Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) => {}
        Expr::Call(call) => {
            if let [operand, index] = call.args.as_slice()
                && call.func_name == "_[_]"
                && is_variable(operand)
                && let Expr::Literal(LiteralValue::String(name)) = &index.expr
            {
                fields.insert(name.inner().to_owned());
            }
            call.target
                .iter()
                .map(AsRef::as_ref)
                .chain(&call.args)
                .for_each(|child| fields_of(child, variable, fields));
        }
        Expr::Select(select) => {
            if is_variable(&select.operand) {
                fields.insert(select.field.clone());
            }
            fields_of(&select.operand, variable, fields);
        }
        Expr::List(list) => list.elements.iter().for_each(|child| fields_of(child, variable, fields)),
        Expr::Map(map) => map.entries.iter().for_each(|entry| entry_fields(&entry.expr, variable, fields)),
        Expr::Struct(message) => message.entries.iter().for_each(|entry| entry_fields(&entry.expr, variable, fields)),
        Expr::Comprehension(parts) => {
            [&parts.iter_range, &parts.accu_init, &parts.loop_cond, &parts.loop_step, &parts.result]
                .into_iter()
                .for_each(|child| fields_of(child, variable, fields))
        }
    }
}

fn entry_fields(entry: &EntryExpr, variable: &str, fields: &mut BTreeSet<String>) {
    match entry {
        EntryExpr::StructField(field) => fields_of(&field.value, variable, fields),
        EntryExpr::MapEntry(entry) => {
            fields_of(&entry.key, variable, fields);
            fields_of(&entry.value, variable, fields);
        }
    }
}

/// What people need to know; values, which may be long and hostile, are left out.
fn execution_problem(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("there is no {key:?} here; has(…) asks first"),
        ExecutionError::NoSuchOverload(_)
        | ExecutionError::UndeclaredReference(_)
        | ExecutionError::InvalidArgumentCount { .. }
        | ExecutionError::UnexpectedType { .. } => error.to_string(),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero".into(),
        ExecutionError::Overflow(operator, ..) => format!("{operator}: the result is too large"),
        ExecutionError::IndexOutOfBounds(_) => "the index is beyond the end of the list".into(),
        ExecutionError::UnsupportedBinaryOperator(operator, left, right) => {
            format!("{operator} cannot be applied to a {} and a {}", left.type_of(), right.type_of())
        }
        ExecutionError::ValuesNotComparable(..) => "these values cannot be compared".into(),
        ExecutionError::FunctionError { function, message } => format!("{function}: {message}"),
        ExecutionError::UnsupportedTargetType { .. } | ExecutionError::NotSupportedAsMethod { .. } => {
            "this function is not for values of this type".into()
        }
        ExecutionError::UnsupportedKeyType(_) | ExecutionError::UnsupportedIndex(..) => {
            "this cannot be looked up by a value of that type".into()
        }
        ExecutionError::DuplicateKey(_) => "a key stands twice".into(),
        _ => "the expression has no value".into(),
    }
}

fn parse_problem(source: &str, errors: &cel::ParseErrors) -> Problem {
    let Some(first) = errors.errors.first() else {
        return Problem::at(0, "the expression cannot be parsed");
    };
    // Lines and columns are from 1, and what could not be placed is at or below 0.
    let (line, column) = (usize::try_from(first.pos.0).unwrap_or(1).max(1), usize::try_from(first.pos.1).unwrap_or(1));
    let line_begin: usize = source.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let rest = source.get(line_begin..).unwrap_or_default();
    Problem::at(line_begin + byte_offset(rest, column.saturating_sub(1)), first.msg.clone())
}

/// The byte offset of the character with this index.
fn byte_offset(text: &str, index: usize) -> usize {
    text.char_indices().nth(index).map_or(text.len(), |(at, _)| at)
}

/// What is wrong with a node of the tree.
pub(super) struct NodeProblem {
    pub id: u64,
    pub text: String,
}

/// Checks what the interpreter would only notice while evaluating: unknown names, and work without bound.
struct Check<'a> {
    variables: &'a [Variable],
    bound: Vec<String>,
    comprehensions: usize,
}

impl Check<'_> {
    fn expr(&mut self, node: &IdedExpr) -> Result<(), NodeProblem> {
        match &node.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.ident(node.id, name),
            Expr::Call(call) => {
                let operator = !call.func_name.starts_with(|c: char| c.is_ascii_alphabetic());
                if !operator && !FUNCTIONS.contains(&call.func_name.as_str()) {
                    return Err(NodeProblem { id: node.id, text: format!("there is no function {}", call.func_name) });
                }
                if let ("_[_]", [operand, index]) = (call.func_name.as_str(), call.args.as_slice())
                    && let Expr::Literal(LiteralValue::String(name)) = &index.expr
                {
                    self.field(node.id, operand, name.inner())?;
                }
                call.target.iter().map(AsRef::as_ref).chain(&call.args).try_for_each(|child| self.expr(child))
            }
            Expr::Select(select) => {
                self.field(node.id, &select.operand, &select.field)?;
                self.expr(&select.operand)
            }
            Expr::List(list) => list.elements.iter().try_for_each(|child| self.expr(child)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| self.entry(&entry.expr)),
            Expr::Struct(_) => Err(NodeProblem { id: node.id, text: "messages cannot be made here".into() }),
            Expr::Comprehension(parts) => {
                self.comprehensions += 1;
                let depth = self.bound.iter().filter(|name| name.as_str() == "@accu").count() + 1;
                if self.comprehensions > COMPREHENSIONS_MAX || depth > COMPREHENSION_NESTING_MAX {
                    let text = format!(
                        "at most {COMPREHENSIONS_MAX} macros like exists or map, nested at most {COMPREHENSION_NESTING_MAX} deep"
                    );
                    return Err(NodeProblem { id: node.id, text });
                }
                self.expr(&parts.iter_range)?;
                let outer = self.bound.len();
                self.bound.extend([parts.iter_var.clone(), parts.accu_var.clone(), "@accu".into()]);
                self.bound.extend(parts.iter_var2.clone());
                [&parts.accu_init, &parts.loop_cond, &parts.loop_step, &parts.result]
                    .into_iter()
                    .try_for_each(|child| self.expr(child))?;
                self.bound.truncate(outer);
                Ok(())
            }
        }
    }

    fn entry(&mut self, entry: &EntryExpr) -> Result<(), NodeProblem> {
        match entry {
            EntryExpr::StructField(field) => self.expr(&field.value),
            EntryExpr::MapEntry(entry) => {
                self.expr(&entry.key)?;
                self.expr(&entry.value)
            }
        }
    }

    /// `alert` is no map of somebody's: a field that it never has is a slip, which would only be noticed by every alert.
    fn field(&self, id: u64, operand: &IdedExpr, field: &str) -> Result<(), NodeProblem> {
        let alert = Variable::Alert.name();
        let is_alert = matches!(&operand.expr, Expr::Ident(name) if name == alert)
            && self.variables.contains(&Variable::Alert)
            && !self.bound.iter().any(|bound| bound == alert);
        if !is_alert || ALERT_FIELDS.contains(&field) {
            return Ok(());
        }
        let text = format!("alert has no {field}, only {}", ALERT_FIELDS.join(", "));
        Err(NodeProblem { id, text })
    }

    fn ident(&self, id: u64, name: &str) -> Result<(), NodeProblem> {
        let known = name.starts_with('@')
            || KNOWN_NAMES.contains(&name)
            || self.variables.iter().any(|variable| variable.name() == name)
            || self.bound.iter().any(|bound| bound == name);
        if known {
            return Ok(());
        }
        let names: Vec<&str> = self.variables.iter().map(|variable| variable.name()).collect();
        Err(NodeProblem { id, text: format!("there is no {name} here, only {}", names.join(" and ")) })
    }
}
