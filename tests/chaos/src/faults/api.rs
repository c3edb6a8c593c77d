//! The API server and what is before it; and the receiver of messages.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use eventpulse_testkit::{
    proxy::{Fault as ProxyFault, Rule, When},
    sink::Answer,
};
use tokio::time::sleep;

use super::Struck;
use crate::{observe::etcd, setting::Setting, stage::Stage};

/// Nothing goes on for so long after a cut.
const CUT: Duration = Duration::from_secs(1);
/// As late as the issue of a lost packet can be.
const LATE: Duration = Duration::from_secs(30);
const PROBES: usize = 4;

/// Every n-th of them.
fn every(n: usize, when: When) -> When {
    let count = Arc::new(AtomicUsize::new(0));
    when.is(move |_| count.fetch_add(1, Ordering::SeqCst) % n == n - 1)
}

/// Calls but for watches, which have a fault of their own.
fn call() -> When {
    When::any().is(|call| !call.query.contains("watch=true") && !Setting::refuses(call))
}

fn write() -> When {
    When::write().is(|call| !Setting::refuses(call))
}

fn patch() -> When {
    When::patch().path_contains("/deployments/").is(|call| !Setting::refuses(call))
}

/// This fault before every replica, for a while; then how soon things go on.
async fn strike(stage: &mut Stage, lasts: Duration, when: impl Fn() -> When, fault: ProxyFault) -> Result<Struck> {
    let rules: Vec<Rule> =
        stage.replicas.iter().map(|replica| replica.proxy.rule("fault", when(), fault.clone())).collect();
    sleep(lasts).await;
    rules.iter().for_each(Rule::remove);
    let took = stage.probe(PROBES).await?;
    let times = rules.iter().map(Rule::matched).sum();
    anyhow::ensure!(times > 0, "no call was struck");
    Ok(Struck::times(times).recovered("alert to effect", took))
}

pub(super) async fn closed(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    strike(stage, lasts, || every(7, call()), ProxyFault::Close).await
}

pub(super) async fn lost_answers(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    strike(stage, lasts, || every(5, write()), ProxyFault::DropAnswer).await
}

pub(super) async fn gateway_timeouts(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    strike(stage, lasts, || every(5, write()), ProxyFault::ReplaceAnswer(504)).await
}

pub(super) async fn answers(stage: &mut Stage, lasts: Duration, status: u16) -> Result<Struck> {
    let fault = if status == 429 { ProxyFault::AnswerRetryAfter(429, 1) } else { ProxyFault::Answer(status) };
    strike(stage, lasts, || every(3, call()), fault).await
}

pub(super) async fn late_patches(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    let struck = strike(stage, lasts, || every(2, patch()), ProxyFault::Delay(LATE)).await?;
    // The last of them is still on its way.
    sleep(LATE).await;
    Ok(struck)
}

pub(super) async fn twice(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    strike(stage, lasts, patch, ProxyFault::Twice).await
}

/// After one write, two, three and so on, whatever is under way then is cut off, and nothing gets through for a while.
pub(super) async fn cut_after_writes(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    let until = Instant::now() + lasts;
    let mut times = 0;
    let mut n = 0;
    while Instant::now() < until {
        n = n % 12 + 1;
        let place = times % stage.replicas.len();
        let count = Arc::new(AtomicUsize::new(0));
        let after = {
            let count = Arc::clone(&count);
            When::any().is(move |call| match call.method.as_str() {
                "GET" => count.load(Ordering::SeqCst) >= n,
                _ => count.fetch_add(1, Ordering::SeqCst) >= n,
            })
        };
        let rule = stage.replicas[place].proxy.rule("cut", after, ProxyFault::Close);
        let met = Instant::now() + Duration::from_secs(10);
        while rule.matched() == 0 && Instant::now() < met {
            sleep(Duration::from_millis(10)).await;
        }
        sleep(CUT).await;
        rule.remove();
        times += usize::from(rule.matched() > 0);
    }
    let took = stage.probe(PROBES).await?;
    anyhow::ensure!(times > 0, "nothing was cut");
    Ok(Struck::times(times).recovered("alert to effect", took))
}

pub(super) async fn frozen_watches(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    stage.replicas.iter().for_each(|replica| replica.proxy.freeze_watches(true));
    let meanwhile = stage.probe(PROBES).await?;
    sleep(lasts).await;
    stage.replicas.iter().for_each(|replica| replica.proxy.freeze_watches(false));
    let took = stage.probe(PROBES).await?;
    Ok(Struck::times(stage.replicas.len()).recovered("meanwhile", meanwhile).recovered("alert to effect", took))
}

pub(super) async fn receiver_away(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    let before = stage.shop.sink.received().len();
    for answer in [Answer::hang(), Answer::close(), Answer::status(503), Answer::status(429).header("retry-after", "1")]
    {
        stage.receiver(answer);
        sleep(lasts / 4).await;
    }
    let meanwhile = stage.probe(PROBES).await?;
    let times = stage.shop.sink.received().len() - before;
    anyhow::ensure!(times > 0, "no message was sent");
    Ok(Struck::times(times).recovered("alert to effect meanwhile", meanwhile))
}

pub(super) async fn server_away(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    stage.shop.environment.plane_mut().stop_apiserver().await;
    sleep(lasts).await;
    stage.shop.environment.plane_mut().start_apiserver().await?;
    let took = stage.probe(PROBES).await?;
    Ok(Struck::times(1).recovered("the API server is back", took))
}

pub(super) async fn etcd_away(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    let etcd = stage.shop.environment.plane().etcd().context("there is no etcd")?;
    etcd.freeze();
    sleep(lasts).await;
    etcd.thaw();
    let took = stage.probe(PROBES).await?;
    Ok(Struck::times(1).recovered("etcd is back", took))
}

pub(super) async fn compaction(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    // A server that starts anew knows no revision from before; and etcd has none any more either.
    stage.shop.environment.plane_mut().stop_apiserver().await;
    sleep(lasts).await;
    etcd::compact(stage.shop.environment.plane().etcd_address()).await?;
    stage.shop.environment.plane_mut().start_apiserver().await?;
    let took = stage.probe(PROBES).await?;
    Ok(Struck::times(1).recovered("the API server is back", took))
}
