//! Groups of alerts: whatever stands in one and whatever happens to it, in whatever order and however often, the decision is total, says
//! what it changed, stays within its bounds, and never begins, asks for or tells one thing twice (promises 1 to 6).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use arbitrary::Unstructured;
use eventpulse::{
    api::v1alpha1::{AlertGroupSpec, GROUP_ALERTS_MAX, IncidentPhase, Rule},
    compile::{CompiledRule, compile},
    events::{
        ActionCompleted, ActionFailed, ActionFailureReason, ActionRequested, AlertRaised, AlertStatus, DecisionReason,
        Event, IncidentUpdated, NotificationRequested, Payload, Topic, UpdateCause,
    },
    rules::{Decision, GroupKey, Input, Limits, RaisedAlert, RuleView, decide, next_timer, quiet_since},
};
use jiff::{SignedDuration, Timestamp};

use crate::check::{after, example_alert, is_kept, is_published, raised, reread};

/// The most inputs of one history.
const INPUTS_MAX: usize = 48;
const RULE: &str = r#"
apiVersion: eventpulse.io/v1alpha1
kind: Rule
metadata: {name: cpu-high, namespace: shop, uid: u, generation: 1, creationTimestamp: "2026-01-01T00:00:00Z"}
spec:
  match: {matchers: ['alertname="CPUHigh"']}
  groupBy: [service]
  incident: {severity: $(alert.labels.severity), summary: $(alert.annotations.summary), resolveOn: RESOLVE_ON}
  actions:
  - name: add-replica
    runbookRef: {name: scale-up}
    targetRef: {apiVersion: apps/v1, kind: Deployment, name: $(alert.labels.service)}
  - name: restart
    runbookRef: {name: restart}
    targetRef: {apiVersion: apps/v1, kind: Deployment, name: $(alert.labels.service)}
  notifications:
  - {channelRef: {name: ops}, template: IncidentOpened, events: [Opened, Mitigating, Resolved]}
  - {channelRef: {name: ops}, template: ActionFailed, events: [ActionFailed]}
  - {channelRef: {name: ops}, template: IncidentFailed, events: [Failed], repeatInterval: 30m}
  cooldown: COOLDOWN
"#;

/// Of each combination one, compiled once.
fn rule(on_alerts: bool, cooldown: bool) -> Arc<CompiledRule> {
    static RULES: OnceLock<Vec<Arc<CompiledRule>>> = OnceLock::new();
    let rules = RULES.get_or_init(|| {
        let all =
            [("ActionCompleted", "0s"), ("AlertResolved", "0s"), ("ActionCompleted", "5m"), ("AlertResolved", "5m")];
        let compiled = |(resolve_on, cooldown): (&str, &str)| {
            let text = RULE.replace("RESOLVE_ON", resolve_on).replace("COOLDOWN", cooldown);
            let rule: Rule = serde_norway::from_str(&text).expect("a rule");
            Arc::new(compile(&rule).expect("a rule that compiles"))
        };
        all.into_iter().map(compiled).collect()
    });
    Arc::clone(&rules[usize::from(on_alerts) + 2 * usize::from(cooldown)])
}

/// What the rule is like when an input comes.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    suspended: bool,
    deleted: bool,
    storm: bool,
    behind: bool,
}

fn key(rule: &CompiledRule) -> GroupKey {
    let alert = raised(example_alert(), "x");
    let (correlation, group_by) = rule.group_of(&alert.alert.labels, &alert.fingerprint);
    GroupKey { rule: rule.name.clone(), correlation, group_by }
}

/// One decision, of which everything is held that holds for every decision.
fn decided(
    rule: &CompiledRule,
    key: &GroupKey,
    group: Option<&AlertGroupSpec>,
    input: Input<'_>,
    state: State,
    now: Timestamp,
) -> Decision {
    let view = RuleView {
        rule: (!state.deleted).then_some(rule),
        suspended: state.suspended || state.deleted,
        storm: state.storm,
        crowded: false,
        behind: state.behind,
        limits: Limits { retention: SignedDuration::from_hours(168), ends_at_grace: SignedDuration::from_mins(5) },
    };
    let decision = decide(key, group, None, input, view, now);
    let again = decide(key, group, None, input, view, now);
    assert_eq!(decision, again, "the same input, another decision");
    assert_eq!(decision.changed, decision.group.as_ref() != group, "`changed` is not what happened");
    assert!(!(decision.changed && decision.certain), "certain of a change");
    if let Some(group) = &decision.group {
        is_kept(group);
        quiet_since(group, now);
    }
    let entries = decision.outputs.iter().filter(|event| event.topic() == Topic::AlertDecided).count();
    assert_eq!(entries, usize::from(matches!(input, Input::Alert(_) | Input::Remembered(_))), "not once in the ledger");
    decision
}

pub(crate) fn group(data: &[u8]) {
    let Ok(read) = serde_json::from_slice::<AlertGroupSpec>(data) else { return };
    is_kept(&read);
    let fingerprints: BTreeSet<&str> = read.alerts.iter().map(|alert| alert.fingerprint.as_str()).collect();
    let is_listed = fingerprints.len() == read.alerts.len() && read.alerts.len() <= GROUP_ALERTS_MAX;
    let rule = rule(true, true);
    let key = key(&rule);
    let fires = told(0, true, -60, None);
    let ends = told(0, false, -60, Some(-1));
    for state in
        [State::default(), State { suspended: true, ..State::default() }, State { deleted: true, ..State::default() }]
    {
        let mut current = read.clone();
        let mut seen = Vec::new();
        for round in 0..2 {
            let now = after(round * 7200);
            for input in [
                Input::Timer,
                Input::Alert(&fires),
                Input::Remembered(&fires),
                Input::RuleChanged,
                Input::StormBegins { threshold: 10 },
                Input::StormEnds,
                Input::Remembered(&ends),
                Input::Alert(&ends),
            ] {
                let decision = decided(&rule, &key, Some(&current), input, state, now);
                current = reread(&decision.group.expect("a group stays"));
                if matches!(input, Input::Timer) {
                    let due = next_timer(&current);
                    assert!(due.is_none_or(|due| due > now), "a timer leaves {due:?} due at {now}");
                }
                decision.outputs.iter().for_each(is_published);
                seen.extend(decision.outputs);
                if is_listed {
                    assert!(current.alerts.len() <= GROUP_ALERTS_MAX, "{} alerts", current.alerts.len());
                }
            }
            current = answered(&rule, &key, &current, &seen, state, now);
        }
    }
}

/// Every request is answered, in one way and then in the other.
fn answered(
    rule: &CompiledRule,
    key: &GroupKey,
    group: &AlertGroupSpec,
    said: &[Event],
    state: State,
    now: Timestamp,
) -> AlertGroupSpec {
    let mut current = group.clone();
    for request in requests(said) {
        let (failed, completed) = (failed(&request, ActionFailureReason::Suspended), completed(&request));
        for input in [Input::Failed(&failed), Input::Completed(&completed)] {
            let decision = decided(rule, key, Some(&current), input, state, now);
            current = reread(&decision.group.expect("a group stays"));
        }
    }
    current
}

pub(crate) fn group_history(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    let Ok((on_alerts, cooldown)) = bytes.arbitrary::<(bool, bool)>() else { return };
    let rule = rule(on_alerts, cooldown);
    let mut scenario = Scenario::new(rule);
    for _ in 0..INPUTS_MAX {
        if bytes.is_empty() || scenario.happens(&mut bytes).is_err() {
            break;
        }
    }
}

/// One group, its rule, the time, and all that was said; with what must never happen.
struct Scenario {
    rule: Arc<CompiledRule>,
    key: GroupKey,
    state: State,
    group: Option<AlertGroupSpec>,
    seconds: i64,
    delivered: Vec<Delivered>,
    requested: Vec<ActionRequested>,
    seen: Seen,
}

/// An input that may come again.
#[derive(Clone, Debug)]
enum Delivered {
    Alert(RaisedAlert),
    Completed(ActionCompleted),
    Failed(ActionFailed),
    Updated(IncidentUpdated),
}

impl Scenario {
    fn new(rule: Arc<CompiledRule>) -> Self {
        let key = key(&rule);
        Self {
            rule,
            key,
            state: State::default(),
            group: None,
            seconds: 0,
            delivered: Vec::new(),
            requested: Vec::new(),
            seen: Seen::default(),
        }
    }

    /// One thing that happens, some seconds after the one before.
    fn happens(&mut self, bytes: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        self.seconds += match bytes.int_in_range(0..=9_u8)? {
            0..=5 => bytes.int_in_range(0..=90)?,
            6..=8 => bytes.int_in_range(0..=900)?,
            _ => 3600 * bytes.int_in_range(1..=14)?,
        };
        let (pod, back) = (bytes.int_in_range(0..=4_u8)?, bytes.int_in_range(0..=300_i64)?);
        let starts = self.seconds - back;
        match bytes.int_in_range(0..=15_u8)? {
            0..=3 => {
                let until = if bytes.arbitrary()? { Some(self.seconds + 240) } else { None };
                self.deliver(Delivered::Alert(self.told(pod, true, starts, until)));
            }
            4..=6 => self.deliver(Delivered::Alert(self.told(pod, false, starts, Some(self.seconds)))),
            7 | 8 => {
                let Some(request) = self.requested.last() else { return Ok(()) };
                self.deliver(Delivered::Completed(completed(request)));
            }
            9 => {
                let Some(request) = self.requested.last() else { return Ok(()) };
                let why = [
                    ActionFailureReason::RetriesExhausted,
                    ActionFailureReason::OutcomeUnknown,
                    ActionFailureReason::Suspended,
                    ActionFailureReason::IncidentResolved,
                ];
                self.deliver(Delivered::Failed(failed(request, *bytes.choose(&why)?)));
            }
            10 => {
                let Some(request) = self.requested.last() else { return Ok(()) };
                self.deliver(Delivered::Updated(decision(request)));
            }
            11 | 12 if !self.delivered.is_empty() => {
                let again = bytes.choose(&self.delivered)?.clone();
                self.deliver(again);
            }
            13 => {
                self.state.suspended = bytes.arbitrary()?;
                self.input(Input::RuleChanged, None);
            }
            14 => {
                (self.state.storm, self.state.behind) = (bytes.arbitrary()?, bytes.arbitrary()?);
                self.input(Input::RuleChanged, None);
            }
            _ => self.input(Input::Timer, None),
        }
        Ok(())
    }

    fn told(&self, pod: u8, firing: bool, starts: i64, ends: Option<i64>) -> RaisedAlert {
        told_at(pod, firing, starts, ends, self.seconds)
    }

    fn deliver(&mut self, delivered: Delivered) {
        self.delivered.push(delivered.clone());
        match &delivered {
            Delivered::Alert(raised) => self.input(Input::Alert(raised), Some(&delivered)),
            Delivered::Completed(result) => self.input(Input::Completed(result), Some(&delivered)),
            Delivered::Failed(result) => self.input(Input::Failed(result), Some(&delivered)),
            Delivered::Updated(update) => self.input(Input::Updated(update), Some(&delivered)),
        }
    }

    fn input(&mut self, input: Input<'_>, delivered: Option<&Delivered>) {
        let now = after(self.seconds);
        let decision = decided(&self.rule, &self.key, self.group.as_ref(), input, self.state, now);
        let was_open = self.group.as_ref().is_some_and(|group| group.episode.is_some());
        self.seen.look(&decision.outputs, delivered, was_open);
        self.group = decision.group.as_ref().map(reread);
        self.requested.extend(requests(&decision.outputs));
        let Some(group) = &self.group else { return };
        assert!(group.alerts.len() <= GROUP_ALERTS_MAX, "{} alerts", group.alerts.len());
        let names: BTreeSet<&str> = group.alerts.iter().map(|alert| alert.fingerprint.as_str()).collect();
        assert_eq!(names.len(), group.alerts.len(), "a fingerprint stands twice");
        if matches!(input, Input::Timer) {
            let due = next_timer(group);
            assert!(due.is_none_or(|due| due > now), "a timer leaves {due:?} due at {now}");
        }
    }
}

/// What was said, for what must never be said twice. The same as `check_safety` of the product's own properties.
#[derive(Default)]
struct Seen {
    opened: BTreeSet<String>,
    actions: BTreeMap<String, ActionRequested>,
    messages: BTreeMap<String, NotificationRequested>,
    failed: BTreeSet<(String, u32)>,
    began: BTreeSet<String>,
}

impl Seen {
    fn look(&mut self, new: &[Event], delivered: Option<&Delivered>, was_open: bool) {
        if let Some(Delivered::Failed(result)) = delivered {
            self.failed.insert((result.incident.incident_id.to_string(), result.step_index));
        }
        let mut repeated = BTreeSet::new();
        let mut is_open = was_open;
        for event in new {
            match &event.payload {
                Payload::IncidentOpened(fact) => {
                    assert!(!is_open, "an incident opened beside another one");
                    assert!(self.opened.insert(fact.incident.incident_id.to_string()), "an incident opened twice");
                    is_open = true;
                }
                Payload::IncidentResolved(_) => is_open = false,
                Payload::ActionRequested(request) => self.action(request),
                Payload::NotificationRequested(message) => {
                    let first = self.messages.insert(message.notification_id.to_string(), (**message).clone());
                    assert!(first.is_none(), "a message was requested twice: {message:?}");
                    if message.context.repetition > 0 {
                        let which = (message.channel.clone(), message.template.clone());
                        assert!(repeated.insert(which), "one timer told the same again and again");
                    }
                }
                Payload::AlertDecided(entry)
                    if matches!(entry.reason, DecisionReason::Opened | DecisionReason::Joined) =>
                {
                    assert!(self.began.insert(entry.alert_event_id.to_string()), "one alert began twice: {entry:?}");
                }
                _ => {}
            }
        }
    }

    /// An action that is asked for again is the same one, and none is asked for before the one before it has failed.
    fn action(&mut self, request: &ActionRequested) {
        let mut fixed = request.clone();
        fixed.incident.alerts.clear();
        fixed.incident.alert_count = 0;
        let incident = request.incident.incident_id.to_string();
        match self.actions.insert(request.action_id.to_string(), fixed.clone()) {
            Some(before) => assert_eq!(before, fixed, "an action was requested again as another one"),
            None if request.step_index > 0 => {
                let before = (incident, request.step_index - 1);
                assert!(self.failed.contains(&before), "a step was requested that nothing failed before");
            }
            None => {}
        }
    }
}

fn told(pod: u8, firing: bool, starts: i64, ends: Option<i64>) -> RaisedAlert {
    told_at(pod, firing, starts, ends, 0)
}

/// An alert of one of some pods, in seconds after noon.
fn told_at(pod: u8, firing: bool, starts: i64, ends: Option<i64>, accepted: i64) -> RaisedAlert {
    let example = example_alert();
    let mut labels = example.labels.clone();
    labels.insert("pod".into(), format!("pod-{pod}"));
    let alert = AlertRaised {
        fingerprint: None,
        status: if firing { AlertStatus::Firing } else { AlertStatus::Resolved },
        labels,
        starts_at: after(starts),
        ends_at: ends.map(after),
        accepted_at: after(accepted),
        ..example
    };
    let id =
        eventpulse::events::EventId::new("alert.raised", &format!("{pod} {firing} {starts} {ends:?} {accepted}"), "");
    RaisedAlert::read(id, None, alert, after(accepted.max(0))).expect("an alert within its bounds")
}

fn requests(events: &[Event]) -> Vec<ActionRequested> {
    let request = |event: &Event| match &event.payload {
        Payload::ActionRequested(request) => Some((**request).clone()),
        _ => None,
    };
    events.iter().filter_map(request).collect()
}

fn completed(request: &ActionRequested) -> ActionCompleted {
    let request = request.clone();
    ActionCompleted {
        incident: request.incident,
        action_id: request.action_id,
        step: request.step,
        step_index: request.step_index,
        attempt: request.attempt,
        target: request.target,
        resolves: request.resolves,
        what: "Deployment/svc-a 3 → 4".into(),
        by: "runbook scale-up".into(),
    }
}

fn failed(request: &ActionRequested, reason: ActionFailureReason) -> ActionFailed {
    let ends_ladder = request.last || reason == ActionFailureReason::OutcomeUnknown;
    let request = request.clone();
    ActionFailed {
        incident: request.incident,
        action_id: request.action_id,
        step: request.step,
        step_index: request.step_index,
        attempt: request.attempt,
        target: request.target,
        reason,
        message: "it did not work".into(),
        by: "runbook scale-up".into(),
        ends_ladder,
    }
}

/// A person resolves the incident of a request.
fn decision(request: &ActionRequested) -> IncidentUpdated {
    IncidentUpdated {
        incident: request.incident.clone(),
        phase: IncidentPhase::Resolved,
        cause: UpdateCause::Decision,
        acknowledged: true,
        resolved: true,
        decided_by: Some("alice".into()),
    }
}
