//! The lifecycle by example, as the design says it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, Time};
use serde_json::json;

use super::make::*;
use crate::{
    api::v1alpha1::{Incident, IncidentActionState, IncidentAlertState, IncidentPhase, IncidentStatus},
    events::*,
    incidents::fold::{Change, Circumstances, fold, forget_all_but_who_decided},
};

fn circumstances() -> Circumstances {
    Circumstances {
        now: after(60_000),
        create_after: after(-3_600_000),
        create_from_message_after: after(-3_600_000),
        verified_since: None,
        source: "eventpulse/incidents".into(),
    }
}

fn write(current: Option<&Incident>, events: &[Event], at: &Circumstances) -> (Incident, Option<Event>) {
    let batch: Vec<&Event> = events.iter().collect();
    match fold(&name(), current, &batch, at) {
        Change::Write { incident, updated } => (*incident, updated),
        other => panic!("{other:?}"),
    }
}

fn after_events(events: &[Event]) -> IncidentStatus {
    write(None, events, &circumstances()).0.status.unwrap()
}

fn condition(status: &IncidentStatus, kind: &str) -> (String, String, String) {
    let found = status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
    (found.status.clone(), found.reason.clone(), found.last_transition_time.0.to_string())
}

fn decided(incident: &Incident, acknowledged: bool, resolved: bool, by: &str, generation: i64) -> Incident {
    let mut incident = incident.clone();
    incident.spec.acknowledged = acknowledged;
    incident.spec.resolved = resolved;
    incident.spec.decided_by = Some(by.into());
    incident.metadata.generation = Some(generation);
    incident.metadata.managed_fields = Some(vec![ManagedFieldsEntry {
        time: Some(Time(after(50_000))),
        fields_v1: Some(FieldsV1(json!({"f:spec": {"f:acknowledged": {}, "f:decidedBy": {}}}))),
        ..ManagedFieldsEntry::default()
    }]);
    incident
}

#[test]
fn each_event_gives_the_phase_that_the_design_says() {
    let request = requested("add-replica", 0, 1);
    let resolved = IncidentResolved { incident: header(), reason: ResolvedReason::AlertsResolved };
    let stays = ActionCompleted { resolves: false, ..completed(&request) };
    let cases: [(&str, Payload, IncidentPhase); 8] = [
        ("opened", opened(header()).into(), IncidentPhase::Open),
        ("delivered", delivered(after(1)).into(), IncidentPhase::Open),
        ("requested", request.clone().into(), IncidentPhase::Mitigating),
        ("completed, resolves", completed(&request).into(), IncidentPhase::Resolved),
        ("completed, does not resolve", stays.into(), IncidentPhase::Mitigating),
        ("failed", failed(&request, ActionFailureReason::Refused, false).into(), IncidentPhase::Mitigating),
        ("failed, ends the ladder", failed(&request, ActionFailureReason::Refused, true).into(), IncidentPhase::Failed),
        ("alerts resolved", resolved.into(), IncidentPhase::Resolved),
    ];
    for (what, payload, phase) in cases {
        assert_eq!(after_events(&[event(payload, after(5), "x")]).phase, phase, "{what}");
    }
}

#[test]
fn an_action_that_resolves_is_shown_in_full() {
    let request = requested("add-replica", 0, 1);
    let status = after_events(&[
        event(opened(header()), after(0), "o"),
        event(request.clone(), after(10), "r"),
        event(delivered(after(400)), after(401), "d"),
        event(completed(&request), after(1_250), "c"),
    ]);
    assert_eq!(status.phase, IncidentPhase::Resolved);
    assert_eq!(status.target.as_deref(), Some("Deployment/svc-a"));
    assert_eq!(status.last_action.as_deref(), Some("add-replica Completed"));
    assert_eq!((status.last_notified_at, status.resolved_at), (Some(after(400)), Some(after(1_250))));
    assert_eq!(
        condition(&status, "Resolved"),
        ("True".into(), "ActionCompleted".into(), "2026-01-01T11:00:01Z".into())
    );
    assert_eq!(condition(&status, "Failed").0, "False");
    let action = &status.actions[0];
    assert_eq!(
        (action.state, action.requested_at, action.finished_at),
        (IncidentActionState::Completed, Some(after(10)), Some(after(1_250)))
    );
    let history: Vec<String> =
        status.history.iter().map(|entry| format!("{} | {} | {}", entry.event, entry.by, entry.what)).collect();
    assert_eq!(
        history,
        [
            "incident.opened | rule cpu-high | opened: CPU of svc-a is high",
            "action.requested | rule cpu-high | add-replica requested: runbook runbook-of-add-replica on Deployment/svc-a",
            "notification.delivered | channel ops-slack | IncidentOpened delivered for Opened",
            "action.completed | runbook scale-up as system:serviceaccount:shop:remediator | Deployment/svc-a 3 → 4",
        ]
    );
}

#[test]
fn a_ladder_that_ends_without_success_fails_and_still_resolves_when_its_alerts_clear() {
    let (first, second) = (requested("add-replica", 0, 1), requested("restart", 1, 1));
    let mut events = vec![
        event(first.clone(), after(0), "1"),
        event(failed(&first, ActionFailureReason::Stale, false), after(1_000), "2"),
        event(second.clone(), after(2_000), "3"),
        event(failed(&second, ActionFailureReason::OutcomeUnknown, true), after(3_000), "4"),
    ];
    let status = after_events(&events);
    assert_eq!(status.phase, IncidentPhase::Failed);
    assert_eq!(condition(&status, "Failed"), ("True".into(), "OutcomeUnknown".into(), "2026-01-01T11:00:03Z".into()));
    assert_eq!(status.last_action.as_deref(), Some("restart Failed (outcomeUnknown)"));
    assert_eq!(status.actions[0].state, IncidentActionState::SkippedStale);
    let resolved = IncidentResolved { incident: header(), reason: ResolvedReason::AlertsExpired };
    events.push(event(resolved, after(9_000), "5"));
    let status = after_events(&events);
    assert_eq!(condition(&status, "Resolved"), ("True".into(), "AlertsExpired".into(), "2026-01-01T11:00:09Z".into()));
    assert_eq!(condition(&status, "Failed"), ("False".into(), "Resolved".into(), "2026-01-01T11:00:09Z".into()));
    assert_eq!(status.failed_at, Some(after(3_000)));
}

#[test]
fn a_transition_time_moves_only_with_its_status() {
    let request = requested("add-replica", 0, 1);
    let first = [event(request.clone(), after(0), "r"), event(completed(&request), after(1_000), "c")];
    let (incident, _) = write(None, &first, &circumstances());
    let later = [
        event(IncidentResolved { incident: header(), reason: ResolvedReason::AlertsResolved }, after(99_000), "x"),
        event(delivered(after(99_000)), after(99_000), "y"),
    ];
    let (after_more, _) = write(Some(&incident), &later, &circumstances());
    assert_eq!(after_more.status.unwrap().conditions, incident.status.unwrap().conditions);
}

#[test]
fn any_event_creates_the_missing_incident_unless_it_is_too_old() {
    let request = requested("add-replica", 0, 1);
    for payload in [Payload::from(completed(&request)), undelivered(3).into(), opened(header()).into()] {
        let mut event = event(payload, after(5), "x");
        event.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
        let (incident, updated) = write(None, std::slice::from_ref(&event), &circumstances());
        assert_eq!(incident.spec.summary, "CPU of svc-a is high");
        let trace = TraceContext::read(event.traceparent.as_deref()).unwrap();
        assert_eq!(incident.spec.traceparent, Some(trace.of_incident(&header()).to_string()));
        assert_eq!(incident.metadata.labels.unwrap()["eventpulse.io/rule"], "cpu-high");
        let updated = updated.unwrap();
        assert_eq!(updated.payload.incident(), Some(&IncidentHeader { accepted_at: None, ..header() }));
        assert_eq!((updated.key.as_str(), updated.topic()), (name().name.as_str(), Topic::IncidentUpdated));
        let late = Circumstances { create_after: after(1), create_from_message_after: after(1), ..circumstances() };
        assert_eq!(fold(&name(), None, &[&event], &late), Change::Stale);
    }
}

#[test]
fn what_became_of_a_message_brings_no_incident_back_that_may_have_been_deleted() {
    let of_a_message: [Payload; 2] = [undelivered(3).into(), delivered(after(400)).into()];
    let deleted = Circumstances { create_from_message_after: after(1), ..circumstances() };
    for payload in of_a_message {
        let late = event(payload, after(5), "x");
        assert_eq!(fold(&name(), None, &[&late], &deleted), Change::Stale);
        // Beside something else that creates it, it counts.
        let begin = event(opened(header()), after(0), "o");
        let Change::Write { incident, .. } = fold(&name(), None, &[&late, &begin], &deleted) else { panic!() };
        assert_eq!(incident.status.unwrap().history.len(), 2);
    }
}

#[test]
fn an_alert_that_ended_stays_ended_whichever_beginning_is_told_of_it() {
    let link = |starts_at, status| AlertLink { starts_at: after(starts_at), ..alert(1, status) };
    let told = [link(10, AlertStatus::Firing), link(5, AlertStatus::Resolved)];
    for order in [[0, 1], [1, 0]] {
        let events = order.map(|i: usize| {
            let header = IncidentHeader { alerts: vec![told[i].clone()], ..header() };
            event(opened(header), after(20), &i.to_string())
        });
        let (incident, _) = write(None, &events, &circumstances());
        let alerts = incident.status.unwrap().alerts;
        assert_eq!((alerts.len(), alerts[0].starts_at, alerts[0].state), (1, after(5), IncidentAlertState::Resolved));
    }
}

#[test]
fn a_persons_decision_resolves_and_names_the_person() {
    let (incident, _) = write(None, &[event(opened(header()), after(0), "o")], &circumstances());
    let acknowledged = decided(&incident, true, false, "alice", 2);
    let (acknowledged, updated) = write(Some(&acknowledged), &[], &circumstances());
    let Payload::IncidentUpdated(data) = updated.unwrap().payload else { panic!() };
    assert_eq!((data.cause, data.acknowledged, data.resolved), (UpdateCause::Decision, true, false));
    assert_eq!(data.decided_by.as_deref(), Some("alice"));
    let status = acknowledged.status.as_ref().unwrap();
    assert_eq!((status.phase, status.acknowledged_at), (IncidentPhase::Open, Some(after(60_000))));
    assert_eq!(condition(status, "Acknowledged").0, "True");
    assert_eq!(status.observed_generation, Some(2));
    assert_eq!(fold(&name(), Some(&acknowledged), &[], &circumstances()), Change::None);

    let resolved = decided(&acknowledged, true, true, "bob", 3);
    let (resolved, updated) = write(Some(&resolved), &[], &circumstances());
    let Payload::IncidentUpdated(data) = updated.unwrap().payload else { panic!() };
    assert_eq!((data.cause, data.phase, data.resolved), (UpdateCause::Decision, IncidentPhase::Resolved, true));
    let status = resolved.status.unwrap();
    assert_eq!(condition(&status, "Resolved").1, "Decision");
    let people: Vec<(&str, &str)> = status
        .history
        .iter()
        .filter(|entry| entry.event == "decision")
        .map(|entry| (entry.by.as_str(), entry.what.as_str()))
        .collect();
    assert_eq!(people.len(), 2);
    assert!(people.contains(&("alice (unverified)", "acknowledged")));
    assert!(people.contains(&("bob (unverified)", "resolved")));
}

#[test]
fn a_name_is_verified_only_if_the_policy_was_there_before_it_was_written() {
    let (incident, _) = write(None, &[event(opened(header()), after(0), "o")], &circumstances());
    let mut acknowledged = decided(&incident, true, false, "alice", 2);
    for (since, by) in
        [(None, "alice (unverified)"), (Some(after(50_000)), "alice (unverified)"), (Some(after(49_000)), "alice")]
    {
        let at = Circumstances { verified_since: since, ..circumstances() };
        let status = write(Some(&acknowledged), &[], &at).0.status.unwrap();
        assert_eq!(status.history[1].by, by, "{since:?}");
        assert_eq!(status.decisions[0].verified, by == "alice");
    }
    acknowledged.metadata.managed_fields = None;
    let at = Circumstances { verified_since: Some(after(0)), ..circumstances() };
    assert!(!write(Some(&acknowledged), &[], &at).0.status.unwrap().decisions[0].verified);
}

#[test]
fn who_decided_is_kept_of_the_managed_fields_and_nothing_else() {
    let (mut incident, _) = write(None, &[event(opened(header()), after(0), "o")], &circumstances());
    let foreign = ManagedFieldsEntry {
        time: Some(Time(after(50_000))),
        fields_v1: Some(FieldsV1(json!({"f:status": {"f:phase": {}}, "f:spec": {"f:summary": {}}}))),
        ..ManagedFieldsEntry::default()
    };
    incident.metadata.managed_fields = Some(vec![foreign.clone()]);
    forget_all_but_who_decided(&mut incident);
    assert_eq!(incident.metadata.managed_fields, None);
    let at = Circumstances { verified_since: Some(after(49_000)), ..circumstances() };
    let mut whole = decided(&incident, true, false, "alice", 2);
    whole.metadata.managed_fields.get_or_insert_default().insert(0, foreign);
    let mut kept = whole.clone();
    forget_all_but_who_decided(&mut kept);
    assert_eq!(kept.metadata.managed_fields.as_ref().map(Vec::len), Some(1));
    let status = |incident| write(Some(incident), &[], &at).0.status.unwrap();
    assert!(status(&kept).decisions[0].verified);
    assert_eq!(status(&kept), status(&whole));
}

#[test]
fn of_two_decisions_in_two_writes_nobody_is_named_for_sure() {
    let (incident, _) = write(None, &[event(opened(header()), after(0), "o")], &circumstances());
    let at = Circumstances { verified_since: Some(after(0)), ..circumstances() };
    let by = |generation| {
        let status = write(Some(&decided(&incident, true, true, "bob", generation)), &[], &at).0.status.unwrap();
        status.decisions.iter().map(|decision| (decision.by.clone(), decision.verified)).collect::<Vec<_>>()
    };
    assert_eq!(by(2), vec![("bob".to_owned(), true); 2]);
    assert_eq!(by(3), vec![("bob or another user".to_owned(), false); 2]);
}

#[test]
fn of_one_moment_the_opening_comes_first_in_the_history() {
    let request = requested("add-replica", 0, 1);
    for ids in [["a", "z"], ["z", "a"]] {
        let events = [event(request.clone(), after(0), ids[0]), event(opened(header()), after(0), ids[1])];
        let told: Vec<String> = after_events(&events).history.into_iter().map(|entry| entry.event).collect();
        assert_eq!(told, ["incident.opened", "action.requested"], "{ids:?}");
    }
}
