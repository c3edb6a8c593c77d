//! The way to the API server, found as kubectl finds it: KUBECONFIG, ~/.kube/config, or the account of the pod.
//!
//! In: this process's environment. Out: how to reach it, and clients. A kubeconfig is full of secrets: an error says where something is
//! wrong and never what stands there. Its plugins are other programs: they run away from the async threads, and have a deadline.

use std::{error::Error as _, path::PathBuf, time::Duration};

use kube::{
    Client, Config,
    client::AuthError,
    config::{Kubeconfig, KubeconfigError},
};

use super::{Metrics, kube_api};

/// How long reading the kubeconfig, or its plugin, may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiServerError {
    /// There is neither a kubeconfig nor an account.
    #[error(
        "there is no KUBECONFIG, no ~/.kube/config and no account of a pod; set KUBECONFIG, or run in a pod with a service account"
    )]
    Unknown,
    /// A kubeconfig is named, or at its usual place, and cannot be used.
    #[error("kubeconfig {file}: {problem}; `kubectl version` shows whether it can be used")]
    Kubeconfig {
        /// The file, or all that KUBECONFIG lists.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// What the kubeconfig, or the account of the pod, holds leads to no client.
    #[error("the credentials for the API server: {0}")]
    Credentials(String),
}

/// Where the API server is, and as whom to ask it.
pub async fn find() -> Result<Config, ApiServerError> {
    let reading = tokio::task::spawn_blocking(|| tokio::runtime::Handle::current().block_on(Config::infer()));
    match tokio::time::timeout(PATIENCE, reading).await {
        Ok(Ok(Ok(config))) => Ok(config),
        Ok(Ok(Err(error))) => {
            Err(said(error.source().and_then(|source| source.downcast_ref::<KubeconfigError>()), files()))
        }
        Ok(Err(error)) => Err(broken(files(), error.to_string())),
        Err(_) => Err(broken(files(), format!("it cannot be read within {} s", PATIENCE.as_secs()))),
    }
}

/// A service's client, as [`kube_api::client`] makes it. The kubeconfig's plugin is asked meanwhile, where there is one.
pub async fn client(config: &Config, service: &'static str, metrics: &Metrics) -> Result<Client, ApiServerError> {
    client_within(PATIENCE, config, service, metrics).await
}

async fn client_within(
    patience: Duration,
    config: &Config,
    service: &'static str,
    metrics: &Metrics,
) -> Result<Client, ApiServerError> {
    let plugin = config.auth_info.exec.as_ref().and_then(|exec| exec.command.clone());
    let asked = || plugin.as_ref().map_or_else(|| "they".to_owned(), |command| format!("the plugin {command}"));
    let (config, metrics) = (config.clone(), metrics.clone());
    let making = tokio::task::spawn_blocking(move || kube_api::client(&config, service, &metrics));
    let problem = match tokio::time::timeout(patience, making).await {
        Ok(Ok(Ok(client))) => return Ok(client),
        Ok(Ok(Err(kube::Error::Auth(error)))) => match error {
            // These hold what the plugin printed, and its environment.
            AuthError::AuthExecRun { out, .. } => format!("{} failed ({})", asked(), out.status),
            AuthError::AuthExecParse(_) => format!("{} answered what is no ExecCredential", asked()),
            AuthError::AuthExecStart(error) => format!("{} cannot be started: {error}", asked()),
            error => without_values(&error.to_string()),
        },
        Ok(Ok(Err(error))) => first_line(&error.to_string()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("{} did not answer within {} s", asked(), patience.as_secs()),
    };
    Err(ApiServerError::Credentials(problem))
}

fn said(error: Option<&KubeconfigError>, files: Vec<PathBuf>) -> ApiServerError {
    if files.is_empty() {
        return ApiServerError::Unknown;
    }
    match error {
        Some(KubeconfigError::Parse(_)) => {
            let broken_one = files.iter().find_map(|file| match Kubeconfig::read_from(file) {
                Err(KubeconfigError::Parse(error)) => {
                    let error = error.without_snippet();
                    let place = error.location().map(|at| format!("line {}, column {}: ", at.line(), at.column()));
                    let problem = without_values(&error.to_string());
                    Some(broken(vec![file.clone()], format!("{}{problem}", place.unwrap_or_default())))
                }
                _ => None,
            });
            broken_one.unwrap_or_else(|| broken(files, "it is no YAML".into()))
        }
        Some(KubeconfigError::ReadConfig(error, file)) => broken(vec![file.clone()], error.to_string()),
        Some(KubeconfigError::LoadContext(name)) => broken(files, format!("there is no context {name:?}")),
        Some(KubeconfigError::LoadClusterOfContext(name)) => broken(files, format!("there is no cluster {name:?}")),
        Some(KubeconfigError::CurrentContextNotSet) => broken(files, "current-context is not set".into()),
        Some(other) => broken(files, first_line(&other.to_string())),
        None => broken(files, "it cannot be used".into()),
    }
}

fn broken(files: Vec<PathBuf>, problem: String) -> ApiServerError {
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    ApiServerError::Kubeconfig { file: files.join(", "), problem }
}

/// Those that KUBECONFIG lists, else the usual one where it is there.
fn files() -> Vec<PathBuf> {
    let listed = std::env::var_os("KUBECONFIG").unwrap_or_default();
    let listed: Vec<PathBuf> = std::env::split_paths(&listed).filter(|path| !path.as_os_str().is_empty()).collect();
    if !listed.is_empty() {
        return listed;
    }
    std::env::home_dir().map(|home| home.join(".kube/config")).filter(|file| file.exists()).into_iter().collect()
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// The first line of an error of a parser, without what it repeats of the text: only the names of fields are left in it.
fn without_values(text: &str) -> String {
    let line = first_line(text);
    let mut from = 0;
    while let Some(at) = line[from..].find(['"', '`', '\'']).map(|at| from + at) {
        let name_length = if line[..at].ends_with("field ") { line[at + 1..].find('`') } else { None };
        let Some(length) = name_length else {
            let expected = line[at..].rfind(", expected ").map_or("", |found| &line[at + found..]);
            return format!("{}…{expected}", &line[..at]);
        };
        from = at + length + 2;
    }
    line
}

#[cfg(test)]
mod tests {
    use kube::config::ExecConfig;

    use super::*;

    #[test]
    fn a_broken_kubeconfig_is_told_by_its_place_and_none_of_its_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        let users = |user: &str| format!("apiVersion: v1\nkind: Config\nusers:\n- name: a\n  user:\n{user}\n");
        for (text, line) in [
            (users("    token: hunter2\n   password: hunter2"), "line "),
            (users("    token: {a: hunter2}\n    password: 'hunter2"), "line "),
            (users("    client-key-data: [hunter2]"), "line "),
            (users("    exec: hunter2"), "line "),
            (users("    exec: {args: hunter2}"), "line "),
            ("users: hunter2\n".to_owned(), "line "),
            ("hunter2: {\n".to_owned(), "line "),
        ] {
            std::fs::write(&file, &text).unwrap();
            let error = Kubeconfig::read_from(&file).unwrap_err();
            let said = said(Some(&error), vec!["/nonexistent".into(), file.clone()]).to_string();
            assert!(said.starts_with(&format!("kubeconfig {}: {line}", file.display())), "{text}: {said}");
            assert!(!said.contains("hunter2") && said.lines().count() == 1, "{text}: {said}");
        }
    }

    #[test]
    fn what_is_missing_in_a_kubeconfig_is_named() {
        let file = std::path::PathBuf::from("/a/config");
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        for (error, says) in [
            (KubeconfigError::LoadContext("prod".into()), "kubeconfig /a/config: there is no context \"prod\""),
            (KubeconfigError::CurrentContextNotSet, "kubeconfig /a/config: current-context is not set"),
            (KubeconfigError::ReadConfig(missing, "/b".into()), "kubeconfig /b: entity not found"),
        ] {
            let said = said(Some(&error), vec![file.clone()]).to_string();
            assert!(said.starts_with(says), "{said}");
        }
        assert_eq!(said(None, Vec::new()), ApiServerError::Unknown);
    }

    #[test]
    fn a_parsers_error_keeps_the_names_of_fields_and_no_value() {
        for (text, kept) in [
            ("missing field `name`", "missing field `name`"),
            (
                "invalid type: string \"a\\\"b, expected c\", expected a sequence",
                "invalid type: string …, expected a sequence",
            ),
            ("invalid type: integer `7`, expected a map\n 1 | secret", "invalid type: integer …, expected a map"),
            ("unknown field `a`, 'b'", "unknown field `a`, …"),
        ] {
            assert_eq!(without_values(text), kept);
        }
    }

    fn with_plugin(script: &str) -> Config {
        let mut config = Config::new("http://127.0.0.1:1".parse().unwrap());
        let args = Some(vec!["-c".to_owned(), script.to_owned()]);
        let exec = ExecConfig { command: Some("/bin/sh".into()), args, ..ExecConfig::default() };
        config.auth_info.exec = Some(exec);
        config
    }

    #[tokio::test]
    async fn a_plugin_that_does_not_answer_is_given_up_and_one_that_fails_tells_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let held = dir.path().join("held");
        std::fs::write(&held, "").unwrap();
        let hanging = with_plugin(&format!("while [ -e {} ]; do sleep 0.05; done", held.display()));
        let metrics = Metrics::default();
        let error = client_within(Duration::from_millis(10), &hanging, "rules", &metrics).await.err().unwrap();
        std::fs::remove_file(&held).unwrap();
        let error = error.to_string();
        assert!(error.contains("the plugin /bin/sh did not answer within"), "{error}");
        for (script, says) in [
            ("echo hunter2; exit 3", "the plugin /bin/sh failed (exit status: 3)"),
            ("echo 'token: [hunter2'", "the plugin /bin/sh answered what is no ExecCredential"),
        ] {
            let error = client(&with_plugin(script), "rules", &metrics).await.err().unwrap().to_string();
            assert!(error.contains(says) && !error.contains("hunter2"), "{error}");
        }
        let mut absent = with_plugin("");
        absent.auth_info.exec.as_mut().unwrap().command = Some("/nonexistent/plugin".into());
        let error = client(&absent, "rules", &metrics).await.err().unwrap().to_string();
        assert!(error.contains("the plugin /nonexistent/plugin cannot be started: "), "{error}");
    }
}
