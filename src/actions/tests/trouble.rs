//! What goes wrong around the service: hung calls, a namespace that cannot be written, a process that stops in between.

use tokio::sync::Semaphore;

use super::*;

/// The dead replica's last words are what the other services wait for; that they are cleared is only tidiness.
#[tokio::test]
async fn what_a_dead_replica_had_to_say_is_said_before_anything_is_cleared() {
    let first = cluster();
    let bus = Arc::new(MemoryBus::new(3));
    let test = start(&bus, &first);
    bus.publish(vec![record_of(&request(&test))]).await.unwrap();
    let ended = ended(&first).await;
    let long_ago = test.clock.now() - jiff::SignedDuration::from_secs(10);
    stop(test).await;

    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    for i in 0..5 {
        let mut action = ended.clone();
        action["metadata"]["name"] = json!(format!("a{i}"));
        action["status"]["outbox"][0]["id"] = json!(format!("said-{i}"));
        action["status"]["outbox"][0]["time"] = json!(long_ago.to_string());
        api.put(ACTIONS, action);
    }
    let never = Arc::new(tokio::sync::Semaphore::new(0));
    api.on_request(move |seen| if seen.method == Method::PUT { Fault::Hold(Arc::clone(&never)) } else { Fault::None });
    let test = start(&bus, &api);
    for _ in 0..1_000 {
        if bus.records(Topic::ActionCompleted).len() == 5 {
            test.ctx.shutdown.cancel();
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{} of 5 were said while nothing could be cleared", bus.records(Topic::ActionCompleted).len());
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_cannot_be_written_holds_up_no_other() {
    let first = cluster();
    let bus = Arc::new(MemoryBus::new(3));
    let test = start(&bus, &first);
    bus.publish(vec![record_of(&request(&test))]).await.unwrap();
    let ended = ended(&first).await;
    let long_ago = test.clock.now() - jiff::SignedDuration::from_secs(10);
    stop(test).await;

    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    let old = |namespace: &str, name: String| {
        let mut action = ended.clone();
        action["metadata"]["namespace"] = json!(namespace);
        action["status"]["outbox"][0]["time"] = json!(long_ago.to_string());
        action["metadata"]["name"] = json!(name);
        api.put(ACTIONS, action);
    };
    (0..300).for_each(|i| old("broken", format!("a{i}")));
    old("shop", "z".into());
    api.on_request(|seen| {
        let broken = seen.is_write() && seen.path.contains("/namespaces/broken/");
        if broken { Fault::Answer(500) } else { Fault::None }
    });
    let test = start(&bus, &api);
    until("the broken namespace is tried", || api.seen().iter().any(|seen| seen.is_write())).await;
    until("the other namespace's outbox is cleared", || {
        let action = api.get(ACTIONS, "shop", "z").unwrap();
        action["status"]["outbox"].as_array().is_none_or(Vec::is_empty)
    })
    .await;
    bus.publish(vec![record_of(&request(&test))]).await.unwrap();
    until("an action is taken up and completed meanwhile", || replicas(&api) == 4).await;
    test.ctx.shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_fence_that_nobody_answers_ends_at_its_bound() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    change_runbook(&api, |spec| {
        spec["steps"][0]["timeout"] = json!("40s");
        spec["retry"]["limit"] = json!(0);
    });
    let test = start(&bus, &api);
    let never = Arc::new(Semaphore::new(0));
    api.on_request(move |seen| if is_patch(seen) { Fault::Hold(Arc::clone(&never)) } else { Fault::None });
    bus.publish(vec![record_of(&request(&test))]).await.unwrap();
    let request = request(&test);
    until("it is fencing", || phase(&action_of(&api, &request)) == "Fencing").await;
    let began = tokio::time::Instant::now();
    until("it has failed", || phase(&action_of(&api, &request)) == "Failed").await;
    assert!(began.elapsed() < Duration::from_secs(10), "the bound is 2 s, a call's 40 s: {:?}", began.elapsed());
    assert_eq!(action_of(&api, &request)["status"]["reason"].as_str(), Some("OutcomeUnknown"));
    stop(test).await;
}

#[tokio::test]
async fn a_plan_whose_deadline_passes_while_it_waits_for_a_free_call_is_not_sent() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    api.put(DEPLOYMENTS, deployment_named("svc-b"));
    let test = start_with(&bus, &api, ActionsConfig { target_concurrency: 1, ..config() });
    let (late, hung) = (request(&test), request_for(&test, "svc-b"));
    let (claim, call) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (held_claim, held_call) = (Arc::clone(&claim), Arc::clone(&call));
    let late_id = late.action_id.to_string();
    api.on_request(move |seen| {
        let is_claim = seen.method == Method::POST && seen.body["metadata"]["name"] == json!(late_id);
        if is_claim {
            Fault::Hold(Arc::clone(&held_claim))
        } else if is_patch(seen) && seen.path.ends_with("/svc-b") {
            Fault::Hold(Arc::clone(&held_call))
        } else {
            Fault::None
        }
    });
    // The first one has planned and is about to be claimed; the second one takes the only call there is, and it hangs.
    bus.publish(vec![record_of(&late)]).await.unwrap();
    until("it is being claimed", || api.seen().iter().any(|seen| seen.method == Method::POST)).await;
    bus.publish(vec![record_of(&hung)]).await.unwrap();
    until("the call hangs", || api.seen().iter().any(is_patch)).await;
    claim.add_permits(1);
    until("it is claimed", || action_of(&api, &late)["spec"]["plan"].is_object()).await;
    test.clock.advance(jiff::SignedDuration::from_mins(6));
    call.add_permits(1);
    until("both have ended", || {
        !phase(&action_of(&api, &late)).is_empty() && phase(&action_of(&api, &hung)) == "Completed"
    })
    .await;
    until("it is skipped", || phase(&action_of(&api, &late)) == "Skipped").await;
    let action = action_of(&api, &late);
    assert_eq!(action["status"]["reason"].as_str(), Some("Stale"), "{action:#}");
    assert_eq!((action["status"]["plans"][0]["outcome"].as_str(), replicas(&api)), (Some("NotSent"), 3));
    assert!(!api.seen().iter().any(|seen| is_patch(seen) && seen.path.ends_with("/svc-a")));
    stop(test).await;
}

#[tokio::test]
async fn an_action_that_waits_holds_up_no_other() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    api.put(DEPLOYMENTS, deployment_named("svc-b"));
    let test = start_with(&bus, &api, ActionsConfig { concurrency: 1, ..config() });
    api.on_request(
        |seen| {
            if is_patch(seen) && seen.path.ends_with("/svc-b") { Fault::Throttle(600) } else { Fault::None }
        },
    );
    let patient = request_for(&test, "svc-b");
    bus.publish(vec![record_of(&patient)]).await.unwrap();
    until("it waits", || action_of(&api, &patient)["status"]["waitingFor"].is_string()).await;
    bus.publish(vec![record_of(&request(&test))]).await.unwrap();
    until("the other one completes", || replicas(&api) == 4).await;
    test.ctx.shutdown.cancel();
}

/// A conflict is an answer: the server works, and the breaker closes, or its one call would be lost for a minute.
#[tokio::test(start_paused = true)]
async fn a_half_open_breaker_closes_with_any_answer() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    change_runbook(&api, |spec| spec["circuitBreaker"] = json!({"failureThreshold": 1, "openDuration": "1s"}));
    let test = start(&bus, &api);
    let sends = Arc::new(AtomicUsize::new(0));
    let sent = Arc::clone(&sends);
    api.on_request(move |seen| match is_patch(seen).then(|| sent.fetch_add(1, Ordering::SeqCst)) {
        Some(0) => Fault::Answer(503),
        Some(1) => Fault::After(Arc::new(|api: &FakeApi| {
            let mut object = api.get(DEPLOYMENTS, "shop", "svc-a").unwrap();
            object["metadata"]["labels"]["changed"] = json!("by-somebody-else");
            api.put(DEPLOYMENTS, object);
        })),
        _ => Fault::None,
    });
    let request = request(&test);
    bus.publish(vec![record_of(&request)]).await.unwrap();
    until("the breaker is open", || action_of(&api, &request)["status"]["waitingFor"].is_string()).await;
    test.clock.advance(jiff::SignedDuration::from_secs(2));
    until("it has completed", || phase(&action_of(&api, &request)) == "Completed").await;
    assert_eq!((sends.load(Ordering::SeqCst), replicas(&api)), (3, 4));
    stop(test).await;
}

/// The offset must not wait for ever for what can never be read or written.
#[tokio::test]
async fn a_request_that_can_never_be_claimed_has_failed_and_becomes_a_dead_letter() {
    type Break = Box<dyn Fn(&FakeApi, &ActionRequested)>;
    let cases: Vec<(&str, Break)> = vec![
        (
            "somebody's unreadable Action has its name",
            Box::new(|api, request| {
                let meta = json!({"name": request.action_id.to_string(), "namespace": "shop"});
                let api_version = "eventpulse.io/v1alpha1";
                api.put(ACTIONS, json!({"apiVersion": api_version, "kind": "Action", "metadata": meta, "spec": 7}));
            }),
        ),
        (
            "a quota or a webhook refuses it",
            Box::new(|api, _| {
                api.on_request(|seen| {
                    let is_claim = seen.method == Method::POST && seen.path.ends_with("/actions");
                    if is_claim { Fault::Answer(403) } else { Fault::None }
                });
            }),
        ),
        (
            "its definition is gone",
            Box::new(|api, _| {
                api.on_request(|seen| {
                    let is_claim = seen.method == Method::POST && seen.path.ends_with("/actions");
                    if is_claim { Fault::Answer(404) } else { Fault::None }
                });
            }),
        ),
        (
            "the server fails until long after the deadline",
            Box::new(|api, _| {
                api.on_request(|seen| {
                    let is_claim = seen.method == Method::POST && seen.path.ends_with("/actions");
                    if is_claim { Fault::Answer(500) } else { Fault::None }
                });
            }),
        ),
    ];
    for (what, break_it) in cases {
        let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
        let test = start(&bus, &api);
        let request = request(&test);
        break_it(&api, &request);
        bus.publish(vec![record_of(&request)]).await.unwrap();
        until("it is asked for", || api.seen().iter().any(|seen| seen.method == Method::POST)).await;
        test.clock.advance(jiff::SignedDuration::from_mins(11));
        until(what, || bus.records(Topic::DeadLetter).len() == 1).await;
        assert!(!api.seen().iter().any(is_patch), "{what}");
        let said = bus.records(Topic::ActionFailed);
        assert_eq!(said.len(), 1, "{what}");
        let Payload::ActionFailed(failed) = said[0].decode().unwrap().payload else { panic!("{what}") };
        assert_eq!((failed.reason, failed.ends_ladder), (ActionFailureReason::Refused, false), "{what}");
        assert!(failed.message.contains("cannot be created"), "{}", failed.message);
        stop(test).await;
    }
}

/// The process died after it had told the failure; by the time the request comes again, the claim is possible.
#[tokio::test]
async fn what_was_told_as_failed_before_it_could_be_claimed_is_not_done_afterwards() {
    for (state, acts) in [("Failed", false), ("Requested", true)] {
        let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
        let test = start(&bus, &api);
        let mut request = request(&test);
        request.decided_at -= jiff::SignedDuration::from_secs(5);
        let action = json!({"step": "add-replica", "attempt": 1, "stepIndex": 0, "state": state, "target": "Deployment/svc-a",
            "actionRef": {"name": request.action_id.to_string()}});
        api.put(
            "/apis/eventpulse.io/v1alpha1/incidents",
            json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": "Incident",
                "metadata": {"name": request.incident.incident_id.to_string(), "namespace": "shop"},
                "spec": {"ruleRef": {"name": "cpu-high"}, "correlationID": "c", "severity": "warning", "summary": "x",
                    "openedAt": "2026-01-01T11:00:00Z"},
                "status": {"phase": "Mitigating", "actions": [action]}}),
        );
        bus.publish(vec![record_of(&request)]).await.unwrap();
        let action = ended(&api).await;
        assert_eq!(phase(&action) == "Completed", acts, "{action:#}");
        assert_eq!(api.seen().iter().any(is_patch), acts);
        stop(test).await;
    }
}
