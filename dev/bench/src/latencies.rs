//! Latencies in an HDR histogram: from 1 µs to an hour with three digits, so that p99.9 is as exact as p50, whatever the spread.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

const MAX_US: u64 = 3_600_000_000;
const DIGITS: u8 = 3;

/// What was measured, each in microseconds.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

/// The numbers that are reported, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// How many.
    pub count: u64,
    /// Median.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

impl Latencies {
    /// None yet.
    pub fn new() -> Self {
        // Bounds and digits are constants that the histogram allows; without bounds it grows by itself.
        let histogram = Histogram::new_with_bounds(1, MAX_US, DIGITS);
        Self(histogram.unwrap_or_else(|error| panic!("a histogram of 1 µs to an hour: {error}")))
    }

    /// Of these.
    pub fn of(durations: impl IntoIterator<Item = Duration>) -> Self {
        let mut all = Self::new();
        durations.into_iter().for_each(|duration| all.record(duration));
        all
    }

    /// One more. What is longer than an hour counts as an hour.
    pub fn record(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(MAX_US);
        self.0.saturating_record(micros.clamp(1, MAX_US));
    }

    /// All of another one too, as if they had been recorded here.
    pub fn merge(&mut self, other: &Self) {
        // Both have the same bounds, which is the one thing that can be wrong.
        self.0.add(&other.0).unwrap_or_else(|error| panic!("two histograms of the same bounds: {error}"));
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// So many of them, from 0 to 1, are not slower than this.
    pub fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(quantile))
    }

    /// The slowest.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }

    /// What is reported.
    pub fn summary(&self) -> Summary {
        let ms = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e3;
        Summary {
            count: self.count(),
            p50: ms(0.5),
            p90: ms(0.9),
            p99: ms(0.99),
            p999: ms(0.999),
            max: self.0.max() as f64 / 1e3,
        }
    }

    /// For a plot: how slow (in ms) the quantile is whose distance from 1 is 10 to the minus x, x from 0 on.
    pub fn curve(&self) -> Vec<(f64, f64)> {
        if self.count() == 0 {
            return Vec::new();
        }
        // Beyond the last sample a quantile is only the maximum again.
        let last = (self.count() as f64).log10();
        let steps = (last / 0.05).floor() as u32;
        (0..=steps)
            .map(|step| {
                let nines = f64::from(step) * 0.05;
                (nines, self.0.value_at_quantile(1.0 - 10_f64.powf(-nines)) as f64 / 1e3)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(values: impl IntoIterator<Item = u64>) -> Latencies {
        Latencies::of(values.into_iter().map(Duration::from_millis))
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let summary = ms(1..=1_000).summary();
        assert_eq!(summary.count, 1_000);
        for (found, expected) in [
            (summary.p50, 500.0),
            (summary.p90, 900.0),
            (summary.p99, 990.0),
            (summary.p999, 999.0),
            (summary.max, 1_000.0),
        ] {
            assert!((found / expected - 1.0).abs() < 0.002, "{found} is not {expected}");
        }
    }

    #[test]
    fn merged_histograms_are_one() {
        let (mut merged, all) = (ms(1..=300), ms((1..=300).chain(5_000..=5_100)));
        merged.merge(&ms(5_000..=5_100));
        assert_eq!(merged.summary(), all.summary());
        merged.merge(&Latencies::new());
        assert_eq!(merged.summary(), all.summary());
    }

    #[test]
    fn what_is_out_of_bounds_is_kept_at_the_bound() {
        let far = Latencies::of([Duration::ZERO, Duration::from_secs(100_000)]);
        assert_eq!(far.count(), 2);
        assert!(far.max() >= Duration::from_secs(3_599) && far.quantile(0.1) == Duration::from_micros(1));
        assert_eq!(Latencies::new().summary(), Summary::default());
    }

    #[test]
    fn a_curve_ends_where_the_samples_do() {
        let curve = ms(1..=1_000).curve();
        assert_eq!(curve.len(), 61);
        assert!(curve.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{curve:?}");
        assert!((curve[60].0 - 3.0).abs() < 1e-9);
        assert_eq!(ms([7]).curve().len(), 1);
        assert!(Latencies::new().curve().is_empty());
    }
}
