//! What is stored, in versions, and every change of it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{
    apply::Owners,
    commit::{Commit, Origin},
    kinds::{DEFINITIONS, Kind, Kinds},
    service::Seen,
};

/// How many changes of a collection are kept for watches, unless a test says otherwise.
const WINDOW: usize = 10_000;

/// Everything.
pub(crate) struct State {
    /// Of the newest change, in the whole store.
    pub(crate) version: u64,
    /// Nothing older than this can be asked for.
    pub(crate) compacted: u64,
    /// A watch of an earlier one has ended.
    pub(crate) epoch: u64,
    pub(crate) kinds: Kinds,
    pub(crate) collections: BTreeMap<String, Collection>,
    pub(crate) commits: Vec<Commit>,
    pub(crate) seen: Vec<Seen>,
    pub(crate) remembers: bool,
    pub(crate) window: usize,
    pub(crate) namespaces_must_exist: bool,
}

/// By namespace and name, in the order of etcd's keys.
pub(crate) type Objects = BTreeMap<String, Arc<Stored>>;

/// The objects of one resource.
#[derive(Default)]
pub(crate) struct Collection {
    pub(crate) objects: Objects,
    /// The newest changes, by version.
    changes: VecDeque<Arc<Change>>,
    /// Changes of this version and before are no longer among them.
    trimmed: u64,
    /// Wakes its watches.
    pub(crate) signal: Arc<Notify>,
}

/// One version of one object.
pub(crate) struct Stored {
    pub(crate) value: Arc<Value>,
    pub(crate) owners: Arc<Owners>,
    text: OnceLock<Bytes>,
    item: OnceLock<Bytes>,
}

/// A step from one version of an object to the next.
pub(crate) struct Change {
    pub(crate) version: u64,
    /// None: it was not there.
    pub(crate) before: Option<Arc<Stored>>,
    /// None: it is gone.
    pub(crate) after: Option<Arc<Stored>>,
    key: String,
    line: OnceLock<Bytes>,
    farewell: OnceLock<Bytes>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            version: 0,
            compacted: 0,
            epoch: 0,
            kinds: Kinds::default(),
            collections: BTreeMap::new(),
            commits: Vec::new(),
            seen: Vec::new(),
            remembers: true,
            window: WINDOW,
            namespaces_must_exist: false,
        }
    }
}

impl State {
    pub(crate) fn find(&self, collection: &str, key: &str) -> Option<&Arc<Stored>> {
        self.collections.get(collection)?.objects.get(key)
    }

    /// Stores a version of an object; it gets its resourceVersion here.
    pub(crate) fn store(
        &mut self,
        collection: &str,
        key: String,
        mut object: Value,
        owners: Arc<Owners>,
        origin: &Origin,
    ) -> Arc<Stored> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let after = Arc::new(Stored::new(object, owners));
        if collection == DEFINITIONS {
            self.kinds.define(&after.value);
        }
        let objects = &mut self.collections.entry(collection.to_owned()).or_default().objects;
        let before = objects.insert(key.clone(), Arc::clone(&after));
        self.tell(collection, key, before, Some(Arc::clone(&after)), origin);
        after
    }

    /// Removes an object, whatever holds it.
    pub(crate) fn remove(&mut self, collection: &str, key: &str, origin: &Origin) {
        let objects = self.collections.get_mut(collection).map(|collection| &mut collection.objects);
        if let Some(before) = objects.and_then(|objects| objects.remove(key)) {
            self.version += 1;
            if collection == DEFINITIONS {
                self.kinds.forget(&before.value);
            }
            self.tell(collection, key.to_owned(), Some(before), None, origin);
        }
    }

    fn tell(
        &mut self,
        collection: &str,
        key: String,
        before: Option<Arc<Stored>>,
        after: Option<Arc<Stored>>,
        origin: &Origin,
    ) {
        let value = |stored: &Arc<Stored>| Arc::clone(&stored.value);
        self.commits.push(Commit {
            version: self.version,
            caller: Arc::clone(&origin.caller),
            user: origin.user.clone(),
            method: origin.method.clone(),
            path: origin.path.clone(),
            before: before.as_ref().map(value),
            after: after.as_ref().map(value),
            at: origin.at,
            index: origin.index,
        });
        let change =
            Change { version: self.version, before, after, key, line: OnceLock::new(), farewell: OnceLock::new() };
        let window = self.window;
        self.collections.entry(collection.to_owned()).or_default().note(change, window);
    }
}

impl Collection {
    fn note(&mut self, change: Change, window: usize) {
        self.changes.push_back(Arc::new(change));
        while self.changes.len() > window {
            if let Some(oldest) = self.changes.pop_front() {
                self.trimmed = oldest.version;
            }
        }
        self.signal.notify_waiters();
    }

    /// The changes after a version, oldest first. None where some of them are no longer known.
    pub(crate) fn since(&self, version: u64) -> Option<impl Iterator<Item = &Arc<Change>>> {
        let first = self.changes.partition_point(|change| change.version <= version);
        (version >= self.trimmed).then(|| self.changes.range(first..))
    }

    /// The objects as they were at a version. None where nobody knows any more.
    pub(crate) fn at(&self, version: u64) -> Option<Cow<'_, Objects>> {
        let newer: Vec<_> = self.since(version)?.collect();
        let mut objects = Cow::Borrowed(&self.objects);
        for change in newer.into_iter().rev() {
            match &change.before {
                Some(before) => drop(objects.to_mut().insert(change.key.clone(), Arc::clone(before))),
                None => drop(objects.to_mut().remove(&change.key)),
            }
        }
        Some(objects)
    }
}

impl Stored {
    pub(crate) fn new(value: Value, owners: Arc<Owners>) -> Self {
        Self { value: Arc::new(value), owners, text: OnceLock::new(), item: OnceLock::new() }
    }

    /// As JSON; made once.
    pub(crate) fn text(&self) -> Bytes {
        self.text.get_or_init(|| self.value.to_string().into()).clone()
    }

    /// As an item of a list: Kubernetes' own kinds do not repeat there what they are.
    pub(crate) fn item(&self, kind: &Kind) -> Bytes {
        let Some(object) = self.value.as_object().filter(|_| !kind.custom) else { return self.text() };
        let item = || {
            let fields = object.iter().filter(|(field, _)| !matches!(field.as_str(), "kind" | "apiVersion"));
            let fields: BTreeMap<&String, &Value> = fields.collect();
            serde_json::to_vec(&fields).unwrap_or_default().into()
        };
        self.item.get_or_init(item).clone()
    }
}

impl Change {
    /// The line that a watch is told, if it is about what the change was made to. Each is made once, however many watches there are.
    pub(crate) fn line(&self, takes: impl Fn(&Value) -> bool) -> Option<Bytes> {
        let was = self.before.as_ref().filter(|before| takes(&before.value));
        let is = self.after.as_ref().filter(|after| takes(&after.value));
        match (was, is, &self.before) {
            (None, None, _) => None,
            (Some(before), None, _) => Some(self.farewell.get_or_init(|| self.gone(before)).clone()),
            // It entered the selection of this watch, and was there before for others.
            (None, Some(after), Some(_)) => Some(line("ADDED", &after.text())),
            (None, Some(after), None) => Some(self.line.get_or_init(|| line("ADDED", &after.text())).clone()),
            (Some(_), Some(after), _) => Some(self.line.get_or_init(|| line("MODIFIED", &after.text())).clone()),
        }
    }

    /// What is told of an object that is gone, or not asked for any more: its last content, with the version of its going.
    fn gone(&self, before: &Stored) -> Bytes {
        let mut object = Value::clone(&before.value);
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        line("DELETED", object.to_string().as_bytes())
    }
}

/// One event of a watch.
pub(crate) fn line(kind: &str, object: &[u8]) -> Bytes {
    let head = format!("{{\"type\":\"{kind}\",\"object\":");
    [head.as_bytes(), object, b"}\n"].concat().into()
}
