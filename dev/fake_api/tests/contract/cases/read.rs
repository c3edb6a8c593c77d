use http::Method;
use serde_json::json;

use crate::place::{JSON_PATCH, MERGE_PATCH, Place, alert_group, config_map, rule};

pub async fn what_is_not_there_is_not_found(at: &mut Place<'_>) {
    for (path, object) in [("configmaps", config_map("a", json!({}), json!({}))), ("rules", rule("a"))] {
        let named = format!("{path}/a");
        at.get(&named).await.refused(404, "NotFound");
        at.delete(&named).await.refused(404, "NotFound");
        at.patch(MERGE_PATCH, &named, &json!({"data": {}})).await.refused(404, "NotFound");
        at.patch(JSON_PATCH, &named, &json!([])).await.refused(404, "NotFound");
        let mut versioned = object.clone();
        versioned["metadata"]["resourceVersion"] = json!("1");
        at.put(&named, &versioned).await.refused(404, "NotFound");
    }
    let mut versioned = rule("a");
    versioned["metadata"]["resourceVersion"] = json!("1");
    at.put("rules/a/status", &versioned).await.refused(404, "NotFound");
}

pub async fn a_path_at_which_nothing_is_served_has_no_status(at: &mut Place<'_>) {
    for path in ["/nothing", "/apis/nowhere.io/v1/things", "/apis/nowhere.io/v1/namespaces/a/things/b"] {
        assert!(at.get(path).await.is(404).body.is_null());
    }
}

pub async fn a_resource_that_a_group_has_not_is_not_found(at: &mut Place<'_>) {
    for path in ["/api/v1/things", "/apis/apps/v1/things"] {
        at.get(path).await.is(404);
    }
}

pub async fn a_method_that_a_path_has_not_is_refused(at: &mut Place<'_>) {
    at.config_map("a", json!({}), json!({})).await;
    at.post("rules", &rule("a")).await.is(201);
    at.post("configmaps/a", &config_map("a", json!({}), json!({}))).await.refused(405, "MethodNotAllowed");
    // Custom kinds do not mind a name in the path.
    at.post("rules/a", &rule("a")).await.refused(409, "AlreadyExists");
    at.put("configmaps", &config_map("a", json!({}), json!({}))).await.refused(405, "MethodNotAllowed");
    at.patch(MERGE_PATCH, "configmaps", &json!({})).await.refused(405, "MethodNotAllowed");
    at.put("rules", &rule("a")).await.refused(400, "BadRequest");
    at.patch(MERGE_PATCH, "rules", &json!({})).await.refused(400, "BadRequest");
    at.send(Method::DELETE, "rules/a/status", None, Vec::new()).await.refused(405, "MethodNotAllowed");
    at.post("rules/a/status", &rule("a")).await.refused(405, "MethodNotAllowed");
}

pub async fn a_subresource_that_a_kind_has_not_is_not_found(at: &mut Place<'_>) {
    at.config_map("a", json!({}), json!({})).await;
    at.post("alertgroups", &alert_group("a")).await.is(201);
    at.get("configmaps/a/status").await.refused(404, "NotFound");
    at.get("alertgroups/a/status").await.refused(404, "NotFound");
    at.put("alertgroups/a/status", &alert_group("a")).await.refused(404, "NotFound");
    at.post("rules", &rule("a")).await.is(201);
    at.get("rules/a/status").await.is(200);
    at.get("rules/a/other").await.refused(404, "NotFound");
}

pub async fn the_scope_of_a_kind_is_part_of_its_paths(at: &mut Place<'_>) {
    at.get("/api/v1/configmaps/a").await.is(404);
    at.get(&format!("/api/v1/namespaces/{}", at.namespace)).await.is(200);
    at.post("/apis/eventpulse.io/v1alpha1/rules", &rule("a")).await.is(404);
}
