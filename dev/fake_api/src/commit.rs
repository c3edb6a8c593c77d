//! The log of effects: every change of what is stored, by whom, in order.

use std::sync::Arc;

use http::Method;
use jiff::Timestamp;
use serde_json::Value;

/// One change of what is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Commit {
    /// The version that it made.
    pub version: u64,
    /// Whose client it was; `test` for what a test did itself.
    pub caller: Arc<str>,
    /// Whom it acted as (`Impersonate-User`).
    pub user: Option<String>,
    /// HTTP method; of a test that put or removed something, PUT or DELETE.
    pub method: Method,
    /// Path without the query; of a test, the object's.
    pub path: String,
    /// The object before; none where there was none.
    pub before: Option<Arc<Value>>,
    /// The object after; none where there is none any more.
    pub after: Option<Arc<Value>>,
    /// When, by the server's clock.
    pub at: Timestamp,
    /// The request's place among all; none where a test did it itself.
    pub index: Option<u64>,
}

/// What a change comes from.
pub(crate) struct Origin {
    pub(crate) caller: Arc<str>,
    pub(crate) user: Option<String>,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) index: Option<u64>,
    pub(crate) at: Timestamp,
}

impl Origin {
    /// The time as Kubernetes writes it: RFC 3339, in whole seconds.
    pub(crate) fn time(&self) -> String {
        self.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }
}
