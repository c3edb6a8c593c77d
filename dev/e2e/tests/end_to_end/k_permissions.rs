//! (k) EventPulse with no other rights than `config/rbac`, and those that a namespace grants it.

use eventpulse_e2e::{START, Shop, effects::committed, kubeconfig_of, root};
use eventpulse_env::ControlPlane;
use eventpulse_testkit::{
    alerts::{Alert, webhook},
    client,
    eventpulse::Launcher,
};
use jiff::Timestamp;

const ACCOUNT: &str = "system:serviceaccount:eventpulse-system:eventpulse";

fn apply(plane: &ControlPlane, path: &str) {
    plane.run_kubectl(&["apply", "--server-side", "-f", &root().join(path).display().to_string()]).unwrap();
}

async fn alert(url: &str, service: &str) {
    let reply = client::post(url, &webhook(&[Alert::cpu_high(service, Timestamp::now())])).await.unwrap();
    assert!(reply.is_success(), "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn k_with_its_own_account_it_does_the_main_job_where_a_namespace_lets_it_and_nothing_elsewhere() {
    let shop = Shop::open("e2e-k", false).await.unwrap();
    let plane = shop.environment.plane();
    apply(plane, "config/policy");
    apply(plane, "config/rbac");
    shop.add_deployment("svc-b").unwrap();
    let kubeconfig = kubeconfig_of(plane, "eventpulse-system", "eventpulse", shop.environment.dir()).unwrap();
    let eventpulse = Launcher::new("eventpulse", shop.environment.dir(), &kubeconfig).start(START).await.unwrap();
    let url = eventpulse.url("webhooks/alertmanager");

    // The namespace has granted nothing: no step can be done, the channel's Secret cannot be read, and both say why.
    alert(&url, "svc-b").await;
    let failed = shop.incidents_in(1, &["Failed"]).await;
    let actions = shop.get("actions");
    assert_eq!(actions.len(), 2, "both steps of the ladder were tried");
    for action in &actions {
        assert_eq!(action["status"]["reason"], "Forbidden", "{action:#}");
        assert!(action["status"]["message"].as_str().unwrap().contains("cannot impersonate"), "{action:#}");
    }
    assert_eq!(shop.replicas("svc-b"), 1);
    assert!(shop.sink.received().is_empty());
    let ready = |kind: &str| shop.get(kind)[0]["status"]["conditions"][0].clone();
    let channel = ready("notificationchannels");
    assert_eq!((channel["status"].as_str(), channel["type"].as_str()), (Some("False"), Some("Ready")), "{channel:#}");

    // With what the example grants, the main job is done, as the runbook's account.
    apply(plane, "examples/shop/eventpulse.yaml");
    alert(&url, "svc-a").await;
    shop.wait_for("the incident of svc-a resolved", || {
        let incidents = shop.get("incidents");
        let resolved = incidents.iter().filter(|incident| incident["status"]["phase"] == "Resolved").count();
        (incidents.len() == failed.len() + 1 && resolved == 1).then_some(())
    })
    .await;
    assert_eq!(shop.replicas("svc-a"), 4);
    shop.messages(1).await;
    shop.wait_for("the channel is ready", || (ready("notificationchannels")["status"] == "True").then_some(())).await;
    let patches = committed(plane, "deployments").into_iter().filter(|write| write.effect_of().is_some());
    let users: Vec<String> = patches.map(|write| write.user).collect();
    assert_eq!(users, ["system:serviceaccount:shop:remediator"]);
    shop.wait_for("Events by its own account", || {
        let events = committed(plane, "events").into_iter().filter(|write| write.user == ACCOUNT);
        (events.filter(|write| write.request["reason"] == "ActionCompleted").count() == 1).then_some(())
    })
    .await;
    let own = committed(plane, "incidents").into_iter().filter(|write| write.user == ACCOUNT).count();
    assert!(own >= 2, "its incidents are written by its own account");
    shop.environment.stop().await;
}
