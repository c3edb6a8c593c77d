//! EventPulse as a process of its own, reached by HTTP only.
//!
//! In: the release binary (`EVENTPULSE_BIN`, or `target/release/eventpulse`), a kubeconfig, flags. Out: a process that listens on free
//! ports of loopback, whose log is a file, and which ends with its handle, or with the test however that ends.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use eventpulse_env::{Error, Process, Result, Spec, free_port};
use serde_json::Value;

use crate::client::{self, NoReply, Reply};

/// How to start EventPulse.
#[derive(Clone, Debug)]
pub struct Launcher {
    name: String,
    program: Option<PathBuf>,
    dir: PathBuf,
    kubeconfig: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    detached: bool,
}

impl Launcher {
    /// `name` names its log, `dir` is where that and its data directory are, unless a flag says otherwise.
    pub fn new(name: &str, dir: &Path, kubeconfig: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program: None,
            dir: dir.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            detached: false,
        }
    }

    /// Another binary.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// Only these services; it needs a broker then.
    pub fn services(self, services: &[&str]) -> Self {
        self.arg(format!("--services={}", services.join(",")))
    }

    /// On these brokers, with this prefix for topics and groups.
    pub fn kafka(self, brokers: &str, prefix: &str) -> Self {
        self.arg(format!("--kafka-brokers={brokers}")).arg(format!("--topic-prefix={prefix}"))
    }

    /// Only senders with a token of this file may raise alerts.
    pub fn token_file(self, file: &Path) -> Self {
        self.arg(format!("--auth-token-file={}", file.display()))
    }

    /// A data directory that outlives it or is shared.
    pub fn data_dir(self, dir: &Path) -> Self {
        self.arg(format!("--data-dir={}", dir.display()))
    }

    /// One more flag of `eventpulse run`.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// A variable of its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// It outlives this process.
    pub fn detached(mut self, detached: bool) -> Self {
        self.detached = detached;
        self
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self, timeout: Duration) -> Result<EventPulse> {
        let eventpulse = self.spawn()?;
        eventpulse.wait_ready(timeout).await?;
        Ok(eventpulse)
    }

    /// Starts it and does not wait.
    pub fn spawn(self) -> Result<EventPulse> {
        let program = match &self.program {
            Some(program) => program.clone(),
            None => find_binary()?,
        };
        let (listen, admin) = (free_port(), free_port());
        let given = |flag: &str| self.args.iter().any(|arg| arg == flag || arg.starts_with(&format!("{flag}=")));
        let mut spec = Spec::new(&self.name, program, &self.dir)
            .arg("run")
            .arg(format!("--listen=127.0.0.1:{listen}"))
            .arg(format!("--admin-listen=127.0.0.1:{admin}"))
            .env("KUBECONFIG", self.kubeconfig.display().to_string())
            .detached(self.detached);
        if !given("--data-dir") {
            spec = spec.arg(format!("--data-dir={}", self.dir.join(format!("{}-data", self.name)).display()));
        }
        spec = spec.args(self.args.clone());
        for (name, value) in self.env {
            spec = spec.env(name, value);
        }
        Ok(EventPulse { process: Process::spawn(spec)?, listen, admin })
    }
}

/// A running EventPulse. Dropping it ends it, unless it is detached.
pub struct EventPulse {
    process: Process,
    listen: u16,
    admin: u16,
}

impl EventPulse {
    /// Where alerts are received.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{}", self.listen, path.trim_start_matches('/'))
    }

    /// Where readiness and metrics are served.
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{}", self.admin, path.trim_start_matches('/'))
    }

    /// What `/readyz` says: whether all is well, and which parts are not. None where nobody answers.
    pub async fn readiness(&self) -> Option<Reply> {
        client::get(&self.admin_url("readyz")).await.ok()
    }

    /// Waits until `/readyz` says so. When it does not, the error has what `/readyz` misses and the log's last lines.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let url = self.admin_url("readyz");
        let ready = async || client::get(&url).await.is_ok_and(|reply| reply.is_success());
        match self.process.wait_for("/readyz answering 200", timeout, ready).await {
            Err(Error::Timeout { name, what, seconds, lines }) => {
                let missing = client::get(&url).await.map_or_else(|error| error.to_string(), |reply| reply.text());
                Err(Error::Timeout { name, what: format!("{what} (it says: {})", missing.trim()), seconds, lines })
            }
            result => result,
        }
    }

    /// Posts JSON to it, like an Alertmanager payload to `webhooks/alertmanager`.
    pub async fn post(&self, path: &str, body: &Value) -> std::result::Result<Reply, NoReply> {
        client::post(&self.url(path), body).await
    }

    /// `/metrics` as it is now; empty when it does not answer.
    pub async fn metrics(&self) -> String {
        client::get(&self.admin_url("metrics")).await.map_or_else(|_| String::new(), |reply| reply.text())
    }

    /// The sum of a metric over all of its labels that hold this text, like `outcome="accepted"`; any with an empty one.
    pub async fn metric(&self, name: &str, labels: &str) -> f64 {
        sum_of(&self.metrics().await, name, labels)
    }

    /// The process: its pid, its log, SIGSTOP and SIGCONT.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// SIGTERM, and SIGKILL when that does not end it in time. True when it ended by itself and well.
    pub async fn stop(&self, timeout: Duration) -> bool {
        self.process.stop(timeout).await.is_some_and(|status| status.success())
    }

    /// Starts it again after it has ended: the same flags, ports and data directory.
    pub async fn start_again(&self, timeout: Duration) -> Result<Self> {
        let again = Self { process: self.process.respawn()?, listen: self.listen, admin: self.admin };
        again.wait_ready(timeout).await?;
        Ok(again)
    }
}

fn sum_of(text: &str, name: &str, labels: &str) -> f64 {
    text.lines()
        .filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(labels)
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// The release binary: `EVENTPULSE_BIN`, or the one of this workspace. Absolute, because it is started in a directory of its own.
pub fn find_binary() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("EVENTPULSE_BIN") {
        let given = PathBuf::from(given);
        return std::path::absolute(&given).map_err(|source| Error::File { path: given, source });
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let program = std::env::current_exe().unwrap_or_default();
    release_beside(&program).or_else(|| release_in(&workspace)).ok_or_else(|| Error::Missing {
        what: format!("there is no release/eventpulse in the target directory of {}", program.display()),
        remedy: "cargo build --release, or say with EVENTPULSE_BIN where the binary is".into(),
    })
}

/// In the target directory that a program of this workspace is in, wherever Cargo was told to have it.
fn release_beside(program: &Path) -> Option<PathBuf> {
    program.ancestors().skip(1).find_map(release_in)
}

fn release_in(target: &Path) -> Option<PathBuf> {
    Some(target.join("release/eventpulse")).filter(|binary| binary.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_is_found_in_the_target_directory_that_the_tests_are_in() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("elsewhere");
        std::fs::create_dir_all(target.join("release")).unwrap();
        let (test, demo) = (target.join("debug/deps/end_to_end-0"), target.join("debug/eventpulse-demo"));
        assert_eq!(release_beside(&test), None);
        std::fs::write(target.join("release/eventpulse"), "").unwrap();
        for program in [test, demo, target.join("x86_64-unknown-linux-gnu/debug/deps/end_to_end-0")] {
            assert_eq!(release_beside(&program), Some(target.join("release/eventpulse")));
        }
    }

    #[test]
    fn a_metric_is_summed_over_the_labels_that_are_asked_for() {
        let text =
            "# HELP a_total x\na_total{outcome=\"ok\"} 2\na_total{outcome=\"no\"} 3\na_total_more 7\nb 1.5\n# EOF\n";
        assert_eq!(sum_of(text, "a_total", ""), 5.0);
        assert_eq!(sum_of(text, "a_total", "outcome=\"no\""), 3.0);
        assert_eq!((sum_of(text, "b", ""), sum_of(text, "c", "")), (1.5, 0.0));
    }
}
