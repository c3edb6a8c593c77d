//! What to run, in which order, and what becomes of it.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::{
    machine::{self, Machine},
    outcome::{Bus, Goal, Outcome, Row},
    profile::Profiler,
    report,
    scenarios::Scenario,
    stage::{root, say, secs, shown},
};

/// How all of it is played.
#[derive(Clone, Debug)]
pub struct Options {
    /// Shortened: to see that it works.
    pub quick: bool,
    /// etcd writes to disk before it answers.
    pub etcd_fsync: bool,
    /// Where the results are written.
    pub out: PathBuf,
    /// The program with EventPulse's own crates.
    pub probe: PathBuf,
    /// Whether EventPulse is profiled meanwhile.
    pub profile: Profiler,
}

/// A scenario on a bus.
pub type Play = (Scenario, Option<Bus>);

/// All plays of these scenarios; `bus` says on which, else each scenario does.
pub fn plays(scenarios: &[Scenario], bus: Option<&[Bus]>) -> Vec<Play> {
    let on = |scenario: &Scenario| match scenario.buses {
        [] => vec![None],
        buses => bus.unwrap_or(buses).iter().copied().map(Some).collect(),
    };
    scenarios.iter().flat_map(|scenario| on(scenario).into_iter().map(|bus| (*scenario, bus))).collect()
}

/// About how long they take.
pub fn takes(plays: &[Play], quick: bool) -> Duration {
    plays.iter().map(|(scenario, _)| if quick { scenario.takes_quick } else { scenario.takes }).sum()
}

/// Plays all of them, one after the other, and writes after each what is known then. Whatever fails, the others are still played.
pub async fn run(options: &Options, plays: &[Play]) -> anyhow::Result<()> {
    let begin = Instant::now();
    let left = takes(plays, options.quick);
    eprintln!(
        "==> {} measurements, about {} in all; results go to {}\n",
        plays.len(),
        minutes(left),
        shown(&options.out)
    );
    if machine::load_average() > 0.5 * Machine::here().cores as f64 {
        say(&format!(
            "The load average is {:.1} before anything begins: the machine is not quiet.",
            machine::load_average()
        ));
    }
    let (mut played, mut errors) = (Vec::new(), Vec::new());
    for (i, (scenario, bus)) in plays.iter().enumerate() {
        let named = bus.map_or_else(|| scenario.name.to_owned(), |bus| format!("{} on {bus}", scenario.name));
        let takes = if options.quick { scenario.takes_quick } else { scenario.takes };
        eprintln!("==> {}/{} {named}: {} (about {})", i + 1, plays.len(), scenario.what, minutes(takes));
        let started = Instant::now();
        match scenario.play(options, *bus).await {
            Ok(outcome) => {
                let outcome = signed(outcome, options, started);
                say(&format!(
                    "done in {:.0} s, about {} to go",
                    secs(started),
                    minutes(left.saturating_sub(begin.elapsed()))
                ));
                println!("{}", report::table(&outcome));
                played.push(outcome);
                compare_buses(&mut played);
                report::write(&options.out, &played).context("write the results")?;
            }
            Err(error) => {
                eprintln!("    {named} could not be played: {error:#}\n");
                errors.push(format!("{named}: {error:#}"));
            }
        }
    }
    println!("{}", report::summary(&played));
    eprintln!("Results: {} ({:.0} s)", shown(&options.out.join("README.md")), secs(begin));
    let failed = played.iter().filter(|outcome| !outcome.failures.is_empty());
    errors.extend(failed.map(|outcome| format!("{}: {}", outcome.scenario, outcome.failures.join("; "))));
    anyhow::ensure!(
        errors.is_empty(),
        "{} of {} did not go well:\n  {}",
        errors.len(),
        plays.len(),
        errors.join("\n  ")
    );
    Ok(())
}

fn signed(mut outcome: Outcome, options: &Options, started: Instant) -> Outcome {
    outcome.took_s = secs(started);
    outcome.quick = options.quick;
    outcome.etcd_fsync = options.etcd_fsync;
    outcome.machine = Machine::here();
    outcome.commit = machine::commit(&root());
    outcome
}

/// "Embedded: no slower" can only be said when both were measured by one command.
fn compare_buses(played: &mut [Outcome]) {
    const P50: &str = "alert → Deployment patched, p50";
    const ROW: &str = "p50 as a multiple of the p50 on Kafka";
    let p50 = |outcome: &Outcome| outcome.row(P50).map(|row| row.value);
    let kafka =
        played.iter().find(|outcome| outcome.scenario == "react" && outcome.bus == Some(Bus::Kafka)).and_then(p50);
    let embedded = played.iter_mut().find(|outcome| outcome.scenario == "react" && outcome.bus == Some(Bus::Embedded));
    if let (Some(kafka), Some(embedded)) = (kafka, embedded)
        && embedded.row(ROW).is_none()
        && let Some(own) = p50(embedded)
    {
        embedded.rows.push(Row::new(ROW, own / kafka, "×").goal(Goal::AtMost(1.0)));
    }
}

fn minutes(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..100 => format!("{seconds} s"),
        seconds => format!("{} min", (seconds + 30) / 60),
    }
}

/// Where results go: a short run's are no results, and never take the place of some.
pub fn out(given: Option<&Path>, quick: bool) -> PathBuf {
    match given {
        Some(given) => given.to_owned(),
        None if quick => root().join("target/bench"),
        None => root().join("docs/bench"),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::scenarios::ALL;

    #[test]
    fn each_scenario_is_played_on_its_buses_unless_the_user_says_otherwise() {
        let some = ["matching", "react", "idle"].map(|name| Scenario::named(name).unwrap());
        let named = |bus: Option<&[Bus]>| -> Vec<(&str, Option<Bus>)> {
            plays(&some, bus).into_iter().map(|(scenario, bus)| (scenario.name, bus)).collect()
        };
        let (kafka, embedded) = (Some(Bus::Kafka), Some(Bus::Embedded));
        assert_eq!(named(None), [("matching", None), ("react", kafka), ("react", embedded), ("idle", kafka)]);
        assert_eq!(named(Some(&[Bus::Embedded])), [("matching", None), ("react", embedded), ("idle", embedded)]);
        assert!(takes(&plays(&ALL, None), true) < takes(&plays(&ALL, None), false));
    }

    #[test]
    fn a_short_run_writes_elsewhere() {
        assert!(out(None, false).ends_with("docs/bench") && out(None, true).ends_with("target/bench"));
        assert_eq!(out(Some(Path::new("/x")), true), Path::new("/x"));
    }

    #[test]
    fn the_embedded_log_is_compared_with_kafka_once() {
        let outcome = |bus, p50| {
            let mut outcome = Outcome::new("react", Some(bus), Timestamp::UNIX_EPOCH);
            outcome.rows.push(Row::new("alert → Deployment patched, p50", p50, "ms"));
            outcome
        };
        let mut played = vec![outcome(Bus::Kafka, 20.0)];
        compare_buses(&mut played);
        assert_eq!(played[0].rows.len(), 1);
        played.push(outcome(Bus::Embedded, 30.0));
        compare_buses(&mut played);
        compare_buses(&mut played);
        assert_eq!(played[1].rows.len(), 2);
        assert_eq!(played[1].rows[1].verdict().to_string(), "MISSED: 1.50 × the goal");
    }
}
