//! Small sabotages of the guards that keep the promises, one at a time: whoever claims that a guard is tested shows that the tests find
//! it missing (`make mutants`).
//!
//! Only in tests and with the feature `mutants`, which no release has: without it every question is answered with "no" when the code
//! is compiled, and nothing of this is left.

/// Declares the mutants, and what each of them does.
macro_rules! mutants {
    ($($(#[doc = $what:literal])+ $name:ident,)+) => {
        /// A sabotage of one guard.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutant {
            $($(#[doc = $what])+ $name,)+
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Mutant] = &[$(Mutant::$name,)+];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Mutant::$name => stringify!($name),)+
                }
            }

            /// What it does, for people.
            pub fn what(self) -> &'static str {
                match self {
                    $(Mutant::$name => concat!($($what),+).trim_ascii(),)+
                }
            }
        }
    };
}

mutants! {
    /// A patch is made for whatever object has the target's name, also for one that was created since.
    UidIgnored,
    /// A patch does not test the target's resourceVersion.
    VersionNotTested,
    /// A patch tests neither the target's uid nor its resourceVersion: it lands on whatever has the target's name.
    UidNotTested,
    /// A patch does not record its action in the target's ring.
    RingNotWritten,
    /// The target's ring holds its last action only.
    RingOfOne,
    /// What the target's ring says of an action is not looked at.
    RingNotRead,
    /// An action is given up without a fence.
    FenceSkipped,
    /// An action runs without an Action that claims it.
    ClaimNotCreated,
    /// A patch without an answer counts as one that was refused.
    UnknownTakenForRefused,
    /// A later plan is sent without being recorded.
    PlanNotRecorded,
    /// Whoever takes an action over sends it without a plan of its own on record.
    TakeoverNotPlanned,
    /// A target whose annotation was rewound counts as one that nothing was done to.
    RewindNotSeen,
    /// An Action is written over whatever another replica has made of it.
    TakeoverNotSeen,
    /// An action is run past its deadline.
    StaleRuns,
    /// An action that has ended is run again.
    EndedRunsAgain,
    /// An offset is stored as soon as its record is handed over.
    AckedBeforeEffect,
    /// An object is written without what it still has to say.
    OutboxNotWritten,
    /// A write drops what other writers still have to say.
    OthersEntriesDropped,
    /// What an object still has to say counts as said before the log has acknowledged it.
    ClearedBeforeAcknowledged,
    /// A conflict is answered by writing over it.
    ConflictOverwritten,
    /// What a dead replica still had to say is not published by another one.
    TakeoverNotPublished,
    /// Of several inputs that waited for one group only the first is decided.
    FoldedInputsForgotten,
    /// A repetition of an alert whose incident has ended opens an incident.
    RepetitionOpens,
    /// A group forgets what it was told as soon as that is over.
    InputsForgotten,
    /// An alert that has ended goes on by what was told before its end.
    OldEvidenceCounts,
    /// A failure that is known already is acted on again.
    KnownFailureCounts,
    /// After an outage every missed repetition is sent.
    OutageRepeatsAll,
    /// A group that was deleted does not go on with its open incident.
    OrphanNotAdopted,
    /// An alert that no rule matches ends without a reason.
    UnmatchedNotDecided,
    /// The entry of the ledger for one alert and rule has another id each time.
    LedgerIdOfTime,
    /// What is said of an incident last decides its phase.
    LastPhaseWins,
    /// An event that comes before its incident was opened is forgotten.
    EarlyEventsForgotten,
    /// Two messages of one occasion with different templates have one key.
    KeyWithoutTemplate,
    /// A message is sent without a Notification that claims it.
    SentWithoutClaim,
    /// A message that may be a second copy is not marked.
    CopyNotMarked,
    /// Alerts are answered with 200 that could not be kept.
    AnsweredBeforeKept,
    /// Alerts leave ingest's outbox before the log has acknowledged them.
    RelayedBeforeAcknowledged,
}

#[cfg(any(test, feature = "mutants"))]
thread_local! {
    static CHOSEN: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Whether this sabotage is done on this thread.
#[cfg(any(test, feature = "mutants"))]
pub fn mutated(mutant: Mutant) -> bool {
    CHOSEN.get() == Some(mutant)
}

/// No sabotage is ever done.
#[cfg(not(any(test, feature = "mutants")))]
#[inline(always)]
pub const fn mutated(_: Mutant) -> bool {
    false
}

/// Does this sabotage on this thread from now on, or none.
#[cfg(any(test, feature = "mutants"))]
pub fn choose(mutant: Option<Mutant>) {
    CHOSEN.set(mutant);
}

/// Runs `work` under a sabotage.
#[cfg(any(test, feature = "mutants"))]
pub fn with<T>(mutant: Mutant, work: impl FnOnce() -> T) -> T {
    choose(Some(mutant));
    let result = work();
    choose(None);
    result
}
