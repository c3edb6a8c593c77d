//! `make chaos`: real processes are killed, frozen and cut off while alerts keep coming, and an oracle that knows nothing of them counts what
//! became of every alert, action and message.
//!
//! The rooms: `stage` (the parts), `setting` (what people have applied), `load` (who sends alerts), `faults` (what goes wrong), `observe`
//! (what the oracle sees), `disk` (a file system that can be filled), `report`.

mod disk;
mod faults;
mod load;
mod observe;
mod report;
mod setting;
mod stage;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use eventpulse_env::until_interrupted;
use tokio::{runtime::Runtime, time::sleep};

use crate::{
    disk::{enter_namespace, is_in_namespace},
    faults::Fault,
    report::Row,
    stage::{Bus, Stage, Totals},
};

/// Faults on the real parts, under load, one after the other; an oracle counts what became of every alert, action and message.
#[derive(Debug, Parser)]
#[command(name = "eventpulse-chaos")]
struct Arguments {
    /// On this log only.
    #[arg(long, value_enum)]
    bus: Option<Bus>,
    /// These faults only, with commas between them. `--list` lists them.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The short form: fewer faults, and less of each.
    #[arg(long)]
    short: bool,
    /// Lists the faults.
    #[arg(long)]
    list: bool,
    /// What this machine does not allow may be left out: the last lines say so, and the run does not fail by it.
    #[arg(long)]
    allow_left_out: bool,
    /// What is drawn follows this number; none: another one each time.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for fault in faults::all() {
            let on: Vec<String> = fault.on.iter().map(Bus::to_string).collect();
            let short = fault.short.map_or_else(|| "-".into(), |lasts| format!("{} s", lasts.as_secs()));
            println!(
                "{:<21} {:<15} {:>4} s, short {short:>5}  {}",
                fault.name,
                on.join(", "),
                fault.lasts.as_secs(),
                fault.what
            );
        }
        return ExitCode::SUCCESS;
    }
    run(&arguments).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    for name in &arguments.only {
        if !faults::all().iter().any(|fault| fault.name == name) {
            bail!("--only: there is no fault {name}; --list lists them");
        }
    }
    enter_namespace()?;
    let seed = arguments.seed.unwrap_or_else(|| u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default());
    println!("seed {seed}");
    let buses = [Bus::Embedded, Bus::Kafka].into_iter().filter(|bus| arguments.bus.is_none_or(|only| only == *bus));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let on = |bus| on(&runtime, bus, arguments, seed);
    let seen: Vec<Seen> = match buses.map(on).collect() {
        Ok(seen) => seen,
        // It has said why.
        Err(code) => return Ok(code),
    };
    let (mut rows, mut left_out) = (Vec::new(), Vec::new());
    for seen in seen {
        rows.extend(seen.rows);
        left_out.extend(seen.left_out);
    }
    println!("{}", report::end(&rows, &left_out, arguments.allow_left_out));
    let is_whole = left_out.is_empty() || arguments.allow_left_out;
    let is_kept = rows.iter().all(|row| row.violations.is_empty());
    Ok(if is_whole && is_kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// In the short form on both logs a fault that can happen on either happens on the first of them; these on both. Of the crash points only those of a
/// broker are reached there once more.
const SHORT_ON_BOTH: [&str; 3] = ["crash-points", "kill", "repeated"];

/// The faults of this run on one log, and how long each lasts.
fn chosen(bus: Bus, arguments: &Arguments) -> Vec<(Fault, Duration)> {
    let asked = |fault: &Fault| arguments.only.is_empty() || arguments.only.iter().any(|name| name == fault.name);
    let left_out = |fault: &Fault| {
        let elsewhere = arguments.bus.is_none() && fault.on.first() != Some(&bus);
        arguments.short && elsewhere && !SHORT_ON_BOTH.contains(&fault.name)
    };
    let of_bus = faults::all().into_iter().filter(|fault| fault.on.contains(&bus) && asked(fault) && !left_out(fault));
    of_bus
        .filter_map(|fault| {
            let lasts = if arguments.short { fault.short } else { Some(fault.lasts) };
            lasts.map(|lasts| (fault, lasts))
        })
        .collect()
}

/// What was seen on one log.
#[derive(Default)]
struct Seen {
    rows: Vec<Row>,
    /// What this machine does not allow.
    left_out: Vec<String>,
}

/// The faults of this run on one log, if there are any. Otherwise it says why not, and gives the exit code.
fn on(runtime: &Runtime, bus: Bus, arguments: &Arguments, seed: u64) -> Result<Seen, ExitCode> {
    let faults = chosen(bus, arguments);
    if faults.is_empty() {
        return Ok(Seen::default());
    }
    let mut seen = None;
    let work = async { strike(bus, faults, arguments.short, seed).await.map(|all| seen = Some(all)) };
    let code = runtime.block_on(until_interrupted(work));
    seen.ok_or(code)
}

/// One after the other.
async fn strike(bus: Bus, faults: Vec<(Fault, Duration)>, short: bool, seed: u64) -> Result<Seen> {
    let mut seen = Seen::default();
    let began = Instant::now();
    let mut stage =
        Stage::open(bus, short, seed).await.with_context(|| format!("start the parts for the log {bus}"))?;
    for version in stage.shop.environment.versions() {
        println!("  {version}");
    }
    println!("The parts for the log {bus} are there after {} s.\n{}", began.elapsed().as_secs(), report::head());
    // Nothing happens between two faults: what there is after one is what there was before the next.
    let (mut before, _) = stage.rest().await?;
    for (fault, lasts) in faults {
        if fault.name == "disk-full" && !is_in_namespace() {
            let what = format!("{} on the log {bus} (`unshare --mount --map-root-user` is refused)", fault.name);
            seen.left_out.push(what);
            continue;
        }
        let context = || format!("{} on the log {bus}", fault.name);
        let row = one(&mut stage, before, &fault, lasts).await.with_context(context)?;
        println!("{}", report::line(&row));
        before = row.after.clone();
        let broken = !row.violations.is_empty();
        seen.rows.push(row);
        if broken {
            // What follows would be blamed for it.
            println!("The parts of the log {bus} are stopped.");
            return Ok(seen);
        }
    }
    stage.close().await;
    Ok(seen)
}

/// One fault from a state of rest to the next.
async fn one(stage: &mut Stage, before: Totals, fault: &Fault, lasts: Duration) -> Result<Row> {
    let began = Instant::now();
    let load = fault.under_load.then(|| stage.load());
    if load.is_some() {
        sleep(Duration::from_secs(1)).await;
    }
    let struck = (fault.run)(stage, lasts).await?;
    stage.calm().await?;
    if let Some(load) = load {
        load.end().await;
    }
    let (after, violations) = stage.rest().await?;
    Ok(Row { bus: stage.bus, name: fault.name, struck, before, after, violations, took: began.elapsed() })
}
