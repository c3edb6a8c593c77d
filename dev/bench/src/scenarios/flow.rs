//! One flow of alerts for long: most of them concern no rule, some open an incident with an action and a message, and what is over is kept
//! for as short as is allowed. Nothing may grow but for that long: objects, etcd, topics, ingest's outbox, memory. `retention` is a million
//! alerts, `soak` an hour.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde_json::Value;

use super::{
    intake::drain,
    patches::{Patches, target_of_patch},
    waiting::until_none_is_left,
};
use crate::{
    alerts::Alerts,
    api::Api,
    load::{self, Load, Sent},
    outcome::{Bus, Goal, Outcome, Row, Series},
    pace::{self, Schedule},
    run::Options,
    stage::{Stage, WEBHOOK, path_of, say},
    watch::{Sample, Watch, metric},
};

/// Deployments that get one replica more in turn.
const TARGETS: u64 = 200;
/// Alerts of a request of those that concern nobody.
const EACH: u64 = 50;
/// The shortest that is allowed.
const KEPT: [&str; 4] = ["--topic-retention=60s", "--action-ttl=60s", "--incident-ttl=60s", "--group-ttl=60s"];
/// An object may be looked at so long after its time: sweeps come every few seconds, and have a bound.
const SWEPT: f64 = 60.0;
/// An outbox is cleared when there is little else to do, which under a load without end is after so long (docs/design.md). Whoever still has
/// one is not deleted.
const CLEARED: f64 = 600.0;
/// How often sizes are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// When no target has been patched for so long, none will be.
const STUCK: Duration = Duration::from_secs(60);
const INCIDENT_MAX_KB: f64 = 32.0;
/// Where nothing of it went, it would be four times as large at the end of a soak as after its first quarter.
const ETCD_GROWS: f64 = 1.5;
const MIB: f64 = 1024.0 * 1024.0;

/// For how many seconds after its beginning each kind is kept here (docs/bounds.md): the TTL of a minute, or longer where a repetition
/// could still come; a group first waits a minute for its alert to come again. The others would stay for less than it takes until their
/// outboxes are cleared: incidents for two minutes, an Action and a Notification for their deadline of half a minute and the five minutes
/// which clocks may differ by.
const LIVES: [(&str, f64); 4] =
    [("alertgroups", 180.0), ("incidents", CLEARED), ("actions", CLEARED), ("notifications", CLEARED)];

/// How it is played.
pub(super) struct Flow {
    name: &'static str,
    /// Alerts a second that open an incident.
    incidents: f64,
    /// Alerts a second that concern nobody.
    others: f64,
    span: Duration,
    /// From when on everything has its size.
    settled: Duration,
    /// How many MiB an hour memory may grow from then on. One that has a goal for it is long enough for etcd to have its size, too: what
    /// was written in ten minutes, as the API server compacts every five, and the objects.
    slope: Option<f64>,
}

impl Flow {
    /// A million alerts.
    pub(super) fn retention(quick: bool) -> Self {
        let span = Duration::from_secs(if quick { 30 } else { 1_000 });
        Self { name: "retention", incidents: 4.0, others: 1_000.0, span, settled: span / 2, slope: None }
    }

    pub(super) fn soak(quick: bool) -> Self {
        let span = Duration::from_secs(if quick { 40 } else { 3_600 });
        Self { name: "soak", incidents: 2.0, others: 100.0, span, settled: span / 4, slope: Some(1.0) }
    }
}

pub(super) async fn play(options: &Options, bus: Bus, how: Flow) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new(how.name, Some(bus), Timestamp::now());
    let mut stage = Stage::open(options, how.name, bus, false).await?;
    outcome.versions = stage.shop.environment.versions();
    stage.add_targets(TARGETS as usize).await?;
    stage.shop.environment.plane().kubectl_with(&["apply", "--server-side", "-f", "-"], RULE).await?;
    let launcher = KEPT.iter().fold(stage.launcher(), |launcher, flag| launcher.arg(*flag));
    stage.start_with(launcher).await?;
    let (acting, others) =
        (Schedule::over(how.incidents, how.span), Schedule::over(how.others / EACH as f64, how.span));
    say(&format!(
        "{} incidents, {} a second, beside {} alerts of no rule, {} a second, over {} s",
        acting.count,
        how.incidents,
        others.count * EACH,
        how.others,
        how.span.as_secs()
    ));
    let address = stage.address()?;
    let load = |schedule, alerts: Alerts, first: u64, each: u64| Load {
        address,
        path: WEBHOOK,
        schedule,
        connections: 8,
        body: Arc::new(move |number| alerts.webhook(first + number * each, each)),
    };
    let watch = Watch::begin(&stage)?;
    let mut patches = Patches::from_now(&stage);
    let acting = load(acting, Alerts::warnings("Flow", TARGETS), 0, 1);
    let others = load(others, Alerts::warnings("Noise", 1_000), acting.schedule.count, EACH);
    let mut sizes = Sizes::default();
    let (acted, passed) = {
        let both = async { tokio::try_join!(load::send(acting), load::send(others)) };
        tokio::pin!(both);
        let begin = Instant::now();
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                sent = &mut both => break sent?,
                _ = ticks.tick() => sizes.look(&stage, begin.elapsed().as_secs_f64()).await?,
            }
        }
    };
    watch.used_until_now(&mut outcome);
    wait_for_all(&stage, &mut patches, acted.schedule.count).await?;
    let accepted = acted.accepted + passed.accepted;
    let drained = drain(&stage, accepted, how.span).await?;
    let largest = largest_incident(&stage).await?;
    let samples = watch.end(&mut outcome, acted.start_instant);
    check(&stage, &mut outcome, &acted, &passed, &patches, drained).await?;
    rows(&mut outcome, &how, &sizes, &samples, largest);
    outcome.add_latencies("alert → Deployment patched", &acting_latencies(&acted, &patches));
    outcome.series.extend(sizes.series());
    stage.close().await?;
    Ok(outcome)
}

/// Each alert is a group of its own; its target gets one replica more, and everybody is told.
const RULE: &str = "
apiVersion: eventpulse.io/v1alpha1
kind: Runbook
metadata: {name: flow, namespace: shop}
spec:
  serviceAccountName: remediator
  steps:
  - {name: scale, type: Scale, scale: {delta: 1, maxReplicas: 1000}}
---
apiVersion: eventpulse.io/v1alpha1
kind: Rule
metadata: {name: flow, namespace: shop}
spec:
  match: {matchers: ['alertname=\"Flow\"']}
  groupBy: [\"n\"]
  acceptWindow: 60s
  expireAfter: 60s
  incident: {severity: $(alert.labels.severity), summary: $(alert.annotations.summary), resolveOn: ActionCompleted}
  actions:
  - name: add-replica
    deadline: 30s
    runbookRef: {name: flow}
    targetRef: {apiVersion: apps/v1, kind: Deployment, name: $(alert.labels.service)}
  notifications:
  - {channelRef: {name: ops-slack}, template: IncidentOpened, events: [Opened], deadline: 30s}
";

async fn wait_for_all(stage: &Stage, patches: &mut Patches, count: u64) -> anyhow::Result<()> {
    until_none_is_left(STUCK, async || {
        stage.running()?;
        patches.read()?;
        Ok((count as usize).saturating_sub(all_patches(patches).count()))
    })
    .await
}

fn all_patches(patches: &Patches) -> impl Iterator<Item = (u64, Timestamp)> {
    patches.writes.iter().filter_map(|write| Some((target_of_patch(write)?, write.answered)))
}

/// The n-th patch of a target belongs to the n-th alert of it: they come in this order, each long after the one before.
fn acting_latencies(acted: &Sent, patches: &Patches) -> crate::latencies::Latencies {
    let mut times = vec![0; TARGETS as usize];
    let took = |(target, at): (u64, Timestamp)| {
        let turn: &mut u64 = times.get_mut(target as usize)?;
        let number = *turn * TARGETS + target;
        *turn += 1;
        Duration::try_from(at.duration_since(acted.intended(number))).ok()
    };
    crate::latencies::Latencies::of(all_patches(patches).filter_map(took))
}

async fn check(
    stage: &Stage,
    outcome: &mut Outcome,
    acted: &Sent,
    passed: &Sent,
    patches: &Patches,
    drained: bool,
) -> anyhow::Result<()> {
    for sent in [acted, passed] {
        outcome.invalid.extend(pace::invalid(&sent.lag));
        outcome.require(sent.all_answered(), || {
            format!("not every request was answered with 200: {:?} {:?}", sent.statuses, sent.refusals)
        });
    }
    outcome.require(drained, || "not every accepted alert was decided on".into());
    let (count, done) = (acted.schedule.count, all_patches(patches).count() as u64);
    outcome.require(done == count, || format!("{done} patches for {count} incidents"));
    let opened = metric(stage.running()?, "eventpulse_alerts_decided_total", "reason=\"opened\"").await as u64;
    outcome.require(opened == count, || format!("{opened} incidents opened by {count} alerts"));
    let told = stage.shop.sink.count_by_key();
    outcome.require(told.len() as u64 == count && told.values().all(|times| *times == 1), || {
        format!("{} incidents of {count} were told to people", told.len())
    });
    let letters = metric(stage.running()?, "eventpulse_dead_letters_total", "").await;
    outcome.require(letters == 0.0, || format!("{letters} dead letters"));
    Ok(())
}

/// In kB, as JSON.
pub(super) async fn largest_incident(stage: &Stage) -> anyhow::Result<Row> {
    let incidents = stage.objects("incidents").await?;
    let largest = incidents.iter().map(|incident| incident.to_string().len()).max().unwrap_or(0);
    Ok(Row::new("largest Incident", largest as f64 / 1e3, "kB")
        .goal(Goal::AtMost(INCIDENT_MAX_KB))
        .note(format!("of {}, as JSON, managed fields included", incidents.len())))
}

fn rows(outcome: &mut Outcome, how: &Flow, sizes: &Sizes, samples: &[Sample], largest: Row) {
    let settled = how.settled.as_secs_f64();
    for ((kind, lives), points) in LIVES.iter().zip(&sizes.objects) {
        let bound = (how.incidents * (lives + SWEPT)).ceil();
        outcome.rows.push(
            Row::new(format!("most {kind} at once"), most(points), "objects")
                .goal(Goal::AtMost(bound))
                .note(format!("kept for {lives} s from their beginning, and a minute until they are swept")),
        );
    }
    outcome.rows.push(largest);
    for (what, points) in [("etcd's file", &sizes.etcd), ("Kafka's topics", &sizes.topics), ("SQLite", &sizes.sqlite)] {
        let (first, last) = (most(&before(points, settled)), points.last().map_or(0.0, |point| point.1));
        outcome.rows.push(
            Row::new(format!("{what}, most"), most(points), "MiB")
                .note(format!("{first:.1} at most until {settled:.0} s, {last:.1} at the end")),
        );
    }
    if how.slope.is_some() {
        let grown = most(&sizes.etcd) / most(&before(&sizes.etcd, settled)).max(1.0);
        let what = format!("etcd's file, most, as a multiple of the most until {settled:.0} s");
        outcome.rows.push(Row::new(what, grown, "×").goal(Goal::AtMost(ETCD_GROWS)));
    }
    let memory: Vec<(f64, f64)> = samples.iter().map(|sample| (sample.at_s, sample.memory.resident_mib)).collect();
    outcome.rows.push(Row::new("resident, most", most(&memory), "MiB").goal(Goal::AtMost(150.0)));
    if let Some(goal) = how.slope {
        let settled: Vec<(f64, f64)> = memory.iter().copied().filter(|point| point.0 >= settled).collect();
        let slope = Row::new("resident, slope", slope(&settled) * 3_600.0, "MiB/h").goal(Goal::AtMost(goal));
        let (first, last) =
            (mean(&settled[..settled.len() / 10]), mean(&settled[settled.len() - settled.len() / 10..]));
        outcome.rows.push(slope.note(format!(
            "least squares over the last {:.0} s; the first tenth of that {first:.1} MiB, the last {last:.1}",
            settled.last().map_or(0.0, |point| point.0) - settled.first().map_or(0.0, |point| point.0)
        )));
    }
}

fn most(points: &[(f64, f64)]) -> f64 {
    points.iter().map(|point| point.1).fold(0.0, f64::max)
}

fn before(points: &[(f64, f64)], until: f64) -> Vec<(f64, f64)> {
    points.iter().copied().filter(|point| point.0 < until).collect()
}

fn mean(points: &[(f64, f64)]) -> f64 {
    points.iter().map(|point| point.1).sum::<f64>() / points.len().max(1) as f64
}

/// Of the line with the least squared distances, in y per x; 0 of fewer than two points.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len().max(1) as f64;
    let (x, y) = (points.iter().map(|point| point.0).sum::<f64>() / count, mean(points));
    let (above, below) = points.iter().fold((0.0, 0.0), |(above, below), point| {
        (above + (point.0 - x) * (point.1 - y), below + (point.0 - x).powi(2))
    });
    if below > 0.0 { above / below } else { 0.0 }
}

/// How much there is of everything, by time.
#[derive(Default)]
struct Sizes {
    /// In the order of [`LIVES`].
    objects: [Vec<(f64, f64)>; 4],
    etcd: Vec<(f64, f64)>,
    topics: Vec<(f64, f64)>,
    sqlite: Vec<(f64, f64)>,
}

impl Sizes {
    async fn look(&mut self, stage: &Stage, at: f64) -> anyhow::Result<()> {
        for ((kind, _), points) in LIVES.iter().zip(&mut self.objects) {
            points.push((at, count(&stage.api, kind).await? as f64));
        }
        let dir = stage.shop.environment.dir();
        let is_of_topic = |path: &Path| path.extension().is_some_and(|extension| extension == "log");
        let is_sqlite = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with("ingest.db") || name.starts_with("log.sqlite")
        };
        self.etcd.push((at, bytes_in(&dir.join("etcd/member/snap"), &|path| path.ends_with("db")) / MIB));
        self.topics.push((at, bytes_in(&dir.join("kafka"), &is_of_topic) / MIB));
        self.sqlite.push((at, bytes_in(dir, &is_sqlite) / MIB));
        Ok(())
    }

    fn series(&self) -> Vec<Series> {
        let objects =
            LIVES.iter().zip(&self.objects).map(|((kind, _), points)| Series::new(kind, "objects", points.clone()));
        let sizes = [("etcd", &self.etcd), ("topics", &self.topics), ("SQLite", &self.sqlite)];
        objects.chain(sizes.map(|(what, points)| Series::new(what, "MiB on disk", points.clone()))).collect()
    }
}

/// How many objects there are, without reading them.
async fn count(api: &Api, kind: &str) -> anyhow::Result<u64> {
    let page: Value = api.get(&format!("{}?limit=1", path_of(kind))).await?;
    let here = page["items"].as_array().map_or(0, Vec::len) as u64;
    Ok(here + page["metadata"]["remainingItemCount"].as_u64().unwrap_or(0))
}

/// Of the files below a directory for which this holds. What goes meanwhile is not there any more.
fn bytes_in(dir: &Path, counts: &dyn Fn(&Path) -> bool) -> f64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => bytes_in(&entry.path(), counts),
        Ok(_) if counts(&entry.path()) => entry.metadata().map_or(0.0, |metadata| metadata.len() as f64),
        _ => 0.0,
    };
    entries.map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::OURS;

    #[test]
    fn a_line_has_its_slope_and_noise_around_it_changes_nothing() {
        let line: Vec<(f64, f64)> = (0..100).map(|x| (f64::from(x), 5.0 + 0.25 * f64::from(x))).collect();
        assert!((slope(&line) - 0.25).abs() < 1e-9);
        let noisy: Vec<(f64, f64)> = (0..100).map(|x| (f64::from(x), if x % 2 == 0 { 1.0 } else { -1.0 })).collect();
        assert!(slope(&noisy).abs() < 0.001);
        assert_eq!((slope(&[]), slope(&[(1.0, 7.0)])), (0.0, 0.0));
    }

    #[test]
    fn a_kind_that_has_no_time_of_its_own_would_not_be_looked_at() {
        assert_eq!(LIVES.map(|(kind, _)| kind), OURS);
    }

    #[test]
    fn files_are_counted_where_they_are_asked_for() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("deep")).unwrap();
        std::fs::write(place.path().join("deep/a.log"), [0; 10]).unwrap();
        std::fs::write(place.path().join("b.log"), [0; 5]).unwrap();
        std::fs::write(place.path().join("c.index"), [0; 100]).unwrap();
        let is_log = |path: &Path| path.extension().is_some_and(|extension| extension == "log");
        assert_eq!(bytes_in(place.path(), &is_log), 15.0);
        assert_eq!(bytes_in(&place.path().join("none"), &is_log), 0.0);
    }

    #[test]
    fn retention_is_of_a_million_alerts_and_a_soak_of_an_hour() {
        let (retention, soak) = (Flow::retention(false), Flow::soak(false));
        assert!(retention.others * retention.span.as_secs_f64() >= 1e6);
        assert_eq!((soak.span - soak.settled).as_secs(), 45 * 60);
    }
}
