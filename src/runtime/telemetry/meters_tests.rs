use std::{
    collections::BTreeMap,
    sync::{Mutex, atomic::AtomicUsize},
    time::Duration,
};

use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::{
        PeriodicReader, Temporality,
        data::{AggregatedMetrics, MetricData, ResourceMetrics},
        exporter::PushMetricExporter,
    },
};

use super::*;
use crate::runtime::metrics::catalogue::{
    ALERT_TO_ACTION, ALERTS_DECIDED, INPUT_DURATION, OUTBOX_BYTES, PROCESS_CPU, RETRY_BUDGET,
};

/// Points by name and labels, as text.
type Points = BTreeMap<String, String>;

/// Keeps what it was last given.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Points>>);

impl PushMetricExporter for Kept {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        *self.0.lock().unwrap() = metrics.scope_metrics().flat_map(|scope| scope.metrics()).flat_map(points).collect();
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

fn points(metric: &opentelemetry_sdk::metrics::data::Metric) -> Vec<(String, String)> {
    let named = |labels: &mut dyn Iterator<Item = &KeyValue>| {
        let mut labels: Vec<String> = labels.map(|pair| format!("{}={}", pair.key, pair.value)).collect();
        labels.sort();
        format!("{}{{{}}}", metric.name(), labels.join(","))
    };
    let unit = metric.unit();
    macro_rules! told {
        ($data:expr) => {
            match $data {
                MetricData::Sum(sum) if sum.is_monotonic() => {
                    let points = sum.data_points();
                    points
                        .map(|point| (named(&mut point.attributes()), format!("sum {} {unit}", point.value())))
                        .collect()
                }
                MetricData::Gauge(gauge) => {
                    let points = gauge.data_points();
                    points
                        .map(|point| (named(&mut point.attributes()), format!("gauge {} {unit}", point.value())))
                        .collect()
                }
                MetricData::Histogram(histogram) => {
                    let told = histogram.data_points().map(|point| {
                        let (bounds, counts): (Vec<f64>, Vec<u64>) =
                            (point.bounds().collect(), point.bucket_counts().collect());
                        (
                            named(&mut point.attributes()),
                            format!("histogram {} {bounds:?} {counts:?} {unit}", point.count()),
                        )
                    });
                    told.collect()
                }
                other => panic!("{other:?}"),
            }
        };
    }
    match metric.data() {
        AggregatedMetrics::U64(data) => told!(data),
        AggregatedMetrics::I64(data) => told!(data),
        AggregatedMetrics::F64(data) => told!(data),
    }
}

fn exported() -> (SdkMeterProvider, Metrics, Kept) {
    let (kept, metrics) = (Kept::default(), Metrics::default());
    let reader = PeriodicReader::builder(kept.clone()).with_interval(Duration::from_secs(3600)).build();
    let provider = SdkMeterProvider::builder().with_reader(reader).build();
    export(&provider, &metrics);
    (provider, metrics, kept)
}

#[test]
fn every_kind_of_metric_is_told_as_it_stands_in_the_registry() {
    let (provider, metrics, kept) = exported();
    metrics.count(&ALERTS_DECIDED, ["opened"], 2);
    metrics.gauge(&OUTBOX_BYTES, []).set(7);
    metrics.set_amount(&RETRY_BUDGET, [], 19.5);
    metrics.set_total(&PROCESS_CPU, [], 1.25);
    metrics.observe(&INPUT_DURATION, ["rules", "alert.raised"], Duration::from_millis(3));
    metrics.observe(&INPUT_DURATION, ["rules", "alert.raised"], Duration::from_secs(3600));
    provider.force_flush().unwrap();
    let points = kept.0.lock().unwrap().clone();
    let of = |name: &str| points.get(name).map(String::as_str).unwrap_or_else(|| panic!("no {name} in {points:#?}"));
    assert_eq!(of("eventpulse_alerts_decided{reason=opened}"), "sum 2 ");
    assert_eq!(of("eventpulse_alerts_decided{reason=joined}"), "sum 0 ");
    assert_eq!(of("eventpulse_outbox_bytes{}"), "gauge 7 By");
    assert_eq!(of("eventpulse_outbox_entries{}"), "gauge 0 ");
    assert_eq!(of("eventpulse_retry_budget_tokens{}"), "gauge 19.5 ");
    assert_eq!(of("process_cpu_seconds{}"), "sum 1.25 s");
    assert_eq!(
        of("eventpulse_input_duration_seconds{service=rules,topic=alert.raised}"),
        format!("histogram 2 {:?} [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] s", INPUT_DURATION.buckets)
    );

    metrics.count(&ALERTS_DECIDED, ["opened"], 1);
    metrics.observe(&ALERT_TO_ACTION, [], Duration::from_millis(20));
    provider.force_flush().unwrap();
    let points = kept.0.lock().unwrap().clone();
    assert_eq!(points["eventpulse_alerts_decided{reason=opened}"], "sum 3 ");
    assert!(points["eventpulse_alert_to_action_seconds{}"].starts_with("histogram 1 "), "{points:#?}");
}

/// A name that the SDK does not take would be an instrument that tells nothing.
#[test]
fn every_metric_of_the_catalogue_is_told() {
    let (provider, metrics, kept) = exported();
    let mut wanted = Vec::new();
    for entry in catalogue::all().into_iter().flat_map(|(_, entries)| entries) {
        metrics.touch(&entry);
        wanted.push(entry.name);
    }
    provider.force_flush().unwrap();
    let told = kept.0.lock().unwrap().clone();
    let missing: Vec<_> =
        wanted.iter().filter(|name| !told.keys().any(|told| told.starts_with(&format!("{name}{{")))).collect();
    assert!(missing.is_empty() && wanted.len() > 40, "{missing:?}");
}

/// Reading `/proc` and asking every service is done once for all instruments.
#[test]
fn samplers_are_asked_once_a_reading() {
    let (provider, metrics, kept) = exported();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    metrics.on_sample(move |metrics| {
        metrics.set(&OUTBOX_BYTES, [], count.fetch_add(1, Ordering::Relaxed) + 1);
    });
    for round in 1..=3 {
        provider.force_flush().unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), round);
        assert_eq!(kept.0.lock().unwrap()["eventpulse_outbox_bytes{}"], format!("gauge {round} By"));
    }
    metrics.encode().unwrap();
    provider.force_flush().unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 5);
}
