//! etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use crate::{
    error::{Error, Result, at},
    pki,
    ports::free_port,
    process::{Process, Spec, clean},
    run::Run,
    tools::{Tool, Tools},
};

const START_TIMEOUT: Duration = Duration::from_secs(90);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than any `--timeout` that is given to kubectl.
const KUBECTL_TIMEOUT: Duration = Duration::from_secs(180);
/// `kubectl apply` of standard input.
const APPLY: [&str; 5] = ["apply", "--server-side", "--force-conflicts", "-f", "-"];

/// How the control plane runs.
#[derive(Clone, Debug, Default)]
pub struct ControlPlaneOptions {
    /// etcd writes to disk before it answers, as in production. Off by default: tests are about order, not about disks.
    pub fsync: bool,
    /// The audit log holds request and response bodies too.
    pub audit_bodies: bool,
    /// The audit log holds reads too, a watch from its beginning.
    pub audit_reads: bool,
    /// etcd holds every object as JSON, for whoever reads there what took effect.
    pub json_in_etcd: bool,
}

/// A running control plane.
pub struct ControlPlane {
    dir: PathBuf,
    kubectl: PathBuf,
    server: String,
    ca_pem: String,
    admin_token: String,
    etcd_address: String,
    etcd: Option<Process>,
    apiserver: Option<Process>,
    others: Vec<Process>,
}

impl ControlPlane {
    pub(crate) async fn start(
        dir: &Path,
        tools: &Tools,
        options: &ControlPlaneOptions,
        detached: bool,
    ) -> Result<Self> {
        let admin_token = pki::random_hex(32)?;
        let ca_pem = pki::write(dir, &admin_token)?;
        let port = free_port();
        let server = format!("https://127.0.0.1:{port}");
        let kubeconfig = dir.join("kubeconfig");
        let text = pki::kubeconfig(&server, &dir.join("ca.crt"), &admin_token);
        std::fs::write(&kubeconfig, text).map_err(at(&kubeconfig))?;
        let spec = |name: &str| {
            Ok::<_, Error>(Spec::new(name, tools.program(Tool::Kubernetes, name)?, dir).detached(detached))
        };

        let client_port = free_port();
        let etcd = Process::spawn(etcd(spec("etcd")?, dir, client_port, options))?;
        etcd.wait_for_port(client_port, START_TIMEOUT).await?;
        let apiserver = Process::spawn(apiserver(spec("kube-apiserver")?, dir, port, client_port, options)?)?;
        let mut plane = Self {
            dir: dir.to_owned(),
            kubectl: tools.program(Tool::Kubernetes, "kubectl")?,
            server,
            ca_pem,
            admin_token,
            etcd_address: format!("127.0.0.1:{client_port}"),
            etcd: Some(etcd),
            apiserver: Some(apiserver),
            others: Vec::new(),
        };
        plane.wait_until_ready().await?;
        plane.others.push(Process::spawn(controller_manager(spec("kube-controller-manager")?, dir))?);
        plane.others.push(Process::spawn(scheduler(spec("kube-scheduler")?, dir))?);
        plane.others.push(Process::spawn(kwok(dir, tools, detached)?)?);
        plane.add_node().await?;
        Ok(plane)
    }

    /// Where the API server listens: `https://127.0.0.1:PORT`.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The certificate of the API server's authority.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The administrator's token.
    pub fn admin_token(&self) -> &str {
        &self.admin_token
    }

    /// A kubeconfig that knows this one server, as administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// One JSON object for each request that the API server answered.
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("audit.log")
    }

    /// A kubectl that can reach this server and no other.
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        clean(&mut command, &self.dir);
        command.env("KUBECONFIG", self.kubeconfig());
        command.arg("--kubeconfig").arg(self.kubeconfig());
        command
    }

    /// Runs kubectl with this input and gives what it printed. Dropping the future ends kubectl.
    pub async fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String> {
        printed(args, self.start_kubectl(args, input)?.end(KUBECTL_TIMEOUT).await?)
    }

    /// The same for tests, which may block their thread; a program that is to hear of Ctrl-C meanwhile may not.
    pub fn run_kubectl(&self, args: &[&str]) -> Result<String> {
        printed(args, self.start_kubectl(args, "")?.end_blocking(KUBECTL_TIMEOUT)?)
    }

    /// `kubectl apply` of a text, for tests.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        printed(&APPLY, self.start_kubectl(&APPLY, yaml)?.end_blocking(KUBECTL_TIMEOUT)?)
    }

    fn start_kubectl(&self, args: &[&str], input: &str) -> Result<Run> {
        let mut command = self.kubectl();
        command.args(args);
        Run::start("kubectl", command, input)
    }

    /// The API server's process.
    pub fn apiserver(&self) -> Option<&Process> {
        self.apiserver.as_ref()
    }

    /// Where etcd listens for clients, without TLS: `127.0.0.1:PORT`.
    pub fn etcd_address(&self) -> &str {
        &self.etcd_address
    }

    /// etcd's process.
    pub fn etcd(&self) -> Option<&Process> {
        self.etcd.as_ref()
    }

    /// Stops the API server; [`ControlPlane::start_apiserver`] brings it back on the same port.
    pub async fn stop_apiserver(&mut self) {
        if let Some(apiserver) = &self.apiserver {
            apiserver.stop(STOP_TIMEOUT).await;
        }
    }

    /// See [`ControlPlane::stop_apiserver`].
    pub async fn start_apiserver(&mut self) -> Result<()> {
        if let Some(stopped) = self.apiserver.take() {
            self.apiserver = Some(stopped.respawn()?);
        }
        self.wait_until_ready().await
    }

    /// Stops etcd; [`ControlPlane::start_etcd`] brings it back on the same port, with what it had.
    pub async fn stop_etcd(&mut self) {
        if let Some(etcd) = &self.etcd {
            etcd.stop(STOP_TIMEOUT).await;
        }
    }

    /// See [`ControlPlane::stop_etcd`].
    pub async fn start_etcd(&mut self) -> Result<()> {
        if let Some(stopped) = self.etcd.take() {
            self.etcd = Some(stopped.respawn()?);
        }
        self.wait_until_ready().await
    }

    pub(crate) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.others.iter().rev().chain(&self.apiserver).chain(&self.etcd)
    }

    /// Newest first, so that nothing misses what it needs.
    pub(crate) async fn stop(&self) {
        for process in self.processes() {
            process.stop(STOP_TIMEOUT).await;
        }
    }

    async fn wait_until_ready(&self) -> Result<()> {
        let Some(apiserver) = &self.apiserver else { return Ok(()) };
        let ready = async || {
            let mut command = self.kubectl();
            command.args(["get", "--raw", "/readyz", "--request-timeout=2s"]);
            let Ok(run) = Run::start("kubectl", command, "") else { return false };
            run.end(KUBECTL_TIMEOUT).await.is_ok_and(|output| output.status.success())
        };
        apiserver.wait_for("being ready", START_TIMEOUT, ready).await
    }

    async fn add_node(&self) -> Result<()> {
        let node = "apiVersion: v1\nkind: Node\nmetadata:\n  name: node-0\n  annotations: {kwok.x-k8s.io/node: fake}\n  labels: \
                    {kubernetes.io/hostname: node-0, kubernetes.io/os: linux}\nstatus:\n  allocatable: {cpu: '1000', memory: 4Ti, \
                    pods: '10000'}\n  capacity: {cpu: '1000', memory: 4Ti, pods: '10000'}\n";
        self.kubectl_with(&APPLY, node).await.map(drop)
    }
}

fn printed(args: &[&str], output: Output) -> Result<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(Error::Kubectl { arguments: args.join(" "), output: text + &String::from_utf8_lossy(&output.stderr) })
}

fn etcd(spec: Spec, dir: &Path, client_port: u16, options: &ControlPlaneOptions) -> Spec {
    let (client, peer) = (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{}", free_port()));
    let spec = spec
        .arg(format!("--data-dir={}", dir.join("etcd").display()))
        .arg(format!("--listen-client-urls={client}"))
        .arg(format!("--advertise-client-urls={client}"))
        .arg(format!("--listen-peer-urls={peer}"))
        .arg(format!("--initial-advertise-peer-urls={peer}"))
        .arg(format!("--initial-cluster=default={peer}"))
        .args(["--log-level=warn", "--quota-backend-bytes=4294967296", "--max-request-bytes=4194304"]);
    if options.fsync { spec } else { spec.arg("--unsafe-no-fsync") }
}

fn apiserver(spec: Spec, dir: &Path, port: u16, etcd_port: u16, options: &ControlPlaneOptions) -> Result<Spec> {
    let file = |name: &str| dir.join(name).display().to_string();
    let level = if options.audit_bodies { "RequestResponse" } else { "Metadata" };
    let reads = if options.audit_reads { "Metadata" } else { "None" };
    let omitted = if options.audit_reads { "RequestReceived" } else { "RequestReceived, ResponseStarted" };
    let policy = format!(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [{omitted}]\nrules:\n- level: {reads}\n  verbs: [get, list, \
         watch]\n- level: {level}\n"
    );
    std::fs::write(dir.join("audit-policy.yaml"), policy).map_err(at(dir.join("audit-policy.yaml")))?;
    let spec = if options.json_in_etcd { spec.arg("--storage-media-type=application/json") } else { spec };
    Ok(spec
        .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"])
        .arg(format!("--secure-port={port}"))
        .arg(format!("--etcd-servers=http://127.0.0.1:{etcd_port}"))
        .arg(format!("--tls-cert-file={}", file("apiserver.crt")))
        .arg(format!("--tls-private-key-file={}", file("apiserver.key")))
        .arg(format!("--service-account-key-file={}", file("sa.pub")))
        .arg(format!("--service-account-signing-key-file={}", file("sa.key")))
        .args(["--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.0.0.0/24"])
        .arg(format!("--token-auth-file={}", file("tokens.csv")))
        .args(["--authorization-mode=RBAC", "--allow-privileged=true", "--profiling=false"])
        .arg(format!("--audit-policy-file={}", file("audit-policy.yaml")))
        .arg(format!("--audit-log-path={}", file("audit.log")))
        // Megabytes: whoever counts in it needs it in one piece.
        .arg("--audit-log-maxsize=100000"))
}

fn controller_manager(spec: Spec, dir: &Path) -> Spec {
    let file = |name: &str| dir.join(name).display().to_string();
    spec.arg(format!("--kubeconfig={}", file("kubeconfig")))
        .arg(format!("--service-account-private-key-file={}", file("sa.key")))
        .arg(format!("--root-ca-file={}", file("ca.crt")))
        .args(["--leader-elect=false", "--secure-port=0", "--bind-address=127.0.0.1", "--profiling=false"])
        .args([
            "--kube-api-qps=400",
            "--kube-api-burst=800",
            "--concurrent-deployment-syncs=20",
            "--concurrent-replicaset-syncs=20",
        ])
}

fn scheduler(spec: Spec, dir: &Path) -> Spec {
    spec.arg(format!("--kubeconfig={}", dir.join("kubeconfig").display()))
        .args(["--leader-elect=false", "--secure-port=0", "--bind-address=127.0.0.1", "--profiling=false"])
        .args(["--kube-api-qps=400", "--kube-api-burst=800"])
}

fn kwok(dir: &Path, tools: &Tools, detached: bool) -> Result<Spec> {
    let tool = tools.dir(Tool::Kwok)?;
    let stages = tool.join("stages");
    let mut spec = Spec::new("kwok", tool.join("kwok"), dir)
        .detached(detached)
        .arg(format!("--kubeconfig={}", dir.join("kubeconfig").display()))
        .args(["--manage-all-nodes=true", "--server-address="]);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&stages)
        .map_err(at(&stages))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    files.sort();
    for file in files {
        spec = spec.arg(format!("--config={}", file.display()));
    }
    Ok(spec)
}
