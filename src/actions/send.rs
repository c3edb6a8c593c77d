//! A recorded plan is sent once. What its answer means, and what its absence does.

use std::{sync::Arc, time::Duration};

use serde_json::Value;

use super::{
    breaker::Pass,
    plan::Planned,
    run::{Next, Work, fail, wait_until},
    service::Actions,
    target::{CallError, Slot, TargetCall},
};
use crate::{
    api::v1alpha1::{ActionPlan, PlanOutcome, RunbookSnapshot},
    crash_points::{Point, reached},
    events::{ActionFailureReason, ActionRequested, is_urgent},
    mutants::{Mutant, mutated},
    runtime::{ApiFailure, metrics::catalogue::RETRIES, random::exponential},
};

impl Actions {
    /// Sends a recorded plan once, and says what its answer means.
    pub(super) async fn send(&self, work: &mut Work, planned: &Planned, pass: Pass) -> Next {
        let Some(runbook) = work.action.spec.runbook.clone() else { return Next::Look };
        let key = breaker_key(&work.request);
        // It was known a moment ago, when the plan was made.
        let kind = match self.kind_of(&work.request, runbook.r#type, work.object()).await {
            Ok(kind) => kind,
            Err(blocked) => {
                work.settle(PlanOutcome::NotSent);
                self.breakers().unused(&key, pass);
                return self.after(work, &runbook, blocked);
            }
        };
        let slot = self.slot(&work.request, false).await;
        // The wait for a free call may have been long.
        let earlier = work.plans.len().saturating_sub(1);
        let has_opened = !pass.is_probe() && self.breakers().is_open(&key);
        let stop = self.stop(work, &work.plans[..earlier]).await;
        if let Some(stop) = stop.or(has_opened.then_some(Next::Look)) {
            work.settle(PlanOutcome::NotSent);
            self.breakers().unused(&key, pass);
            return stop;
        }
        if earlier == 0 {
            self.budgets().call(&key, self.ctx.clock.now());
        }
        let mut left = wait_until(work.request.deadline, self.ctx.clock.now());
        if mutated(Mutant::StaleRuns) {
            left = runbook.timeout.as_std();
        }
        let call = work.call(&runbook, &kind);
        let call = TargetCall { timeout: call.timeout.min(left), ..call };
        let sent_at = self.ctx.clock.now();
        reached(Point::BeforePatch, "");
        let answer = self.targets.patch(&slot, &call, &planned.patch).await;
        if answer.is_ok() {
            reached(Point::Patched, "");
        }
        self.tell_sent(work, sent_at, &answer);
        drop(slot);
        self.tell_breaker(&key, pass, &runbook, &answer);
        let failure = match answer {
            Ok(_) => {
                return Next::Complete { what: work.done() };
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
                fail(ActionFailureReason::TargetNotFound, format!("{} is gone", work.object().display()))
            }
            failure => {
                if matches!(failure, ApiFailure::Throttled { .. }) || mutated(Mutant::UnknownTakenForRefused) {
                    work.settle(PlanOutcome::Throttled);
                }
                self.later(work, &runbook, &failure)
            }
        }
    }

    /// Waits until a call may be made for it; `first`: before all that is not urgent.
    pub(super) async fn slot(&self, request: &ActionRequested, first: bool) -> Slot {
        self.targets.slot(&breaker_key(request), first || is_urgent(&request.incident.severity)).await
    }

    /// Whatever the server answered, it works; but 429, which says nothing of the patch.
    fn tell_breaker(&self, key: &str, pass: Pass, runbook: &RunbookSnapshot, answer: &Result<Value, CallError>) {
        match answer {
            Err(CallError::Unsupported(_) | CallError::Api { failure: ApiFailure::Throttled { .. }, .. }) => {
                self.budgets().throttled(key, self.ctx.clock.now());
                self.breakers().unused(key, pass);
            }
            Err(CallError::Api {
                failure: ApiFailure::Failed(_) | ApiFailure::Unknown(_) | ApiFailure::Malformed(_),
                ..
            }) => {
                self.budgets().failed(key, self.ctx.clock.now());
                self.note_failure(key, runbook, pass.returns());
            }
            Ok(_) | Err(CallError::Api { .. }) => {
                self.budgets().taken(key);
                self.breakers().success(key);
            }
        }
    }

    /// `returns` is how often the API server had come back when the call was made.
    pub(super) fn note_failure(&self, key: &str, runbook: &RunbookSnapshot, returns: u64) {
        if self.breakers().failure(key, &runbook.circuit_breaker, self.ctx.clock.now(), returns) {
            tracing::warn!(breaker = key, "A circuit breaker opened.");
        }
    }

    /// Why nothing more of it may be sent, now that these plans of it have been. What was begun goes on when the rule is suspended.
    pub(super) async fn stop(&self, work: &Work, plans: &[ActionPlan]) -> Option<Next> {
        let was_sent = plans.iter().any(|plan| plan.outcome != Some(PlanOutcome::NotSent));
        let suspended = if was_sent { Ok(false) } else { self.is_suspended(&work.request).await };
        if self.ctx.clock.now() >= work.request.deadline && !mutated(Mutant::StaleRuns) {
            let reason = if was_sent { ActionFailureReason::DeadlineExceeded } else { ActionFailureReason::Stale };
            return Some(fail(reason, format!("the deadline {} has passed", work.request.deadline)));
        }
        // The newest version that the watch has shown. Whatever was sent already is fenced, or found done.
        let action = self.store.get(&work.name).unwrap_or_else(|| Arc::clone(&work.action));
        if action.metadata.deletion_timestamp.is_some() {
            return Some(fail(ActionFailureReason::Refused, "the Action was deleted"));
        }
        match suspended {
            Ok(false) => None,
            Ok(true) => {
                let message = "the rule was suspended or deleted before anything was sent";
                Some(fail(ActionFailureReason::Suspended, message))
            }
            Err(_) => Some(self.unreadable(&format!("the rule {}", work.request.incident.rule.name))),
        }
    }

    pub(super) fn breaker_is_open(&self, request: &ActionRequested) -> bool {
        self.breakers().is_open(&breaker_key(request))
    }

    pub(super) fn later(&self, work: &Work, runbook: &RunbookSnapshot, failure: &ApiFailure) -> Next {
        let backoff = &runbook.retry.backoff;
        let retry = u32::try_from(work.tries().saturating_sub(1)).unwrap_or(0) + work.failed_reads.saturating_sub(1);
        let jitter = self.ctx.random.up_to(exponential(backoff.initial.as_std(), backoff.max.as_std(), retry));
        let asked =
            if let ApiFailure::Throttled { after: Some(after), .. } = failure { *after } else { Duration::ZERO };
        self.ctx.metrics.count(&RETRIES, [self.ctx.service, failure.category()], 1);
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
