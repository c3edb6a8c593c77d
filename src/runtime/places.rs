//! Places that are bounded in number, and who gets one: what is urgent goes before what is not, and holds it up for good never.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
