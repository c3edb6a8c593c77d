//! One Apache Kafka broker in KRaft mode, which is its own controller.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    error::{Error, Result, at},
    kafka_client::KafkaClient,
    ports::free_port,
    process::{Process, Spec, clean, last_lines},
    run::Run,
    tools::{Tool, Tools},
};

const START_TIMEOUT: Duration = Duration::from_secs(90);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Any 16 bytes in base 64.
const CLUSTER_ID: &str = "ZXZlbnRwdWxzZS1lbnYtMQ";

/// A broker, running or stopped.
pub struct Kafka {
    jars: PathBuf,
    dir: PathBuf,
    port: u16,
    /// Where it listens for those who come through a proxy.
    proxied: u16,
    process: Process,
}

impl Kafka {
    /// `proxy`: the port of a proxy, if there is one, that whoever comes through it is sent back to.
    pub(crate) async fn start(dir: &Path, tools: &Tools, proxy: Option<u16>, detached: bool) -> Result<Self> {
        let jars = tools.dir(Tool::Kafka)?;
        let (port, controller_port, proxied) = (free_port(), free_port(), free_port());
        let properties = write_properties(dir, port, controller_port, (proxied, proxy.unwrap_or(proxied)))?;
        format(dir, &jars, &properties).await?;
        let spec = Spec::new("kafka", "java", dir)
            .detached(detached)
            .args(["-Xms256m", "-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"])
            .arg(format!("{}/*", jars.display()))
            .arg("kafka.Kafka")
            .arg(properties.display().to_string());
        let kafka = Self { dir: dir.to_owned(), port, proxied, process: Process::spawn(spec)?, jars };
        kafka.wait_until_ready().await?;
        Ok(kafka)
    }

    /// `127.0.0.1:PORT`.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where a proxy leads to: `127.0.0.1:PORT`.
    pub fn proxied(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.proxied))
    }

    /// Kafka's own command line tools on this broker: a client that is not ours.
    pub fn client(&self) -> KafkaClient {
        KafkaClient::new(&self.jars, &self.dir, self.bootstrap())
    }

    /// The broker's process, for freezing and killing.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Stops the broker in order. What it has stays on disk.
    pub async fn stop(&self) {
        self.process.stop(STOP_TIMEOUT).await;
    }

    /// Starts it again on the same port with the same data.
    pub async fn restart(&mut self) -> Result<()> {
        self.process = self.process.respawn()?;
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&self) -> Result<()> {
        self.process.wait_for_port(self.port, START_TIMEOUT).await
    }
}

/// `proxied`: where it listens for those who come through a proxy, and the port that it tells them.
fn write_properties(dir: &Path, port: u16, controller_port: u16, proxied: (u16, u16)) -> Result<PathBuf> {
    let (behind, proxy) = proxied;
    let path = dir.join("server.properties");
    let text = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller_port}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{behind},CONTROLLER://127.0.0.1:{controller_port}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{proxy}\n\
         inter.broker.listener.name=PLAINTEXT\ncontroller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT\nlog.dirs={}\n\
         offsets.topic.replication.factor=1\noffsets.topic.num.partitions=4\ntransaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\nshare.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\ngroup.initial.rebalance.delay.ms=0\nauto.create.topics.enable=false\n\
         log.retention.check.interval.ms=60000\n",
        dir.join("kafka").display()
    );
    std::fs::write(&path, text).map_err(at(&path))?;
    Ok(path)
}

async fn format(dir: &Path, jars: &Path, properties: &Path) -> Result<()> {
    let mut command = Command::new("java");
    clean(&mut command, dir);
    command.args(["-XX:TieredStopAtLevel=1", "-cp"]).arg(format!("{}/*", jars.display()));
    command.args(["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", CLUSTER_ID, "-c"]).arg(properties);
    let output = Run::start("kafka's StorageTool", command, "")?.end(START_TIMEOUT).await?;
    if output.status.success() {
        return Ok(());
    }
    let lines = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Err(Error::Died {
        name: "kafka's StorageTool".into(),
        status: output.status.to_string(),
        lines: last_lines(&lines),
    })
}
