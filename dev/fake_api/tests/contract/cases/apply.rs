use serde_json::{Value, json};

use crate::place::{APPLY_PATCH, MERGE_PATCH, Place, condition, rule};

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

fn status(conditions: Value) -> Value {
    json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": "Rule", "metadata": {"name": "a"},
        "status": {"conditions": conditions}})
}

pub async fn an_apply_creates_what_is_missing_and_updates_what_is_there(at: &mut Place<'_>) {
    let created = at.patch(APPLY_PATCH, "configmaps/a?fieldManager=m", &map(json!({"k": "v"}))).await;
    created.is(201);
    let updated = at.patch(APPLY_PATCH, "configmaps/a?fieldManager=m", &map(json!({"k": "w"}))).await;
    assert_eq!((updated.is(200).meta("uid"), &updated.body["data"]["k"]), (created.meta("uid"), &json!("w")));
    let created = at.patch(APPLY_PATCH, "rules/a?fieldManager=m", &rule("a")).await;
    assert_eq!(created.is(201).meta("generation"), 1);
}

pub async fn an_apply_says_who_it_is_and_of_which_kind(at: &mut Place<'_>) {
    let refused = at.patch(APPLY_PATCH, "configmaps/a", &map(json!({}))).await;
    refused.refused(422, "Invalid").because(&[("FieldValueRequired", "fieldManager")]);
    at.patch(APPLY_PATCH, "configmaps/a?fieldManager=m", &json!({"metadata": {"name": "a"}}))
        .await
        .refused(400, "BadRequest");
    let mut other = map(json!({}));
    other["metadata"]["name"] = json!("b");
    at.patch(APPLY_PATCH, "configmaps/a?fieldManager=m", &other).await.refused(400, "BadRequest");
    let mut managed = map(json!({}));
    managed["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    at.patch(APPLY_PATCH, "configmaps/a?fieldManager=m", &managed).await.refused(400, "BadRequest");
}

pub async fn an_apply_of_what_another_has_said_is_a_conflict_unless_it_is_forced(at: &mut Place<'_>) {
    at.config_map("a", json!({}), json!({"k": "v", "l": "v"})).await;
    let refused = at.patch(APPLY_PATCH, "configmaps/a?fieldManager=m", &map(json!({"k": "w"}))).await;
    refused.refused(409, "Conflict").because(&[("FieldManagerConflict", ".data.k")]);
    // To say the same is none, and to say what nobody has said.
    at.patch(APPLY_PATCH, "configmaps/a?fieldManager=m", &map(json!({"k": "v", "n": "1"}))).await.is(200);
    at.patch(APPLY_PATCH, "configmaps/a?fieldManager=m", &map(json!({"k": "w", "n": "2"})))
        .await
        .refused(409, "Conflict");
    let forced =
        at.patch(APPLY_PATCH, "configmaps/a?fieldManager=m&force=true", &map(json!({"k": "w", "n": "2"}))).await;
    assert_eq!(forced.is(200).body["data"], json!({"k": "w", "l": "v", "n": "2"}));
    let refused = at.patch(APPLY_PATCH, "configmaps/a?fieldManager=o", &map(json!({"k": "x", "n": "x"}))).await;
    refused
        .refused(409, "Conflict")
        .because(&[("FieldManagerConflict", ".data.k"), ("FieldManagerConflict", ".data.n")]);
    // An update takes it over without asking.
    at.patch(MERGE_PATCH, "configmaps/a", &json!({"data": {"k": "y"}})).await.is(200);
    at.patch(APPLY_PATCH, "configmaps/a?fieldManager=m", &map(json!({"k": "w", "n": "2"})))
        .await
        .refused(409, "Conflict");
}

pub async fn an_apply_takes_back_what_it_says_no_more(at: &mut Place<'_>) {
    at.config_map("a", json!({}), json!({"theirs": "1"})).await;
    at.patch(APPLY_PATCH, "configmaps/a?fieldManager=m", &map(json!({"k": "1", "l": "1", "theirs": "1"})))
        .await
        .is(200);
    at.patch(APPLY_PATCH, "configmaps/a?fieldManager=o", &map(json!({"l": "1"}))).await.is(200);
    let less = at.patch(APPLY_PATCH, "configmaps/a?fieldManager=m", &map(json!({}))).await;
    assert_eq!(less.is(200).body["data"], json!({"l": "1", "theirs": "1"}));
    let less = at.patch(APPLY_PATCH, "configmaps/a?fieldManager=o", &map(json!({}))).await;
    assert_eq!(less.is(200).body["data"], json!({"theirs": "1"}));
}

pub async fn an_apply_that_says_the_same_keeps_the_version(at: &mut Place<'_>) {
    let first = at.patch(APPLY_PATCH, "configmaps/a?fieldManager=m", &map(json!({"k": "v"}))).await;
    let again = at.patch(APPLY_PATCH, "configmaps/a?fieldManager=m", &map(json!({"k": "v"}))).await;
    assert_eq!(again.is(200).meta("resourceVersion"), first.is(201).meta("resourceVersion"));
    // Who has said what is stored too.
    let other = at.patch(APPLY_PATCH, "configmaps/a?fieldManager=o", &map(json!({"k": "v"}))).await;
    assert_ne!(other.is(200).meta("resourceVersion"), first.meta("resourceVersion"));
}

pub async fn an_apply_of_a_status_merges_its_conditions(at: &mut Place<'_>) {
    at.post("rules", &rule("a")).await.is(201);
    let path = |manager: &str| format!("rules/a/status?fieldManager={manager}&force=true");
    at.patch(APPLY_PATCH, &path("m"), &status(json!([condition("Ready", "True")]))).await.is(200);
    let both = at.patch(APPLY_PATCH, &path("o"), &status(json!([condition("Storm", "False")]))).await;
    let names = |body: &Value| -> Vec<String> {
        let conditions = body["status"]["conditions"].as_array().into_iter().flatten();
        conditions.map(|condition| condition["type"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&both.is(200).body), ["Ready", "Storm"]);
    let changed = at.patch(APPLY_PATCH, &path("m"), &status(json!([condition("Ready", "False")]))).await;
    assert_eq!(changed.is(200).body["status"]["conditions"][0]["status"], "False");
    assert_eq!(changed.meta("generation"), 1);
    let gone = at.patch(APPLY_PATCH, &path("o"), &status(json!([]))).await;
    assert_eq!(names(&gone.is(200).body), ["Ready"]);
}

pub async fn an_apply_of_a_status_needs_its_object(at: &mut Place<'_>) {
    let refused =
        at.patch(APPLY_PATCH, "rules/a/status?fieldManager=m", &status(json!([condition("Ready", "True")]))).await;
    refused.refused(404, "NotFound");
}

pub async fn an_apply_of_an_old_version_or_another_uid_is_a_conflict(at: &mut Place<'_>) {
    let object = at.post("rules", &rule("a")).await.is(201).body.clone();
    let path = "rules/a/status?fieldManager=m&force=true";
    let mut config = status(json!([condition("Ready", "True")]));
    for field in ["uid", "resourceVersion"] {
        config["metadata"][field] = object["metadata"][field].clone();
    }
    at.patch(APPLY_PATCH, path, &config).await.is(200);
    config["status"]["conditions"][0]["status"] = json!("False");
    at.patch(APPLY_PATCH, path, &config).await.refused(409, "Conflict").because(&[]);
    config["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    at.patch(APPLY_PATCH, path, &config).await.is(200);
    // Of an object that is gone, and of one that has come in its place.
    let mut mine = map(json!({}));
    mine["metadata"]["uid"] = json!("another");
    at.patch(APPLY_PATCH, "configmaps/a?fieldManager=m", &mine).await.refused(409, "Conflict");
    at.config_map("a", json!({}), json!({})).await;
    let refused = at.patch(APPLY_PATCH, "configmaps/a?fieldManager=m", &mine).await;
    refused.refused(422, "Invalid").because(&[("FieldValueInvalid", "metadata.uid")]);
}

pub async fn an_apply_drops_what_it_cannot_say(at: &mut Place<'_>) {
    let mut config = rule("a");
    config["status"] = json!({"observedGeneration": 7});
    config["metadata"]["generation"] = json!(9);
    let created = at.patch(APPLY_PATCH, "rules/a?fieldManager=m", &config).await;
    assert_eq!((created.is(201).body.get("status"), created.meta("generation")), (None, &json!(1)));
    let mut config = status(json!([condition("Ready", "True")]));
    config["metadata"]["labels"] = json!({"x": "y"});
    let applied = at.patch(APPLY_PATCH, "rules/a/status?fieldManager=m", &config).await;
    assert!(applied.is(200).meta("labels").is_null());
}
