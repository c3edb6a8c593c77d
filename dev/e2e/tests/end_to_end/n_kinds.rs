//! (n) Other targets than Deployments, and those in whose replicas somebody else has a say, by an account with just the rights that
//! `examples/kinds` grants.

use eventpulse_e2e::{
    START, Shop,
    effects::{committed, effects_by_action},
    root,
};
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

/// What the example has no rule for: a StatefulSet that is restarted.
const QUEUE_STUCK: &str = r#"
apiVersion: eventpulse.io/v1alpha1
kind: Rule
metadata: {name: queue-stuck, namespace: shop}
spec:
  match: {matchers: ['alertname="QueueStuck"']}
  actions:
  - name: restart
    runbookRef: {name: roll}
    targetRef: {apiVersion: apps/v1, kind: StatefulSet, name: queue}
"#;

/// Raises the alert for which the queue is restarted: its pods are made anew, and its incident is over.
async fn the_queue_rolls(shop: &Shop, url: &str) {
    let before = object(shop, "statefulsets", "queue")["status"]["currentRevision"].clone();
    assert!(before.is_string(), "{before}");
    send(url, named("QueueStuck", Timestamp::now())).await;
    let restarted = ended(shop, "queue-stuck", "restart").await;
    assert_eq!(what(&restarted), "StatefulSet/queue restarted");
    let rolled_out = ["rollout", "status", "-n", "shop", "statefulset/queue", "--timeout=60s"];
    shop.environment.plane().run_kubectl(&rolled_out).unwrap();

    let (name, queue) = (&restarted["metadata"]["name"], object(shop, "statefulsets", "queue"));
    assert!(is_signed(&queue, &restarted), "{queue:#}");
    assert_ne!(queue["status"]["currentRevision"], before, "{queue:#}");
    let restarted_by = |object: &Value| object["metadata"]["annotations"]["eventpulse.io/restarted-by"].clone();
    assert_eq!(&restarted_by(&queue["spec"]["template"]), name);
    let mut pods = shop.get("pods");
    pods.retain(|pod| pod["metadata"]["labels"]["app"] == "queue");
    assert_eq!(pods.iter().map(restarted_by).collect::<Vec<_>>(), vec![name.clone(); 2]);
    shop.wait_for("the end of the incident of queue-stuck", || {
        let mut incidents = shop.get("incidents").into_iter();
        incidents.find(|incident| {
            incident["spec"]["ruleRef"]["name"] == "queue-stuck" && incident["status"]["phase"] == "Resolved"
        })
    })
    .await;
    assert_eq!(effects_by_action(shop.environment.plane())[name.as_str().unwrap()], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn n_every_kind_is_acted_on_once_and_what_was_scaled_is_put_back() {
    let shop = shop_of_kinds("e2e-n1").await;
    shop.environment.plane().apply(QUEUE_STUCK).unwrap();
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

    the_queue_rolls(&shop, &url).await;

    for resource in ["statefulsets", "daemonsets", "widgets", "horizontalpodautoscalers"] {
        let patches: Vec<_> = committed(shop.environment.plane(), resource)
            .into_iter()
            .filter(|write| write.user == "system:serviceaccount:shop:operator")
            .collect();
        assert_eq!(patches.len(), if resource == "statefulsets" { 3 } else { 1 }, "{resource}: {patches:?}");
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

/// Keeps its target as it is: one replica, and nothing is measured.
const AUTOSCALER: &str = r#"
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: svc-d, namespace: shop}
spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: svc-d}, minReplicas: 1, maxReplicas: 6}
"#;
const FLUX: &str = r#"{"metadata": {"labels": {"kustomize.toolkit.fluxcd.io/name": "apps"}}}"#;

/// The first step was refused with a reason that says who governs the target and what allows the step, and has left nothing anywhere;
/// the second one was done, and resolved the incident, which shows both.
fn refused_and_restarted(shop: &Shop, incidents: &[Value], name: &str, says: [&str; 2]) {
    let actions = shop.get("actions");
    let step = |step: &str| {
        let is_it = |action: &&Value| action["spec"]["target"]["name"] == name && action["spec"]["step"] == step;
        actions.iter().find(is_it).unwrap_or_else(|| panic!("no {step} of {name} in {actions:#?}"))
    };
    let (refused, restarted) = (step("add-replica"), step("restart"));
    let status = &refused["status"];
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("TargetGoverned")), "{refused:#}");
    let message = status["message"].as_str().unwrap();
    assert!(says.iter().all(|part| message.contains(part)), "{message}");
    let effects = effects_by_action(shop.environment.plane());
    let count = |action: &Value| effects.get(action["metadata"]["name"].as_str().unwrap()).copied();
    assert_eq!((count(refused), count(restarted)), (None, Some(1)), "{name}: {effects:?}");
    let deployment = object(shop, "deployments", name);
    assert!(!is_signed(&deployment, refused) && is_signed(&deployment, restarted), "{deployment:#}");

    let is_of = |incident: &&Value| {
        incident["status"]["actions"][0]["actionRef"] == json!({"name": refused["metadata"]["name"]})
    };
    let incident = incidents.iter().find(is_of).unwrap_or_else(|| panic!("no incident of {name}: {incidents:#?}"));
    let ladder = incident["status"]["actions"].as_array().unwrap();
    let ends: Vec<_> = ladder.iter().map(|action| (&action["state"], &action["reason"])).collect();
    let (failed, completed) = (json!("Failed"), json!("Completed"));
    assert_eq!(ends, [(&failed, &json!("targetGoverned")), (&completed, &Value::Null)], "{incident:#}");
    let history = incident["status"]["history"].as_array().unwrap();
    let is_told =
        |entry: &Value| entry["event"] == "action.failed" && entry["what"].as_str().unwrap().contains(says[0]);
    assert!(history.iter().any(is_told), "{incident:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn n_what_somebody_else_governs_is_refused_and_what_git_keeps_until_the_runbook_allows_it() {
    let shop = Shop::open("e2e-n3", false).await.unwrap();
    let tracked = |name: &str| {
        let id = format!("shop:apps/Deployment:shop/{name}");
        let marks = json!({"metadata": {"annotations": {"argocd.argoproj.io/tracking-id": id}}});
        shop.patch(&format!("deployment/{name}"), &marks.to_string()).unwrap();
    };
    ["svc-b", "svc-c", "svc-d"].into_iter().for_each(|name| shop.add_deployment(name).unwrap());
    tracked("svc-a");
    tracked("svc-b");
    shop.patch("deployment/svc-c", FLUX).unwrap();
    shop.environment.plane().apply(AUTOSCALER).unwrap();
    let eventpulse = shop.launcher("eventpulse").start(START).await.unwrap();
    let url = eventpulse.url("webhooks/alertmanager");
    for name in ["svc-a", "svc-c", "svc-d"] {
        send(&url, Alert::cpu_high(name, Timestamp::now())).await;
    }
    // A restart is nothing to any of them, and the ladder's next step resolves.
    let incidents = shop.incidents_in(3, &["Resolved"]).await;
    refused_and_restarted(&shop, &incidents, "svc-a", ["Argo CD", "gitOps: Allow"]);
    refused_and_restarted(&shop, &incidents, "svc-c", ["Flux", "gitOps: Allow"]);
    let autoscaler = ["HorizontalPodAutoscaler svc-d", "underAutoscaler: MinReplicas"];
    refused_and_restarted(&shop, &incidents, "svc-d", autoscaler);
    assert_eq!(["svc-a", "svc-c", "svc-d"].map(|name| shop.replicas(name)), [3, 1, 1]);
    assert_eq!(object(&shop, "hpa", "svc-d")["spec"]["minReplicas"], 1);

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
