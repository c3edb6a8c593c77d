//! The regular expressions of an expression: constant texts, compiled once. The interpreter's own `matches` compiles its pattern with
//! every call, within 10 MiB.

use std::any::Any;

use cel::{
    Context, Env, ExecutionError, Value,
    common::{
        ast::{EntryExpr, Expr, IdedExpr, LiteralValue},
        types::{CelBool, CelString, STRING_TYPE, Type},
        value::{CowVal, StaticVal, Val},
    },
};
use regex::Regex;

use super::program::NodeProblem;
use crate::matcher::search;

/// The most patterns of one expression.
const PATTERNS_MAX: usize = 16;
/// One that is compiled takes so many bytes for each state; each state is visited for each byte of a text at the worst.
const BYTES_OF_STATE: u64 = 16;

/// The compiled patterns of one expression. In the tree each is a variable.
#[derive(Debug, Default)]
pub(super) struct Patterns(Vec<Pattern>);

#[derive(Clone, Debug)]
struct Pattern {
    name: String,
    source: String,
    regex: Regex,
    size: usize,
}

impl Patterns {
    /// Puts variables in the place of all patterns. A pattern that is computed is refused.
    pub fn take_from(root: &mut IdedExpr) -> Result<Self, NodeProblem> {
        let mut patterns = Self::default();
        patterns.take(root)?;
        Ok(patterns)
    }

    fn take(&mut self, node: &mut IdedExpr) -> Result<(), NodeProblem> {
        match &mut node.expr {
            Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) => Ok(()),
            Expr::Call(call) => {
                if call.func_name == "matches" {
                    match (call.target.is_some(), call.args.as_mut_slice()) {
                        (true, [pattern]) | (false, [_, pattern]) => self.take_pattern(pattern)?,
                        _ => {
                            let text = "matches takes a text and a pattern".to_owned();
                            return Err(NodeProblem { id: node.id, text });
                        }
                    }
                }
                if let Some(target) = &mut call.target {
                    self.take(target)?;
                }
                call.args.iter_mut().try_for_each(|child| self.take(child))
            }
            Expr::Select(select) => self.take(&mut select.operand),
            Expr::List(list) => list.elements.iter_mut().try_for_each(|child| self.take(child)),
            Expr::Map(map) => map.entries.iter_mut().try_for_each(|entry| self.take_entry(&mut entry.expr)),
            Expr::Struct(message) => message.entries.iter_mut().try_for_each(|entry| self.take_entry(&mut entry.expr)),
            Expr::Comprehension(parts) => [
                &mut parts.iter_range,
                &mut parts.accu_init,
                &mut parts.loop_cond,
                &mut parts.loop_step,
                &mut parts.result,
            ]
            .into_iter()
            .try_for_each(|child| self.take(child)),
        }
    }

    fn take_entry(&mut self, entry: &mut EntryExpr) -> Result<(), NodeProblem> {
        match entry {
            EntryExpr::StructField(field) => self.take(&mut field.value),
            EntryExpr::MapEntry(entry) => {
                self.take(&mut entry.key)?;
                self.take(&mut entry.value)
            }
        }
    }

    fn take_pattern(&mut self, node: &mut IdedExpr) -> Result<(), NodeProblem> {
        let problem = |text: String| NodeProblem { id: node.id, text };
        let Expr::Literal(LiteralValue::String(source)) = &node.expr else {
            return Err(problem("the pattern of matches must be a text in quotes: it is compiled only once".into()));
        };
        let source = source.inner();
        let known = self.0.iter().find(|pattern| pattern.source == source).map(|pattern| pattern.name.clone());
        let name = match known {
            Some(name) => name,
            None if self.0.len() >= PATTERNS_MAX => {
                return Err(problem(format!("an expression has at most {PATTERNS_MAX} patterns")));
            }
            None => {
                let (regex, size) = search(source).map_err(|error| problem(error.to_string()))?;
                let name = format!("@pattern{}", self.0.len());
                self.0.push(Pattern { name: name.clone(), source: source.to_owned(), regex, size });
                name
            }
        };
        node.expr = Expr::Ident(name);
        Ok(())
    }

    /// What a byte of a text may cost that is matched with this node of the tree.
    pub fn steps(&self, node: &IdedExpr) -> u64 {
        let Expr::Ident(name) = &node.expr else { return u64::MAX };
        let size = self.0.iter().find(|pattern| pattern.name == *name).map(|pattern| pattern.size as u64);
        size.map_or(u64::MAX, |size| size / BYTES_OF_STATE)
    }

    /// Evaluates `root` with the patterns in reach.
    pub fn evaluate(&self, root: &IdedExpr, context: &Context<'static, 'static>) -> Result<Value, ExecutionError> {
        if self.0.is_empty() {
            return Value::resolve(root, context);
        }
        let mut context = context.new_inner_scope();
        for pattern in &self.0 {
            context.add_variable_as_val(pattern.name.as_str(), Box::new(Compiled(pattern.regex.clone())));
        }
        Value::resolve(root, &context)
    }
}

/// A compiled pattern as a value. No expression can name it.
#[derive(Debug)]
struct Compiled(Regex);

static TYPE: Type = Type::new_unspecified_type("@pattern");

impl Val for Compiled {
    fn get_type(&self) -> &Type {
        Self::cel_type()
    }

    fn cel_type() -> &'static Type {
        &TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(Self(self.0.clone()))
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Compiled {}

/// CEL's `matches`, for compiled patterns.
pub(super) fn add_matches(env: &mut Env) -> Result<(), cel::DeclarationError> {
    env.add_overload("matches", "matches(string,@pattern)", vec![STRING_TYPE, TYPE.to_owned()], matches)?;
    env.add_member_overload("matches", "string.matches(@pattern)", STRING_TYPE, vec![TYPE.to_owned()], matches)
}

fn matches<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [text, pattern] = arguments.as_slice() else {
        return Err(ExecutionError::invalid_argument_count(2, arguments.len()));
    };
    match (text.downcast_ref::<CelString>(), pattern.downcast_ref::<Compiled>()) {
        (Some(text), Some(pattern)) => Ok(CowVal::owned(CelBool::from(pattern.0.is_match(text.inner())))),
        _ => Err(ExecutionError::function_error("matches", "a text and a pattern are needed")),
    }
}
