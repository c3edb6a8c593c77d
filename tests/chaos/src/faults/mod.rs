//! What goes wrong, one after the other, while alerts keep coming. Each fault says where it can happen, how long it lasts, and what is
//! measured when it is over.

mod api;
mod broker;
mod crash;
mod disk;
mod process;
mod rebuild;

use std::{fmt, future::Future, pin::Pin, time::Duration};

use anyhow::Result;

use crate::stage::{Bus, Stage};

/// What a fault did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Struck {
    /// How often it struck.
    pub times: usize,
    /// How long it took until things went on.
    pub recovered: Vec<Recovery>,
}

/// How long something took until it went on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recovery {
    /// What that means.
    pub what: &'static str,
    pub after: Duration,
    /// It is to take no longer; none: nobody has said how long it may take.
    pub wanted: Option<Duration>,
}

impl Recovery {
    /// Whether it took longer than is wanted. That is told, and breaks no promise: a machine may be slow.
    pub(crate) fn is_missed(&self) -> bool {
        self.wanted.is_some_and(|wanted| self.after > wanted)
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:.2} s", self.what, self.after.as_secs_f64())?;
        match self.wanted {
            Some(wanted) => {
                let missed = if self.is_missed() { ", MISSED" } else { "" };
                write!(f, " (≤ {} s{missed})", wanted.as_secs())
            }
            None => Ok(()),
        }
    }
}

/// The API server is there again, until alerts are acted on.
const SERVER_BACK: Duration = Duration::from_secs(10);
/// A replica was killed, until another one has taken over all that was its.
const TAKEN_OVER: Duration = Duration::from_secs(15);
/// The same after an ordered stop.
const HANDED_OVER: Duration = Duration::from_secs(3);
/// A target's API fails, until nothing is sent to it.
const BREAKER_OPENS: Duration = Duration::from_secs(5);

impl Struck {
    fn times(times: usize) -> Self {
        Self { times, recovered: Vec::new() }
    }

    /// And what struck after it.
    fn and(mut self, next: Self) -> Self {
        self.times += next.times;
        self.recovered.extend(next.recovered);
        self
    }

    fn recovered(mut self, what: &'static str, after: Duration) -> Self {
        self.recovered.push(Recovery { what, after, wanted: None });
        self
    }

    /// The same, where it is to take no longer than `wanted`.
    fn within(mut self, wanted: Duration, what: &'static str, after: Duration) -> Self {
        self.recovered.push(Recovery { what, after, wanted: Some(wanted) });
        self
    }
}

type Running<'a> = Pin<Box<dyn Future<Output = Result<Struck>> + 'a>>;

/// A fault.
pub(crate) struct Fault {
    /// For `--only`.
    pub name: &'static str,
    /// For people.
    pub what: &'static str,
    /// On which logs it can happen.
    pub on: &'static [Bus],
    /// How long it lasts.
    pub lasts: Duration,
    /// The same in the short form; none: it is no part of that.
    pub short: Option<Duration>,
    /// Alerts keep coming while it lasts. Not where somebody takes away what nobody has read yet.
    pub under_load: bool,
    /// Does it.
    pub run: for<'a> fn(&'a mut Stage, Duration) -> Running<'a>,
}

const BOTH: &[Bus] = &[Bus::Embedded, Bus::Kafka];
const KAFKA: &[Bus] = &[Bus::Kafka];

/// Declares the faults, a line each: its name, where it can happen, how many seconds it lasts, the same in the short form (`-`: it is no
/// part of that), whether alerts keep coming meanwhile, what does it, and its text.
macro_rules! faults {
    ($($name:literal $on:ident $lasts:literal $short:tt $load:ident $($run:ident)::+ ($($argument:expr)?) $what:literal)+) => {
        /// All of them, in the order in which they happen.
        pub(crate) fn all() -> Vec<Fault> {
            vec![$(Fault {
                name: $name,
                what: $what,
                on: $on,
                lasts: Duration::from_secs($lasts),
                short: short!($short),
                under_load: faults!(@ $load),
                run: |stage, lasts| Box::pin($($run)::+(stage, lasts $(, $argument)?)),
            }),+]
        }
    };
    (@ load) => { true };
    (@ calm) => { false };
}

macro_rules! short {
    (-) => {
        None
    };
    ($seconds:literal) => {
        Some(Duration::from_secs($seconds))
    };
}

faults! {
    "nothing"              BOTH      10  5 load process::nothing()                        "nothing: what the others are compared with"
    "crash-points"         BOTH     180 90 load crash::at_each_point()                    "kill -9 at each crash point of the code"
    "kill"                 BOTH      60 10 load process::kill_at_random()                 "kill -9 at random moments"
    "takeover"             KAFKA     10  1 load process::take_over(process::End::Killed)  "kill -9 of one replica: the other takes over"
    "ordered-stop"         KAFKA     10  1 load process::take_over(process::End::Stopped) "SIGTERM of one replica: the other takes over"
    "frozen"               KAFKA     60 12 load process::freeze()                         "SIGSTOP in the middle of an action, while another takes over"
    "members"              KAFKA    180  - load process::join_and_leave()                 "a replica that joins and leaves every 5 s"
    "api-cut"              BOTH      40  8 load api::cut_after_writes()                   "every connection to the API server is cut after the n-th write"
    "api-closed"           BOTH      20  4 load api::closed()                             "every seventh call to the API server: connection reset"
    "api-lost-answers"     BOTH      30  6 load api::lost_answers()                       "every fifth write: committed, its answer dropped"
    "api-504-after-commit" BOTH      30  6 load api::gateway_timeouts()                   "every fifth write: committed, and answered with 504"
    "api-429"              BOTH      20  4 load api::answers(429)                         "every third call: 429 with Retry-After"
    "api-503"              BOTH      20  4 load api::answers(503)                         "every third call: 503"
    "api-504"              BOTH      20  4 load api::answers(504)                         "every third call: 504, and never done"
    "webhook-away"         BOTH      60  8 load api::webhook_away()                       "every write of our own kinds: 500, then too late to be waited for"
    "patch-503"            BOTH      30 30 load api::breakers()                           "every PATCH of a target: 503, until breakers open"
    "patch-delayed"        BOTH      60  - load api::late_patches()                       "every second PATCH of a target arrives 30 s late"
    "patch-twice"          BOTH      20  5 load api::twice()                              "every PATCH of a target arrives twice"
    "watch-frozen"         BOTH      60  8 load api::frozen_watches()                     "no watch tells anything"
    "receiver-away"        BOTH      30  6 load api::receiver_away()                      "the receiver of messages hangs, then refuses"
    "api-away"             BOTH     120  8 load api::server_away()                        "the API server is stopped"
    "etcd-away"            BOTH     120  - load api::etcd_away()                          "etcd is frozen"
    "etcd-stopped"         BOTH      30  - load api::etcd_stopped()                       "etcd is stopped, and started again"
    "compaction"           BOTH       5  2 load api::compaction()                         "etcd is compacted, and no watch can go on where it was"
    "broker-cut"           KAFKA     40  8 load broker::cut()                             "connections to the broker are cut every 2 s"
    "broker-lost-answers"  KAFKA     40  8 load broker::lost_answers()                    "every 2 s what the broker answers is lost, after it was done"
    "broker-silent"        KAFKA     40  - load broker::silent()                          "connections to the broker stay open, and nothing comes"
    "broker-away"          KAFKA    300 10 load broker::away()                            "the broker is stopped"
    "topic-again"          KAFKA      1  - calm broker::topic_again()                     "a topic is deleted and created again: offsets start at zero"
    "disk-full"            BOTH      20  5 load disk::full()                              "the disk of the data directory is full"
    "incidents-deleted"    BOTH       1  1 calm rebuild::incidents_deleted()              "all Incidents are deleted, and rebuilt from the topics"
    "topics-lost"          BOTH       1  1 calm rebuild::topics_lost()                    "all topics are lost"
    "crash-points-old"     KAFKA     90  - calm crash::at_each_point_of_old()             "kill -9 where what is old is let go of and deleted"
    "repeated"             BOTH       1  1 calm rebuild::repeated()                       "everything on the log is given to the services once more"
}
