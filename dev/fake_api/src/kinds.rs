//! What the server knows of each kind: its name, its scope, its subresources, and what moves its generation.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

/// The collection in which definitions of custom kinds are kept.
pub(crate) const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// The collection of namespaces.
pub(crate) const NAMESPACES: &str = "/api/v1/namespaces";

/// What moves `metadata.generation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    /// Nothing: it has one only where it was created with one.
    Never,
    /// A change of the spec.
    Spec,
    /// A Deployment hands its annotations on.
    SpecAndAnnotations,
    /// Custom kinds: whatever is neither metadata nor a status of its own.
    AllButMetadata,
}

/// A kind that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Empty for the core group.
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    /// Empty where nobody has said it.
    pub(crate) kind: String,
    pub(crate) namespaced: bool,
    /// Whether the status is a subresource.
    pub(crate) status: bool,
    pub(crate) generation: Generation,
    /// Whether a definition makes it.
    pub(crate) custom: bool,
}

impl Kind {
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// As messages name it: `deployments.apps`.
    pub(crate) fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Whether a replacement may leave out the version that it is based on.
    pub(crate) fn takes_unconditional_updates(&self) -> bool {
        !self.custom && !["admissionregistration.k8s.io", "apiextensions.k8s.io"].contains(&self.group.as_str())
    }

    /// The group and version of a collection, as in its path.
    pub(crate) fn root(collection: &str) -> &str {
        collection.rsplit_once('/').map_or(collection, |(root, _)| root)
    }

    fn of(collection: &str, kind: &str, namespaced: bool, status: bool, generation: Generation, custom: bool) -> Self {
        let parts: Vec<&str> = collection.trim_start_matches('/').split('/').collect();
        let (group, version, plural) = match parts.as_slice() {
            ["api", version, plural] => ("", *version, *plural),
            [_, group, version, plural] => (*group, *version, *plural),
            _ => ("", "", collection),
        };
        let own = |text: &str| text.to_owned();
        Self {
            group: own(group),
            version: own(version),
            plural: own(plural),
            kind: own(kind),
            namespaced,
            status,
            generation,
            custom,
        }
    }
}

/// Kubernetes' own: collection, kind, whether it is of a namespace, whether it has a status subresource, what moves its generation.
const BUILT_IN: [(&str, &str, bool, bool, Generation); 18] = [
    ("/api/v1/configmaps", "ConfigMap", true, false, Generation::Never),
    ("/api/v1/events", "Event", true, false, Generation::Never),
    (NAMESPACES, "Namespace", false, true, Generation::Never),
    ("/api/v1/replicationcontrollers", "ReplicationController", true, true, Generation::Spec),
    ("/api/v1/secrets", "Secret", true, false, Generation::Never),
    ("/api/v1/services", "Service", true, true, Generation::Never),
    (
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
        "ValidatingAdmissionPolicy",
        false,
        true,
        Generation::Spec,
    ),
    (
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        false,
        false,
        Generation::Spec,
    ),
    (DEFINITIONS, "CustomResourceDefinition", false, true, Generation::Spec),
    ("/apis/apps/v1/controllerrevisions", "ControllerRevision", true, false, Generation::Never),
    ("/apis/apps/v1/daemonsets", "DaemonSet", true, true, Generation::Spec),
    ("/apis/apps/v1/deployments", "Deployment", true, true, Generation::SpecAndAnnotations),
    ("/apis/apps/v1/replicasets", "ReplicaSet", true, true, Generation::Spec),
    ("/apis/apps/v1/statefulsets", "StatefulSet", true, true, Generation::Spec),
    ("/apis/autoscaling/v2/horizontalpodautoscalers", "HorizontalPodAutoscaler", true, true, Generation::Spec),
    ("/apis/coordination.k8s.io/v1/leases", "Lease", true, false, Generation::Never),
    ("/apis/events.k8s.io/v1/events", "Event", true, false, Generation::Never),
    ("/apis/policy/v1/poddisruptionbudgets", "PodDisruptionBudget", true, true, Generation::Spec),
];

/// EventPulse's, so that a test need not put their definitions first; a test below holds them to `crds/`.
const EVENTPULSE: [(&str, &str, bool); 7] = [
    ("/apis/eventpulse.io/v1alpha1/actions", "Action", true),
    ("/apis/eventpulse.io/v1alpha1/alertgroups", "AlertGroup", false),
    ("/apis/eventpulse.io/v1alpha1/incidents", "Incident", true),
    ("/apis/eventpulse.io/v1alpha1/notificationchannels", "NotificationChannel", true),
    ("/apis/eventpulse.io/v1alpha1/notifications", "Notification", false),
    ("/apis/eventpulse.io/v1alpha1/rules", "Rule", true),
    ("/apis/eventpulse.io/v1alpha1/runbooks", "Runbook", true),
];

/// Every kind that is served, by collection.
pub(crate) struct Kinds(BTreeMap<String, Arc<Kind>>);

impl Default for Kinds {
    fn default() -> Self {
        let built_in = BUILT_IN.iter().map(|(collection, kind, namespaced, status, generation)| {
            (*collection, Kind::of(collection, kind, *namespaced, *status, *generation, false))
        });
        let own = EVENTPULSE.iter().map(|(collection, kind, status)| {
            (*collection, Kind::of(collection, kind, true, *status, Generation::AllButMetadata, true))
        });
        Self(built_in.chain(own).map(|(collection, kind)| (collection.to_owned(), Arc::new(kind))).collect())
    }
}

impl Kinds {
    pub(crate) fn get(&self, collection: &str) -> Option<Arc<Kind>> {
        self.0.get(collection).cloned()
    }

    /// Whether something of this group and version is served: `/apis/apps/v1`.
    pub(crate) fn has_root(&self, root: &str) -> bool {
        self.0.keys().any(|collection| Kind::root(collection) == root)
    }

    /// The kind of a collection that a test puts something into: if nobody has said what it is, it is what its first object says.
    pub(crate) fn of_test(&mut self, collection: &str, object: &Value) -> Arc<Kind> {
        let kind = self.0.entry(collection.to_owned()).or_insert_with(|| {
            let namespaced = object["metadata"]["namespace"].is_string();
            let name = object["kind"].as_str().unwrap_or_default();
            Arc::new(Kind::of(collection, name, namespaced, true, Generation::AllButMetadata, true))
        });
        Arc::clone(kind)
    }

    /// Takes what a definition says over.
    pub(crate) fn define(&mut self, definition: &Value) {
        let (spec, text) = (&definition["spec"], |value: &Value| value.as_str().unwrap_or_default().to_owned());
        for (collection, version) in served(definition) {
            let kind = Kind::of(
                &collection,
                &text(&spec["names"]["kind"]),
                spec["scope"] == "Namespaced",
                version["subresources"]["status"].is_object(),
                Generation::AllButMetadata,
                true,
            );
            self.0.insert(collection, Arc::new(kind));
        }
    }

    /// What a definition says is no longer served.
    pub(crate) fn forget(&mut self, definition: &Value) {
        for (collection, _) in served(definition) {
            self.0.remove(&collection);
        }
    }
}

/// The collections that a definition makes, each with its version.
fn served(definition: &Value) -> impl Iterator<Item = (String, &Value)> {
    let spec = &definition["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, plural) = (text(&spec["group"]), text(&spec["names"]["plural"]));
    let versions = spec["versions"].as_array().into_iter().flatten().filter(|version| version["served"] == true);
    versions.map(move |version| {
        let name = version["name"].as_str().unwrap_or_default();
        (format!("/apis/{group}/{name}/{plural}"), version)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_here_of_eventpulses_kinds_is_what_their_definitions_say() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crds");
        let mut defined = Kinds(BTreeMap::new());
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            defined.define(&serde_norway::from_str(&text).unwrap());
        }
        let known = Kinds::default().0.into_iter().filter(|(_, kind)| kind.custom);
        assert_eq!(known.collect::<Vec<_>>(), defined.0.into_iter().collect::<Vec<_>>());
        assert_eq!(EVENTPULSE.len(), std::fs::read_dir(folder).unwrap().count());
    }

    #[test]
    fn a_kind_is_served_as_long_as_its_definition_is_there_and_in_the_versions_that_it_serves() {
        let version =
            |name: &str, served: bool| serde_json::json!({"name": name, "served": served, "subresources": {}});
        let definition = serde_json::json!({"spec": {"group": "example.com", "scope": "Cluster",
            "names": {"plural": "widgets", "kind": "Widget"}, "versions": [version("v1", true), version("v2", false)]}});
        let mut kinds = Kinds::default();
        kinds.define(&definition);
        let widget = kinds.get("/apis/example.com/v1/widgets").unwrap();
        assert_eq!((widget.kind.as_str(), widget.namespaced, widget.status), ("Widget", false, false));
        assert!(kinds.get("/apis/example.com/v2/widgets").is_none());
        kinds.forget(&definition);
        assert!(!kinds.has_root("/apis/example.com/v1"));
    }

    #[test]
    fn a_kind_is_named_as_messages_name_it() {
        let kinds = Kinds::default();
        let names = |collection: &str| {
            let kind = kinds.get(collection).unwrap();
            (kind.resource(), kind.api_version())
        };
        assert_eq!(names("/api/v1/secrets"), ("secrets".into(), "v1".into()));
        assert_eq!(names("/apis/apps/v1/deployments"), ("deployments.apps".into(), "apps/v1".into()));
        assert!(kinds.has_root("/apis/apps/v1") && !kinds.has_root("/apis/apps/v2"));
    }
}
