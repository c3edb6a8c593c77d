//! Mail: a peer that answers SMTP as a script says, a relay that loses the answer to a message, and what a mail server took.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

use crate::client;

/// What a peer does at one point of the conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Say {
    /// These lines, each ended with CRLF.
    Lines(&'static str),
    /// Nothing; the connection is closed.
    Close,
    /// Nothing; the connection stays open.
    Hang,
}

/// Answers what a client says: `CONNECT` at the beginning, each command as it came, `.` at the end of a message.
pub type Script = Arc<dyn Fn(&str) -> Say + Send + Sync>;

/// A server of plain SMTP without any opinion of its own. Dropping it closes every connection.
pub struct SmtpPeer {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
    accepting: AbortHandle,
}

impl SmtpPeer {
    /// On a free port of loopback.
    pub async fn start(script: Script) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&heard);
        let accepting = accept(listener, move |stream| {
            let (script, heard) = (Arc::clone(&script), Arc::clone(&shared));
            async move { converse(stream, script, heard).await }
        });
        Ok(Self { address, heard, accepting })
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Every command that came, and every message as one entry, in their order.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for SmtpPeer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What a server that takes everything says.
pub fn agreeable(command: &str) -> Say {
    Say::Lines(match command.split([' ', ':']).next().unwrap_or_default() {
        "CONNECT" => "220 peer.test",
        "EHLO" => "250-peer.test\r\n250 8BITMIME",
        "DATA" => "354 go on",
        "QUIT" => "221 bye",
        _ => "250 ok",
    })
}

async fn converse(stream: TcpStream, script: Script, heard: Arc<Mutex<Vec<String>>>) -> io::Result<()> {
    let hear = |text: String| heard.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    let mut stream = BufReader::new(stream);
    let mut command = "CONNECT".to_owned();
    loop {
        match script(&command) {
            Say::Lines(lines) => stream.get_mut().write_all(format!("{lines}\r\n").as_bytes()).await?,
            Say::Close => return Ok(()),
            Say::Hang => std::future::pending::<()>().await,
        }
        let takes_message =
            command == "DATA" && matches!(script(&command), Say::Lines(lines) if lines.starts_with("354"));
        if takes_message {
            let mut message = String::new();
            while !message.ends_with("\r\n.\r\n") && message != ".\r\n" {
                if stream.read_line(&mut message).await? == 0 {
                    return Ok(());
                }
            }
            hear(message);
            command = ".".into();
            continue;
        }
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        command = String::from_utf8_lossy(&line).trim_end().to_owned();
        hear(command.clone());
    }
}

/// Stands before a mail server that speaks plain text, and cuts connections when the server has taken a message, before the client
/// hears of it. Dropping it closes every connection.
pub struct CuttingRelay {
    address: SocketAddr,
    left: Arc<AtomicUsize>,
    accepting: AbortHandle,
}

impl CuttingRelay {
    /// Before the server on this port of loopback; the first `cuts` messages lose their answer.
    pub async fn before(port: u16, cuts: usize) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let left = Arc::new(AtomicUsize::new(cuts));
        let shared = Arc::clone(&left);
        let accepting = accept(listener, move |stream| relay(stream, port, Arc::clone(&shared)));
        Ok(Self { address, left, accepting })
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many cuts are still to come.
    pub fn cuts_left(&self) -> usize {
        self.left.load(Ordering::SeqCst)
    }
}

impl Drop for CuttingRelay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn relay(client: TcpStream, port: u16, cuts: Arc<AtomicUsize>) -> io::Result<()> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let (mut asked, mut answered, mut tail) = ([0; 4096], [0; 4096], Vec::new());
    loop {
        tokio::select! {
            read = from_client.read(&mut asked) => {
                let bytes = &asked[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                to_server.write_all(bytes).await?;
                tail.extend_from_slice(bytes);
                tail.drain(..tail.len().saturating_sub(5));
                let take = |left: usize| left.checked_sub(1);
                if tail == b"\r\n.\r\n" && cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
                    // The server has the message once it answers; nobody else hears that.
                    let _has_answered = from_server.read(&mut answered).await?;
                    return Ok(());
                }
            }
            read = from_server.read(&mut answered) => {
                let bytes = &answered[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                to_client.write_all(bytes).await?;
            }
        }
    }
}

/// The connections end with this task, because it owns them.
fn accept<F>(listener: TcpListener, mut serve: impl FnMut(TcpStream) -> F + Send + 'static) -> AbortHandle
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let accepting = async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    connections.spawn(serve(stream));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    };
    tokio::spawn(accepting).abort_handle()
}

/// A message that a mail server took.
#[derive(Clone, Debug)]
pub struct Taken {
    /// As it came, headers and all.
    pub raw: String,
    /// The body, decoded.
    pub text: String,
    /// The subject, decoded.
    pub subject: String,
}

impl Taken {
    /// A header's value, unfolded; of a repeated one the first.
    pub fn header(&self, name: &str) -> Option<String> {
        let head = self.raw.split("\r\n\r\n").next()?.replace("\r\n ", " ").replace("\r\n\t", " ");
        head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

/// What the mail server whose API is at this URL took, oldest first. Panics when it does not say.
pub async fn taken(url: &str) -> Vec<Taken> {
    let get = async |path: &str| {
        let reply = client::get(&format!("{url}{path}")).await.unwrap_or_else(|error| panic!("{error}"));
        assert!(reply.is_success(), "{path}: {}", reply.text());
        reply
    };
    let list = get("/api/v1/messages?limit=500").await.json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut taken = Vec::new();
    for summary in list["messages"].as_array().into_iter().flatten().rev() {
        let id = text(&summary["ID"]);
        let raw = get(&format!("/api/v1/message/{id}/raw")).await.text();
        let message = get(&format!("/api/v1/message/{id}")).await.json();
        taken.push(Taken { raw, text: text(&message["Text"]), subject: text(&message["Subject"]) });
    }
    taken
}
