//! A replica kills itself at a point of its code, each point once, and is started again.

use std::{
    os::unix::process::ExitStatusExt as _,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use eventpulse::crash_points::{CrashPoint, VARIABLE};
use tokio::time::sleep;

use super::Struck;
use crate::stage::{Bus, Stage, subject};

const KILL: i32 = 9;
/// For so many seconds alerts come, and for so many none.
const BURST: u64 = 3;
const PAUSE: u64 = 9;

/// `patience` is how long one point may take to be reached.
pub(super) async fn at_each_point(stage: &mut Stage, patience: Duration) -> Result<Struck> {
    let program = subject()?;
    // With a second replica the point might be another's to reach.
    for place in 1..stage.replicas.len() {
        stage.stop(place).await?;
    }
    let (mut missed, mut reached) = (Vec::new(), 0);
    let has_broker = stage.bus == Bus::Kafka;
    for point in CrashPoint::all().filter(|point| has_broker || !point.is_of_a_broker()) {
        stage.kill(0);
        let launcher = stage.replicas[0].launcher.clone().program(&program).env(VARIABLE, &point.name());
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
    for place in 0..stage.replicas.len() {
        stage.start(place).await?;
    }
    ensure!(missed.is_empty(), "never reached within {} s each: {}", patience.as_secs(), missed.join(", "));
    Ok(Struck::times(reached))
}
