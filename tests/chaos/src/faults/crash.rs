//! A replica kills itself at a point of its code, each point once, and is started again.

use std::{
    os::unix::process::ExitStatusExt as _,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use eventpulse::crash_points::{CLOCK_AHEAD_S, CrashPoint, VARIABLE};
use eventpulse_testkit::eventpulse::Launcher;
use tokio::time::sleep;

use super::{
    Struck,
    rebuild::{lose_topics, stop_all},
};
use crate::stage::{Bus, Stage, subject};

const KILL: i32 = 9;
const PROBES: usize = 4;
/// For so many seconds alerts come, and for so many none.
const BURST: u64 = 3;
const PAUSE: u64 = 9;
/// By so much the clock is ahead of what is old: longer than anything is kept.
const OLD_S: u32 = 30 * 24 * 60 * 60;

/// `patience` is how long one point may take to be reached.
pub(super) async fn at_each_point(stage: &mut Stage, patience: Duration) -> Result<Struck> {
    // With a second replica the point might be another's to reach.
    for place in 1..stage.replicas.len() {
        stage.stop(place).await?;
    }
    let (has_broker, only_brokers) = (stage.bus == Bus::Kafka, stage.bus == Bus::Kafka && stage.short);
    let points = CrashPoint::all()
        .filter(|point| !point.is_of_the_old() && if point.is_of_a_broker() { has_broker } else { !only_brokers });
    let reached = kill_at(stage, points, patience, |launcher, _| launcher).await?;
    for place in 0..stage.replicas.len() {
        stage.start(place).await?;
    }
    Ok(Struck::times(reached))
}

/// Of a process for which everything is old, and which deletes nothing of the other services. What the log still held of it is gone, as it
/// is after its retention.
pub(super) async fn at_each_point_of_old(stage: &mut Stage, patience: Duration) -> Result<Struck> {
    let probes = stage.raise(PROBES).await?;
    stage.acted(&probes).await?;
    stage.resolve(&probes).await;
    stage.quiet().await?;
    stop_all(stage).await?;
    lose_topics(stage).await?;
    let points = CrashPoint::all().filter(CrashPoint::is_of_the_old);
    let old = |launcher: Launcher, point: &CrashPoint| {
        launcher.services(&[owner(point)]).env(CLOCK_AHEAD_S, &OLD_S.to_string())
    };
    let reached = kill_at(stage, points, patience, old).await?;
    for place in 0..stage.replicas.len() {
        stage.start(place).await?;
    }
    let took = stage.probe(PROBES).await?;
    Ok(Struck::times(reached).recovered("alert to effect", took))
}

/// The service that reaches a point of what is old: it is for one kind, but that Actions alone are let go of.
fn owner(point: &CrashPoint) -> &'static str {
    match point.name().rsplit('/').next() {
        Some("AlertGroup") => "rules",
        Some("Incident") => "incidents",
        Some("Notification") => "notify",
        _ => "actions",
    }
}

/// The first replica, at each of these points; it is gone afterwards. Gives how many there are.
async fn kill_at(
    stage: &mut Stage,
    points: impl Iterator<Item = CrashPoint>,
    patience: Duration,
    with: impl Fn(Launcher, &CrashPoint) -> Launcher,
) -> Result<usize> {
    let program = subject()?;
    let (mut missed, mut reached) = (Vec::new(), 0);
    for point in points {
        stage.kill(0);
        let launcher = stage.replicas[0].launcher.clone().program(&program).env(VARIABLE, &point.name());
        let mut launcher = with(launcher, &point);
        if stage.bus == Bus::Kafka {
            // The one that was killed before is missed after 6 s instead of 10: the least that the broker allows.
            launcher = launcher.arg("--kafka-config=session.timeout.ms=6000");
        }
        stage.spawn(0, launcher)?;
        let began = Instant::now();
        let status = loop {
            // What is only done when there is little else to do has its time between two bursts.
            stage.senders.pause(began.elapsed().as_secs() % (BURST + PAUSE) >= BURST);
            match stage.process(0)?.process().exited() {
                Some(status) => break Some(status),
                None if began.elapsed() >= patience => break None,
                None => sleep(Duration::from_millis(10)).await,
            }
        };
        match status {
            Some(status) => {
                let lines = || stage.process(0).map(|process| process.process().last_lines()).unwrap_or_default();
                ensure!(status.signal() == Some(KILL), "{}: it ended by itself ({status}): {}", point.name(), lines());
                reached += 1;
            }
            None => missed.push(point.name()),
        }
    }
    stage.senders.pause(false);
    stage.kill(0);
    ensure!(missed.is_empty(), "never reached within {} s each: {}", patience.as_secs(), missed.join(", "));
    Ok(reached)
}
