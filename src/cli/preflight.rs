//! What `run` would find on this machine: the token file, the data directory, a kubeconfig. In: the flags, right or wrong. Out: what is
//! wrong, and what is worth knowing. Nothing that stays is created.

use crate::{
    config::{RunFlags, Service},
    ingest::check_token_file,
    runtime::directory_lock::DirectoryLock,
};

/// What was found.
#[derive(Default)]
pub(super) struct Findings {
    /// With any of these `run` would fail.
    pub problems: Vec<String>,
    /// How many tokens there are.
    pub tokens: Option<usize>,
    /// What becomes of the data directory.
    pub data_dir: String,
    /// Where the API server is, or that it is not known here.
    pub api_server: String,
}

/// Looks at what the flags name.
pub(super) fn look(flags: &RunFlags) -> Findings {
    let mut findings = Findings { api_server: api_server(), ..Findings::default() };
    let receives = flags.services().contains(&Service::Ingest);
    if let Some(file) = flags.auth_token_file.as_deref().filter(|_| receives) {
        match check_token_file(file) {
            Ok(tokens) => findings.tokens = Some(tokens),
            Err(error) => findings.problems.push(error.to_string()),
        }
    }
    let embedded = flags.log.kafka_brokers.is_empty();
    findings.data_dir = match flags.log.data_dir.display() {
        _ if !embedded && !receives => "not used: no service of this process keeps anything".to_owned(),
        directory if flags.log.data_dir.is_dir() => format!("{directory}, is there"),
        directory => format!("{directory}, will be created"),
    };
    if embedded || receives {
        // The log has a directory of its own in it, and that is what it locks; ingest's outbox is in the directory itself.
        let used = if embedded { flags.log.embedded() } else { flags.log.data_dir.clone() };
        if let Err(error) = DirectoryLock::check(&used) {
            findings.problems.push(format!("--data-dir: {error}"));
        }
    }
    findings
}

/// It need not be known where this is called: a pipeline that checks a configuration has no cluster.
fn api_server() -> String {
    let infer = || -> anyhow::Result<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(kube::Config::infer())?.cluster_url.to_string())
    };
    infer().unwrap_or_else(|_| {
        "not known here; `run` needs KUBECONFIG, ~/.kube/config or the account of its pod".to_owned()
    })
}
