//! (b) A step that fails is fenced, reported, and followed by the next.

use std::{collections::BTreeSet, time::Duration};

use eventpulse_e2e::{
    START, Shop,
    effects::{Committed, committed, effects_by_action},
    has, history,
};
use eventpulse_testkit::{
    alerts::{Alert, webhook},
    proxy::{Fault, When},
};
use jiff::Timestamp;
use serde_json::{Value, json};

/// After this, whatever would still follow has followed.
const SETTLED: Duration = Duration::from_secs(5);

/// What each message is about, in the order in which they came.
fn titles(shop: &Shop) -> Vec<String> {
    let title = |text: Value| text.as_str().and_then(|text| text.split_once(": ")).map(|(title, _)| title.to_owned());
    let messages = shop.sink.received();
    messages
        .iter()
        .map(|message| title(message.json()["blocks"][0]["text"]["text"].take()).unwrap_or_default())
        .collect()
}

/// The fence stood before the failure was told, and the failure before the next step was claimed: by etcd's own order.
fn assert_order(shop: &Shop) {
    let plane = shop.environment.plane();
    let fences = fences(shop);
    assert_eq!(fences.len(), 1, "{fences:?}");
    assert_eq!(fences[0].user, "system:serviceaccount:shop:remediator");
    let failed = committed(plane, "actions/status").into_iter().find(|write| write.is_phase("Failed")).unwrap();
    let claims: Vec<_> = committed(plane, "actions").into_iter().filter(|write| write.verb == "create").collect();
    let steps: Vec<_> = claims.iter().map(|claim| claim.request["spec"]["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["add-replica", "restart"]);
    let versions = [claims[0].version, fences[0].version, failed.version, claims[1].version];
    assert!(versions[0] > 0 && versions.is_sorted(), "claim, fence, failure, next claim: {versions:?}");
}

fn fences(shop: &Shop) -> Vec<Committed> {
    committed(shop.environment.plane(), "deployments").into_iter().filter(Committed::is_fence).collect()
}

/// (b) Scaling is refused with 503 until the retries are used up: fence, action.failed, the restart is requested, a second message,
/// Resolved.
#[tokio::test(flavor = "multi_thread")]
async fn b_when_scaling_fails_the_restart_follows_and_resolves() {
    let (shop, proxy, launcher) = Shop::open_behind_a_proxy("e2e-b1").await.unwrap();
    let refused = proxy.rule("no scaling", When::patch_of_replicas(), Fault::Answer(503));
    let eventpulse = launcher.start(START).await.unwrap();
    let body = webhook(&[Alert::cpu_high("svc-a", Timestamp::now())]);
    assert!(eventpulse.post("webhooks/alertmanager", &body).await.unwrap().is_success());
    let incident = shop.incidents_in(1, &["Resolved"]).await.remove(0);
    assert_eq!(
        (refused.matched(), shop.replicas("svc-a")),
        (4, 3),
        "one try and three retries, and nothing of them took effect"
    );
    shop.messages(2).await;
    let deployment = shop.get("deployments").remove(0);
    assert_order(&shop);
    assert!(!deployment["spec"]["template"]["metadata"]["annotations"].is_null(), "it was restarted");
    assert!(
        has(&incident, "action.failed", "runbook scale-up as system:serviceaccount:shop:remediator"),
        "{:?}",
        history(&incident)
    );
    let steps: Vec<_> = shop.get("actions").iter().map(|action| action["status"]["phase"].clone()).collect();
    assert!(steps.len() == 2 && steps.contains(&json!("Failed")) && steps.contains(&json!("Completed")), "{steps:?}");
    shop.assert_no_action_twice();
    // That it opened, and that the first step failed; and nothing else, also later.
    tokio::time::sleep(SETTLED).await;
    assert_eq!(titles(&shop), ["Incident opened", "Action failed"]);
    let text = shop.sink.received()[1].json().to_string();
    assert!(
        text.contains("add-replica") && text.contains("retriesExhausted") && text.contains("Next: restart"),
        "{text}"
    );
    assert_eq!((shop.get("actions").len(), shop.replicas("svc-a"), refused.matched()), (2, 3, 4));
    shop.environment.stop().await;
}

/// (b) Restarts are refused too: both steps are fenced, the incident is Failed, and people are told of it again and again.
#[tokio::test(flavor = "multi_thread")]
async fn b_when_the_restart_fails_too_the_incident_is_failed_and_people_are_told_again() {
    let (shop, proxy, launcher) = Shop::open_behind_a_proxy("e2e-b2").await.unwrap();
    let told = |template: &str, event: &str| json!({"channelRef": {"name": "ops-slack"}, "template": template, "events": [event]});
    let mut failed = told("IncidentFailed", "Failed");
    failed["repeatInterval"] = json!("2s");
    let notifications = [told("IncidentOpened", "Opened"), told("ActionFailed", "ActionFailed"), failed];
    shop.patch("rule/cpu-high", &json!({"spec": {"notifications": notifications}}).to_string()).unwrap();
    let scaling = proxy.rule("no scaling", When::patch_of_replicas(), Fault::Answer(503));
    let restarts = proxy.rule("no restart", When::patch_of_template(), Fault::Answer(503));
    let eventpulse = launcher.start(START).await.unwrap();
    let body = webhook(&[Alert::cpu_high("svc-a", Timestamp::now())]);
    assert!(eventpulse.post("webhooks/alertmanager", &body).await.unwrap().is_success());
    let incident = shop.incidents_in(1, &["Failed"]).await.remove(0);
    // Opened, two failed actions, and the failed incident three times.
    let messages = shop.messages(6).await;
    let keys: BTreeSet<_> = messages.iter().map(|message| message.idempotency_key().unwrap().to_owned()).collect();
    assert_eq!(keys.len(), messages.len(), "each repetition is a message of its own");
    assert_eq!((scaling.matched(), restarts.matched(), shop.replicas("svc-a")), (4, 4, 3));
    let actions = shop.get("actions");
    assert!(
        actions.len() == 2 && actions.iter().all(|action| action["status"]["reason"] == "RetriesExhausted"),
        "{actions:#?}"
    );
    assert_eq!(fences(&shop).len(), 2);
    let failures = history(&incident).iter().filter(|(event, _)| event == "action.failed").count();
    assert_eq!(failures, 2, "{:?}", history(&incident));
    // The repetition ends with the incident: its alert clears.
    let resolved = webhook(&[Alert::cpu_high("svc-a", Timestamp::now()).resolved(Timestamp::now())]);
    assert!(eventpulse.post("webhooks/alertmanager", &resolved).await.unwrap().is_success());
    shop.incidents_in(1, &["Resolved"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let told = shop.sink.received().len();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(shop.sink.received().len(), told, "nobody is told of what is over");
    assert!(effects_by_action(shop.environment.plane()).is_empty());
    shop.environment.stop().await;
}

/// (b) Every PATCH is refused, the fence too: nobody can know, so the ladder stops there, visibly.
#[tokio::test(flavor = "multi_thread")]
async fn b_when_even_the_fence_cannot_be_written_the_outcome_is_unknown_and_the_ladder_stops() {
    let (shop, proxy, launcher) = Shop::open_behind_a_proxy("e2e-b3").await.unwrap();
    proxy.rule("no patch", When::patch().path_contains("/deployments/"), Fault::Answer(503));
    let eventpulse = launcher.start(START).await.unwrap();
    let body = webhook(&[Alert::cpu_high("svc-a", Timestamp::now())]);
    assert!(eventpulse.post("webhooks/alertmanager", &body).await.unwrap().is_success());
    shop.incidents_in(1, &["Failed"]).await;
    let actions = shop.get("actions");
    assert_eq!(actions.len(), 1, "no further step");
    assert_eq!(actions[0]["status"]["reason"], "OutcomeUnknown");
    let message = actions[0]["status"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("the fence could not be written"), "{message}");
    shop.messages(3).await;
    tokio::time::sleep(SETTLED).await;
    let mut told = titles(&shop);
    // The last two were asked for at once.
    told.sort();
    assert_eq!(told, ["Action failed", "Incident opened", "Needs a person"]);
    let failed = titles(&shop).iter().position(|title| title == "Action failed").unwrap();
    let text = shop.sink.received()[failed].json().to_string();
    assert!(text.contains("(outcomeUnknown)") && text.contains("There is no further step."), "{text}");
    assert_eq!((shop.get("actions").len(), shop.replicas("svc-a")), (1, 3), "no further step, also later");
    assert!(effects_by_action(shop.environment.plane()).is_empty() && fences(&shop).is_empty());
    shop.environment.stop().await;
}
