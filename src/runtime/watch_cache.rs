//! A cache of every object of one kind, fed by a watch, and by the service's own writes where it has any.
//!
//! The newest resourceVersion wins (they compare as numbers, KEP-5504), so a slow watch never takes back what was just written.
//! An object that cannot be read as its type is left out, said, and stalls nothing; [`WatchCache::invalid`] gives it to whoever
//! can tell its author.

use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures::{StreamExt, pin_mut};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Resource, ResourceExt,
    core::{DeserializeGuard, NamespaceResourceScope, error_boundary::InvalidObject},
    runtime::watcher,
};
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, watch};

use super::{
    Context,
    random::{Random, exponential},
};
use crate::events::NamespacedName;

const CHANGES_MAX: usize = 4096;
const BACKOFF_INITIAL: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// What a kind needs to be cached.
pub trait Cached:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Cached for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// The name of a namespaced object.
pub fn name_of<K: Resource<DynamicType = ()>>(object: &K) -> NamespacedName {
    NamespacedName { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}

/// How the watch is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchState {
    /// The first complete list has not arrived.
    Starting,
    /// It follows.
    Following,
    /// It broke and has not been mended.
    Broken,
}

/// See the module's text.
pub struct WatchCache<K> {
    objects: RwLock<HashMap<NamespacedName, Arc<K>>>,
    invalid: RwLock<HashMap<NamespacedName, Arc<InvalidObject>>>,
    changes: broadcast::Sender<NamespacedName>,
    state: watch::Sender<WatchState>,
}

impl<K: Cached> WatchCache<K> {
    /// An empty cache. Hand [`WatchCache::run`] to the tasks.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            objects: RwLock::default(),
            invalid: RwLock::default(),
            changes: broadcast::channel(CHANGES_MAX).0,
            state: watch::Sender::new(WatchState::Starting),
        })
    }

    /// Follows the watch until shutdown. Readiness tells by the kind's name what is missing.
    pub async fn run(self: Arc<Self>, ctx: Context) {
        let kind: &'static str = watch_part(&K::kind(&()));
        ctx.health.not_ready(kind, format!("the first list of {} has not arrived", K::plural(&())));
        let api: Api<DeserializeGuard<K>> = Api::all(ctx.kube.clone());
        let mut retry = 0;
        let mut listed: HashSet<NamespacedName> = HashSet::new();
        loop {
            // A watch that failed is begun anew, with a list: kube's watcher would go on from where it was and say nothing until an
            // object changes, so that nobody could know whether it works again.
            let events = watcher(api.clone(), watcher::Config::default());
            pin_mut!(events);
            let error = loop {
                let event = tokio::select! {
                    () = ctx.shutdown.cancelled() => return,
                    event = events.next() => event,
                };
                match event {
                    Some(Ok(event)) => {
                        self.apply(event, &mut listed);
                        if *self.state.borrow() == WatchState::Following {
                            retry = 0;
                            ctx.health.ready(kind);
                        }
                    }
                    Some(Err(error)) => break describe(&error),
                    None => return,
                }
            };
            self.set_state(WatchState::Broken);
            ctx.health.not_ready(kind, format!("watch of {}: {error}", K::plural(&())));
            if !wait(&ctx, &ctx.random, retry).await {
                return;
            }
            retry += 1;
        }
    }

    fn apply(&self, event: watcher::Event<DeserializeGuard<K>>, listed: &mut HashSet<NamespacedName>) {
        match event {
            watcher::Event::Init => {
                listed.clear();
                self.write_invalid().clear();
            }
            watcher::Event::InitApply(DeserializeGuard(object)) => {
                if let Some(object) = self.readable(object) {
                    listed.insert(name_of(&object));
                    self.upsert(object);
                }
            }
            watcher::Event::InitDone => {
                self.retain_listed(listed);
                listed.clear();
                self.set_state(WatchState::Following);
            }
            watcher::Event::Apply(DeserializeGuard(object)) => {
                if let Some(object) = self.readable(object) {
                    self.upsert(object);
                }
                self.set_state(WatchState::Following);
            }
            watcher::Event::Delete(DeserializeGuard(object)) => {
                let (meta, version) = match &object {
                    Ok(object) => (object.meta(), version_of(object)),
                    Err(invalid) => (&invalid.metadata, parse_version(invalid.metadata.resource_version.as_deref())),
                };
                let name = name_in(meta);
                self.write_invalid().remove(&name);
                self.remove(&name, version);
                self.set_state(WatchState::Following);
            }
        }
    }

    /// After a new list: what is not in it is gone, unless it was written after the list was made.
    fn retain_listed(&self, listed: &HashSet<NamespacedName>) {
        let newest_listed = {
            let objects = self.read();
            listed
                .iter()
                .filter_map(|name| objects.get(name))
                .map(|object| version_of(object.as_ref()))
                .max()
                .unwrap_or(0)
        };
        let mut gone = Vec::new();
        self.write().retain(|name, object| {
            let keep = listed.contains(name) || version_of(object.as_ref()) > newest_listed;
            if !keep {
                gone.push(name.clone());
            }
            keep
        });
        gone.into_iter().for_each(|name| self.notify(name));
    }

    /// Takes an object over if it is newer than the one that is known. Gives the newest.
    pub fn upsert(&self, object: K) -> Arc<K> {
        let name = name_of(&object);
        let newest = {
            let mut objects = self.write();
            match objects.get(&name) {
                // Another uid is another object: the old one is gone, whatever its version was.
                Some(known) if known.uid() == object.uid() && version_of(known.as_ref()) >= version_of(&object) => {
                    return Arc::clone(known);
                }
                _ => {
                    let object = Arc::new(object);
                    objects.insert(name.clone(), Arc::clone(&object));
                    object
                }
            }
        };
        self.notify(name);
        newest
    }

    /// Forgets an object that is known to be gone as of this version.
    pub fn remove(&self, name: &NamespacedName, version: u64) {
        let removed = {
            let mut objects = self.write();
            objects.get(name).is_some_and(|known| version_of(known.as_ref()) <= version)
                && objects.remove(name).is_some()
        };
        if removed {
            self.notify(name.clone());
        }
    }

    /// Takes note of an object that cannot be read. What was known of it before is no longer what its author says.
    fn readable(&self, object: Result<K, InvalidObject>) -> Option<K> {
        match object {
            Ok(object) => {
                self.write_invalid().remove(&name_of(&object));
                Some(object)
            }
            Err(invalid) => {
                let name = name_in(&invalid.metadata);
                tracing::warn!(kind = %K::kind(&()), %name, error = invalid.error, "An object cannot be read; it is left out.");
                let version = parse_version(invalid.metadata.resource_version.as_deref());
                self.write_invalid().insert(name.clone(), Arc::new(invalid));
                self.remove(&name, version);
                self.notify(name);
                None
            }
        }
    }

    /// The object of this name, if it is there and cannot be read as its type.
    pub fn invalid(&self, name: &NamespacedName) -> Option<Arc<InvalidObject>> {
        self.invalid.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// The names of all objects that cannot be read as their type.
    pub fn invalid_names(&self) -> Vec<NamespacedName> {
        self.invalid.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    fn write_invalid(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<NamespacedName, Arc<InvalidObject>>> {
        self.invalid.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest known version of an object.
    pub fn get(&self, name: &NamespacedName) -> Option<Arc<K>> {
        self.read().get(name).cloned()
    }

    /// Every known object, in no order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.read().values().cloned().collect()
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    /// Names of objects that appeared, changed or went. A receiver that lags is told so and should look at all of them.
    pub fn changes(&self) -> broadcast::Receiver<NamespacedName> {
        self.changes.subscribe()
    }

    /// How the watch is doing.
    pub fn state(&self) -> watch::Receiver<WatchState> {
        self.state.subscribe()
    }

    /// Waits for the first complete list.
    pub async fn ready(&self) {
        // The sender lives in `self`, so it cannot be gone.
        let _ = self.state.subscribe().wait_for(|state| *state != WatchState::Starting).await;
    }

    fn set_state(&self, state: WatchState) {
        self.state.send_if_modified(|now| {
            // Before its first list a watch is starting, also when it breaks.
            let next =
                if *now == WatchState::Starting && state == WatchState::Broken { WatchState::Starting } else { state };
            std::mem::replace(now, next) != next
        });
    }

    fn notify(&self, name: NamespacedName) {
        // Nobody listening is fine.
        let _ = self.changes.send(name);
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<NamespacedName, Arc<K>>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<NamespacedName, Arc<K>>> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An object's resourceVersion as a number; 0 for one that has none.
pub fn version_of<K: Resource<DynamicType = ()>>(object: &K) -> u64 {
    parse_version(object.meta().resource_version.as_deref())
}

fn parse_version(version: Option<&str>) -> u64 {
    version.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn name_in(meta: &ObjectMeta) -> NamespacedName {
    NamespacedName {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    }
}

/// What a watch's error means for people.
fn describe(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(inner)
        | watcher::Error::WatchStartFailed(inner)
        | watcher::Error::WatchFailed(inner) => super::classify(inner).to_string(),
        other => other.to_string(),
    }
}

/// Readiness parts have static names: one for each kind that is watched.
fn watch_part(kind: &str) -> &'static str {
    match kind {
        "Rule" => "watch Rule",
        "Runbook" => "watch Runbook",
        "NotificationChannel" => "watch NotificationChannel",
        "Incident" => "watch Incident",
        "Action" => "watch Action",
        "Notification" => "watch Notification",
        "AlertGroup" => "watch AlertGroup",
        "HorizontalPodAutoscaler" => "watch HorizontalPodAutoscaler",
        "Secret" => "watch Secret",
        _ => "watch",
    }
}

async fn wait(ctx: &Context, random: &Random, retry: u32) -> bool {
    let wait = random.up_to(exponential(BACKOFF_INITIAL, BACKOFF_MAX, retry)) + Duration::from_millis(50);
    tokio::select! {
        () = ctx.shutdown.cancelled() => false,
        () = tokio::time::sleep(wait) => true,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str, version: u64, uid: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.namespace = Some("shop".into());
        object.metadata.name = Some(name.into());
        object.metadata.uid = Some(uid.into());
        object.metadata.resource_version = Some(version.to_string());
        object
    }

    fn name(name: &str) -> NamespacedName {
        NamespacedName { namespace: "shop".into(), name: name.into() }
    }

    fn cache() -> Arc<WatchCache<ConfigMap>> {
        WatchCache::new()
    }

    #[test]
    fn a_slow_watch_does_not_take_back_what_was_written() {
        let cache = cache();
        cache.upsert(object("a", 9, "u"));
        assert_eq!(version_of(cache.upsert(object("a", 10, "u")).as_ref()), 10);
        assert_eq!(version_of(cache.upsert(object("a", 9, "u")).as_ref()), 10);
        cache.remove(&name("a"), 9);
        assert!(cache.get(&name("a")).is_some());
        cache.remove(&name("a"), 11);
        assert!(cache.get(&name("a")).is_none());
    }

    #[test]
    fn an_object_of_the_same_name_and_another_uid_is_another_object() {
        let cache = cache();
        cache.upsert(object("a", 10, "old"));
        cache.upsert(object("a", 12, "new"));
        assert_eq!(cache.get(&name("a")).unwrap().uid().as_deref(), Some("new"));
    }

    #[test]
    fn a_new_list_removes_what_is_gone_and_keeps_what_was_written_since() {
        let cache = cache();
        let mut listed = HashSet::new();
        cache.upsert(object("gone", 3, "a"));
        cache.upsert(object("own", 8, "b"));
        for event in [
            watcher::Event::Init,
            watcher::Event::InitApply(DeserializeGuard(Ok(object("listed", 5, "c")))),
            watcher::Event::InitDone,
        ] {
            cache.apply(event, &mut listed);
        }
        let mut names: Vec<String> = cache.list().iter().map(|object| object.name_any()).collect();
        names.sort();
        assert_eq!(names, ["listed", "own"]);
        assert_eq!(*cache.state().borrow(), WatchState::Following);
    }

    #[test]
    fn an_object_that_cannot_be_read_is_left_out_and_told_until_it_is_mended() {
        let cache = cache();
        let apply = |value: serde_json::Value| {
            let object: DeserializeGuard<ConfigMap> = serde_json::from_value(value).unwrap();
            cache.apply(watcher::Event::Apply(object), &mut HashSet::new());
        };
        let meta = |version: &str| serde_json::json!({"name": "a", "namespace": "shop", "uid": "u", "resourceVersion": version});
        apply(serde_json::json!({"metadata": meta("5"), "data": {"a": "b"}}));
        apply(serde_json::json!({"metadata": meta("6"), "data": 7}));
        assert!(cache.is_empty(), "what was known before is not what its author says now");
        assert_eq!(cache.invalid(&name("a")).unwrap().metadata.resource_version.as_deref(), Some("6"));
        assert_eq!(cache.invalid_names(), [name("a")]);
        apply(serde_json::json!({"metadata": meta("7"), "data": {"a": "c"}}));
        assert!(cache.invalid(&name("a")).is_none() && cache.get(&name("a")).is_some());
    }
}
