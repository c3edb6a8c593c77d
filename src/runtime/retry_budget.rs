//! A budget for retries: with them there may be a tenth more calls than were asked for, so that whoever is in trouble is not held down
//! by its callers (Google SRE, "Handling Overload", per-client retry budget).

use std::collections::HashMap;

use jiff::Timestamp;

/// Tokens that a first call adds. Less than a tenth: what was saved up, and what is free while nothing fails, comes to it.
const PER_CALL: f64 = 0.05;
/// Tokens that a second adds where first calls add less, so that what waits when nothing new comes goes on within half a minute.
const PER_SECOND: f64 = 0.3;
const MAX: f64 = 20.0;
/// After so many calls in a row that were taken nothing is in trouble any more: what has waited may go.
const TAKEN_IN_A_ROW: u32 = 10;

/// The most of which something is known (promise 6); one more is taken for one in no trouble.
const BUDGETS_MAX: usize = 4_096;

/// A token bucket. A retry takes one token.
#[derive(Debug)]
pub struct RetryBudget {
    tokens: f64,
    refilled_at: Option<Timestamp>,
    /// What time has added since the last first call: of both only the greater counts.
    by_time: f64,
    /// Calls since the last one that failed.
    taken: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { tokens: MAX, refilled_at: None, by_time: 0.0, taken: 0 }
    }
}

impl RetryBudget {
    /// A first call is made.
    pub fn call(&mut self, now: Timestamp) {
        self.refill(now);
        let more = (PER_CALL - self.by_time).max(0.0);
        self.tokens = (self.tokens + more).min(MAX);
        self.by_time = 0.0;
    }

    /// What became of a call, whether it was the first or not.
    pub fn was_taken(&mut self, taken: bool) {
        self.taken = if taken { self.taken.saturating_add(1) } else { 0 };
    }

    /// The tokens that there are now, at most 20.
    pub fn tokens(&self, now: Timestamp) -> f64 {
        (self.tokens + self.since(now)).min(MAX)
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
        self.refill(now);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }

    fn refill(&mut self, now: Timestamp) {
        self.by_time += self.since(now);
        self.tokens = self.tokens(now);
        self.refilled_at = Some(now);
    }

    /// What time has added since it was last looked at.
    fn since(&self, now: Timestamp) -> f64 {
        self.refilled_at.map_or(0.0, |before| now.duration_since(before).as_secs_f64().max(0.0)) * PER_SECOND
    }
}

/// A budget for each who may be in trouble, so that one who stays in it leaves the retries of the others alone (bulkhead). Of who never
/// was nothing is kept: it has all that a new budget has.
#[derive(Debug, Default)]
pub struct RetryBudgets(HashMap<String, RetryBudget>);

impl RetryBudgets {
    /// A first call is made.
    pub fn call(&mut self, key: &str, now: Timestamp) {
        if let Some(budget) = self.0.get_mut(key) {
            budget.call(now);
        }
    }

    /// A call was answered: it works.
    pub fn taken(&mut self, key: &str) {
        if let Some(budget) = self.0.get_mut(key) {
            budget.was_taken(true);
        }
    }

    /// A call was not answered, or with a failure that a later one may not meet.
    pub fn failed(&mut self, key: &str, now: Timestamp) {
        if let Some(budget) = self.of(key, now) {
            budget.was_taken(false);
        }
    }

    /// It works, and asked for patience.
    pub fn throttled(&mut self, key: &str, now: Timestamp) {
        self.of(key, now);
    }

    /// Whether a retry may be made now.
    pub fn take(&mut self, key: &str, now: Timestamp) -> bool {
        self.0.get_mut(key).is_none_or(|budget| budget.take(now))
    }

    /// The tokens of whoever has fewest, at most 20.
    pub fn fewest(&self, now: Timestamp) -> f64 {
        self.0.values().map(|budget| budget.tokens(now)).fold(MAX, f64::min)
    }

    fn of(&mut self, key: &str, now: Timestamp) -> Option<&mut RetryBudget> {
        if !self.0.contains_key(key) && self.0.len() >= BUDGETS_MAX {
            self.0.retain(|_, budget| !budget.is_full(now));
            if self.0.len() >= BUDGETS_MAX {
                return None;
            }
        }
        Some(self.0.entry(key.to_owned()).or_default())
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
        (0..100).for_each(|_| budget.call(at(0)));
        let from_calls = (0..100).filter(|_| budget.take(at(0))).count();
        assert!((4..=5).contains(&from_calls), "{from_calls}");
        assert_eq!((0..100).filter(|_| budget.take(at(20))).count(), 6);
        assert!(!budget.take(at(10)), "a clock that goes back gives nothing");
    }

    /// What a tenth allows is not given twice, once for the calls and once for the time in which they came.
    #[test]
    fn of_calls_and_time_the_greater_counts() {
        let retries_while = |calls_a_second: i64| {
            let at = |ms| Timestamp::from_millisecond(ms).unwrap();
            let mut budget = RetryBudget::default();
            while budget.take(at(0)) {}
            let retries = (1..=100 * calls_a_second).filter(|call| {
                let now = at(call * 1_000 / calls_a_second);
                budget.call(now);
                budget.take(now)
            });
            retries.count()
        };
        assert!((29..=30).contains(&retries_while(1)), "by time: {}", retries_while(1));
        assert!((29..=30).contains(&retries_while(5)), "by time: {}", retries_while(5));
        assert!((98..=100).contains(&retries_while(20)), "by calls: {}", retries_while(20));
    }

    #[test]
    fn one_in_trouble_leaves_the_retries_of_the_others_alone() {
        let (now, mut budgets) = (Timestamp::UNIX_EPOCH, RetryBudgets::default());
        assert!((0..100).all(|_| budgets.take("a", now)), "nothing of it failed");
        budgets.failed("a", now);
        budgets.throttled("b", now);
        assert_eq!((0..100).filter(|_| budgets.take("a", now)).count(), 20);
        assert_eq!((0..100).filter(|_| budgets.take("b", now)).count(), 20);
        assert!(budgets.take("c", now));
        assert!(budgets.fewest(now) < 1.0);
        (0..TAKEN_IN_A_ROW).for_each(|_| budgets.taken("a"));
        assert!(budgets.take("a", now) && !budgets.take("b", now));
    }

    #[test]
    fn budgets_of_runbooks_that_are_gone_are_forgotten() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut budgets = RetryBudgets::default();
        for n in 0..BUDGETS_MAX {
            let key = format!("gone-{n}");
            budgets.failed(&key, at(0));
            budgets.take(&key, at(0));
        }
        budgets.failed("a", at(1));
        assert_eq!(budgets.0.len(), BUDGETS_MAX);
        assert!((0..100).all(|_| budgets.take("a", at(1))), "one more is taken for one in no trouble");
        budgets.failed("a", at(200));
        assert_eq!(budgets.0.len(), 1);
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
