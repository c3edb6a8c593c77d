//! The decision: what an input means for a group of alerts (design, section 5, rules). Pure and total.
//!
//! In: the group as it was read, one input, the rule as it is now, the time. Out: the group as it is to be written, and the events
//! that belong to it. The same arguments give the same answer, so a decision that could not be written is simply made again.
//! Nothing here is random or asks a clock, and ids are derived, so a repetition says the same under the same names (promise 5).

mod alerts;
mod episode;
mod events;
mod storm;
mod timers;

use jiff::{SignedDuration, Timestamp};

pub(super) use alerts::known_through;
pub use events::decided;
pub use timers::next_timer;

use super::input::{Expiry, Input, plus};
use crate::{
    api::v1alpha1::{AlertGroupSpec, Duration, GroupAlert, LabelValues, LocalReference, StepOutcome},
    compile::CompiledRule,
    events::{AlertLink, AlertStatus, CorrelationId, Event, IncidentId, IncidentPhase, NamespacedName},
    mutants::{Mutant, mutated},
};

/// Which group it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupKey {
    /// The rule; its namespace is the group's.
    pub rule: NamespacedName,
    /// The group's id, and its resource's name.
    pub correlation: CorrelationId,
    /// The values of the groupBy labels.
    pub group_by: LabelValues,
}

/// The rule as it is now: `suspend` and deletion are read live, everything else from the snapshot of the open incident.
#[derive(Clone, Copy, Debug)]
pub struct RuleView<'a> {
    /// The rule; none when it is deleted or does not compile.
    pub rule: Option<&'a CompiledRule>,
    /// Whether nothing new may begin: it is suspended or deleted.
    pub suspended: bool,
    /// Whether the rule has so many open groups that no further one opens.
    pub storm: bool,
    /// Whether so many groups wait for the storm's end that further alerts are only counted.
    pub crowded: bool,
    /// Whether alerts may wait in the log: then nothing opens but by an alert itself, for the end of one that was held may be there.
    pub behind: bool,
    /// What the service is configured with.
    pub limits: Limits,
}

/// Lengths of time that are the service's and not a rule's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long the topics keep their records: for so long a repetition may come.
    pub retention: SignedDuration,
    /// How long after its `endsAt` an alert is believed: Prometheus moves it with every repetition.
    pub ends_at_grace: SignedDuration,
}

/// An unfinished incident that was found for a group which is created first: the group was deleted under it.
#[derive(Clone, Debug, PartialEq)]
pub struct Adopted {
    /// The incident.
    pub incident_id: IncidentId,
    /// When it opened.
    pub opened_at: Timestamp,
    /// Its severity.
    pub severity: String,
    /// Its summary.
    pub summary: String,
    /// Its state.
    pub phase: IncidentPhase,
    /// Its alerts.
    pub alerts: Vec<AlertLink>,
    /// Its steps: name, attempt, what became of it.
    pub steps: Vec<(String, i32, StepOutcome)>,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The group to write; none where nothing is remembered.
    pub group: Option<AlertGroupSpec>,
    /// Whether it differs from the one that was read.
    pub changed: bool,
    /// Where nothing changes: whether an older state would have said the same, so that the cache may be believed.
    pub certain: bool,
    /// What is said: the ledger's reasons, and what follows from the decision.
    pub outputs: Vec<Event>,
}

/// Decides one input. `adopted` counts only where there is no group yet.
pub fn decide(
    key: &GroupKey,
    group: Option<&AlertGroupSpec>,
    adopted: Option<&Adopted>,
    input: Input<'_>,
    rule: RuleView<'_>,
    now: Timestamp,
) -> Decision {
    let blank = blank(key, now);
    let mut turn = Turn {
        key,
        rule,
        now,
        group: group.unwrap_or(&blank).clone(),
        only_known: matches!(input, Input::Remembered(_)),
        certain: false,
        outputs: Vec::new(),
    };
    match (group, adopted, input) {
        (None, Some(adopted), Input::Alert(raised)) => turn.adopt(adopted, raised),
        (None, _, Input::Alert(_) | Input::Remembered(_) | Input::StormBegins { .. }) | (Some(_), ..) => {}
        // A group that nobody remembers has no incident that a result or a timer could concern.
        (None, ..) => return Decision { group: None, changed: false, certain: false, outputs: Vec::new() },
    }
    match input {
        Input::Alert(raised) | Input::Remembered(raised) => turn.alert(raised),
        Input::Completed(result) => turn.completed(result),
        Input::Failed(result) => turn.failed(result),
        Input::Updated(update) => turn.updated(update),
        Input::Timer => turn.timer(),
        Input::RuleChanged => turn.rule_changed(),
        Input::StormBegins { threshold } => turn.storm_begins(threshold, adopted),
        Input::StormEnds => turn.storm_ends(),
    }
    turn.settle();
    turn.finish_turn(group.unwrap_or(&blank), group.is_some())
}

fn blank(key: &GroupKey, now: Timestamp) -> AlertGroupSpec {
    AlertGroupSpec {
        rule_ref: LocalReference { name: key.rule.name.clone() },
        correlation_id: key.correlation.clone(),
        group_by: key.group_by.clone(),
        episode: None,
        last_episode: None,
        alerts: Vec::new(),
        firing: 0,
        cooldown_until: None,
        storm: None,
        next_timer: None,
        changed_at: now,
        outbox: Vec::new(),
    }
}

/// One decision while it is made.
struct Turn<'a> {
    key: &'a GroupKey,
    rule: RuleView<'a>,
    now: Timestamp,
    group: AlertGroupSpec,
    /// Whether the input counts only for what the group knows already: the rule does not match it any more.
    only_known: bool,
    certain: bool,
    outputs: Vec<Event>,
}

impl Turn<'_> {
    /// Whether further steps and messages may be requested.
    fn acts(&self) -> bool {
        !self.rule.suspended
    }

    fn accept_window(&self) -> SignedDuration {
        self.rule.rule.map_or(SignedDuration::from_hours(1), |rule| rule.accept_window.as_signed())
    }

    fn expiry(&self) -> Expiry {
        Expiry { expire_after: self.expire_after(), ends_at_grace: self.rule.limits.ends_at_grace }
    }

    fn expire_after(&self) -> SignedDuration {
        let live = self.rule.rule.map(|rule| rule.expire_after);
        let snapshot = self.group.episode.as_ref().map(|episode| episode.rule.expire_after);
        live.or(snapshot).unwrap_or(Duration::from_secs(12 * 3600)).as_signed()
    }

    /// What follows of the state itself, whatever changed it: a waiting step, the end, a beginning that was held back.
    fn settle(&mut self) {
        if self.group.episode.is_some() {
            self.request_pending_step();
            self.finish_when_clear();
        } else {
            self.open_held();
        }
    }

    fn finish_turn(mut self, before: &AlertGroupSpec, existed: bool) -> Decision {
        self.group.alerts.sort_by(|a, b| a.fingerprint.cmp(&b.fingerprint));
        self.group.firing = count(&self.group.alerts, |alert| alert.status == AlertStatus::Firing);
        if self.group != *before {
            self.forget_old();
            self.group.next_timer = next_timer(&self.group);
        }
        let changed = self.group != *before;
        if changed {
            self.group.changed_at = self.now;
        }
        let group = (existed || changed).then_some(self.group);
        Decision { group, changed, certain: self.certain && !changed, outputs: self.outputs }
    }

    /// Ended alerts are remembered as long as their repetitions may come (promise 6).
    fn forget_old(&mut self) {
        let memory = match mutated(Mutant::InputsForgotten) {
            true => SignedDuration::ZERO,
            false => self.rule.limits.retention.max(self.accept_window()),
        };
        let now = self.now;
        self.group.alerts.retain(|alert| {
            alert.status == AlertStatus::Firing || alert.in_episode || plus(last_touched(alert), memory) > now
        });
    }
}

/// Since when a group is over: no incident, no alert that fires, nothing more to say; none while it is not.
pub fn quiet_since(group: &AlertGroupSpec, now: Timestamp) -> Option<Timestamp> {
    let is_over = group.episode.is_none()
        && group.storm.as_ref().is_none_or(|storm| storm.ended_at.is_some())
        && group.outbox.is_empty()
        && group.cooldown_until.is_none_or(|until| until <= now)
        && group.alerts.iter().all(|alert| alert.status == AlertStatus::Resolved);
    is_over.then(|| group.alerts.iter().map(last_touched).fold(group.changed_at, Timestamp::max))
}

fn last_touched(alert: &GroupAlert) -> Timestamp {
    [Some(alert.accepted_at), Some(alert.last_starts_at), alert.ends_at, alert.closed_through]
        .into_iter()
        .flatten()
        .max()
        .unwrap_or(alert.accepted_at)
}

fn count(alerts: &[GroupAlert], which: impl Fn(&GroupAlert) -> bool) -> i32 {
    i32::try_from(alerts.iter().filter(|alert| which(alert)).count()).unwrap_or(i32::MAX)
}
