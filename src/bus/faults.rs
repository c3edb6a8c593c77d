//! What is wrong with a log now, part by part: what its health says. A part that works hides none that does not.

use std::{
    collections::BTreeMap,
    fmt::Display,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::FutureExt;

/// Of one log; clones are the same.
#[derive(Clone, Default)]
pub(super) struct Faults(Arc<Mutex<BTreeMap<String, String>>>);

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
            tracing::error!(part, "A task of the log panicked.");
            self.set(&part, "it panicked; start the process again");
        }
    }

    /// No panic happens while the lock is held, so a poisoned one holds a whole state.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        assert_eq!(faults.check(), Ok(()));
        tokio::spawn(faults.clone().guard("retention".into(), async { panic!("at work") })).await.unwrap();
        assert!(faults.check().unwrap_err().starts_with("retention: it panicked"));
    }
}
