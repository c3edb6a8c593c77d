//! Which faults were reached, and how often: one that never is makes the run fail.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Declares the faults, and what each of them is for people.
macro_rules! faults {
    ($($name:ident => $text:literal,)+) => {
        /// Everything that can happen to a history.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Fault {
            $($name,)+
        }

        impl Fault {
            pub(crate) const ALL: &[Fault] = &[$(Fault::$name,)+];

            /// For people.
            pub(crate) fn text(self) -> &'static str {
                match self {
                    $(Fault::$name => $text,)+
                }
            }
        }
    };
}

faults! {
    CrashBeforeWrite => "killed before a write to the API server",
    CrashAfterWrite => "killed after the commit, before the answer",
    CrashBeforePublish => "killed before a publication",
    CrashAfterPublish => "killed after a publication, before its acknowledgement",
    CrashBeforeMessage => "killed before a message",
    CrashAfterMessage => "killed after a message, before its answer",
    Killed => "killed at any time",
    Stopped => "stopped in order",
    Frozen => "frozen",
    FrozenUnderWay => "frozen with an action under way",
    ClockForward => "clock set forward",
    ClockBack => "clock set back",
    PublishRefused => "publication not taken",
    PublishInPart => "publication taken in part",
    AcknowledgementLost => "publication taken, its acknowledgement lost",
    PublishedTwice => "publication taken twice",
    BrokerAway => "broker away",
    Rebalanced => "partitions moved to another member",
    ConsumerSlow => "consumer slow, records waiting for it",
    OffsetsLost => "stored offsets lost",
    OldRecordAgain => "an old record published again",
    RequestLost => "request lost",
    AnswerLost => "answer lost after the commit",
    AnswerLate => "answer later than anybody waits",
    RequestLate => "request committed long after it was given up",
    AnsweredAfterCommit => "504 after the commit",
    Unavailable => "503",
    Throttled => "429",
    WriteFailed => "500 for a write, its admission webhook away",
    Conflict => "409 for a write that nobody disputes",
    WatchLate => "watch late",
    WatchBroken => "watch broken off",
    WatchSilent => "watch silent",
    WatchExpired => "watch answered with 410",
    Compacted => "history of the API server compacted",
    ApiServerAway => "API server away",
    WebhookAway => "admission webhook away",
    TargetChanged => "target changed by somebody else",
    TargetReplaced => "target deleted and created anew",
    TargetRewound => "target's annotations rewound",
    Decided => "incident resolved or acknowledged by a person",
    RuleSuspended => "rule suspended for a while",
    GroupDeleted => "group deleted by somebody",
    MessageNotConnected => "message not connected",
    MessageRefused => "message refused with 500",
    MessageAnswerLost => "message taken, its answer lost",
    MessageThrottled => "message throttled",
    AlertAgain => "alert sent again",
    AlertOutOfOrder => "alert resolved before it fires",
    AlertUnanswered => "alert sent and not answered",
}

/// Counts. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Coverage(Arc<Mutex<BTreeMap<Fault, u64>>>);

impl Coverage {
    pub(crate) fn reached(&self, fault: Fault) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(fault).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> BTreeMap<Fault, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn add(&self, counts: &BTreeMap<Fault, u64>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().for_each(|(fault, count)| *all.entry(*fault).or_default() += count);
    }
}
