//! Metrics in OpenMetrics text. Labels are bounded: never a name, an id or a message of somebody else's making.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

type Labels = Vec<(&'static str, String)>;

/// The process's metrics. Cheap to clone.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    registry: Registry,
    counters: HashMap<&'static str, Family<Labels, Counter>>,
    gauges: HashMap<&'static str, Family<Labels, Gauge>>,
}

impl Metrics {
    /// The counter of this name, without its `_total`, like `eventpulse_alerts_accepted`. Registered at its first use.
    pub fn counter(&self, name: &'static str, help: &'static str) -> Family<Labels, Counter> {
        let mut inner = self.lock();
        if let Some(family) = inner.counters.get(name) {
            return family.clone();
        }
        let family = Family::<Labels, Counter>::default();
        inner.registry.register(name, help.trim_end_matches('.'), family.clone());
        inner.counters.insert(name, family.clone());
        family
    }

    /// The gauge of this name, like `eventpulse_outbox_entries`. Registered at its first use.
    pub fn gauge(&self, name: &'static str, help: &'static str) -> Family<Labels, Gauge> {
        let mut inner = self.lock();
        if let Some(family) = inner.gauges.get(name) {
            return family.clone();
        }
        let family = Family::<Labels, Gauge>::default();
        inner.registry.register(name, help.trim_end_matches('.'), family.clone());
        inner.gauges.insert(name, family.clone());
        family
    }

    /// All of them, as `/metrics` answers.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.lock().registry)?;
        Ok(text)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_registered_once_and_counts_in_one_place() {
        let metrics = Metrics::default();
        for _ in 0..2 {
            metrics.counter("eventpulse_things", "Things.").get_or_create(&vec![("kind", "a".into())]).inc();
        }
        let text = metrics.encode().unwrap();
        assert!(text.contains("eventpulse_things_total{kind=\"a\"} 2"), "{text}");
        assert_eq!(text.matches("# HELP").count(), 1, "{text}");
    }
}
