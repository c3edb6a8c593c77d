//! What became of everything, counted by what it says of itself: whoever only ever refuses breaks no promise, and is of no use.

use std::collections::BTreeMap;

use crate::{Observed, view::text};

/// How often each ending was seen, like (`an action`, `Completed`).
pub type Outcomes = BTreeMap<(&'static str, String), u64>;

impl Observed {
    /// The reasons of the alerts, and how actions, incidents and messages ended.
    pub fn outcomes(&self) -> Outcomes {
        let mut outcomes = Outcomes::new();
        let mut count = |of, how: String| *outcomes.entry((of, how)).or_default() += 1;
        for record in self.on("alert.decided") {
            count("an alert, each time that it is decided", text(&record.data, "/reason").to_owned());
        }
        for (of, kind, state) in [
            ("an action", "actions", "/status"),
            ("an incident", "incidents", "/status"),
            ("a message", "notifications", "/spec"),
        ] {
            for (object, _) in self.last_of(kind).into_values() {
                let part = object.pointer(state).unwrap_or(object);
                let (phase, reason) = (text(part, "/phase"), text(part, "/reason"));
                count(of, if reason.is_empty() { phase.to_owned() } else { format!("{phase} {reason}") });
            }
        }
        outcomes
    }
}
