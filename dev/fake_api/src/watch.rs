//! Watches: each has its place in the changes that its collection keeps, and takes from there what comes after it.
//!
//! A watch that is so slow that its place is no longer kept is ended, and with no event, as the real server ends it
//! (k8s.io/apiserver/pkg/storage/cacher/cache_watcher.go, `add`); whoever begins it anew from there is told that this version has
//! expired. Nothing is left out in silence.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{
    answer::{AnswerBody, Cause, Refusal},
    api::FakeApi,
    kinds::Kind,
    list::parse_version,
    path::{Query, Target},
    selector::Selection,
    state::{State, line},
};

/// How long a watch lasts that does not say it.
const TIMEOUT: Duration = Duration::from_secs(1_800);
/// When a watch is told how far it has come, if that is further than where it began: now and then, and before its end.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// How many events a watch takes at once.
const BATCH: usize = 256;

/// A watch as it begins.
pub(crate) struct Following {
    kind: Arc<Kind>,
    collection: String,
    selection: Selection,
    /// Where it began.
    since: u64,
    /// Everything up to this version is told, or about to be.
    cursor: u64,
    /// The newest change of its collection that it has come to.
    reached: u64,
    epoch: u64,
    signal: Arc<Notify>,
    ready: VecDeque<Bytes>,
    timeout: Duration,
    bookmarks: bool,
    /// Nothing comes after what is ready.
    is_over: bool,
}

/// A watch under way.
struct Watcher {
    api: FakeApi,
    of: Following,
    deadline: Instant,
    bookmark: Option<Instant>,
}

impl State {
    pub(crate) fn watch(&mut self, kind: &Arc<Kind>, target: &Target, query: &Query) -> Result<Following, Refusal> {
        let selection = Selection::parse(target.namespace.as_deref(), query)?;
        if query.get("sendInitialEvents").is_some() {
            let cause = Cause::forbidden("sendInitialEvents", "the API server in memory knows no such watches");
            return Err(Refusal::invalid("meta.k8s.io", "ListOptions", "", vec![cause]));
        }
        let since = parse_version(query.get("resourceVersion")).map_err(Refusal::internal)?.filter(|since| *since > 0);
        let seconds = query.get("timeoutSeconds").and_then(|text| text.parse().ok()).filter(|seconds| *seconds > 0);
        let collection = self.collections.entry(target.collection.clone()).or_default();
        let mut ready = VecDeque::new();
        let mut is_over = false;
        match since {
            // What is there already, as if it came now.
            None => {
                let objects = collection.objects.values().filter(|object| selection.takes(&object.value));
                ready.extend(objects.map(|object| line("ADDED", &object.text())));
            }
            Some(since) if since < self.compacted || collection.since(since).is_none() => {
                let expired = Refusal::expired(format!("too old resource version: {since} ({})", self.version));
                ready.push_back(line("ERROR", expired.status().to_string().as_bytes()));
                is_over = true;
            }
            Some(_) => {}
        }
        Ok(Following {
            kind: Arc::clone(kind),
            collection: target.collection.clone(),
            selection,
            since: since.unwrap_or(self.version),
            cursor: since.unwrap_or(self.version),
            reached: 0,
            epoch: self.epoch,
            signal: Arc::clone(&collection.signal),
            ready,
            timeout: seconds.map_or(TIMEOUT, Duration::from_secs),
            bookmarks: query.is_set("allowWatchBookmarks"),
            is_over,
        })
    }

    /// Takes the next events over.
    fn follow(&self, watch: &mut Following) {
        let collection = self.collections.get(&watch.collection);
        let changes = collection.and_then(|collection| collection.since(watch.cursor));
        let Some(changes) = changes.filter(|_| watch.epoch == self.epoch) else {
            watch.is_over = true;
            return;
        };
        for change in changes {
            (watch.cursor, watch.reached) = (change.version, change.version);
            watch.ready.extend(change.line(|object| watch.selection.takes(object)));
            if watch.ready.len() >= BATCH {
                return;
            }
        }
        watch.cursor = watch.cursor.max(self.version);
    }
}

impl Watcher {
    /// The next event, when there is one; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let signal = Arc::clone(&self.of.signal);
        loop {
            let told = signal.notified();
            let mut told = std::pin::pin!(told);
            // From here on no change is missed.
            told.as_mut().enable();
            if self.of.ready.is_empty() && !self.of.is_over {
                self.api.state().follow(&mut self.of);
            }
            let now = Instant::now();
            if now >= self.deadline {
                return None;
            }
            if let Some(event) = self.of.ready.pop_front() {
                return Some(event);
            }
            if self.of.is_over {
                return None;
            }
            if self.bookmark.is_some_and(|at| now >= at) {
                self.bookmark = next_bookmark(now, self.deadline);
                if self.of.reached > self.of.since {
                    return Some(self.bookmark());
                }
                continue;
            }
            let until = self.bookmark.unwrap_or(self.deadline).min(self.deadline);
            tokio::select! {
                biased;
                () = told => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// Everything up to here has been told. The real server knows of later versions sometimes, when others of its kinds change.
    fn bookmark(&self) -> Bytes {
        let Following { kind, reached, .. } = &self.of;
        let meta = json!({"resourceVersion": reached.to_string()});
        let object = json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": meta});
        line("BOOKMARK", object.to_string().as_bytes())
    }
}

fn next_bookmark(now: Instant, deadline: Instant) -> Option<Instant> {
    let before_end = deadline.checked_sub(BOOKMARK_BEFORE_END)?;
    (before_end > now).then(|| before_end.min(now + BOOKMARK_INTERVAL))
}

/// The events as they come.
pub(crate) fn body(api: FakeApi, of: Following) -> AnswerBody {
    let now = Instant::now();
    let deadline = now + of.timeout;
    let bookmark = next_bookmark(now, deadline).filter(|_| of.bookmarks);
    let watcher = Watcher { api, of, deadline, bookmark };
    let events = stream::unfold(watcher, |mut watcher| async move {
        let event = watcher.next().await?;
        Some((Ok::<_, std::io::Error>(Frame::data(event)), watcher))
    });
    StreamBody::new(events).boxed_unsync()
}
