//! The story of the documented examples, from every id that it can be asked by.

use std::sync::Arc;

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::{
    gather::Facts,
    log::{self, FromLog, Heard, Ids},
    parse_subject, render,
    rules::{RuleReason, try_all},
    story,
};
use crate::{
    api::v1alpha1::{Action, Incident, Rule},
    bus::{Bus, BusConfig, EmbeddedBus, EmbeddedConfig, LocalOptions},
    events::{AlertRaised, Event, EventId, Payload, Topic, example},
    runtime::{Metrics, clock::SystemClock},
};

/// Of the examples, whose incident it is; dead letters belong to no incident.
fn examples() -> Vec<Event> {
    Topic::ALL.into_iter().filter(|topic| *topic != Topic::DeadLetter).map(example).collect()
}

fn raised() -> AlertRaised {
    let Payload::AlertRaised(raised) = example(Topic::AlertRaised).payload else { unreachable!() };
    *raised
}

fn incident_id() -> String {
    example(Topic::IncidentOpened).payload.incident().unwrap().incident_id.to_string()
}

fn action_id() -> String {
    let Payload::ActionRequested(data) = example(Topic::ActionRequested).payload else { unreachable!() };
    data.action_id.to_string()
}

fn notification_id() -> String {
    let Payload::NotificationRequested(data) = example(Topic::NotificationRequested).payload else { unreachable!() };
    data.notification_id.to_string()
}

/// The same events of an incident, an alert, an action and a message that are others: each id is turned round.
fn strangers() -> Vec<Event> {
    let own = raised();
    let (fingerprint, alert_id) = (own.fingerprint.unwrap(), own.alert_id.unwrap().to_string());
    let turned = |text: &str| text.chars().rev().collect::<String>();
    let stranger = |event: Event| {
        let record = event.encode().unwrap();
        let mut text = String::from_utf8(record.value.to_vec()).unwrap();
        for id in [&fingerprint, &alert_id, &incident_id(), &action_id(), &notification_id()] {
            text = text.replace(id.as_str(), &turned(id));
        }
        let mut other = crate::events::Record { value: text.into(), ..record }.decode().unwrap();
        other.id = EventId::new("stranger", event.id.as_str(), "");
        other
    };
    examples().into_iter().map(stranger).collect()
}

async fn log_of(events: &[Event]) -> (tempfile::TempDir, BusConfig) {
    let directory = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig::new(directory.path());
    let (clock, options) = (Arc::new(SystemClock), LocalOptions::default());
    let bus = EmbeddedBus::open(config.clone(), clock, Metrics::default(), options).await.unwrap();
    bus.publish(events.iter().map(|event| event.encode().unwrap()).collect()).await.unwrap();
    bus.close(std::time::Duration::from_secs(5)).await;
    (directory, BusConfig::Embedded(config))
}

async fn found_of(config: &BusConfig, subject: &str) -> FromLog {
    let ids = Ids { subject: subject.into(), ..Ids::default() };
    log::read(config, jiff::Timestamp::UNIX_EPOCH, ids).await.unwrap().0
}

#[tokio::test]
async fn every_id_of_a_story_leads_to_the_whole_of_it_and_to_nobody_elses() {
    let (_directory, config) = log_of(&[examples(), strangers()].concat()).await;
    let own = raised();
    let (fingerprint, alert_id) = (own.fingerprint.unwrap(), own.alert_id.unwrap().to_string());
    for subject in [fingerprint, alert_id, incident_id(), action_id(), notification_id()] {
        let found = found_of(&config, &subject).await;
        let mut topics: Vec<Topic> = found.events.iter().map(|heard| heard.event.topic()).collect();
        topics.sort();
        let mut all: Vec<Topic> = examples().iter().map(Event::topic).collect();
        all.sort();
        assert_eq!(topics, all, "{subject}");
        let own: Vec<EventId> = examples().into_iter().map(|event| event.id).collect();
        assert!(found.events.iter().all(|heard| own.contains(&heard.event.id)), "{subject}: a stranger's event");
        assert_eq!(found.records, 22);
    }
    assert_eq!(found_of(&config, "nobody").await.events.len(), 0);
}

#[tokio::test]
async fn what_is_of_another_namespace_is_told_to_be_there_and_nothing_else_of_it() {
    let (_directory, config) = log_of(&examples()).await;
    let raised = raised();
    for subject in [incident_id(), action_id(), notification_id()] {
        let ids = Ids { subject: subject.clone(), namespace: Some("nope".into()), ..Ids::default() };
        let (log, ids) = log::read(&config, jiff::Timestamp::UNIX_EPOCH, ids).await.unwrap();
        let facts = Facts { ids, log: Some(log), ..Facts::default() };
        let story = story::tell(&subject, &facts, false, raised.accepted_at);
        assert!(story.is_empty(), "{subject}: {story:?}");
        let note = format!("There is more of {subject} in the namespace shop; only nope was looked at");
        assert!(story.notes.iter().any(|told| told.starts_with(&note)), "{:?}", story.notes);
    }
    // An alert is of no namespace: that it came is told, and what rules elsewhere made of it is not.
    let subject = raised.fingerprint.unwrap();
    let ids = Ids { subject: subject.clone(), namespace: Some("nope".into()), ..Ids::default() };
    let (log, ids) = log::read(&config, jiff::Timestamp::UNIX_EPOCH, ids).await.unwrap();
    let facts = Facts { ids, log: Some(log), ..Facts::default() };
    let story = story::tell(&subject, &facts, false, raised.accepted_at);
    assert_eq!((story.incidents.len(), story.timeline.len()), (0, 1), "{story:?}");
    let text = render::text(&story, false);
    assert!(text.contains("there is no rule in the namespace nope") && !text.contains("Nothing was decided"), "{text}");
    let ids = Ids { subject: incident_id(), namespace: Some("shop".into()), ..Ids::default() };
    let (found, ids) = log::read(&config, jiff::Timestamp::UNIX_EPOCH, ids).await.unwrap();
    assert_eq!((found.events.len(), ids.elsewhere.len()), (examples().len(), 0));
}

fn rule(name: &str, namespace: &str, spec: Value) -> Rule {
    serde_json::from_value(json!({
        "apiVersion": "eventpulse.io/v1alpha1", "kind": "Rule",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": "2020-01-01T00:00:00Z"}, "spec": spec,
    }))
    .unwrap()
}

fn matching(matcher: &str) -> Value {
    json!({"match": {"matchers": [matcher]}})
}

fn with_condition(expression: &str) -> Value {
    json!({"match": {"matchers": ["alertname=CPUHigh"], "conditions": [{"name": "web", "expression": expression}]}})
}

#[test]
fn why_a_rule_matches_or_not_is_one_reason_with_its_details() {
    let mut young = rule("young", "shop", matching("alertname=CPUHigh"));
    young.metadata.creation_timestamp =
        Some("2100-01-01T00:00:00Z".parse().map(|time: jiff::Timestamp| time.into()).unwrap());
    let mut asleep = rule("asleep", "shop", matching("alertname=CPUHigh"));
    asleep.spec.suspend = true;
    for (rule, reason, detail) in [
        (rule("a", "shop", matching("alertname=CPUHigh")), RuleReason::Matches, ""),
        (asleep, RuleReason::Suspended, ""),
        (young, RuleReason::YoungerThanAlert, ""),
        (
            rule("a", "shop", with_condition("alert.labels.team == 'web'")),
            RuleReason::Undecided,
            "condition web has no value (",
        ),
        (
            rule("a", "shop", with_condition("alert.labels.service == 'svc-b'")),
            RuleReason::Condition,
            "condition web is false: alert.labels.service == 'svc-b'",
        ),
        (
            rule("a", "shop", matching("severity=critical")),
            RuleReason::Matcher,
            "severity=\"critical\": the label is \"warning\"",
        ),
        (rule("a", "shop", matching("team=web")), RuleReason::Matcher, "team=\"web\": the alert has no such label"),
        (
            rule("a", "bank", matching("alertname=CPUHigh")),
            RuleReason::OtherNamespace,
            "the alert belongs to namespace shop",
        ),
        (rule("a", "shop", matching("alertname~=")), RuleReason::Broken, "spec.match.matchers[0]: "),
    ] {
        let tried = try_all(std::slice::from_ref(&rule), &raised(), "x").remove(0);
        assert_eq!(tried.reason, reason, "{tried:?}");
        assert!(tried.meaning.len() > 10, "{tried:?}");
        match detail {
            "" => assert!(tried.details.is_empty(), "{tried:?}"),
            detail => assert!(tried.details[0].starts_with(detail), "{tried:?}"),
        }
    }
}

#[test]
fn of_more_rules_than_a_story_tells_the_nearest_are_told() {
    let mut facts = facts(examples());
    let far = |number| rule(&format!("far-{number}"), "shop", matching("alertname=Other"));
    facts.rules = (0..story::RULES_MAX).map(far).chain([rule("near", "shop", matching("alertname=CPUHigh"))]).collect();
    let story = story::tell(&incident_id(), &facts, false, raised().accepted_at);
    assert_eq!((story.rules.len(), story.rules[0].rule.to_string().as_str()), (story::RULES_MAX, "shop/near"));
    assert!(
        story.notes.iter().any(|note| note == "1001 rules were tried, the nearest 1000 are told."),
        "{:?}",
        story.notes
    );
}

fn facts(events: Vec<Event>) -> Facts {
    let ids = Ids {
        subject: incident_id(),
        incidents: [incident_id()].into(),
        alerts: [raised().alert_id.unwrap().to_string()].into(),
        ..Ids::default()
    };
    let heard = |event: Event| Heard { origin: format!("{}/0@1", event.topic()), logged_at: event.time, event };
    let log = FromLog { events: events.into_iter().map(heard).collect(), records: 11, ..FromLog::default() };
    Facts { ids, log: Some(log), ..Facts::default() }
}

#[test]
fn a_repeated_alert_is_one_line_with_a_count_unless_all_are_asked_for() {
    let mut events = examples();
    for n in 1..=17 {
        for topic in [Topic::AlertRaised, Topic::AlertDecided] {
            let mut again = example(topic);
            again.id = EventId::new(topic.name(), "again", &n.to_string());
            again.time += SignedDuration::from_mins(n);
            if let Payload::AlertDecided(decided) = &mut again.payload {
                decided.reason = crate::events::DecisionReason::Repeated;
                decided.alert_event_id = EventId::new("alert.raised", "again", &n.to_string());
            }
            events.push(again);
        }
    }
    // The same event, published once more after a crash, is no further thing that happened.
    events.push(example(Topic::ActionCompleted));
    let facts = facts(events);
    let now = example(Topic::AlertRaised).time;
    let (folded, all) = (story::tell("x", &facts, false, now), story::tell("x", &facts, true, now));
    let of = |story: &story::Story, event: &str| story.timeline.iter().filter(|entry| entry.event == event).count();
    assert_eq!((of(&folded, "alert.raised"), of(&folded, "alert.decided"), of(&folded, "action.completed")), (1, 2, 1));
    assert_eq!((of(&all, "alert.raised"), of(&all, "alert.decided"), of(&all, "action.completed")), (18, 18, 1));
    let again = folded.timeline.iter().find(|entry| entry.event == "alert.raised").unwrap().again;
    assert_eq!(again, Some((17, now + SignedDuration::from_mins(17))));
    assert!(folded.timeline.is_sorted_by_key(|entry| entry.time));
    let text = render::text(&folded, false);
    assert!(text.contains("again 17 times, last at "), "{text}");
    assert!(text.contains("opened: rule shop/cpu-high, incident cpu-high-"), "{text}");
    assert!(text.contains("It opened an incident."), "{text}");
}

#[test]
fn what_was_tried_again_is_told_try_by_try_with_the_answer_to_each() {
    let mut facts = facts(vec![example(Topic::ActionRequested)]);
    let begin = example(Topic::ActionRequested).time;
    let (second, third) = (begin + SignedDuration::from_secs(2), begin + SignedDuration::from_secs(7));
    let plan = |version: &str, planned_at: jiff::Timestamp, what: &str, outcome: Value| {
        json!({"sender": "pod-1", "plannedAt": planned_at, "what": what, "uid": "u", "resourceVersion": version,
            "ringCounter": 1, "outcome": outcome})
    };
    let conflict = plan("7", begin, "3 → 4", json!("Conflict"));
    let applied = plan("8", second, "4 → 5", Value::Null);
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "svc-a"});
    let action = json!({
        "apiVersion": "eventpulse.io/v1alpha1", "kind": "Action", "metadata": {"name": action_id(), "namespace": "shop"},
        "spec": {"incidentRef": {"name": incident_id()}, "ruleRef": {"name": "cpu-high"}, "step": "add-replica",
            "attempt": 1, "target": target, "decidedAt": begin, "deadline": third, "request": "{}",
            "plan": plan("7", begin, "3 → 4", Value::Null)},
        "status": {"phase": "Completed", "tries": 1, "plans": [conflict, applied]},
    });
    facts.actions.push(serde_json::from_value(action).unwrap());
    let message = json!({
        "apiVersion": "eventpulse.io/v1alpha1", "kind": "Notification",
        "metadata": {"name": notification_id(), "namespace": "shop"},
        "spec": {"incident": {"incidentID": incident_id(), "correlationID": "x", "severity": "warning", "summary": "s",
                "openedAt": begin},
            "ruleRef": {"name": "cpu-high"}, "channelRef": {"name": "ops-slack"}, "template": "IncidentOpened",
            "event": "Opened", "occurrence": "Opened", "decidedAt": begin, "deadline": third, "phase": "Waiting",
            "due": third, "tries": 2, "lastError": "HTTP 503 not now"},
    });
    facts.notifications.push(serde_json::from_value(message).unwrap());
    let story = story::tell("x", &facts, false, third);
    let tried: Vec<_> = story.timeline.iter().filter(|entry| ["plan", "try"].contains(&&*entry.event)).collect();
    let told =
        |at: usize| (tried[at].time, tried[at].by.as_str(), tried[at].what.as_str(), tried[at].reason.as_deref());
    assert_eq!(tried.len(), 3, "the first plan stands in the claim and in the status: {tried:#?}");
    let what = "step add-replica: Deployment/svc-a 3 → 4, planned by pod-1";
    assert_eq!(told(0), (begin, "actions", what, Some("Conflict")));
    let what = "step add-replica: Deployment/svc-a 4 → 5, planned by pod-1";
    assert_eq!(told(1), (second, "actions", what, None));
    let what = "message IncidentOpened to ops-slack: 2 tries, the last failed: HTTP 503 not now";
    assert_eq!(told(2), (third, "notify", what, None));
    let text = render::text(&story, false);
    let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
    let answer = at("The target had changed: the patch did not apply.");
    assert!(at("Conflict: step add-replica") < answer && answer < at("4 → 5"), "{text}");
    assert!(at("4 → 5") < at("2 tries, the last failed: HTTP 503 not now"), "{text}");
}

#[test]
fn what_nobody_decided_and_what_waits_is_said() {
    let mut facts = facts(vec![example(Topic::AlertRaised)]);
    let now = example(Topic::AlertRaised).time;
    let deadline = now + SignedDuration::from_mins(3);
    let action = json!({
        "apiVersion": "eventpulse.io/v1alpha1", "kind": "Action",
        "metadata": {"name": action_id(), "namespace": "shop"},
        "spec": {"incidentRef": {"name": incident_id()}, "ruleRef": {"name": "cpu-high"}, "step": "restart", "attempt": 2,
            "target": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "svc-a"}, "decidedAt": now, "deadline": deadline,
            "request": "{}"},
        "status": {"phase": "Waiting", "waitingFor": "the circuit breaker of scale-up", "tries": 0},
    });
    facts.actions.push(serde_json::from_value::<Action>(action).unwrap());
    let incident = json!({
        "apiVersion": "eventpulse.io/v1alpha1", "kind": "Incident", "metadata": {"name": incident_id(), "namespace": "shop"},
        "spec": {"ruleRef": {"name": "cpu-high"}, "correlationID": "x", "severity": "warning", "summary": "s", "openedAt": now},
        "status": {"phase": "Mitigating"},
    });
    facts.incidents.push(serde_json::from_value::<Incident>(incident).unwrap());
    let story = story::tell("x", &facts, false, now);
    let says = |text: &str| assert!(story.now.iter().any(|line| line.contains(text)), "{text}: {:?}", story.now);
    says("is Mitigating: a step was requested");
    says("(step restart, try 2) is Waiting and waits for the circuit breaker of scale-up; it may act until ");
    says("(in 3 min)");
    says("Nothing was decided yet about alert.raised/0@1");
}

#[test]
fn what_somebody_else_wrote_cannot_move_the_cursor() {
    let mut event = example(Topic::IncidentOpened);
    let Payload::IncidentOpened(opened) = &mut event.payload else { unreachable!() };
    opened.incident.summary = "\u{1b}[2Jgone\r\nline".into();
    let text = render::text(&story::tell("x", &facts(vec![event]), false, jiff::Timestamp::UNIX_EPOCH), true);
    assert!(text.contains("gone") && !text.contains('\u{1b}') && !text.contains('\r'), "{text:?}");
}

#[test]
fn only_what_can_be_an_id_is_asked_for() {
    for (text, name) in [
        ("5ef2b5cd4d2bd1a8", "5ef2b5cd4d2bd1a8"),
        ("cpu-high-x2a4q7rtzu", "cpu-high-x2a4q7rtzu"),
        ("incident.eventpulse.io/cpu-high-x2a4q7rtzu", "cpu-high-x2a4q7rtzu"),
    ] {
        assert_eq!(parse_subject(text).as_deref(), Ok(name));
    }
    for text in ["", "abc", "CPUHigh", "a b c d", "a,b=c", "\u{1b}[2J1234", &"a".repeat(64), "shop/"] {
        let error = parse_subject(text).unwrap_err();
        assert!(error.contains("kubectl get incidents,actions -A"), "{text:?}: {error}");
    }
}
