//! What a resource refers to, found in the watch caches and, for Secrets, asked for. I/O only; nothing is judged here.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};

use super::{
    status::Storm,
    validate::{ChannelReferences, Referent, RuleReferences, SecretFact, secrets},
};
use crate::{
    api::v1alpha1::{AlertGroup, Fitness, NotificationChannel, Rule, Runbook, StepType, TargetReference},
    events::{CorrelationId, NamespacedName},
    runtime::{
        ApiFailure, Context, Kinds, WatchCache,
        kube_api::{CALL_TIMEOUT, call},
        watch_cache::Cached,
    },
};

/// Of all AlertGroups those that are storms ([`crate::api::v1alpha1::LABEL_STORM`]).
const SELECT_STORMS: &str = "eventpulse.io/storm=true";

/// What the service knows of the cluster.
#[derive(Clone)]
pub(super) struct Caches {
    pub rules: Arc<WatchCache<Rule>>,
    pub runbooks: Arc<WatchCache<Runbook>>,
    pub channels: Arc<WatchCache<NotificationChannel>>,
    /// The storms of rules; nothing else of rules' own memory.
    pub storms: Arc<WatchCache<AlertGroup>>,
}

impl Caches {
    /// Begins the watches.
    pub fn start(ctx: &Context) -> Self {
        let caches = Self {
            rules: WatchCache::new(),
            runbooks: WatchCache::new(),
            channels: WatchCache::new(),
            storms: WatchCache::labelled(SELECT_STORMS),
        };
        ctx.tasks.spawn_loop("watch Rule", Arc::clone(&caches.rules).run(ctx.clone()));
        ctx.tasks.spawn_loop("watch Runbook", Arc::clone(&caches.runbooks).run(ctx.clone()));
        ctx.tasks.spawn_loop("watch NotificationChannel", Arc::clone(&caches.channels).run(ctx.clone()));
        ctx.tasks.spawn_loop("watch storms", Arc::clone(&caches.storms).run(ctx.clone()));
        caches
    }

    /// Waits for the first complete lists: before them every reference would look broken.
    pub async fn ready(&self) {
        tokio::join!(self.rules.ready(), self.runbooks.ready(), self.channels.ready(), self.storms.ready());
    }

    /// What a rule refers to. A kind of which nobody can say anything now counts as fit: the action will tell.
    pub async fn references_of(&self, rule: &Rule, kinds: &Kinds) -> RuleReferences {
        let mut unfit_kinds = BTreeMap::new();
        for target in custom_targets(rule) {
            if let Ok(Err(why)) = kinds.fit(StepType::Scale, &target.api_version, &target.kind).await {
                unfit_kinds.insert((target.api_version.clone(), target.kind.clone()), why);
            }
        }
        let namespace = rule.namespace().unwrap_or_default();
        let runbooks = rule.spec.actions.iter().map(|action| &action.runbook_ref.name);
        let channels = rule.spec.notifications.iter().map(|notification| &notification.channel_ref.name);
        RuleReferences {
            runbooks: runbooks.map(|name| (name.clone(), referent(&self.runbooks, &namespace, name))).collect(),
            channels: channels.map(|name| (name.clone(), referent(&self.channels, &namespace, name))).collect(),
            unfit_kinds,
        }
    }

    /// The storm of a rule that goes on.
    pub fn storm_of(&self, rule: &Rule) -> Option<Storm> {
        let (namespace, name) = (rule.namespace().unwrap_or_default(), rule.name_any());
        let correlation = CorrelationId::of_storm(&namespace, &name).to_string();
        let group = self.storms.get(&NamespacedName { namespace, name: correlation })?;
        let began_at = group.spec.storm.as_ref().filter(|storm| storm.ended_at.is_none())?.began_at;
        let incident = group.spec.episode.as_ref().map(|episode| episode.incident_id.to_string());
        Some(Storm { began_at, incident })
    }

    /// The rules of a namespace that refer to this runbook or channel.
    pub fn rules_that(&self, namespace: &str, refers: impl Fn(&Rule) -> bool) -> Vec<NamespacedName> {
        self.rules
            .list()
            .iter()
            .filter(|rule| rule.namespace().as_deref() == Some(namespace) && refers(rule))
            .map(|rule| NamespacedName { namespace: namespace.to_owned(), name: rule.name_any() })
            .collect()
    }
}

/// The targets whose kinds are custom ones, so that only the API server can tell of them.
pub(super) fn custom_targets(rule: &Rule) -> impl Iterator<Item = &TargetReference> {
    let targets = rule.spec.actions.iter().map(|action| &action.target_ref);
    targets.filter(|target| StepType::Scale.fitness(&target.api_version, &target.kind) == Fitness::Ask)
}

fn referent<K: Cached>(cache: &WatchCache<K>, namespace: &str, name: &str) -> Referent<K> {
    let name = NamespacedName { namespace: namespace.to_owned(), name: name.to_owned() };
    match cache.get(&name) {
        Some(found) => Referent::Found(found),
        None if cache.invalid(&name).is_some() => Referent::Malformed,
        None => Referent::Missing,
    }
}

/// What a channel refers to. Secrets are not watched: each is asked for when its channel changes and from time to time, so that no
/// more is read than what somebody refers to, and nothing of it is kept.
pub(super) async fn references_of_channel(
    ctx: &Context,
    channel: &NotificationChannel,
) -> Result<ChannelReferences, ApiFailure> {
    let api: Api<Secret> = Api::namespaced(ctx.kube.clone(), &channel.namespace().unwrap_or_default());
    let mut references = ChannelReferences::new();
    for (_, secret) in secrets(channel) {
        let fact = match call(CALL_TIMEOUT, api.get(&secret.name)).await {
            Ok(found) => {
                let has_key = found.data.is_some_and(|data| data.contains_key(&secret.key));
                if has_key { SecretFact::Present } else { SecretFact::KeyMissing }
            }
            Err(ApiFailure::NotFound(_)) => SecretFact::Missing,
            Err(ApiFailure::Refused { code: 403, .. }) => SecretFact::Forbidden,
            Err(failure) => return Err(failure),
        };
        references.insert((secret.name.clone(), secret.key.clone()), fact);
    }
    Ok(references)
}
