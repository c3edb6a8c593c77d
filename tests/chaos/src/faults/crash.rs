//! A replica kills itself at a point of its code, each point once, and is started again.

use std::{
    os::unix::process::ExitStatusExt as _,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use eventpulse::crash_points::{CLOCK_AHEAD_S, CrashPoint, VARIABLE};
use eventpulse_testkit::eventpulse::Launcher;
use tokio::{task::JoinSet, time::sleep};

use super::{
    Struck,
    rebuild::{lose_topics, stop_all},
};
use crate::{
    setting::Kind,
    stage::{Bus, Probes, Stage, subject},
};

const KILL: i32 = 9;
const PROBES: usize = 4;
/// Alerts come for so long, and none for so long after the first burst.
const BURST: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_secs(9);
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
    let mut fresh = Fresh::default();
    let reached = kill_at(stage, points, patience, |launcher, _| launcher, Some(&mut fresh)).await?;
    for place in 0..stage.replicas.len() {
        stage.start(place).await?;
    }
    fresh.resolve(stage).await;
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
    let reached = kill_at(stage, points, patience, old, None).await?;
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

/// Alerts that nothing is known of yet: the load comes back to the groups that there are, and a broker's points take so long that soon there
/// are all of them. One is acted on, and one is refused, for what follows from that happens to few of the load.
#[derive(Default)]
struct Fresh {
    probes: Vec<Probes>,
    sending: JoinSet<()>,
}

impl Fresh {
    /// One more of each, to whoever is there to take it.
    fn raise(&mut self, stage: &mut Stage) -> Result<()> {
        for kind in [Kind::Probe, Kind::RefusedProbe] {
            let probes = stage.probes(kind, 1)?;
            self.sending.spawn(stage.tell(&probes, None));
            self.probes.push(probes);
        }
        Ok(())
    }

    /// All of them have ended.
    async fn resolve(mut self, stage: &Stage) {
        while self.sending.join_next().await.is_some() {}
        for probes in &self.probes {
            stage.resolve(probes).await;
        }
    }
}

/// Bursts of alerts, and a pause after each. What is only done when there is little else to do has its time in one of them: each is twice as
/// long as the last, for what processes that were killed have left is done first.
struct Bursts {
    /// When the last one began.
    began: Instant,
    /// When the next one begins.
    next: Instant,
    /// How long nothing comes after that.
    pause: Duration,
}

impl Bursts {
    /// The first one begins at once.
    fn new() -> Self {
        let now = Instant::now();
        Self { began: now, next: now, pause: PAUSE }
    }

    /// True when one begins.
    fn begins(&mut self) -> bool {
        let now = Instant::now();
        if now < self.next {
            return false;
        }
        *self = Self { began: now, next: now + BURST + self.pause, pause: 2 * self.pause };
        true
    }

    fn is_pause(&self) -> bool {
        self.began.elapsed() >= BURST
    }
}

/// The first replica, at each of these points; it is gone afterwards. Gives how many there are.
async fn kill_at(
    stage: &mut Stage,
    points: impl Iterator<Item = CrashPoint>,
    patience: Duration,
    with: impl Fn(Launcher, &CrashPoint) -> Launcher,
    mut fresh: Option<&mut Fresh>,
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
        let (began, mut bursts) = (Instant::now(), Bursts::new());
        let status = loop {
            if bursts.begins()
                && let Some(fresh) = &mut fresh
            {
                fresh.raise(stage)?;
            }
            stage.senders.pause(bursts.is_pause());
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
