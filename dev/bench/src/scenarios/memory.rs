//! Memory when idle and with 10,000 incidents that are open, and how soon a restarted EventPulse is ready with them.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::OF_A_RULE;
use crate::{
    alerts::Alerts,
    audit::Audit,
    load::{self, Load},
    machine::{self, Memory},
    outcome::{Bus, Goal, Outcome, Row, Series},
    pace::Schedule,
    run::Options,
    stage::{Stage, WEBHOOK, say},
    watch::{Watch, metric},
};

const RATE: f64 = 100.0;
/// Until memory is looked at: what was needed only for a moment has been given back by then, or never will be.
const SETTLED: Duration = Duration::from_secs(20);
/// So long without a write, and what the incidents caused is over.
const QUIET: Duration = Duration::from_secs(15);
/// It is waited for at most this long; writes after that are a finding.
const QUIET_BY: Duration = Duration::from_secs(300);
const STUCK: Duration = Duration::from_secs(60);
const RESTARTS: usize = 3;

pub(super) async fn play(options: &Options, bus: Bus) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("memory", Some(bus), Timestamp::now());
    let count = if options.quick { 500 } else { 10_000 };
    let settled = if options.quick { SETTLED / 4 } else { SETTLED };
    let mut stage = Stage::open(options, "memory", bus, false).await?;
    outcome.versions = stage.shop.environment.versions();
    let empty = stage.start().await?;
    let watch = Watch::begin(&stage)?;
    tokio::time::sleep(settled).await;
    let idle = memory_of(&stage)?;
    let begin = Instant::now();
    open_incidents(&stage, count, &mut outcome).await?;
    watch.used_until_now(&mut outcome);
    let opened = memory_of(&stage)?;
    let cleared = until_quiet(&mut stage.audit()).await?;
    tokio::time::sleep(settled).await;
    let full = memory_of(&stage)?;
    watch.end(&mut outcome, begin);
    outcome.rows = vec![
        Row::new("resident, idle", idle.resident_mib, "MiB").goal(Goal::AtMost(50.0)).note(parts(idle)),
        Row::new(format!("resident, with {count} open incidents"), full.resident_mib, "MiB")
            .goal(Goal::AtMost(150.0))
            .note(parts(full)),
        Row::new(format!("resident, the moment the last of {count} was opened"), opened.resident_mib, "MiB").note(
            format!(
                "{}; what is told and not cleared yet is held too, and cleared {:.0} s later",
                parts(opened),
                cleared.as_secs_f64()
            ),
        ),
        Row::new("ready without any incident", empty.as_secs_f64(), "s").goal(Goal::AtMost(2.0)),
    ];
    restarts(&mut stage, count, settled, &mut outcome).await?;
    let incidents = stage.objects("incidents").await?.len() as u64;
    outcome.require(incidents == count, || format!("{incidents} incidents after the restarts, and {count} before"));
    stage.close().await?;
    Ok(outcome)
}

fn memory_of(stage: &Stage) -> anyhow::Result<Memory> {
    Ok(machine::memory(stage.running()?.process().pid()))
}

fn parts(memory: Memory) -> String {
    format!(
        "of that {:.1} MiB its own (anonymous), the rest pages of its program; peak {:.1}",
        memory.anonymous_mib, memory.peak_mib
    )
}

async fn restarts(stage: &mut Stage, count: u64, settled: Duration, outcome: &mut Outcome) -> anyhow::Result<()> {
    let (mut slowest, mut points) = (Duration::ZERO, Vec::new());
    for restart in 1..=RESTARTS {
        stage.stop_eventpulse().await?;
        let took = stage.start().await?;
        slowest = slowest.max(took);
        points.push((restart as f64, took.as_secs_f64()));
    }
    tokio::time::sleep(settled).await;
    let again = memory_of(stage)?;
    outcome.rows.extend([
        Row::new(format!("ready with {count} incidents, slowest of {RESTARTS} starts"), slowest.as_secs_f64(), "s")
            .goal(Goal::AtMost(8.0)),
        Row::new(format!("resident, restarted with {count} incidents"), again.resident_mib, "MiB")
            .goal(Goal::AtMost(150.0))
            .note(parts(again)),
    ]);
    outcome.series.push(Series::new("ready after a restart", "s", points));
    Ok(())
}

/// Waits until nothing is written any more. Gives how long it took.
pub(super) async fn until_quiet(audit: &mut Audit) -> anyhow::Result<Duration> {
    let (begin, mut last) = (Instant::now(), Instant::now());
    while last.elapsed() < QUIET && begin.elapsed() < QUIET_BY {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if audit.read()?.iter().any(|write| write.ours) {
            last = Instant::now();
        }
    }
    Ok(last.duration_since(begin))
}

/// Raises so many alerts, each of which opens an incident that stays open, and waits for all of them.
pub(super) async fn open_incidents(stage: &Stage, count: u64, outcome: &mut Outcome) -> anyhow::Result<()> {
    let rules = count.div_ceil(OF_A_RULE);
    hold(stage, rules).await?;
    say(&format!("{count} incidents by {rules} rules, {RATE} a second"));
    let alerts = Alerts::warnings("", u64::MAX);
    let load = Load {
        address: stage.address()?,
        path: WEBHOOK,
        schedule: Schedule { rate: RATE, count },
        connections: 16,
        body: Arc::new(move |number| {
            Alerts { name: format!("Hold{}", number % rules), ..alerts.clone() }.webhook(number, 1)
        }),
    };
    let sent = load::send(load).await?;
    outcome.require(sent.all_answered(), || format!("{:?} {:?}", sent.statuses, sent.refusals));
    let (mut last, mut progress) = (-1.0, Instant::now());
    loop {
        let open = metric(stage.running()?, "eventpulse_incidents", "").await;
        if open >= count as f64 {
            break;
        }
        if open > last {
            (last, progress) = (open, Instant::now());
        }
        if progress.elapsed() > STUCK {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let incidents = stage.objects("incidents").await?;
    let open = incidents.iter().filter(|incident| incident["status"]["phase"] == "Open").count() as u64;
    outcome.require(open == count, || format!("{open} of {count} incidents are open"));
    Ok(())
}

/// Rules for the alerts `Hold0`, `Hold1`, …: without action and message, and an incident stays open until its alert is resolved, which it
/// never is.
pub(super) async fn hold(stage: &Stage, rules: u64) -> anyhow::Result<()> {
    let before = metric(stage.running()?, "eventpulse_rules", "usable").await;
    stage.shop.environment.plane().kubectl_with(&["apply", "--server-side", "-f", "-"], &yaml(rules)).await?;
    let begin = Instant::now();
    while metric(stage.running()?, "eventpulse_rules", "usable").await < before + rules as f64 {
        anyhow::ensure!(begin.elapsed() < STUCK, "{rules} rules are not usable after {} s", STUCK.as_secs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

fn yaml(rules: u64) -> String {
    let mut text = String::new();
    for i in 0..rules {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "apiVersion: eventpulse.io/v1alpha1\nkind: Rule\nmetadata: {{name: hold-{i}, namespace: shop}}\nspec:\n  match: {{matchers: \
             ['alertname=\"Hold{i}\"']}}\n  groupBy: [service]\n  incident: {{severity: $(alert.labels.severity), summary: \
             $(alert.annotations.summary), resolveOn: AlertResolved}}\n---\n"
        );
    }
    text
}
