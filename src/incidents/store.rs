//! One incident at a time: fold what waits, write, publish, acknowledge.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::SignedDuration;
use tokio::sync::watch;
use tracing::Instrument as _;

use super::{
    fold::{Change, Circumstances, fold, forget_all_but_who_decided},
    policy::PolicyState,
    retention::grace,
    told::Transition,
};
use crate::{
    api::v1alpha1::{Incident, OutboxEntry},
    events::{AlertId, DeadLetterReason, Event, IncidentHeader, NamespacedName, TraceContext},
    runtime::{
        Context, Handler, Inbound, KubeEvents, Owned, Step, Store, StoreError,
        consume::bury,
        metrics::catalogue::INCIDENT_WRITES,
        telemetry::{Ids, scope},
    },
};

impl Owned for Incident {
    const STATUS_SUBRESOURCE: bool = true;
    /// An entry holds the incident's whole header, and an incident stays below 32 kB (promise 6): a write that finds an entry which
    /// is not acknowledged publishes it first.
    const OUTBOX_LIMIT: usize = 1;

    fn outbox(&self) -> &[OutboxEntry] {
        self.status.as_ref().map(|status| status.outbox.as_slice()).unwrap_or_default()
    }

    fn set_outbox(&mut self, entries: Vec<OutboxEntry>) {
        self.status.get_or_insert_default().outbox = entries;
    }

    /// Who wrote `decidedBy`, and when, says whether a decision is verified; nothing else of the managed fields is read.
    fn forget_unread(&mut self) {
        forget_all_but_who_decided(self);
    }
}

/// What waits for an incident.
#[derive(Debug)]
pub(super) enum Waiting {
    /// An event of another service.
    Event(Box<Inbound>),
    /// Somebody changed its spec.
    Look,
}

/// Writes incidents.
pub(super) struct Incidents {
    pub ctx: Context,
    pub store: Arc<Store<Incident>>,
    pub policy: watch::Receiver<PolicyState>,
    /// What people see on the incident.
    pub kube_events: KubeEvents,
    /// An incident that was opened longer ago is not created again.
    pub retention: SignedDuration,
}

#[async_trait]
impl Handler<NamespacedName, Waiting> for Incidents {
    async fn handle(&self, name: &NamespacedName, inputs: Vec<Waiting>) {
        let inbound: Vec<Inbound> = inputs
            .into_iter()
            .filter_map(|input| match input {
                Waiting::Event(inbound) => Some(*inbound),
                Waiting::Look => None,
            })
            .collect();
        let lines = lines_of(name, &inbound);
        match self.write(name, &inbound).instrument(lines.clone()).await {
            Ok(()) => inbound.into_iter().for_each(|inbound| inbound.ack.done()),
            // Nothing is acknowledged: it comes again.
            Err(StoreError::Shutdown) => {}
            // Where the server fails in writes it is none of them that is to blame.
            Err(error) if inbound.len() <= 1 || error.is_of_the_server() => {
                lines.in_scope(|| self.refuse(name, inbound, &error));
            }
            // One of several: each for itself, so that one that cannot be written takes no other with it.
            Err(StoreError::Refused { .. }) => {
                for inbound in inbound {
                    let one = std::slice::from_ref(&inbound);
                    let lines = lines_of(name, one);
                    match self.write(name, one).instrument(lines.clone()).await {
                        Ok(()) => inbound.ack.done(),
                        Err(StoreError::Shutdown) => return,
                        Err(error) => lines.in_scope(|| self.refuse(name, vec![inbound], &error)),
                    }
                }
            }
        }
    }
}

impl Incidents {
    async fn write(&self, name: &NamespacedName, inbound: &[Inbound]) -> Result<(), StoreError> {
        let events: Vec<&Event> = inbound.iter().map(|inbound| &inbound.event).collect();
        let (mut outcome, mut transition) = ("unchanged", None);
        let stored = self
            .store
            .transact(name, |current| match fold(name, current, &events, &self.circumstances()) {
                Change::Stale => {
                    (outcome, transition) = ("stale", None);
                    Step::Nothing { publish: Vec::new() }
                }
                // The status is a join: what changes nothing in an older state changes nothing in a newer one.
                Change::None => {
                    (outcome, transition) = ("unchanged", None);
                    Step::Unchanged { publish: Vec::new() }
                }
                Change::Write { incident, updated } => {
                    outcome = if current.is_none() { "created" } else { "updated" };
                    transition = Some(Transition::of(current, &incident));
                    let updated = updated.map(|event| caused(event, inbound));
                    Step::Write { object: *incident, publish: updated.into_iter().collect() }
                }
            })
            .await?;
        self.ctx.metrics.count(&INCIDENT_WRITES, [outcome], 1);
        if let (Some(stored), Some(transition)) = (stored, transition) {
            self.tell(name, &stored, transition, &events);
        }
        Ok(())
    }

    fn circumstances(&self) -> Circumstances {
        let now = self.ctx.clock.now();
        Circumstances {
            now,
            create_after: now.saturating_sub(self.retention).unwrap_or(now),
            create_from_message_after: now.saturating_sub(grace(self.retention)).unwrap_or(now),
            verified_since: self.policy.borrow().verified_since(),
            source: self.ctx.source(),
        }
    }

    /// The API server refuses the write for good: what could not be written is kept as dead letters, and the partition goes on. What a
    /// person decided is in the spec, and is tried again with the next round of retention.
    fn refuse(&self, name: &NamespacedName, inbound: Vec<Inbound>, error: &StoreError) {
        tracing::warn!(incident = %name, %error, "An incident cannot be written.");
        for inbound in inbound {
            let letter = inbound.record.to_dead_letter(DeadLetterReason::Refused, error.to_string(), inbound.origin());
            bury(&self.ctx, letter, inbound.ack);
        }
    }
}

/// What the lines that are said about some inputs belong to: the first of them.
fn lines_of(name: &NamespacedName, inbound: &[Inbound]) -> tracing::Span {
    let trace = inbound.first().map(|inbound| inbound.processing.context);
    let header = inbound.first().and_then(|inbound| inbound.event.payload.incident());
    let alert = header.and_then(IncidentHeader::alert).map(AlertId::as_str);
    scope(trace, Ids { alert, incident: Some(&name.name), ..Ids::default() })
}

/// What is said of an incident belongs under the newest event of its trace that changed it.
fn caused(updated: Event, inbound: &[Inbound]) -> Event {
    let said = TraceContext::read(updated.traceparent.as_deref());
    let contexts = inbound.iter().rev().map(|inbound| inbound.processing.context);
    let cause = contexts.into_iter().find(|context| said.is_none_or(|said| said.trace_id == context.trace_id));
    Event { traceparent: cause.map(|cause| cause.to_string()).or(updated.traceparent), ..updated }
}
