//! What `run` would find on this machine: the token file, the data directory, a kubeconfig. In: the flags, right or wrong. Out: what is
//! wrong, and what is worth knowing. Nothing that stays is created.

use crate::{
    bus::{self, BusConfig},
    config::{RunFlags, Service},
    ingest::{self, check_token_file},
    runtime::{
        api_server::{self, ApiServerError},
        directory_lock::DirectoryLock,
        telemetry::{LogSettings, check_filter_file},
    },
};

/// What was found.
#[derive(Default)]
pub(super) struct Findings {
    /// With any of these `run` would fail.
    pub problems: Vec<String>,
    /// What is passed over.
    pub notes: Vec<String>,
    /// How many tokens there are.
    pub tokens: Option<usize>,
    /// What becomes of the data directory.
    pub data_dir: String,
    /// Where the API server is, or that it is not known here.
    pub api_server: String,
}

/// Looks at what the flags name.
pub(super) fn look(flags: &RunFlags) -> Findings {
    let mut findings = Findings::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            runtime.block_on(look_for_the_api_server(&mut findings));
            runtime.block_on(look_at_filters(flags, &mut findings));
            runtime.shutdown_background();
        }
        Err(error) => findings.problems.push(format!("the async runtime cannot be started: {error}")),
    }
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
    if let Ok(BusConfig::Kafka(kafka)) = flags.log.to_read()
        && let Err(problem) = bus::check_client(&kafka)
    {
        findings.problems.push(format!("--kafka-config: {problem}"));
    }
    let outbox = if receives { ingest::check_outbox_file(&flags.log.data_dir) } else { Ok(()) };
    // With brokers too: a log that was used before must hold nothing that waits.
    for problem in [bus::check_embedded_file(&flags.log.embedded()), outbox].into_iter().filter_map(Result::err) {
        findings.problems.push(format!("--data-dir: {problem}"));
    }
    if embedded || receives {
        // The log has a directory of its own in it, and that is what it locks; ingest's outbox is in the directory itself.
        let used = if embedded { flags.log.embedded() } else { flags.log.data_dir.clone() };
        if let Err(error) = DirectoryLock::check(&used) {
            findings.problems.push(format!("--data-dir: {error}"));
        }
    }
    findings
}

/// It need not be known where this is called: a pipeline that checks a configuration has no cluster. A kubeconfig that is named, or at
/// its usual place, has to do.
async fn look_for_the_api_server(findings: &mut Findings) {
    findings.api_server = match api_server::find().await {
        Ok(config) => config.cluster_url.to_string(),
        Err(ApiServerError::Unknown) => {
            "not known here; `run` needs KUBECONFIG, ~/.kube/config or the account of its pod".to_owned()
        }
        Err(error) => {
            findings.problems.push(error.to_string());
            String::new()
        }
    };
}

/// A filter that cannot be used keeps nothing from starting: it is passed over.
async fn look_at_filters(flags: &RunFlags, findings: &mut Findings) {
    if let Some(file) = &flags.log_filter_file
        && let Err(problem) = check_filter_file(file).await
    {
        findings.notes.push(format!("--log-filter-file {}: it is passed over: {problem}", file.display()));
    }
    if let (None, Ok(text)) = (&flags.log_filter, std::env::var("RUST_LOG"))
        && let Err(error) = LogSettings::check(&text)
    {
        findings.notes.push(format!("RUST_LOG: it is passed over: {error}"));
    }
}
