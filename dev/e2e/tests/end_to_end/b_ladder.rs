//! (b) A step that fails is fenced, reported, and followed by the next.

use eventpulse_e2e::{START, Shop, has, history};
use eventpulse_testkit::{
    alerts::{Alert, webhook},
    proxy::{Fault, When},
};
use jiff::Timestamp;

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
    shop.sink.wait_for(2, START).await.unwrap();
    let deployment = shop.get("deployments").remove(0);
    let ring = deployment["metadata"]["annotations"]["eventpulse.io/applied-actions"].as_str().unwrap().to_owned();
    assert!(ring.contains(":aborted"), "the fence stands: {ring}");
    assert!(!deployment["spec"]["template"]["metadata"]["annotations"].is_null(), "it was restarted");
    assert!(
        has(&incident, "action.failed", "runbook scale-up as system:serviceaccount:shop:remediator"),
        "{:?}",
        history(&incident)
    );
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
    let messages = shop.sink.wait_for(2, START).await.unwrap();
    assert!(messages.iter().any(|message| message.json().to_string().contains("ailed")), "people are told");
    assert_eq!(shop.replicas("svc-a"), 3);
    shop.environment.stop().await;
}
