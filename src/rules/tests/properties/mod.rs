//! Properties of the decision over generated histories.
//!
//! **Repetition.** A history is a list of 30 and more inputs with their times. It is decided once as it is, and once with copies of
//! earlier inputs put in anywhere later, at the time of that place: single ones and whole suffixes, as a consumer that starts again
//! brings them. Both end the same: the same events with the same ids and contents, the same group, and in the ledger the same first
//! record for each key (promises 1 to 5).
//!
//! **Order.** Inputs that happen at about the same time come in any order, each once or several times. What converges: how many
//! incidents open, what became of each step, which messages are said for which occurrence, whether the alerts' end was said, and what
//! the group knows of each alert in the end. What may differ, because it is the order: which alert of a group is told first, so that
//! the ids derived from it differ; in which record of the ledger an alert is `opened` or `joined` or `repeated`; and whether alerts
//! that follow one another closely are one episode or two, so that the histories keep their episodes apart.
//!
//! **Safety.** Whatever comes, in whatever order, wrong and repeated: see [`check_safety`].

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::RandomState},
    hash::{BuildHasher, Hasher},
    sync::{Arc, OnceLock},
};

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestCaseResult, TestError, TestRng, TestRunner},
};

use super::fixtures::*;
use crate::{
    api::v1alpha1::{AlertGroupSpec, Duration, GROUP_ALERTS_MAX, ResolveOn},
    compile::CompiledRule,
    events::{
        ActionCompleted, ActionFailed, ActionFailureReason, ActionRequested, DecisionReason, Event, IncidentUpdated,
        NotificationRequested, Payload, Topic, UpdateCause,
    },
    mutants::{self, Mutant},
    rules::{Input, RaisedAlert, decide::known_through},
};

mod order;

const CASES: u32 = 1000;
const INPUTS_MIN: usize = 30;
const INPUTS_MAX: usize = 48;

/// What a generated history consists of. Each happens some seconds after the one before.
#[derive(Clone, Debug)]
enum Happens {
    /// The alert of a pod fires, or fires on. `second`: as the other one of a pair tells it. `until`: with an end, as Prometheus does.
    Fires { pod: u8, second: bool, until: bool },
    /// It ends.
    Ends { pod: u8 },
    /// The step that was requested last answers.
    Answers { completes: bool, unknown: bool },
    /// It ends as one of a pair tells it, and the other one goes on.
    Gap { pod: u8 },
    /// The rule is edited, so that it matches the alerts no more, or matches them again.
    Edits { matches: bool },
    /// A person resolves the incident.
    Decides,
    /// What is due is done.
    Timer,
    /// The rule is suspended or taken up again.
    Suspends { suspended: bool },
    /// Nothing for long: an outage.
    Outage { hours: u8 },
}

fn happens() -> impl Strategy<Value = (i64, Happens)> {
    let what = prop_oneof![
        8 => (0..5_u8, any::<bool>(), any::<bool>())
            .prop_map(|(pod, second, until)| Happens::Fires { pod, second, until }),
        5 => (0..5_u8).prop_map(|pod| Happens::Ends { pod }),
        2 => (0..5_u8).prop_map(|pod| Happens::Gap { pod }),
        1 => any::<bool>().prop_map(|matches| Happens::Edits { matches }),
        4 => (any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(completes, unknown)| Happens::Answers { completes, unknown }),
        1 => Just(Happens::Decides),
        6 => Just(Happens::Timer),
        1 => any::<bool>().prop_map(|suspended| Happens::Suspends { suspended }),
        1 => (1..12_u8).prop_map(|hours| Happens::Outage { hours }),
    ];
    (0..400_i64, what)
}

/// Which rule a history is for.
#[derive(Clone, Copy, Debug)]
struct Kind {
    on_alerts: bool,
    cooldown: bool,
    short_expiry: bool,
}

fn kind() -> impl Strategy<Value = Kind> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(on_alerts, cooldown, short_expiry)| Kind {
        on_alerts,
        cooldown,
        short_expiry,
    })
}

impl Kind {
    /// Compiled once: the parser of expressions is much slower than a decision.
    fn rule(self) -> Arc<CompiledRule> {
        static RULES: OnceLock<Vec<Arc<CompiledRule>>> = OnceLock::new();
        let index = usize::from(self.on_alerts) + 2 * usize::from(self.cooldown) + 4 * usize::from(self.short_expiry);
        let rules = RULES.get_or_init(|| {
            (0..8)
                .map(|index| {
                    Arc::new(compiled(&rule_with(|rule| {
                        if index & 1 > 0 {
                            rule.spec.incident.resolve_on = ResolveOn::AlertResolved;
                        }
                        if index & 2 == 0 {
                            rule.spec.cooldown = Duration::default();
                        }
                        if index & 4 > 0 {
                            rule.spec.expire_after = Duration::from_secs(1800);
                        }
                    })))
                })
                .collect()
        });
        Arc::clone(&rules[index])
    }
}

/// An input as it is delivered, with everything that it holds.
#[derive(Clone, Debug)]
enum Delivered {
    Alert(RaisedAlert),
    Completed(ActionCompleted),
    Failed(ActionFailed),
    Updated(IncidentUpdated),
    Timer,
    Suspends(bool),
    Edits(bool),
}

impl Delivered {
    /// Whether it may come again: a timer and a change of the rule are no events.
    fn is_event(&self) -> bool {
        !matches!(self, Delivered::Timer | Delivered::Suspends(_) | Delivered::Edits(_))
    }
}

impl Scenario {
    fn deliver(&mut self, now: i64, delivered: &Delivered) {
        self.now = now;
        match delivered {
            Delivered::Alert(raised) => drop(self.raised(raised)),
            Delivered::Completed(result) => drop(self.input(Input::Completed(result))),
            Delivered::Failed(result) => drop(self.input(Input::Failed(result))),
            Delivered::Updated(update) => drop(self.input(Input::Updated(update))),
            Delivered::Timer => drop(self.input(Input::Timer)),
            Delivered::Edits(matches) => {
                self.unmatched = !matches;
                self.input(Input::RuleChanged);
            }
            Delivered::Suspends(suspended) => {
                self.suspended = *suspended;
                self.input(Input::RuleChanged);
            }
        }
    }
}

/// Plays a script, and keeps every input as it was delivered.
fn play(kind: Kind, script: &[(i64, Happens)]) -> (Scenario, Vec<(i64, Delivered)>) {
    let mut scenario = Scenario::of(kind.rule());
    let mut delivered = Vec::new();
    let mut since: BTreeMap<u8, i64> = BTreeMap::new();
    let mut now = 0;
    for (pause, what) in script {
        now += pause;
        let input = match what {
            Happens::Fires { pod, second, until } => {
                let starts = *since.entry(*pod).or_insert(now);
                let mut told = firing(*pod, starts + if *second { 7 } else { 0 }).accepted(now.max(starts + 7));
                if *until {
                    told = told.until(now + 240);
                }
                now = told.accepted;
                Some(Delivered::Alert(told.raised()))
            }
            Happens::Ends { pod } => {
                since.remove(pod).map(|starts| Delivered::Alert(resolved(*pod, starts, now.max(starts)).raised()))
            }
            Happens::Gap { pod } => {
                since.get(pod).map(|starts| Delivered::Alert(resolved(*pod, *starts, now.max(*starts)).raised()))
            }
            Happens::Edits { matches } => Some(Delivered::Edits(*matches)),
            Happens::Answers { completes, unknown } => answer(&scenario, *completes, *unknown),
            Happens::Decides => scenario.is_open().then(|| Delivered::Updated(decision(&scenario))),
            Happens::Timer => Some(Delivered::Timer),
            Happens::Suspends { suspended } => Some(Delivered::Suspends(*suspended)),
            Happens::Outage { hours } => {
                now += i64::from(*hours) * 3600;
                Some(Delivered::Timer)
            }
        };
        let input = input.unwrap_or(Delivered::Timer);
        scenario.deliver(now, &input);
        delivered.push((now, input));
    }
    (scenario, delivered)
}

fn answer(scenario: &Scenario, completes: bool, unknown: bool) -> Option<Delivered> {
    let request = requests(&scenario.said).pop()?;
    let reason = if unknown { ActionFailureReason::OutcomeUnknown } else { ActionFailureReason::RetriesExhausted };
    Some(if completes {
        Delivered::Completed(completed(&request))
    } else {
        Delivered::Failed(failed(&request, reason))
    })
}

fn decision(scenario: &Scenario) -> IncidentUpdated {
    IncidentUpdated {
        incident: scenario.header(),
        phase: scenario.phase(),
        cause: UpdateCause::Decision,
        acknowledged: true,
        resolved: true,
        decided_by: Some("ada".into()),
    }
}

/// Everything that a history came to.
#[derive(Debug, PartialEq)]
struct Outcome {
    group: Option<AlertGroupSpec>,
    events: BTreeMap<String, Event>,
    ledger: BTreeMap<String, DecisionReason>,
}

fn outcome(scenario: &Scenario) -> Outcome {
    let mut events = BTreeMap::new();
    let mut ledger = BTreeMap::new();
    for event in &scenario.said {
        match &event.payload {
            // For one key the first record counts.
            Payload::AlertDecided(entry) => drop(ledger.entry(event.key.clone()).or_insert(entry.reason)),
            _ => drop(events.insert(event.id.to_string(), event.clone())),
        }
    }
    Outcome { group: scenario.group.clone(), events, ledger }
}

type History =
    (Kind, Vec<(i64, Happens)>, Vec<(prop::sample::Index, prop::sample::Index)>, Vec<(prop::sample::Index, u8)>);

fn history() -> impl Strategy<Value = History> {
    (
        kind(),
        prop::collection::vec(happens(), INPUTS_MIN..INPUTS_MAX),
        prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..20),
        prop::collection::vec((any::<prop::sample::Index>(), 1..10_u8), 0..3),
    )
}

/// **Repetition.**
fn check_repetition((kind, mut script, copies, rewinds): History) -> TestCaseResult {
    // What matched nothing when it came first and matches when it comes again may begin something: the rule says other things now.
    script.retain(|(_, what)| !matches!(what, Happens::Edits { .. }));
    let (once, delivered) = play(kind, &script);
    let mut again: Vec<(i64, Delivered)> = Vec::new();
    for (place, (now, input)) in delivered.iter().enumerate() {
        again.push((*now, input.clone()));
        for (which, after) in &copies {
            let original = which.index(place + 1);
            if after.index(delivered.len()) == place && delivered[original].1.is_event() {
                again.push((*now, delivered[original].1.clone()));
            }
        }
        for (after, length) in &rewinds {
            if after.index(delivered.len()) == place {
                let from = (place + 1).saturating_sub(usize::from(*length));
                let suffix = delivered[from..=place].iter().filter(|(_, input)| input.is_event());
                again.extend(suffix.map(|(_, input)| (*now, input.clone())));
            }
        }
    }
    let mut repeated = Scenario::of(kind.rule());
    for (now, input) in &again {
        repeated.deliver(*now, input);
    }
    let (once, repeated) = (outcome(&once), outcome(&repeated));
    prop_assert_eq!(&once.events, &repeated.events, "a repetition said something");
    prop_assert_eq!(&once.ledger, &repeated.ledger, "a repetition changed the ledger");
    let alerts = |outcome: &Outcome| outcome.group.as_ref().map(|group| (group.alerts.clone(), group.changed_at));
    prop_assert_eq!(alerts(&once), alerts(&repeated), "a repetition changed an alert");
    prop_assert_eq!(&once.group, &repeated.group, "a repetition changed the group");
    Ok(())
}

/// **Safety**, after every single input:
/// 1. an incident opens only when the one before has ended, and each opens once (promise 3);
/// 2. no id is used for two different things: an action or message that is requested again is the same (promises 2 and 4);
/// 3. a step is requested only as the first one, or after the step before has failed;
/// 4. every alert is in the ledger (promise 1);
/// 5. after a timer nothing is due any more, and one timer repeats a message at most once;
/// 6. the group stays within its bounds (promise 6);
/// 7. no alert.raised begins anything twice (promise 5).
fn check_safety(history: History) -> TestCaseResult {
    let (kind, script, copies, _) = history;
    let (_, mut delivered) = play(kind, &script);
    // Now in whatever order, with whatever copies.
    for (from, to) in &copies {
        let copy = delivered[from.index(delivered.len())].clone();
        let place = to.index(delivered.len());
        delivered.insert(place, copy);
    }
    let mut scenario = Scenario::of(kind.rule());
    let mut seen = Seen::default();
    let mut now = 0;
    for (place, (time, input)) in delivered.iter().enumerate() {
        now = now.max(*time);
        // Half of the answers are to what was really asked; the others are of another history.
        let real = if place % 2 == 0 && matches!(input, Delivered::Completed(_) | Delivered::Failed(_)) {
            answer(&scenario, matches!(input, Delivered::Completed(_)), false)
        } else {
            None
        };
        let input = real.as_ref().unwrap_or(input);
        let before = scenario.said.len();
        scenario.deliver(now, input);
        let new = scenario.said.split_off(before);
        seen.look(input, &new, &scenario)?;
        scenario.said.extend(new);
    }
    Ok(())
}

#[derive(Default)]
struct Seen {
    opened: BTreeSet<String>,
    open: bool,
    actions: BTreeMap<String, ActionRequested>,
    messages: BTreeMap<String, NotificationRequested>,
    failed: BTreeSet<(String, u32)>,
    began: BTreeSet<String>,
}

impl Seen {
    fn look(&mut self, input: &Delivered, new: &[Event], scenario: &Scenario) -> TestCaseResult {
        let mut repeated: BTreeSet<(String, String)> = BTreeSet::new();
        if let Delivered::Failed(result) = input {
            self.failed.insert((result.incident.incident_id.to_string(), result.step_index));
        }
        for event in new {
            match &event.payload {
                Payload::IncidentOpened(fact) => {
                    prop_assert!(!self.open, "an incident opened beside another one");
                    prop_assert!(self.opened.insert(fact.incident.incident_id.to_string()), "an incident opened twice");
                    self.open = true;
                }
                Payload::ActionRequested(request) => self.action(request)?,
                Payload::NotificationRequested(message) => {
                    let id = message.notification_id.to_string();
                    let first = self.messages.insert(id, (**message).clone());
                    prop_assert!(first.is_none(), "a message was requested twice");
                    if message.context.repetition > 0 {
                        let which = (message.channel.clone(), message.template.clone());
                        prop_assert!(repeated.insert(which), "one timer told the same again and again");
                    }
                }
                _ => {}
            }
        }
        self.open = scenario.is_open();
        if let Delivered::Alert(raised) = input {
            let entries = new.iter().filter(|event| event.topic() == Topic::AlertDecided).count();
            prop_assert_eq!(entries, 1, "{} is not in the ledger", raised.alert_id);
            let began = new.iter().any(|event| {
                let Payload::AlertDecided(entry) = &event.payload else { return false };
                matches!(entry.reason, DecisionReason::Opened | DecisionReason::Joined)
            });
            // Copies may have been put in before they were accepted.
            if began && raised.alert.accepted_at <= at(scenario.now) {
                prop_assert!(self.began.insert(raised.event_id.to_string()), "one alert began twice");
            }
        }
        if matches!(input, Delivered::Timer) {
            let due = scenario.due();
            prop_assert!(due.is_none_or(|due| due > scenario.now), "due at {:?}, at {}", due, scenario.now);
        }
        if let Some(group) = &scenario.group {
            prop_assert!(group.alerts.len() <= GROUP_ALERTS_MAX);
            let names: BTreeSet<&str> = group.alerts.iter().map(|alert| alert.fingerprint.as_str()).collect();
            prop_assert_eq!(names.len(), group.alerts.len(), "a fingerprint stands twice");
        }
        Ok(())
    }

    fn action(&mut self, request: &ActionRequested) -> TestCaseResult {
        // The header tells of the alerts as they are now; everything else is fixed.
        let mut fixed = request.clone();
        fixed.incident.alerts.clear();
        fixed.incident.alert_count = 0;
        let incident = request.incident.incident_id.to_string();
        match self.actions.insert(request.action_id.to_string(), fixed.clone()) {
            Some(before) => prop_assert_eq!(before, fixed, "an action was requested again as another one"),
            None if request.step_index > 0 => {
                let before = (incident, request.step_index - 1);
                prop_assert!(self.failed.contains(&before), "a step was requested that nothing failed before");
            }
            None => {}
        }
        Ok(())
    }
}

fn runner(cases: u32, rng: TestRng) -> TestRunner {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
    TestRunner::new_with_rng(config, rng)
}

/// The same histories every time.
fn fixed() -> TestRunner {
    runner(Config::default().cases.max(CASES), TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// The seed of the histories that are others every time. One that failed is played again by this variable.
const SEED: &str = "EVENTPULSE_PROPERTY_SEED";

fn seed() -> u64 {
    let random = || RandomState::new().build_hasher().finish();
    std::env::var(SEED).ok().map_or_else(random, |text| text.parse().expect("a seed is a number"))
}

/// A property must hold for the fixed histories, and for others each time.
fn must_hold<S: Strategy>(strategy: &S, property: impl Fn(S::Value) -> TestCaseResult) {
    if let Err(error) = fixed().run(strategy, &property) {
        panic!("{error}");
    }
    let seed = seed();
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    if let Err(error) = runner(CASES / 4, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)).run(strategy, &property) {
        panic!("{SEED}={seed}: {error}");
    }
}

#[test]
fn repetitions_change_nothing() {
    must_hold(&history(), check_repetition);
}

#[test]
fn the_order_of_what_happens_at_once_does_not_matter() {
    must_hold(&order::bursts(), order::check_order);
}

#[test]
fn nothing_unsafe_is_ever_decided() {
    must_hold(&history(), check_safety);
}

/// Each fault that a test puts into the decision makes a property fail, and for the reason that it should.
#[test]
fn four_sabotages_are_caught() {
    for (fault, caught) in [
        (Mutant::RepetitionOpens, "an incident opened twice"),
        (Mutant::OldEvidenceCounts, "one alert began twice"),
        (Mutant::KnownFailureCounts, "a message was requested twice"),
        (Mutant::OutageRepeatsAll, "due at"),
    ] {
        let result = mutants::with(fault, || fixed().run(&history(), check_safety));
        let Err(TestError::Fail(reason, _)) = result else { panic!("{fault:?} was not noticed: {result:?}") };
        assert!(reason.message().contains(caught), "{fault:?} was noticed by {reason}, and not by {caught}");
    }
    for fault in [Mutant::RepetitionOpens, Mutant::OldEvidenceCounts, Mutant::KnownFailureCounts] {
        let result = mutants::with(fault, || fixed().run(&history(), check_repetition));
        assert!(result.is_err(), "{fault:?} was not noticed by its repetition");
    }
}
