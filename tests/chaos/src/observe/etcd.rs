//! What etcd keeps, revision by revision: every change that took effect, whoever was told of it. An answer that was lost, a writer that
//! died, a proxy that lies: none of them is between etcd and this.
//!
//! In: etcd's own HTTP interface (`/v3/watch`). It goes on where it was after etcd or its connection was away.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// What is followed: our kinds, and the workloads of the shop.
const PREFIXES: [&str; 2] = ["/registry/eventpulse.io/", "/registry/deployments/shop/"];
const AGAIN: Duration = Duration::from_millis(200);

/// A change of one object.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// When it was seen here.
    pub at: Timestamp,
    /// Plural name of the kind.
    pub kind: String,
    /// Namespace and name.
    pub object: (String, String),
    pub before: Option<Arc<Value>>,
    pub after: Option<Arc<Value>>,
}

/// See the module's text. It follows until it is dropped.
pub(crate) struct Etcd {
    seen: Arc<Mutex<Seen>>,
    _following: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    changes: BTreeMap<i64, Change>,
    last: BTreeMap<String, Arc<Value>>,
    /// Revisions that were compacted away before they were seen: whatever happened in them is unknown.
    missed: Option<String>,
}

impl Etcd {
    /// Follows the etcd at `HOST:PORT` from its first revision on.
    pub(crate) fn follow(address: &str) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut following = JoinSet::new();
        for prefix in PREFIXES {
            let (seen, address) = (Arc::clone(&seen), address.to_owned());
            following.spawn(async move {
                let mut next = 1;
                loop {
                    // It is away, or the connection is: the next one goes on where this one ended.
                    let _ = watch(&address, prefix, &mut next, &seen).await;
                    tokio::time::sleep(AGAIN).await;
                }
            });
        }
        Self { seen, _following: following }
    }

    /// Every change so far, in the order in which they took effect.
    pub(crate) fn changes(&self) -> Result<Vec<Change>> {
        let seen = lock(&self.seen);
        if let Some(missed) = &seen.missed {
            bail!("etcd has forgotten what was not seen yet: {missed}");
        }
        Ok(seen.changes.values().cloned().collect())
    }

    /// The objects of a kind as they are now.
    pub(crate) fn objects(&self, kind: &str) -> Vec<Arc<Value>> {
        let seen = lock(&self.seen);
        let is_of = |key: &str| place(key).is_some_and(|(plural, _)| plural == kind);
        seen.last.iter().filter(|(key, _)| is_of(key)).map(|(_, object)| Arc::clone(object)).collect()
    }
}

/// Forgets every revision before the newest.
pub(crate) async fn compact(address: &str) -> Result<i64> {
    let status = post(address, "/v3/maintenance/status", &json!({})).await?.into_body().collect().await?.to_bytes();
    let status: Value = serde_json::from_slice(&status)?;
    let revision = number(&status["header"]["revision"]).context("etcd's status has no revision")?;
    post(address, "/v3/kv/compaction", &json!({"revision": revision.to_string(), "physical": true})).await?;
    Ok(revision)
}

async fn post(address: &str, path: &str, body: &Value) -> Result<Response<Incoming>> {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
    let request = Request::post(format!("http://{address}{path}")).body(Full::from(body.to_string()))?;
    let response = client.request(request).await?;
    if !response.status().is_success() {
        bail!("etcd answered {} to {path}", response.status());
    }
    Ok(response)
}

/// Until the connection ends.
async fn watch(address: &str, prefix: &str, next: &mut i64, seen: &Mutex<Seen>) -> Result<()> {
    // Everything that begins with the prefix: up to it with its last byte increased.
    let end = format!("{}0", prefix.trim_end_matches('/'));
    let request = json!({"create_request": {
        "key": BASE64.encode(prefix), "range_end": BASE64.encode(end), "start_revision": next.to_string(),
    }});
    let mut body = post(address, "/v3/watch", &request).await?.into_body();
    let mut line = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        for part in data.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                take(&serde_json::from_slice(&line)?, next, seen)?;
                line.clear();
            }
        }
    }
    Ok(())
}

/// One answer of a watch.
fn take(answer: &Value, next: &mut i64, seen: &Mutex<Seen>) -> Result<()> {
    let result = &answer["result"];
    if let Some(compacted) = number(&result["compact_revision"]) {
        lock(seen).missed = Some(format!("revisions from {next} up to {compacted}"));
        *next = compacted;
        bail!("compacted");
    }
    for event in result["events"].as_array().into_iter().flatten() {
        let kv = &event["kv"];
        let revision = number(&kv["mod_revision"]).context("an event without mod_revision")?;
        let key = String::from_utf8(decoded(&kv["key"])?)?;
        let Some((kind, object)) = place(&key) else { continue };
        let mut seen = lock(seen);
        let before = seen.last.remove(&key);
        let after = match event["type"].as_str() {
            Some("DELETE") => None,
            _ => Some(Arc::new(read(&decoded(&kv["value"])?, revision)?)),
        };
        if let Some(after) = &after {
            seen.last.insert(key, Arc::clone(after));
        }
        seen.changes.insert(revision, Change { at: Timestamp::now(), kind, object, before, after });
        *next = revision + 1;
    }
    Ok(())
}

/// An object as the API server gives it: etcd's revision is its resourceVersion.
fn read(bytes: &[u8], revision: i64) -> Result<Value> {
    let mut object: Value = serde_json::from_slice(bytes).context("what etcd keeps is no JSON")?;
    object["metadata"]["resourceVersion"] = Value::String(revision.to_string());
    Ok(object)
}

/// Kind, namespace and name of a key: `/registry/GROUP/PLURAL/NAMESPACE/NAME`, without a group for those that Kubernetes itself has.
fn place(key: &str) -> Option<(String, (String, String))> {
    let parts: Vec<&str> = key.strip_prefix("/registry/")?.split('/').collect();
    let [kind, namespace, name] = *parts.last_chunk::<3>()?;
    Some((kind.to_owned(), (namespace.to_owned(), name.to_owned())))
}

/// int64 as JSON has it in protobuf.
fn number(value: &Value) -> Option<i64> {
    value.as_str()?.parse().ok().filter(|number| *number > 0)
}

fn decoded(value: &Value) -> Result<Vec<u8>> {
    Ok(BASE64.decode(value.as_str().unwrap_or_default())?)
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: Option<&str>, revision: i64, value: &str) -> Value {
        let key = BASE64.encode("/registry/eventpulse.io/incidents/shop/a");
        let kv = json!({"key": key, "mod_revision": revision.to_string(), "value": BASE64.encode(value)});
        let mut event = json!({"kv": kv});
        if let Some(kind) = kind {
            event["type"] = kind.into();
        }
        json!({"result": {"events": [event]}})
    }

    #[test]
    fn a_life_is_seen_from_its_creation_to_its_deletion() {
        let (seen, mut next) = (Mutex::default(), 1);
        take(&event(None, 5, r#"{"status": {"phase": "Open"}}"#), &mut next, &seen).unwrap();
        take(&event(None, 9, r#"{"status": {"phase": "Resolved"}}"#), &mut next, &seen).unwrap();
        take(&event(Some("DELETE"), 12, ""), &mut next, &seen).unwrap();
        assert_eq!(next, 13);
        let seen = seen.into_inner().unwrap();
        let phase = |object: &Option<Arc<Value>>| {
            object.as_ref().map(|object| object["status"]["phase"].as_str().unwrap_or_default().to_owned())
        };
        let lives: Vec<_> = seen.changes.values().map(|change| (phase(&change.before), phase(&change.after))).collect();
        let (open, resolved) = (Some("Open".to_owned()), Some("Resolved".to_owned()));
        assert_eq!(lives, [(None, open.clone()), (open, resolved.clone()), (resolved, None)]);
        assert_eq!(seen.changes[&9].after.as_ref().unwrap()["metadata"]["resourceVersion"], "9");
        assert_eq!(seen.changes[&5].kind, "incidents");
        assert!(seen.last.is_empty());
    }

    #[test]
    fn what_was_compacted_away_unseen_is_told() {
        let (seen, mut next) = (Mutex::default(), 7);
        assert!(take(&json!({"result": {"compact_revision": "20"}}), &mut next, &seen).is_err());
        assert_eq!((next, seen.into_inner().unwrap().missed.is_some()), (20, true));
    }

    #[test]
    fn broken_answers_are_errors() {
        let seen = Mutex::default();
        assert!(take(&event(None, 5, "no JSON"), &mut 1, &seen).is_err());
        assert!(take(&event(None, 0, "{}"), &mut 1, &seen).is_err());
        take(&json!({}), &mut 1, &seen).unwrap();
    }
}
