//! The service over real HTTP on loopback.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::service::{IngestConfig, serve};
use crate::{
    bus::{Bus, BusError, MemoryBus, SubscribeOptions, Subscription, SubscriptionEvent},
    events::{Payload, Record, Topic},
    testing::TestContext,
};

/// A log that is elsewhere: the outbox is used, and the broker can go away.
struct Remote {
    log: Arc<MemoryBus>,
    away: AtomicBool,
}

#[async_trait]
impl Bus for Remote {
    async fn publish(&self, records: Vec<Record>) -> Result<(), BusError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(BusError::Publish("the broker is away".into()));
        }
        self.log.publish(records).await
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription, BusError> {
        self.log.subscribe(options).await
    }

    fn partitions(&self, topic: Topic) -> u32 {
        self.log.partitions(topic)
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
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let test = TestContext::new("ingest", remote.clone());
    test.ctx.tasks.spawn("ingest", serve(test.ctx.clone(), config, listener));
    Server { address, test, remote }
}

fn remote() -> Arc<Remote> {
    Arc::new(Remote { log: Arc::new(MemoryBus::new(3)), away: AtomicBool::new(false) })
}

fn config(dir: &tempfile::TempDir) -> IngestConfig {
    IngestConfig {
        data_dir: dir.path().to_owned(),
        header_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(300),
        token_interval: Duration::from_millis(10),
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
        (WEBHOOK, "", &alerts(&[]), 200),
        ("/api/v2/alerts", "", "[]", 200),
        ("/api/v2/alerts", "", "{}", 400),
        ("/elsewhere", "", "{}", 404),
        (WEBHOOK, "Content-Encoding: gzip\r\n", "x", 415),
    ] {
        assert_eq!(server.post(path, headers, body).await.0, expected, "{path} {body}");
    }
    let (status, text) = exchange(server.address, b"GET /webhooks/alertmanager HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!((status, text.contains("allow: POST")), (405, true));
    let (status, _) = server.post(WEBHOOK, "", &" ".repeat((1 << 20) + 1)).await;
    assert!([413, 0].contains(&status), "the answer, or a reset because the rest was not read: {status}");
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

#[tokio::test]
async fn while_the_broker_is_away_alerts_are_kept_up_to_the_bound_and_published_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let remote = remote();
    remote.away.store(true, Ordering::SeqCst);
    let bounded = IngestConfig { outbox_max_alerts: 3, ..config(&dir) };
    let server = start(Arc::clone(&remote), bounded.clone()).await;
    assert_eq!(server.post(WEBHOOK, "", &alerts(&["a", "b"])).await.0, 200);
    let (status, text) = server.post(WEBHOOK, "", &alerts(&["c", "d"])).await;
    assert_eq!((status, text.contains("retry-after: 5")), (503, true), "{text}");
    assert_eq!(server.post(WEBHOOK, "", &alerts(&["e"])).await.0, 200, "there is room for one");
    server.stop().await;
    remote.away.store(false, Ordering::SeqCst);
    let server = start(remote, bounded).await;
    let mut names: Vec<String> = server.logged(3).await.into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(names, ["a", "b", "e"], "what was accepted is published, what was refused is not");
    for _ in 0..200 {
        if server.post(WEBHOOK, "", &alerts(&["f", "g", "h"])).await.0 == 200 {
            return server.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the outbox is still full");
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

    // An endless upload: the server answers and closes after a little, however much is offered.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"POST /webhooks/alertmanager HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer[9..], b"401", "answered before one byte of the body was sent");
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let mut closed = false;
    for _ in 0..10_000 {
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            closed = true;
            break;
        }
    }
    assert!(closed, "the server reads on for ever");
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
    let (status, _) = exchange(server.address, b"POST /webhooks/alertmanager HTTP/1.1\r\nHo").await;
    assert!([0, 408].contains(&status), "{status}");
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
