//! `make bench`: open-loop load on the release binary and real parts, each result beside the floor of the same run.
//!
//! In: flags, the release binary, the parts of `dev/env`. Out: a table on standard output, progress on standard error, and
//! `latest.json`, `README.md` and plots in a directory. It fails where an alert was lost, an action done twice, or not done; a goal
//! that is missed is a result, and no failure.

mod alerts;
mod api;
mod audit;
mod floors;
mod latencies;
mod load;
mod machine;
mod outcome;
mod pace;
mod plot;
mod probe;
mod profile;
mod report;
mod run;
mod scenarios;
mod stage;
mod watch;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use eventpulse_env::until_interrupted;
use outcome::Bus;
use scenarios::{ALL, Scenario};

/// Measures EventPulse on real parts of this machine, and says beside each value its goal and what the parts take by themselves.
#[derive(Parser, Debug)]
#[command(name = "eventpulse-bench", version, after_help = after_help())]
struct Cli {
    /// Only these scenarios, separated by commas; --list has them.
    #[arg(long, value_delimiter = ',', value_parser = scenario, value_name = "NAME,…")]
    only: Vec<Scenario>,
    /// The log, in place of the one that each scenario is measured on by default.
    #[arg(long, value_enum)]
    bus: Option<BusFlag>,
    /// Seconds in place of minutes: to see that it works, not to measure. Results go to target/bench.
    #[arg(long)]
    quick: bool,
    /// etcd writes to disk before it answers, as in production. By default it does not: the goals are for this, and disks differ.
    #[arg(long)]
    etcd_fsync: bool,
    /// Profile EventPulse with `perf` meanwhile; reports go to this directory, and the functions that take most into the results.
    #[arg(long, value_name = "DIR")]
    profile: Option<PathBuf>,
    /// Where README.md, latest.json and plots are written. What other scenarios have there stays.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write README.md and plots anew from what is known, with findings.md as it is now, and run nothing.
    #[arg(long)]
    report: bool,
    /// Say what there is to run and how long it takes, and run nothing.
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BusFlag {
    Kafka,
    Embedded,
    Both,
}

impl BusFlag {
    fn buses(self) -> &'static [Bus] {
        match self {
            BusFlag::Kafka => &[Bus::Kafka],
            BusFlag::Embedded => &[Bus::Embedded],
            BusFlag::Both => &[Bus::Kafka, Bus::Embedded],
        }
    }
}

fn scenario(name: &str) -> Result<Scenario, String> {
    Scenario::named(name)
        .ok_or_else(|| format!("there is no such scenario; there are {}", ALL.map(|s| s.name).join(", ")))
}

fn after_help() -> String {
    let list = ALL.map(|scenario| format!("  {:<10} {}\n", scenario.name, scenario.what)).concat();
    format!(
        "Scenarios:\n{list}\nExamples:\n  eventpulse-bench --only react --bus kafka    one scenario on one bus\n  eventpulse-bench --quick               \
              everything, shortened\n\nmake bench builds what is needed and runs this; leave the machine alone meanwhile."
    )
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    until_interrupted(bench(&cli)).await
}

async fn bench(cli: &Cli) -> anyhow::Result<()> {
    let usual = ALL.into_iter().filter(|scenario| !scenario.by_name || cli.list);
    let scenarios = if cli.only.is_empty() { usual.collect() } else { cli.only.clone() };
    let plays = run::plays(&scenarios, cli.bus.map(BusFlag::buses));
    if cli.list {
        for (scenario, bus) in &plays {
            let bus = bus.map_or_else(String::new, |bus| bus.to_string());
            let takes = if cli.quick { scenario.takes_quick } else { scenario.takes };
            let only = if scenario.by_name { " (only by its name)" } else { "" };
            println!("{:<10} {bus:<9} {:>4} s  {}{only}", scenario.name, takes.as_secs(), scenario.what);
        }
        return Ok(());
    }
    if cli.report {
        return report::write(&run::out(cli.out.as_deref(), false), &[]);
    }
    let options = run::Options {
        quick: cli.quick,
        etcd_fsync: cli.etcd_fsync,
        out: run::out(cli.out.as_deref(), cli.quick),
        probe: probe::find()?,
        profile: profile::Profiler(cli.profile.as_deref().map(std::path::absolute).transpose()?),
    };
    run::run(&options, &plays).await
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn a_typo_is_found_before_anything_is_built_or_started() {
        Cli::command().debug_assert();
        let error = |args: &[&str]| Cli::try_parse_from([&["bench"], args].concat()).unwrap_err().to_string();
        assert!(error(&["--only", "reakt"]).contains("there are matching, react, burst"));
        assert!(error(&["--only", ""]).contains("no such scenario"));
        assert!(error(&["--bus", "nats"]).contains("kafka, embedded, both"));
        let cli = Cli::try_parse_from(["bench", "--only", "react,idle", "--bus", "both", "--quick"]).unwrap();
        assert_eq!(cli.only.iter().map(|scenario| scenario.name).collect::<Vec<_>>(), ["react", "idle"]);
        assert_eq!(cli.bus.map(BusFlag::buses), Some(&[Bus::Kafka, Bus::Embedded][..]));
    }

    #[test]
    fn help_teaches_every_scenario() {
        let help = Cli::command().render_long_help().to_string();
        for scenario in ALL {
            assert!(help.contains(scenario.name) && help.contains(scenario.what), "{}", scenario.name);
        }
    }
}
