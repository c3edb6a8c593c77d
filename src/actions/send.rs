//! A recorded plan is sent once. What its answer means, and what its absence does.

use std::time::Duration;

use super::{
    plan::Planned,
    run::{Next, Work, fail},
    service::Actions,
    target::CallError,
};
use crate::{
    api::v1alpha1::{PlanOutcome, RunbookSnapshot},
    events::{ActionFailureReason, ActionRequested},
    runtime::{ApiFailure, random::exponential},
};

impl Actions {
    /// Sends a recorded plan once, and says what its answer means.
    pub(super) async fn send(&self, work: &mut Work, planned: &Planned) -> Next {
        let Some(runbook) = work.action.spec.runbook.clone() else { return Next::Look };
        if work.plans.len() <= 1 {
            self.budget().call();
        }
        let key = breaker_key(&work.request);
        let answer = self.targets.patch(&work.call(&runbook), &planned.patch).await;
        let failure = match answer {
            Ok(_) => {
                self.breakers().success(&key);
                return Next::Complete { what: format!("{} {}", work.request.target.display(), planned.plan.what) };
            }
            Err(CallError::Unsupported(problem)) => {
                work.settle(PlanOutcome::Refused);
                return fail(ActionFailureReason::InvalidRunbook, problem);
            }
            Err(CallError::Api { failure, causes: false }) if is_conflict(&failure) => {
                work.settle(PlanOutcome::Conflict);
                // Somebody else was faster: read and plan again, not all at once.
                tokio::time::sleep(self.ctx.random.up_to(Duration::from_millis(50))).await;
                return Next::Look;
            }
            Err(CallError::Api { failure, .. }) => failure,
        };
        match failure {
            failure @ ApiFailure::Refused { .. } => {
                work.settle(PlanOutcome::Refused);
                refused(&failure)
            }
            ApiFailure::NotFound(_) => {
                work.settle(PlanOutcome::Refused);
                fail(ActionFailureReason::TargetNotFound, format!("{} is gone", work.request.target.display()))
            }
            failure => {
                if matches!(failure, ApiFailure::Throttled { .. }) {
                    work.settle(PlanOutcome::Throttled);
                } else if self.breakers().failure(&key, &runbook.circuit_breaker, self.ctx.clock.now()) {
                    tracing::warn!(breaker = key, "A circuit breaker opened.");
                }
                self.later(work, &runbook, &failure)
            }
        }
    }

    pub(super) fn breaker_is_open(&self, request: &ActionRequested) -> bool {
        self.breakers().is_open(&breaker_key(request))
    }

    pub(super) fn later(&self, work: &Work, runbook: &RunbookSnapshot, failure: &ApiFailure) -> Next {
        let backoff = &runbook.retry.backoff;
        let retry = u32::try_from(work.tries().saturating_sub(1)).unwrap_or(0);
        let jitter = self.ctx.random.up_to(exponential(backoff.initial.as_std(), backoff.max.as_std(), retry));
        let asked =
            if let ApiFailure::Throttled { after: Some(after), .. } = failure { *after } else { Duration::ZERO };
        Next::Wait { reason: format!("a retry, after: {failure}"), time: asked + jitter + Duration::from_millis(10) }
    }
}

/// An answer that says that the patch met another version of the target: 409, or a 422 whose causes name no field.
fn is_conflict(failure: &ApiFailure) -> bool {
    matches!(failure, ApiFailure::Conflict(_) | ApiFailure::Refused { code: 422, .. })
}

pub(super) fn refused(failure: &ApiFailure) -> Next {
    let forbidden = matches!(failure, ApiFailure::Refused { code: 401 | 403, .. });
    fail(if forbidden { ActionFailureReason::Forbidden } else { ActionFailureReason::Refused }, failure.to_string())
}

pub(super) fn breaker_key(request: &ActionRequested) -> String {
    format!("runbook {}/{} for {}", request.incident.rule.namespace, request.runbook, request.target.kind)
}
