//! (n) Other targets than Deployments, and those in whose replicas somebody else has a say, by an account with just the rights that
//! `examples/kinds` grants.

use eventpulse_e2e::{START, Shop, effects::committed, root};
use eventpulse_testkit::{
    alerts::{Alert, webhook},
    client,
};
use jiff::Timestamp;
use serde_json::{Value, json};

fn apply(shop: &Shop, path: &str) {
    let path = root().join(path).display().to_string();
    shop.environment.plane().run_kubectl(&["apply", "--server-side", "-f", &path]).unwrap();
}

fn named(name: &str, began: Timestamp) -> Alert {
    Alert::firing(name, began).label("severity", "warning").annotation("summary", "It is slow.")
}

async fn send(url: &str, alert: Alert) {
    let reply = client::post(url, &webhook(&[alert])).await.unwrap();
    assert!(reply.is_success(), "{}", reply.text());
}

fn object(shop: &Shop, kind: &str, name: &str) -> Value {
    shop.get(kind).into_iter().find(|object| object["metadata"]["name"] == name).unwrap_or_default()
}

/// The one Action of a rule's step, once it has ended.
async fn ended(shop: &Shop, rule: &str, step: &str) -> Value {
    shop.wait_for(&format!("the end of {step} of {rule}"), || {
        shop.get("actions").into_iter().find(|action| {
            action["spec"]["ruleRef"]["name"] == rule
                && action["spec"]["step"] == step
                && matches!(action["status"]["phase"].as_str(), Some("Completed" | "Failed" | "Skipped"))
        })
    })
    .await
}

fn what(action: &Value) -> &str {
    action["status"]["what"].as_str().unwrap_or_else(|| panic!("{action:#}"))
}

fn is_signed(object: &Value, action: &Value) -> bool {
    let ring = object["metadata"]["annotations"]["eventpulse.io/applied-actions"].as_str().unwrap_or_default();
    ring.contains(action["metadata"]["name"].as_str().unwrap())
}

async fn shop_of_kinds(name: &str) -> Shop {
    let shop = Shop::open(name, false).await.unwrap();
    apply(&shop, "examples/kinds/00-targets.yaml");
    let plane = shop.environment.plane();
    plane.run_kubectl(&["wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=30s"]).unwrap();
    for file in ["01-widget", "operator", "runbooks", "rules"] {
        apply(&shop, &format!("examples/kinds/{file}.yaml"));
    }
    shop
}

#[tokio::test(flavor = "multi_thread")]
async fn n_every_kind_is_acted_on_once_and_what_was_scaled_is_put_back() {
    let shop = shop_of_kinds("e2e-n1").await;
    let eventpulse = shop.launcher("eventpulse").start(START).await.unwrap();
    let url = eventpulse.url("webhooks/alertmanager");
    let began = Timestamp::now();
    for name in ["QueueLong", "NodeAgentStuck", "RenderSlow", "FrontBusy"] {
        send(&url, named(name, began)).await;
    }

    let scaled = ended(&shop, "queue-long", "add-replica").await;
    assert_eq!(what(&scaled), "StatefulSet/queue 2 → 3");
    assert!(is_signed(&object(&shop, "statefulsets", "queue"), &scaled));

    let restarted = ended(&shop, "node-agent-stuck", "restart").await;
    assert_eq!(what(&restarted), "DaemonSet/agent restarted");
    let agent = object(&shop, "daemonsets", "agent");
    let by = &agent["spec"]["template"]["metadata"]["annotations"]["eventpulse.io/restarted-by"];
    assert_eq!(by, &restarted["metadata"]["name"]);
    assert!(is_signed(&agent, &restarted));

    let widget = ended(&shop, "render-slow", "one-more").await;
    assert_eq!(what(&widget), "Widget/render 1 → 2");
    let render = object(&shop, "widgets", "render");
    assert_eq!(render["spec"]["size"]["wanted"], 2);
    assert!(is_signed(&render, &widget));

    let raised = ended(&shop, "front-busy", "one-more").await;
    assert!(
        what(&raised).starts_with("Deployment/front by its HorizontalPodAutoscaler/front: minReplicas 2 → "),
        "{raised:#}"
    );
    let (front, autoscaler) = (object(&shop, "deployments", "front"), object(&shop, "hpa", "front"));
    assert_eq!(autoscaler["spec"]["minReplicas"], raised["status"]["plans"][0]["to"]);
    assert!(is_signed(&autoscaler, &raised) && !is_signed(&front, &raised), "the record is where the effect is");

    // The alert is over, and so is what was done for it.
    assert_eq!(object(&shop, "statefulsets", "queue")["spec"]["replicas"], 3);
    send(&url, named("QueueLong", began).resolved(Timestamp::now())).await;
    let back = ended(&shop, "queue-long", "take-it-away").await;
    assert_eq!(what(&back), "StatefulSet/queue 3 → 2, back to what it was");
    assert_eq!(object(&shop, "statefulsets", "queue")["spec"]["replicas"], 2);

    for resource in ["statefulsets", "daemonsets", "widgets", "horizontalpodautoscalers"] {
        let patches: Vec<_> = committed(shop.environment.plane(), resource)
            .into_iter()
            .filter(|write| write.user == "system:serviceaccount:shop:operator")
            .collect();
        assert_eq!(patches.len(), if resource == "statefulsets" { 2 } else { 1 }, "{resource}: {patches:?}");
    }
    shop.assert_no_action_twice();
    assert!(committed(shop.environment.plane(), "statefulsets/scale").is_empty());
    shop.environment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n_what_somebody_changed_meanwhile_is_not_put_back() {
    let shop = shop_of_kinds("e2e-n2").await;
    let eventpulse = shop.launcher("eventpulse").start(START).await.unwrap();
    let url = eventpulse.url("webhooks/alertmanager");
    let began = Timestamp::now();
    send(&url, named("QueueLong", began)).await;
    ended(&shop, "queue-long", "add-replica").await;
    shop.patch("statefulset/queue", r#"{"spec": {"replicas": 7}}"#).unwrap();
    send(&url, named("QueueLong", began).resolved(Timestamp::now())).await;
    let back = ended(&shop, "queue-long", "take-it-away").await;
    assert_eq!(
        (&back["status"]["phase"], &back["status"]["reason"]),
        (&json!("Skipped"), &json!("TargetChanged")),
        "{back:#}"
    );
    assert_eq!(object(&shop, "statefulsets", "queue")["spec"]["replicas"], 7);
    shop.environment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n_a_target_of_argo_cd_is_refused_until_the_runbook_says_that_it_leaves_the_replicas_alone() {
    let shop = Shop::open("e2e-n3", false).await.unwrap();
    let tracked = |name: &str| {
        let id = format!("shop:apps/Deployment:shop/{name}");
        let marks = json!({"metadata": {"annotations": {"argocd.argoproj.io/tracking-id": id}}});
        shop.patch(&format!("deployment/{name}"), &marks.to_string()).unwrap();
    };
    shop.add_deployment("svc-b").unwrap();
    tracked("svc-a");
    tracked("svc-b");
    let eventpulse = shop.launcher("eventpulse").start(START).await.unwrap();
    let url = eventpulse.url("webhooks/alertmanager");
    send(&url, Alert::cpu_high("svc-a", Timestamp::now())).await;
    let refused = ended(&shop, "cpu-high", "add-replica").await;
    assert_eq!(refused["status"]["reason"], "TargetGoverned", "{refused:#}");
    let message = refused["status"]["message"].as_str().unwrap();
    assert!(message.contains("Argo CD") && message.contains("gitOps: Allow"), "{message}");
    // A restart is nothing to Argo CD, and the ladder's next step resolves.
    shop.incidents_in(1, &["Resolved"]).await;
    assert_eq!(shop.replicas("svc-a"), 3);

    shop.patch("runbook/scale-up", r#"{"spec": {"gitOps": "Allow"}}"#).unwrap();
    send(&url, Alert::cpu_high("svc-b", Timestamp::now())).await;
    shop.wait_for("svc-b scaled", || (shop.replicas("svc-b") == 2).then_some(())).await;
    shop.assert_no_action_twice();
    shop.environment.stop().await;
}

/// As a quota or somebody's webhook would, but at once: no Action may be created.
const NO_ACTIONS: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-actions}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{apiGroups: [eventpulse.io], apiVersions: ["*"], operations: [CREATE], resources: [actions]}]
  validations: [{expression: "false", message: no actions here}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-actions}
spec: {policyName: no-actions, validationActions: [Deny]}
"#;
const ANY_ACTION: &str = r#"{"apiVersion": "eventpulse.io/v1alpha1", "kind": "Action", "metadata": {"name": "any", "namespace": "shop"},
    "spec": {"incidentRef": {"name": "any"}, "ruleRef": {"name": "any"}, "step": "any", "attempt": 1, "request": "{}",
        "target": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "any"},
        "decidedAt": "2026-01-01T00:00:00Z", "deadline": "2026-01-01T00:00:00Z"}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn n_an_action_that_may_not_be_created_has_failed_and_the_incident_says_it() {
    let shop = Shop::open("e2e-n4", false).await.unwrap();
    let plane = shop.environment.plane();
    let file = shop.environment.dir().join("any-action.json");
    std::fs::write(&file, ANY_ACTION).unwrap();
    let file = file.display().to_string();
    let create = ["create", "--dry-run=server", "-f", &file];
    plane.run_kubectl(&create).expect("before the policy it may be created");
    plane.apply(NO_ACTIONS).unwrap();
    shop.wait_for("the policy is in force", || {
        let refused =
            plane.run_kubectl(&create).err().is_some_and(|error| error.to_string().contains("no actions here"));
        refused.then_some(())
    })
    .await;
    let eventpulse = shop.launcher("eventpulse").start(START).await.unwrap();
    send(&eventpulse.url("webhooks/alertmanager"), Alert::cpu_high("svc-a", Timestamp::now())).await;
    let incident = shop.incidents_in(1, &["Failed"]).await.remove(0);
    let actions = incident["status"]["actions"].as_array().unwrap();
    assert_eq!(actions.len(), 2, "the ladder went on: {incident:#}");
    assert!(actions.iter().all(|action| action["reason"] == "refused"), "{incident:#}");
    assert!(shop.get("actions").is_empty());
    assert_eq!(shop.replicas("svc-a"), 3);
    shop.environment.stop().await;
}
