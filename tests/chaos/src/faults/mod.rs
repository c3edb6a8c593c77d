//! What goes wrong, one after the other, while alerts keep coming. Each fault says where it can happen, how long it lasts, and what is
//! measured when it is over.

mod api;
mod broker;
mod crash;
mod disk;
mod process;
mod rebuild;

use std::{future::Future, pin::Pin, time::Duration};

use anyhow::Result;

use crate::stage::{Bus, Stage};

/// What a fault did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Struck {
    /// How often it struck.
    pub times: usize,
    /// How long it took until things went on, by what that means.
    pub recovered: Vec<(&'static str, Duration)>,
}

impl Struck {
    fn times(times: usize) -> Self {
        Self { times, recovered: Vec::new() }
    }

    fn recovered(mut self, what: &'static str, after: Duration) -> Self {
        self.recovered.push((what, after));
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

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

macro_rules! fault {
    ($name:literal, $what:literal, $on:expr, $lasts:literal, $short:expr, $load:literal, $run:path $(, $argument:expr)*) => {
        Fault {
            name: $name,
            what: $what,
            on: $on,
            lasts: seconds($lasts),
            short: $short,
            under_load: $load,
            run: |stage, lasts| Box::pin($run(stage, lasts $(, $argument)*)),
        }
    };
}

/// All of them, in the order in which they happen.
pub(crate) fn all() -> Vec<Fault> {
    let no = None;
    let s = |n| Some(seconds(n));
    vec![
        fault!("nothing", "nothing: what the others are compared with", BOTH, 10, s(5), true, process::nothing),
        fault!("crash-points", "kill -9 at each crash point of the code", BOTH, 30, s(30), true, crash::at_each_point),
        fault!("kill", "kill -9 at random moments", BOTH, 60, s(10), true, process::kill_at_random),
        fault!(
            "takeover",
            "kill -9 of one replica: the other takes over",
            KAFKA,
            10,
            s(1),
            true,
            process::take_over,
            process::End::Killed
        ),
        fault!(
            "ordered-stop",
            "SIGTERM of one replica: the other takes over",
            KAFKA,
            10,
            s(1),
            true,
            process::take_over,
            process::End::Stopped
        ),
        fault!(
            "frozen",
            "SIGSTOP in the middle of an action, while another takes over",
            KAFKA,
            60,
            s(12),
            true,
            process::freeze
        ),
        fault!("members", "a replica that joins and leaves every 5 s", KAFKA, 180, no, true, process::join_and_leave),
        fault!(
            "api-cut",
            "every connection to the API server is cut after the n-th write",
            BOTH,
            40,
            s(8),
            true,
            api::cut_after_writes
        ),
        fault!(
            "api-closed",
            "every seventh call to the API server: connection reset",
            BOTH,
            20,
            s(4),
            true,
            api::closed
        ),
        fault!(
            "api-lost-answers",
            "every fifth write: committed, its answer dropped",
            BOTH,
            30,
            s(6),
            true,
            api::lost_answers
        ),
        fault!(
            "api-504-after-commit",
            "every fifth write: committed, and answered with 504",
            BOTH,
            30,
            s(6),
            true,
            api::gateway_timeouts
        ),
        fault!("api-429", "every third call: 429 with Retry-After", BOTH, 20, s(4), true, api::answers, 429),
        fault!("api-503", "every third call: 503", BOTH, 20, s(4), true, api::answers, 503),
        fault!("api-504", "every third call: 504, and never done", BOTH, 20, s(4), true, api::answers, 504),
        fault!(
            "patch-delayed",
            "every second PATCH of a target arrives 30 s late",
            BOTH,
            60,
            no,
            true,
            api::late_patches
        ),
        fault!("patch-twice", "every PATCH of a target arrives twice", BOTH, 20, s(5), true, api::twice),
        fault!("watch-frozen", "no watch tells anything", BOTH, 60, s(8), true, api::frozen_watches),
        fault!(
            "receiver-away",
            "the receiver of messages hangs, then refuses",
            BOTH,
            30,
            s(6),
            true,
            api::receiver_away
        ),
        fault!("api-away", "the API server is stopped", BOTH, 120, s(8), true, api::server_away),
        fault!("etcd-away", "etcd is frozen", BOTH, 120, no, true, api::etcd_away),
        fault!(
            "compaction",
            "etcd is compacted, and no watch can go on where it was",
            BOTH,
            5,
            s(2),
            true,
            api::compaction
        ),
        fault!("broker-cut", "connections to the broker are cut every 2 s", KAFKA, 40, s(8), true, broker::cut),
        fault!(
            "broker-silent",
            "connections to the broker stay open, and nothing comes",
            KAFKA,
            40,
            no,
            true,
            broker::silent
        ),
        fault!("broker-away", "the broker is stopped", KAFKA, 300, s(10), true, broker::away),
        fault!(
            "topic-again",
            "a topic is deleted and created again: offsets start at zero",
            KAFKA,
            1,
            no,
            false,
            broker::topic_again
        ),
        fault!("disk-full", "the disk of the data directory is full", BOTH, 20, s(5), true, disk::full),
        fault!(
            "incidents-deleted",
            "all Incidents are deleted, and rebuilt from the topics",
            BOTH,
            1,
            no,
            false,
            rebuild::incidents_deleted
        ),
        fault!("topics-lost", "all topics are lost", BOTH, 1, no, false, rebuild::topics_lost),
        fault!(
            "repeated",
            "everything on the log is given to the services once more",
            BOTH,
            1,
            s(1),
            false,
            rebuild::repeated
        ),
    ]
}
