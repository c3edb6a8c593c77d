//! Targets in whose replicas somebody else has a say: an autoscaler, Argo CD, Flux.

use super::{kinds::*, *};

fn scale(change: Value) -> FakeApi {
    let api = AUTOSCALED.cluster();
    change_runbook(&api, |spec| json_patch::merge(&mut spec["steps"][0]["scale"], &change));
    api
}

fn autoscaled(api: &FakeApi, change: impl Fn(&mut Value)) {
    let mut object = AUTOSCALED.state(api);
    change(&mut object);
    api.put(AUTOSCALERS, object);
}

fn min_replicas(api: &FakeApi) -> i64 {
    AUTOSCALED.number(api)
}

/// The autoscaler has minReplicas 3 and maxReplicas 9.
#[tokio::test]
async fn the_least_number_of_an_autoscaler_is_changed_within_its_own_bounds_and_the_runbooks() {
    for (change, desired, to) in [
        (json!({"delta": 1}), None, Some(4)),
        (json!({"delta": -1}), None, Some(2)),
        // It has gone to 6 by itself: one more than that, not than 3.
        (json!({"delta": 1}), Some(6), Some(7)),
        (json!({"delta": -1}), Some(6), Some(2)),
        (json!({"delta": 4, "maxReplicas": 100}), Some(8), Some(9)),
        (json!({"delta": 1, "maxReplicas": 3}), None, None),
        (json!({"delta": 1, "maxReplicas": 6}), Some(6), Some(6)),
        (json!({"delta": -5, "maxReplicas": null}), None, Some(1)),
        (json!({"delta": null, "replicas": 0}), None, Some(1)),
        (json!({"delta": null, "replicas": 7}), Some(8), Some(7)),
        (json!({"delta": 1, "minReplicas": 10, "maxReplicas": 20}), None, None),
        (json!({"delta": null, "replicas": 3}), Some(5), None),
    ] {
        let api = scale(change.clone());
        if let Some(desired) = desired {
            autoscaled(&api, |object| object["status"] = json!({"desiredReplicas": desired}));
        }
        let action = AUTOSCALED.with_fault(&api, |_| Fault::None).await;
        let ended = (phase(&action), min_replicas(&api));
        match to {
            Some(to) => assert_eq!(ended, ("Completed", to), "{change} {desired:?}: {action:#}"),
            None => {
                assert_eq!(ended, ("Failed", 3), "{change} {desired:?}: {action:#}");
                assert_eq!(action["status"]["reason"], "NothingToDo", "{action:#}");
            }
        }
        assert_eq!(replicas(&api), 3, "the target itself is left to its autoscaler");
    }
}

#[tokio::test]
async fn the_record_of_an_autoscalers_change_says_what_was_patched() {
    let api = AUTOSCALED.cluster();
    let action = AUTOSCALED.with_fault(&api, |_| Fault::None).await;
    let plan = &action["status"]["plans"][0];
    assert_eq!(
        (&plan["object"]["kind"], &plan["object"]["name"]),
        (&json!("HorizontalPodAutoscaler"), &json!("svc-a"))
    );
    assert_eq!((&plan["uid"], &plan["from"], &plan["to"]), (&json!("u-hpa"), &json!(3), &json!(4)));
    assert!(plan["generation"].is_null() && plan["templateHash"].is_null(), "{plan}");
    let what = action["status"]["what"].as_str().unwrap();
    assert_eq!(what, "Deployment/svc-a by its HorizontalPodAutoscaler/svc-a: minReplicas 3 → 4");
}

/// Without a generation only an unmoved version shows that nothing was changed.
#[tokio::test]
async fn an_autoscaler_that_moves_between_a_send_and_its_lost_answer_leaves_the_outcome_unknown() {
    let api = AUTOSCALED.cluster();
    let moved = api.clone();
    let patches = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&patches);
    let action = AUTOSCALED
        .with_fault(&api, move |seen| {
            if is_patch(seen) {
                count.fetch_add(1, Ordering::SeqCst);
                // It did nothing, but nobody can tell: the autoscaler's own status is written meanwhile.
                autoscaled(&moved, |object| object["status"] = json!({"desiredReplicas": 5}));
                return Fault::Answer(503);
            }
            Fault::None
        })
        .await;
    assert_eq!(action["status"]["reason"], "OutcomeUnknown", "{action:#}");
    assert_eq!((patches.load(Ordering::SeqCst), min_replicas(&api)), (1, 3));
}

#[tokio::test]
async fn the_object_that_is_patched_never_changes_within_an_action() {
    // The first plan is for the target or its autoscaler; before the second the autoscaler appears or goes.
    for appears in [true, false] {
        let api = AUTOSCALED.cluster();
        if appears {
            api.remove(AUTOSCALERS, "shop", "svc-a");
        }
        let change = api.clone();
        let action = AUTOSCALED
            .with_fault(&api, move |seen| {
                if !is_patch(seen) {
                    return Fault::None;
                }
                if appears {
                    change.put(AUTOSCALERS, AUTOSCALED.object());
                } else {
                    let mut other = AUTOSCALED.object();
                    other["spec"]["scaleTargetRef"]["name"] = json!("svc-b");
                    other["metadata"]["resourceVersion"] = Value::Null;
                    change.put(AUTOSCALERS, other);
                }
                Fault::Throttle(0)
            })
            .await;
        assert_eq!(action["status"]["reason"], "TargetGoverned", "{appears} {action:#}");
        assert!(action["status"]["message"].as_str().unwrap().contains("has changed since it was planned"));
        assert_eq!(api.seen().iter().filter(|seen| is_patch(seen)).count(), 1);
        assert_eq!((min_replicas(&api), replicas(&api)), (3, 3));
    }
}

#[tokio::test]
async fn an_autoscaler_that_is_not_the_targets_own_to_change_is_refused() {
    type Change = fn(&FakeApi);
    let cases: [(Change, &str); 4] = [
        (
            |api| {
                let mut second = AUTOSCALED.object();
                second["metadata"]["name"] = json!("another");
                second["metadata"]["uid"] = Value::Null;
                api.put(AUTOSCALERS, second);
            },
            "several autoscalers: another, svc-a",
        ),
        (
            |api| {
                autoscaled(api, |object| {
                    object["metadata"]["ownerReferences"] =
                        json!([{"kind": "ScaledObject", "name": "svc-a", "controller": true}]);
                });
            },
            "controlled by ScaledObject/svc-a",
        ),
        (
            |api| {
                autoscaled(api, |object| {
                    object["metadata"]["labels"] = json!({"kustomize.toolkit.fluxcd.io/name": "apps"});
                });
            },
            "HorizontalPodAutoscaler/svc-a is kept as it is in Git by Flux",
        ),
        (
            |api| change_runbook(api, |spec| spec["steps"][0]["scale"]["underAutoscaler"] = json!("Refuse")),
            "governed by HorizontalPodAutoscaler svc-a",
        ),
    ];
    for (change, says) in cases {
        let api = AUTOSCALED.cluster();
        change(&api);
        let action = AUTOSCALED.with_fault(&api, |_| Fault::None).await;
        let message = action["status"]["message"].as_str().unwrap_or_default();
        assert!(action["status"]["reason"] == "TargetGoverned" && message.contains(says), "{action:#}");
        assert!(!api.seen().iter().any(is_patch));
    }
}

/// An autoscaler of another kind that has the same name governs nothing of ours.
#[tokio::test]
async fn the_autoscaler_of_another_group_does_not_govern() {
    for (api_version, governs) in [("apps/v1", true), ("apps/v1beta2", true), ("example.com/v1", false), ("v1", false)]
    {
        let api = cluster();
        let mut other = autoscaler();
        other["spec"]["scaleTargetRef"]["apiVersion"] = json!(api_version);
        api.put(AUTOSCALERS, other);
        let action = with_fault(&api, |_| Fault::None).await;
        assert_eq!(action["status"]["reason"] == "TargetGoverned", governs, "{api_version}: {action:#}");
    }
}

#[tokio::test]
async fn what_a_tool_keeps_as_it_is_in_git_is_not_scaled_unless_the_runbook_says_so_but_is_restarted() {
    let tracking = json!({"annotations": {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/svc-a"}});
    let flux = json!({"labels": {"helm.toolkit.fluxcd.io/name": "shop"}});
    let restart = json!({"name": "restart", "type": "Restart", "restart": {}});
    for (marks, tool) in [(tracking, "Argo CD"), (flux, "Flux")] {
        for (allowed, step, done) in
            [(false, None, false), (true, None, true), (false, Some(&restart), true), (true, Some(&restart), true)]
        {
            let api = cluster();
            let mut object = deployment(3);
            json_patch::merge(&mut object["metadata"], &marks);
            api.put(DEPLOYMENTS, object);
            change_runbook(&api, |spec| {
                if allowed {
                    spec["gitOps"] = json!("Allow");
                }
                if let Some(step) = step {
                    spec["steps"][0] = step.clone();
                }
            });
            let action = with_fault(&api, |_| Fault::None).await;
            assert_eq!(phase(&action) == "Completed", done, "{tool} {allowed} {step:?}: {action:#}");
            if !done {
                let message = action["status"]["message"].as_str().unwrap();
                assert_eq!(action["status"]["reason"], "TargetGoverned");
                assert!(message.contains(tool) && message.contains("gitOps: Allow"), "{message}");
                assert!(!api.seen().iter().any(is_patch));
            }
        }
    }
}
