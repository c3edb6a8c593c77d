//! Before every send: read the target, then write the plan into the Action, which fails if anybody else has touched it (promise 2).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;

use super::{
    breaker::Admission,
    judge::{Verdict, judge},
    plan::{Planned, Refusal, TargetState, plan},
    run::{Next, Work, fail, wait_until},
    send::{breaker_key, refused},
    service::Actions,
    target::CallError,
};
use crate::{
    api::v1alpha1::{ACTION_PLANS_MAX, ActionPhase, ActionStatus, PlanOutcome, RunbookSnapshot, StepType},
    events::{ActionFailureReason, ActionRequested},
    runtime::{ApiFailure, StoreError},
};

impl Actions {
    /// Reads, judges, plans, records the plan, sends.
    pub(super) async fn turn(&self, work: &mut Work) -> Result<Next, StoreError> {
        let now = self.ctx.clock.now();
        let Some(runbook) = work.action.spec.runbook.clone() else {
            let message = format!(
                "the runbook {} was missing, or did not fit, when the action was claimed",
                work.request.runbook
            );
            return Ok(fail(ActionFailureReason::InvalidRunbook, message));
        };
        let key = breaker_key(&work.request);
        if let Some(next) = self.before_reading(work, &runbook, &key, now) {
            return Ok(next);
        }
        let planned = match self.read_target(work, &runbook).await {
            Ok(target) => self.judge_and_plan(work, &runbook, &target),
            Err(next) => Err(next),
        };
        let planned = match planned {
            Ok(planned) => planned,
            Err(next) => {
                self.breakers().unused(&key);
                return Ok(next);
            }
        };
        // The plan is recorded before it is sent. That this write succeeds shows that the Action is as it was read.
        work.plans.push(planned.plan.clone());
        let status = ActionStatus { phase: ActionPhase::Running, waiting_for: None, ..work.status() };
        let recorded = self.write_status(work, status, Vec::new()).await;
        if !matches!(recorded, Ok(true)) {
            work.plans.pop();
            self.breakers().unused(&key);
            return recorded.map(|_| Next::Look);
        }
        Ok(self.send(work, &planned).await)
    }

    fn before_reading(&self, work: &Work, runbook: &RunbookSnapshot, key: &str, now: Timestamp) -> Option<Next> {
        if let Some(stop) = self.stop(work, &work.plans) {
            return Some(stop);
        }
        if work.plans.len() >= ACTION_PLANS_MAX {
            return Some(fail(
                ActionFailureReason::RetriesExhausted,
                format!("the target changed under {ACTION_PLANS_MAX} plans"),
            ));
        }
        if work.tries() > i32::from(runbook.retry.limit) {
            return Some(fail(
                ActionFailureReason::RetriesExhausted,
                format!("{} tries without an answer", work.tries()),
            ));
        }
        if let Admission::Wait(until) = self.breakers().admit(key, now) {
            let time = wait_until(until, now);
            return Some(Next::Wait { reason: format!("the circuit breaker of {key}, open until {until}"), time });
        }
        if !work.plans.is_empty() && !self.budget().take(now) {
            self.breakers().unused(key);
            return Some(Next::Wait { reason: "the budget for retries".into(), time: Duration::from_secs(1) });
        }
        None
    }

    async fn read_target(&self, work: &Work, runbook: &RunbookSnapshot) -> Result<TargetState, Next> {
        let key = breaker_key(&work.request);
        let name = work.request.target.display();
        let slot = self.targets.slot().await;
        match self.targets.read(&slot, &work.call(runbook)).await {
            Ok(object) => {
                // A read alone does not close the breaker: it is the writes that it protects.
                TargetState::read(&object).map_err(|error| fail(ActionFailureReason::Refused, error.to_string()))
            }
            Err(CallError::Unsupported(problem)) => Err(fail(ActionFailureReason::InvalidRunbook, problem)),
            Err(CallError::Api { failure: ApiFailure::NotFound(_), .. }) => {
                Err(fail(ActionFailureReason::TargetNotFound, format!("there is no {name} in {}", work.name.namespace)))
            }
            Err(CallError::Api { failure: failure @ ApiFailure::Refused { .. }, .. }) => Err(refused(&failure)),
            Err(CallError::Api { failure, .. }) => {
                self.breakers().failure(&key, &runbook.circuit_breaker, self.ctx.clock.now());
                Err(self.later(work, runbook, &failure))
            }
        }
    }

    fn judge_and_plan(&self, work: &Work, runbook: &RunbookSnapshot, target: &TargetState) -> Result<Planned, Next> {
        let name = work.request.target.display();
        match judge(work.id(), &work.plans, target) {
            Verdict::Applied => {
                let what = work.plans.last().map(|plan| plan.what.clone()).unwrap_or_default();
                return Err(Next::Complete { what: format!("{name} {what}") });
            }
            Verdict::Aborted => return Err(fail(ActionFailureReason::RetriesExhausted, "it was given up and fenced")),
            Verdict::Replaced => {
                return Err(fail(
                    ActionFailureReason::Stale,
                    format!("{name} was deleted and created again since it was planned"),
                ));
            }
            Verdict::Unknown(message) => return Err(fail(ActionFailureReason::OutcomeUnknown, message)),
            Verdict::NotApplied => {}
        }
        if let Some(plan) = work.plans.last()
            && plan.outcome == Some(PlanOutcome::Conflict)
            && plan.resource_version == target.resource_version
        {
            return Err(fail(
                ActionFailureReason::Refused,
                "the API server refuses the patch, although the target has not changed",
            ));
        }
        if let Some((reason, message)) = self.refusal(&work.request, runbook, target) {
            return Err(fail(reason, message));
        }
        let now = self.ctx.clock.now();
        plan(work.id(), runbook, target, work.request.deadline, &self.sender, now).map_err(|refusal| match refusal {
            Refusal::NothingToDo(message) => fail(ActionFailureReason::NothingToDo, message),
            Refusal::Malformed(error) => fail(ActionFailureReason::Refused, error.to_string()),
            Refusal::Invalid(message) => fail(ActionFailureReason::InvalidRunbook, message),
            Refusal::Full(full) => Next::Wait { reason: full.to_string(), time: Duration::from_secs(5) },
        })
    }

    /// Why nothing may be done to this target, whatever is planned.
    pub(super) fn refusal(
        &self,
        request: &ActionRequested,
        runbook: &RunbookSnapshot,
        target: &TargetState,
    ) -> Option<(ActionFailureReason, String)> {
        let name = request.target.display();
        if target.created_at > request.decided_at {
            return Some((
                ActionFailureReason::Stale,
                format!("{name} was created at {}, after the decision", target.created_at),
            ));
        }
        if target.deleting {
            return Some((ActionFailureReason::TargetNotFound, format!("{name} is being deleted")));
        }
        let governor = self.autoscaler_of(request)?;
        (runbook.r#type == StepType::Scale).then(|| {
            let message = format!(
                "the replicas of {name} are governed by HorizontalPodAutoscaler {governor}: change its minReplicas"
            );
            (ActionFailureReason::TargetGoverned, message)
        })
    }

    fn autoscaler_of(&self, request: &ActionRequested) -> Option<String> {
        let governs = |autoscaler: &HorizontalPodAutoscaler| {
            let reference = &autoscaler.spec.scale_target_ref;
            reference.kind == request.target.kind && reference.name == request.target.name
        };
        let namespace = Some(request.incident.rule.namespace.as_str());
        let all = self.autoscalers.list();
        let found = all
            .iter()
            .find(|autoscaler| autoscaler.metadata.namespace.as_deref() == namespace && governs(autoscaler))?;
        found.metadata.name.clone()
    }
}
