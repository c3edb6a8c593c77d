//! How many alerts are accepted, with fsync, and whether everything behind keeps up: each alert is one of its own, matches no rule of
//! a hundred, and must be on the topic and in the ledger in the end.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use crate::{
    alerts::Alerts,
    floors::FSYNC,
    load::{self, Load, Sent},
    outcome::{Bus, Goal, Outcome, Row, Series},
    pace::{self, Schedule},
    probe,
    run::Options,
    stage::{Stage, WEBHOOK, say},
    watch::{Sample, Watch, metric},
};

/// Rules of other alerts. What an alert cannot match by its name is not tried on it.
const RULES: usize = 100;
/// When nothing has been decided for so long, nothing more will be.
const STUCK: Duration = Duration::from_secs(30);
/// Keeping up: never more undecided than this many seconds of the load bring.
const BEHIND_S: f64 = 2.0;

/// How it is played.
pub(super) struct Intake {
    name: &'static str,
    /// Alerts of a request.
    each: u64,
    schedule: Schedule,
    connections: usize,
    /// Alerts a second that are to be accepted.
    goal: f64,
    /// Whether what is behind must keep up while the load lasts.
    keeps_up: bool,
}

impl Intake {
    /// A tenth more than the goal is offered, because a rate that is only offered cannot be exceeded.
    fn new(name: &'static str, goal: f64, each: u64, seconds: u64) -> Self {
        let schedule = Schedule::over(goal * 1.1 / each as f64, Duration::from_secs(seconds));
        Self { name, each, schedule, connections: 32, goal, keeps_up: false }
    }

    pub(super) fn single(quick: bool) -> Self {
        Self { connections: 64, ..Self::new("single", 5_000.0, 1, if quick { 4 } else { 30 }) }
    }

    pub(super) fn in_fifties(quick: bool) -> Self {
        Self::new("intake", 20_000.0, 50, if quick { 4 } else { 60 })
    }

    pub(super) fn pipeline(quick: bool) -> Self {
        Self { keeps_up: true, ..Self::new("pipeline", 10_000.0, 50, if quick { 5 } else { 120 }) }
    }
}

pub(super) async fn play(options: &Options, bus: Bus, how: Intake) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new(how.name, Some(bus), Timestamp::now());
    let mut stage = Stage::open(options, how.name, bus, false).await?;
    outcome.versions = stage.shop.environment.versions();
    stage.shop.environment.plane().kubectl_with(&["apply", "--server-side", "-f", "-"], &rules()).await?;
    stage.start().await?;
    let mut floors = stage.fsync(if options.quick { 100 } else { 500 }).await?;
    let total = how.schedule.count * how.each;
    say(&format!("{total} alerts in requests of {}, {:.0} requests a second", how.each, how.schedule.rate));
    let alerts = Alerts::warnings("Noise", 1_000);
    let each = how.each;
    let load = Load {
        address: stage.address()?,
        path: WEBHOOK,
        schedule: how.schedule,
        connections: how.connections,
        body: Arc::new(move |number| alerts.webhook(number * each, each)),
    };
    let watch = Watch::begin(&stage)?;
    let profile = options.profile.begin(how.name, bus, stage.running()?.process().pid())?;
    let sent = load::send(load).await?;
    watch.used_until_now(&mut outcome);
    profile.end(&mut outcome).await;
    let answered = Instant::now();
    let drained = drain(&stage, sent.accepted, how.schedule.span() * 10).await?;
    let drain_s = answered.elapsed().as_secs_f64();
    let samples = watch.end(&mut outcome, sent.start_instant);
    outcome.require(drained, || {
        format!("not all of {} accepted alerts were decided on: the backlog was not drained", sent.accepted)
    });
    check_taken(options, &stage, bus, total, sent.accepted, &mut outcome).await?;
    floors.merge(&stage.fsync(if options.quick { 100 } else { 500 }).await?);
    rows(&mut outcome, &how, &sent, &samples, drain_s);
    outcome.floors = floors.summaries();
    if let Some(row) = outcome.rows.iter_mut().find(|row| row.what == "request answered, p50") {
        row.floor = Some(floors.sum(&[(FSYNC, 1)]));
    }
    if let Some(row) = outcome.rows.iter_mut().find(|row| row.what == "request answered, p99") {
        row.floor = Some(floors.p99(&[(FSYNC, 1)]));
    }
    stage.close().await?;
    Ok(outcome)
}

fn rules() -> String {
    let mut text = String::new();
    for i in 0..RULES {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "apiVersion: eventpulse.io/v1alpha1\nkind: Rule\nmetadata: {{name: other-{i}, namespace: shop}}\nspec:\n  match:\n    matchers: \
             ['alertname=\"Other{i}\"', 'severity=~\"warning|critical\"']\n  incident: {{severity: warning, summary: another, resolveOn: \
             AlertResolved}}\n---\n"
        );
    }
    text
}

/// Waits until so many alerts were decided on; false when they are not, at the deadline or because nothing happens any more.
pub(super) async fn drain(stage: &Stage, accepted: u64, deadline: Duration) -> anyhow::Result<bool> {
    let (begin, mut last, mut progress) = (Instant::now(), -1.0, Instant::now());
    loop {
        let decided = metric(stage.running()?, "eventpulse_alerts_decided_total", "").await;
        if decided >= accepted as f64 {
            return Ok(true);
        }
        if decided > last {
            (last, progress) = (decided, Instant::now());
        }
        if begin.elapsed() > deadline.max(STUCK) || progress.elapsed() > STUCK {
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Each accepted alert was decided on once, and on Kafka is on the topic, which a client reads that is not EventPulse's.
pub(super) async fn check_taken(
    options: &Options,
    stage: &Stage,
    bus: Bus,
    sent: u64,
    accepted: u64,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let decided = metric(stage.running()?, "eventpulse_alerts_decided_total", "").await;
    outcome.require(decided >= accepted as f64, || format!("{decided} of {accepted} accepted alerts were decided on"));
    if decided > accepted as f64 {
        outcome
            .notes
            .push(format!("{} alerts came again on the log and were decided on again.", decided - accepted as f64));
    }
    let letters = metric(stage.running()?, "eventpulse_dead_letters_total", "").await;
    outcome.require(letters == 0.0, || format!("{letters} dead letters"));
    if bus == Bus::Kafka {
        say("reading the topic");
        let (brokers, count) = (stage.shop.environment.kafka().bootstrap(), sent.to_string());
        let found = probe::run(options, &["topic", "--brokers", &brokers, "--count", &count]).await?;
        // One whose answer never came may be there as well.
        let distinct = found["distinct"].as_u64().unwrap_or(0);
        outcome.require((accepted..=sent).contains(&distinct) && found["foreign"] == 0, || {
            format!("of {accepted} accepted alerts the topic has {found}")
        });
        outcome.notes.push(format!(
            "The topic alert.raised, read by another client: {} records, {distinct} different alerts of {accepted} accepted ones.",
            found["records"]
        ));
    } else {
        outcome.notes.push(
            "Consumed records leave the embedded log, so the count of decisions is what shows that nothing was lost."
                .into(),
        );
    }
    Ok(())
}

fn rows(outcome: &mut Outcome, how: &Intake, sent: &Sent, samples: &[Sample], drain_s: f64) {
    outcome.invalid.extend(pace::invalid(&sent.lag));
    // Alertmanager would come again after a 503; this load does not, so what was refused is only counted.
    let refused: u64 = sent.statuses.iter().filter(|(status, _)| **status != 200).map(|(_, count)| count).sum();
    let broken: u64 =
        sent.statuses.iter().filter(|(status, _)| ![200, 503].contains(*status)).map(|(_, count)| count).sum();
    outcome.require(broken == 0, || format!("answers other than 200 and 503: {:?} {:?}", sent.statuses, sent.refusals));
    let summary = sent.latencies.summary();
    let behind = |sample: &Sample| sample.accepted - sample.decided;
    let load_s = sent.took.as_secs_f64();
    let most = samples.iter().map(behind).fold(0.0, f64::max);
    let mut most_behind = Row::new("most alerts accepted and not decided yet", most, "alerts");
    if how.keeps_up {
        most_behind.goal = Some(Goal::AtMost(BEHIND_S * how.goal));
        most_behind.note = Some(format!("keeping up: never more than {BEHIND_S} s of the load"));
    }
    let rate = Row::new("accepted", sent.rate(), "alerts/s").goal(Goal::AtLeast(how.goal));
    outcome.rows = vec![
        rate.note(format!(
            "{:.0} a second were offered for {:.0} s",
            how.schedule.rate * how.each as f64,
            how.schedule.span().as_secs_f64()
        )),
        most_behind,
        Row::new("backlog drained after the last answer", drain_s, "s"),
        Row::new("decided on, all in all", sent.accepted as f64 / (load_s + drain_s), "alerts/s"),
        Row::new("requests refused with 503", refused as f64, "requests"),
        Row::new("request answered, p50", summary.p50, "ms"),
        Row::new("request answered, p99", summary.p99, "ms"),
        Row::new("request answered, slowest", summary.max, "ms"),
    ];
    outcome.add_latencies("request answered", &sent.latencies);
    outcome.add_latencies("the generator's own lag", &sent.lag);
    let points = sent.per_second.iter().enumerate().map(|(second, count)| (second as f64, *count as f64)).collect();
    outcome.series.push(Series::new("accepted", "alerts a second", points));
    let mut last = (0.0, 0.0);
    let mut decided = Vec::new();
    for sample in samples {
        if sample.at_s > last.0 {
            decided.push((sample.at_s, (sample.decided - last.1).max(0.0) / (sample.at_s - last.0)));
        }
        last = (sample.at_s, sample.decided);
    }
    outcome.series.push(Series::new("decided", "alerts a second", decided));
    let waiting = samples.iter().map(|sample| (sample.at_s, behind(sample).max(0.0))).collect();
    outcome.series.push(Series::new("accepted and not decided yet", "alerts", waiting));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_goals_of_the_issue_are_offered_with_a_tenth_more() {
        for (how, alerts_s, seconds) in [
            (Intake::single(false), 5_500.0, 30.0),
            (Intake::in_fifties(false), 22_000.0, 60.0),
            (Intake::pipeline(false), 11_000.0, 120.0),
        ] {
            assert!((how.schedule.rate * how.each as f64 - alerts_s).abs() < 1e-6);
            assert!((how.schedule.span().as_secs_f64() - seconds).abs() < 0.01);
        }
        assert!(Intake::pipeline(false).keeps_up && !Intake::in_fifties(false).keeps_up);
    }
}
