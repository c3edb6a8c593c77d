//! The service on the log in memory and the API server in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use http::Method;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::make::*;
use crate::{
    bus::{Bus, BusError, MemoryBus, SubscribeOptions, Subscription},
    events::*,
    incidents::{IncidentsConfig, POLICY_NAME, run},
    testing::{FakeApi, Fault, Seen, TestContext},
};

pub(super) const INCIDENTS: &str = "/apis/eventpulse.io/v1alpha1/incidents";

pub(super) struct World {
    pub bus: Arc<MemoryBus>,
    pub api: FakeApi,
}

impl World {
    pub fn new() -> Self {
        Self { bus: Arc::new(MemoryBus::new(2)), api: FakeApi::new() }
    }

    /// Starts a replica.
    pub fn start(&self) -> TestContext {
        self.start_on(Arc::clone(&self.bus) as Arc<dyn Bus>)
    }

    fn start_on(&self, bus: Arc<dyn Bus>) -> TestContext {
        let context = TestContext::with_api("incidents", bus, self.api.clone());
        let ctx = context.ctx.clone();
        let config = IncidentsConfig { retention_interval: Duration::from_millis(20), ..IncidentsConfig::default() };
        context.ctx.tasks.spawn("incidents", async move { run(ctx, config).await });
        context
    }

    pub async fn publish(&self, events: &[Event]) {
        let records = events.iter().map(|event| event.encode().unwrap()).collect();
        self.bus.publish(records).await.unwrap();
    }

    fn incident(&self, name: &str) -> Option<Value> {
        self.api.get(INCIDENTS, NAMESPACE, name)
    }

    pub fn status(&self, name: &str) -> Value {
        self.incident(name).map(|incident| incident["status"].clone()).unwrap_or_default()
    }

    /// What was told, by event id: a repeated publication is the same event.
    pub fn told(&self) -> BTreeMap<String, IncidentUpdated> {
        self.events(Topic::IncidentUpdated, |payload| match payload {
            Payload::IncidentUpdated(data) => *data,
            other => panic!("{other:?}"),
        })
    }

    pub fn letters(&self) -> Vec<DeadLetter> {
        let letters = self.events(Topic::DeadLetter, |payload| match payload {
            Payload::DeadLetter(data) => *data,
            other => panic!("{other:?}"),
        });
        letters.into_values().collect()
    }

    fn events<T>(&self, topic: Topic, read: impl Fn(Payload) -> T) -> BTreeMap<String, T> {
        let events = self.bus.records(topic).into_iter().map(|record| record.decode().unwrap());
        events.map(|event| (event.id.to_string(), read(event.payload))).collect()
    }
}

/// Polls until it holds; a test that waits in vain says for what.
pub(super) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..6_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("in vain: {what}");
}

pub(super) async fn stop(mut context: TestContext) {
    context.ctx.shutdown.cancel();
    context.ctx.tasks.finished().await;
    assert!(context.failures.try_recv().is_err(), "a task failed");
}

/// Events of the seed's scenario, of another incident for each service.
pub(super) fn story(service: &str) -> (String, Vec<Event>) {
    let correlation_id = CorrelationId::new(NAMESPACE, "cpu-high", &[service]);
    let incident = IncidentHeader {
        incident_id: IncidentId::new("cpu-high", &correlation_id, &header().alerts[0].alert_id),
        correlation_id,
        summary: format!("CPU of {service} is high"),
        ..header()
    };
    let request = ActionRequested { incident: incident.clone(), ..requested("add-replica", 0, 1) };
    let message = NotificationDelivered { incident: incident.clone(), ..delivered(after(400)) };
    let id = |what: &str| format!("{service}/{what}");
    let mut events = vec![
        event(opened(incident.clone()), after(0), &id("o")),
        event(request.clone(), after(10), &id("r")),
        event(message, after(401), &id("d")),
        event(completed(&request), after(1_250), &id("c")),
    ];
    events.iter_mut().for_each(|event| event.key = incident.incident_id.to_string());
    (incident.incident_id.to_string(), events)
}

#[tokio::test]
async fn the_seeds_story_ends_resolved_and_told() {
    let world = World::new();
    let replica = world.start();
    let (name, events) = story("svc-a");
    world.publish(&events).await;
    eventually("resolved", || world.status(&name)["history"].as_array().is_some_and(|all| all.len() == 4)).await;
    let incident = world.incident(&name).unwrap();
    assert_eq!(incident["status"]["phase"], "Resolved");
    assert_eq!(incident["status"]["lastAction"], "add-replica Completed");
    assert_eq!(incident["metadata"]["labels"]["eventpulse.io/rule"], "cpu-high");
    eventually("told", || world.told().values().any(|told| told.phase == IncidentPhase::Resolved)).await;
    // Two seconds later nothing is left to say.
    replica.clock.advance(SignedDuration::from_secs(3));
    eventually("an empty outbox", || world.status(&name)["outbox"].as_array().is_none_or(Vec::is_empty)).await;
    assert_eq!(world.status(&name)["phase"], "Resolved");
    assert!(replica.health.is_ready(), "{:?}", replica.health.report());
    stop(replica).await;
}

#[tokio::test]
async fn two_replicas_and_every_event_twice_give_the_same_incident_and_tell_nothing_twice() {
    let reference = World::new();
    let replica = reference.start();
    let (name, events) = story("svc-a");
    reference.publish(&events).await;
    eventually("resolved", || reference.status(&name)["history"].as_array().is_some_and(|all| all.len() == 4)).await;
    stop(replica).await;

    let world = World::new();
    let replicas = [world.start(), world.start()];
    let mut twice = [events.clone(), events].concat();
    twice.reverse();
    // Keys as the services use them, and others: order between partitions is never relied on.
    for (i, event) in twice.iter_mut().enumerate() {
        event.key = i.to_string();
    }
    for event in &twice {
        world.publish(std::slice::from_ref(event)).await;
    }
    eventually("all", || world.status(&name)["history"].as_array().is_some_and(|all| all.len() == 4)).await;
    let told = world.told();
    world.publish(&twice).await;
    let after_all = story("svc-z");
    world.publish(&after_all.1).await;
    eventually("the next", || world.status(&after_all.0)["history"].as_array().is_some_and(|all| all.len() == 4)).await;
    for replica in replicas {
        stop(replica).await;
    }
    let bare = |mut status: Value| {
        status.as_object_mut().unwrap().remove("outbox");
        status
    };
    assert_eq!(bare(world.status(&name)), bare(reference.status(&name)));
    let of_first = |told: BTreeMap<String, IncidentUpdated>| -> BTreeSet<String> {
        told.into_iter().filter(|(_, told)| told.incident.incident_id.as_str() == name).map(|(id, _)| id).collect()
    };
    assert_eq!(of_first(world.told()), of_first(told));
}

#[tokio::test]
async fn a_write_that_is_refused_takes_no_other_event_and_no_other_incident_with_it() {
    let world = World::new();
    world.api.on_request(|seen: &Seen| match seen.method {
        Method::POST if seen.body["spec"]["summary"] == "CPU of full is high" => Fault::Answer(403),
        Method::PUT if seen.body.to_string().contains("poison") => Fault::Answer(422),
        _ => Fault::None,
    });
    let ((good, mut events), (_, full)) = (story("svc-a"), story("full"));
    let Payload::ActionCompleted(data) = &mut events[3].payload else { panic!() };
    data.what = "poison".into();
    world.publish(&full).await;
    world.publish(&events).await;
    let replica = world.start();
    eventually("letters", || world.letters().len() == 5).await;
    eventually("the others", || world.status(&good)["history"].as_array().is_some_and(|all| all.len() == 3)).await;
    assert_eq!(world.status(&good)["phase"], "Mitigating");
    assert!(world.letters().iter().all(|letter| letter.reason == DeadLetterReason::Refused));
    stop(replica).await;
}

#[tokio::test]
async fn an_incident_of_a_namespace_that_is_gone_ends_as_a_dead_letter() {
    let world = World::new();
    world.api.on_request(|seen: &Seen| if seen.method == Method::POST { Fault::Answer(404) } else { Fault::None });
    world.publish(&story("svc-a").1[..1]).await;
    let replica = world.start();
    eventually("a letter", || world.letters().len() == 1).await;
    stop(replica).await;
}

#[tokio::test]
async fn an_answer_that_is_lost_after_the_write_is_told_once_and_changes_nothing_more() {
    let world = World::new();
    let lost = std::sync::atomic::AtomicUsize::new(0);
    world.api.on_request(move |seen: &Seen| {
        let first = seen.method == Method::PUT && lost.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 1;
        if first { Fault::CommitThenAnswer(504) } else { Fault::None }
    });
    let (name, events) = story("svc-a");
    world.publish(&events[..1]).await;
    let replica = world.start();
    eventually("told", || world.told().len() == 1).await;
    world.publish(&events[1..2]).await;
    eventually("the next event", || world.told().len() == 2).await;
    assert_eq!(world.status(&name)["history"].as_array().unwrap().len(), 2);
    stop(replica).await;
}

#[tokio::test]
async fn what_a_dead_replica_had_to_say_is_said_by_its_successor() {
    let world = World::new();
    let (name, events) = story("svc-a");
    let replica = world.start();
    world.publish(&events[..1]).await;
    eventually("told", || world.told().len() == 1).await;
    stop(replica).await;
    // As if the replica had died between its write and its publication.
    let mut incident = world.incident(&name).unwrap();
    let mut entry = incident["status"]["outbox"][0].clone();
    entry["id"] = json!("unsaid");
    incident["status"]["outbox"] = json!([entry]);
    world.api.put(INCIDENTS, incident);
    let successor = world.start();
    successor.clock.advance(SignedDuration::from_secs(3));
    eventually("said", || world.told().contains_key("unsaid")).await;
    eventually("cleared", || world.status(&name)["outbox"].as_array().is_none_or(Vec::is_empty)).await;
    stop(successor).await;
}

fn decide(world: &World, name: &str) {
    let mut incident = world.incident(name).unwrap();
    incident["spec"]["resolved"] = json!(true);
    incident["spec"]["decidedBy"] = json!("alice");
    incident["metadata"]["generation"] = json!(2);
    incident["metadata"]["managedFields"] = json!([{
        "manager": "kubectl-edit", "operation": "Update", "apiVersion": "eventpulse.io/v1alpha1", "fieldsType": "FieldsV1",
        "time": "2026-01-01T12:00:00Z", "fieldsV1": {"f:spec": {"f:decidedBy": {}, "f:resolved": {}}},
    }]);
    world.api.put(INCIDENTS, incident);
}

#[tokio::test]
async fn a_persons_decision_is_seen_told_and_shown() {
    for (with_policy, by) in [(false, "alice (unverified)"), (true, "alice")] {
        let world = World::new();
        if with_policy {
            install_policy(&world.api);
        }
        let replica = world.start();
        let (name, events) = story("svc-a");
        world.publish(&events[..1]).await;
        eventually("told", || world.told().len() == 1).await;
        decide(&world, &name);
        eventually("decided", || world.told().values().any(|told| told.cause == UpdateCause::Decision)).await;
        let status = world.status(&name);
        assert_eq!((&status["phase"], &status["history"][1]["by"]), (&json!("Resolved"), &json!(by)));
        let condition = &status["conditions"][0];
        assert_eq!((&condition["type"], &condition["reason"]), (&json!("Resolved"), &json!("Decision")));
        stop(replica).await;
    }
}

fn install_policy(api: &FakeApi) {
    let manifest = include_str!("../../../config/policy/incident-decisions.yaml");
    for document in serde_norway::Deserializer::from_str(manifest) {
        let object: Value = serde::Deserialize::deserialize(document).unwrap();
        let plural = if object["kind"] == "ValidatingAdmissionPolicy" {
            "validatingadmissionpolicies"
        } else {
            "validatingadmissionpolicybindings"
        };
        assert_eq!(object["metadata"]["name"], POLICY_NAME);
        api.put(&format!("/apis/admissionregistration.k8s.io/v1/{plural}"), object);
    }
}

#[tokio::test]
async fn a_decision_whose_write_is_refused_is_tried_again() {
    let world = World::new();
    let replica = world.start();
    let (name, events) = story("svc-a");
    world.publish(&events[..1]).await;
    eventually("told", || world.told().len() == 1).await;
    replica.clock.advance(SignedDuration::from_secs(3));
    eventually("an empty outbox", || world.status(&name)["outbox"].as_array().is_none_or(Vec::is_empty)).await;
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    world.api.on_request(move |seen: &Seen| {
        let refuse = seen.is_write() && count.fetch_add(1, Ordering::SeqCst) == 0;
        if refuse { Fault::Answer(403) } else { Fault::None }
    });
    decide(&world, &name);
    // Nothing changes the incident any more.
    eventually("decided", || world.status(&name)["phase"] == "Resolved").await;
    assert!(refused.load(Ordering::SeqCst) >= 2);
    stop(replica).await;
}

#[tokio::test]
async fn a_decision_taken_while_nobody_ran_is_seen_at_the_start() {
    let world = World::new();
    let replica = world.start();
    let (name, events) = story("svc-a");
    world.publish(&events[..1]).await;
    eventually("told", || world.told().len() == 1).await;
    stop(replica).await;
    decide(&world, &name);
    let successor = world.start();
    eventually("resolved", || world.status(&name)["phase"] == "Resolved").await;
    stop(successor).await;
}

#[tokio::test]
async fn finished_incidents_are_deleted_after_their_time_and_no_others_ever() {
    let world = World::new();
    let replicas = [world.start(), world.start()];
    let (finished, events) = story("svc-a");
    let (open, others) = story("svc-b");
    world.publish(&events).await;
    world.publish(&others[..2]).await;
    eventually("both", || {
        world.status(&finished)["history"].as_array().is_some_and(|all| all.len() == 4)
            && world.status(&open)["history"].as_array().is_some_and(|all| all.len() == 2)
    })
    .await;
    replicas.iter().for_each(|replica| replica.clock.advance(SignedDuration::from_hours(24 * 8)));
    eventually("deleted", || world.incident(&finished).is_none()).await;
    // A late event of the deleted incident does not bring it back, and is no dead letter.
    world.publish(&events[2..3]).await;
    let (next, mut fresh) = story("svc-c");
    fresh.truncate(1);
    let Payload::IncidentOpened(data) = &mut fresh[0].payload else { panic!() };
    data.incident.opened_at += SignedDuration::from_hours(24 * 8);
    fresh[0].key = events[2].key.clone();
    world.publish(&fresh).await;
    eventually("the next", || world.incident(&next).is_some()).await;
    for replica in replicas {
        stop(replica).await;
    }
    assert!(world.incident(&finished).is_none() && world.incident(&open).is_some());
    assert_eq!(world.letters(), []);
}

#[tokio::test]
async fn only_the_holder_of_the_partition_deletes() {
    let world = World::new();
    let replica = world.start();
    let (name, events) = story("svc-a");
    world.publish(&events).await;
    eventually("resolved", || world.status(&name)["history"].as_array().is_some_and(|all| all.len() == 4)).await;
    replica.clock.advance(SignedDuration::from_secs(3));
    eventually("an empty outbox", || world.status(&name)["outbox"].as_array().is_none_or(Vec::is_empty)).await;
    stop(replica).await;
    // This one sees the incident, but cannot join the group.
    let idle = world.start_on(Arc::new(Unjoinable(Arc::clone(&world.bus))));
    idle.clock.advance(SignedDuration::from_hours(24 * 8));
    eventually("a list", || world.api.seen().iter().filter(|seen| seen.query.contains("watch=")).count() > 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(world.incident(&name).is_some());
    stop(idle).await;
    let holder = world.start();
    holder.clock.advance(SignedDuration::from_hours(24 * 8));
    eventually("deleted", || world.incident(&name).is_none()).await;
    stop(holder).await;
}

/// What an incident is, without what only its writer needs.
fn told_of(world: &World, name: &str) -> Value {
    let mut incident = world.incident(name).unwrap_or_default();
    incident["status"].as_object_mut().unwrap().remove("outbox");
    json!({"spec": incident["spec"], "labels": incident["metadata"]["labels"], "status": incident["status"]})
}

fn entries(world: &World, name: &str) -> usize {
    world.status(name)["history"].as_array().map_or(0, Vec::len)
}

/// As `eventpulse replay` does it: the group goes back while nobody is in it.
#[tokio::test]
async fn incidents_that_were_deleted_come_back_from_the_topics_and_those_that_are_there_stay_as_they_are() {
    let world = World::new();
    let replica = world.start();
    let (finished, events) = story("svc-a");
    let (open, others) = story("svc-b");
    let (kept, more) = story("svc-c");
    world.publish(&[&events[..], &others[..2], &more[..3]].concat()).await;
    eventually("all", || [(&finished, 4), (&open, 2), (&kept, 3)].iter().all(|(name, n)| entries(&world, name) == *n))
        .await;
    replica.clock.advance(SignedDuration::from_secs(3));
    let says_nothing_more = || {
        [&finished, &open, &kept].iter().all(|name| world.status(name)["outbox"].as_array().is_none_or(Vec::is_empty))
    };
    eventually("all is told", says_nothing_more).await;
    let before = [&finished, &open, &kept].map(|name| told_of(&world, name));
    stop(replica).await;
    let (version, told) = (world.incident(&kept).unwrap()["metadata"]["resourceVersion"].clone(), world.told());

    for name in [&finished, &open] {
        world.api.remove(INCIDENTS, NAMESPACE, name);
    }
    assert!(world.bus.rewind("incidents", u64::MAX) > 0);
    let replica = world.start();
    eventually("both are back", || entries(&world, &finished) == 4 && entries(&world, &open) == 2).await;
    // Whatever stood before it has been read.
    let (next, fresh) = story("svc-d");
    world.publish(&fresh).await;
    eventually("the next", || entries(&world, &next) == 4).await;
    stop(replica).await;
    assert_eq!([&finished, &open, &kept].map(|name| told_of(&world, name)), before);
    assert_eq!(world.incident(&kept).unwrap()["metadata"]["resourceVersion"], version);
    let tells_of_kept = |told: &BTreeMap<String, IncidentUpdated>| {
        told.values().filter(|told| told.incident.incident_id.as_str() == kept).count()
    };
    assert_eq!(tells_of_kept(&world.told()), tells_of_kept(&told));
}

#[tokio::test]
async fn what_people_decided_of_a_deleted_incident_does_not_come_back_and_its_resolution_by_a_person_neither() {
    let world = World::new();
    let replica = world.start();
    let (name, events) = story("svc-a");
    world.publish(&events[..2]).await;
    eventually("requested", || entries(&world, &name) == 2).await;
    decide(&world, &name);
    eventually("resolved", || world.status(&name)["phase"] == "Resolved").await;
    eventually("told", || world.told().values().any(|told| told.cause == UpdateCause::Decision)).await;
    stop(replica).await;
    world.api.remove(INCIDENTS, NAMESPACE, &name);
    assert!(world.bus.rewind("incidents", u64::MAX) > 0);
    let replica = world.start();
    eventually("it is back", || entries(&world, &name) == 2).await;
    let incident = world.incident(&name).unwrap();
    let found = (&incident["status"]["phase"], &incident["spec"]["resolved"], &incident["status"]["decisions"]);
    assert_eq!(found, (&json!("Mitigating"), &json!(false), &Value::Null), "{incident:#}");
    stop(replica).await;
}

/// A message that comes before what opened the incident cannot create one that is older: it may be the last that was ever said of it.
#[tokio::test]
async fn a_message_about_an_older_incident_that_comes_before_its_opening_is_there_after_a_second_replay() {
    let world = World::new();
    let replica = world.start();
    replica.clock.advance(SignedDuration::from_hours(3));
    let (name, events) = story("svc-a");
    world.publish(&events[2..3]).await;
    let writes = "eventpulse_incident_writes_total{outcome=\"stale\"} 1\n";
    let stale = || replica.ctx.metrics.encode().unwrap().contains(writes);
    eventually("the message has come", stale).await;
    world.publish(&[&events[..2], &events[3..]].concat()).await;
    eventually("the others", || entries(&world, &name) == 3).await;
    assert_eq!(
        (&world.status(&name)["phase"], &world.status(&name)["lastNotifiedAt"]),
        (&json!("Resolved"), &Value::Null)
    );
    stop(replica).await;
    assert!(world.bus.rewind("incidents", u64::MAX) > 0);
    let replica = world.start();
    replica.clock.advance(SignedDuration::from_hours(3));
    eventually("the message", || entries(&world, &name) == 4).await;
    assert!(world.status(&name)["lastNotifiedAt"].is_string());
    stop(replica).await;
}

/// A log whose consumer groups nobody can join.
struct Unjoinable(Arc<MemoryBus>);

#[async_trait]
impl Bus for Unjoinable {
    async fn publish(&self, records: Vec<Record>) -> Result<(), BusError> {
        self.0.publish(records).await
    }

    async fn subscribe(&self, _: SubscribeOptions) -> Result<Subscription, BusError> {
        Err(BusError::Subscribe("as a test wants it".into()))
    }

    fn partitions(&self, topic: Topic) -> u32 {
        self.0.partitions(topic)
    }

    fn can_read(&self, _: &str) -> bool {
        self.health().is_ok()
    }

    fn health(&self) -> Result<(), String> {
        self.0.health()
    }

    fn is_local(&self) -> bool {
        self.0.is_local()
    }

    async fn close(&self, timeout: Duration) {
        self.0.close(timeout).await;
    }
}

#[tokio::test]
async fn nonsense_by_hand_stops_neither_the_incident_nor_the_service() {
    let world = World::new();
    let (edited, events) = story("svc-a");
    let (unreadable, others) = story("svc-b");
    let replica = world.start();
    world.publish(&events[..1]).await;
    world.publish(&others[..1]).await;
    eventually("both", || world.told().len() == 2).await;
    stop(replica).await;
    let mut incident = world.incident(&edited).unwrap();
    incident["status"] = json!({
        "phase": "Open", "alertCount": -7, "resolvedAt": "9999-01-01T00:00:00Z", "observedGeneration": -1,
        "history": [{"time": "0001-01-01T00:00:00Z", "id": "../..", "event": "", "by": "x".repeat(100_000), "what": "\u{0}"}],
        "outbox": [{"id": "NO ID", "topic": "nowhere", "key": "", "subject": "", "time": "0001-01-01T00:00:00Z", "data": "{"}],
    });
    world.api.put(INCIDENTS, incident);
    let mut incident = world.incident(&unreadable).unwrap();
    incident["status"]["phase"] = json!("Wat");
    world.api.put(INCIDENTS, incident);
    let successor = world.start();
    world.publish(&others[1..2]).await;
    world.publish(&events[1..]).await;
    eventually("a letter for the unreadable one", || world.letters().len() == 1).await;
    eventually("the edited one", || world.status(&edited)["lastAction"] == "add-replica Completed").await;
    assert_eq!(world.status(&edited)["resolvedAt"], "2026-01-01T11:00:01.25Z");
    assert!(world.incident(&edited).unwrap().to_string().len() < 32 * 1024);
    stop(successor).await;
}

#[tokio::test]
async fn an_event_that_no_resource_can_hold_is_a_dead_letter_and_blocks_nothing() {
    let world = World::new();
    let (name, events) = story("svc-a");
    let mut broken = events[0].clone();
    let Payload::IncidentOpened(data) = &mut broken.payload else { panic!() };
    data.incident.rule.namespace = "../../kube-system".into();
    let mut late = events[0].clone();
    late.time = jiff::Timestamp::MAX;
    world.publish(&[broken, late]).await;
    world.publish(&events).await;
    let replica = world.start();
    eventually("letters", || world.letters().len() == 2).await;
    eventually("the good ones", || world.status(&name)["phase"] == "Resolved").await;
    assert!(world.letters().iter().all(|letter| letter.reason == DeadLetterReason::InvalidData));
    assert!(!world.api.seen().iter().any(|seen| seen.path.contains("..")));
    stop(replica).await;
}
