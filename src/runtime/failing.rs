//! Where the API server fails in writes: a namespace whose admission webhook is away, or so slow that no answer comes in time.
//!
//! In: writes, each with its namespace and operation (webhooks are called by operation and resource, a status being one of its own). While
//! one fails they take turns, so that a call that takes its time holds one slot and not all of them; whoever waits for its turn, or for the
//! next try, leaves its places to others ([`without_places`]). What has waited for too long is given up, and with it whatever comes for the
//! same until a write succeeds there, which is tried now and then.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{ApiFailure, liveness::waiting, places::without_places};

/// For how long a write is tried in which the server fails. Well within the time that the topics keep what it was decided from, so that
/// this can still end by name.
pub const FAILED_MAX: Duration = Duration::from_secs(6 * 3600);
/// The longest pause between two tries; and how often one is made where writes were given up.
pub const FAILED_BACKOFF_MAX: Duration = Duration::from_secs(5);
/// After so long without a try a trouble is forgotten: its namespace may be gone.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// It creates an object.
    Create,
    /// It writes an object, or the status of one whose state is there.
    State,
    /// It writes metadata or spec of an object whose state is in its status.
    Main,
    /// It deletes an object.
    Delete,
}

/// See the module's text. One for each kind.
#[derive(Debug)]
pub struct Failing {
    troubles: Mutex<HashMap<Key, Arc<Trouble>>>,
    shutdown: CancellationToken,
}

/// Namespace and operation.
type Key = (String, Operation);

#[derive(Debug)]
struct Trouble {
    /// Nothing has succeeded since.
    since: Instant,
    /// Closed when writes succeed again, or are given up.
    turn: Arc<Semaphore>,
    is_given_up: bool,
    last: Mutex<Last>,
}

#[derive(Clone, Debug)]
struct Last {
    failure: ApiFailure,
    at: Instant,
    /// How often in a row, by those whose turn it was.
    times: u32,
}

/// After a failure: what there is to do until the next try.
#[derive(Debug, Default)]
pub struct Pause {
    /// Nothing: it is given up.
    pub is_given_up: bool,
    /// How often it has failed in a row, as far as this matters to the length of the pause.
    pub times: u32,
    /// Nobody else tries meanwhile.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Trouble {
    fn new(failure: &ApiFailure, is_given_up: bool) -> Arc<Self> {
        let last = Mutex::new(Last { failure: failure.clone(), at: Instant::now(), times: 0 });
        Arc::new(Self { since: Instant::now(), turn: Arc::new(Semaphore::new(1)), is_given_up, last })
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        lock(&self.last)
    }
}

impl Failing {
    /// Nothing has failed yet.
    pub fn new(shutdown: &CancellationToken) -> Self {
        Self { troubles: Mutex::default(), shutdown: shutdown.clone() }
    }

    /// Makes a write, in its turn where others of its kind fail. It is given up when it has failed and waited for as long as `patience`, or
    /// where others were given up just before: then it may not even have been tried.
    pub async fn write<T>(
        &self,
        namespace: &str,
        operation: Operation,
        patience: Duration,
        write: impl Future<Output = Result<T, ApiFailure>>,
    ) -> (Result<T, ApiFailure>, Pause) {
        let key = (namespace.to_owned(), operation);
        let began = Instant::now();
        let turn = loop {
            let Some(trouble) = lock(&self.troubles).get(&key).cloned() else { break None };
            if trouble.is_given_up {
                let is_due = trouble.last().at.elapsed() >= FAILED_BACKOFF_MAX;
                match Arc::clone(&trouble.turn).try_acquire_owned() {
                    Ok(turn) if is_due => break Some((trouble, turn)),
                    _ => return (Err(trouble.last().failure.clone()), Pause::given_up()),
                }
            }
            match self.turn(&trouble, patience.saturating_sub(began.elapsed())).await {
                Waited::Turn(turn) => break Some((trouble, turn)),
                // It is looked at anew.
                Waited::Over => {}
                Waited::TooLong => return (Err(self.give_up(&key, &trouble)), Pause::given_up()),
                Waited::Shutdown => {
                    return (Err(ApiFailure::Unknown("the process stops".into())), Pause::default());
                }
            }
        };
        let result = write.await;
        let pause = match &result {
            // That it is there already is found after all webhooks have let the write through.
            Ok(_) | Err(ApiFailure::AlreadyExists(_)) => {
                self.works(&key);
                Pause::default()
            }
            Err(failure @ ApiFailure::Failed(_)) => self.fails(key, failure, turn, began.elapsed() >= patience),
            // It says nothing of what fails.
            Err(_) => Pause::default(),
        };
        (result, pause)
    }

    async fn turn(&self, trouble: &Trouble, patience: Duration) -> Waited {
        let turn = timeout(patience, Arc::clone(&trouble.turn).acquire_owned());
        let turn = async {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => Waited::Shutdown,
                turn = waiting(turn) => match turn {
                    Ok(Ok(turn)) => Waited::Turn(turn),
                    Ok(Err(AcquireError { .. })) => Waited::Over,
                    Err(_) => Waited::TooLong,
                },
            }
        };
        without_places(turn).await
    }

    fn fails(
        &self,
        key: Key,
        failure: &ApiFailure,
        turn: Option<(Arc<Trouble>, OwnedSemaphorePermit)>,
        too_long: bool,
    ) -> Pause {
        let (trouble, turn) = match turn {
            Some((trouble, turn)) => (trouble, Some(turn)),
            // The first one, or one that was under way when that failed.
            None => (self.trouble(&key, failure), None),
        };
        let mut times = 0;
        if turn.is_some() {
            let mut last = trouble.last();
            times = last.times;
            *last = Last { failure: failure.clone(), at: Instant::now(), times: times.saturating_add(1) };
        }
        if too_long {
            self.give_up(&key, &trouble);
        }
        Pause { is_given_up: too_long || trouble.is_given_up, times, _turn: turn }
    }

    /// What is known of this place, which has just failed.
    fn trouble(&self, key: &Key, failure: &ApiFailure) -> Arc<Trouble> {
        let mut troubles = lock(&self.troubles);
        troubles.retain(|_, trouble| Arc::strong_count(trouble) > 1 || trouble.last().at.elapsed() < FORGOTTEN_AFTER);
        Arc::clone(troubles.entry(key.clone()).or_insert_with(|| Trouble::new(failure, false)))
    }

    /// A write is given up; and where nothing else has succeeded for long either, nobody waits there any more. Gives the last failure.
    fn give_up(&self, key: &Key, trouble: &Arc<Trouble>) -> ApiFailure {
        let failure = trouble.last().failure.clone();
        let is_all = key.1 == Operation::Delete || trouble.since.elapsed() >= FAILED_MAX / 2;
        let mut troubles = lock(&self.troubles);
        // Somebody else may have done it, or succeeded.
        let is_known = troubles.get(key).is_some_and(|known| Arc::ptr_eq(known, trouble));
        if is_all && is_known && !trouble.is_given_up {
            tracing::warn!(namespace = key.0, operation = ?key.1, %failure, "Writes are given up; their inputs end as refused until one succeeds.");
            troubles.insert(key.clone(), Trouble::new(&failure, true));
            trouble.turn.close();
        }
        failure
    }

    fn works(&self, key: &Key) {
        if let Some(trouble) = lock(&self.troubles).remove(key) {
            trouble.turn.close();
        }
    }
}

impl Pause {
    fn given_up() -> Self {
        Self { is_given_up: true, ..Self::default() }
    }
}

enum Waited {
    Turn(OwnedSemaphorePermit),
    Over,
    TooLong,
    Shutdown,
}

/// No panic happens while a lock is held, so a poisoned one holds a whole state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use tokio::time::sleep;

    use super::*;

    const CALL: Duration = Duration::from_secs(10);

    /// A webhook: how many calls are at it now, how many there were, and whether it works.
    #[derive(Default)]
    struct Webhook {
        now: AtomicUsize,
        most: AtomicUsize,
        calls: AtomicUsize,
        works: std::sync::atomic::AtomicBool,
    }

    impl Webhook {
        async fn call(&self) -> Result<(), ApiFailure> {
            self.calls.fetch_add(1, Ordering::SeqCst);
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            sleep(CALL).await;
            self.now.fetch_sub(1, Ordering::SeqCst);
            if self.works.load(Ordering::SeqCst) { Ok(()) } else { Err(ApiFailure::Failed("500".into())) }
        }

        /// Tries until it succeeds or is given up.
        async fn write(&self, failing: &Failing, namespace: &str, patience: Duration) -> bool {
            let began = Instant::now();
            loop {
                let left = patience.saturating_sub(began.elapsed());
                let (result, pause) = failing.write(namespace, Operation::Create, left, self.call()).await;
                if result.is_ok() || pause.is_given_up {
                    return result.is_ok();
                }
                without_places(sleep(Duration::from_secs(1))).await;
            }
        }
    }

    fn failing() -> Failing {
        Failing::new(&CancellationToken::new())
    }

    #[tokio::test(start_paused = true)]
    async fn where_a_write_fails_one_is_tried_at_a_time_until_one_succeeds() {
        let (failing, webhook, other) = (failing(), Webhook::default(), Webhook::default());
        other.works.store(true, Ordering::SeqCst);
        let many = join_all((0..50).map(|_| webhook.write(&failing, "shop", FAILED_MAX)));
        tokio::pin!(many);
        assert!(timeout(CALL * 2, many.as_mut()).await.is_err());
        webhook.most.store(0, Ordering::SeqCst);
        assert!(timeout(CALL * 100, many.as_mut()).await.is_err());
        assert_eq!(webhook.most.load(Ordering::SeqCst), 1, "those that had begun before are over");
        let began = Instant::now();
        assert!(other.write(&failing, "bank", FAILED_MAX).await);
        let status = failing.write("shop", Operation::State, FAILED_MAX, other.call()).await;
        assert!(status.0.is_ok());
        assert_eq!(began.elapsed(), CALL * 2, "no turn is waited for elsewhere");
        webhook.works.store(true, Ordering::SeqCst);
        let began = Instant::now();
        assert!(many.await.into_iter().all(|written| written));
        assert!(began.elapsed() < CALL * 4, "{:?}", began.elapsed());
        assert!(lock(&failing.troubles).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_too_long_is_given_up_and_what_comes_then_does_not_wait() {
        let (failing, webhook) = (failing(), Webhook::default());
        let began = Instant::now();
        let written = join_all((0..20).map(|_| webhook.write(&failing, "shop", FAILED_MAX))).await;
        assert!(written.into_iter().all(|written| !written));
        assert!((FAILED_MAX..FAILED_MAX + CALL * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
        let calls = webhook.calls.load(Ordering::SeqCst);
        let began = Instant::now();
        assert!(!webhook.write(&failing, "shop", FAILED_MAX).await);
        assert_eq!(
            (began.elapsed(), webhook.calls.load(Ordering::SeqCst)),
            (Duration::ZERO, calls),
            "nothing is tried"
        );
        // Now and then one is.
        webhook.works.store(true, Ordering::SeqCst);
        sleep(FAILED_BACKOFF_MAX).await;
        let (probe, beside) = tokio::join!(webhook.write(&failing, "shop", FAILED_MAX), async {
            sleep(CALL / 2).await;
            webhook.write(&failing, "shop", FAILED_MAX).await
        });
        assert_eq!((probe, beside), (true, false), "one at a time");
        assert!(webhook.write(&failing, "shop", FAILED_MAX).await);
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_that_are_given_up_at_once_one_is_tried_again() {
        let (failing, webhook) = (failing(), Webhook::default());
        let delete = || failing.write("shop", Operation::Delete, Duration::ZERO, webhook.call());
        let all = join_all((0..8).map(|_| delete())).await;
        assert!(all.iter().all(|(result, pause)| result.is_err() && pause.is_given_up));
        webhook.works.store(true, Ordering::SeqCst);
        assert!(delete().await.0.is_err(), "not yet");
        sleep(FAILED_BACKOFF_MAX).await;
        assert!(delete().await.0.is_ok() && delete().await.0.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_always_fails_ends_alone_where_others_succeed() {
        let (failing, broken, well) = (failing(), Webhook::default(), Webhook::default());
        well.works.store(true, Ordering::SeqCst);
        let others = async {
            loop {
                assert!(well.write(&failing, "shop", FAILED_MAX).await);
                sleep(Duration::from_secs(3600)).await;
            }
        };
        tokio::select! {
            written = broken.write(&failing, "shop", FAILED_MAX) => assert!(!written),
            () = others => {}
        }
        assert!(well.write(&failing, "shop", FAILED_MAX).await);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_success_lets_all_go_at_once() {
        let (failing, webhook) = (failing(), Webhook::default());
        let _ = failing.write("shop", Operation::Create, FAILED_MAX, webhook.call()).await;
        let answer = async |answer: Result<(), ApiFailure>| {
            let _ = failing.write("shop", Operation::Create, FAILED_MAX, async { answer }).await;
            lock(&failing.troubles).len()
        };
        for failure in [ApiFailure::Conflict, ApiFailure::Unknown, ApiFailure::NotFound] {
            assert_eq!(answer(Err(failure("before any webhook is called".into()))).await, 1);
        }
        assert_eq!(answer(Ok(())).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_a_turn_ends_with_the_process() {
        let shutdown = CancellationToken::new();
        let (failing, webhook) = (Failing::new(&shutdown), Webhook::default());
        let (_, held) = failing.write("shop", Operation::Create, FAILED_MAX, webhook.call()).await;
        let (_, turn) = failing.write("shop", Operation::Create, FAILED_MAX, webhook.call()).await;
        let waiting = failing.write("shop", Operation::Create, FAILED_MAX, webhook.call());
        tokio::pin!(waiting);
        assert!(timeout(CALL, waiting.as_mut()).await.is_err());
        shutdown.cancel();
        let (result, pause) = waiting.await;
        assert!(matches!(result, Err(ApiFailure::Unknown(_))) && !pause.is_given_up);
        drop((held, turn));
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_is_gone_is_forgotten() {
        let (failing, webhook) = (failing(), Webhook::default());
        for namespace in ["a", "b", "c"] {
            let _ = failing.write(namespace, Operation::Create, FAILED_MAX, webhook.call()).await;
        }
        sleep(FORGOTTEN_AFTER).await;
        let _ = failing.write("d", Operation::Create, FAILED_MAX, webhook.call()).await;
        assert_eq!(lock(&failing.troubles).len(), 1);
    }
}
