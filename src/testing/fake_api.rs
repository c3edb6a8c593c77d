//! An API server in memory, under a real `kube::Client`: create, get, list, watch, replace, JSON, merge and apply patches, the
//! status subresource, resourceVersion conflicts, generations, finalizers, delete preconditions, and faults on request.
//!
//! It does not validate schemas and knows no admission: what the real one refuses is tested on the real one.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tower::Layer;

use crate::runtime::{Metrics, api_metrics::ApiMetrics};

use super::discovery;

type AnswerBody = UnsyncBoxBody<Bytes, std::io::Error>;
type Answer = Result<Response<AnswerBody>, std::io::Error>;
type Hook = Arc<dyn Fn(&Seen) -> Fault + Send + Sync>;

/// A request as the server saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// HTTP method.
    pub method: Method,
    /// Path without the query.
    pub path: String,
    /// Query.
    pub query: String,
    /// Body, where it is JSON.
    pub body: Value,
    /// `Impersonate-User`, where it is set.
    pub impersonated: Option<String>,
    /// Its place among all requests, from 0.
    pub index: u64,
}

impl Seen {
    /// Whether it may change something.
    pub fn is_write(&self) -> bool {
        self.method != Method::GET
    }
}

/// What happens to a request.
#[derive(Clone)]
pub enum Fault {
    /// Nothing: it is served.
    None,
    /// It is answered with this status and changes nothing.
    Answer(u16),
    /// It is answered with 429 and this Retry-After in seconds, and changes nothing.
    Throttle(u32),
    /// It is answered with a 422 that names a field (a failed `test` of a JSON Patch names none), and changes nothing.
    Invalid,
    /// The connection breaks before it arrives.
    Refuse,
    /// It is served, and the connection breaks before its answer.
    DropAnswer,
    /// It is served, and the answer is this status all the same (a 504 after the commit).
    CommitThenAnswer(u16),
    /// It waits until the semaphore gives a permit, and is served then.
    Hold(Arc<tokio::sync::Semaphore>),
    /// Something before the server answers with this status and a page for people, and nobody knows what it did with the request.
    Page(u16),
    /// It is answered as a watch of which nothing ever comes, not even its end: a connection that died in silence.
    Silence,
    /// It is answered as a watch that ends at once.
    Ended,
    /// It waits, and is served then.
    Delay(Duration),
    /// It is served after these changes by somebody else: a race between a read and a write.
    After(Arc<dyn Fn(&FakeApi) + Send + Sync>),
}

/// See the module's text. Cheap to clone.
#[derive(Clone)]
pub struct FakeApi(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    hook: Mutex<Option<Hook>>,
    requests: AtomicU64,
}

#[derive(Default)]
struct State {
    version: u64,
    /// By collection (`/apis/apps/v1/deployments`), then by namespace and name.
    objects: BTreeMap<String, BTreeMap<(String, String), Value>>,
    history: Vec<Change>,
    seen: Vec<Seen>,
    watchers: Vec<broadcast::Sender<Change>>,
}

#[derive(Clone)]
struct Change {
    version: u64,
    collection: String,
    kind: &'static str,
    object: Value,
}

/// A path of the API: `/apis/<group>/<version>[/namespaces/<ns>]/<plural>[/<name>[/<subresource>]]`.
struct Target {
    collection: String,
    namespace: Option<String>,
    name: Option<String>,
    subresource: Option<String>,
}

/// An error that the server answers: status and reason, message.
struct Refusal(u16, &'static str, String);

impl Default for FakeApi {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeApi {
    /// An empty server.
    pub fn new() -> Self {
        Self(Arc::new(Inner { state: Mutex::default(), hook: Mutex::default(), requests: AtomicU64::new(0) }))
    }

    /// A real client that talks to it.
    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        kube::Client::new(tower::service_fn(move |request: Request<Body>| api.clone().serve(request)), "default")
    }

    /// The same, and its calls are counted as those of this service.
    pub fn measured_client(&self, service: &'static str, metrics: &Metrics) -> kube::Client {
        let api = self.clone();
        let server = tower::service_fn(move |request: Request<Body>| api.clone().serve(request));
        kube::Client::new(ApiMetrics::new(service, metrics).layer(server), "default")
    }

    /// Decides the fate of every request from now on.
    pub fn on_request(&self, hook: impl Fn(&Seen) -> Fault + Send + Sync + 'static) {
        *lock(&self.0.hook) = Some(Arc::new(hook));
    }

    /// Serves every request from now on.
    pub fn no_faults(&self) {
        *lock(&self.0.hook) = None;
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.0.state).seen.clone()
    }

    /// Creates or replaces an object as somebody else would, without any check. `collection` like `/apis/apps/v1/deployments`.
    pub fn put(&self, collection: &str, mut object: Value) -> Value {
        let mut state = lock(&self.0.state);
        let key = key_of(&object);
        let known = state.objects.get(collection).and_then(|all| all.get(&key)).cloned();
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        let meta = &mut object["metadata"];
        if meta["uid"].is_null() {
            meta["uid"] = known
                .map_or_else(|| json!(format!("uid-{}", state.version + 1)), |known| known["metadata"]["uid"].clone());
        }
        if meta["creationTimestamp"].is_null() {
            meta["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        if meta["generation"].is_null() {
            meta["generation"] = json!(1);
        }
        state.store(collection, key, object, kind)
    }

    /// An object as it is now.
    pub fn get(&self, collection: &str, namespace: &str, name: &str) -> Option<Value> {
        lock(&self.0.state).objects.get(collection)?.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Every object of a collection, in the order of namespace and name.
    pub fn all(&self, collection: &str) -> Vec<Value> {
        lock(&self.0.state).objects.get(collection).map(|all| all.values().cloned().collect()).unwrap_or_default()
    }

    /// Removes an object at once, finalizers or not.
    pub fn remove(&self, collection: &str, namespace: &str, name: &str) {
        let mut state = lock(&self.0.state);
        state.remove(collection, &(namespace.to_owned(), name.to_owned()));
    }

    /// Ends every watch, as a server does that restarts.
    pub fn break_watches(&self) {
        lock(&self.0.state).watchers.clear();
    }

    fn serve(self, request: Request<Body>) -> BoxFuture<'static, Answer> {
        async move {
            let seen = self.read(request).await?;
            lock(&self.0.state).seen.push(seen.clone());
            let hook = lock(&self.0.hook).clone();
            let fault = hook.map_or(Fault::None, |hook| hook(&seen));
            match fault {
                Fault::None => {}
                Fault::Answer(code) => return Ok(refusal(&Refusal(code, "Fault", "a fault on request".into()), None)),
                Fault::Throttle(seconds) => {
                    return Ok(refusal(&Refusal(429, "TooManyRequests", "a fault on request".into()), Some(seconds)));
                }
                Fault::Invalid => return Ok(invalid_field()),
                Fault::Refuse => return Err(broken()),
                Fault::DropAnswer => {
                    self.answer(&seen);
                    return Err(broken());
                }
                Fault::CommitThenAnswer(code) => {
                    self.answer(&seen);
                    return Ok(refusal(&Refusal(code, "Timeout", "a fault on request, after the commit".into()), None));
                }
                Fault::Hold(semaphore) => {
                    if let Ok(permit) = semaphore.acquire().await {
                        permit.forget();
                    }
                }
                Fault::Page(code) => {
                    let page = Full::new(Bytes::from_static(b"<html><body>Try later.</body></html>"));
                    return Ok(respond(code, "text/html", page.map_err(|never| match never {}).boxed_unsync()));
                }
                Fault::Silence => {
                    let nothing = StreamBody::new(futures::stream::pending()).boxed_unsync();
                    return Ok(respond(200, "application/json", nothing));
                }
                Fault::Ended => {
                    return Ok(respond(
                        200,
                        "application/json",
                        StreamBody::new(futures::stream::empty()).boxed_unsync(),
                    ));
                }
                Fault::Delay(time) => tokio::time::sleep(time).await,
                Fault::After(change) => change(&self),
            }
            Ok(self.answer(&seen))
        }
        .boxed()
    }

    async fn read(&self, request: Request<Body>) -> Result<Seen, std::io::Error> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        Ok(Seen {
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            body: serde_json::from_slice(&bytes).unwrap_or_default(),
            impersonated: parts
                .headers
                .get("Impersonate-User")
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned),
            index: self.0.requests.fetch_add(1, Ordering::Relaxed),
        })
    }

    fn answer(&self, seen: &Seen) -> Response<AnswerBody> {
        let Some(target) = parse_path(&seen.path) else {
            if let Some(resources) = lock(&self.0.state).discovery(&seen.path) {
                return answer(StatusCode::OK, &resources);
            }
            return refusal(&Refusal(404, "NotFound", format!("no such path: {}", seen.path)), None);
        };
        let mut state = lock(&self.0.state);
        if seen.method == Method::GET && target.name.is_none() {
            return if seen.query.contains("watch=") {
                state.watch(&target, &seen.query)
            } else {
                state.list(&target, &seen.query)
            };
        }
        let result = match seen.method {
            Method::GET => state.read(&target),
            Method::POST => state.create(&target, seen.body.clone()),
            Method::PUT => state.replace(&target, seen.body.clone()),
            Method::PATCH => state.patch(&target, &seen.body),
            Method::DELETE => state.delete(&target, &seen.body),
            _ => Err(Refusal(405, "MethodNotAllowed", seen.method.to_string())),
        };
        match result {
            Ok(object) => answer(StatusCode::OK, &object),
            Err(error) => refusal(&error, None),
        }
    }
}

impl State {
    fn store(&mut self, collection: &str, key: (String, String), mut object: Value, kind: &'static str) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.entry(collection.to_owned()).or_default().insert(key, object.clone());
        self.tell(collection, kind, object.clone());
        object
    }

    fn remove(&mut self, collection: &str, key: &(String, String)) {
        if let Some(mut object) = self.objects.get_mut(collection).and_then(|all| all.remove(key)) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.tell(collection, "DELETED", object);
        }
    }

    fn tell(&mut self, collection: &str, kind: &'static str, object: Value) {
        let change = Change { version: self.version, collection: collection.to_owned(), kind, object };
        self.history.push(change.clone());
        self.watchers.retain(|watcher| watcher.send(change.clone()).is_ok());
    }

    fn find(&self, target: &Target) -> Result<Value, Refusal> {
        let key = target.key();
        self.objects
            .get(&target.collection)
            .and_then(|all| all.get(&key))
            .cloned()
            .ok_or_else(|| Refusal(404, "NotFound", format!("{} {:?} not found", target.collection, key.1)))
    }

    fn read(&self, target: &Target) -> Result<Value, Refusal> {
        self.find(target)
    }

    fn discovery(&self, path: &str) -> Option<Value> {
        let definitions = self.objects.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions");
        discovery::answer(definitions.into_iter().flatten().map(|(_, definition)| definition), path)
    }

    fn create(&mut self, target: &Target, mut object: Value) -> Result<Value, Refusal> {
        let namespace = target.namespace.clone().unwrap_or_default();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = (namespace.clone(), name.clone());
        if self.objects.get(&target.collection).is_some_and(|all| all.contains_key(&key)) {
            return Err(Refusal(409, "AlreadyExists", format!("{} {name:?} already exists", target.collection)));
        }
        if has_status(&target.collection)
            && let Some(map) = object.as_object_mut()
        {
            map.remove("status");
        }
        let meta = &mut object["metadata"];
        meta["namespace"] = json!(namespace);
        meta["uid"] = json!(format!("uid-{}", self.version + 1));
        meta["generation"] = json!(1);
        meta["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        Ok(self.store(&target.collection, key, object, "ADDED"))
    }

    fn replace(&mut self, target: &Target, object: Value) -> Result<Value, Refusal> {
        let known = self.find(target)?;
        let given = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if !given.is_empty() && known["metadata"]["resourceVersion"] != given {
            return Err(Refusal(409, "Conflict", "the object has been modified".into()));
        }
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        if !uid.is_empty() && known["metadata"]["uid"] != uid {
            return Err(Refusal(409, "Conflict", "the UID in the precondition does not match".into()));
        }
        self.update(target, &known, object)
    }

    /// Stores what of `new` this path may change, with the generation's and the finalizers' rules.
    fn update(&mut self, target: &Target, known: &Value, mut new: Value) -> Result<Value, Refusal> {
        if target.subresource.as_deref() == Some("status") {
            let status = new["status"].take();
            new = known.clone();
            new["status"] = status;
        } else {
            if has_status(&target.collection) {
                match known.get("status") {
                    Some(status) => new["status"] = status.clone(),
                    None => drop(new.as_object_mut().and_then(|map| map.remove("status"))),
                }
            }
            for field in ["uid", "creationTimestamp", "deletionTimestamp", "generation", "namespace", "name"] {
                match known["metadata"].get(field) {
                    Some(value) => new["metadata"][field] = value.clone(),
                    None => drop(new["metadata"].as_object_mut().and_then(|map| map.remove(field))),
                }
            }
            // A Deployment's generation grows with its annotations too; an autoscaler's on newer API servers only.
            let annotations_count = target.collection == "/apis/apps/v1/deployments";
            let kept = !target.collection.ends_with("/horizontalpodautoscalers");
            let changed = new["spec"] != known["spec"]
                || (annotations_count && new["metadata"]["annotations"] != known["metadata"]["annotations"]);
            if changed && kept {
                new["metadata"]["generation"] = json!(known["metadata"]["generation"].as_i64().unwrap_or(1) + 1);
            }
        }
        if same_but_version(known, &new) {
            return Ok(known.clone());
        }
        let finalizers = new["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
        if !new["metadata"]["deletionTimestamp"].is_null() && !finalizers {
            self.remove(&target.collection, &target.key());
            return Ok(new);
        }
        Ok(self.store(&target.collection, target.key(), new, "MODIFIED"))
    }

    fn patch(&mut self, target: &Target, patch: &Value) -> Result<Value, Refusal> {
        if patch.is_array() {
            let known = self.find(target)?;
            let mut new = known.clone();
            let operations: json_patch::Patch =
                serde_json::from_value(patch.clone()).map_err(|error| Refusal(400, "BadRequest", error.to_string()))?;
            // A failed `test` is 422 without causes, as on a real server.
            json_patch::patch(&mut new, &operations).map_err(|error| Refusal(422, "Invalid", error.to_string()))?;
            return self.update(target, &known, new);
        }
        match self.find(target) {
            Ok(known) => {
                let mut new = known.clone();
                json_patch::merge(&mut new, patch);
                self.update(target, &known, new)
            }
            // Server-side apply creates what is missing.
            Err(_) if !patch["apiVersion"].is_null() && target.subresource.is_none() => {
                self.create(target, patch.clone())
            }
            Err(error) => Err(error),
        }
    }

    fn delete(&mut self, target: &Target, options: &Value) -> Result<Value, Refusal> {
        let known = self.find(target)?;
        for field in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][field];
            if !wanted.is_null() && known["metadata"][field] != *wanted {
                return Err(Refusal(409, "Conflict", format!("the {field} in the precondition does not match")));
            }
        }
        if known["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty()) {
            let mut new = known;
            new["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            return Ok(self.store(&target.collection, target.key(), new, "MODIFIED"));
        }
        self.remove(&target.collection, &target.key());
        Ok(known)
    }

    fn list(&self, target: &Target, query: &str) -> Response<AnswerBody> {
        let selector = label_selector(query);
        let items: Vec<&Value> = self
            .objects
            .get(&target.collection)
            .into_iter()
            .flatten()
            .filter(|((namespace, _), _)| target.namespace.as_ref().is_none_or(|wanted| wanted == namespace))
            .map(|(_, object)| object)
            .filter(|object| selector.iter().all(|(key, value)| object["metadata"]["labels"][key] == *value))
            .collect();
        let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": self.version.to_string()}, "items": items});
        answer(StatusCode::OK, &list)
    }

    fn watch(&mut self, target: &Target, query: &str) -> Response<AnswerBody> {
        let number = |name: &str| parameter(query, name).and_then(|text| text.parse().ok());
        let since: u64 = number("resourceVersion").unwrap_or(0);
        let end = tokio::time::sleep(Duration::from_secs(number("timeoutSeconds").unwrap_or(300)));
        let (sender, receiver) = broadcast::channel(4096);
        self.watchers.push(sender);
        let (collection, namespace) = (target.collection.clone(), target.namespace.clone());
        let wanted = move |change: &Change| {
            let of_namespace =
                namespace.as_ref().is_none_or(|wanted| change.object["metadata"]["namespace"] == *wanted);
            change.collection == collection && change.version > since && of_namespace
        };
        let line = |change: &Change| {
            let text = format!("{}\n", json!({"type": change.kind, "object": change.object}));
            Ok::<_, std::io::Error>(Frame::data(Bytes::from(text)))
        };
        let past: Vec<_> = self.history.iter().filter(|change| wanted(change)).map(line).collect();
        let coming = futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.ok().map(|change| (change, receiver))
        });
        let coming =
            coming.filter(move |change| futures::future::ready(wanted(change))).map(move |change| line(&change));
        let body = StreamBody::new(futures::stream::iter(past).chain(coming).take_until(end)).boxed_unsync();
        respond(200, "application/json", body)
    }
}

impl Target {
    fn key(&self) -> (String, String) {
        (self.namespace.clone().unwrap_or_default(), self.name.clone().unwrap_or_default())
    }
}

fn parse_path(path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (group, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => (format!("/api/{version}"), rest),
        ["apis", group, version, rest @ ..] => (format!("/apis/{group}/{version}"), rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
        rest => (None, rest),
    };
    let (plural, rest) = rest.split_first()?;
    Some(Target {
        collection: format!("{group}/{plural}"),
        namespace,
        name: rest.first().map(|name| (*name).to_owned()),
        subresource: rest.get(1).map(|name| (*name).to_owned()),
    })
}

/// Kinds with a status subresource; AlertGroup and Notification have none (design, section 8).
fn has_status(collection: &str) -> bool {
    !["alertgroups", "notifications", "secrets", "configmaps"]
        .iter()
        .any(|plural| collection.ends_with(&format!("/{plural}")))
}

fn key_of(object: &Value) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

fn same_but_version(a: &Value, b: &Value) -> bool {
    let without = |object: &Value| {
        let mut object = object.clone();
        if let Some(meta) = object["metadata"].as_object_mut() {
            meta.remove("resourceVersion");
            meta.remove("managedFields");
        }
        object
    };
    without(a) == without(b)
}

fn parameter(query: &str, name: &str) -> Option<String> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| {
        value
            .replace("%3D", "=")
            .replace("%2F", "/")
            .replace("%2C", ",")
            .replace("%3d", "=")
            .replace("%2f", "/")
            .replace("%2c", ",")
    })
}

fn label_selector(query: &str) -> Vec<(String, String)> {
    let text = parameter(query, "labelSelector").unwrap_or_default();
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn answer(status: StatusCode, object: &Value) -> Response<AnswerBody> {
    let body = Full::new(Bytes::from(object.to_string())).map_err(|never| match never {}).boxed_unsync();
    respond(status.as_u16(), "application/json", body)
}

fn respond(status: u16, content_type: &str, body: AnswerBody) -> Response<AnswerBody> {
    Response::builder().status(status).header("content-type", content_type).body(body).expect("a constant answer")
}

fn refusal(Refusal(code, reason, message): &Refusal, retry_after: Option<u32>) -> Response<AnswerBody> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
        "details": {"retryAfterSeconds": retry_after.unwrap_or(0)},
    });
    answer(StatusCode::from_u16(*code).expect("a status code"), &status)
}

fn invalid_field() -> Response<AnswerBody> {
    let cause = json!({"reason": "FieldValueInvalid", "field": "spec.replicas", "message": "a fault on request"});
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 422, "reason": "Invalid",
        "message": "spec.replicas: a fault on request", "details": {"causes": [cause]},
    });
    answer(StatusCode::UNPROCESSABLE_ENTITY, &status)
}

fn broken() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::ConnectionReset, "the connection broke (a fault on request)")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
