//! A proxy before the API server that loses, refuses, delays or holds what its rules name, and writes down every request that may
//! change something.
//!
//! In: plain HTTP on loopback, with whatever credentials the client sends; out: the real server, with its own certificate
//! authority. Bodies of answers stream, so watches work. The first rule that strikes a request decides; without one it passes.

mod rule;
mod upstream;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, request::Parts};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Frame, Incoming};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::{mpsc, watch};

pub use rule::{Call, Fault, Rule, When};
pub use upstream::Upstream;

use crate::server::{self, Body, Server};

const BODY_MAX: usize = 4 * 1024 * 1024;

/// Why there is no proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The kubeconfig of the real server cannot be used.
    #[error("read {path}: {problem}")]
    Kubeconfig {
        /// Which.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// The real server's address or certificate authority cannot be used.
    #[error("the server behind the proxy: {0}")]
    Upstream(String),
    /// It could not listen, or not write its kubeconfig.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A request that may change something, and what became of it.
#[derive(Clone, Debug)]
pub struct Write {
    /// When it came.
    pub at: Timestamp,
    /// What it was.
    pub call: Call,
    /// The rule that struck it.
    pub rule: Option<String>,
    /// What the real server answered; none where it never got it, or has not answered.
    pub upstream: Option<u16>,
    /// When the real server answered.
    pub answered_at: Option<Timestamp>,
    /// The object's resourceVersion in the real server's answer, where it is known: what was thrown away took effect with it.
    pub committed: Option<String>,
}

struct State {
    upstream: Upstream,
    rules: Mutex<Vec<Rule>>,
    writes: Mutex<Vec<Write>>,
    frozen: watch::Sender<bool>,
}

/// A running proxy. Dropping it closes every connection through it.
pub struct Proxy {
    server: Server,
    state: Arc<State>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Proxy {
    /// Before this server, on a free port of loopback.
    pub async fn start(upstream: Upstream) -> Result<Self, ProxyError> {
        let state = Arc::new(State {
            upstream,
            rules: Mutex::default(),
            writes: Mutex::default(),
            frozen: watch::Sender::new(false),
        });
        let shared = Arc::clone(&state);
        let handler: server::Handler = Arc::new(move |request| Box::pin(handle(Arc::clone(&shared), request)));
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Ok(Self { server: Server::start(listen, handler).await?, state })
    }

    /// Before the server of this kubeconfig.
    pub async fn before(kubeconfig: &Path) -> Result<Self, ProxyError> {
        Self::start(Upstream::from_kubeconfig(kubeconfig)?).await
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Writes a kubeconfig that points to this proxy, with the token of the real server's user.
    pub fn write_kubeconfig(&self, path: &Path) -> Result<(), ProxyError> {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": self.url()}}],
            "users": [{"name": "admin", "user": {"token": self.state.upstream.token().unwrap_or_default()}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "admin"}}],
        });
        // JSON is YAML.
        Ok(std::fs::write(path, format!("{config:#}\n"))?)
    }

    /// A rule for every matching request from now on.
    pub fn rule(&self, name: &str, when: When, fault: Fault) -> Rule {
        self.add(Rule::new(name, when, fault, 0, None))
    }

    /// A rule that lets `skip` matching requests pass and then strikes at most `limit`.
    pub fn limited_rule(&self, name: &str, when: When, fault: Fault, skip: usize, limit: usize) -> Rule {
        self.add(Rule::new(name, when, fault, skip, Some(limit)))
    }

    /// Removes every rule: what is held goes on, everything passes.
    pub fn clear(&self) {
        lock(&self.state.rules).drain(..).for_each(|rule| rule.remove());
    }

    /// Ends every connection to it, with whatever is under way: watches too. What has reached the proxy goes on to the server, whose
    /// answer nobody gets. New connections are taken. Gives how many there were.
    pub fn cut(&self) -> usize {
        self.server.cut()
    }

    /// Whether what streams tells nothing any more, though it stays open: watches, those that are under way too.
    pub fn freeze_watches(&self, frozen: bool) {
        self.state.frozen.send_replace(frozen);
    }

    /// Every request so far that may change something.
    pub fn writes(&self) -> Vec<Write> {
        lock(&self.state.writes).clone()
    }

    fn add(&self, rule: Rule) -> Rule {
        lock(&self.state.rules).push(rule.clone());
        rule
    }
}

/// Where a write is noted, so that what becomes of it can be added.
struct Note(Option<usize>);

impl Note {
    fn of(state: &State, call: &Call, rule: Option<&Rule>) -> Self {
        if call.method == Method::GET.as_str() {
            return Self(None);
        }
        let rule = rule.map(|rule| rule.name().to_owned());
        let mut writes = lock(&state.writes);
        let call = call.clone();
        writes.push(Write { at: Timestamp::now(), call, rule, upstream: None, answered_at: None, committed: None });
        Self(Some(writes.len() - 1))
    }

    fn answered(&self, state: &State, status: StatusCode, committed: Option<String>) {
        if let Some(index) = self.0
            && let Some(write) = lock(&state.writes).get_mut(index)
        {
            write.upstream = Some(status.as_u16());
            write.answered_at = Some(Timestamp::now());
            write.committed = committed;
        }
    }
}

async fn handle(state: Arc<State>, request: Request<Incoming>) -> server::Answer {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, BODY_MAX).collect().await.map_err(io::Error::other)?.to_bytes();
    let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let call = Call {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
        impersonated: text("impersonate-user"),
        user_agent: text("user-agent"),
    };
    let rule = {
        let mut rules = lock(&state.rules);
        rules.retain(|rule| !rule.is_removed());
        rules.iter().find(|rule| rule.strikes(&call)).cloned()
    };
    let note = Note::of(&state, &call, rule.as_ref());
    let request = Request::from_parts(parts, full(body));
    // In a task of its own: what was sent goes on its way even if its sender has given up or died, as on a real network.
    tokio::spawn(async move { pass(&state, rule, &note, request).await }).await.map_err(io::Error::other)?
}

async fn pass(state: &State, rule: Option<Rule>, note: &Note, request: Request<Body>) -> server::Answer {
    let Some(rule) = rule else { return forward(state, note, request).await };
    match rule.fault() {
        Fault::Count => forward(state, note, request).await,
        Fault::Answer(status) => refusal(*status, None),
        Fault::AnswerRetryAfter(status, seconds) => refusal(*status, Some(*seconds)),
        Fault::Close => Err(closed()),
        Fault::Hang => {
            rule.until_removed().await;
            Err(closed())
        }
        Fault::Delay(delay) => {
            tokio::time::sleep(*delay).await;
            forward(state, note, request).await
        }
        Fault::Twice => {
            let (parts, body) = request.into_parts();
            let bytes = body.collect().await?.to_bytes();
            let again = |parts: &Parts| Request::from_parts(parts.clone(), full(bytes.clone()));
            let answer = forward(state, note, again(&parts)).await;
            // Whatever comes of it: its sender hears of the first.
            drop(state.upstream.send(again(&parts)).await);
            answer
        }
        Fault::Hold => {
            rule.until_released().await;
            forward(state, note, request).await
        }
        Fault::DropAnswer => {
            forward(state, note, request).await?;
            Err(closed())
        }
        Fault::ReplaceAnswer(status) => {
            forward(state, note, request).await?;
            refusal(*status, None)
        }
        Fault::HoldAnswer => {
            let answer = forward(state, note, request).await?;
            rule.until_released().await;
            Ok(answer)
        }
    }
}

/// Answers to writes are read whole, to note what they committed; all others stream.
async fn forward(state: &State, note: &Note, request: Request<Body>) -> server::Answer {
    let is_watch = request.uri().query().is_some_and(|query| query.contains("watch="));
    let response = state.upstream.send(request).await?;
    if is_watch {
        return Ok(response.map(|body| gated(body, state.frozen.subscribe())));
    }
    if note.0.is_none() {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await?.to_bytes();
    let object: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let version = object["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    note.answered(state, parts.status, version.filter(|_| parts.status.is_success()));
    Ok(Response::from_parts(parts, full(bytes)))
}

/// Passes on nothing while it is frozen.
fn gated(mut body: Body, mut frozen: watch::Receiver<bool>) -> Body {
    let (frames, passed) = mpsc::channel(1);
    // It ends with either end of the stream.
    tokio::spawn(async move {
        while let Some(frame) = body.frame().await {
            if frozen.wait_for(|frozen| !frozen).await.is_err() || frames.send(frame).await.is_err() {
                return;
            }
        }
    });
    Frames(passed).boxed_unsync()
}

/// A body whose frames come through a channel.
struct Frames(mpsc::Receiver<io::Result<Frame<Bytes>>>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx)
    }
}

/// A refusal as the API server writes it.
fn refusal(status: u16, retry_after: Option<u32>) -> server::Answer {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": status,
        "reason": "ServiceUnavailable", "message": "refused by the proxy (a fault on request)",
        "details": {"retryAfterSeconds": retry_after.unwrap_or(0)},
    });
    let mut response = Response::builder().status(status).header("content-type", "application/json");
    if let Some(seconds) = retry_after {
        response = response.header("retry-after", seconds);
    }
    response.body(full(Bytes::from(body.to_string()))).map_err(io::Error::other)
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn closed() -> io::Error {
    io::Error::other("closed on request")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
