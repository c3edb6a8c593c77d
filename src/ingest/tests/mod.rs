//! The service over real HTTP on loopback.

mod outbox;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use hyper::service::service_fn;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    bounds,
    http::Endpoint,
    intake::Intake,
    service::{IngestConfig, run},
};
use crate::{
    bus::{Bus, BusError, MemoryBus, SubscribeOptions, Subscription, SubscriptionEvent},
    events::{DeadLetter, DeadLetterReason, Payload, Record, Topic},
    mutants::{self, Mutant},
    runtime::{
        Metrics,
        http_server::{HttpBounds, converse},
    },
    testing::TestContext,
};

/// A log that is elsewhere: the outbox is used, and the broker can go away.
struct Remote {
    log: Arc<MemoryBus>,
    away: AtomicBool,
    /// It refuses larger records for good.
    max_bytes: AtomicUsize,
}

#[async_trait]
impl Bus for Remote {
    async fn publish(&self, records: Vec<Record>) -> Result<(), BusError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(BusError::Publish("the broker is away".into()));
        }
        if records.iter().any(|record| record.value.len() > self.max_bytes.load(Ordering::SeqCst)) {
            return Err(BusError::Refused("too large".into()));
        }
        self.log.publish(records).await
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription, BusError> {
        self.log.subscribe(options).await
    }

    fn partitions(&self, topic: Topic) -> u32 {
        self.log.partitions(topic)
    }

    fn can_read(&self, _: &str) -> bool {
        self.health().is_ok()
    }

    fn health(&self) -> Result<(), String> {
        Ok(())
    }

    fn is_local(&self) -> bool {
        false
    }

    async fn close(&self, timeout: Duration) {
        self.log.close(timeout).await;
    }
}

struct Server {
    address: SocketAddr,
    test: TestContext,
    remote: Arc<Remote>,
}

async fn start(remote: Arc<Remote>, config: IngestConfig) -> Server {
    start_on(remote.clone(), remote, config).await
}

/// On a log of this machine, so that there is no outbox.
async fn start_local(remote: Arc<Remote>, config: IngestConfig) -> Server {
    start_on(remote.log.clone(), remote, config).await
}

async fn start_on(bus: Arc<dyn Bus>, remote: Arc<Remote>, config: IngestConfig) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let test = TestContext::new("ingest", bus);
    test.ctx.tasks.spawn("ingest", run(test.ctx.clone(), config, async { Ok(listener) }));
    Server { address, test, remote }
}

fn remote() -> Arc<Remote> {
    Arc::new(Remote {
        log: Arc::new(MemoryBus::new(3)),
        away: AtomicBool::new(false),
        max_bytes: AtomicUsize::new(usize::MAX),
    })
}

fn config(dir: &tempfile::TempDir) -> IngestConfig {
    IngestConfig {
        data_dir: dir.path().to_owned(),
        header_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(300),
        token_interval: Duration::from_millis(10),
        intake_interval: Duration::from_millis(10),
        ..IngestConfig::default()
    }
}

impl Server {
    async fn stop(self) {
        self.test.ctx.shutdown.cancel();
        self.test.ctx.tasks.finished().await;
    }

    async fn post(&self, path: &str, headers: &str, body: &str) -> (u16, String) {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}",
            body.len()
        );
        exchange(self.address, request.as_bytes()).await
    }

    /// Every alert that is on the log, by its label `n`.
    async fn logged(&self, at_least: usize) -> Vec<(String, Record)> {
        let options = SubscribeOptions {
            group: format!("check-{at_least}"),
            topics: vec![Topic::AlertRaised],
            max_in_flight: 10_000,
        };
        let mut subscription = self.remote.log.subscribe(options).await.unwrap();
        let mut found = Vec::new();
        loop {
            let wait = if found.len() < at_least { Duration::from_secs(20) } else { Duration::from_millis(150) };
            match tokio::time::timeout(wait, subscription.next()).await {
                Ok(Some(SubscriptionEvent::Message(delivery))) => {
                    let Payload::AlertRaised(alert) = delivery.record.decode().unwrap().payload else {
                        panic!("no alert")
                    };
                    found.push((alert.labels["n"].clone(), delivery.record));
                    delivery.ack.done();
                }
                Ok(Some(_)) => {}
                _ => return found,
            }
        }
    }
}

impl Server {
    /// Every dead letter that is on the log, once there are so many.
    async fn letters(&self, count: usize) -> Vec<DeadLetter> {
        eventually("the dead letters", || self.remote.log.records(Topic::DeadLetter).len() >= count).await;
        let records = self.remote.log.records(Topic::DeadLetter).into_iter();
        let letters = records.map(|record| match record.decode().unwrap().payload {
            Payload::DeadLetter(letter) => *letter,
            other => panic!("{other:?}"),
        });
        letters.collect()
    }

    /// Why no alerts are taken, where none are.
    fn intake(&self) -> Option<String> {
        self.unready("intake")
    }

    /// Why a part is not ready, where it is not.
    fn unready(&self, part: &str) -> Option<String> {
        let part = format!("ingest/{part}");
        self.test.health.report().into_iter().find(|(name, _)| *name == part).and_then(|(_, reason)| reason)
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("took too long: {what}"));
}

async fn exchange(address: SocketAddr, request: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    (text.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0), text)
}

fn alerts(names: &[&str]) -> String {
    let alerts: Vec<Value> = names
        .iter()
        .map(|n| json!({"status": "firing", "labels": {"n": n}, "startsAt": "2026-01-01T11:00:00Z"}))
        .collect();
    json!({"version": "4", "alerts": alerts}).to_string()
}

const WEBHOOK: &str = "/webhooks/alertmanager";

#[tokio::test]
async fn what_is_answered_with_200_is_on_the_log_and_the_rest_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(remote(), config(&dir)).await;
    let mut body: Value = serde_json::from_str(&alerts(&["a", "b"])).unwrap();
    body["alerts"].as_array_mut().unwrap().push(json!({"status": "firing", "labels": {"n": 7}}));
    let (status, text) = server.post(WEBHOOK, "", &body.to_string()).await;
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("\"accepted\":2") && text.contains("alerts[2].labels.n: is no text"), "{text}");
    let mut names: Vec<String> = server.logged(2).await.into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(names, ["a", "b"]);
    for (path, headers, body, expected) in [
        (WEBHOOK, "", "{", 400),
        (WEBHOOK, "", &alerts(&[]), 400),
        ("/api/v2/alerts", "", "[]", 200),
        ("/api/v2/alerts", "", "{}", 400),
        ("/elsewhere", "", "{}", 404),
        (WEBHOOK, "Content-Encoding: gzip\r\n", "x", 415),
    ] {
        assert_eq!(server.post(path, headers, body).await.0, expected, "{path} {body}");
    }
    let (status, text) = exchange(server.address, b"GET /webhooks/alertmanager HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!((status, text.contains("allow: POST")), (405, true));
    server.stop().await;
}

#[tokio::test]
async fn an_answer_lists_some_problems_and_counts_all() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(remote(), config(&dir)).await;
    let broken = vec![json!({"status": "firing", "labels": {"n": 7}}); 30];
    let (status, text) = server.post(WEBHOOK, "", &json!({"version": "4", "alerts": broken}).to_string()).await;
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("\"accepted\":0") && text.contains("\"rejected\":30"), "{text}");
    assert_eq!(text.matches("labels.n: is no text").count(), bounds::ANSWER_ERRORS, "{text}");
    assert_eq!(server.letters(30).await.len(), 30);
    let counted = server.test.ctx.metrics.encode().unwrap();
    let line = "eventpulse_dead_letters_total{reason=\"invalid_alert\"} 30";
    assert!(counted.lines().any(|found| found == line), "{counted}");
    server.stop().await;
}

#[tokio::test]
async fn both_of_a_highly_available_pair_send_one_alert() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(remote(), config(&dir)).await;
    for _ in 0..2 {
        assert_eq!(server.post(WEBHOOK, "", &alerts(&["a"])).await.0, 200);
    }
    let logged = server.logged(2).await;
    assert_eq!(logged.len(), 2);
    assert_eq!(logged[0].1.decode().unwrap().id, logged[1].1.decode().unwrap().id);
    server.stop().await;
}

/// Behind a Service no request comes to a process that is not ready, so none may be needed for it to become ready again.
#[tokio::test]
async fn readiness_comes_back_without_a_request() {
    let dir = tempfile::tempdir().unwrap();
    let remote = remote();
    remote.away.store(true, Ordering::SeqCst);
    let server = start(Arc::clone(&remote), IngestConfig { outbox_max_alerts: 2, ..config(&dir) }).await;
    assert_eq!(server.post(WEBHOOK, "", &alerts(&["a", "b"])).await.0, 200);
    assert_eq!(server.intake(), None);
    assert_eq!(server.post(WEBHOOK, "", &alerts(&["c"])).await.0, 503);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let reason = server.intake().unwrap();
    assert!(reason.contains("the outbox is full: 2 of 2 alerts"), "{reason}");
    let filling = || {
        let troubles = server.test.health.troubles();
        troubles.into_iter().find(|(part, _)| part == "ingest/outbox").map(|(_, text)| text)
    };
    eventually("it is told that it fills", || filling().is_some_and(|text| text.starts_with("2 of 2 alerts"))).await;
    remote.away.store(false, Ordering::SeqCst);
    eventually("there is room again", || server.intake().is_none()).await;
    eventually("it is not told any more", || filling().is_none()).await;
    assert_eq!(server.post(WEBHOOK, "", &alerts(&["c"])).await.0, 200);
    server.stop().await;

    let server = start_local(Arc::clone(&remote), config(&dir)).await;
    remote.log.set_available(false);
    assert_eq!(server.post(WEBHOOK, "", &alerts(&["d"])).await.0, 503);
    assert!(server.intake().is_some());
    remote.log.set_available(true);
    eventually("the log is there again", || server.intake().is_none()).await;
    server.stop().await;
}

#[tokio::test]
async fn a_sender_without_a_valid_token_is_refused_before_its_body_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "secret\n").unwrap();
    let server = start(remote(), IngestConfig { auth_token_file: Some(token.clone()), ..config(&dir) }).await;
    assert_eq!(server.post(WEBHOOK, "Authorization: Bearer secret\r\n", &alerts(&["a"])).await.0, 200);
    assert_eq!(server.post(WEBHOOK, "", &alerts(&["b"])).await.0, 401);
    assert_eq!(server.post(WEBHOOK, "Authorization: Bearer Secret\r\n", &alerts(&["b"])).await.0, 401);
    std::fs::write(&token, "rotated\n").unwrap();
    let mut rotated = false;
    for _ in 0..200 {
        rotated = server.post(WEBHOOK, "Authorization: Bearer rotated\r\n", &alerts(&["c"])).await.0 == 200;
        if rotated {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(rotated, "the new token was never accepted");
    assert_eq!(server.post(WEBHOOK, "Authorization: Bearer secret\r\n", &alerts(&["d"])).await.0, 401);

    // An endless upload: the server answers and closes, however much is offered.
    let (status, text) = upload(TcpStream::connect(server.address).await.unwrap(), CHUNKED, usize::MAX).await.0;
    assert_eq!(status, 401, "{text}");
    server.stop().await;
}

const CHUNKED: &str = "POST /webhooks/alertmanager HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Sends a head and then chunks until so many bytes are sent or the server takes no more, and reads meanwhile. Gives the answer,
/// and how many bytes the server's side took.
async fn upload<I>(io: I, head: &str, bytes: usize) -> ((u16, String), usize)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite,
{
    let (mut reading, mut writing) = tokio::io::split(io);
    let mut taken = 0;
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let sending = async {
        let pieces = std::iter::once(head.as_bytes()).chain(std::iter::repeat(chunk.as_bytes()));
        for piece in pieces {
            let mut rest = piece;
            while !rest.is_empty() && taken < bytes {
                match writing.write(rest).await {
                    Ok(0) | Err(_) => return,
                    Ok(written) => (taken, rest) = (taken + written, &rest[written..]),
                }
            }
        }
    };
    let mut answer = Vec::new();
    let reading = async {
        let mut buffer = [0; 1_024];
        while let Ok(read @ 1..) = reading.read(&mut buffer).await {
            answer.extend_from_slice(&buffer[..read]);
        }
    };
    tokio::join!(sending, reading);
    let text = String::from_utf8(answer).unwrap();
    ((text.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0), text), taken)
}

/// A body without an end, which counts what is taken of it.
#[derive(Clone, Default)]
struct Endless(Arc<AtomicUsize>);

const FRAME_BYTES: usize = 4_096;

impl hyper::body::Body for Endless {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>> {
        self.0.fetch_add(FRAME_BYTES, Ordering::SeqCst);
        std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(vec![b'x'; FRAME_BYTES].into()))))
    }
}

/// An endpoint that knows the token `secret`.
fn endpoint(dir: &tempfile::TempDir) -> (Endpoint, TestContext) {
    let token = dir.path().join("token");
    std::fs::write(&token, "secret\n").unwrap();
    let test = TestContext::new("ingest", Arc::new(MemoryBus::new(1)));
    let endpoint = Endpoint {
        ctx: test.ctx.clone(),
        intake: Intake::Log,
        tokens: Some(super::auth::Tokens::load(token).unwrap()),
        webhook_source: "alertmanager".into(),
        alerts_source: "prometheus".into(),
        body_timeout: Duration::from_secs(20),
        room: Arc::new(tokio::sync::Semaphore::new(bounds::BODIES_BYTES)),
        unauthorised: Default::default(),
        crowded: Default::default(),
        rejected: Default::default(),
        refuses: AtomicBool::new(false),
    };
    (endpoint, test)
}

#[tokio::test]
async fn not_a_byte_of_a_body_is_taken_before_its_sender_is_known_and_no_more_than_its_bound_then() {
    let dir = tempfile::tempdir().unwrap();
    let (endpoint, _test) = endpoint(&dir);
    for (token, status, most) in [("wrong", 401, 0), ("secret", 413, bounds::BODY_BYTES + FRAME_BYTES)] {
        let body = Endless::default();
        let request = hyper::Request::post(WEBHOOK).header("authorization", format!("bearer {token}"));
        let answer = endpoint.answer(request.body(body.clone()).unwrap()).await;
        assert_eq!(answer.status(), status);
        let taken = body.0.load(Ordering::SeqCst);
        assert!(taken <= most && (taken > 0) == (most > 0), "{token}: {taken} bytes were taken");
    }
}

#[tokio::test]
async fn bodies_that_find_no_room_are_asked_to_come_again_and_give_back_what_they_had() {
    let dir = tempfile::tempdir().unwrap();
    let (mut endpoint, _test) = endpoint(&dir);
    // The room of nearly three bodies of half the largest size.
    let (half, room) = (bounds::BODY_BYTES / 2, bounds::BODY_BYTES * 5 / 4);
    endpoint.room = Arc::new(tokio::sync::Semaphore::new(room));
    let head = || hyper::Request::post(WEBHOOK).header("authorization", "bearer secret");
    // A sender that begins a body and does not go on keeps what it has sent, and not what it may send.
    let (ours, theirs) = tokio::sync::mpsc::channel::<bytes::Bytes>(1);
    let slow = head().header("content-length", bounds::BODY_BYTES).body(Chunks(theirs)).unwrap();
    let mut slow = Box::pin(endpoint.answer(slow));
    ours.send(vec![b' '; half].into()).await.unwrap();
    assert!(futures::poll!(&mut slow).is_pending());
    assert_eq!(endpoint.room.available_permits(), room - half);
    let whole = || head().body(http_body_util::Full::new(bytes::Bytes::from(vec![b' '; bounds::BODY_BYTES]))).unwrap();
    let refused = endpoint.answer(whole()).await;
    assert_eq!((refused.status().as_u16(), refused.headers()["retry-after"].as_bytes()), (503, &b"5"[..]));
    assert_eq!(refused.headers()["connection"], "close", "the rest of it is not read");
    assert_eq!(endpoint.room.available_permits(), room - half);
    drop(slow);
    assert_eq!(endpoint.answer(whole()).await.status(), 400, "there is room for it now, and it is no JSON");
    assert_eq!(endpoint.room.available_permits(), room);
}

/// A body that is what is sent.
struct Chunks(tokio::sync::mpsc::Receiver<bytes::Bytes>);

impl hyper::body::Body for Chunks {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok(hyper::body::Frame::data(chunk))))
    }
}

/// What the whole connection reads, the HTTP library's buffer and the lingering end included.
#[tokio::test]
async fn an_endless_upload_of_an_unknown_sender_is_answered_with_less_than_64_kib_read() {
    const PIPE: usize = 512;
    let dir = tempfile::tempdir().unwrap();
    let (endpoint, _test) = endpoint(&dir);
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let shutdown = endpoint.ctx.shutdown.clone();
    let endpoint = Arc::new(endpoint);
    let service = service_fn(move |request| Arc::clone(&endpoint).serve(request));
    let bounds = HttpBounds { connections: 1, header_timeout: Duration::from_secs(20), lifetime: None };
    let conversation = converse(service, theirs, bounds, shutdown);
    let (((status, text), sent), ()) = tokio::join!(upload(ours, CHUNKED, usize::MAX), conversation);
    assert_eq!(status, 401, "{text}");
    assert!(text.contains("connection: close") && text.ends_with("}\n"), "{text}");
    assert!(sent < 64 << 10, "{sent} bytes were read");
}

/// A reset would take the answer with it, and the sender would only see a broken connection.
#[tokio::test]
async fn an_answer_that_comes_before_the_end_of_a_body_reaches_its_sender() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "secret\n").unwrap();
    let server = start(remote(), IngestConfig { auth_token_file: Some(token), ..config(&dir) }).await;
    for _ in 0..20 {
        // The whole request is written before the answer is read.
        let known = "Authorization: Bearer secret\r\n";
        assert_eq!(server.post(WEBHOOK, known, &" ".repeat((1 << 20) + (200 << 10))).await.0, 413);
        assert_eq!(server.post(WEBHOOK, "", &" ".repeat(15 << 10)).await.0, 401);
        assert_eq!(server.post("/elsewhere", "", &" ".repeat(200 << 10)).await.0, 404);
    }
    server.stop().await;
}

#[tokio::test]
async fn slow_headers_and_bodies_end() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(remote(), config(&dir)).await;
    let (status, _) =
        exchange(server.address, b"POST /webhooks/alertmanager HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            .await;
    assert_eq!(status, 408);
    let (_, text) = exchange(server.address, b"POST /webhooks/alertmanager HTTP/1.1\r\nHo").await;
    assert_eq!(text, "", "closed without an answer");
    server.stop().await;
}

#[tokio::test]
async fn headers_beyond_their_bound_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(remote(), config(&dir)).await;
    let long = format!("x-long: {}\r\n", "x".repeat(16 << 10));
    assert_eq!(server.post(WEBHOOK, &long, &alerts(&["a"])).await.0, 200);
    // All of it is read: what is left unread would end the connection before its answer is.
    let head = format!("POST {WEBHOOK} HTTP/1.1\r\nHost: x\r\nx-long: ");
    let request = format!("{head}{}", "x".repeat((32 << 10) - head.len()));
    assert_eq!(exchange(server.address, request.as_bytes()).await.0, 431);
    server.stop().await;
}

#[tokio::test]
async fn many_senders_at_once_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(remote(), config(&dir)).await;
    let posts = (0..50).map(|i| {
        let body = alerts(&[&format!("{i}-a"), &format!("{i}-b")]);
        let server = &server;
        async move { server.post(WEBHOOK, "", &body).await.0 }
    });
    let statuses = futures::future::join_all(posts).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    let names: std::collections::BTreeSet<String> =
        server.logged(100).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 100);
    server.stop().await;
}
