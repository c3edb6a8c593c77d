//! One metric with a value for each combination of its labels' values.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock, atomic::AtomicU64},
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, counter::Counter, exemplar::HistogramWithExemplars, gauge::Gauge},
};

use super::{
    Labels,
    describe::{Entry, Kind, listed},
};

/// `trace_id` of a sample.
pub(super) type Trace = Vec<(&'static str, String)>;

/// One value, of a histogram with the number of its samples, which it keeps to itself. Cheap to clone: all clones are the same value.
#[derive(Clone, Debug)]
pub(super) enum Cell {
    Counter(Counter),
    Total(Gauge<f64, AtomicU64>),
    Gauge(Gauge),
    Amount(Gauge<f64, AtomicU64>),
    Histogram(HistogramWithExemplars<Trace>, Counter),
}

/// A number that can be read back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Of a counter; of a histogram its samples.
    Count(u64),
    /// Of a gauge.
    Whole(i64),
    /// Of everything with a fraction.
    Fraction(f64),
}

impl Cell {
    fn new(entry: &Entry) -> Self {
        match entry.kind {
            Kind::Counter => Cell::Counter(Counter::default()),
            Kind::Total => Cell::Total(Gauge::default()),
            Kind::Gauge => Cell::Gauge(Gauge::default()),
            Kind::Amount => Cell::Amount(Gauge::default()),
            Kind::Histogram => {
                Cell::Histogram(HistogramWithExemplars::new(entry.buckets.iter().copied()), Counter::default())
            }
        }
    }

    pub(super) fn value(&self) -> Value {
        match self {
            Cell::Counter(counter) | Cell::Histogram(_, counter) => Value::Count(counter.get()),
            Cell::Gauge(gauge) => Value::Whole(gauge.get()),
            Cell::Total(amount) | Cell::Amount(amount) => Value::Fraction(amount.get()),
        }
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match self {
            Cell::Counter(counter) => counter.encode(encoder),
            Cell::Total(total) => encoder.encode_counter::<NoLabelSet, f64, f64>(&total.get(), None),
            Cell::Gauge(gauge) => gauge.encode(encoder),
            Cell::Amount(amount) => amount.encode(encoder),
            Cell::Histogram(histogram, _) => histogram.encode(encoder),
        }
    }
}

/// See the module's text. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Family(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    entry: Entry,
    /// In order of the values. There are few, so they are looked through.
    cells: RwLock<Vec<(Vec<String>, Cell)>>,
}

impl Family {
    pub(super) fn new(entry: Entry) -> Self {
        let family = Self(Arc::new(Inner { entry, cells: RwLock::default() }));
        // Without labels there is one value, and it is there whether anybody has set it or not.
        if family.0.entry.labels.is_empty() {
            drop(family.cell(&[]));
        }
        // A counter that appears with its first 1 has no increase that an alert could see: where it has one list, it is there at 0.
        if let (Kind::Counter, [(_, values)]) = (family.0.entry.kind, &*family.0.entry.labels) {
            listed(values).into_iter().flatten().for_each(|value| drop(family.cell(&[value])));
        }
        family
    }

    pub(super) fn entry(&self) -> &Entry {
        &self.0.entry
    }

    /// The value with these values of the labels, in their order; made when it is not there.
    pub(super) fn cell(&self, values: &[&str]) -> Cell {
        let find = |cells: &[(Vec<String>, Cell)]| {
            cells.binary_search_by(|(known, _)| known.iter().map(String::as_str).cmp(values.iter().copied()))
        };
        {
            let cells = self.0.cells.read().unwrap_or_else(PoisonError::into_inner);
            if let Ok(found) = find(&cells) {
                return cells[found].1.clone();
            }
        }
        let mut cells = self.0.cells.write().unwrap_or_else(PoisonError::into_inner);
        match find(&cells) {
            Ok(found) => cells[found].1.clone(),
            Err(place) => {
                let cell = Cell::new(&self.0.entry);
                cells.insert(place, (values.iter().map(|value| (*value).to_owned()).collect(), cell.clone()));
                cell
            }
        }
    }

    /// Every combination of labels that there is, with its value.
    pub(super) fn cells(&self) -> Vec<(Labels, Cell)> {
        let cells = self.0.cells.read().unwrap_or_else(PoisonError::into_inner);
        cells.iter().map(|(values, cell)| (self.labels(values), cell.clone())).collect()
    }

    fn labels(&self, values: &[String]) -> Labels {
        self.0.entry.labels.iter().zip(values).map(|((label, _), value)| (*label, value.clone())).collect()
    }
}

impl EncodeMetric for Family {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        if self.0.entry.labels.is_empty() {
            return self.cell(&[]).encode(encoder);
        }
        self.cells().into_iter().try_for_each(|(labels, cell)| cell.encode(encoder.encode_family(&labels)?))
    }

    fn metric_type(&self) -> MetricType {
        match self.0.entry.kind {
            Kind::Counter | Kind::Total => MetricType::Counter,
            Kind::Gauge | Kind::Amount => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        }
    }
}
