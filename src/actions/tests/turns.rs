//! Who waits for whom: the actions of one target, the breaker, the budget, a server that asks for patience.

use super::*;
use crate::{
    actions::{
        claim::{Claim, TargetKey},
        service::Actions,
    },
    bus::{SubscriptionEvent, TopicPartition},
    runtime::{kube_api::can_be_worked_with, watch_cache::name_of},
};

fn breaker(api: &FakeApi, open: &str) {
    change_runbook(api, |spec| {
        spec["circuitBreaker"] = json!({"failureThreshold": 1, "openDuration": open});
        spec["steps"][0]["timeout"] = json!("10m");
    });
}

fn waiting_for(api: &FakeApi, request: &ActionRequested) -> String {
    action_of(api, request)["status"]["waitingFor"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(start_paused = true)]
async fn the_actions_of_a_target_run_in_the_order_of_their_decisions_behind_the_planned_one_and_say_so_once() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    let test = start(&bus, &api);
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let held = Arc::clone(&gate);
    api.on_request(move |seen| if is_patch(seen) { Fault::Hold(Arc::clone(&held)) } else { Fault::None });
    let earlier = request(&test);
    let planned =
        ActionRequested { decided_at: earlier.decided_at + jiff::SignedDuration::from_secs(1), ..attempt(&earlier, 2) };
    bus.publish(vec![record_of(&planned)]).await.unwrap();
    until("it is being sent", || api.seen().iter().any(is_patch)).await;
    // Three that were decided before it, two of them in the same moment.
    let later = ActionRequested {
        decided_at: earlier.decided_at + jiff::SignedDuration::from_millis(1),
        ..attempt(&earlier, 3)
    };
    let mut same = [earlier.clone(), attempt(&earlier, 4)];
    same.sort_by(|a, b| a.action_id.cmp(&b.action_id));
    bus.publish(vec![record_of(&later), record_of(&same[1]), record_of(&same[0])]).await.unwrap();
    let order = [&planned, &same[0], &same[1], &later];
    until("all of them say that they wait", || order[1..].iter().all(|request| !waiting_for(&api, request).is_empty()))
        .await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    for waiting in &order[1..] {
        assert!(waiting_for(&api, waiting).starts_with("its turn after "), "{:#}", action_of(&api, waiting));
        assert_eq!((phase(&action_of(&api, waiting)), status_writes(&api, waiting)), ("Waiting", 1));
    }
    gate.add_permits(100);
    until("all have completed", || order.iter().all(|request| phase(&action_of(&api, request)) == "Completed")).await;
    let sent: Vec<String> = api.seen().iter().filter(|seen| is_patch(seen)).map(|seen| seen.body.to_string()).collect();
    assert_eq!((sent.len(), replicas(&api)), (4, 7));
    for (place, request) in order.iter().enumerate() {
        let first = sent.iter().position(|patch| patch.contains(request.action_id.as_str()));
        assert_eq!(first, Some(place), "{}", request.action_id);
    }
    stop(test).await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_half_open_breaker_says_so_once() {
    // The second name makes what it waits for longer than its field.
    for runbook in ["scale-up".to_owned(), "r".repeat(250)] {
        let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
        breaker(&api, "1s");
        let mut named = api.get(RUNBOOKS, "shop", "scale-up").unwrap();
        named["metadata"]["name"] = json!(runbook);
        api.put(RUNBOOKS, named);
        api.put(DEPLOYMENTS, deployment_named("svc-b"));
        let test = start(&bus, &api);
        let sends = Arc::new(AtomicUsize::new(0));
        let (sent, never) = (Arc::clone(&sends), Arc::new(tokio::sync::Semaphore::new(0)));
        api.on_request(move |seen| match is_patch(seen).then(|| sent.fetch_add(1, Ordering::SeqCst)) {
            None => Fault::None,
            Some(0) => Fault::Answer(503),
            Some(_) => Fault::Hold(Arc::clone(&never)),
        });
        let both =
            ["svc-a", "svc-b"].map(|name| ActionRequested { runbook: runbook.clone(), ..request_for(&test, name) });
        for request in &both {
            bus.publish(vec![record_of(request)]).await.unwrap();
            until("it waits for the breaker", || waiting_for(&api, request).contains("breaker")).await;
        }
        test.clock.advance(jiff::SignedDuration::from_secs(2));
        until("one is let through", || sends.load(Ordering::SeqCst) == 2).await;
        let writes = || both.iter().map(|request| status_writes(&api, request)).sum::<usize>();
        let before = writes();
        for _ in 0..20 {
            test.clock.advance(jiff::SignedDuration::from_secs(1));
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        assert!(writes() <= before + 1, "{} writes of one that waits", writes() - before);
        assert_eq!(sends.load(Ordering::SeqCst), 2, "one call at a time");
        test.ctx.shutdown.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn a_plan_made_before_the_breaker_opened_is_not_sent_through_it() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    breaker(&api, "1m");
    api.put(DEPLOYMENTS, deployment_named("svc-b"));
    let test = start(&bus, &api);
    let (planned, failing) = (request_for(&test, "svc-b"), request(&test));
    let claim = Arc::new(tokio::sync::Semaphore::new(0));
    let (held, id) = (Arc::clone(&claim), planned.action_id.to_string());
    api.on_request(move |seen| {
        if seen.method == Method::POST && seen.body["metadata"]["name"] == json!(id) {
            Fault::Hold(Arc::clone(&held))
        } else if is_patch(seen) && seen.path.ends_with("/svc-a") {
            Fault::Answer(503)
        } else {
            Fault::None
        }
    });
    bus.publish(vec![record_of(&planned)]).await.unwrap();
    until("it is being claimed", || api.seen().iter().any(|seen| seen.method == Method::POST)).await;
    bus.publish(vec![record_of(&failing)]).await.unwrap();
    until("the breaker is open", || waiting_for(&api, &failing).contains("breaker")).await;
    claim.add_permits(1);
    until("it waits for the breaker", || waiting_for(&api, &planned).contains("breaker")).await;
    let action = action_of(&api, &planned);
    assert!(action["spec"]["plan"].is_object(), "it was planned with its claim");
    assert_eq!(action["status"]["plans"][0]["outcome"].as_str(), Some("NotSent"));
    assert!(!api.seen().iter().any(|seen| is_patch(seen) && seen.path.ends_with("/svc-b")));
    api.no_faults();
    test.clock.advance(jiff::SignedDuration::from_secs(61));
    tokio::time::sleep(Duration::from_mins(2)).await;
    until("both complete", || {
        [&planned, &failing].iter().all(|request| phase(&action_of(&api, request)) == "Completed")
    })
    .await;
    stop(test).await;
}

/// The breaker's minute is never over: the clock stands still but for two seconds.
#[tokio::test(start_paused = true)]
async fn a_breaker_holds_what_fails_by_itself_and_nothing_any_more_when_the_api_server_is_back() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    breaker(&api, "1m");
    api.put(DEPLOYMENTS, deployment_named("svc-b"));
    let test = start(&bus, &api);
    api.on_request(|seen| if is_patch(seen) { Fault::Answer(503) } else { Fault::None });
    let both = ["svc-a", "svc-b"].map(|name| request_for(&test, name));
    bus.publish(vec![record_of(&both[0])]).await.unwrap();
    until("it waits for the breaker", || waiting_for(&api, &both[0]).contains("breaker")).await;
    test.clock.advance(jiff::SignedDuration::from_secs(2));
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(api.seen().iter().filter(|seen| is_patch(seen)).count(), 1, "everything else is answered");
    api.on_request(|_| Fault::Answer(503));
    bus.publish(vec![record_of(&both[1])]).await.unwrap();
    until("it is noticed that nothing is answered", || !can_be_worked_with(&test.ctx.health)).await;
    api.no_faults();
    until("both complete", || both.iter().all(|request| phase(&action_of(&api, request)) == "Completed")).await;
    stop(test).await;
}

/// Ten actions, of which four may call at once.
#[tokio::test(start_paused = true)]
async fn what_waits_for_a_free_call_makes_none_when_the_breaker_has_opened_meanwhile() {
    fn is_read(seen: &Seen) -> bool {
        seen.method == Method::GET && seen.path.contains("/deployments/")
    }
    // Reads are begun with the claim, which does not wait for long, and then again.
    for (hangs, expected) in [(is_patch as fn(&Seen) -> bool, 4), (is_read, 8)] {
        let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
        breaker(&api, "1h");
        change_runbook(&api, |spec| spec["steps"][0]["timeout"] = json!("10s"));
        let names: Vec<String> = (0..10).map(|i| format!("svc-{i}")).collect();
        names.iter().for_each(|name| drop(api.put(DEPLOYMENTS, deployment_named(name))));
        let test = start(&bus, &api);
        let never = Arc::new(tokio::sync::Semaphore::new(0));
        api.on_request(move |seen| if hangs(seen) { Fault::Hold(Arc::clone(&never)) } else { Fault::None });
        let requests: Vec<ActionRequested> = names.iter().map(|name| request_for(&test, name)).collect();
        bus.publish(requests.iter().map(record_of).collect()).await.unwrap();
        until("all wait for the breaker", || {
            requests.iter().all(|request| waiting_for(&api, request).contains("breaker"))
        })
        .await;
        assert_eq!(api.seen().iter().filter(|seen| hangs(seen)).count(), expected);
        stop(test).await;
    }
}

/// The clock stands still: the breaker's one call hangs, and no other is let through.
#[tokio::test(start_paused = true)]
async fn what_waits_for_a_target_that_hangs_is_no_load_for_the_api_server() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    breaker(&api, "1s");
    api.put(DEPLOYMENTS, deployment_named("svc-b"));
    let test = start(&bus, &api);
    api.on_request(|seen| if is_patch(seen) { Fault::Answer(503) } else { Fault::None });
    let [probing, waiting] = ["svc-a", "svc-b"].map(|name| request_for(&test, name));
    bus.publish(vec![record_of(&probing)]).await.unwrap();
    until("it waits for the breaker", || waiting_for(&api, &probing).contains("breaker")).await;
    let never = Arc::new(tokio::sync::Semaphore::new(0));
    api.on_request(move |seen| if is_patch(seen) { Fault::Hold(Arc::clone(&never)) } else { Fault::None });
    test.clock.advance(jiff::SignedDuration::from_secs(2));
    until("the one call hangs", || api.seen().iter().filter(|seen| is_patch(seen)).count() == 2).await;
    bus.publish(vec![record_of(&waiting)]).await.unwrap();
    until("another waits", || waiting_for(&api, &waiting).contains("breaker")).await;
    let about = [waiting.action_id.to_string(), waiting.incident.incident_id.to_string()];
    let looks = || {
        let is_about = |seen: &&Seen| about.iter().any(|id| seen.path.ends_with(id.as_str()));
        api.seen().iter().filter(|seen| seen.method == Method::GET).filter(is_about).count()
    };
    // What it began with is read to the end.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = looks();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(looks(), before, "it asks its own breaker, and nobody else");
    tokio::time::sleep(Duration::from_secs(150)).await;
    assert!((2..=12).contains(&(looks() - before)), "{} reads of it: its incident may be over", looks() - before);
    stop(test).await;
}

/// More of them than are worked on at once.
#[tokio::test(start_paused = true)]
async fn a_runbook_whose_calls_are_slow_leaves_others_their_turn() {
    let (bus, api) = (Arc::new(MemoryBus::new(3)), cluster());
    change_runbook(&api, |spec| spec["steps"][0]["timeout"] = json!("1h"));
    let mut other = api.get(RUNBOOKS, "shop", "scale-up").unwrap();
    other["metadata"]["name"] = json!("other");
    api.put(RUNBOOKS, other);
    let names: Vec<String> = (0..300).map(|number| format!("slow-{number}")).collect();
    names.iter().for_each(|name| drop(api.put(DEPLOYMENTS, deployment_named(name))));
    let held = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = Arc::clone(&held);
    api.on_request(move |seen| match is_patch(seen) && seen.path.contains("/slow-") {
        true => Fault::Hold(Arc::clone(&gate)),
        false => Fault::None,
    });
    let test = start(&bus, &api);
    let slow: Vec<ActionRequested> = names.iter().map(|name| request_for(&test, name)).collect();
    bus.publish(slow.iter().map(record_of).collect()).await.unwrap();
    until("all of them are claimed", || api.all(ACTIONS).len() == slow.len()).await;
    let other = ActionRequested { runbook: "other".into(), ..request(&test) };
    bus.publish(vec![record_of(&other)]).await.unwrap();
    until("the other one is done", || phase(&action_of(&api, &other)) == "Completed").await;
    let done = || slow.iter().filter(|request| phase(&action_of(&api, request)) == "Completed").count();
    assert_eq!(done(), 0);
    held.add_permits(slow.len());
    until("the slow ones are done", || done() == slow.len()).await;
    stop(test).await;
}

/// The clock stands still, so a budget that is used up stays so.
#[tokio::test(start_paused = true)]
async fn a_runbook_that_has_used_up_its_retries_leaves_those_of_the_others_alone() {
    const MANY: usize = 30;
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    change_runbook(&api, |spec| spec["circuitBreaker"] = json!({"failureThreshold": 1000}));
    let mut other = api.get(RUNBOOKS, "shop", "scale-up").unwrap();
    other["metadata"]["name"] = json!("other");
    api.put(RUNBOOKS, other);
    let names = (0..MANY).map(|i| format!("svc-{i}"));
    names.for_each(|name| drop(api.put(DEPLOYMENTS, deployment_named(&name))));
    let test = start(&bus, &api);
    let failed_once = AtomicUsize::new(0);
    api.on_request(move |seen| match is_patch(seen) {
        true if !seen.path.ends_with("/svc-a") || failed_once.fetch_add(1, Ordering::SeqCst) == 0 => Fault::Answer(503),
        _ => Fault::None,
    });
    let in_trouble: Vec<ActionRequested> = (0..MANY).map(|i| request_for(&test, &format!("svc-{i}"))).collect();
    bus.publish(in_trouble.iter().map(record_of).collect()).await.unwrap();
    let waits = |request: &ActionRequested| waiting_for(&api, request).contains("budget");
    until("its retries are used up", || in_trouble.iter().any(waits)).await;
    let request = ActionRequested { runbook: "other".into(), ..request(&test) };
    bus.publish(vec![record_of(&request)]).await.unwrap();
    until("the other's is made", || phase(&action_of(&api, &request)) == "Completed").await;
    assert!(in_trouble.iter().any(waits), "and nothing was given to the first");
    stop(test).await;
}

/// The clock stands still, so a breaker that opened would never close.
#[tokio::test(start_paused = true)]
async fn a_server_that_asks_readers_for_patience_opens_no_breaker() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    breaker(&api, "1m");
    let test = start(&bus, &api);
    let reads = Arc::new(AtomicUsize::new(0));
    api.on_request(move |seen| {
        let is_read = seen.method == Method::GET && seen.path.contains("/deployments/");
        if is_read && reads.fetch_add(1, Ordering::SeqCst) < 4 { Fault::Throttle(1) } else { Fault::None }
    });
    let request = request(&test);
    bus.publish(vec![record_of(&request)]).await.unwrap();
    until("it completes", || phase(&action_of(&api, &request)) == "Completed").await;
    stop(test).await;
}

#[tokio::test(start_paused = true)]
async fn reads_that_fail_in_a_row_wait_longer_and_longer() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    change_runbook(&api, |spec| spec["retry"]["backoff"] = json!({"initial": "1s", "max": "1h"}));
    let test = start(&bus, &api);
    let reads = Arc::new(AtomicUsize::new(0));
    api.on_request(move |seen| {
        let is_read = seen.method == Method::GET && seen.path.contains("/deployments/");
        if is_read && reads.fetch_add(1, Ordering::SeqCst) < 12 { Fault::Answer(503) } else { Fault::None }
    });
    let request = request(&test);
    bus.publish(vec![record_of(&request)]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_ne!(phase(&action_of(&api, &request)), "Completed", "each waits at most a second");
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(phase(&action_of(&api, &request)), "Completed");
    let reads =
        api.seen().iter().filter(|seen| seen.method == Method::GET && seen.path.contains("/deployments/")).count();
    assert_eq!(reads, 13);
    stop(test).await;
}

fn partitions() -> SubscriptionEvent {
    SubscriptionEvent::Assigned(
        (0..3).map(|partition| TopicPartition { topic: Topic::ActionRequested, partition }).collect(),
    )
}

#[tokio::test(start_paused = true)]
async fn nothing_is_claimed_before_what_was_taken_over_has_its_place() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    let test = TestContext::with_api("actions", bus, api.clone());
    let actions = Actions::new(&test.ctx, &config());
    actions.ownership.apply(&partitions());
    let request = request(&test);
    let mut claim = Box::pin(actions.claim(&request, "{}", None));
    let waited = tokio::time::timeout(Duration::from_secs(60), &mut claim).await;
    assert!(waited.is_err() && api.seen().is_empty(), "who is alone on its target is not known yet");
    actions.taken_up.send_replace(1);
    assert!(matches!(claim.await, Claim::Exists(action) if action.spec.plan.is_some()));
}

#[tokio::test]
async fn a_claim_that_turns_out_to_have_ended_keeps_no_turn() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    let first = start(&bus, &api);
    let request = request(&first);
    bus.publish(vec![record_of(&request)]).await.unwrap();
    ended(&api).await;
    stop(first).await;
    let test = TestContext::with_api("actions", bus, api);
    let actions = Actions::new(&test.ctx, &config());
    let Claim::Exists(action) = actions.claim(&request, "{}", None).await else { panic!("it exists") };
    assert_eq!(actions.queues.first(&TargetKey::of(&action)), None);
}

#[tokio::test]
async fn a_plan_is_forgotten_when_its_action_is_gone() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    let test = TestContext::with_api("actions", bus, api.clone());
    let actions = Actions::new(&test.ctx, &config());
    actions.ownership.apply(&partitions());
    actions.taken_up.send_replace(1);
    let Claim::Exists(action) = actions.claim(&request(&test), "{}", None).await else { panic!("it exists") };
    assert!(action.spec.plan.is_some());
    let name = name_of(action.as_ref());
    api.remove(ACTIONS, &name.namespace, &name.name);
    actions.store.cache().remove(&name, u64::MAX);
    actions.run_to_end(&name).await.unwrap();
    assert!(actions.queues.take_plan(&name).is_none());
}
