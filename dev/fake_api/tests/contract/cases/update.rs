use serde_json::{Value, json};

use crate::place::{Place, alert_group, condition, config_map, rule, workload};

fn version(object: &Value) -> &Value {
    &object["metadata"]["resourceVersion"]
}

async fn created(at: &mut Place<'_>, path: &str, object: &Value) -> Value {
    at.post(path, object).await.is(201).body.clone()
}

pub async fn a_replacement_of_an_old_version_is_a_conflict(at: &mut Place<'_>) {
    for (path, object) in [("configmaps", config_map("a", json!({}), json!({"k": "v"}))), ("rules", rule("a"))] {
        let first = created(at, path, &object).await;
        let mut second = first.clone();
        second["metadata"]["labels"] = json!({"n": "2"});
        at.put(&format!("{path}/a"), &second).await.is(200);
        let mut third = first;
        third["metadata"]["labels"] = json!({"n": "3"});
        at.put(&format!("{path}/a"), &third).await.refused(409, "Conflict").because(&[]);
        assert_eq!(at.get(&format!("{path}/a")).await.meta("labels")["n"], "2");
    }
}

pub async fn a_replacement_without_a_version(at: &mut Place<'_>) {
    created(at, "configmaps", &config_map("a", json!({}), json!({"k": "v"}))).await;
    at.put("configmaps/a", &config_map("a", json!({}), json!({"k": "w"}))).await.is(200);
    created(at, "rules", &rule("a")).await;
    let refused = at.put("rules/a", &rule("a")).await;
    refused.refused(422, "Invalid").because(&[("FieldValueInvalid", "metadata.resourceVersion")]);
}

pub async fn a_version_of_a_replacement_that_is_no_number(at: &mut Place<'_>) {
    for (path, object) in [("configmaps", config_map("a", json!({}), json!({}))), ("rules", rule("a"))] {
        let mut object = created(at, path, &object).await;
        object["metadata"]["resourceVersion"] = json!("seven");
        at.put(&format!("{path}/a"), &object).await.is(500);
    }
}

pub async fn a_replacement_of_another_uid_is_a_conflict(at: &mut Place<'_>) {
    for (path, object) in [("configmaps", config_map("a", json!({}), json!({}))), ("rules", rule("a"))] {
        let mut object = created(at, path, &object).await;
        object["metadata"]["uid"] = json!("another");
        at.put(&format!("{path}/a"), &object).await.refused(409, "Conflict");
        object["metadata"].as_object_mut().unwrap().remove("uid");
        at.put(&format!("{path}/a"), &object).await.is(200);
    }
}

pub async fn a_replacement_of_another_name_is_refused(at: &mut Place<'_>) {
    let mut object = created(at, "configmaps", &config_map("a", json!({}), json!({}))).await;
    object["metadata"]["name"] = json!("b");
    at.put("configmaps/a", &object).await.refused(400, "BadRequest");
    let mut object = created(at, "rules", &rule("a")).await;
    object["metadata"]["namespace"] = json!("elsewhere");
    at.put("rules/a", &object).await.refused(400, "BadRequest");
}

pub async fn a_replacement_that_changes_nothing_keeps_the_version(at: &mut Place<'_>) {
    for (path, object) in [("configmaps", config_map("a", json!({"x": "y"}), json!({"k": "v"}))), ("rules", rule("a"))]
    {
        let object = created(at, path, &object).await;
        let mut same = object.clone();
        same["metadata"]["generation"] = json!(9);
        same["metadata"]["creationTimestamp"] = json!(null);
        same["metadata"]["finalizers"] = json!([]);
        let answer = at.put(&format!("{path}/a"), &same).await;
        assert_eq!(version(&answer.is(200).body), version(&object));
    }
}

pub async fn a_replacement_drops_what_it_does_not_say(at: &mut Place<'_>) {
    let object = created(at, "configmaps", &config_map("a", json!({"x": "y"}), json!({"k": "v", "l": "w"}))).await;
    let mut fewer = object.clone();
    fewer["metadata"].as_object_mut().unwrap().remove("labels");
    fewer["data"] = json!({"l": "w"});
    let answer = at.put("configmaps/a", &fewer).await;
    assert_eq!((answer.is(200).meta("labels"), &answer.body["data"]), (&json!(null), &json!({"l": "w"})));
    for field in ["uid", "creationTimestamp"] {
        assert_eq!(answer.meta(field), &object["metadata"][field]);
    }
}

pub async fn times_and_generations_are_the_servers(at: &mut Place<'_>) {
    let object = created(at, "rules", &rule("a")).await;
    let mut other = object.clone();
    other["metadata"]["creationTimestamp"] = json!("2020-01-01T00:00:00Z");
    other["metadata"]["generation"] = json!(9);
    other["metadata"]["labels"] = json!({"x": "y"});
    let answer = at.put("rules/a", &other).await;
    assert_eq!(answer.is(200).meta("generation"), 1);
    assert_eq!(answer.meta("creationTimestamp"), &object["metadata"]["creationTimestamp"]);
}

pub async fn a_deletion_cannot_be_written(at: &mut Place<'_>) {
    for (path, object) in [("configmaps", config_map("a", json!({}), json!({}))), ("rules", rule("a"))] {
        let mut object = created(at, path, &object).await;
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let refused = at.put(&format!("{path}/a"), &object).await;
        refused.refused(422, "Invalid").because(&[("FieldValueInvalid", "metadata.deletionTimestamp")]);
    }
}

/// Changes one thing after the other, and gives the generation after each.
async fn generations(at: &mut Place<'_>, path: &str, changes: &[(&str, Value)]) -> Vec<i64> {
    let mut generations = Vec::new();
    for (pointer, value) in changes {
        let mut object = at.get(path).await.body;
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[field] = value.clone();
        let answer = at.put(path, &object).await;
        generations.push(answer.is(200).meta("generation").as_i64().unwrap_or(0));
    }
    generations
}

pub async fn the_generation_of_a_custom_object_moves_with_its_content(at: &mut Place<'_>) {
    created(at, "rules", &rule("a")).await;
    let changes = [
        ("/metadata/labels", json!({"x": "y"})),
        ("/metadata/annotations", json!({"x": "y"})),
        ("/spec/suspend", json!(true)),
        ("/spec/suspend", json!(true)),
        ("/spec/groupBy", json!(["service"])),
    ];
    assert_eq!(generations(at, "rules/a", &changes).await, [1, 1, 2, 2, 3]);
    created(at, "alertgroups", &alert_group("a")).await;
    let changes = [("/metadata/labels", json!({"x": "y"})), ("/spec/changedAt", json!("2026-01-02T00:00:00Z"))];
    assert_eq!(generations(at, "alertgroups/a", &changes).await, [1, 2]);
}

pub async fn the_generation_of_a_deployment_moves_with_its_annotations_too(at: &mut Place<'_>) {
    created(at, "deployments", &workload("Deployment", "a")).await;
    let changes = [
        ("/metadata/labels", json!({"x": "y"})),
        ("/metadata/annotations", json!({"x": "y"})),
        ("/spec/replicas", json!(4)),
        ("/spec/template/metadata/annotations", json!({"x": "y"})),
    ];
    assert_eq!(generations(at, "deployments/a", &changes).await, [1, 2, 3, 4]);
}

pub async fn the_generation_of_other_workloads_moves_with_their_spec_only(at: &mut Place<'_>) {
    let mut set = workload("StatefulSet", "a");
    set["spec"]["serviceName"] = json!("a");
    created(at, "statefulsets", &set).await;
    let changes = [("/metadata/annotations", json!({"x": "y"})), ("/spec/replicas", json!(4))];
    assert_eq!(generations(at, "statefulsets/a", &changes).await, [1, 2]);
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"});
    let metric = json!({"type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}});
    let spec = json!({"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 5, "metrics": [metric]});
    let scaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "a"}, "spec": spec});
    created(at, "horizontalpodautoscalers", &scaler).await;
    let changes = [("/metadata/annotations", json!({"x": "y"})), ("/spec/minReplicas", json!(2))];
    assert_eq!(generations(at, "horizontalpodautoscalers/a", &changes).await, [1, 2]);
}

pub async fn some_kinds_have_no_generation(at: &mut Place<'_>) {
    let mut object = config_map("a", json!({}), json!({}));
    assert_eq!(created(at, "configmaps", &object).await["metadata"].get("generation"), None);
    assert_eq!(generations(at, "configmaps/a", &[("/data", json!({"k": "v"}))]).await, [0]);
    // But nobody keeps a client from saying one.
    object["metadata"]["name"] = json!("b");
    object["metadata"]["generation"] = json!(7);
    assert_eq!(created(at, "configmaps", &object).await["metadata"]["generation"], 7);
    assert_eq!(generations(at, "configmaps/b", &[("/data", json!({"k": "v"}))]).await, [7]);
}

pub async fn a_status_is_not_written_with_the_object(at: &mut Place<'_>) {
    let mut object = created(at, "rules", &rule("a")).await;
    object["status"] = json!({"observedGeneration": 1});
    let answer = at.put("rules/a", &object).await;
    assert_eq!((answer.is(200).body.get("status"), version(&answer.body)), (None, version(&object)));
    let mut object = at.put("rules/a/status", &object).await.is(200).body.clone();
    assert_eq!(object["status"]["observedGeneration"], 1);
    object["status"] = json!({"observedGeneration": 5});
    object["spec"]["suspend"] = json!(true);
    let answer = at.put("rules/a", &object).await;
    assert_eq!(
        (&answer.is(200).body["status"], answer.meta("generation")),
        (&json!({"observedGeneration": 1}), &json!(2))
    );
    object["metadata"]["resourceVersion"] = version(&answer.body).clone();
    object.as_object_mut().unwrap().remove("status");
    assert_eq!(at.put("rules/a", &object).await.is(200).body["status"]["observedGeneration"], 1);
}

pub async fn nothing_but_the_status_is_written_as_a_status(at: &mut Place<'_>) {
    let object = created(at, "rules", &rule("a")).await;
    let mut other = object.clone();
    other["metadata"]["labels"] = json!({"x": "y"});
    other["metadata"]["finalizers"] = json!(["a.b/c"]);
    other["metadata"]["annotations"] = json!({"x": "y"});
    other["spec"]["suspend"] = json!(true);
    other["status"] = json!({"conditions": [condition("Ready", "True")]});
    let answer = at.put("rules/a/status", &other).await;
    assert_eq!((&answer.is(200).body["spec"], answer.meta("generation")), (&object["spec"], &json!(1)));
    for field in ["labels", "finalizers", "annotations"] {
        assert!(answer.meta(field).is_null(), "{field}");
    }
    assert_ne!(version(&answer.body), version(&object));
    // Without one it is taken out.
    let mut none = answer.body;
    none.as_object_mut().unwrap().remove("status");
    assert_eq!(at.put("rules/a/status", &none).await.is(200).body.get("status"), None);
}

pub async fn a_status_of_an_old_version_is_a_conflict(at: &mut Place<'_>) {
    let mut object = created(at, "rules", &rule("a")).await;
    object["status"] = json!({"observedGeneration": 1});
    at.put("rules/a/status", &object).await.is(200);
    object["status"] = json!({"observedGeneration": 2});
    at.put("rules/a/status", &object).await.refused(409, "Conflict");
    object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let refused = at.put("rules/a/status", &object).await;
    refused.refused(422, "Invalid").because(&[("FieldValueInvalid", "metadata.resourceVersion")]);
}

pub async fn a_status_that_changes_nothing_keeps_the_version(at: &mut Place<'_>) {
    let mut object = created(at, "rules", &rule("a")).await;
    object["status"] = json!({"observedGeneration": 1});
    let written = at.put("rules/a/status", &object).await.is(200).body.clone();
    let mut again = written.clone();
    again["metadata"]["labels"] = json!({"x": "y"});
    assert_eq!(version(&at.put("rules/a/status", &again).await.is(200).body), version(&written));
}
