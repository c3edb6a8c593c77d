//! The reasons of an Incident's conditions: a closed list.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use crate::api::v1alpha1::IncidentPhase;

/// Why a condition of an Incident is as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum ConditionReason {
    /// `Resolved`: an action took effect whose step resolves the incident.
    ActionCompleted,
    /// `Resolved`: every alert was resolved by its sender.
    AlertsResolved,
    /// `Resolved`: every alert was resolved or not repeated in time.
    AlertsExpired,
    /// `Resolved`: it was a rule's storm, and that is over.
    StormOver,
    /// `Resolved` or `Acknowledged`: a person decided so.
    Decision,
    /// `Failed`: the last step of the ladder failed.
    LadderExhausted,
    /// `Failed`: nobody can know whether a step took effect, and the rule stops there.
    OutcomeUnknown,
    /// It is true although nothing on record explains it: somebody edited the status.
    Unrecorded,
    /// `Acknowledged` is false: nobody has acknowledged it.
    NotAcknowledged,
    /// `Resolved` or `Failed` is false: nothing is done yet.
    Open,
    /// `Resolved` or `Failed` is false: an action was requested.
    Mitigating,
    /// `Resolved` is false: the ladder is at its end without success.
    Failed,
    /// `Failed` is false: the incident is over.
    Resolved,
}

impl fmt::Display for ConditionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl From<IncidentPhase> for ConditionReason {
    fn from(phase: IncidentPhase) -> Self {
        match phase {
            IncidentPhase::Open => Self::Open,
            IncidentPhase::Mitigating => Self::Mitigating,
            IncidentPhase::Failed => Self::Failed,
            IncidentPhase::Resolved => Self::Resolved,
        }
    }
}
