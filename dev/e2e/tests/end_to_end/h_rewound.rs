//! (h) Somebody rewinds the target's annotation between a send and its lost answer.

use std::time::Duration;

use eventpulse_e2e::{
    START, Shop,
    effects::{committed, effects_by_action},
};
use eventpulse_testkit::{
    alerts::{Alert, webhook},
    eventpulse::EventPulse,
    proxy::{Fault, Proxy, When},
};
use jiff::Timestamp;
use serde_json::{Value, json};

async fn open(name: &str) -> (Shop, Proxy, EventPulse) {
    let (shop, proxy, launcher) = Shop::open_behind_a_proxy(name).await.unwrap();
    // So that a lost answer is missed after seconds. One step: what follows it is not the question.
    let runbook = json!({"spec": {"steps": [{"name": "scale", "type": "Scale", "timeout": "5s",
        "scale": {"delta": "$(params.delta)", "maxReplicas": 10}}]}});
    shop.patch("runbook/scale-up", &runbook.to_string()).unwrap();
    let eventpulse = launcher.start(START).await.unwrap();
    (shop, proxy, eventpulse)
}

async fn raise(eventpulse: &EventPulse) {
    let body = webhook(&[Alert::cpu_high("svc-a", Timestamp::now())]);
    assert!(eventpulse.post("webhooks/alertmanager", &body).await.unwrap().is_success());
}

fn deployment(shop: &Shop) -> Value {
    shop.get("deployments").into_iter().find(|deployment| deployment["metadata"]["name"] == "svc-a").unwrap()
}

fn kubectl(shop: &Shop, args: &[&str]) -> String {
    shop.environment.plane().run_kubectl(args).unwrap()
}

/// The patch is committed, its answer is held; then somebody rewinds the target; then nobody can know.
async fn after_a_lost_answer(shop: &Shop, proxy: &Proxy, eventpulse: &EventPulse, rewind: impl FnOnce()) {
    let lost = proxy.limited_rule("the answer is lost", When::patch_of_replicas(), Fault::HoldAnswer, 0, 1);
    raise(eventpulse).await;
    shop.wait_for("the committed patch", || {
        proxy.writes().iter().any(|write| write.rule.is_some() && write.committed.is_some()).then_some(())
    })
    .await;
    assert_eq!(shop.replicas("svc-a"), 4, "the effect");
    rewind();
    let ring = deployment(shop)["metadata"]["annotations"]["eventpulse.io/applied-actions"].clone();
    let action = shop.get("actions").remove(0)["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(!ring.to_string().contains(&action), "the record of the effect is gone: {ring}");
    // Its answer comes when nobody waits for it any more.
    let ended = shop
        .wait_for("the end of the action", || {
            let action = shop.get("actions").remove(0);
            (action["status"]["phase"] == "Failed" || action["status"]["phase"] == "Completed").then_some(action)
        })
        .await;
    lost.release();
    assert_eq!(ended["status"]["reason"], "OutcomeUnknown", "{}", ended["status"]);
    println!("\n  {}", ended["status"]["message"].as_str().unwrap_or_default());
    shop.incidents_in(1, &["Failed"]).await;
    // The late answer, two messages, and nothing else, also later.
    shop.messages(3).await;
    let replicas = shop.replicas("svc-a");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(shop.get("actions").len(), 1, "the ladder stops there");
    assert_eq!((shop.replicas("svc-a"), shop.sink.received().len()), (replicas, 3));
    let effects = effects_by_action(shop.environment.plane());
    assert_eq!(effects.values().copied().collect::<Vec<_>>(), [1], "never a second effect");
}

/// (h) `kubectl replace` with a manifest from before.
#[tokio::test(flavor = "multi_thread")]
async fn h_a_replaced_target_between_a_send_and_its_lost_answer_is_never_acted_on_twice() {
    let (shop, proxy, eventpulse) = open("e2e-h-replace").await;
    let mut before = deployment(&shop);
    let metadata = before["metadata"].as_object_mut().unwrap();
    metadata.retain(|name, _| ["name", "namespace", "annotations", "labels"].contains(&name.as_str()));
    before.as_object_mut().unwrap().remove("status");
    let file = shop.environment.dir().join("before.json");
    std::fs::write(&file, before.to_string()).unwrap();
    let replace = || drop(kubectl(&shop, &["replace", "-f", &file.display().to_string()]));
    after_a_lost_answer(&shop, &proxy, &eventpulse, replace).await;
    assert_eq!(shop.replicas("svc-a"), 3, "as it was replaced");
    shop.environment.stop().await;
}

/// (h) `kubectl rollout undo`, which puts the annotations of the earlier revision back.
#[tokio::test(flavor = "multi_thread")]
async fn h_a_rolled_back_target_between_a_send_and_its_lost_answer_is_never_acted_on_twice() {
    let (shop, proxy, eventpulse) = open("e2e-h-undo").await;
    // A second revision, so that there is an earlier one.
    let change = json!({"spec": {"template": {"metadata": {"annotations": {"release": "2"}}}}});
    shop.patch("deployment/svc-a", &change.to_string()).unwrap();
    kubectl(&shop, &["rollout", "status", "-n", "shop", "deployment/svc-a", "--timeout=60s"]);
    let undo = || drop(kubectl(&shop, &["rollout", "undo", "-n", "shop", "deployment/svc-a"]));
    after_a_lost_answer(&shop, &proxy, &eventpulse, undo).await;
    assert!(
        deployment(&shop)["spec"]["template"]["metadata"]["annotations"]["release"].is_null(),
        "it was rolled back"
    );
    shop.environment.stop().await;
}

/// (h) The same doubt without a rewinder: what never reached the server is sent again, and what reached it is not.
#[tokio::test(flavor = "multi_thread")]
async fn h_after_a_lost_answer_the_target_itself_tells_whether_the_patch_took_effect() {
    let (shop, proxy, eventpulse) = open("e2e-h-lost").await;
    for (i, fault) in [Fault::Close, Fault::DropAnswer, Fault::ReplaceAnswer(504)].into_iter().enumerate() {
        let name = format!("t{i}");
        shop.add_deployment(&name).unwrap();
        let lost = proxy.limited_rule(&format!("{fault:?}"), When::patch_of_replicas(), fault, 0, 1);
        let body = webhook(&[Alert::cpu_high(&name, Timestamp::now())]);
        assert!(eventpulse.post("webhooks/alertmanager", &body).await.unwrap().is_success());
        shop.incidents_in(i + 1, &["Resolved"]).await;
        assert_eq!((lost.matched(), shop.replicas(&name)), (1, 2), "{}", lost.name());
    }
    assert_eq!(effects_by_action(shop.environment.plane()).len(), 3);
    shop.assert_no_action_twice();
    let patches =
        committed(shop.environment.plane(), "deployments").into_iter().filter(|write| write.effect_of().is_some());
    assert_eq!(patches.count(), 3);
    shop.environment.stop().await;
}
