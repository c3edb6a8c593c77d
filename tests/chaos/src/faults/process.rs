//! Replicas are killed, stopped, frozen, and come and go.

use std::time::{Duration, Instant};

use anyhow::Result;
use eventpulse_testkit::proxy::{Fault as ProxyFault, When};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::sleep;

use super::Struck;
use crate::{setting::Setting, stage::Stage};

/// How a replica goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Killed,
    Stopped,
}

/// So many probes meet every replica's partitions.
const PROBES: usize = 8;

pub(super) async fn nothing(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    sleep(lasts).await;
    let took = stage.probe(PROBES).await?;
    Ok(Struck::times(0).recovered("alert to effect", took))
}

pub(super) async fn kill_at_random(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    let until = Instant::now() + lasts;
    let mut random = StdRng::seed_from_u64(stage.next_seed());
    let mut times = 0;
    while Instant::now() < until {
        let place = random.random_range(0..stage.replicas.len());
        // Now and then before it was ready.
        sleep(Duration::from_millis(random.random_range(200..4_000))).await;
        stage.kill(place);
        times += 1;
        stage.spawn(place, stage.replicas[place].launcher.clone())?;
    }
    Ok(Struck::times(times))
}

pub(super) async fn take_over(stage: &mut Stage, lasts: Duration, end: End) -> Result<Struck> {
    let mut struck = Struck::times(0);
    for place in 0..stage.replicas.len() {
        let began = Instant::now();
        match end {
            End::Killed => stage.kill(place),
            End::Stopped => stage.stop(place).await?,
        }
        let what = match end {
            End::Killed => "another takes over after kill -9",
            End::Stopped => "another takes over after an ordered stop",
        };
        stage.probe(PROBES).await?;
        struck = struck.recovered(what, began.elapsed());
        struck.times += 1;
        sleep(lasts).await;
        stage.start(place).await?;
    }
    Ok(struck)
}

/// One that has a patch under way is frozen; when the other has taken over the patch arrives, and then it wakes up.
pub(super) async fn freeze(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    let mut struck = Struck::times(0);
    for place in 0..stage.replicas.len() {
        let patch = When::patch_of_replicas().is(|call| !Setting::refuses(call));
        let held = stage.replicas[place].proxy.limited_rule("held", patch, ProxyFault::Hold, 0, 1);
        let until = Instant::now() + Duration::from_secs(30);
        while held.matched() == 0 {
            anyhow::ensure!(Instant::now() < until, "no patch was sent by r{} within 30 s", place + 1);
            sleep(Duration::from_millis(5)).await;
        }
        stage.process(place)?.process().freeze();
        let began = Instant::now();
        stage.send_to_all_but(Some(place));
        sleep(lasts).await;
        held.release();
        sleep(Duration::from_millis(500)).await;
        stage.process(place)?.process().thaw();
        stage.send_to_all_but(None);
        held.remove();
        stage.ready(place).await?;
        stage.probe(PROBES).await?;
        struck.times += 1;
        struck = struck.recovered("awake again", began.elapsed().saturating_sub(lasts));
    }
    Ok(struck)
}

pub(super) async fn join_and_leave(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    let until = Instant::now() + lasts;
    let place = stage.add_replica().await?;
    let mut times = 1;
    while Instant::now() < until {
        sleep(Duration::from_secs(5)).await;
        stage.stop(place).await?;
        sleep(Duration::from_secs(5)).await;
        stage.start(place).await?;
        times += 1;
    }
    stage.stop(place).await?;
    stage.replicas.pop();
    let took = stage.probe(PROBES).await?;
    Ok(Struck::times(times).recovered("alert to effect", took))
}
