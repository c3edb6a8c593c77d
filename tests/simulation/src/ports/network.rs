//! The network of one replica: the port that alerts come to, and the ways that messages take.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use eventpulse::{
    notify::{
        NotifyError, Outside,
        http::{HttpAnswer, HttpFailure, HttpRequest, HttpTransport},
        smtp::SmtpClient,
    },
    runtime::http_server::{Listener, Stream},
    services::Network,
};
use eventpulse_oracle as oracle;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::{Mutex, mpsc},
    time::{sleep, timeout},
};

use crate::{
    coverage::Fault,
    gate::Gate,
    world::{Moment, World},
};

/// How much of one direction is under way at once.
const WINDOW: usize = 64 << 10;
/// How long a sender waits for its answer.
const ANSWER: Duration = Duration::from_secs(10);

/// See the module's text.
pub(crate) struct Net {
    pub world: Arc<World>,
    pub gate: Gate,
    pub who: Arc<str>,
    pub door: Door,
}

/// Where alerts come to. Clones are the same.
#[derive(Clone)]
pub(crate) struct Door {
    knock: mpsc::UnboundedSender<DuplexStream>,
    open: Arc<Mutex<mpsc::UnboundedReceiver<DuplexStream>>>,
}

impl Door {
    pub(crate) fn new() -> Self {
        let (knock, open) = mpsc::unbounded_channel();
        Self { knock, open: Arc::new(Mutex::new(open)) }
    }

    /// Posts JSON to this path. Gives the status; none when there was no answer.
    pub(crate) async fn post(&self, path: &str, body: &str) -> Option<u16> {
        let exchange = async {
            let (mut near, far) = duplex(WINDOW);
            self.knock.send(far).ok()?;
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: eventpulse\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            near.write_all(head.as_bytes()).await.ok()?;
            near.write_all(body.as_bytes()).await.ok()?;
            let mut answer = Vec::new();
            near.read_to_end(&mut answer).await.ok()?;
            let answer = String::from_utf8_lossy(&answer);
            answer.split(' ').nth(1)?.parse().ok()
        };
        timeout(ANSWER, exchange).await.ok().flatten()
    }
}

#[async_trait]
impl Listener for Door {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self.open.lock().await.recv().await {
            Some(stream) => Ok(Box::new(stream)),
            None => std::future::pending().await,
        }
    }

    fn address(&self) -> Option<SocketAddr> {
        None
    }
}

impl Network for Net {
    type Listener = Door;

    fn listen(&self, _: SocketAddr) -> impl Future<Output = io::Result<Door>> + Send + 'static {
        std::future::ready(Ok(self.door.clone()))
    }

    fn outside(&self, _: Option<&str>) -> Result<Outside, NotifyError> {
        let post = Post { world: Arc::clone(&self.world), gate: self.gate.clone(), who: Arc::clone(&self.who) };
        Ok(Outside { http: Arc::new(post), mail: Arc::new(SmtpClient::default()) })
    }
}

/// Messages.
struct Post {
    world: Arc<World>,
    gate: Gate,
    who: Arc<str>,
}

#[async_trait]
impl HttpTransport for Post {
    async fn post(&self, request: &HttpRequest, limit: Duration) -> Result<HttpAnswer, HttpFailure> {
        self.gate.pass().await;
        let world = &self.world;
        let crash = world.effect();
        if crash == Some(Moment::Before) {
            world.crash(&self.gate, &self.who, Fault::CrashBeforeMessage);
            self.gate.pass().await;
        }
        sleep(world.hop()).await;
        self.gate.pass().await;
        let answer = self.arrive(request, limit).await;
        if crash == Some(Moment::After) {
            world.crash(&self.gate, &self.who, Fault::CrashAfterMessage);
        }
        sleep(world.hop()).await;
        self.gate.pass().await;
        answer
    }
}

impl Post {
    async fn arrive(&self, request: &HttpRequest, limit: Duration) -> Result<HttpAnswer, HttpFailure> {
        let world = &self.world;
        let answer = |status, retry_after: Option<&str>| {
            Ok(HttpAnswer { status, retry_after: retry_after.map(str::to_owned), body: String::new() })
        };
        if !world.chance.permille(world.rates().message) {
            self.note(request, true);
            return answer(200, None);
        }
        match world.chance.below(4) {
            0 => {
                world.reached(Fault::MessageNotConnected);
                Err(HttpFailure::Connect("a fault of the simulator".into()))
            }
            1 => {
                world.reached(Fault::MessageRefused);
                self.note(request, false);
                answer(500, None)
            }
            2 => {
                world.reached(Fault::MessageThrottled);
                answer(429, Some("2"))
            }
            _ => {
                world.reached(Fault::MessageAnswerLost);
                self.note(request, true);
                sleep(limit).await;
                Err(HttpFailure::Timeout(limit))
            }
        }
    }

    /// What the receiver sees.
    fn note(&self, request: &HttpRequest, taken: bool) {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let text = |path: &str| body.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = request.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("webhook-id"));
        let key = key.map(|(_, key)| key.clone()).unwrap_or_default();
        let channel = request.url.reveal().rsplit('/').next().unwrap_or_default().to_owned();
        let marked = body["duplicatePossible"] == true;
        self.world
            .timeline
            .note(&self.who, format_args!("message {key} to {channel} (marked: {marked}, taken: {taken})"));
        let of = (text("/incident/incidentID"), channel, text("/template"), text("/occurrence"));
        self.world.messages().push(oracle::Message { at: self.world.time.now(), key, marked, taken, of });
    }
}
