//! One action from its claim to its end: what follows is decided by [`turn`](super::turn), an answer by [`send`](super::send), the
//! end by [`end`](super::end). Every way out is in [`Next`].

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};

use super::{
    claim::is_terminal,
    end::reason_of,
    look::{Asked, object_of},
    send::breaker_key,
    service::Actions,
    target::{TargetCall, user_of},
};
use crate::{
    api::v1alpha1::{
        Action, ActionPhase, ActionPlan, ActionStatus, PlanOutcome, RunbookSnapshot, TargetReference, Workload,
    },
    events::{
        ActionFailureReason, ActionId, ActionRequested, Event, EventId, NamespacedName, Payload, Topic, TraceContext,
        is_urgent,
    },
    mutants::{Mutant, mutated},
    runtime::{Step, StoreError, liveness::waiting, watch_cache::version_of},
};

/// The longest for which what waits for a breaker or for the budget is not read again: its incident may be over.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The most characters of what an action waits for.
pub(super) const WAITING_FOR_MAX: usize = 256;

/// What follows.
#[derive(Debug)]
pub(super) enum Next {
    /// Read everything again.
    Look,
    /// Read everything again after a while.
    Wait { reason: String, time: Duration },
    /// The same, or as soon as the API server is back: `returns` is how often it has been so far.
    WaitForBreaker { reason: String, time: Duration, returns: u64 },
    /// The same, or as soon as a retry may be made.
    WaitForBudget { reason: String, time: Duration },
    /// It took effect.
    Complete { what: String },
    /// It did not, or nobody can know.
    Fail { reason: ActionFailureReason, message: String },
}

pub(super) fn fail(reason: ActionFailureReason, message: impl Into<String>) -> Next {
    Next::Fail { reason, message: message.into() }
}

/// An action with what it was asked for, and what is known of its plans.
pub(super) struct Work {
    pub name: NamespacedName,
    pub action: Arc<Action>,
    pub request: ActionRequested,
    pub plans: Vec<ActionPlan>,
    /// Reads of the target in a row that gave nothing.
    pub failed_reads: u32,
    /// The budget has given it a retry that was not made yet.
    pub paid: bool,
    /// What it calls now is the one call that a half-open breaker lets through.
    pub probes: bool,
}

impl Work {
    /// None for an Action whose request somebody has made unreadable.
    fn of(name: &NamespacedName, action: Arc<Action>) -> Option<Self> {
        let request: ActionRequested = serde_json::from_str(&action.spec.request)
            .inspect_err(|error| tracing::error!(action = %name, %error, "An Action's request cannot be read; it is left alone."))
            .ok()?;
        let recorded = action.status.as_ref().map(|status| status.plans.clone()).filter(|plans| !plans.is_empty());
        let plans = recorded.unwrap_or_else(|| action.spec.plan.iter().cloned().collect());
        Some(Self { name: name.clone(), action, request, plans, failed_reads: 0, paid: false, probes: false })
    }

    /// What it belongs under, and its own span. Derived, so that whoever goes on with it tells the same.
    pub fn trace(&self) -> Option<(TraceContext, TraceContext)> {
        let under = TraceContext::read(self.action.spec.traceparent.as_deref())?;
        Some((under, under.of_action(self.id().as_str())))
    }

    pub fn id(&self) -> &ActionId {
        &self.request.action_id
    }

    pub fn status(&self) -> ActionStatus {
        ActionStatus {
            plans: self.plans.clone(),
            tries: self.tries(),
            ..self.action.status.clone().unwrap_or_default()
        }
    }

    /// Whether anything of it has left, or may have.
    pub fn was_sent(&self) -> bool {
        self.plans.iter().any(|plan| plan.outcome != Some(PlanOutcome::NotSent))
    }

    /// Whether anything of it may have taken effect: a plan that its own sender saw refused has not.
    pub fn may_have_acted(&self) -> bool {
        self.plans.iter().any(|plan| plan.outcome.is_none())
    }

    /// Sends that count: a plan that met a changed target was no try.
    pub fn tries(&self) -> i32 {
        let counts = |plan: &&ActionPlan| !matches!(plan.outcome, Some(PlanOutcome::Conflict | PlanOutcome::NotSent));
        let counted = self.plans.iter().filter(counts).count();
        i32::try_from(counted).unwrap_or(i32::MAX)
    }

    /// What its plans patch: the target, or its autoscaler.
    pub fn object(&self) -> &TargetReference {
        object_of(&self.request, &self.plans)
    }

    pub fn asked<'a>(&'a self, runbook: &'a RunbookSnapshot) -> Asked<'a> {
        Asked {
            namespace: &self.name.namespace,
            request: &self.request,
            runbook,
            plans: &self.plans,
            beside_breaker: self.probes,
        }
    }

    /// A call to what its plans patch.
    pub fn call<'a>(&'a self, runbook: &'a RunbookSnapshot, kind: &'a Workload) -> TargetCall<'a> {
        TargetCall {
            namespace: &self.name.namespace,
            object: self.object(),
            resource: &kind.resource,
            account: &runbook.service_account_name,
            timeout: runbook.timeout.as_std(),
        }
    }

    pub fn settle(&mut self, outcome: PlanOutcome) {
        if let Some(plan) = self.plans.last_mut() {
            plan.outcome = Some(outcome);
        }
    }

    /// What its last plan did, for people. An action without any may have been done under a claim that is gone.
    pub fn done(&self) -> String {
        let target = self.request.target.display();
        match self.plans.last() {
            Some(plan) => format!("{target} {}", plan.what),
            None => format!("{target}: done before, as its annotation says"),
        }
    }

    /// Why it was given up, if it was: then nothing more may be sent, and only the fence is missing.
    fn given_up(&self) -> Option<Next> {
        let status = self.action.status.as_ref().filter(|status| status.phase == ActionPhase::Fencing)?;
        let reason = status.reason.as_deref().and_then(reason_of).unwrap_or(ActionFailureReason::RetriesExhausted);
        Some(fail(reason, status.message.clone().unwrap_or_default()))
    }

    pub fn by(&self) -> String {
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
        let fresh = self.queues.take_plan(name);
        let action = match self.store.get(name) {
            Some(action) => Some(action),
            None => self.store.fetch(name).await?,
        };
        let Some(mut work) = action.and_then(|action| Work::of(name, action)) else { return Ok(()) };
        // Only a plan that nobody has planned after may be sent as it is.
        let mut fresh = fresh.filter(|fresh| work.plans == [fresh.plan.clone()]);
        loop {
            if is_terminal(&work.action) && !mutated(Mutant::EndedRunsAgain) {
                // What is terminal was decided once; what it had to say may not be out yet.
                return self.store.transact(name, |_| Step::Unchanged { publish: Vec::new() }).await.map(drop);
            }
            let urgent = is_urgent(&work.request.incident.severity);
            let turn = self.targets.turn(&breaker_key(&work.request), urgent).await;
            let working = (self.working.hold(waiting(self.working.take(urgent)).await, urgent), turn);
            if self.ctx.shutdown.is_cancelled() {
                return Err(StoreError::Shutdown);
            }
            let next = match (work.given_up(), fresh.take()) {
                (Some(given_up), _) => given_up,
                (None, Some(planned)) => self.first_turn(&mut work, &planned).await,
                (None, None) => self.turn(&mut work).await?,
            };
            match next {
                Next::Look => {}
                Next::Wait { reason, time } => {
                    drop(working);
                    self.wait(&mut work, reason, time, None).await?;
                }
                Next::WaitForBreaker { reason, time, returns } => {
                    drop(working);
                    self.wait(&mut work, reason, time, Some(returns)).await?;
                    let key = breaker_key(&work.request);
                    self.while_held(&work, || self.held_by_breaker(&key).map(|(time, returns)| (time, Some(returns))))
                        .await?;
                }
                Next::WaitForBudget { reason, time } => {
                    drop(working);
                    self.wait(&mut work, reason, time, None).await?;
                    let mut paid = false;
                    self.while_held(&work, || {
                        let held = self.held_by_budget(&work);
                        paid = held.is_none();
                        held.map(|time| (time, None))
                    })
                    .await?;
                    work.paid = paid;
                }
                Next::Complete { what } => {
                    // Only to be told, and no place to be taken from those that are still to be sent.
                    drop(working);
                    self.complete(&mut work, what).await?;
                }
                Next::Fail { reason, message } => self.give_up(&mut work, reason, message).await?,
            }
            if self.ctx.shutdown.is_cancelled() {
                return Err(StoreError::Shutdown);
            }
            if is_terminal(&work.action) {
                // Read or written by this very worker, and with what it had to say: nothing is left to read.
                return Ok(());
            }
            let Some(action) = self.store.fetch(name).await? else { return Ok(()) };
            // Outcomes that only this sender knows are kept where nobody else has planned since.
            let (known, failed_reads, paid) = (std::mem::take(&mut work.plans), work.failed_reads, work.paid);
            match Work::of(name, action) {
                Some(read) => work = Work { failed_reads, paid, ..read },
                None => return Ok(()),
            }
            merge_outcomes(&mut work.plans, &known);
        }
    }

    /// Waits, at most until the deadline, and where `returns` is given at most until the API server has come back more often. A long wait
    /// is shown.
    async fn wait(
        &self,
        work: &mut Work,
        reason: String,
        time: Duration,
        returns: Option<u64>,
    ) -> Result<(), StoreError> {
        // To show it may take as long as the API server is away.
        let until = Instant::now() + self.until_deadline(work, time);
        let reason = cut(&reason, WAITING_FOR_MAX);
        let shown =
            work.action.status.as_ref().and_then(|status| status.waiting_for.as_deref()) == Some(reason.as_str());
        if time >= Duration::from_millis(500) && !shown {
            let status = ActionStatus { phase: ActionPhase::Waiting, waiting_for: Some(reason), ..work.status() };
            self.write_status(work, status, Vec::new()).await?;
        }
        self.sleep(until, returns).await
    }

    /// Goes on waiting for as long as that says for how long, and until the API server has been back how often. To ask it costs no call, so
    /// that a thousand that wait are no load; what only the API server knows of the action is read again after [`LOOK_AGAIN`] at most.
    async fn while_held(
        &self,
        work: &Work,
        mut held: impl FnMut() -> Option<(Duration, Option<u64>)>,
    ) -> Result<(), StoreError> {
        let look_again = Instant::now() + LOOK_AGAIN / 2 + self.ctx.random.up_to(LOOK_AGAIN / 2);
        while Instant::now() < look_again && self.stop(work, &work.plans).await.is_none() {
            let Some((time, returns)) = held() else { return Ok(()) };
            let until = Instant::now() + self.until_deadline(work, time);
            self.sleep(until.min(look_again), returns).await?;
        }
        Ok(())
    }

    /// That time, and no longer than to the deadline.
    fn until_deadline(&self, work: &Work, time: Duration) -> Duration {
        time.min(wait_until(work.request.deadline, self.ctx.clock.now()) + Duration::from_millis(10))
    }

    async fn sleep(&self, until: Instant, returns: Option<u64>) -> Result<(), StoreError> {
        tokio::select! {
            () = self.ctx.shutdown.cancelled() => Err(StoreError::Shutdown),
            () = waiting(sleep_until(until)) => Ok(()),
            () = waiting(self.server_is_back(returns)) => Ok(()),
        }
    }

    /// Never ends where nobody asks.
    async fn server_is_back(&self, returns: Option<u64>) {
        let Some(before) = returns else { return std::future::pending().await };
        // The sender lives as long as this process says how it is doing.
        let _ = self.server_back.clone().wait_for(|returns| *returns != before).await;
        // A thousand that wait for it do not come back together.
        tokio::time::sleep(self.ctx.random.up_to(Duration::from_secs(1))).await;
    }

    /// False, and nothing written, when somebody else has touched the Action since it was read.
    pub(super) async fn write_status(
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
                Some(action) if version_of(action) == base || mutated(Mutant::TakeoverNotSeen) => {
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

    pub(super) fn event(&self, work: &Work, topic: Topic, now: Timestamp, payload: impl Into<Payload>) -> Event {
        let trace = work.trace().map(|(_, own)| own.to_string());
        self.result_event(&work.request, topic, now, trace, payload)
    }

    pub(super) fn result_event(
        &self,
        request: &ActionRequested,
        topic: Topic,
        time: Timestamp,
        traceparent: Option<String>,
        payload: impl Into<Payload>,
    ) -> Event {
        Event {
            id: EventId::new(topic.name(), request.action_id.as_str(), "result"),
            time,
            source: self.ctx.source(),
            subject: request.action_id.to_string(),
            key: request.incident.incident_id.to_string(),
            traceparent,
            payload: payload.into(),
        }
    }
}

fn merge_outcomes(plans: &mut [ActionPlan], known: &[ActionPlan]) {
    for plan in plans.iter_mut().filter(|plan| plan.outcome.is_none()) {
        let same = |other: &&ActionPlan| ActionPlan { outcome: None, ..(*other).clone() } == *plan;
        if let Some(known) = known.iter().find(same) {
            plan.outcome = known.outcome;
        }
    }
}

pub(super) fn wait_until(until: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(now)).unwrap_or(Duration::ZERO)
}

pub(super) fn cut(text: &str, max: usize) -> String {
    text.chars().take(max).collect()
}
