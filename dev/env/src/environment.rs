//! One instance of the environment: the parts that were asked for, in a directory of its own.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    collector::Collector,
    control_plane::{ControlPlane, ControlPlaneOptions},
    error::Result,
    instance::{make_dir, stop_processes},
    kafka::Kafka,
    mail::{MailOptions, MailServer},
    monitoring::{Alertmanager, Prometheus},
    pki::random_hex,
    process::Process,
    run::Run,
    tools::{Tool, Tools},
};

const VERSION_TIMEOUT: Duration = Duration::from_secs(60);

/// What to start. See [`Environment::builder`].
#[derive(Clone, Debug)]
pub struct EnvironmentBuilder {
    name: String,
    dir: Option<PathBuf>,
    control_plane: Option<ControlPlaneOptions>,
    kafka: bool,
    kafka_proxy: Option<u16>,
    keep: bool,
}

impl EnvironmentBuilder {
    /// A control plane.
    pub fn control_plane(mut self, options: ControlPlaneOptions) -> Self {
        self.control_plane = Some(options);
        self
    }

    /// A Kafka broker.
    pub fn kafka(mut self, kafka: bool) -> Self {
        self.kafka = kafka;
        self
    }

    /// A Kafka broker that sends whoever comes through a proxy back to this port of it.
    pub fn kafka_behind(mut self, proxy: u16) -> Self {
        (self.kafka, self.kafka_proxy) = (true, Some(proxy));
        self
    }

    /// Its directory, which must not exist yet; by default a new one below the system's temporary directory.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Everything can go on running when this process ends: see [`Environment::leave`].
    pub fn keep(mut self, keep: bool) -> Self {
        self.keep = keep;
        self
    }

    /// Builds what is missing and starts everything; when a part fails, or the future is dropped, what was started is stopped.
    pub async fn start(self) -> Result<Environment> {
        let tools = Tools::new();
        let mut needed = Vec::new();
        if self.control_plane.is_some() {
            needed.extend([Tool::Kubernetes, Tool::Kwok]);
        }
        if self.kafka {
            needed.push(Tool::Kafka);
        }
        tools.ensure(&needed).await?;
        let dir = match &self.dir {
            Some(dir) => dir.clone(),
            None => new_dir(&self.name)?,
        };
        make_dir(&dir)?;
        let mut environment = Environment {
            dir: dir.clone(),
            tools,
            detached: self.keep,
            left: false,
            plane: None,
            kafka: None,
            alertmanagers: Vec::new(),
            prometheus: None,
            collector: None,
            mail_servers: Vec::new(),
        };
        let plane = async {
            match &self.control_plane {
                Some(options) => ControlPlane::start(&dir, &environment.tools, options, self.keep).await.map(Some),
                None => Ok(None),
            }
        };
        let kafka = async {
            if !self.kafka {
                return Ok(None);
            }
            Kafka::start(&dir, &environment.tools, self.kafka_proxy, self.keep).await.map(Some)
        };
        let (plane, kafka) = tokio::join!(plane, kafka);
        (environment.plane, environment.kafka) = (plane?, kafka?);
        Ok(environment)
    }
}

fn new_dir(name: &str) -> Result<PathBuf> {
    let (pid, suffix) = (std::process::id(), random_hex(4)?);
    Ok(std::env::temp_dir().join(format!("eventpulse-{name}-{pid}-{suffix}")))
}

/// Running parts. Dropping it stops them, and whatever else was recorded in its directory, and removes that, unless it was left.
pub struct Environment {
    dir: PathBuf,
    tools: Tools,
    detached: bool,
    left: bool,
    plane: Option<ControlPlane>,
    kafka: Option<Kafka>,
    alertmanagers: Vec<Alertmanager>,
    prometheus: Option<Prometheus>,
    collector: Option<Collector>,
    mail_servers: Vec<MailServer>,
}

impl Environment {
    /// `name` is part of its directory's name.
    pub fn builder(name: impl Into<String>) -> EnvironmentBuilder {
        EnvironmentBuilder {
            name: name.into(),
            dir: None,
            control_plane: None,
            kafka: false,
            kafka_proxy: None,
            keep: false,
        }
    }

    /// Its directory: logs, pids, kubeconfig, audit log.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The control plane. It must have been asked for.
    pub fn plane(&self) -> &ControlPlane {
        self.plane.as_ref().unwrap_or_else(|| panic!("this environment was started without a control plane"))
    }

    /// The control plane, to stop and start its parts.
    pub fn plane_mut(&mut self) -> &mut ControlPlane {
        self.plane.as_mut().unwrap_or_else(|| panic!("this environment was started without a control plane"))
    }

    /// The broker. It must have been asked for.
    pub fn kafka(&self) -> &Kafka {
        self.kafka.as_ref().unwrap_or_else(|| panic!("this environment was started without Kafka"))
    }

    /// The broker, to stop and start it.
    pub fn kafka_mut(&mut self) -> &mut Kafka {
        self.kafka.as_mut().unwrap_or_else(|| panic!("this environment was started without Kafka"))
    }

    /// Starts one more Alertmanager; several make a highly available pair as far as receivers can tell.
    pub async fn start_alertmanager(&mut self, name: &str, config: &str) -> Result<&Alertmanager> {
        self.tools.ensure(&[Tool::Alertmanager]).await?;
        let alertmanager = Alertmanager::start(&self.dir, &self.tools, name, config, self.detached).await?;
        self.alertmanagers.push(alertmanager);
        Ok(&self.alertmanagers[self.alertmanagers.len() - 1])
    }

    /// Starts Prometheus.
    pub async fn start_prometheus(&mut self, config: &str, rules: &str) -> Result<&Prometheus> {
        self.tools.ensure(&[Tool::Prometheus]).await?;
        Ok(self.prometheus.insert(Prometheus::start(&self.dir, &self.tools, config, rules, self.detached).await?))
    }

    /// Starts the OpenTelemetry Collector.
    pub async fn start_collector(&mut self) -> Result<&Collector> {
        self.tools.ensure(&[Tool::Otelcol]).await?;
        Ok(self.collector.insert(Collector::start(&self.dir, &self.tools, self.detached).await?))
    }

    /// The Collector. It must have been started.
    pub fn collector(&self) -> &Collector {
        self.collector.as_ref().unwrap_or_else(|| panic!("no Collector was started in this environment"))
    }

    /// The Collector, to stop and start it.
    pub fn collector_mut(&mut self) -> &mut Collector {
        self.collector.as_mut().unwrap_or_else(|| panic!("no Collector was started in this environment"))
    }

    /// Starts one more mail server.
    pub async fn start_mail_server(&mut self, name: &str, options: &MailOptions) -> Result<&MailServer> {
        self.tools.ensure(&[Tool::Mailpit]).await?;
        let server = MailServer::start(&self.dir, &self.tools, name, options, self.detached).await?;
        self.mail_servers.push(server);
        Ok(&self.mail_servers[self.mail_servers.len() - 1])
    }

    /// The mail server of this name, to stop and start it. It must have been started.
    pub fn mail_server_mut(&mut self, name: &str) -> &mut MailServer {
        let found = self.mail_servers.iter_mut().find(|server| server.process().name() == name);
        found.unwrap_or_else(|| panic!("there is no mail server {name} in this environment"))
    }

    /// The versions of the parts that can run here, one a line.
    pub fn versions(&self) -> Vec<String> {
        let mut programs: Vec<(Tool, &str, &[&str])> = Vec::new();
        if self.plane.is_some() {
            programs.extend([
                (Tool::Kubernetes, "etcd", &["--version"][..]),
                (Tool::Kubernetes, "kube-apiserver", &["--version"]),
                (Tool::Kubernetes, "kube-controller-manager", &["--version"]),
                (Tool::Kubernetes, "kube-scheduler", &["--version"]),
                (Tool::Kwok, "kwok", &["--version"]),
            ]);
        }
        if !self.alertmanagers.is_empty() {
            programs.push((Tool::Alertmanager, "alertmanager", &["--version"]));
        }
        if self.prometheus.is_some() {
            programs.push((Tool::Prometheus, "prometheus", &["--version"]));
        }
        if self.collector.is_some() {
            programs.push((Tool::Otelcol, "otelcol", &["--version"]));
        }
        if !self.mail_servers.is_empty() {
            programs.push((Tool::Mailpit, "mailpit", &["version", "--no-release-check"]));
        }
        let mut lines: Vec<String> =
            programs.into_iter().map(|(tool, name, args)| self.version(tool, name, args)).collect();
        if self.kafka.is_some() {
            lines.push(format!("kafka: {}", kafka_version(&self.tools)));
        }
        lines
    }

    fn version(&self, tool: Tool, name: &str, args: &[&str]) -> String {
        let Ok(program) = self.tools.program(tool, name) else { return format!("{name}: not built") };
        let mut command = Command::new(program);
        crate::process::clean(&mut command, &self.dir);
        command.args(args);
        let output = Run::start(name, command, "").and_then(|run| run.end_blocking(VERSION_TIMEOUT));
        let text =
            output.map(|o| String::from_utf8_lossy(&[o.stdout, o.stderr].concat()).into_owned()).unwrap_or_default();
        format!("{name}: {}", text.lines().next().unwrap_or("says nothing"))
    }

    /// Every process, in the order in which they may be stopped.
    pub fn processes(&self) -> Vec<&Process> {
        let prometheus = self.prometheus.iter().map(Prometheus::process);
        let alertmanagers = self.alertmanagers.iter().map(Alertmanager::process);
        let plane = self.plane.iter().flat_map(ControlPlane::processes);
        let mail = self.mail_servers.iter().map(MailServer::process);
        let rest = self.kafka.iter().map(Kafka::process).chain(self.collector.iter().map(Collector::process));
        prometheus.chain(alertmanagers).chain(mail).chain(plane).chain(rest).collect()
    }

    /// Stops everything in order and removes the directory.
    pub async fn stop(self) {
        if let Some(plane) = &self.plane {
            plane.stop().await;
        }
        if let Some(kafka) = &self.kafka {
            kafka.process().kill();
        }
        for process in self.processes() {
            process.kill();
        }
    }
}

impl Environment {
    /// Everything goes on running without this process; [`stop_instance`](crate::stop_instance) stops it. It must have been started
    /// with [`EnvironmentBuilder::keep`].
    pub fn leave(mut self) {
        self.left = self.detached;
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        for process in self.processes() {
            process.kill();
        }
        // A part that failed to start, or a program beside the parts, that would outlive this process.
        let _ = stop_processes(&self.dir, Duration::ZERO);
        if std::env::var_os("EVENTPULSE_KEEP_LOGS").is_none() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn kafka_version(tools: &Tools) -> String {
    let jars = tools.dir(Tool::Kafka).ok().and_then(|dir| std::fs::read_dir(dir).ok());
    jars.into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_prefix("kafka-server-")?.strip_suffix(".jar")?.to_owned()))
        .find(|version| version.starts_with(|c: char| c.is_ascii_digit()))
        .unwrap_or_else(|| "unknown".into())
}
