//! Lines of the log about what a flood may bring: one now and then, with how often it happened. Whoever looks sees that senders are
//! refused, and no sender fills the disk (promise 6).

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The time between two lines of one kind.
const EVERY: Duration = Duration::from_secs(10);

/// One kind of line.
#[derive(Debug, Default)]
pub(super) struct Said(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    told_at: Option<Instant>,
    untold: u64,
}

impl Said {
    /// It happened so many times more. How often since the last line, where there may be one now.
    pub fn tell(&self, times: usize) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.untold += times as u64;
        let may_tell = state.told_at.is_none_or(|at| at.elapsed() >= EVERY);
        if times == 0 || !may_tell {
            return None;
        }
        state.told_at = Some(Instant::now());
        Some(std::mem::take(&mut state.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_a_flood_is_told_now_and_then_with_its_number() {
        let said = Said::default();
        assert_eq!((said.tell(0), said.tell(3)), (None, Some(3)));
        for _ in 0..100 {
            tokio::time::advance(Duration::from_millis(90)).await;
            assert_eq!(said.tell(2), None);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((said.tell(1), said.tell(1)), (Some(201), None));
    }
}
