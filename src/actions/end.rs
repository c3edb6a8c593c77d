//! How an action ends: with what it did, or, after the fence, with why it did not.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::ObjectReference,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};

use super::{
    fence::Fenced,
    judge::needs_fence,
    run::{Work, cut},
    service::Actions,
};
use crate::{
    api::v1alpha1::{ACTION_MESSAGE_MAX, Action, ActionPhase, ActionStatus, OnUnknownOutcome},
    events::{ActionCompleted, ActionFailed, ActionFailureReason, ActionRequested, Event, Topic},
    mutants::{Mutant, mutated},
    runtime::{
        Inbound, Step, StoreError,
        kube_events::{Reason, Report},
        metrics::catalogue::{ACTIONS_FINISHED, ALERT_TO_ACTION},
    },
};

/// Whether it took effect, as a condition that `kubectl wait` knows.
const CONDITION_COMPLETED: &str = "Completed";

impl Actions {
    pub(super) async fn complete(&self, work: &mut Work, what: String) -> Result<(), StoreError> {
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
            conditions: vec![condition(work, true, "Applied", what.as_deref().unwrap_or_default(), now)],
            what: what.clone(),
            finished_at: Some(now),
            ..work.status()
        };
        // The effect is in the ring: whatever somebody else has written meanwhile, this is how it ended.
        let is_new = self.finish(work, status, event, true).await?;
        self.count(work, "completed", what.as_deref().unwrap_or_default());
        if is_new {
            if let Some(accepted_at) = work.request.incident.accepted_at {
                let trace = work.action.spec.traceparent.as_deref();
                self.ctx.metrics.observe_between(&ALERT_TO_ACTION, [], (accepted_at, now), trace);
            }
            self.say(work, Reason::ActionCompleted, what.as_deref().unwrap_or_default(), now);
        }
        Ok(())
    }

    /// Makes sure that nothing can land any more, then says that it failed.
    pub(super) async fn give_up(
        &self,
        work: &mut Work,
        reason: ActionFailureReason,
        message: String,
    ) -> Result<(), StoreError> {
        let undecided = reason == ActionFailureReason::OutcomeUnknown;
        let (reason, message) = if undecided || !needs_fence(&work.plans) {
            (reason, message)
        } else {
            let status = ActionStatus {
                phase: ActionPhase::Fencing,
                reason: Some(reason_label(reason)),
                message: Some(cut(&message, ACTION_MESSAGE_MAX)),
                waiting_for: None,
                ..work.status()
            };
            // One that is taken over while it fences says so already.
            if work.action.status.as_ref() != Some(&status) && !self.write_status(work, status, Vec::new()).await? {
                return Ok(());
            }
            match self.fence(work).await? {
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
        let message = cut(message, ACTION_MESSAGE_MAX);
        let failed = failed_of(request, reason, message.clone(), work.by());
        let event = self.event(work, Topic::ActionFailed, now, failed);
        use ActionFailureReason::{IncidentResolved, Stale, Suspended, TargetChanged};
        let skipped = matches!(reason, Stale | Suspended | IncidentResolved | TargetChanged) && !work.may_have_acted();
        let phase = if skipped { ActionPhase::Skipped } else { ActionPhase::Failed };
        let label = reason_label(reason);
        let told = format!("{label}: {message}");
        let status = ActionStatus {
            phase,
            conditions: vec![condition(work, false, &label, &message, now)],
            reason: Some(label),
            message: Some(message),
            waiting_for: None,
            finished_at: Some(now),
            ..work.status()
        };
        let is_new = self.finish(work, status, event, false).await?;
        self.count(work, if skipped { "skipped" } else { "failed" }, &told);
        if is_new {
            self.say(work, if skipped { Reason::ActionSkipped } else { Reason::ActionFailed }, &told, now);
        }
        Ok(())
    }

    /// An Event on the target, where one was met: one that was never found has no uid that it could be shown by.
    fn say(&self, work: &Work, reason: Reason, what: &str, now: Timestamp) {
        let Some(plan) = work.plans.last() else { return };
        let incident = &work.request.incident;
        let reference = |api_version: &str, kind: &str, name: &str, uid: Option<String>| ObjectReference {
            api_version: Some(api_version.to_owned()),
            kind: Some(kind.to_owned()),
            namespace: Some(work.name.namespace.clone()),
            name: Some(name.to_owned()),
            uid,
            ..ObjectReference::default()
        };
        // What was patched is what was changed: the target, or its autoscaler.
        let target = work.object();
        self.kube_events.say(Report {
            reason,
            of: work.name.name.clone(),
            regarding: reference(&target.api_version, &target.kind, &target.name, Some(plan.uid.clone())),
            related: Some(reference(
                "eventpulse.io/v1alpha1",
                "Action",
                &work.name.name,
                work.action.metadata.uid.clone(),
            )),
            note: format!("{what} ({}, Action {}, Incident {})", work.by(), work.name.name, incident.incident_id),
            time: now,
        });
    }

    /// The terminal state and the result, in one write; true where this process wrote them. `anyway` where the result holds whatever the Action says by now.
    async fn finish(
        &self,
        work: &mut Work,
        status: ActionStatus,
        event: Event,
        anyway: bool,
    ) -> Result<bool, StoreError> {
        if !anyway {
            return self.write_status(work, status, vec![event]).await;
        }
        let mut wrote = false;
        let stored = self.store.transact(&work.name, |current| match current {
            Some(action)
                if !action.status.as_ref().is_some_and(|status| status.phase.is_terminal())
                    || mutated(Mutant::EndedRunsAgain) =>
            {
                wrote = true;
                let outbox = action.status.as_ref().map(|status| status.outbox.clone()).unwrap_or_default();
                let status = ActionStatus { outbox, ..status.clone() };
                Step::Write { object: Action { status: Some(status), ..action.clone() }, publish: vec![event.clone()] }
            }
            _ => {
                wrote = false;
                Step::Unchanged { publish: Vec::new() }
            }
        });
        if let Some(stored) = stored.await? {
            work.action = stored;
        }
        Ok(wrote)
    }

    fn count(&self, work: &Work, result: &'static str, what: &str) {
        let target = work.request.target.display();
        tracing::info!(action = %work.name, incident = %work.request.incident.incident_id, target, result, what, "An action came to its end.");
        self.ctx.metrics.count(&ACTIONS_FINISHED, [result], 1);
        self.tell_ended(work, result, what);
    }
}

impl Actions {
    /// That an action has failed which could not even be claimed. There is no Action to keep it, so everything in it follows from the
    /// request and the time at which the log took that: told again, it says the same.
    pub(super) fn unclaimed(&self, request: &ActionRequested, inbound: &Inbound, message: String) -> Event {
        let by = format!("runbook {} as nobody", request.runbook);
        let failed = failed_of(request, ActionFailureReason::Refused, cut(&message, ACTION_MESSAGE_MAX), by);
        self.ctx.metrics.count(&ACTIONS_FINISHED, ["failed"], 1);
        let time = inbound.timestamp.max(request.decided_at);
        self.result_event(request, Topic::ActionFailed, time, inbound.event.traceparent.clone(), failed)
    }
}

/// What rules and incidents are told of an action that did not take effect.
fn failed_of(request: &ActionRequested, reason: ActionFailureReason, message: String, by: String) -> ActionFailed {
    let stops = reason == ActionFailureReason::OutcomeUnknown && request.on_unknown_outcome == OnUnknownOutcome::Stop;
    ActionFailed {
        incident: request.incident.clone(),
        action_id: request.action_id.clone(),
        step: request.step.clone(),
        step_index: request.step_index,
        attempt: request.attempt,
        target: request.target.clone(),
        reason,
        message,
        by,
        ends_ladder: request.last || stops,
    }
}

fn condition(work: &Work, completed: bool, reason: &str, message: &str, now: Timestamp) -> Condition {
    Condition {
        type_: CONDITION_COMPLETED.to_owned(),
        status: if completed { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        // As metav1.Time has it: whole seconds.
        last_transition_time: Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
        observed_generation: work.action.metadata.generation,
    }
}

/// As the closed list has it, in the form of Kubernetes' reasons.
fn reason_label(reason: ActionFailureReason) -> String {
    format!("{reason:?}")
}

/// The reason with this label: events have the same word, but begin it with a small letter.
pub(super) fn reason_of(label: &str) -> Option<ActionFailureReason> {
    let (first, rest) = label.split_at_checked(1)?;
    serde_json::from_value(serde_json::Value::String(first.to_ascii_lowercase() + rest)).ok()
}
