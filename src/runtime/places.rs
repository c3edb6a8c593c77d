//! Places that are bounded in number, and who gets one: what is urgent goes before what is not, and holds it up for good never.
//!
//! Whoever holds one ([`Places::hold`]) leaves it to others while it waits for what may take hours ([`without_places`]).

use std::{cell::RefCell, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::liveness::waiting;

/// See the module's text.
///
/// All that is urgent stands in the line for a place. Of what is not, only the first one does, and the others wait behind it: so one that
/// is urgent has at most one before it that is not, and of those that are not one gets a place whenever the line has moved on by itself.
#[derive(Debug)]
pub struct Places {
    count: usize,
    line: Arc<Semaphore>,
    /// Who of those that are not urgent stands in the line.
    turn: Semaphore,
}

impl Places {
    /// So many; at least one.
    pub fn new(count: usize) -> Self {
        let count = count.max(1);
        Self { count, line: Arc::new(Semaphore::new(count)), turn: Semaphore::new(1) }
    }

    /// Waits for a place, which is free again when what is given is dropped.
    pub async fn take(&self, urgent: bool) -> Option<OwnedSemaphorePermit> {
        // Neither semaphore is ever closed.
        let _turn = if urgent { None } else { self.turn.acquire().await.ok() };
        Arc::clone(&self.line).acquire_owned().await.ok()
    }

    /// A place that is free now, where nobody waits for one.
    pub fn take_free(&self) -> Option<OwnedSemaphorePermit> {
        let _turn = self.turn.try_acquire().ok()?;
        Arc::clone(&self.line).try_acquire_owned().ok()
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.count.saturating_sub(self.line.available_permits())
    }
}

tokio::task_local! {
    /// The places that the piece of work that runs holds, in the order in which it took them.
    static HELD: RefCell<Vec<Held>>;
}

#[derive(Debug)]
struct Held {
    by: u64,
    places: Arc<Places>,
    urgent: bool,
    /// None while it is another's.
    permit: Option<OwnedSemaphorePermit>,
}

/// A piece of work, whose places can be another's while it waits.
pub async fn work<F: Future>(work: F) -> F::Output {
    HELD.scope(RefCell::default(), work).await
}

/// A place for as long as this is there.
#[derive(Debug)]
pub struct Hold {
    /// None of one that is taken by no piece of work: it is this value's own.
    by: Option<u64>,
    _own: Option<OwnedSemaphorePermit>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(by) = self.by {
            // When the piece of work is dropped as a whole, its places are, too.
            let _ = HELD.try_with(|held| held.borrow_mut().retain(|place| place.by != by));
        }
    }
}

impl Places {
    /// Holds a place of these, which is taken again as it was taken: before others where it is urgent.
    pub fn hold(self: &Arc<Self>, permit: Option<OwnedSemaphorePermit>, urgent: bool) -> Hold {
        let mut permit = permit;
        let by = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            let by = held.last().map_or(0, |last| last.by + 1);
            held.push(Held { by, places: Arc::clone(self), urgent, permit: permit.take() });
            by
        });
        Hold { by: by.ok(), _own: permit }
    }
}

/// Waits for what may take hours and is nobody else's matter, like a namespace in which nothing can be written. The places that this piece
/// of work holds are others' meanwhile; it takes as many again before it goes on.
pub async fn without_places<T>(wait: impl Future<Output = T>) -> T {
    let give_back = |held: &RefCell<Vec<Held>>| {
        let mut held = held.borrow_mut();
        let given = |place: &mut Held| Some((place.permit.take()?, place.by, Arc::clone(&place.places), place.urgent));
        held.iter_mut().filter_map(given).map(|(_, by, places, urgent)| (by, places, urgent)).collect::<Vec<_>>()
    };
    let given_back = HELD.try_with(give_back).unwrap_or_default();
    let waited = wait.await;
    for (by, places, urgent) in given_back {
        let permit = waiting(places.take(urgent)).await;
        let _ = HELD.try_with(|held| {
            if let Some(place) = held.borrow_mut().iter_mut().find(|place| place.by == by) {
                place.permit = permit;
            }
        });
    }
    waited
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Who got a place, in this order, where one was free and then given back again and again.
    async fn order(who: &[(&'static str, bool)]) -> Vec<&'static str> {
        let (places, got) = (Arc::new(Places::new(1)), Arc::new(Mutex::new(Vec::new())));
        let first = places.take(false).await;
        let mut tasks = Vec::new();
        for (name, urgent) in who.iter().copied() {
            let (places, got) = (Arc::clone(&places), Arc::clone(&got));
            tasks.push(tokio::spawn(async move {
                let _place = places.take(urgent).await;
                got.lock().unwrap().push(name);
                tokio::task::yield_now().await;
            }));
            // Each stands where it is to stand before the next one comes.
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(places.taken(), 1);
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(places.taken(), 0);
        Arc::try_unwrap(got).unwrap().into_inner().unwrap()
    }

    #[tokio::test]
    async fn what_is_urgent_goes_before_what_has_waited_for_longer() {
        let order = order(&[("a", false), ("b", false), ("c", false), ("urgent", true), ("d", false)]).await;
        assert_eq!(order, ["a", "urgent", "b", "c", "d"], "one that is not urgent stands in the line");
    }

    #[tokio::test]
    async fn a_flood_of_urgent_ones_leaves_a_place_for_the_others() {
        let order = order(&[("a", false), ("b", false), ("u1", true), ("u2", true), ("u3", true)]).await;
        assert_eq!(order, ["a", "u1", "u2", "u3", "b"]);
    }

    #[tokio::test]
    async fn a_place_that_is_free_is_nobody_elses() {
        let places = Places::new(1);
        let held = places.take_free();
        assert!(held.is_some() && places.take_free().is_none());
        let waiting = places.take(false);
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(held);
        assert!(places.take_free().is_none(), "whoever stands in the line has it");
        assert!(futures::poll!(&mut waiting).is_ready());
    }

    #[tokio::test]
    async fn whoever_waits_for_long_leaves_its_places_to_others_and_goes_on_with_as_many() {
        let (many, few) = (Arc::new(Places::new(2)), Arc::new(Places::new(1)));
        let taken = || (many.taken(), few.taken());
        let (wait, go_on) = (Semaphore::new(0), Semaphore::new(0));
        let one = work(async {
            let _first = many.hold(many.take(false).await, false);
            let second = few.hold(few.take(true).await, true);
            without_places(async { drop(wait.acquire().await) }).await;
            drop(go_on.acquire().await);
            drop(second);
            assert_eq!(taken(), (1, 0));
            without_places(std::future::ready(())).await;
            assert_eq!(taken(), (1, 0), "what was dropped is not taken again");
        });
        tokio::pin!(one);
        assert!(futures::poll!(&mut one).is_pending());
        assert_eq!(taken(), (0, 0));
        let others = few.hold(few.take(false).await, false);
        wait.add_permits(1);
        assert!(futures::poll!(&mut one).is_pending());
        assert_eq!(taken(), (1, 1), "one of the two is another's");
        drop(others);
        assert!(futures::poll!(&mut one).is_pending());
        assert_eq!(taken(), (1, 1), "it has both");
        go_on.add_permits(1);
        one.await;
        assert_eq!(taken(), (0, 0));
    }

    #[tokio::test]
    async fn a_piece_of_work_that_is_dropped_leaves_no_place_taken() {
        let places = Arc::new(Places::new(1));
        let mut pending = Box::pin(work(async {
            let _place = places.hold(places.take(false).await, false);
            std::future::pending::<()>().await;
        }));
        assert!(futures::poll!(&mut pending).is_pending());
        assert_eq!(places.taken(), 1);
        drop(pending);
        assert_eq!(places.taken(), 0);
    }

    #[tokio::test]
    async fn one_that_gave_up_waiting_holds_up_nobody() {
        let places = Places::new(1);
        let held = places.take(false).await;
        for urgent in [false, true] {
            let waiting = tokio::time::timeout(std::time::Duration::from_millis(1), places.take(urgent)).await;
            assert!(waiting.is_err());
        }
        drop(held);
        assert!(places.take(false).await.is_some() && places.take(true).await.is_some());
    }
}
