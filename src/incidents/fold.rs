//! What to write for an incident, given what waits for it: several inputs become one write. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;

use super::{
    evolve::{Input, apply, known, to_status},
    facts::Facts,
    text::{SEVERITY_MAX, SUMMARY_MAX, cut, is_dns_label, is_rule_name, sane},
};
use crate::{
    api::v1alpha1::{
        Incident, IncidentAlert, IncidentDecision, IncidentDecisionType, IncidentSpec, IncidentStatus, LABEL_INCIDENT,
        LABEL_RULE, LocalReference,
    },
    events::{
        CorrelationId, Event, EventId, IncidentHeader, IncidentId, IncidentUpdated, NamespacedName, Topic,
        TraceContext, UpdateCause,
    },
    mutants::{Mutant, mutated},
};

/// An event's times may lie so far ahead of this replica's clock; beyond it they are taken for nonsense.
const SKEW_MAX: SignedDuration = SignedDuration::from_hours(24);
/// Who decided, where nobody can know.
const NOBODY_KNOWN: &str = "unknown";

/// Why an event that could be decoded can still not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It concerns no incident.
    #[error("the event carries no incident")]
    NoIncident,
    /// A name in it cannot be a resource's.
    #[error("incident.rule.{field}: {value:?} is no {expected}")]
    BadName {
        /// `namespace` or `name`.
        field: &'static str,
        /// What stands there, cut.
        value: String,
        /// What must stand there.
        expected: &'static str,
    },
    /// A time in it lies in the future.
    #[error("{field}: {time} lies in the future")]
    Future {
        /// The field.
        field: &'static str,
        /// What stands there.
        time: Timestamp,
    },
}

/// The incident that an event is about. Fails for an event that would be refused, or that would stay the newest for ever.
pub fn subject(event: &Event, now: Timestamp) -> Result<NamespacedName, Unusable> {
    let header = event.payload.incident().ok_or(Unusable::NoIncident)?;
    let bad = |field, value: &str, expected| Unusable::BadName { field, value: cut(value, 80), expected };
    let rule = &header.rule;
    if !is_dns_label(&rule.namespace) {
        return Err(bad("namespace", &rule.namespace, "namespace"));
    }
    if !is_rule_name(&rule.name) {
        return Err(bad("name", &rule.name, "rule's name"));
    }
    for (field, time) in [("ce_time", event.time), ("incident.openedAt", header.opened_at)] {
        if time.duration_since(now) > SKEW_MAX {
            return Err(Unusable::Future { field, time });
        }
    }
    Ok(NamespacedName { namespace: rule.namespace.clone(), name: header.incident_id.to_string() })
}

/// What a decision needs to know beside the resource and the events.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// Now.
    pub now: Timestamp,
    /// An incident that was opened before this is not created again: its resource was deleted after its time.
    pub create_after: Timestamp,
    /// The same where all that is known is what became of a message. It may come long after the end, when the incident was deleted
    /// beyond the count; nothing after it would say again that the incident is over, so that it would stay open for ever.
    pub create_from_message_after: Timestamp,
    /// Since when an admission policy holds `spec.decidedBy` to the authenticated user; none without one.
    pub verified_since: Option<Timestamp>,
    /// `ce_source` of incident.updated is the service's; this is what its events' headers say.
    pub source: String,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Change {
    /// There is no such incident, and what came is too old to create it.
    Stale,
    /// Nothing changes, so nothing is said.
    None,
    /// The incident with its new status, and what is to be said about it.
    Write {
        /// The resource.
        incident: Box<Incident>,
        /// incident.updated, unless only bookkeeping changed.
        updated: Option<Event>,
    },
}

/// Folds every waiting event, and what people have decided in the spec, into the incident.
pub fn fold(name: &NamespacedName, current: Option<&Incident>, events: &[&Event], at: &Circumstances) -> Change {
    let fresh = |event: &&&Event| {
        let of_message = matches!(event.topic(), Topic::NotificationDelivered | Topic::NotificationFailed);
        let after = if of_message { at.create_from_message_after } else { at.create_after };
        event.payload.incident().is_some_and(|header| header.opened_at >= after)
    };
    let base = match current {
        Some(incident) => incident.clone(),
        None if mutated(Mutant::EarlyEventsForgotten)
            && !events.iter().any(|event| event.topic() == Topic::IncidentOpened) =>
        {
            return Change::Stale;
        }
        None => match events.iter().find(fresh) {
            Some(event) => match create(name, event) {
                Some(incident) => incident,
                None => return Change::Stale,
            },
            None => return Change::Stale,
        },
    };
    let mut facts = base.status.as_ref().map(known).unwrap_or_default();
    let decisions = decisions(&base, &facts, at);
    for event in events {
        apply(&mut facts, &Input::Event(event));
    }
    for decision in &decisions {
        let id = decision_id(name, decision.r#type);
        apply(&mut facts, &Input::Decision { decision, id: id.as_str() });
    }
    let mut previous = base.status.clone().unwrap_or_default();
    previous.observed_generation = Some(base.metadata.generation.unwrap_or(1));
    let status = to_status(facts, base.spec.opened_at, Some(&previous));
    if current.is_some() && base.status.as_ref() == Some(&status) {
        return Change::None;
    }
    let told = current.is_none() || !says_the_same(base.status.as_ref(), &status);
    let mut incident = base;
    incident.status = Some(status);
    let cause = if decisions.is_empty() { UpdateCause::Event } else { UpdateCause::Decision };
    let updated = if told { updated(name, &incident, cause, at) } else { None };
    Change::Write { incident: Box::new(incident), updated }
}

/// Whether two statuses differ in bookkeeping only.
fn says_the_same(before: Option<&IncidentStatus>, after: &IncidentStatus) -> bool {
    before.is_some_and(|before| {
        let mut before = before.clone();
        before.observed_generation = after.observed_generation;
        before.outbox.clone_from(&after.outbox);
        before.conditions.iter_mut().for_each(|condition| condition.observed_generation = after.observed_generation);
        before == *after
    })
}

/// The resource of an incident of which nothing is known but an event's header.
fn create(name: &NamespacedName, event: &Event) -> Option<Incident> {
    let header = event.payload.incident()?;
    let spec = IncidentSpec {
        rule_ref: LocalReference { name: header.rule.name.clone() },
        correlation_id: header.correlation_id.to_string(),
        severity: cut(&header.severity, SEVERITY_MAX),
        summary: cut(&header.summary, SUMMARY_MAX),
        opened_at: sane(header.opened_at),
        // The same whichever event creates it.
        traceparent: TraceContext::read(event.traceparent.as_deref())
            .map(|trace| trace.of_incident(header).to_string()),
        acknowledged: false,
        resolved: false,
        decided_by: None,
    };
    let mut incident = Incident::new(&name.name, spec);
    incident.metadata.namespace = Some(name.namespace.clone());
    let labels = [(LABEL_RULE, header.rule.name.clone()), (LABEL_INCIDENT, name.name.clone())];
    incident.metadata.labels = Some(labels.map(|(label, value)| (label.to_owned(), value)).into());
    Some(incident)
}

/// What the spec says that the status does not know yet.
fn decisions(incident: &Incident, facts: &Facts, at: &Circumstances) -> Vec<IncidentDecision> {
    let spec = &incident.spec;
    let new: Vec<IncidentDecisionType> =
        [(spec.acknowledged, IncidentDecisionType::Acknowledged), (spec.resolved, IncidentDecisionType::Resolved)]
            .into_iter()
            .filter(|(decided, kind)| *decided && !facts.decisions.contains_key(kind))
            .map(|(_, kind)| kind)
            .collect();
    let observed = incident.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(1);
    let in_one_write = incident.metadata.generation.unwrap_or(1) <= observed.saturating_add(1);
    let certain = in_one_write || new.len() == 1;
    new.into_iter()
        .map(|kind| {
            // `decidedBy` names who decided last. Of two decisions in two writes nobody can tell who took which.
            let by = spec.decided_by.as_deref().unwrap_or(NOBODY_KNOWN);
            let verified = certain && spec.decided_by.is_some() && is_verified(incident, at.verified_since);
            let by = if certain { by.to_owned() } else { format!("{by} or another user") };
            IncidentDecision { r#type: kind, time: at.now, by, verified }
        })
        .collect()
}

/// Whether `decidedBy` was written after the policy was there, by the API server's own record of who wrote which field when.
fn is_verified(incident: &Incident, since: Option<Timestamp>) -> bool {
    let written = incident
        .metadata
        .managed_fields
        .iter()
        .flatten()
        .filter(|entry| names_who_decided(entry))
        .filter_map(|entry| entry.time.as_ref())
        .map(|time| time.0)
        .max();
    matches!((written, since), (Some(written), Some(since)) if written > since)
}

fn names_who_decided(entry: &ManagedFieldsEntry) -> bool {
    entry.fields_v1.as_ref().is_some_and(|fields| !fields.0["f:spec"]["f:decidedBy"].is_null())
}

/// Leaves of the managed fields what [`fold`] reads of them: they are larger in memory than all else of an incident. Of labels and
/// annotations nothing is read, and a write of the status does not change them (k8s.io/apiextensions-apiserver, `statusStrategy`).
pub fn forget_all_but_who_decided(incident: &mut Incident) {
    (incident.metadata.labels, incident.metadata.annotations) = (None, None);
    let all = incident.metadata.managed_fields.take().unwrap_or_default();
    let kept: Vec<ManagedFieldsEntry> = all.into_iter().filter(names_who_decided).collect();
    incident.metadata.managed_fields = Some(kept).filter(|kept| !kept.is_empty());
}

fn decision_id(name: &NamespacedName, kind: IncidentDecisionType) -> EventId {
    EventId::new("decision", &name.to_string(), &format!("{kind:?}"))
}

/// incident.updated of an incident as it is now. Its id is derived from what it says; a status never comes back, so neither does an id.
fn updated(name: &NamespacedName, incident: &Incident, cause: UpdateCause, at: &Circumstances) -> Option<Event> {
    let header = header(name, incident)?;
    let status = incident.status.as_ref()?;
    let transition = IncidentStatus { outbox: Vec::new(), ..status.clone() };
    let transition = serde_json::to_string(&transition).ok()?;
    let id = EventId::new(Topic::IncidentUpdated.name(), &name.to_string(), &transition);
    let key = header.incident_id.to_string();
    let payload = IncidentUpdated {
        incident: header,
        phase: status.phase,
        cause,
        acknowledged: incident.spec.acknowledged,
        resolved: incident.spec.resolved,
        decided_by: incident.spec.decided_by.clone(),
    };
    Some(Event {
        id,
        time: at.now,
        source: at.source.clone(),
        subject: key.clone(),
        key,
        traceparent: incident.spec.traceparent.clone(),
        payload: payload.into(),
    })
}

/// The header of an incident, from its resource. None where somebody made the resource by hand and its ids are no ids.
fn header(name: &NamespacedName, incident: &Incident) -> Option<IncidentHeader> {
    let status = incident.status.as_ref()?;
    Some(IncidentHeader {
        incident_id: IncidentId::try_from(name.name.clone()).ok()?,
        correlation_id: CorrelationId::try_from(incident.spec.correlation_id.clone()).ok()?,
        rule: NamespacedName { namespace: name.namespace.clone(), name: incident.spec.rule_ref.name.clone() },
        alerts: status.alerts.iter().filter_map(IncidentAlert::link).collect(),
        alert_count: u32::try_from(status.alert_count).unwrap_or(0),
        severity: incident.spec.severity.clone(),
        summary: incident.spec.summary.clone(),
        opened_at: incident.spec.opened_at,
        accepted_at: None,
    })
}
