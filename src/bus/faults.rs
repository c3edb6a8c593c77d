//! What is wrong with a log now, part by part: what its health says. A part that works hides none that does not.

use std::{
    collections::BTreeMap,
    fmt::Display,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::FutureExt;
use tokio::sync::watch;

/// Of one log; clones are the same.
#[derive(Clone, Default)]
pub(super) struct Faults {
    parts: Arc<Mutex<BTreeMap<String, String>>>,
    /// The part that panicked, where one did.
    panicked: Arc<watch::Sender<Option<String>>>,
}

impl Faults {
    /// This part does not work, and why. True when that is new.
    pub(super) fn set(&self, part: &str, reason: impl Into<String>) -> bool {
        self.lock().insert(part.to_owned(), reason.into()).is_none()
    }

    /// This part works. True when it did not before.
    pub(super) fn clear(&self, part: &str) -> bool {
        self.lock().remove(part).is_some()
    }

    /// One or the other. True when a fault is new.
    pub(super) fn note<T, E: Display>(&self, part: &str, result: &Result<T, E>) -> bool {
        match result {
            Ok(_) => {
                self.clear(part);
                false
            }
            Err(error) => self.set(part, error.to_string()),
        }
    }

    pub(super) fn is_set(&self, part: &str) -> bool {
        self.lock().contains_key(part)
    }

    /// The first part that does not work, and how many others there are.
    pub(super) fn check(&self) -> Result<(), String> {
        let faults = self.lock();
        let Some((part, reason)) = faults.first_key_value() else { return Ok(()) };
        let others = match faults.len() - 1 {
            0 => String::new(),
            others => format!(" (and {others} more)"),
        };
        Err(format!("{part}: {reason}{others}"))
    }

    /// Runs a task of the log's own, which nobody waits for: that it panicked is said here.
    pub(super) async fn guard(self, part: String, task: impl Future<Output = ()>) {
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            self.panics(&part);
        }
    }

    /// The same for a thread: what is given stands on its stack.
    pub(super) fn guard_thread(self, part: &'static str) -> ThreadGuard {
        ThreadGuard { faults: self, part }
    }

    fn panics(&self, part: &str) {
        tracing::error!(part, "A task of the log panicked.");
        self.set(part, "it panicked; start the process again");
        self.panicked.send_replace(Some(format!("{part}: it panicked")));
    }

    /// Waits until a part under guard has panicked, and gives which.
    pub(super) async fn panicked(&self) -> String {
        let mut panicked = self.panicked.subscribe();
        loop {
            if let Some(part) = &*panicked.borrow_and_update() {
                return part.clone();
            }
            // Its sender is held here, so it is not gone.
            let _ = panicked.changed().await;
        }
    }

    /// No panic happens while the lock is held, so a poisoned one holds a whole state.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says, when it is dropped by a panic, that the thread has ended by one.
pub(super) struct ThreadGuard {
    faults: Faults,
    part: &'static str,
}

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.faults.panics(self.part);
        }
    }
}

/// The part that is one group's consumer.
pub(super) fn consumer(group: &str) -> String {
    format!("consumer group {group}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_works_hides_none_that_does_not() {
        let faults = Faults::default();
        assert!(faults.set("b", "broken") && !faults.set("b", "broken again"));
        assert!(!faults.note("a", &Ok::<_, String>(())));
        assert_eq!(faults.check().unwrap_err(), "b: broken again");
        assert!(faults.note("a", &Err::<(), _>("no disk")));
        assert_eq!(faults.check().unwrap_err(), "a: no disk (and 1 more)");
        assert!(faults.clear("a") && faults.clear("b") && !faults.clear("b"));
        assert_eq!(faults.check(), Ok(()));
    }

    #[tokio::test]
    async fn a_panic_of_a_task_that_nobody_waits_for_is_said() {
        let faults = Faults::default();
        tokio::spawn(faults.clone().guard("fine".into(), async {})).await.unwrap();
        assert_eq!((faults.check(), faults.panicked().now_or_never()), (Ok(()), None));
        tokio::spawn(faults.clone().guard("retention".into(), async { panic!("at work") })).await.unwrap();
        assert!(faults.check().unwrap_err().starts_with("retention: it panicked"));
        assert_eq!(faults.panicked().now_or_never().as_deref(), Some("retention: it panicked"));
    }

    #[tokio::test]
    async fn a_panic_of_a_thread_is_said_and_its_end_is_none() {
        let faults = Faults::default();
        for (panics, says) in [(false, None), (true, Some("producer: it panicked".to_owned()))] {
            let guard = faults.clone().guard_thread("producer");
            let thread = std::thread::spawn(move || {
                let _guard = guard;
                assert!(!panics, "as a test wants it");
            });
            assert_eq!((thread.join().is_err(), faults.panicked().now_or_never()), (panics, says));
        }
    }
}
