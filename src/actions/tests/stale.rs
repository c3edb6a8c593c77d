//! Requests that come again, late, or for a target that is another object by now: skipped, visible, never run (promise 2).

use super::*;
use crate::mutants::{self, Mutant};

/// The target was deleted, and created again under its name.
fn create_again(api: &FakeApi, created: &str) {
    api.remove(DEPLOYMENTS, "shop", "svc-a");
    let mut object = deployment(3);
    object["metadata"]["uid"] = json!("another");
    object["metadata"]["creationTimestamp"] = json!(created);
    api.put(DEPLOYMENTS, object);
}

/// What the Action says, and the one event that tells of it.
fn told(api: &FakeApi, bus: &MemoryBus) -> (String, String, String, ActionFailureReason) {
    let [action] = &api.all(ACTIONS)[..] else { panic!("{:#?}", api.all(ACTIONS)) };
    let records = bus.records(Topic::ActionFailed);
    let events: HashSet<String> = records.iter().map(|record| record.decode().unwrap().id.to_string()).collect();
    assert_eq!(events.len(), 1);
    let Payload::ActionFailed(failed) = records[0].decode().unwrap().payload else { panic!() };
    let text = |field: &str| action["status"][field].as_str().unwrap_or_default().to_owned();
    (text("phase"), text("reason"), text("message"), failed.reason)
}

fn sent(api: &FakeApi) -> usize {
    api.seen().iter().filter(|seen| changes_replicas(seen)).count()
}

#[tokio::test]
async fn a_look_that_misses_that_the_target_was_created_again_is_noticed() {
    let request = request(&TestContext::new("actions", Arc::new(MemoryBus::new(1))));
    let mut object = deployment(3);
    object["metadata"]["creationTimestamp"] =
        json!((request.decided_at + jiff::SignedDuration::from_secs(5)).to_string());
    let target = crate::actions::plan::tests::read(&object);
    let goes_on = || crate::actions::look::refuse_target(&request, &target).is_ok();
    assert_eq!((goes_on(), mutants::with(Mutant::UidIgnored, goes_on)), (false, true));
}

#[tokio::test]
async fn a_request_that_comes_again_after_its_deadline_when_its_action_is_gone_is_skipped() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    let test = start(&bus, &api);
    let request = request(&test);
    bus.publish(vec![record_of(&request)]).await.unwrap();
    assert_eq!(phase(&ended(&api).await), "Completed");
    stop(test).await;
    assert_eq!((sent(&api), replicas(&api)), (1, 4));

    api.remove(ACTIONS, "shop", request.action_id.as_str());
    assert!(bus.rewind("actions", u64::MAX) > 0);
    let test = TestContext::with_api("actions", bus.clone(), api.clone());
    test.clock.advance(jiff::SignedDuration::from_mins(10));
    test.ctx.tasks.spawn("actions", run(test.ctx.clone(), config()));
    ended(&api).await;
    until("it is told", || !bus.records(Topic::ActionFailed).is_empty()).await;
    let (phase, reason, message, told) = told(&api, &bus);
    assert_eq!((phase.as_str(), reason.as_str(), told), ("Skipped", "Stale", ActionFailureReason::Stale));
    assert_eq!(message, format!("the deadline {} has passed", request.deadline));
    assert_eq!((sent(&api), replicas(&api)), (1, 4));
    stop(test).await;
}

#[tokio::test]
async fn a_request_for_a_target_that_was_created_again_after_the_decision_is_skipped() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    let test = start(&bus, &api);
    let request = request(&test);
    let created = (request.decided_at + jiff::SignedDuration::from_secs(5)).to_string();
    create_again(&api, &created);
    bus.publish(vec![record_of(&request)]).await.unwrap();
    ended(&api).await;
    until("it is told", || !bus.records(Topic::ActionFailed).is_empty()).await;
    let (phase, reason, message, told) = told(&api, &bus);
    assert_eq!((phase.as_str(), reason.as_str(), told), ("Skipped", "Stale", ActionFailureReason::Stale));
    assert_eq!(message, format!("Deployment/svc-a was created at {created}, after the decision"));
    assert_eq!((sent(&api), replicas(&api)), (0, 3));
    stop(test).await;
}

/// The patch tests the uid, so it meets no other object; that it was refused is known, so nothing of it can have taken effect.
#[tokio::test]
async fn a_target_that_is_created_again_between_plan_and_patch_is_left_alone_and_the_action_skipped() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    let test = start(&bus, &api);
    let request = request(&test);
    let created = (request.decided_at + jiff::SignedDuration::from_secs(5)).to_string();
    let again = api.clone();
    let first = AtomicUsize::new(0);
    api.on_request(move |seen| {
        if changes_replicas(seen) && first.fetch_add(1, Ordering::SeqCst) == 0 {
            create_again(&again, &created);
        }
        Fault::None
    });
    bus.publish(vec![record_of(&request)]).await.unwrap();
    let action = ended(&api).await;
    until("it is told", || !bus.records(Topic::ActionFailed).is_empty()).await;
    assert_eq!(action["status"]["plans"][0]["outcome"].as_str(), Some("Conflict"), "{action:#}");
    let (phase, reason, message, told) = told(&api, &bus);
    assert_eq!((phase.as_str(), reason.as_str(), told), ("Skipped", "Stale", ActionFailureReason::Stale));
    assert_eq!(message, "Deployment/svc-a was deleted and created again since it was planned");
    assert_eq!((sent(&api), replicas(&api)), (1, 3));
    stop(test).await;
}

/// Its former object may have been changed, and nobody can look any more: that is no skipped one.
#[tokio::test]
async fn a_target_that_is_created_again_after_a_patch_without_an_answer_is_left_alone_and_the_action_failed() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    let test = start(&bus, &api);
    let request = request(&test);
    let created = (request.decided_at + jiff::SignedDuration::from_secs(5)).to_string();
    let (again, sends) = (api.clone(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&sends);
    api.on_request(move |seen| {
        if changes_replicas(seen) && count.fetch_add(1, Ordering::SeqCst) == 0 {
            return Fault::DropAnswer;
        }
        let is_read = seen.method == Method::GET && seen.path.ends_with("/svc-a");
        if is_read && count.compare_exchange(1, 2, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            create_again(&again, &created);
        }
        Fault::None
    });
    bus.publish(vec![record_of(&request)]).await.unwrap();
    ended(&api).await;
    until("it is told", || !bus.records(Topic::ActionFailed).is_empty()).await;
    let (phase, reason, message, told) = told(&api, &bus);
    assert_eq!((phase.as_str(), reason.as_str(), told), ("Failed", "Stale", ActionFailureReason::Stale));
    assert_eq!(message, "Deployment/svc-a was deleted and created again since it was planned");
    assert_eq!((sent(&api), replicas(&api)), (1, 3));
    stop(test).await;
}
