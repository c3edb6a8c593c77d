//! What `make bench` asks of EventPulse's own code and of a plain Kafka client.
//!
//! In: a subcommand. Out: one line of JSON on standard output. It is a program of its own, so that it is built with the very
//! dependencies of the release binary.

mod hop;
mod matching;
mod topic;

use clap::{Parser, Subcommand};

/// Parts of `make bench` that need EventPulse's own crates. Each prints one line of JSON.
#[derive(Parser)]
#[command(name = "eventpulse-bench-probe", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// How long EventPulse's own index of rules takes for one alert.
    Matching(matching::Flags),
    /// How long one record takes from `produce` to a consumer that waits for it, one after the other.
    Hop(hop::Flags),
    /// Reads a topic from its beginning to its end and says which numbers are in it, and how often.
    Topic(topic::Flags),
}

fn main() -> anyhow::Result<()> {
    let line = match Cli::parse().command {
        Command::Matching(flags) => matching::run(&flags)?,
        Command::Hop(flags) => hop::run(&flags)?,
        Command::Topic(flags) => topic::run(&flags)?,
    };
    println!("{line}");
    Ok(())
}
