//! Tests of the service, on the log and the API server in memory. What goes wrong around it is in [`trouble`], what another process
//! finds in [`takeover`], who waits for whom in [`turns`], what people change meanwhile in [`live`], what stays and goes in [`keeping`],
//! what others govern in [`kept`], what is taken back in [`undo`], what comes too late in [`stale`], what is said in [`lines`]. All kinds of targets are in [`kinds`].

mod keeping;
mod kept;
mod kinds;
mod lines;
mod live;
mod stale;
mod takeover;
mod trouble;
mod turns;
mod undo;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Method;
use serde_json::{Value, json};

use self::kinds::{KINDS, Kind};
use super::{ActionsConfig, plan::tests::deployment, run};
use crate::{
    api::v1alpha1::{ANNOTATION_APPLIED, OnUnknownOutcome, StepWhen, TargetReference},
    bus::{Bus, MemoryBus},
    events::*,
    runtime::clock::Clock,
    testing::{FakeApi, Fault, Seen, TestContext},
};

const DEPLOYMENTS: &str = "/apis/apps/v1/deployments";
const ACTIONS: &str = "/apis/eventpulse.io/v1alpha1/actions";
const RULES: &str = "/apis/eventpulse.io/v1alpha1/rules";
const RUNBOOKS: &str = "/apis/eventpulse.io/v1alpha1/runbooks";
const AUTOSCALERS: &str = "/apis/autoscaling/v2/horizontalpodautoscalers";

fn autoscaler() -> Value {
    json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "svc-a", "namespace": "shop"},
        "spec": {"maxReplicas": 9, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "svc-a"}}})
}

fn cluster() -> FakeApi {
    let api = FakeApi::new();
    api.put(DEPLOYMENTS, deployment(3));
    let meta = |name: &str| json!({"name": name, "namespace": "shop"});
    api.put(
        RULES,
        json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": "Rule", "metadata": meta("cpu-high"),
        "spec": {"match": {"matchers": ["a=b"]}}}),
    );
    api.put(
        RUNBOOKS,
        json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": "Runbook", "metadata": meta("scale-up"),
        "spec": {"serviceAccountName": "remediator", "retry": {"limit": 2, "backoff": {"initial": "1ms", "max": "2ms"}},
                 "circuitBreaker": {"failureThreshold": 100},
                 "steps": [{"name": "scale", "type": "Scale", "scale": {"delta": 1, "maxReplicas": 10}}]}}),
    );
    api
}

fn request(test: &TestContext) -> ActionRequested {
    request_for(test, "svc-a")
}

fn request_for(test: &TestContext, deployment: &str) -> ActionRequested {
    let now = test.clock.now();
    let correlation = CorrelationId::new("shop", "cpu-high", &[deployment]);
    let incident_id = IncidentId::new("cpu-high", &correlation, &AlertId::new("prom", "ab", now));
    ActionRequested {
        action_id: ActionId::new("shop", &incident_id, "add-replica", 1),
        incident: IncidentHeader {
            incident_id,
            correlation_id: correlation,
            rule: NamespacedName { namespace: "shop".into(), name: "cpu-high".into() },
            alerts: vec![],
            alert_count: 1,
            severity: "warning".into(),
            summary: "CPU".into(),
            opened_at: now,
            accepted_at: Some(now),
        },
        step: "add-replica".into(),
        step_index: 0,
        attempt: 1,
        runbook: "scale-up".into(),
        target: TargetReference { api_version: "apps/v1".into(), kind: "Deployment".into(), name: deployment.into() },
        parameters: vec![],
        decided_at: now,
        deadline: now + jiff::SignedDuration::from_mins(5),
        resolves: true,
        last: false,
        on_unknown_outcome: OnUnknownOutcome::Stop,
        when: StepWhen::Ladder,
        undoes: None,
    }
}

/// Another try of the same step: another action on the same target.
fn attempt(request: &ActionRequested, attempt: u32) -> ActionRequested {
    let action_id = ActionId::new("shop", &request.incident.incident_id, "add-replica", attempt);
    ActionRequested { action_id, attempt, ..request.clone() }
}

fn record_of(request: &ActionRequested) -> Record {
    let event = Event {
        id: EventId::new("action.requested", request.action_id.as_str(), "requested"),
        time: request.decided_at,
        source: "eventpulse/rules".into(),
        subject: request.action_id.to_string(),
        key: format!("shop/{}/{}", request.target.kind, request.target.name),
        traceparent: None,
        payload: request.clone().into(),
    };
    event.encode().unwrap()
}

fn config() -> ActionsConfig {
    ActionsConfig {
        fence_timeout: Duration::from_secs(2),
        keep_interval: Duration::from_millis(20),
        backoff_initial: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        ..ActionsConfig::default()
    }
}

fn start(bus: &Arc<MemoryBus>, api: &FakeApi) -> TestContext {
    start_with(bus, api, config())
}

fn start_with(bus: &Arc<MemoryBus>, api: &FakeApi, config: ActionsConfig) -> TestContext {
    let test = TestContext::with_api("actions", bus.clone(), api.clone());
    let ctx = test.ctx.clone();
    test.ctx.tasks.spawn("actions", run(ctx, config));
    test
}

/// Waits until the API server's state or its calls are as wanted.
async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

fn deployment_named(name: &str) -> Value {
    let mut object = deployment(3);
    object["metadata"]["name"] = json!(name);
    object["metadata"]["uid"] = json!(format!("u-{name}"));
    object
}

/// Writes of an Action's status.
fn status_writes(api: &FakeApi, request: &ActionRequested) -> usize {
    let path = format!("/actions/{}/status", request.action_id);
    api.seen().iter().filter(|seen| seen.is_write() && seen.path.ends_with(&path)).count()
}

fn action_of(api: &FakeApi, request: &ActionRequested) -> Value {
    api.get(ACTIONS, "shop", request.action_id.as_str()).unwrap_or_default()
}

fn phase(action: &Value) -> &str {
    action["status"]["phase"].as_str().unwrap_or_default()
}

fn change_runbook(api: &FakeApi, change: impl Fn(&mut Value)) {
    let mut runbook = api.get(RUNBOOKS, "shop", "scale-up").unwrap();
    change(&mut runbook["spec"]);
    api.put(RUNBOOKS, runbook);
}

/// The one Action, once it has come to its end.
async fn ended(api: &FakeApi) -> Value {
    for _ in 0..2_000 {
        if let Some(action) = api
            .all(ACTIONS)
            .into_iter()
            .find(|action| matches!(action["status"]["phase"].as_str(), Some("Completed" | "Failed" | "Skipped")))
        {
            return action;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the action did not end: {:#?}", api.all(ACTIONS));
}

async fn stop(test: TestContext) {
    test.ctx.shutdown.cancel();
    test.ctx.tasks.finished().await;
}

fn replicas(api: &FakeApi) -> i64 {
    api.get(DEPLOYMENTS, "shop", "svc-a").unwrap()["spec"]["replicas"].as_i64().unwrap()
}

/// Of a target: what EventPulse writes of its own is replaced, not patched.
fn is_patch(seen: &Seen) -> bool {
    seen.method == Method::PATCH && !seen.path.contains("/eventpulse.io/")
}

/// A patch that is no fence.
fn changes_replicas(seen: &Seen) -> bool {
    is_patch(seen) && seen.body.to_string().contains("\"/spec/")
}

/// Runs one request with a fault, and gives the Action as it ended.
async fn with_fault(api: &FakeApi, fault: impl Fn(&Seen) -> Fault + Send + Sync + 'static) -> Value {
    with_fault_for(api, request, fault).await
}

/// The same for another request.
async fn with_fault_for(
    api: &FakeApi,
    request: impl Fn(&TestContext) -> ActionRequested,
    fault: impl Fn(&Seen) -> Fault + Send + Sync + 'static,
) -> Value {
    let bus = Arc::new(MemoryBus::new(3));
    let test = start(&bus, api);
    api.on_request(fault);
    bus.publish(vec![record_of(&request(&test))]).await.unwrap();
    let action = ended(api).await;
    stop(test).await;
    action
}

#[tokio::test]
async fn an_action_is_claimed_sent_once_as_the_runbooks_account_and_told() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    let test = start(&bus, &api);
    let record = record_of(&request(&test));
    bus.publish(vec![record.clone(), record.clone()]).await.unwrap();
    let action = ended(&api).await;
    bus.publish(vec![record]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((replicas(&api), action["status"]["what"].as_str()), (4, Some("Deployment/svc-a 3 → 4")));
    let patches: Vec<Seen> = api.seen().into_iter().filter(is_patch).collect();
    assert_eq!(patches.len(), 1);
    assert_eq!(patches[0].impersonated.as_deref(), Some("system:serviceaccount:shop:remediator"));
    let seen = api.seen();
    let place = |found: &dyn Fn(&Seen) -> bool| seen.iter().position(found).unwrap();
    let claim = place(&|seen| seen.method == Method::POST && seen.path.ends_with("/actions"));
    assert!(claim < place(&is_patch), "the claim comes first");
    stop(test).await;
}

#[tokio::test]
async fn an_answer_lost_after_the_commit_is_found_in_the_ring_and_nothing_is_sent_again() {
    for kind in KINDS {
        for fault in [Fault::DropAnswer, Fault::CommitThenAnswer(504)] {
            let api = kind.cluster();
            let action =
                kind.with_fault(&api, move |seen| if is_patch(seen) { fault.clone() } else { Fault::None }).await;
            assert_eq!((phase(&action), kind.number(&api)), ("Completed", 4), "{kind:?}: {action:#}");
            assert_eq!(api.seen().iter().filter(|seen| is_patch(seen)).count(), 1, "{kind:?}");
        }
    }
}

#[tokio::test]
async fn a_patch_refused_for_now_is_retried_then_fenced_and_failed() {
    for kind in KINDS {
        let api = kind.cluster();
        let refuse = |seen: &Seen| if changes_replicas(seen) { Fault::Answer(503) } else { Fault::None };
        let action = kind.with_fault(&api, refuse).await;
        assert_eq!(
            (action["status"]["phase"].as_str(), action["status"]["reason"].as_str()),
            (Some("Failed"), Some("RetriesExhausted")),
            "{kind:?}: {action:#}"
        );
        assert_eq!((action["status"]["tries"].as_i64(), kind.number(&api)), (Some(3), 3), "{kind:?}");
        assert!(kind.ring(&api).ends_with(":aborted"), "{kind:?}: {}", kind.ring(&api));
    }
}

#[tokio::test]
async fn a_fence_that_cannot_be_written_ends_as_outcome_unknown() {
    for kind in KINDS {
        let api = kind.cluster();
        let action = kind.with_fault(&api, |seen| if is_patch(seen) { Fault::Answer(503) } else { Fault::None }).await;
        assert_eq!(
            (action["status"]["phase"].as_str(), action["status"]["reason"].as_str()),
            (Some("Failed"), Some("OutcomeUnknown")),
            "{kind:?}"
        );
    }
}

#[tokio::test]
async fn an_annotation_rewound_between_a_send_and_its_lost_answer_never_leads_to_a_second_effect() {
    for kind in KINDS {
        let api = kind.cluster();
        let rewind = api.clone();
        let sends = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sends);
        // The patch takes effect and its answer is lost; then somebody replaces the object with an old manifest. Its generation has
        // grown twice, and everything else is as it was.
        let action = kind
            .with_fault(&api, move |seen| {
                if is_patch(seen) && count.fetch_add(1, Ordering::SeqCst) == 0 {
                    return Fault::DropAnswer;
                }
                let is_read = seen.method == Method::GET && seen.path.ends_with("/svc-a");
                if is_read && count.load(Ordering::SeqCst) == 1 {
                    let mut old = kind.object();
                    old["metadata"]["generation"] = json!(3);
                    rewind.put(kind.collection, old);
                }
                Fault::None
            })
            .await;
        let reason = action["status"]["reason"].as_str();
        assert_eq!((reason, kind.number(&api)), (Some("OutcomeUnknown"), 3), "{kind:?}: {action:#}");
        let condition = &action["status"]["conditions"][0];
        let told = (condition["status"].as_str(), condition["reason"].as_str());
        assert_eq!(told, (Some("False"), Some("OutcomeUnknown")));
        assert_eq!(sends.load(Ordering::SeqCst), 1, "{kind:?}");
    }
}

#[tokio::test]
async fn a_change_by_somebody_else_is_planned_again_and_is_no_try() {
    for kind in KINDS {
        let api = kind.cluster();
        let raced = Arc::new(AtomicUsize::new(0));
        let action = kind
            .with_fault(&api, move |seen| {
                if is_patch(seen) && raced.fetch_add(1, Ordering::SeqCst) < 5 {
                    return Fault::After(Arc::new(move |api: &FakeApi| {
                        let mut object = kind.state(api);
                        object["metadata"]["labels"]["changed"] = json!(api.seen().len().to_string());
                        api.put(kind.collection, object);
                    }));
                }
                Fault::None
            })
            .await;
        let status = &action["status"];
        assert_eq!((phase(&action), status["tries"].as_i64()), ("Completed", Some(1)), "{kind:?}: {action:#}");
        assert_eq!((status["plans"].as_array().unwrap().len(), kind.number(&api)), (6, 4), "{kind:?}");
        let condition = &status["conditions"][0];
        assert_eq!((condition["type"].as_str(), condition["status"].as_str()), (Some("Completed"), Some("True")));
    }
}

#[tokio::test]
async fn what_the_account_may_not_do_fails_at_once_without_a_fence() {
    for kind in KINDS {
        let api = kind.cluster();
        let action = kind.with_fault(&api, |seen| if is_patch(seen) { Fault::Answer(403) } else { Fault::None }).await;
        assert_eq!(action["status"]["reason"].as_str(), Some("Forbidden"), "{kind:?}");
        assert_eq!(api.seen().iter().filter(|seen| is_patch(seen)).count(), 1, "{kind:?}");
    }
}

#[tokio::test]
async fn what_must_not_run_ends_with_its_reason_and_sends_nothing() {
    type Change = Box<dyn Fn(&FakeApi, &mut ActionRequested)>;
    let cases: Vec<(&str, Change)> = vec![
        ("Stale", Box::new(|_, request| request.deadline = request.decided_at)),
        (
            "Stale",
            Box::new(|api, _| {
                let mut object = deployment(3);
                object["metadata"]["creationTimestamp"] = json!("2026-01-01T12:00:05Z");
                api.put(DEPLOYMENTS, object);
            }),
        ),
        ("Suspended", Box::new(|api, _| api.remove(RULES, "shop", "cpu-high"))),
        ("InvalidRunbook", Box::new(|api, _| api.remove(RUNBOOKS, "shop", "scale-up"))),
        ("TargetNotFound", Box::new(|api, _| api.remove(DEPLOYMENTS, "shop", "svc-a"))),
        ("InvalidRunbook", Box::new(|_, request| request.target.kind = "Pod".into())),
        (
            "InvalidRunbook",
            Box::new(|_, request| request.target.name = "../../../api/v1/namespaces/shop/secrets/x".into()),
        ),
        ("NothingToDo", Box::new(|api, _| drop(api.put(DEPLOYMENTS, deployment(10))))),
        (
            "NothingToDo",
            Box::new(|api, _| change_runbook(api, |spec| spec["steps"][0]["scale"] = json!({"replicas": 3}))),
        ),
        (
            "TargetGoverned",
            Box::new(|api, _| {
                api.put(AUTOSCALERS, autoscaler());
            }),
        ),
        (
            "Refused",
            Box::new(|api, _| {
                let mut object = deployment(3);
                object["metadata"]["annotations"] = json!({ANNOTATION_APPLIED: "edited by hand"});
                api.put(DEPLOYMENTS, object);
            }),
        ),
    ];
    for (reason, change) in cases {
        let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
        let mut request = request(&TestContext::with_api("x", bus.clone(), api.clone()));
        change(&api, &mut request);
        let test = start(&bus, &api);
        bus.publish(vec![record_of(&request)]).await.unwrap();
        let action = ended(&api).await;
        assert_eq!(action["status"]["reason"].as_str(), Some(reason), "{action:#}");
        let ends = if ["Stale", "Suspended"].contains(&reason) { "Skipped" } else { "Failed" };
        assert_eq!(phase(&action), ends, "{action:#}");
        assert!(!api.seen().iter().any(is_patch), "{reason}");
        stop(test).await;
    }
}

#[tokio::test]
async fn a_step_may_also_say_to_how_many_or_restart_what_an_autoscaler_governs() {
    let (absolute, restart) = (
        json!({"name": "scale", "type": "Scale", "scale": {"replicas": 7, "maxReplicas": 6}}),
        json!({"name": "restart", "type": "Restart", "restart": {}}),
    );
    for (step, governed, replicas_then, what) in
        [(absolute, false, 6, "Deployment/svc-a 3 → 6"), (restart, true, 3, "Deployment/svc-a restarted")]
    {
        let api = cluster();
        change_runbook(&api, |spec| spec["steps"][0] = step.clone());
        if governed {
            api.put(AUTOSCALERS, autoscaler());
        }
        let action = with_fault(&api, |_| Fault::None).await;
        assert_eq!(action["status"]["what"].as_str(), Some(what), "{action:#}");
        assert_eq!(replicas(&api), replicas_then);
    }
}

/// The API server tells when a target was created in whole seconds only.
#[tokio::test]
async fn a_target_of_the_very_second_of_the_decision_is_acted_on() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    let mut object = deployment(3);
    object["metadata"]["creationTimestamp"] = json!("2026-01-01T12:00:00Z");
    api.put(DEPLOYMENTS, object);
    let test = start(&bus, &api);
    let mut request = request(&test);
    request.decided_at += jiff::SignedDuration::from_millis(1);
    bus.publish(vec![record_of(&request)]).await.unwrap();
    assert_eq!(ended(&api).await["status"]["phase"].as_str(), Some("Completed"));
    stop(test).await;
}

#[tokio::test]
async fn a_patch_that_is_invalid_or_refused_for_an_unmoved_target_is_not_sent_again() {
    for (fault, says) in
        [(Fault::Invalid, "spec.replicas"), (Fault::Answer(422), "although the target has not changed")]
    {
        let api = cluster();
        let action = with_fault(&api, move |seen| if is_patch(seen) { fault.clone() } else { Fault::None }).await;
        assert_eq!(action["status"]["reason"].as_str(), Some("Refused"), "{action:#}");
        let message = action["status"]["message"].as_str().unwrap();
        assert!(message.contains(says), "{message}");
        assert_eq!((api.seen().iter().filter(|seen| is_patch(seen)).count(), replicas(&api)), (1, 3));
    }
}

/// The target's ring holds as many entries as it can, all for another minute.
fn fill_the_ring(test: &TestContext, api: &FakeApi) {
    let expiry = test.clock.now().as_second() + 60;
    let entries: String = (0..32).map(|i| format!(" a{i}:{expiry}")).collect();
    let mut object = deployment(3);
    object["metadata"]["annotations"] = json!({ANNOTATION_APPLIED: format!("40{entries}")});
    api.put(DEPLOYMENTS, object);
}

#[tokio::test(start_paused = true)]
async fn an_action_waits_while_the_ring_is_full_of_entries_that_have_not_expired() {
    let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
    let test = start(&bus, &api);
    fill_the_ring(&test, &api);
    let request = request(&test);
    bus.publish(vec![record_of(&request)]).await.unwrap();
    until("it shows that it waits for the ring", || {
        let action = action_of(&api, &request);
        action["status"]["waitingFor"].as_str().is_some_and(|text| text.contains("ring of applied actions is full"))
    })
    .await;
    assert!(!api.seen().iter().any(is_patch));
    test.clock.advance(jiff::SignedDuration::from_secs(61));
    until("it completes", || phase(&action_of(&api, &request)) == "Completed").await;
    assert_eq!(replicas(&api), 4);
    stop(test).await;
}

/// Its alerts cleared, or somebody resolved it: nobody needs the step any more.
#[tokio::test(start_paused = true)]
async fn an_action_that_waited_until_its_incident_was_resolved_is_skipped() {
    for (spec, status) in [
        (json!({"resolved": true}), json!({"phase": "Mitigating"})),
        (json!({"resolved": false}), json!({"phase": "Resolved"})),
    ] {
        let (api, bus) = (cluster(), Arc::new(MemoryBus::new(3)));
        let test = start(&bus, &api);
        let mut request = request(&test);
        request.deadline = test.clock.now() + jiff::SignedDuration::from_mins(10);
        fill_the_ring(&test, &api);
        bus.publish(vec![record_of(&request)]).await.unwrap();
        until("it waits", || phase(&action_of(&api, &request)) == "Waiting").await;
        let mut incident = json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": "Incident",
            "metadata": {"name": request.incident.incident_id.to_string(), "namespace": "shop"},
            "spec": {"ruleRef": {"name": "cpu-high"}, "correlationID": "c", "severity": "warning", "summary": "x",
                "openedAt": "2026-01-01T11:00:00Z", "acknowledged": false},
            "status": status});
        incident["spec"]["resolved"] = spec["resolved"].clone();
        api.put("/apis/eventpulse.io/v1alpha1/incidents", incident);
        test.clock.advance(jiff::SignedDuration::from_secs(61));
        until("it is skipped", || phase(&action_of(&api, &request)) == "Skipped").await;
        assert_eq!(action_of(&api, &request)["status"]["reason"], "IncidentResolved");
        assert!(!api.seen().iter().any(is_patch));
        stop(test).await;
    }
}
