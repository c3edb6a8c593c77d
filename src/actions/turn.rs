//! Before every send: read the target, then write the plan into the Action, which fails if anybody else has touched it (promise 2).

use std::time::Duration;

use super::{
    breaker::{Admission, Pass},
    judge::{Verdict, judge},
    look::{Blocked, is_refused_unmoved},
    plan::{Planned, TargetState},
    run::{Next, Work, fail, wait_until},
    send::{breaker_key, refused},
    service::Actions,
};
use crate::{
    api::v1alpha1::{ACTION_PLANS_MAX, ActionPhase, ActionStatus, PlanOutcome, RunbookSnapshot, TargetReference},
    events::ActionFailureReason,
    mutants::{Mutant, mutated},
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
        work.probes = pass.is_probe();
        let planned = self.look_and_plan(work, &runbook).await;
        let planned = match planned.and_then(|planned| self.pay_for_retry(work).map(|()| planned)) {
            Ok(planned) => planned,
            Err(next) => {
                self.breakers().unused(&key, pass);
                return Ok(next);
            }
        };
        // The plan is recorded before it is sent. That this write succeeds shows that the Action is as it was read.
        let is_takeover = work.plans.last().is_some_and(|last| last.sender != self.sender);
        work.plans.push(planned.plan.clone());
        let status = ActionStatus { phase: ActionPhase::Running, waiting_for: None, ..work.status() };
        let recorded = match mutated(Mutant::PlanNotRecorded) || is_takeover && mutated(Mutant::TakeoverNotPlanned) {
            true => Ok(true),
            false => self.write_status(work, status, Vec::new()).await,
        };
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
        let (now, returns) = (self.ctx.clock.now(), *self.server_back.borrow());
        let admission = self.breakers().admit(key, now, returns);
        let time = match admission {
            Admission::Go(pass) => return Ok(pass),
            Admission::Wait(until) => self.until_its_turn(Some(wait_until(until, now))),
            Admission::Probing => self.until_its_turn(None),
        };
        Err(Next::WaitForBreaker { reason: breaker_reason(key), time, returns })
    }

    /// For how much longer the breaker lets nobody through, and how often the API server has been back when that was asked; none: it may.
    pub(super) fn held_by_breaker(&self, key: &str) -> Option<(Duration, u64)> {
        let (now, returns) = (self.ctx.clock.now(), *self.server_back.borrow());
        let left = match self.breakers().refusal(key, now, returns)? {
            Admission::Wait(until) => Some(wait_until(until, now)),
            Admission::Probing | Admission::Go(_) => None,
        };
        Some((self.until_its_turn(left), returns))
    }

    /// Until a breaker may let somebody through, or is asked again. A thousand that wait for it do not come back together.
    fn until_its_turn(&self, left: Option<Duration>) -> Duration {
        left.unwrap_or(Duration::from_millis(500)) + self.ctx.random.up_to(Duration::from_secs(1))
    }

    /// What is sent once more by this process, because an answer was missing or asked for patience, costs a token. To read costs none:
    /// after a takeover that alone ends what had taken effect.
    fn pay_for_retry(&self, work: &mut Work) -> Result<(), Next> {
        let last = work.plans.iter().rev().find(|plan| plan.outcome != Some(PlanOutcome::NotSent));
        let is_retry = last.is_some_and(|last| {
            last.sender == self.sender && matches!(last.outcome, None | Some(PlanOutcome::Throttled))
        });
        if !is_retry || std::mem::take(&mut work.paid) {
            return Ok(());
        }
        match self.held_by_budget(work) {
            None => Ok(()),
            Some(time) => Err(Next::WaitForBudget { reason: "the budget for retries".into(), time }),
        }
    }

    /// Takes a token; or gives when to ask again.
    pub(super) fn held_by_budget(&self, work: &Work) -> Option<Duration> {
        let taken = self.budgets().take(&breaker_key(&work.request), self.ctx.clock.now());
        (!taken).then(|| Duration::from_secs(1) + self.ctx.random.up_to(Duration::from_secs(1)))
    }

    async fn before_reading(&self, work: &Work, runbook: &RunbookSnapshot) -> Option<Next> {
        if let Some(stop) = self.stop(work, &work.plans).await {
            return Some(stop);
        }
        if !work.was_sent() {
            match self.over(&work.request).await {
                Ok(None) => {}
                Ok(Some((reason, message))) => return Some(fail(reason, message)),
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

    /// Reads what is patched, judges what is known of it, reads the target where that is another object, and plans.
    async fn look_and_plan(&self, work: &mut Work, runbook: &RunbookSnapshot) -> Result<Planned, Next> {
        let object = work.object().clone();
        let state = self.read_for(work, &object, runbook).await?;
        judge_all(work, &state)?;
        if is_refused_unmoved(&work.plans, &state) {
            return Err(fail(
                ActionFailureReason::Refused,
                "the API server refuses the patch, although the target has not changed",
            ));
        }
        let prepared = if object == work.request.target {
            self.prepare(&work.asked(runbook), &state, None).await
        } else {
            let target = work.request.target.clone();
            let target = self.read_for(work, &target, runbook).await?;
            self.prepare(&work.asked(runbook), &target, Some(&state)).await
        };
        prepared.map_err(|blocked| self.after(work, runbook, blocked))
    }

    async fn read_for(
        &self,
        work: &mut Work,
        object: &TargetReference,
        runbook: &RunbookSnapshot,
    ) -> Result<TargetState, Next> {
        work.failed_reads += 1;
        match self.read_state(&work.asked(runbook), object).await {
            Ok(state) => {
                // A read alone does not close the breaker: it is the writes that it protects.
                work.failed_reads = 0;
                Ok(state)
            }
            Err(blocked) => Err(self.after(work, runbook, blocked)),
        }
    }

    /// What follows when nothing can be planned.
    pub(super) fn after(&self, work: &Work, runbook: &RunbookSnapshot, blocked: Blocked) -> Next {
        match blocked {
            Blocked::No(reason, message) => fail(reason, message),
            Blocked::Unreadable(what) => self.unreadable(&what),
            Blocked::Later(reason) => Next::Wait { reason, time: Duration::from_secs(1) },
            Blocked::Full(reason) => Next::Wait { reason, time: Duration::from_secs(5) },
            Blocked::Answer(object, ApiFailure::NotFound(_)) => {
                let message = format!("there is no {object} in {}", work.name.namespace);
                fail(ActionFailureReason::TargetNotFound, message)
            }
            Blocked::Answer(_, failure @ ApiFailure::Refused { .. }) => refused(&failure),
            Blocked::Answer(_, failure) => {
                // 429 says that the server works.
                if !matches!(failure, ApiFailure::Throttled { .. }) {
                    self.note_failure(&breaker_key(&work.request), runbook, *self.server_back.borrow());
                }
                self.later(work, runbook, &failure)
            }
        }
    }

    /// What has to be known first cannot be read now: nothing is sent, and nothing ends, by a guess.
    pub(super) fn unreadable(&self, what: &str) -> Next {
        let time = Duration::from_secs(1) + self.ctx.random.up_to(Duration::from_secs(1));
        Next::Wait { reason: format!("{what}, which cannot be read now"), time }
    }
}

/// What waits for it says. The same whether it is open or half-open, and until when: a thousand that wait do not each write it with every
/// change.
pub(super) fn breaker_reason(key: &str) -> String {
    format!("the circuit breaker of {key}, which is open")
}

/// What the object tells of the plans so far. Err is what follows; Ok, that nothing of them took effect.
fn judge_all(work: &Work, object: &TargetState) -> Result<(), Next> {
    Err(match judge(work.id(), &work.plans, object) {
        Verdict::NotApplied => return Ok(()),
        Verdict::Applied => Next::Complete { what: work.done() },
        Verdict::Aborted => fail(ActionFailureReason::RetriesExhausted, "it was given up and fenced"),
        Verdict::Replaced => {
            let name = work.object().display();
            fail(ActionFailureReason::Stale, format!("{name} was deleted and created again since it was planned"))
        }
        Verdict::Unknown(message) => fail(ActionFailureReason::OutcomeUnknown, message),
    })
}
