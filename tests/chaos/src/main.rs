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
use tokio::time::sleep;

use crate::{
    disk::{enter_namespace, is_in_namespace},
    faults::Fault,
    report::Row,
    stage::{Bus, Stage},
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
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("eventpulse-chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    for name in &arguments.only {
        if !faults::all().iter().any(|fault| fault.name == name) {
            bail!("--only: there is no fault {name}; --list lists them");
        }
    }
    enter_namespace()?;
    let seed = arguments.seed.unwrap_or_else(|| u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default());
    println!("seed {seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut rows, mut left_out) = (Vec::new(), Vec::new());
        for bus in [Bus::Embedded, Bus::Kafka] {
            if arguments.bus.is_none_or(|only| only == bus) {
                on(bus, arguments, seed, &mut rows, &mut left_out).await?;
            }
        }
        println!("{}", report::end(&rows, &left_out, arguments.allow_left_out));
        let is_whole = left_out.is_empty() || arguments.allow_left_out;
        Ok(is_whole && rows.iter().all(|row| row.violations.is_empty()))
    })
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

async fn on(bus: Bus, arguments: &Arguments, seed: u64, rows: &mut Vec<Row>, left_out: &mut Vec<String>) -> Result<()> {
    let faults = chosen(bus, arguments);
    if faults.is_empty() {
        return Ok(());
    }
    let began = Instant::now();
    let mut stage =
        Stage::open(bus, arguments.short, seed).await.with_context(|| format!("start the parts for the log {bus}"))?;
    for version in stage.shop.environment.versions() {
        println!("  {version}");
    }
    println!("The parts for the log {bus} are there after {} s.\n{}", began.elapsed().as_secs(), report::head());
    for (fault, lasts) in faults {
        if fault.name == "disk-full" && !is_in_namespace() {
            left_out.push(format!("{} on the log {bus} (`unshare --mount --map-root-user` is refused)", fault.name));
            continue;
        }
        let row = one(&mut stage, &fault, lasts).await.with_context(|| format!("{} on the log {bus}", fault.name))?;
        println!("{}", report::line(&row));
        let broken = !row.violations.is_empty();
        rows.push(row);
        if broken {
            // What follows would be blamed for it.
            println!("The parts of the log {bus} are stopped.");
            return Ok(());
        }
    }
    stage.close().await;
    Ok(())
}

/// One fault from a state of rest to the next.
async fn one(stage: &mut Stage, fault: &Fault, lasts: Duration) -> Result<Row> {
    let began = Instant::now();
    let (before, _) = stage.rest().await?;
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
