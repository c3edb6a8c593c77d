//! Mail servers for tests: each takes mail by SMTP as the test says, keeps it, and shows it over HTTP.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    error::{Result, at},
    pki,
    ports::free_port,
    process::{Process, Spec},
    tools::{Tool, Tools},
};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How a mail server protects its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MailTls {
    /// It takes nothing before STARTTLS.
    #[default]
    StartTls,
    /// TLS from the first byte.
    Implicit,
    /// Plain text only.
    None,
}

/// How a mail server is set up.
#[derive(Clone, Debug, Default)]
pub struct MailOptions {
    /// See [`MailTls`].
    pub tls: MailTls,
    /// The one user who may send, with the password. None: everybody may.
    pub login: Option<(String, String)>,
    /// A regular expression over recipients; all others are refused for good. None: all are taken.
    pub recipients: Option<String>,
}

/// A mail server, running or stopped. Its certificate is for `localhost` and `127.0.0.1`, of a CA of its own.
pub struct MailServer {
    dir: PathBuf,
    name: String,
    port: u16,
    api_port: u16,
    process: Process,
}

impl MailServer {
    /// `name` tells several apart.
    pub(crate) async fn start(
        dir: &Path,
        tools: &Tools,
        name: &str,
        options: &MailOptions,
        detached: bool,
    ) -> Result<Self> {
        let (port, api_port) = (free_port(), free_port());
        let file = |suffix: &str| dir.join(format!("{name}{suffix}"));
        let mut spec = Spec::new(name, tools.dir(Tool::Mailpit)?.join("mailpit"), dir)
            .detached(detached)
            .args(["--disable-version-check", "--smtp-disable-rdns"])
            .arg(format!("--database={}", file(".db").display()))
            .arg(format!("--listen=127.0.0.1:{api_port}"))
            .arg(format!("--smtp=127.0.0.1:{port}"));
        if options.tls != MailTls::None {
            pki::write_server(dir, name)?;
            spec = spec
                .arg(format!("--smtp-tls-cert={}", file(".crt").display()))
                .arg(format!("--smtp-tls-key={}", file(".key").display()))
                .arg(if options.tls == MailTls::Implicit { "--smtp-require-tls" } else { "--smtp-require-starttls" });
        }
        if let Some((user, password)) = &options.login {
            let path = file(".users");
            std::fs::write(&path, format!("{user}:{password}\n")).map_err(at(&path))?;
            spec = spec.arg(format!("--smtp-auth-file={}", path.display()));
            if options.tls == MailTls::None {
                spec = spec.arg("--smtp-auth-allow-insecure");
            }
        }
        if let Some(recipients) = &options.recipients {
            spec = spec.arg(format!("--smtp-allowed-recipients={recipients}"));
        }
        let process = Process::spawn(spec)?;
        let server = Self { dir: dir.to_owned(), name: name.to_owned(), port, api_port, process };
        server.wait_until_ready().await?;
        Ok(server)
    }

    /// Where it takes mail, on `127.0.0.1`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL below which it shows what it took: `GET /api/v1/messages`, `GET /api/v1/message/{ID}/raw`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.api_port)
    }

    /// The certificate of its CA, in PEM. Empty for a server without TLS.
    pub fn ca_pem(&self) -> String {
        std::fs::read_to_string(self.dir.join(format!("{}-ca.crt", self.name))).unwrap_or_default()
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Stops it in order. What it has stays on disk.
    pub async fn stop(&self) {
        self.process.stop(STOP_TIMEOUT).await;
    }

    /// Starts it again on the same port with what it had.
    pub async fn restart(&mut self) -> Result<()> {
        self.process = self.process.respawn()?;
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&self) -> Result<()> {
        self.process.wait_for_port(self.port, START_TIMEOUT).await?;
        self.process.wait_for_port(self.api_port, START_TIMEOUT).await
    }
}
