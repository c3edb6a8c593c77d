//! Deletions (k8s.io/apiserver/pkg/registry/rest/delete.go, generic/registry/store.go).

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    answer::Refusal,
    commit::Origin,
    kinds::{Kind, NAMESPACES},
    metadata,
    path::Target,
    state::State,
};

impl State {
    /// Gives what is answered: the object where something holds it, else what was removed.
    pub(crate) fn delete(
        &mut self,
        kind: &Kind,
        target: &Target,
        options: &Value,
        origin: &Origin,
    ) -> Result<Bytes, Refusal> {
        let known = self.read(kind, target)?;
        let name = target.name.as_deref().unwrap_or_default();
        for field in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][field];
            if !wanted.is_null() && known.value["metadata"][field] != *wanted {
                let why = format!("the {field} in the precondition does not match the {field} in record");
                return Err(Refusal::precondition(kind, name, &why));
            }
        }
        let mut new = Value::clone(&known.value);
        let is_held = match target.collection.as_str() {
            NAMESPACES => {
                let is_held = new["spec"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
                if is_held {
                    mark(&mut new, origin);
                    new["status"]["phase"] = json!("Terminating");
                }
                is_held
            }
            _ => {
                hold_for_dependents(&mut new, options);
                let is_held = metadata::finalizers(&new).next().is_some();
                if is_held {
                    mark(&mut new, origin);
                    new["metadata"]["deletionGracePeriodSeconds"] = json!(0);
                }
                is_held
            }
        };
        if is_held {
            if new == *known.value {
                return Ok(known.text());
            }
            let owners = Arc::new(known.owners.after_update(&known.value, &new));
            return Ok(self.store(&target.collection, target.key(), new, owners, origin).text());
        }
        self.remove(&target.collection, &target.key(), origin);
        let mut details = json!({"name": name, "kind": kind.plural, "uid": known.value["metadata"]["uid"]});
        if !kind.group.is_empty() {
            details["group"] = json!(kind.group);
        }
        let status =
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
        Ok(status.to_string().into())
    }
}

/// A deletion that waits for what depends on the object, or leaves it alone, is a finalizer of the garbage collector's.
fn hold_for_dependents(object: &mut Value, options: &Value) {
    let finalizer = match options["propagationPolicy"].as_str() {
        Some("Foreground") => "foregroundDeletion",
        Some("Orphan") => "orphan",
        _ => return,
    };
    let mut finalizers: Vec<String> = metadata::finalizers(object).map(str::to_owned).collect();
    finalizers.retain(|known| !["foregroundDeletion", "orphan"].contains(&known.as_str()));
    finalizers.push(finalizer.to_owned());
    object["metadata"]["finalizers"] = json!(finalizers);
}

/// It is being deleted from now on; the first time this is a new generation.
fn mark(object: &mut Value, origin: &Origin) {
    let meta = &mut object["metadata"];
    if meta["deletionTimestamp"].is_null() {
        meta["deletionTimestamp"] = json!(origin.time());
        if let Some(generation) = meta["generation"].as_i64() {
            meta["generation"] = json!(generation + 1);
        }
    }
}
