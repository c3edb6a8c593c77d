//! Metrics in OpenMetrics text. Labels are bounded: never a name, an id or a message of somebody else's making.
//!
//! In: a metric of the [`catalogue`], values for its labels. Out: `/metrics`. May not touch: a metric that is in no catalogue.

pub mod catalogue;

use std::{collections::HashMap, sync::Arc};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter, family::Family, gauge},
    registry::Registry,
};

use catalogue::{Counter, Described, Entry, Gauge};

type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, counter::Counter>;
type Gauges = Family<Labels, gauge::Gauge>;

/// The process's metrics. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    counters: HashMap<&'static str, Counters>,
    gauges: HashMap<&'static str, Gauges>,
}

impl Default for Metrics {
    /// Every metric of the catalogue, and nothing counted yet.
    fn default() -> Self {
        let mut inner = Inner { registry: Registry::default(), counters: HashMap::new(), gauges: HashMap::new() };
        for Entry { kind, name, help, .. } in catalogue::all().into_iter().flat_map(|(_, entries)| entries) {
            // The registry puts a full stop behind it.
            let help = help.trim_end_matches('.');
            if kind == "counter" {
                let family = Counters::default();
                inner.registry.register(name, help, family.clone());
                inner.counters.insert(name, family);
            } else {
                let family = Gauges::default();
                inner.registry.register(name, help, family.clone());
                inner.gauges.insert(name, family);
            }
        }
        Self(Arc::new(inner))
    }
}

impl Metrics {
    /// Counts. `values` are those of the metric's labels, in their order.
    pub fn count<const N: usize>(&self, metric: &Counter<N>, values: [&str; N], by: u64) {
        if let Some(family) = self.0.counters.get(metric.0.name) {
            family.get_or_create(&labels(&metric.0, values)).inc_by(by);
        }
    }

    /// The gauge with these values of its labels, in their order.
    pub fn gauge<const N: usize>(&self, metric: &Gauge<N>, values: [&str; N]) -> gauge::Gauge {
        let family = self.0.gauges.get(metric.0.name);
        family.map(|family| family.get_or_create(&labels(&metric.0, values)).clone()).unwrap_or_default()
    }

    /// All of them, as `/metrics` answers.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0.registry)?;
        Ok(text)
    }
}

fn labels<const N: usize>(metric: &Described<N>, values: [&str; N]) -> Labels {
    metric.labels.iter().zip(values).map(|((label, _), value)| (*label, value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::{catalogue::ALERTS_DECIDED, *};

    #[test]
    fn a_name_is_registered_once_and_counts_in_one_place() {
        let metrics = Metrics::default();
        metrics.count(&ALERTS_DECIDED, ["opened"], 1);
        metrics.clone().count(&ALERTS_DECIDED, ["opened"], 1);
        let text = metrics.encode().unwrap();
        assert!(text.contains("eventpulse_alerts_decided_total{reason=\"opened\"} 2"), "{text}");
        assert_eq!(text.matches("# HELP eventpulse_alerts_decided").count(), 1, "{text}");
    }

    /// A static that is in no list would count nothing.
    #[test]
    fn every_metric_of_the_catalogue_is_in_its_list() {
        let source = include_str!("catalogue.rs");
        let declared: Vec<&str> =
            source.split("\"eventpulse_").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let mut names: Vec<String> =
            catalogue::all().into_iter().flat_map(|(_, entries)| entries).map(|entry| entry.name.to_owned()).collect();
        names.sort();
        let mut declared: Vec<String> = declared.into_iter().map(|name| format!("eventpulse_{name}")).collect();
        declared.sort();
        assert_eq!(declared, names);
        names.dedup();
        assert_eq!(declared, names, "a name stands for one metric");
    }
}
