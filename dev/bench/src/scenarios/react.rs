//! From an alert to a patched Deployment: each alert has a target of its own, and each target is to be patched exactly once. The same
//! play at three paces: `react` (10 a second), `burst` (500 at 200 a second) and `actions` (100 a second and more).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use eventpulse_e2e::root;
use jiff::Timestamp;

use super::{
    OF_A_RULE,
    patches::{Patches, target, target_of_patch},
    replay,
};
use crate::{
    alerts::Alerts,
    audit::Write,
    floors::{CREATE, FSYNC, Floors, HOP, PATCH, READ},
    latencies::Latencies,
    load::{self, Load, Sent},
    outcome::{Bus, Goal, Outcome, Row, Series},
    pace::{self, Schedule},
    run::Options,
    stage::{Stage, WEBHOOK, say},
    watch::{Watch, metric},
};

/// When nothing has been patched for so long, nothing more will be.
const STUCK: Duration = Duration::from_secs(30);
const WARM_UP_RATE: f64 = 10.0;

/// How it is played.
pub(super) struct Reaction {
    name: &'static str,
    schedule: Schedule,
    warm_up: u64,
    connections: usize,
    p50_ms: Option<f64>,
    p99_ms: f64,
    /// Copies of the example's rule that take turns.
    rules: u64,
    /// Actions a second, or else so much of what a plain client reaches.
    per_second: Option<(f64, f64)>,
}

impl Reaction {
    pub(super) fn react(quick: bool) -> Self {
        let span = Duration::from_secs(if quick { 10 } else { 300 });
        Self {
            name: "react",
            schedule: Schedule::over(10.0, span),
            warm_up: if quick { 20 } else { 100 },
            connections: 8,
            p50_ms: Some(25.0),
            p99_ms: 60.0,
            rules: 1,
            per_second: None,
        }
    }

    pub(super) fn burst(quick: bool) -> Self {
        Self {
            name: "burst",
            schedule: Schedule { rate: 200.0, count: 500 },
            connections: 32,
            p50_ms: None,
            p99_ms: 5_000.0,
            ..Self::react(quick)
        }
    }

    /// A little more than the goal, because a rate that is only offered cannot be exceeded.
    pub(super) fn actions(quick: bool) -> Self {
        let span = Duration::from_secs(if quick { 8 } else { 120 });
        let schedule = Schedule::over(105.0, span);
        Self {
            name: "actions",
            rules: schedule.count.div_ceil(OF_A_RULE),
            schedule,
            connections: 32,
            p50_ms: None,
            p99_ms: 1_000.0,
            per_second: Some((100.0, 0.6)),
            ..Self::react(quick)
        }
    }
}

/// What is on the way from the alert to the patch, by the design: one append that waits for the disk (ingest's outbox, or the log
/// itself), the hops of alert.raised and action.requested, the creation of AlertGroup and Action, the quorum read of the target, the
/// patch. On the embedded log a hop is an append too.
fn path(bus: Bus) -> Vec<(&'static str, u32)> {
    match bus {
        Bus::Kafka => vec![(FSYNC, 1), (HOP, 2), (CREATE, 2), (READ, 1), (PATCH, 1)],
        Bus::Embedded => vec![(FSYNC, 2), (CREATE, 2), (READ, 1), (PATCH, 1)],
    }
}

pub(super) async fn play(options: &Options, bus: Bus, how: Reaction) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new(how.name, Some(bus), Timestamp::now());
    let mut stage = Stage::open(options, how.name, bus, false).await?;
    outcome.versions = stage.shop.environment.versions();
    let (warm_up, count) = (how.warm_up, how.schedule.count);
    stage.add_targets((warm_up + count) as usize).await?;
    stage.shop.environment.plane().kubectl_with(&["apply", "--server-side", "-f", "-"], &rules(how.rules)?).await?;
    stage.start().await?;
    let mut floors = stage.floors(options).await?;
    let mut run = Run { alerts: Alerts::warnings("CPUHigh", warm_up + count), rules: how.rules, stage, warm_up, count };
    let recording = how.per_second.map(|_| replay::record(&run.stage));
    run.warm_up(how.connections).await?;
    let recording = match recording {
        Some(recording) => Some(recording.await??),
        None => None,
    };

    say(&format!("{count} alerts at {} a second, each with a Deployment of its own", how.schedule.rate));
    let reads_before = reads(&run.stage).await?;
    let watch = Watch::begin(&run.stage)?;
    let mut patches = Patches::from_now(&run.stage);
    let profile = options.profile.begin(how.name, bus, run.stage.running()?.process().pid())?;
    let sent = run.send(how.schedule, how.connections).await?;
    patches.wait(&run.stage, warm_up..warm_up + count, STUCK.max(sent.schedule.span() / 4)).await?;
    let (writes, patched) = (patches.writes.clone(), run.patched(&patches));
    watch.used_until_now(&mut outcome);
    profile.end(&mut outcome).await;
    let reads_after = reads(&run.stage).await?;
    watch.end(&mut outcome, sent.start_instant);

    run.check(&mut outcome, &sent, &writes).await?;
    let finished = count as f64 / sent.start_instant.elapsed().as_secs_f64();
    patches.read()?;
    let all = patches.writes;
    run.check_effects(&mut outcome, &all).await?;
    if let Some(recording) = recording {
        run.stage.stop_eventpulse().await?;
        let rate = replay::play(options, &run.stage, &recording, &mut outcome).await?;
        outcome.rows.push(Row::new("a plain client with the same writes", rate, "incidents/s").note(recording.text()));
    }
    floors.merge(&run.stage.floors(options).await?);
    rows(&mut outcome, bus, &how, &sent, (&patched, finished), &floors);
    if how.schedule.rate <= WARM_UP_RATE {
        outcome.rows.extend(way(&sent, warm_up, &all));
    }
    outcome.notes.push(format!(
        "Reads of the API server for an incident, watches apart: {}.",
        difference(&reads_before, &reads_after, count)
    ));
    run.stage.close().await?;
    Ok(outcome)
}

/// The example's rule so many times, each for alerts of a name of its own. Of several, what is asked for may take an hour: on a control
/// plane that cannot keep up with the load, what waits for five minutes would end as stale, and the rate would say nothing.
fn rules(count: u64) -> anyhow::Result<String> {
    let rule = std::fs::read_to_string(root().join("examples/shop/rule.yaml")).context("the example's rule")?;
    let (name, alert) = ("name: cpu-high,", "alertname=\"CPUHigh\"");
    anyhow::ensure!(
        rule.contains(name) && rule.contains(alert) && rule.contains("\n  - name: "),
        "the example's rule has another name, or another alert"
    );
    let copy = |number: u64| {
        let number = suffix(number);
        let patience = if count > 1 { "  - deadline: 1h\n    name: " } else { "  - name: " };
        rule.replace("  - name: ", patience)
            .replace(name, &format!("name: cpu-high{number},"))
            .replace(alert, &format!("alertname=\"CPUHigh{number}\""))
    };
    Ok((0..count).map(copy).collect::<Vec<_>>().join("\n---\n"))
}

/// The first one is the example's own.
fn suffix(rule: u64) -> String {
    if rule == 0 { String::new() } else { format!("-{rule}") }
}

/// One alert, for the rule whose turn it is.
fn body(alerts: &Alerts, rules: u64, number: u64) -> Bytes {
    Alerts { name: format!("CPUHigh{}", suffix(number % rules)), ..alerts.clone() }.webhook(number, 1)
}

struct Run {
    alerts: Alerts,
    rules: u64,
    stage: Stage,
    warm_up: u64,
    count: u64,
}

impl Run {
    async fn warm_up(&self, connections: usize) -> anyhow::Result<()> {
        say(&format!("{} alerts to warm up", self.warm_up));
        let mut patches = Patches::from_now(&self.stage);
        let (alerts, rules, count) = (self.alerts.clone(), self.rules, self.warm_up);
        let load = Load {
            address: self.stage.address()?,
            path: WEBHOOK,
            schedule: Schedule { rate: WARM_UP_RATE, count },
            connections,
            body: Arc::new(move |number| body(&alerts, rules, number)),
        };
        let sent = load::send(load).await?;
        anyhow::ensure!(sent.all_answered(), "the warm-up: {:?} {:?}", sent.statuses, sent.refusals);
        patches.wait(&self.stage, 0..count, STUCK).await?;
        let patched = patches.first.len() as u64;
        anyhow::ensure!(patched == count, "the warm-up: {patched} of {count} targets were patched");
        // Messages and outboxes of the warm-up are not the load's.
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok(())
    }

    async fn send(&self, schedule: Schedule, connections: usize) -> anyhow::Result<Sent> {
        let (alerts, rules, from) = (self.alerts.clone(), self.rules, self.warm_up);
        let load = Load {
            address: self.stage.address()?,
            path: WEBHOOK,
            schedule,
            connections,
            body: Arc::new(move |number| body(&alerts, rules, from + number)),
        };
        load::send(load).await
    }

    /// Of each alert, when its target was patched first.
    fn patched(&self, patches: &Patches) -> HashMap<u64, Timestamp> {
        patches.first.iter().filter_map(|(target, at)| Some((target.checked_sub(self.warm_up)?, *at))).collect()
    }

    async fn check(&self, outcome: &mut Outcome, sent: &Sent, writes: &[Write]) -> anyhow::Result<()> {
        outcome.invalid.extend(pace::invalid(&sent.lag));
        outcome.require(sent.all_answered(), || {
            format!("not every request was answered with 200: {:?} {:?}", sent.statuses, sent.refusals)
        });
        outcome.require(sent.accepted == self.count, || {
            format!("{} of {} alerts were accepted", sent.accepted, self.count)
        });
        let refused: Vec<&Write> = writes.iter().filter(|write| write.ours && !write.committed()).collect();
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for write in &refused {
            *kinds.entry(format!("{} {}", write.code, write.kind())).or_default() += 1;
        }
        let kinds: Vec<String> = kinds.iter().map(|(kind, times)| format!("{times} × {kind}")).collect();
        let which = if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") };
        outcome.notes.push(format!("Writes that the API server refused: {which}."));
        self.settle(outcome).await
    }

    /// Messages and the incident's end are later than the patch; they are waited for as long as they come, because an incident
    /// without them is not done.
    async fn settle(&self, outcome: &mut Outcome) -> anyhow::Result<()> {
        let expected = self.warm_up + self.count;
        let (mut last, mut progress) = ((0, 0), Instant::now());
        loop {
            let told = self.stage.shop.sink.count_by_key().len() as u64;
            let resolved = metric(self.stage.running()?, "eventpulse_incidents", "Resolved").await as u64;
            if (told, resolved) != last {
                (last, progress) = ((told, resolved), Instant::now());
            }
            let done = told >= expected && resolved >= expected;
            if done || progress.elapsed() > STUCK {
                outcome.require(told == expected, || format!("{told} of {expected} incidents were told to people"));
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// By the API server's log and by the objects themselves.
    async fn check_effects(&self, outcome: &mut Outcome, writes: &[Write]) -> anyhow::Result<()> {
        let mut times: BTreeMap<u64, usize> = BTreeMap::new();
        for target in writes.iter().filter_map(target_of_patch).filter(|target| *target >= self.warm_up) {
            *times.entry(target).or_default() += 1;
        }
        let (once, more) =
            (times.values().filter(|times| **times == 1).count(), times.values().filter(|times| **times > 1).count());
        outcome.require(once as u64 == self.count && more == 0, || {
            format!("of {} targets {once} were patched once and {more} more than once", self.count)
        });
        let deployments = self.stage.objects("deployments").await?;
        let targets =
            deployments.iter().filter(|object| object["metadata"]["name"].as_str().and_then(target).is_some());
        let right = targets.filter(|object| object["spec"]["replicas"] == 1).count() as u64;
        let expected = self.warm_up + self.count;
        outcome.require(right == expected, || format!("{right} of {expected} targets have one replica more"));
        let incidents = self.stage.objects("incidents").await?;
        let resolved = incidents.iter().filter(|incident| incident["status"]["phase"] == "Resolved").count() as u64;
        outcome.require(resolved == expected && incidents.len() as u64 == expected, || {
            format!("{} incidents, {resolved} of them resolved, where {expected} were expected", incidents.len())
        });
        Ok(())
    }
}

fn rows(
    outcome: &mut Outcome,
    bus: Bus,
    how: &Reaction,
    sent: &Sent,
    (patched, finished): (&HashMap<u64, Timestamp>, f64),
    floors: &Floors,
) {
    let took = |number: &u64, at: &Timestamp| {
        Duration::try_from(at.duration_since(sent.intended(*number))).unwrap_or_default()
    };
    let all = Latencies::of(patched.iter().map(|(number, at)| took(number, at)));
    let summary = all.summary();
    let (path, slow_path) = (floors.sum(&path(bus)), floors.p99(&path(bus)));
    let first = patched.values().min().copied().unwrap_or_default();
    let last = patched.values().max().copied().unwrap_or_default();
    let seconds = last.duration_since(first).as_secs_f64().max(0.001);
    let rate = (patched.len().saturating_sub(1)) as f64 / seconds;
    let unacted = |row: Row| {
        if patched.len() as u64 == how.schedule.count { row } else { row.note("of those that were patched at all") }
    };
    let mut p50 = Row::new("alert → Deployment patched, p50", summary.p50, "ms").floor(path.clone());
    p50.goal = how.p50_ms.map(Goal::AtMost);
    let mut p99 = Row::new("alert → Deployment patched, p99", summary.p99, "ms").floor(slow_path);
    p99.goal = Some(Goal::AtMost(how.p99_ms));
    let ratio = Row::new("p50 as a multiple of its floors", summary.p50 / path.value, "×");
    let mut rows = vec![
        p50,
        p99,
        Row::new("alert → Deployment patched, p99.9", summary.p999, "ms"),
        Row::new("alert → Deployment patched, slowest", summary.max, "ms"),
        if how.p50_ms.is_some() { ratio.goal(Goal::AtMost(2.5)) } else { ratio },
        Row::new("webhook answered, p99", sent.latencies.summary().p99, "ms"),
        Row::new("actions", rate, "actions/s").note(format!("{} a second were offered", how.schedule.rate)),
    ];
    if let Some((per_second, of_plain)) = how.per_second {
        let plain = outcome.row("a plain client with the same writes").map_or(f64::NAN, |row| row.value);
        let mut ratio =
            Row::new("incidents with all their writes, of what a plain client reaches", finished / plain, "×");
        rows.push(
            Row::new("incidents with all their writes", finished, "incidents/s")
                .note("until the last one was resolved and told of"),
        );
        // One of the two is asked for: the rate in time, or so much of what this control plane can do at all.
        if rate >= per_second && summary.p99 <= how.p99_ms {
            rows[6].goal = Some(Goal::AtLeast(per_second));
            ratio.note = Some("no goal, because the rate is reached in time".into());
        } else {
            rows[1].goal = None;
            ratio.goal = Some(Goal::AtLeast(of_plain));
            ratio.note = Some(format!(
                "the goal that counts where {per_second} a second with a p99 of {} ms are not reached",
                how.p99_ms
            ));
        }
        rows.push(ratio);
    }
    rows.extend(outcome.rows.drain(..).collect::<Vec<_>>());
    outcome.rows = rows.into_iter().map(unacted).collect();
    outcome.add_latencies("alert → Deployment patched", &all);
    outcome.add_latencies("webhook answered", &sent.latencies);
    outcome.add_latencies("the generator's own lag", &sent.lag);
    outcome.floors = floors.summaries();
    let mut per_second: BTreeMap<i64, f64> = BTreeMap::new();
    for at in patched.values() {
        *per_second.entry(at.duration_since(sent.start).as_secs()).or_default() += 1.0;
    }
    let points = per_second.into_iter().map(|(second, count)| (second as f64, count)).collect();
    outcome.series.push(Series::new("Deployments patched", "a second", points));
}

/// Where the time goes, by the API server's own clock: possible where one alert is through before the next one comes.
fn way(sent: &Sent, warm_up: u64, writes: &[Write]) -> Vec<Row> {
    let created = |resource: &str| {
        let mut all: Vec<&Write> =
            writes.iter().filter(|w| w.ours && w.committed() && w.verb == "create" && w.resource == resource).collect();
        all.sort_by_key(|write| write.answered);
        all
    };
    let (groups, actions) = (created("alertgroups"), created("actions"));
    let one_between = |all: &[&Write], from: Timestamp, to: Timestamp| {
        let begin = all.partition_point(|write| write.received < from);
        let found: Vec<Write> = all[begin..].iter().take_while(|w| w.answered <= to).map(|w| (*w).clone()).collect();
        (found.len() == 1).then(|| found[0].clone())
    };
    let names = [
        "way: alert sent → AlertGroup's creation received",
        "way: AlertGroup created",
        "way: AlertGroup created → Action's creation received",
        "way: Action created",
        "way: Action created → patch received",
        "way: patched",
    ];
    let mut parts = vec![Latencies::new(); names.len()];
    for (patch, target) in writes.iter().filter_map(|write| Some((write, target_of_patch(write)?))) {
        let Some(number) = target.checked_sub(warm_up) else { continue };
        let from = sent.intended(number);
        let (Some(group), Some(action)) =
            (one_between(&groups, from, patch.received), one_between(&actions, from, patch.received))
        else {
            continue;
        };
        let moments =
            [from, group.received, group.answered, action.received, action.answered, patch.received, patch.answered];
        for (part, pair) in parts.iter_mut().zip(moments.windows(2)) {
            part.record(Duration::try_from(pair[1].duration_since(pair[0])).unwrap_or_default());
        }
    }
    let told = format!("p50 of {} alerts that no other one overlapped", parts[0].count());
    let row = |(name, part): (&str, &Latencies)| Row::new(name, part.summary().p50, "ms").note(told.clone());
    names.into_iter().zip(&parts).map(row).collect()
}

/// GETs and LISTs that the API server has answered, by resource.
async fn reads(stage: &Stage) -> anyhow::Result<BTreeMap<String, f64>> {
    let text = stage.api.text("/metrics").await?;
    let mut all = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let label = |name: &str| {
            let (_, rest) = line.split_once(&format!("{name}=\""))?;
            rest.split('"').next()
        };
        let (Some(verb), Some(resource)) = (label("verb"), label("resource")) else { continue };
        let known = ["deployments", "secrets", "rules", "runbooks", "notificationchannels", "horizontalpodautoscalers"];
        if ["GET", "LIST"].contains(&verb) && (known.contains(&resource) || crate::stage::OURS.contains(&resource)) {
            let value = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0);
            *all.entry(format!("{verb} {resource}")).or_default() += value;
        }
    }
    Ok(all)
}

fn difference(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>, count: u64) -> String {
    let of = |(kind, value): (&String, &f64)| {
        let each = (value - before.get(kind).copied().unwrap_or(0.0)) / count as f64;
        (each >= 0.005).then(|| format!("{kind} {each:.2}"))
    };
    let all: Vec<String> = after.iter().filter_map(of).collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn reads_are_told_for_each_incident() {
        let of = |values: &[(&str, f64)]| values.iter().map(|(kind, value)| ((*kind).to_owned(), *value)).collect();
        let (before, after) = (of(&[("GET a", 10.0)]), of(&[("GET a", 30.0), ("GET b", 5.0), ("GET c", 0.01)]));
        assert_eq!(difference(&before, &after, 10), "GET a 2.00, GET b 0.50");
        assert_eq!(difference(&before, &before, 10), "none");
    }

    #[test]
    fn the_way_is_told_from_alerts_that_nobody_overlaps() {
        let at = |us: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_micros(us);
        let write = |verb: &str, resource: &str, name: &str, received: i64, answered: i64| Write {
            received: at(received),
            answered: at(answered),
            verb: verb.into(),
            resource: resource.into(),
            name: name.into(),
            code: 200,
            ours: true,
            object: serde_json::Value::Null,
        };
        let sent = Sent {
            start: Timestamp::UNIX_EPOCH,
            start_instant: Instant::now(),
            schedule: Schedule { rate: 10.0, count: 2 },
            latencies: Latencies::new(),
            lag: Latencies::new(),
            statuses: BTreeMap::new(),
            accepted: 2,
            took: Duration::ZERO,
            per_second: Vec::new(),
            refusals: Vec::new(),
        };
        let writes = [
            write("create", "alertgroups", "g0", 4_000, 6_000),
            write("create", "actions", "a0", 9_000, 11_000),
            write("patch", "deployments", "t0", 14_000, 17_000),
        ];
        let values =
            |writes: &[Write]| way(&sent, 0, writes).iter().map(|row| row.value.round() as i64).collect::<Vec<_>>();
        assert_eq!(values(&writes), [4, 2, 3, 2, 3, 3]);
        // A second group in the same time: nobody can say which one is this alert's.
        let overlapped = [writes.to_vec(), vec![write("create", "alertgroups", "g1", 5_000, 6_000)]].concat();
        assert_eq!(values(&overlapped), [0; 6]);
    }
}
