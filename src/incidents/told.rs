//! What is told of an incident beside its resource: that it failed or is over, as a Kubernetes Event, and how long that took.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;

use super::{
    evolve::{CONDITION_FAILED, CONDITION_RESOLVED},
    store::Incidents,
};
use crate::{
    api::v1alpha1::{Incident, IncidentPhase, IncidentStatus},
    events::{Event, NamespacedName},
    runtime::{
        kube_events::{Reason, Report},
        metrics::catalogue::ALERT_TO_RESOLVED,
    },
};

/// Where an incident was before a write, and where it is by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transition {
    pub before: IncidentPhase,
    pub after: IncidentPhase,
}

impl Transition {
    /// By the write that makes `after` of `before`.
    pub(super) fn of(before: Option<&Incident>, after: &Incident) -> Self {
        let phase = |incident: &Incident| incident.status.as_ref().map(|status| status.phase).unwrap_or_default();
        Self { before: before.map(phase).unwrap_or_default(), after: phase(after) }
    }

    /// What is told of it: few things, because every Event is a write.
    fn reason(self) -> Option<Reason> {
        match self.after {
            after if after == self.before => None,
            IncidentPhase::Failed => Some(Reason::IncidentFailed),
            IncidentPhase::Resolved => Some(Reason::IncidentResolved),
            IncidentPhase::Open | IncidentPhase::Mitigating => None,
        }
    }
}

impl Incidents {
    /// After the write of this transition, which these events brought about.
    pub(super) fn tell(&self, name: &NamespacedName, incident: &Incident, transition: Transition, events: &[&Event]) {
        let (Some(reason), Some(status)) = (transition.reason(), &incident.status) else { return };
        let resolved = reason == Reason::IncidentResolved;
        let time = if resolved { status.resolved_at } else { status.failed_at };
        let time = time.unwrap_or_else(|| self.ctx.clock.now());
        let accepted_at = events.iter().find_map(|event| event.payload.incident()?.accepted_at);
        if let Some(accepted_at) = accepted_at.filter(|_| resolved) {
            let trace = incident.spec.traceparent.as_deref();
            self.ctx.metrics.observe_between(&ALERT_TO_RESOLVED, [], (accepted_at, time), trace);
        }
        let regarding = ObjectReference {
            api_version: Some(Incident::api_version(&()).into_owned()),
            kind: Some(Incident::kind(&()).into_owned()),
            namespace: Some(name.namespace.clone()),
            name: Some(name.name.clone()),
            uid: incident.metadata.uid.clone(),
            ..ObjectReference::default()
        };
        let note = note(&incident.spec.summary, status, resolved);
        self.kube_events.say(Report { reason, of: name.name.clone(), regarding, related: None, note, time });
    }
}

fn note(summary: &str, status: &IncidentStatus, resolved: bool) -> String {
    let kind = if resolved { CONDITION_RESOLVED } else { CONDITION_FAILED };
    let condition = status.conditions.iter().find(|condition| condition.type_ == kind);
    let why = condition.map_or_else(String::new, |condition| match condition.message.as_str() {
        "" => format!(" ({})", condition.reason),
        message => format!(" ({}: {message})", condition.reason),
    });
    let last = status.last_action.as_deref().map_or_else(String::new, |last| format!("; last step: {last}"));
    let what = if resolved { "resolved" } else { "the ladder is at its end without success" };
    format!("{summary}: {what}{why}{last}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failure_and_end_are_told_and_only_when_they_come() {
        use IncidentPhase::{Failed, Mitigating, Open, Resolved};
        for before in [Open, Mitigating, Failed, Resolved] {
            for after in [Open, Mitigating, Failed, Resolved] {
                let wanted = match after {
                    Failed if before != Failed => Some(Reason::IncidentFailed),
                    Resolved if before != Resolved => Some(Reason::IncidentResolved),
                    _ => None,
                };
                assert_eq!(Transition { before, after }.reason(), wanted, "{before:?} to {after:?}");
            }
        }
    }
}
