//! A cache of every object of one kind, fed by a watch, and by the service's own writes where it has any.
//!
//! The newest resourceVersion wins (they compare as numbers, KEP-5504), so a slow watch never takes back what was just written.
//! An object that cannot be read as its type is left out, said, and stalls nothing; [`WatchCache::invalid`] gives it to whoever
//! can tell its author.

use std::{
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use futures::{StreamExt, pin_mut};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
    core::{DeserializeGuard, NamespaceResourceScope, error_boundary::InvalidObject},
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{broadcast, watch},
    time::{Instant, timeout},
};

use super::{
    ApiFailure, Context, classify,
    kube_api::{CALL_TIMEOUT, call, tell_of_watch},
    liveness::waiting,
    metrics::catalogue::WATCH_SILENCE,
    random::{Random, exponential},
};
use crate::{api::v1alpha1::GROUP, events::NamespacedName};

const CHANGES_MAX: usize = 4096;
const BACKOFF_INITIAL: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Objects of one page of a list. Reading one takes many times the memory of what is kept of it.
const LIST_PAGE: u32 = 100;
/// How long the server is asked to keep a watch, in seconds; then it is resumed. A connection that died in silence is noticed so
/// much later, before a watch counts as stale (design, section 5, rules).
const WATCH_S: u32 = 20;
/// A watch of which nothing is heard for so long, not even its end, is broken.
const SILENCE_MAX: Duration = Duration::from_secs(WATCH_S as u64 + 5);
/// A watch that ends sooner than this is not resumed at once.
const RESUME_INTERVAL: Duration = Duration::from_millis(200);

/// So often one after the other it may end so soon; then it is no watch, whoever answers.
const EARLY_ENDS_MAX: u32 = 5;

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

/// What a cache keeps of an object: the object itself, without what nobody reads, or a type of its own that is smaller (promise 6).
pub trait Kept: Clone + Debug + Send + Sync + 'static {
    /// Its `metadata.uid`.
    fn uid(&self) -> Option<&str>;
    /// Its resourceVersion as a number; 0 for one that has none.
    fn version(&self) -> u64;
}

impl<K: Cached> Kept for K {
    fn uid(&self) -> Option<&str> {
        self.meta().uid.as_deref()
    }

    fn version(&self) -> u64 {
        version_of(self)
    }
}

/// See the module's text. `V` is what is kept of an object.
pub struct WatchCache<K, V = K> {
    /// Makes of an object what is kept.
    keep: Box<dyn Fn(K) -> V + Send + Sync>,
    /// A tree: of objects that come and go a hash table grows once more than they need, for the places of those that went, and an hour
    /// after the start.
    objects: RwLock<BTreeMap<NamespacedName, Arc<V>>>,
    invalid: RwLock<BTreeMap<NamespacedName, Arc<InvalidObject>>>,
    changes: broadcast::Sender<NamespacedName>,
    state: watch::Sender<WatchState>,
    /// When anything was heard of the watch.
    heard: Mutex<Instant>,
    /// Only objects with these labels; empty: all.
    labels: &'static str,
}

impl<K: Cached> WatchCache<K> {
    /// An empty cache. Hand [`WatchCache::run`] to the tasks.
    pub fn new() -> Arc<Self> {
        Self::projected(forget_managed_fields)
    }

    /// The same, of which `project` says what is kept of each object (promise 6): it takes out what nobody reads. An object that is
    /// written back must still hold all that the write says; what the API server keeps by itself where a write says nothing of it, as
    /// with `managedFields`, may go.
    pub fn projected(project: fn(&mut K)) -> Arc<Self> {
        Self::of(without(project), "")
    }

    /// The same for the objects that a label selector selects.
    pub fn labelled(labels: &'static str) -> Arc<Self> {
        Self::of(without(forget_managed_fields), labels)
    }
}

impl<K: Cached, V: Kept> WatchCache<K, V> {
    /// A cache that keeps of each object only what `keep` makes of it.
    pub fn keeping(keep: fn(K) -> V) -> Arc<Self> {
        Self::of(Box::new(keep), "")
    }

    fn of(keep: Box<dyn Fn(K) -> V + Send + Sync>, labels: &'static str) -> Arc<Self> {
        Arc::new(Self {
            keep,
            labels,
            objects: RwLock::default(),
            invalid: RwLock::default(),
            changes: broadcast::channel(CHANGES_MAX).0,
            state: watch::Sender::new(WatchState::Starting),
            heard: Mutex::new(Instant::now()),
        })
    }

    /// Follows the watch until shutdown. Readiness tells by the kind's name what is missing.
    pub async fn run(self: Arc<Self>, ctx: Context) {
        let part: &'static str = watch_part(&K::kind(&()));
        self.measure(&ctx);
        ctx.health.not_ready(part, format!("the first list of {} has not arrived", K::plural(&())));
        let mut retry = 0;
        loop {
            let Err(failure) = tokio::select! {
                () = ctx.shutdown.cancelled() => return,
                ended = self.follow(&ctx, part, &mut retry) => ended,
            };
            self.set_state(WatchState::Broken);
            ctx.health.not_ready(part, what_is_missing::<K>(&failure));
            let asked =
                if let ApiFailure::Throttled { after: Some(after), .. } = failure { after } else { Duration::ZERO };
            if !wait(&ctx, &ctx.random, retry, asked).await {
                return;
            }
            retry += 1;
        }
    }

    /// The metrics tell for how long nothing was heard.
    fn measure(self: &Arc<Self>, ctx: &Context) {
        self.has_heard();
        let (cache, service) = (Arc::downgrade(self), ctx.service);
        let kind = watch_part(&K::kind(&())).strip_prefix("watch ").unwrap_or("other");
        ctx.metrics.on_sample(move |metrics| {
            let Some(cache) = cache.upgrade() else { return };
            let heard = *cache.heard.lock().unwrap_or_else(PoisonError::into_inner);
            metrics.set_amount(&WATCH_SILENCE, [service, kind], heard.elapsed().as_secs_f64());
        });
    }

    fn has_heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Lists, and goes on from there. A watch that fails is begun anew by the caller, with a list: resumed, it would say nothing until
    /// an object changes, so that nobody could know whether it works again. Not kube's `watcher`: it keeps the version of its list to
    /// itself, and waits for ever for an answer.
    async fn follow(&self, ctx: &Context, part: &'static str, retry: &mut u32) -> Result<Infallible, ApiFailure> {
        let api: Api<DeserializeGuard<K>> = Api::all(ctx.kube.clone());
        let mut version = self.list_anew(&api).await?;
        let mut params = WatchParams::default().timeout(WATCH_S);
        params.label_selector = self.selector();
        let mut early = 0;
        loop {
            let began = Instant::now();
            let events = call(CALL_TIMEOUT, api.watch(&params, &version)).await?;
            pin_mut!(events);
            self.has_heard();
            self.set_state(WatchState::Following);
            ctx.health.ready(part);
            tell_of_watch(&ctx.health);
            while let Some(event) = timeout(SILENCE_MAX, events.next()).await.map_err(|_| silent())? {
                self.has_heard();
                self.apply(event.map_err(|error| classify(&error))?, &mut version)?;
            }
            // It has ended in its time, or as a server does that restarts.
            if began.elapsed() >= RESUME_INTERVAL {
                (early, *retry) = (0, 0);
                continue;
            }
            early += 1;
            if early > EARLY_ENDS_MAX {
                return Err(ApiFailure::Unknown(format!("it ended {early} times as soon as it had begun")));
            }
            tokio::time::sleep(RESUME_INTERVAL).await;
        }
    }

    fn selector(&self) -> Option<String> {
        (!self.labels.is_empty()).then(|| self.labels.to_owned())
    }

    /// Takes a complete list over, page by page. Gives the version that it was made at.
    async fn list_anew(&self, api: &Api<DeserializeGuard<K>>) -> Result<String, ApiFailure> {
        let mut params = ListParams::default().limit(LIST_PAGE);
        params.label_selector = self.selector();
        let (mut listed, mut unreadable) = (HashSet::new(), HashSet::new());
        let mut made_at: Option<String> = None;
        loop {
            let page = call(CALL_TIMEOUT, api.list(&params)).await?;
            // All pages are of the version of the first.
            made_at = made_at.or(page.metadata.resource_version);
            for DeserializeGuard(object) in page.items {
                let name = object.as_ref().map_or_else(|invalid| name_in(&invalid.metadata), name_of);
                match self.readable(object) {
                    Some(object) => {
                        self.upsert(object);
                        listed.insert(name);
                    }
                    None => drop(unreadable.insert(name)),
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
        let made_at = made_at.ok_or_else(unversioned)?;
        self.retain_listed(&listed, &unreadable, made_at.parse().map_err(|_| unversioned())?);
        Ok(made_at)
    }

    fn apply(&self, event: WatchEvent<DeserializeGuard<K>>, version: &mut String) -> Result<(), ApiFailure> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                *version = object.resource_version().ok_or_else(unversioned)?;
                if let Some(object) = self.readable(object.0) {
                    self.upsert(object);
                }
            }
            WatchEvent::Deleted(object) => {
                *version = object.resource_version().ok_or_else(unversioned)?;
                let name = name_in(object.meta());
                self.write_invalid().remove(&name);
                self.remove(&name, parse_version(Some(version)));
            }
            WatchEvent::Bookmark(bookmark) if bookmark.metadata.resource_version.is_empty() => {
                return Err(unversioned());
            }
            WatchEvent::Bookmark(bookmark) => *version = bookmark.metadata.resource_version,
            WatchEvent::Error(status) => return Err(classify(&kube::Error::Api(status))),
        }
        Ok(())
    }

    /// After a new list: what is not in it is gone, unless it was written after the list was made, which its version tells.
    fn retain_listed(&self, listed: &HashSet<NamespacedName>, unreadable: &HashSet<NamespacedName>, made_at: u64) {
        let mut gone = Vec::new();
        let mut keep = |name: &NamespacedName, keep: bool| {
            if !keep {
                gone.push(name.clone());
            }
            keep
        };
        self.write().retain(|name, object| keep(name, listed.contains(name) || object.version() > made_at));
        self.write_invalid().retain(|name, _| keep(name, unreadable.contains(name)));
        gone.into_iter().for_each(|name| self.notify(name));
    }

    /// Takes an object over if it is newer than the one that is known. Gives the newest.
    pub fn upsert(&self, object: K) -> Arc<V> {
        let name = name_of(&object);
        let object = (self.keep)(object);
        let newest = {
            let mut objects = self.write();
            match objects.get(&name) {
                // Another uid is another object: the old one is gone, whatever its version was.
                Some(known) if known.uid() == object.uid() && known.version() >= object.version() => {
                    return Arc::clone(known);
                }
                _ => {
                    // What was read has room for more; a copy has room for what it holds.
                    let object = Arc::new(object.clone());
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
            objects.get(name).is_some_and(|known| known.version() <= version) && objects.remove(name).is_some()
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

    fn write_invalid(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<NamespacedName, Arc<InvalidObject>>> {
        self.invalid.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest known version of an object.
    pub fn get(&self, name: &NamespacedName) -> Option<Arc<V>> {
        self.read().get(name).cloned()
    }

    /// Every known object, by namespace and name.
    pub fn list(&self) -> Vec<Arc<V>> {
        self.read().values().cloned().collect()
    }

    /// The one that counts most of those that `order` gives a place; none where it gives none to any.
    pub fn find_max<T: Ord>(&self, order: impl Fn(&NamespacedName, &V) -> Option<T>) -> Option<NamespacedName> {
        let objects = self.read();
        let placed = objects.iter().filter_map(|(name, object)| Some((order(name, object)?, name)));
        placed.max().map(|(_, name)| name.clone())
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
        let _ = waiting(self.state.subscribe().wait_for(|state| *state != WatchState::Starting)).await;
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

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<NamespacedName, Arc<V>>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<NamespacedName, Arc<V>>> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The object without what `project` takes out.
fn without<K: 'static>(project: fn(&mut K)) -> Box<dyn Fn(K) -> K + Send + Sync> {
    Box::new(move |mut object| {
        project(&mut object);
        object
    })
}

/// Which manager wrote which field is a tree of small maps, larger in memory than all else of an object. A write that says nothing of it
/// leaves it as it is (k8s.io/apimachinery/pkg/util/managedfields).
pub fn forget_managed_fields<K: Resource<DynamicType = ()>>(object: &mut K) {
    object.meta_mut().managed_fields = None;
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

fn unversioned() -> ApiFailure {
    ApiFailure::Malformed("it has no metadata.resourceVersion".into())
}

fn silent() -> ApiFailure {
    ApiFailure::Unknown(format!("nothing came for {} s, not even the end of the watch", SILENCE_MAX.as_secs()))
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

/// What readiness says. Of a kind that the API server does not know it says 404, and not that its definition is missing.
fn what_is_missing<K: Cached>(failure: &ApiFailure) -> String {
    let (plural, group) = (K::plural(&()), K::group(&()));
    let unknown_kind = matches!(failure, ApiFailure::NotFound(_))
        || matches!(failure, ApiFailure::Unknown(text) if text.starts_with("404"));
    match (unknown_kind, group == GROUP) {
        (true, true) => format!(
            "CRD {plural}.{group} is not served; apply it: eventpulse crds | kubectl apply --server-side -f - ({failure})"
        ),
        (true, false) => format!("{plural}.{group} is not served by this API server ({failure})"),
        (false, _) => format!("watch of {plural}: {failure}"),
    }
}

async fn wait(ctx: &Context, random: &Random, retry: u32, asked: Duration) -> bool {
    let wait = asked + random.up_to(exponential(BACKOFF_INITIAL, BACKOFF_MAX, retry)) + Duration::from_millis(50);
    tokio::select! {
        () = ctx.shutdown.cancelled() => false,
        () = waiting(tokio::time::sleep(wait)) => true,
    }
}

#[cfg(test)]
#[path = "watch_cache_tests.rs"]
mod tests;
