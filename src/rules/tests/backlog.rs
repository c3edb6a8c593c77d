//! When the log is read up to the present.

use jiff::SignedDuration;

use super::fixtures::at;
use crate::rules::backlog::Backlog;

const QUIET: SignedDuration = SignedDuration::from_secs(10);

#[test]
fn nothing_is_known_before_reading_begins_and_while_it_stops() {
    let mut backlog = Backlog::default();
    assert!(backlog.is_behind(QUIET, at(100_000)));
    backlog.begin(at(0));
    assert!(backlog.is_behind(QUIET, at(9)) && !backlog.is_behind(QUIET, at(10)));
    backlog.stop(at(50));
    assert!(backlog.is_behind(QUIET, at(100_000)) && !backlog.is_reading());
}

#[test]
fn what_was_accepted_before_reading_began_says_that_more_may_wait() {
    let mut backlog = Backlog::default();
    backlog.begin(at(1_000));
    for second in 0..60 {
        backlog.read(0, at(100 + second), at(1_000 + second));
        assert!(backlog.is_behind(QUIET, at(1_000 + second)), "behind after {second} s");
    }
    // One partition is read, the other one is not.
    backlog.read(1, at(1_000), at(1_060));
    assert!(backlog.is_behind(QUIET, at(1_060)));
    backlog.read(0, at(1_001), at(1_061));
    assert!(!backlog.is_behind(QUIET, at(1_061)));
    // Old ones that come later say nothing more.
    backlog.read(0, at(200), at(1_062));
    assert!(!backlog.is_behind(QUIET, at(1_062)));
}

#[test]
fn a_partition_of_which_nothing_more_comes_is_read() {
    let mut backlog = Backlog::default();
    backlog.begin(at(1_000));
    backlog.read(0, at(100), at(1_005));
    assert!(backlog.is_behind(QUIET, at(1_014)));
    assert!(!backlog.is_behind(QUIET, at(1_015)));
}

#[test]
fn alerts_that_are_always_old_hold_up_nothing_for_ever() {
    let mut backlog = Backlog::default();
    backlog.begin(at(0));
    for second in 0..900 {
        backlog.read(0, at(-5_000), at(second));
    }
    assert!(backlog.is_behind(QUIET, at(899)) && !backlog.is_behind(QUIET, at(900)));
}

#[test]
fn a_log_that_comes_and_goes_holds_up_nothing_for_ever() {
    let mut backlog = Backlog::default();
    // 5 s of reading, 5 s without, again and again.
    let holds = |backlog: &mut Backlog, rounds: i64| {
        for round in 0..rounds {
            backlog.begin(at(10 * round));
            assert!(backlog.is_behind(QUIET, at(10 * round + 4)), "round {round}");
            backlog.stop(at(10 * round + 5));
        }
    };
    holds(&mut backlog, 180);
    backlog.begin(at(1_800));
    assert!(!backlog.is_behind(QUIET, at(1_801)), "after 15 min of reading");
    // What was read up to the present for days has used up nothing.
    backlog.stop(at(500_000));
    backlog.begin(at(500_001));
    assert!(backlog.is_behind(QUIET, at(500_002)));
}

#[test]
fn a_clock_that_is_set_back_begins_anew() {
    let mut backlog = Backlog::default();
    backlog.begin(at(10_000));
    assert!(backlog.is_behind(QUIET, at(1_000)));
    assert!(backlog.is_behind(QUIET, at(1_009)) && !backlog.is_behind(QUIET, at(1_010)));
}
