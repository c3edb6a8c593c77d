//! A circuit breaker for each runbook and target kind: after many failed calls in a row, none for a while, then one to see.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use crate::api::v1alpha1::CircuitBreaker;

/// How long the one call of a half-open breaker may stay without an answer before another one is let through.
const PROBE_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);

/// The most breakers of which something is known (promise 6): runbooks come and go. One more is taken for a closed one.
const BREAKERS_MAX: usize = 4_096;

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Go(Pass),
    /// Not before this.
    Wait(Timestamp),
    /// Not before the one call of the half-open breaker has its answer.
    Probing,
}

/// The right to make a call, and whether it is the one call of a half-open breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    probe: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u16 },
    Open { until: Timestamp },
    HalfOpen { probe: u64, probe_until: Timestamp },
}

/// The breakers of a process, by runbook and target kind.
#[derive(Debug, Default)]
pub struct Breakers {
    states: HashMap<String, State>,
    probes: u64,
}

impl Breakers {
    /// Whether a call may be made now. A breaker whose time is over lets one call through.
    pub fn admit(&mut self, key: &str, now: Timestamp) -> Admission {
        let Some(state) = self.states.get_mut(key) else { return Admission::Go(Pass { probe: None }) };
        match *state {
            State::Closed { .. } => Admission::Go(Pass { probe: None }),
            State::Open { until } if now < until => Admission::Wait(until),
            State::HalfOpen { probe_until, .. } if now < probe_until => Admission::Probing,
            State::Open { .. } | State::HalfOpen { .. } => {
                self.probes += 1;
                let probe_until = now.saturating_add(PROBE_TIMEOUT).unwrap_or(now);
                *state = State::HalfOpen { probe: self.probes, probe_until };
                Admission::Go(Pass { probe: Some(self.probes) })
            }
        }
    }

    /// Whether calls have to wait, without asking for one.
    pub fn is_open(&self, key: &str) -> bool {
        self.states.get(key).is_some_and(|state| !matches!(state, State::Closed { .. }))
    }

    /// A call was not made after all. If it was the one call of a half-open breaker, the next one who asks may make it.
    pub fn unused(&mut self, key: &str, pass: Pass) {
        if let Some(state) = self.states.get_mut(key)
            && matches!(*state, State::HalfOpen { probe, .. } if pass.probe == Some(probe))
        {
            *state = State::Open { until: Timestamp::UNIX_EPOCH };
        }
    }

    /// A call was answered: the server works, whatever it said.
    pub fn success(&mut self, key: &str) {
        self.states.remove(key);
    }

    /// A call was not answered, or with 5xx. True when the breaker opens with it.
    pub fn failure(&mut self, key: &str, settings: &CircuitBreaker, now: Timestamp) -> bool {
        if self.states.len() >= BREAKERS_MAX && !self.states.contains_key(key) {
            // Those that are closed, or whose time is long over, say nothing that a few calls would not say again.
            let recent = |until: Timestamp| now.duration_since(until) < PROBE_TIMEOUT;
            self.states.retain(|_, state| match *state {
                State::Closed { .. } => false,
                State::Open { until } | State::HalfOpen { probe_until: until, .. } => recent(until),
            });
            if self.states.len() >= BREAKERS_MAX {
                return false;
            }
        }
        let open = State::Open { until: now.saturating_add(settings.open_duration.as_signed()).unwrap_or(now) };
        let state = self.states.entry(key.to_owned()).or_insert(State::Closed { failures: 0 });
        let next = match *state {
            State::Closed { failures } if failures + 1 < settings.failure_threshold => {
                State::Closed { failures: failures + 1 }
            }
            State::Closed { .. } | State::HalfOpen { .. } => open,
            State::Open { .. } => *state,
        };
        let opens = matches!(next, State::Open { .. }) && !matches!(*state, State::Open { .. });
        *state = next;
        opens
    }

    /// How many are open, and how many half-open.
    pub fn states(&self) -> (usize, usize) {
        let count = |is: fn(&State) -> bool| self.states.values().filter(|state| is(state)).count();
        (count(|state| matches!(state, State::Open { .. })), count(|state| matches!(state, State::HalfOpen { .. })))
    }

    /// How many are not closed.
    pub fn open(&self) -> usize {
        self.states.values().filter(|state| !matches!(state, State::Closed { .. })).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1alpha1::Duration;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    const FREELY: Admission = Admission::Go(Pass { probe: None });

    fn probe(number: u64) -> Admission {
        Admission::Go(Pass { probe: Some(number) })
    }

    fn settings() -> CircuitBreaker {
        CircuitBreaker { failure_threshold: 3, open_duration: Duration::from_secs(30) }
    }

    #[test]
    fn breakers_of_runbooks_that_are_gone_are_forgotten() {
        let mut breakers = Breakers::default();
        for n in 0..BREAKERS_MAX {
            breakers.failure(&format!("gone-{n}"), &CircuitBreaker { failure_threshold: 1, ..settings() }, at(0));
        }
        let fails_thrice = |breakers: &mut Breakers, now| {
            (0..3).map(|_| breakers.failure("a", &settings(), at(now))).collect::<Vec<_>>()
        };
        assert_eq!(fails_thrice(&mut breakers, 1), [false, false, false], "as many are open as may be");
        assert_eq!(breakers.states.len(), BREAKERS_MAX);
        assert_eq!(fails_thrice(&mut breakers, 200), [false, false, true]);
        assert_eq!(breakers.states.len(), 1);
    }

    #[test]
    fn it_opens_lets_one_call_through_and_closes() {
        let mut breakers = Breakers::default();
        let opened: Vec<bool> = (0..3).map(|i| breakers.failure("a", &settings(), at(i))).collect();
        assert_eq!(opened, [false, false, true]);
        assert_eq!(breakers.admit("a", at(10)), Admission::Wait(at(32)));
        assert_eq!(breakers.admit("b", at(10)), FREELY, "another runbook");
        assert_eq!(breakers.states(), (1, 0));
        assert_eq!(breakers.admit("a", at(32)), probe(1));
        assert_eq!(breakers.admit("a", at(32)), Admission::Probing, "only one call");
        assert_eq!(breakers.states(), (0, 1));
        breakers.success("a");
        assert_eq!((breakers.admit("a", at(33)), breakers.open()), (FREELY, 0));
    }

    #[test]
    fn a_failed_probe_opens_it_again_and_a_lost_one_does_not_hold_it_for_ever() {
        let mut breakers = Breakers::default();
        for i in 0..3 {
            breakers.failure("a", &settings(), at(i));
        }
        assert_eq!(breakers.admit("a", at(40)), probe(1));
        assert!(breakers.failure("a", &settings(), at(41)));
        assert_eq!(breakers.admit("a", at(42)), Admission::Wait(at(71)));
        assert_eq!(breakers.admit("a", at(71)), probe(2));
        assert_eq!(breakers.admit("a", at(131)), probe(3), "the probe's answer never came");
        breakers.unused("a", Pass { probe: Some(3) });
        assert_eq!(breakers.admit("a", at(131)), probe(4), "the probe was never sent");
        breakers.failure("a", &settings(), at(131));
        breakers.unused("a", Pass { probe: Some(4) });
        assert_eq!(breakers.admit("a", at(132)), Admission::Wait(at(161)), "an open one stays open");
    }

    #[test]
    fn a_call_that_was_not_made_gives_back_no_right_but_its_own() {
        let mut breakers = Breakers::default();
        let Admission::Go(early) = breakers.admit("a", at(0)) else {
            panic!("a closed breaker lets everybody through")
        };
        for i in 0..3 {
            breakers.failure("a", &settings(), at(i));
        }
        let Admission::Go(first) = breakers.admit("a", at(40)) else { panic!("a half-open one lets one through") };
        breakers.unused("a", early);
        assert_eq!(breakers.admit("a", at(40)), Admission::Probing, "it had its right before the breaker opened");
        assert_eq!(breakers.admit("a", at(100)), probe(2), "the first probe is overdue");
        breakers.unused("a", first);
        assert_eq!(breakers.admit("a", at(100)), Admission::Probing, "another probe is under way");
    }

    #[test]
    fn a_success_in_between_counts_from_the_beginning() {
        let mut breakers = Breakers::default();
        breakers.failure("a", &settings(), at(0));
        breakers.failure("a", &settings(), at(0));
        breakers.success("a");
        assert!(!breakers.failure("a", &settings(), at(1)));
        assert_eq!(breakers.admit("a", at(1)), FREELY);
    }
}
