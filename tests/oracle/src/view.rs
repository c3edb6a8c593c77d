//! Reads what was seen: fields of JSON, objects as they were last.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use serde_json::Value;

use crate::{Observed, Record, Write};

/// A text at this path (`/status/phase`); empty where there is none.
pub(crate) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// A reference to a rule, as `namespace/name`.
pub(crate) fn rule_of(reference: &Value) -> String {
    format!("{}/{}", text(reference, "/namespace"), text(reference, "/name"))
}

/// The rule that an object of ours in this namespace is of, in the same way.
pub(crate) fn rule_of_object(object: &Value, namespace: &str) -> String {
    format!("{namespace}/{}", text(object, "/spec/ruleRef/name"))
}

/// A time at this path.
pub(crate) fn time(value: &Value, path: &str) -> Option<Timestamp> {
    value.pointer(path)?.as_str()?.parse().ok()
}

/// The list at this path; empty where there is none.
pub(crate) fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    value.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

impl Observed {
    /// Records of one topic.
    pub(crate) fn on<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = &'a Record> {
        self.records.iter().filter(move |record| record.topic == topic)
    }

    /// Writes of one kind.
    pub(crate) fn writes_of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Write> {
        self.writes.iter().filter(move |write| write.kind == kind)
    }

    /// The names of the groups that somebody else deleted.
    pub(crate) fn groups_deleted_by_others(&self) -> impl Iterator<Item = &str> {
        let deletions = self.writes_of("alertgroups").filter(|write| write.after.is_none() && !write.ours);
        deletions.map(|write| write.object.1.as_str())
    }

    /// The rules (`namespace/name`) that those were of.
    pub(crate) fn rules_of_groups_deleted_by_others(&self) -> BTreeSet<String> {
        let deletions = self.writes_of("alertgroups").filter(|write| write.after.is_none() && !write.ours);
        let rule = |write: &Write| Some(rule_of_object(write.before.as_ref()?, &write.object.0));
        deletions.filter_map(rule).collect()
    }

    /// Every object of a kind as it was last, those that are gone included, and whether it is gone.
    pub(crate) fn last_of<'a>(&'a self, kind: &'a str) -> BTreeMap<&'a (String, String), (&'a Arc<Value>, bool)> {
        let mut last = BTreeMap::new();
        for write in self.writes_of(kind) {
            match (&write.after, &write.before) {
                (Some(after), _) => drop(last.insert(&write.object, (after, false))),
                (None, Some(before)) => drop(last.insert(&write.object, (before, true))),
                (None, None) => {}
            }
        }
        last
    }
}

/// An object's name, as people say it.
pub(crate) fn named(object: &(String, String)) -> String {
    format!("{}/{}", object.0, object.1)
}

/// The ids in the annotation of applied actions: those that took effect, and those that were given up.
pub(crate) fn ring(object: Option<&Arc<Value>>) -> (Vec<String>, Vec<String>) {
    let annotations = object.and_then(|object| object.pointer("/metadata/annotations"));
    let text = annotations.and_then(|all| all.get("eventpulse.io/applied-actions")).and_then(Value::as_str);
    let (mut applied, mut aborted) = (Vec::new(), Vec::new());
    for word in text.unwrap_or_default().split(' ').skip(1) {
        let id = word.split(':').next().unwrap_or_default().to_owned();
        if word.ends_with(":aborted") { aborted.push(id) } else { applied.push(id) }
    }
    (applied, aborted)
}
