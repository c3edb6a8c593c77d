//! Rules, alerts and a group that a test leads through its inputs.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::v1alpha1::{AlertGroupSpec, Episode, GroupAlert, IncidentPhase, Rule},
    compile::{CompiledRule, compile},
    events::{
        ActionCompleted, ActionFailed, ActionFailureReason, ActionRequested, AlertDecided, AlertRaised, AlertStatus,
        DecisionReason, Event, EventId, IncidentHeader, IncidentUpdated, NotificationRequested, Payload, Topic,
        UpdateCause,
    },
    rules::{Adopted, GroupKey, Input, Limits, RaisedAlert, RuleView, decide, next_timer},
};

/// The seed scenario's rule.
pub const CPU_HIGH: &str = r#"
apiVersion: eventpulse.io/v1alpha1
kind: Rule
metadata: {name: cpu-high, namespace: shop, uid: uid-rule, generation: 3, creationTimestamp: "2026-01-01T00:00:00Z"}
spec:
  match:
    matchers: ['alertname="CPUHigh"', 'severity=~"warning|critical"']
    conditions: [{name: has-service, expression: 'has(alert.labels.service)'}]
  groupBy: [service]
  incident:
    severity: $(alert.labels.severity)
    summary: $(alert.annotations.summary)
  actions:
  - name: add-replica
    runbookRef: {name: scale-up}
    targetRef: {apiVersion: apps/v1, kind: Deployment, name: $(alert.labels.service)}
    parameters: [{name: delta, value: "1"}]
  - name: restart
    runbookRef: {name: restart}
    targetRef: {apiVersion: apps/v1, kind: Deployment, name: $(alert.labels.service)}
  notifications:
  - {channelRef: {name: ops}, template: IncidentOpened, events: [Opened]}
  - {channelRef: {name: ops}, template: ActionFailed, events: [ActionFailed]}
  - {channelRef: {name: ops}, template: IncidentFailed, events: [Failed], repeatInterval: 30m}
  - {channelRef: {name: ops}, template: IncidentResolved, events: [Resolved]}
  cooldown: 5m
"#;

pub fn rule(yaml: &str) -> Rule {
    serde_norway::from_str(yaml).expect("a rule")
}

/// The seed scenario's rule with another spec here and there.
pub fn rule_with(change: impl FnOnce(&mut Rule)) -> Rule {
    let mut rule = rule(CPU_HIGH);
    change(&mut rule);
    rule
}

pub fn compiled(rule: &Rule) -> CompiledRule {
    compile(rule).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// Seconds after 2026-01-01T12:00:00Z.
pub fn at(seconds: i64) -> Timestamp {
    let start: Timestamp = "2026-01-01T12:00:00Z".parse().expect("a time");
    start + SignedDuration::from_secs(seconds)
}

/// One delivery of an alert. Times in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub pod: u8,
    pub firing: bool,
    pub starts: i64,
    pub ends: Option<i64>,
    pub accepted: i64,
}

pub fn firing(pod: u8, starts: i64) -> Told {
    Told { pod, firing: true, starts, ends: None, accepted: starts }
}

pub fn resolved(pod: u8, starts: i64, ends: i64) -> Told {
    Told { pod, firing: false, starts, ends: Some(ends), accepted: ends }
}

impl Told {
    pub fn accepted(self, accepted: i64) -> Self {
        Self { accepted, ..self }
    }

    pub fn until(self, ends: i64) -> Self {
        Self { ends: Some(ends), ..self }
    }

    pub fn event(self) -> Event {
        let labels = [
            ("alertname", "CPUHigh".to_owned()),
            ("severity", "warning".to_owned()),
            ("service", "svc-a".to_owned()),
            ("pod", format!("pod-{}", self.pod)),
        ];
        let payload = AlertRaised {
            alert_id: None,
            source: "prom".into(),
            fingerprint: None,
            status: if self.firing { AlertStatus::Firing } else { AlertStatus::Resolved },
            labels: labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            annotations: BTreeMap::from([("summary".to_owned(), "CPU of svc-a is high".to_owned())]),
            starts_at: at(self.starts),
            ends_at: self.ends.map(at),
            generator_url: None,
            accepted_at: at(self.accepted),
        };
        let subject = format!("{self:?}");
        Event {
            id: EventId::new("alert.raised", &subject, ""),
            time: at(self.accepted),
            source: "eventpulse/ingest".into(),
            subject,
            key: format!("key-{}", self.pod),
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            payload: payload.into(),
        }
    }

    pub fn raised(self) -> RaisedAlert {
        let event = self.event();
        let Payload::AlertRaised(alert) = event.payload else { unreachable!("an alert") };
        let now = alert.accepted_at;
        RaisedAlert::read(event.id, event.traceparent, *alert, now).expect("a usable alert")
    }
}

/// One group, its rule, the time, and everything that was said.
pub struct Scenario {
    pub rule: Arc<CompiledRule>,
    pub deleted: bool,
    pub suspended: bool,
    pub storm: bool,
    pub crowded: bool,
    pub behind: bool,
    /// Whether the rule matches the alerts no more: they are delivered for what the group remembers.
    pub unmatched: bool,
    pub adopted: Option<Adopted>,
    pub group: Option<AlertGroupSpec>,
    pub said: Vec<Event>,
    pub now: i64,
}

impl Scenario {
    pub fn new(rule: &Rule) -> Self {
        Self::of(Arc::new(compiled(rule)))
    }

    pub fn of(rule: Arc<CompiledRule>) -> Self {
        Self {
            rule,
            deleted: false,
            suspended: false,
            storm: false,
            crowded: false,
            behind: false,
            unmatched: false,
            adopted: None,
            group: None,
            said: Vec::new(),
            now: 0,
        }
    }

    pub fn seed() -> Self {
        Self::new(&rule(CPU_HIGH))
    }

    pub fn with(change: impl FnOnce(&mut Rule)) -> Self {
        Self::new(&rule_with(change))
    }

    pub fn key(&self) -> GroupKey {
        let raised = firing(0, 0).raised();
        let (correlation, group_by) = self.rule.group_of(&raised.alert.labels, &raised.fingerprint);
        GroupKey { rule: self.rule.name.clone(), correlation, group_by }
    }

    /// Decides one input and keeps what comes out. Gives the new events, the ledger's apart.
    pub fn input(&mut self, input: Input<'_>) -> Vec<Event> {
        let view = RuleView {
            rule: (!self.deleted).then_some(&self.rule),
            suspended: self.suspended || self.deleted,
            storm: self.storm,
            crowded: self.crowded,
            behind: self.behind,
            limits: Limits {
                retention: SignedDuration::from_hours(24 * 7),
                ends_at_grace: SignedDuration::from_mins(5),
            },
        };
        let decision = decide(&self.key(), self.group.as_ref(), self.adopted.as_ref(), input, view, at(self.now));
        assert_eq!(decision.changed, decision.group != self.group, "`changed` is not what happened");
        assert!(!(decision.changed && decision.certain));
        self.group = decision.group;
        self.said.extend(decision.outputs.clone());
        decision.outputs.into_iter().filter(|event| event.topic() != Topic::AlertDecided).collect()
    }

    /// An alert is delivered at the time it was accepted, or at the scenario's time if that is later.
    pub fn alert(&mut self, told: Told) -> DecisionReason {
        self.now = self.now.max(told.accepted);
        self.raised(&told.raised())
    }

    /// The same for an alert that is made by hand.
    pub fn raised(&mut self, raised: &RaisedAlert) -> DecisionReason {
        self.input(if self.unmatched { Input::Remembered(raised) } else { Input::Alert(raised) });
        self.last_entry().reason
    }

    pub fn last_entry(&self) -> AlertDecided {
        let entries = self.said.iter().rev();
        let entry = entries.clone().find_map(|event| match &event.payload {
            Payload::AlertDecided(entry) => Some((**entry).clone()),
            _ => None,
        });
        entry.expect("an entry in the ledger")
    }

    pub fn timer(&mut self, now: i64) -> Vec<Event> {
        self.now = now;
        self.input(Input::Timer)
    }

    pub fn episode(&self) -> &Episode {
        self.group.as_ref().and_then(|group| group.episode.as_ref()).expect("an open incident")
    }

    pub fn is_open(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.episode.is_some())
    }

    pub fn phase(&self) -> IncidentPhase {
        self.episode().phase
    }

    pub fn known(&self, pod: u8) -> GroupAlert {
        let fingerprint = firing(pod, 0).raised().fingerprint;
        let group = self.group.as_ref().expect("a group");
        group.alerts.iter().find(|alert| alert.fingerprint == fingerprint).expect("a known alert").clone()
    }

    /// Seconds until the next thing is due.
    pub fn due(&self) -> Option<i64> {
        let due = next_timer(self.group.as_ref()?)?;
        Some(due.duration_since(at(0)).as_secs())
    }

    pub fn header(&self) -> IncidentHeader {
        self.said.iter().rev().find_map(|event| event.payload.incident().cloned()).expect("an incident")
    }

    /// The last step that was requested.
    pub fn request(&self) -> ActionRequested {
        requests(&self.said).pop().expect("a requested step")
    }

    pub fn completes(&mut self) -> Vec<Event> {
        let result = completed(&self.request());
        self.input(Input::Completed(&result))
    }

    pub fn fails(&mut self, reason: ActionFailureReason) -> Vec<Event> {
        let result = failed(&self.request(), reason);
        self.input(Input::Failed(&result))
    }

    pub fn decides(&mut self, cause: UpdateCause, resolved: bool) -> Vec<Event> {
        let update = IncidentUpdated {
            incident: self.header(),
            phase: IncidentPhase::Open,
            cause,
            acknowledged: true,
            resolved,
            decided_by: Some("ada".into()),
        };
        self.input(Input::Updated(&update))
    }
}

pub fn completed(request: &ActionRequested) -> ActionCompleted {
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

pub fn failed(request: &ActionRequested, reason: ActionFailureReason) -> ActionFailed {
    let request = request.clone();
    let stops = reason == ActionFailureReason::OutcomeUnknown
        && request.on_unknown_outcome == crate::api::v1alpha1::OnUnknownOutcome::Stop;
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
        ends_ladder: request.last || stops,
    }
}

pub fn topics(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(|event| event.topic().name()).collect()
}

pub fn requests(events: &[Event]) -> Vec<ActionRequested> {
    events
        .iter()
        .filter_map(|event| match &event.payload {
            Payload::ActionRequested(request) => Some((**request).clone()),
            _ => None,
        })
        .collect()
}

pub fn messages(events: &[Event]) -> Vec<NotificationRequested> {
    events
        .iter()
        .filter_map(|event| match &event.payload {
            Payload::NotificationRequested(request) => Some((**request).clone()),
            _ => None,
        })
        .collect()
}

/// Channel's template and occurrence of every message.
pub fn said(events: &[Event]) -> Vec<String> {
    messages(events).into_iter().map(|message| format!("{} {}", message.template, message.occurrence)).collect()
}
