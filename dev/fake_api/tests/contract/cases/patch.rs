use http::Method;
use serde_json::{Value, json};

use crate::place::{APPLY_PATCH, JSON_PATCH, MERGE_PATCH, Place, condition, config_map, rule, workload};

fn test(field: &str, value: &Value) -> Value {
    json!({"op": "test", "path": format!("/metadata/{field}"), "value": value})
}

pub async fn a_json_patch_applies_whole_or_not_at_all(at: &mut Place<'_>) {
    let object = at.post("deployments", &workload("Deployment", "a")).await.is(201).body.clone();
    let tests = |object: &Value| ["uid", "resourceVersion"].map(|field| test(field, &object["metadata"][field]));
    let [uid, version] = tests(&object);
    let patch = json!([uid, version, {"op": "replace", "path": "/spec/replicas", "value": 5},
        {"op": "add", "path": "/metadata/annotations", "value": {}},
        {"op": "add", "path": "/metadata/annotations/eventpulse.io~1applied", "value": "1"}]);
    let patched = at.patch(JSON_PATCH, "deployments/a", &patch).await;
    assert_eq!((&patched.is(200).body["spec"]["replicas"], patched.meta("generation")), (&json!(5), &json!(2)));
    assert_eq!(patched.meta("annotations")["eventpulse.io/applied"], "1");
    // The same once more meets another version.
    at.patch(JSON_PATCH, "deployments/a", &patch).await.refused(422, "Invalid").because(&[]);
    let half = json!([{"op": "replace", "path": "/spec/replicas", "value": 7},
        {"op": "test", "path": "/spec/replicas", "value": 5}]);
    at.patch(JSON_PATCH, "deployments/a", &half).await.refused(422, "Invalid").because(&[]);
    assert_eq!(at.get("deployments/a").await.body["spec"]["replicas"], 5);
}

pub async fn a_failed_test_is_refused_without_causes(at: &mut Place<'_>) {
    at.post("rules", &rule("a")).await.is(201);
    at.post("deployments", &workload("Deployment", "a")).await.is(201);
    for path in ["rules/a", "deployments/a"] {
        for patch in [
            json!([test("uid", &json!("another"))]),
            json!([test("resourceVersion", &json!("1"))]),
            json!([test("nothing", &json!("x"))]),
        ] {
            at.patch(JSON_PATCH, path, &patch).await.refused(422, "Invalid").because(&[]);
        }
    }
}

pub async fn a_json_patch_of_a_path_that_is_absent_is_refused_without_causes(at: &mut Place<'_>) {
    at.config_map("a", json!({}), json!({"k": "v"})).await;
    at.post("rules", &rule("a")).await.is(201);
    for path in ["configmaps/a", "rules/a"] {
        for operation in [
            json!({"op": "replace", "path": "/nothing/x", "value": 1}),
            json!({"op": "remove", "path": "/metadata/nothing"}),
            json!({"op": "add", "path": "/nothing/x", "value": 1}),
            json!({"op": "copy", "path": "/metadata/labels", "from": "/nothing/x"}),
            json!({"op": "move", "path": "/metadata/labels", "from": "/nothing"}),
            json!({"op": "test", "path": "/nothing/x", "value": null}),
            json!({"op": "replace", "path": "/metadata/finalizers/0", "value": "a.b/c"}),
        ] {
            at.patch(JSON_PATCH, path, &json!([operation])).await.refused(422, "Invalid").because(&[]);
        }
    }
}

pub async fn a_member_that_is_absent_counts_as_null(at: &mut Place<'_>) {
    for (path, object) in [("configmaps", config_map("a", json!({}), json!({"k": "v"}))), ("rules", rule("a"))] {
        at.post(path, &object).await.is(201);
        let named = format!("{path}/a");
        let replace = json!([{"op": "replace", "path": "/metadata/labels", "value": {"x": "y"}}]);
        assert_eq!(at.patch(JSON_PATCH, &named, &replace).await.is(200).meta("labels")["x"], "y");
        let copy = json!([{"op": "copy", "path": "/metadata/labels", "from": "/metadata/annotations"}]);
        assert!(at.patch(JSON_PATCH, &named, &copy).await.is(200).meta("labels").is_null());
        let test = json!([{"op": "test", "path": "/metadata/labels", "value": null}]);
        at.patch(JSON_PATCH, &named, &test).await.is(200);
    }
}

pub async fn an_annotation_needs_its_map(at: &mut Place<'_>) {
    for (path, object) in [("configmaps", config_map("a", json!({}), json!({}))), ("rules", rule("a"))] {
        at.post(path, &object).await.is(201);
        let named = format!("{path}/a");
        let add = json!({"op": "add", "path": "/metadata/annotations/x", "value": "y"});
        at.patch(JSON_PATCH, &named, &json!([add])).await.refused(422, "Invalid").because(&[]);
        let map = json!({"op": "add", "path": "/metadata/annotations", "value": {}});
        let patched = at.patch(JSON_PATCH, &named, &json!([map, add])).await;
        assert_eq!(patched.is(200).meta("annotations"), &json!({"x": "y"}));
        // A map that is empty again is none.
        let remove = json!([{"op": "remove", "path": "/metadata/annotations/x"}]);
        assert!(at.patch(JSON_PATCH, &named, &remove).await.is(200).meta("annotations").is_null());
        at.patch(JSON_PATCH, &named, &json!([add])).await.refused(422, "Invalid").because(&[]);
    }
}

pub async fn a_json_patch_that_is_none_is_refused(at: &mut Place<'_>) {
    at.config_map("a", json!({}), json!({"k": "v"})).await;
    at.patch(JSON_PATCH, "configmaps/a", &json!({"op": "test"})).await.refused(400, "BadRequest");
    at.patch(JSON_PATCH, "configmaps/a", &json!(7)).await.refused(400, "BadRequest");
    at.send(Method::PATCH, "configmaps/a", Some(JSON_PATCH), b"[".to_vec()).await.refused(400, "BadRequest");
    let unknown = json!([{"op": "add", "path": "/data/k", "value": "w"}, {"op": "burn", "path": "/data/k"}]);
    at.patch(JSON_PATCH, "configmaps/a", &unknown).await.refused(422, "Invalid").because(&[]);
    assert_eq!(at.get("configmaps/a").await.body["data"]["k"], "v");
}

pub async fn a_patch_cannot_make_another_object_of_it(at: &mut Place<'_>) {
    for (path, object) in [("configmaps", config_map("a", json!({}), json!({}))), ("rules", rule("a"))] {
        at.post(path, &object).await.is(201);
        let named = format!("{path}/a");
        let replace = |field: &str, value: &str| json!({"metadata": {field: value}});
        at.patch(MERGE_PATCH, &named, &replace("name", "b")).await.refused(400, "BadRequest");
        at.patch(MERGE_PATCH, &named, &replace("namespace", "b")).await.refused(400, "BadRequest");
        let refused = at.patch(MERGE_PATCH, &named, &replace("uid", "b")).await;
        refused.refused(422, "Invalid").because(&[("FieldValueInvalid", "metadata.uid")]);
        at.patch(MERGE_PATCH, &named, &replace("creationTimestamp", "2020-01-01T00:00:00Z")).await.is(200);
        let refused = at.patch(MERGE_PATCH, &named, &replace("deletionTimestamp", "2020-01-01T00:00:00Z")).await;
        refused.refused(422, "Invalid").because(&[("FieldValueInvalid", "metadata.deletionTimestamp")]);
    }
}

pub async fn a_patch_cannot_make_what_is_no_object(at: &mut Place<'_>) {
    at.config_map("a", json!({}), json!({})).await;
    for patch in [json!({"metadata": {"labels": 7}}), json!({"metadata": {"finalizers": {"a": 1}}})] {
        at.patch(MERGE_PATCH, "configmaps/a", &patch)
            .await
            .refused(422, "Invalid")
            .because(&[("FieldValueInvalid", "patch")]);
    }
    let refused = at.patch(MERGE_PATCH, "configmaps/a", &json!({"metadata": {"labels": {"a": "no good"}}})).await;
    refused.refused(422, "Invalid").because(&[("FieldValueInvalid", "metadata.labels")]);
}

pub async fn a_json_patch_that_changes_nothing_keeps_the_version(at: &mut Place<'_>) {
    at.post("rules", &rule("a")).await.is(201);
    let object = at.get("rules/a").await.body;
    let version = &object["metadata"]["resourceVersion"];
    for patch in [
        json!([]),
        json!([test("resourceVersion", version)]),
        json!([{"op": "replace", "path": "/spec/suspend", "value": false}]),
        json!([{"op": "add", "path": "/status", "value": {"observedGeneration": 4}}]),
    ] {
        assert_eq!(at.patch(JSON_PATCH, "rules/a", &patch).await.is(200).meta("resourceVersion"), version, "{patch}");
    }
}

pub async fn a_merge_patch_adds_and_takes_out(at: &mut Place<'_>) {
    let object = at.config_map("a", json!({"x": "y"}), json!({"k": "v", "l": "w"})).await;
    let patch = json!({"data": {"k": null, "m": "n"}, "metadata": {"labels": {"x": null, "z": "1"}}});
    let patched = at.patch(MERGE_PATCH, "configmaps/a", &patch).await;
    assert_eq!(patched.is(200).body["data"], json!({"l": "w", "m": "n"}));
    assert_eq!(patched.meta("labels"), &json!({"z": "1"}));
    let again = at.patch(MERGE_PATCH, "configmaps/a", &patch).await;
    assert_eq!(again.is(200).meta("resourceVersion"), patched.meta("resourceVersion"));
    assert_ne!(patched.meta("resourceVersion"), &object["metadata"]["resourceVersion"]);
}

pub async fn a_merge_patch_of_an_old_version_is_a_conflict(at: &mut Place<'_>) {
    let object = at.config_map("a", json!({}), json!({"k": "v"})).await;
    let patch = |value: &str| json!({"metadata": {"resourceVersion": object["metadata"]["resourceVersion"]}, "data": {"k": value}});
    at.patch(MERGE_PATCH, "configmaps/a", &patch("w")).await.is(200);
    at.patch(MERGE_PATCH, "configmaps/a", &patch("x")).await.refused(409, "Conflict");
}

pub async fn a_merge_patch_that_is_none_is_refused(at: &mut Place<'_>) {
    at.config_map("a", json!({}), json!({})).await;
    for body in ["[", "[]", "7"] {
        at.send(Method::PATCH, "configmaps/a", Some(MERGE_PATCH), body.into()).await.refused(400, "BadRequest");
    }
}

pub async fn a_patch_in_a_format_that_is_unknown_is_refused(at: &mut Place<'_>) {
    at.post("rules", &rule("a")).await.is(201);
    for format in ["application/json", "text/plain", "application/strategic-merge-patch+json"] {
        at.patch(format, "rules/a", &json!({})).await.refused(415, "UnsupportedMediaType");
    }
    at.send(Method::PATCH, "rules/a", None, b"{}".to_vec()).await.refused(415, "UnsupportedMediaType");
}

pub async fn a_patch_of_a_status_changes_nothing_else(at: &mut Place<'_>) {
    at.post("rules", &rule("a")).await.is(201);
    let patch = json!({"spec": {"suspend": true}, "metadata": {"labels": {"x": "y"}},
        "status": {"observedGeneration": 1, "conditions": [condition("Ready", "True")]}});
    let patched = at.patch(MERGE_PATCH, "rules/a/status", &patch).await;
    assert_eq!((&patched.is(200).body["spec"]["suspend"], patched.meta("labels")), (&json!(false), &json!(null)));
    let patch = json!([{"op": "replace", "path": "/status/observedGeneration", "value": 2},
        {"op": "replace", "path": "/spec/suspend", "value": true}]);
    let patched = at.patch(JSON_PATCH, "rules/a/status", &patch).await;
    assert_eq!(
        (&patched.is(200).body["spec"]["suspend"], &patched.body["status"]["observedGeneration"]),
        (&json!(false), &json!(2))
    );
    // And a patch of the object leaves the status alone.
    let patched = at.patch(MERGE_PATCH, "rules/a", &json!({"status": null, "spec": {"suspend": true}})).await;
    assert_eq!(patched.is(200).body["status"]["observedGeneration"], 2);
}

pub async fn only_an_apply_can_be_forced(at: &mut Place<'_>) {
    at.config_map("a", json!({}), json!({})).await;
    let refused = at.patch(MERGE_PATCH, "configmaps/a?force=true", &json!({})).await;
    refused.refused(422, "Invalid").because(&[("FieldValueForbidden", "force")]);
    let refused = at.patch(APPLY_PATCH, "configmaps/a?force=true", &json!({})).await;
    refused.refused(422, "Invalid").because(&[("FieldValueRequired", "fieldManager")]);
}
