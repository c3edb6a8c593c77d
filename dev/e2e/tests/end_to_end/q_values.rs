//! (q) Every set of values is taken by a real API server and by the Pod Security Standard `restricted`; broken ones are refused by name.

use eventpulse_e2e::root;
use eventpulse_env::{ControlPlane, ControlPlaneOptions, Environment, Tool, Tools};
use serde_json::Value;

const IMAGE: &str = "image.repository=registry.example.com/eventpulse";
const KAFKA: &str = "kafka.brokers={kafka-0.kafka:9092,kafka-1.kafka:9092}";

pub(crate) fn chart(name: &str) -> String {
    root().join("charts").join(name).display().to_string()
}

pub(crate) async fn helm_is_built() -> Tools {
    let tools = Tools::new();
    tools.ensure(&[Tool::Helm]).await.unwrap();
    tools
}

fn template(tools: &Tools, namespace: &str, sets: &[&str]) -> eventpulse_env::Result<String> {
    let home = std::env::temp_dir();
    let chart = chart("eventpulse");
    let mut args = vec!["template", "eventpulse", &chart, "--namespace", namespace];
    for set in sets {
        args.extend([if set.contains('@') { "--set-json" } else { "--set" }, set]);
    }
    let args: Vec<String> = args.into_iter().map(|arg| arg.replace('@', "")).collect();
    tools.run(Tool::Helm, "helm", &home, &args.iter().map(String::as_str).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread")]
async fn q_helm_finds_no_fault_with_the_charts_and_broken_values_are_refused_by_name() {
    let tools = helm_is_built().await;
    let home = std::env::temp_dir();
    for name in ["eventpulse", "eventpulse-crds"] {
        tools.run(Tool::Helm, "helm", &home, &["lint", "--strict", &chart(name), "--set", IMAGE]).unwrap_or_else(
            |_| {
                // The other chart has nothing to set.
                tools.run(Tool::Helm, "helm", &home, &["lint", "--strict", &chart(name)]).unwrap()
            },
        );
    }
    for (sets, says) in [
        (&[][..], "image.repository: no image is published yet"),
        (&[IMAGE, "replica=2"], "replica"),
        (&[IMAGE, "image.tags=1"], "tags"),
        (&[IMAGE, "image.digest=1234"], "/image/digest"),
        (&["image.repository=registry.example.com/EventPulse"], "/image/repository"),
        (&["image.repository=registry.example.com/eventpulse:1"], "/image/repository"),
        (&["image.repository=eventpulse:1"], "/image/repository"),
        (&[IMAGE, "replicas=0"], "/replicas"),
        (&[IMAGE, "replicas=2"], "replicas: the embedded log belongs to one process"),
        (&[IMAGE, "split.enabled=true"], "split.enabled: services run apart only with Kafka"),
        (&[IMAGE, "kafka.config.security\\.protocol=SSL"], "kafka.config: it is given, but no kafka.brokers"),
        (&[IMAGE, "kafka.existingSecret.name=x"], "kafka.existingSecret.name: it is given, but no kafka.brokers"),
        (&[IMAGE, "kafka.topicPrefix=prod."], "kafka.topicPrefix: it is given, but no kafka.brokers"),
        (&[IMAGE, "kafka.brokers={kafka}"], "/kafka/brokers/0"),
        (&[IMAGE, "kafka.brokers=kafka:9092"], "/kafka/brokers"),
        (&[IMAGE, KAFKA, "kafka.topicPrefix=a/b"], "/kafka/topicPrefix"),
        (&[IMAGE, KAFKA, "kafka.config.nodots=1"], "nodots"),
        (&[IMAGE, "auth.allowUnauthenticated=true", "auth.existingSecret.name=x"], "auth.allowUnauthenticated"),
        (&[IMAGE, "auth.existingSecret.name=Not_A_Name"], "/auth/existingSecret/name"),
        (&[IMAGE, "config.topicRetention=1d"], "/config/topicRetention"),
        (&[IMAGE, "config.partitions=0"], "/config/partitions"),
        (&[IMAGE, "config.incidentCount=9"], "/config/incidentCount"),
        (&[IMAGE, "config.logFormat=xml"], "/config/logFormat"),
        (&[IMAGE, "config.source=a b"], "/config/source"),
        (&[IMAGE, "log.level=debug"], "additional properties 'level'"),
        (&[IMAGE, "log.filterConfigMap=levels"], "/log/filterConfigMap"),
        (&[IMAGE, "log.filterConfigMap.name=Not_A_Name"], "/log/filterConfigMap/name"),
        (&[IMAGE, "log.filterConfigMap.key=a/b"], "/log/filterConfigMap/key"),
        (&[IMAGE, "extraArgs={--log-filter-file=/x}"], "extraArgs: --log-filter-file is given already"),
        (&[IMAGE, "persistence.size=big"], "/persistence/size"),
        (&[IMAGE, "service.port=99999"], "/service/port"),
        (&[IMAGE, "extraArgs={run}"], "/extraArgs/0"),
        (&[IMAGE, "extraEnv[0].value=x"], "/extraEnv/0"),
        (&[IMAGE, "terminationGracePeriodSeconds=0"], "/terminationGracePeriodSeconds"),
        (&[IMAGE, "livenessProbe.periodSeconds=0"], "/livenessProbe/periodSeconds"),
        (&[IMAGE, "readinessProbe.period=1"], "period"),
        (&[IMAGE, "serviceAccount.create=false"], "serviceAccount.name: serviceAccount.create is false"),
        (&[IMAGE, "podDisruptionBudget.maxUnavailable=0"], "/podDisruptionBudget/maxUnavailable"),
        (&[IMAGE, "metrics.service.enabled=false", "metrics.serviceMonitor.enabled=true"], "metrics.serviceMonitor"),
    ] {
        let error =
            template(&tools, "default", sets).map(|_| "it was taken".to_owned()).unwrap_or_else(|e| e.to_string());
        // The error begins with the command, which names the value in any case.
        let error = sets.iter().fold(error, |text, set| text.replace(set, ""));
        let dotted = says.trim_start_matches('/').replace('/', ".");
        assert!(error.contains(says) || error.contains(&dotted), "{sets:?}: {error}");
    }
}

/// The sets, and how many pods each wants.
const SETS: [(&str, &[&str], usize); 5] = [
    ("defaults", &[IMAGE], 1),
    (
        "open",
        &[IMAGE, "auth.allowUnauthenticated=true", "persistence.enabled=false", "admissionPolicy.enabled=false"],
        1,
    ),
    ("kafka", &[IMAGE, KAFKA, "replicas=3", "kafka.topicPrefix=prod."], 3),
    ("split", &[IMAGE, KAFKA, "split.enabled=true", "split.rules.replicas=3", "kafka.existingSecret.name=kafka"], 12),
    (
        "everything",
        &[
            "image.repository=registry.example.com:5000/team/eventpulse",
            "image.digest=sha256:0123456789012345678901234567890123456789012345678901234567890123",
            "imagePullSecrets[0].name=pull",
            "fullnameOverride=ep",
            KAFKA,
            "split.enabled=true",
            "kafka.config.security\\.protocol=SASL_SSL",
            "kafka.config.sasl\\.username=a$(b)",
            "kafka.config.socket\\.keepalive\\.enable=true",
            "kafka.existingSecret.name=kafka",
            "auth.existingSecret.name=tokens",
            "persistence.storageClassName=fast",
            "config.source=prod-1",
            "config.partitions=24",
            "config.outboxMaxAlerts=2000000",
            "config.endsAtGrace=10m",
            "config.topicRetention=1h30m",
            "config.actionTTL=200h",
            "config.incidentTTL=200h",
            "config.groupTTL=200h",
            "config.actionCount=6000",
            "config.notificationCount=7000",
            "config.incidentCount=2000",
            "config.groupCount=8000",
            "config.logFormat=text",
            "log.filterConfigMap.name=levels",
            "log.filterConfigMap.key=eventpulse",
            "extraEnv@=[{\"name\":\"OTEL_EXPORTER_OTLP_ENDPOINT\",\"value\":\"http://collector:4317\"}]",
            "extraEnvFrom@=[{\"configMapRef\":{\"name\":\"more\",\"optional\":true}}]",
            "extraVolumes@=[{\"name\":\"ca\",\"configMap\":{\"name\":\"ca\"}}]",
            "extraVolumeMounts@=[{\"name\":\"ca\",\"mountPath\":\"/etc/ca\"}]",
            "serviceAccount.annotations.example\\.com/role=eventpulse",
            "service.type=LoadBalancer",
            "metrics.serviceMonitor.enabled=true",
            "metrics.serviceMonitor.labels.release=prometheus",
            "podDisruptionBudget.maxUnavailable=25%",
            "networkPolicy.enabled=true",
            "networkPolicy.alertsFrom@=[{\"namespaceSelector\":{}}]",
            "networkPolicy.egress@=[{\"ports\":[{\"port\":53,\"protocol\":\"UDP\"}]}]",
            "podAnnotations.example\\.com/a=b",
            "podLabels.team=sre",
            "nodeSelector.kubernetes\\.io/os=linux",
            "tolerations@=[{\"operator\":\"Exists\"}]",
            "priorityClassName=system-cluster-critical",
        ],
        11,
    ),
];

/// Of the Prometheus Operator's kind as much as a ServiceMonitor needs to be taken.
const SERVICE_MONITORS: &str = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: \
    servicemonitors.monitoring.coreos.com}\nspec:\n  group: monitoring.coreos.com\n  names: {kind: ServiceMonitor, plural: \
    servicemonitors}\n  scope: Namespaced\n  versions:\n  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: \
    object, x-kubernetes-preserve-unknown-fields: true}}}\n";

#[tokio::test(flavor = "multi_thread")]
async fn q_every_set_of_values_is_taken_by_the_api_server_and_its_pods_by_the_restricted_standard() {
    let tools = helm_is_built().await;
    let environment =
        Environment::builder("e2e-q-values").control_plane(ControlPlaneOptions::default()).start().await.unwrap();
    let plane = environment.plane();
    plane.apply(SERVICE_MONITORS).unwrap();
    plane.run_kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]).unwrap();
    for (name, sets, pods) in SETS {
        restricted_namespace(plane, name);
        let rendered = template(&tools, name, sets).unwrap();
        plane.apply(&rendered).unwrap_or_else(|error| panic!("{name}: {error}"));
        wait_for_pods(plane, name, pods).await;
    }
    for workload in ["statefulset/ep-ingest", "deployment/ep-rules"] {
        assert_eq!(log_filter_of(plane, "everything", workload), ("levels".into(), "eventpulse".into()));
    }
    for namespace in ["defaults", "split"] {
        let workload = if namespace == "split" { "deployment/eventpulse-notify" } else { "statefulset/eventpulse" };
        assert_eq!(log_filter_of(plane, namespace, workload), ("eventpulse-log".into(), "filter".into()));
    }
    let container = first_container(plane, "everything", "deployment/ep-rules");
    let variables = container["env"].as_array().unwrap();
    let kafka = variables.iter().find(|one| one["name"] == "EVENTPULSE_KAFKA_CONFIG").unwrap();
    assert_eq!(
        kafka["value"],
        "sasl.username=a$$(b)\nsecurity.protocol=SASL_SSL\nsocket.keepalive.enable=true\n$(EVENTPULSE_KAFKA_SECRET_CONFIG)"
    );
    assert_eq!(variables[1]["valueFrom"]["secretKeyRef"]["name"], "kafka", "a variable is made of those before it");

    // The kustomization: taken at once, and what it runs is what the chart runs.
    restricted_namespace(plane, "eventpulse-system");
    plane.run_kubectl(&["apply", "--server-side", "-k", &root().join("config/manager").display().to_string()]).unwrap();
    wait_for_pods(plane, "eventpulse-system", 1).await;
    let spec = |namespace: &str| {
        let text = plane.run_kubectl(&["get", "-n", namespace, "statefulset/eventpulse", "-o", "json"]).unwrap();
        let mut spec: Value = serde_json::from_str::<Value>(&text).unwrap()["spec"].take();
        spec["template"]["metadata"]["labels"] = Value::Null;
        let container = &mut spec["template"]["spec"]["containers"][0];
        let image = container["image"].take().as_str().unwrap().to_owned();
        sort(&mut container["args"]);
        (spec, image)
    };
    let ((chart, image), (kustomization, placeholder)) = (spec("defaults"), spec("eventpulse-system"));
    assert_eq!(
        chart, kustomization,
        "config/manager/manager.yaml runs something else than the chart with its defaults"
    );
    assert_eq!(
        (image.as_str(), placeholder.as_str()),
        (
            concat!("registry.example.com/eventpulse:", env!("CARGO_PKG_VERSION")),
            concat!("eventpulse:", env!("CARGO_PKG_VERSION")),
        )
    );
    environment.stop().await;
}

fn sort(list: &mut Value) {
    if let Some(list) = list.as_array_mut() {
        list.sort_by_key(|one| one.to_string());
    }
}

fn restricted_namespace(plane: &ControlPlane, name: &str) {
    plane
        .apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}\n"
        ))
        .unwrap();
}

/// The controllers create them only where admission takes them.
async fn wait_for_pods(plane: &ControlPlane, namespace: &str, count: usize) {
    let mut seen = 0;
    for _ in 0..600 {
        let pods = plane.run_kubectl(&["get", "pods", "-n", namespace, "-o", "name"]).unwrap();
        seen = pods.lines().count();
        if seen == count {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let events = plane.run_kubectl(&["get", "events", "-n", namespace]).unwrap_or_default();
    panic!("{namespace}: {seen} pods in place of {count}:\n{events}");
}

/// ConfigMap and key that the log's filter is read from. What is mounted is a directory, so that it changes with the ConfigMap, and the
/// pod starts without it.
fn log_filter_of(plane: &ControlPlane, namespace: &str, workload: &str) -> (String, String) {
    let container = first_container(plane, namespace, workload);
    let args: Vec<&str> = container["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let file = args.iter().find_map(|arg| arg.strip_prefix("--log-filter-file=")).unwrap();
    let (directory, file) = file.rsplit_once('/').unwrap();
    let mount = container["volumeMounts"].as_array().unwrap().iter().find(|one| one["mountPath"] == directory).unwrap();
    assert!(mount["subPath"].is_null(), "{workload}: {mount}");
    let source = config_map_volume(plane, namespace, workload, mount["name"].as_str().unwrap());
    assert_eq!(source["optional"], true, "{workload}: {source}");
    let items = source["items"].as_array().unwrap();
    let item = items.iter().find(|item| item["path"] == file).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&source["name"]), text(&item["key"]))
}

/// A volume of a workload's pods that is made of a ConfigMap.
pub(crate) fn config_map_volume(plane: &ControlPlane, namespace: &str, workload: &str, name: &str) -> Value {
    let text = plane.run_kubectl(&["get", "-n", namespace, workload, "-o", "json"]).unwrap();
    let mut spec = serde_json::from_str::<Value>(&text).unwrap()["spec"]["template"]["spec"].take();
    let mut volumes = spec["volumes"].as_array_mut().unwrap().iter_mut();
    volumes.find(|volume| volume["name"] == name).unwrap_or_else(|| panic!("{workload}: no {name}"))["configMap"].take()
}

pub(crate) fn first_container(plane: &ControlPlane, namespace: &str, workload: &str) -> Value {
    let text = plane.run_kubectl(&["get", "-n", namespace, workload, "-o", "json"]).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["spec"]["template"]["spec"]["containers"][0].take()
}
