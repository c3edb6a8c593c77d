//! What a metric of the catalogue is, and how the list of them is written down.

use std::fmt::Write;

/// What every metric says of itself. Labels are bounded: their values are of closed lists, never of somebody else's making.
#[derive(Clone, Copy, Debug)]
pub struct Described<const N: usize> {
    /// As it is registered: a counter's `_total` is added when it is told.
    pub name: &'static str,
    /// One sentence or two.
    pub help: &'static str,
    /// Each with its values.
    pub labels: [(&'static str, &'static str); N],
}

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Grows by whole numbers.
    Counter,
    /// Grows, read from elsewhere.
    Total,
    /// A whole number.
    Gauge,
    /// A number with a fraction.
    Amount,
    /// A distribution.
    Histogram,
}

impl Kind {
    /// As OpenMetrics names it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter | Kind::Total => "counter",
            Kind::Gauge | Kind::Amount => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A metric of any kind.
#[derive(Clone, Debug)]
pub struct Entry {
    /// See [`Kind`].
    pub kind: Kind,
    /// See [`Described`].
    pub name: &'static str,
    /// See [`Described`].
    pub help: &'static str,
    /// See [`Described`].
    pub labels: Vec<(&'static str, &'static str)>,
    /// Of a histogram: the upper bounds, in seconds.
    pub buckets: &'static [f64],
}

impl Entry {
    /// The unit as OpenTelemetry writes it (UCUM), where the name says one; empty for plain numbers, as a receiver would put a `1` into
    /// the name (`_ratio`).
    pub fn unit(&self) -> &'static str {
        let says = |unit: &str| self.name.split('_').any(|word| word == unit);
        match (says("seconds"), says("bytes")) {
            (true, _) => "s",
            (_, true) => "By",
            _ => "",
        }
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident),*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $kind<const N: usize>(pub Described<N>);

        impl<const N: usize> $kind<N> {
            pub(super) const fn new(
                name: &'static str,
                help: &'static str,
                labels: [(&'static str, &'static str); N],
            ) -> Self {
                Self(Described { name, help, labels })
            }

            pub(super) fn entry(&self) -> Entry {
                let Described { name, help, labels } = self.0;
                Entry { kind: Kind::$kind, name, help, labels: labels.to_vec(), buckets: &[] }
            }
        }
    )*};
}

kinds!(
    /// What only grows.
    Counter,
    /// What only grows and is counted elsewhere, with a fraction.
    Total,
    /// What is as it is now.
    Gauge,
    /// The same, with a fraction: seconds, tokens.
    Amount
);

/// How long something took.
#[derive(Clone, Copy, Debug)]
pub struct Histogram<const N: usize> {
    /// What it says of itself.
    pub described: Described<N>,
    /// Upper bounds, in seconds, rising; one more has no bound.
    pub buckets: &'static [f64],
}

impl<const N: usize> Histogram<N> {
    pub(super) const fn new(
        name: &'static str,
        help: &'static str,
        labels: [(&'static str, &'static str); N],
        buckets: &'static [f64],
    ) -> Self {
        Self { described: Described { name, help, labels }, buckets }
    }

    pub(super) fn entry(&self) -> Entry {
        let Described { name, help, labels } = self.described;
        Entry { kind: Kind::Histogram, name, help, labels: labels.to_vec(), buckets: self.buckets }
    }
}

/// The values of a label, where it has a list of them.
pub fn listed(values: &'static str) -> Option<Vec<&'static str>> {
    values.starts_with('`').then(|| values.split('`').skip(1).step_by(2).collect())
}

/// `docs/metrics.md`.
pub fn document() -> String {
    let mut text = String::from(
        "# Metrics\n\n<!-- Made by `make generate` from src/runtime/metrics/catalogue.rs. -->\n\n`GET /metrics` of the admin port \
         (`--admin-listen`, 8081) answers in OpenMetrics text. Every metric is there from the start, whatever services run in the \
         process; labels are of closed lists. Times are in seconds; the histograms of whole paths carry the trace id of a sample \
         (exemplars), where its alert came with one. Gauges of a replica add up: the sum over the replicas is the whole.\n\n\
         [Over OTLP](telemetry.md) they go out under the same names, a counter's without `_total`, with the labels as attributes, the \
         unit `s` or `By` where the name says one, and the same buckets; without exemplars. A histogram without a sample is not there.\n\n\
         [config/prometheus/eventpulse.rules.yaml](../config/prometheus/eventpulse.rules.yaml) has alerts on them.\n\n\
         | metric | type | labels | what it tells | by |\n|---|---|---|---|---|\n",
    );
    let mut buckets = Vec::new();
    for (service, entries) in super::catalogue::all() {
        for Entry { kind, name, help, labels, buckets: bounds } in entries {
            let total = if kind.name() == "counter" { "_total" } else { "" };
            let labels: Vec<String> = labels.iter().map(|(label, values)| format!("`{label}`: {values}")).collect();
            let labels = if labels.is_empty() { "–".to_owned() } else { labels.join("; ") };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| `{name}{total}` | {} | {labels} | {help} | {service} |", kind.name());
            if kind == Kind::Histogram {
                buckets.push((name, bounds));
            }
        }
    }
    text.push_str(
        "\n## Buckets\n\nUpper bounds in seconds; a last bucket has none.\n\n| histogram | buckets |\n|---|---|\n",
    );
    for (name, bounds) in buckets {
        let bounds: Vec<String> = bounds.iter().map(f64::to_string).collect();
        let _ = writeln!(text, "| `{name}` | {} |", bounds.join(", "));
    }
    text
}
