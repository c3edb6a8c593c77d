//! The fence: a mark in the target's ring, after which nothing of the action can land any more (promise 2).

use tokio::time::{Instant, sleep, timeout_at};

use super::{
    judge::{Verdict, judge},
    look::{Asked, Blocked},
    plan::fence,
    run::Work,
    service::Actions,
    target::CallError,
};
use crate::{
    api::v1alpha1::RunbookSnapshot,
    crash_points::{Point, reached},
    runtime::{ApiFailure, StoreError, random::exponential},
};

impl Actions {
    /// Writes the fence until it stands, its bound is reached, or it turns out that the action took effect after all. A process that
    /// stops has not found out anything: whoever comes next fences.
    pub(super) async fn fence(&self, work: &Work) -> Result<Fenced, StoreError> {
        let Some(runbook) = work.action.spec.runbook.clone() else { return Ok(Fenced::Done) };
        let bound = Instant::now() + self.config.fence_timeout;
        let mut problem = "nothing answered in time".to_owned();
        let mut retry = 0;
        while Instant::now() < bound {
            let tried = tokio::select! {
                () = self.ctx.shutdown.cancelled() => return Err(StoreError::Shutdown),
                tried = timeout_at(bound, self.try_fence(work, &runbook)) => tried,
            };
            match tried {
                Ok(Ok(fenced)) => return Ok(fenced),
                Ok(Err(failure)) => problem = failure,
                Err(_) => break,
            }
            let limit = exponential(self.config.backoff_initial, self.config.backoff_max, retry);
            sleep(self.ctx.random.up_to(limit)).await;
            retry += 1;
        }
        Ok(Fenced::Impossible(format!("the fence could not be written: {problem}")))
    }

    async fn try_fence(&self, work: &Work, runbook: &RunbookSnapshot) -> Result<Fenced, String> {
        let target = match self.read_state(&Asked { beside_breaker: true, ..work.asked(runbook) }, work.object()).await
        {
            Ok(target) => target,
            Err(Blocked::Answer(_, ApiFailure::NotFound(_))) => return Ok(Fenced::Done),
            Err(Blocked::Answer(_, failure)) => return Err(failure.to_string()),
            Err(Blocked::No(_, problem)) => return Ok(Fenced::Impossible(problem)),
            Err(Blocked::Unreadable(what) | Blocked::Later(what) | Blocked::Full(what)) => {
                return Err(format!("{what} cannot be read now"));
            }
        };
        match judge(work.id(), &work.plans, &target) {
            Verdict::Applied => return Ok(Fenced::Applied(work.done())),
            Verdict::Aborted | Verdict::Replaced => return Ok(Fenced::Done),
            Verdict::Unknown(why) => return Ok(Fenced::Impossible(why)),
            Verdict::NotApplied => {}
        }
        let patch = fence(work.id(), &target, work.request.deadline, self.ctx.clock.now())
            .map_err(|error| error.to_string())?;
        let kind = self
            .kind_of(&work.request, runbook.r#type, work.object())
            .await
            .map_err(|_| "its kind cannot be read now")?;
        // Until it stands nobody knows what became of the action.
        let slot = self.slot(&work.request, true).await;
        reached(Point::BeforeFence, "");
        match self.targets.patch(&slot, &work.call(runbook, &kind), &patch).await {
            Ok(_) => {
                reached(Point::Fenced, "");
                Ok(Fenced::Done)
            }
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
