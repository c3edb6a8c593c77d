//! Mailboxes: for each key one worker at a time, and whatever waits behind it is folded into its next call (design, section 5).
//!
//! Groups of one partition are worked on side by side, the inputs of one object in their order. How much can wait is bounded by
//! the bus, which delivers no more than `max_in_flight` records that are not acknowledged (promise 6); inputs of other origin are
//! sent once until they are taken ([`Mailboxes::send_once`]).

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::{
    Context, Metrics, Tasks,
    liveness::WORK_BOUND,
    metrics::catalogue::{MAILBOX_DURATION, MAILBOX_INPUTS, MAILBOX_KEYS},
    places::{self, Places},
};

/// Works on the inputs of one key.
#[async_trait]
pub trait Handler<K, I>: Send + Sync + 'static {
    /// Called for one key by one worker at a time, with everything that waited, in its order. It keeps trying until it is done
    /// or the process stops; what it could not do it leaves without acknowledging it.
    async fn handle(&self, key: &K, inputs: Vec<I>);

    /// Whether what waits for a key goes before others. It is asked when there are others before it.
    fn is_urgent(&self, key: &K, inputs: &[I]) -> bool {
        let _ = (key, inputs);
        false
    }
}

/// See the module's text. Cheap to clone.
pub struct Mailboxes<K, I>(Arc<Inner<K, I>>);

impl<K, I> Clone for Mailboxes<K, I> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// The same for whoever the mailboxes' own handler holds: it keeps nothing alive.
pub struct WeakMailboxes<K, I>(Weak<Inner<K, I>>);

struct Inner<K, I> {
    name: &'static str,
    tasks: Tasks,
    shutdown: CancellationToken,
    handler: Arc<dyn Handler<K, I>>,
    places: Arc<Places>,
    /// How long what comes for a key waits for more of it.
    linger: Duration,
    metrics: Metrics,
    /// A key is here as long as it has a worker.
    waiting: Mutex<HashMap<K, Vec<I>>>,
}

impl<K, I> Mailboxes<K, I>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    I: Send + 'static,
{
    /// At most `concurrency` keys are worked on at once.
    pub fn new(ctx: &Context, name: &'static str, concurrency: usize, handler: Arc<dyn Handler<K, I>>) -> Self {
        Self::lingering(ctx, name, concurrency, Duration::ZERO, handler)
    }

    /// The same, and what comes for a key waits for so long, and never longer, for what comes right behind it: both are one call.
    /// While it waits it takes no place of those that are worked on.
    pub fn lingering(
        ctx: &Context,
        name: &'static str,
        concurrency: usize,
        linger: Duration,
        handler: Arc<dyn Handler<K, I>>,
    ) -> Self {
        let (tasks, shutdown, metrics) = (ctx.tasks.clone(), ctx.shutdown.clone(), ctx.metrics.clone());
        let places = Arc::new(Places::new(concurrency));
        Self(Arc::new(Inner { name, tasks, shutdown, handler, places, linger, metrics, waiting: Mutex::default() }))
    }

    /// Puts an input behind those that wait for the same key.
    pub fn send(&self, key: K, input: I) {
        self.send_once(key, input, |_| false);
    }

    /// The same, unless one that waits already says as much. What comes from no record is bounded by this (promise 6): nothing holds
    /// back a clock that ticks behind a worker that cannot go on.
    pub fn send_once(&self, key: K, input: I, says_as_much: impl Fn(&I) -> bool) {
        if self.0.shutdown.is_cancelled() {
            // Nothing is begun any more: what it was comes again.
            return;
        }
        let mut waiting = self.0.lock();
        if let Some(inputs) = waiting.get_mut(&key) {
            if !inputs.iter().any(says_as_much) {
                inputs.push(input);
                self.0.metrics.gauge(&MAILBOX_INPUTS, [self.0.name]).inc();
            }
            return;
        }
        waiting.insert(key.clone(), vec![input]);
        drop(waiting);
        self.0.metrics.gauge(&MAILBOX_INPUTS, [self.0.name]).inc();
        self.0.metrics.gauge(&MAILBOX_KEYS, [self.0.name]).inc();
        let inner = Arc::clone(&self.0);
        self.0.tasks.spawn_infallible(self.0.name, async move { inner.work(key).await });
    }

    /// For what the handler itself holds.
    pub fn downgrade(&self) -> WeakMailboxes<K, I> {
        WeakMailboxes(Arc::downgrade(&self.0))
    }

    /// How many keys have a worker.
    pub fn active(&self) -> usize {
        self.0.lock().len()
    }
}

impl<K, I> WeakMailboxes<K, I>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    I: Send + 'static,
{
    /// As [`Mailboxes::send`], where they are still there.
    pub fn send(&self, key: K, input: I) {
        if let Some(inner) = self.0.upgrade() {
            Mailboxes(inner).send(key, input);
        }
    }
}

impl<K, I> Inner<K, I>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    I: Send + 'static,
{
    async fn work(&self, key: K) {
        loop {
            if !self.linger.is_zero() && self.lock().get(&key).is_some_and(|inputs| !inputs.is_empty()) {
                tokio::time::sleep(self.linger).await;
            }
            let (place, urgent) = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => {
                    // What waits was not begun: it comes again.
                    let dropped = self.lock().remove(&key).unwrap_or_default();
                    let count = i64::try_from(dropped.len()).unwrap_or(i64::MAX);
                    self.metrics.gauge(&MAILBOX_INPUTS, [self.name]).dec_by(count);
                    self.metrics.gauge(&MAILBOX_KEYS, [self.name]).dec();
                    return;
                }
                place = self.place(&key) => place,
            };
            let inputs = {
                let mut waiting = self.lock();
                match waiting.get_mut(&key) {
                    Some(inputs) if !inputs.is_empty() => std::mem::take(inputs),
                    _ => {
                        waiting.remove(&key);
                        drop(waiting);
                        self.metrics.gauge(&MAILBOX_KEYS, [self.name]).dec();
                        return;
                    }
                }
            };
            let count = i64::try_from(inputs.len()).unwrap_or(i64::MAX);
            self.metrics.gauge(&MAILBOX_INPUTS, [self.name]).dec_by(count);
            let began = Instant::now();
            let work = places::work(async {
                let _place = self.places.hold(place, urgent);
                self.handler.handle(&key, inputs).await;
            });
            self.tasks.liveness().follow(self.name, WORK_BOUND, work).await;
            self.metrics.observe(&MAILBOX_DURATION, [self.name], began.elapsed());
        }
    }

    /// And whether what waits for the key is urgent, as far as it was asked.
    async fn place(&self, key: &K) -> (Option<OwnedSemaphorePermit>, bool) {
        if let Some(free) = self.places.take_free() {
            return (Some(free), false);
        }
        let urgent = self.lock().get(key).is_some_and(|inputs| self.handler.is_urgent(key, inputs));
        (self.places.take(urgent).await, urgent)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<K, Vec<I>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{Semaphore, mpsc};

    use super::*;

    struct Recorder {
        calls: mpsc::UnboundedSender<(u8, Vec<u32>)>,
        gate: Semaphore,
    }

    #[async_trait]
    impl Handler<u8, u32> for Recorder {
        async fn handle(&self, key: &u8, inputs: Vec<u32>) {
            self.calls.send((*key, inputs)).unwrap();
            self.gate.acquire().await.unwrap().forget();
        }

        fn is_urgent(&self, _: &u8, inputs: &[u32]) -> bool {
            inputs.contains(&URGENT)
        }
    }

    const URGENT: u32 = 911;

    type Calls = mpsc::UnboundedReceiver<(u8, Vec<u32>)>;

    fn mailboxes(concurrency: usize) -> (Mailboxes<u8, u32>, Arc<Recorder>, Calls) {
        lingering(concurrency, Duration::ZERO)
    }

    fn lingering(concurrency: usize, linger: Duration) -> (Mailboxes<u8, u32>, Arc<Recorder>, Calls) {
        let (calls, receiver) = mpsc::unbounded_channel();
        let recorder = Arc::new(Recorder { calls, gate: Semaphore::new(0) });
        let inner = Inner {
            name: "test",
            tasks: Tasks::new().0,
            shutdown: CancellationToken::new(),
            handler: recorder.clone(),
            places: Arc::new(Places::new(concurrency)),
            linger,
            metrics: Metrics::default(),
            waiting: Mutex::default(),
        };
        (Mailboxes(Arc::new(inner)), recorder, receiver)
    }

    #[tokio::test]
    async fn what_is_urgent_is_worked_on_before_what_waits_for_longer() {
        let (mailboxes, recorder, mut calls) = mailboxes(1);
        for (key, input) in [(1, 1), (2, 2), (3, 3), (4, URGENT)] {
            mailboxes.send(key, input);
            tokio::task::yield_now().await;
        }
        recorder.gate.add_permits(4);
        let mut order = Vec::new();
        for _ in 0..4 {
            order.push(calls.recv().await.unwrap().0);
        }
        assert_eq!(order, [1, 2, 4, 3], "one stood in the line already");
    }

    #[tokio::test]
    async fn what_waits_behind_a_call_is_folded_into_the_next_one() {
        let (boxes, recorder, mut calls) = mailboxes(4);
        boxes.send(1, 10);
        assert_eq!(calls.recv().await, Some((1, vec![10])));
        for input in 11..15 {
            boxes.send(1, input);
        }
        boxes.send(2, 20);
        assert_eq!(calls.recv().await, Some((2, vec![20])));
        recorder.gate.add_permits(2);
        assert_eq!(calls.recv().await, Some((1, vec![11, 12, 13, 14])));
        recorder.gate.add_permits(1);
        while boxes.active() > 0 {
            tokio::task::yield_now().await;
        }
        boxes.send(1, 30);
        assert_eq!(calls.recv().await, Some((1, vec![30])));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_right_behind_is_folded_into_the_same_call_and_nothing_waits_longer() {
        let linger = Duration::from_millis(25);
        let (boxes, recorder, mut calls) = lingering(1, linger);
        recorder.gate.add_permits(10);
        let began = tokio::time::Instant::now();
        boxes.send(1, 10);
        for input in [11, 12] {
            tokio::time::sleep(Duration::from_millis(10)).await;
            boxes.send(1, input);
        }
        // What comes later does not make the first wait anew.
        assert_eq!(calls.recv().await, Some((1, vec![10, 11, 12])));
        assert_eq!(began.elapsed(), linger);
        boxes.send(1, 13);
        boxes.send(2, 20);
        let mut later = [calls.recv().await.unwrap(), calls.recv().await.unwrap()];
        later.sort();
        assert_eq!(later, [(1, vec![13]), (2, vec![20])]);
        // They have waited side by side, although only one is worked on at once.
        assert_eq!(began.elapsed(), 2 * linger);
    }

    #[tokio::test]
    async fn what_waits_already_does_not_wait_twice() {
        let (boxes, recorder, mut calls) = mailboxes(1);
        let tick = |key| boxes.send_once(key, 0, |waiting| *waiting == 0);
        tick(1);
        assert_eq!(calls.recv().await, Some((1, vec![0])));
        for _ in 0..3 {
            // One is being worked on, so one more must follow: it may have looked before this one came.
            tick(1);
            boxes.send(1, 7);
            tick(2);
        }
        recorder.gate.add_permits(3);
        let mut later = [calls.recv().await.unwrap(), calls.recv().await.unwrap()];
        later.sort();
        assert_eq!(later, [(1, vec![0, 7, 7, 7]), (2, vec![0])]);
    }

    #[tokio::test]
    async fn when_the_process_stops_nothing_new_is_begun() {
        let (boxes, recorder, mut calls) = mailboxes(1);
        boxes.send(1, 10);
        assert_eq!(calls.recv().await, Some((1, vec![10])));
        // One waits behind it, one for its place.
        boxes.send(1, 11);
        boxes.send(2, 20);
        boxes.0.shutdown.cancel();
        boxes.send(3, 30);
        recorder.gate.add_permits(1);
        boxes.0.tasks.finished().await;
        assert!(calls.try_recv().is_err());
        assert_eq!(boxes.active(), 0);
    }

    #[tokio::test]
    async fn no_more_keys_than_allowed_are_worked_on_at_once() {
        let (boxes, recorder, mut calls) = mailboxes(1);
        boxes.send(1, 10);
        boxes.send(2, 20);
        assert_eq!(calls.recv().await, Some((1, vec![10])));
        tokio::task::yield_now().await;
        assert!(calls.try_recv().is_err());
        recorder.gate.add_permits(1);
        assert_eq!(calls.recv().await, Some((2, vec![20])));
    }
}
