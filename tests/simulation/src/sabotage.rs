//! The table of mutants: for each sabotage of the product, the first seed whose history shows it.

use std::{process::ExitCode, time::Instant};

use eventpulse::mutants::Mutant;

use crate::pool;

/// Histories of the product as it is, which must all be as they should.
const CONTROL: u64 = 100;

/// What a history cannot show because its scenario has no such thing, or seldom shows, and the tests of `make unit` that do. Each runs
/// the code with the sabotage and without it, and sees the difference.
fn by_test(mutant: Mutant) -> &'static [&'static str] {
    match mutant {
        // No alert of the scenario fires on long after its end, no failure comes again before it is known, no outage is that long.
        Mutant::OldEvidenceCounts | Mutant::KnownFailureCounts | Mutant::OutageRepeatsAll => {
            &["rules::tests::properties::four_sabotages_are_caught"]
        }
        // Its other entries count only for an Action that somebody has taken away with its finalizer.
        Mutant::RingOfOne => &["actions::ring::tests::a_ring_of_one_forgets"],
        // Ingest's outbox is not in the histories.
        Mutant::RelayedBeforeAcknowledged => {
            &["ingest::tests::outbox::a_relay_that_removes_before_the_log_has_it_is_noticed"]
        }
        // What only a rare meeting of faults leads to: there may be no such history among the first ones.
        Mutant::OthersEntriesDropped => {
            &["runtime::store::tests::a_write_that_drops_what_others_have_to_say_is_noticed"]
        }
        Mutant::ClearedBeforeAcknowledged => {
            &["runtime::store::tests::an_outbox_that_is_cleared_before_the_log_has_it_is_noticed"]
        }
        Mutant::RewindNotSeen => &["actions::judge::tests::a_judge_that_misses_what_the_target_says_is_noticed"],
        Mutant::RingNotRead => &[
            "actions::judge::tests::a_judge_that_misses_what_the_target_says_is_noticed",
            "actions::plan::tests::a_plan_that_misses_what_the_ring_knows_is_noticed",
        ],
        Mutant::UidIgnored => &[
            "actions::judge::tests::a_judge_that_misses_what_the_target_says_is_noticed",
            "actions::tests::stale::a_look_that_misses_that_the_target_was_created_again_is_noticed",
        ],
        Mutant::TakeoverNotPlanned => &["actions::tests::takeover::a_takeover_without_a_plan_of_its_own_is_noticed"],
        _ => &[],
    }
}

/// So many histories are looked at where a test shows it anyway.
const WITH_A_TEST: u64 = 40;

/// Runs each mutant, or those of these names, until a history shows it, at most so many.
pub(crate) fn table(names: &[String], most: u64, jobs: usize) -> ExitCode {
    let unknown = names.iter().find(|name| !Mutant::ALL.iter().any(|mutant| mutant.name() == name.as_str()));
    if let Some(name) = unknown {
        let known: Vec<&str> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
        eprintln!("there is no mutant {name}; there are {}", known.join(", "));
        return ExitCode::from(2);
    }
    let (began, mut survivors, mut by_tests) = (Instant::now(), Vec::new(), 0);
    if names.is_empty() && !control(jobs) {
        return ExitCode::FAILURE;
    }
    println!("{:<24} {:<72} killed by", "mutant", "what it does");
    let chosen: Vec<Mutant> = Mutant::ALL
        .iter()
        .copied()
        .filter(|mutant| names.is_empty() || names.iter().any(|name| name == mutant.name()))
        .collect();
    for mutant in &chosen {
        let tests = by_test(*mutant);
        let most = if tests.is_empty() { most } else { most.min(WITH_A_TEST) };
        let said = match first_that_shows(*mutant, most, jobs) {
            Some(shown) => shown,
            None if tests.is_empty() => {
                survivors.push(mutant.name());
                format!("NOTHING in {most} histories")
            }
            None => {
                by_tests += 1;
                format!("no history of {most}; in make unit {}", tests.join(" and "))
            }
        };
        println!("{:<24} {:<72} {said}", mutant.name(), mutant.what());
    }
    let (took, shown) = (began.elapsed().as_secs(), chosen.len() - by_tests - survivors.len());
    println!(
        "{} mutants in {took} s: {shown} shown by a history, {by_tests} by a test of make unit, {} survived",
        chosen.len(),
        survivors.len()
    );
    if survivors.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("survived: {}", survivors.join(", "));
    ExitCode::FAILURE
}

fn control(jobs: usize) -> bool {
    let mut failed = Vec::new();
    let hanging = pool::run_all(0..CONTROL, None, jobs, |outcome| {
        failed.extend((!outcome.violations.is_empty()).then_some(outcome.seed));
        true
    });
    println!("control: {CONTROL} histories without a mutant, {} violations", failed.len());
    hanging.is_none() && failed.is_empty()
}

fn first_that_shows(mutant: Mutant, most: u64, jobs: usize) -> Option<String> {
    let mut shown = None;
    let hanging = pool::run_all(0..most, Some(mutant), jobs, |outcome| {
        if let Some(violation) = outcome.violations.first() {
            shown = Some(format!("seed {}: {violation}", outcome.seed));
        }
        shown.is_none()
    });
    shown.or(hanging.map(|seed| format!("seed {seed}: it never ends")))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// Every source file in a directory, and below it.
    fn sources(dir: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
            }
        }
    }

    /// What stands between the braces of a test of this name; none where there is no such test.
    fn body<'a>(source: &'a str, name: &str) -> Option<&'a str> {
        let (before, after) = source.split_once(&format!("fn {name}() {{\n"))?;
        let attributes = before.rsplit_once("\n\n").map_or(before, |(_, last)| last);
        let line = before.rsplit_once('\n').map_or(before, |(_, line)| line);
        let indent = &line[..line.len() - line.trim_start().len()];
        let (body, _) = after.split_once(&format!("\n{indent}}}\n"))?;
        (attributes.contains("#[test]") || attributes.contains("#[tokio::test")).then_some(body)
    }

    #[test]
    fn every_test_that_is_said_to_notice_a_mutant_is_there_and_runs_it() {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src");
        let mut files = Vec::new();
        sources(&src, &mut files);
        let mut named = 0;
        for mutant in Mutant::ALL {
            for test in by_test(*mutant) {
                let mut parts: Vec<&str> = test.split("::").collect();
                let name = parts.pop().unwrap();
                let room = src.join(parts[0]).display().to_string();
                let runs = |(path, source): &(String, String)| {
                    path.starts_with(&room)
                        && body(source, name).is_some_and(|body| body.contains(&format!("Mutant::{}", mutant.name())))
                };
                assert!(files.iter().any(runs), "there is no test {test} that runs {}", mutant.name());
                named += 1;
            }
        }
        assert!(named > 5);
    }
}
