//! (q) Installed by the commands of the README, as they stand there; the main job with the very arguments, token and account of the
//! installed workload; the calls that were made are what the role grants; upgraded, and removed in the order that is documented.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use eventpulse_e2e::{START, Shop, effects::committed, kubeconfig_of, root};
use eventpulse_env::{ControlPlane, ControlPlaneOptions, Environment, Tool, Tools, process::clean};
use eventpulse_testkit::{
    alerts::{Alert, webhook},
    client,
    eventpulse::{EventPulse, Launcher},
    sink::Sink,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::q_values::{first_container, helm_is_built};

const NAMESPACE: &str = "eventpulse-system";
const ACCOUNT: &str = "system:serviceaccount:eventpulse-system:eventpulse";
/// Retention sweeps once a minute, after a minute.
const SWEPT: Duration = Duration::from_secs(300);

/// What the role grants and is called in trouble only, or for what not everybody has, and when that is: this test need not call it forth. Any other grant that nobody
/// calls is one too many; a call that is granted nowhere fails.
const ONLY_IN_TROUBLE: [(&str, &str, &str, &str); 8] = [
    ("get", "eventpulse.io", "rules", "a watch is broken, or says no to an action that waits (actions/live.rs)"),
    ("get", "eventpulse.io", "runbooks", "the same"),
    ("get", "eventpulse.io", "incidents", "the same, and a write that met another one (runtime/store.rs)"),
    ("get", "eventpulse.io", "actions", "a write that met another one (runtime/store.rs)"),
    ("get", "eventpulse.io", "alertgroups", "the same"),
    ("get", "eventpulse.io", "notifications", "the same"),
    (
        "get",
        "eventpulse.io",
        "notificationchannels",
        "one that cannot be read as its kind (config_status/reconcile.rs)",
    ),
    (
        "get",
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        "a rule on a custom kind (runtime/kinds.rs); the main job has none",
    ),
];

/// The code blocks below a heading of a text.
fn blocks(file: &str, heading: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(file)).unwrap();
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("{file}: no {heading}"));
    let section = section.split("\n## ").next().unwrap();
    section.split("\n```").skip(1).step_by(2).map(|block| block.trim_start_matches("\n").to_owned()).collect()
}

/// Runs commands as a reader would, in the repository, with Helm and kubectl on the PATH. Those for the image have a test of their own.
fn shell(plane: &ControlPlane, tools: &Tools, commands: &str) -> Command {
    let dir = plane.kubeconfig().parent().unwrap().to_owned();
    let path = |tool| tools.dir(tool).unwrap().display().to_string();
    let path = format!("{}:{}:/usr/local/bin:/usr/bin:/bin", path(Tool::Helm), path(Tool::Kubernetes));
    let commands: Vec<&str> = commands.lines().filter(|line| !line.starts_with("make image")).collect();
    let mut command = Command::new("sh");
    clean(&mut command, &dir);
    command.args(["-euc", &commands.join("\n")]).current_dir(root()).stdin(Stdio::null());
    command.env("PATH", path).env("KUBECONFIG", plane.kubeconfig());
    command
}

fn run(plane: &ControlPlane, tools: &Tools, commands: &str) -> String {
    let output = shell(plane, tools, commands).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{commands}\n{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A disk for the claim of the workload, as a cluster's provisioner would make it.
fn add_disk(plane: &ControlPlane) {
    let disk = "apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: disk}\nspec: {capacity: {storage: 10Gi}, accessModes: \
                [ReadWriteOnce], persistentVolumeReclaimPolicy: Delete, hostPath: {path: /nowhere}}\n";
    plane.apply(disk).unwrap();
}

/// What the workload of the cluster runs, as a process beside it: pods run no containers here. Arguments, variables, account and token
/// are what the API server has of them; only places and ports are of this machine.
async fn start_what_is_installed(plane: &ControlPlane, dir: &Path) -> (EventPulse, String) {
    let token = plane
        .run_kubectl(&["get", "secret", "-n", NAMESPACE, "eventpulse-token", "-o", "jsonpath={.data.token}"])
        .unwrap();
    let token = String::from_utf8(BASE64_STANDARD.decode(token).unwrap()).unwrap();
    let token_file = dir.join("token");
    std::fs::write(&token_file, &token).unwrap();
    let container = first_container(plane, NAMESPACE, "statefulset/eventpulse");
    let kubeconfig = kubeconfig_of(plane, NAMESPACE, "eventpulse", dir).unwrap();
    let mut launcher = Launcher::new("eventpulse", dir, &kubeconfig);
    let args: Vec<&str> = container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    assert_eq!(args[0], "run");
    for arg in &args[1..] {
        let data_dir = dir.join("data").display().to_string();
        let place = arg.replace("/var/lib/eventpulse", &data_dir);
        let place = place.replace("/etc/eventpulse/token/token", &token_file.display().to_string());
        if !arg.starts_with("--listen=") && !arg.starts_with("--admin-listen=") {
            launcher = launcher.arg(place);
        }
    }
    for variable in container["env"].as_array().into_iter().flatten() {
        launcher = launcher.env(variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap());
    }
    let eventpulse = launcher.start(START).await.unwrap();
    for probe in ["livenessProbe", "readinessProbe"] {
        let path = container[probe]["httpGet"]["path"].as_str().unwrap();
        let reply = client::get(&eventpulse.admin_url(path)).await.unwrap();
        assert!(reply.is_success(), "{probe} {path}: {} {}", reply.status, reply.text());
    }
    (eventpulse, token)
}

async fn post(eventpulse: &EventPulse, token: &str, alert: Alert) {
    let bearer = format!("Bearer {token}");
    let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
    let body = webhook(&[alert]).to_string();
    let url = eventpulse.url("webhooks/alertmanager");
    let reply = client::request("POST", &url, &headers, body.clone()).await.unwrap();
    assert!(reply.is_success(), "{}", reply.text());
    let stranger = client::request("POST", &url, &headers[..1], body).await.unwrap();
    assert_eq!(stranger.status, 401);
}

/// Verb, group and resource of every request of EventPulse's account, done as itself.
fn called(plane: &ControlPlane) -> BTreeSet<(String, String, String)> {
    let log = std::fs::read_to_string(plane.audit_log()).unwrap();
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let own = events.filter(|event| event["user"]["username"] == ACCOUNT && event["impersonatedUser"].is_null());
    // Where the account may no longer be acted as, the log has the call without it, and nothing of its authorization.
    let own = own.filter(|event| {
        let message = event["responseStatus"]["message"].as_str().unwrap_or_default();
        let decided = event["annotations"]["authorization.k8s.io/decision"].is_string();
        decided && !message.contains("cannot impersonate")
    });
    own.filter_map(|event| {
        let object = &event["objectRef"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let subresource = object["subresource"].as_str().map(|name| format!("/{name}")).unwrap_or_default();
        let resource = text(&object["resource"]) + &subresource;
        object.is_object().then(|| (text(&event["verb"]), text(&object["apiGroup"]), resource))
    })
    .collect()
}

/// The same as the role grants it, with what the namespace of the example adds.
fn granted(plane: &ControlPlane) -> BTreeSet<(String, String, String)> {
    let mut all = BTreeSet::new();
    for role in [&["get", "clusterrole", "eventpulse"][..], &["get", "role", "-n", "shop", "eventpulse"]] {
        let role: Value = serde_json::from_str(&plane.run_kubectl(&[role, &["-o", "json"]].concat()).unwrap()).unwrap();
        let words = |value: &Value| -> Vec<String> {
            value.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
        };
        for rule in role["rules"].as_array().unwrap() {
            for verb in words(&rule["verbs"]).iter().filter(|verb| *verb != "impersonate") {
                for group in words(&rule["apiGroups"]) {
                    all.extend(words(&rule["resources"]).into_iter().map(|one| (verb.clone(), group.clone(), one)));
                }
            }
        }
    }
    all
}

/// Two hours ago: what ended then is old enough to be deleted, and what is held is let go.
fn long_ago() -> Value {
    (Timestamp::now() - SignedDuration::from_hours(2)).to_string().into()
}

/// An object like this one, of another name.
fn another(like: &Value, namespace: &str) -> Value {
    let name = format!("{}0000", &like["metadata"]["name"].as_str().unwrap()[4..]);
    let metadata = json!({"name": name, "namespace": namespace, "labels": like["metadata"]["labels"]});
    let mut object = json!({
        "apiVersion": like["apiVersion"], "kind": like["kind"], "metadata": metadata, "spec": like["spec"],
    });
    object["spec"]["deadline"] = long_ago();
    object
}

fn add_old_notification(plane: &ControlPlane, like: &Value) {
    let mut notification = another(like, "shop");
    notification["spec"]["finishedAt"] = long_ago();
    plane.apply(&notification.to_string()).unwrap();
}

fn add_old_action(plane: &ControlPlane, like: &Value, namespace: &str, finalizers: &[&str]) {
    let mut action = another(like, namespace);
    action["metadata"]["finalizers"] = finalizers.into();
    plane.apply(&action.to_string()).unwrap();
    let mut status = like["status"].clone();
    status["finishedAt"] = long_ago();
    let patch = json!({ "status": status }).to_string();
    let object = format!("action/{}", action["metadata"]["name"].as_str().unwrap());
    plane
        .run_kubectl(&["patch", "-n", namespace, &object, "--subresource=status", "--type=merge", "-p", &patch])
        .unwrap();
}

async fn until(what: &str, patience: Duration, mut check: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !check() {
        assert!(begin.elapsed() < patience, "{what}: not within {} s", patience.as_secs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn environment(name: &str) -> Environment {
    let options = ControlPlaneOptions { audit_bodies: true, audit_reads: true, ..ControlPlaneOptions::default() };
    let environment = Environment::builder(name).control_plane(options).start().await.unwrap();
    add_disk(environment.plane());
    environment
}

async fn furnish(environment: Environment) -> Shop {
    let sink = Sink::start().await.unwrap();
    Shop::apply_example_to(environment.plane(), &sink.url("/services/T000/B000/demo")).await.unwrap();
    let granted: PathBuf = root().join("examples/shop/eventpulse.yaml");
    environment.plane().run_kubectl(&["apply", "--server-side", "-f", &granted.display().to_string()]).unwrap();
    Shop { environment, sink }
}

async fn main_job(shop: &Shop, eventpulse: &EventPulse, token: &str, began: Timestamp) {
    post(eventpulse, token, Alert::cpu_high("svc-a", began)).await;
    shop.incidents_in(1, &["Resolved"]).await;
    assert_eq!(shop.replicas("svc-a"), 4);
    shop.messages(1).await;
    let patches =
        committed(shop.environment.plane(), "deployments").into_iter().filter(|one| one.effect_of().is_some());
    let users: Vec<String> = patches.map(|write| write.user).collect();
    assert_eq!(users, ["system:serviceaccount:shop:remediator"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn q_installed_by_helm_as_documented_it_does_the_main_job_with_just_the_rights_that_it_has_and_is_upgraded_and_removed()
 {
    let tools = helm_is_built().await;
    let environment = environment("e2e-q-helm").await;
    let installing = blocks("charts/eventpulse/README.md", "Installing it");
    assert_eq!(blocks("README.md", "Install")[1], installing[1], "README.md and the chart's README say the same");
    run(environment.plane(), &tools, &installing[1]);
    let shop = furnish(environment).await;
    let (plane, dir) = (shop.environment.plane(), shop.environment.dir());
    let (eventpulse, token) = start_what_is_installed(plane, dir).await;
    // What may still come again is remembered for as long.
    shop.patch("rule/cpu-high", r#"{"spec": {"acceptWindow": "1m", "cooldown": "1s"}}"#).unwrap();
    let began = Timestamp::now();
    main_job(&shop, &eventpulse, &token, began).await;
    let (action, notification) = (shop.get("actions").remove(0), shop.get("notifications").remove(0));

    // Upgraded to values by which what has ended is soon deleted.
    let upgrading = blocks("charts/eventpulse/README.md", "Upgrading it").remove(0);
    let ttls =
        ["topicRetention", "actionTTL", "incidentTTL", "groupTTL"].map(|name| format!(" --set config.{name}=1m"));
    run(
        plane,
        &tools,
        &(upgrading.trim_end().to_owned()
            + &ttls.concat()
            + " --set extraEnv[0].name=OTEL_SDK_DISABLED --set-string extraEnv[0].value=true"),
    );
    assert!(eventpulse.stop(START).await, "it ends well");
    let container = first_container(plane, NAMESPACE, "statefulset/eventpulse");
    assert!(container["env"].as_array().unwrap().iter().any(|one| one["name"] == "OTEL_SDK_DISABLED"), "{container:#}");
    assert!(container["image"].as_str().unwrap().starts_with("registry.example.com/eventpulse:"), "{container:#}");
    let (eventpulse, token) = start_what_is_installed(plane, dir).await;
    post(&eventpulse, &token, Alert::cpu_high("svc-a", began).resolved(Timestamp::now())).await;
    add_old_notification(plane, &notification);
    add_old_action(plane, &action, "shop", &[]);
    add_old_action(plane, &action, "default", &["eventpulse.io/claim"]);
    let deleted = |kind: &str| called(plane).contains(&("delete".into(), "eventpulse.io".into(), kind.into()));
    for kind in ["actions", "notifications", "incidents", "alertgroups"] {
        until(&format!("old {kind} deleted"), SWEPT, || deleted(kind)).await;
    }

    // A namespace that goes takes its claims with it.
    shop.add_deployment("svc-b").unwrap();
    post(&eventpulse, &token, Alert::cpu_high("svc-b", Timestamp::now())).await;
    shop.wait_for("another action", || (shop.get("actions").len() == 2).then_some(())).await;
    the_calls_are_those_that_are_granted(plane, &tools);
    removed_as_documented(plane, &tools, eventpulse, &action).await;
    shop.environment.stop().await;
}

fn the_calls_are_those_that_are_granted(plane: &ControlPlane, tools: &Tools) {
    let (granted, called_before) = (granted(plane), called(plane));
    run(plane, tools, "kubectl delete namespace shop --timeout=60s");
    let called: BTreeSet<_> = called_before.into_iter().chain(called(plane)).collect();
    let ungranted: Vec<_> = called.difference(&granted).collect();
    assert!(ungranted.is_empty(), "called and not granted: {ungranted:?}");
    let rare: BTreeSet<_> = ONLY_IN_TROUBLE
        .iter()
        .map(|(verb, group, resource, _)| (verb.to_string(), group.to_string(), resource.to_string()))
        .collect();
    let unused: Vec<_> = granted.difference(&called).filter(|one| !rare.contains(*one)).collect();
    assert!(unused.is_empty(), "granted and not called: {unused:?}; see ONLY_IN_TROUBLE");
    assert!(rare.is_subset(&granted), "ONLY_IN_TROUBLE has what the role does not grant");
}

/// And by the remedy for whoever did it in another order.
async fn removed_as_documented(plane: &ControlPlane, tools: &Tools, eventpulse: EventPulse, action: &Value) {
    let removing = blocks("charts/eventpulse/README.md", "Removing it");
    let (with_eventpulse, after) = removing[0].split_once("helm uninstall eventpulse ").unwrap();
    run(plane, tools, with_eventpulse);
    assert!(eventpulse.stop(START).await);
    let (uninstall, definitions) = after.split_once("kubectl delete crd").unwrap();
    run(plane, tools, &format!("helm uninstall eventpulse {uninstall}"));
    assert!(
        plane.run_kubectl(&["get", "crd", "actions.eventpulse.io", "-o", "name"]).is_ok(),
        "the definitions are kept"
    );
    add_old_action(plane, action, "default", &["eventpulse.io/claim"]);
    let mut going =
        shell(plane, tools, &format!("kubectl delete crd{definitions}")).stdout(Stdio::null()).spawn().unwrap();
    until("the definition of Actions is held", Duration::from_secs(60), || {
        let args = ["get", "crd", "actions.eventpulse.io", "-o", "jsonpath={.metadata.deletionTimestamp}"];
        plane.run_kubectl(&args).is_ok_and(|text| !text.is_empty())
    })
    .await;
    assert!(going.try_wait().unwrap().is_none(), "a claim that nobody takes off holds it");
    run(plane, tools, &removing[1]);
    until("everything is gone", Duration::from_secs(120), || going.try_wait().unwrap().is_some()).await;
    let left = plane
        .run_kubectl(&["get", "crd,clusterrole,clusterrolebinding,validatingadmissionpolicy", "-o", "name"])
        .unwrap();
    let ours: Vec<&str> = left.lines().filter(|name| name.contains("eventpulse")).collect();
    assert!(ours.is_empty(), "{ours:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn q_installed_by_kubectl_as_documented_it_does_the_main_job() {
    let tools = helm_is_built().await;
    let environment = environment("e2e-q-kubectl").await;
    run(environment.plane(), &tools, &blocks("README.md", "Install")[2]);
    let shop = furnish(environment).await;
    let (eventpulse, token) = start_what_is_installed(shop.environment.plane(), shop.environment.dir()).await;
    main_job(&shop, &eventpulse, &token, Timestamp::now()).await;
    assert!(eventpulse.stop(START).await);
    shop.environment.stop().await;
}
