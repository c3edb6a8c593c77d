//! The events of a decision, with derived ids: the same decision made again says the same (design, section 3).

use jiff::Timestamp;

use super::{Turn, episode::step_at};
use crate::{
    api::v1alpha1::{
        Episode, GroupAlert, IncidentEvent, OnUnknownOutcome, ResolveOn, StepOutcome, StepState, StepWhen,
    },
    compile::one_line,
    events::{
        ActionFailureReason, ActionId, ActionRequested, AlertDecided, AlertLink, DecisionReason, Event, EventId,
        HEADER_ALERTS_MAX, IncidentHeader, IncidentOpened, IncidentResolved, NamespacedName, NotificationContext,
        NotificationId, NotificationRequested, Payload, ResolvedReason, Topic, target_key,
    },
    mutants::{Mutant, mutated},
    rules::input::{RaisedAlert, plus},
};

/// `ce_source` of what this service decides.
pub const SOURCE: &str = "eventpulse/rules";
/// The most alerts that a message's header links: it may be one of many in one object.
const NOTIFICATION_ALERTS_MAX: usize = 5;

/// The ledger's entry for one alert and one rule, or for none. Its key is its id: for one key the first record counts (promise 1).
pub fn decided(
    raised: &RaisedAlert,
    rule: Option<&NamespacedName>,
    reason: DecisionReason,
    detail: String,
    incident_id: Option<crate::events::IncidentId>,
    now: Timestamp,
) -> Event {
    let alert = &raised.alert;
    // `Debug` of a member without fields is its name.
    let subject = format!("{}/{:?}", raised.alert_id, alert.status);
    let mut transition = rule.map(ToString::to_string).unwrap_or_default();
    if mutated(Mutant::LedgerIdOfTime) {
        transition = format!("{transition}@{now}");
    }
    let id = EventId::new(Topic::AlertDecided.name(), &subject, &transition);
    Event {
        key: id.to_string(),
        id,
        time: now,
        source: SOURCE.into(),
        subject: raised.alert_id.to_string(),
        traceparent: raised.traceparent.clone(),
        payload: AlertDecided {
            alert_id: raised.alert_id.clone(),
            alert_event_id: raised.event_id.clone(),
            source: alert.source.clone(),
            fingerprint: raised.fingerprint.clone(),
            starts_at: alert.starts_at,
            status: alert.status,
            rule: rule.cloned(),
            reason,
            incident_id,
            detail: one_line(&detail, DETAIL_MAX),
        }
        .into(),
    }
}

const DETAIL_MAX: usize = 512;
/// What is tried once, or for the first time.
const ATTEMPT: u32 = 1;

impl Turn<'_> {
    pub(super) fn ledger(&mut self, raised: &RaisedAlert, reason: DecisionReason, detail: String) {
        let open = self.group.episode.as_ref().map(|episode| &episode.incident_id);
        let last = self.group.last_episode.as_ref().map(|ended| &ended.incident_id);
        let incident = match reason {
            DecisionReason::Opened | DecisionReason::Joined => open,
            DecisionReason::Repeated | DecisionReason::Resolved => open.or(last),
            _ => None,
        };
        // The rule matched it once, and by now nobody does.
        let rule = (reason != DecisionReason::NoRule).then_some(&self.key.rule);
        let entry = decided(raised, rule, reason, detail, incident.cloned(), self.now);
        self.outputs.push(entry);
    }

    /// The header of the open incident, with at most `max` of its newest alerts.
    fn header(&self, max: usize) -> Option<IncidentHeader> {
        let episode = self.group.episode.as_ref()?;
        let mut alerts: Vec<&GroupAlert> = self.group.alerts.iter().filter(|alert| alert.in_episode).collect();
        alerts.sort_by(|a, b| (b.starts_at, &b.fingerprint).cmp(&(a.starts_at, &a.fingerprint)));
        Some(IncidentHeader {
            incident_id: episode.incident_id.clone(),
            correlation_id: self.key.correlation.clone(),
            rule: self.key.rule.clone(),
            alerts: alerts
                .into_iter()
                .take(max)
                .map(|alert| AlertLink {
                    alert_id: alert.alert_id.clone(),
                    fingerprint: alert.fingerprint.clone(),
                    starts_at: alert.starts_at,
                    status: alert.status,
                })
                .collect(),
            alert_count: u32::try_from(episode.alert_count).unwrap_or_default(),
            severity: episode.severity.clone(),
            summary: episode.summary.clone(),
            opened_at: episode.opened_at,
            accepted_at: episode.accepted_at,
        })
    }

    fn say(&mut self, payload: Payload, subject: String, transition: &str, key: String) {
        self.say_as_of(self.now, payload, subject, transition, key);
    }

    /// `decided_at` is when it was decided: what is said again keeps its time (design, section 4).
    fn say_as_of(&mut self, decided_at: Timestamp, payload: Payload, subject: String, transition: &str, key: String) {
        // Incidents of the same name may be in two namespaces.
        let about = format!("{}/{subject}", self.key.rule.namespace);
        let id = EventId::new(payload.topic().name(), &about, transition);
        let traceparent = self.group.episode.as_ref().and_then(|episode| episode.traceparent.clone());
        self.outputs.push(Event { id, time: decided_at, source: SOURCE.into(), subject, key, traceparent, payload });
    }

    pub(super) fn say_opened(&mut self) {
        let Some(incident) = self.header(HEADER_ALERTS_MAX) else { return };
        let target =
            self.group.episode.as_ref().and_then(|episode| step_at(episode, 0)).map(|step| step.target.clone());
        let id = incident.incident_id.to_string();
        self.say(IncidentOpened { incident, target }.into(), id.clone(), "opened", id);
    }

    pub(super) fn say_resolved(&mut self, reason: ResolvedReason) {
        let Some(incident) = self.header(HEADER_ALERTS_MAX) else { return };
        let id = incident.incident_id.to_string();
        self.say(IncidentResolved { incident, reason }.into(), id.clone(), "resolved", id);
    }

    /// Requests the step at a place of the ladder, for the first time or again: every time the same.
    pub(super) fn say_requested(&mut self, index: usize) {
        let Some(incident) = self.header(HEADER_ALERTS_MAX) else { return };
        let Some(episode) = &self.group.episode else { return };
        let (Some(state), Some(step)) = (episode.steps.get(index), step_at(episode, index)) else { return };
        let attempt = u32::try_from(state.attempt).unwrap_or(1);
        let namespace = &self.key.rule.namespace;
        let action_id = ActionId::new(namespace, &incident.incident_id, &step.name, attempt);
        let (key, decided_at) = (target_key(namespace, &step.target), state.decided_at);
        let undoes = step.undoes.as_ref().map(|name| action_of(namespace, episode, name));
        let payload = ActionRequested {
            incident,
            action_id: action_id.clone(),
            step: step.name.clone(),
            step_index: u32::try_from(index).unwrap_or_default(),
            attempt,
            runbook: step.runbook.clone(),
            target: step.target.clone(),
            parameters: step.parameters.clone(),
            decided_at,
            deadline: state.deadline,
            resolves: episode.rule.resolve_on == ResolveOn::ActionCompleted,
            last: index + 1 == episode.rule.ladder.len(),
            on_unknown_outcome: step.on_unknown_outcome,
            when: StepWhen::Ladder,
            undoes,
        };
        self.say_as_of(decided_at, payload.into(), action_id.to_string(), "requested", key);
    }

    /// Requests what takes back the steps of an incident that is over. What of a step took effect is for its Action to say: only one
    /// that was never requested, or of which it is known that it did nothing, needs none. A suspended rule takes back nothing.
    pub(super) fn say_requested_on_resolved(&mut self) {
        let Some(incident) = self.header(HEADER_ALERTS_MAX).filter(|_| self.acts()) else { return };
        let Some(episode) = &self.group.episode else { return };
        let may_have_acted = |name: &str| {
            let is_nothing = |step: &StepState| {
                step.outcome == StepOutcome::Failed && step.reason != Some(ActionFailureReason::OutcomeUnknown)
            };
            episode.steps.iter().any(|step| step.step == name && !is_nothing(step))
        };
        let namespace = self.key.rule.namespace.clone();
        let mut requests = Vec::new();
        for (index, step) in episode.rule.on_resolved.iter().enumerate() {
            let Some(undone) = step.undoes.as_deref().filter(|name| may_have_acted(name)) else { continue };
            requests.push(ActionRequested {
                incident: incident.clone(),
                action_id: ActionId::new(&namespace, &incident.incident_id, &step.name, ATTEMPT),
                step: step.name.clone(),
                step_index: u32::try_from(episode.rule.ladder.len() + index).unwrap_or_default(),
                attempt: ATTEMPT,
                runbook: step.runbook.clone(),
                target: step.target.clone(),
                parameters: step.parameters.clone(),
                decided_at: self.now,
                deadline: plus(self.now, step.deadline.as_signed()),
                // The incident is over: nothing of it is decided by what becomes of this.
                resolves: false,
                last: false,
                on_unknown_outcome: OnUnknownOutcome::Continue,
                when: StepWhen::Resolved,
                undoes: Some(action_of(&namespace, episode, undone)),
            });
        }
        for request in requests {
            let (key, id) = (target_key(&namespace, &request.target), request.action_id.to_string());
            self.say(request.into(), id, "requested", key);
        }
    }

    /// Requests every message that the rule wants for this.
    pub(super) fn notify(&mut self, event: IncidentEvent, occurrence: &str, context: NotificationContext) {
        let Some(episode) = &self.group.episode else { return };
        let mut wanted: Vec<(String, String)> = Vec::new();
        for notification in episode.rule.notifications.iter().filter(|wanted| wanted.events.contains(&event)) {
            let pair = (notification.channel.clone(), notification.template.clone());
            if !wanted.contains(&pair) {
                wanted.push(pair);
            }
        }
        for (channel, template) in wanted {
            self.notify_one(&channel, &template, event, occurrence, context.clone());
        }
    }

    /// Requests one message (promise 4: its id is derived from what it says). A suspended rule says nothing.
    pub(super) fn notify_one(
        &mut self,
        channel: &str,
        template: &str,
        event: IncidentEvent,
        occurrence: &str,
        context: NotificationContext,
    ) {
        let Some(incident) = self.header(NOTIFICATION_ALERTS_MAX).filter(|_| self.acts()) else { return };
        let Some(episode) = &self.group.episode else { return };
        let wanted = |n: &&crate::api::v1alpha1::SnapshotNotification| {
            n.channel == channel && n.template == template && n.events.contains(&event)
        };
        let Some(deadline) = episode.rule.notifications.iter().find(wanted).map(|n| n.deadline) else { return };
        let namespace = &self.key.rule.namespace;
        let notification_id = NotificationId::new(namespace, &incident.incident_id, channel, template, occurrence);
        let key = incident.incident_id.to_string();
        let payload = NotificationRequested {
            incident,
            notification_id: notification_id.clone(),
            channel: channel.to_owned(),
            template: template.to_owned(),
            event,
            occurrence: occurrence.to_owned(),
            context,
            decided_at: self.now,
            deadline: plus(self.now, deadline.as_signed()),
        };
        self.say(payload.into(), notification_id.to_string(), "requested", key);
    }
}

/// The action of a step's last attempt: what takes the step back takes back that one.
fn action_of(namespace: &str, episode: &Episode, step: &str) -> ActionId {
    let attempt = episode.steps.iter().rev().find(|known| known.step == step).map(|known| known.attempt);
    let attempt = attempt.and_then(|attempt| u32::try_from(attempt).ok()).unwrap_or(ATTEMPT);
    ActionId::new(namespace, &episode.incident_id, step, attempt)
}
