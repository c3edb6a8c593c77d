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
    proxy::{Fault as ProxyFault, Rule, When, Write},
    sink::Answer,
};
use jiff::Timestamp;
use tokio::time::sleep;

use super::{BREAKER_OPENS, SERVER_BACK, Struck};
use crate::{observe::etcd, setting::Setting, stage::Stage};

/// Nothing goes on for so long after a cut.
const CUT: Duration = Duration::from_secs(1);
/// Longer than a write is waited for.
const SLOW: Duration = Duration::from_secs(12);
/// As late as the issue of a lost packet can be.
const LATE: Duration = Duration::from_secs(30);
const PROBES: usize = 4;
/// So long it is waited for breakers that are only to be open.
const BREAKERS_OPEN: Duration = Duration::from_secs(30);
/// A rule's name.
const REFUSED: &str = "refused by itself";

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

/// The admission webhook of EventPulse's own kinds is away, and then so slow that a write takes effect when its sender has given it up.
pub(super) async fn webhook_away(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    let own = || write().path_contains("/apis/eventpulse.io/");
    let away = strike(stage, lasts / 2, own, ProxyFault::Answer(500)).await?;
    let slow = strike(stage, lasts / 2, own, ProxyFault::Delay(SLOW)).await?;
    sleep(SLOW).await;
    Ok(away.and(slow))
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

/// After one write, two, three and so on every connection is cut, with whatever is under way on it, and nothing gets through for a while.
pub(super) async fn cut_after_writes(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    let until = Instant::now() + lasts;
    let (mut cuts, mut connections, mut n) = (0, 0, 0);
    while Instant::now() < until {
        n = n % 12 + 1;
        let proxy = &stage.replicas[cuts % stage.replicas.len()].proxy;
        let writes = proxy.rule("n-th", When::write(), ProxyFault::Count);
        let met = Instant::now() + Duration::from_secs(10);
        while writes.matched() < n && Instant::now() < met {
            sleep(Duration::from_millis(1)).await;
        }
        writes.remove();
        let closed = proxy.rule("closed", When::any(), ProxyFault::Close);
        connections += proxy.cut();
        cuts += 1;
        sleep(CUT).await;
        closed.remove();
    }
    let took = stage.probe(PROBES).await?;
    anyhow::ensure!(connections > 0, "nothing was cut");
    Ok(Struck::times(connections).recovered("alert to effect", took))
}

/// Every PATCH of a target is refused by itself, until in every replica a breaker as it comes is open.
pub(super) async fn breakers(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    let (rules, took) = open_breakers(stage, lasts).await?;
    rules.iter().for_each(Rule::remove);
    let struck = Struck::times(rules.iter().map(Rule::matched).sum());
    Ok(took.into_iter().fold(struck, |struck, took| {
        struck.within(BREAKER_OPENS, "a breaker opens, from the first refused PATCH", took)
    }))
}

/// The rules that refuse go on; and how long it took in each replica from its first patch that was refused.
async fn open_breakers(stage: &Stage, patience: Duration) -> Result<(Vec<Rule>, Vec<Duration>)> {
    let proxies = || stage.replicas.iter().map(|replica| &replica.proxy);
    let rules: Vec<Rule> = proxies().map(|proxy| proxy.rule(REFUSED, patch(), ProxyFault::Answer(503))).collect();
    let (since, began) = (Timestamp::now(), Instant::now());
    let mut opened: Vec<Option<Timestamp>> = vec![None; stage.replicas.len()];
    while opened.contains(&None) {
        anyhow::ensure!(began.elapsed() < patience, "no breaker in every replica within {} s", patience.as_secs());
        for (place, opened) in opened.iter_mut().enumerate().filter(|(_, opened)| opened.is_none()) {
            let open = stage.process(place)?.metric("eventpulse_breakers", "state=\"open\"").await;
            *opened = (open > 0.0).then(Timestamp::now);
        }
        sleep(Duration::from_millis(20)).await;
    }
    let mut took = Vec::new();
    for (proxy, opened) in proxies().zip(opened.into_iter().flatten()) {
        let is_refused = |write: &Write| {
            write.at >= since && write.rule.as_deref() == Some(REFUSED) && Setting::is_guarded(&write.call)
        };
        let first = proxy.writes().into_iter().find(is_refused).context("a breaker opened, and nothing was refused")?;
        took.push(Duration::try_from(opened.duration_since(first.at)).unwrap_or_default());
    }
    Ok((rules, took))
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

/// While breakers are open already: what they hold back is not to wait for them when it is there again.
pub(super) async fn server_away(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    let (rules, _) = open_breakers(stage, BREAKERS_OPEN).await?;
    stage.shop.environment.plane_mut().stop_apiserver().await;
    rules.iter().for_each(Rule::remove);
    sleep(lasts).await;
    stage.shop.environment.plane_mut().start_apiserver().await?;
    let took = stage.probe(PROBES).await?;
    Ok(Struck::times(1).within(SERVER_BACK, "the API server is back", took))
}

pub(super) async fn etcd_away(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    let etcd = stage.shop.environment.plane().etcd().context("there is no etcd")?;
    etcd.freeze();
    sleep(lasts).await;
    etcd.thaw();
    let took = stage.probe(PROBES).await?;
    Ok(Struck::times(1).recovered("etcd is back", took))
}

pub(super) async fn etcd_stopped(stage: &mut Stage, lasts: Duration) -> Result<Struck> {
    stage.shop.environment.plane_mut().stop_etcd().await;
    sleep(lasts).await;
    stage.shop.environment.plane_mut().start_etcd().await?;
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
    Ok(Struck::times(1).within(SERVER_BACK, "the API server is back", took))
}
