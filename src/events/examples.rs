//! One example for each topic: the seed's scenario, from the alert to the message. Documentation and tests use the same ones.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::api::v1alpha1::{IncidentEvent, IncidentPhase, OnUnknownOutcome, ParameterValue, StepWhen, TargetReference};

const NAMESPACE: &str = "shop";
const RULE: &str = "cpu-high";
const SOURCE: &str = "alertmanager-main";
const BY: &str = "runbook scale-up as system:serviceaccount:shop:remediator";

/// The example of a topic.
pub(crate) fn example(topic: Topic) -> Event {
    let story = Story::new();
    match topic {
        Topic::AlertRaised => story.event("ingest", "firing", 480, story.raised()),
        Topic::AlertDecided => story.event("rules", "opened", 500, story.decided()),
        Topic::IncidentOpened => {
            let target = Some(story.target());
            story.event("rules", "opened", 500, IncidentOpened { incident: story.header(), target })
        }
        Topic::ActionRequested => story.event("rules", "requested", 500, story.requested()),
        Topic::ActionCompleted => story.event("actions", "completed", 530, story.completed()),
        Topic::ActionFailed => story.event("actions", "failed", 31_000, story.failed()),
        Topic::NotificationRequested => story.event("rules", "requested", 500, story.notification()),
        Topic::NotificationDelivered => story.event("notify", "delivered", 640, story.delivered()),
        Topic::NotificationFailed => story.event("notify", "failed", 3_600_500, story.undelivered()),
        Topic::IncidentUpdated => story.event("incidents", "resolved", 550, story.updated()),
        Topic::IncidentResolved => {
            let incident = IncidentHeader { alerts: vec![story.link(AlertStatus::Resolved)], ..story.header() };
            let reason = ResolvedReason::AlertsResolved;
            story.event("rules", "resolved", 300_500, IncidentResolved { incident, reason })
        }
        Topic::DeadLetter => story.event("rules", "invalidData", 500, story.letter()),
    }
}

/// The facts that the examples share.
struct Story {
    /// When the alert began.
    begin: Timestamp,
    labels: BTreeMap<String, String>,
    fingerprint: String,
    alert_id: AlertId,
    correlation_id: CorrelationId,
    incident_id: IncidentId,
}

impl Story {
    fn new() -> Self {
        let begin = Timestamp::from_second(1_767_323_045).unwrap_or_default();
        let labels =
            texts(&[("alertname", "CPUHigh"), ("namespace", NAMESPACE), ("service", "svc-a"), ("severity", "warning")]);
        let fingerprint = fingerprint_of(&labels);
        let alert_id = AlertId::new(SOURCE, &fingerprint, begin);
        let correlation_id = CorrelationId::new(NAMESPACE, RULE, &["svc-a"]);
        let incident_id = IncidentId::new(RULE, &correlation_id, &alert_id);
        Self { begin, labels, fingerprint, alert_id, correlation_id, incident_id }
    }

    fn at(&self, ms: i64) -> Timestamp {
        self.begin.saturating_add(SignedDuration::from_millis(ms)).unwrap_or(self.begin)
    }

    fn event(&self, service: &str, transition: &str, ms: i64, payload: impl Into<Payload>) -> Event {
        let payload = payload.into();
        let (subject, key) = match &payload {
            Payload::AlertRaised(_) => (self.alert_id.to_string(), alert_key(SOURCE, &self.fingerprint)),
            Payload::AlertDecided(_) => (self.alert_id.to_string(), self.incident_id.to_string()),
            Payload::ActionRequested(data) => (data.action_id.to_string(), format!("{NAMESPACE}/Deployment/svc-a")),
            Payload::ActionCompleted(data) => (data.action_id.to_string(), self.incident_id.to_string()),
            Payload::ActionFailed(data) => (data.action_id.to_string(), self.incident_id.to_string()),
            Payload::NotificationRequested(data) => (data.notification_id.to_string(), self.incident_id.to_string()),
            Payload::NotificationDelivered(data) => (data.notification_id.to_string(), self.incident_id.to_string()),
            Payload::NotificationFailed(data) => (data.notification_id.to_string(), self.incident_id.to_string()),
            Payload::DeadLetter(data) => (data.origin.clone(), data.key.clone().unwrap_or_default()),
            Payload::IncidentOpened(_) | Payload::IncidentResolved(_) | Payload::IncidentUpdated(_) => {
                (self.incident_id.to_string(), self.incident_id.to_string())
            }
        };
        let id = EventId::new(payload.topic().name(), &subject, transition);
        // For one key of the ledger the first record counts.
        let key = if matches!(payload, Payload::AlertDecided(_)) { id.to_string() } else { key };
        Event {
            id,
            time: self.at(ms),
            source: format!("eventpulse/{service}"),
            subject,
            key,
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            payload,
        }
    }

    fn link(&self, status: AlertStatus) -> AlertLink {
        let (alert_id, fingerprint) = (self.alert_id.clone(), self.fingerprint.clone());
        AlertLink { alert_id, fingerprint, starts_at: self.begin, status }
    }

    fn header(&self) -> IncidentHeader {
        IncidentHeader {
            incident_id: self.incident_id.clone(),
            correlation_id: self.correlation_id.clone(),
            rule: NamespacedName { namespace: NAMESPACE.into(), name: RULE.into() },
            alerts: vec![self.link(AlertStatus::Firing)],
            alert_count: 1,
            severity: "warning".into(),
            summary: "CPU of svc-a is above 90 %".into(),
            opened_at: self.at(500),
            accepted_at: Some(self.at(480)),
        }
    }

    fn target(&self) -> TargetReference {
        TargetReference { api_version: "apps/v1".into(), kind: "Deployment".into(), name: "svc-a".into() }
    }

    fn raised(&self) -> AlertRaised {
        AlertRaised {
            alert_id: Some(self.alert_id.clone()),
            source: SOURCE.into(),
            fingerprint: Some(self.fingerprint.clone()),
            status: AlertStatus::Firing,
            labels: self.labels.clone(),
            annotations: texts(&[("summary", "CPU of svc-a is above 90 %")]),
            starts_at: self.begin,
            ends_at: None,
            generator_url: Some("http://prometheus.example/graph?g0.expr=cpu".into()),
            accepted_at: self.at(480),
        }
    }

    fn decided(&self) -> AlertDecided {
        AlertDecided {
            alert_id: self.alert_id.clone(),
            alert_event_id: example(Topic::AlertRaised).id,
            source: SOURCE.into(),
            fingerprint: self.fingerprint.clone(),
            starts_at: self.begin,
            status: AlertStatus::Firing,
            rule: Some(self.header().rule),
            reason: DecisionReason::Opened,
            incident_id: Some(self.incident_id.clone()),
            detail: "no incident of this group was open".into(),
        }
    }

    fn requested(&self) -> ActionRequested {
        ActionRequested {
            incident: self.header(),
            action_id: ActionId::new(NAMESPACE, &self.incident_id, "add-replica", 1),
            step: "add-replica".into(),
            step_index: 0,
            attempt: 1,
            runbook: "scale-up".into(),
            target: self.target(),
            parameters: vec![ParameterValue { name: "delta".into(), value: "1".into() }],
            decided_at: self.at(500),
            deadline: self.at(300_500),
            resolves: true,
            last: false,
            on_unknown_outcome: OnUnknownOutcome::Stop,
            when: StepWhen::Ladder,
            undoes: None,
        }
    }

    fn completed(&self) -> ActionCompleted {
        let request = self.requested();
        ActionCompleted {
            incident: request.incident,
            action_id: request.action_id,
            step: request.step,
            step_index: request.step_index,
            attempt: request.attempt,
            target: request.target,
            resolves: request.resolves,
            what: "Deployment/svc-a 3 → 4".into(),
            by: BY.into(),
        }
    }

    fn failed(&self) -> ActionFailed {
        let request = self.requested();
        ActionFailed {
            incident: request.incident,
            action_id: request.action_id,
            step: request.step,
            step_index: request.step_index,
            attempt: request.attempt,
            target: request.target,
            reason: ActionFailureReason::RetriesExhausted,
            message: "the API server answered 503 to 4 tries".into(),
            by: BY.into(),
            ends_ladder: false,
        }
    }

    fn notification(&self) -> NotificationRequested {
        let (channel, template, occurrence) = ("ops-slack", "IncidentOpened", "Opened");
        NotificationRequested {
            incident: self.header(),
            notification_id: NotificationId::new(NAMESPACE, &self.incident_id, channel, template, occurrence),
            channel: channel.into(),
            template: template.into(),
            event: IncidentEvent::Opened,
            occurrence: occurrence.into(),
            context: NotificationContext {
                target: Some("Deployment/svc-a".into()),
                step: Some("add-replica".into()),
                reason: Some("opened".into()),
                message: Some("1 alert".into()),
                next_step: Some("add-replica".into()),
                repetition: 0,
            },
            decided_at: self.at(500),
            deadline: self.at(3_600_500),
        }
    }

    fn delivered(&self) -> NotificationDelivered {
        let request = self.notification();
        NotificationDelivered {
            incident: request.incident,
            notification_id: request.notification_id,
            channel: request.channel,
            template: request.template,
            event: request.event,
            delivered_at: self.at(640),
            tries: 1,
            duplicate_possible: false,
        }
    }

    fn undelivered(&self) -> NotificationFailed {
        let request = self.notification();
        NotificationFailed {
            incident: request.incident,
            notification_id: request.notification_id,
            channel: request.channel,
            template: request.template,
            event: request.event,
            message: "the channel answered 500".into(),
            tries: 12,
        }
    }

    fn updated(&self) -> IncidentUpdated {
        IncidentUpdated {
            incident: self.header(),
            phase: IncidentPhase::Resolved,
            cause: UpdateCause::Decision,
            acknowledged: true,
            resolved: true,
            decided_by: Some("alice@shop.example".into()),
        }
    }

    fn letter(&self) -> DeadLetter {
        let headers = texts(&[(HEADER_SPECVERSION, "1.0"), (HEADER_TYPE, "io.eventpulse.alert.raised.v1")]);
        dead_letter_of(
            &bytes::Bytes::from_static(b"{\"labels\":[]}"),
            DeadLetterReason::InvalidData,
            "data: invalid type: sequence, expected a map at line 1 column 10".into(),
            "alert.raised/3@1207".into(),
            headers,
            Some(alert_key(SOURCE, &self.fingerprint)),
        )
    }
}

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_the_alert_that_opened_an_incident_while_it_is_told_and_then_the_newest() {
        let seed = Story::new();
        let later = |number: i64| {
            let (fingerprint, starts_at) = (format!("{number:016x}"), seed.at(1_000 * number));
            let alert_id = AlertId::new(SOURCE, &fingerprint, starts_at);
            AlertLink { alert_id, fingerprint, starts_at, status: AlertStatus::Firing }
        };
        let alerts = vec![later(2), later(1), seed.link(AlertStatus::Firing)];
        let mut header = IncidentHeader { alerts, ..seed.header() };
        assert_eq!(header.alert(), Some(&seed.alert_id));
        header.alerts.pop();
        assert_eq!(header.alert(), Some(&later(2).alert_id));
        header.alerts.clear();
        assert_eq!(header.alert(), None, "a storm has none");
    }
}
