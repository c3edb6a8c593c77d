//! A sink for messages: what Slack's incoming webhooks and generic webhooks look like from outside.
//!
//! Every path is there. Paths under `/services/` answer as Slack does, `ok` or why not, and those under `/workflows/` as a Teams
//! workflow does; all others answer 200 to anything. A script changes what the next requests on a path get.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::watch;

use crate::{
    Shortfall,
    server::{self, Server},
    slack, teams,
};

/// The path prefix that answers as a Teams workflow does: 202 at once.
pub const TEAMS_PREFIX: &str = "/workflows/";
/// The path prefix that answers as Slack does.
pub const SLACK_PREFIX: &str = "/services/";
const BODY_MAX: usize = 1024 * 1024;

/// What a request gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: StatusCode,
    headers: Vec<(String, String)>,
    body: Bytes,
    delay: Duration,
    ending: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Answered,
    Hang,
    Close,
}

impl Answer {
    /// This status, with an empty body. A status that is none becomes 500.
    pub fn status(status: u16) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, headers: Vec::new(), body: Bytes::new(), delay: Duration::ZERO, ending: Ending::Answered }
    }

    /// With this header, for example `Retry-After`.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With this body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Not before this time.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// None at all; the connection stays open.
    pub fn hang() -> Self {
        Self { ending: Ending::Hang, ..Self::status(200) }
    }

    /// None at all; the connection is closed after the request was read.
    pub fn close() -> Self {
        Self { ending: Ending::Close, ..Self::status(200) }
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Received {
    /// When it was read to its end.
    pub at: Timestamp,
    /// HTTP method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Headers, by their names in lower case; of a repeated one the last value.
    pub headers: BTreeMap<String, String>,
    /// Body.
    pub body: Bytes,
    /// The status it got; none for a hang or a closed connection.
    pub answered: Option<u16>,
}

impl Received {
    /// The body as JSON; null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(&name.to_ascii_lowercase()).map(String::as_str)
    }

    /// The idempotency key, where there is one.
    pub fn idempotency_key(&self) -> Option<&str> {
        self.header("idempotency-key")
    }
}

/// For people: when, where, and the message's texts in the order in which a reader sees them.
impl fmt::Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answered = self.answered.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
        writeln!(f, "── message at {} on {} → {answered}", self.at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"), self.path)?;
        let body = self.json();
        let lines = texts(&body);
        if lines.is_empty() {
            writeln!(f, "   {}", String::from_utf8_lossy(&self.body).trim_end())?;
        }
        for line in lines {
            writeln!(f, "   {line}")?;
        }
        Ok(())
    }
}

/// The texts of a Slack message, block by block; of a generic message its title, body and incident.
fn texts(body: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut add = |value: &Value| {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            found.extend(text.lines().map(str::to_owned));
        }
    };
    match body["blocks"].as_array() {
        Some(blocks) => {
            for block in blocks {
                add(&block["text"]["text"]);
                for part in ["fields", "elements"] {
                    block[part].as_array().into_iter().flatten().for_each(|element| add(&element["text"]));
                }
            }
        }
        None => ["/text", "/message/title", "/message/body"]
            .iter()
            .filter_map(|pointer| body.pointer(pointer))
            .for_each(&mut add),
    }
    found
}

struct State {
    scripts: Mutex<HashMap<String, Script>>,
    received: watch::Sender<Vec<Received>>,
}

#[derive(Default)]
struct Script {
    next: VecDeque<Answer>,
    then: Option<Answer>,
}

/// A running sink. Dropping it ends it.
pub struct Sink {
    server: Server,
    state: Arc<State>,
}

impl Sink {
    /// On a free port of loopback.
    pub async fn start() -> io::Result<Self> {
        Self::start_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// On an address of its own.
    pub async fn start_on(listen: SocketAddr) -> io::Result<Self> {
        let state = Arc::new(State { scripts: Mutex::default(), received: watch::Sender::new(Vec::new()) });
        let shared = Arc::clone(&state);
        let handler: server::Handler = Arc::new(move |request| Box::pin(answer(Arc::clone(&shared), request)));
        Ok(Self { server: Server::start(listen, handler).await?, state })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{}", self.address(), path.trim_start_matches('/'))
    }

    /// The next requests on a path get these answers, in their order; those after them what they would have got.
    pub fn script(&self, path: &str, answers: impl IntoIterator<Item = Answer>) {
        self.scripts().entry(path.to_owned()).or_default().next.extend(answers);
    }

    /// What was scripted for a path and was not given yet is forgotten.
    pub fn end_script(&self, path: &str) {
        self.scripts().entry(path.to_owned()).or_default().next.clear();
    }

    /// Requests on a path get this answer from now on, after what was scripted before. None: the usual one again.
    pub fn always(&self, path: &str, answer: Option<Answer>) {
        self.scripts().entry(path.to_owned()).or_default().then = answer;
    }

    /// Everything that came, in its order.
    pub fn received(&self) -> Vec<Received> {
        self.state.received.borrow().clone()
    }

    /// What came on one path.
    pub fn received_on(&self, path: &str) -> Vec<Received> {
        self.received().into_iter().filter(|request| request.path == path).collect()
    }

    /// How often each idempotency key came.
    pub fn count_by_key(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for request in self.state.received.borrow().iter() {
            if let Some(key) = request.idempotency_key() {
                *counts.entry(key.to_owned()).or_default() += 1;
            }
        }
        counts
    }

    /// Waits until at least `wanted` requests came, on any path.
    pub async fn wait_for(&self, wanted: usize, deadline: Duration) -> Result<Vec<Received>, Shortfall> {
        self.wait_until("requests", wanted, deadline, |_| true).await
    }

    /// Waits until at least `wanted` requests came on one path.
    pub async fn wait_for_on(&self, path: &str, wanted: usize, deadline: Duration) -> Result<Vec<Received>, Shortfall> {
        self.wait_until(&format!("requests on {path}"), wanted, deadline, |request| request.path == path).await
    }

    /// Waits until at least `wanted` requests came that are as wanted, and gives them.
    pub async fn wait_until(
        &self,
        what: &str,
        wanted: usize,
        deadline: Duration,
        is_wanted: impl Fn(&Received) -> bool,
    ) -> Result<Vec<Received>, Shortfall> {
        let mut received = self.state.received.subscribe();
        let enough = received.wait_for(|all| all.iter().filter(|request| is_wanted(request)).count() >= wanted);
        // The sender lives as long as this sink, so the wait ends by the count or by the deadline.
        let in_time = matches!(tokio::time::timeout(deadline, enough).await, Ok(Ok(_)));
        let found: Vec<Received> = self.received().into_iter().filter(|request| is_wanted(request)).collect();
        if in_time { Ok(found) } else { Err(Shortfall { what: what.into(), wanted, seen: found.len(), deadline }) }
    }

    /// Tells of every request as it comes, beginning with those that came already.
    pub fn follow(&self) -> watch::Receiver<Vec<Received>> {
        let mut receiver = self.state.received.subscribe();
        receiver.mark_changed();
        receiver
    }

    /// Prints messages as they come, for people or each as one line of JSON, until Ctrl-C. An empty line follows each one for people.
    pub async fn print_messages(&self, json: bool) {
        let mut messages = self.follow();
        let mut shown = 0;
        loop {
            let new: Vec<_> = {
                let all = messages.borrow_and_update();
                all[shown..].to_vec()
            };
            shown += new.len();
            for message in new {
                if json {
                    let line = serde_json::json!({
                        "at": message.at.to_string(), "path": message.path, "headers": message.headers,
                        "answered": message.answered, "body": message.json(),
                    });
                    println!("{line}");
                } else {
                    println!("{message}");
                }
            }
            tokio::select! {
                changed = messages.changed() => if changed.is_err() { return },
                _ = tokio::signal::ctrl_c() => return,
            }
        }
    }

    fn scripts(&self) -> std::sync::MutexGuard<'_, HashMap<String, Script>> {
        self.state.scripts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> server::Answer {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, BODY_MAX).collect().await.map_err(io::Error::other)?.to_bytes();
    let path = parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    let answer = next_answer(&state, parts.uri.path(), &body);
    let headers = parts
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let answered = (answer.ending == Ending::Answered).then_some(answer.status.as_u16());
    let method = parts.method.to_string();
    let received = Received { at: Timestamp::now(), method, path, headers, body, answered };
    state.received.send_modify(|all| all.push(received));
    tokio::time::sleep(answer.delay).await;
    match answer.ending {
        Ending::Close => Err(io::Error::other("closed on request")),
        Ending::Hang => std::future::pending().await,
        Ending::Answered => {
            let mut response = Response::builder().status(answer.status);
            for (name, value) in &answer.headers {
                response = response.header(name, value);
            }
            response
                .body(Full::new(answer.body).map_err(|never| match never {}).boxed_unsync())
                .map_err(io::Error::other)
        }
    }
}

fn next_answer(state: &State, path: &str, body: &[u8]) -> Answer {
    let mut scripts = state.scripts.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(script) = scripts.get_mut(path)
        && let Some(answer) = script.next.pop_front().or_else(|| script.then.clone())
    {
        return answer;
    }
    if path.starts_with(TEAMS_PREFIX) {
        return teams::refusal(body).map_or_else(|| Answer::status(202), |problem| Answer::status(400).body(problem));
    }
    match path.starts_with(SLACK_PREFIX).then(|| slack::refusal(body)).flatten() {
        Some(problem) => Answer::status(400).body(problem),
        None => Answer::status(200).body("ok"),
    }
}
