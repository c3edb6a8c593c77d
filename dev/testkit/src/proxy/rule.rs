//! Which requests a rule is about, and what happens to them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::sync::watch;

use crate::Shortfall;

/// A request that may change something, as a rule sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// HTTP method.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// Query, without its question mark.
    pub query: String,
    /// Body, where it is JSON; else null.
    pub body: Value,
    /// `Impersonate-User`, where it is set.
    pub impersonated: Option<String>,
    /// `User-Agent`, where it is set.
    pub user_agent: Option<String>,
}

impl Call {
    /// Whether the body is a JSON Patch with a change (not just a `test`) at this pointer, below it, or above it.
    pub fn patches(&self, pointer: &str) -> bool {
        let Some(operations) = self.body.as_array() else { return false };
        self.method == "PATCH"
            && operations.iter().filter(|operation| operation["op"] != "test").any(|operation| {
                ["path", "from"].iter().filter_map(|end| operation[*end].as_str()).any(|end| touches(end, pointer))
            })
    }
}

fn touches(a: &str, b: &str) -> bool {
    let below = |long: &str, short: &str| long.strip_prefix(short).is_some_and(|rest| rest.starts_with('/'));
    a == b || below(a, b) || below(b, a)
}

type Predicate = Arc<dyn Fn(&Call) -> bool + Send + Sync>;

/// Which requests: all that was said must hold.
#[derive(Clone, Default)]
pub struct When(Vec<Predicate>);

impl When {
    /// Every request.
    pub fn any() -> Self {
        Self::default()
    }

    /// Every PATCH.
    pub fn patch() -> Self {
        Self::any().method("PATCH")
    }

    /// Every PATCH that changes the number of replicas.
    pub fn patch_of_replicas() -> Self {
        Self::any().patches("/spec/replicas")
    }

    /// Every PATCH that changes the pod template, as a restart does.
    pub fn patch_of_template() -> Self {
        Self::any().patches("/spec/template")
    }

    /// Every request that may change something.
    pub fn write() -> Self {
        Self::any().is(|call| call.method != "GET")
    }

    /// With this method.
    pub fn method(self, method: &str) -> Self {
        let method = method.to_owned();
        self.is(move |call| call.method == method)
    }

    /// Whose path holds this text, like `/deployments/`.
    pub fn path_contains(self, text: &str) -> Self {
        let text = text.to_owned();
        self.is(move |call| call.path.contains(&text))
    }

    /// Whose path ends with this text, like `/status`.
    pub fn path_ends(self, text: &str) -> Self {
        let text = text.to_owned();
        self.is(move |call| call.path.ends_with(&text))
    }

    /// A JSON Patch that changes something at this pointer, below it, or above it.
    pub fn patches(self, pointer: &str) -> Self {
        let pointer = pointer.to_owned();
        self.is(move |call| call.patches(&pointer))
    }

    /// Made as this user.
    pub fn impersonating(self, user: &str) -> Self {
        let user = user.to_owned();
        self.is(move |call| call.impersonated.as_deref() == Some(&user))
    }

    /// For which this holds.
    pub fn is(mut self, predicate: impl Fn(&Call) -> bool + Send + Sync + 'static) -> Self {
        self.0.push(Arc::new(predicate));
        self
    }

    /// Whether a request is meant.
    pub fn matches(&self, call: &Call) -> bool {
        self.0.iter().all(|predicate| predicate(call))
    }
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this status and never reaches the server.
    Answer(u16),
    /// The same, with Retry-After in seconds.
    AnswerRetryAfter(u16, u32),
    /// The connection is closed; it never reaches the server.
    Close,
    /// No answer; it never reaches the server.
    Hang,
    /// It reaches the server this much later.
    Delay(Duration),
    /// It reaches the server twice, one after the other, and the second answer is thrown away.
    Twice,
    /// It reaches the server when the rule is [released](Rule::release).
    Hold,
    /// It reaches the server, whose answer is thrown away with the connection: the outcome is unknown.
    DropAnswer,
    /// It reaches the server, whose answer is replaced by this status: a 504 after the commit.
    ReplaceAnswer(u16),
    /// It reaches the server, whose answer is held back until the rule is [released](Rule::release).
    HoldAnswer,
    /// Nothing: the rule only counts.
    Count,
}

/// A rule at work. Cheap to clone; it stays until it is removed.
#[derive(Clone)]
pub struct Rule(Arc<Inner>);

struct Inner {
    name: String,
    when: When,
    fault: Fault,
    skip: usize,
    limit: Option<usize>,
    seen: AtomicUsize,
    matched: watch::Sender<usize>,
    removed: watch::Sender<bool>,
    released: watch::Sender<bool>,
}

impl Rule {
    /// `skip` matching requests pass before the first one is struck, and after `limit` of them the others pass.
    pub(super) fn new(name: &str, when: When, fault: Fault, skip: usize, limit: Option<usize>) -> Self {
        Self(Arc::new(Inner {
            name: name.to_owned(),
            when,
            fault,
            skip,
            limit,
            seen: AtomicUsize::new(0),
            matched: watch::Sender::new(0),
            removed: watch::Sender::new(false),
            released: watch::Sender::new(false),
        }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// How many requests it struck.
    pub fn matched(&self) -> usize {
        *self.0.matched.borrow()
    }

    /// Waits until it struck at least so many.
    pub async fn wait_for(&self, wanted: usize, deadline: Duration) -> Result<(), Shortfall> {
        let mut matched = self.0.matched.subscribe();
        let enough = matched.wait_for(|count| *count >= wanted);
        match tokio::time::timeout(deadline, enough).await {
            Ok(Ok(_)) => Ok(()),
            _ => {
                let what = format!("requests that the rule {:?} is about", self.0.name);
                Err(Shortfall { what, wanted, seen: self.matched(), deadline })
            }
        }
    }

    /// Lets go what is held, and holds nothing any more.
    pub fn release(&self) {
        self.0.released.send_replace(true);
    }

    /// It strikes nothing any more. What it holds goes on, what hangs is closed.
    pub fn remove(&self) {
        self.0.removed.send_replace(true);
        self.release();
    }

    pub(super) fn is_removed(&self) -> bool {
        *self.0.removed.borrow()
    }

    pub(super) fn fault(&self) -> &Fault {
        &self.0.fault
    }

    /// Whether it strikes this request, which it then counts.
    pub(super) fn strikes(&self, call: &Call) -> bool {
        if self.is_removed() || !self.0.when.matches(call) {
            return false;
        }
        let place = self.0.seen.fetch_add(1, Ordering::Relaxed);
        let strikes = place >= self.0.skip && self.0.limit.is_none_or(|limit| place < self.0.skip + limit);
        if strikes {
            self.0.matched.send_modify(|count| *count += 1);
        }
        strikes
    }

    pub(super) async fn until_released(&self) {
        // Only a dropped sender ends this early, and this rule holds it.
        let _ = self.0.released.subscribe().wait_for(|released| *released).await;
    }

    pub(super) async fn until_removed(&self) {
        let _ = self.0.removed.subscribe().wait_for(|removed| *removed).await;
    }
}
