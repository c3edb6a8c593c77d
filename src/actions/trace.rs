//! What an action tells of itself as spans: that it ran, and each patch that it sent.

use jiff::Timestamp;
use serde_json::Value;

use super::{run::Work, service::Actions, target::CallError};
use crate::runtime::telemetry::{ACTION_ID, INCIDENT_ID, Span, SpanKind};

impl Actions {
    /// A patch that was answered, or was not in time. One whose sender died is told by nobody.
    pub(super) fn tell_sent(&self, work: &Work, sent_at: Timestamp, answer: &Result<Value, CallError>) {
        let Some((_, action)) = work.trace() else { return };
        let own = action.span(&["send", &work.plans.len().to_string()]);
        self.ctx.tracer.record(&own, || {
            let mut span = Span::under(&action, own, SpanKind::Client, "PATCH", sent_at, self.ctx.clock.now())
                .with("http.request.method", "PATCH")
                .with("eventpulse.plan", i64::try_from(work.plans.len()).unwrap_or(i64::MAX));
            span.attributes.extend(ids(work));
            span.error = answer.as_ref().err().map(|error| match error {
                CallError::Unsupported(problem) => problem.clone(),
                CallError::Api { failure, .. } => failure.to_string(),
            });
            span
        });
    }

    /// From when it was decided, or claimed, to its end, by whatever processes.
    pub(super) fn tell_ended(&self, work: &Work, result: &'static str, what: &str) {
        let Some((under, own)) = work.trace() else { return };
        self.ctx.tracer.record(&own, || {
            let claimed = work.action.metadata.creation_timestamp.as_ref().map(|time| time.0);
            let start = claimed.unwrap_or(work.request.decided_at).max(work.request.decided_at);
            let mut span = Span::under(&under, own, SpanKind::Internal, "run action", start, self.ctx.clock.now())
                .with("eventpulse.result", result)
                .with("eventpulse.runbook", work.request.runbook.as_str())
                .with("eventpulse.step", work.request.step.as_str());
            span.attributes.extend(ids(work));
            span.error = (result == "failed").then(|| what.to_owned());
            span
        });
    }
}

fn ids(work: &Work) -> Vec<(&'static str, crate::runtime::telemetry::AttributeValue)> {
    vec![
        ("k8s.namespace.name", work.name.namespace.as_str().into()),
        ("eventpulse.target", work.request.target.display().into()),
        (ACTION_ID, work.id().as_str().into()),
        (INCIDENT_ID, work.request.incident.incident_id.as_str().into()),
    ]
}
