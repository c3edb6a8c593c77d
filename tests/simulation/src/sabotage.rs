//! The table of mutants: for each sabotage of the product, the first seed whose history shows it.

use std::{process::ExitCode, time::Instant};

use eventpulse::mutants::Mutant;

use crate::pool;

/// Histories of the product as it is, which must all be as they should.
const CONTROL: u64 = 100;

/// What a history cannot show because its scenario has no such thing, or seldom shows, and the test that does.
fn by_test(mutant: Mutant) -> Option<&'static str> {
    match mutant {
        // No alert of the scenario fires on long after its end, no failure comes again before it is known, no outage is that long.
        Mutant::OldEvidenceCounts | Mutant::KnownFailureCounts | Mutant::OutageRepeatsAll => {
            Some("rules::tests::properties::four_sabotages_are_caught")
        }
        // The second message is not asked for at all, and nothing outside says that it should be.
        Mutant::KeyWithoutTemplate => Some("events::ids::tests::without_its_template_a_message_has_the_key_of_another"),
        // Its other entries count only for an Action that somebody has taken away with its finalizer.
        Mutant::RingOfOne => Some("actions::ring::tests::a_ring_of_one_forgets"),
        // What only a rare meeting of faults leads to: there may be no such history among the first ones.
        Mutant::RingNotRead | Mutant::RewindNotSeen | Mutant::UidIgnored => {
            Some("actions::judge::tests::a_judge_that_misses_what_the_target_says_is_noticed")
        }
        Mutant::OthersEntriesDropped => {
            Some("runtime::store::tests::a_write_that_drops_what_others_have_to_say_is_noticed")
        }
        _ => None,
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
    let (began, mut survivors) = (Instant::now(), Vec::new());
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
        let test = by_test(*mutant);
        let most = if test.is_some() { most.min(WITH_A_TEST) } else { most };
        let killed = first_that_shows(*mutant, most, jobs).or(test.map(|test| format!("the test {test}")));
        let said = killed.clone().unwrap_or_else(|| format!("NOTHING in {most} histories"));
        println!("{:<24} {:<72} {said}", mutant.name(), mutant.what());
        if killed.is_none() {
            survivors.push(mutant.name());
        }
    }
    let took = began.elapsed().as_secs();
    println!("{} mutants, {} survived, in {took} s", chosen.len(), survivors.len());
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
