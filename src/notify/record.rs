//! Between the events and the resource: what a request makes of a notification, and what a notification says. Pure.

use kube::core::ObjectMeta;

use super::deliver::Said;
use crate::{
    api::v1alpha1::{
        IncidentAlert, LABEL_INCIDENT, LABEL_RULE, LocalReference, NOTIFICATION_ALERTS_MAX, Notification,
        NotificationFacts, NotificationIncident, NotificationPhase, NotificationSpec,
    },
    events::{
        CorrelationId, Event, EventId, IncidentHeader, IncidentId, NamespacedName, NotificationContext,
        NotificationDelivered, NotificationFailed, NotificationId, NotificationRequested, Payload, Topic,
    },
};

/// The resource that a request is about.
pub fn name_of_request(request: &NotificationRequested) -> NamespacedName {
    NamespacedName { namespace: request.incident.rule.namespace.clone(), name: request.notification_id.to_string() }
}

/// The state that a request begins with: due at once. Texts beyond the resource's bounds are cut.
pub fn first_state(request: &NotificationRequested, traceparent: Option<&str>) -> NotificationSpec {
    NotificationSpec {
        incident: incident_of(&request.incident),
        rule_ref: LocalReference { name: request.incident.rule.name.clone() },
        channel_ref: LocalReference { name: request.channel.clone() },
        template: cut(&request.template, 63),
        event: request.event,
        occurrence: cut(&request.occurrence, 253),
        context: facts_of(&request.context),
        decided_at: request.decided_at,
        deadline: request.deadline,
        phase: NotificationPhase::Waiting,
        sender: None,
        send_until: None,
        due: Some(request.decided_at),
        tries: 0,
        last_error: None,
        duplicate_possible: false,
        delivered_at: None,
        finished_at: None,
        traceparent: traceparent.filter(|text| text.len() <= 128).map(str::to_owned),
        outbox: Vec::new(),
    }
}

fn incident_of(header: &IncidentHeader) -> NotificationIncident {
    // Newest first, as the header has them; the key of the list must be unique, or the API server refuses the object.
    let mut alerts: Vec<IncidentAlert> = Vec::new();
    for link in &header.alerts {
        if alerts.len() < NOTIFICATION_ALERTS_MAX
            && !alerts.iter().any(|known| known.alert_id == link.alert_id.as_str())
        {
            alerts.push(IncidentAlert {
                starts_at: link.starts_at,
                alert_id: link.alert_id.to_string(),
                fingerprint: cut(&link.fingerprint, 64),
                state: link.status.into(),
            });
        }
    }
    NotificationIncident {
        incident_id: header.incident_id.to_string(),
        correlation_id: header.correlation_id.to_string(),
        severity: cut(&header.severity, 1024),
        summary: cut(&header.summary, 2048),
        opened_at: header.opened_at,
        accepted_at: header.accepted_at,
        alerts,
        alert_count: i32::try_from(header.alert_count).unwrap_or(i32::MAX),
    }
}

fn facts_of(context: &NotificationContext) -> NotificationFacts {
    let bounded = |text: &Option<String>| text.as_deref().map(|text| cut(text, 512));
    NotificationFacts {
        target: bounded(&context.target),
        step: bounded(&context.step),
        reason: bounded(&context.reason),
        message: context.message.as_deref().map(|text| cut(text, 2048)),
        next_step: bounded(&context.next_step),
        repetition: i32::try_from(context.repetition).unwrap_or(i32::MAX),
    }
}

/// The object for a state: a new one, or the one that was read with its state replaced.
pub fn object_of(name: &NamespacedName, current: Option<&Notification>, spec: NotificationSpec) -> Notification {
    match current {
        Some(current) => Notification { metadata: current.metadata.clone(), spec },
        None => {
            let labels = [(LABEL_RULE, &spec.rule_ref.name), (LABEL_INCIDENT, &spec.incident.incident_id)]
                .into_iter()
                // A label's value is at most 63 characters; a longer rule name is in the spec.
                .filter(|(_, value)| value.len() <= 63)
                .map(|(label, value)| (label.to_owned(), value.clone()))
                .collect();
            let metadata = ObjectMeta {
                name: Some(name.name.clone()),
                namespace: Some(name.namespace.clone()),
                labels: Some(labels),
                ..ObjectMeta::default()
            };
            Notification { metadata, spec }
        }
    }
}

/// The event of a state. None for a resource that somebody has edited so that its ids are none.
pub fn event_of(name: &NamespacedName, spec: &NotificationSpec, said: Said, source: String) -> Option<Event> {
    let notification_id = NotificationId::try_from(name.name.clone()).ok()?;
    let incident = header_of(&name.namespace, spec)?;
    let tries = u32::try_from(spec.tries).unwrap_or(0);
    let (channel, template) = (spec.channel_ref.name.clone(), spec.template.clone());
    let key = spec.incident.incident_id.clone();
    let time = spec.finished_at.unwrap_or(spec.decided_at);
    let (topic, payload): (Topic, Payload) = match said {
        Said::Delivered => (
            Topic::NotificationDelivered,
            NotificationDelivered {
                incident,
                notification_id,
                channel,
                template,
                event: spec.event,
                delivered_at: spec.delivered_at.unwrap_or(time),
                tries,
                duplicate_possible: spec.duplicate_possible,
            }
            .into(),
        ),
        Said::Failed => (
            Topic::NotificationFailed,
            NotificationFailed {
                incident,
                notification_id,
                channel,
                template,
                event: spec.event,
                message: spec.last_error.clone().unwrap_or_default(),
                tries,
            }
            .into(),
        ),
    };
    Some(Event {
        id: EventId::new(topic.name(), &name.to_string(), "finished"),
        time,
        source,
        subject: name.name.clone(),
        key,
        traceparent: spec.traceparent.clone(),
        payload,
    })
}

pub(super) fn header_of(namespace: &str, spec: &NotificationSpec) -> Option<IncidentHeader> {
    let incident = &spec.incident;
    Some(IncidentHeader {
        incident_id: IncidentId::try_from(incident.incident_id.clone()).ok()?,
        correlation_id: CorrelationId::try_from(incident.correlation_id.clone()).ok()?,
        rule: NamespacedName { namespace: namespace.to_owned(), name: spec.rule_ref.name.clone() },
        alerts: incident.alerts.iter().filter_map(IncidentAlert::link).collect(),
        alert_count: u32::try_from(incident.alert_count).unwrap_or(0),
        severity: incident.severity.clone(),
        summary: incident.summary.clone(),
        opened_at: incident.opened_at,
        accepted_at: incident.accepted_at,
    })
}

fn cut(text: &str, max: usize) -> String {
    text.chars().take(max).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        events::{AlertId, AlertLink, AlertStatus},
        notify::testing::{noon, request},
    };

    #[test]
    fn a_message_links_a_bounded_number_of_alerts_each_once() {
        let mut asked = request("ops-slack", "Opened");
        let link = |number: i64| {
            let starts_at = noon() + jiff::SignedDuration::from_secs(number / 2);
            let alert_id = AlertId::new("prom", "ab", starts_at);
            AlertLink { alert_id, fingerprint: "ab".into(), starts_at, status: AlertStatus::Firing }
        };
        asked.incident.alerts = (0..100).map(link).collect();
        asked.incident.alert_count = 100;
        let incident = first_state(&asked, None).incident;
        assert_eq!((incident.alerts.len(), incident.alert_count), (NOTIFICATION_ALERTS_MAX, 100));
        assert_ne!(incident.alerts[0].alert_id, incident.alerts[1].alert_id);
    }
}
