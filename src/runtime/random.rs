//! The random source port: jitter only. No id is ever random (design, section 3).

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

/// Gives random numbers, from the machine or from a seed.
pub struct Random(Mutex<StdRng>);

impl Random {
    /// Seeded by the machine.
    pub fn from_system() -> Self {
        Self(Mutex::new(StdRng::try_from_rng(&mut rand::rngs::SysRng).unwrap_or_else(|_| StdRng::seed_from_u64(0))))
    }

    /// The same numbers for the same seed.
    pub fn from_seed(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    /// Any 64 bits.
    pub fn next_u64(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    /// Full jitter: anything from zero to `limit`, so that many who wait do not come back together.
    pub fn up_to(&self, limit: Duration) -> Duration {
        let limit_us = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        if limit_us == 0 { Duration::ZERO } else { Duration::from_micros(self.next_u64() % (limit_us + 1)) }
    }
}

/// The longest wait before retry number `retry` (from 0): `initial`, doubled each time, at most `max`.
pub fn exponential(initial: Duration, max: Duration, retry: u32) -> Duration {
    initial.saturating_mul(2_u32.saturating_pow(retry.min(30))).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_limit() {
        let wait = |retry| exponential(Duration::from_millis(500), Duration::from_secs(10), retry).as_millis();
        assert_eq!([wait(0), wait(1), wait(4), wait(5), wait(4_000_000_000)], [500, 1_000, 8_000, 10_000, 10_000]);
    }

    #[test]
    fn jitter_stays_within_its_limit_and_follows_the_seed() {
        let (a, b) = (Random::from_seed(7), Random::from_seed(7));
        for _ in 0..100 {
            let wait = a.up_to(Duration::from_millis(3));
            assert!(wait <= Duration::from_millis(3));
            assert_eq!(wait, b.up_to(Duration::from_millis(3)));
        }
        assert_eq!(a.up_to(Duration::ZERO), Duration::ZERO);
    }
}
