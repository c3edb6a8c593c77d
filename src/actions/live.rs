//! What people wrote, as it is now. A cache may lag behind what a request was decided from, so it is believed where it says yes and
//! its watch follows; a no, which ends an action for good, is asked of the API server (a quorum read).

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::{
    Api,
    api::{ListParams, ObjectList},
};

use super::{resolve::resolve, service::Actions};
use crate::{
    api::v1alpha1::{Incident, IncidentActionState, IncidentPhase, Rule, Runbook, RunbookSnapshot, StepWhen},
    events::{ActionFailureReason, ActionRequested, NamespacedName},
    runtime::{
        ApiFailure, WatchCache,
        kube_api::{CALL_TIMEOUT, ask, find},
        watch_cache::{Cached, WatchState},
    },
};

impl Actions {
    /// A suspended or deleted rule starts nothing new. While the watch of Rules is broken, every answer is the API server's.
    pub(super) async fn is_suspended(&self, request: &ActionRequested) -> Result<bool, ApiFailure> {
        let acts = |rule: &Rule| (!rule.spec.suspend).then_some(());
        Ok(self.look_up(&self.rules, &request.incident.rule, acts).await?.is_none())
    }

    /// Why nothing is to be done any more: its alerts cleared, or somebody resolved it, while the action waited; or it was told before
    /// that the action has failed, because it could not be claimed. An incident that is not there may only not be written yet.
    pub(super) async fn over(
        &self,
        request: &ActionRequested,
    ) -> Result<Option<(ActionFailureReason, &'static str)>, ApiFailure> {
        let api: Api<Incident> = Api::namespaced(self.ctx.kube.clone(), &request.incident.rule.namespace);
        let incident = match find(&self.ctx.health, &api, request.incident.incident_id.as_str()).await {
            // What somebody has made unreadable says nothing.
            Err(ApiFailure::Malformed(_)) => None,
            found => found?,
        };
        let Some(incident) = incident else { return Ok(None) };
        let status = incident.status.unwrap_or_default();
        let resolved = incident.spec.resolved || status.phase == IncidentPhase::Resolved;
        if resolved && request.when == StepWhen::Ladder {
            let message = "its incident was resolved before anything was sent";
            return Ok(Some((ActionFailureReason::IncidentResolved, message)));
        }
        let told = status.actions.iter().any(|action| {
            action.action_ref.name == request.action_id.as_str() && action.state == IncidentActionState::Failed
        });
        let message = "its incident was told that it has failed, before it could be claimed";
        Ok(told.then_some((ActionFailureReason::Refused, message)))
    }

    /// None where there is no runbook that fits the request.
    pub(super) async fn runbook_of(&self, request: &ActionRequested) -> Result<Option<RunbookSnapshot>, ApiFailure> {
        let namespace = request.incident.rule.namespace.clone();
        let name = NamespacedName { namespace, name: request.runbook.clone() };
        self.look_up(&self.runbooks, &name, |runbook: &Runbook| resolve(runbook, &request.parameters).ok()).await
    }

    /// Names of the HorizontalPodAutoscalers that govern the target's replicas, in their order.
    pub(super) async fn governors_of(&self, request: &ActionRequested) -> Result<Vec<String>, ApiFailure> {
        let namespace = request.incident.rule.namespace.as_str();
        let cached = self.autoscalers.list();
        if follows(&self.autoscalers) && governors(cached.iter().map(AsRef::as_ref), request).is_empty() {
            return Ok(Vec::new());
        }
        let api: Api<HorizontalPodAutoscaler> = Api::namespaced(self.ctx.kube.clone(), namespace);
        let all: ObjectList<_> = ask(&self.ctx.health, CALL_TIMEOUT, api.list(&ListParams::default())).await?;
        Ok(governors(all.iter(), request))
    }

    async fn look_up<K: Cached, T>(
        &self,
        cache: &WatchCache<K>,
        name: &NamespacedName,
        yes: impl Fn(&K) -> Option<T>,
    ) -> Result<Option<T>, ApiFailure> {
        if follows(cache)
            && let Some(found) = cache.get(name).and_then(|object| yes(&object))
        {
            return Ok(Some(found));
        }
        let api: Api<K> = Api::namespaced(self.ctx.kube.clone(), &name.namespace);
        match find(&self.ctx.health, &api, &name.name).await {
            Ok(object) => Ok(object.and_then(|object| yes(&cache.upsert(object)))),
            // As in the cache: what cannot be read as its kind is left out.
            Err(ApiFailure::Malformed(_)) => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}

fn follows<K: Cached>(cache: &WatchCache<K>) -> bool {
    let state = cache.state();
    *state.borrow() == WatchState::Following
}

/// The group must be the target's; its version may be another one of the same kind.
fn governors<'a>(all: impl Iterator<Item = &'a HorizontalPodAutoscaler>, request: &ActionRequested) -> Vec<String> {
    let group = |api_version: &str| api_version.split_once('/').map(|(group, _)| group.to_owned()).unwrap_or_default();
    let governs = |autoscaler: &&HorizontalPodAutoscaler| {
        let reference = &autoscaler.spec.scale_target_ref;
        let same_group = reference.api_version.as_deref().is_none_or(|version| {
            // Without a version of its own it is as Kubernetes once took it: any group's.
            version.is_empty() || group(version) == group(&request.target.api_version)
        });
        autoscaler.metadata.namespace.as_deref() == Some(request.incident.rule.namespace.as_str())
            && reference.kind == request.target.kind
            && reference.name == request.target.name
            && same_group
    };
    let mut names: Vec<String> = all.filter(governs).filter_map(|found| found.metadata.name.clone()).collect();
    names.sort();
    names
}
