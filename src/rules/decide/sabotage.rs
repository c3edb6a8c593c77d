//! Named faults that a test can put into the decision, to show that the properties would notice.

use std::cell::Cell;

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A repetition of an alert whose incident has ended opens an incident (promise 3).
    RepetitionOpens,
    /// An alert that has ended goes on by what was told before its end (promises 3 and 5).
    OldEvidenceCounts,
    /// A failure that is known already is acted on again (promise 5).
    KnownFailureCounts,
    /// After an outage every missed repetition is sent (design, section 5).
    OutageRepeatsAll,
}

thread_local! {
    static ACTIVE: Cell<Option<Sabotage>> = const { Cell::new(None) };
}

/// Whether this fault is active on this thread.
pub fn sabotaged(fault: Sabotage) -> bool {
    ACTIVE.get() == Some(fault)
}

/// Runs `work` with a fault.
pub fn with<T>(fault: Sabotage, work: impl FnOnce() -> T) -> T {
    ACTIVE.set(Some(fault));
    let result = work();
    ACTIVE.set(None);
    result
}
