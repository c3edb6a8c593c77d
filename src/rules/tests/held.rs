//! What holds an alert back: a cooldown, a suspended or deleted rule, a storm; and what opens when it is over.

use super::fixtures::*;
use crate::{
    api::v1alpha1::{IncidentEvent, StepOutcome},
    events::{ActionFailureReason, DecisionReason::*},
    rules::next_timer,
};

#[test]
fn what_the_cooldown_holds_opens_at_its_end_if_it_still_fires() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    group.completes();
    assert_eq!(group.alert(firing(2, 60)), Cooldown);
    assert_eq!(group.alert(firing(3, 70)), Cooldown);
    assert_eq!(group.alert(firing(4, 80)), Cooldown);
    assert_eq!(group.alert(resolved(3, 70, 90)), Resolved);
    let before = group.group.clone();
    assert_eq!(group.alert(firing(2, 60).accepted(100)), Cooldown);
    assert_eq!(group.group, before, "a repetition was written");
    assert_eq!(group.due(), Some(300));
    assert!(group.timer(299).is_empty());
    assert_eq!(topics(&group.timer(300)), ["incident.opened", "notification.requested", "action.requested"]);
    assert_eq!(group.episode().alert_count, 2);
    assert!(group.known(2).in_episode && group.known(4).in_episode && !group.known(1).in_episode);
    assert!(group.known(2).facts.is_none());
}

#[test]
fn what_the_cooldown_holds_and_what_ends_before_it_opens_nothing() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    group.completes();
    group.alert(firing(2, 60));
    group.alert(resolved(2, 60, 90));
    assert_eq!(group.due(), Some(12 * 3600), "only the first alert's expiry is due");
    assert!(group.timer(400).is_empty());
    assert!(!group.is_open());
}

#[test]
fn a_suspended_rule_opens_nothing_and_an_open_incident_only_ends() {
    let mut group = Scenario::seed();
    group.suspended = true;
    assert_eq!(group.alert(firing(1, 0)), Suspended);
    assert_eq!(group.alert(firing(2, 0)), Suspended);
    assert_eq!(group.alert(resolved(2, 0, 5)), Resolved);
    assert!(!group.is_open());
    group.suspended = false;
    let opening = group.input(crate::rules::Input::RuleChanged);
    assert_eq!(topics(&opening), ["incident.opened", "notification.requested", "action.requested"]);
    assert!(group.known(1).in_episode && !group.known(2).in_episode);
    group.suspended = true;
    assert!(group.fails(ActionFailureReason::Suspended).is_empty(), "a suspended rule went on");
    assert!(group.episode().step_pending);
    assert_eq!(group.alert(resolved(1, 0, 60)), Resolved);
    assert_eq!(topics(&group.said).last(), Some(&"incident.resolved"));
}

#[test]
fn a_rule_that_is_taken_up_again_goes_on_where_it_was() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    group.suspended = true;
    group.fails(ActionFailureReason::RetriesExhausted);
    group.suspended = false;
    assert_eq!(topics(&group.input(crate::rules::Input::RuleChanged)), ["action.requested"]);
    assert_eq!(group.request().step, "restart");
    assert!(group.input(crate::rules::Input::RuleChanged).is_empty());
}

#[test]
fn a_step_that_a_suspended_rule_let_go_is_asked_for_anew_and_not_used_up() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    let first = group.request();
    let let_go = failed(&first, ActionFailureReason::Suspended);
    // Suspended for a moment: by the time the answer comes the rule is taken up again.
    assert_eq!(topics(&group.input(crate::rules::Input::Failed(&let_go))), ["action.requested"]);
    let second = group.request();
    assert_eq!((second.step.as_str(), second.step_index, second.attempt), (first.step.as_str(), 0, 2));
    assert_ne!(second.action_id, first.action_id);
    assert!(group.input(crate::rules::Input::Failed(&let_go)).is_empty(), "told again it says nothing");
    // And for longer, twice.
    group.suspended = true;
    assert!(group.fails(ActionFailureReason::Suspended).is_empty() && group.episode().step_pending);
    group.suspended = false;
    assert_eq!(topics(&group.input(crate::rules::Input::RuleChanged)), ["action.requested"]);
    assert_eq!((group.request().step_index, group.request().attempt), (0, 3));
    // A real failure goes on to the next step.
    group.fails(ActionFailureReason::RetriesExhausted);
    assert_eq!((group.request().step.as_str(), group.request().attempt), ("restart", 1));
    assert_eq!(group.episode().steps.len(), 2);
    group.fails(ActionFailureReason::Suspended);
    assert_eq!((group.request().step.as_str(), group.request().attempt), ("restart", 2));
    assert_eq!(topics(&group.completes()), ["notification.requested"]);
}

/// The service actions may know that a rule is suspended while rules does not yet: a step that is let go again and again must not use
/// up its attempts in a moment.
#[test]
fn a_step_that_is_let_go_again_and_again_is_asked_for_less_and_less_often() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    group.fails(ActionFailureReason::Suspended);
    assert_eq!(group.request().attempt, 2, "at once, the first time");
    let mut waited = 0;
    for attempt in 3..=8 {
        assert!(group.fails(ActionFailureReason::Suspended).is_empty() && group.episode().step_pending);
        let due = group.due().unwrap();
        assert!(group.timer(due - 1).is_empty(), "before its time");
        assert_eq!(topics(&group.timer(due)), ["action.requested"]);
        assert_eq!((group.request().step.as_str(), group.request().attempt), ("add-replica", attempt));
        waited = due;
    }
    assert_eq!(waited, 2 + 4 + 8 + 16 + 32 + 64);
    // Then it has failed, like any other step.
    assert_eq!(topics(&group.fails(ActionFailureReason::Suspended)), ["notification.requested", "action.requested"]);
    assert_eq!(group.request().step, "restart");
}

/// While the rule is suspended as far as rules knows, nothing is due by itself.
#[test]
fn a_step_that_waits_for_its_rule_has_no_time() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    group.fails(ActionFailureReason::Suspended);
    group.fails(ActionFailureReason::Suspended);
    group.suspended = true;
    let due = group.due().unwrap();
    assert!(group.timer(due).is_empty() && group.episode().step_pending);
    assert_eq!(group.due(), Some(12 * 3600), "only the alert's expiry is due");
    group.suspended = false;
    assert_eq!(topics(&group.input(crate::rules::Input::RuleChanged)), ["action.requested"]);
}

#[test]
fn that_something_is_done_is_told_once_however_often_a_step_is_asked_for_anew() {
    let mut group = Scenario::with(|rule| rule.spec.notifications[0].events.push(IncidentEvent::Mitigating));
    group.alert(firing(1, 0));
    group.fails(ActionFailureReason::Suspended);
    assert_eq!(group.request().attempt, 2);
    assert_eq!(said(&group.said), ["IncidentOpened Opened", "IncidentOpened Mitigating"]);
}

/// Somebody may have edited the group: nothing of it is due again and again.
#[test]
fn a_step_that_has_answered_is_never_overdue() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    let known = group.group.as_mut().unwrap();
    let episode = known.episode.as_mut().unwrap();
    episode.alert_count = i32::MAX;
    episode.steps[0].outcome = StepOutcome::Completed;
    let due = next_timer(known).unwrap();
    assert_eq!(known.episode.as_ref().unwrap().steps[0].overdue_at, Some(at(360)));
    assert!(due > at(360), "{due}");
    assert_eq!(group.alert(firing(2, 10)), Joined);
    assert_eq!(group.episode().alert_count, 99_999);
}

#[test]
fn a_deleted_rule_ends_its_incident_with_its_alerts() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    group.deleted = true;
    assert!(group.fails(ActionFailureReason::RetriesExhausted).is_empty());
    assert_eq!(group.alert(firing(2, 30)), Joined);
    group.alert(resolved(1, 0, 60));
    group.alert(resolved(2, 30, 60));
    assert!(!group.is_open());
    assert_eq!(group.alert(firing(3, 100)), Suspended);
}

#[test]
fn a_storm_asks_for_nothing() {
    let mut group = Scenario::seed();
    group.storm = true;
    group.crowded = true;
    assert_eq!(group.alert(firing(1, 0)), Storm);
    assert!(group.group.is_none() && topics(&group.said) == ["alert.decided"]);
}

#[test]
fn what_a_storm_holds_opens_when_it_is_over() {
    let mut group = Scenario::seed();
    group.storm = true;
    assert_eq!(group.alert(firing(1, 0)), Storm);
    assert_eq!(group.alert(firing(2, 0)), Storm);
    assert_eq!(group.alert(resolved(2, 0, 30)), Resolved);
    assert!(group.input(crate::rules::Input::RuleChanged).is_empty());
    assert_eq!(topics(&group.said), ["alert.decided"; 3]);
    group.storm = false;
    let opening = group.input(crate::rules::Input::RuleChanged);
    assert_eq!(topics(&opening), ["incident.opened", "notification.requested", "action.requested"]);
    assert!(group.known(1).in_episode && !group.known(2).in_episode);
}

/// The end of what was held may stand in the log, behind whatever comes first.
#[test]
fn nothing_that_was_held_opens_while_the_log_is_not_read() {
    let mut group = Scenario::seed();
    group.storm = true;
    assert_eq!([group.alert(firing(1, 0)), group.alert(firing(2, 0))], [Storm, Storm]);
    (group.storm, group.behind) = (false, true);
    assert_eq!([group.alert(resolved(2, 0, 30)), group.alert(resolved(1, 0, 30))], [Resolved, Resolved]);
    group.behind = false;
    assert!(group.input(crate::rules::Input::RuleChanged).is_empty());
    assert_eq!(topics(&group.said), ["alert.decided"; 4]);
    // What an alert itself says is believed, behind or not.
    group.behind = true;
    assert_eq!(group.alert(firing(3, 60)), Opened);
}

#[test]
fn many_groups_that_wait_for_a_suspended_rule_are_only_counted() {
    let mut group = Scenario::seed();
    (group.suspended, group.crowded) = (true, true);
    assert_eq!(group.alert(firing(1, 0)), Suspended);
    assert!(group.group.is_none(), "{:?}", group.group);
}

#[test]
fn the_last_one_of_many_that_the_cooldown_holds_opens_too() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    group.completes();
    for pod in 2..40 {
        assert_eq!(group.alert(firing(pod, 60)), Cooldown);
    }
    for pod in 2..39 {
        group.alert(resolved(pod, 60, 90));
    }
    assert_eq!(topics(&group.timer(300)).first(), Some(&"incident.opened"));
    assert!(group.known(39).in_episode);
}

#[test]
fn an_alert_with_long_annotations_is_held_with_what_is_left_of_them() {
    let mut group = Scenario::seed();
    group.alert(firing(1, 0));
    group.completes();
    let mut long = firing(2, 60).raised();
    for name in ["description", "runbook"] {
        long.alert.annotations.insert(name.into(), "ü".repeat(4_000));
    }
    group.now = 60;
    assert_eq!(group.raised(&long), Cooldown);
    let facts = group.known(2).facts.unwrap();
    let size: usize = facts.labels.iter().chain(&facts.annotations).map(|(name, value)| name.len() + value.len()).sum();
    assert!((8_000..=8_192).contains(&size), "{size} bytes are kept");
    assert!(facts.annotations["runbook"].ends_with("ü…"));
    assert_eq!(facts.annotations["summary"], "CPU of svc-a is high", "a short one was cut");
    group.timer(300);
    assert_eq!(group.episode().summary, "CPU of svc-a is high");
    // What it keeps of all of them is bounded, too.
    let mut many = Scenario::seed();
    many.alert(firing(1, 0));
    many.completes();
    many.now = 60;
    for pod in 2..10 {
        let mut long = firing(pod, 60).raised();
        long.alert.annotations.insert("description".into(), "x".repeat(4_096));
        long.alert.annotations.insert("runbook".into(), "x".repeat(4_096));
        assert_eq!(many.raised(&long), Cooldown);
    }
    let held = many.group.as_ref().unwrap().alerts.iter().filter(|alert| alert.facts.is_some()).count();
    assert_eq!(held, 4);
}
