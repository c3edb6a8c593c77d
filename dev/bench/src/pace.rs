//! Open-loop pacing: when each request is meant to be sent is fixed before the first one is, and nothing that the receiver does
//! moves it. Latency counts from there, so a receiver that is slow cannot make its own measurement look better (no coordinated
//! omission). [`Schedule`] is pure; [`run`] keeps it on a thread of its own.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::latencies::Latencies;

/// A generator that was later than this at its own p99 did not offer the load that is told of. What it was late counts as latency, so it
/// makes no result better.
const LAG_P99_MAX: Duration = Duration::from_millis(25);
/// Nor may it have stopped for longer than this once.
const LAG_MAX: Duration = Duration::from_millis(250);

/// So many requests, evenly spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Requests a second; more than 0.
    pub rate: f64,
    /// How many in all.
    pub count: u64,
}

impl Schedule {
    /// As many as the rate makes in this time, at least one.
    pub fn over(rate: f64, span: Duration) -> Self {
        Self { rate, count: ((rate * span.as_secs_f64()).round() as u64).max(1) }
    }

    /// When request `i` is meant to be sent, after the start.
    pub fn offset(&self, i: u64) -> Duration {
        Duration::from_secs_f64(i as f64 / self.rate)
    }

    /// From the first intended sending to one interval after the last.
    pub fn span(&self) -> Duration {
        self.offset(self.count)
    }
}

/// A request that is due.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// Its number, from 0.
    pub number: u64,
    /// When it was meant to be sent.
    pub intended: Instant,
}

/// Hands out every request at its time, until all are handed out or nobody takes them. Gives how late the generator itself was with
/// each: this is not the receiver's doing. It blocks its thread: tokio's timer has milliseconds, this sleep some 60 µs.
pub fn run(schedule: Schedule, start: Instant, due: &mpsc::UnboundedSender<Due>) -> Latencies {
    let mut lag = Latencies::new();
    for number in 0..schedule.count {
        let intended = start + schedule.offset(number);
        if let Some(wait) = intended.checked_duration_since(Instant::now()) {
            std::thread::sleep(wait);
        }
        lag.record(intended.elapsed());
        if due.send(Due { number, intended }).is_err() {
            break;
        }
    }
    lag
}

/// Why a generator that was so late has measured itself; none where it has not.
pub fn invalid(lag: &Latencies) -> Option<String> {
    let (p99, max) = (lag.quantile(0.99), lag.max());
    (p99 > LAG_P99_MAX || max > LAG_MAX).then(|| {
        format!(
            "the load generator itself fell behind its schedule by {:.1} ms at p99 and {:.0} ms at most (allowed: {} and {} ms)",
            p99.as_secs_f64() * 1e3,
            max.as_secs_f64() * 1e3,
            LAG_P99_MAX.as_millis(),
            LAG_MAX.as_millis()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intended_times_come_from_the_schedule_alone() {
        let schedule = Schedule::over(200.0, Duration::from_secs(3));
        assert_eq!((schedule.count, schedule.span()), (600, Duration::from_secs(3)));
        assert_eq!(schedule.offset(0), Duration::ZERO);
        assert_eq!(schedule.offset(1), Duration::from_millis(5));
        // No error adds up: an hour's last request is where it belongs.
        assert_eq!(Schedule { rate: 3.0, count: 10_800 }.offset(10_800), Duration::from_secs(3_600));
        assert_eq!(Schedule::over(0.1, Duration::from_secs(1)).count, 1);
    }

    #[test]
    fn a_taker_that_is_slow_moves_no_intended_time() {
        let schedule = Schedule { rate: 1_000.0, count: 20 };
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let start = Instant::now();
        let pacing = std::thread::spawn(move || run(schedule, start, &sender));
        // The receiver sleeps through the whole schedule.
        std::thread::sleep(Duration::from_millis(50));
        let mut taken = Vec::new();
        while let Some(due) = receiver.blocking_recv() {
            taken.push(due);
        }
        assert_eq!(pacing.join().unwrap().count(), 20);
        for (i, due) in taken.iter().enumerate() {
            assert_eq!((due.number, due.intended), (i as u64, start + schedule.offset(i as u64)));
        }
        assert!(taken[0].intended.elapsed() >= Duration::from_millis(50), "its latency has the sleep in it");
    }

    #[test]
    fn nobody_who_takes_ends_the_pacing() {
        let (sender, receiver) = mpsc::unbounded_channel();
        drop(receiver);
        let lag = run(Schedule { rate: 0.001, count: 1_000 }, Instant::now(), &sender);
        assert_eq!(lag.count(), 1);
    }

    #[test]
    fn a_generator_that_fell_behind_says_so() {
        let lag = |late: &[(u64, u64)]| {
            let mut lag = Latencies::new();
            for (ms, times) in late {
                (0..*times).for_each(|_| lag.record(Duration::from_millis(*ms)));
            }
            invalid(&lag)
        };
        assert_eq!(lag(&[(0, 990), (4, 10)]), None);
        assert_eq!(lag(&[(0, 980), (20, 20)]), None, "it counts as latency");
        assert!(lag(&[(0, 980), (30, 20)]).unwrap().contains("by 30.0 ms at p99"));
        assert!(lag(&[(0, 100_000), (300, 1)]).unwrap().contains("300 ms at most"));
    }
}
