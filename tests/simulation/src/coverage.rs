//! Which faults were reached, and how often: one that never is makes the run fail.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Everything that can happen to a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    CrashBeforeWrite,
    CrashAfterWrite,
    CrashBeforePublish,
    CrashAfterPublish,
    CrashBeforeMessage,
    CrashAfterMessage,
    Killed,
    Stopped,
    Frozen,
    FrozenUnderWay,
    ClockForward,
    ClockBack,
    PublishRefused,
    PublishInPart,
    AcknowledgementLost,
    PublishedTwice,
    BrokerAway,
    Rebalanced,
    OffsetsLost,
    OldRecordAgain,
    RequestLost,
    AnswerLost,
    AnswerLate,
    RequestLate,
    AnsweredAfterCommit,
    Unavailable,
    Throttled,
    Conflict,
    WatchLate,
    WatchBroken,
    WatchSilent,
    WatchExpired,
    Compacted,
    ApiServerAway,
    TargetChanged,
    TargetReplaced,
    TargetRewound,
    Decided,
    RuleSuspended,
    GroupDeleted,
    MessageNotConnected,
    MessageRefused,
    MessageAnswerLost,
    MessageThrottled,
    AlertAgain,
    AlertOutOfOrder,
    AlertUnanswered,
}

impl Fault {
    pub(crate) const ALL: [Fault; 47] = {
        use Fault::*;
        [
            CrashBeforeWrite,
            CrashAfterWrite,
            CrashBeforePublish,
            CrashAfterPublish,
            CrashBeforeMessage,
            CrashAfterMessage,
            Killed,
            Stopped,
            Frozen,
            FrozenUnderWay,
            ClockForward,
            ClockBack,
            PublishRefused,
            PublishInPart,
            AcknowledgementLost,
            PublishedTwice,
            BrokerAway,
            Rebalanced,
            OffsetsLost,
            OldRecordAgain,
            RequestLost,
            AnswerLost,
            AnswerLate,
            RequestLate,
            AnsweredAfterCommit,
            Unavailable,
            Throttled,
            Conflict,
            WatchLate,
            WatchBroken,
            WatchSilent,
            WatchExpired,
            Compacted,
            ApiServerAway,
            TargetChanged,
            TargetReplaced,
            TargetRewound,
            Decided,
            RuleSuspended,
            GroupDeleted,
            MessageNotConnected,
            MessageRefused,
            MessageAnswerLost,
            MessageThrottled,
            AlertAgain,
            AlertOutOfOrder,
            AlertUnanswered,
        ]
    };

    /// For people.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Fault::CrashBeforeWrite => "killed before a write to the API server",
            Fault::CrashAfterWrite => "killed after the commit, before the answer",
            Fault::CrashBeforePublish => "killed before a publication",
            Fault::CrashAfterPublish => "killed after a publication, before its acknowledgement",
            Fault::CrashBeforeMessage => "killed before a message",
            Fault::CrashAfterMessage => "killed after a message, before its answer",
            Fault::Killed => "killed at any time",
            Fault::Stopped => "stopped in order",
            Fault::Frozen => "frozen",
            Fault::FrozenUnderWay => "frozen with an action under way",
            Fault::ClockForward => "clock set forward",
            Fault::ClockBack => "clock set back",
            Fault::PublishRefused => "publication not taken",
            Fault::PublishInPart => "publication taken in part",
            Fault::AcknowledgementLost => "publication taken, its acknowledgement lost",
            Fault::PublishedTwice => "publication taken twice",
            Fault::BrokerAway => "broker away",
            Fault::Rebalanced => "partitions moved to another member",
            Fault::OffsetsLost => "stored offsets lost",
            Fault::OldRecordAgain => "an old record published again",
            Fault::RequestLost => "request lost",
            Fault::AnswerLost => "answer lost after the commit",
            Fault::AnswerLate => "answer later than anybody waits",
            Fault::RequestLate => "request committed long after it was given up",
            Fault::AnsweredAfterCommit => "504 after the commit",
            Fault::Unavailable => "503",
            Fault::Throttled => "429",
            Fault::Conflict => "409 for a write that nobody disputes",
            Fault::WatchLate => "watch late",
            Fault::WatchBroken => "watch broken off",
            Fault::WatchSilent => "watch silent",
            Fault::WatchExpired => "watch answered with 410",
            Fault::Compacted => "history of the API server compacted",
            Fault::ApiServerAway => "API server away",
            Fault::TargetChanged => "target changed by somebody else",
            Fault::TargetReplaced => "target deleted and created anew",
            Fault::TargetRewound => "target's annotations rewound",
            Fault::Decided => "incident resolved or acknowledged by a person",
            Fault::RuleSuspended => "rule suspended for a while",
            Fault::GroupDeleted => "group deleted by somebody",
            Fault::MessageNotConnected => "message not connected",
            Fault::MessageRefused => "message refused with 500",
            Fault::MessageAnswerLost => "message taken, its answer lost",
            Fault::MessageThrottled => "message throttled",
            Fault::AlertAgain => "alert sent again",
            Fault::AlertOutOfOrder => "alert resolved before it fires",
            Fault::AlertUnanswered => "alert sent and not answered",
        }
    }
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
