//! How soon a webhook is answered at 200 requests a second: after the alert is on disk, with fsync.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::intake::{check_taken, drain};
use crate::{
    alerts::Alerts,
    floors::FSYNC,
    load::{self, Load},
    outcome::{Bus, Goal, Outcome, Row, Series},
    pace::{self, Schedule},
    run::Options,
    stage::{Stage, WEBHOOK, say},
    watch::Watch,
};

const RATE: f64 = 200.0;

pub(super) async fn play(options: &Options, bus: Bus) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("webhook", Some(bus), Timestamp::now());
    let mut stage = Stage::open(options, "webhook", bus, false).await?;
    outcome.versions = stage.shop.environment.versions();
    stage.start().await?;
    let mut floors = stage.fsync(if options.quick { 100 } else { 500 }).await?;
    let alerts = Alerts::warnings("Noise", 1_000);
    let schedule = Schedule::over(RATE, Duration::from_secs(if options.quick { 5 } else { 60 }));
    let load = |from: u64, schedule| {
        let alerts = alerts.clone();
        Load {
            address: ([127, 0, 0, 1], 0).into(),
            path: WEBHOOK,
            schedule,
            connections: 16,
            body: Arc::new(move |i| alerts.webhook(from + i, 1)),
        }
    };
    let warm_up = Schedule { rate: RATE, count: 400 };
    load::send(Load { address: stage.address()?, ..load(schedule.count, warm_up) }).await?;
    say(&format!("{} requests of one alert at {RATE} a second", schedule.count));
    let watch = Watch::begin(&stage)?;
    let profile = options.profile.begin("webhook", bus, stage.running()?.process().pid())?;
    let sent = load::send(Load { address: stage.address()?, ..load(0, schedule) }).await?;
    watch.used_until_now(&mut outcome);
    profile.end(&mut outcome).await;
    let total = schedule.count + warm_up.count;
    drain(&stage, total, Duration::from_secs(60)).await?;
    watch.end(&mut outcome, sent.start_instant);
    check_taken(options, &stage, bus, total, total, &mut outcome).await?;
    floors.merge(&stage.fsync(if options.quick { 100 } else { 500 }).await?);

    outcome.invalid.extend(pace::invalid(&sent.lag));
    outcome.require(sent.all_answered() && sent.accepted == schedule.count, || {
        format!("not every request was answered with 200: {:?} {:?}", sent.statuses, sent.refusals)
    });
    let summary = sent.latencies.summary();
    let (floor, slow_floor) = (floors.sum(&[(FSYNC, 1)]), floors.p99(&[(FSYNC, 1)]));
    outcome.rows = vec![
        Row::new("webhook answered, p50", summary.p50, "ms").goal(Goal::AtMost(3.0)).floor(floor),
        Row::new("webhook answered, p99", summary.p99, "ms").goal(Goal::AtMost(20.0)).floor(slow_floor),
        Row::new("webhook answered, p99.9", summary.p999, "ms"),
        Row::new("webhook answered, slowest", summary.max, "ms"),
    ];
    outcome.add_latencies("webhook answered", &sent.latencies);
    outcome.add_latencies("the generator's own lag", &sent.lag);
    let points = sent.per_second.iter().enumerate().map(|(second, count)| (second as f64, *count as f64)).collect();
    outcome.series.push(Series::new("alerts accepted", "a second", points));
    outcome.floors = floors.summaries();
    stage.close().await?;
    Ok(outcome)
}
