//! What a case was told, in words that do not depend on when and where it was run: versions by their order, uids by their first
//! appearance, times by their form.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// Stands before a version until all of them are known.
const VERSION: &str = "version ";

pub struct Teller {
    namespace: String,
    lines: Vec<(String, Value)>,
    uids: BTreeMap<String, String>,
    versions: BTreeSet<u64>,
}

impl Teller {
    pub fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), lines: Vec::new(), uids: BTreeMap::new(), versions: BTreeSet::new() }
    }

    /// `text`: the body where it is no JSON.
    pub fn answer(&mut self, request: &str, code: u16, body: &Value, text: &str) {
        let body = if body.is_null() { json!(text.trim()) } else { self.plain(body) };
        self.lines.push((format!("{request} → {code}"), body));
    }

    pub fn event(&mut self, event: &Value) {
        let kind = event["type"].as_str().unwrap_or_default();
        let object = self.plain(&event["object"]);
        self.lines.push((kind.to_owned(), object));
    }

    pub fn lines(self) -> Vec<String> {
        let names: BTreeMap<String, String> = (1..)
            .zip(&self.versions)
            .map(|(place, version): (usize, _)| (format!("{VERSION}{version}"), format!("v{place}")))
            .collect();
        let line = |(head, value): &(String, Value)| format!("{head} {}", renamed(value, &names));
        self.lines.iter().map(line).collect()
    }

    fn plain(&mut self, value: &Value) -> Value {
        let kind = value["kind"].as_str().unwrap_or_default();
        match (kind, value["items"].as_array()) {
            ("Status", _) => self.status(value),
            (_, Some(items)) => {
                let items: Vec<Value> =
                    items.iter().map(|item| self.object(item, kind.trim_end_matches("List"))).collect();
                let meta = &value["metadata"];
                json!({
                    "kind": kind, "apiVersion": value["apiVersion"], "items": items,
                    "hasVersion": meta["resourceVersion"].as_str().is_some_and(|text| text.parse::<u64>().is_ok()),
                    "hasContinue": meta["continue"].is_string(), "remaining": meta["remainingItemCount"],
                })
            }
            _ if value["metadata"].is_object() => self.object(value, kind),
            _ => value.clone(),
        }
    }

    fn status(&mut self, status: &Value) -> Value {
        let mut plain = Map::new();
        for field in ["kind", "apiVersion", "status", "reason", "code"] {
            plain.insert(field.into(), status[field].clone());
        }
        plain.insert("says".into(), json!(status["message"].as_str().is_some_and(|text| !text.is_empty())));
        plain.insert("resumes".into(), json!(status["metadata"]["continue"].is_string()));
        let mut details = status["details"].clone();
        if let Some(found) = details["causes"].as_array() {
            details["causes"] =
                causes(found).iter().map(|(reason, field)| json!({"reason": reason, "field": field})).collect();
        }
        if let Some(uid) = details["uid"].as_str().map(str::to_owned) {
            details["uid"] = self.uid(&uid);
        }
        plain.insert("details".into(), details);
        Value::Object(plain)
    }

    /// What a kind's schema fills in is left out.
    fn object(&mut self, object: &Value, kind: &str) -> Value {
        let pick = |fields: &[&str], of: &Value| -> Value {
            fields.iter().filter_map(|field| Some(((*field).to_owned(), of.get(field)?.clone()))).collect()
        };
        let mut plain = object.clone();
        let spec = &object["spec"];
        let chosen = match kind {
            "Rule" => Some(pick(&["match", "suspend", "groupBy"], spec)),
            "AlertGroup" => Some(pick(&["ruleRef", "correlationID", "changedAt"], spec)),
            "Deployment" | "StatefulSet" => {
                let template = pick(&["labels", "annotations"], &spec["template"]["metadata"]);
                Some(json!({"replicas": spec["replicas"], "template": template}))
            }
            "HorizontalPodAutoscaler" => Some(pick(&["minReplicas", "maxReplicas"], spec)),
            _ => None,
        };
        if let Some(chosen) = chosen {
            plain["spec"] = chosen;
        }
        let fills_status = matches!(kind, "Deployment" | "StatefulSet" | "HorizontalPodAutoscaler");
        if fills_status {
            plain.as_object_mut().unwrap().remove("status");
        }
        plain["metadata"] = self.meta(&object["metadata"]);
        plain
    }

    fn meta(&mut self, meta: &Value) -> Value {
        let mut plain = Map::new();
        for (field, value) in meta.as_object().into_iter().flatten() {
            let text = value.as_str().unwrap_or_default();
            let value = match field.as_str() {
                "managedFields" => continue,
                "uid" => self.uid(text),
                "creationTimestamp" | "deletionTimestamp" => json!(time(text)),
                "namespace" if text == self.namespace => json!("its own"),
                "resourceVersion" => self.version(text),
                _ => value.clone(),
            };
            plain.insert(field.clone(), value);
        }
        Value::Object(plain)
    }

    fn uid(&mut self, uid: &str) -> Value {
        let next = format!("u{}", self.uids.len() + 1);
        json!(self.uids.entry(uid.to_owned()).or_insert(next))
    }

    fn version(&mut self, text: &str) -> Value {
        match text.parse() {
            Ok(version) => {
                self.versions.insert(version);
                json!(format!("{VERSION}{version}"))
            }
            Err(_) => json!(text),
        }
    }
}

/// Reason and field of each. One that is said twice is said once, and what a schema's rules say of no field is left out.
pub fn causes(found: &[Value]) -> Vec<(&str, &str)> {
    let mut causes: Vec<(&str, &str)> = Vec::new();
    for cause in found {
        let said = (cause["reason"].as_str().unwrap_or_default(), cause["field"].as_str().unwrap_or_default());
        if said.1 != "<nil>" && !causes.contains(&said) {
            causes.push(said);
        }
    }
    causes
}

/// Whole seconds, in UTC.
fn time(text: &str) -> &str {
    let is_whole = text.len() == "2026-01-01T00:00:00Z".len() && text.ends_with('Z');
    if is_whole && text.parse::<jiff::Timestamp>().is_ok() { "a time" } else { text }
}

fn renamed(value: &Value, names: &BTreeMap<String, String>) -> Value {
    match value {
        Value::String(text) => json!(names.get(text).unwrap_or(text)),
        Value::Array(items) => items.iter().map(|item| renamed(item, names)).collect(),
        Value::Object(map) => {
            // In one order, whatever the server's is.
            let sorted: BTreeMap<&String, Value> =
                map.iter().map(|(key, value)| (key, renamed(value, names))).collect();
            json!(sorted)
        }
        other => other.clone(),
    }
}
