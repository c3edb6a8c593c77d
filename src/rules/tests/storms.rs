//! A rule's storm: its own incident, the order in which what waits opens, and its places.

use super::fixtures::*;
use crate::{
    api::v1alpha1::{AlertGroup, EpisodeEnd, GroupStorm},
    events::{CorrelationId, Event, NamespacedName, Payload, Topic},
    rules::{
        GroupKey, Input, Limits, RuleView, decide, quiet_since,
        storms::{StormStep, Storms},
        timers::GroupIndex,
    },
};

const THRESHOLD: usize = 1_000;
const CALM: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

fn rule_name() -> NamespacedName {
    NamespacedName { namespace: "shop".into(), name: "cpu-high".into() }
}

/// The storm's own group, led through its inputs.
struct StormGroup {
    rule: crate::compile::CompiledRule,
    suspended: bool,
    group: Option<crate::api::v1alpha1::AlertGroupSpec>,
}

impl StormGroup {
    fn new() -> Self {
        Self { rule: compiled(&rule(CPU_HIGH)), suspended: false, group: None }
    }

    fn input(&mut self, input: Input<'_>, now: i64) -> Vec<Event> {
        let key = GroupKey {
            rule: rule_name(),
            correlation: CorrelationId::of_storm("shop", "cpu-high"),
            group_by: Default::default(),
        };
        let view = RuleView {
            rule: Some(&self.rule),
            suspended: self.suspended,
            storm: false,
            crowded: false,
            behind: false,
            limits: Limits { retention: 7 * 24 * CALM * 60, ends_at_grace: CALM },
        };
        let decision = decide(&key, self.group.as_ref(), None, input, view, at(now));
        assert!(!(decision.changed && decision.certain) && (decision.changed || decision.certain), "{decision:?}");
        self.group = decision.group;
        decision.outputs
    }

    fn begins(&mut self, now: i64) -> Vec<Event> {
        self.input(Input::StormBegins { threshold: THRESHOLD }, now)
    }
}

#[test]
fn a_storm_is_one_incident_with_one_message_at_each_end_and_no_action() {
    let mut storm = StormGroup::new();
    let began = storm.begins(10);
    assert_eq!(topics(&began), ["incident.opened", "notification.requested"]);
    let header = began[0].payload.incident().unwrap().clone();
    assert_eq!((header.alerts.len(), header.severity.as_str()), (0, "critical"));
    assert!(header.summary.starts_with("Storm: 1000 incidents of rule cpu-high are open"), "{}", header.summary);
    let message = messages(&began).remove(0);
    assert_eq!((message.channel.as_str(), message.template.as_str()), ("ops", "IncidentOpened"));
    // Seen again, by another replica or after a restart.
    assert_eq!((storm.begins(11), storm.input(Input::Timer, 12)), (vec![], vec![]));
    let ended = storm.input(Input::StormEnds, 100);
    assert_eq!(topics(&ended), ["incident.resolved", "notification.requested"]);
    assert_eq!(messages(&ended)[0].template, "IncidentResolved");
    assert_eq!(storm.group.as_ref().unwrap().last_episode.as_ref().unwrap().how, EpisodeEnd::StormOver);
    assert_eq!(storm.input(Input::StormEnds, 101), vec![]);
    // The next one is another incident.
    let again = storm.begins(200);
    assert_ne!(again[0].payload.incident().unwrap().incident_id, header.incident_id);
    assert_eq!(topics(&again), ["incident.opened", "notification.requested"]);
}

#[test]
fn who_resolves_a_storm_by_hand_hears_nothing_more_of_it() {
    let mut storm = StormGroup::new();
    let header = storm.begins(0)[0].payload.incident().unwrap().clone();
    let update = crate::events::IncidentUpdated {
        incident: header,
        phase: crate::events::IncidentPhase::Resolved,
        cause: crate::events::UpdateCause::Decision,
        acknowledged: false,
        resolved: true,
        decided_by: Some("jane".into()),
    };
    assert_eq!(topics(&storm.input(Input::Updated(&update), 10)), ["notification.requested"]);
    assert_eq!(storm.begins(20), vec![]);
    // It goes on, so it is remembered.
    let year = 365 * 24 * 3600;
    assert_eq!(quiet_since(storm.group.as_ref().unwrap(), at(year)), None);
    assert_eq!(storm.input(Input::StormEnds, 30), vec![]);
    assert_eq!(quiet_since(storm.group.as_ref().unwrap(), at(year)), Some(at(30)));
}

#[test]
fn a_suspended_rule_has_no_storm() {
    let mut storm = StormGroup { suspended: true, ..StormGroup::new() };
    assert_eq!(storm.begins(0), vec![]);
    assert!(storm.group.is_none());
}

#[test]
fn each_channel_hears_of_a_storm_once_whatever_its_notifications_are_for() {
    let rule = rule_with(|rule| {
        let first = rule.spec.notifications[0].clone();
        rule.spec.notifications = (0..16)
            .map(|n| {
                let mut one = first.clone();
                one.channel_ref.name = format!("channel-{}", n % 12);
                one.events = vec![crate::api::v1alpha1::IncidentEvent::Failed];
                one.template = format!("T{n}");
                one
            })
            .collect();
    });
    let mut storm = StormGroup { rule: compiled(&rule), ..StormGroup::new() };
    let mut channels: Vec<String> = messages(&storm.begins(0)).into_iter().map(|message| message.channel).collect();
    channels.sort();
    channels.dedup();
    assert_eq!(channels.len(), 12);
    assert_eq!(messages(&storm.input(Input::StormEnds, 1)).len(), 12);
}

/// A group of the rule as the index sees it.
fn group(open: bool, waits_since: Option<i64>, storm: Option<bool>) -> AlertGroup {
    let mut scenario = Scenario::seed();
    scenario.storm = waits_since.is_some();
    scenario.alert(firing(1, waits_since.unwrap_or_default()));
    let mut spec = scenario.group.unwrap();
    if !open {
        spec.episode = None;
    }
    spec.storm = storm.map(|lasts| GroupStorm { began_at: at(0), ended_at: (!lasts).then(|| at(1)) });
    AlertGroup { metadata: Default::default(), spec }
}

fn name(n: usize) -> NamespacedName {
    NamespacedName { namespace: "shop".into(), name: format!("g{n}") }
}

#[test]
fn a_storm_begins_at_the_bound_lets_the_oldest_in_and_is_over_when_it_was_calm() {
    let (mut index, mut storms) = (GroupIndex::default(), Storms::default());
    let look = |storms: &mut Storms, index: &GroupIndex, now| storms.look(index, 10, CALM, at(now));
    for n in 0..9 {
        index.update(&name(n), Some(&group(true, None, None)));
    }
    assert_eq!(look(&mut storms, &index, 0), []);
    index.update(&name(9), Some(&group(true, None, None)));
    assert_eq!(look(&mut storms, &index, 0), [StormStep::Begins(rule_name())]);
    // Its own incident is none of the open ones.
    let storm = NamespacedName { namespace: "shop".into(), name: "storm".into() };
    index.update(&storm, Some(&group(true, None, Some(true))));
    assert_eq!((look(&mut storms, &index, 1), index.open_groups(&rule_name())), (vec![], 10));
    for (n, since) in [(20, 30), (21, 10), (22, 20)] {
        index.update(&name(n), Some(&group(false, Some(since), None)));
    }
    assert_eq!((look(&mut storms, &index, 2), index.waiting_beside(&rule_name(), &name(99))), (vec![], 3));
    index.update(&name(0), None);
    index.update(&name(1), None);
    let room = |n| StormStep::Room(name(n));
    assert_eq!(look(&mut storms, &index, 3), [room(21), room(22)]);
    // Told once; who does not open is told again after a while, and holds up nobody meanwhile.
    assert_eq!(look(&mut storms, &index, 4), [room(20)]);
    let again: Vec<StormStep> = (0..20).flat_map(|_| look(&mut storms, &index, 5)).collect();
    assert_eq!(again[..2], [room(21), room(22)]);
    for n in 20..23 {
        index.update(&name(n), None);
    }
    // Calm since second 3, but not for a minute.
    assert_eq!(look(&mut storms, &index, 62), []);
    index.update(&name(0), Some(&group(true, None, None)));
    index.update(&name(1), Some(&group(true, None, None)));
    assert_eq!(look(&mut storms, &index, 64), [], "it came back");
    index.update(&name(0), None);
    assert_eq!((look(&mut storms, &index, 70), look(&mut storms, &index, 129)), (vec![], vec![]));
    assert_eq!(look(&mut storms, &index, 130), [StormStep::Ends(rule_name())]);
    index.update(&storm, Some(&group(false, None, Some(false))));
    assert_eq!(look(&mut storms, &index, 200), []);
}

#[test]
fn what_is_decided_side_by_side_counts_before_it_is_written() {
    let mut index = GroupIndex::default();
    let rule = rule_name();
    assert!(index.reserve(&rule, &name(1), 2) && index.reserve(&rule, &name(2), 2));
    assert!(!index.reserve(&rule, &name(3), 2), "a third one");
    assert!(index.reserve(&rule, &name(1), 2), "the same again");
    // Written, and seen by the watch before its writer goes on: it counts once.
    index.update(&name(1), Some(&group(true, None, None)));
    assert!(!index.reserve(&rule, &name(3), 2));
    index.clear();
    assert!(
        index.reserve(&rule, &name(1), 2) && !index.reserve(&rule, &name(3), 2),
        "being decided outlasts a new look"
    );
    assert_eq!(index.waiting_beside(&rule, &name(4)), 1, "number 3 is about to wait");
    assert_eq!(index.waiting_beside(&rule, &name(3)), 0, "not for itself");
    index.release(&rule, &name(2));
    assert!(index.reserve(&rule, &name(3), 2));
    index.settle(&rule, &name(3));
    assert_eq!(index.waiting_beside(&rule, &name(4)), 0);
    assert!(index.reserve(&rule, &name(4), 2), "its place is free again");
}

#[test]
fn the_ledger_says_storm_once_for_each_alert() {
    let mut group = Scenario::seed();
    group.storm = true;
    for _ in 0..3 {
        group.alert(firing(1, 0));
    }
    let ids: std::collections::BTreeSet<String> = group
        .said
        .iter()
        .filter(|event| event.topic() == Topic::AlertDecided && matches!(event.payload, Payload::AlertDecided(_)))
        .map(|event| event.id.to_string())
        .collect();
    assert_eq!(ids.len(), 1);
}
