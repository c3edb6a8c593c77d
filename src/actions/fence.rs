//! The fence: a mark in the target's ring, after which nothing of the action can land any more (promise 2).

use super::{
    judge::{Verdict, judge},
    plan::{TargetState, fence},
    run::Work,
    service::Actions,
    target::CallError,
};
use crate::{
    api::v1alpha1::RunbookSnapshot,
    runtime::{ApiFailure, random::exponential},
};

impl Actions {
    /// Writes the fence until it stands, its bound is reached, or it turns out that the action took effect after all.
    pub(super) async fn fence(&self, work: &Work) -> Fenced {
        let Some(runbook) = work.action.spec.runbook.clone() else { return Fenced::Done };
        let deadline = tokio::time::Instant::now() + self.config.fence_timeout;
        let mut problem = "the fence could not be written".to_owned();
        let mut retry = 0;
        while tokio::time::Instant::now() < deadline && !self.ctx.shutdown.is_cancelled() {
            match self.try_fence(work, &runbook).await {
                Ok(fenced) => return fenced,
                Err(failure) => problem = format!("the fence could not be written: {failure}"),
            }
            let limit = exponential(self.config.backoff_initial, self.config.backoff_max, retry);
            tokio::time::sleep(self.ctx.random.up_to(limit)).await;
            retry += 1;
        }
        Fenced::Impossible(problem)
    }

    async fn try_fence(&self, work: &Work, runbook: &RunbookSnapshot) -> Result<Fenced, String> {
        let call = work.call(runbook);
        let target = match self.targets.read(&call).await {
            Ok(object) => TargetState::read(&object).map_err(|error| error.to_string())?,
            Err(CallError::Api { failure: ApiFailure::NotFound(_), .. }) => return Ok(Fenced::Done),
            Err(CallError::Api { failure, .. }) => return Err(failure.to_string()),
            Err(CallError::Unsupported(problem)) => return Ok(Fenced::Impossible(problem)),
        };
        match judge(work.id(), &work.plans, &target) {
            Verdict::Applied => {
                let what = work.plans.last().map(|plan| plan.what.as_str()).unwrap_or_default();
                return Ok(Fenced::Applied(format!("{} {what}", work.request.target.display())));
            }
            Verdict::Aborted | Verdict::Replaced => return Ok(Fenced::Done),
            Verdict::Unknown(why) => return Ok(Fenced::Impossible(why)),
            Verdict::NotApplied => {}
        }
        let patch = fence(work.id(), &target, work.request.deadline, self.ctx.clock.now())
            .map_err(|error| error.to_string())?;
        match self.targets.patch(&call, &patch).await {
            Ok(_) => Ok(Fenced::Done),
            Err(CallError::Unsupported(problem)) => Ok(Fenced::Impossible(problem)),
            Err(CallError::Api { failure: failure @ ApiFailure::Refused { code, .. }, .. }) if code != 422 => {
                Ok(Fenced::Impossible(format!("the fence was refused: {failure}")))
            }
            Err(CallError::Api { failure, .. }) => Err(failure.to_string()),
        }
    }
}

/// What became of a fence.
pub(super) enum Fenced {
    /// Nothing of the action can land any more.
    Done,
    /// It took effect before it could be fenced.
    Applied(String),
    /// Nobody can make sure.
    Impossible(String),
}
