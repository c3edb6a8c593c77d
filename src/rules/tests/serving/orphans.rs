//! A group that is deleted while its incident goes on.

use super::*;
use crate::events::IncidentId;

/// An incident of `firing(1, 0)` that its service has written, and the group of it.
async fn opened() -> (FakeApi, MemoryBus, IncidentId) {
    let running = Running::seed();
    running.tell(&[firing(1, 0)]).await;
    assert_eq!(running.reasons(1).await, [DecisionReason::Opened]);
    running.consumed(Topic::AlertRaised).await;
    let header = requests(&running.events(Topic::ActionRequested)).remove(0).incident;
    let (api, bus) = running.stop().await;
    api.put(
        INCIDENTS,
        json!({
            "apiVersion": "eventpulse.io/v1alpha1", "kind": "Incident",
            "metadata": {"name": header.incident_id, "namespace": "shop"},
            "spec": {"ruleRef": {"name": "cpu-high"}, "correlationID": header.correlation_id, "severity": "warning",
                "summary": "CPU of svc-a is high", "openedAt": at(0)},
            "status": {"phase": "Mitigating"},
        }),
    );
    (api, bus, header.incident_id)
}

fn remove_group(api: &FakeApi) {
    let name = Scenario::seed().key().correlation.to_string();
    assert!(api.get(GROUPS, "shop", &name).is_some());
    api.remove(GROUPS, "shop", &name);
}

/// What became of the next alert of the group, and the incident that the group has then.
async fn next(running: &Running) -> (DecisionReason, IncidentId) {
    running.tell(&[firing(2, 10)]).await;
    let reason = *running.reasons(2).await.last().unwrap();
    (reason, running.group().unwrap().spec.episode.unwrap().incident_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_alert_joins_the_incident_of_a_group_that_was_deleted() {
    let (api, bus, incident) = opened().await;
    remove_group(&api);
    let running = Running::start(api, bus);
    assert_eq!(next(&running).await, (DecisionReason::Joined, incident));
    assert_eq!(running.bus.records(Topic::IncidentOpened).len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn also_when_the_watch_has_not_told_that_the_group_is_gone() {
    let (api, bus, incident) = opened().await;
    let watches = || api.seen().iter().filter(|seen| seen.path == GROUPS && seen.query.contains("watch")).count();
    let before = watches();
    let running = Running::start(api.clone(), bus);
    until("the watch of the groups", || (watches() > before).then_some(())).await;
    let never = Arc::new(tokio::sync::Semaphore::new(0));
    let held = Arc::clone(&never);
    api.on_request(
        move |seen| if seen.path == GROUPS && !seen.is_write() { Fault::Hold(Arc::clone(&held)) } else { Fault::None },
    );
    api.break_watches();
    remove_group(&api);
    assert_eq!(next(&running).await, (DecisionReason::Joined, incident));
    never.add_permits(1_000);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_that_is_over_or_cannot_be_read_is_not_taken_over() {
    for over in [true, false] {
        let (api, bus, incident) = opened().await;
        remove_group(&api);
        let mut object = api.get(INCIDENTS, "shop", incident.as_str()).unwrap();
        object["status"]["phase"] = json!("Resolved");
        let path = format!("/apis/eventpulse.io/v1alpha1/namespaces/shop/incidents/{incident}");
        if over {
            // The cache does not know it yet.
            api.on_request(move |seen| {
                let object = object.clone();
                let resolve = move |api: &FakeApi| drop(api.put(INCIDENTS, object.clone()));
                if seen.path == path { Fault::After(Arc::new(resolve)) } else { Fault::None }
            });
        } else {
            api.on_request(move |seen| if seen.path == path { Fault::Answer(400) } else { Fault::None });
        }
        let running = Running::start(api, bus);
        let (reason, opened) = next(&running).await;
        assert_eq!(reason, DecisionReason::Opened, "over: {over}");
        assert_ne!(opened, incident);
        running.stop().await;
    }
}
