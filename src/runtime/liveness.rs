//! Liveness: whether the process's own loops go on. Progress, not presence: a loop that is there and does not move is stuck.
//!
//! Every loop that must go on is followed ([`Liveness::follow`]): it moves whenever it is run, so one that waits for an answer without
//! a deadline, that is locked out, or whose thread is blocked does not. Each loop wakes by itself more often than its bound; one that
//! has nothing to wake it waits in [`waiting`]. What the brokers or the API server owe is no matter of liveness, because a restart
//! would not bring it: every call to them has a deadline, after which its loop moves.
//!
//! Ages are added up look by look, and a look that comes late counts little: a process that was frozen as a whole is not stuck.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How long a loop may stand still. The longest step of one is a publication that waits for brokers, some 40 s.
pub const LOOP_BOUND: Duration = Duration::from_secs(90);
/// How long one piece of work may: a runbook may grant a call to its target 10 minutes.
pub const WORK_BOUND: Duration = Duration::from_secs(900);
/// How long no async thread may have run what is due every second.
pub const EXECUTOR_BOUND: Duration = Duration::from_secs(15);
/// How often is looked.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often one that waits for something from outside shows that it could go on.
const WAITING_TURN: Duration = Duration::from_secs(10);

/// The loops of one process. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Liveness(Arc<Mutex<Loops>>);

#[derive(Debug, Default)]
struct Loops {
    next: u64,
    by_id: BTreeMap<u64, Loop>,
}

#[derive(Debug)]
struct Loop {
    name: Cow<'static, str>,
    bound: Duration,
    moved: Arc<AtomicBool>,
    still: Duration,
    said: bool,
}

/// A loop that does not move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Its name.
    pub name: String,
    /// For how long.
    pub still: Duration,
    /// How long it may.
    pub bound: Duration,
}

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: it has not moved for {} s; at most {} s", self.name, self.still.as_secs(), self.bound.as_secs())
    }
}

/// A loop shows with it that it moves. Dropped when the loop has ended: one that has ended is not stuck.
#[derive(Debug)]
pub struct Beat {
    id: u64,
    moved: Arc<AtomicBool>,
    liveness: Liveness,
}

impl Beat {
    /// The loop goes on.
    pub fn moves(&self) {
        self.moved.store(true, Ordering::Relaxed);
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.liveness.lock().by_id.remove(&self.id);
    }
}

impl Liveness {
    /// For a loop on a thread of its own: it calls [`Beat::moves`] in each round.
    pub fn beat(&self, name: impl Into<Cow<'static, str>>, bound: Duration) -> Beat {
        let moved = Arc::new(AtomicBool::new(true));
        let mut loops = self.lock();
        let id = loops.next;
        loops.next += 1;
        let new = Loop { name: name.into(), bound, moved: Arc::clone(&moved), still: Duration::ZERO, said: false };
        loops.by_id.insert(id, new);
        drop(loops);
        Beat { id, moved, liveness: self.clone() }
    }

    /// Runs a loop; it moves whenever it is polled.
    pub fn follow<N, F>(&self, name: N, bound: Duration, future: F) -> impl Future<Output = F::Output> + use<N, F>
    where
        N: Into<Cow<'static, str>>,
        F: Future,
    {
        let (liveness, name) = (self.clone(), name.into());
        async move {
            // From its first poll on: what has not begun is not stuck, only waits for its thread.
            let beat = liveness.beat(name, bound);
            let mut future = pin!(future);
            poll_fn(|cx| {
                let polled = future.as_mut().poll(cx);
                beat.moves();
                polled
            })
            .await
        }
    }

    /// Looks at every loop, `since` after the last look. Gives those that are found stuck now and were not before, to be said once.
    pub fn look(&self, since: Duration) -> Vec<Stuck> {
        let since = since.min(LOOK_INTERVAL * 2);
        let mut new = Vec::new();
        for one in self.lock().by_id.values_mut() {
            if one.moved.swap(false, Ordering::Relaxed) {
                (one.still, one.said) = (Duration::ZERO, false);
                continue;
            }
            one.still += since;
            if one.is_stuck() && !std::mem::replace(&mut one.said, true) {
                new.push(one.stuck());
            }
        }
        new
    }

    /// Those that do not move, as of the last look.
    pub fn stuck(&self) -> Vec<Stuck> {
        self.lock().by_id.values().filter(|one| one.is_stuck()).map(Loop::stuck).collect()
    }

    /// By name: how many loops there are, and how long the slowest of them has not moved.
    pub fn report(&self) -> BTreeMap<String, (usize, Duration)> {
        let mut report = BTreeMap::new();
        for one in self.lock().by_id.values() {
            let (count, still): &mut (usize, Duration) = report.entry(one.name.to_string()).or_default();
            (*count, *still) = (*count + 1, one.still.max(*still));
        }
        report
    }

    /// No panic happens while the lock is held, so a poisoned one holds a whole state.
    fn lock(&self) -> MutexGuard<'_, Loops> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loop {
    fn is_stuck(&self) -> bool {
        self.still > self.bound
    }

    fn stuck(&self) -> Stuck {
        Stuck { name: self.name.to_string(), still: self.still, bound: self.bound }
    }
}

/// Waits for something that comes from outside or may never come (an input, a change, the disk, a free place), and moves meanwhile.
/// Not for an answer that is owed: that has a deadline.
pub async fn waiting<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        tokio::select! {
            biased;
            output = &mut future => return output,
            () = tokio::time::sleep(WAITING_TURN) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn looks(liveness: &Liveness, seconds: u32) -> Vec<Stuck> {
        (0..seconds).flat_map(|_| liveness.look(SECOND)).collect()
    }

    #[test]
    fn one_that_does_not_move_is_stuck_after_its_bound_said_once_and_well_again_when_it_moves() {
        let liveness = Liveness::default();
        let (stuck, fine) = (liveness.beat("stuck", 5 * SECOND), liveness.beat("fine", 5 * SECOND));
        for _ in 0..6 {
            fine.moves();
            assert_eq!(looks(&liveness, 1), []);
        }
        fine.moves();
        let said = looks(&liveness, 1);
        assert_eq!(said, [Stuck { name: "stuck".into(), still: 6 * SECOND, bound: 5 * SECOND }]);
        assert_eq!(said[0].to_string(), "stuck: it has not moved for 6 s; at most 5 s");
        fine.moves();
        assert_eq!((looks(&liveness, 1), liveness.stuck().len()), (vec![], 1));
        stuck.moves();
        looks(&liveness, 1);
        assert_eq!(liveness.stuck(), []);
        // The second time it is said again.
        assert_eq!(looks(&liveness, 6).iter().filter(|one| one.name == "stuck").count(), 1);
        drop((stuck, fine));
        assert_eq!((liveness.stuck(), liveness.report().len()), (vec![], 0), "what has ended is not stuck");
    }

    #[test]
    fn a_process_that_was_frozen_as_a_whole_is_not_stuck() {
        let liveness = Liveness::default();
        let beat = liveness.beat("clock", 5 * SECOND);
        beat.moves();
        looks(&liveness, 1);
        assert_eq!(liveness.look(Duration::from_secs(3600)), []);
        beat.moves();
        assert_eq!(looks(&liveness, 5), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_future_moves_when_it_is_run_and_one_that_waits_for_ever_for_an_answer_does_not() {
        let liveness = Liveness::default();
        let ticking = async {
            for _ in 0..1_000 {
                tokio::time::sleep(Duration::from_secs(20)).await;
            }
        };
        for (name, future) in [
            ("ticks", Box::pin(ticking) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>),
            ("waits", Box::pin(waiting(std::future::pending()))),
            ("hangs", Box::pin(std::future::pending())),
        ] {
            drop(tokio::spawn(liveness.follow(name, LOOP_BOUND, future)));
        }
        for _ in 0..LOOP_BOUND.as_secs() + 5 {
            tokio::time::sleep(SECOND).await;
            liveness.look(SECOND);
        }
        let stuck: Vec<String> = liveness.stuck().into_iter().map(|stuck| stuck.name).collect();
        assert_eq!(stuck, ["hangs"]);
        assert_eq!(liveness.report().len(), 3);
    }
}
