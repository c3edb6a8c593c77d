//! What an action looks at before it plans: the target, what is to be patched for it, and who else has a say in that.

use jiff::SignedDuration;
use kube::Api;

use super::{
    plan::{Planned, Refusal, Subject, TargetState, plan},
    send::breaker_key,
    service::Actions,
    target::{CallError, TargetCall},
    turn::breaker_reason,
};
use crate::{
    api::v1alpha1::{
        Action, ActionPhase, ActionPlan, GitOps, PlanOutcome, RunbookSnapshot, StepType, TargetReference,
        UnderAutoscaler, Workload,
    },
    events::{ActionFailureReason, ActionRequested, NamespacedName},
    mutants::{Mutant, mutated},
    runtime::{ApiFailure, kube_api::find},
};

const AUTOSCALER: (&str, &str) = ("autoscaling/v2", "HorizontalPodAutoscaler");

/// How long the end of what is to be taken back is waited for: it comes before, on the same target.
const UNDONE_WITHIN: SignedDuration = SignedDuration::from_secs(30);

/// Why nothing can be planned.
#[derive(Debug)]
pub(super) enum Blocked {
    /// It will not be done.
    No(ActionFailureReason, String),
    /// Something has to be read first that cannot be read now; this is what.
    Unreadable(String),
    /// Something else has to happen first; this is what.
    Later(String),
    /// The ring is full.
    Full(String),
    /// This object was asked for, and that came in place of it.
    Answer(String, ApiFailure),
}

fn no(reason: ActionFailureReason, message: impl Into<String>) -> Blocked {
    Blocked::No(reason, message.into())
}

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    /// The Action's own: whatever a request says, no call leaves it (design, section 8).
    pub namespace: &'a str,
    pub request: &'a ActionRequested,
    pub runbook: &'a RunbookSnapshot,
    /// What was planned for it so far.
    pub plans: &'a [ActionPlan],
    /// Its calls are made although the breaker is not closed: it has the right to, or is given up.
    pub beside_breaker: bool,
}

/// What is to be changed, and what is to be taken back.
struct Choice {
    /// None: the target itself.
    object: Option<TargetReference>,
    undone: Option<ActionPlan>,
}

/// The object that the plans of an action patch; the target before there is any.
pub(super) fn object_of<'a>(request: &'a ActionRequested, plans: &'a [ActionPlan]) -> &'a TargetReference {
    plans.first().and_then(|plan| plan.object.as_ref()).unwrap_or(&request.target)
}

impl Actions {
    /// What is known of an object's kind.
    pub(super) async fn kind_of(
        &self,
        request: &ActionRequested,
        step: StepType,
        object: &TargetReference,
    ) -> Result<Workload, Blocked> {
        // An autoscaler is patched in place of its target only: no rule names one.
        if object != &request.target && (object.api_version.as_str(), object.kind.as_str()) == AUTOSCALER {
            return Ok(Workload::autoscaler());
        }
        match self.kinds.fit(step, &object.api_version, &object.kind).await {
            Ok(Ok(kind)) => Ok(kind),
            Ok(Err(why)) => Err(no(ActionFailureReason::InvalidRunbook, why)),
            Err(_) => Err(Blocked::Unreadable(format!("the definition of {} {}", object.api_version, object.kind))),
        }
    }

    /// A quorum read of an object, as the runbook's account.
    pub(super) async fn read_state(&self, asked: &Asked<'_>, object: &TargetReference) -> Result<TargetState, Blocked> {
        let Asked { namespace, request, runbook, .. } = *asked;
        let kind = self.kind_of(request, runbook.r#type, object).await?;
        let account = &runbook.service_account_name;
        let timeout = runbook.timeout.as_std();
        let call = TargetCall { namespace, object, resource: &kind.resource, account, timeout };
        let slot = self.slot(request, asked.beside_breaker).await;
        // The wait for a free call may have been long: behind a target that hangs, the calls before it have opened the breaker.
        let key = breaker_key(request);
        if !asked.beside_breaker && self.breakers().is_open(&key) {
            return Err(Blocked::Later(breaker_reason(&key)));
        }
        let answer = self.targets.read(&slot, &call).await;
        drop(slot);
        match answer {
            Ok(found) => TargetState::read(&found, &kind)
                .map_err(|error| no(ActionFailureReason::Refused, format!("{}: {error}", object.display()))),
            Err(CallError::Unsupported(problem)) => Err(no(ActionFailureReason::InvalidRunbook, problem)),
            Err(CallError::Api { failure, .. }) => Err(Blocked::Answer(object.display(), failure)),
        }
    }

    /// Plans, or says why not. `target` is the request's target as it was just read; `seen` the object that earlier plans patch, where
    /// it is another one.
    pub(super) async fn prepare(
        &self,
        asked: &Asked<'_>,
        target: &TargetState,
        seen: Option<&TargetState>,
    ) -> Result<Planned, Blocked> {
        let Asked { request, runbook, plans, .. } = *asked;
        refuse_target(request, target)?;
        let choice = self.choose(asked).await?;
        // The object never changes within one action: else its record would be in one place and the effect in another.
        if plans.first().is_some_and(|first| first.object != choice.object) {
            let name = request.target.display();
            let message = format!("who governs the replicas of {name} has changed since it was planned");
            return Err(no(ActionFailureReason::TargetGoverned, message));
        }
        let read;
        let state = match (&choice.object, seen) {
            (None, _) => target,
            (Some(_), Some(seen)) => seen,
            (Some(object), None) => {
                read = self.read_state(asked, object).await?;
                &read
            }
        };
        let object = choice.object.as_ref();
        refuse_kept(object.unwrap_or(&request.target), runbook, state)?;
        let subject = Subject { state, object, undone: choice.undone.as_ref() };
        let now = self.ctx.clock.now();
        let planned = plan(&request.action_id, runbook, &subject, request.deadline, &self.sender, now);
        planned.map_err(|refusal| match refusal {
            Refusal::NothingToDo(message) => no(ActionFailureReason::NothingToDo, message),
            Refusal::Changed(message) => no(ActionFailureReason::TargetChanged, message),
            Refusal::Malformed(error) => no(ActionFailureReason::Refused, error.to_string()),
            Refusal::Invalid(message) => no(ActionFailureReason::InvalidRunbook, message),
            // The judge would have said so.
            refusal @ Refusal::Known(_) => no(ActionFailureReason::Refused, refusal.to_string()),
            Refusal::Full(full) => Blocked::Full(full.to_string()),
        })
    }

    async fn choose(&self, asked: &Asked<'_>) -> Result<Choice, Blocked> {
        let Asked { request, runbook, .. } = *asked;
        let undone = match (runbook.r#type, &request.undoes) {
            (StepType::ScaleBack, Some(_)) => Some(self.undone_by(asked).await?),
            (StepType::ScaleBack, None) => {
                let message = "the runbook is of type ScaleBack, and the rule's step undoes no other";
                return Err(no(ActionFailureReason::InvalidRunbook, message));
            }
            (_, Some(_)) => {
                let message =
                    format!("the step undoes another, and the runbook {} is not of type ScaleBack", runbook.name);
                return Err(no(ActionFailureReason::InvalidRunbook, message));
            }
            (StepType::Restart, None) => return Ok(Choice { object: None, undone: None }),
            (StepType::Scale, None) => None,
        };
        if let Some(undone) = &undone
            && undone.object.is_some()
        {
            return Ok(Choice { object: undone.object.clone(), undone: Some(undone.clone()) });
        }
        let name = request.target.display();
        let governors = self.governors_of(request).await;
        let governors =
            governors.map_err(|_| Blocked::Unreadable("the HorizontalPodAutoscalers of its namespace".into()))?;
        let Some(governor) = governors.first() else { return Ok(Choice { object: None, undone }) };
        let allowed = runbook.scale.as_ref().map(|scale| scale.under_autoscaler);
        if allowed != Some(UnderAutoscaler::MinReplicas) {
            let message = format!(
                "the replicas of {name} are governed by HorizontalPodAutoscaler {governor}: change its minReplicas, or let the \
                 runbook do so (scale.underAutoscaler: MinReplicas)"
            );
            return Err(no(ActionFailureReason::TargetGoverned, message));
        }
        if governors.len() > 1 {
            let message =
                format!("the replicas of {name} are governed by several autoscalers: {}", governors.join(", "));
            return Err(no(ActionFailureReason::TargetGoverned, message));
        }
        let object =
            TargetReference { api_version: AUTOSCALER.0.into(), kind: AUTOSCALER.1.into(), name: governor.clone() };
        Ok(Choice { object: Some(object), undone: None })
    }

    /// The plan with which the action that is to be taken back took effect.
    async fn undone_by(&self, asked: &Asked<'_>) -> Result<ActionPlan, Blocked> {
        let Asked { namespace, request, .. } = *asked;
        let Some(id) = &request.undoes else { return Err(no(ActionFailureReason::InvalidRunbook, "undoes nothing")) };
        let name = NamespacedName { namespace: namespace.to_owned(), name: id.to_string() };
        let cached = self.store.get(&name).filter(|action| phase(action) == ActionPhase::Completed);
        let action = match cached {
            Some(action) => Some(action.as_ref().clone()),
            None => {
                let api: Api<Action> = Api::namespaced(self.ctx.kube.clone(), &name.namespace);
                match find(&self.ctx.health, &api, &name.name).await {
                    Ok(found) => found,
                    Err(ApiFailure::Malformed(_)) => None,
                    Err(_) => return Err(Blocked::Unreadable(format!("the action {id}"))),
                }
            }
        };
        let waits = action.as_ref().is_none_or(|action| !phase(action).is_terminal());
        if waits
            && self.ctx.clock.now() < request.decided_at.saturating_add(UNDONE_WITHIN).unwrap_or(request.decided_at)
        {
            return Err(Blocked::Later(format!("the end of the action {id}, which it takes back")));
        }
        let applied = action.as_ref().filter(|action| phase(action) == ActionPhase::Completed).and_then(|action| {
            let recorded =
                action.status.as_ref().map(|status| status.plans.as_slice()).filter(|plans| !plans.is_empty());
            let plans = recorded.unwrap_or(action.spec.plan.as_slice());
            // Whichever of several open plans has landed, they were all made for the same spec.
            plans.iter().rev().find(|plan| plan.outcome.is_none()).cloned()
        });
        applied.ok_or_else(|| {
            no(ActionFailureReason::NothingToDo, format!("the action {id}, which it takes back, has not taken effect"))
        })
    }
}

fn phase(action: &Action) -> ActionPhase {
    action.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

/// Whether the API server refuses the last plan although nothing has moved.
pub(super) fn is_refused_unmoved(plans: &[ActionPlan], object: &TargetState) -> bool {
    plans.last().is_some_and(|plan| {
        plan.outcome == Some(PlanOutcome::Conflict) && plan.resource_version == object.resource_version
    })
}

/// Why nothing may be done to this target, whatever is planned.
pub(super) fn refuse_target(request: &ActionRequested, target: &TargetState) -> Result<(), Blocked> {
    let name = request.target.display();
    // The API server cuts creationTimestamp to whole seconds. What was created in the second of the decision counts as there
    // before it: an alert comes long after its target, and refusing the doubtful ones would refuse right ones.
    if target.created_at > request.decided_at && !mutated(Mutant::UidIgnored) {
        let message = format!("{name} was created at {}, after the decision", target.created_at);
        return Err(no(ActionFailureReason::Stale, message));
    }
    if target.deleting {
        return Err(no(ActionFailureReason::TargetNotFound, format!("{name} is being deleted")));
    }
    Ok(())
}

/// Why the number of this object is not for an action to change: somebody else would change it back.
fn refuse_kept(object: &TargetReference, runbook: &RunbookSnapshot, state: &TargetState) -> Result<(), Blocked> {
    let name = object.display();
    if state.deleting {
        return Err(no(ActionFailureReason::TargetNotFound, format!("{name} is being deleted")));
    }
    // A new template's annotation is in nobody's Git, and left alone: see docs/gitops.md.
    if runbook.r#type == StepType::Restart {
        return Ok(());
    }
    if let Some(controller) = &state.kept.controller {
        let message = format!("{name} is controlled by {controller}, which sets its replicas: act on that");
        return Err(no(ActionFailureReason::TargetGoverned, message));
    }
    match &state.kept.git_ops {
        Some(tool) if runbook.git_ops == GitOps::Refuse => {
            let message = format!(
                "{name} is kept as it is in Git by {tool}, which would take the change back: change it in Git, or let the tool \
                 leave the number alone (docs/gitops.md) and set gitOps: Allow in the runbook {}",
                runbook.name
            );
            Err(no(ActionFailureReason::TargetGoverned, message))
        }
        _ => Ok(()),
    }
}
