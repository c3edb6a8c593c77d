//! Kubernetes Events (events.k8s.io/v1): what happened, where `kubectl describe` shows it.
//!
//! In: a [`Report`]. Out: at most one Event for each name, best effort. Its name is derived from what it tells, so that a redelivery, a
//! restart or another replica says nothing twice: 409 means that it was said. May not touch: the work that it tells of. Nothing waits
//! for an Event, fails by one, or is less ready without it; what finds the queue full is dropped and counted.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::Instant,
};

use super::{
    ApiFailure, Context, Metrics,
    kube_api::call,
    metrics::catalogue::{KUBE_EVENTS, KUBE_EVENTS_QUEUED},
};

/// How many Events may wait (promise 6).
const QUEUE_MAX: usize = 1_024;
/// How long one may take, and how long what waits may still take when the process stops.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// After a refusal of the account's rights, none is tried for so long.
const FORBIDDEN_PAUSE: Duration = Duration::from_secs(300);
/// The API server refuses longer ones (k8s.io/kubernetes/pkg/apis/core/validation, events).
const NOTE_MAX: usize = 1_024;
const CONTROLLER: &str = "eventpulse.io/eventpulse";

/// What an Event may tell: the closed list of reasons. The service that it is of says it once, at the transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum Reason {
    /// On the target: an action took effect.
    ActionCompleted,
    /// On the target: an action did not, or nobody can know.
    ActionFailed,
    /// On the target: an action was not begun.
    ActionSkipped,
    /// On the Incident: the ladder is at its end without success.
    IncidentFailed,
    /// On the Incident: it is over.
    IncidentResolved,
}

impl Reason {
    /// Every one.
    pub const ALL: [Reason; 5] = [
        Reason::ActionCompleted,
        Reason::ActionFailed,
        Reason::ActionSkipped,
        Reason::IncidentFailed,
        Reason::IncidentResolved,
    ];

    /// As it stands in the Event.
    pub fn name(self) -> &'static str {
        match self {
            Reason::ActionCompleted => "ActionCompleted",
            Reason::ActionFailed => "ActionFailed",
            Reason::ActionSkipped => "ActionSkipped",
            Reason::IncidentFailed => "IncidentFailed",
            Reason::IncidentResolved => "IncidentResolved",
        }
    }

    /// What was done, as the Event's `action`.
    fn action(self) -> &'static str {
        match self {
            Reason::ActionCompleted | Reason::ActionFailed | Reason::ActionSkipped => "RunAction",
            Reason::IncidentFailed | Reason::IncidentResolved => "FollowIncident",
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Reason::ActionFailed | Reason::IncidentFailed => "Warning",
            Reason::ActionCompleted | Reason::ActionSkipped | Reason::IncidentResolved => "Normal",
        }
    }
}

/// What is to be told.
#[derive(Clone, Debug)]
pub struct Report {
    /// Why.
    pub reason: Reason,
    /// The resource whose transition it is: with the reason it makes the Event's name.
    pub of: String,
    /// The object that shows it.
    pub regarding: ObjectReference,
    /// Another one that it has to do with.
    pub related: Option<ObjectReference>,
    /// For people; cut at 1,024 characters.
    pub note: String,
    /// When it happened.
    pub time: Timestamp,
}

/// Where reports are handed in. Cheap to clone.
#[derive(Clone)]
pub struct KubeEvents {
    queue: mpsc::Sender<Report>,
    metrics: Metrics,
}

impl KubeEvents {
    /// Starts the one task that writes them, one after the other.
    pub fn start(ctx: &Context) -> Self {
        let (queue, reports) = mpsc::channel(QUEUE_MAX);
        let writer = Writer { ctx: ctx.clone(), forbidden_until: None };
        ctx.tasks.spawn_infallible("kube-events", writer.run(reports));
        Self { queue, metrics: ctx.metrics.clone() }
    }

    /// Hands a report in, and returns at once.
    pub fn say(&self, report: Report) {
        let queued = self.metrics.gauge(&KUBE_EVENTS_QUEUED, []);
        // Counted before it is there, so that it cannot be taken out before.
        queued.inc();
        if let Err(TrySendError::Full(_) | TrySendError::Closed(_)) = self.queue.try_send(report) {
            queued.dec();
            self.metrics.count(&KUBE_EVENTS, ["dropped"], 1);
        }
    }
}

struct Writer {
    ctx: Context,
    /// None is written before this: the account may not.
    forbidden_until: Option<Instant>,
}

impl Writer {
    /// Until shutdown, and then what waits already, for a little while.
    async fn run(mut self, mut reports: mpsc::Receiver<Report>) {
        let shutdown = self.ctx.shutdown.clone();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                report = reports.recv() => match report {
                    Some(report) => self.take(report).await,
                    None => return,
                },
            }
        }
        let rest = async {
            while let Ok(report) = reports.try_recv() {
                self.take(report).await;
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, rest).await;
    }

    async fn take(&mut self, report: Report) {
        self.ctx.metrics.gauge(&KUBE_EVENTS_QUEUED, []).dec();
        let outcome = match self.forbidden_until {
            Some(until) if Instant::now() < until => "refused",
            _ => self.write(&report).await,
        };
        self.ctx.metrics.count(&KUBE_EVENTS, [outcome], 1);
    }

    async fn write(&mut self, report: &Report) -> &'static str {
        let event = event_of(report, &self.ctx.source());
        let namespace = report.regarding.namespace.as_deref().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.ctx.kube.clone(), namespace);
        match self.ctx.way.record(false, call(WRITE_TIMEOUT, api.create(&PostParams::default(), &event))).await {
            Ok(_) => {
                self.forbidden_until = None;
                "written"
            }
            Err(ApiFailure::AlreadyExists(_) | ApiFailure::Conflict(_)) => "repeated",
            Err(failure @ ApiFailure::Refused { code: 403, .. }) => {
                if self.forbidden_until.is_none() {
                    tracing::warn!(
                        %failure, namespace,
                        "Kubernetes Events cannot be written; everything else works without them. Allow `create` of `events` in \
                         events.k8s.io (config/rbac has it), or leave it: this is said once."
                    );
                }
                self.forbidden_until = Some(Instant::now() + FORBIDDEN_PAUSE);
                "refused"
            }
            Err(failure @ (ApiFailure::Refused { .. } | ApiFailure::NotFound(_))) => {
                tracing::debug!(%failure, namespace, reason = report.reason.name(), "A Kubernetes Event was refused.");
                "refused"
            }
            Err(failure) => {
                tracing::debug!(%failure, namespace, reason = report.reason.name(), "A Kubernetes Event was not written.");
                "failed"
            }
        }
    }
}

/// The Event: a function of what it tells alone, so that whoever tells it makes the same one.
fn event_of(report: &Report, instance: &str) -> Event {
    let reason = report.reason.name();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{}", report.of, reason.to_ascii_lowercase())),
            namespace: report.regarding.namespace.clone(),
            ..ObjectMeta::default()
        },
        action: Some(report.reason.action().to_owned()),
        event_time: Some(MicroTime(report.time)),
        note: Some(report.note.chars().take(NOTE_MAX).collect()),
        reason: Some(reason.to_owned()),
        regarding: Some(report.regarding.clone()),
        related: report.related.clone(),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        type_: Some(report.reason.kind().to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
#[path = "kube_events_tests.rs"]
mod tests;
