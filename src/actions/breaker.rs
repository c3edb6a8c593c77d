//! A circuit breaker for each runbook and target kind: after many failed calls in a row, none for a while, then one to see. When the
//! API server as a whole was away and is back, that one is let through at once: what failed was not the target's own.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use crate::api::v1alpha1::CircuitBreaker;

/// How long the one call of a half-open breaker may stay without an answer before another one is let through.
const PROBE_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);

/// How long after its last failure a breaker lets one call through when the API server is back; twice as long after each that fails.
const BACK_AFTER: SignedDuration = SignedDuration::from_secs(1);
/// So often it is doubled at most.
const DOUBLED_MAX: u32 = 12;

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
    /// How often the API server had come back when it was given.
    returns: u64,
}

impl Pass {
    /// Whether it is the one call of a half-open breaker.
    pub fn is_probe(self) -> bool {
        self.probe.is_some()
    }

    /// How often the API server had come back when it was given.
    pub fn returns(self) -> u64 {
        self.returns
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed {
        failures: u16,
    },
    Open(Open),
    /// `early`: so many calls in a row were let through because the API server had come back.
    HalfOpen {
        probe: u64,
        probe_until: Timestamp,
        early: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    until: Timestamp,
    failed_at: Timestamp,
    /// How often the API server had come back when the call that failed was sent.
    returns: u64,
    early: u32,
}

impl Open {
    /// When it lets one call through, if the API server has come back so often.
    fn lets_through(&self, returns: u64) -> Timestamp {
        let wait = BACK_AFTER * (1 << self.early.min(DOUBLED_MAX));
        match self.failed_at.checked_add(wait) {
            Ok(early) if returns != self.returns => early.min(self.until),
            _ => self.until,
        }
    }
}

/// The breakers of a process, by runbook and target kind.
#[derive(Debug, Default)]
pub struct Breakers {
    states: HashMap<String, State>,
    probes: u64,
}

impl Breakers {
    /// Whether a call may be made now, when the API server has come back so often. A breaker whose time is over, or whose last failure
    /// was before the server came back, lets one call through.
    pub fn admit(&mut self, key: &str, now: Timestamp, returns: u64) -> Admission {
        if let Some(refusal) = self.refusal(key, now, returns) {
            return refusal;
        }
        let freely = Admission::Go(Pass { probe: None, returns });
        let Some(state) = self.states.get_mut(key) else { return freely };
        let early = match *state {
            State::Closed { .. } => return freely,
            State::Open(open) if now < open.until => open.early + 1,
            State::Open(_) | State::HalfOpen { .. } => 0,
        };
        self.probes += 1;
        let probe_until = now.saturating_add(PROBE_TIMEOUT).unwrap_or(now);
        *state = State::HalfOpen { probe: self.probes, probe_until, early };
        Admission::Go(Pass { probe: Some(self.probes), returns })
    }

    /// What [`Breakers::admit`] would say, where it lets nobody through; to ask this takes nothing from anybody.
    pub fn refusal(&self, key: &str, now: Timestamp, returns: u64) -> Option<Admission> {
        match *self.states.get(key)? {
            State::Open(open) if now < open.lets_through(returns) => Some(Admission::Wait(open.lets_through(returns))),
            State::HalfOpen { probe_until, .. } if now < probe_until => Some(Admission::Probing),
            _ => None,
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
            let (until, failed_at) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
            *state = State::Open(Open { until, failed_at, returns: pass.returns, early: 0 });
        }
    }

    /// A call was answered: the server works, whatever it said.
    pub fn success(&mut self, key: &str) {
        self.states.remove(key);
    }

    /// A call was not answered, or with 5xx; `returns` is how often the API server had come back when it was sent. True when the
    /// breaker opens with it.
    pub fn failure(&mut self, key: &str, settings: &CircuitBreaker, now: Timestamp, returns: u64) -> bool {
        if self.states.len() >= BREAKERS_MAX && !self.states.contains_key(key) {
            // Those that are closed, or whose time is long over, say nothing that a few calls would not say again.
            let recent = |until: Timestamp| now.duration_since(until) < PROBE_TIMEOUT;
            self.states.retain(|_, state| match *state {
                State::Closed { .. } => false,
                State::Open(Open { until, .. }) | State::HalfOpen { probe_until: until, .. } => recent(until),
            });
            if self.states.len() >= BREAKERS_MAX {
                return false;
            }
        }
        let until = now.saturating_add(settings.open_duration.as_signed()).unwrap_or(now);
        let open = |early| State::Open(Open { until, failed_at: now, returns, early });
        let state = self.states.entry(key.to_owned()).or_insert(State::Closed { failures: 0 });
        let next = match *state {
            State::Closed { failures } if failures + 1 < settings.failure_threshold => {
                State::Closed { failures: failures + 1 }
            }
            State::Closed { .. } => open(0),
            State::HalfOpen { early, .. } => open(early),
            State::Open(_) => *state,
        };
        let opens = matches!(next, State::Open(_)) && !matches!(*state, State::Open(_));
        *state = next;
        opens
    }

    /// How many are open, and how many half-open.
    pub fn states(&self) -> (usize, usize) {
        let count = |is: fn(&State) -> bool| self.states.values().filter(|state| is(state)).count();
        (count(|state| matches!(state, State::Open(_))), count(|state| matches!(state, State::HalfOpen { .. })))
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

    const FREELY: Admission = Admission::Go(Pass { probe: None, returns: 0 });

    fn probe(number: u64) -> Admission {
        probe_after(0, number)
    }

    fn probe_after(returns: u64, number: u64) -> Admission {
        Admission::Go(Pass { probe: Some(number), returns })
    }

    fn settings() -> CircuitBreaker {
        CircuitBreaker { failure_threshold: 3, open_duration: Duration::from_secs(30) }
    }

    #[test]
    fn breakers_of_runbooks_that_are_gone_are_forgotten() {
        let mut breakers = Breakers::default();
        for n in 0..BREAKERS_MAX {
            breakers.failure(&format!("gone-{n}"), &CircuitBreaker { failure_threshold: 1, ..settings() }, at(0), 0);
        }
        let fails_thrice = |breakers: &mut Breakers, now| {
            (0..3).map(|_| breakers.failure("a", &settings(), at(now), 0)).collect::<Vec<_>>()
        };
        assert_eq!(fails_thrice(&mut breakers, 1), [false, false, false], "as many are open as may be");
        assert_eq!(breakers.states.len(), BREAKERS_MAX);
        assert_eq!(fails_thrice(&mut breakers, 200), [false, false, true]);
        assert_eq!(breakers.states.len(), 1);
    }

    #[test]
    fn it_opens_lets_one_call_through_and_closes() {
        let mut breakers = Breakers::default();
        let opened: Vec<bool> = (0..3).map(|i| breakers.failure("a", &settings(), at(i), 0)).collect();
        assert_eq!(opened, [false, false, true]);
        assert_eq!(breakers.admit("a", at(10), 0), Admission::Wait(at(32)));
        assert_eq!(breakers.admit("b", at(10), 0), FREELY, "another runbook");
        assert_eq!(breakers.states(), (1, 0));
        assert_eq!(breakers.admit("a", at(32), 0), probe(1));
        assert_eq!(breakers.admit("a", at(32), 0), Admission::Probing, "only one call");
        assert_eq!(breakers.states(), (0, 1));
        breakers.success("a");
        assert_eq!((breakers.admit("a", at(33), 0), breakers.open()), (FREELY, 0));
    }

    #[test]
    fn a_failed_probe_opens_it_again_and_a_lost_one_does_not_hold_it_for_ever() {
        let mut breakers = Breakers::default();
        for i in 0..3 {
            breakers.failure("a", &settings(), at(i), 0);
        }
        assert_eq!(breakers.admit("a", at(40), 0), probe(1));
        assert!(breakers.failure("a", &settings(), at(41), 0));
        assert_eq!(breakers.admit("a", at(42), 0), Admission::Wait(at(71)));
        assert_eq!(breakers.admit("a", at(71), 0), probe(2));
        assert_eq!(breakers.admit("a", at(131), 0), probe(3), "the probe's answer never came");
        breakers.unused("a", Pass { probe: Some(3), returns: 0 });
        assert_eq!(breakers.admit("a", at(131), 0), probe(4), "the probe was never sent");
        breakers.failure("a", &settings(), at(131), 0);
        breakers.unused("a", Pass { probe: Some(4), returns: 0 });
        assert_eq!(breakers.admit("a", at(132), 0), Admission::Wait(at(161)), "an open one stays open");
    }

    #[test]
    fn when_the_server_is_back_one_call_is_let_through_before_the_time_is_over() {
        let mut breakers = Breakers::default();
        for _ in 0..3 {
            breakers.failure("a", &settings(), at(10), 0);
        }
        assert_eq!(breakers.admit("a", at(11), 0), Admission::Wait(at(40)), "the target fails by itself");
        assert_eq!(breakers.admit("a", at(10), 1), Admission::Wait(at(11)), "not in the very moment of the failure");
        assert_eq!(breakers.admit("a", at(11), 1), probe_after(1, 1));
        assert_eq!(breakers.admit("a", at(11), 2), Admission::Probing, "only one call");
        breakers.success("a");
        assert_eq!(breakers.open(), 0);
    }

    #[test]
    fn a_server_that_comes_and_goes_lets_ever_fewer_calls_through_to_what_fails_by_itself() {
        let mut breakers = Breakers::default();
        for _ in 0..3 {
            breakers.failure("a", &settings(), at(0), 0);
        }
        let (mut now, mut returns, mut let_through) = (0, 0, Vec::new());
        while now < 60 {
            returns += 1;
            match breakers.admit("a", at(now), returns) {
                Admission::Go(pass) => {
                    breakers.failure("a", &settings(), at(now), pass.returns);
                    let_through.push(now);
                }
                Admission::Wait(_) => now += 1,
                Admission::Probing => panic!("the answer was told"),
            }
        }
        assert_eq!(let_through, [1, 3, 7, 15, 31]);
    }

    #[test]
    fn what_was_sent_before_the_server_came_back_failed_with_the_server() {
        let mut breakers = Breakers::default();
        let Admission::Go(pass) = breakers.admit("a", at(0), 4) else {
            panic!("a closed breaker lets everybody through")
        };
        for _ in 0..3 {
            breakers.failure("a", &settings(), at(9), pass.returns);
        }
        assert_eq!(breakers.admit("a", at(10), 5), probe_after(5, 1), "it came back while they were under way");
        breakers.failure("a", &settings(), at(10), 5);
        assert_eq!(breakers.admit("a", at(30), 5), Admission::Wait(at(40)), "and this one failed by itself");
    }

    #[test]
    fn a_call_that_was_not_made_gives_back_no_right_but_its_own() {
        let mut breakers = Breakers::default();
        let Admission::Go(early) = breakers.admit("a", at(0), 0) else {
            panic!("a closed breaker lets everybody through")
        };
        for i in 0..3 {
            breakers.failure("a", &settings(), at(i), 0);
        }
        let Admission::Go(first) = breakers.admit("a", at(40), 0) else { panic!("a half-open one lets one through") };
        breakers.unused("a", early);
        assert_eq!(breakers.admit("a", at(40), 0), Admission::Probing, "it had its right before the breaker opened");
        assert_eq!(breakers.admit("a", at(100), 0), probe(2), "the first probe is overdue");
        breakers.unused("a", first);
        assert_eq!(breakers.admit("a", at(100), 0), Admission::Probing, "another probe is under way");
    }

    #[test]
    fn a_success_in_between_counts_from_the_beginning() {
        let mut breakers = Breakers::default();
        breakers.failure("a", &settings(), at(0), 0);
        breakers.failure("a", &settings(), at(0), 0);
        breakers.success("a");
        assert!(!breakers.failure("a", &settings(), at(1), 0));
        assert_eq!(breakers.admit("a", at(1), 0), FREELY);
    }
}
