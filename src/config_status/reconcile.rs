//! One resource: dereference, validate, write its status where it differs.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::{
    Api, Resource,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::error_boundary::InvalidObject,
};
use serde_json::json;

use super::{
    dereference::{Caches, references_of_channel},
    reason,
    status::{Known, Storm, conditions},
    validate::{self, Problem},
};
use crate::{
    api::v1alpha1::{NotificationChannel, Rule, Runbook},
    events::NamespacedName,
    runtime::{
        ApiFailure, Context, Handler, Kinds,
        kube_api::{CALL_TIMEOUT, call},
        metrics::catalogue::CONFIG_STATUS_WRITES,
        random::exponential,
        watch_cache::Cached,
    },
};

/// Who writes the status (server-side apply).
pub(super) const FIELD_MANAGER: &str = "eventpulse-config";
/// Tries at once; after them the next round looks again.
const TRIES_MAX: u32 = 5;
const BACKOFF_INITIAL: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// The kinds that people write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Rule,
    Runbook,
    NotificationChannel,
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Kind::Rule => "rule",
            Kind::Runbook => "runbook",
            Kind::NotificationChannel => "notificationchannel",
        }
    }

    fn resource(self) -> ApiResource {
        match self {
            Kind::Rule => ApiResource::erase::<Rule>(&()),
            Kind::Runbook => ApiResource::erase::<Runbook>(&()),
            Kind::NotificationChannel => ApiResource::erase::<NotificationChannel>(&()),
        }
    }
}

/// One resource to look at.
pub(super) type Target = (Kind, NamespacedName);

/// Looks at one resource at a time for each name, and at several names side by side.
pub(super) struct Reconciler {
    ctx: Context,
    caches: Caches,
    kinds: Kinds,
    /// What could not be done, for the next round. At most one entry for each resource.
    left_over: Mutex<HashSet<Target>>,
}

impl Reconciler {
    pub fn new(ctx: Context, caches: Caches) -> Self {
        let kinds = Kinds::new(ctx.kube.clone());
        Self { ctx, caches, kinds, left_over: Mutex::default() }
    }

    /// What could not be done since the last call.
    pub fn take_left_over(&self) -> Vec<Target> {
        self.left_over.lock().unwrap_or_else(PoisonError::into_inner).drain().collect()
    }

    async fn reconcile(&self, (kind, name): &Target) -> Result<(), ApiFailure> {
        match kind {
            Kind::Rule => {
                let cache = &self.caches.rules;
                let Some(rule) = cache.get(name) else { return self.malformed(*kind, name, cache.invalid(name)).await };
                let references = self.caches.references_of(&rule, &self.kinds).await;
                let problems = validate::rule(&rule, &references);
                let status = rule.status.clone().unwrap_or_default();
                self.write(
                    *kind,
                    known(rule.as_ref(), status.observed_generation, status.conditions),
                    &rule.metadata,
                    &problems,
                    self.caches.storm_of(&rule).as_ref(),
                )
                .await
            }
            Kind::Runbook => {
                let cache = &self.caches.runbooks;
                let Some(runbook) = cache.get(name) else {
                    return self.malformed(*kind, name, cache.invalid(name)).await;
                };
                let problems = validate::runbook(&runbook);
                let status = runbook.status.clone().unwrap_or_default();
                self.write(
                    *kind,
                    known(runbook.as_ref(), status.observed_generation, status.conditions),
                    &runbook.metadata,
                    &problems,
                    None,
                )
                .await
            }
            Kind::NotificationChannel => {
                let cache = &self.caches.channels;
                let Some(channel) = cache.get(name) else {
                    return self.malformed(*kind, name, cache.invalid(name)).await;
                };
                let problems = validate::channel(&channel, &references_of_channel(&self.ctx, &channel).await?);
                let status = channel.status.clone().unwrap_or_default();
                self.write(
                    *kind,
                    known(channel.as_ref(), status.observed_generation, status.conditions),
                    &channel.metadata,
                    &problems,
                    None,
                )
                .await
            }
        }
    }

    /// A resource that is gone, or that cannot be read: its author is told, and nobody else is held up.
    async fn malformed(
        &self,
        kind: Kind,
        name: &NamespacedName,
        invalid: Option<std::sync::Arc<InvalidObject>>,
    ) -> Result<(), ApiFailure> {
        let Some(invalid) = invalid else { return Ok(()) };
        let now = match call(CALL_TIMEOUT, self.api(kind, &name.namespace).get(&name.name)).await {
            Ok(now) => now,
            Err(ApiFailure::NotFound(_)) => return Ok(()),
            Err(failure) => return Err(failure),
        };
        let status = &now.data["status"];
        // What cannot be read of the conditions is as if it were not there.
        let conditions = serde_json::from_value::<Vec<Condition>>(status["conditions"].clone()).unwrap_or_default();
        let known = Known {
            generation: now.metadata.generation,
            observed_generation: status["observedGeneration"].as_i64(),
            conditions,
        };
        let problem = Problem { field: "spec".into(), reason: reason::MALFORMED, message: invalid.error.clone() };
        self.write(kind, known, &now.metadata, &[problem], None).await
    }

    async fn write(
        &self,
        kind: Kind,
        known: Known,
        meta: &ObjectMeta,
        problems: &[Problem],
        storm: Option<&Storm>,
    ) -> Result<(), ApiFailure> {
        if meta.deletion_timestamp.is_some() {
            return Ok(());
        }
        let Some(wanted) = conditions(&known, problems, storm, self.ctx.clock.now()) else { return Ok(()) };
        let (namespace, name) = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        let resource = kind.resource();
        // With the version that was looked at: what another replica has written since is not taken back (lastTransitionTime).
        let patch = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name, "namespace": namespace, "uid": meta.uid, "resourceVersion": meta.resource_version},
            "status": {"observedGeneration": known.generation, "conditions": wanted},
        });
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let api = self.api(kind, &namespace);
        let result = call(CALL_TIMEOUT, api.patch_status(&name, &parameters, &Patch::Apply(patch))).await;
        let outcome = result.as_ref().map_or_else(ApiFailure::category, |_| "written");
        self.ctx.metrics.count(&CONFIG_STATUS_WRITES, [kind.label(), outcome], 1);
        if let Some(condition) = wanted.first().filter(|_| result.is_ok() && !problems.is_empty()) {
            tracing::info!(
                kind = kind.label(),
                namespace,
                name,
                reason = condition.reason,
                problem = condition.message,
                "Not ready."
            );
        }
        result.map(drop)
    }

    fn api(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.ctx.kube.clone(), namespace, &kind.resource())
    }
}

fn known<K: Resource<DynamicType = ()> + Cached>(
    object: &K,
    observed_generation: Option<i64>,
    conditions: Vec<Condition>,
) -> Known {
    Known { generation: object.meta().generation, observed_generation, conditions }
}

#[async_trait]
impl Handler<Target, ()> for Reconciler {
    async fn handle(&self, target: &Target, _: Vec<()>) {
        for retry in 0..TRIES_MAX {
            match self.reconcile(target).await {
                // A conflict means that a newer version exists: the watch brings it, and it is looked at then.
                Ok(()) | Err(ApiFailure::NotFound(_) | ApiFailure::Conflict(_)) => return,
                Err(failure @ ApiFailure::Refused { .. }) => {
                    tracing::warn!(kind = target.0.label(), name = %target.1, error = %failure, "A status cannot be written.");
                    break;
                }
                Err(failure) => {
                    tracing::debug!(kind = target.0.label(), name = %target.1, error = %failure, "A status could not be written yet.");
                    let asked = if let ApiFailure::Throttled { after, .. } = &failure { *after } else { None };
                    let wait = self.ctx.random.up_to(exponential(BACKOFF_INITIAL, BACKOFF_MAX, retry))
                        + asked.unwrap_or_default();
                    tokio::select! {
                        () = self.ctx.shutdown.cancelled() => return,
                        () = tokio::time::sleep(wait) => {}
                    }
                }
            }
        }
        self.left_over.lock().unwrap_or_else(PoisonError::into_inner).insert(target.clone());
    }
}
