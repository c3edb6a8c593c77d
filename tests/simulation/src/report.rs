//! What people see of it: progress, the table of faults, a history that failed.

use std::{
    io::{IsTerminal, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use eventpulse_oracle::Outcomes;

use crate::{
    coverage::{Coverage, Fault},
    history::Outcome,
    pool::{self, Job},
};

/// Seeds that are run a second time, to see that they are the same history.
const CHECKED: u64 = 20;
/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(10);
/// How many lines of a history that failed are shown.
const LINES: usize = 400;
/// Below so many histories a fault may well not be reached.
const ENOUGH: u64 = 1_000;

/// One history, line by line, twice.
pub(crate) fn one(seed: u64, log: Option<&str>) -> ExitCode {
    if let Some(filter) = log {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    }
    let outcome = pool::run(Job { keep: true, ..Job::new(seed) });
    outcome.lines.iter().for_each(|line| println!("{line}"));
    outcome.violations.iter().for_each(|violation| println!("VIOLATION: {violation}"));
    let again = pool::run(Job::new(seed));
    println!(
        "seed {seed}: {:.1} s of its own time, {} writes, hash {:016x}, the second time {:016x}; {} violations",
        outcome.virtual_time.as_secs_f64(),
        outcome.writes,
        outcome.hash,
        again.hash,
        outcome.violations.len()
    );
    if outcome.violations.is_empty() && outcome.hash == again.hash { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// So many histories.
pub(crate) fn many(from: u64, count: u64, jobs: usize, keep_going: bool) -> ExitCode {
    let (began, coverage) = (Instant::now(), Coverage::default());
    let (mut histories, mut failed, mut told, mut virtual_time, mut writes) =
        (0_u64, Vec::new(), began, Duration::ZERO, 0);
    let mut outcomes = Outcomes::new();
    let hanging = pool::run_all(from..from.saturating_add(count), None, jobs, |outcome| {
        histories += 1;
        virtual_time += outcome.virtual_time;
        writes += outcome.writes;
        coverage.add(&outcome.faults);
        outcome.outcomes.iter().for_each(|(how, count)| *outcomes.entry(how.clone()).or_default() += count);
        if !outcome.violations.is_empty() {
            tell_failure(&outcome, failed.len());
            failed.push(outcome.seed);
        }
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            progress(histories, count, failed.len(), began.elapsed());
        }
        keep_going || failed.is_empty()
    });
    if let Some(seed) = hanging {
        eprintln!("seed {seed} hangs: make simulate SEED={seed} runs it alone");
        return ExitCode::FAILURE;
    }
    let rate = histories as f64 / began.elapsed().as_secs_f64();
    let missing = table(&coverage, histories);
    became(&outcomes, histories);
    println!(
        "{histories} histories in {:.0} s, {rate:.1} a second on {jobs} processors; {:.1} h of their own time, {writes} writes",
        began.elapsed().as_secs_f64(),
        virtual_time.as_secs_f64() / 3600.0,
    );
    let differ = if failed.is_empty() { differing(from, count.min(CHECKED)) } else { Vec::new() };
    differ.iter().for_each(|seed| println!("seed {seed} was another history the second time"));
    if histories >= ENOUGH {
        missing.iter().for_each(|fault| println!("never reached: {}", fault.text()));
    }
    println!("{histories} histories, {} violations", failed.len());
    let ok = failed.is_empty() && differ.is_empty() && (missing.is_empty() || histories < ENOUGH);
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn progress(histories: u64, count: u64, failed: usize, took: Duration) {
    let rate = histories as f64 / took.as_secs_f64();
    eprintln!("{histories} of {count} histories, {rate:.1} a second, {failed} failed");
    let _ = std::io::stderr().flush();
}

fn tell_failure(outcome: &Outcome, before: usize) {
    let seed = outcome.seed;
    if before == 0 {
        // Once in full; the others by what is wrong.
        let told = pool::run(Job { keep: true, ..Job::new(seed) });
        let skipped = told.lines.len().saturating_sub(LINES);
        if skipped > 0 {
            println!("… {skipped} lines; make simulate SEED={seed} shows all");
        }
        told.lines.iter().skip(skipped).for_each(|line| println!("{line}"));
    }
    println!("seed {seed} failed:");
    outcome.violations.iter().for_each(|violation| println!("  {violation}"));
}

/// How often each fault was reached. Gives those that never were.
fn table(coverage: &Coverage, histories: u64) -> Vec<Fault> {
    let counts = coverage.counts();
    heading("fault", "reached");
    let mut missing = Vec::new();
    for fault in Fault::ALL.iter().copied() {
        let count = counts.get(&fault).copied().unwrap_or(0);
        line(fault.text(), count, histories);
        if count == 0 {
            missing.push(fault);
        }
    }
    missing
}

/// What became of everything.
fn became(outcomes: &Outcomes, histories: u64) {
    heading("what became of", "how often");
    for ((of, how), count) in outcomes {
        line(&format!("{of}: {how}"), *count, histories);
    }
}

fn heading(what: &str, count: &str) {
    let bold = std::io::stdout().is_terminal();
    let (on, off) = if bold { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    println!("{on}{what:<55} {count:>9} {:>13}{off}", "a history");
}

fn line(what: &str, count: u64, histories: u64) {
    println!("{what:<55} {count:>9} {:>13.2}", count as f64 / histories.max(1) as f64);
}

/// Runs some once more, and gives those whose hash is another one.
fn differing(from: u64, count: u64) -> Vec<u64> {
    (from..from + count).filter(|seed| pool::run(Job::new(*seed)).hash != pool::run(Job::new(*seed)).hash).collect()
}
