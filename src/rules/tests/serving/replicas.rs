//! Several replicas, one that dies, one that is frozen: the group's object decides, whoever writes it.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_that_decide_at_once_open_one_incident() {
    let api = FakeApi::new();
    put_rule(&api, &rule(CPU_HIGH));
    // Whenever one is about to create the group, the other one has done so a moment before.
    let raced = std::sync::atomic::AtomicBool::new(false);
    let bus = MemoryBus::new(4);
    let other = Scenario::seed();
    api.on_request(move |seen| {
        if seen.is_write() && !raced.swap(true, std::sync::atomic::Ordering::SeqCst) {
            let key = other.key();
            Fault::After(Arc::new(move |api: &FakeApi| {
                let mut scenario = Scenario::seed();
                scenario.alert(firing(2, 0));
                let spec = serde_json::to_value(scenario.group.unwrap()).unwrap();
                api.put(
                    GROUPS,
                    json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": "AlertGroup",
                    "metadata": {"name": key.correlation.to_string(), "namespace": "shop"}, "spec": spec}),
                );
            }))
        } else {
            Fault::None
        }
    });
    let running = Running::start(api, bus);
    running.tell(&[firing(1, 0)]).await;
    assert_eq!(running.reasons(1).await, [DecisionReason::Joined]);
    assert!(running.bus.records(Topic::IncidentOpened).is_empty(), "a second incident opened");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_write_and_publish_loses_nothing() {
    let api = FakeApi::new();
    put_rule(&api, &rule(CPU_HIGH));
    // The object is there with its outbox, and nothing of it was published.
    let mut crashed = Scenario::seed();
    crashed.alert(firing(1, 0));
    let mut spec = crashed.group.clone().unwrap();
    spec.outbox = crashed.said.iter().map(|event| event.try_into().unwrap()).collect();
    api.put(
        GROUPS,
        json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": "AlertGroup",
        "metadata": {"name": crashed.key().correlation.to_string(), "namespace": "shop"},
        "spec": serde_json::to_value(spec).unwrap()}),
    );
    let running = Running::start(api, MemoryBus::new(4));
    running.tell(&[firing(1, 0)]).await;
    running.consumed(Topic::AlertRaised).await;
    assert_eq!(running.bus.records(Topic::IncidentOpened).len(), 1);
    assert_eq!(running.events(Topic::IncidentOpened)[0].time, at(0), "the time of the decision was renewed");
    let reasons = running.reasons(2).await;
    assert_eq!(reasons, [DecisionReason::Opened, DecisionReason::Repeated]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_incident_is_taken_over_when_its_group_is_gone() {
    let api = FakeApi::new();
    put_rule(&api, &rule(CPU_HIGH));
    let correlation = Scenario::seed().key().correlation;
    api.put(
        INCIDENTS,
        json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": "Incident",
        "metadata": {"name": "cpu-high-zzzzzzzzzz", "namespace": "shop"},
        "spec": {"ruleRef": {"name": "cpu-high"}, "correlationID": correlation.to_string(), "severity": "warning",
            "summary": "x", "openedAt": "2026-01-01T11:00:00Z", "acknowledged": false, "resolved": false},
        "status": {"phase": "Mitigating"}}),
    );
    let running = Running::start(api, MemoryBus::new(4));
    running.tell(&[firing(1, 0)]).await;
    assert_eq!(running.reasons(1).await, [DecisionReason::Joined]);
    assert_eq!(running.group().unwrap().spec.episode.unwrap().incident_id.as_str(), "cpu-high-zzzzzzzzzz");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_share_the_work_and_one_of_them_may_go() {
    let api = FakeApi::new();
    put_rule(&api, &rule(CPU_HIGH));
    let bus = MemoryBus::new(4);
    let first = Running::start(api.clone(), bus.clone());
    let second = Running::start(api, bus);
    let all: Vec<Event> = (0..40).map(elsewhere).collect();
    first.publish(all.clone()).await;
    until("some of the work", || (first.bus.records(Topic::IncidentOpened).len() > 5).then_some(())).await;
    first.stop().await;
    // Everything again, by the one that is left.
    second.publish(all).await;
    second.consumed(Topic::AlertRaised).await;
    let opened = second.events(Topic::IncidentOpened);
    let ids: std::collections::BTreeSet<String> = opened.iter().map(|event| event.id.to_string()).collect();
    assert_eq!(ids.len(), 40, "not one incident for each group");
    assert_eq!(second.test.api.all(GROUPS).len(), 40);
    let reasons: std::collections::BTreeMap<String, DecisionReason> =
        second.ledger().into_iter().rev().map(|entry| (entry.alert_id.to_string(), entry.reason)).collect();
    assert!(reasons.values().all(|reason| *reason == DecisionReason::Opened), "{reasons:?}");
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_frozen_before_its_write_does_no_harm() {
    let api = FakeApi::new();
    put_rule(&api, &rule(CPU_HIGH));
    let frozen = Arc::new(tokio::sync::Semaphore::new(0));
    let (held, first_write) = (Arc::clone(&frozen), std::sync::atomic::AtomicBool::new(true));
    api.on_request(move |seen| {
        if seen.is_write() && first_write.swap(false, std::sync::atomic::Ordering::SeqCst) {
            Fault::Hold(Arc::clone(&held))
        } else {
            Fault::None
        }
    });
    let bus = MemoryBus::new(1);
    let sleeper = Running::start(api.clone(), bus.clone());
    sleeper.tell(&[firing(1, 0)]).await;
    until("the held write", || api.seen().iter().any(|seen| seen.is_write()).then_some(())).await;
    // Another replica of the same service: its own group of consumers stands for the takeover.
    let awake = Running::start(api.clone(), MemoryBus::new(1));
    awake.tell(&[firing(1, 0)]).await;
    assert_eq!(awake.reasons(1).await, [DecisionReason::Opened]);
    frozen.add_permits(1);
    let reasons = until("the sleeper's entry", || Some(sleeper.ledger()).filter(|ledger| !ledger.is_empty())).await;
    // What the other one had not been seen to publish is published, too, with the same ids.
    assert_eq!(reasons[0].reason, DecisionReason::Opened);
    let ids =
        |running: &Running| running.events(Topic::ActionRequested).iter().map(|e| e.id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(&sleeper), ids(&awake));
    assert_eq!(api.all(GROUPS).len(), 1);
    sleeper.stop().await;
    awake.stop().await;
}
