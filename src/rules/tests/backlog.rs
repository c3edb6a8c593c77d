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
    backlog.stop();
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
