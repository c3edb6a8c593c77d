//! Pools apart: a receiver that hangs, and a target API that hangs, leave everybody else as fast as they were. The same load is played
//! four times, half of it of one rule and half of another; what the second rule is about is well, then its receiver hangs, then its
//! targets do, then it is well again. Measured is the first rule.

use std::{collections::HashSet, ops::Range, sync::Arc, time::Duration};

use anyhow::Context as _;
use eventpulse_e2e::root;
use eventpulse_testkit::{
    proxy::{Fault, Proxy, When},
    sink::{Answer, Received},
};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    patches::{Patches, target},
    waiting::until_none_is_left,
};
use crate::{
    alerts::Alerts,
    latencies::Latencies,
    load::{self, Load, Sent},
    outcome::{Bus, Goal, Outcome, Row},
    pace::{self, Schedule},
    run::Options,
    stage::{HOOK, Stage, WEBHOOK, say},
    watch::{Watch, metric},
};

/// Alerts a second of each of the two rules.
const RATE: f64 = 3.0;
const RATIO: f64 = 1.2;
/// The parts in which nothing is wrong may differ by this much.
const APART_MAX: f64 = 1.5;
const STUCK: Duration = Duration::from_secs(30);
/// What was in trouble is tried again after the breaker's half a minute at the latest.
const STUCK_AFTER_TROUBLE: Duration = Duration::from_secs(90);
/// Where messages of the rule in trouble go.
const TROUBLE_HOOK: &str = "/services/T000/B000/trouble";

/// What is wrong with the second rule.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    None,
    Receiver,
    Target,
}

impl Trouble {
    fn named(self) -> &'static str {
        match self {
            Trouble::None => "all is well",
            Trouble::Receiver => "the other rule's receiver hangs",
            Trouble::Target => "the other rule's targets hang",
        }
    }
}

/// One of the two distributions of a part.
type Of = fn(&Part) -> &Latencies;

/// One part of the play and what came of it.
struct Part {
    trouble: Trouble,
    acted: Latencies,
    told: Latencies,
    /// From the end of the trouble until everything of the second rule was acted on and told.
    through: Duration,
}

pub(super) async fn play(options: &Options, bus: Bus) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("apart", Some(bus), Timestamp::now());
    let span = Duration::from_secs(if options.quick { 10 } else { 180 });
    let schedule = Schedule::over(RATE, span);
    // In this order, so that what grows with time is not taken for what the trouble does.
    let troubles = [Trouble::None, Trouble::Receiver, Trouble::Target, Trouble::None];
    let warm_up = 20;
    let mut stage = Stage::open(options, "apart", bus, false).await?;
    outcome.versions = stage.shop.environment.versions();
    stage.add_targets((warm_up + schedule.count * 2 * troubles.len() as u64) as usize).await?;
    let apply = rules(&stage.shop.sink.url(TROUBLE_HOOK))?;
    stage.shop.environment.plane().kubectl_with(&["apply", "--server-side", "-f", "-"], &apply).await?;
    let (proxy, launcher) = stage.behind_a_proxy().await?;
    stage.start_with(launcher).await?;
    let mut run = Run { stage, proxy, schedule, next: 0 };
    run.warm_up(warm_up).await?;
    let watch = Watch::begin(&run.stage)?;
    let mut parts = Vec::new();
    for trouble in troubles {
        say(&format!("{} alerts, {RATE} a second of each of two rules: {}", schedule.count * 2, trouble.named()));
        parts.push(run.part(trouble, &mut outcome).await?);
    }
    watch.used_until_now(&mut outcome);
    watch.end(&mut outcome, std::time::Instant::now());
    rows(&mut outcome, &parts);
    run.stage.close().await?;
    Ok(outcome)
}

struct Run {
    stage: Stage,
    proxy: Proxy,
    schedule: Schedule,
    /// The first target that nobody has had.
    next: u64,
}

impl Run {
    fn take(&mut self, count: u64) -> Range<u64> {
        let from = self.next;
        self.next += count;
        from..self.next
    }

    async fn send(&self, alerts: &str, targets: &Range<u64>, schedule: Schedule) -> anyhow::Result<Sent> {
        let (alerts, from) = (Alerts::warnings(alerts, u64::MAX), targets.start);
        let body = Arc::new(move |number| alerts.webhook(from + number, 1));
        load::send(Load { address: self.stage.address()?, path: WEBHOOK, schedule, connections: 8, body }).await
    }

    async fn warm_up(&mut self, count: u64) -> anyhow::Result<()> {
        let (targets, mut patches) = (self.take(count), Patches::from_now(&self.stage));
        self.send("CPUHigh", &targets, Schedule { rate: RATE, count }).await?;
        patches.wait(&self.stage, targets.clone(), STUCK).await?;
        anyhow::ensure!(patches.of(&targets) as u64 == count, "the warm-up was not acted on");
        Ok(())
    }

    async fn part(&mut self, trouble: Trouble, outcome: &mut Outcome) -> anyhow::Result<Part> {
        let (own, others) = (self.take(self.schedule.count), self.take(self.schedule.count));
        let mut patches = Patches::from_now(&self.stage);
        let hung = others.clone();
        match trouble {
            Trouble::None => {}
            Trouble::Receiver => self.stage.shop.sink.always(TROUBLE_HOOK, Some(Answer::hang())),
            Trouble::Target => {
                let is_hung = move |path: &str| {
                    let name = path.rsplit("/deployments/").next().unwrap_or_default();
                    target(name.split('/').next().unwrap_or_default()).is_some_and(|target| hung.contains(&target))
                };
                self.proxy.rule("a hung target", When::any().is(move |call| is_hung(&call.path)), Fault::Hang);
            }
        }
        let (sent, beside) =
            tokio::try_join!(self.send("CPUHigh", &own, self.schedule), self.send("Trouble", &others, self.schedule))?;
        patches.wait(&self.stage, own.clone(), STUCK).await?;
        self.until_told(&own, HOOK, STUCK).await?;
        let told = self.told(&own, HOOK);
        for sent in [&sent, &beside] {
            outcome.invalid.extend(pace::invalid(&sent.lag));
            outcome.require(sent.all_answered(), || format!("{:?} {:?}", sent.statuses, sent.refusals));
        }
        let (acted, wanted) = (patches.of(&own) as u64, self.schedule.count);
        outcome.require(acted == wanted && told.len() as u64 == wanted, || {
            format!("while {}: {acted} of {wanted} targets were patched, {} messages came", trouble.named(), told.len())
        });
        self.proxy.clear();
        self.stage.shop.sink.always(TROUBLE_HOOK, None);
        // What hung is tried again now, and is not to meet what comes next.
        let ended = Instant::now();
        patches.wait(&self.stage, others.clone(), STUCK_AFTER_TROUBLE).await?;
        self.until_told(&others, TROUBLE_HOOK, STUCK_AFTER_TROUBLE).await?;
        let through = ended.elapsed();
        self.until_recorded(STUCK_AFTER_TROUBLE).await?;
        let took = |number: u64, at: Timestamp| Duration::try_from(at.duration_since(sent.intended(number))).ok();
        let of = |times: &mut dyn Iterator<Item = (u64, Timestamp)>| {
            Latencies::of(times.filter_map(|(target, at)| took(target.checked_sub(own.start)?, at)))
        };
        let mut acted =
            patches.first.iter().map(|(target, at)| (*target, *at)).filter(|(target, _)| own.contains(target));
        Ok(Part { trouble, acted: of(&mut acted), told: of(&mut told.into_iter()), through })
    }

    /// When people were told on this path of the alerts of these targets: the message names the target.
    fn told(&self, targets: &Range<u64>, hook: &str) -> Vec<(u64, Timestamp)> {
        let of = |message: &Received| {
            let text = String::from_utf8_lossy(&message.body);
            let (_, rest) = text.split_once("CPU of ")?;
            let target = target(rest.split(' ').next()?).filter(|target| targets.contains(target))?;
            Some((target, message.at))
        };
        let received = self.stage.shop.sink.received_on(hook);
        received.iter().filter(|message| message.answered == Some(200)).filter_map(of).collect()
    }

    /// Until people were told of all these targets, or for so long of none.
    async fn until_told(&self, targets: &Range<u64>, hook: &str, patience: Duration) -> anyhow::Result<()> {
        until_none_is_left(patience, async || {
            let told: HashSet<u64> = self.told(targets, hook).into_iter().map(|(target, _)| target).collect();
            Ok(targets.clone().count() - told.len())
        })
        .await
    }

    /// Until no incident is under way any more: what is done has still to be written, and the API server has that to do meanwhile.
    async fn until_recorded(&self, patience: Duration) -> anyhow::Result<()> {
        let eventpulse = self.stage.running()?;
        until_none_is_left(patience, async || {
            let open = metric(eventpulse, "eventpulse_incidents", "Open").await;
            Ok((open + metric(eventpulse, "eventpulse_incidents", "Mitigating").await) as usize)
        })
        .await
    }
}

/// The example's rule, and the same once more for the alert `Trouble`, with a runbook and a channel of its own.
fn rules(hook: &str) -> anyhow::Result<String> {
    let read = |name: &str| {
        std::fs::read_to_string(root().join("examples/shop").join(name))
            .with_context(|| format!("the example's {name}"))
    };
    let (rule, runbooks, channel) = (read("rule.yaml")?, read("runbooks.yaml")?, read("channel.yaml")?);
    let trouble = [&rule, &runbooks, &channel].map(|text| {
        text.replace("cpu-high", "trouble")
            .replace("CPUHigh", "Trouble")
            .replace("scale-up", "scale-in-trouble")
            .replace("{name: restart}", "{name: restart-in-trouble}")
            .replace("name: restart,", "name: restart-in-trouble,")
            .replace("ops-slack", "trouble-slack")
    });
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: trouble-slack, namespace: shop}}\nstringData: {{url: '{hook}'}}\n"
    );
    Ok([rule, runbooks, channel].into_iter().chain(trouble).chain([secret]).collect::<Vec<_>>().join("\n---\n"))
}

fn rows(outcome: &mut Outcome, parts: &[Part]) {
    let of = |trouble: Trouble, what: Of| {
        let mut all = Latencies::new();
        parts.iter().filter(|part| part.trouble == trouble).for_each(|part| all.merge(what(part)));
        all
    };
    let kinds: [(&str, Of); 2] =
        [("alert → Deployment patched", |part| &part.acted), ("alert → message", |part| &part.told)];
    for (kind, what) in kinds {
        let well = of(Trouble::None, what);
        outcome.rows.push(Row::new(format!("{kind}, p50, all is well"), well.summary().p50, "ms"));
        outcome
            .rows
            .push(Row::new(format!("{kind}, p99, all is well"), well.summary().p99, "ms").note(spread(parts, what)));
        outcome.add_latencies(&format!("{kind}, all is well"), &well);
        for trouble in [Trouble::Receiver, Trouble::Target] {
            let latencies = of(trouble, what);
            let (p50, p99) = (latencies.summary().p50, latencies.summary().p99);
            outcome.rows.push(Row::new(format!("{kind}, p99, {}", trouble.named()), p99, "ms"));
            outcome.rows.push(
                Row::new(format!("{kind}, p99, {}, as a multiple", trouble.named()), p99 / well.summary().p99, "×")
                    .goal(Goal::AtMost(RATIO))
                    .note(format!("p50 {:.2} ×", p50 / well.summary().p50)),
            );
            outcome.add_latencies(&format!("{kind}, {}", trouble.named()), &latencies);
        }
    }
    outcome.rows.extend(through(parts));
    for (kind, what) in kinds {
        let well = where_all_is_well(parts, what);
        let (least, most) = (well.iter().copied().fold(f64::MAX, f64::min), well.iter().copied().fold(0.0, f64::max));
        if most > APART_MAX * least {
            outcome.invalid.push(format!(
                "{kind}: where all is well p99 is {least:.0} ms in one part and {most:.0} ms in another; nothing can be compared with that"
            ));
        }
    }
}

/// How long the second rule took after its trouble had ended.
fn through(parts: &[Part]) -> impl Iterator<Item = Row> {
    parts.iter().filter(|part| part.trouble != Trouble::None).map(|part| {
        let what = format!("after {}: all of that rule is acted on and told", part.trouble.named());
        Row::new(what, part.through.as_secs_f64(), "s").note("no goal")
    })
}

/// The p99 of each part in which nothing was wrong.
fn where_all_is_well(parts: &[Part], what: Of) -> Vec<f64> {
    parts.iter().filter(|part| part.trouble == Trouble::None).map(|part| what(part).summary().p99).collect()
}

/// How far apart the two parts are in which nothing was wrong: a ratio says no more than this.
fn spread(parts: &[Part], what: Of) -> String {
    let each: Vec<String> = where_all_is_well(parts, what).iter().map(|p99| format!("{p99:.0}")).collect();
    format!("{} ms in the two parts of it", each.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_rules_share_nothing_that_could_hang() {
        let text = rules("http://127.0.0.1:1/x").unwrap();
        for name in [
            "name: cpu-high,",
            "name: trouble,",
            "name: scale-up,",
            "name: scale-in-trouble,",
            "name: restart,",
            "name: restart-in-trouble,",
            "name: ops-slack,",
            "name: trouble-slack,",
        ] {
            assert!(text.contains(name), "{name}");
        }
        let (_, trouble) = text.split_once("name: trouble,").unwrap();
        let (rule, _) = trouble.split_once("\n---\n").unwrap();
        for other in ["scale-up", "{name: restart}", "ops-slack", "CPUHigh"] {
            assert!(!rule.contains(other), "{other}\n{rule}");
        }
    }
}
