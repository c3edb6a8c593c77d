//! Nothing to do: with 1,000 open incidents and no alert, EventPulse writes nothing and uses next to no processor.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::memory::{open_incidents, until_quiet};
use crate::{
    audit::count_by_kind,
    machine,
    outcome::{Bus, Goal, Outcome, Row},
    run::Options,
    stage::{Stage, say},
};

pub(super) async fn play(options: &Options, bus: Bus) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("idle", Some(bus), Timestamp::now());
    let (count, span) = if options.quick { (200, Duration::from_secs(45)) } else { (1_000, Duration::from_secs(600)) };
    let mut stage = Stage::open(options, "idle", bus, false).await?;
    outcome.versions = stage.shop.environment.versions();
    stage.start().await?;
    open_incidents(&stage, count, &mut outcome).await?;
    let mut audit = stage.audit();
    until_quiet(&mut audit).await?;
    say(&format!("{} s with nothing to do", span.as_secs()));
    let pid = stage.running()?.process().pid();
    // No metrics are read meanwhile: answering them is work too.
    let (before, begin) = (machine::cpu_seconds(pid), Instant::now());
    outcome.load_before = machine::load_average();
    let usage = machine::Usage::begin(stage.processes());
    tokio::time::sleep(span).await;
    let cpu = (machine::cpu_seconds(pid) - before) / begin.elapsed().as_secs_f64() * 100.0;
    outcome.processors = usage.end();
    outcome.load_during = machine::load_average();
    stage.running()?;
    let writes: Vec<_> = audit.read()?.into_iter().filter(|write| write.ours).collect();
    let kinds = count_by_kind(&writes);
    let kinds: Vec<String> = kinds.iter().map(|(kind, times)| format!("{times} × {kind}")).collect();
    let written = Row::new(
        format!("writes to the API in {} s with {count} incidents", span.as_secs()),
        writes.len() as f64,
        "writes",
    );
    let written = written.goal(Goal::AtMost(0.0));
    outcome.rows = vec![
        if kinds.is_empty() { written } else { written.note(kinds.join(", ")) },
        Row::new("CPU, of one processor", cpu, "%").goal(Goal::AtMost(1.0)),
    ];
    let incidents = stage.objects("incidents").await?.len() as u64;
    outcome.require(incidents == count, || format!("{incidents} of {count} incidents are there in the end"));
    stage.close().await?;
    Ok(outcome)
}
