//! A step that takes back what an earlier one of the same incident has done.

use super::{kinds::*, *};

/// The request that takes another one back, for when the incident is over.
fn back(request: &ActionRequested) -> ActionRequested {
    ActionRequested {
        action_id: ActionId::new("shop", &request.incident.incident_id, "back", 1),
        step: "back".into(),
        step_index: 1,
        runbook: "scale-back".into(),
        decided_at: request.decided_at + jiff::SignedDuration::from_secs(1),
        resolves: false,
        when: StepWhen::Resolved,
        undoes: Some(request.action_id.clone()),
        ..request.clone()
    }
}

fn with_scale_back(api: &FakeApi) {
    let mut runbook = api.get(RUNBOOKS, "shop", "scale-up").unwrap();
    runbook["metadata"] = json!({"name": "scale-back", "namespace": "shop"});
    runbook["spec"]["steps"] = json!([{"name": "back", "type": "ScaleBack", "scaleBack": {}}]);
    api.put(RUNBOOKS, runbook);
}

/// Scales, lets something happen, takes it back. Gives the Action of the latter as it ended.
async fn scaled_and_back(kind: Kind, between: impl Fn(&FakeApi, &ActionRequested)) -> (FakeApi, Value) {
    let (api, bus) = (kind.cluster(), Arc::new(MemoryBus::new(3)));
    with_scale_back(&api);
    let test = start(&bus, &api);
    let request = kind.request(&test);
    bus.publish(vec![record_of(&request)]).await.unwrap();
    until("the first one ends", || phase(&action_of(&api, &request)) == "Completed").await;
    between(&api, &request);
    let back = back(&request);
    bus.publish(vec![record_of(&back), record_of(&back)]).await.unwrap();
    until("the second one ends", || matches!(phase(&action_of(&api, &back)), "Completed" | "Failed" | "Skipped")).await;
    stop(test).await;
    let action = action_of(&api, &back);
    (api, action)
}

fn resolve(api: &FakeApi, request: &ActionRequested, actions: Value) {
    let name = request.incident.incident_id.to_string();
    api.put(
        "/apis/eventpulse.io/v1alpha1/incidents",
        json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": "Incident", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"ruleRef": {"name": "cpu-high"}, "correlationID": "c", "severity": "warning", "summary": "x",
                "openedAt": "2026-01-01T11:00:00Z"},
            "status": {"phase": "Resolved", "actions": actions}}),
    );
}

#[tokio::test]
async fn what_a_step_has_scaled_is_put_back_once_when_its_incident_is_over() {
    for kind in KINDS.into_iter().filter(|kind| kind.scales()) {
        let (api, action) = scaled_and_back(kind, |api, request| resolve(api, request, json!([]))).await;
        assert_eq!((phase(&action), kind.number(&api)), ("Completed", 3), "{kind:?}: {action:#}");
        assert!(action["status"]["what"].as_str().unwrap().ends_with("4 → 3, back to what it was"), "{action:#}");
        assert_eq!(api.seen().iter().filter(|seen| is_patch(seen)).count(), 2, "{kind:?}");
    }
}

#[tokio::test]
async fn what_somebody_has_changed_since_is_left_as_it_is() {
    type Change = fn(&mut Value);
    let changes: [(Change, &str); 4] = [
        (|object| object["spec"]["replicas"] = json!(6), "changed 4, as the step left it, to 6"),
        (|object| object["spec"]["template"]["spec"] = json!({"a": 1}), "changed since the step left it"),
        (|object| object["metadata"]["uid"] = json!("another"), "deleted and created again"),
        // There and back again.
        (
            |object| drop(object["metadata"].as_object_mut().unwrap().remove("annotations")),
            "changed since the step left it",
        ),
    ];
    for (change, says) in changes {
        let (api, action) = scaled_and_back(DEPLOYMENT, move |api, _| {
            let mut object = DEPLOYMENT.state(api);
            let generation = object["metadata"]["generation"].as_i64().unwrap();
            change(&mut object);
            object["metadata"]["generation"] = json!(generation + 1);
            api.put(DEPLOYMENTS, object);
        })
        .await;
        let message = action["status"]["message"].as_str().unwrap_or_default();
        assert_eq!((phase(&action), &action["status"]["reason"]), ("Skipped", &json!("TargetChanged")), "{action:#}");
        assert!(message.contains(says), "{message}");
        assert_eq!(api.seen().iter().filter(|seen| is_patch(seen)).count(), 1);
    }
}

#[tokio::test]
async fn an_autoscaler_that_another_action_has_changed_since_is_left_as_it_is() {
    let (api, action) = scaled_and_back(AUTOSCALED, |api, _| {
        let mut object = AUTOSCALED.state(api);
        let ring = object["metadata"]["annotations"][ANNOTATION_APPLIED].as_str().unwrap().replacen("1 ", "2 ", 1);
        object["metadata"]["annotations"][ANNOTATION_APPLIED] = json!(ring);
        api.put(AUTOSCALERS, object);
    })
    .await;
    assert_eq!((&action["status"]["reason"], AUTOSCALED.number(&api)), (&json!("TargetChanged"), 4), "{action:#}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_back_of_what_has_not_taken_effect() {
    for failed in [true, false] {
        let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
        with_scale_back(&api);
        let test = start(&bus, &api);
        let request = request(&test);
        if failed {
            api.put(DEPLOYMENTS, deployment(10));
            bus.publish(vec![record_of(&request)]).await.unwrap();
            until("it fails", || phase(&action_of(&api, &request)) == "Failed").await;
        }
        let back = back(&request);
        bus.publish(vec![record_of(&back)]).await.unwrap();
        if !failed {
            until("it waits for it", || {
                let action = action_of(&api, &back);
                action["status"]["waitingFor"].as_str().is_some_and(|text| text.contains("which it takes back"))
            })
            .await;
            test.clock.advance(jiff::SignedDuration::from_secs(60));
        }
        until("it ends", || phase(&action_of(&api, &back)) == "Failed").await;
        let action = action_of(&api, &back);
        assert_eq!(action["status"]["reason"], "NothingToDo", "{action:#}");
        assert!(action["status"]["message"].as_str().unwrap().contains("has not taken effect"));
        assert!(!api.seen().iter().any(is_patch));
        stop(test).await;
    }
}

#[tokio::test]
async fn a_runbook_and_a_step_that_do_not_agree_on_undoing_end_as_invalid() {
    for (runbook, undoes) in [("scale-up", true), ("scale-back", false)] {
        let api = cluster();
        with_scale_back(&api);
        let action = with_fault_for(
            &api,
            |test| {
                let request = back(&request(test));
                let undoes = request.undoes.clone().filter(|_| undoes);
                ActionRequested { runbook: runbook.into(), undoes, ..request }
            },
            |_| Fault::None,
        )
        .await;
        assert_eq!(action["status"]["reason"], "InvalidRunbook", "{action:#}");
        assert!(!api.seen().iter().any(is_patch));
    }
}
