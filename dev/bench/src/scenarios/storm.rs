//! Ten thousand alerts of ten thousand groups and twenty rules within a second, one of a hundred critical. All are decided, the rule
//! whose half of them it is has a storm that folds, and the critical ones are acted on as if the others were not there.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{
    flow::largest_incident,
    intake::{check_taken, drain},
    memory::hold,
    patches::{Patches, target_of_patch},
};
use crate::{
    alerts::Alerts,
    latencies::Latencies,
    load::{self, Load, Sent},
    outcome::{Bus, Goal, Outcome, Row, Series},
    pace::{self, Schedule},
    run::Options,
    stage::{Stage, WEBHOOK, say},
    watch::{Watch, metric},
};

const RULES: u64 = 20;
/// Alerts of a request; each request is of one rule.
const EACH: u64 = 50;
/// So many open incidents of one rule are a storm (docs/bounds.md).
const STORM: u64 = 1_000;
const WARM_UP: u64 = 20;
const CRITICAL_P99_MS: f64 = 5_000.0;
/// What the shipped container may use (charts/eventpulse/values.yaml).
const MEMORY_MIB: f64 = 512.0;
const STUCK: Duration = Duration::from_secs(60);

/// How many there are, all within a second.
struct Size {
    critical: u64,
    /// Requests of what is not.
    requests: u64,
}

impl Size {
    fn new(quick: bool) -> Self {
        if quick { Self { critical: 30, requests: 60 } } else { Self { critical: 100, requests: 198 } }
    }

    /// Every second request is of the rule that has the storm, the others take turns.
    fn rule_of(request: u64) -> u64 {
        if request.is_multiple_of(2) { 0 } else { 1 + (request / 2) % (RULES - 2) }
    }

    fn stormy(&self) -> u64 {
        self.requests.div_ceil(2) * EACH
    }

    /// Incidents that are open in the end: those of the storm's rule and of the storm itself, and all others.
    fn open(&self) -> u64 {
        let others = self.requests * EACH - self.stormy();
        others + self.stormy().min(STORM) + u64::from(self.stormy() > STORM)
    }
}

pub(super) async fn play(options: &Options, bus: Bus) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("storm", Some(bus), Timestamp::now());
    let size = Size::new(options.quick);
    let mut stage = Stage::open(options, "storm", bus, false).await?;
    outcome.versions = stage.shop.environment.versions();
    stage.add_targets((WARM_UP + size.critical) as usize).await?;
    stage.start().await?;
    hold(&stage, RULES - 1).await?;
    let critical = Alerts { severity: "critical", ..Alerts::warnings("CPUHigh", WARM_UP + size.critical) };
    let address = stage.address()?;
    let send_critical = |from: u64, schedule| {
        let alerts = critical.clone();
        let body = Arc::new(move |number| alerts.webhook(from + number, 1));
        load::send(Load { address, path: WEBHOOK, schedule, connections: 16, body })
    };
    let mut patches = Patches::from_now(&stage);
    send_critical(0, Schedule { rate: 5.0, count: WARM_UP }).await?;
    patches.wait(&stage, 0..WARM_UP, STUCK).await?;
    anyhow::ensure!(patches.of(&(0..WARM_UP)) as u64 == WARM_UP, "the warm-up was not acted on");

    let count = size.critical + size.requests * EACH;
    say(&format!("{count} alerts of as many groups and of {RULES} rules within a second, {} critical", size.critical));
    let (alerts, first) = (Alerts::warnings("", u64::MAX), WARM_UP + size.critical);
    let others = Load {
        address,
        path: WEBHOOK,
        schedule: Schedule { rate: size.requests as f64, count: size.requests },
        connections: 32,
        body: Arc::new(move |request| {
            let name = format!("Hold{}", Size::rule_of(request));
            // Numbers of their own: no group is one of the critical ones.
            Alerts { name, ..alerts.clone() }.webhook(first + request * EACH, EACH)
        }),
    };
    let watch = Watch::begin(&stage)?;
    let begin = Instant::now();
    let schedule = Schedule { rate: size.critical as f64, count: size.critical };
    let (urgent, passed) = tokio::try_join!(send_critical(WARM_UP, schedule), load::send(others))?;
    patches.wait(&stage, WARM_UP..WARM_UP + size.critical, STUCK).await?;
    let decided = drain(&stage, WARM_UP + count, Duration::from_secs(600)).await?;
    let decided_s = begin.elapsed().as_secs_f64();
    watch.used_until_now(&mut outcome);
    let open = until_open(&stage, size.open()).await?;
    let open_s = begin.elapsed().as_secs_f64();
    let samples = watch.end(&mut outcome, urgent.start_instant);
    patches.read()?;
    let played = Played { size, urgent, passed, patches, decided, open };
    played.check(options, &stage, bus, &mut outcome).await?;
    let Played { size, urgent, passed, patches, .. } = played;

    let took = |number: u64| {
        let at = patches.first.get(&(WARM_UP + number))?;
        Duration::try_from(at.duration_since(urgent.intended(number))).ok()
    };
    let acted = Latencies::of((0..size.critical).filter_map(took));
    let summary = acted.summary();
    let most = samples.iter().map(|sample| sample.memory.resident_mib).fold(0.0, f64::max);
    outcome.rows = vec![
        Row::new("critical alert → Deployment patched, p50", summary.p50, "ms"),
        Row::new("critical alert → Deployment patched, p99", summary.p99, "ms").goal(Goal::AtMost(CRITICAL_P99_MS)),
        Row::new("critical alert → Deployment patched, slowest", summary.max, "ms"),
        Row::new("all decided after", decided_s, "s"),
        Row::new("every incident is there after", open_s, "s").note(format!("{open} of them")),
        Row::new("resident, most", most, "MiB").goal(Goal::AtMost(MEMORY_MIB)).note("the limit that the chart ships"),
        largest_incident(&stage).await?,
        Row::new("webhook answered, p99", passed.latencies.summary().p99, "ms"),
    ];
    outcome.add_latencies("critical alert → Deployment patched", &acted);
    let decided = samples.iter().map(|sample| (sample.at_s, sample.decided)).collect();
    outcome.series.push(Series::new("decided", "alerts", decided));
    stage.close().await?;
    Ok(outcome)
}

/// Until so many incidents are there that nobody has acted on, or no further one comes.
async fn until_open(stage: &Stage, wanted: u64) -> anyhow::Result<u64> {
    let (mut last, mut progress) = (0, Instant::now());
    loop {
        let open = metric(stage.running()?, "eventpulse_incidents", "Open").await as u64;
        if open > last {
            (last, progress) = (open, Instant::now());
        }
        if open >= wanted || progress.elapsed() > STUCK {
            return Ok(open);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// What was sent and what became of it.
struct Played {
    size: Size,
    urgent: Sent,
    passed: Sent,
    patches: Patches,
    decided: bool,
    open: u64,
}

impl Played {
    async fn check(&self, options: &Options, stage: &Stage, bus: Bus, outcome: &mut Outcome) -> anyhow::Result<()> {
        let size = &self.size;
        for sent in [&self.urgent, &self.passed] {
            outcome.invalid.extend(pace::invalid(&sent.lag));
            outcome.require(sent.all_answered(), || {
                format!("not every request was answered with 200: {:?} {:?}", sent.statuses, sent.refusals)
            });
        }
        outcome.require(self.decided, || "not every accepted alert was decided on".into());
        let all = WARM_UP + size.critical + size.requests * EACH;
        let accepted = WARM_UP + self.urgent.accepted + self.passed.accepted;
        check_taken(options, stage, bus, all, accepted, outcome).await?;
        let mut times: BTreeMap<u64, usize> = BTreeMap::new();
        self.patches
            .writes
            .iter()
            .filter_map(target_of_patch)
            .for_each(|target| *times.entry(target).or_default() += 1);
        let (targets, once) = (WARM_UP + size.critical, times.values().filter(|times| **times == 1).count());
        outcome.require(once as u64 == targets && once == times.len(), || {
            format!("of {targets} targets {once} were patched once, {} at all", times.len())
        });
        let expected = size.open();
        outcome.require(self.open == expected, || {
            format!("{} incidents are open, and {expected} were expected", self.open)
        });
        let storms = metric(stage.running()?, "eventpulse_storms", "").await as u64;
        let folded = metric(stage.running()?, "eventpulse_alerts_decided_total", "reason=\"storm\"").await as u64;
        let expected = (u64::from(size.stormy() > STORM), size.stormy().saturating_sub(STORM));
        outcome.require((storms, folded) == expected, || {
            format!("{storms} storms, {folded} alerts folded; expected {} and {}", expected.0, expected.1)
        });
        outcome.notes.push(format!(
            "Of {} alerts of one rule {} opened an incident and {folded} were folded into its storm.",
            size.stormy(),
            size.stormy().min(STORM)
        ));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_alerts_of_twenty_rules_one_of_a_hundred_critical_and_one_rule_has_half() {
        let size = Size::new(false);
        assert_eq!((size.critical + size.requests * EACH, size.critical), (10_000, 100));
        let mut of_rules: BTreeMap<u64, u64> = BTreeMap::new();
        (0..size.requests).for_each(|request| *of_rules.entry(Size::rule_of(request)).or_default() += EACH);
        assert_eq!(of_rules.len() as u64 + 1, RULES, "the critical ones' rule beside these");
        assert_eq!(of_rules[&0], size.stormy());
        assert!(of_rules[&0] > STORM && of_rules.iter().all(|(rule, alerts)| *rule == 0 || *alerts < STORM));
        assert_eq!(size.open(), 4_950 + 1_000 + 1);
        assert_eq!(Size::new(true).open(), 1_500 + 1_000 + 1);
    }
}
