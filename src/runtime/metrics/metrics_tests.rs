use super::{
    catalogue::{ALERT_TO_ACTION, ALERTS_DECIDED, INPUT_DURATION, OUTBOX_BYTES, RETRY_BUDGET},
    describe::Kind,
    *,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

#[test]
fn a_name_is_registered_once_and_counts_in_one_place() {
    let metrics = Metrics::default();
    metrics.count(&ALERTS_DECIDED, ["opened"], 1);
    metrics.clone().count(&ALERTS_DECIDED, ["opened"], 1);
    let text = metrics.encode().unwrap();
    assert!(text.contains("eventpulse_alerts_decided_total{reason=\"opened\"} 2"), "{text}");
    assert_eq!(text.matches("# HELP eventpulse_alerts_decided").count(), 1, "{text}");
}

#[test]
fn every_kind_is_told_as_openmetrics_has_it() {
    let metrics = Metrics::default();
    metrics.observe(&INPUT_DURATION, ["rules", "alert.raised"], Duration::from_millis(3));
    metrics.observe(&INPUT_DURATION, ["rules", "alert.raised"], Duration::from_secs(3600));
    metrics.set_amount(&RETRY_BUDGET, [], 19.5);
    metrics.gauge(&OUTBOX_BYTES, []).set(7);
    let text = metrics.encode().unwrap();
    for line in [
        "# TYPE eventpulse_input_duration_seconds histogram",
        "eventpulse_input_duration_seconds_bucket{le=\"0.0025\",service=\"rules\",topic=\"alert.raised\"} 0",
        "eventpulse_input_duration_seconds_bucket{le=\"0.005\",service=\"rules\",topic=\"alert.raised\"} 1",
        "eventpulse_input_duration_seconds_bucket{le=\"+Inf\",service=\"rules\",topic=\"alert.raised\"} 2",
        "eventpulse_input_duration_seconds_count{service=\"rules\",topic=\"alert.raised\"} 2",
        "# TYPE eventpulse_retry_budget_tokens gauge",
        "eventpulse_retry_budget_tokens 19.5",
        "eventpulse_outbox_bytes 7",
        "# TYPE process_cpu_seconds counter",
        "process_cpu_seconds_total 0.0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn a_sample_carries_its_trace_and_no_nonsense() {
    let metrics = Metrics::default();
    let observe = |traceparent: Option<&str>| {
        metrics.observe_traced(&ALERT_TO_ACTION, [], Duration::from_millis(20), traceparent);
    };
    let zeros = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
    let injected = "00-\"} 1\n-b7ad6b7169203331-01";
    for broken in
        [None, Some(""), Some("-"), Some(&*zeros), Some(injected), Some("00-0AF7651916CD43DD8448EB211C80319C-b-1")]
    {
        observe(broken);
        assert!(!metrics.encode().unwrap().contains("trace_id"), "{broken:?}");
    }
    observe(Some(&format!("00-{TRACE}-b7ad6b7169203331-01")));
    let text = metrics.encode().unwrap();
    let bucket = text.lines().find(|line| line.contains("trace_id")).unwrap();
    let wanted = format!("eventpulse_alert_to_action_seconds_bucket{{le=\"0.025\"}} 7 # {{trace_id=\"{TRACE}\"}} 0.02");
    assert_eq!(bucket, wanted);
}

/// `increase` sees nothing of a counter that appears with its first 1.
#[test]
fn a_counter_with_one_list_is_there_from_the_start() {
    let text = Metrics::default().encode().unwrap();
    for line in [
        "eventpulse_dead_letters_total{reason=\"refused\"} 0",
        "eventpulse_alerts_decided_total{reason=\"nothing_to_resolve\"} 0",
        "eventpulse_ingest_alerts_total{result=\"accepted\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn samplers_are_asked_before_every_reading() {
    let metrics = Metrics::default();
    metrics.on_sample(|metrics| {
        metrics.gauge(&OUTBOX_BYTES, []).inc();
    });
    metrics.encode().unwrap();
    assert!(metrics.encode().unwrap().contains("eventpulse_outbox_bytes 2"));
}

/// A static that is in no list would count nothing.
#[test]
fn every_metric_of_the_catalogue_is_in_its_list() {
    let source = include_str!("catalogue.rs");
    let declared = ["\"eventpulse_", "\"process_"].into_iter().flat_map(|prefix| {
        let rests = source.split(prefix).skip(1).filter_map(|rest| rest.split('"').next());
        rests.map(move |rest| format!("{}{rest}", &prefix[1..]))
    });
    let mut declared: Vec<String> = declared.collect();
    let mut names: Vec<String> =
        catalogue::all().into_iter().flat_map(|(_, entries)| entries).map(|entry| entry.name.to_owned()).collect();
    names.sort();
    declared.sort();
    assert_eq!(declared, names);
    names.dedup();
    assert_eq!(declared, names, "a name stands for one metric");
}

/// prometheus.io/docs/practices/naming: base units; `_total` is added by the registry, `le` is the histograms' own.
#[test]
fn names_and_buckets_are_as_prometheus_practises() {
    for entry in catalogue::all().into_iter().flat_map(|(_, entries)| entries) {
        let name = entry.name;
        assert!(name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()), "{name}");
        for ending in ["_total", "_count", "_sum", "_bucket", "_ms", "_millis", "_created"] {
            assert!(!name.ends_with(ending), "{name} ends with {ending}");
        }
        assert_eq!(entry.kind == Kind::Histogram, !entry.buckets.is_empty(), "{name}");
        assert!(entry.kind != Kind::Histogram || name.ends_with("_seconds"), "{name} says no unit");
        assert!(entry.buckets.is_sorted_by(|a, b| a < b), "{name}: buckets rise");
        assert!(entry.help.ends_with('.'), "{name}");
        assert!(entry.labels.iter().all(|(label, _)| !["le", "job", "instance"].contains(label)), "{name}");
    }
}
