//! An incident from its opening to its end: the ladder, the messages, people, timers, adoption.

use super::fixtures::*;
use crate::{
    api::v1alpha1::{
        AlertGroup, AlertGroupSpec, Duration, GROUP_SIZE_MAX, IncidentEvent, IncidentPhase, LocalReference,
        OnUnknownOutcome, OutboxEntry, ParameterValue, ResolveOn, RuleAction, RuleNotification, StepOutcome, StepWhen,
    },
    events::{
        ActionFailureReason, ActionId, AlertLink, AlertStatus, DecisionReason::*, IncidentId, Topic, UpdateCause,
    },
    rules::{Adopted, Input, group::fitted, quiet_since},
    runtime::{Owned, Rank},
};

#[test]
fn a_completed_step_resolves_the_incident() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    assert_eq!(group.phase(), IncidentPhase::Mitigating);
    group.now = 5;
    let events = group.completes();
    assert_eq!(said(&events), ["IncidentResolved Resolved"]);
    assert_eq!(topics(&events).len(), 1, "its own event says that it is over");
    let spec = group.group.as_ref().unwrap();
    assert_eq!((spec.episode.is_none(), spec.cooldown_until), (true, Some(at(305))));
    assert!(group.completes().is_empty(), "a known result counted again");
}

#[test]
fn each_failure_requests_the_next_step_and_the_last_one_fails_the_incident() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    let first = group.fails(ActionFailureReason::RetriesExhausted);
    assert_eq!(topics(&first), ["notification.requested", "action.requested"]);
    assert_eq!(said(&first), ["ActionFailed ActionFailed/add-replica/1"]);
    let context = &messages(&first)[0].context;
    assert_eq!(context.reason.as_deref(), Some("retriesExhausted"));
    assert_eq!(context.next_step.as_deref(), Some("restart"));
    assert!(group.request().last);
    let last = group.fails(ActionFailureReason::Refused);
    assert_eq!(said(&last), ["ActionFailed ActionFailed/restart/1", "IncidentFailed Failed/0"]);
    assert_eq!(messages(&last)[0].context.next_step, None);
    assert_eq!(group.phase(), IncidentPhase::Failed);
    assert_eq!(group.alert(firing(2, 30)), Joined);
    group.alert(resolved(1, 0, 60));
    group.alert(resolved(2, 30, 60));
    assert!(!group.is_open(), "a failed incident resolves when its alerts clear");
}

#[test]
fn what_leads_to_a_target_goes_first_then_what_people_are_told_then_the_rest() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    let spec = group.group.clone().unwrap();
    let rank = |without: &[Topic]| {
        let events = group.said.iter().filter(|event| !without.contains(&event.topic()));
        let outbox = events.map(|event| OutboxEntry::try_from(event).unwrap()).collect();
        AlertGroup { metadata: Default::default(), spec: AlertGroupSpec { outbox, ..spec.clone() } }.rank()
    };
    assert_eq!(rank(&[]), Rank::ToTarget { urgent: false });
    assert_eq!(rank(&[Topic::ActionRequested]), Rank::Record { precedes_message: true });
    assert_eq!(rank(&[Topic::ActionRequested, Topic::NotificationRequested]), Rank::LAST);
}

#[test]
fn results_that_are_not_of_this_step_and_try_change_nothing() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    let request = group.request();
    let before = group.group.clone();
    let mut other_try = failed(&request, ActionFailureReason::Refused);
    other_try.attempt = 2;
    other_try.action_id = ActionId::new("shop", &request.incident.incident_id, "add-replica", 2);
    let mut other_incident = completed(&request);
    other_incident.incident.incident_id = IncidentId::try_from("cpu-high-aaaaaaaaaa".to_owned()).unwrap();
    let mut forged = completed(&request);
    forged.step = "restart".into();
    let mut unknown = completed(&request);
    unknown.action_id = ActionId::try_from("made-up".to_owned()).unwrap();
    assert!(group.input(Input::Failed(&other_try)).is_empty());
    for result in [other_incident, forged, unknown] {
        assert!(group.input(Input::Completed(&result)).is_empty());
    }
    assert_eq!(group.group, before);
    // The first step's failure again, after the second was requested.
    let failure = failed(&request, ActionFailureReason::Refused);
    group.input(Input::Failed(&failure));
    let before = group.group.clone();
    assert!(group.input(Input::Failed(&failure)).is_empty());
    assert_eq!(group.group, before);
}

#[test]
fn an_unknown_outcome_stops_the_ladder_unless_the_rule_says_otherwise() {
    let mut stops = Scenario::seed();
    stops.alert(firing(1, 0));
    let events = stops.fails(ActionFailureReason::OutcomeUnknown);
    assert_eq!(topics(&events), ["notification.requested"; 2]);
    assert_eq!(stops.phase(), IncidentPhase::Failed);
    let mut goes_on = Scenario::with(|rule| rule.spec.actions[0].on_unknown_outcome = OnUnknownOutcome::Continue);
    goes_on.alert(firing(1, 0));
    goes_on.fails(ActionFailureReason::OutcomeUnknown);
    assert_eq!(goes_on.request().step, "restart");
}

#[test]
fn a_failed_incident_is_told_again_and_once_after_an_outage() {
    let mut group = Scenario::with(|rule| {
        rule.spec.actions.truncate(1);
        rule.spec.expire_after = Duration::from_secs(90 * 24 * 3600);
    });
    group.alert(firing(1, 0));
    group.fails(ActionFailureReason::Refused);
    assert_eq!(group.due(), Some(1800));
    assert_eq!(said(&group.timer(1800)), ["IncidentFailed Failed/1"]);
    assert_eq!(said(&group.timer(1800)), Vec::<String>::new());
    let after_outage = group.timer(3600 * 24 + 60);
    assert_eq!(said(&after_outage), ["IncidentFailed Failed/2"]);
    assert_eq!(messages(&after_outage)[0].context.repetition, 2);
    assert_eq!(group.due(), Some(3600 * 24 + 1800));
    group.suspended = true;
    assert!(group.timer(3600 * 25).is_empty());
    group.suspended = false;
    assert_eq!(said(&group.timer(3600 * 26)), ["IncidentFailed Failed/3"]);
}

#[test]
fn a_short_interval_is_kept_and_one_of_nothing_does_not_repeat_without_end() {
    for (interval, first, then) in [(Duration::from_secs(2), 2, 4), (Duration::default(), 0, 1)] {
        let mut group = Scenario::with(|rule| {
            rule.spec.actions.truncate(1);
            rule.spec.notifications[2].repeat_interval = Some(interval);
        });
        group.alert(firing(1, 0));
        group.fails(ActionFailureReason::Refused);
        assert_eq!(group.due(), Some(first));
        assert_eq!(said(&group.timer(first)).len(), 1);
        assert_eq!(group.due(), Some(then));
    }
}

#[test]
fn a_step_without_an_answer_is_asked_for_again_under_the_same_id() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    let first = group.said.iter().find(|event| event.topic() == Topic::ActionRequested).unwrap().clone();
    assert!(group.timer(359).is_empty());
    assert_eq!(group.timer(360), [first], "what is said again is the same event, with the time of its decision");
    assert_eq!(group.due(), Some(360 + 120));
    group.fails(ActionFailureReason::Stale);
    assert_eq!(group.request().step, "restart");
}

#[test]
fn a_persons_decision_ends_the_incident_and_nothing_else_of_an_update_counts() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    assert!(group.decides(UpdateCause::Event, true).is_empty());
    assert!(group.decides(UpdateCause::Decision, false).is_empty());
    assert!(group.is_open());
    let events = group.decides(UpdateCause::Decision, true);
    assert_eq!(said(&events), ["IncidentResolved Resolved"]);
    assert_eq!(messages(&events)[0].context.message.as_deref(), Some("resolved by ada"));
    assert!(!group.is_open());
    assert!(group.completes().is_empty(), "a result after the end counted");
    assert_eq!(group.alert(firing(1, 0).accepted(400)), Repeated);
}

#[test]
fn resolve_on_alert_resolved_waits_for_the_alerts() {
    let mut group = Scenario::with(|rule| rule.spec.incident.resolve_on = ResolveOn::AlertResolved);
    group.alert(firing(1, 0));
    assert!(!group.request().resolves);
    assert!(group.completes().is_empty());
    assert_eq!(group.phase(), IncidentPhase::Mitigating);
    assert_eq!(group.episode().steps[0].outcome, StepOutcome::Completed);
    assert_eq!(group.due(), Some(12 * 3600), "a step that answered is not overdue");
    group.alert(resolved(1, 0, 60));
    assert!(!group.is_open());
}

/// One more replica while it lasts, and away with it when it is over.
fn with_taking_back() -> Scenario {
    Scenario::with(|rule| {
        rule.spec.incident.resolve_on = ResolveOn::AlertResolved;
        let undoes = Some("add-replica".to_owned());
        let first = rule.spec.actions[0].clone();
        rule.spec.actions.push(RuleAction { name: "back".into(), when: StepWhen::Resolved, undoes, ..first });
    })
}

#[test]
fn what_a_step_did_is_taken_back_when_the_incident_is_over_and_in_the_same_decision() {
    for by_decision in [false, true] {
        let mut group = with_taking_back();
        group.alert(firing(1, 0));
        let step = group.request();
        group.completes();
        assert_eq!(requests(&group.said).len(), 1, "it stands beside the ladder");
        let before = group.said.len();
        if by_decision {
            group.decides(UpdateCause::Decision, true);
        } else {
            group.alert(resolved(1, 0, 60));
        }
        assert!(!group.is_open());
        let back = requests(&group.said[before..]);
        assert_eq!(back.len(), 1);
        let back = &back[0];
        assert_eq!((back.step.as_str(), back.when, back.step_index), ("back", StepWhen::Resolved, 2));
        assert_eq!((back.undoes.as_ref(), &back.target), (Some(&step.action_id), &step.target));
        assert!(!back.resolves && !back.last && back.action_id != step.action_id);
        let said = group.said.len();
        assert!(group.input(Input::Failed(&failed(back, ActionFailureReason::TargetChanged))).is_empty());
        assert!(group.input(Input::Completed(&completed(back))).is_empty(), "its end decides nothing");
        assert_eq!(group.said.len(), said);
    }
}

/// A step that a suspended rule let go was asked for anew: it is the later attempt that acted.
#[test]
fn what_is_taken_back_is_what_the_last_attempt_of_a_step_did() {
    let in_the_ladder = || {
        Scenario::with(|rule| {
            rule.spec.actions[0].on_unknown_outcome = OnUnknownOutcome::Continue;
            rule.spec.actions[1].undoes = Some("add-replica".into());
        })
    };
    for (mut group, resolves) in [(with_taking_back(), true), (in_the_ladder(), false)] {
        group.alert(firing(1, 0));
        let first = group.request();
        group.input(Input::Failed(&failed(&first, ActionFailureReason::Suspended)));
        let second = group.request();
        assert_eq!((second.step.as_str(), second.attempt), ("add-replica", 2));
        let before = group.said.len();
        if resolves {
            group.completes();
            group.alert(resolved(1, 0, 60));
        } else {
            group.fails(ActionFailureReason::OutcomeUnknown);
        }
        let back = requests(&group.said[before..]);
        assert_eq!(back.iter().map(|back| back.undoes.clone()).collect::<Vec<_>>(), [Some(second.action_id)]);
    }
}

#[test]
fn nothing_is_taken_back_of_a_step_that_did_nothing_nor_while_the_rule_is_suspended() {
    for (reason, taken_back) in [
        (ActionFailureReason::Refused, 0),
        (ActionFailureReason::NothingToDo, 0),
        (ActionFailureReason::OutcomeUnknown, 1),
    ] {
        let mut group = with_taking_back();
        group.alert(firing(1, 0));
        group.fails(reason);
        let before = group.said.len();
        group.alert(resolved(1, 0, 60));
        let back = requests(&group.said[before..]);
        assert_eq!(back.iter().filter(|request| request.step == "back").count(), taken_back, "{reason:?}");
    }
    let mut group = with_taking_back();
    group.alert(firing(1, 0));
    group.completes();
    group.suspended = true;
    let before = group.said.len();
    group.alert(resolved(1, 0, 60));
    assert!(requests(&group.said[before..]).is_empty());
}

#[test]
fn a_step_of_the_ladder_may_take_back_one_before_it() {
    let mut group = Scenario::with(|rule| {
        rule.spec.actions[0].on_unknown_outcome = OnUnknownOutcome::Continue;
        rule.spec.actions[1].undoes = Some("add-replica".into());
    });
    group.alert(firing(1, 0));
    let first = group.request();
    assert_eq!(first.undoes, None);
    group.fails(ActionFailureReason::OutcomeUnknown);
    assert_eq!(group.request().undoes, Some(first.action_id));
}

#[test]
fn a_rule_without_actions_resolves_on_its_alerts() {
    let mut group = Scenario::with(|rule| rule.spec.actions.clear());
    group.alert(firing(1, 0));
    assert_eq!((group.phase(), requests(&group.said).len()), (IncidentPhase::Open, 0));
    group.alert(resolved(1, 0, 60));
    assert!(!group.is_open());
}

#[test]
fn the_same_channel_and_template_twice_is_one_message() {
    let mut group = Scenario::with(|rule| {
        let twice = rule.spec.notifications[0].clone();
        rule.spec.notifications.push(twice);
    });
    group.alert(firing(1, 0));
    assert_eq!(messages(&group.said).len(), 1);
}

fn unfinished(phase: IncidentPhase) -> Adopted {
    let alert = firing(1, 0).raised();
    Adopted {
        incident_id: IncidentId::try_from("cpu-high-zzzzzzzzzz".to_owned()).unwrap(),
        opened_at: at(-100),
        severity: "critical".into(),
        summary: "before".into(),
        phase,
        alerts: vec![AlertLink {
            alert_id: alert.alert_id,
            fingerprint: alert.fingerprint,
            starts_at: at(0),
            status: AlertStatus::Firing,
        }],
        steps: vec![("add-replica".into(), 1, StepOutcome::Requested)],
    }
}

#[test]
fn a_group_that_was_deleted_takes_its_unfinished_incident_over() {
    let mut group = Scenario::seed();
    group.adopted = Some(unfinished(IncidentPhase::Mitigating));
    assert_eq!(group.alert(firing(1, 0)), Repeated);
    assert_eq!(topics(&group.said), ["alert.decided"], "a second incident opened");
    assert_eq!(group.episode().incident_id.as_str(), "cpu-high-zzzzzzzzzz");
    assert_eq!(group.alert(firing(2, 10)), Joined);
    // Its step is asked for when it does not answer, and its answer counts.
    group.timer(360);
    assert_eq!(group.request().step, "add-replica");
    group.fails(ActionFailureReason::RetriesExhausted);
    assert_eq!(group.request().step, "restart");
}

#[test]
fn an_incident_that_is_taken_over_goes_on_with_the_step_that_nobody_requested() {
    let taken_over = |phase, steps: &[(&str, StepOutcome)]| {
        let mut group = Scenario::seed();
        let steps = steps.iter().map(|(name, outcome)| ((*name).to_owned(), 1, *outcome)).collect();
        group.adopted = Some(Adopted { steps, ..unfinished(phase) });
        group.alert(firing(1, 0));
        requests(&group.said).into_iter().map(|request| request.step).collect::<Vec<_>>()
    };
    let (failed, completed) = (StepOutcome::Failed, StepOutcome::Completed);
    assert_eq!(taken_over(IncidentPhase::Open, &[]), ["add-replica"]);
    assert_eq!(taken_over(IncidentPhase::Mitigating, &[("add-replica", failed)]), ["restart"]);
    let nothing: [&str; 0] = [];
    assert_eq!(taken_over(IncidentPhase::Mitigating, &[("add-replica", StepOutcome::Requested)]), nothing);
    assert_eq!(taken_over(IncidentPhase::Mitigating, &[("add-replica", completed)]), nothing);
    assert_eq!(taken_over(IncidentPhase::Mitigating, &[("of-another-rule", completed)]), nothing);
    assert_eq!(taken_over(IncidentPhase::Mitigating, &[("restart", failed), ("add-replica", failed)]), nothing);
    assert_eq!(taken_over(IncidentPhase::Failed, &[("add-replica", failed)]), nothing);
}

#[test]
fn the_first_step_is_told_as_mitigating_and_no_other() {
    let mut group = Scenario::with(|rule| {
        rule.spec.notifications.truncate(1);
        rule.spec.notifications[0].template = "IncidentMitigating".into();
        rule.spec.notifications[0].events = vec![IncidentEvent::Mitigating];
    });
    group.alert(firing(1, 0));
    assert_eq!(said(&group.said), ["IncidentMitigating Mitigating"]);
    let context = &messages(&group.said)[0].context;
    assert_eq!(context.step.as_deref(), Some("add-replica"));
    assert_eq!(context.target.as_deref(), Some("Deployment/svc-a"));
    group.fails(ActionFailureReason::RetriesExhausted);
    assert_eq!(said(&group.said).len(), 1, "the second step was told, too");
}

#[test]
fn a_failed_incident_that_is_taken_over_is_told_again() {
    let mut group = Scenario::seed();
    group.adopted = Some(unfinished(IncidentPhase::Failed));
    group.alert(firing(1, 0));
    assert_eq!(said(&group.timer(1800)).last().unwrap(), "IncidentFailed Failed/1");
}

#[test]
fn a_group_is_deleted_only_when_nothing_of_it_can_come_again() {
    let week = jiff::SignedDuration::from_hours(24 * 7);
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    let evictable = |group: &Scenario, now: i64| {
        quiet_since(group.group.as_ref().unwrap(), at(now)).is_some_and(|since| at(now).duration_since(since) >= week)
    };
    assert!(!evictable(&group, 30 * 24 * 3600), "an incident is open");
    group.completes();
    assert!(!evictable(&group, 30 * 24 * 3600), "an alert fires");
    group.alert(resolved(1, 0, 60));
    assert!(!evictable(&group, 24 * 7 * 3600), "its repetition may come");
    assert!(evictable(&group, 24 * 7 * 3600 + 61));
}

#[test]
fn ended_alerts_are_forgotten_when_nothing_of_them_can_come_again() {
    let mut group = Scenario::with(|rule| rule.spec.cooldown = Duration::default());
    group.alert(firing(1, 0));
    group.alert(resolved(1, 0, 60));
    let week = 7 * 24 * 3600;
    group.alert(firing(2, week + 61));
    assert_eq!(group.group.as_ref().unwrap().alerts.len(), 1);
}

#[test]
fn a_timer_or_a_result_for_a_group_that_nobody_remembers_is_nothing() {
    let mut group = Scenario::seed();
    assert!(group.timer(10).is_empty());
    let mut other = Scenario::seed();
    other.alert(firing(1, 0));
    let result = completed(&other.request());
    assert!(group.input(Input::Completed(&result)).is_empty());
    assert!(group.group.is_none());
}

/// The worst that a rule and its alerts can bring about, as it would be written, with everything that one write may say.
#[test]
fn the_largest_group_stays_within_its_bound() {
    let mut group = Scenario::with(|rule| {
        let long = |len: usize| "x".repeat(len);
        rule.spec.incident.severity = long(1024);
        rule.spec.incident.summary = "\"\\\u{0}".repeat(600);
        let mut step = rule.spec.actions[0].clone();
        step.runbook_ref.name = long(253);
        step.target_ref.name = long(253);
        step.parameters = (0..2).map(|i| ParameterValue { name: format!("p{i}"), value: long(1000) }).collect();
        rule.spec.actions = (0..8).map(|i| RuleAction { name: format!("{}{i}", long(62)), ..step.clone() }).collect();
        let all =
            [IncidentEvent::Opened, IncidentEvent::Mitigating, IncidentEvent::ActionFailed, IncidentEvent::Failed];
        let message = rule.spec.notifications[2].clone();
        rule.spec.notifications = (0..16)
            .map(|i| RuleNotification {
                channel_ref: LocalReference { name: format!("{}{i:02}", long(251)) },
                template: long(63),
                events: all.to_vec(),
                ..message.clone()
            })
            .collect();
    });
    for pod in 0..200 {
        let mut raised = firing(pod, 0).raised();
        raised.fingerprint = format!("{pod:064}");
        raised.alert.source = "s".repeat(128);
        group.input(Input::Alert(&raised));
    }
    for _ in 0..7 {
        group.fails(ActionFailureReason::RetriesExhausted);
    }
    let mut failure = failed(&group.request(), ActionFailureReason::RetriesExhausted);
    failure.message = "\"\n".repeat(100_000);
    let last = group.input(Input::Failed(&failure));
    assert_eq!(last.len(), 32, "sixteen messages each for ActionFailed and Failed");
    let mut spec = group.group.clone().unwrap();
    spec.outbox = last.iter().map(|event| event.try_into().unwrap()).collect();
    let size = serde_json::to_vec(&spec).unwrap().len();
    assert!(size < GROUP_SIZE_MAX, "the largest group is {size} bytes");
}

#[test]
fn what_is_least_needed_makes_room_in_a_group_that_is_too_large() {
    let mut group = Scenario::with(|rule| rule.spec.cooldown = Duration::default());
    group.alert(firing(0, 0));
    let mut spec = group.group.clone().unwrap();
    let size = |spec: &AlertGroupSpec| serde_json::to_vec(&spec.alerts).unwrap().len();
    let facts = crate::api::v1alpha1::HeldFacts {
        labels: [("label".to_owned(), "x".repeat(20_000))].into(),
        ..Default::default()
    };
    // One of the incident, and twenty that wait or are over, of which the later ones began later.
    for pod in 1..=20_u8 {
        let mut other = spec.alerts[0].clone();
        other.fingerprint = format!("other-{pod:02}");
        (other.in_episode, other.facts) = (false, Some(facts.clone()));
        (other.starts_at, other.accepted_at) = (at(i64::from(pod)), at(i64::from(pod)));
        spec.alerts.push(other);
    }
    let fits = fitted(spec.clone(), &[]);
    assert!(size(&fits) <= GROUP_SIZE_MAX && fits.alerts.len() == 21, "more went than had to");
    let held: Vec<&str> =
        fits.alerts.iter().filter(|alert| alert.facts.is_some()).map(|alert| alert.fingerprint.as_str()).collect();
    assert_eq!(held.first().copied(), Some("other-01"));
    assert_eq!(held.len(), 12, "{held:?}");
    // An outbox leaves less room: then the oldest that are over go, and never one of the incident.
    let outbox = OutboxEntry::try_from(&group.said[0]).unwrap();
    spec.outbox =
        vec![crate::api::v1alpha1::OutboxEntry { data: "x".repeat(GROUP_SIZE_MAX - 3_000), ..outbox.clone() }];
    let fits = fitted(spec.clone(), &[]);
    assert!(fits.alerts.iter().all(|alert| alert.facts.is_none()));
    assert!((2..10).contains(&fits.alerts.len()), "{} alerts are left", fits.alerts.len());
    assert!(fits.alerts[0].in_episode && fits.alerts.last().unwrap().fingerprint == "other-20");
    spec.outbox = vec![crate::api::v1alpha1::OutboxEntry { data: "x".repeat(GROUP_SIZE_MAX), ..outbox }];
    assert_eq!(fitted(spec, &[]).alerts.len(), 1, "an alert of the incident went");
}
