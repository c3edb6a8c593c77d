//! What happened, in order: a hash of all of it, and for a seed that fails its text.

use std::{
    fmt::Display,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Clones are the same.
#[derive(Clone)]
pub(crate) struct Timeline(Arc<Mutex<Inner>>);

struct Inner {
    began: Instant,
    keep: bool,
    hasher: DefaultHasher,
    lines: Vec<String>,
    happened: u64,
}

impl Timeline {
    /// `keep`: the lines too.
    pub(crate) fn new(keep: bool) -> Self {
        let inner = Inner { began: Instant::now(), keep, hasher: DefaultHasher::new(), lines: Vec::new(), happened: 0 };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// One thing that happened.
    pub(crate) fn note(&self, who: &str, what: impl Display) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = inner.began.elapsed();
        let line = format!("{:>12} {who:<12} {what}", said(at));
        line.hash(&mut inner.hasher);
        inner.happened += 1;
        if inner.keep {
            inner.lines.push(line);
        }
    }

    /// How much has happened.
    pub(crate) fn happened(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).happened
    }

    /// A hash of everything, and the lines.
    pub(crate) fn end(&self) -> (u64, Vec<String>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (inner.hasher.finish(), std::mem::take(&mut inner.lines))
    }
}

/// As `83.207113` seconds.
fn said(at: Duration) -> String {
    format!("{}.{:06}", at.as_secs(), at.subsec_micros())
}
