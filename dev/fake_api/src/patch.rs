//! Patches (k8s.io/apiserver/pkg/endpoints/handlers/patch.go).

use std::sync::Arc;

use json_patch::{AddOperation, CopyOperation, PatchOperation, ReplaceOperation, TestOperation, jsonptr::PointerBuf};
use serde_json::{Value, json};

use crate::{
    answer::{Cause, Refusal},
    apply::{Manager, Owners, apply},
    commit::Origin,
    kinds::Kind,
    metadata,
    path::{Query, Target},
    state::{State, Stored},
    update::check_name,
};

pub(crate) const JSON_PATCH: &str = "application/json-patch+json";
pub(crate) const MERGE_PATCH: &str = "application/merge-patch+json";
pub(crate) const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// The most operations of one JSON Patch.
const OPERATIONS_MAX: usize = 10_000;

/// What an apply cannot say: the server's, and what names the object.
const NOT_APPLIED: [&str; 10] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
];

impl State {
    /// True beside the object when it was created.
    pub(crate) fn patch(
        &mut self,
        kind: &Kind,
        target: &Target,
        patch: &Value,
        content_type: &str,
        query: &Query,
        origin: &Origin,
    ) -> Result<(bool, Arc<Stored>), Refusal> {
        check_options(content_type, query)?;
        match content_type {
            JSON_PATCH => {
                let Some(operations) = patch.as_array() else {
                    return Err(Refusal::bad_request("error decoding patch: a list of operations is expected"));
                };
                if operations.len() > OPERATIONS_MAX {
                    let message = format!("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}");
                    return Err(Refusal::too_large(message));
                }
                let known = self.read(kind, target)?;
                let mut new = Value::clone(&known.value);
                let does_not_apply = |_| Refusal::patch_does_not_apply();
                let operations =
                    <json_patch::Patch as serde::Deserialize>::deserialize(patch).map_err(does_not_apply)?;
                for operation in operations.0 {
                    if let Some(operation) = as_the_server_does(&new, operation) {
                        json_patch::patch(&mut new, &[operation]).map_err(|_| Refusal::patch_does_not_apply())?;
                    }
                }
                self.patched(kind, target, &known, new, origin)
            }
            MERGE_PATCH => {
                if !patch.is_object() {
                    return Err(Refusal::bad_request("error decoding patch: an object is expected"));
                }
                let known = self.read(kind, target)?;
                let mut new = Value::clone(&known.value);
                json_patch::merge(&mut new, patch);
                self.patched(kind, target, &known, new, origin)
            }
            _ => self.apply(kind, target, patch, query, origin),
        }
    }

    fn patched(
        &mut self,
        kind: &Kind,
        target: &Target,
        known: &Arc<Stored>,
        new: Value,
        origin: &Origin,
    ) -> Result<(bool, Arc<Stored>), Refusal> {
        if let Some(why) = unreadable(&new) {
            return Err(Refusal::invalid("", "", "", vec![Cause::invalid("patch", why)]));
        }
        Ok((false, self.update(kind, target, known, new, None, origin)?))
    }

    fn apply(
        &mut self,
        kind: &Kind,
        target: &Target,
        config: &Value,
        query: &Query,
        origin: &Origin,
    ) -> Result<(bool, Arc<Stored>), Refusal> {
        check_config(kind, config)?;
        let manager = Manager {
            name: query.get("fieldManager").unwrap_or_default().to_owned(),
            subresource: target.subresource.clone(),
        };
        let applied = applied(kind, target, config);
        let force = query.is_set("force");
        let conflicts = Refusal::apply_conflict;
        let Some(known) = self.find(&target.collection, &target.key()).cloned() else {
            let name = target.name.as_deref().unwrap_or_default();
            if target.subresource.is_some() {
                return Err(Refusal::not_found(kind, name));
            }
            if !metadata::text(config, "uid").is_empty() {
                return Err(Refusal::conflict(kind, name, "uid mismatch: no existing object was found"));
            }
            let empty = json!({"apiVersion": config["apiVersion"], "kind": config["kind"], "metadata": {"name": name}});
            let (mut object, owners) =
                apply(&empty, &Owners::default(), &manager, &applied, force).map_err(conflicts)?;
            say_which(&mut object, config);
            check_name(&object, name)?;
            return Ok((true, self.create(kind, target, object, owners, origin)?));
        };
        let (mut object, owners) = apply(&known.value, &known.owners, &manager, &applied, force).map_err(conflicts)?;
        say_which(&mut object, config);
        Ok((false, self.update(kind, target, &known, object, Some(owners), origin)?))
    }
}

/// A configuration may say which object it is meant for, and which version of it.
fn say_which(object: &mut Value, config: &Value) {
    for field in ["name", "namespace", "uid", "resourceVersion"] {
        if let Some(said) = config["metadata"].get(field) {
            object["metadata"][field] = said.clone();
        }
    }
}

/// The server's library takes a member of an object that is absent for null, where it is replaced, copied or tested
/// (gopkg.in/evanphx/json-patch.v4, `partialDoc.get`). None: there is nothing to do.
fn as_the_server_does(object: &Value, operation: PatchOperation) -> Option<PatchOperation> {
    let is_absent = |path: &PointerBuf| {
        let parent = path.parent().and_then(|parent| parent.resolve(object).ok());
        parent.is_some_and(Value::is_object) && path.resolve(object).is_err()
    };
    Some(match operation {
        PatchOperation::Replace(ReplaceOperation { path, value }) if is_absent(&path) => {
            PatchOperation::Add(AddOperation { path, value })
        }
        PatchOperation::Copy(CopyOperation { from, path }) if is_absent(&from) => {
            PatchOperation::Add(AddOperation { path, value: Value::Null })
        }
        PatchOperation::Test(TestOperation { path, value: Value::Null }) if is_absent(&path) => return None,
        other => other,
    })
}

/// Only an apply may be forced, and it must say who applies.
fn check_options(content_type: &str, query: &Query) -> Result<(), Refusal> {
    let cause = match (content_type == APPLY_PATCH, query.get("fieldManager"), query.get("force")) {
        (true, None, _) => Cause::required("fieldManager", "is required for apply patch"),
        (false, _, Some(_)) => Cause::forbidden("force", "may not be specified for non-apply patch"),
        _ => return Ok(()),
    };
    Err(Refusal::invalid("meta.k8s.io", "PatchOptions", "", vec![cause]))
}

fn check_config(kind: &Kind, config: &Value) -> Result<(), Refusal> {
    let said = |field: &str| config[field].as_str().unwrap_or_default();
    if !config.is_object() || said("apiVersion").is_empty() || said("kind").is_empty() {
        return Err(Refusal::bad_request("an applied object says its apiVersion and kind"));
    }
    if said("apiVersion") != kind.api_version() || (!kind.kind.is_empty() && said("kind") != kind.kind) {
        let message = format!("{} {} is not of {}", said("apiVersion"), said("kind"), kind.resource());
        return Err(Refusal::bad_request(message));
    }
    if config["metadata"].get("managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(Refusal::bad_request("metadata.managedFields must be nil"));
    }
    unreadable(config).map_or(Ok(()), |why| Err(Refusal::bad_request(why)))
}

/// What of a configuration this path applies.
fn applied(kind: &Kind, target: &Target, config: &Value) -> Value {
    let mut applied = config.clone();
    let Some(fields) = applied.as_object_mut() else { return applied };
    let of_status = target.subresource.as_deref() == Some("status");
    fields.retain(|field, _| match field.as_str() {
        "apiVersion" | "kind" => false,
        "status" => of_status || !kind.status,
        _ => !of_status,
    });
    if let Some(meta) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.retain(|field, _| !NOT_APPLIED.contains(&field.as_str()));
    }
    if fields.get("metadata").is_some_and(|meta| meta.as_object().is_some_and(serde_json::Map::is_empty)) {
        fields.remove("metadata");
    }
    applied
}

fn unreadable(object: &Value) -> Option<String> {
    if object.is_object() { metadata::unreadable(object) } else { Some("an object is expected".into()) }
}
