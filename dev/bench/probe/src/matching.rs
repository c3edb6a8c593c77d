//! Rule matching: `RuleSet::matches`, which the service calls for every alert, on one core.

use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use eventpulse::{
    api::v1alpha1::Rule,
    compile::{CompiledRule, compile},
    events::{AlertRaised, fingerprint_of},
    rules::RuleSet,
};
use jiff::Timestamp;
use serde_json::{Value, json};

const NAMESPACES: usize = 20;

#[derive(Args)]
pub struct Flags {
    /// How many rules.
    #[arg(long, default_value_t = 1_000)]
    rules: usize,
    /// How many different alerts: more than any cache of the processor holds.
    #[arg(long, default_value_t = 20_000)]
    alerts: usize,
    /// How long each part is measured.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

/// Gives nanoseconds for one alert (sorted samples cut down to quantiles), alerts a second, and what a rule costs to compile.
pub fn run(flags: &Flags) -> anyhow::Result<Value> {
    let begin = Instant::now();
    let compiled = (0..flags.rules).map(usual_rule).map(checked).collect::<anyhow::Result<Vec<_>>>()?;
    let compile_ns = begin.elapsed().as_nanos() as f64 / flags.rules.max(1) as f64;
    let begin = Instant::now();
    let usual = RuleSet::new(compiled);
    let index_ns = begin.elapsed().as_nanos() as f64;
    // The index cannot help here: every rule asks for the same label and differs in a regular expression and a condition.
    let alike = (0..flags.rules).map(alike_rule).map(checked).collect::<anyhow::Result<Vec<_>>>()?;
    let alike = RuleSet::new(alike);
    let alerts: Vec<(AlertRaised, String)> = (0..flags.alerts).map(alert).collect();
    let span = Duration::from_secs_f64(flags.seconds);
    Ok(json!({
        "rules": flags.rules,
        "compileNs": compile_ns,
        "indexNs": index_ns,
        "usual": measure(&usual, &alerts, span)?,
        "alike": measure(&alike, &alerts, span)?,
    }))
}

fn measure(set: &RuleSet, alerts: &[(AlertRaised, String)], span: Duration) -> anyhow::Result<Value> {
    let expected = matched(set, alerts);
    anyhow::ensure!(expected > 0, "no alert matches any rule: the measurement would be of nothing");
    // One call after the other without a clock between them: this is the rate.
    let (begin, mut calls, mut found) = (Instant::now(), 0_u64, 0_usize);
    while begin.elapsed() < span {
        found = matched(set, alerts);
        calls += alerts.len() as u64;
    }
    let per_second = calls as f64 / begin.elapsed().as_secs_f64();
    anyhow::ensure!(found == expected, "the same alerts matched {found} rules, and {expected} before");
    // And each call by itself: these are the quantiles. The clock's own cost, some 25 ns, is in them.
    let (begin, mut samples) = (Instant::now(), Vec::with_capacity(1 << 20));
    'measuring: loop {
        for (alert, fingerprint) in alerts {
            let call = Instant::now();
            black_box(set.matches(black_box(alert), black_box(fingerprint)));
            samples.push(call.elapsed().as_nanos() as u64);
            if samples.len() == samples.capacity() || begin.elapsed() > span {
                break 'measuring;
            }
        }
    }
    samples.sort_unstable();
    let quantile = |q: f64| samples[((samples.len() - 1) as f64 * q) as usize];
    Ok(json!({
        "perSecond": per_second,
        "meanNs": 1e9 / per_second,
        "p50Ns": quantile(0.5), "p90Ns": quantile(0.9), "p99Ns": quantile(0.99), "p999Ns": quantile(0.999), "maxNs": quantile(1.0),
        "matchesAnAlert": expected as f64 / alerts.len() as f64,
    }))
}

fn matched(set: &RuleSet, alerts: &[(AlertRaised, String)]) -> usize {
    alerts.iter().map(|(alert, fingerprint)| black_box(set.matches(black_box(alert), fingerprint)).len()).sum()
}

fn checked(rule: Value) -> anyhow::Result<Arc<CompiledRule>> {
    let rule: Rule = serde_json::from_value(rule).context("a rule of the benchmark")?;
    compile(&rule).map(Arc::new).map_err(|errors| anyhow!("{errors:?}"))
}

fn rule(name: String, namespace: usize, matchers: Value, condition: String) -> Value {
    json!({
        "apiVersion": "eventpulse.io/v1alpha1", "kind": "Rule",
        "metadata": {"name": name, "namespace": format!("team-{namespace}"), "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "match": {"matchers": matchers, "conditions": [{"name": "it", "expression": condition}]},
            "groupBy": ["service"],
            "incident": {
                "severity": "$(alert.labels.severity)", "summary": "$(alert.annotations.summary)",
                "resolveOn": "ActionCompleted",
            },
            "actions": [{
                "name": "add-replica", "runbookRef": {"name": "scale-up"},
                "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "$(alert.labels.service)"},
            }],
        },
    })
}

/// As people write them: an alert's name, a severity, one condition. One of a hundred names its alerts by a pattern only.
fn usual_rule(i: usize) -> Value {
    let name =
        if i % 100 == 99 { format!("alertname=~\"Pattern{i}.*\"") } else { format!("alertname=\"Alert{}\"", i / 2) };
    let matchers = json!([name, "severity=~\"warning|critical\""]);
    rule(format!("rule-{i}"), i % NAMESPACES, matchers, "has(alert.labels.service)".into())
}

fn alike_rule(i: usize) -> Value {
    let matchers = json!(["job=\"kubernetes\"", format!("service=~\"(svc|app)-{i}\"")]);
    rule(format!("rule-{i}"), i % NAMESPACES, matchers, "alert.labels.severity == 'warning'".into())
}

/// Half of them are named as some rule asks.
fn alert(i: usize) -> (AlertRaised, String) {
    let labels: BTreeMap<String, String> = [
        ("alertname", format!("Alert{}", i % 1_000)),
        ("severity", ["warning", "critical", "info"][i % 3].to_owned()),
        ("service", format!("svc-{}", i % 2_000)),
        ("job", "kubernetes".to_owned()),
        ("instance", format!("10.0.{}.{}:9100", i / 256 % 256, i % 256)),
        ("pod", format!("svc-{}-{i:x}", i % 2_000)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    let fingerprint = fingerprint_of(&labels);
    let now = Timestamp::now();
    let summary = format!("Alert {i} of the benchmark");
    let alert = AlertRaised {
        alert_id: None,
        source: "bench".into(),
        fingerprint: Some(fingerprint.clone()),
        status: eventpulse::events::AlertStatus::Firing,
        labels,
        annotations: BTreeMap::from([("summary".to_owned(), summary)]),
        starts_at: now,
        ends_at: None,
        generator_url: None,
        accepted_at: now,
    };
    (alert, fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_is_of_alerts_that_match_and_of_others() {
        let line = run(&Flags { rules: 40, alerts: 300, seconds: 0.05 }).unwrap();
        for part in ["usual", "alike"] {
            let matches = line[part]["matchesAnAlert"].as_f64().unwrap();
            assert!(matches > 0.0 && matches < 2.0, "{line}");
            assert!(line[part]["p50Ns"].as_u64() <= line[part]["p99Ns"].as_u64(), "{line}");
            assert!(line[part]["perSecond"].as_f64().unwrap() > 0.0, "{line}");
        }
    }
}
