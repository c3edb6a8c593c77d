//! How long a claim stays, and when what is finished goes.

use jiff::SignedDuration;

use super::*;

/// An action that has completed, a moment ago.
async fn completed(config: ActionsConfig) -> (FakeApi, TestContext, ActionRequested) {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    let test = start_with(&bus, &api, config);
    let request = request(&test);
    bus.publish(vec![record_of(&request)]).await.unwrap();
    ended(&api).await;
    (api, test, request)
}

fn is_held(api: &FakeApi, request: &ActionRequested) -> bool {
    action_of(api, request)["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
}

/// Long enough for the keeper to have looked many times.
async fn many_looks() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_held_until_its_deadline_and_the_skew_of_clocks_have_passed() {
    let (api, test, request) = completed(config()).await;
    test.clock.advance(SignedDuration::from_mins(10));
    many_looks().await;
    assert!(is_held(&api, &request), "its request may still come again");
    test.clock.advance(SignedDuration::from_secs(1));
    until("it is released", || !is_held(&api, &request)).await;
    assert_eq!(phase(&action_of(&api, &request)), "Completed", "it stays to be read");
    stop(test).await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_claim_goes_at_once_only_with_its_namespace() {
    let (api, test, request) = completed(config()).await;
    let namespace = |terminating: bool| {
        let mut meta = json!({"name": "shop"});
        if terminating {
            meta["deletionTimestamp"] = json!("2026-01-01T12:00:00Z");
        }
        api.put("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": meta}));
    };
    namespace(false);
    let mut action = action_of(&api, &request);
    action["metadata"]["deletionTimestamp"] = json!("2026-01-01T12:00:00Z");
    api.put(ACTIONS, action);
    // Its outbox is cleared when it is two seconds old.
    test.clock.advance(SignedDuration::from_secs(3));
    many_looks().await;
    assert!(is_held(&api, &request), "its request may still come again");
    namespace(true);
    until("it is gone", || api.get(ACTIONS, "shop", request.action_id.as_str()).is_none()).await;
    stop(test).await;
}

#[tokio::test(start_paused = true)]
async fn a_finished_action_is_deleted_after_its_time() {
    let hour = SignedDuration::from_hours(1);
    let (api, test, request) = completed(ActionsConfig { ttl: hour, repeats_for: hour, ..config() }).await;
    test.clock.advance(SignedDuration::from_mins(59));
    many_looks().await;
    assert!(!is_held(&api, &request));
    assert_eq!(phase(&action_of(&api, &request)), "Completed");
    test.clock.advance(SignedDuration::from_mins(1));
    until("it is gone", || api.get(ACTIONS, "shop", request.action_id.as_str()).is_none()).await;
    stop(test).await;
}

#[tokio::test(start_paused = true)]
async fn finished_actions_beyond_the_count_go_when_their_requests_are_gone() {
    let (api, test, request) = completed(ActionsConfig { max_finished: 0, ..config() }).await;
    test.clock.advance(SignedDuration::from_hours(23));
    many_looks().await;
    assert_eq!(phase(&action_of(&api, &request)), "Completed", "its request may still come again");
    test.clock.advance(SignedDuration::from_hours(1));
    until("it is gone", || api.get(ACTIONS, "shop", request.action_id.as_str()).is_none()).await;
    let metrics = test.ctx.metrics.encode().unwrap();
    assert!(metrics.contains("eventpulse_retention_deleted_total{kind=\"action\",reason=\"count\"} 1"), "{metrics}");
    stop(test).await;
}
