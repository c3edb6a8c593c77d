//! A replica's power over its own tasks, taken away: frozen, none of them runs (SIGSTOP); killed, none of them ever runs again
//! (SIGKILL), and none of its calls is begun or heard of.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures::future::BoxFuture;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Running,
    Frozen,
    Killed,
}

#[derive(Default)]
struct Inner {
    state: State,
    next: u64,
    /// Of everything that waits for its turn, in the order of its making.
    wakers: BTreeMap<u64, Waker>,
}

/// Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<Inner>>);

impl Gate {
    pub(crate) fn freeze(&self) {
        let mut inner = self.lock();
        if inner.state == State::Running {
            inner.state = State::Frozen;
        }
    }

    pub(crate) fn thaw(&self) {
        let mut inner = self.lock();
        if inner.state == State::Frozen {
            inner.state = State::Running;
            inner.wake();
        }
    }

    pub(crate) fn kill(&self) {
        let mut inner = self.lock();
        inner.state = State::Killed;
        inner.wake();
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.lock().state == State::Frozen
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.lock().state == State::Killed
    }

    /// A task of the replica.
    pub(crate) fn task(&self, task: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        Box::pin(Gated { gate: self.clone(), id: None, task: Some(task) })
    }

    /// For a call of the replica to the outside: it goes on while the replica runs, and never returns once it was killed.
    pub(crate) async fn pass(&self) {
        poll_fn(|_| if self.is_killed() { Poll::Pending } else { Poll::Ready(()) }).await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn wake(&mut self) {
        self.wakers.values().for_each(Waker::wake_by_ref);
    }
}

struct Gated {
    gate: Gate,
    id: Option<u64>,
    task: Option<BoxFuture<'static, ()>>,
}

impl Future for Gated {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let state = {
            let mut inner = self.gate.lock();
            let id = self.id.unwrap_or(inner.next);
            if self.id.is_none() {
                inner.next += 1;
            }
            inner.wakers.insert(id, cx.waker().clone());
            let state = inner.state;
            drop(inner);
            self.id = Some(id);
            state
        };
        match state {
            State::Killed => {
                self.task = None;
                Poll::Ready(())
            }
            State::Frozen => Poll::Pending,
            State::Running => match &mut self.task {
                Some(task) => task.as_mut().poll(cx),
                None => Poll::Ready(()),
            },
        }
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.gate.lock().wakers.remove(&id);
        }
    }
}
