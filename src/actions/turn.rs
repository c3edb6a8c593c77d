//! Before every send: read the target, then write the plan into the Action, which fails if anybody else has touched it (promise 2).

use std::time::Duration;

use super::{
    breaker::{Admission, Pass},
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
        let Some(runbook) = work.action.spec.runbook.clone() else {
            let message = format!(
                "the runbook {} was missing, or did not fit, when the action was claimed",
                work.request.runbook
            );
            return Ok(fail(ActionFailureReason::InvalidRunbook, message));
        };
        let key = breaker_key(&work.request);
        if let Some(next) = self.before_reading(work, &runbook).await {
            return Ok(next);
        }
        let pass = match self.admit(&key) {
            Ok(pass) => pass,
            Err(next) => return Ok(next),
        };
        let planned = match self.read_target(work, &runbook).await {
            Ok(target) => self.judge_and_plan(work, &runbook, &target).await,
            Err(next) => Err(next),
        };
        let planned = match planned.and_then(|planned| self.pay_for_retry(work).map(|()| planned)) {
            Ok(planned) => planned,
            Err(next) => {
                self.breakers().unused(&key, pass);
                return Ok(next);
            }
        };
        // The plan is recorded before it is sent. That this write succeeds shows that the Action is as it was read.
        work.plans.push(planned.plan.clone());
        let status = ActionStatus { phase: ActionPhase::Running, waiting_for: None, ..work.status() };
        let recorded = self.write_status(work, status, Vec::new()).await;
        if !matches!(recorded, Ok(true)) {
            work.plans.pop();
            self.breakers().unused(&key, pass);
            return recorded.map(|_| Next::Look);
        }
        Ok(self.send(work, &planned, pass).await)
    }

    /// Sends the plan that was made with the claim, unless the breaker has opened since: then it is planned anew.
    pub(super) async fn first_turn(&self, work: &mut Work, planned: &Planned) -> Next {
        match self.admit(&breaker_key(&work.request)) {
            Ok(pass) => self.send(work, planned, pass).await,
            Err(wait) => {
                work.settle(PlanOutcome::NotSent);
                wait
            }
        }
    }

    fn admit(&self, key: &str) -> Result<Pass, Next> {
        let now = self.ctx.clock.now();
        let admission = self.breakers().admit(key, now);
        let time = match admission {
            Admission::Go(pass) => return Ok(pass),
            Admission::Wait(until) => wait_until(until, now),
            Admission::Probing => Duration::from_millis(500),
        };
        // The same whether it is open or half-open, and until when: a thousand that wait do not each write it with every change.
        let reason = format!("the circuit breaker of {key}, which is open");
        // A thousand that wait for it do not come back together.
        Err(Next::Wait { reason, time: time + self.ctx.random.up_to(Duration::from_secs(1)) })
    }

    /// What is sent once more by this process, because an answer was missing or asked for patience, costs a token. To read costs none:
    /// after a takeover that alone ends what had taken effect.
    fn pay_for_retry(&self, work: &Work) -> Result<(), Next> {
        let last = work.plans.iter().rev().find(|plan| plan.outcome != Some(PlanOutcome::NotSent));
        let is_retry = last.is_some_and(|last| {
            last.sender == self.sender && matches!(last.outcome, None | Some(PlanOutcome::Throttled))
        });
        if !is_retry || self.budget().take(self.ctx.clock.now()) {
            return Ok(());
        }
        let time = Duration::from_secs(1) + self.ctx.random.up_to(Duration::from_secs(1));
        Err(Next::Wait { reason: "the budget for retries".into(), time })
    }

    async fn before_reading(&self, work: &Work, runbook: &RunbookSnapshot) -> Option<Next> {
        if let Some(stop) = self.stop(work, &work.plans).await {
            return Some(stop);
        }
        if !work.was_sent() {
            match self.is_resolved(&work.request).await {
                Ok(false) => {}
                Ok(true) => {
                    let message = "its incident was resolved before anything was sent";
                    return Some(fail(ActionFailureReason::IncidentResolved, message));
                }
                Err(_) => {
                    return Some(self.unreadable(&format!("the incident {}", work.request.incident.incident_id)));
                }
            }
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
        None
    }

    async fn read_target(&self, work: &mut Work, runbook: &RunbookSnapshot) -> Result<TargetState, Next> {
        let key = breaker_key(&work.request);
        let name = work.request.target.display();
        let slot = self.targets.slot().await;
        let answer = self.targets.read(&slot, &work.call(runbook)).await;
        drop(slot);
        work.failed_reads += 1;
        match answer {
            Ok(object) => {
                work.failed_reads = 0;
                // A read alone does not close the breaker: it is the writes that it protects.
                TargetState::read(&object).map_err(|error| fail(ActionFailureReason::Refused, error.to_string()))
            }
            Err(CallError::Unsupported(problem)) => Err(fail(ActionFailureReason::InvalidRunbook, problem)),
            Err(CallError::Api { failure: ApiFailure::NotFound(_), .. }) => {
                Err(fail(ActionFailureReason::TargetNotFound, format!("there is no {name} in {}", work.name.namespace)))
            }
            Err(CallError::Api { failure: failure @ ApiFailure::Refused { .. }, .. }) => Err(refused(&failure)),
            Err(CallError::Api { failure, .. }) => {
                // 429 says that the server works.
                if !matches!(failure, ApiFailure::Throttled { .. }) {
                    self.note_failure(&key, runbook);
                }
                Err(self.later(work, runbook, &failure))
            }
        }
    }

    async fn judge_and_plan(
        &self,
        work: &Work,
        runbook: &RunbookSnapshot,
        target: &TargetState,
    ) -> Result<Planned, Next> {
        match judge(work.id(), &work.plans, target) {
            Verdict::Applied => return Err(Next::Complete { what: work.done() }),
            Verdict::Aborted => return Err(fail(ActionFailureReason::RetriesExhausted, "it was given up and fenced")),
            Verdict::Replaced => {
                let name = work.request.target.display();
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
        match self.refusal(&work.request, runbook, target).await {
            Ok(None) => {}
            Ok(Some((reason, message))) => return Err(fail(reason, message)),
            Err(_) => return Err(self.unreadable("the HorizontalPodAutoscalers of its namespace")),
        }
        let now = self.ctx.clock.now();
        plan(work.id(), runbook, target, work.request.deadline, &self.sender, now).map_err(|refusal| match refusal {
            Refusal::NothingToDo(message) => fail(ActionFailureReason::NothingToDo, message),
            Refusal::Malformed(error) => fail(ActionFailureReason::Refused, error.to_string()),
            Refusal::Invalid(message) => fail(ActionFailureReason::InvalidRunbook, message),
            // The judge would have said so.
            refusal @ Refusal::Known(_) => fail(ActionFailureReason::Refused, refusal.to_string()),
            Refusal::Full(full) => Next::Wait { reason: full.to_string(), time: Duration::from_secs(5) },
        })
    }

    /// Why nothing may be done to this target, whatever is planned. Fails when nobody can say.
    pub(super) async fn refusal(
        &self,
        request: &ActionRequested,
        runbook: &RunbookSnapshot,
        target: &TargetState,
    ) -> Result<Option<(ActionFailureReason, String)>, ApiFailure> {
        let name = request.target.display();
        // The API server cuts creationTimestamp to whole seconds. What was created in the second of the decision counts as there
        // before it: an alert comes long after its target, and refusing the doubtful ones would refuse right ones.
        if target.created_at > request.decided_at {
            let message = format!("{name} was created at {}, after the decision", target.created_at);
            return Ok(Some((ActionFailureReason::Stale, message)));
        }
        if target.deleting {
            return Ok(Some((ActionFailureReason::TargetNotFound, format!("{name} is being deleted"))));
        }
        if runbook.r#type != StepType::Scale {
            return Ok(None);
        }
        Ok(self.governor_of(request).await?.map(|governor| {
            let message = format!(
                "the replicas of {name} are governed by HorizontalPodAutoscaler {governor}: change its minReplicas"
            );
            (ActionFailureReason::TargetGoverned, message)
        }))
    }

    /// What has to be known first cannot be read now: nothing is sent, and nothing ends, by a guess.
    pub(super) fn unreadable(&self, what: &str) -> Next {
        let time = Duration::from_secs(1) + self.ctx.random.up_to(Duration::from_secs(1));
        Next::Wait { reason: format!("{what}, which cannot be read now"), time }
    }
}
