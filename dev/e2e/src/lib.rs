//! A shop to act on: the example of the repository on a real control plane, with a message sink, and EventPulse before it.

pub mod effects;
pub mod runs;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use eventpulse_env::{
    ControlPlane, ControlPlaneOptions, Environment, Error, Result, ended_by_themselves, process::last_lines,
};
use eventpulse_testkit::{
    eventpulse::Launcher,
    proxy::Proxy,
    sink::{Received, Sink},
};
use serde_json::Value;

/// How long anything may take before a test gives up and says what it saw.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a part, or EventPulse, may take to start or to stop.
pub const START: Duration = Duration::from_secs(60);

/// See the module's text.
pub struct Shop {
    /// The control plane, and Kafka where it was asked for.
    pub environment: Environment,
    /// Where messages arrive.
    pub sink: Sink,
}

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Shop {
    /// Starts the parts and applies CRDs and example, with the sink as the channel's webhook.
    pub async fn open(name: &str, kafka: bool) -> Result<Self> {
        let options = ControlPlaneOptions { audit_bodies: true, ..ControlPlaneOptions::default() };
        let environment = Environment::builder(name).control_plane(options).kafka(kafka).start().await?;
        Self::furnish(environment).await
    }

    /// The same in an environment that is there already.
    pub async fn furnish(environment: Environment) -> Result<Self> {
        let file = |source| Error::File { path: "the message sink".into(), source };
        let sink = Sink::start().await.map_err(file)?;
        Self::apply_to(environment.plane(), &sink.url("/services/T000/B000/demo")).await?;
        Ok(Self { environment, sink })
    }

    /// Applies CRDs and example; the channel's messages go to this URL.
    pub async fn apply_to(plane: &ControlPlane, url: &str) -> Result<()> {
        let apply = async |path: PathBuf| {
            plane.kubectl_with(&["apply", "--server-side", "-f", &path.display().to_string()], "").await
        };
        apply(root().join("crds")).await?;
        plane.kubectl_with(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"], "").await?;
        Self::apply_example_to(plane, url).await
    }

    /// The same where the CRDs are there already.
    pub async fn apply_example_to(plane: &ControlPlane, url: &str) -> Result<()> {
        let apply = async |path: PathBuf| {
            plane.kubectl_with(&["apply", "--server-side", "-f", &path.display().to_string()], "").await
        };
        for name in ["00-namespace", "deployment", "remediator", "runbooks", "channel", "rule"] {
            apply(root().join("examples/shop").join(format!("{name}.yaml"))).await?;
        }
        let secret = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: ops-slack, namespace: shop}}\nstringData: {{url: '{url}'}}\n"
        );
        plane.kubectl_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &secret).await?;
        let rolled_out = ["rollout", "status", "-n", "shop", "deployment/svc-a", "--timeout=60s"];
        plane.kubectl_with(&rolled_out, "").await.map(drop)
    }

    /// The shop with a proxy before its API server, and an EventPulse, not started yet, that reaches it through the proxy.
    pub async fn open_behind_a_proxy(name: &str) -> Result<(Self, Proxy, Launcher)> {
        let shop = Self::open(name, false).await?;
        let (proxy, launcher) = shop.proxied("eventpulse").await?;
        Ok((shop, proxy, launcher))
    }

    /// A proxy before the API server, and an EventPulse of this name, not started yet, that reaches it through this proxy only.
    pub async fn proxied(&self, name: &str) -> Result<(Proxy, Launcher)> {
        let dir = self.environment.dir();
        let broken =
            |error| Error::File { path: "the proxy before the API server".into(), source: io::Error::other(error) };
        let proxy = Proxy::before(&self.environment.plane().kubeconfig()).await.map_err(broken)?;
        let kubeconfig = dir.join(format!("{name}-proxy.kubeconfig"));
        proxy.write_kubeconfig(&kubeconfig).map_err(broken)?;
        Ok((proxy, Launcher::new(name, dir, &kubeconfig)))
    }

    /// An EventPulse process of this shop, not started yet.
    pub fn launcher(&self, name: &str) -> Launcher {
        Launcher::new(name, self.environment.dir(), &self.environment.plane().kubeconfig())
    }

    /// Objects of the shop, as `kubectl get -o json` gives them.
    pub fn get(&self, kind: &str) -> Vec<Value> {
        items(&self.environment.plane().run_kubectl(&["get", kind, "-n", "shop", "-o", "json"]).unwrap_or_default())
    }

    /// The same for whoever has no [`Shop`], and must not block.
    pub async fn objects(plane: &ControlPlane, kind: &str) -> Vec<Value> {
        items(&plane.kubectl_with(&["get", kind, "-n", "shop", "-o", "json"], "").await.unwrap_or_default())
    }

    /// The phases of the objects of a kind with this label, in no order: little to read where there are many.
    pub fn phases(&self, kind: &str, label: &str) -> Vec<String> {
        let args = ["get", kind, "-n", "shop", "-l", label, "-o", "jsonpath={.items[*].status.phase}"];
        let text = self.environment.plane().run_kubectl(&args).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Changes an object of the shop, by a merge patch in YAML or JSON.
    pub fn patch(&self, object: &str, patch: &str) -> Result<()> {
        self.environment.plane().run_kubectl(&["patch", "-n", "shop", object, "--type=merge", "-p", patch]).map(drop)
    }

    /// What must hold once everything is quiet: each action of the shop with at most one committed effect, by the audit log.
    pub fn assert_no_action_twice(&self) {
        let effects = effects::effects_by_action(self.environment.plane());
        let twice: Vec<_> = effects.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "actions with more than one effect: {twice:?}");
    }

    /// Of each message one copy at most says nothing: a further one may come, and is marked (promise 4).
    pub fn assert_further_copies_are_marked(&self) {
        let mut unmarked: BTreeMap<String, usize> = BTreeMap::new();
        for message in self.sink.received() {
            if message.header("eventpulse-duplicate-possible") != Some("true") {
                *unmarked.entry(message.idempotency_key().unwrap_or_default().to_owned()).or_default() += 1;
            }
        }
        let twice: Vec<_> = unmarked.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "a second copy that is not marked: {twice:?}");
    }

    /// Workloads to act on, by the hundred: Deployments `t0`, `t1`, … that are paused and have no replicas, so that none has a pod.
    pub fn add_targets(&self, count: usize) -> Result<()> {
        let targets: String = (0..count)
            .map(|i| {
                format!(
                    "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: t{i}, namespace: shop}}\nspec:\n  replicas: 0\n  \
                     paused: true\n  selector: {{matchLabels: {{app: t{i}}}}}\n  template:\n    metadata: {{labels: {{app: \
                     t{i}}}}}\n    spec: {{containers: [{{name: main, image: registry.invalid/t:1}}]}}\n---\n"
                )
            })
            .collect();
        self.environment.plane().apply(&targets).map(drop)
    }

    /// What every target of [`add_targets`](Self::add_targets) is asked to have: its name and its replicas.
    pub fn targets(&self) -> BTreeMap<String, i64> {
        let deployments = self.get("deployments");
        let target = |deployment: &Value| {
            let name = deployment["metadata"]["name"].as_str().filter(|name| name.starts_with('t'))?;
            Some((name.to_owned(), deployment["spec"]["replicas"].as_i64()?))
        };
        deployments.iter().filter_map(target).collect()
    }

    /// Replicas that a Deployment of the shop is asked to have.
    pub fn replicas(&self, name: &str) -> i64 {
        let deployments = self.get("deployments");
        let found = deployments.iter().find(|deployment| deployment["metadata"]["name"] == name);
        found.and_then(|deployment| deployment["spec"]["replicas"].as_i64()).unwrap_or(-1)
    }

    /// One more Deployment like the example's.
    pub fn add_deployment(&self, name: &str) -> Result<()> {
        let deployment = format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  replicas: 1\n  selector: \
             {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec: {{containers: \
             [{{name: main, image: registry.invalid/{name}:1}}]}}\n"
        );
        self.environment.plane().apply(&deployment).map(drop)
    }

    /// Waits until there are so many incidents and all are in one of these phases; panics with what it saw instead.
    pub async fn incidents_in(&self, count: usize, phases: &[&str]) -> Vec<Value> {
        self.wait_for(&format!("{count} incidents in {phases:?}"), || {
            let incidents = self.get("incidents");
            let all = incidents.iter().all(|incident| phases.iter().any(|phase| incident["status"]["phase"] == *phase));
            (incidents.len() == count && all).then_some(incidents)
        })
        .await
    }

    /// Waits until this many messages came, on any path, and gives all that came.
    pub async fn messages(&self, count: usize) -> Vec<Received> {
        self.wait_for(&format!("{count} messages"), || {
            let received = self.sink.received();
            (received.len() >= count).then_some(received)
        })
        .await
    }

    /// Waits until `check` gives something. Panics with the shop's state when it does not, and as soon as a process has ended that
    /// nobody has stopped: what is waited for may never happen then, or for another reason.
    pub async fn wait_for<T>(&self, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
        self.wait_for_async(what, async || check()).await
    }

    /// The same for a check that has to wait itself.
    pub async fn wait_for_async<T>(&self, what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            if let Some(found) = check().await {
                return found;
            }
            if let Some(ended) = ended_by_themselves(self.environment.dir()).first() {
                panic!("{what}: {} has ended. Its last lines:\n{}", ended.name, ended.lines);
            }
            assert!(
                begin.elapsed() <= PATIENCE,
                "{what}: not within {} s. The shop:\n{}{}",
                PATIENCE.as_secs(),
                self.state(),
                self.logs()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn state(&self) -> String {
        let args = ["get", "eventpulse,deployments", "-n", "shop", "-o", "wide"];
        self.environment.plane().run_kubectl(&args).unwrap_or_else(|error| error.to_string())
    }

    /// The last lines of every EventPulse process: what is in the directory beside the environment's own parts.
    fn logs(&self) -> String {
        let parts: Vec<String> =
            self.environment.processes().iter().map(|part| part.name().to_owned()).chain(["audit".into()]).collect();
        let entries = std::fs::read_dir(self.environment.dir()).into_iter().flatten();
        let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "log"));
        files.sort();
        let name = |file: &Path| file.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let ours = files.iter().filter(|file| !parts.contains(&name(file)));
        let last = |file: &PathBuf| {
            let text = std::fs::read(file).unwrap_or_default();
            format!("\n{}:\n{}", name(file), last_lines(&String::from_utf8_lossy(&text)))
        };
        ours.map(last).collect()
    }
}

/// Writes a kubeconfig for a service account, by a token as its pods get it, and gives its place.
pub fn kubeconfig_of(plane: &ControlPlane, namespace: &str, account: &str, dir: &Path) -> Result<PathBuf> {
    let token = plane.run_kubectl(&["create", "token", account, "-n", namespace, "--duration=1h"])?;
    let (admin, path) = (plane.kubeconfig(), dir.join(format!("{namespace}-{account}.kubeconfig")));
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    };
    let text = std::fs::read_to_string(&admin).map_err(file(&admin))?;
    let lines = text.lines().map(|line| match line.split_once("token: ") {
        Some((indent, _)) => format!("{indent}token: {}\n", token.trim()),
        None => format!("{line}\n"),
    });
    std::fs::write(&path, lines.collect::<String>()).map_err(file(&path))?;
    Ok(path)
}

/// What `kubectl get -o json` lists.
fn items(text: &str) -> Vec<Value> {
    let list: Value = serde_json::from_str(text).unwrap_or_default();
    list["items"].as_array().cloned().unwrap_or_default()
}

/// Events and who is behind them, in the order of the incident's history.
pub fn history(incident: &Value) -> Vec<(String, String)> {
    let entries = incident["status"]["history"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    entries.iter().map(|entry| (text(&entry["event"]), text(&entry["by"]))).collect()
}

/// Whether the incident's history has this event by this one.
pub fn has(incident: &Value, event: &str, by: &str) -> bool {
    history(incident).iter().any(|(e, b)| e == event && b == by)
}
