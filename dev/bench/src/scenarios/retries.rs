//! What retries add: while the load lasts every fifth call to a target is answered with 503, every fifth message with 500, and yet no more
//! calls are made than a tenth above what was asked for. What had to wait for it goes when nothing fails any more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use eventpulse_testkit::{
    proxy::{Fault, When},
    sink::Answer,
};
use jiff::Timestamp;

use super::{
    patches::{Patches, target, target_of_patch},
    waiting::until_none_is_left,
};
use crate::{
    alerts::Alerts,
    load::{self, Load},
    outcome::{Bus, Goal, Outcome, Row},
    pace::{self, Schedule},
    run::Options,
    stage::{HOOK, Stage, WEBHOOK, say},
    watch::{Watch, metric},
};

/// Alerts a second.
const RATE: f64 = 5.0;
/// One of so many fails.
const ONE_OF: u64 = 5;
const MOST: f64 = 1.1;
/// When nothing has come to its end for so long, nothing will.
const STUCK: Duration = Duration::from_secs(60);

pub(super) async fn play(options: &Options, bus: Bus) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("retries", Some(bus), Timestamp::now());
    let schedule = Schedule::over(RATE, Duration::from_secs(if options.quick { 10 } else { 180 }));
    let mut stage = Stage::open(options, "retries", bus, false).await?;
    outcome.versions = stage.shop.environment.versions();
    stage.add_targets(schedule.count as usize).await?;
    let (proxy, launcher) = stage.behind_a_proxy().await?;
    stage.start_with(launcher).await?;
    let is_target = |path: &str| path.rsplit('/').next().is_some_and(|name| target(name).is_some());
    let calls = AtomicU64::new(0);
    let fifth = When::patch()
        .is(move |call| is_target(&call.path) && calls.fetch_add(1, Ordering::Relaxed) % ONE_OF == ONE_OF - 1);
    let failing = proxy.rule("every fifth patch", fifth, Fault::Answer(503));
    let answers = (0..schedule.count * 4).map(|i| Answer::status(if i % ONE_OF == ONE_OF - 1 { 500 } else { 200 }));
    stage.shop.sink.script(HOOK, answers);
    say(&format!("{} alerts, {RATE} a second; one of {ONE_OF} calls fails", schedule.count));
    let watch = Watch::begin(&stage)?;
    let mut patches = Patches::from_now(&stage);
    let alerts = Alerts::warnings("CPUHigh", schedule.count);
    let body = Arc::new(move |number| alerts.webhook(number, 1));
    let sent = load::send(Load { address: stage.address()?, path: WEBHOOK, schedule, connections: 8, body }).await?;
    let while_load = |stage: &Stage| {
        let calls =
            proxy.writes().iter().filter(|write| write.call.method == "PATCH" && is_target(&write.call.path)).count();
        (calls as f64, stage.shop.sink.received_on(HOOK).len() as f64)
    };
    let (calls_then, messages_then) = while_load(&stage);
    failing.remove();
    stage.shop.sink.end_script(HOOK);
    let works_again = Instant::now();
    until_all_is_over(&stage, &mut patches, schedule.count).await?;
    let through_s = works_again.elapsed().as_secs_f64();
    watch.used_until_now(&mut outcome);
    watch.end(&mut outcome, sent.start_instant);
    outcome.invalid.extend(pace::invalid(&sent.lag));
    outcome.require(sent.all_answered(), || format!("{:?} {:?}", sent.statuses, sent.refusals));
    let done = patches.writes.iter().filter_map(target_of_patch).count() as u64;
    let told = stage.shop.sink.count_by_key().len() as u64;
    outcome.require(patches.first.len() as u64 == schedule.count && done == schedule.count, || {
        format!("{done} patches took effect on {} of {} targets", patches.first.len(), schedule.count)
    });
    outcome.require(told >= schedule.count, || format!("{told} of {} incidents were told to people", schedule.count));
    let (calls, messages) = while_load(&stage);
    let offered = schedule.count as f64;
    let times = |what: &str, then: f64, all: f64| {
        Row::new(format!("{what} for one that was asked for, while the load lasted"), then / offered, "×")
            .goal(Goal::AtMost(MOST))
            .note(format!("{then} for {offered}; {all} until all were through, {:.2} ×", all / offered))
    };
    outcome.rows = vec![
        times("calls to targets", calls_then, calls),
        times("messages sent", messages_then, messages),
        Row::new("all are through, after nothing fails any more", through_s, "s"),
    ];
    stage.close().await?;
    Ok(outcome)
}

async fn until_all_is_over(stage: &Stage, patches: &mut Patches, count: u64) -> anyhow::Result<()> {
    until_none_is_left(STUCK, async || {
        patches.read()?;
        let resolved = metric(stage.running()?, "eventpulse_incidents", "Resolved").await as u64;
        let received = stage.shop.sink.received_on(HOOK);
        let told = received.iter().filter(|message| message.answered == Some(200)).count() as u64;
        let left = [patches.first.len() as u64, resolved, told].map(|done| count.saturating_sub(done) as usize);
        Ok(left.iter().sum())
    })
    .await
}
