//! Who goes first at the API server: what is on the way to a target, then what is on the way to people, then what keeps the record of it,
//! then what only tidies.
//!
//! All calls of a process end at one API server, which works them off side by side: an alert's patch would wait for the records of all
//! alerts before it. So writes that only tell of something wait here, where their order is ours to choose, and outside the deadline of
//! their call. Nothing is held back for good: a part of the places is always theirs.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    time::{Instant, sleep_until, timeout_at},
};

use super::{Metrics, liveness::waiting, metrics::catalogue::API_WRITES_WAITING, places::Places};

/// How many writes of ours are on the way at once: each is a connection, and more make the API server no faster.
const FIRST_WRITES_AT_ONCE: usize = 16;
/// How many records are written at once when nothing is on the way.
const RECORDS_AT_ONCE: usize = 16;
/// How many of either may be under way beside them because they take their time.
const SLOW_AT_ONCE: usize = 64;
/// Of so many calls on the way to targets, one record may be written beside them.
const FIRST_PER_RECORD: usize = 16;
/// Between two calls of one way lies a hop over the log; for so long after one of them the next one is expected.
const NEXT_CALL: Duration = Duration::from_millis(10);
/// How long a record waits for the way to be free before it takes one of the places that are left to records.
const PATIENCE: Duration = Duration::from_millis(100);
/// After so long without a call on the way, and with no record waiting, there is little else to do.
const CALM: Duration = Duration::from_secs(1);
/// How long tidying waits for nothing else to be done.
const TIDY_PATIENCE: Duration = Duration::from_millis(500);
/// A call that takes longer is held up elsewhere, and is no reason to hold up others.
pub const SLOW: Duration = Duration::from_secs(1);

/// See the module's text. One for a process; cheap to clone.
#[derive(Clone)]
pub struct RightOfWay(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    first_writes: Places,
    changed: Notify,
    /// Records go in the order in which they came, those before the others that a message waits for: only the first of them looks whether
    /// it may.
    turn: Places,
    tidying: Semaphore,
    /// Of those that have left their place because they take their time.
    slow: Semaphore,
    metrics: Metrics,
}

#[derive(Default)]
struct State {
    first: usize,
    /// When the last one ended.
    ended: Option<Instant>,
    /// Until when the next call of a way is expected.
    next_until: Option<Instant>,
    records: usize,
}

impl State {
    /// Until when the way is not free, as far as is known.
    fn busy_until(&self, now: Instant) -> Option<Instant> {
        if self.first > 0 {
            return Some(now + NEXT_CALL);
        }
        self.next_until.filter(|until| *until > now)
    }

    /// How many records may be under way, the one that came then among them.
    fn places(&self, came: Instant, now: Instant) -> usize {
        match self.busy_until(now) {
            None => RECORDS_AT_ONCE,
            Some(_) if now >= came + PATIENCE => (self.first / FIRST_PER_RECORD).clamp(1, RECORDS_AT_ONCE),
            Some(_) => 0,
        }
    }
}

impl RightOfWay {
    /// Nothing is under way.
    pub fn new(metrics: &Metrics) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            first_writes: Places::new(FIRST_WRITES_AT_ONCE),
            changed: Notify::new(),
            turn: Places::new(1),
            tidying: Semaphore::new(1),
            slow: Semaphore::new(SLOW_AT_ONCE),
            metrics: metrics.clone(),
        }))
    }

    /// A write of an object of ours on the way to a target. It waits for others of its kind alone, and one that is urgent goes before
    /// those that are not.
    pub async fn first_write<T>(&self, urgent: bool, call: impl Future<Output = T>) -> T {
        let place = waiting(self.0.first_writes.take(urgent)).await;
        self.unless_slow(place, self.first(call)).await
    }

    /// Any other call on the way to a target. It waits for nothing; whoever makes it bounds how many there are.
    pub async fn first<T>(&self, call: impl Future<Output = T>) -> T {
        self.under_way(FirstCall::begin(&self.0, Next::Expected), call).await
    }

    /// The call that a way ends with.
    pub async fn last<T>(&self, call: impl Future<Output = T>) -> T {
        self.under_way(FirstCall::begin(&self.0, Next::None), call).await
    }

    async fn under_way<T>(&self, under_way: FirstCall, call: impl Future<Output = T>) -> T {
        held_while_quick(call, move || drop(under_way)).await
    }

    /// A write that takes its time, like one whose webhook is slow, is to hold up none of the others: it leaves its place to them, unless
    /// many do so already, because then it is the server that is slow.
    async fn unless_slow<T>(&self, place: impl Sized, call: impl Future<Output = T>) -> T {
        let leave = move || {
            let slow = self.0.slow.try_acquire();
            let place = slow.is_err().then_some(place);
            (slow, place)
        };
        held_while_quick(call, leave).await
    }

    /// A call that keeps the record. It lets those go first that are on the way to a target, and of its own kind those that people are told
    /// after.
    pub async fn record<T>(&self, precedes_message: bool, call: impl Future<Output = T>) -> T {
        let place = waiting(self.place(precedes_message)).await;
        self.unless_slow(place, call).await
    }

    /// The same before something that is no call to the API server and may take long: it takes no place of the records.
    pub async fn let_pass(&self, precedes_message: bool) {
        self.record(precedes_message, std::future::ready(())).await;
    }

    /// Whether nothing is on the way and nothing was a moment ago, and no record waits.
    pub fn is_calm(&self) -> bool {
        let state = self.0.lock();
        let was_calm = state.ended.is_none_or(|ended| ended.elapsed() >= CALM);
        state.first == 0 && was_calm && state.records == 0 && self.0.turn.taken() == 0
    }

    /// Until nothing else is to be done, or for half a second. What is tidied meanwhile is one thing in the whole process: hold what
    /// is given until it is done.
    pub async fn tidy(&self) -> Option<SemaphorePermit<'_>> {
        let one = waiting(self.0.tidying.acquire()).await;
        let until = Instant::now() + TIDY_PATIENCE;
        loop {
            let now = Instant::now();
            let look_again = {
                let state = self.0.lock();
                match state.busy_until(now) {
                    Some(at) => at.min(until),
                    None if state.records > 0 => (now + NEXT_CALL).min(until),
                    None => break,
                }
            };
            if now >= until {
                break;
            }
            waiting(sleep_until(look_again)).await;
        }
        // The semaphore is never closed.
        one.ok()
    }

    async fn place(&self, precedes_message: bool) -> RecordCall {
        let came = Instant::now();
        let _waiting = Waiting::begin(&self.0.metrics);
        let _turn = self.0.turn.take(precedes_message).await;
        loop {
            let changed = self.0.changed.notified();
            let now = Instant::now();
            let look_again = {
                let mut state = self.0.lock();
                if state.records < state.places(came, now) {
                    state.records += 1;
                    return RecordCall(Arc::clone(&self.0));
                }
                state.busy_until(now).unwrap_or(now + PATIENCE)
            };
            tokio::select! {
                () = changed => {}
                () = sleep_until(look_again) => {}
            }
        }
    }
}

/// What `leave` has is held until the call is over; when that takes longer than [`SLOW`], from then on only what `leave` gives.
async fn held_while_quick<T, H>(call: impl Future<Output = T>, leave: impl FnOnce() -> H) -> T {
    tokio::pin!(call);
    if let Ok(answer) = timeout_at(Instant::now() + SLOW, &mut call).await {
        return answer;
    }
    let _held = leave();
    call.await
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What follows a call on the way.
#[derive(Clone, Copy, PartialEq)]
enum Next {
    /// Another one, after a hop over the log.
    Expected,
    /// The target has been reached.
    None,
}

struct FirstCall(Arc<Inner>, Next);

impl FirstCall {
    fn begin(of: &Arc<Inner>, next: Next) -> Self {
        let mut state = of.lock();
        state.first += 1;
        // This is it, most likely.
        state.next_until = None;
        drop(state);
        Self(Arc::clone(of), next)
    }
}

impl Drop for FirstCall {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.first = state.first.saturating_sub(1);
        if self.1 == Next::Expected {
            state.next_until = Some(Instant::now() + NEXT_CALL);
        }
        state.ended = Some(Instant::now());
        let is_free = state.busy_until(Instant::now()).is_none();
        drop(state);
        if is_free {
            self.0.changed.notify_one();
        }
    }
}

struct RecordCall(Arc<Inner>);

impl Drop for RecordCall {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.records = state.records.saturating_sub(1);
        drop(state);
        self.0.changed.notify_one();
    }
}

struct Waiting<'a>(&'a Metrics);

impl<'a> Waiting<'a> {
    fn begin(metrics: &'a Metrics) -> Self {
        metrics.gauge(&API_WRITES_WAITING, []).inc();
        Self(metrics)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.gauge(&API_WRITES_WAITING, []).dec();
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::oneshot, task::JoinHandle};

    use super::*;

    /// A call that is under way until it is told to end.
    struct Call {
        begun: oneshot::Receiver<()>,
        end: oneshot::Sender<()>,
        task: JoinHandle<()>,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        First,
        FirstWrite,
        Last,
        Record,
        BeforeMessage,
        Tidy,
    }

    impl Call {
        fn of(way: &RightOfWay, kind: Kind) -> Self {
            let (tell, begun) = oneshot::channel();
            let (end, ended) = oneshot::channel::<()>();
            let way = way.clone();
            let task = tokio::spawn(async move {
                let call = async {
                    let _ = tell.send(());
                    let _ = ended.await;
                };
                match kind {
                    Kind::First => way.first(call).await,
                    Kind::FirstWrite => way.first_write(false, call).await,
                    Kind::Last => way.last(call).await,
                    Kind::Record => way.record(false, call).await,
                    Kind::BeforeMessage => way.record(true, call).await,
                    Kind::Tidy => {
                        let _turn = way.tidy().await;
                        call.await;
                    }
                }
            });
            Self { begun, end, task }
        }

        fn has_begun(&mut self) -> bool {
            self.begun.try_recv() != Err(oneshot::error::TryRecvError::Empty)
        }

        async fn end(self) {
            let _ = self.end.send(());
            self.task.await.unwrap();
        }
    }

    fn way() -> (RightOfWay, Metrics) {
        let metrics = Metrics::default();
        (RightOfWay::new(&metrics), metrics)
    }

    async fn pass(ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    fn begun(calls: &mut [Call]) -> usize {
        calls.iter_mut().map(Call::has_begun).filter(|begun| *begun).count()
    }

    #[tokio::test(start_paused = true)]
    async fn writes_that_take_their_time_leave_their_places_to_others_and_not_all_of_them() {
        for kind in [Kind::Record, Kind::FirstWrite] {
            let (way, _) = way();
            let mut calls: Vec<Call> = (0..150).map(|_| Call::of(&way, kind)).collect();
            pass(500).await;
            assert_eq!(begun(&mut calls), 16);
            pass(1_000).await;
            assert_eq!(begun(&mut calls), 32);
            pass(20_000).await;
            assert_eq!(begun(&mut calls), RECORDS_AT_ONCE + SLOW_AT_ONCE);
            for call in calls {
                call.end().await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_waits_for_the_way_and_for_the_next_call_of_it() {
        let (way, metrics) = way();
        let waiting = || metrics.encode().unwrap().contains("eventpulse_api_writes_waiting 1");
        let first = Call::of(&way, Kind::First);
        pass(1).await;
        let mut record = Call::of(&way, Kind::Record);
        pass(20).await;
        assert!(!record.has_begun() && waiting());
        first.end().await;
        pass(5).await;
        assert!(!record.has_begun(), "the next call of the way comes by then");
        pass(10).await;
        assert!(record.begun.await.is_ok() && !waiting());
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_last_call_of_the_way_nothing_is_waited_for() {
        let (way, _) = way();
        Call::of(&way, Kind::First).end().await;
        let last = Call::of(&way, Kind::Last);
        pass(1).await;
        let mut record = Call::of(&way, Kind::Record);
        pass(5).await;
        assert!(!record.has_begun());
        last.end().await;
        pass(1).await;
        assert!(record.has_begun());
    }

    /// The promise that nothing is held back for good: also when the way is never free, records go on.
    #[tokio::test(start_paused = true)]
    async fn beside_many_on_the_way_a_part_of_the_places_is_left_to_records() {
        let (way, _) = way();
        let first: Vec<Call> = (0..32).map(|_| Call::of(&way, Kind::First)).collect();
        pass(1).await;
        let mut records: Vec<Call> = (0..5).map(|_| Call::of(&way, Kind::Record)).collect();
        pass(90).await;
        assert_eq!(begun(&mut records), 0);
        pass(40).await;
        assert_eq!(begun(&mut records), 2, "one for each sixteen that are on the way");
        for ended in [3, 4, 5] {
            records.remove(0).end().await;
            pass(20).await;
            assert_eq!(begun(&mut records), ended - (5 - records.len()));
        }
        for call in first {
            call.end().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_free_way_no_more_than_so_many_records_are_written_at_once_and_the_rest_in_order() {
        let (way, _) = way();
        let mut records: Vec<Call> = (0..RECORDS_AT_ONCE + 3).map(|_| Call::of(&way, Kind::Record)).collect();
        pass(500).await;
        assert_eq!(begun(&mut records), RECORDS_AT_ONCE);
        records.remove(0).end().await;
        pass(1).await;
        assert_eq!(begun(&mut records), RECORDS_AT_ONCE);
        assert!(!records.last_mut().unwrap().has_begun());
    }

    #[tokio::test(start_paused = true)]
    async fn what_people_are_told_after_goes_before_other_records() {
        let (way, _) = way();
        let mut records: Vec<Call> = (0..RECORDS_AT_ONCE + 3).map(|_| Call::of(&way, Kind::Record)).collect();
        pass(1).await;
        let mut told: Vec<Call> = (0..2).map(|_| Call::of(&way, Kind::BeforeMessage)).collect();
        let mut seen = Vec::new();
        for _ in 0..5 {
            records.remove(0).end().await;
            pass(1).await;
            let waiting = records.len().saturating_sub(3);
            seen.push((begun(&mut told), begun(&mut records[waiting..])));
        }
        // The record whose turn it was and the one that stood first behind it go before them.
        assert_eq!(seen, [(0, 1), (0, 2), (1, 2), (2, 2), (2, 3)]);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_on_the_way_wait_for_nothing() {
        let (way, _) = way();
        let _records: Vec<Call> = (0..RECORDS_AT_ONCE).map(|_| Call::of(&way, Kind::Record)).collect();
        pass(1).await;
        let mut first: Vec<Call> = (0..100).map(|_| Call::of(&way, Kind::First)).collect();
        pass(1).await;
        assert_eq!(begun(&mut first), 100);
        let mut writes: Vec<Call> = (0..FIRST_WRITES_AT_ONCE + 1).map(|_| Call::of(&way, Kind::FirstWrite)).collect();
        pass(1).await;
        assert_eq!(begun(&mut writes), FIRST_WRITES_AT_ONCE, "a write waits for a place among its kind");
        writes.remove(0).end().await;
        pass(1).await;
        assert_eq!(begun(&mut writes), FIRST_WRITES_AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_calm_a_second_after_the_last_call_on_the_way() {
        let (way, _) = way();
        assert!(way.is_calm());
        let first = Call::of(&way, Kind::First);
        pass(1).await;
        assert!(!way.is_calm());
        first.end().await;
        pass(900).await;
        assert!(!way.is_calm());
        pass(101).await;
        assert!(way.is_calm());
        let record = Call::of(&way, Kind::Record);
        pass(1).await;
        assert!(!way.is_calm(), "a record is written");
        record.end().await;
        assert!(way.is_calm());
    }

    /// A target whose API hangs holds up nobody's records.
    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_is_no_reason_to_wait() {
        let (way, _) = way();
        let _hung = Call::of(&way, Kind::First);
        pass(1_100).await;
        let mut records: Vec<Call> = (0..RECORDS_AT_ONCE).map(|_| Call::of(&way, Kind::Record)).collect();
        pass(1).await;
        assert_eq!(begun(&mut records), RECORDS_AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_given_up_gives_back_its_place() {
        let (way, metrics) = way();
        for kind in [Kind::First, Kind::Record] {
            let calls: Vec<Call> = (0..2 * RECORDS_AT_ONCE).map(|_| Call::of(&way, kind)).collect();
            pass(1).await;
            for call in &calls {
                call.task.abort();
            }
            pass(20).await;
            let mut record = Call::of(&way, Kind::Record);
            pass(1).await;
            assert!(record.has_begun());
            record.end().await;
        }
        assert!(metrics.encode().unwrap().contains("eventpulse_api_writes_waiting 0"));
    }

    #[tokio::test(start_paused = true)]
    async fn tidying_is_one_thing_at_a_time_and_waits_for_all_else_but_not_for_ever() {
        let (way, _) = way();
        let first = Call::of(&way, Kind::First);
        let record = Call::of(&way, Kind::Record);
        pass(150).await;
        let mut tidy = [Call::of(&way, Kind::Tidy), Call::of(&way, Kind::Tidy)];
        pass(100).await;
        first.end().await;
        pass(100).await;
        assert_eq!(begun(&mut tidy), 0, "a record is written");
        record.end().await;
        pass(20).await;
        assert_eq!(begun(&mut tidy), 1);
        let [one, mut other] = tidy;
        let _busy = Call::of(&way, Kind::First);
        one.end().await;
        pass(490).await;
        assert!(!other.has_begun());
        pass(20).await;
        assert!(other.has_begun());
    }
}
