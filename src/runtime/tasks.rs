//! The one place where tasks start. A task that fails or panics ends the process with its reason, instead of leaving a service
//! that looks alive and does nothing.

use std::{fmt::Display, future::Future, panic::AssertUnwindSafe};

use futures::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

/// A task that ended as it should not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task {task}: {reason}")]
pub struct TaskFailure {
    /// The task's name.
    pub task: &'static str,
    /// What it said, or that it panicked.
    pub reason: String,
}

/// Starts tasks and remembers them until they end.
#[derive(Clone, Debug)]
pub struct Tasks {
    tracker: TaskTracker,
    failures: mpsc::Sender<TaskFailure>,
}

impl Tasks {
    /// The supervisor listens on the receiver: the first failure ends the process.
    pub fn new() -> (Self, mpsc::Receiver<TaskFailure>) {
        let (failures, receiver) = mpsc::channel(16);
        (Self { tracker: TaskTracker::new(), failures }, receiver)
    }

    /// Starts a task that may fail.
    pub fn spawn<F, E>(&self, task: &'static str, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        let failures = self.failures.clone();
        self.tracker.spawn(async move {
            let reason = match AssertUnwindSafe(future).catch_unwind().await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(panic) => format!("panicked: {}", panic_message(panic.as_ref())),
            };
            tracing::error!(task, reason, "A task ended as it should not have.");
            // A full channel means that the supervisor knows of a failure already.
            let _ = failures.try_send(TaskFailure { task, reason });
        });
    }

    /// Starts a task that cannot fail but by a panic.
    pub fn spawn_infallible<F>(&self, task: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn(task, future.map(Ok::<(), std::convert::Infallible>));
    }

    /// Runs something to its end even if its caller is dropped meanwhile, and gives its result; none when it panicked.
    pub async fn complete<T: Send + 'static>(
        &self,
        task: &'static str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (reply, result) = oneshot::channel();
        self.spawn_infallible(task, async move {
            // The caller may be gone; what it asked for is done all the same.
            let _ = reply.send(future.await);
        });
        result.await.ok()
    }

    /// Waits until every task has ended.
    pub async fn finished(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// How many are running.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_and_an_error_reach_the_supervisor_and_an_ordinary_end_does_not() {
        let (tasks, mut failures) = Tasks::new();
        tasks.spawn_infallible("fine", async {});
        tasks.spawn("broken", async { Err("no disk") });
        tasks.spawn_infallible("panics", async { panic!("at {}", "work") });
        tasks.finished().await;
        drop(tasks);
        let mut seen = Vec::new();
        while let Some(failure) = failures.recv().await {
            seen.push(failure.to_string());
        }
        seen.sort();
        assert_eq!(seen, ["task broken: no disk", "task panics: panicked: at work"]);
    }

    #[tokio::test]
    async fn what_is_to_be_completed_is_even_if_its_caller_goes_away() {
        let (tasks, _failures) = Tasks::new();
        assert_eq!(tasks.complete("sum", async { 1 + 1 }).await, Some(2));
        let (go, wait) = oneshot::channel::<()>();
        let (done, seen) = oneshot::channel();
        let caller = tasks.complete("late", async move {
            wait.await.unwrap();
            done.send(()).unwrap();
        });
        assert!(tokio::time::timeout(std::time::Duration::from_millis(10), caller).await.is_err());
        go.send(()).unwrap();
        seen.await.unwrap();
        assert_eq!(tasks.complete("panics", async { panic!("at work") }).await, None::<()>);
    }
}
