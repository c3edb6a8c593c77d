//! What the tests of this room share.

use jiff::Timestamp;
use kube::api::ObjectMeta;

use super::record::first_state;
use crate::{
    api::v1alpha1::{IncidentEvent, Notification, NotificationSpec},
    events::{
        AlertId, AlertLink, AlertStatus, CorrelationId, IncidentHeader, IncidentId, NamespacedName,
        NotificationContext, NotificationId, NotificationRequested,
    },
};

pub fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// It is noon.
pub fn noon() -> Timestamp {
    at("2026-01-01T12:00:00Z")
}

/// A request of noon, which may be sent for an hour. `occurrence` tells requests of one incident apart.
pub fn request(channel: &str, occurrence: &str) -> NotificationRequested {
    let correlation_id = CorrelationId::new("shop", "cpu-high", &["svc-a"]);
    let alert_id = AlertId::new("alertmanager", "00000000000000aa", noon());
    let incident_id = IncidentId::new("cpu-high", &correlation_id, &alert_id);
    let template = "IncidentOpened";
    NotificationRequested {
        notification_id: NotificationId::new("shop", &incident_id, channel, template, occurrence),
        incident: IncidentHeader {
            incident_id,
            correlation_id,
            rule: NamespacedName { namespace: "shop".into(), name: "cpu-high".into() },
            alerts: vec![AlertLink {
                alert_id,
                fingerprint: "00000000000000aa".into(),
                starts_at: noon(),
                status: AlertStatus::Firing,
            }],
            alert_count: 1,
            severity: "warning".into(),
            summary: "CPU of svc-a above 90 %".into(),
            opened_at: noon(),
            accepted_at: Some(noon()),
        },
        channel: channel.into(),
        template: template.into(),
        event: IncidentEvent::Opened,
        occurrence: occurrence.into(),
        context: NotificationContext::default(),
        decided_at: noon(),
        deadline: at("2026-01-01T13:00:00Z"),
    }
}

/// The state that [`request`] begins with.
pub fn spec() -> NotificationSpec {
    first_state(&request("ops-slack", "Opened"), None)
}

/// An object with that state.
pub fn object(name: &str, namespace: &str) -> Notification {
    let metadata = ObjectMeta { name: Some(name.into()), namespace: Some(namespace.into()), ..ObjectMeta::default() };
    Notification { metadata, spec: spec() }
}
