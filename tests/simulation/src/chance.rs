//! Everything that a seed decides comes from here, in one order.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

/// A source of numbers. Clones are the same.
#[derive(Clone)]
pub(crate) struct Chance(Arc<Mutex<StdRng>>);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    pub(crate) fn next(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    /// From 0 to below `end`; 0 for an `end` of 0.
    pub(crate) fn below(&self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or(0)
    }

    /// From `first` to `last`, both included.
    pub(crate) fn between(&self, first: usize, last: usize) -> usize {
        first + self.below(last.saturating_sub(first) + 1)
    }

    /// With a probability of so many in a thousand.
    pub(crate) fn permille(&self, permille: u64) -> bool {
        self.next() % 1000 < permille
    }

    /// In microseconds.
    pub(crate) fn time(&self, least: Duration, most: Duration) -> Duration {
        let span = most.saturating_sub(least);
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX - 1);
        least + Duration::from_micros(self.next() % (micros + 1))
    }

    pub(crate) fn pick<'a, T>(&self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    pub(crate) fn shuffle<T>(&self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end + 1));
        }
    }
}
