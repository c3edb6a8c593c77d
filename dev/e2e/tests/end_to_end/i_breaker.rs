//! (i) The circuit breaker: it opens, actions show that they wait, it lets one call through, it closes.

use std::time::Duration;

use eventpulse_e2e::{START, Shop};
use eventpulse_testkit::{
    alerts::{Alert, webhook},
    proxy::{Fault, When},
};
use jiff::Timestamp;
use serde_json::Value;

const THRESHOLD: usize = 3;
const OPEN: Duration = Duration::from_secs(5);

fn waits(action: &Value) -> bool {
    let waits_for = action["status"]["waitingFor"].as_str().unwrap_or_default();
    waits_for.contains("the circuit breaker of runbook shop/scale-up for Deployment, which is open")
}

#[tokio::test(flavor = "multi_thread")]
async fn i_the_breaker_opens_actions_show_that_they_wait_and_one_call_closes_it() {
    let (shop, proxy, launcher) = Shop::open_behind_a_proxy("e2e-i").await.unwrap();
    let spec = format!(
        r#"{{"spec": {{"retry": {{"limit": 10, "backoff": {{"initial": "100ms", "max": "200ms"}}}},
            "circuitBreaker": {{"failureThreshold": {THRESHOLD}, "openDuration": "{}s"}}}}}}"#,
        OPEN.as_secs()
    );
    shop.patch("runbook/scale-up", &spec).unwrap();
    for i in 0..5 {
        shop.add_deployment(&format!("t{i}")).unwrap();
    }
    let refused = proxy.rule("no scaling", When::patch_of_replicas(), Fault::Answer(503));
    let eventpulse = launcher.start(START).await.unwrap();
    let starts_at = Timestamp::now();
    let post = async |name: &str| {
        let body = webhook(&[Alert::cpu_high(name, starts_at)]);
        assert!(eventpulse.post("webhooks/alertmanager", &body).await.unwrap().is_success());
    };
    // Closed: one action's tries in a row open it.
    post("t0").await;
    refused.wait_for(THRESHOLD, START).await.unwrap();
    for i in 1..5 {
        post(&format!("t{i}")).await;
    }
    let waiting = shop
        .wait_for("five actions that show that they wait", || {
            let actions = shop.get("actions");
            (actions.len() == 5 && actions.iter().all(waits)).then_some(actions)
        })
        .await;
    println!("{}", shop.environment.plane().run_kubectl(&["get", "actions", "-n", "shop"]).unwrap());
    let phases = waiting.iter().filter(|action| action["status"]["phase"] == "Waiting").count();
    assert!(phases >= 4, "what was never sent is Waiting: {phases} of 4");
    assert!(shop.incidents_in(5, &["Mitigating"]).await.len() == 5);

    // Half-open: of five that wait, one call goes through; it fails, and all wait again.
    refused.wait_for(THRESHOLD + 1, START).await.unwrap();
    tokio::time::sleep(OPEN / 2).await;
    assert_eq!(refused.matched(), THRESHOLD + 1, "one call, and no other until it is half-open again");
    assert!(shop.get("actions").iter().all(waits));

    // The API server answers again: one call closes the breaker, and all go on.
    proxy.clear();
    shop.incidents_in(5, &["Resolved"]).await;
    for i in 0..5 {
        assert_eq!(shop.replicas(&format!("t{i}")), 2, "t{i}");
    }
    shop.assert_no_action_twice();
    let scalings = proxy.writes().into_iter().filter(|write| write.call.patches("/spec/replicas"));
    let (failed, answered): (Vec<_>, Vec<_>) = scalings.partition(|write| write.rule.is_some());
    assert_eq!(failed.len(), THRESHOLD + 1, "one that failed in half-open, and no other was sent while it was open");
    let closed = answered[0].answered_at.unwrap();
    assert!(
        answered.len() >= 5 && answered[1..].iter().all(|write| write.at >= closed),
        "one alone closed it: {answered:?}"
    );
    shop.environment.stop().await;
}
