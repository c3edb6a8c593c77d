//! What all replicas of a history share: the API server, the log, the outside, the time, and the fate of every call.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use eventpulse::{
    bus::{Bus as _, LocalOptions, MemoryBus},
    events::Topic,
    runtime::{Metrics, clock::Clock},
};
use eventpulse_fake_api::FakeApi;
use eventpulse_oracle::{Accepted, Message, Record};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::{
    chance::Chance,
    coverage::{Coverage, Fault},
    gate::Gate,
    timeline::Timeline,
};

/// How often a call meets a fault, in a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rates {
    /// Of a call to the API server.
    pub request: u64,
    /// Of a patch of a target.
    pub patch: u64,
    /// Of a frame of a watch.
    pub watch: u64,
    /// Of a publication.
    pub publish: u64,
    /// Of a message.
    pub message: u64,
}

/// Between which two moments of an effect a replica is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    After,
}

pub(crate) struct World {
    pub chance: Chance,
    pub timeline: Timeline,
    pub coverage: Coverage,
    pub api: FakeApi,
    pub log: MemoryBus,
    pub time: Arc<Time>,
    rates: Mutex<Rates>,
    /// At which effects of all replicas one is killed.
    crashes: Mutex<VecDeque<(u64, Moment)>>,
    effects: AtomicU64,
    pub api_is_away: AtomicBool,
    /// The admission webhook of EventPulse's own kinds.
    pub webhook_is_away: AtomicBool,
    pub broker_is_away: AtomicBool,
    /// The replica that patches a target next is frozen in the middle of it.
    pub freezes_patch: AtomicBool,
    published: Mutex<Vec<Record>>,
    messages: Mutex<Vec<Message>>,
    accepted: Mutex<Vec<Accepted>>,
}

/// The true time of a history. A replica's clock may differ.
pub(crate) struct Time {
    start: Timestamp,
    began: Instant,
}

impl Time {
    pub(crate) fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.began.elapsed()).unwrap_or(SignedDuration::MAX);
        let now = self.start.saturating_add(elapsed).unwrap_or(self.start);
        Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
    }
}

impl Clock for Time {
    fn now(&self) -> Timestamp {
        Time::now(self)
    }
}

/// A replica's clock.
pub(crate) struct Skewed {
    time: Arc<Time>,
    by_ms: AtomicI64,
}

impl Skewed {
    pub(crate) fn new(time: &Arc<Time>) -> Arc<Self> {
        Arc::new(Self { time: Arc::clone(time), by_ms: AtomicI64::new(0) })
    }

    pub(crate) fn set(&self, by: SignedDuration) {
        self.by_ms.store(i64::try_from(by.as_millis()).unwrap_or(0), Ordering::SeqCst);
    }
}

impl Clock for Skewed {
    fn now(&self) -> Timestamp {
        let now = self.time.now();
        now.saturating_add(SignedDuration::from_millis(self.by_ms.load(Ordering::SeqCst))).unwrap_or(now)
    }
}

impl World {
    /// It is 2026-01-05T12:00:00Z. `keep`: whether the timeline keeps its lines.
    pub(crate) fn new(chance: Chance, partitions: u32, keep: bool) -> Arc<Self> {
        let start = Timestamp::from_second(1_767_614_400).unwrap_or(Timestamp::UNIX_EPOCH);
        let time = Arc::new(Time { start, began: Instant::now() });
        let log = MemoryBus::with(partitions, Arc::clone(&time) as _, Metrics::default(), LocalOptions::default());
        let of_api = Arc::clone(&time);
        let api = FakeApi::with_clock(move || of_api.now());
        api.remember_requests(false);
        Arc::new(Self {
            chance,
            timeline: Timeline::new(keep),
            coverage: Coverage::default(),
            api,
            log,
            time,
            rates: Mutex::default(),
            crashes: Mutex::default(),
            effects: AtomicU64::new(0),
            api_is_away: AtomicBool::new(false),
            webhook_is_away: AtomicBool::new(false),
            broker_is_away: AtomicBool::new(false),
            freezes_patch: AtomicBool::new(false),
            published: Mutex::default(),
            messages: Mutex::default(),
            accepted: Mutex::default(),
        })
    }

    pub(crate) fn log_partitions(&self) -> u32 {
        self.log.partitions(Topic::AlertRaised)
    }

    pub(crate) fn rates(&self) -> Rates {
        *lock(&self.rates)
    }

    pub(crate) fn set_rates(&self, rates: Rates) {
        *lock(&self.rates) = rates;
    }

    /// At these effects from now on, in ascending order, a replica is killed.
    pub(crate) fn set_crashes(&self, crashes: impl IntoIterator<Item = (u64, Moment)>) {
        *lock(&self.crashes) = crashes.into_iter().collect();
    }

    /// A replica is about to have an effect: whether it is killed for it.
    pub(crate) fn effect(&self) -> Option<Moment> {
        let number = self.effects.fetch_add(1, Ordering::SeqCst);
        let mut crashes = lock(&self.crashes);
        let (at, moment) = *crashes.front()?;
        (at <= number).then(|| crashes.pop_front()).map(|_| moment)
    }

    pub(crate) fn crash(&self, gate: &Gate, who: &str, fault: Fault) {
        self.reached(fault);
        self.timeline.note(who, format_args!("KILLED ({})", fault.text()));
        gate.kill();
    }

    pub(crate) fn reached(&self, fault: Fault) {
        self.coverage.reached(fault);
    }

    pub(crate) fn published(&self) -> MutexGuard<'_, Vec<Record>> {
        lock(&self.published)
    }

    pub(crate) fn messages(&self) -> MutexGuard<'_, Vec<Message>> {
        lock(&self.messages)
    }

    pub(crate) fn accepted(&self) -> MutexGuard<'_, Vec<Accepted>> {
        lock(&self.accepted)
    }

    /// A short way over the network.
    pub(crate) fn hop(&self) -> Duration {
        self.chance.time(Duration::from_micros(50), Duration::from_millis(4))
    }

    /// Longer than anybody waits for an answer.
    pub(crate) fn too_long(&self) -> Duration {
        self.chance.time(Duration::from_secs(11), Duration::from_secs(45))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
