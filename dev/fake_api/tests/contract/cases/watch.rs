use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::place::{MERGE_PATCH, Place, alert_group, config_map, rule};

/// `ADDED a`, and so on.
fn told(events: &[Value]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    events
        .iter()
        .map(|event| format!("{} {}", text(&event["type"]), text(&event["object"]["metadata"]["name"])))
        .collect()
}

/// The version that the newest change has made.
async fn now(at: &mut Place<'_>) -> String {
    at.get("configmaps").await.meta("resourceVersion").as_str().unwrap().to_owned()
}

async fn end(at: &mut Place<'_>) {
    at.config_map("end", json!({"app": "x"}), json!({})).await;
}

async fn label(at: &mut Place<'_>, name: &str, labels: Value) {
    at.patch(MERGE_PATCH, &format!("configmaps/{name}"), &json!({"metadata": {"labels": labels}})).await.is(200);
}

pub async fn a_watch_tells_what_happens_after_its_version(at: &mut Place<'_>) {
    at.config_map("before", json!({}), json!({})).await;
    let since = now(at).await;
    let mut watching = at.watch(&format!("configmaps?watch=1&resourceVersion={since}")).await;
    at.config_map("a", json!({}), json!({"k": "v"})).await;
    label(at, "a", json!({"x": "y"})).await;
    label(at, "before", json!({"x": "y"})).await;
    at.delete("configmaps/a").await.is(200);
    end(at).await;
    let events = at.events_until(&mut watching, "end").await;
    assert_eq!(told(&events), ["ADDED a", "MODIFIED a", "MODIFIED before", "DELETED a", "ADDED end"]);
    assert_eq!(events[0]["object"]["kind"], "ConfigMap");
    let versions: Vec<u64> = events
        .iter()
        .map(|event| event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(versions.windows(2).all(|pair| pair[0] < pair[1]), "{versions:?}");
    assert_eq!(events[3]["object"]["metadata"]["labels"], json!({"x": "y"}), "as it was last");
}

pub async fn a_watch_without_a_version_begins_with_what_is_there(at: &mut Place<'_>) {
    for name in ["b", "a"] {
        at.config_map(name, json!({}), json!({})).await;
    }
    label(at, "a", json!({"x": "y"})).await;
    // A cache that has told this version knows what was before.
    now(at).await;
    for query in ["", "&resourceVersion=0"] {
        let mut watching = at.watch(&format!("configmaps?watch=true{query}")).await;
        let events = at.events(&mut watching, 2).await;
        assert_eq!(told(&events), ["ADDED a", "ADDED b"]);
        assert_eq!(events[0]["object"]["metadata"]["labels"], json!({"x": "y"}));
        label(at, "b", json!({"x": query.len().to_string()})).await;
        assert_eq!(told(&at.events(&mut watching, 1).await), ["MODIFIED b"]);
    }
}

pub async fn a_watch_goes_on_where_another_ended(at: &mut Place<'_>) {
    let since = now(at).await;
    let mut watching = at.watch(&format!("configmaps?watch=1&resourceVersion={since}")).await;
    at.config_map("a", json!({}), json!({})).await;
    at.config_map("b", json!({}), json!({})).await;
    let last = at.events(&mut watching, 1).await.remove(0);
    drop(watching);
    at.delete("configmaps/a").await.is(200);
    let since = last["object"]["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watching = at.watch(&format!("configmaps?watch=1&resourceVersion={since}")).await;
    end(at).await;
    let events = at.events_until(&mut watching, "end").await;
    assert_eq!(told(&events), ["ADDED b", "DELETED a", "ADDED end"]);
}

pub async fn a_label_selector_makes_changes_come_and_go(at: &mut Place<'_>) {
    at.config_map("in", json!({"app": "x"}), json!({"k": "v"})).await;
    at.config_map("out", json!({"app": "y"}), json!({})).await;
    let since = now(at).await;
    let mut watching = at.watch(&format!("configmaps?watch=1&labelSelector=app%3Dx&resourceVersion={since}")).await;
    label(at, "out", json!({"app": "x"})).await;
    label(at, "out", json!({"n": "1"})).await;
    label(at, "in", json!({"app": "z"})).await;
    label(at, "in", json!({"n": "1"})).await;
    at.delete("configmaps/in").await.is(200);
    at.delete("configmaps/out").await.is(200);
    end(at).await;
    let events = at.events_until(&mut watching, "end").await;
    assert_eq!(told(&events), ["ADDED out", "MODIFIED out", "DELETED in", "DELETED out", "ADDED end"]);
    assert_eq!(events[2]["object"]["metadata"]["labels"], json!({"app": "x"}), "as it was when it was asked for");
    let mut watching = at.watch("configmaps?watch=1&labelSelector=app%3Dx").await;
    assert_eq!(told(&at.events(&mut watching, 1).await), ["ADDED end"]);
}

pub async fn a_field_selector_tells_of_one_name(at: &mut Place<'_>) {
    let since = now(at).await;
    let path = format!("configmaps?watch=1&fieldSelector=metadata.name%3Dend&resourceVersion={since}");
    let mut watching = at.watch(&path).await;
    at.config_map("a", json!({}), json!({})).await;
    end(at).await;
    label(at, "a", json!({"x": "y"})).await;
    label(at, "end", json!({"x": "y"})).await;
    assert_eq!(told(&at.events(&mut watching, 2).await), ["ADDED end", "MODIFIED end"]);
}

pub async fn what_changes_nothing_is_not_told(at: &mut Place<'_>) {
    let object = at.config_map("a", json!({"x": "y"}), json!({})).await;
    let since = now(at).await;
    let mut watching = at.watch(&format!("configmaps?watch=1&resourceVersion={since}")).await;
    label(at, "a", json!({"x": "y"})).await;
    at.put("configmaps/a", &object).await.is(200);
    at.post("configmaps", &object).await;
    let mut old = object;
    old["metadata"]["resourceVersion"] = json!("1");
    at.put("configmaps/a", &old).await.refused(409, "Conflict");
    end(at).await;
    assert_eq!(told(&at.events_until(&mut watching, "end").await), ["ADDED end"]);
}

pub async fn a_status_is_told_like_any_change(at: &mut Place<'_>) {
    let created = at.post("rules", &rule("a")).await.is(201).body.clone();
    let since = created["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watching = at.watch(&format!("rules?watch=1&resourceVersion={since}")).await;
    let mut object = created.clone();
    object["status"] = json!({"observedGeneration": 1});
    at.put("rules/a/status", &object).await.is(200);
    let events = at.events(&mut watching, 1).await;
    assert_eq!((told(&events), &events[0]["object"]["status"]), (vec!["MODIFIED a".into()], &object["status"]));
}

pub async fn an_object_that_was_held_goes_as_it_was_last_stored(at: &mut Place<'_>) {
    let mut object = config_map("a", json!({}), json!({}));
    object["metadata"]["finalizers"] = json!(["eventpulse.io/claim"]);
    at.post("configmaps", &object).await.is(201);
    let since = now(at).await;
    let mut watching = at.watch(&format!("configmaps?watch=1&resourceVersion={since}")).await;
    at.delete("configmaps/a").await.is(200);
    at.delete("configmaps/a").await.is(200);
    at.patch(MERGE_PATCH, "configmaps/a", &json!({"metadata": {"finalizers": null}})).await.is(200);
    end(at).await;
    let events = at.events_until(&mut watching, "end").await;
    assert_eq!(told(&events), ["MODIFIED a", "DELETED a", "ADDED end"]);
    assert_eq!(events[1]["object"]["metadata"]["finalizers"], json!(["eventpulse.io/claim"]));
}

pub async fn a_watch_of_all_namespaces_tells_of_all(at: &mut Place<'_>) {
    let other = format!("{}-b", at.namespace);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}});
    at.post("/api/v1/namespaces", &namespace).await.is(201);
    let mut object = alert_group("a");
    object["metadata"]["labels"] = json!({"case": at.namespace});
    at.post("alertgroups", &object).await.is(201);
    let root = "/apis/eventpulse.io/v1alpha1";
    at.post(&format!("{root}/namespaces/{other}/alertgroups"), &object).await.is(201);
    let selector = format!("labelSelector=case%3D{}", at.namespace);
    let list = at.get(&format!("{root}/alertgroups?{selector}")).await;
    assert_eq!(list.names(), ["a", "a"]);
    let mut watching = at.watch(&format!("{root}/alertgroups?watch=1&{selector}")).await;
    let events = at.events(&mut watching, 2).await;
    let of: Vec<&Value> = events.iter().map(|event| &event["object"]["metadata"]["namespace"]).collect();
    // In the order of etcd's keys, in which `-` comes before the slash that ends the shorter name.
    assert_eq!(of, [&json!(other), &json!(at.namespace)]);
    let path = format!("{root}/namespaces/{other}/alertgroups/a");
    at.patch(MERGE_PATCH, &path, &json!({"spec": {"changedAt": "2026-01-02T00:00:00Z"}})).await.is(200);
    assert_eq!(told(&at.events(&mut watching, 1).await), ["MODIFIED a"]);
}

pub async fn a_watch_tells_of_its_own_namespace_only(at: &mut Place<'_>) {
    let other = format!("{}-b", at.namespace);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}});
    at.post("/api/v1/namespaces", &namespace).await.is(201);
    let since = now(at).await;
    let mut watching = at.watch(&format!("configmaps?watch=1&resourceVersion={since}")).await;
    at.post(&format!("/api/v1/namespaces/{other}/configmaps"), &config_map("x", json!({}), json!({}))).await.is(201);
    end(at).await;
    assert_eq!(told(&at.events_until(&mut watching, "end").await), ["ADDED end"]);
}

pub async fn a_watch_ends_in_its_time_and_tells_before_how_far_it_has_come(at: &mut Place<'_>) {
    let first = at.post("alertgroups", &alert_group("a")).await.is(201).body.clone();
    let since = first["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let query = format!("watch=1&timeoutSeconds=4&resourceVersion={since}");
    let mut with = at.watch(&format!("alertgroups?{query}&allowWatchBookmarks=true")).await;
    let mut without = at.watch(&format!("alertgroups?{query}")).await;
    let last = at.post("alertgroups", &alert_group("b")).await.is(201).body.clone();
    let reached: u64 = last["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    for watching in [&mut with, &mut without] {
        assert_eq!(told(&at.events(watching, 1).await), ["ADDED b"]);
    }
    let (mut told, mut silent) = (BTreeMap::new(), 0);
    while let Some(event) = with.next().await {
        assert_eq!((&event["type"], &event["object"]["kind"]), (&json!("BOOKMARK"), &json!("AlertGroup")), "{event}");
        assert_eq!(event["object"]["apiVersion"], "eventpulse.io/v1alpha1");
        let version: u64 = event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        told.insert(version, event);
    }
    assert!(told.keys().all(|version| *version >= reached) && !told.is_empty(), "{told:?}");
    while without.next().await.is_some() {
        silent += 1;
    }
    assert_eq!(silent, 0, "nobody asked for bookmarks");
}

pub async fn a_watch_of_a_version_that_is_none_is_refused(at: &mut Place<'_>) {
    at.get("configmaps?watch=1&resourceVersion=x").await.is(500);
    at.get("rules?watch=1&resourceVersion=x").await.is(500);
}

pub async fn a_watch_of_a_version_that_has_expired_says_so(at: &mut Place<'_>) {
    at.post("alertgroups", &alert_group("a")).await.is(201);
    at.compact().await;
    // Before the first of its kind was stored, on either server.
    for path in ["alertgroups?watch=1&resourceVersion=1", "rules?watch=1&resourceVersion=1"] {
        let mut watching = at.watch(path).await;
        let events = at.events(&mut watching, 1).await;
        assert_eq!((&events[0]["type"], &events[0]["object"]["code"]), (&json!("ERROR"), &json!(410)));
        assert_eq!(events[0]["object"]["reason"], "Expired");
        assert!(watching.next().await.is_none(), "and it ends");
    }
}

pub async fn a_list_cannot_go_on_from_a_version_that_has_expired(at: &mut Place<'_>) {
    for name in ["a", "b", "c"] {
        at.post("alertgroups", &alert_group(name)).await.is(201);
    }
    let first = at.get("alertgroups?limit=1").await;
    let token = URL_SAFE_NO_PAD.decode(first.meta("continue").as_str().unwrap()).unwrap();
    let mut token: Value = serde_json::from_slice(&token).unwrap();
    assert_eq!(token["v"], "meta.k8s.io/v1");
    at.compact().await;
    // As if it had been handed out before; what a server knows by heart it may still tell after a compaction.
    token["rv"] = json!(2);
    let old = URL_SAFE_NO_PAD.encode(token.to_string());
    let refused = at.get(&format!("alertgroups?limit=1&continue={old}")).await;
    refused.refused(410, "Expired");
    let resume = refused.meta("continue").as_str().expect("where it can go on").to_owned();
    assert_eq!(at.get(&format!("alertgroups?limit=2&continue={resume}")).await.names(), ["b", "c"]);
}
