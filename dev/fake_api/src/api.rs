//! The handle that tests hold: what they put, look at, and let happen.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    apply::Owners,
    commit::{Commit, Origin},
    fault::Fault,
    kinds::Generation,
    metadata,
    path::key,
    service::{ApiService, Seen},
    state::State,
};

/// Who a test is, for the log of effects.
const TEST: &str = "test";
/// What the clock of [`FakeApi::new`] says: 2026-01-01T00:00:00Z, in seconds of Unix.
const NEW_YEAR_S: i64 = 1_767_225_600;

type Hook = Arc<dyn Fn(&Seen) -> Fault + Send + Sync>;

/// An API server in memory. Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub struct FakeApi(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    hook: Mutex<Option<Hook>>,
    now: Box<dyn Fn() -> Timestamp + Send + Sync>,
    requests: AtomicU64,
}

impl Default for FakeApi {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeApi {
    /// An empty server, for which it is always 2026-01-01T00:00:00Z.
    pub fn new() -> Self {
        let now = Timestamp::from_second(NEW_YEAR_S).unwrap_or(Timestamp::UNIX_EPOCH);
        Self::with_clock(move || now)
    }

    /// An empty server with a clock, by which objects are created and deleted, in whole seconds.
    pub fn with_clock(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        let (state, hook) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { state, hook, now: Box::new(now), requests: AtomicU64::new(0) }))
    }

    /// The service under a client of this caller.
    pub fn service(&self, caller: &str) -> ApiService {
        ApiService::new(self.clone(), caller)
    }

    /// A real client that talks to it, of the caller `test`.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.service(TEST), "default")
    }

    /// Decides the fate of every request from now on.
    pub fn on_request(&self, hook: impl Fn(&Seen) -> Fault + Send + Sync + 'static) {
        *lock(&self.0.hook) = Some(Arc::new(hook));
    }

    /// Serves every request from now on.
    pub fn no_faults(&self) {
        *lock(&self.0.hook) = None;
    }

    /// Every request so far, while they were remembered.
    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// Whether requests are remembered from now on; at first they are.
    pub fn remember_requests(&self, remembers: bool) {
        self.state().remembers = remembers;
    }

    /// How many requests there were so far.
    pub fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// Every change of what is stored so far, in order. A request that changed nothing has none.
    pub fn commits(&self) -> Vec<Commit> {
        self.commits_since(0)
    }

    /// The changes after this version.
    pub fn commits_since(&self, version: u64) -> Vec<Commit> {
        let state = self.state();
        let first = state.commits.partition_point(|commit| commit.version <= version);
        state.commits[first..].to_vec()
    }

    /// Creates or replaces an object as somebody else would, without any check. `collection` like `/apis/apps/v1/deployments`. Gives the
    /// object as it is stored.
    pub fn put(&self, collection: &str, mut object: Value) -> Value {
        let mut state = self.state();
        let kind = state.kinds.of_test(collection, &object);
        let (namespace, name) = (metadata::text(&object, "namespace"), metadata::text(&object, "name"));
        let key = key(namespace, name);
        let known = state.find(collection, &key).cloned();
        let origin = self.of_test(Method::PUT, collection, &key);
        let meta = &mut object["metadata"];
        if meta["uid"].is_null() {
            let uid = known.as_ref().map(|known| known.value["metadata"]["uid"].clone());
            meta["uid"] = uid.unwrap_or_else(|| json!(state.next_uid()));
        }
        if meta["creationTimestamp"].is_null() {
            meta["creationTimestamp"] = json!(origin.time());
        }
        if meta["generation"].is_null() {
            match kind.generation {
                Generation::Never => drop(meta.as_object_mut().and_then(|meta| meta.remove("generation"))),
                _ => meta["generation"] = json!(1),
            }
        }
        let owners = known.map_or_else(Owners::default, |known| known.owners.after_update(&known.value, &object));
        let stored = state.store(collection, key, object, Arc::new(owners), &origin);
        Value::clone(&stored.value)
    }

    /// An object as it is now.
    pub fn get(&self, collection: &str, namespace: &str, name: &str) -> Option<Value> {
        self.object(collection, namespace, name).map(|object| Value::clone(&object))
    }

    /// The same, without a copy.
    pub fn object(&self, collection: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.state().find(collection, &key(namespace, name)).map(|stored| Arc::clone(&stored.value))
    }

    /// Every object of a collection, in the order of etcd's keys.
    pub fn all(&self, collection: &str) -> Vec<Value> {
        self.objects(collection).iter().map(|object| Value::clone(object)).collect()
    }

    /// The same, without copies.
    pub fn objects(&self, collection: &str) -> Vec<Arc<Value>> {
        let state = self.state();
        let objects = state.collections.get(collection).map(|collection| &collection.objects);
        objects.into_iter().flatten().map(|(_, stored)| Arc::clone(&stored.value)).collect()
    }

    /// Removes an object at once, finalizers or not.
    pub fn remove(&self, collection: &str, namespace: &str, name: &str) {
        let key = key(namespace, name);
        let origin = self.of_test(Method::DELETE, collection, &key);
        self.state().remove(collection, &key, &origin);
    }

    /// Ends every watch, as a server does that restarts.
    pub fn break_watches(&self) {
        let mut state = self.state();
        state.epoch += 1;
        state.collections.values().for_each(|collection| collection.signal.notify_waiters());
    }

    /// Forgets every older version, as etcd does when it is compacted: a watch or a list that would go on from one has expired.
    pub fn compact(&self) {
        let mut state = self.state();
        state.compacted = state.version;
    }

    /// How many changes of each collection are kept for watches from now on. A watch that falls further behind is ended.
    pub fn keep_changes(&self, count: usize) {
        self.state().window = count;
    }

    /// Whether an object can be created only where its namespace is. At first it need not: a test puts what it is about.
    pub fn namespaces_must_exist(&self, must: bool) {
        self.state().namespaces_must_exist = must;
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.0.now)()
    }

    pub(crate) fn next_index(&self) -> u64 {
        self.0.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes a request, and asks what happens to it.
    pub(crate) fn fate_of(&self, seen: &Seen) -> Fault {
        {
            let mut state = self.state();
            if state.remembers {
                state.seen.push(seen.clone());
            }
        }
        let hook = lock(&self.0.hook).clone();
        hook.map_or(Fault::None, |hook| hook(seen))
    }

    fn of_test(&self, method: Method, collection: &str, key: &str) -> Origin {
        let (root, plural) = collection.rsplit_once('/').unwrap_or(("", collection));
        let path = match key.split_once('/') {
            Some((namespace, name)) => format!("{root}/namespaces/{namespace}/{plural}/{name}"),
            None => format!("{collection}/{key}"),
        };
        Origin { caller: TEST.into(), user: None, method, path, index: None, at: self.now() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
