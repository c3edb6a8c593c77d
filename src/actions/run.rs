//! One action from its claim to its end. Before every send: read the target, then write the plan into the Action, which fails if
//! anybody else has touched it. Every way out is in [`Next`].

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;

use super::{
    breaker::Admission,
    judge::{Verdict, judge, needs_fence},
    plan::{Planned, Refusal, TargetState, fence, plan},
    service::Actions,
    target::{CallError, TargetCall, user_of},
};
use crate::{
    api::v1alpha1::{
        ACTION_MESSAGE_MAX, ACTION_PLANS_MAX, Action, ActionPhase, ActionPlan, ActionStatus, OnUnknownOutcome,
        PlanOutcome, Rule, RunbookSnapshot, StepType,
    },
    events::{
        ActionCompleted, ActionFailed, ActionFailureReason, ActionId, ActionRequested, Event, EventId, NamespacedName,
        Payload, Topic,
    },
    runtime::{ApiFailure, Step, StoreError, random::exponential, watch_cache::version_of},
};

/// What follows.
#[derive(Debug)]
enum Next {
    /// Read everything again.
    Look,
    /// Read everything again after a while.
    Wait { reason: String, time: Duration },
    /// It took effect.
    Complete { what: String },
    /// It did not, or nobody can know.
    Fail { reason: ActionFailureReason, message: String },
}

fn fail(reason: ActionFailureReason, message: impl Into<String>) -> Next {
    Next::Fail { reason, message: message.into() }
}

/// An action with what it was asked for, and what is known of its plans.
struct Work {
    name: NamespacedName,
    action: Arc<Action>,
    request: ActionRequested,
    plans: Vec<ActionPlan>,
}

impl Work {
    /// None for an Action whose request somebody has made unreadable.
    fn of(name: &NamespacedName, action: Arc<Action>) -> Option<Self> {
        let request: ActionRequested = serde_json::from_str(&action.spec.request)
            .inspect_err(|error| tracing::error!(action = %name, %error, "An Action's request cannot be read; it is left alone."))
            .ok()?;
        let recorded = action.status.as_ref().map(|status| status.plans.clone()).filter(|plans| !plans.is_empty());
        let plans = recorded.unwrap_or_else(|| action.spec.plan.iter().cloned().collect());
        Some(Self { name: name.clone(), action, request, plans })
    }

    fn id(&self) -> &ActionId {
        &self.request.action_id
    }

    fn status(&self) -> ActionStatus {
        ActionStatus {
            plans: self.plans.clone(),
            tries: self.tries(),
            ..self.action.status.clone().unwrap_or_default()
        }
    }

    /// Sends that count: a plan that met a changed target was no try.
    fn tries(&self) -> i32 {
        let counted = self.plans.iter().filter(|plan| plan.outcome != Some(PlanOutcome::Conflict)).count();
        i32::try_from(counted).unwrap_or(i32::MAX)
    }

    fn call<'a>(&'a self, runbook: &'a RunbookSnapshot) -> TargetCall<'a> {
        TargetCall {
            namespace: &self.name.namespace,
            target: &self.request.target,
            account: &runbook.service_account_name,
            timeout: runbook.timeout.as_std(),
        }
    }

    fn settle(&mut self, outcome: PlanOutcome) {
        if let Some(plan) = self.plans.last_mut() {
            plan.outcome = Some(outcome);
        }
    }

    fn by(&self) -> String {
        let account = self
            .action
            .spec
            .runbook
            .as_ref()
            .map(|runbook| user_of(&self.name.namespace, &runbook.service_account_name));
        format!("runbook {} as {}", self.request.runbook, account.as_deref().unwrap_or("nobody"))
    }
}

impl Actions {
    /// Runs an action to its end, or until the process stops. Whatever is interrupted goes on from the Action's state.
    pub(super) async fn run_to_end(&self, name: &NamespacedName) -> Result<(), StoreError> {
        let Some(action) = (match self.store.get(name) {
            Some(action) => Some(action),
            None => self.store.fetch(name).await?,
        }) else {
            return Ok(());
        };
        let Some(mut work) = Work::of(name, action) else { return Ok(()) };
        // Only a plan that nobody has planned after may be sent as it is.
        let mut fresh = self.queues.take_plan(name).filter(|fresh| work.plans == [fresh.plan.clone()]);
        loop {
            if work.action.status.as_ref().is_some_and(|status| status.phase.is_terminal()) {
                // What is terminal was decided once; what it had to say may not be out yet.
                return self.store.transact(name, |_| Step::Unchanged { publish: Vec::new() }).await.map(drop);
            }
            let next = match fresh.take() {
                Some(planned) => self.send(&mut work, &planned).await,
                None => self.turn(&mut work).await?,
            };
            match next {
                Next::Look => {}
                Next::Wait { reason, time } => self.wait(&mut work, reason, time).await?,
                Next::Complete { what } => self.complete(&mut work, what).await?,
                Next::Fail { reason, message } => self.give_up(&mut work, reason, message).await?,
            }
            if self.ctx.shutdown.is_cancelled() {
                return Err(StoreError::Shutdown);
            }
            let Some(action) = self.store.fetch(name).await? else { return Ok(()) };
            // Outcomes that only this sender knows are kept where nobody else has planned since.
            let known = std::mem::take(&mut work.plans);
            match Work::of(name, action) {
                Some(read) => work = read,
                None => return Ok(()),
            }
            merge_outcomes(&mut work.plans, &known);
        }
    }

    /// Reads, judges, plans, records the plan, sends.
    async fn turn(&self, work: &mut Work) -> Result<Next, StoreError> {
        let now = self.ctx.clock.now();
        let Some(runbook) = work.action.spec.runbook.clone() else {
            let message = format!(
                "the runbook {} was missing, or did not fit, when the action was claimed",
                work.request.runbook
            );
            return Ok(fail(ActionFailureReason::InvalidRunbook, message));
        };
        if work.action.metadata.deletion_timestamp.is_some() && work.plans.is_empty() {
            return Ok(fail(ActionFailureReason::Refused, "the Action was deleted before anything was sent"));
        }
        if let Some(next) = self.before_reading(work, &runbook, now) {
            return Ok(next);
        }
        let target = match self.read_target(work, &runbook).await {
            Ok(target) => target,
            Err(next) => return Ok(next),
        };
        let planned = match self.judge_and_plan(work, &runbook, &target) {
            Ok(planned) => planned,
            Err(next) => return Ok(next),
        };
        // The plan is recorded before it is sent. That this write succeeds shows that the Action is as it was read.
        work.plans.push(planned.plan.clone());
        let status = ActionStatus { phase: ActionPhase::Running, waiting_for: None, ..work.status() };
        if !self.write_status(work, status, Vec::new()).await? {
            work.plans.pop();
            return Ok(Next::Look);
        }
        Ok(self.send(work, &planned).await)
    }

    fn before_reading(&self, work: &Work, runbook: &RunbookSnapshot, now: Timestamp) -> Option<Next> {
        if now >= work.request.deadline {
            let reason =
                if work.plans.is_empty() { ActionFailureReason::Stale } else { ActionFailureReason::DeadlineExceeded };
            return Some(fail(reason, format!("the deadline {} has passed", work.request.deadline)));
        }
        if work.plans.is_empty() && self.is_suspended(&work.request) {
            return Some(fail(
                ActionFailureReason::Suspended,
                "the rule was suspended or deleted before anything was sent",
            ));
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
        let key = breaker_key(&work.request);
        if let Admission::Wait(until) = self.breakers().admit(&key, now) {
            let time = wait_until(until, now);
            return Some(Next::Wait { reason: format!("the circuit breaker of {key}, open until {until}"), time });
        }
        if !work.plans.is_empty() && !self.budget().take(now) {
            return Some(Next::Wait { reason: "the budget for retries".into(), time: Duration::from_secs(1) });
        }
        None
    }

    async fn read_target(&self, work: &Work, runbook: &RunbookSnapshot) -> Result<TargetState, Next> {
        let key = breaker_key(&work.request);
        let name = work.request.target.display();
        match self.targets.read(&work.call(runbook)).await {
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
        if let Some(next) = self.refusal(&work.request, runbook, target) {
            let (reason, message) = next;
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

    /// Sends a recorded plan once, and says what its answer means.
    async fn send(&self, work: &mut Work, planned: &Planned) -> Next {
        let Some(runbook) = work.action.spec.runbook.clone() else { return Next::Look };
        self.budget().call();
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

    fn later(&self, work: &Work, runbook: &RunbookSnapshot, failure: &ApiFailure) -> Next {
        let backoff = &runbook.retry.backoff;
        let retry = u32::try_from(work.tries().saturating_sub(1)).unwrap_or(0);
        let jitter = self.ctx.random.up_to(exponential(backoff.initial.as_std(), backoff.max.as_std(), retry));
        let asked =
            if let ApiFailure::Throttled { after: Some(after), .. } = failure { *after } else { Duration::ZERO };
        Next::Wait { reason: format!("a retry, after: {failure}"), time: asked + jitter + Duration::from_millis(10) }
    }

    /// Waits, at most until the deadline. A long wait is shown.
    async fn wait(&self, work: &mut Work, reason: String, time: Duration) -> Result<(), StoreError> {
        let left = wait_until(work.request.deadline, self.ctx.clock.now());
        let time = time.min(left + Duration::from_millis(10));
        let shown =
            work.action.status.as_ref().and_then(|status| status.waiting_for.as_deref()) == Some(reason.as_str());
        if time >= Duration::from_millis(500) && !shown {
            let waiting_for = Some(cut(&reason, 256));
            let status = ActionStatus { phase: ActionPhase::Waiting, waiting_for, ..work.status() };
            self.write_status(work, status, Vec::new()).await?;
        }
        tokio::select! {
            () = self.ctx.shutdown.cancelled() => Err(StoreError::Shutdown),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    async fn complete(&self, work: &mut Work, what: String) -> Result<(), StoreError> {
        let now = self.ctx.clock.now();
        let request = &work.request;
        let event = self.event(
            work,
            Topic::ActionCompleted,
            now,
            ActionCompleted {
                incident: request.incident.clone(),
                action_id: request.action_id.clone(),
                step: request.step.clone(),
                step_index: request.step_index,
                attempt: request.attempt,
                target: request.target.clone(),
                resolves: request.resolves,
                what: cut(&what, ACTION_MESSAGE_MAX),
                by: work.by(),
            },
        );
        let what = Some(cut(&what, ACTION_MESSAGE_MAX));
        let status = ActionStatus {
            phase: ActionPhase::Completed,
            reason: None,
            message: None,
            waiting_for: None,
            what,
            finished_at: Some(now),
            ..work.status()
        };
        self.count("completed");
        // The effect is in the ring: whatever somebody else has written meanwhile, this is how it ended.
        self.finish(work, status, event, true).await
    }

    /// Makes sure that nothing can land any more, then says that it failed.
    async fn give_up(&self, work: &mut Work, reason: ActionFailureReason, message: String) -> Result<(), StoreError> {
        let undecided = reason == ActionFailureReason::OutcomeUnknown;
        let gone = matches!(reason, ActionFailureReason::TargetNotFound | ActionFailureReason::Stale);
        let (reason, message) = if undecided || gone || !needs_fence(&work.plans) {
            (reason, message)
        } else {
            let status = ActionStatus {
                phase: ActionPhase::Fencing,
                waiting_for: None,
                message: Some(cut(&message, ACTION_MESSAGE_MAX)),
                ..work.status()
            };
            if !self.write_status(work, status, Vec::new()).await? {
                return Ok(());
            }
            match self.fence(work).await {
                Fenced::Done => (reason, message),
                Fenced::Applied(what) => return self.complete(work, what).await,
                Fenced::Impossible(why) => (ActionFailureReason::OutcomeUnknown, format!("{message}; {why}")),
            }
        };
        self.fail_with(work, reason, &message).await
    }

    async fn fail_with(&self, work: &mut Work, reason: ActionFailureReason, message: &str) -> Result<(), StoreError> {
        let now = self.ctx.clock.now();
        let request = &work.request;
        let stops =
            reason == ActionFailureReason::OutcomeUnknown && request.on_unknown_outcome == OnUnknownOutcome::Stop;
        let message = cut(message, ACTION_MESSAGE_MAX);
        let event = self.event(
            work,
            Topic::ActionFailed,
            now,
            ActionFailed {
                incident: request.incident.clone(),
                action_id: request.action_id.clone(),
                step: request.step.clone(),
                step_index: request.step_index,
                attempt: request.attempt,
                target: request.target.clone(),
                reason,
                message: message.clone(),
                by: work.by(),
                ends_ladder: request.last || stops,
            },
        );
        let skipped =
            matches!(reason, ActionFailureReason::Stale | ActionFailureReason::Suspended) && work.plans.is_empty();
        let phase = if skipped { ActionPhase::Skipped } else { ActionPhase::Failed };
        let label = reason_label(reason);
        let status = ActionStatus {
            phase,
            reason: Some(label.clone()),
            message: Some(message),
            waiting_for: None,
            finished_at: Some(now),
            ..work.status()
        };
        self.count(if skipped { "skipped" } else { "failed" });
        self.finish(work, status, event, false).await
    }

    /// Writes the fence until it stands, its bound is reached, or it turns out that the action took effect after all.
    async fn fence(&self, work: &Work) -> Fenced {
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

    /// The terminal state and the result, in one write; `anyway` where the result holds whatever the Action says by now.
    async fn finish(
        &self,
        work: &mut Work,
        status: ActionStatus,
        event: Event,
        anyway: bool,
    ) -> Result<(), StoreError> {
        if !anyway {
            return self.write_status(work, status, vec![event]).await.map(drop);
        }
        let stored = self.store.transact(&work.name, |current| match current {
            Some(action) if !action.status.as_ref().is_some_and(|status| status.phase.is_terminal()) => {
                let outbox = action.status.as_ref().map(|status| status.outbox.clone()).unwrap_or_default();
                let status = ActionStatus { outbox, ..status.clone() };
                Step::Write { object: Action { status: Some(status), ..action.clone() }, publish: vec![event.clone()] }
            }
            _ => Step::Unchanged { publish: Vec::new() },
        });
        if let Some(stored) = stored.await? {
            work.action = stored;
        }
        Ok(())
    }

    /// False, and nothing written, when somebody else has touched the Action since it was read.
    async fn write_status(
        &self,
        work: &mut Work,
        status: ActionStatus,
        publish: Vec<Event>,
    ) -> Result<bool, StoreError> {
        let base = version_of(work.action.as_ref());
        let mut moved = false;
        let stored = self
            .store
            .transact(&work.name, |current| match current {
                Some(action) if version_of(action) == base => {
                    moved = false;
                    Step::Write {
                        object: Action { status: Some(status.clone()), ..action.clone() },
                        publish: publish.clone(),
                    }
                }
                _ => {
                    moved = true;
                    Step::Unchanged { publish: Vec::new() }
                }
            })
            .await?;
        if let Some(stored) = stored {
            work.action = stored;
        }
        Ok(!moved)
    }

    fn event(&self, work: &Work, topic: Topic, now: Timestamp, payload: impl Into<Payload>) -> Event {
        Event {
            id: EventId::new(topic.name(), work.id().as_str(), "result"),
            time: now,
            source: self.ctx.source(),
            subject: work.id().to_string(),
            key: work.request.incident.incident_id.to_string(),
            traceparent: work.action.spec.traceparent.clone(),
            payload: payload.into(),
        }
    }

    /// Read live: a suspended or deleted rule starts nothing new.
    pub(super) fn is_suspended(&self, request: &ActionRequested) -> bool {
        self.rules.get(&request.incident.rule).is_none_or(|rule: Arc<Rule>| rule.spec.suspend)
    }

    pub(super) fn breaker_is_open(&self, request: &ActionRequested) -> bool {
        self.breakers().is_open(&breaker_key(request))
    }

    fn count(&self, result: &'static str) {
        self.ctx
            .metrics
            .counter("eventpulse_actions_finished", "Actions that came to their end, by result.")
            .get_or_create(&vec![("result", result.into())])
            .inc();
    }
}

enum Fenced {
    /// Nothing of the action can land any more.
    Done,
    /// It took effect before it could be fenced.
    Applied(String),
    /// Nobody can make sure.
    Impossible(String),
}

/// An answer that says that the patch met another version of the target: 409, or a 422 whose causes name no field.
fn is_conflict(failure: &ApiFailure) -> bool {
    matches!(failure, ApiFailure::Conflict(_) | ApiFailure::Refused { code: 422, .. })
}

fn refused(failure: &ApiFailure) -> Next {
    let forbidden = matches!(failure, ApiFailure::Refused { code: 401 | 403, .. });
    fail(if forbidden { ActionFailureReason::Forbidden } else { ActionFailureReason::Refused }, failure.to_string())
}

fn breaker_key(request: &ActionRequested) -> String {
    format!("runbook {}/{} for {}", request.incident.rule.namespace, request.runbook, request.target.kind)
}

fn merge_outcomes(plans: &mut [ActionPlan], known: &[ActionPlan]) {
    for plan in plans.iter_mut().filter(|plan| plan.outcome.is_none()) {
        let same = |other: &&ActionPlan| ActionPlan { outcome: None, ..(*other).clone() } == *plan;
        if let Some(known) = known.iter().find(same) {
            plan.outcome = known.outcome;
        }
    }
}

fn wait_until(until: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(now)).unwrap_or(Duration::ZERO)
}

fn cut(text: &str, max: usize) -> String {
    text.chars().take(max).collect()
}

/// As the closed list has it, in the form of Kubernetes' reasons.
fn reason_label(reason: ActionFailureReason) -> String {
    format!("{reason:?}")
}
