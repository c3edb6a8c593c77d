//! What an alert means for its group.

use super::fixtures::*;
use crate::{
    api::v1alpha1::{Duration, GROUP_ALERTS_MAX, ResolveOn},
    events::{
        ActionFailed, ActionFailureReason, AlertStatus, DecisionReason::*, HEADER_ALERTS_MAX, Payload, ResolvedReason,
        Topic,
    },
    rules::{Input, decide::decided},
};

#[test]
fn an_alert_opens_an_incident_and_its_repetitions_change_nothing() {
    let mut group = Scenario::seed();
    assert_eq!(group.alert(firing(1, 0)), Opened);
    assert_eq!(topics(&group.said), ["incident.opened", "notification.requested", "action.requested", "alert.decided"]);
    let before = group.group.clone();
    for _ in 0..50 {
        assert_eq!(group.alert(firing(1, 0).accepted(30)), Repeated);
    }
    assert_eq!(group.group, before, "a repetition was written");
    assert_eq!(requests(&group.said).len(), 1);
}

#[test]
fn the_facts_say_what_the_rule_says() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    let header = group.header();
    assert_eq!((header.severity.as_str(), header.summary.as_str()), ("warning", "CPU of svc-a is high"));
    assert_eq!((header.alert_count, header.alerts.len()), (1, 1));
    assert!(header.incident_id.as_str().starts_with("cpu-high-"));
    let request = group.request();
    assert_eq!((request.step.as_str(), request.runbook.as_str()), ("add-replica", "scale-up"));
    assert_eq!(request.parameters[0].value, "1");
    assert_eq!((request.decided_at, request.deadline), (at(0), at(300)));
    assert!(request.resolves && !request.last);
    let message = messages(&group.said).remove(0);
    assert_eq!((message.channel.as_str(), message.deadline), ("ops", at(3600)));
    for event in &group.said {
        assert_eq!((event.time, event.source.as_str()), (at(0), "eventpulse/rules"));
        assert!(event.traceparent.is_some(), "{} lost its trace", event.topic());
    }
    let keys: Vec<&str> = group.said.iter().map(|event| event.key.as_str()).collect();
    assert_eq!(keys[2], "shop/Deployment/svc-a");
    assert_eq!(keys[0], header.incident_id.as_str());
    let entry = group.last_entry();
    assert_eq!((entry.reason, entry.incident_id), (Opened, Some(header.incident_id)));
    assert_eq!(entry.rule.unwrap().to_string(), "shop/cpu-high");
}

#[test]
fn further_alerts_of_the_group_join() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    assert_eq!(group.alert(firing(2, 10)), Joined);
    assert_eq!(group.alert(firing(2, 10).accepted(20)), Repeated);
    assert_eq!(group.episode().alert_count, 2);
    assert_eq!(requests(&group.said).len(), 1);
}

#[test]
fn the_incident_resolves_when_all_its_alerts_are() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    group.alert(firing(2, 10));
    assert_eq!(group.alert(resolved(1, 0, 50)), Resolved);
    assert!(group.is_open());
    assert_eq!(group.alert(resolved(2, 10, 60)), Resolved);
    assert!(!group.is_open());
    let Some(Payload::IncidentResolved(fact)) =
        group.said.iter().map(|e| &e.payload).find(|p| p.topic() == Topic::IncidentResolved)
    else {
        panic!("nothing said that it is over");
    };
    assert_eq!(fact.reason, ResolvedReason::AlertsResolved);
    assert!(fact.incident.alerts.iter().all(|alert| alert.status == AlertStatus::Resolved));
    assert_eq!(said(&group.said).last().unwrap(), "IncidentResolved Resolved");
    assert_eq!(group.alert(resolved(2, 10, 60).accepted(70)), Repeated);
}

#[test]
fn alerts_of_an_ended_incident_are_repetitions_until_they_begin_anew() {
    let mut group = Scenario::with(|rule| rule.spec.cooldown = Duration::default());
    group.alert(firing(1, 0));
    group.completes();
    assert!(!group.is_open());
    assert_eq!(group.alert(firing(1, 0).accepted(600)), Repeated);
    assert_eq!(group.alert(resolved(1, 0, 700)), Resolved);
    assert_eq!(group.alert(firing(1, 0).accepted(710)), Repeated);
    assert_eq!(group.alert(firing(1, 650).accepted(720)), Repeated, "it overlaps what has ended");
    assert_eq!(group.alert(firing(1, 800)), Opened);
    assert_eq!(requests(&group.said).len(), 2);
}

#[test]
fn an_unknown_fingerprint_is_never_a_repetition() {
    let mut group = Scenario::with(|rule| rule.spec.cooldown = Duration::default());
    group.alert(firing(1, 0));
    group.completes();
    assert_eq!(group.alert(firing(2, 0).accepted(60)), Opened);
}

#[test]
fn both_of_a_highly_available_pair_are_one_alert() {
    let mut group = Scenario::with(|rule| rule.spec.cooldown = Duration::default());
    group.alert(firing(1, 0));
    assert_eq!(group.alert(firing(1, 7)), Repeated);
    assert_eq!((group.known(1).starts_at, group.known(1).last_starts_at), (at(0), at(7)));
    group.completes();
    assert_eq!(group.alert(firing(1, 7).accepted(60)), Repeated);
    // The second one's first telling comes after the end.
    let mut late = Scenario::with(|rule| rule.spec.cooldown = Duration::default());
    late.alert(firing(1, 0));
    late.completes();
    assert_eq!(late.alert(firing(1, 7)), Repeated);
    assert_eq!(late.alert(resolved(1, 0, 60)), Resolved);
    assert_eq!(late.alert(firing(1, 7).accepted(61)), Repeated);
}

#[test]
fn a_resolved_that_overtook_its_firing_is_remembered() {
    let mut group = Scenario::seed();
    assert_eq!(group.alert(resolved(1, 0, 50)), NothingToResolve);
    assert_eq!(group.alert(firing(1, 0).accepted(1)), Repeated);
    assert!(!group.is_open() && requests(&group.said).is_empty());
    assert_eq!(group.alert(firing(1, 100)), Opened);
}

#[test]
fn the_end_of_an_earlier_interval_does_not_end_a_later_one() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 100));
    assert_eq!(group.alert(resolved(1, 0, 50).accepted(110)), Repeated);
    assert_eq!(group.known(1).status, AlertStatus::Firing);
}

#[test]
fn a_later_end_wins_over_an_earlier_resolution() {
    let mut group = Scenario::with(|rule| rule.spec.incident.resolve_on = ResolveOn::AlertResolved);
    group.alert(firing(1, 0).until(240));
    group.alert(firing(2, 0).until(240));
    group.alert(resolved(1, 0, 100));
    assert_eq!(group.alert(firing(1, 0).until(400).accepted(160)), Repeated);
    assert_eq!(group.known(1).status, AlertStatus::Firing);
    // A resolution that is older than what is known says nothing.
    assert_eq!(group.alert(resolved(1, 0, 100)), Repeated);
    assert_eq!(group.known(1).status, AlertStatus::Firing);
}

#[test]
fn an_alert_that_begins_again_while_the_incident_is_open_joins_again() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    group.alert(firing(2, 0));
    group.alert(resolved(1, 0, 50));
    assert_eq!(group.alert(firing(1, 60)), Joined);
    assert_eq!(group.alert(firing(1, 0).accepted(70)), Repeated);
    assert_eq!(group.known(1).starts_at, at(60), "an old start came back");
}

#[test]
fn expiry_follows_ends_at_where_it_is_given_and_the_rule_where_not() {
    let mut prometheus = Scenario::seed();
    prometheus.alert(firing(1, 0).until(240));
    assert_eq!(prometheus.due(), Some(300 + 60), "the step's deadline comes first");
    assert_eq!(prometheus.known(1).expires_at, Some(at(240 + 300)));
    let mut webhook = Scenario::seed();
    webhook.alert(firing(1, 0));
    assert_eq!(webhook.known(1).expires_at, Some(at(12 * 3600)));
}

#[test]
fn expiry_moves_only_when_less_than_half_of_its_window_is_left() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0).until(240));
    group.alert(firing(1, 0).until(240 + 60).accepted(60));
    assert_eq!(group.known(1).expires_at, Some(at(540)), "every repetition was a write");
    group.alert(firing(1, 0).until(240 + 300).accepted(300));
    assert_eq!(group.known(1).expires_at, Some(at(840)));
}

#[test]
fn an_alert_that_is_not_repeated_expires_and_ends_the_incident() {
    let mut group = Scenario::with(|rule| rule.spec.actions.clear());
    group.alert(firing(1, 0).until(240));
    assert!(group.timer(539).is_empty());
    let events = group.timer(540);
    assert_eq!(topics(&events), ["incident.resolved", "notification.requested"]);
    let Payload::IncidentResolved(fact) = &events[0].payload else { panic!() };
    assert_eq!(fact.reason, ResolvedReason::AlertsExpired);
    // It comes back, and the cooldown counts.
    assert_eq!(group.alert(firing(1, 0).until(900).accepted(600)), Cooldown);
    assert_eq!(topics(&group.timer(840)), ["incident.opened", "notification.requested"]);
}

fn without_cooldown() -> Scenario {
    Scenario::with(|rule| rule.spec.cooldown = Duration::default())
}

#[test]
fn an_alert_that_fires_on_after_its_end_begins_anew() {
    let mut group = without_cooldown();
    group.alert(firing(1, 0).until(240));
    let first = group.header().incident_id;
    // The other one of the pair has a gap; the first one's next repetition is on its way.
    assert_eq!(group.alert(resolved(1, 0, 100)), Resolved);
    assert_eq!(group.alert(firing(1, 0).until(345).accepted(105)), Repeated, "seconds later opened an incident");
    assert_eq!(group.alert(firing(1, 0).until(405).accepted(165)), Opened);
    assert_ne!(group.header().incident_id, first);
    assert_eq!((group.known(1).starts_at, requests(&group.said).len()), (at(165), 2));
    assert_ne!(group.known(1).alert_id, firing(1, 0).raised().alert_id);
    // Whatever of it comes again changes nothing, before and after its end.
    let again = |group: &mut Scenario| {
        let before = group.group.clone();
        for told in [
            firing(1, 0).until(240),
            resolved(1, 0, 100),
            firing(1, 0).until(345).accepted(105),
            firing(1, 0).until(405).accepted(165),
        ] {
            assert_eq!(group.alert(told), Repeated);
            assert_eq!(group.group, before);
        }
    };
    again(&mut group);
    group.completes();
    again(&mut group);
    assert_eq!(group.alert(firing(1, 0).until(700).accepted(460)), Repeated, "the action ended it while it fires");
    assert_eq!(group.alert(resolved(1, 0, 500)), Resolved);
    again(&mut group);
}

/// The simulator's seed 4363: the offsets of rules were lost between the two.
#[test]
fn what_was_a_repetition_of_what_is_over_is_one_while_the_next_interval_waits_for_the_cooldown() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    assert_eq!(group.alert(resolved(1, 0, 10)), Resolved);
    let late = || firing(1, 5).accepted(20);
    assert_eq!(group.alert(late()), Repeated);
    assert_eq!(group.alert(firing(1, 15).accepted(25)), Cooldown);
    let before = group.group.clone();
    assert_eq!(group.alert(late()), Repeated);
    assert_eq!(group.group, before);
    assert_eq!(group.alert(firing(1, 5).accepted(30)), Cooldown, "accepted later: it tells of what waits");
}

#[test]
fn an_alert_that_expired_without_an_end_of_its_own_comes_back() {
    let mut group = without_cooldown();
    group.alert(firing(1, 0));
    assert!(topics(&group.timer(12 * 3600)).contains(&"incident.resolved"));
    assert_eq!(group.alert(firing(1, 0).accepted(11 * 3600)), Repeated, "it was accepted before it expired");
    assert_eq!(group.alert(firing(1, 0).accepted(12 * 3600 + 100)), Opened);
    assert_eq!(group.alert(firing(1, 0).accepted(12 * 3600 + 200)), Repeated);
}

#[test]
fn what_is_told_of_the_future_is_no_evidence() {
    let mut group = without_cooldown();
    group.alert(firing(1, 0).until(240));
    group.alert(resolved(1, 0, 100));
    group.now = 120;
    let ahead = firing(1, 0).until(9_000).accepted(5_000).raised();
    assert_eq!(group.raised(&ahead), Repeated);
    assert!(!group.is_open());
}

#[test]
fn an_alert_that_its_rule_no_longer_matches_goes_on_and_ends_where_it_is_known() {
    let mut group = without_cooldown();
    group.alert(firing(1, 0).until(240));
    group.alert(firing(2, 0));
    group.unmatched = true;
    assert_eq!(group.alert(firing(1, 0).until(540).accepted(300)), Repeated);
    assert_eq!(group.known(1).expires_at, Some(at(840)), "the repetition did not count");
    assert_eq!(group.alert(firing(3, 310)), NoRule);
    assert_eq!(group.last_entry().rule, None);
    assert_eq!(group.alert(resolved(1, 0, 320)), Resolved);
    assert_eq!(group.alert(firing(1, 330)), Joined, "its incident is open");
    assert_eq!(group.alert(resolved(1, 330, 340)), Resolved);
    assert_eq!(group.alert(resolved(2, 0, 350)), Resolved);
    assert!(!group.is_open());
    // From now on the rule as it is counts.
    assert_eq!(group.alert(firing(1, 0).until(900).accepted(500)), Repeated);
    assert_eq!(group.alert(firing(1, 500)), NoRule);
    assert_eq!(group.alert(resolved(4, 500, 510)), NoRule);
    assert!(!group.is_open());
}

#[test]
fn what_waits_opens_nothing_by_a_rule_that_no_longer_matches_it() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    group.completes();
    assert_eq!(group.alert(firing(2, 60)), Cooldown);
    group.rule = std::sync::Arc::new(compiled(&rule_with(|rule| {
        rule.spec.r#match.matchers[1] = "severity=\"critical\"".into();
    })));
    group.unmatched = true;
    assert_eq!(group.alert(firing(2, 60).accepted(310)), Repeated);
    assert!(group.timer(310).is_empty());
    assert!(!group.is_open());
}

#[test]
fn what_waited_in_the_log_is_believed_for_so_much_longer() {
    let mut group = Scenario::seed();
    group.now = 1800;
    group.alert(firing(1, 0).until(240));
    assert_eq!(group.known(1).expires_at, Some(at(240 + 300 + 1800)));
}

#[test]
fn old_alerts_are_stale() {
    let mut group = Scenario::seed();
    group.now = 3601;
    assert_eq!(group.alert(firing(1, 0)), Stale);
    assert_eq!(group.alert(resolved(1, 0, 0)), Stale);
    assert!(group.group.is_none());
    assert_eq!(group.alert(firing(1, 0).accepted(10)), Opened);
    let mut new_rule = Scenario::with(|rule| {
        let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(100));
        rule.metadata.creation_timestamp = Some(time);
    });
    assert_eq!(new_rule.alert(firing(1, 99)), Stale);
    // The clock was set back to before the rule: what was accepted after it is no older for that.
    new_rule.now = 90;
    assert_eq!(new_rule.alert(firing(1, 99).accepted(100)), Opened);
}

#[test]
fn a_late_resolution_ends_a_known_alert_all_the_same() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    group.now = 20_000;
    assert_eq!(group.alert(resolved(1, 0, 50)), Resolved);
    assert!(!group.is_open());
}

#[test]
fn an_alert_whose_step_cannot_be_computed_is_invalid_and_keeps_nothing() {
    let mut group = Scenario::with(|rule| rule.spec.actions[1].target_ref.name = "$(alert.labels.nope)".into());
    assert_eq!(group.alert(firing(1, 0)), Invalid);
    assert!(group.last_entry().detail.contains("spec.actions[restart].targetRef.name"));
    assert!(group.group.is_none());
}

#[test]
fn what_others_say_is_cut_in_what_is_said_of_it() {
    let entry = decided(&firing(1, 0).raised(), None, Refused, "x".repeat(5_000), None, at(0));
    let Payload::AlertDecided(entry) = entry.payload else { panic!("{entry:?}") };
    assert_eq!(entry.detail.len(), 512);
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    let result =
        ActionFailed { message: "x".repeat(1_024), ..failed(&group.request(), ActionFailureReason::RetriesExhausted) };
    let said = group.input(Input::Failed(&result));
    assert_eq!(messages(&said)[0].context.message.as_deref(), Some(&*"x".repeat(256)));
}

#[test]
fn an_edit_of_the_rule_changes_the_next_incident() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    group.rule = std::sync::Arc::new(compiled(&rule_with(|rule| {
        rule.spec.actions.truncate(1);
        rule.spec.actions[0].name = "other".into();
        rule.spec.cooldown = Duration::default();
    })));
    group.fails(ActionFailureReason::RetriesExhausted);
    assert_eq!(group.request().step, "restart");
    group.alert(resolved(1, 0, 60));
    assert_eq!(group.alert(firing(1, 100)), Cooldown, "the open incident's cooldown counts");
    group.timer(360);
    assert_eq!(group.request().step, "other");
}

#[test]
fn a_group_remembers_a_bounded_number_of_alerts() {
    let mut group = Scenario::with(|rule| rule.spec.cooldown = Duration::default());
    for pod in 0..GROUP_ALERTS_MAX {
        group.alert(firing(u8::try_from(pod).unwrap(), 0));
    }
    assert_eq!(group.episode().alert_count, 200);
    assert!(!group.episode().approximate);
    assert_eq!(group.alert(firing(201, 5)), Joined);
    // What is said of it links the newest.
    let said = group.fails(ActionFailureReason::RetriesExhausted);
    assert_eq!(requests(&said)[0].incident.alerts.len(), HEADER_ALERTS_MAX);
    assert_eq!(messages(&said)[0].incident.alerts.len(), 5);
    assert_eq!(messages(&said)[0].incident.alert_count, 201);
    let spec = group.group.as_ref().unwrap();
    assert_eq!(spec.alerts.len(), GROUP_ALERTS_MAX);
    assert_eq!((group.episode().alert_count, group.episode().approximate), (201, true));
    let size = serde_json::to_vec(spec).unwrap().len();
    assert!(size < 128 * 1024, "200 alerts are {size} bytes");
    // Of an ended incident, the alerts give way.
    group.completes();
    assert_eq!(group.alert(firing(202, 10)), Opened);
    assert_eq!(group.group.as_ref().unwrap().alerts.len(), GROUP_ALERTS_MAX);
}
