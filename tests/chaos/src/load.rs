//! Who sends alerts, at a steady rate whatever becomes of the receivers: each alert fires, is told of again, and ends. What is not answered
//! with 2xx is sent again until it is, to another receiver, as Alertmanager does.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use eventpulse_oracle::{Accepted, BROKEN};
use eventpulse_testkit::{
    alerts::{Alert, webhook},
    client,
};
use jiff::Timestamp;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::setting::{Kind, Setting};

/// As ingest is configured by default.
const SOURCE: &str = "alertmanager";
/// How long a sender waits for an answer, as Alertmanager's webhook receivers are usually told.
const ANSWER: Duration = Duration::from_secs(10);
/// One in so many times an alert comes that is none: it becomes a dead letter.
const INVALID: u32 = 10;
const AGAIN: Duration = Duration::from_millis(300);

/// Where alerts can be sent to at the moment, and what was taken. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Senders(Arc<Inner>);

#[derive(Default)]
struct Inner {
    doors: Mutex<Vec<String>>,
    accepted: Mutex<Vec<Accepted>>,
    broken: Mutex<Vec<String>>,
    broken_sent: AtomicUsize,
    turn: AtomicUsize,
    paused: AtomicBool,
    unanswered: AtomicUsize,
}

impl Senders {
    /// The receivers' URLs from now on.
    pub(crate) fn set_doors(&self, urls: Vec<String>) {
        *lock(&self.0.doors) = urls;
    }

    /// Whether no new alert comes for the time being; those that fire go on.
    pub(crate) fn pause(&self, paused: bool) {
        self.0.paused.store(paused, Ordering::SeqCst);
    }

    /// What was answered with 2xx.
    pub(crate) fn accepted(&self) -> Vec<Accepted> {
        lock(&self.0.accepted).clone()
    }

    /// What was answered with 2xx and is no alert.
    pub(crate) fn broken(&self) -> Vec<String> {
        lock(&self.0.broken).clone()
    }

    /// How often a request had to be sent again.
    pub(crate) fn unanswered(&self) -> usize {
        self.0.unanswered.load(Ordering::SeqCst)
    }

    /// Until it is taken.
    pub(crate) async fn send(&self, alert: &Alert) {
        self.post(&webhook(std::slice::from_ref(alert))).await;
        lock(&self.0.accepted).push(Accepted {
            source: SOURCE.into(),
            fingerprint: alert.fingerprint(),
            starts_at: alert.starts_at(),
            status: alert.status().into(),
            name: alert.name().into(),
        });
    }

    /// One whose labels are none, until it is answered. Nothing but a dead letter comes of it.
    pub(crate) async fn send_invalid(&self) {
        let name = format!("no {}", self.0.broken_sent.fetch_add(1, Ordering::SeqCst));
        let mut body = webhook(&[Alert::firing("ChaosInvalid", now()).annotation(BROKEN, name.clone())]);
        body["alerts"][0]["labels"] = 7.into();
        self.post(&body).await;
        lock(&self.0.broken).push(name);
    }

    async fn post(&self, body: &Value) {
        loop {
            let door = {
                let doors = lock(&self.0.doors);
                let turn = self.0.turn.fetch_add(1, Ordering::SeqCst);
                (!doors.is_empty()).then(|| doors[turn % doors.len()].clone())
            };
            if let Some(door) = door
                && let Ok(Ok(reply)) = timeout(ANSWER, client::post(&door, body)).await
                && reply.is_success()
            {
                return;
            }
            self.0.unanswered.fetch_add(1, Ordering::SeqCst);
            sleep(AGAIN).await;
        }
    }
}

/// Alerts that keep coming.
pub(crate) struct Load {
    ending: Arc<AtomicBool>,
    work: JoinHandle<()>,
}

impl Load {
    /// So many new alerts a second.
    pub(crate) fn start(senders: &Senders, per_second: f64, seed: u64) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let work = tokio::spawn(keep_sending(senders.clone(), per_second, seed, Arc::clone(&ending)));
        Self { ending, work }
    }

    /// No new ones; returns when each has ended and its end was taken.
    pub(crate) async fn end(self) {
        self.ending.store(true, Ordering::SeqCst);
        // One that panics is seen on standard error.
        let _ = self.work.await;
    }
}

async fn keep_sending(senders: Senders, per_second: f64, seed: u64, ending: Arc<AtomicBool>) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut tick = interval(Duration::from_secs_f64(1.0 / per_second));
    // Open loop: what a slow receiver holds up is caught up.
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut episodes = JoinSet::new();
    while !ending.load(Ordering::SeqCst) {
        tick.tick().await;
        if senders.0.paused.load(Ordering::SeqCst) {
            continue;
        }
        if random.random_ratio(1, INVALID) {
            episodes.spawn({
                let senders = senders.clone();
                async move { senders.send_invalid().await }
            });
        }
        let (kind, lasts) = (Kind::any(&mut random), Duration::from_millis(random.random_range(1_000..6_000)));
        let service = Setting::service(kind, random.random_range(0..kind.targets()));
        episodes.spawn(episode(senders.clone(), kind, service, lasts, Arc::clone(&ending)));
        while episodes.try_join_next().is_some() {}
    }
    while episodes.join_next().await.is_some() {}
}

/// Now, as Alertmanager tells times: in milliseconds.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// One alert: it fires, is told of once more, and ends.
async fn episode(senders: Senders, kind: Kind, service: String, lasts: Duration, ending: Arc<AtomicBool>) {
    let alert = Alert::firing(kind.alert(), now()).label("service", service).label("severity", "warning");
    senders.send(&alert).await;
    sleep(lasts / 2).await;
    senders.send(&alert).await;
    if !ending.load(Ordering::SeqCst) {
        sleep(lasts / 2).await;
    }
    senders.send(&alert.resolved(now())).await;
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
