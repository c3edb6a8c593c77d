use std::sync::Arc;

use serde_json::Value;
use tokio::sync::Semaphore;

use super::*;
use crate::{
    bus::MemoryBus,
    testing::{FakeApi, Fault, TestContext},
};

const EVENTS: &str = "/apis/events.k8s.io/v1/events";

fn report(of: &str, reason: Reason) -> Report {
    let regarding = ObjectReference {
        api_version: Some("apps/v1".into()),
        kind: Some("Deployment".into()),
        namespace: Some("shop".into()),
        name: Some("svc-a".into()),
        uid: Some("uid-1".into()),
        ..ObjectReference::default()
    };
    let time = "2026-01-01T12:00:00.123456Z".parse().unwrap();
    Report { reason, of: of.into(), regarding, related: None, note: "Deployment svc-a scaled".into(), time }
}

fn context(api: FakeApi) -> TestContext {
    TestContext::with_api("actions", Arc::new(MemoryBus::new(1)), api)
}

/// Waits until a line is in the metrics.
async fn counted(test: &TestContext, outcome: &str, count: usize) {
    let line = format!("eventpulse_kube_events_total{{outcome=\"{outcome}\"}} {count}");
    for _ in 0..1000 {
        if test.ctx.metrics.encode().unwrap().contains(&line) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{line} does not come: {}", test.ctx.metrics.encode().unwrap());
}

#[tokio::test]
async fn whoever_tells_it_makes_the_same_event_and_it_is_there_once() {
    let api = FakeApi::new();
    let replicas = [context(api.clone()), context(api.clone())];
    for replica in &replicas {
        let events = KubeEvents::start(&replica.ctx);
        for _ in 0..3 {
            events.say(report("act-1", Reason::ActionCompleted));
        }
        counted(replica, "repeated", if std::ptr::eq(replica, &replicas[0]) { 2 } else { 3 }).await;
    }
    let found = api.all(EVENTS);
    assert_eq!(found.len(), 1, "{found:#?}");
    let event = &found[0];
    assert_eq!(event["metadata"]["name"], "act-1.actioncompleted");
    assert_eq!(event["metadata"]["namespace"], "shop");
    for (field, value) in [
        ("reason", "ActionCompleted"),
        ("action", "RunAction"),
        ("type", "Normal"),
        ("note", "Deployment svc-a scaled"),
        ("eventTime", "2026-01-01T12:00:00.123456Z"),
        ("reportingController", "eventpulse.io/eventpulse"),
    ] {
        assert_eq!(event[field], value, "{event:#}");
    }
    assert_eq!(event["regarding"]["uid"], "uid-1");
}

#[test]
fn every_event_is_one_that_the_api_server_takes() {
    for reason in Reason::ALL {
        let long = Report { note: "ü".repeat(5_000), ..report("incident-1", reason) };
        let event = event_of(&long, "eventpulse/actions");
        assert_eq!(event.note.unwrap().chars().count(), NOTE_MAX);
        let name = event.metadata.name.unwrap();
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b)), "{name}");
        assert!(["Normal", "Warning"].contains(&event.type_.unwrap().as_str()));
        assert!(event.action.is_some() && event.event_time.is_some());
    }
}

#[tokio::test]
async fn without_the_right_it_is_tried_once_and_nothing_else_changes() {
    let api = FakeApi::new();
    api.on_request(|_| Fault::Answer(403));
    let mut test = context(api.clone());
    test.ctx.health.ready("service");
    let events = KubeEvents::start(&test.ctx);
    for i in 0..5 {
        events.say(report(&format!("act-{i}"), Reason::ActionFailed));
    }
    counted(&test, "refused", 5).await;
    assert_eq!(api.seen().len(), 1, "after a refusal of rights none is tried for a while");
    assert!(test.health.is_ready(), "{:?}", test.health.report());
    assert!(test.failures.try_recv().is_err());
}

#[tokio::test]
async fn a_server_that_does_not_answer_holds_nobody_up_and_what_finds_no_room_is_counted() {
    let api = FakeApi::new();
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    api.on_request(move |_| Fault::Hold(Arc::clone(&held)));
    let test = context(api.clone());
    let events = KubeEvents::start(&test.ctx);
    events.say(report("act-first", Reason::ActionCompleted));
    while api.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for i in 0..QUEUE_MAX + 7 {
        events.say(report(&format!("act-{i}"), Reason::ActionCompleted));
    }
    let text = test.ctx.metrics.encode().unwrap();
    assert!(text.contains("eventpulse_kube_events_total{outcome=\"dropped\"} 7"), "{text}");
    assert!(text.contains(&format!("eventpulse_kube_events_queued {QUEUE_MAX}")), "{text}");
    gate.add_permits(QUEUE_MAX + 1);
    counted(&test, "written", QUEUE_MAX + 1).await;
    assert!(test.ctx.metrics.encode().unwrap().contains("eventpulse_kube_events_queued 0"));
}

#[tokio::test]
async fn trouble_of_the_server_is_counted_and_the_next_one_is_tried() {
    let api = FakeApi::new();
    api.on_request(|seen| match seen.index {
        0 => Fault::Answer(503),
        1 => Fault::Refuse,
        2 => Fault::Answer(422),
        _ => Fault::None,
    });
    let test = context(api.clone());
    let events = KubeEvents::start(&test.ctx);
    for i in 0..4 {
        events.say(report(&format!("act-{i}"), Reason::ActionSkipped));
    }
    counted(&test, "written", 1).await;
    counted(&test, "failed", 2).await;
    counted(&test, "refused", 1).await;
    let names: Vec<Value> = api.all(EVENTS).into_iter().map(|event| event["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["act-3.actionskipped"]);
}

#[tokio::test]
async fn what_waits_when_the_process_stops_is_still_written() {
    let api = FakeApi::new();
    let test = context(api.clone());
    let events = KubeEvents::start(&test.ctx);
    test.ctx.shutdown.cancel();
    events.say(report("act-1", Reason::ActionCompleted));
    test.ctx.tasks.finished().await;
    assert_eq!(api.all(EVENTS).len(), 1);
}
