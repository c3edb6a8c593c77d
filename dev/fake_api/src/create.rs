//! New objects (k8s.io/apiserver/pkg/registry/rest/create.go).

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    answer::{Cause, Refusal},
    apply::Owners,
    commit::Origin,
    kinds::{Generation, Kind, NAMESPACES},
    metadata,
    path::{Target, key},
    state::{State, Stored},
};

/// What the server alone writes.
const SYSTEM: [&str; 6] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields"];

impl State {
    pub(crate) fn create(
        &mut self,
        kind: &Kind,
        target: &Target,
        mut object: Value,
        owners: Owners,
        origin: &Origin,
    ) -> Result<Arc<Stored>, Refusal> {
        if let Some(meta) = object["metadata"].as_object_mut() {
            meta.retain(|field, _| !SYSTEM.contains(&field.as_str()));
        }
        let namespace = target.namespace.as_deref().unwrap_or_default();
        place(&mut object, kind, namespace)?;
        let name = metadata::text(&object, "name").to_owned();
        self.check_namespace(kind, namespace, &name)?;
        if kind.status {
            object.as_object_mut().and_then(|map| map.remove("status"));
        }
        metadata::tidy(kind, &mut object);
        let causes: Vec<Cause> =
            metadata::check_name(kind, &name).into_iter().chain(metadata::check(&object)).collect();
        if !causes.is_empty() {
            return Err(Refusal::invalid(&kind.group, &kind.kind, &name, causes));
        }
        if !matches!(metadata::text(&object, "resourceVersion"), "" | "0") {
            return Err(Refusal::internal("resourceVersion should not be set on objects to be created"));
        }
        let key = key(if kind.namespaced { namespace } else { "" }, &name);
        if self.find(&target.collection, &key).is_some() {
            return Err(Refusal::already_exists(kind, &name));
        }
        let meta = &mut object["metadata"];
        meta["uid"] = json!(self.next_uid());
        meta["creationTimestamp"] = json!(origin.time());
        match kind.generation {
            // It is whatever somebody says.
            Generation::Never => {}
            _ => meta["generation"] = json!(1),
        }
        if target.collection == NAMESPACES {
            meta["labels"]["kubernetes.io/metadata.name"] = json!(name);
            object["spec"]["finalizers"] = json!(["kubernetes"]);
            object["status"] = json!({"phase": "Active"});
        }
        Ok(self.store(&target.collection, key, object, Arc::new(owners), origin))
    }

    /// Of the object that is stored next.
    pub(crate) fn next_uid(&self) -> String {
        format!("uid-{}", self.version + 1)
    }

    /// Nothing is created in a namespace that ends, and, if a test wants it so, in one that is not there.
    fn check_namespace(&self, kind: &Kind, namespace: &str, name: &str) -> Result<(), Refusal> {
        if !kind.namespaced {
            return Ok(());
        }
        match self.find(NAMESPACES, namespace) {
            Some(found) => {
                let ends = found.value["status"]["phase"] == "Terminating"
                    || !metadata::text(&found.value, "deletionTimestamp").is_empty();
                if ends { Err(Refusal::terminating(kind, name, namespace)) } else { Ok(()) }
            }
            None if self.namespaces_must_exist => match self.kinds.get(NAMESPACES) {
                Some(namespaces) => Err(Refusal::not_found(&namespaces, namespace)),
                None => Ok(()),
            },
            None => Ok(()),
        }
    }
}

/// An object is of the namespace that the request is of.
pub(crate) fn place(object: &mut Value, kind: &Kind, namespace: &str) -> Result<(), Refusal> {
    let namespace = if kind.namespaced { namespace } else { "" };
    match metadata::text(object, "namespace") {
        said if said == namespace => {}
        _ if namespace.is_empty() => drop(object["metadata"].as_object_mut().and_then(|meta| meta.remove("namespace"))),
        "" => object["metadata"]["namespace"] = json!(namespace),
        _ => {
            let message = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(Refusal::bad_request(message));
        }
    }
    Ok(())
}
