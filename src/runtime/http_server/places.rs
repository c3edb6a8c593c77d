//! The places of connections. In: connections that come, are answered, wait, and go. Out: a place for the next one, and which one has to
//! give its own up. Bounded by the number of places.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// All places of one port.
pub(super) struct Places {
    free: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    /// Somebody began to wait, or went.
    changed: Notify,
}

/// Who waits, in the order in which they began to.
#[derive(Default)]
struct Waiting {
    next: u64,
    by_turn: BTreeMap<u64, CancellationToken>,
}

impl Places {
    /// So many.
    pub(super) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS))),
            waiting: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// One for a connection that waits for its first request. Where none is free, whoever has waited longest gives up its own; where
    /// nobody waits it takes until one does.
    pub(super) async fn find(self: &Arc<Self>) -> Place {
        let mut is_asked = false;
        loop {
            let changed = self.changed.notified();
            if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
                return Place::new(Arc::clone(self), permit);
            }
            // One is enough: it is on its way out.
            is_asked = is_asked || self.ask_longest();
            changed.await;
        }
    }

    fn ask_longest(&self) -> bool {
        let longest = self.lock().by_turn.pop_first();
        longest.map(|(_, leave)| leave.cancel()).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's, until it is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    leave: CancellationToken,
    turn: Mutex<Option<u64>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Place {
    fn new(places: Arc<Places>, permit: OwnedSemaphorePermit) -> Self {
        let place = Self { places, leave: CancellationToken::new(), turn: Mutex::default(), permit: Some(permit) };
        place.waits();
        place
    }

    /// A request has come: nobody takes this place now.
    pub(super) fn works(&self) {
        if let Some(turn) = self.turn().take() {
            self.places.lock().by_turn.remove(&turn);
        }
    }

    /// It is answered: from now on this one waits, behind all who wait already.
    pub(super) fn waits(&self) {
        let mut waiting = self.places.lock();
        waiting.next += 1;
        let turn = waiting.next;
        waiting.by_turn.insert(turn, self.leave.clone());
        drop(waiting);
        *self.turn() = Some(turn);
        self.places.changed.notify_one();
    }

    /// Until another one is to have this place.
    pub(super) async fn taken(&self) {
        self.leave.cancelled().await;
    }

    fn turn(&self) -> MutexGuard<'_, Option<u64>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.works();
        self.permit = None;
        self.places.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn the_longest_waiting_gives_way_and_whoever_is_answered_does_not() {
        let places = Places::new(3);
        let is_taken = |place: &Place| place.taken().now_or_never().is_some();
        let (a, b, c) = (places.find().await, places.find().await, places.find().await);
        a.works();
        let mut next = Box::pin(places.find());
        assert!(next.as_mut().now_or_never().is_none(), "nobody has gone yet");
        assert_eq!([&a, &b, &c].map(is_taken), [false, true, false], "a is being answered, b waits longest");
        assert!(next.as_mut().now_or_never().is_none());
        assert!(!is_taken(&c), "one is enough");
        drop(b);
        let d = next.await;
        a.waits();
        let mut next = Box::pin(places.find());
        assert!(next.as_mut().now_or_never().is_none());
        assert_eq!([&a, &c, &d].map(is_taken), [false, true, false], "a began to wait last");
        drop(next);
        // Where all are being answered a further one has to wait, until one is not.
        drop(c);
        let e = places.find().await;
        [&a, &d, &e].into_iter().for_each(Place::works);
        let mut next = Box::pin(places.find());
        assert!(next.as_mut().now_or_never().is_none());
        assert_eq!([&a, &d, &e].map(is_taken), [false; 3]);
        d.waits();
        assert!(next.as_mut().now_or_never().is_none());
        assert!(is_taken(&d));
        drop(d);
        next.await;
    }
}
