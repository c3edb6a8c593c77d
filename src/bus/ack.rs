//! Acknowledgements: an offset is stored only when every record before it is done (the contiguous prefix; promise 1).

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use crate::mutants::{Mutant, mutated};

/// Says that every effect of one delivery is durable. Split it where one record becomes several pieces of work:
/// the delivery is done when every piece is. A piece dropped without [`Ack::done`] keeps the stored offset before its record.
pub struct Ack(Arc<Pending>);

struct Pending {
    remaining: AtomicUsize,
    buried: AtomicBool,
    tracker: Arc<AckTracker>,
    offset: u64,
    watchers: Vec<Watcher>,
}

type Watcher = Box<dyn FnOnce(Ending) + Send + Sync>;

/// How the work on a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every piece is done.
    Done,
    /// The same, and it is a dead letter.
    Buried,
    /// A piece was dropped without being done: the record comes again.
    Returned,
}

impl Drop for Pending {
    fn drop(&mut self) {
        let ending = match (self.remaining.load(Ordering::Acquire), self.buried.load(Ordering::Acquire)) {
            (0, false) => Ending::Done,
            (0, true) => Ending::Buried,
            _ => Ending::Returned,
        };
        if ending == Ending::Returned {
            self.tracker.give_up(self.offset);
        }
        self.watchers.drain(..).for_each(|watcher| watcher(ending));
    }
}

impl Ack {
    /// One piece of work is done.
    pub fn done(self) {
        if self.0.remaining.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.tracker.complete(self.0.offset);
        }
    }

    /// The same, where what is done is a dead letter.
    pub fn buried(self) {
        self.0.buried.store(true, Ordering::Release);
        self.done();
    }

    /// Has `watcher` called when the work on the delivery has ended. For a delivery that is not split yet; of another nothing is told.
    pub fn watched(mut self, watcher: impl FnOnce(Ending) + Send + Sync + 'static) -> Self {
        if let Some(pending) = Arc::get_mut(&mut self.0) {
            pending.watchers.push(Box::new(watcher));
        }
        self
    }

    /// `count` pieces in place of this one. With none the delivery is done at once.
    pub fn split(self, count: usize) -> Vec<Ack> {
        if count == 0 {
            self.done();
            return Vec::new();
        }
        self.0.remaining.fetch_add(count - 1, Ordering::AcqRel);
        let more: Vec<Ack> = (1..count).map(|_| Ack(Arc::clone(&self.0))).collect();
        std::iter::once(self).chain(more).collect()
    }
}

impl fmt::Debug for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ack({})", self.0.offset)
    }
}

/// The deliveries of one assignment of one partition, for adapters. A new assignment gets a new tracker, and the old one is
/// [closed](AckTracker::close): nothing of a lost assignment is ever stored.
pub struct AckTracker {
    state: Mutex<State>,
    progress: Arc<Notify>,
}

#[derive(Default)]
struct State {
    /// Offsets of the deliveries that are not done. Of those that are nothing is kept: behind one that takes its time may come millions.
    open: BTreeSet<u64>,
    /// One after the last delivery.
    end: u64,
    storable: Option<u64>,
    /// Of those that are open, the ones that nobody works on any more.
    given_up: usize,
    closed: bool,
}

impl AckTracker {
    /// `progress` is notified whenever a delivery is done.
    pub fn new(progress: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), progress })
    }

    /// Registers a delivery. Offsets grow within one assignment; gaps (compaction, control records) are fine.
    pub fn deliver(self: &Arc<Self>, offset: u64) -> Ack {
        let mut state = self.lock();
        state.open.insert(offset);
        state.end = offset + 1;
        if mutated(Mutant::AckedBeforeEffect) {
            state.storable = Some(offset + 1);
            self.progress.notify_one();
        }
        Ack(Arc::new(Pending {
            remaining: AtomicUsize::new(1),
            buried: AtomicBool::new(false),
            tracker: Arc::clone(self),
            offset,
            watchers: Vec::new(),
        }))
    }

    fn complete(&self, offset: u64) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        let was_first = state.open.first() == Some(&offset);
        if state.open.remove(&offset) && was_first {
            state.storable = Some(state.open.first().copied().unwrap_or(state.end));
        }
        drop(state);
        self.progress.notify_one();
    }

    /// Nobody works on it any more, and it is not done.
    fn give_up(&self, offset: u64) {
        let mut state = self.lock();
        if !state.closed && state.open.contains(&offset) {
            state.given_up += 1;
        }
    }

    /// The offset to go on from: before it everything is done. None before the first delivery is.
    pub fn storable(&self) -> Option<u64> {
        self.lock().storable
    }

    /// The first delivery that is not done.
    pub fn first_open(&self) -> Option<u64> {
        self.lock().open.first().copied()
    }

    /// Deliveries that are not done, for backpressure.
    pub fn in_flight(&self) -> usize {
        self.lock().open.len()
    }

    /// Deliveries that somebody still works on.
    pub fn held(&self) -> usize {
        let state = self.lock();
        state.open.len().saturating_sub(state.given_up)
    }

    /// The assignment is gone: what is done from now on counts for nothing. Gives the last offset that may still be stored.
    pub fn close(&self) -> Option<u64> {
        let mut state = self.lock();
        state.closed = true;
        state.storable
    }

    /// No panic happens while the lock is held, so a poisoned one holds a whole state.
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracker() -> Arc<AckTracker> {
        AckTracker::new(Arc::new(Notify::new()))
    }

    #[test]
    fn only_the_contiguous_prefix_is_storable() {
        let tracker = tracker();
        let (a, b, c) = (tracker.deliver(4), tracker.deliver(5), tracker.deliver(9));
        b.done();
        assert_eq!((tracker.storable(), tracker.in_flight()), (None, 2));
        a.done();
        assert_eq!(tracker.storable(), Some(9), "between lies nothing");
        c.done();
        assert_eq!((tracker.storable(), tracker.in_flight()), (Some(10), 0));
    }

    #[test]
    fn behind_one_that_takes_its_time_nothing_is_kept_of_what_is_done() {
        let tracker = tracker();
        let slow = tracker.deliver(0);
        (1..10_000).for_each(|offset| tracker.deliver(offset).done());
        let kept = tracker.lock().open.len();
        assert_eq!((kept, tracker.storable()), (1, None));
        slow.done();
        assert_eq!((tracker.in_flight(), tracker.storable()), (0, Some(10_000)));
    }

    #[test]
    fn a_dropped_piece_holds_the_offset() {
        let tracker = tracker();
        let mut pieces = tracker.deliver(0).split(3);
        tracker.deliver(1).done();
        pieces.pop().unwrap().done();
        drop(pieces.pop());
        pieces.pop().unwrap().done();
        assert_eq!(tracker.storable(), None);
    }

    #[test]
    fn all_pieces_make_the_delivery_done() {
        let tracker = tracker();
        for piece in tracker.deliver(0).split(3) {
            assert_eq!(tracker.storable(), None);
            piece.done();
        }
        assert!(tracker.deliver(1).split(0).is_empty());
        assert_eq!(tracker.storable(), Some(2));
    }

    #[test]
    fn the_end_of_a_delivery_is_told_once_however_it_ends() {
        let tracker = tracker();
        let (sender, endings) = std::sync::mpsc::channel();
        let deliver = |offset| {
            let sender = sender.clone();
            tracker.deliver(offset).watched(move |ending| sender.send((offset, ending)).unwrap())
        };
        deliver(0).done();
        deliver(1).buried();
        drop(deliver(2));
        deliver(3).split(0);
        let mut pieces = deliver(4).split(3);
        pieces.pop().unwrap().done();
        assert_eq!(endings.try_iter().count(), 4, "two pieces of the last one are missing");
        drop(pieces.pop());
        pieces.pop().unwrap().done();
        let mut buried = deliver(5).split(2);
        buried.pop().unwrap().buried();
        buried.pop().unwrap().done();
        assert_eq!(endings.try_iter().collect::<Vec<_>>(), [(4, Ending::Returned), (5, Ending::Buried)]);
    }

    #[test]
    fn nothing_of_a_lost_assignment_counts() {
        let tracker = tracker();
        let (a, b) = (tracker.deliver(0), tracker.deliver(1));
        a.done();
        assert_eq!(tracker.close(), Some(1));
        b.done();
        assert_eq!(tracker.storable(), Some(1));
    }
}
