//! What people write, checked and compiled once: shared by the service that uses it and the one that says what is wrong with it.
//!
//! In: a resource's spec. Out: a type that can no longer be wrong, or every error with its field. Pure: no I/O, no clock, no service.

mod email;
mod rule;

pub use email::{Addresses, addresses};
pub use rule::{
    CompiledRule, FailedCondition, FieldError, FieldErrorKind, GROUP_VALUE_MAX, Mismatch, Plan, RULE_NAME_MAX, Verdict,
    compile,
};

/// One line for people out of what somebody wrote: control characters become spaces, and it is cut so that it needs at most `max`
/// bytes in an outbox, where it is JSON in JSON and a quote needs four (promise 6).
pub fn one_line(text: &str, max: usize) -> String {
    let mut room = max;
    let mut line = String::new();
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        let cost = if matches!(c, '"' | '\\') { 4 } else { c.len_utf8() };
        let Some(left) = room.checked_sub(cost) else { break };
        room = left;
        line.push(c);
    }
    line
}
