//! What an update may change, and what follows from it (k8s.io/apiserver/pkg/registry/rest/update.go, generic/registry/store.go).

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    answer::{Cause, Refusal},
    apply::Owners,
    commit::Origin,
    create::place,
    kinds::{Generation, Kind},
    metadata,
    path::Target,
    state::{State, Stored},
};

impl State {
    pub(crate) fn replace(
        &mut self,
        kind: &Kind,
        target: &Target,
        object: Value,
        origin: &Origin,
    ) -> Result<Arc<Stored>, Refusal> {
        let known = self.read(kind, target)?;
        let uid = metadata::text(&object, "uid");
        let is_another = !uid.is_empty() && known.value["metadata"]["uid"] != uid;
        let name = target.name.as_deref().unwrap_or_default();
        if is_another {
            return Err(Refusal::conflict(kind, name, "the UID in the precondition does not match the UID in record"));
        }
        self.update(kind, target, &known, object, None, origin)
    }

    pub(crate) fn read(&self, kind: &Kind, target: &Target) -> Result<Arc<Stored>, Refusal> {
        let name = target.name.as_deref().unwrap_or_default();
        let found = self.find(&target.collection, &target.key()).cloned();
        found.ok_or_else(|| Refusal::not_found(kind, name))
    }

    /// Stores what of `new` this path may change. `owners`: who owns its fields after an apply; after anything else what changed is an
    /// updater's. Gives the object as it is answered.
    pub(crate) fn update(
        &mut self,
        kind: &Kind,
        target: &Target,
        known: &Arc<Stored>,
        mut new: Value,
        owners: Option<Owners>,
        origin: &Origin,
    ) -> Result<Arc<Stored>, Refusal> {
        let before = &known.value;
        let name = metadata::text(before, "name").to_owned();
        place(&mut new, kind, metadata::text(before, "namespace"))?;
        check_name(&new, &name)?;
        check_version(kind, before, &new, &name)?;
        if target.subresource.as_deref() == Some("status") {
            let status = new.get("status").cloned();
            new = Value::clone(before);
            set(&mut new, "status", status.as_ref());
        } else {
            keep(kind, before, &mut new);
            let causes = changed_for_good(before, &new);
            if !causes.is_empty() {
                return Err(Refusal::invalid(&kind.group, &kind.kind, &name, causes));
            }
            if moves_generation(kind, before, &new) {
                let generation = before["metadata"]["generation"].as_i64().unwrap_or(0);
                new["metadata"]["generation"] = json!(generation + 1);
            }
        }
        let is_deleting = !metadata::text(before, "deletionTimestamp").is_empty();
        if is_deleting && metadata::finalizers(&new).next().is_none() {
            self.remove(&target.collection, &target.key(), origin);
            return Ok(Arc::new(Stored::new(new, Arc::default())));
        }
        let owners = match owners {
            Some(owners) => Arc::new(owners),
            None if known.owners.is_empty() => Arc::clone(&known.owners),
            None => Arc::new(known.owners.after_update(before, &new)),
        };
        if new == **before && *owners == *known.owners {
            return Ok(Arc::clone(known));
        }
        Ok(self.store(&target.collection, target.key(), new, owners, origin))
    }
}

/// An object has the name that the request is of.
pub(crate) fn check_name(new: &Value, name: &str) -> Result<(), Refusal> {
    let said = metadata::text(new, "name");
    if said == name {
        return Ok(());
    }
    let message = format!("the name of the object ({said}) does not match the name on the URL ({name})");
    Err(Refusal::bad_request(message))
}

/// An update is based on the version that is there, or, where that is allowed, on none.
fn check_version(kind: &Kind, before: &Value, new: &Value, name: &str) -> Result<(), Refusal> {
    match metadata::text(new, "resourceVersion") {
        "" | "0" if kind.takes_unconditional_updates() => Ok(()),
        "" | "0" => {
            let cause = Cause::invalid("metadata.resourceVersion", "must be specified for an update");
            Err(Refusal::invalid(&kind.group, &kind.plural, name, vec![cause]))
        }
        version if version == metadata::text(before, "resourceVersion") => Ok(()),
        version if version.parse::<u64>().is_err() => Err(Refusal::internal(format!("{version:?} is no version"))),
        _ => {
            let why = "the object has been modified; please apply your changes to the latest version and try again";
            Err(Refusal::conflict(kind, name, why))
        }
    }
}

/// Takes over from the object what an update of it cannot change.
fn keep(kind: &Kind, before: &Value, new: &mut Value) {
    if kind.status {
        set(new, "status", before.get("status"));
    }
    for field in ["apiVersion", "kind"] {
        set(new, field, before.get(field));
    }
    for field in ["resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink"] {
        metadata::take_over(new, field, before);
    }
    // They may be left out; changing them is another matter.
    for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let is_deleting = field == "deletionTimestamp" && before["metadata"].get(field).is_some();
        if new["metadata"][field].is_null() || is_deleting {
            metadata::take_over(new, field, before);
        }
    }
    metadata::tidy(kind, new);
}

/// What was changed that cannot be.
fn changed_for_good(before: &Value, new: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if !metadata::text(before, "deletionTimestamp").is_empty() {
        let known: Vec<&str> = metadata::finalizers(before).collect();
        if metadata::finalizers(new).any(|finalizer| !known.contains(&finalizer)) {
            let message = "no new finalizers can be added if the object is being deleted";
            causes.push(Cause::forbidden("metadata.finalizers", message));
        }
    }
    for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if before["metadata"][field] != new["metadata"][field] {
            causes.push(Cause::invalid(format!("metadata.{field}"), "field is immutable"));
        }
    }
    causes.extend(metadata::check(new));
    causes
}

fn moves_generation(kind: &Kind, before: &Value, new: &Value) -> bool {
    let annotations = |object: &Value| object["metadata"]["annotations"].clone();
    match kind.generation {
        Generation::Never => false,
        Generation::Spec => before["spec"] != new["spec"],
        Generation::SpecAndAnnotations => before["spec"] != new["spec"] || annotations(before) != annotations(new),
        Generation::AllButMetadata => {
            let fields = |object: &'_ Value| object.as_object().map_or(0, serde_json::Map::len);
            let is_same = |(field, value): (&String, &Value)| field == "metadata" || before.get(field) == Some(value);
            fields(before) != fields(new) || !new.as_object().into_iter().flatten().all(is_same)
        }
    }
}

fn set(object: &mut Value, field: &str, value: Option<&Value>) {
    match value {
        Some(value) => object[field] = value.clone(),
        None => drop(object.as_object_mut().and_then(|map| map.remove(field))),
    }
}
