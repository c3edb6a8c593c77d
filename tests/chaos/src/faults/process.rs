//! Replicas are killed, stopped, frozen, and come and go.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use eventpulse_testkit::proxy::{Fault as ProxyFault, When, Write};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tokio::time::sleep;

use super::{HANDED_OVER, Struck, TAKEN_OVER};
use crate::{setting::Setting, stage::Stage};

/// How a replica goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Killed,
    Stopped,
}

/// So many probes meet every replica's partitions.
const PROBES: usize = 8;
/// A rule's name.
const HELD: &str = "held";

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
        let (wanted, what) = match end {
            End::Killed => (TAKEN_OVER, "another takes over after kill -9"),
            End::Stopped => (HANDED_OVER, "another takes over after an ordered stop"),
        };
        stage.probe(PROBES).await?;
        struck = struck.within(wanted, what, began.elapsed());
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
        let held = stage.replicas[place].proxy.limited_rule(HELD, patch, ProxyFault::Hold, 0, 1);
        held.wait_for(1, Duration::from_secs(30)).await.with_context(|| format!("of r{}", place + 1))?;
        stage.process(place)?.process().freeze();
        let began = Instant::now();
        stage.send_to_all_but(Some(place));
        stage.until("the Action of the held patch is seen", |stage| held_action(stage, place).is_ok()).await?;
        let (action, sender) = held_action(stage, place)?;
        stage
            .until("another goes on with the action whose patch is held", |stage| goes_on(stage, &action, &sender))
            .await?;
        struck = struck.recovered("another goes on with its action", began.elapsed());
        stage.probe(PROBES).await?;
        struck = struck.recovered("and with all that was its", began.elapsed());
        sleep(lasts.saturating_sub(began.elapsed())).await;
        anyhow::ensure!(held_patch(stage, place)?.upstream.is_none(), "the patch that was held has arrived too early");
        held.release();
        sleep(Duration::from_millis(500)).await;
        stage.process(place)?.process().thaw();
        let woken = Instant::now();
        stage.send_to_all_but(None);
        held.remove();
        stage.ready(place).await?;
        stage.probe(PROBES).await?;
        struck.times += 1;
        struck = struck.recovered("awake again", woken.elapsed());
    }
    Ok(struck)
}

fn held_patch(stage: &Stage, place: usize) -> Result<Write> {
    let writes = stage.replicas[place].proxy.writes();
    writes.into_iter().rfind(|write| write.rule.as_deref() == Some(HELD)).context("no patch is held")
}

/// Whose patch is held: the Action, and who has planned it. A target's actions run one after the other, so of those that its annotation
/// names one alone has not ended.
fn held_action(stage: &Stage, place: usize) -> Result<(String, Value)> {
    let patch = held_patch(stage, place)?.call.body.to_string();
    let actions = stage.unfinished_actions();
    let action =
        actions.into_iter().find(|name| patch.contains(name)).context("no Action belongs to the held patch")?;
    let sender = plans(stage, &action).last().map(|plan| plan["sender"].clone()).context("it has no plan")?;
    Ok((action, sender))
}

/// Whether another one has ended it, or planned it anew.
fn goes_on(stage: &Stage, action: &str, sender: &Value) -> bool {
    !stage.unfinished_actions().contains(action) || plans(stage, action).iter().any(|plan| plan["sender"] != *sender)
}

fn plans(stage: &Stage, action: &str) -> Vec<Value> {
    let actions = stage.etcd.objects("actions");
    let action = actions.iter().find(|object| object["metadata"]["name"] == action);
    let recorded = action.and_then(|action| action["status"]["plans"].as_array()).filter(|plans| !plans.is_empty());
    let first = || action.map(|action| action["spec"]["plan"].clone()).into_iter().collect();
    recorded.cloned().unwrap_or_else(first)
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
