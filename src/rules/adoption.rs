//! A group that is deleted while its incident goes on leaves an orphan: the group's next alert joins that incident instead of opening
//! another one.
//!
//! Rules knows every Incident, but of each only what tells whether it is one. That one is read when it is needed, which is hardly ever.

use jiff::Timestamp;

use super::{decide::Adopted, group::Groups};
use crate::{
    api::v1alpha1::{Incident, IncidentActionState, IncidentAlert, IncidentPhase, StepOutcome},
    events::{IncidentId, NamespacedName},
    runtime::{
        StoreError,
        store::read,
        watch_cache::{Kept, version_of},
    },
};

/// What is kept of an Incident.
#[derive(Clone, Debug)]
pub(super) struct KnownIncident {
    uid: Option<Box<str>>,
    version: u64,
    correlation: Box<str>,
    opened_at: Timestamp,
    is_over: bool,
}

impl KnownIncident {
    pub fn of(incident: Incident) -> Self {
        Self {
            is_over: is_over(&incident),
            uid: incident.metadata.uid.as_deref().map(Box::from),
            version: version_of(&incident),
            correlation: incident.spec.correlation_id.as_str().into(),
            opened_at: incident.spec.opened_at,
        }
    }
}

impl Kept for KnownIncident {
    fn uid(&self) -> Option<&str> {
        self.uid.as_deref()
    }

    fn version(&self) -> u64 {
        self.version
    }
}

/// An unfinished incident whose group is not there.
#[derive(Debug, PartialEq)]
pub(super) enum Orphan {
    /// There is a group, so nobody has looked.
    NotLooked,
    /// There is none.
    None,
    /// There is one.
    Found(Adopted),
}

impl Orphan {
    pub fn adopted(&self) -> Option<&Adopted> {
        match self {
            Orphan::Found(adopted) => Some(adopted),
            Orphan::NotLooked | Orphan::None => None,
        }
    }
}

impl Groups {
    /// The orphan that a group of this name would adopt, unless the cache knows the group.
    pub(super) async fn orphan_unless_known(&self, group: &NamespacedName) -> Result<Orphan, StoreError> {
        if self.store.get(group).is_some() { Ok(Orphan::NotLooked) } else { self.orphan(group).await }
    }

    /// The orphan that a group of this name would adopt: the one that opened last.
    pub(super) async fn orphan(&self, group: &NamespacedName) -> Result<Orphan, StoreError> {
        let opened_at = |name: &NamespacedName, known: &KnownIncident| {
            let is_ours = !known.is_over && *known.correlation == *group.name && name.namespace == group.namespace;
            is_ours.then_some(known.opened_at)
        };
        let Some(name) = self.incidents.find_max(opened_at) else { return Ok(Orphan::None) };
        let incident = match read::<Incident>(&self.ctx, &name).await {
            Err(error @ StoreError::Refused { .. }) => {
                tracing::warn!(%error, group = %group, "An incident without a group cannot be read; another one opens.");
                None
            }
            read => read?,
        };
        let unfinished = incident.filter(|incident| !is_over(incident));
        Ok(unfinished.as_ref().and_then(adopted).map_or(Orphan::None, Orphan::Found))
    }
}

fn is_over(incident: &Incident) -> bool {
    let phase = incident.status.as_ref().map(|status| status.phase).unwrap_or_default();
    incident.spec.resolved || phase == IncidentPhase::Resolved
}

/// What a group needs of an incident that it takes over; none of one whose ids somebody has made up.
fn adopted(incident: &Incident) -> Option<Adopted> {
    let status = incident.status.clone().unwrap_or_default();
    let alerts = status.alerts.iter().filter_map(IncidentAlert::link);
    let steps = status.actions.iter().map(|action| {
        let outcome = match action.state {
            IncidentActionState::Requested | IncidentActionState::Running => StepOutcome::Requested,
            IncidentActionState::SkippedStale | IncidentActionState::Failed => StepOutcome::Failed,
            IncidentActionState::Completed => StepOutcome::Completed,
        };
        (action.step.clone(), action.attempt, outcome)
    });
    Some(Adopted {
        incident_id: IncidentId::try_from(incident.metadata.name.clone()?).ok()?,
        opened_at: incident.spec.opened_at,
        severity: incident.spec.severity.clone(),
        summary: incident.spec.summary.clone(),
        phase: status.phase,
        alerts: alerts.collect(),
        steps: steps.collect(),
    })
}
