//! Runs EventPulse's services through histories of failures, each decided by a seed, and has them judged by the oracle.
//!
//! The services' code is that of `eventpulse run`; what stands in for the rest is the log in memory, an API server in memory, the
//! network, the clock and the random source (`ports`). One thread for each history, whose time is not the machine's.

#[cfg(not(tokio_unstable))]
compile_error!(
    "build it from the repository's root, where .cargo/config.toml sets tokio_unstable: a seed must decide everything"
);

mod alerts;
mod chance;
mod chaos;
mod cluster;
mod coverage;
mod entropy;
mod fleet;
mod gate;
mod history;
mod pool;
mod ports;
mod replica;
mod report;
mod sabotage;
mod scenario;
mod timeline;
mod world;

use std::process::ExitCode;

use clap::Parser;

/// Runs EventPulse through histories of failures and judges each by the promises.
///
///   make simulate SEEDS=20000          the histories of the seeds 0 to 19999
///   make simulate SEED=4711            one of them, with everything that happened
#[derive(Debug, Parser)]
#[command(verbatim_doc_comment)]
struct Flags {
    /// How many histories.
    #[arg(long, default_value_t = 2_000, value_name = "N")]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    from: u64,
    /// Only this one, told line by line.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// How many at once; by default one for each processor.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Go on after a violation.
    #[arg(long)]
    keep_going: bool,
    /// What the services log, with --seed, like debug or eventpulse::actions=debug.
    #[arg(long, requires = "seed", value_name = "FILTER")]
    log: Option<String>,
    /// Sabotages the product, one guard after the other, and shows for each the history that notices it. At most N histories for each.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1000", conflicts_with_all = ["seeds", "seed"])]
    mutants: Option<u64>,
    /// Only these mutants.
    #[arg(long, value_name = "NAME", requires = "mutants", value_delimiter = ',')]
    mutant: Vec<String>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let jobs = flags.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    pool::warm_up();
    if let Some(most) = flags.mutants {
        return sabotage::table(&flags.mutant, most, jobs);
    }
    match flags.seed {
        Some(seed) => report::one(seed, flags.log.as_deref()),
        None => report::many(flags.from, flags.seeds, jobs, flags.keep_going),
    }
}
