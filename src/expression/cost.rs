//! What an expression may cost at the worst, estimated from its tree before it is ever evaluated (promise 6): rules evaluate
//! expressions in the loop that serves every tenant, so that one tenant's must not hold up the others'. Pure.
//!
//! The unit is about a nanosecond. Sizes are the largest that an alert may have (`events::bounds`), and every byte that is made costs
//! one, so that the bound holds memory too. A macro multiplies what stands in it by the most elements that it may run over.

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use super::{Variable, patterns::Patterns};
use crate::events::bounds;

/// The most that one expression, and all expressions of one rule together, may cost.
pub const COST_MAX: u64 = 1 << 25;
/// Evaluating one node of the tree.
const NODE: u64 = 64;
/// So many bytes are compared, hashed or searched for what it costs to copy one.
const READ: u64 = 4;
/// A value without elements: a number, a truth, a time.
const SCALAR: u64 = 16;
/// The longest text that a number or a time is written as.
const WRITTEN: u64 = 512;
/// The most parameters of a runbook, and the most bytes of a value.
const PARAMETERS: u64 = 16;
const PARAMETER_BYTES: u64 = 1024;

/// How large a value may be.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// All of it.
    bytes: u64,
    /// How many elements a macro finds in it.
    items: u64,
    /// The largest element.
    each: u64,
    /// Of a map: the largest key.
    key: Option<u64>,
    /// Whether the elements have no elements of their own.
    flat: bool,
    /// Whether it is each key of an alert's map in turn: what it looks up is then, over all turns, the map once.
    turn: bool,
}

impl Size {
    fn text(bytes: u64) -> Self {
        Self { bytes: bytes.max(SCALAR), items: 0, each: 0, key: None, flat: true, turn: false }
    }

    fn texts(items: usize, each: usize, bytes: usize) -> Self {
        let (items, each, bytes) = (items as u64, each as u64, bytes as u64);
        Self { bytes, items, each, key: Some(bounds::NAME_BYTES as u64), flat: true, turn: false }
    }

    /// An element of which nothing is known but its bytes.
    fn element(&self) -> Self {
        let items = if self.flat { 0 } else { self.each };
        let key = if self.flat { None } else { self.key };
        Self { bytes: self.each.max(SCALAR), items, each: self.each, key, flat: self.flat, turn: false }
    }

    /// One or the other.
    fn either(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.max(other.bytes),
            items: self.items.max(other.items),
            each: self.each.max(other.each),
            key: self.key.and_then(|key| Some(key.max(other.key?))),
            flat: self.flat && other.flat,
            turn: false,
        }
    }

    /// Both, one after the other.
    fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            items: self.items.saturating_add(other.items),
            ..self.either(other)
        }
    }

    /// One more element of a list or map.
    fn with(self, element: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(element.bytes).saturating_add(SCALAR),
            items: self.items.saturating_add(1),
            each: self.each.max(element.bytes).max(element.each),
            flat: self.flat && element.items == 0,
            ..self
        }
    }
}

/// The most that evaluating `root` may cost.
pub(super) fn cost(root: &IdedExpr, patterns: &Patterns) -> u64 {
    let mut estimate = Estimate { patterns, scope: Vec::new(), cost: 0 };
    let result = estimate.expr(root);
    estimate.cost.saturating_add(result.bytes)
}

struct Estimate<'a> {
    patterns: &'a Patterns,
    /// What macros bind, innermost last.
    scope: Vec<(&'a str, Size)>,
    cost: u64,
}

impl<'a> Estimate<'a> {
    fn pay(&mut self, cost: u64) {
        self.cost = self.cost.saturating_add(cost);
    }

    fn read(&mut self, bytes: u64) {
        self.pay(bytes / READ);
    }

    fn expr(&mut self, node: &'a IdedExpr) -> Size {
        self.pay(NODE);
        match &node.expr {
            Expr::Literal(LiteralValue::String(text)) => Size::text(text.inner().len() as u64),
            Expr::Literal(LiteralValue::Bytes(bytes)) => Size::text(bytes.inner().len() as u64),
            Expr::Unspecified | Expr::Literal(_) | Expr::Struct(_) => Size::text(SCALAR),
            Expr::Ident(name) => self.ident(name),
            Expr::Select(select) => {
                let of = self.expr(&select.operand);
                self.field(&select.operand, of, Some(&select.field))
            }
            Expr::List(list) => {
                let size = list.elements.iter().fold(Size::text(0), |size, element| size.with(self.expr(element)));
                self.pay(size.bytes);
                size
            }
            Expr::Map(map) => {
                let mut size = Size { key: Some(SCALAR), ..Size::text(0) };
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
                    let (key, value) = (self.expr(&entry.key), self.expr(&entry.value));
                    size = size.with(value);
                    size.bytes = size.bytes.saturating_add(key.bytes);
                    size.key = size.key.max(Some(key.bytes));
                }
                self.pay(size.bytes);
                size
            }
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(parts) => self.comprehension(parts),
        }
    }

    fn ident(&self, name: &str) -> Size {
        if let Some((_, size)) = self.scope.iter().rev().find(|(bound, _)| *bound == name) {
            return *size;
        }
        if name == Variable::Alert.name() {
            // Its parts, each of which has a size of its own.
            let bytes = 2 * bounds::ALERT_BYTES;
            return Size { flat: false, ..Size::texts(8, bounds::ALERT_BYTES, bytes) };
        }
        if name == Variable::Params.name() {
            let bytes = PARAMETERS * PARAMETER_BYTES;
            return Size { bytes, ..Size::texts(PARAMETERS as usize, PARAMETER_BYTES as usize, 0) };
        }
        Size::text(SCALAR)
    }

    /// A field, or the value of a key that is written out.
    fn field(&self, operand: &IdedExpr, of: Size, field: Option<&str>) -> Size {
        let of_alert = matches!(&operand.expr, Expr::Ident(name) if name == Variable::Alert.name())
            && !self.scope.iter().any(|(bound, _)| *bound == Variable::Alert.name());
        match field {
            Some("labels") if of_alert => Size::texts(bounds::LABELS, bounds::LABEL_VALUE_BYTES, bounds::ALERT_BYTES),
            Some("annotations") if of_alert => {
                Size::texts(bounds::LABELS, bounds::ANNOTATION_VALUE_BYTES, bounds::ALERT_BYTES)
            }
            Some(_) if of_alert => Size::text(WRITTEN),
            _ => of.element(),
        }
    }

    fn call(&mut self, call: &'a CallExpr) -> Size {
        let arguments: Vec<&'a IdedExpr> = call.target.iter().map(AsRef::as_ref).chain(&call.args).collect();
        let sizes: Vec<Size> = arguments.iter().map(|argument| self.expr(argument)).collect();
        let all = sizes.iter().fold(0_u64, |sum, size| sum.saturating_add(size.bytes));
        let least = sizes.iter().map(|size| size.bytes).min().unwrap_or(0);
        let one_of = sizes.iter().copied().reduce(Size::either).unwrap_or(Size::text(SCALAR));
        match (call.func_name.as_str(), sizes.as_slice()) {
            (operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT, [of, index]) => {
                self.read(index.bytes);
                let value = self.lookup(arguments[0], *of, arguments[1], *index);
                if call.func_name != operators::INDEX {
                    self.pay(value.bytes);
                }
                value
            }
            (operators::ADD, [left, right]) => {
                let sum = left.and(*right);
                self.pay(sum.bytes);
                sum
            }
            (operators::CONDITIONAL, [_, yes, no]) => yes.either(*no),
            // Texts of different length, and lists and maps too, are told apart at once.
            (
                operators::EQUALS
                | operators::NOT_EQUALS
                | operators::LESS
                | operators::LESS_EQUALS
                | operators::GREATER
                | operators::GREATER_EQUALS
                | "startsWith"
                | "endsWith",
                _,
            ) => {
                self.read(least);
                Size::text(SCALAR)
            }
            (operators::IN, [value, of]) => {
                let of_one = value.bytes.min(of.each.max(SCALAR));
                self.read(if of.key.is_some() { value.bytes } else { of.items.saturating_mul(of_one) });
                Size::text(SCALAR)
            }
            ("matches", [text, _]) => {
                self.pay(text.bytes.saturating_mul(self.patterns.steps(arguments[1])));
                Size::text(SCALAR)
            }
            ("size", [of]) if of.items > 0 => Size::text(SCALAR),
            ("string", _) => {
                self.pay(all);
                Size::text(all.max(WRITTEN))
            }
            // These hand on what they are given.
            ("bytes" | "dyn" | "of" | "ofNonZeroValue" | "value" | "or" | "orValue", _) => {
                self.pay(all);
                one_of
            }
            (operator, _) if !operator.starts_with(|c: char| c.is_ascii_alphabetic()) => Size::text(SCALAR),
            // Reads its arguments, and gives a number, a truth or a time.
            _ => {
                self.read(all);
                Size::text(SCALAR)
            }
        }
    }

    fn lookup(&self, operand: &IdedExpr, of: Size, index: &IdedExpr, index_size: Size) -> Size {
        let value = match &index.expr {
            Expr::Literal(LiteralValue::String(name)) => self.field(operand, of, Some(name.inner())),
            _ => self.field(operand, of, None),
        };
        if index_size.turn && of.key.is_some() {
            return Size { bytes: of.bytes / of.items.max(1), each: of.each, ..value };
        }
        value
    }

    fn comprehension(&mut self, parts: &'a ComprehensionExpr) -> Size {
        let range = self.expr(&parts.iter_range);
        let begin = self.expr(&parts.accu_init);
        let element = match range.key {
            Some(key) => Size { turn: range.items >= bounds::LABELS as u64, ..Size::text(key) },
            None => range.element(),
        };
        let outer = self.scope.len();
        self.scope.push((&parts.iter_var, element));
        if let Some(second) = &parts.iter_var2 {
            self.scope.push((second, range.element()));
        }
        self.scope.push((&parts.accu_var, begin));
        // What one round costs, and by how much the result grows in it: a macro only ever adds to it.
        let before = std::mem::take(&mut self.cost);
        self.pay(NODE.saturating_add(element.bytes));
        self.expr(&parts.loop_cond);
        let step = self.expr(&parts.loop_step);
        let round = std::mem::replace(&mut self.cost, before);
        self.pay(round.saturating_mul(range.items));
        let grown = |begin: u64, step: u64| {
            begin.max(step).saturating_add(step.saturating_sub(begin).saturating_mul(range.items))
        };
        let end =
            Size { bytes: grown(begin.bytes, step.bytes), items: grown(begin.items, step.items), ..begin.either(step) };
        self.scope.truncate(outer);
        self.scope.push((&parts.accu_var, end));
        let result = self.expr(&parts.result);
        self.scope.truncate(outer);
        result
    }
}
