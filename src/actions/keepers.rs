//! Who else keeps a target as it should be, by the marks that they leave on it: Argo CD, Flux, and the controller that owns it. What
//! such a one keeps, an action changes in vain.

use serde_json::Value;

const TRACKING_ID: &str = "argocd.argoproj.io/tracking-id";
const INSTANCE: &str = "app.kubernetes.io/instance";
const FLUX_KUSTOMIZATION: &str = "kustomize.toolkit.fluxcd.io/name";
const FLUX_HELM_RELEASE: &str = "helm.toolkit.fluxcd.io/name";
/// Flux leaves alone what its author marks so.
const FLUX_RECONCILE: &str = "kustomize.toolkit.fluxcd.io/reconcile";
const FLUX_APPLY: &str = "kustomize.toolkit.fluxcd.io/ssa";
/// As whom the tools write (`metadata.managedFields`): Argo CD's constant for server-side apply, its name without, and Flux's two.
const ARGO_CD_MANAGERS: [&str; 2] = ["argocd-controller", "argocd-application-controller"];
const FLUX_MANAGERS: [&str; 2] = ["kustomize-controller", "helm-controller"];

/// Who keeps an object as somebody else wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keepers {
    /// The tool that keeps it as it is in Git, with the mark that tells: `Argo CD (annotation …)`.
    pub git_ops: Option<String>,
    /// The object whose controller made it: `Deployment/svc-a`.
    pub controller: Option<String>,
}

impl Keepers {
    /// Reads the marks of an object. `count` is the JSON pointer to its number of replicas.
    pub fn of(object: &Value, count: Option<&str>) -> Self {
        let owners = object["metadata"]["ownerReferences"].as_array();
        let controller = owners.into_iter().flatten().find(|owner| owner["controller"] == Value::Bool(true));
        let text = |value: &Value| value.as_str().unwrap_or_default().chars().take(253).collect::<String>();
        Self {
            git_ops: git_ops(object, count),
            controller: controller.map(|owner| format!("{}/{}", text(&owner["kind"]), text(&owner["name"]))),
        }
    }
}

fn git_ops(object: &Value, count: Option<&str>) -> Option<String> {
    let (annotations, labels) = (&object["metadata"]["annotations"], &object["metadata"]["labels"]);
    if annotations[TRACKING_ID].as_str().is_some_and(|id| is_of(id, object)) {
        return Some(format!("Argo CD (annotation {TRACKING_ID})"));
    }
    if labels[INSTANCE].is_string() && manages(object, &ARGO_CD_MANAGERS, None) {
        return Some(format!("Argo CD (label {INSTANCE}, and it manages fields)"));
    }
    let left_alone = annotations[FLUX_RECONCILE] == "disabled"
        || matches!(annotations[FLUX_APPLY].as_str(), Some("Ignore" | "IfNotPresent"));
    for label in [FLUX_KUSTOMIZATION, FLUX_HELM_RELEASE] {
        if labels[label].is_string() && !(left_alone && label == FLUX_KUSTOMIZATION) {
            return Some(format!("Flux (label {label})"));
        }
    }
    let count = count?;
    let by_fields = |managers| manages(object, managers, Some(count));
    if by_fields(&ARGO_CD_MANAGERS) {
        return Some(format!("Argo CD (it manages the field {count})"));
    }
    (!left_alone && by_fields(&FLUX_MANAGERS)).then(|| format!("Flux (it manages the field {count})"))
}

/// Whether a tracking id names this very object, as Argo CD itself checks: controllers copy annotations to what they make. Written as
/// `application:group/kind:namespace/name`; what is written otherwise counts as naming it.
fn is_of(id: &str, object: &Value) -> bool {
    let parts: Vec<&str> = id.split(':').collect();
    let [_, kind, name] = parts.as_slice() else { return true };
    let last = |text: &str| text.rsplit('/').next().unwrap_or_default().to_owned();
    object["kind"] == last(kind) && object["metadata"]["name"] == last(name)
}

/// Whether one of these managers has written the object, or this field of it.
fn manages(object: &Value, managers: &[&str], pointer: Option<&str>) -> bool {
    let entries = object["metadata"]["managedFields"].as_array();
    entries.into_iter().flatten().any(|entry| {
        let by_one = entry["manager"].as_str().is_some_and(|name| managers.contains(&name));
        by_one && entry["subresource"].is_null() && pointer.is_none_or(|pointer| has_field(&entry["fieldsV1"], pointer))
    })
}

fn has_field(fields: &Value, pointer: &str) -> bool {
    let mut at = fields;
    for part in pointer.split('/').skip(1) {
        match at.get(format!("f:{part}")) {
            Some(inner) => at = inner,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(meta: Value) -> Keepers {
        let mut object = json!({"kind": "Deployment", "metadata": {"name": "svc-a", "namespace": "shop"}});
        for (key, value) in meta.as_object().unwrap() {
            object["metadata"][key] = value.clone();
        }
        Keepers::of(&object, Some("/spec/replicas"))
    }

    fn fields(manager: &str, fields: Value) -> Value {
        json!([{"manager": manager, "operation": "Apply", "fieldsV1": fields}])
    }

    #[test]
    fn tools_are_known_by_the_marks_that_they_leave() {
        let replicas = json!({"f:spec": {"f:replicas": {}}});
        let other = json!({"f:spec": {"f:template": {}}});
        for (meta, tool) in [
            (json!({}), None),
            (json!({"annotations": {TRACKING_ID: "shop:apps/Deployment:shop/svc-a"}}), Some("Argo CD")),
            (json!({"annotations": {TRACKING_ID: "anything"}}), Some("Argo CD")),
            (json!({"annotations": {TRACKING_ID: "shop:apps/StatefulSet:shop/svc-a"}}), None),
            (json!({"annotations": {TRACKING_ID: "shop:apps/Deployment:shop/svc-b"}}), None),
            // Helm sets the same label.
            (json!({"labels": {INSTANCE: "shop"}}), None),
            (json!({"labels": {INSTANCE: "shop"}, "managedFields": fields("helm", replicas.clone())}), None),
            (
                json!({"labels": {INSTANCE: "shop"}, "managedFields": fields("argocd-controller", other.clone())}),
                Some("Argo CD"),
            ),
            (json!({"managedFields": fields("argocd-controller", replicas.clone())}), Some("Argo CD")),
            (json!({"managedFields": fields("argocd-controller", other.clone())}), None),
            (json!({"managedFields": fields("kubectl", replicas.clone())}), None),
            (json!({"labels": {FLUX_KUSTOMIZATION: "apps"}}), Some("Flux")),
            (json!({"labels": {FLUX_HELM_RELEASE: "shop"}}), Some("Flux")),
            (json!({"labels": {FLUX_KUSTOMIZATION: "apps"}, "annotations": {FLUX_RECONCILE: "disabled"}}), None),
            (json!({"labels": {FLUX_KUSTOMIZATION: "apps"}, "annotations": {FLUX_APPLY: "Ignore"}}), None),
            (json!({"labels": {FLUX_KUSTOMIZATION: "apps"}, "annotations": {FLUX_APPLY: "Merge"}}), Some("Flux")),
            (json!({"managedFields": fields("kustomize-controller", replicas.clone())}), Some("Flux")),
            (json!({"managedFields": fields("helm-controller", replicas)}), Some("Flux")),
            (json!({"managedFields": fields("helm-controller", other)}), None),
            // Whatever somebody writes there, nothing breaks.
            (json!({"managedFields": "x", "labels": 3, "annotations": [], "ownerReferences": {}}), None),
        ] {
            let found = of(meta.clone()).git_ops;
            assert_eq!(found.as_deref().map(|found| found.split(" (").next().unwrap()), tool, "{meta} {found:?}");
        }
    }

    #[test]
    fn only_the_controlling_owner_counts() {
        let owner = |controller: bool| json!({"kind": "Deployment", "name": "svc-a", "controller": controller});
        assert_eq!(of(json!({"ownerReferences": [owner(false)]})).controller, None);
        let owners = json!({"ownerReferences": [owner(false), owner(true)]});
        assert_eq!(of(owners).controller.as_deref(), Some("Deployment/svc-a"));
    }
}
