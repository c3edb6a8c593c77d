//! Events of one incident, made and generated.

use jiff::{SignedDuration, Timestamp};
use proptest::{collection::vec, option, prelude::*, strategy::Union};

use crate::{
    api::v1alpha1::{IncidentEvent, IncidentPhase, OnUnknownOutcome, StepWhen, TargetReference},
    events::*,
};

/// Its namespace.
pub const NAMESPACE: &str = "shop";

/// When it opened.
pub fn opened_at() -> Timestamp {
    "2026-01-01T11:00:00Z".parse().unwrap()
}

/// So many milliseconds after that.
pub fn after(ms: i64) -> Timestamp {
    opened_at() + SignedDuration::from_millis(ms)
}

/// Its name.
pub fn name() -> NamespacedName {
    NamespacedName { namespace: NAMESPACE.into(), name: header().incident_id.to_string() }
}

/// An alert by number: it began that many seconds before the incident opened.
pub fn alert(number: i64, status: AlertStatus) -> AlertLink {
    let (fingerprint, starts_at) = (format!("{number:016x}"), after(-1000 * number));
    AlertLink { alert_id: AlertId::new("prom", &fingerprint, starts_at), fingerprint, starts_at, status }
}

/// The header with one alert.
pub fn header() -> IncidentHeader {
    let correlation_id = CorrelationId::new(NAMESPACE, "cpu-high", &["svc-a"]);
    let first = alert(0, AlertStatus::Firing);
    IncidentHeader {
        incident_id: IncidentId::new("cpu-high", &correlation_id, &first.alert_id),
        correlation_id,
        rule: NamespacedName { namespace: NAMESPACE.into(), name: "cpu-high".into() },
        alerts: vec![first],
        alert_count: 1,
        severity: "warning".into(),
        summary: "CPU of svc-a is high".into(),
        opened_at: opened_at(),
        accepted_at: Some(opened_at()),
    }
}

/// What the actions act on.
pub fn target(name: &str) -> TargetReference {
    TargetReference { api_version: "apps/v1".into(), kind: "Deployment".into(), name: name.into() }
}

/// An event that was decided then. `transition` makes its id.
pub fn event(payload: impl Into<Payload>, time: Timestamp, transition: &str) -> Event {
    let payload = payload.into();
    Event {
        id: EventId::new(payload.topic().name(), "x", transition),
        time,
        source: "eventpulse/test".into(),
        subject: "x".into(),
        key: header().incident_id.to_string(),
        traceparent: None,
        payload,
    }
}

/// incident.opened.
pub fn opened(incident: IncidentHeader) -> IncidentOpened {
    IncidentOpened { incident, target: Some(target("svc-a")) }
}

/// action.requested.
pub fn requested(step: &str, step_index: u32, attempt: u32) -> ActionRequested {
    let incident = header();
    ActionRequested {
        action_id: ActionId::new(NAMESPACE, &incident.incident_id, step, attempt),
        incident,
        step: step.into(),
        step_index,
        attempt,
        runbook: format!("runbook-of-{step}"),
        target: target("svc-a"),
        parameters: vec![],
        decided_at: after(10),
        deadline: after(300_000),
        resolves: true,
        last: false,
        on_unknown_outcome: OnUnknownOutcome::Stop,
        when: StepWhen::Ladder,
        undoes: None,
    }
}

/// action.completed of a request.
pub fn completed(request: &ActionRequested) -> ActionCompleted {
    ActionCompleted {
        incident: request.incident.clone(),
        action_id: request.action_id.clone(),
        step: request.step.clone(),
        step_index: request.step_index,
        attempt: request.attempt,
        target: request.target.clone(),
        resolves: request.resolves,
        what: "Deployment/svc-a 3 → 4".into(),
        by: "runbook scale-up as system:serviceaccount:shop:remediator".into(),
    }
}

/// action.failed of a request.
pub fn failed(request: &ActionRequested, reason: ActionFailureReason, ends_ladder: bool) -> ActionFailed {
    ActionFailed {
        incident: request.incident.clone(),
        action_id: request.action_id.clone(),
        step: request.step.clone(),
        step_index: request.step_index,
        attempt: request.attempt,
        target: request.target.clone(),
        reason,
        message: "503 three times".into(),
        by: "runbook scale-up as system:serviceaccount:shop:remediator".into(),
        ends_ladder,
    }
}

/// notification.delivered.
pub fn delivered(delivered_at: Timestamp) -> NotificationDelivered {
    let incident = header();
    NotificationDelivered {
        notification_id: NotificationId::new(NAMESPACE, &incident.incident_id, "ops-slack", "IncidentOpened", "Opened"),
        incident,
        channel: "ops-slack".into(),
        template: "IncidentOpened".into(),
        event: IncidentEvent::Opened,
        delivered_at,
        tries: 1,
        duplicate_possible: false,
    }
}

/// notification.failed.
pub fn undelivered(tries: u32) -> NotificationFailed {
    let message = delivered(after(0));
    NotificationFailed {
        incident: message.incident,
        notification_id: message.notification_id,
        channel: message.channel,
        template: message.template,
        event: message.event,
        message: "connection refused".into(),
        tries,
    }
}

fn time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        30 => (0_i64..40).prop_map(|s| after(250 * s)),
        1 => Just(Timestamp::MIN),
        1 => Just(Timestamp::MAX),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        30 => "[a-c]{1,3}",
        1 => "\\PC{0,30}",
        1 => Just("\"\\\n\u{0}ü".repeat(400)),
    ]
}

fn some_header() -> impl Strategy<Value = IncidentHeader> {
    let status = prop_oneof![Just(AlertStatus::Firing), Just(AlertStatus::Resolved)];
    // Of one alert different beginnings are said: the two of a highly available pair need not agree.
    let link = (0_i64..40, status, 0_i64..3).prop_map(|(number, status, earlier)| {
        let link = alert(number, status);
        AlertLink { starts_at: link.starts_at - SignedDuration::from_secs(earlier), ..link }
    });
    (vec(link, 0..25), 0_u32..50).prop_map(|(alerts, alert_count)| IncidentHeader { alerts, alert_count, ..header() })
}

/// Also two requests for one step that disagree, which no service of ours makes.
fn some_request() -> impl Strategy<Value = ActionRequested> {
    (some_header(), 0_u32..9, 1_u32..4, text(), any::<bool>(), time()).prop_map(
        |(incident, index, attempt, runbook, resolves, decided_at)| {
            let request = requested(&format!("step-{index}"), index, attempt);
            ActionRequested { incident, runbook, resolves, decided_at, ..request }
        },
    )
}

fn some_failure() -> impl Strategy<Value = ActionFailureReason> {
    use ActionFailureReason::*;
    proptest::sample::select(vec![
        RetriesExhausted,
        DeadlineExceeded,
        Refused,
        Forbidden,
        TargetNotFound,
        TargetGoverned,
        InvalidRunbook,
        NothingToDo,
        Stale,
        Suspended,
        OutcomeUnknown,
    ])
}

fn some_payload() -> impl Strategy<Value = Payload> {
    let on = || option::of("svc-[a-c]").prop_map(|name| name.map(|name| target(&name)));
    let how = prop_oneof![
        Just(ResolvedReason::AlertsResolved),
        Just(ResolvedReason::AlertsExpired),
        Just(ResolvedReason::StormOver)
    ];
    let all: Vec<(u32, BoxedStrategy<Payload>)> = vec![
        (2, (some_header(), on()).prop_map(|(incident, target)| IncidentOpened { incident, target }.into()).boxed()),
        (1, (some_header(), how).prop_map(|(incident, reason)| IncidentResolved { incident, reason }.into()).boxed()),
        (5, some_request().prop_map(Payload::from).boxed()),
        (2, (some_request(), text()).prop_map(|(r, what)| ActionCompleted { what, ..completed(&r) }.into()).boxed()),
        (
            4,
            (some_request(), some_failure(), text(), prop::bool::weighted(0.2))
                .prop_map(|(r, why, message, ends)| ActionFailed { message, ..failed(&r, why, ends) }.into())
                .boxed(),
        ),
        (
            3,
            (time(), some_header())
                .prop_map(|(at, incident)| NotificationDelivered { incident, ..delivered(at) }.into())
                .boxed(),
        ),
        (
            3,
            (1_u32..9, text())
                .prop_map(|(tries, message)| NotificationFailed { message, ..undelivered(tries) }.into())
                .boxed(),
        ),
        // Not for incidents: they must change nothing.
        (
            1,
            Just(Payload::from(IncidentUpdated {
                incident: IncidentHeader { alert_count: 999, ..header() },
                phase: IncidentPhase::Resolved,
                cause: UpdateCause::Decision,
                acknowledged: true,
                resolved: true,
                decided_by: None,
            }))
            .boxed(),
        ),
    ];
    Union::new_weighted(all)
}

/// Events of the one incident: the full alphabet, more of each than an incident keeps, with equal, absurd and contradicting ones.
pub fn some_events(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Event>> {
    vec((some_payload(), time()), count).prop_map(|payloads| {
        payloads.into_iter().enumerate().map(|(i, (payload, time))| event(payload, time, &i.to_string())).collect()
    })
}
