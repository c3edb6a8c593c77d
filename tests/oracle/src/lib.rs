//! Judges a history by the promises of the design (section 2), from what can be seen outside: what was accepted, every change at the
//! API server, every record on the log, every message that arrived.
//!
//! In: an [`Observed`] history that has come to rest. Out: its [`Violation`]s. May not touch: the product, in any way; what a field is
//! called here is what the documentation says. Each promise has a file of its own.

mod bounds;
mod effects;
mod incidents;
mod justified;
mod ledger;
mod messages;
mod outcomes;
mod repetition;
mod rest;
mod view;

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::Timestamp;
use serde_json::Value;

pub use outcomes::Outcomes;

/// Everything that was seen of a history, each list in its order.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Alerts that were answered with 2xx.
    pub accepted: Vec<Accepted>,
    /// What was answered with 2xx and is no alert: the annotation [`BROKEN`] of each.
    pub broken: Vec<String>,
    /// Changes of what the API server keeps.
    pub writes: Vec<Write>,
    /// What the log holds, topic by topic.
    pub records: Vec<Record>,
    /// What arrived outside.
    pub messages: Vec<Message>,
    /// When everything on the log was given to the services once more; none: it was not.
    pub repeated_at: Option<Timestamp>,
    /// Alert names that some rule matches, and which rules, as `namespace/name`; none: the rules were changed meanwhile.
    pub rules_of: Option<BTreeMap<String, Vec<String>>>,
    /// What an incident of a rule (`namespace/name`) asks for; of a rule that is not here nothing is known.
    pub asks_of: BTreeMap<String, Asks>,
    /// What the setting can lead to beside what is usual.
    pub possible: Possible,
    /// Whether all clocks agreed: only then can times that two of them have told be compared.
    pub clocks_agree: bool,
    /// Whether every alert has ended and everything had time to come to rest.
    pub at_rest: bool,
}

/// The annotation that tells one alert that is none from another.
pub const BROKEN: &str = "broken";

/// The phases of an Action in which nothing more is to be done for it.
pub const ACTION_ENDS: [&str; 3] = ["Completed", "Failed", "Skipped"];
/// The phases of a Notification in which nothing more is to be done for it.
pub const NOTIFICATION_ENDS: [&str; 3] = ["Delivered", "Failed", "Stale"];

/// What an incident asks for, by the rule that opens it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// The first step of its ladder; none: it has none.
    pub step: Option<String>,
    /// The messages about its events.
    pub messages: Vec<Told>,
    /// Whether it has a cooldown.
    pub cooldown: bool,
}

/// A message that a rule wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Where to.
    pub channel: String,
    /// In which words.
    pub template: String,
    /// Of what: `Opened`, `Failed` and so on.
    pub event: String,
}

/// What is no fault of EventPulse in this setting: who ends something for one of these reasons has one.
#[derive(Clone, Debug, Default)]
pub struct Possible {
    /// Reasons of alerts (docs/reasons.md) beyond those that every setting knows: `stale`, `storm`, `invalid`, `refused`.
    pub alerts: Vec<&'static str>,
    /// Channels whose receiver refuses for good.
    pub refusing_channels: Vec<&'static str>,
    /// Reasons of actions that did not take effect, beyond those whose cause is seen: `Refused`, `RetriesExhausted`.
    pub actions: Vec<&'static str>,
    /// For how long, in seconds, one service may not hear what another one hears.
    pub deaf_s: i64,
}

/// An alert that was answered with 2xx. A distinct one is what all four of the first fields make.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Accepted {
    /// The configured name of its sender.
    pub source: String,
    /// As Alertmanager has it.
    pub fingerprint: String,
    /// When it began to fire.
    pub starts_at: Timestamp,
    /// `firing` or `resolved`.
    pub status: String,
    /// Its label `alertname`.
    pub name: String,
}

/// A change of what the API server keeps.
#[derive(Clone, Debug)]
pub struct Write {
    /// When it was committed.
    pub at: Timestamp,
    /// Whether EventPulse made it.
    pub ours: bool,
    /// As whom, where EventPulse spoke for another account.
    pub account: Option<String>,
    /// Plural name of the kind, like `deployments`.
    pub kind: String,
    /// Namespace and name.
    pub object: (String, String),
    /// As it was; none: it was created.
    pub before: Option<Arc<Value>>,
    /// As it is; none: it was removed.
    pub after: Option<Arc<Value>>,
}

/// A record on the log.
#[derive(Clone, Debug)]
pub struct Record {
    /// The topic, without a prefix.
    pub topic: String,
    /// When it was taken.
    pub at: Timestamp,
    /// Its header `ce_id`, where there is one.
    pub id: Option<String>,
    /// Its data, where it is JSON.
    pub data: Value,
}

/// A message that arrived outside, whatever was answered.
#[derive(Clone, Debug)]
pub struct Message {
    /// When.
    pub at: Timestamp,
    /// The idempotency key.
    pub key: String,
    /// Whether it says that it may be a second copy.
    pub marked: bool,
    /// Whether the receiver said that it has it.
    pub taken: bool,
    /// The incident, the channel, the template and the occurrence that it says it is of.
    pub of: (String, String, String, String),
}

/// What must hold (design, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// 1: nothing accepted is lost; each ends in exactly one reason for each rule.
    NothingLost,
    /// 2: at most one committed effect for each action.
    NothingTwice,
    /// 3: one incident for one episode.
    OneIncident,
    /// 4: one notification for each occasion; a second copy is marked.
    OneNotification,
    /// 5: what comes again changes nothing.
    RepetitionIsNothing,
    /// 6: nothing grows without bound.
    Bounded,
    /// Everything comes to an end that says what happened.
    ComesToRest,
    /// What ends otherwise than it should has a cause that can be seen.
    HasACause,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Promise::NothingLost => "promise 1, nothing is lost",
            Promise::NothingTwice => "promise 2, nothing is done twice",
            Promise::OneIncident => "promise 3, one incident for one episode",
            Promise::OneNotification => "promise 4, one notification for one occasion",
            Promise::RepetitionIsNothing => "promise 5, what comes again changes nothing",
            Promise::Bounded => "promise 6, nothing grows without bound",
            Promise::ComesToRest => "everything comes to rest",
            Promise::HasACause => "whatever is not done has a cause",
        })
    }
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What it breaks.
    pub promise: Promise,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.what)
    }
}

/// Collects what is found of one promise.
struct Findings<'a>(Promise, &'a mut Vec<Violation>);

impl Findings<'_> {
    fn add(&mut self, what: impl Into<String>) {
        self.1.push(Violation { promise: self.0, what: what.into() });
    }
}

/// Every violation that can be seen.
pub fn judge(observed: &Observed) -> Vec<Violation> {
    let mut found = Vec::new();
    ledger::judge(observed, &mut Findings(Promise::NothingLost, &mut found));
    effects::judge(observed, &mut Findings(Promise::NothingTwice, &mut found));
    incidents::judge(observed, &mut Findings(Promise::OneIncident, &mut found));
    messages::judge(observed, &mut Findings(Promise::OneNotification, &mut found));
    repetition::judge(observed, &mut Findings(Promise::RepetitionIsNothing, &mut found));
    bounds::judge(observed, &mut Findings(Promise::Bounded, &mut found));
    rest::judge(observed, &mut Findings(Promise::ComesToRest, &mut found));
    justified::judge(observed, &mut Findings(Promise::HasACause, &mut found));
    found
}

#[cfg(test)]
mod tests;
