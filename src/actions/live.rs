//! What people wrote, as it is now. A cache may lag behind what a request was decided from, so it is believed where it says yes and
//! its watch follows; a no, which ends an action for good, is asked of the API server (a quorum read).

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::{
    Api,
    api::{ListParams, ObjectList},
};

use super::{resolve::resolve, service::Actions};
use crate::{
    api::v1alpha1::{Incident, IncidentPhase, Rule, Runbook, RunbookSnapshot},
    events::{ActionRequested, NamespacedName},
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

    /// Whether nothing is to be done any more: its alerts cleared, or somebody resolved it, while the action waited. An incident that
    /// is not there may only not be written yet.
    pub(super) async fn is_resolved(&self, request: &ActionRequested) -> Result<bool, ApiFailure> {
        let api: Api<Incident> = Api::namespaced(self.ctx.kube.clone(), &request.incident.rule.namespace);
        let incident = match find(&self.ctx.health, &api, request.incident.incident_id.as_str()).await {
            // What somebody has made unreadable says nothing.
            Err(ApiFailure::Malformed(_)) => None,
            found => found?,
        };
        Ok(incident.is_some_and(|incident| {
            incident.spec.resolved || incident.status.is_some_and(|status| status.phase == IncidentPhase::Resolved)
        }))
    }

    /// None where there is no runbook that fits the request.
    pub(super) async fn runbook_of(&self, request: &ActionRequested) -> Result<Option<RunbookSnapshot>, ApiFailure> {
        let namespace = request.incident.rule.namespace.clone();
        let name = NamespacedName { namespace, name: request.runbook.clone() };
        self.look_up(&self.runbooks, &name, |runbook: &Runbook| resolve(runbook, &request.parameters).ok()).await
    }

    /// Name of the HorizontalPodAutoscaler that governs the target's replicas.
    pub(super) async fn governor_of(&self, request: &ActionRequested) -> Result<Option<String>, ApiFailure> {
        let namespace = request.incident.rule.namespace.as_str();
        let cached = self.autoscalers.list();
        if follows(&self.autoscalers) && governor(cached.iter().map(AsRef::as_ref), request).is_none() {
            return Ok(None);
        }
        let api: Api<HorizontalPodAutoscaler> = Api::namespaced(self.ctx.kube.clone(), namespace);
        let all: ObjectList<_> = ask(&self.ctx.health, CALL_TIMEOUT, api.list(&ListParams::default())).await?;
        Ok(governor(all.iter(), request))
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

fn governor<'a>(
    mut all: impl Iterator<Item = &'a HorizontalPodAutoscaler>,
    request: &ActionRequested,
) -> Option<String> {
    let found = all.find(|autoscaler| {
        let reference = &autoscaler.spec.scale_target_ref;
        autoscaler.metadata.namespace.as_deref() == Some(request.incident.rule.namespace.as_str())
            && reference.kind == request.target.kind
            && reference.name == request.target.name
    });
    found?.metadata.name.clone()
}
