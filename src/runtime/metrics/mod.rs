//! Metrics in OpenMetrics text. Labels are bounded: never a name, an id or a message of somebody else's making.
//!
//! In: a metric of the [`catalogue`], values for its labels; what is read only when somebody asks comes from samplers. Out:
//! `/metrics`, and the same over OTLP. May not touch: a metric that is in no catalogue.

pub mod catalogue;
pub mod describe;
mod family;
mod process;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use prometheus_client::{encoding::text::encode, metrics::gauge, registry::Registry};

use describe::{Amount, Counter, Gauge, Histogram, Total};
pub use family::Value;
use family::{Cell, Family};

/// Names and values of labels.
pub type Labels = Vec<(&'static str, String)>;
type Sampler = Box<dyn Fn(&Metrics) + Send + Sync>;
type Observer = Box<dyn Fn(&Observed<'_>) + Send + Sync>;

/// One observation of a histogram.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The metric's.
    pub name: &'static str,
    /// Each with its value.
    pub labels: &'a [(&'static str, &'a str)],
    /// How long it took.
    pub seconds: f64,
}

/// The process's metrics. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    families: HashMap<&'static str, Family>,
    samplers: Mutex<Vec<Sampler>>,
    observer: OnceLock<Observer>,
}

impl Default for Metrics {
    /// Every metric of the catalogue, and nothing counted yet.
    fn default() -> Self {
        let (registry, families) = (Registry::default(), HashMap::new());
        let mut inner = Inner { registry, families, samplers: Mutex::default(), observer: OnceLock::new() };
        for entry in catalogue::all().into_iter().flat_map(|(_, entries)| entries) {
            let family = Family::new(entry);
            let name = family.entry().name;
            // The registry puts a full stop behind it.
            inner.registry.register(name, family.entry().help.trim_end_matches('.'), family.clone());
            inner.families.insert(name, family);
        }
        Self(Arc::new(inner))
    }
}

impl Metrics {
    /// The same, with what the process itself uses: memory, CPU, files.
    pub fn of_the_process() -> Self {
        let metrics = Self::default();
        process::describe(&metrics);
        metrics.on_sample(process::sample);
        metrics
    }

    /// Counts. `values` are those of the metric's labels, in their order.
    pub fn count<const N: usize>(&self, metric: &Counter<N>, values: [&str; N], by: u64) {
        if let Some(Cell::Counter(counter)) = self.cell(metric.0.name, &values) {
            counter.inc_by(by);
        }
    }

    /// The gauge with these values of its labels, in their order.
    pub fn gauge<const N: usize>(&self, metric: &Gauge<N>, values: [&str; N]) -> gauge::Gauge {
        match self.cell(metric.0.name, &values) {
            Some(Cell::Gauge(gauge)) => gauge,
            _ => gauge::Gauge::default(),
        }
    }

    /// Sets a number of things; more than can be said is the most that can.
    pub fn set<const N: usize>(&self, metric: &Gauge<N>, values: [&str; N], to: usize) {
        self.gauge(metric, values).set(i64::try_from(to).unwrap_or(i64::MAX));
    }

    /// Sets an amount with a fraction.
    pub fn set_amount<const N: usize>(&self, metric: &Amount<N>, values: [&str; N], to: f64) {
        if let Some(Cell::Amount(amount)) = self.cell(metric.0.name, &values) {
            amount.set(to);
        }
    }

    /// Takes over what was counted elsewhere.
    pub fn set_total<const N: usize>(&self, metric: &Total<N>, values: [&str; N], to: f64) {
        if let Some(Cell::Total(total)) = self.cell(metric.0.name, &values) {
            total.set(to);
        }
    }

    /// Says how long something took.
    pub fn observe<const N: usize>(&self, metric: &Histogram<N>, values: [&str; N], took: Duration) {
        self.observe_traced(metric, values, took, None);
    }

    /// The same, with the W3C trace context that it belongs to, where there is one.
    pub fn observe_traced<const N: usize>(
        &self,
        metric: &Histogram<N>,
        values: [&str; N],
        took: Duration,
        traceparent: Option<&str>,
    ) {
        if let Some(Cell::Histogram(histogram, samples)) = self.cell(metric.described.name, &values) {
            samples.inc();
            let trace = traceparent.and_then(trace_id).map(|id| vec![("trace_id", id.to_owned())]);
            histogram.observe(took.as_secs_f64(), trace, None);
        }
        if let Some(observer) = self.0.observer.get() {
            let labels: [_; N] = std::array::from_fn(|at| (metric.described.labels[at].0, values[at]));
            observer(&Observed { name: metric.described.name, labels: &labels, seconds: took.as_secs_f64() });
        }
    }

    /// The same, by two times of events, whose clocks may differ: what ends before it begins took no time.
    pub fn observe_between<const N: usize>(
        &self,
        metric: &Histogram<N>,
        values: [&str; N],
        (from, to): (Timestamp, Timestamp),
        traceparent: Option<&str>,
    ) {
        let took = Duration::try_from(to.duration_since(from)).unwrap_or_default();
        self.observe_traced(metric, values, took, traceparent);
    }

    /// Called before every reading, to set what nobody counts as it happens. It must not hold these metrics, nor what holds them.
    pub fn on_sample(&self, sampler: impl Fn(&Metrics) + Send + Sync + 'static) {
        self.samplers().push(Box::new(sampler));
    }

    /// Called with every observation of a histogram from now on. There is one such observer, the first.
    pub fn on_observation(&self, observer: impl Fn(&Observed<'_>) + Send + Sync + 'static) {
        // A second one changes nothing.
        let _ = self.0.observer.set(Box::new(observer));
    }

    /// What a metric says now, by its labels; of a histogram how often it was observed.
    pub fn values(&self, name: &str) -> Vec<(Labels, Value)> {
        let cells = self.0.families.get(name).map(Family::cells).unwrap_or_default();
        cells.into_iter().map(|(labels, cell)| (labels, cell.value())).collect()
    }

    /// Asks the samplers.
    pub fn sample(&self) {
        self.samplers().iter().for_each(|sampler| sampler(self));
    }

    /// All of them, as `/metrics` answers.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        self.sample();
        let mut text = String::new();
        encode(&mut text, &self.0.registry)?;
        Ok(text)
    }

    fn cell(&self, name: &'static str, values: &[&str]) -> Option<Cell> {
        self.0.families.get(name).map(|family| family.cell(values))
    }

    /// One value of a metric, as if somebody had set, counted or observed it.
    #[cfg(test)]
    pub(crate) fn touch(&self, entry: &describe::Entry) {
        let labels: Vec<_> = entry.labels.iter().map(|(label, _)| (*label, "x")).collect();
        drop(self.cell(entry.name, &vec!["x"; labels.len()]));
        if let (describe::Kind::Histogram, Some(observer)) = (entry.kind, self.0.observer.get()) {
            observer(&Observed { name: entry.name, labels: &labels, seconds: 1.0 });
        }
    }

    fn samplers(&self) -> std::sync::MutexGuard<'_, Vec<Sampler>> {
        self.0.samplers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The trace id of a W3C `traceparent`; none of what is not one.
fn trace_id(traceparent: &str) -> Option<&str> {
    let id = traceparent.split('-').nth(1)?;
    let hex = id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (hex && id.bytes().any(|byte| byte != b'0')).then_some(id)
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
