//! (q) Installed by the commands of the README, as they stand there; the main job with the very arguments, token and account of the
//! installed workload; the calls that were made are what the role grants; upgraded, and removed in the order that is documented.
//!
//! What differs from what a reader does: their webhook is a sink of the test, the two builds are done before, and places and ports are of
//! this machine.

use std::{
    collections::BTreeSet,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use eventpulse_e2e::{START, Shop, effects::committed, kubeconfig_of, root};
use eventpulse_env::{
    ControlPlane, ControlPlaneOptions, Environment, Process, Spec, Tool, Tools, free_port, process::clean,
};
use eventpulse_testkit::{
    alerts::{Alert, webhook},
    client,
    eventpulse::{EventPulse, Launcher, find_binary},
    gauge::Gauge,
    sink::Sink,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::q_values::{config_map_volume, first_container, helm_is_built};

const NAMESPACE: &str = "eventpulse-system";
/// Where senders of alerts find it.
const ADDRESS: &str = "eventpulse.eventpulse-system:8080";
const WEBHOOK: &str = "webhooks/alertmanager";
const ACCOUNT: &str = "system:serviceaccount:eventpulse-system:eventpulse";
/// Retention sweeps once a minute, after a minute.
const SWEPT: Duration = Duration::from_secs(300);

/// Grants that this test need not see used, each with the case in which EventPulse uses it. Every other grant has to be used, and every
/// call has to be granted.
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
    let fenced = section.split("\n```").skip(1).step_by(2);
    // What stands before the first line's end is the language.
    fenced.map(|block| block.split_once('\n').unwrap().1.to_owned()).collect()
}

/// All code blocks of the README's section on installing, so that none is left out.
struct Readme {
    image: String,
    helm: String,
    kubectl: String,
    example: String,
    outside: String,
    alertmanager: String,
    prometheus: String,
}

fn readme() -> Readme {
    let all: [String; 7] = blocks("README.md", "Install").try_into().unwrap();
    let [image, helm, kubectl, example, outside, alertmanager, prometheus] = all;
    Readme { image, helm, kubectl, example, outside, alertmanager, prometheus }
}

/// A text in which something stands that cannot be had here, with what can be had in its place.
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "there is no {from} in\n{text}");
    text.replace(from, to)
}

/// Not done again: `make end-to-end` has built the program, and the image has a test of its own.
const MADE: [&str; 2] = ["make image", "cargo build --release"];

/// Whoever follows the README: in a directory that looks like the repository, with Helm and kubectl on the PATH.
struct Reader {
    place: PathBuf,
    path: String,
    kubeconfig: PathBuf,
}

impl Reader {
    /// `webhook` is their own, for the channel of the example.
    fn new(environment: &Environment, tools: &Tools, webhook: &str) -> Self {
        let place = environment.dir().join("reader");
        for directory in ["config/manager", "config/policy", "examples/shop"] {
            std::fs::create_dir_all(place.join(directory)).unwrap();
            for file in std::fs::read_dir(root().join(directory)).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), place.join(directory).join(file.file_name())).unwrap();
            }
        }
        // The two files that a reader is asked to change.
        for (file, from, to) in [
            ("examples/shop/secret.yaml", "https://hooks.slack.com/services/REPLACE/WITH/YOURS", webhook),
            ("config/manager/kustomization.yaml", "newName: eventpulse", "newName: registry.example.com/eventpulse"),
        ] {
            let text = std::fs::read_to_string(place.join(file)).unwrap();
            std::fs::write(place.join(file), replaced(&text, from, to)).unwrap();
        }
        std::fs::create_dir_all(place.join("target/release")).unwrap();
        symlink(root().join("charts").canonicalize().unwrap(), place.join("charts")).unwrap();
        symlink(find_binary().unwrap(), place.join("target/release/eventpulse")).unwrap();
        let path = |tool| tools.dir(tool).unwrap().display().to_string();
        let path = format!("{}:{}:/usr/local/bin:/usr/bin:/bin", path(Tool::Helm), path(Tool::Kubernetes));
        Self { place, path, kubeconfig: environment.plane().kubeconfig() }
    }

    /// Commands of a block, not run yet.
    fn shell(&self, commands: &str) -> Command {
        let commands: Vec<&str> =
            commands.lines().filter(|line| !MADE.iter().any(|made| line.starts_with(made))).collect();
        let mut command = Command::new("sh");
        clean(&mut command, &self.place);
        command.args(["-euc", &commands.join("\n")]).current_dir(&self.place).stdin(Stdio::null());
        command.env("PATH", &self.path).env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// Runs them to their end, and gives what they print.
    fn run(&self, commands: &str) -> String {
        let output = self.shell(commands).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{commands}\n{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Starts a command that goes on until it is stopped, and which cannot have its usual ports here. Gives where it listens, too.
    async fn start(&self, line: &str) -> (Process, String) {
        let (listen, admin) = (free_port(), free_port());
        let started = Spec::new("started-by-hand", "sh", &self.place)
            .args(["-euc", &format!("exec {line}")])
            .env("PATH", &self.path)
            .env("KUBECONFIG", self.kubeconfig.display().to_string())
            .env("EVENTPULSE_LISTEN", format!("127.0.0.1:{listen}"))
            .env("EVENTPULSE_ADMIN_LISTEN", format!("127.0.0.1:{admin}"));
        let process = Process::spawn(started).unwrap();
        let ready = format!("http://127.0.0.1:{admin}/readyz");
        let is_ready = async || client::get(&ready).await.is_ok_and(|reply| reply.is_success());
        process.wait_for("/readyz answering 200", START, is_ready).await.unwrap();
        (process, format!("127.0.0.1:{listen}"))
    }
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
        let place = place.replace("/etc/eventpulse/log", &dir.display().to_string());
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

/// Brings the volume of the log's filter up to date, as the kubelet does: there are no files while the ConfigMap is not there.
fn mount_log_filter(plane: &ControlPlane, dir: &Path) {
    let source = config_map_volume(plane, NAMESPACE, "statefulset/eventpulse", "log-filter");
    let name = source["name"].as_str().unwrap();
    let text = plane.run_kubectl(&["get", "configmap", "-n", NAMESPACE, name, "-o", "json", "--ignore-not-found"]);
    let found: Value = serde_json::from_str(&text.unwrap()).unwrap_or_default();
    for item in source["items"].as_array().unwrap() {
        let file = dir.join(item["path"].as_str().unwrap());
        match found["data"][item["key"].as_str().unwrap()].as_str() {
            Some(text) => {
                // Never half a file: the kubelet swaps whole directories.
                let whole = dir.join("filter.new");
                std::fs::write(&whole, text).unwrap();
                std::fs::rename(whole, file).unwrap();
            }
            None => drop(std::fs::remove_file(file)),
        }
    }
}

/// Three ways to change what the log says, one after the other, while one process runs.
async fn the_log_is_changed_as_documented(reader: &Reader, shop: &Shop, eventpulse: &EventPulse) {
    let (plane, dir) = (shop.environment.plane(), shop.environment.dir());
    let [change, restore, kustomization] = blocks("docs/telemetry.md", "Logs").try_into().unwrap();
    let said = |text: &str| eventpulse.process().log().matches(text).count();
    assert_eq!((said("The log's filter file is not there yet."), said("The log's filter was read.")), (1, 0));
    reader.run(&change);
    mount_log_filter(plane, dir);
    shop.wait_for("the filter", || (said("The log's filter was read.") == 1).then_some(())).await;
    assert!(said("info,eventpulse=debug") >= 1, "{}", eventpulse.process().log());
    reader.run(&restore);
    mount_log_filter(plane, dir);
    shop.wait_for("the first filter", || (said("The log's filter file is gone") == 1).then_some(())).await;
    std::fs::write(reader.place.join("kustomization.yaml"), kustomization).unwrap();
    let before = first_container(plane, NAMESPACE, "statefulset/eventpulse");
    reader.run("kubectl apply --server-side -k .");
    mount_log_filter(plane, dir);
    shop.wait_for("the filter of the kustomization", || (said("The log's filter was read.") == 2).then_some(())).await;
    assert_eq!(first_container(plane, NAMESPACE, "statefulset/eventpulse"), before, "no pod starts again");
}

/// What the snippets for Alertmanager and Prometheus name is the Service that is installed.
fn senders_are_told_of_the_service(plane: &ControlPlane) {
    let port = ["get", "service", "-n", NAMESPACE, "eventpulse", "-o", "jsonpath={.spec.ports[0].port}"];
    let address = format!("eventpulse.{NAMESPACE}:{}", plane.run_kubectl(&port).unwrap());
    assert_eq!(address, ADDRESS);
}

async fn post(url: &str, token: &str, alert: Alert) {
    let bearer = format!("Bearer {token}");
    let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
    let body = webhook(&[alert]).to_string();
    let reply = client::request("POST", url, &headers, body.clone()).await.unwrap();
    assert!(reply.is_success(), "{}", reply.text());
    let stranger = client::request("POST", url, &headers[..1], body).await.unwrap();
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

/// A control plane to install on, whose channel's messages come to the sink, and a reader of the README.
async fn open(name: &str) -> (Shop, Reader) {
    let tools = helm_is_built().await;
    let (environment, sink) = (environment(name).await, Sink::start().await.unwrap());
    let reader = Reader::new(&environment, &tools, &sink.url("/services/T000/B000/demo"));
    (Shop { environment, sink }, reader)
}

fn apply_the_example(shop: &Shop, reader: &Reader) {
    let listed = reader.run(&readme().example);
    for name in ["cpu-high", "scale-up", "restart", "ops-slack"] {
        assert!(listed.contains(name), "{name} is not in\n{listed}");
    }
    let rolled_out = ["rollout", "status", "-n", "shop", "deployment/svc-a", "--timeout=60s"];
    shop.environment.plane().run_kubectl(&rolled_out).unwrap();
}

async fn main_job(shop: &Shop, eventpulse: &EventPulse, token: &str, began: Timestamp) {
    post(&eventpulse.url(WEBHOOK), token, Alert::cpu_high("svc-a", began)).await;
    shop.incidents_in(1, &["Resolved"]).await;
    assert_eq!(shop.replicas("svc-a"), 4);
    shop.messages(1).await;
    assert_eq!(who_acted(shop), ["system:serviceaccount:shop:remediator"]);
}

/// The account of each change of a Deployment by an action.
fn who_acted(shop: &Shop) -> Vec<String> {
    let changes = committed(shop.environment.plane(), "deployments").into_iter();
    changes.filter(|one| one.effect_of().is_some()).map(|write| write.user).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn q_installed_by_helm_as_documented_it_does_the_main_job_with_just_the_rights_that_it_has_and_is_upgraded_and_removed()
 {
    let (shop, reader) = open("e2e-q-helm").await;
    let installing = blocks("charts/eventpulse/README.md", "Installing it");
    assert_eq!(readme().helm, installing[1], "README.md and the chart's README say the same");
    assert!(installing[0].starts_with(&readme().image), "{}", installing[0]);
    reader.run(&readme().helm);
    apply_the_example(&shop, &reader);
    let (plane, dir) = (shop.environment.plane(), shop.environment.dir());
    senders_are_told_of_the_service(plane);
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
    reader.run(
        &(upgrading.trim_end().to_owned()
            + &ttls.concat()
            + " --set extraEnv[0].name=OTEL_SDK_DISABLED --set-string extraEnv[0].value=true"),
    );
    assert!(eventpulse.stop(START).await, "it ends well");
    let container = first_container(plane, NAMESPACE, "statefulset/eventpulse");
    assert!(container["env"].as_array().unwrap().iter().any(|one| one["name"] == "OTEL_SDK_DISABLED"), "{container:#}");
    assert!(container["image"].as_str().unwrap().starts_with("registry.example.com/eventpulse:"), "{container:#}");
    let (eventpulse, token) = start_what_is_installed(plane, dir).await;
    post(&eventpulse.url(WEBHOOK), &token, Alert::cpu_high("svc-a", began).resolved(Timestamp::now())).await;
    add_old_notification(plane, &notification);
    add_old_action(plane, &action, "shop", &[]);
    add_old_action(plane, &action, "default", &["eventpulse.io/claim"]);
    let deleted = |kind: &str| called(plane).contains(&("delete".into(), "eventpulse.io".into(), kind.into()));
    for kind in ["actions", "notifications", "incidents", "alertgroups"] {
        until(&format!("old {kind} deleted"), SWEPT, || deleted(kind)).await;
    }

    // A namespace that goes takes its claims with it.
    shop.add_deployment("svc-b").unwrap();
    post(&eventpulse.url(WEBHOOK), &token, Alert::cpu_high("svc-b", Timestamp::now())).await;
    shop.wait_for("another action", || (shop.get("actions").len() == 2).then_some(())).await;
    the_calls_are_those_that_are_granted(plane, &reader);
    removed_as_documented(plane, &reader, eventpulse, &action).await;
    shop.environment.stop().await;
}

fn the_calls_are_those_that_are_granted(plane: &ControlPlane, reader: &Reader) {
    let (granted, called_before) = (granted(plane), called(plane));
    reader.run("kubectl delete namespace shop --timeout=60s");
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
async fn removed_as_documented(plane: &ControlPlane, reader: &Reader, eventpulse: EventPulse, action: &Value) {
    let removing = blocks("charts/eventpulse/README.md", "Removing it");
    let (with_eventpulse, after) = removing[0].split_once("helm uninstall eventpulse ").unwrap();
    reader.run(with_eventpulse);
    assert!(eventpulse.stop(START).await);
    let (uninstall, definitions) = after.split_once("kubectl delete crd").unwrap();
    reader.run(&format!("helm uninstall eventpulse {uninstall}"));
    assert!(
        plane.run_kubectl(&["get", "crd", "actions.eventpulse.io", "-o", "name"]).is_ok(),
        "the definitions are kept"
    );
    add_old_action(plane, action, "default", &["eventpulse.io/claim"]);
    let mut going = reader.shell(&format!("kubectl delete crd{definitions}")).stdout(Stdio::null()).spawn().unwrap();
    until("the definition of Actions is held", Duration::from_secs(60), || {
        let args = ["get", "crd", "actions.eventpulse.io", "-o", "jsonpath={.metadata.deletionTimestamp}"];
        plane.run_kubectl(&args).is_ok_and(|text| !text.is_empty())
    })
    .await;
    assert!(going.try_wait().unwrap().is_none(), "a claim that nobody takes off holds it");
    reader.run(&removing[1]);
    until("everything is gone", Duration::from_secs(120), || going.try_wait().unwrap().is_some()).await;
    let left = plane
        .run_kubectl(&["get", "crd,clusterrole,clusterrolebinding,validatingadmissionpolicy", "-o", "name"])
        .unwrap();
    let ours: Vec<&str> = left.lines().filter(|name| name.contains("eventpulse")).collect();
    assert!(ours.is_empty(), "{ours:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn q_installed_by_kubectl_as_documented_it_does_the_main_job() {
    let (shop, reader) = open("e2e-q-kubectl").await;
    reader.run(&readme().kubectl);
    apply_the_example(&shop, &reader);
    let image = first_container(shop.environment.plane(), NAMESPACE, "statefulset/eventpulse")["image"].take();
    assert!(image.as_str().unwrap().starts_with("registry.example.com/eventpulse:"), "{image}");
    senders_are_told_of_the_service(shop.environment.plane());
    let (eventpulse, token) = start_what_is_installed(shop.environment.plane(), shop.environment.dir()).await;
    main_job(&shop, &eventpulse, &token, Timestamp::now()).await;
    the_log_is_changed_as_documented(&reader, &shop, &eventpulse).await;
    assert!(eventpulse.stop(START).await);
    shop.environment.stop().await;
}

/// An Alertmanager and a Prometheus with what the README gives them, but for address and token's file, which are of a cluster there.
/// Gives where the Alertmanager is. The Prometheus has an alert on this gauge, and knows by then where to send it.
async fn start_senders_as_documented(shop: &mut Shop, reader: &Reader, address: &str, gauge: &Gauge) -> String {
    let token = reader.place.join("token").display().to_string();
    let here = |snippet: &str, token_file: &str| replaced(&replaced(snippet, ADDRESS, address), token_file, &token);
    let alertmanager = here(&readme().alertmanager, "/etc/alertmanager/eventpulse-token");
    let alertmanager = shop.environment.start_alertmanager("alertmanager", &alertmanager).await.unwrap().address();
    let prometheus = here(&readme().prometheus, "/etc/prometheus/eventpulse-token");
    let prometheus = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yml]\nscrape_configs: [{{job_name: shop, \
         static_configs: [{{targets: ['{}']}}]}}]\n{prometheus}",
        gauge.address()
    );
    let rules = "groups:\n- name: shop\n  rules:\n  - alert: CPUHigh\n    expr: cpu_percent > 90\n    labels: {severity: warning, service: \
                 svc-a}\n    annotations: {summary: 'CPU is at {{ $value }} %'}\n";
    let prometheus = shop.environment.start_prometheus(&prometheus, rules).await.unwrap().address();
    shop.wait_for_async("a Prometheus that knows EventPulse", async || {
        let known = client::get(&format!("http://{prometheus}/api/v1/alertmanagers")).await.ok()?.json();
        known["data"]["activeAlertmanagers"].to_string().contains(address).then_some(())
    })
    .await;
    alertmanager
}

#[tokio::test(flavor = "multi_thread")]
async fn q_outside_of_a_cluster_as_documented_it_does_what_a_prometheus_and_an_alertmanager_of_the_readme_ask_for() {
    let (mut shop, reader) = open("e2e-q-outside").await;
    let outside = readme().outside;
    let (before, line) = outside.trim_end().rsplit_once('\n').unwrap();
    reader.run(before);
    apply_the_example(&shop, &reader);
    let (eventpulse, address) = reader.start(line).await;
    let token = std::fs::read_to_string(reader.place.join("token")).unwrap();
    assert!(reader.place.join("data").is_dir(), "{line}");

    let gauge = Gauge::start("cpu_percent", 50).await.unwrap();
    let alertmanager = start_senders_as_documented(&mut shop, &reader, &address, &gauge).await;
    assert!(shop.get("incidents").is_empty(), "nothing fires yet");
    gauge.set(97);
    shop.incidents_in(1, &["Resolved"]).await;
    assert_eq!(shop.replicas("svc-a"), 4, "by Prometheus");
    shop.add_deployment("svc-b").unwrap();
    let labels = json!({"alertname": "CPUHigh", "severity": "critical", "service": "svc-b"});
    let alert = json!([{"labels": labels, "annotations": {"summary": "CPU of svc-b"}}]);
    let reply = client::post(&format!("http://{alertmanager}/api/v2/alerts"), &alert).await.unwrap();
    assert!(reply.is_success(), "{}", reply.text());
    shop.incidents_in(2, &["Resolved"]).await;
    assert_eq!((shop.replicas("svc-a"), shop.replicas("svc-b")), (4, 2), "by Alertmanager");
    shop.messages(2).await;
    assert_eq!(who_acted(&shop), ["system:serviceaccount:shop:remediator"; 2]);
    // Repeated with the token it is taken, and without it refused.
    post(&format!("http://{address}/{WEBHOOK}"), token.trim(), Alert::cpu_high("svc-a", Timestamp::now())).await;
    assert!(eventpulse.stop(START).await.is_some_and(|status| status.success()), "{}", eventpulse.log());
    shop.environment.stop().await;
}
