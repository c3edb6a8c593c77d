//! What the server tells of custom kinds by discovery: what their definitions say. Of Kubernetes' own it tells nothing.

use serde_json::{Value, json};

/// `/apis`, or the resources of a group and version; none for a path of which there is nothing.
pub(crate) fn answer<'a>(definitions: impl Iterator<Item = &'a Value>, path: &str) -> Option<Value> {
    match path.strip_prefix("/apis/") {
        None if path == "/apis" => Some(groups(definitions)),
        None => None,
        Some(group_version) => {
            let (group, version) = group_version.split_once('/')?;
            resources(definitions, group, version)
        }
    }
}

fn versions(definition: &Value) -> impl Iterator<Item = &Value> {
    definition["spec"]["versions"].as_array().into_iter().flatten().filter(|version| version["served"] == true)
}

fn groups<'a>(definitions: impl Iterator<Item = &'a Value>) -> Value {
    let group_of = |definition: &Value| {
        let group = &definition["spec"]["group"];
        let version = |known: &Value| {
            let (group, name) = (group.as_str()?, known["name"].as_str()?);
            Some(json!({"groupVersion": format!("{group}/{name}"), "version": name}))
        };
        json!({"name": group, "versions": versions(definition).filter_map(version).collect::<Vec<_>>()})
    };
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": definitions.map(group_of).collect::<Vec<_>>()})
}

fn resources<'a>(definitions: impl Iterator<Item = &'a Value>, group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for definition in definitions.filter(|definition| definition["spec"]["group"] == group) {
        let spec = &definition["spec"];
        let Some(served) = versions(definition).find(|known| known["name"] == version) else { continue };
        let (plural, namespaced) = (spec["names"]["plural"].as_str()?, spec["scope"] == "Namespaced");
        let resource = |name: String, kind: &Value| json!({"name": name, "singularName": "", "kind": kind, "namespaced": namespaced, "verbs": []});
        resources.push(resource(plural.to_owned(), &spec["names"]["kind"]));
        if !served["subresources"]["scale"].is_null() {
            resources.push(resource(format!("{plural}/scale"), &json!("Scale")));
        }
    }
    let group_version = format!("{group}/{version}");
    let list =
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources});
    (!resources.is_empty()).then_some(list)
}
