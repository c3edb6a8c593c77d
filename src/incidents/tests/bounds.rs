//! Nothing grows without bound (promise 6), and nothing that somebody wrote by hand stops the service.

use proptest::prelude::*;

use super::make::*;
use crate::{
    api::v1alpha1::{
        HistoryEntry, INCIDENT_ACTIONS_MAX, INCIDENT_ALERTS_MAX, INCIDENT_HISTORY_MAX, Incident, IncidentPhase,
        IncidentStatus, OutboxEntry,
    },
    events::*,
    incidents::{
        evolve::{Input, evolve},
        fold::{Change, Circumstances, Unusable, fold, subject},
    },
};

/// An incident's most bytes of JSON, its outbox with it.
const INCIDENT_BYTES_MAX: usize = 32 * 1024;

fn circumstances() -> Circumstances {
    Circumstances {
        now: after(3_600_000),
        create_after: after(-3_600_000),
        create_from_message_after: after(-3_600_000),
        verified_since: None,
        source: "eventpulse/incidents".into(),
    }
}

/// The worst that can be said: every text as long as it may be and full of what JSON writes longer.
fn worst_events() -> Vec<Event> {
    let long = "\"".repeat(5_000);
    let incident = IncidentHeader {
        alerts: (0..500).map(|i| AlertLink { fingerprint: long.clone(), ..alert(i, AlertStatus::Resolved) }).collect(),
        alert_count: u32::MAX,
        severity: long.clone(),
        summary: long.clone(),
        ..header()
    };
    let mut events =
        vec![event(IncidentOpened { incident: incident.clone(), target: Some(target(&long)) }, after(0), "o")];
    for i in 0..100 {
        let mut request = requested(&format!("{i}{long}"), i, 1);
        request.incident = incident.clone();
        request.target = target(&long);
        request.runbook.clone_from(&long);
        let failure = ActionFailed {
            message: long.clone(),
            by: long.clone(),
            ..failed(&request, ActionFailureReason::DeadlineExceeded, true)
        };
        let transition = i.to_string();
        events.push(event(failure, after(i64::from(i)), &transition));
        events.push(event(
            ActionCompleted { what: long.clone(), by: long.clone(), ..completed(&request) },
            after(i64::from(i)),
            &transition,
        ));
        events.push(event(request, after(i64::from(i)), &transition));
    }
    events
}

#[test]
fn an_incident_stays_below_32_kb_whatever_is_said() {
    let events = worst_events();
    let batch: Vec<&Event> = events.iter().collect();
    let Change::Write { mut incident, updated: Some(updated) } = fold(&name(), None, &batch, &circumstances()) else {
        panic!("nothing written");
    };
    incident.spec.decided_by = Some("u".repeat(253));
    incident.spec.acknowledged = true;
    incident.spec.resolved = true;
    let Change::Write { mut incident, .. } = fold(&name(), Some(&incident), &[], &circumstances()) else {
        panic!("the decision is not written");
    };
    let status = incident.status.as_mut().unwrap();
    status.outbox = vec![OutboxEntry::try_from(&updated).unwrap()];
    assert_eq!(status.alerts.len(), INCIDENT_ALERTS_MAX);
    assert_eq!(status.actions.len(), INCIDENT_ACTIONS_MAX);
    assert!(status.history.len() > 8, "{}", status.history.len());
    for entry in &status.history {
        assert!(serde_json::to_string(entry).unwrap().len() <= 900);
    }
    let size = serde_json::to_string(&incident).unwrap().len();
    assert!((20_000..INCIDENT_BYTES_MAX).contains(&size), "{size}");
}

#[test]
fn the_newest_32_entries_of_the_history_are_kept() {
    let events: Vec<Event> =
        (0..50).map(|i| event(undelivered(i), after(i64::from(i)), &i.to_string())).rev().collect();
    let status = events.iter().fold(None, |status: Option<IncidentStatus>, event| {
        Some(evolve(status.as_ref(), opened_at(), &Input::Event(event)))
    });
    let history = status.unwrap().history;
    assert_eq!(history.len(), INCIDENT_HISTORY_MAX);
    assert_eq!((history[0].time, history[31].time), (after(18), after(49)));
}

#[test]
fn an_event_that_would_break_a_path_or_stay_the_newest_for_ever_is_refused() {
    let now = after(0);
    let with = |change: &dyn Fn(&mut IncidentHeader)| {
        let mut header = header();
        change(&mut header);
        event(opened(header), now, "x")
    };
    for namespace in ["", "..", "a/b", "Shop", "a%2fb", &"n".repeat(64)] {
        let event = with(&|header| header.rule.namespace = namespace.into());
        assert!(matches!(subject(&event, now), Err(Unusable::BadName { field: "namespace", .. })), "{namespace:?}");
    }
    for rule in ["", "-", "a b", "x/y", &"r".repeat(64)] {
        let event = with(&|header| header.rule.name = rule.into());
        assert!(matches!(subject(&event, now), Err(Unusable::BadName { field: "name", .. })), "{rule:?}");
    }
    let late = with(&|header| header.opened_at = jiff::Timestamp::MAX);
    assert!(matches!(subject(&late, now), Err(Unusable::Future { field: "incident.openedAt", .. })));
    let late = event(opened(header()), after(25 * 3_600_000), "x");
    assert!(matches!(subject(&late, now), Err(Unusable::Future { field: "ce_time", .. })));
    assert_eq!(subject(&with(&|_| {}), now), Ok(name()));
    let letter = DeadLetter {
        reason: DeadLetterReason::InvalidData,
        message: String::new(),
        origin: String::new(),
        headers: Default::default(),
        key: None,
        data: String::new(),
        truncated: false,
    };
    assert_eq!(subject(&event(letter, now, "x"), now), Err(Unusable::NoIncident));
}

#[test]
fn a_time_far_ahead_of_its_event_does_not_stay_the_newest_for_ever() {
    let mut message = delivered(jiff::Timestamp::MAX);
    message.incident.alerts[0].starts_at = jiff::Timestamp::MAX;
    let status = evolve(None, opened_at(), &Input::Event(&event(message, after(0), "d")));
    assert_eq!(status.last_notified_at, Some(after(24 * 3_600_000)));
    assert_eq!(status.alerts[0].starts_at, after(24 * 3_600_000));
}

/// What somebody can write into the status with `kubectl edit --subresource=status`, as far as its schema allows.
fn nonsense() -> IncidentStatus {
    let long = "\u{7f}\"".repeat(4_000);
    IncidentStatus {
        phase: IncidentPhase::Resolved,
        target: Some(long.clone()),
        alert_count: i32::MIN,
        last_notified_at: Some(jiff::Timestamp::MIN),
        failed_at: Some(jiff::Timestamp::MAX),
        history: (0..32)
            .map(|i| HistoryEntry {
                time: jiff::Timestamp::MIN,
                id: format!("{i}"),
                event: long.clone(),
                by: long.clone(),
                what: long.clone(),
            })
            .collect(),
        outbox: vec![OutboxEntry {
            id: "../..".into(),
            topic: "no.topic".into(),
            key: long.clone(),
            subject: long,
            time: jiff::Timestamp::MIN,
            traceparent: None,
            tracestate: None,
            data: "{".into(),
        }],
        observed_generation: Some(i64::MAX),
        ..IncidentStatus::default()
    }
}

#[test]
fn a_status_of_nonsense_becomes_one_that_can_be_written() {
    let events = [event(opened(header()), after(0), "o")];
    let Change::Write { mut incident, .. } = fold(&name(), None, &[&events[0]], &circumstances()) else { panic!() };
    incident.status = Some(nonsense());
    incident.spec.correlation_id = "NOT an id".into();
    let Change::Write { incident, updated } = fold(&name(), Some(&incident), &[&events[0]], &circumstances()) else {
        panic!("nothing written");
    };
    assert_eq!(updated, None, "an incident whose ids are no ids cannot be told of");
    let status = incident.status.as_ref().unwrap();
    assert_eq!((status.phase, status.alert_count), (IncidentPhase::Resolved, 1));
    let reasons: Vec<&str> = status.conditions.iter().map(|condition| condition.reason.as_str()).collect();
    assert_eq!(reasons, ["Unrecorded", "NotAcknowledged", "Resolved"]);
    let again: Incident = serde_json::from_str(&serde_json::to_string(&incident).unwrap()).unwrap();
    assert_eq!(fold(&name(), Some(&again), &[&events[0]], &circumstances()), Change::None);
}

proptest! {
    #[test]
    fn whatever_is_said_can_be_written_and_read_again(events in some_events(1..60)) {
        let batch: Vec<&Event> = events.iter().collect();
        if let Change::Write { incident, .. } = fold(&name(), None, &batch, &circumstances()) {
            let text = serde_json::to_string(&incident).unwrap();
            prop_assert!(text.len() < INCIDENT_BYTES_MAX);
            prop_assert_eq!(serde_json::from_str::<Incident>(&text).unwrap(), *incident);
        }
    }
}
