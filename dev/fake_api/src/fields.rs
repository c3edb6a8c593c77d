//! Paths to the fields of an object, as server-side apply counts them (sigs.k8s.io/structured-merge-diff): the leaves, where a list is
//! a leaf unless its name says how its items are told apart.

use std::{collections::BTreeSet, fmt};

use serde_json::{Map, Value};

/// One step into an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Field(String),
    /// The item of a list whose field has this value, as JSON.
    Item(&'static str, String),
    /// The item of a list of values, as JSON.
    Value(String),
}

/// Where a field is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Path(Vec<Part>);

/// How a list is merged.
enum List {
    /// Its items are objects, told apart by a field.
    Map(&'static str),
    /// Its items are values, each there once.
    Set,
    /// It is one value.
    Atomic,
}

/// What schemas say of the lists of a name.
fn list_of(field: &str) -> List {
    match field {
        "conditions" => List::Map("type"),
        "containers" | "initContainers" | "volumes" | "env" => List::Map("name"),
        "ownerReferences" => List::Map("uid"),
        "finalizers" => List::Set,
        _ => List::Atomic,
    }
}

/// The fields that a value sets.
pub(crate) fn leaves(value: &Value) -> BTreeSet<Path> {
    let mut found = BTreeSet::new();
    walk(value, "", &mut Path::default(), &mut found);
    found
}

fn walk(value: &Value, field: &str, path: &mut Path, found: &mut BTreeSet<Path>) {
    match (value, list_of(field)) {
        (Value::Object(map), _) if !map.is_empty() => {
            for (name, value) in map {
                path.0.push(Part::Field(name.clone()));
                walk(value, name, path, found);
                path.0.pop();
            }
        }
        (Value::Array(items), List::Map(key)) if !items.is_empty() => {
            for item in items {
                path.0.push(Part::Item(key, item[key].to_string()));
                found.insert(path.clone());
                walk(item, "", path, found);
                path.0.pop();
            }
        }
        (Value::Array(items), List::Set) if !items.is_empty() => {
            for item in items {
                path.0.push(Part::Value(item.to_string()));
                found.insert(path.clone());
                path.0.pop();
            }
        }
        // The object itself sets nothing by being there.
        _ if path.0.is_empty() => {}
        _ => drop(found.insert(path.clone())),
    }
}

/// Merges what is applied into what is there.
pub(crate) fn merge(into: &mut Value, applied: &Value) {
    merge_field(into, "", applied);
}

fn merge_field(into: &mut Value, field: &str, applied: &Value) {
    match (applied, list_of(field)) {
        (Value::Object(fields), _) if !fields.is_empty() => {
            if !into.is_object() {
                *into = Value::Object(Map::new());
            }
            for (name, value) in fields {
                merge_field(&mut into[name.as_str()], name, value);
            }
        }
        // Nothing is said of what is in it.
        (Value::Object(_), _) if into.is_object() => {}
        (Value::Array(items), List::Map(key)) => {
            let list = as_list(into);
            for item in items {
                match list.iter_mut().find(|known| known[key] == item[key]) {
                    Some(known) => merge_field(known, "", item),
                    None => list.push(item.clone()),
                }
            }
        }
        (Value::Array(items), List::Set) => {
            let list = as_list(into);
            let new: Vec<Value> = items.iter().filter(|item| !list.contains(item)).cloned().collect();
            list.extend(new);
        }
        _ => *into = applied.clone(),
    }
}

fn as_list(value: &mut Value) -> &mut Vec<Value> {
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    match value {
        Value::Array(list) => list,
        // It was just made one.
        _ => unreachable!("a list"),
    }
}

impl Path {
    /// The value there.
    pub(crate) fn get<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(value, |value, part| part.get(value))
    }

    /// Whether it is an item of a list, which is there with the fields that it is told apart by.
    pub(crate) fn is_item(&self) -> bool {
        matches!(self.0.last(), Some(Part::Item(..) | Part::Value(_)))
    }

    /// Whether it leads to, or below, another.
    pub(crate) fn is_below(&self, other: &Path) -> bool {
        self.0.starts_with(&other.0)
    }

    /// Takes the value out, and what is empty without it.
    pub(crate) fn remove(&self, value: &mut Value) {
        remove(value, &self.0);
    }
}

fn remove(value: &mut Value, parts: &[Part]) {
    let Some((first, rest)) = parts.split_first() else { return };
    if !rest.is_empty() {
        let Some(inner) = first.get_mut(value) else { return };
        remove(inner, rest);
        let is_empty = inner.as_object().is_some_and(Map::is_empty) || inner.as_array().is_some_and(Vec::is_empty);
        if !is_empty {
            return;
        }
    }
    match (first, value) {
        (Part::Field(name), Value::Object(map)) => drop(map.remove(name)),
        (part, Value::Array(list)) => list.retain(|item| !part.is(item)),
        _ => {}
    }
}

impl Part {
    fn is(&self, item: &Value) -> bool {
        match self {
            Part::Field(_) => false,
            Part::Item(key, value) => is_written(&item[*key], value),
            Part::Value(value) => is_written(item, value),
        }
    }

    fn get<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        match self {
            Part::Field(name) => value.get(name),
            _ => value.as_array()?.iter().find(|item| self.is(item)),
        }
    }

    fn get_mut<'a>(&self, value: &'a mut Value) -> Option<&'a mut Value> {
        match self {
            Part::Field(name) => value.get_mut(name),
            _ => value.as_array_mut()?.iter_mut().find(|item| self.is(item)),
        }
    }
}

fn is_written(value: &Value, text: &str) -> bool {
    let written = value.to_string();
    written == text
}

impl fmt::Display for Path {
    /// `.status.conditions[type="Ready"].status`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.0 {
            match part {
                Part::Field(name) => write!(f, ".{name}")?,
                Part::Item(key, value) => write!(f, "[{key}={value}]")?,
                Part::Value(value) => write!(f, "[={value}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(value: &Value) -> Vec<String> {
        leaves(value).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn leaves_are_the_fields_that_a_value_sets() {
        let value = json!({"spec": {"a": 1, "list": [1, 2], "empty": {}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}, "metadata": {"finalizers": ["x"]}});
        assert_eq!(
            names(&value),
            [
                ".metadata.finalizers[=\"x\"]",
                ".spec.a",
                ".spec.empty",
                ".spec.list",
                ".status.conditions[type=\"Ready\"]",
                ".status.conditions[type=\"Ready\"].status",
                ".status.conditions[type=\"Ready\"].type",
            ]
        );
        assert!(names(&json!({})).is_empty());
    }

    #[test]
    fn what_is_merged_in_keeps_what_it_does_not_name() {
        let mut value = json!({"a": {"b": 1, "c": 2}, "conditions": [{"type": "A", "x": 1}, {"type": "B"}], "l": [1]});
        merge(&mut value, &json!({"a": {"b": 3}, "conditions": [{"type": "A", "y": 2}, {"type": "C"}], "l": [2]}));
        let merged = json!({"a": {"b": 3, "c": 2}, "l": [2],
            "conditions": [{"type": "A", "x": 1, "y": 2}, {"type": "B"}, {"type": "C"}]});
        assert_eq!(value, merged);
    }

    #[test]
    fn what_is_taken_out_leaves_nothing_empty_behind() {
        let mut value = json!({"a": {"b": {"c": 1}}, "conditions": [{"type": "A"}], "x": 1});
        for path in leaves(&value.clone()).iter().filter(|path| path.to_string() != ".x") {
            path.remove(&mut value);
        }
        assert_eq!(value, json!({"x": 1}));
    }
}
