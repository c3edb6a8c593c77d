//! The load generator: requests at their intended times over connections that stay open, and what became of each.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::{
    net::TcpStream,
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use crate::{
    latencies::Latencies,
    pace::{self, Due, Schedule},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// Between the order to begin and the first request: every connection is open by then.
const RUN_UP: Duration = Duration::from_millis(200);

/// What is sent.
#[derive(Clone)]
pub struct Load {
    /// Where to.
    pub address: SocketAddr,
    /// The path of every POST.
    pub path: &'static str,
    /// When.
    pub schedule: Schedule,
    /// Connections, and so the most requests in flight. What is due while all are busy waits, and its latency has the wait in it.
    pub connections: usize,
    /// The body of each request, by its number.
    pub body: Arc<dyn Fn(u64) -> Bytes + Send + Sync>,
}

/// What became of it.
#[derive(Debug)]
pub struct Sent {
    /// When request 0 was meant to be sent.
    pub start: Timestamp,
    /// The same on the clock that latencies are measured with.
    pub start_instant: Instant,
    /// The schedule.
    pub schedule: Schedule,
    /// From the intended time to the end of the answer, of those that were answered with 200.
    pub latencies: Latencies,
    /// How late the generator itself was.
    pub lag: Latencies,
    /// Answers by status; 0 where there was none.
    pub statuses: BTreeMap<u16, u64>,
    /// Alerts that answers with 200 said to be accepted.
    pub accepted: u64,
    /// From the first intended time to the last answer.
    pub took: Duration,
    /// Accepted alerts in each second after the start.
    pub per_second: Vec<u64>,
    /// Requests that were not answered with 200, at most a few, as the receiver put it.
    pub refusals: Vec<String>,
}

impl Sent {
    /// When a request was meant to be sent, as other clocks say it.
    pub fn intended(&self, number: u64) -> Timestamp {
        let offset = SignedDuration::try_from(self.schedule.offset(number)).unwrap_or(SignedDuration::MAX);
        self.start.checked_add(offset).unwrap_or(self.start)
    }

    /// Accepted alerts a second.
    pub fn rate(&self) -> f64 {
        self.accepted as f64 / self.took.max(self.schedule.span()).as_secs_f64()
    }

    /// Whether every request was answered with 200.
    pub fn all_answered(&self) -> bool {
        self.statuses.keys().all(|status| *status == 200) && self.latencies.count() == self.schedule.count
    }
}

/// What one connection has seen.
struct Tally {
    latencies: Latencies,
    statuses: BTreeMap<u16, u64>,
    accepted: u64,
    last: Option<Instant>,
    per_second: Vec<u64>,
    refusals: Vec<String>,
}

/// Sends it all, and waits for every answer.
pub async fn send(load: Load) -> anyhow::Result<Sent> {
    let (sender, due) = mpsc::unbounded_channel();
    let due = Arc::new(Mutex::new(due));
    let mut workers = JoinSet::new();
    let mut connections = Vec::new();
    for _ in 0..load.connections {
        connections.push(connect(load.address).await?);
    }
    let start_instant = Instant::now() + RUN_UP;
    let start = Timestamp::now() + SignedDuration::try_from(RUN_UP).unwrap_or_default();
    for connection in connections {
        workers.spawn(work(load.clone(), connection, Arc::clone(&due), start_instant));
    }
    let schedule = load.schedule;
    let pacing = tokio::task::spawn_blocking(move || pace::run(schedule, start_instant, &sender));
    let mut all = Tally::new();
    while let Some(tally) = workers.join_next().await {
        all.add(&tally.context("a connection of the load generator")?);
    }
    let lag = pacing.await.context("the pacing of the load generator")?;
    Ok(Sent {
        start,
        start_instant,
        schedule,
        latencies: all.latencies,
        lag,
        statuses: all.statuses,
        accepted: all.accepted,
        took: all.last.map_or(Duration::ZERO, |last| last.saturating_duration_since(start_instant)),
        per_second: all.per_second,
        refusals: all.refusals,
    })
}

async fn work(
    load: Load,
    mut connection: SendRequest<Full<Bytes>>,
    due: Arc<Mutex<mpsc::UnboundedReceiver<Due>>>,
    start: Instant,
) -> Tally {
    let mut tally = Tally::new();
    loop {
        // The lock is fair: connections take turns. It is held while nothing is due, and by one only.
        let next = due.lock().await.recv().await;
        let Some(Due { number, intended }) = next else { return tally };
        let body = (load.body)(number);
        let answer = match tokio::time::timeout(PATIENCE, exchange(&mut connection, &load, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs())),
        };
        let now = Instant::now();
        tally.last = Some(now);
        match answer {
            Ok((200, body)) => {
                let accepted = serde_json::from_slice::<Value>(&body).ok();
                let accepted = accepted.and_then(|answer| answer["accepted"].as_u64()).unwrap_or(0);
                tally.accept(accepted, now - intended, now.saturating_duration_since(start));
            }
            Ok((status, body)) => tally.refuse(status, &String::from_utf8_lossy(&body)),
            Err(error) => {
                tally.refuse(0, &format!("{error:#}"));
                // Whatever broke it: the next request must not suffer for it.
                match connect(load.address).await {
                    Ok(fresh) => connection = fresh,
                    Err(error) => tally.refuse(0, &format!("{error:#}")),
                }
            }
        }
    }
}

async fn connect(address: SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // It ends with its sender.
    tokio::spawn(connection);
    Ok(sender)
}

async fn exchange(connection: &mut SendRequest<Full<Bytes>>, load: &Load, body: Bytes) -> anyhow::Result<(u16, Bytes)> {
    connection.ready().await?;
    let request = Request::post(load.path)
        .header(header::HOST, load.address.to_string())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    let response = connection.send_request(request).await?;
    let status = response.status().as_u16();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

/// How many refusals are kept as they were put.
const REFUSALS: usize = 5;

impl Tally {
    fn new() -> Self {
        Self {
            latencies: Latencies::new(),
            statuses: BTreeMap::new(),
            accepted: 0,
            last: None,
            per_second: Vec::new(),
            refusals: Vec::new(),
        }
    }

    fn accept(&mut self, accepted: u64, latency: Duration, after: Duration) {
        *self.statuses.entry(200).or_default() += 1;
        self.accepted += accepted;
        self.latencies.record(latency);
        let second = after.as_secs() as usize;
        if self.per_second.len() <= second {
            self.per_second.resize(second + 1, 0);
        }
        self.per_second[second] += accepted;
    }

    fn refuse(&mut self, status: u16, said: &str) {
        *self.statuses.entry(status).or_default() += 1;
        if self.refusals.len() < REFUSALS {
            self.refusals.push(format!("{status}: {}", said.trim().chars().take(200).collect::<String>()));
        }
    }

    fn add(&mut self, other: &Self) {
        self.latencies.merge(&other.latencies);
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        self.accepted += other.accepted;
        self.last = self.last.max(other.last);
        if self.per_second.len() < other.per_second.len() {
            self.per_second.resize(other.per_second.len(), 0);
        }
        for (mine, its) in self.per_second.iter_mut().zip(&other.per_second) {
            *mine += its;
        }
        let room = REFUSALS.saturating_sub(self.refusals.len());
        self.refusals.extend(other.refusals.iter().take(room).cloned());
    }
}

#[cfg(test)]
mod tests {
    use eventpulse_testkit::sink::{Answer, Sink};

    use super::*;

    fn load(sink: &Sink, rate: f64, count: u64, connections: usize) -> Load {
        Load {
            address: sink.address(),
            path: "/alerts",
            schedule: Schedule { rate, count },
            connections,
            body: Arc::new(|number| number.to_string().into()),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_request_is_sent_once_and_what_was_accepted_is_counted() {
        let sink = Sink::start().await.unwrap();
        sink.always("/alerts", Some(Answer::status(200).body("{\"accepted\": 3}")));
        let sent = send(load(&sink, 500.0, 40, 4)).await.unwrap();
        assert!(sent.all_answered() && sent.accepted == 120 && sent.per_second.iter().sum::<u64>() == 120, "{sent:?}");
        let mut numbers: Vec<u64> =
            sink.received().iter().map(|request| String::from_utf8_lossy(&request.body).parse().unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..40).collect::<Vec<_>>());
        assert_eq!(sent.intended(25).duration_since(sent.start).as_millis(), 50);
    }

    /// A receiver that stands still for a while is seen by every request that was due meanwhile, not only by the one that waited.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_receiver_that_stands_still_omits_nothing() {
        let sink = Sink::start().await.unwrap();
        sink.script("/alerts", [Answer::status(200).after(Duration::from_millis(400))]);
        let sent = send(load(&sink, 100.0, 40, 1)).await.unwrap();
        assert!(sent.all_answered());
        // Those due in the 400 ms waited 400, 390, 380 … ms: half of them more than 200.
        assert!(sent.latencies.quantile(0.55) > Duration::from_millis(150), "{:?}", sent.latencies.summary());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_refused_or_not_answered_is_no_latency() {
        let sink = Sink::start().await.unwrap();
        sink.script("/alerts", [Answer::status(503).body("full"), Answer::close(), Answer::status(200)]);
        let sent = send(load(&sink, 100.0, 4, 1)).await.unwrap();
        assert_eq!(sent.statuses, BTreeMap::from([(0, 1), (200, 2), (503, 1)]), "{sent:?}");
        assert!(!sent.all_answered() && sent.latencies.count() == 2 && sent.refusals[0] == "503: full");
    }
}
