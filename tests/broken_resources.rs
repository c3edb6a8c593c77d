//! Broken resources before a real API server: each gets the answer that `broken_resources/table.yaml` gives it, from the schema or as
//! `Ready=False` from the service `config`; and none keeps the others, the examples among them, from becoming ready.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{path::Path, sync::Arc, time::Duration};

use eventpulse::{
    bus::MemoryBus,
    config_status,
    runtime::{Context, Health, Metrics, RightOfWay, TaskFailure, Tasks, clock::SystemClock, kube_api, random::Random},
};
use eventpulse_env::{ControlPlane, ControlPlaneOptions, Environment};
use kube::{Client, config::Kubeconfig};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "table";
/// How long the service may take to say what it thinks; it takes milliseconds, and 15 s where a Secret appeared.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct Table {
    bases: serde_json::Map<String, Value>,
    fixtures: Vec<Row>,
    rows: Vec<Row>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Row {
    base: String,
    name: Option<String>,
    with: Option<Value>,
    change: Option<Value>,
    refused: Option<Vec<String>>,
    not_ready: Option<String>,
    #[serde(default)]
    says: Vec<String>,
}

/// What the API server answered: the object, or its refusal.
type Answer = Result<Value, String>;

struct Server {
    client: Client,
}

impl Server {
    async fn send(&self, method: &str, path: &str, content_type: &str, body: &Value) -> Answer {
        let request = http::Request::builder().method(method).uri(path).header("content-type", content_type);
        match self.client.request::<Value>(request.body(serde_json::to_vec(body).unwrap()).unwrap()).await {
            Ok(answer) => Ok(answer),
            Err(kube::Error::Api(status)) => Err(status.message.clone()),
            Err(other) => panic!("{method} {path}: {other}"),
        }
    }

    /// As `kubectl create` does: unknown fields are refused.
    async fn create(&self, object: &Value) -> Answer {
        let path = format!("{}?fieldValidation=Strict", collection(object));
        self.send("POST", &path, "application/json", object).await
    }

    async fn change(&self, object: &Value, patch: &Value) -> Answer {
        let path = format!("{}?fieldValidation=Strict", path_of(object));
        self.send("PATCH", &path, "application/merge-patch+json", patch).await
    }

    async fn get(&self, object: &Value) -> Value {
        let request = http::Request::get(path_of(object)).body(Vec::new()).unwrap();
        self.client.request(request).await.unwrap_or_else(|error| panic!("get {}: {error}", path_of(object)))
    }

    /// The `Ready` condition, once it speaks of what is there now and is as wanted; else the last one.
    async fn ready(&self, object: &Value, status: &str, reason: &str) -> Result<Value, Value> {
        let begin = Instant::now();
        loop {
            let now = self.get(object).await;
            let conditions = now["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready").unwrap_or_default();
            let current = ready["observedGeneration"] == now["metadata"]["generation"];
            if current && ready["status"] == status && ready["reason"] == reason {
                return Ok(ready);
            }
            if begin.elapsed() > READY_TIMEOUT {
                return Err(ready);
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

fn collection(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap().to_lowercase();
    let namespace = object["metadata"]["namespace"].as_str().unwrap();
    format!("/apis/eventpulse.io/v1alpha1/namespaces/{namespace}/{kind}s")
}

fn path_of(object: &Value) -> String {
    format!("{}/{}", collection(object), object["metadata"]["name"].as_str().unwrap())
}

impl Table {
    fn read() -> Self {
        let table: Table = serde_norway::from_str(include_str!("broken_resources/table.yaml")).unwrap();
        assert!(table.rows.len() >= 40, "only {} rows", table.rows.len());
        table
    }

    fn object(&self, row: &Row, name: String) -> Value {
        let mut object = self.bases.get(&row.base).unwrap_or_else(|| panic!("there is no base {}", row.base)).clone();
        object["metadata"] = json!({"name": name, "namespace": NAMESPACE});
        if let Some(with) = &row.with {
            merge(&mut object, with);
        }
        object
    }
}

/// RFC 7396.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return *into = patch.clone() };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut into[key], value);
        }
    }
}

/// The service `config`, as `eventpulse run --services config` runs it.
fn start_config(client: Client) -> (Context, mpsc::Receiver<TaskFailure>) {
    let (tasks, failures) = Tasks::new();
    let ctx = Context {
        service: "config",
        bus: Arc::new(MemoryBus::new(1)),
        kube: client,
        way: RightOfWay::new(&Metrics::default()),
        clock: Arc::new(SystemClock),
        random: Arc::new(Random::from_seed(1)),
        tasks,
        health: Health::default().service("config"),
        metrics: Metrics::default(),
        tracer: Default::default(),
        intake: CancellationToken::new(),
        shutdown: CancellationToken::new(),
    };
    ctx.tasks.spawn("config", config_status::run(ctx.clone()));
    (ctx, failures)
}

async fn client_of(plane: &ControlPlane) -> Client {
    let kubeconfig = Kubeconfig::read_from(plane.kubeconfig()).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await.unwrap();
    kube_api::client(&config, "config", &Metrics::default()).unwrap()
}

fn below_root(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).to_str().unwrap().to_owned()
}

fn install(plane: &ControlPlane) {
    plane.run_kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &below_root("crds")]).unwrap();
    plane.run_kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]).unwrap();
    for crd in plane.run_kubectl(&["get", "crd", "-o", "name"]).unwrap().lines() {
        let path = "jsonpath={.status.conditions[?(@.type==\"NonStructuralSchema\")].message}";
        assert_eq!(plane.run_kubectl(&["get", crd, "-o", path]).unwrap(), "", "{crd} is not structural");
    }
}

/// One row's answer, or what was wrong with it.
async fn check_refusal(
    server: &Server,
    table: &Table,
    row: &Row,
    name: String,
    wanted: &[String],
) -> Result<(), String> {
    let object = table.object(row, name);
    let answer = match &row.change {
        None => server.create(&object).await,
        Some(change) => {
            server.create(&object).await.map_err(|refusal| format!("refused before the change: {refusal}"))?;
            server.change(&object, change).await
        }
    };
    let Err(refusal) = answer else { return Err("was accepted".into()) };
    match wanted.iter().find(|text| !refusal.contains(text.as_str())) {
        None => Ok(()),
        Some(missing) => Err(format!("the refusal does not say {missing:?}: {refusal}")),
    }
}

async fn check_not_ready(server: &Server, object: &Value, row: &Row, reason: &str) -> Result<(), String> {
    let condition = server
        .ready(object, "False", reason)
        .await
        .map_err(|last| format!("is not Ready=False {reason}, but {last}"))?;
    let message = condition["message"].as_str().unwrap_or_default();
    match row.says.iter().find(|text| !message.contains(text.as_str())) {
        None => Ok(()),
        Some(missing) => Err(format!("the condition does not say {missing:?}: {message}")),
    }
}

/// Every row; gives what was wrong, with the row.
async fn broken_rows(server: &Server, table: &Table) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut created = Vec::new();
    for (index, row) in table.rows.iter().enumerate() {
        let name = row.name.clone().unwrap_or_else(|| format!("row-{index}"));
        match (&row.refused, &row.not_ready) {
            (Some(wanted), None) => {
                if let Err(what) = check_refusal(server, table, row, name, wanted).await {
                    wrong.push(format!("{row:?}\n  {what}"));
                }
            }
            (None, Some(reason)) => {
                let object = table.object(row, name);
                match server.create(&object).await {
                    Ok(_) => created.push((object, row, reason)),
                    Err(refusal) => wrong.push(format!("{row:?}\n  was refused: {refusal}")),
                }
            }
            _ => wrong.push(format!("{row:?}\n  a row is either refused or notReady")),
        }
    }
    for (object, row, reason) in created {
        if let Err(what) = check_not_ready(server, &object, row, reason).await {
            wrong.push(format!("{row:?}\n  {what}"));
        }
    }
    wrong
}

async fn all_become_ready(server: &Server, objects: &[Value]) {
    for object in objects {
        if let Err(last) = server.ready(object, "True", "Valid").await {
            panic!("{} does not become ready: {last}", path_of(object));
        }
    }
}

/// The resources of a folder of examples that carry `Ready`, after kubectl has taken all of the folder.
fn apply_examples(plane: &ControlPlane, folder: &str, at_least: usize) -> Vec<Value> {
    plane.run_kubectl(&["apply", "-f", &below_root(folder)]).unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(below_root(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = std::fs::read_to_string(path).unwrap();
            for document in serde_norway::Deserializer::from_str(&text) {
                let object = Value::deserialize(document).unwrap();
                if object["apiVersion"] == "eventpulse.io/v1alpha1" {
                    found.push(object);
                }
            }
        }
    }
    assert!(found.len() >= at_least, "only {} resources in {folder}", found.len());
    found
}

/// What the API server takes and the types do not, as when the definitions in the cluster are of another version.
async fn a_malformed_rule_is_marked_and_holds_up_nobody(server: &Server, plane: &ControlPlane, table: &Table) {
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/incident/properties/resolveOn/enum";
    let patch = json!([{"op": "remove", "path": path}]).to_string();
    plane.run_kubectl(&["patch", "crd", "rules.eventpulse.io", "--type=json", "-p", &patch]).unwrap();
    let row = |name: &str| Row { name: Some(name.into()), with: None, ..table.rows[0].clone() };
    let mut malformed = table.object(&row("malformed"), "malformed".into());
    malformed["spec"]["incident"]["resolveOn"] = json!("Never");
    let begin = Instant::now();
    // The API server needs a moment to serve a changed definition.
    while let Err(refusal) = server.create(&malformed).await {
        assert!(begin.elapsed() < READY_TIMEOUT, "{refusal}");
        sleep(Duration::from_millis(200)).await;
    }
    let condition = server.ready(&malformed, "False", "Malformed").await.unwrap_or_else(|last| panic!("{last}"));
    assert!(condition["message"].as_str().unwrap().contains("Never"), "{condition}");
    let after = table.object(&row("after-malformed"), "after-malformed".into());
    server.create(&after).await.unwrap();
    all_become_ready(server, &[after]).await;
    // Mended by its author, it is as any other.
    server.change(&malformed, &json!({"spec": {"incident": {"resolveOn": "AlertResolved"}}})).await.unwrap();
    all_become_ready(server, &[malformed]).await;
    install(plane);
}

/// What kubectl shows of what EventPulse writes itself: found by its short names and its category, in columns.
async fn kubectl_finds_and_shows_them(server: &Server, plane: &ControlPlane, table: &Table) {
    for base in ["incident", "action", "notification", "group"] {
        let row = Row { base: base.into(), name: None, with: None, ..table.rows[0].clone() };
        server.create(&table.object(&row, "seen".into())).await.unwrap_or_else(|refusal| panic!("{base}: {refusal}"));
    }
    let kubectl = |args: &[&str]| plane.run_kubectl(&[&["-n", NAMESPACE], args].concat()).unwrap();
    let status = r#"{"status": {"phase": "Mitigating", "target": "Deployment/svc-a", "alertCount": 2,
        "lastAction": "add-replica Requested", "conditions": [], "history": []}}"#;
    kubectl(&["patch", "incident", "seen", "--subresource=status", "--type=merge", "-p", status]);
    let shown = kubectl(&["get", "incidents", "seen"]);
    let rows: Vec<Vec<&str>> =
        shown.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
    assert_eq!(rows[0], ["NAME", "RULE", "SEVERITY", "PHASE", "TARGET", "ALERTS", "LAST ACTION", "AGE"]);
    let cells = ["seen", "cpu-high", "warning", "Mitigating", "Deployment/svc-a", "2", "add-replica Requested"];
    assert_eq!(rows[1][..7], cells, "{shown}");
    let all = kubectl(&["get", "eventpulse", "-o", "name"]);
    for (short, name) in [
        ("inc", "incident.eventpulse.io/seen"),
        ("act", "action.eventpulse.io/seen"),
        ("ntf", "notification.eventpulse.io/seen"),
        ("ag", "alertgroup.eventpulse.io/seen"),
        ("nch", "notificationchannel.eventpulse.io/ops"),
        ("rule", "rule.eventpulse.io/fine"),
        ("runbook", "runbook.eventpulse.io/scale-up"),
    ] {
        assert!(kubectl(&["get", short, "-o", "name"]).lines().any(|line| line == name), "get {short}: no {name}");
        assert!(all.lines().any(|line| line == name), "get eventpulse: no {name}");
    }
}

/// `kubectl explain incident.status` reads like documentation, at every level.
fn every_field_of_an_incident_is_explained(plane: &ControlPlane) {
    let mut paths = vec!["incident.spec".to_owned(), "incident.status".to_owned()];
    let mut fields = 0;
    while let Some(path) = paths.pop() {
        let text = plane.run_kubectl(&["explain", &path]).unwrap();
        for silence in ["<empty>", "<no description>"] {
            assert!(!text.contains(silence), "{path} has a field without a description:\n{text}");
        }
        let (_, listed) = text.split_once("FIELDS:").unwrap_or_else(|| panic!("{path} has no fields:\n{text}"));
        for line in listed.lines().filter(|line| line.starts_with("  ") && !line[2..].starts_with([' ', '\t'])) {
            let mut words = line.split_whitespace();
            let (Some(field), Some(kind)) = (words.next(), words.next()) else { continue };
            fields += 1;
            if kind.contains("Object>") {
                paths.push(format!("{path}.{field}"));
            }
        }
    }
    assert!(fields > 40, "only {fields} fields were found");
}

/// The status has one owner, and is not written again and again.
async fn statuses_are_quiet(server: &Server, objects: &[Value]) {
    let versions = async || {
        let mut versions = Vec::new();
        for object in objects {
            versions.push(server.get(object).await["metadata"]["resourceVersion"].clone());
        }
        versions
    };
    let before = versions().await;
    // Longer than the 15 s after which the service looks at every channel again.
    sleep(Duration::from_secs(17)).await;
    assert_eq!(versions().await, before, "somebody writes although nothing changed");
    let managers = server.get(&objects[0]).await["metadata"]["managedFields"].clone();
    let of_status: Vec<&Value> =
        managers.as_array().unwrap().iter().filter(|entry| entry["subresource"] == "status").collect();
    assert_eq!(of_status.len(), 1, "{managers}");
    assert_eq!((&of_status[0]["manager"], &of_status[0]["operation"]), (&json!("eventpulse-config"), &json!("Apply")));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_broken_resource_gets_its_answer_and_stops_nobody() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let environment =
        Environment::builder("broken-resources").control_plane(ControlPlaneOptions::default()).start().await.unwrap();
    let plane = environment.plane();
    install(plane);
    plane.run_kubectl(&["create", "namespace", NAMESPACE]).unwrap();
    plane
        .run_kubectl(&["create", "secret", "generic", "ops", "-n", NAMESPACE, "--from-literal=url=http://127.0.0.1:1/"])
        .unwrap();
    plane.run_kubectl(&["apply", "-f", &below_root("examples/shop/00-namespace.yaml")]).unwrap();
    plane.run_kubectl(&["apply", "-f", &below_root("examples/kinds/00-targets.yaml")]).unwrap();
    plane.run_kubectl(&["wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=30s"]).unwrap();
    let server = Server { client: client_of(plane).await };
    let (ctx, mut failures) = start_config(server.client.clone());

    let table = Table::read();
    let mut fixtures = Vec::new();
    for row in &table.fixtures {
        let object = table.object(row, row.name.clone().expect("a fixture has a name"));
        server.create(&object).await.unwrap_or_else(|refusal| panic!("{row:?}: {refusal}"));
        fixtures.push(object);
    }
    let wrong = broken_rows(&server, &table).await;
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), table.rows.len(), wrong.join("\n"));
    println!("{} broken resources got their answers.", table.rows.len());

    kubectl_finds_and_shows_them(&server, plane, &table).await;
    every_field_of_an_incident_is_explained(plane);
    all_become_ready(&server, &fixtures).await;
    all_become_ready(&server, &apply_examples(plane, "examples/shop", 4)).await;
    all_become_ready(&server, &apply_examples(plane, "examples/channels", 2)).await;
    all_become_ready(&server, &apply_examples(plane, "examples/kinds", 7)).await;
    a_malformed_rule_is_marked_and_holds_up_nobody(&server, plane, &table).await;
    statuses_are_quiet(&server, &fixtures).await;

    assert!(failures.try_recv().is_err(), "the service has failed");
    ctx.shutdown.cancel();
    ctx.tasks.finished().await;
    environment.stop().await;
}
