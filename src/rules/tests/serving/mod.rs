//! The service on the log in memory and the API server in memory; several of it are in [`replicas`], edited rules in [`edits`], what is said in [`lines`],
//! groups that were deleted in [`orphans`].

mod edits;
mod lines;
mod orphans;
mod replicas;
mod storms;

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::fixtures::*;
use crate::{
    api::v1alpha1::{AlertGroup, OUTBOX_MAX, Rule},
    bus::{Bus, MemoryBus, SubscribeOptions, SubscriptionEvent, TopicPartition},
    events::{AlertDecided, DeadLetterReason, DecisionReason, Event, Payload, Record, Topic},
    rules::{RulesConfig, run},
    testing::{FakeApi, Fault, Seen, TestContext},
};

const GROUPS: &str = "/apis/eventpulse.io/v1alpha1/alertgroups";
const RULES: &str = "/apis/eventpulse.io/v1alpha1/rules";
const INCIDENTS: &str = "/apis/eventpulse.io/v1alpha1/incidents";

struct Running {
    test: TestContext,
    bus: MemoryBus,
}

/// Waits for something that must come. The deadline only ends a test that fails.
async fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    for _ in 0..2000 {
        if let Some(found) = found() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain for {what}");
}

fn put_rule(api: &FakeApi, rule: &Rule) {
    api.put(RULES, serde_json::to_value(rule).unwrap());
}

impl Running {
    fn start(api: FakeApi, bus: MemoryBus) -> Self {
        Self::start_with(api, bus, |_| ())
    }

    fn start_with(api: FakeApi, bus: MemoryBus, change: impl FnOnce(&mut RulesConfig)) -> Self {
        let test = TestContext::with_api("rules", Arc::new(bus.clone()), api);
        let mut config = RulesConfig {
            takeover_grace: Duration::ZERO,
            stale_after: Duration::from_millis(50),
            ..RulesConfig::default()
        };
        change(&mut config);
        let ctx = test.ctx.clone();
        test.ctx.tasks.spawn("rules", run(ctx, config));
        Self { test, bus }
    }

    fn seed() -> Self {
        let api = FakeApi::new();
        put_rule(&api, &rule(CPU_HIGH));
        Self::start(api, MemoryBus::new(4))
    }

    async fn publish(&self, events: Vec<Event>) {
        self.bus.publish(events.iter().map(|event| event.encode().unwrap()).collect()).await.unwrap();
    }

    async fn tell(&self, told: &[Told]) {
        self.publish(told.iter().map(|told| told.event()).collect()).await;
    }

    fn events(&self, topic: Topic) -> Vec<Event> {
        self.bus.records(topic).iter().map(|record| record.decode().unwrap()).collect()
    }

    fn ledger(&self) -> Vec<AlertDecided> {
        self.events(Topic::AlertDecided)
            .into_iter()
            .filter_map(|event| match event.payload {
                Payload::AlertDecided(entry) => Some(*entry),
                _ => None,
            })
            .collect()
    }

    async fn reasons(&self, count: usize) -> Vec<DecisionReason> {
        until("the ledger", || (self.ledger().len() >= count).then_some(())).await;
        self.ledger().iter().map(|entry| entry.reason).collect()
    }

    fn group(&self) -> Option<AlertGroup> {
        self.test.api.all(GROUPS).pop().map(|value| serde_json::from_value(value).unwrap())
    }

    /// Whether every record of a topic is acknowledged.
    fn is_consumed(&self, topic: Topic) -> bool {
        (0..4).all(|partition| {
            let count = self.bus.records(topic).iter().filter(|r| self.partition(r) == partition).count();
            let stored = self.bus.stored_offset("rules", TopicPartition { topic, partition }).unwrap_or(0);
            stored == u64::try_from(count).unwrap()
        })
    }

    fn partition(&self, record: &Record) -> u32 {
        crate::bus::partition_of(record.key.as_deref().unwrap_or_default(), 4)
    }

    async fn consumed(&self, topic: Topic) {
        until("the stored offsets", || self.is_consumed(topic).then_some(())).await;
    }

    async fn stop(mut self) -> (FakeApi, MemoryBus) {
        self.test.ctx.shutdown.cancel();
        let tasks = self.test.ctx.tasks.clone();
        tokio::time::timeout(Duration::from_secs(20), tasks.finished()).await.expect("the service does not stop");
        assert_eq!(self.test.failures.try_recv().ok(), None, "a task failed");
        (self.test.api, self.bus)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_becomes_an_incident_and_its_completed_step_ends_it() {
    let running = Running::seed();
    running.tell(&[firing(1, 0)]).await;
    assert_eq!(running.reasons(1).await, [DecisionReason::Opened]);
    let request = requests(&running.events(Topic::ActionRequested)).remove(0);
    let group = running.group().unwrap();
    assert_eq!(group.metadata.labels.clone().unwrap()["eventpulse.io/rule"], "cpu-high");
    assert_eq!(group.metadata.labels.unwrap()["eventpulse.io/incident"], request.incident.incident_id.to_string());
    running.consumed(Topic::AlertRaised).await;
    let result = Event {
        id: crate::events::EventId::new("action.completed", request.action_id.as_str(), ""),
        time: at(1),
        source: "eventpulse/actions".into(),
        subject: request.action_id.to_string(),
        key: request.incident.incident_id.to_string(),
        traceparent: None,
        payload: completed(&request).into(),
    };
    running.publish(vec![result]).await;
    running.consumed(Topic::ActionCompleted).await;
    assert!(running.group().unwrap().spec.episode.is_none());
    assert_eq!(said(&running.events(Topic::NotificationRequested)).len(), 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_repetitions_are_one_incident() {
    let running = Running::seed();
    running.tell(&[firing(1, 0); 50]).await;
    running.reasons(1).await;
    running.consumed(Topic::AlertRaised).await;
    assert_eq!(running.bus.records(Topic::IncidentOpened).len(), 1);
    assert_eq!(running.bus.records(Topic::ActionRequested).len(), 1);
    assert_eq!(running.ledger()[0].reason, DecisionReason::Opened, "the first record for a key counts");
    running.stop().await;
}

#[tokio::test]
async fn one_write_carries_a_bounded_number_of_events() {
    let api = FakeApi::new();
    put_rule(&api, &rule(CPU_HIGH));
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let held = Arc::clone(&gate);
    let is_write = |seen: &Seen| seen.is_write() && seen.path.contains("/alertgroups");
    api.on_request(move |seen| if is_write(seen) { Fault::Hold(Arc::clone(&held)) } else { Fault::None });
    let running = Running::start(api.clone(), MemoryBus::new(4));
    // All but the first wait behind its write.
    running.tell(&[firing(0, 0)]).await;
    until("the first write", || api.seen().iter().any(is_write).then_some(())).await;
    running.tell(&(1..=60).map(|pod| firing(pod, 0)).collect::<Vec<_>>()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    gate.add_permits(1_000);
    running.reasons(61).await;
    let entries = |seen: &Seen| seen.body["spec"]["outbox"].as_array().map_or(0, Vec::len);
    let most = api.seen().iter().filter(|seen| is_write(seen)).map(entries).max().unwrap();
    assert!((1..=OUTBOX_MAX).contains(&most), "{most}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_decided_before_the_first_list_of_rules() {
    let api = FakeApi::new();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let held = Arc::clone(&gate);
    api.on_request(move |seen| if seen.path == RULES { Fault::Hold(Arc::clone(&held)) } else { Fault::None });
    put_rule(&api, &rule(CPU_HIGH));
    let running = Running::start(api, MemoryBus::new(4));
    running.tell(&[firing(1, 0)]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(running.ledger().is_empty(), "an alert was decided without the rules");
    gate.add_permits(100);
    assert_eq!(running.reasons(1).await, [DecisionReason::Opened]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_rule_matches_nothing_and_stops_nothing() {
    let api = FakeApi::new();
    put_rule(&api, &rule(CPU_HIGH));
    put_rule(
        &api,
        &rule_with(|rule| {
            rule.metadata.name = Some("broken".into());
            rule.spec.r#match.matchers = vec!["alertname=~\"(\"".into()];
        }),
    );
    api.put(
        RULES,
        json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": "Rule",
        "metadata": {"name": "nonsense", "namespace": "shop"}, "spec": {"match": 7}}),
    );
    let running = Running::start(api, MemoryBus::new(4));
    running.tell(&[firing(1, 0)]).await;
    assert_eq!(running.reasons(1).await, [DecisionReason::Opened]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_without_a_rule_and_one_that_cannot_be_decided_are_in_the_ledger() {
    let api = FakeApi::new();
    put_rule(&api, &rule_with(|rule| rule.spec.r#match.conditions[0].expression = "alert.labels.nope == 'x'".into()));
    let running = Running::start(api, MemoryBus::new(4));
    running.tell(&[firing(1, 0)]).await;
    assert_eq!(running.reasons(1).await, [DecisionReason::Invalid]);
    running.test.api.remove(RULES, "shop", "cpu-high");
    // The watch tells a moment later: until then the rule is asked.
    until("an alert without a rule", || {
        let event = firing(2, 0).event().encode().unwrap();
        let bus = running.bus.clone();
        tokio::spawn(async move { bus.publish(vec![event]).await });
        running
            .ledger()
            .iter()
            .any(|entry| entry.reason == DecisionReason::NoRule && entry.rule.is_none())
            .then_some(())
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_a_dead_letter_and_holds_up_nothing() {
    let running = Running::seed();
    let raised = |change: &dyn Fn(&mut Value)| {
        let mut record = firing(1, 0).event().encode().unwrap();
        let mut data: Value = serde_json::from_slice(&record.value).unwrap();
        change(&mut data);
        record.value = data.to_string().into();
        record
    };
    let foreign = raised(&|data| {
        for field in ["alertID", "fingerprint", "annotations"] {
            data.as_object_mut().unwrap().remove(field);
        }
    });
    let records = vec![
        raised(&|data| data["labels"] = json!({})),
        raised(&|data| data["labels"] = json!(null)),
        raised(&|data| data["source"] = json!("")),
        raised(&|data| data["fingerprint"] = json!("f".repeat(65))),
        raised(&|data| data["labels"]["x"] = json!("y".repeat(4_097))),
        raised(&|data| data["annotations"] = json!({"": "without a name"})),
        raised(&|data| data["startsAt"] = json!("yesterday")),
        foreign,
    ];
    running.bus.publish(records).await.unwrap();
    assert_eq!(running.reasons(1).await, [DecisionReason::Opened]);
    running.consumed(Topic::AlertRaised).await;
    let reasons: Vec<DeadLetterReason> = running
        .events(Topic::DeadLetter)
        .into_iter()
        .filter_map(|event| match event.payload {
            Payload::DeadLetter(letter) => Some(letter.reason),
            _ => None,
        })
        .collect();
    assert_eq!(reasons.iter().filter(|reason| **reason == DeadLetterReason::InvalidAlert).count(), 5);
    assert_eq!(reasons.len(), 7);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_api_server_refuses_for_good_ends_as_refused() {
    let api = FakeApi::new();
    put_rule(&api, &rule(CPU_HIGH));
    api.on_request(|seen| if seen.is_write() { Fault::Answer(403) } else { Fault::None });
    let running = Running::start(api, MemoryBus::new(4));
    running.tell(&[firing(1, 0), firing(2, 0)]).await;
    assert_eq!(running.reasons(2).await, [DecisionReason::Refused; 2]);
    running.consumed(Topic::AlertRaised).await;
    assert_eq!(running.bus.records(Topic::DeadLetter).len(), 2);
    assert!(running.bus.records(Topic::ActionRequested).is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_is_lost_opens_one_incident() {
    let api = FakeApi::new();
    put_rule(&api, &rule(CPU_HIGH));
    let lost = std::sync::atomic::AtomicBool::new(false);
    api.on_request(move |seen| {
        if seen.is_write() && !lost.swap(true, std::sync::atomic::Ordering::SeqCst) {
            Fault::DropAnswer
        } else {
            Fault::None
        }
    });
    let running = Running::start(api, MemoryBus::new(4));
    running.tell(&[firing(1, 0)]).await;
    running.consumed(Topic::AlertRaised).await;
    until("the incident", || (running.bus.records(Topic::IncidentOpened).len() == 1).then_some(())).await;
    assert_eq!(running.ledger()[0].reason, DecisionReason::Opened);
    assert_eq!(running.bus.records(Topic::ActionRequested).len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_fire_by_the_clock_and_survive_a_restart() {
    let running = Running::seed();
    running.tell(&[firing(1, 0).until(240)]).await;
    running.consumed(Topic::AlertRaised).await;
    let (api, bus) = running.stop().await;
    let running = Running::start(api, bus);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(running.bus.records(Topic::IncidentResolved).is_empty());
    running.test.clock.advance(SignedDuration::from_secs(541));
    until("the expiry", || (running.bus.records(Topic::IncidentResolved).len() == 1).then_some(())).await;
    let group = running.group().unwrap().spec;
    assert!(group.episode.is_none() && group.next_timer.is_none(), "something is still due: {:?}", group.next_timer);
    let (api, bus) = running.stop().await;
    let running = Running::start(api, bus);
    running.test.clock.advance(SignedDuration::from_secs(1_000));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(running.bus.records(Topic::IncidentResolved).len(), 1, "it fired once more after a restart");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_is_cleared_when_it_is_acknowledged() {
    let running = Running::seed();
    running.tell(&[firing(1, 0)]).await;
    running.consumed(Topic::AlertRaised).await;
    assert!(!running.group().unwrap().spec.outbox.is_empty());
    running.test.clock.advance(SignedDuration::from_secs(3));
    until("an empty outbox", || running.group().filter(|group| group.spec.outbox.is_empty())).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_rule_is_read_live() {
    let running = Running::seed();
    running.tell(&[firing(1, 0)]).await;
    running.consumed(Topic::AlertRaised).await;
    put_rule(
        &running.test.api,
        &rule_with(|rule| {
            rule.spec.suspend = true;
            rule.metadata.generation = Some(4);
        }),
    );
    let request = requests(&running.events(Topic::ActionRequested)).remove(0);
    let failure = failed(&request, crate::events::ActionFailureReason::Suspended);
    tokio::time::sleep(Duration::from_millis(100)).await;
    running
        .publish(vec![Event {
            id: crate::events::EventId::new("action.failed", request.action_id.as_str(), ""),
            time: at(1),
            source: "eventpulse/actions".into(),
            subject: request.action_id.to_string(),
            key: request.incident.incident_id.to_string(),
            traceparent: None,
            payload: failure.into(),
        }])
        .await;
    running.consumed(Topic::ActionFailed).await;
    assert_eq!(running.bus.records(Topic::ActionRequested).len(), 1, "a suspended rule went on");
    put_rule(&running.test.api, &rule_with(|rule| rule.metadata.generation = Some(5)));
    until("the next step", || (running.bus.records(Topic::ActionRequested).len() == 2).then_some(())).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_watch_of_rules_pauses_and_then_leaves_the_group() {
    let running = Running::seed();
    running.tell(&[firing(1, 0)]).await;
    running.consumed(Topic::AlertRaised).await;
    running.test.api.on_request(|seen| if seen.path == RULES { Fault::Answer(500) } else { Fault::None });
    running.test.api.break_watches();
    until("the report", || {
        running.test.health.report().into_iter().find(|(part, reason)| part.contains("Rule") && reason.is_some())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    running.tell(&[firing(2, 0)]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(running.ledger().len(), 1, "an alert was decided by stale rules");
    // The group was left: another one gets every partition.
    let options = SubscribeOptions { group: "rules".into(), topics: vec![Topic::AlertRaised], max_in_flight: 1 };
    let mut other = running.bus.subscribe(options).await.unwrap();
    let mut assigned = std::collections::BTreeSet::new();
    let all = async {
        while assigned.len() < 4 {
            if let Some(SubscriptionEvent::Assigned(partitions)) = other.next().await {
                assigned.extend(partitions.into_iter().map(|at| at.partition));
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all).await.expect("the member that cannot see has kept partitions");
    other.leave().await;
    running.test.api.no_faults();
    assert_eq!(running.reasons(2).await[1], DecisionReason::Joined);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_alerts_of_one_group_are_few_writes() {
    let running = Running::seed();
    let told: Vec<Told> = (0..150).map(|pod| firing(pod, i64::from(pod))).collect();
    running.tell(&told).await;
    running.consumed(Topic::AlertRaised).await;
    let writes = running.test.api.seen().iter().filter(|seen| seen.is_write()).count();
    assert!(writes < 60, "150 alerts were {writes} writes");
    assert_eq!(running.group().unwrap().spec.episode.unwrap().alert_count, 150);
    assert_eq!(running.bus.records(Topic::IncidentOpened).len(), 1);
    let keys: std::collections::BTreeSet<String> =
        running.ledger().iter().map(|entry| entry.alert_id.to_string()).collect();
    assert_eq!(keys.len(), 150, "an alert is not in the ledger");
    running.stop().await;
}

/// An alert of a group of its own.
fn elsewhere(service: usize) -> Event {
    let mut event = firing(0, 0).event();
    if let Payload::AlertRaised(alert) = &mut event.payload {
        alert.labels.insert("service".into(), format!("svc-{service}"));
    }
    event.key = format!("key-{service}");
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_is_counted_and_asks_for_nothing() {
    let api = FakeApi::new();
    put_rule(&api, &rule(CPU_HIGH));
    let running = Running::start_with(api, MemoryBus::new(4), |config| config.storm_threshold = 5);
    for service in 0..5 {
        running.publish(vec![elsewhere(service)]).await;
        running.reasons(service + 1).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    running.publish(vec![elsewhere(7)]).await;
    assert_eq!(running.reasons(6).await.iter().filter(|reason| **reason == DecisionReason::Storm).count(), 1);
    assert_eq!(running.bus.records(Topic::ActionRequested).len(), 5);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_for_a_namespace_that_is_none_is_a_dead_letter() {
    let running = Running::seed();
    let mut scenario = Scenario::seed();
    scenario.alert(firing(1, 0));
    let mut result = completed(&scenario.request());
    result.incident.rule.namespace = "../../secrets".into();
    let event = Event {
        id: crate::events::EventId::new("action.completed", "x", ""),
        time: at(1),
        source: "somebody".into(),
        subject: "x".into(),
        key: "x".into(),
        traceparent: None,
        payload: result.into(),
    };
    running.publish(vec![event]).await;
    until("the dead letter", || (running.bus.records(Topic::DeadLetter).len() == 1).then_some(())).await;
    running.consumed(Topic::ActionCompleted).await;
    assert!(running.test.api.seen().iter().all(|seen| !seen.path.contains("secrets")));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_was_taken_up_again_while_nobody_looked_goes_on() {
    let api = FakeApi::new();
    put_rule(&api, &rule(CPU_HIGH));
    // As it was left: the first step failed while the rule was suspended.
    let mut left = Scenario::seed();
    left.alert(firing(1, 0));
    left.suspended = true;
    left.fails(crate::events::ActionFailureReason::RetriesExhausted);
    api.put(
        GROUPS,
        json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": "AlertGroup",
        "metadata": {"name": left.key().correlation.to_string(), "namespace": "shop"},
        "spec": serde_json::to_value(left.group.unwrap()).unwrap()}),
    );
    let running = Running::start(api, MemoryBus::new(4));
    let request = until("the next step", || requests(&running.events(Topic::ActionRequested)).pop()).await;
    assert_eq!(request.step, "restart");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_over_is_deleted() {
    let api = FakeApi::new();
    put_rule(&api, &rule(CPU_HIGH));
    let mut over = Scenario::seed();
    over.alert(firing(1, 0));
    over.alert(resolved(1, 0, 60));
    let mut group: AlertGroup =
        serde_json::from_value(json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": "AlertGroup",
        "metadata": {"name": over.key().correlation.to_string(), "namespace": "shop"},
        "spec": serde_json::to_value(over.group.unwrap()).unwrap()}))
        .unwrap();
    group.spec.outbox.clear();
    api.put(GROUPS, serde_json::to_value(&group).unwrap());
    let running = Running::start_with(api, MemoryBus::new(4), |config| {
        config.eviction_interval = Duration::from_millis(20);
        config.sweep_interval = Duration::from_millis(10);
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(running.group().is_some(), "it was deleted although its alerts may come again");
    running.test.clock.advance(SignedDuration::from_hours(24 * 7 + 1));
    until("its deletion", || running.group().is_none().then_some(())).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_beyond_the_count_go_when_nothing_of_them_can_come_again() {
    let api = FakeApi::new();
    put_rule(&api, &rule(CPU_HIGH));
    for (n, began) in [0, 600, 1_200].into_iter().enumerate() {
        let mut over = Scenario::seed();
        over.alert(firing(1, began));
        over.alert(resolved(1, began, began + 60));
        let mut spec = over.group.unwrap();
        spec.outbox.clear();
        (spec.cooldown_until, spec.next_timer) = (None, None);
        spec.correlation_id = crate::events::CorrelationId::new("shop", "cpu-high", &[&format!("svc-{n}")]);
        api.put(
            GROUPS,
            json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": "AlertGroup",
            "metadata": {"name": spec.correlation_id.to_string(), "namespace": "shop"},
            "spec": serde_json::to_value(&spec).unwrap()}),
        );
    }
    let running = Running::start_with(api, MemoryBus::new(4), |config| {
        config.max_quiet = 1;
        config.eviction_interval = Duration::from_millis(20);
        config.sweep_interval = Duration::from_millis(10);
    });
    let left = || running.test.api.all(GROUPS).len();
    // The first one of them ended a day ago, all but for a second.
    running.test.clock.advance(SignedDuration::from_secs(24 * 3600 + 59));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(left(), 3, "their alerts may come again");
    running.test.clock.advance(SignedDuration::from_secs(1));
    until("the first one's deletion", || (left() == 2).then_some(())).await;
    running.test.clock.advance(SignedDuration::from_hours(48));
    until("the second one's deletion", || (left() == 1).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(left(), 1, "the count is not reached, nor is its time");
    running.stop().await;
}
