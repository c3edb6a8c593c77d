//! The way out for mail: one message over one connection to one server, with a limit on everything. Beside [`super::http`] nothing else
//! in this service opens a connection to the outside.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use lettre::{
    Address,
    transport::smtp::{
        Error,
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters},
        commands::{Data, Mail as MailCommand, Rcpt},
        extension::ClientId,
    },
};
use tokio::net::TcpStream;

use super::{deliver::Outcome, http::Secret, line_by_line::LineByLine};
use crate::api::v1alpha1::EmailTLS;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server may take to say goodbye; what it says changes nothing.
const QUIT_TIMEOUT: Duration = Duration::from_millis(500);
/// The most characters of a server's answer that an error repeats.
const EXCERPT_MAX: usize = 200;
/// The most servers whose certificates' authorities are kept (promise 6).
const TLS_MAX: usize = 64;

/// A mail server, and how it is spoken to.
#[derive(Clone, Debug)]
pub struct MailServer {
    /// A DNS name or an IP address, which its certificate must be for.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected. Nothing is ever sent with less.
    pub tls: EmailTLS,
    /// Certificates in PEM: the authorities that are believed in place of the machine's own.
    pub ca: Option<Vec<u8>>,
    /// Who logs in. Never without TLS.
    pub login: Option<Login>,
    /// What EventPulse calls itself.
    pub hello_name: String,
}

/// A user name and a password; neither is ever shown.
#[derive(Clone, Debug)]
pub struct Login {
    /// The user name.
    pub username: Secret,
    /// The password.
    pub password: Secret,
}

/// A message as it is sent.
#[derive(Clone, Debug)]
pub struct Mail {
    /// The envelope's sender.
    pub from: Address,
    /// The envelope's recipients.
    pub recipients: Vec<Address>,
    /// Headers and body: ASCII with CRLF.
    pub content: Vec<u8>,
    /// Whether it waits when a recipient is refused for now; else it goes to those that are accepted.
    pub waits_for_all: bool,
}

/// The port to mail servers; a simulator puts its own here.
#[async_trait]
pub trait MailTransport: Send + Sync + 'static {
    /// Sends once, without hidden retries, and gives up after `timeout`. Reasons hold no secrets.
    async fn send(&self, server: &MailServer, mail: &Mail, timeout: Duration) -> Outcome;
}

/// By host and, where they are given, the certificates that are believed.
type TlsByServer = HashMap<(String, Option<Vec<u8>>), TlsParameters>;

/// The machine's own, over lettre and rustls. Each message has a connection of its own, so that there are never more than tries.
#[derive(Default)]
pub struct SmtpClient {
    tls: Mutex<TlsByServer>,
}

/// How far a try has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Connect,
    StartTls,
    Login,
    Sender,
    Recipients,
    Data,
    /// From here on the server may have the whole message.
    Content,
}

const STEPS: [(Step, &str); 7] = [
    (Step::Connect, "connect"),
    (Step::StartTls, "STARTTLS"),
    (Step::Login, "log in"),
    (Step::Sender, "MAIL FROM"),
    (Step::Recipients, "RCPT TO"),
    (Step::Data, "DATA"),
    (Step::Content, "the message's end"),
];

struct Progress(AtomicU8);

impl Progress {
    fn to(&self, step: Step) {
        self.0.store(step as u8, Ordering::Relaxed);
    }

    fn now(&self) -> (Step, &'static str) {
        STEPS[usize::from(self.0.load(Ordering::Relaxed)).min(STEPS.len() - 1)]
    }
}

/// Why a try ended early.
enum Problem {
    Smtp(Error),
    Other(String),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Smtp(error)
    }
}

#[async_trait]
impl MailTransport for SmtpClient {
    async fn send(&self, server: &MailServer, mail: &Mail, timeout: Duration) -> Outcome {
        let progress = Progress(AtomicU8::new(Step::Connect as u8));
        let exchange = async {
            let mut connection = self.connect(server, timeout, &progress).await?;
            let outcome = transact(&mut connection, server, mail, &progress).await?;
            Ok((outcome, connection))
        };
        let problem = match tokio::time::timeout(timeout, exchange).await {
            Ok(Ok((outcome, mut connection))) => {
                // What became of the message is known by now.
                let _ = tokio::time::timeout(QUIT_TIMEOUT, connection.quit()).await;
                return outcome;
            }
            Ok(Err(problem)) => problem,
            Err(_) => Problem::Other(format!("no answer within {} ms", timeout.as_millis())),
        };
        let (step, name) = progress.now();
        judge(step, name, &problem, server)
    }
}

impl SmtpClient {
    async fn connect(
        &self,
        server: &MailServer,
        timeout: Duration,
        progress: &Progress,
    ) -> Result<AsyncSmtpConnection, Problem> {
        let hello = ClientId::Domain(server.hello_name.clone());
        let address = (server.host.as_str(), server.port);
        let limit = timeout.min(CONNECT_TIMEOUT);
        if server.tls == EmailTLS::Implicit {
            let tls = self.tls_of(server)?;
            return Ok(AsyncSmtpConnection::connect_tokio1(address, Some(limit), &hello, Some(tls), None).await?);
        }
        let stream = match tokio::time::timeout(limit, TcpStream::connect(address)).await {
            Ok(stream) => stream.map_err(|error| Problem::Other(error.to_string()))?,
            Err(_) => return Err(Problem::Other(format!("no connection within {} ms", limit.as_millis()))),
        };
        let stream = Box::new(LineByLine::new(stream));
        let mut connection = AsyncSmtpConnection::connect_with_transport(stream, &hello).await?;
        if server.tls == EmailTLS::StartTLS {
            progress.to(Step::StartTls);
            if !connection.can_starttls() {
                let reason = "the server does not offer it, and nothing is sent in plain text (spec.email.tls)";
                return Err(Problem::Other(reason.into()));
            }
            connection.starttls(self.tls_of(server)?, &hello).await?;
        }
        Ok(connection)
    }

    /// Kept, because the machine's own authorities are read from disk.
    fn tls_of(&self, server: &MailServer) -> Result<TlsParameters, Problem> {
        let key = (server.host.clone(), server.ca.clone());
        if let Some(found) = self.lock().get(&key) {
            return Ok(found.clone());
        }
        let mut builder = TlsParameters::builder(server.host.clone());
        if let Some(pem) = &server.ca {
            let broken = |why: &str| Problem::Other(format!("the Secret of spec.email.caSecretRef {why}"));
            if !String::from_utf8_lossy(pem).contains("-----BEGIN CERTIFICATE-----") {
                return Err(broken("holds no certificate in PEM"));
            }
            let authorities = Certificate::from_pem(pem).map_err(|_| broken("holds a broken certificate"))?;
            builder = builder.certificate_store(CertificateStore::None).add_root_certificate(authorities);
        }
        let tls = builder.build()?;
        let mut kept = self.lock();
        if kept.len() >= TLS_MAX {
            kept.clear();
        }
        kept.insert(key, tls.clone());
        Ok(tls)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, TlsByServer> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn transact(
    connection: &mut AsyncSmtpConnection,
    server: &MailServer,
    mail: &Mail,
    progress: &Progress,
) -> Result<Outcome, Problem> {
    if let Some(Login { username, password }) = &server.login {
        progress.to(Step::Login);
        if !connection.is_encrypted() {
            return Err(Problem::Other("a password is never sent in plain text".into()));
        }
        let credentials = Credentials::new(username.reveal().to_owned(), password.reveal().to_owned());
        connection.auth(&[Mechanism::Plain, Mechanism::Login], &credentials).await?;
    }
    progress.to(Step::Sender);
    connection.command(MailCommand::new(Some(mail.from.clone()), Vec::new())).await?;
    progress.to(Step::Recipients);
    let (mut accepted, mut refused_for_now, mut refused) = (0, Vec::new(), Vec::new());
    for recipient in &mail.recipients {
        let (list, error) = match connection.command(Rcpt::new(recipient.clone(), Vec::new())).await {
            Ok(_) => {
                accepted += 1;
                continue;
            }
            Err(error) if error.is_permanent() => (&mut refused, error),
            Err(error) if error.is_transient() => (&mut refused_for_now, error),
            Err(error) => return Err(error.into()),
        };
        list.push(format!("{recipient}: {error}"));
    }
    let named = |list: Vec<String>| shown(&list.join("; "), server);
    if !refused_for_now.is_empty() && (mail.waits_for_all || accepted == 0) {
        return Ok(Outcome::Refused { reason: format!("RCPT TO: {}", named(refused_for_now)), retry_after: None });
    }
    if accepted == 0 {
        return Ok(Outcome::Rejected { reason: format!("RCPT TO: {}", named(refused)) });
    }
    progress.to(Step::Data);
    connection.command(Data).await?;
    progress.to(Step::Content);
    connection.message(&mail.content).await?;
    refused.append(&mut refused_for_now);
    if refused.is_empty() {
        return Ok(Outcome::Delivered);
    }
    let all = mail.recipients.len();
    let reason = format!("accepted for {accepted} of {all} recipients, not for {}", named(refused));
    Ok(Outcome::DeliveredInPart { reason })
}

/// What an ended try means (RFC 5321, section 4.2.1): a 4yz is for now, a 5yz for good. Before MAIL FROM neither speaks of the message,
/// but a refused login does, as a webhook's 401 does. Once the message is out, only an answer says what became of it.
fn judge(step: Step, name: &str, problem: &Problem, server: &MailServer) -> Outcome {
    let (text, is_permanent, is_answer) = match problem {
        Problem::Smtp(error) => (error.to_string(), error.is_permanent(), error.is_permanent() || error.is_transient()),
        Problem::Other(text) => (text.clone(), false, false),
    };
    let reason = format!("SMTP, {name}: {}", shown(&text, server));
    match step {
        Step::Content if !is_answer => Outcome::Unknown { reason, retry_after: None },
        Step::Login | Step::Sender | Step::Recipients | Step::Data | Step::Content if is_permanent => {
            Outcome::Rejected { reason }
        }
        _ => Outcome::Refused { reason, retry_after: None },
    }
}

/// A text for people: without secrets in any form that a server may repeat, without control characters, cut.
fn shown(text: &str, server: &MailServer) -> String {
    let visible: String = masked(text, server).chars().filter(|c| !c.is_control()).collect();
    // Masked again: what was left out may have parted a secret.
    masked(&visible, server).chars().take(EXCERPT_MAX).collect::<String>().trim().to_owned()
}

fn masked(text: &str, server: &MailServer) -> String {
    let mut text = text.to_owned();
    if let Some(Login { username, password }) = &server.login {
        let (user, pass) = (username.reveal(), password.reveal());
        let plain = BASE64.encode(format!("\0{user}\0{pass}"));
        for form in [plain, BASE64.encode(pass), BASE64.encode(user)] {
            text = text.replace(&form, "***");
        }
        text = username.mask(&password.mask(&text));
    }
    text
}

#[cfg(test)]
#[path = "smtp_tests.rs"]
mod tests;
