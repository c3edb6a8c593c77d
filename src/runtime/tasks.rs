//! The one place where tasks start. A task that fails or panics ends the process with its reason, instead of leaving a service
//! that looks alive and does nothing.

use std::{
    collections::BTreeMap,
    fmt::Display,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::{Liveness, liveness::LOOP_BOUND};

/// A task that ended as it should not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task {task}: {reason}")]
pub struct TaskFailure {
    /// The task's name.
    pub task: &'static str,
    /// What it said, or that it panicked.
    pub reason: String,
}

/// What a task is run in.
type Wrap = Arc<dyn Fn(BoxFuture<'static, ()>) -> BoxFuture<'static, ()> + Send + Sync>;

/// Starts tasks and remembers them until they end.
#[derive(Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    /// Those that take from outside.
    intake: TaskTracker,
    is_intake: bool,
    failures: mpsc::Sender<TaskFailure>,
    liveness: Liveness,
    running: Running,
    /// None: tasks run as they are.
    wrap: Option<Wrap>,
}

/// How many tasks of each name are running.
#[derive(Clone, Debug, Default)]
struct Running(Arc<Mutex<BTreeMap<&'static str, usize>>>);

/// One of them, until it is dropped.
struct Counted(Running, &'static str);

impl Running {
    fn count(&self, task: &'static str) -> Counted {
        *self.lock().entry(task).or_default() += 1;
        Counted(self.clone(), task)
    }

    /// No panic happens while the lock is held, so a poisoned one holds a whole state.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut running = self.0.lock();
        if let Some(count) = running.get_mut(self.1) {
            *count -= 1;
            if *count == 0 {
                running.remove(self.1);
            }
        }
    }
}

impl Tasks {
    /// The supervisor listens on the receiver: the first failure ends the process.
    pub fn new() -> (Self, mpsc::Receiver<TaskFailure>) {
        let (failures, receiver) = mpsc::channel(16);
        let tasks = Self {
            tracker: TaskTracker::new(),
            intake: TaskTracker::new(),
            is_intake: false,
            failures,
            liveness: Liveness::default(),
            running: Running::default(),
            wrap: None,
        };
        (tasks, receiver)
    }

    /// The same, each task run in what `wrap` makes of it: a simulator freezes and kills a replica as a whole by it.
    pub fn wrapped(
        wrap: impl Fn(BoxFuture<'static, ()>) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> (Self, mpsc::Receiver<TaskFailure>) {
        let (tasks, receiver) = Self::new();
        (Self { wrap: Some(Arc::new(wrap)), ..tasks }, receiver)
    }

    /// The same, for tasks that take from outside: when the process stops, they are waited for before all others.
    pub fn of_intake(&self) -> Self {
        Self { is_intake: true, ..self.clone() }
    }

    /// Whether the loops go on.
    pub fn liveness(&self) -> Liveness {
        self.liveness.clone()
    }

    /// Starts a task that may fail.
    pub fn spawn<F, E>(&self, task: &'static str, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        let failures = self.failures.clone();
        let (counted, taking) = (self.running.count(task), self.is_intake.then(|| self.intake.token()));
        let run = async move {
            let _running = (counted, taking);
            let reason = match AssertUnwindSafe(future).catch_unwind().await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(panic) => format!("panicked: {}", panic_message(panic.as_ref())),
            };
            tracing::error!(task, reason, "A task ended as it should not have.");
            // A full channel means that the supervisor knows of a failure already.
            let _ = failures.try_send(TaskFailure { task, reason });
        };
        match &self.wrap {
            None => self.tracker.spawn(run),
            Some(wrap) => self.tracker.spawn(wrap(run.boxed())),
        };
    }

    /// Starts a task that cannot fail but by a panic.
    pub fn spawn_infallible<F>(&self, task: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn(task, future.map(Ok::<(), std::convert::Infallible>));
    }

    /// Starts a loop that must go on as long as the process does: liveness tells when it does not move. It wakes by itself at least
    /// every half a minute, or waits in [`liveness::waiting`](super::liveness::waiting).
    pub fn spawn_loop<F>(&self, task: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_infallible(task, self.liveness.follow(task, LOOP_BOUND, future));
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

    /// Waits until every task that takes from outside has ended.
    pub async fn intake_finished(&self) {
        self.intake.close();
        self.intake.wait().await;
    }

    /// Which are running, like `ingest-relay, notification (3)`.
    pub fn running(&self) -> String {
        let name = |(name, count): (&&str, &usize)| match count {
            1 => (*name).to_owned(),
            count => format!("{name} ({count})"),
        };
        self.running.lock().iter().map(name).collect::<Vec<_>>().join(", ")
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
    async fn what_takes_from_outside_is_waited_for_by_itself_and_what_runs_has_a_name() {
        let (tasks, _failures) = Tasks::new();
        let (go, wait) = tokio::sync::watch::channel(false);
        let until = |mut wait: tokio::sync::watch::Receiver<bool>| async move { drop(wait.wait_for(|go| *go).await) };
        tasks.spawn_infallible("relay", std::future::pending());
        tasks.of_intake().spawn_infallible("connection", until(wait.clone()));
        tasks.of_intake().spawn_infallible("connection", until(wait));
        assert_eq!(tasks.running(), "connection (2), relay");
        assert!(tokio::time::timeout(std::time::Duration::from_millis(10), tasks.intake_finished()).await.is_err());
        go.send(true).unwrap();
        tasks.intake_finished().await;
        assert_eq!(tasks.running(), "relay");
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
