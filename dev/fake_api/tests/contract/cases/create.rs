use http::Method;
use serde_json::json;

use crate::place::{JSON, Place, config_map, rule, workload};

pub async fn a_new_object_has_what_the_server_gives_it(at: &mut Place<'_>) {
    let created = at.config_map("a", json!({"app": "x"}), json!({"k": "v"})).await;
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        assert!(created["metadata"][field].is_string(), "{created}");
    }
    let read = at.get("configmaps/a").await;
    assert_eq!(read.is(200).body, created);
    let created = at.post("rules", &rule("a")).await;
    assert_eq!(created.is(201).meta("generation"), 1);
    at.post("deployments", &workload("Deployment", "a")).await.is(201);
}

pub async fn a_name_that_is_taken_is_refused(at: &mut Place<'_>) {
    at.config_map("a", json!({}), json!({"k": "v"})).await;
    at.post("configmaps", &config_map("a", json!({}), json!({"k": "w"}))).await.refused(409, "AlreadyExists");
    at.post("rules", &rule("a")).await.is(201);
    at.post("rules", &rule("a")).await.refused(409, "AlreadyExists");
    assert_eq!(at.get("configmaps/a").await.body["data"]["k"], "v");
}

pub async fn a_name_that_can_be_none_is_refused(at: &mut Place<'_>) {
    for name in ["Bad", "a_b", "-a", "a/b", &"a".repeat(254)] {
        let refused = at.post("configmaps", &config_map(name, json!({}), json!({}))).await;
        refused.refused(422, "Invalid");
        assert_eq!(refused.body["details"]["causes"][0]["field"], "metadata.name");
    }
    let refused = at.post("rules", &rule("A")).await;
    refused.refused(422, "Invalid");
    assert_eq!(refused.body["details"]["causes"][0]["field"], "metadata.name");
}

pub async fn an_object_without_a_name_is_refused(at: &mut Place<'_>) {
    let nameless = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}});
    let refused = at.post("configmaps", &nameless).await;
    refused.refused(422, "Invalid").because(&[("FieldValueRequired", "metadata.name")]);
}

pub async fn an_object_of_another_namespace_is_refused(at: &mut Place<'_>) {
    let mut object = config_map("a", json!({}), json!({}));
    object["metadata"]["namespace"] = json!("elsewhere");
    at.post("configmaps", &object).await.refused(400, "BadRequest");
    let mut object = rule("a");
    object["metadata"]["namespace"] = json!("elsewhere");
    at.post("rules", &object).await.refused(400, "BadRequest");
}

pub async fn an_object_of_another_kind_is_refused(at: &mut Place<'_>) {
    at.post("configmaps", &workload("Deployment", "a")).await.refused(400, "BadRequest");
    at.post("rules", &config_map("a", json!({}), json!({}))).await.refused(400, "BadRequest");
    let mut other = rule("a");
    other["apiVersion"] = json!("eventpulse.io/v9");
    at.post("rules", &other).await.refused(400, "BadRequest");
    // Kubernetes' own kinds need not say what they are.
    at.post("configmaps", &json!({"metadata": {"name": "a"}})).await.is(201);
    at.post("rules", &json!({"metadata": {"name": "a"}, "spec": rule("a")["spec"]})).await.refused(400, "BadRequest");
}

pub async fn a_body_that_is_no_object_is_refused(at: &mut Place<'_>) {
    for body in ["{", "[]", "7", "\"a\"", ""] {
        at.send(Method::POST, "configmaps", Some(JSON), body.into()).await.refused(400, "BadRequest");
        at.send(Method::POST, "rules", Some(JSON), body.into()).await.refused(400, "BadRequest");
    }
    let mut object = config_map("a", json!({}), json!({}));
    object["metadata"]["labels"] = json!({"a": 1});
    at.post("configmaps", &object).await.refused(400, "BadRequest");
}

pub async fn a_body_in_a_format_that_is_unknown_is_refused(at: &mut Place<'_>) {
    let body = config_map("a", json!({}), json!({})).to_string();
    for format in ["text/plain", "application/x-www-form-urlencoded"] {
        at.send(Method::POST, "configmaps", Some(format), body.clone().into())
            .await
            .refused(415, "UnsupportedMediaType");
    }
    at.send(Method::POST, "configmaps", Some("application/json; charset=utf-8"), body.into()).await.is(201);
}

pub async fn what_the_server_alone_writes_is_not_taken_from_a_client(at: &mut Place<'_>) {
    let mut object = rule("a");
    object["metadata"]["uid"] = json!("mine");
    object["metadata"]["creationTimestamp"] = json!("2020-01-01T00:00:00Z");
    object["metadata"]["deletionTimestamp"] = json!("2020-01-01T00:00:00Z");
    object["metadata"]["generation"] = json!(7);
    let created = at.post("rules", &object).await;
    created.is(201);
    assert_eq!((created.meta("generation"), created.meta("deletionTimestamp")), (&json!(1), &json!(null)));
    assert!(created.meta("uid") != "mine" && created.meta("creationTimestamp") != "2020-01-01T00:00:00Z");
}

pub async fn a_new_object_has_no_version_yet(at: &mut Place<'_>) {
    let mut object = config_map("a", json!({}), json!({}));
    object["metadata"]["resourceVersion"] = json!("7");
    at.post("configmaps", &object).await.is(500);
    object["metadata"]["resourceVersion"] = json!("");
    at.post("configmaps", &object).await.is(201);
}

pub async fn the_status_of_a_new_object_is_dropped(at: &mut Place<'_>) {
    let mut object = rule("a");
    object["status"] = json!({"observedGeneration": 7});
    assert!(at.post("rules", &object).await.is(201).body.get("status").is_none());
}

pub async fn labels_and_annotations_that_can_be_none_are_refused(at: &mut Place<'_>) {
    for (field, map) in [
        ("labels", json!({"a b": "x"})),
        ("labels", json!({"a": "no good"})),
        ("labels", json!({"a": "x".repeat(64)})),
        ("annotations", json!({"a b": "x"})),
        ("annotations", json!({"a": "x".repeat(256 * 1024)})),
    ] {
        for (path, mut object) in [("configmaps", config_map("a", json!({}), json!({}))), ("rules", rule("a"))] {
            object["metadata"][field] = map.clone();
            let refused = at.post(path, &object).await;
            refused.refused(422, "Invalid");
            assert_eq!(refused.body["details"]["causes"][0]["field"], format!("metadata.{field}"));
        }
    }
}

pub async fn nothing_is_created_in_a_namespace_that_is_missing(at: &mut Place<'_>) {
    let refused = at.post("/api/v1/namespaces/nowhere/configmaps", &config_map("a", json!({}), json!({}))).await;
    refused.refused(404, "NotFound");
    assert_eq!(refused.body["details"]["kind"], "namespaces");
    at.post("/apis/eventpulse.io/v1alpha1/namespaces/nowhere/rules", &rule("a")).await.refused(404, "NotFound");
}

pub async fn nothing_is_created_in_a_namespace_that_ends(at: &mut Place<'_>) {
    let kept = at.config_map("kept", json!({}), json!({"k": "v"})).await;
    let ended = format!("/api/v1/namespaces/{}", at.namespace);
    let answer = at.delete(&ended).await;
    assert_eq!(answer.is(200).body["status"]["phase"], "Terminating");
    let refused = at.post("configmaps", &config_map("a", json!({}), json!({}))).await;
    refused.refused(403, "Forbidden").because(&[("NamespaceTerminating", "metadata.namespace")]);
    at.post("rules", &rule("a")).await.refused(403, "Forbidden");
    // What is there can be changed and deleted.
    let mut changed = kept;
    changed["data"]["k"] = json!("w");
    at.put("configmaps/kept", &changed).await.is(200);
    at.delete("configmaps/kept").await.is(200);
}

pub async fn metadata_that_says_nothing_is_dropped(at: &mut Place<'_>) {
    for (path, mut object) in [("configmaps", config_map("a", json!({}), json!({}))), ("rules", rule("a"))] {
        object["metadata"]["annotations"] = json!({});
        object["metadata"]["finalizers"] = json!([]);
        object["metadata"]["ownerReferences"] = json!(null);
        object["metadata"]["generateName"] = json!("");
        let created = at.post(path, &object).await;
        created.is(201);
        for field in ["labels", "annotations", "finalizers", "ownerReferences", "generateName"] {
            assert!(created.meta(field).is_null(), "{path} {field}");
        }
    }
}
