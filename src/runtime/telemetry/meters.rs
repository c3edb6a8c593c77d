//! The catalogue's metrics as instruments of OpenTelemetry: names, labels, units and bounds are the same as on `/metrics`.
//!
//! Counters and gauges are read when the exporter asks. Of a histogram the exporter wants every observation itself, so it gets them beside
//! the registry, from the start of the process on.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use opentelemetry::{
    KeyValue,
    metrics::{AsyncInstrument, Histogram, Meter, MeterProvider},
};
use opentelemetry_sdk::metrics::SdkMeterProvider;

use super::SCOPE;
use crate::runtime::metrics::{
    Metrics, Value, catalogue,
    describe::{Entry, Kind},
};

/// Makes the provider's instruments of these metrics. To be called once, before anything is observed.
pub(super) fn export(provider: &SdkMeterProvider, metrics: &Metrics) {
    let (meter, rounds) = (provider.meter(SCOPE), Arc::new(AtomicU64::new(0)));
    let mut histograms = HashMap::new();
    for entry in catalogue::all().into_iter().flat_map(|(_, entries)| entries) {
        if entry.kind == Kind::Histogram {
            histograms.insert(entry.name, histogram(&meter, &entry));
        } else {
            let read =
                Reader { metrics: metrics.clone(), name: entry.name, rounds: Arc::clone(&rounds), own: 0.into() };
            observe(&meter, &entry, read);
        }
    }
    metrics.on_observation(move |observed| {
        if let Some(histogram) = histograms.get(observed.name) {
            let labels = observed.labels.iter();
            let labels: Vec<KeyValue> = labels.map(|(name, value)| KeyValue::new(*name, (*value).to_owned())).collect();
            histogram.record(observed.seconds, &labels);
        }
    });
}

fn histogram(meter: &Meter, entry: &Entry) -> Histogram<f64> {
    let builder = meter.f64_histogram(entry.name).with_description(entry.help).with_unit(entry.unit());
    builder.with_boundaries(entry.buckets.to_vec()).build()
}

/// The instrument lives as long as the provider; what is returned for it is only its name.
fn observe(meter: &Meter, entry: &Entry, read: Reader) {
    macro_rules! instrument {
        ($instrument:ident, $value:ident) => {{
            let builder = meter.$instrument(entry.name).with_description(entry.help).with_unit(entry.unit());
            builder
                .with_callback(move |told| {
                    read.tell(told, |value| match value {
                        Value::$value(value) => Some(value),
                        _ => None,
                    })
                })
                .build();
        }};
    }
    match entry.kind {
        Kind::Counter => instrument!(u64_observable_counter, Count),
        Kind::Total => instrument!(f64_observable_counter, Fraction),
        Kind::Gauge => instrument!(i64_observable_gauge, Whole),
        Kind::Amount => instrument!(f64_observable_gauge, Fraction),
        Kind::Histogram => {}
    }
}

/// What reads one metric.
struct Reader {
    metrics: Metrics,
    name: &'static str,
    /// How many readings have begun, of all metrics and of this one: whichever is asked first begins a reading of all, and asks the
    /// samplers for it. The SDK promises no order, and has no word for the beginning.
    rounds: Arc<AtomicU64>,
    own: AtomicU64,
}

impl Reader {
    fn tell<T>(&self, told: &dyn AsyncInstrument<T>, of: impl Fn(Value) -> Option<T>) {
        let round = self.own.fetch_add(1, Ordering::Relaxed) + 1;
        if self.rounds.fetch_max(round, Ordering::Relaxed) < round {
            self.metrics.sample();
        }
        for (labels, value) in self.metrics.values(self.name) {
            let labels: Vec<KeyValue> = labels.into_iter().map(|(name, value)| KeyValue::new(name, value)).collect();
            if let Some(value) = of(value) {
                told.observe(value, &labels);
            }
        }
    }
}

#[cfg(test)]
#[path = "meters_tests.rs"]
mod tests;
