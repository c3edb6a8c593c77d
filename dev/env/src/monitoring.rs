//! Alertmanager and Prometheus, each with the configuration that the test gives.

use std::{path::Path, time::Duration};

use crate::{
    error::{Result, at},
    ports::free_port,
    process::{Process, Spec},
    tools::{Tool, Tools},
};

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running Alertmanager.
pub struct Alertmanager {
    port: u16,
    process: Process,
}

impl Alertmanager {
    /// `name` tells several apart; `config` is the text of `alertmanager.yml`.
    pub(crate) async fn start(dir: &Path, tools: &Tools, name: &str, config: &str, detached: bool) -> Result<Self> {
        let file = dir.join(format!("{name}.yml"));
        std::fs::write(&file, config).map_err(at(&file))?;
        let port = free_port();
        let spec = Spec::new(name, tools.dir(Tool::Alertmanager)?.join("alertmanager"), dir)
            .detached(detached)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.path={}", dir.join(format!("{name}-data")).display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--cluster.listen-address=");
        let process = Process::spawn(spec)?;
        process.wait_for_port(port, START_TIMEOUT).await?;
        Ok(Self { port, process })
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// A running Prometheus.
pub struct Prometheus {
    port: u16,
    process: Process,
}

impl Prometheus {
    /// `config` is the text of `prometheus.yml`, `rules` that of the file `rules.yml` beside it.
    pub(crate) async fn start(dir: &Path, tools: &Tools, config: &str, rules: &str, detached: bool) -> Result<Self> {
        for (name, text) in [("prometheus.yml", config), ("rules.yml", rules)] {
            let path = dir.join(name);
            std::fs::write(&path, text).map_err(at(path))?;
        }
        let port = free_port();
        let spec = Spec::new("prometheus", tools.dir(Tool::Prometheus)?.join("prometheus"), dir)
            .detached(detached)
            .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("prometheus-data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let process = Process::spawn(spec)?;
        process.wait_for_port(port, START_TIMEOUT).await?;
        Ok(Self { port, process })
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}
