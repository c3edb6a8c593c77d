use http::Method;
use serde_json::{Value, json};

use crate::place::{JSON, JSON_PATCH, MERGE_PATCH, Place, config_map, rule};

fn held(mut object: Value) -> Value {
    object["metadata"]["finalizers"] = json!(["eventpulse.io/claim"]);
    object
}

fn kinds() -> [(&'static str, Value); 2] {
    [("configmaps", config_map("a", json!({}), json!({"k": "v"}))), ("rules", rule("a"))]
}

pub async fn a_deletion_says_what_is_gone(at: &mut Place<'_>) {
    for (path, object) in kinds() {
        let created = at.post(path, &object).await;
        let gone = at.delete(&format!("{path}/a")).await;
        assert_eq!((&gone.is(200).body["kind"], &gone.body["status"]), (&json!("Status"), &json!("Success")));
        assert_eq!(&gone.body["details"]["uid"], created.is(201).meta("uid"));
        at.get(&format!("{path}/a")).await.refused(404, "NotFound");
        let again = at.post(path, &object).await;
        assert_ne!(again.is(201).meta("uid"), created.meta("uid"));
    }
}

pub async fn a_finalizer_holds_an_object_until_it_is_taken_out(at: &mut Place<'_>) {
    for (path, object) in kinds() {
        let created = at.post(path, &held(object)).await.is(201).body.clone();
        let named = format!("{path}/a");
        let marked = at.delete(&named).await;
        assert!(marked.is(200).meta("deletionTimestamp").is_string());
        assert_eq!(marked.meta("deletionGracePeriodSeconds"), 0);
        assert_ne!(marked.meta("resourceVersion"), &created["metadata"]["resourceVersion"]);
        let again = at.delete(&named).await;
        assert_eq!(again.is(200).meta("resourceVersion"), marked.meta("resourceVersion"));
        let mut free = marked.body;
        free["metadata"]["finalizers"] = json!([]);
        free["metadata"].as_object_mut().unwrap().remove("deletionTimestamp");
        let answer = at.put(&named, &free).await;
        assert!(answer.is(200).meta("finalizers").is_null() && answer.meta("deletionTimestamp").is_string());
        at.get(&named).await.refused(404, "NotFound");
    }
}

pub async fn a_finalizer_is_taken_out_by_a_patch_too(at: &mut Place<'_>) {
    for (path, object) in kinds() {
        at.post(path, &held(object)).await.is(201);
        let named = format!("{path}/a");
        at.delete(&named).await.is(200);
        let patch = json!([{"op": "remove", "path": "/metadata/finalizers/0"}]);
        at.patch(JSON_PATCH, &named, &patch).await.is(200);
        at.get(&named).await.refused(404, "NotFound");
    }
}

pub async fn an_object_that_is_being_deleted_can_be_written_and_not_created(at: &mut Place<'_>) {
    for (path, object) in kinds() {
        at.post(path, &held(object.clone())).await.is(201);
        let named = format!("{path}/a");
        at.delete(&named).await.is(200);
        at.patch(MERGE_PATCH, &named, &json!({"metadata": {"labels": {"x": "y"}}})).await.is(200);
        at.post(path, &object).await.refused(409, "AlreadyExists");
    }
    let mut object = at.get("rules/a").await.body;
    object["status"] = json!({"observedGeneration": 2});
    assert!(at.put("rules/a/status", &object).await.is(200).meta("deletionTimestamp").is_string());
    object["spec"]["suspend"] = json!(true);
    at.put("rules/a", &object).await.refused(409, "Conflict");
}

pub async fn an_object_that_is_being_deleted_gets_no_new_finalizers(at: &mut Place<'_>) {
    for (path, object) in kinds() {
        at.post(path, &held(object)).await.is(201);
        let named = format!("{path}/a");
        at.delete(&named).await.is(200);
        let patch = json!([{"op": "add", "path": "/metadata/finalizers/-", "value": "eventpulse.io/other"}]);
        let refused = at.patch(JSON_PATCH, &named, &patch).await;
        refused.refused(422, "Invalid").because(&[("FieldValueForbidden", "metadata.finalizers")]);
    }
}

pub async fn a_precondition_that_does_not_hold_is_a_conflict(at: &mut Place<'_>) {
    for (path, object) in kinds() {
        for held_too in [false, true] {
            let object = if held_too { held(object.clone()) } else { object.clone() };
            let first = at.post(path, &object).await.is(201).body.clone();
            let named = format!("{path}/a");
            let second = at.patch(MERGE_PATCH, &named, &json!({"metadata": {"labels": {"x": "y"}}})).await.body;
            let with = |field: &str, value: &Value| json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {field: value}});
            at.delete_with(&named, &with("uid", &json!("another"))).await.refused(409, "Conflict");
            let old = with("resourceVersion", &first["metadata"]["resourceVersion"]);
            at.delete_with(&named, &old).await.refused(409, "Conflict");
            let both = json!({"preconditions": {"uid": second["metadata"]["uid"],
                "resourceVersion": second["metadata"]["resourceVersion"]}});
            at.delete_with(&named, &both).await.is(200);
            if held_too {
                at.patch(MERGE_PATCH, &named, &json!({"metadata": {"finalizers": null}})).await.is(200);
            }
            at.get(&named).await.refused(404, "NotFound");
        }
    }
}

pub async fn a_deletion_in_the_foreground_is_a_finalizer(at: &mut Place<'_>) {
    for (path, object) in kinds() {
        at.post(path, &object).await.is(201);
        let named = format!("{path}/a");
        let marked = at.delete_with(&named, &json!({"propagationPolicy": "Foreground"})).await;
        assert_eq!(marked.is(200).meta("finalizers"), &json!(["foregroundDeletion"]));
        at.patch(MERGE_PATCH, &named, &json!({"metadata": {"finalizers": null}})).await.is(200);
        at.get(&named).await.refused(404, "NotFound");
        at.post(path, &object).await.is(201);
        at.delete_with(&named, &json!({"propagationPolicy": "Background"})).await.is(200);
        at.get(&named).await.refused(404, "NotFound");
    }
}

pub async fn options_that_cannot_be_read_are_refused(at: &mut Place<'_>) {
    at.config_map("a", json!({}), json!({})).await;
    at.send(Method::DELETE, "configmaps/a", Some(JSON), b"{".to_vec()).await.refused(400, "BadRequest");
    at.send(Method::DELETE, "configmaps/a", Some("text/plain"), b"{}".to_vec())
        .await
        .refused(415, "UnsupportedMediaType");
    at.delete_with("configmaps/a", &json!({"preconditions": {"uid": 7}})).await.refused(400, "BadRequest");
    at.get("configmaps/a").await.is(200);
}
