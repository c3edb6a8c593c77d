//! The rules of `metadata` (k8s.io/apimachinery/pkg/api/validation).

use serde_json::Value;

use crate::{answer::Cause, kinds::Kind};

/// All annotations of an object together, in bytes.
const ANNOTATIONS_MAX: usize = 256 * 1024;
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;

/// The fields of `metadata`; others are dropped.
const FIELDS: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// What cannot be read as `metadata` at all: the field, and what it should be.
pub(crate) fn unreadable(object: &Value) -> Option<String> {
    let meta = object.get("metadata")?;
    if !meta.is_object() {
        return Some("metadata: an object is expected".into());
    }
    let texts = |value: &Value| match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(Value::is_string),
        _ => false,
    };
    let list = |value: &Value, of: fn(&Value) -> bool| match value {
        Value::Null => true,
        Value::Array(items) => items.iter().all(of),
        _ => false,
    };
    for field in ["labels", "annotations"] {
        if !texts(&meta[field]) {
            return Some(format!("metadata.{field}: a map of strings is expected"));
        }
    }
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp"] {
        if !(meta[field].is_null() || meta[field].is_string()) {
            return Some(format!("metadata.{field}: a string is expected"));
        }
    }
    if !list(&meta["finalizers"], Value::is_string) {
        return Some("metadata.finalizers: a list of strings is expected".into());
    }
    if !list(&meta["ownerReferences"], Value::is_object) {
        return Some("metadata.ownerReferences: a list of objects is expected".into());
    }
    None
}

/// Drops what is no field of it, and what says nothing: of Kubernetes' own kinds beside their metadata too.
pub(crate) fn tidy(kind: &Kind, object: &mut Value) {
    let says_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    let Some(fields) = object.as_object_mut() else { return };
    if let Some(meta) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.retain(|field, value| FIELDS.contains(&field.as_str()) && !says_nothing(value));
    }
    if !kind.custom {
        fields.retain(|field, value| field == "metadata" || !says_nothing(value));
    }
}

/// What is wrong with a new object's name.
pub(crate) fn check_name(kind: &Kind, name: &str) -> Option<Cause> {
    if name.is_empty() {
        return Some(Cause::required("metadata.name", "name or generateName is required"));
    }
    let fits = match (kind.group.as_str(), kind.plural.as_str()) {
        ("", "namespaces" | "services") => name.len() <= LABEL_MAX && is_label(name),
        _ => is_subdomain(name),
    };
    (!fits).then(|| Cause::invalid("metadata.name", "a lowercase RFC 1123 name is expected"))
}

/// What is wrong with labels, annotations and finalizers.
pub(crate) fn check(object: &Value) -> Vec<Cause> {
    let meta = &object["metadata"];
    let entries = |field: &str| {
        let map = meta[field].as_object();
        map.into_iter().flatten().map(|(key, value)| (key, value.as_str().unwrap_or_default())).collect::<Vec<_>>()
    };
    let mut causes = Vec::new();
    for (key, value) in entries("labels") {
        if !is_qualified(key) {
            causes.push(Cause::invalid("metadata.labels", format!("{key:?} is no qualified name")));
        }
        if !is_label_value(value) {
            causes.push(Cause::invalid("metadata.labels", format!("{value:?} is no label's value")));
        }
    }
    let annotations = entries("annotations");
    for (key, _) in &annotations {
        if !is_qualified(&key.to_ascii_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", format!("{key:?} is no qualified name")));
        }
    }
    if annotations.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > ANNOTATIONS_MAX {
        let message = format!("may not be more than {ANNOTATIONS_MAX} bytes");
        causes.push(Cause::too_long("metadata.annotations", message));
    }
    for finalizer in finalizers(object).filter(|finalizer| !is_qualified(finalizer)) {
        causes.push(Cause::invalid("metadata.finalizers", format!("{finalizer:?} is no qualified name")));
    }
    causes
}

/// The names of what holds an object.
pub(crate) fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

pub(crate) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// Takes over, or out, what `metadata` of another version says in this field.
pub(crate) fn take_over(object: &mut Value, field: &str, from: &Value) {
    match from["metadata"].get(field) {
        Some(value) => object["metadata"][field] = value.clone(),
        None => drop(object["metadata"].as_object_mut().and_then(|meta| meta.remove(field))),
    }
}

fn is_lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// Whether its first and last are of one sort, and all between of another.
fn is_framed(text: &str, ends: fn(u8) -> bool, between: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match bytes {
        [] => false,
        [first, .., last] => ends(*first) && ends(*last) && bytes.iter().all(|b| between(*b)),
        [only] => ends(*only),
    }
}

fn is_label(text: &str) -> bool {
    is_framed(text, is_lower, |b| is_lower(b) || b == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= NAME_MAX && text.split('.').all(is_label)
}

fn is_word(text: &str) -> bool {
    let between = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    text.len() <= LABEL_MAX && is_framed(text, |b| b.is_ascii_alphanumeric(), between)
}

fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_word(text)
}

fn is_qualified(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_word(name),
        None => is_word(text),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::Kinds;

    #[test]
    fn names_are_lowercase_and_a_namespaces_has_no_dots() {
        let kinds = Kinds::default();
        let fits = |collection: &str, name: &str| check_name(&kinds.get(collection).unwrap(), name).is_none();
        for (name, of_map, of_namespace) in [
            ("a", true, true),
            ("a.b-c", true, false),
            ("A", false, false),
            ("a_b", false, false),
            ("-a", false, false),
            ("", false, false),
            (&"a".repeat(64), true, false),
            (&"a".repeat(254), false, false),
        ] {
            assert_eq!(fits("/api/v1/configmaps", name), of_map, "{name}");
            assert_eq!(fits("/api/v1/namespaces", name), of_namespace, "{name}");
        }
    }

    #[test]
    fn what_can_be_no_label_annotation_or_finalizer_is_named() {
        let causes = |meta: Value| check(&json!({"metadata": meta})).len();
        assert_eq!(causes(json!({"labels": {"a.b/c": "x", "d": ""}, "annotations": {"A/b": "any \n"}})), 0);
        assert_eq!(causes(json!({"finalizers": ["eventpulse.io/claim"]})), 0);
        assert_eq!(causes(json!({"labels": {"a b": "x", "c": "no good", "d": "a".repeat(64)}})), 3);
        assert_eq!(causes(json!({"annotations": {"": "x"}, "finalizers": ["a b"]})), 2);
        assert_eq!(causes(json!({"annotations": {"a": "x".repeat(ANNOTATIONS_MAX)}})), 1);
    }

    #[test]
    fn metadata_of_another_shape_cannot_be_read() {
        assert_eq!(unreadable(&json!({"metadata": {"labels": null, "name": "a"}})), None);
        for meta in [json!(7), json!({"labels": {"a": 1}}), json!({"finalizers": "a"}), json!({"name": 1})] {
            assert!(unreadable(&json!({"metadata": meta})).is_some(), "{meta}");
        }
    }
}
