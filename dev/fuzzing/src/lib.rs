//! What the fuzzers drive: one function for each target, which takes any bytes and holds what must be true whatever they say.
//!
//! In: bytes. Out: nothing, or a panic that says what does not hold. `fuzz/` runs them with libFuzzer (`make fuzz`), and
//! `tests/corpora.rs` replays every input that is kept there (`make unit`). The targets speak to the product as its own rooms do, by
//! what it exposes; nothing in the product knows of them.

// A panic is how a target says that something does not hold.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod check;
mod targets;

/// A target: its name is that of its program in `fuzz/fuzz_targets` and of its corpus in `fuzz/corpus`.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Takes any bytes. Panics where something does not hold.
    pub run: fn(&[u8]),
}

macro_rules! targets {
    ($($(#[$doc:meta])+ $room:ident::$name:ident,)+) => {
        /// Every target.
        pub const TARGETS: &[Target] = &[$(Target { name: stringify!($name), run: $name }),+];

        $(
            $(#[$doc])+
            pub fn $name(data: &[u8]) {
                targets::$room::$name(data);
            }
        )+
    };
}

targets! {
    /// A body of Alertmanager's webhook, version 4.
    alerts::webhook,
    /// A body of `/api/v2/alerts`.
    alerts::alerts,
    /// A record of a topic that is not ours.
    alerts::foreign_record,
    /// A text of matchers.
    matchers::matchers,
    /// A CEL condition; behind a line `---` the alert that it is asked of.
    expressions::condition,
    /// A text with `$(…)`; behind a line `---` the alert that it is filled with.
    expressions::template,
    /// A channel's template and what the message tells, with the unit separator between the fields; on every channel.
    messages::message,
    /// A channel's answer: status, Retry-After, and the body.
    messages::answer,
    /// A record of one of our topics: a line with topic and key, headers, an empty line, data.
    events::event,
    /// The same, as a dead letter.
    events::dead_letter,
    /// The annotation `eventpulse.io/applied-actions`.
    actions::ring,
    /// An Action and the object that it acts on, as JSON.
    actions::action,
    /// An Incident, as JSON.
    incidents::incident,
    /// Events of one incident in whatever order, repeated and interrupted.
    incidents::incident_history,
    /// The spec of an AlertGroup, as JSON.
    groups::group,
    /// What happens to a group of alerts, in whatever order and repeated.
    groups::group_history,
    /// The spec of a Notification, as JSON.
    notifications::notification,
    /// A Rule, a Runbook or a NotificationChannel, as YAML.
    resources::resource,
    /// A duration (GEP-2257).
    settings::duration,
    /// Flags of `run`, one a line, and variables `OTEL_…=…`.
    settings::flags,
}

/// For targets that evaluate what people write: a panic within the interpreter of CEL or of templates is caught by the product and becomes
/// an error, so the fuzzer, which takes every panic for a finding, is not to see it. One that is not caught still ends the run.
pub fn let_interpreters_panic() {
    const INTERPRETERS: [&str; 3] = ["/cel-", "/antlr4rust-", "/minijinja-"];
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let file = panic.location().map_or("", std::panic::Location::file);
        if !INTERPRETERS.iter().any(|interpreter| file.contains(interpreter)) {
            others(panic);
        }
    }));
}
