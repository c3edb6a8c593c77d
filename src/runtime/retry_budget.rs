//! A budget for retries: with them there may be a tenth more calls than were asked for, so that whoever is in trouble is not held down
//! by its callers (Google SRE, "Handling Overload", per-client retry budget).

use jiff::Timestamp;

/// Tokens that a first call adds. Less than a tenth: what time adds, and what was saved up, comes to it.
const PER_CALL: f64 = 0.05;
/// Tokens that time adds, so that a quiet process can retry too.
const PER_SECOND: f64 = 0.1;
const MAX: f64 = 20.0;
/// After so many calls in a row that were taken nothing is in trouble any more: what has waited may go.
const TAKEN_IN_A_ROW: u32 = 10;

/// A token bucket. A retry takes one token.
#[derive(Debug)]
pub struct RetryBudget {
    tokens: f64,
    refilled_at: Option<Timestamp>,
    /// Calls since the last one that failed.
    taken: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { tokens: MAX, refilled_at: None, taken: 0 }
    }
}

impl RetryBudget {
    /// A first call is made.
    pub fn call(&mut self) {
        self.tokens = (self.tokens + PER_CALL).min(MAX);
    }

    /// What became of a call, whether it was the first or not.
    pub fn was_taken(&mut self, taken: bool) {
        self.taken = if taken { self.taken.saturating_add(1) } else { 0 };
    }

    /// The tokens that there are now, at most 20.
    pub fn tokens(&self, now: Timestamp) -> f64 {
        let elapsed_s = self.refilled_at.map_or(0.0, |before| now.duration_since(before).as_secs_f64().max(0.0));
        (self.tokens + elapsed_s * PER_SECOND).min(MAX)
    }

    /// Whether nothing is known of it any more that a new one would not say.
    pub fn is_full(&self, now: Timestamp) -> bool {
        self.tokens(now) >= MAX
    }

    /// Whether a retry may be made now.
    pub fn take(&mut self, now: Timestamp) -> bool {
        if self.taken >= TAKEN_IN_A_ROW {
            return true;
        }
        self.tokens = self.tokens(now);
        self.refilled_at = Some(now);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_bounded_by_calls_and_time() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut budget = RetryBudget::default();
        assert_eq!((0..100).filter(|_| budget.take(at(0))).count(), 20);
        (0..100).for_each(|_| budget.call());
        let from_calls = (0..100).filter(|_| budget.take(at(0))).count();
        assert!((4..=5).contains(&from_calls), "{from_calls}");
        assert_eq!((0..100).filter(|_| budget.take(at(70))).count(), 7);
        assert!(!budget.take(at(30)), "a clock that goes back gives nothing");
    }

    /// What waits because of an outage goes when it is over, however much it is.
    #[test]
    fn with_nothing_in_trouble_any_more_retries_are_free_until_one_fails() {
        let (now, mut budget) = (Timestamp::UNIX_EPOCH, RetryBudget::default());
        while budget.take(now) {}
        (1..TAKEN_IN_A_ROW).for_each(|_| budget.was_taken(true));
        assert!(!budget.take(now));
        budget.was_taken(true);
        assert!((0..1_000).all(|_| budget.take(now)));
        budget.was_taken(false);
        assert!(!budget.take(now));
    }
}
