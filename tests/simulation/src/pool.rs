//! Histories side by side, each on a thread of its own, with an eye on those that hang.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use eventpulse::mutants::{self, Mutant};

use crate::history::{self, Outcome};

/// No history takes so long by the machine's time; one that does goes round in a circle.
const HANGS: Duration = Duration::from_secs(300);
/// How often it is looked for one that hangs.
const LOOK: Duration = Duration::from_secs(1);
/// How many histories set up everything that is set up once.
const WARM_UP: u64 = 8;
/// Of the thread of one history.
const STACK_BYTES: usize = 8 << 20;

/// What is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub seed: u64,
    /// Whether its lines are kept.
    pub keep: bool,
    /// A sabotage of the product, which it must have been built with.
    pub mutant: Option<Mutant>,
}

impl Job {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, keep: false, mutant: None }
    }
}

/// Runs a history on a thread of its own. A panic in it is a violation.
pub(crate) fn run(job: Job) -> Outcome {
    let Job { seed, keep, mutant } = job;
    let run = move || {
        mutants::choose(mutant);
        std::panic::catch_unwind(AssertUnwindSafe(|| history::run(seed, keep)))
    };
    let joined = thread::Builder::new().stack_size(STACK_BYTES).spawn(run).map(thread::JoinHandle::join);
    let why = match joined {
        Ok(Ok(Ok(outcome))) => return outcome,
        Ok(_) => "it panicked".to_owned(),
        Err(error) => format!("its thread did not start: {error}"),
    };
    let (lines, faults, outcomes) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    Outcome { seed, hash: 0, violations: vec![why], lines, faults, outcomes, virtual_time: Duration::ZERO, writes: 0 }
}

/// Runs some histories for nothing: what the program sets up once for all of them is set up then, and no history is the first one.
pub(crate) fn warm_up() {
    (u64::MAX - WARM_UP..u64::MAX).for_each(|seed| drop(run(Job::new(seed))));
}

/// Runs these seeds, `jobs` at a time, until `seen` says that it has seen enough. Gives a seed that hangs.
pub(crate) fn run_all(
    seeds: impl Iterator<Item = u64>,
    mutant: Option<Mutant>,
    jobs: usize,
    mut seen: impl FnMut(Outcome) -> bool,
) -> Option<u64> {
    let (done, outcomes) = channel();
    let mut running: BTreeMap<u64, Instant> = BTreeMap::new();
    let mut seeds = seeds.fuse();
    loop {
        while running.len() < jobs.max(1) {
            let Some(seed) = seeds.next() else { break };
            running.insert(seed, Instant::now());
            let done = done.clone();
            thread::spawn(move || drop(done.send(run(Job { mutant, ..Job::new(seed) }))));
        }
        if running.is_empty() {
            return None;
        }
        match outcomes.recv_timeout(LOOK) {
            Ok(outcome) => {
                running.remove(&outcome.seed);
                if !seen(outcome) {
                    return None;
                }
            }
            // Nothing yet: this end has a sender of its own.
            Err(_) => {
                if let Some((seed, _)) = running.iter().find(|(_, began)| began.elapsed() > HANGS) {
                    return Some(*seed);
                }
            }
        }
    }
}
