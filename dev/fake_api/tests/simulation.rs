//! What a simulator needs of the server beside its answers: effects in order, time from outside, the same again for the same requests,
//! and no watch that loses something in silence.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A helper that fails is a test that fails.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use eventpulse_fake_api::{ApiService, Commit, FakeApi, Fault};
use http::{Method, Request};
use http_body_util::BodyExt;
use jiff::Timestamp;
use kube::client::Body;
use serde_json::{Value, json};
use tower::Service;

const MAPS: &str = "/api/v1/configmaps";
const OF_SHOP: &str = "/api/v1/namespaces/shop/configmaps";

fn map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": value}})
}

async fn send(service: &mut ApiService, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string().into_bytes()) };
    let content_type = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder().method(method).uri(path).header("content-type", content_type);
    let request = request.header("Impersonate-User", "system:serviceaccount:shop:remediator").body(body).unwrap();
    let answer = service.call(request).await.unwrap();
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

/// The events that are there, without waiting.
async fn events(service: &mut ApiService, query: &str) -> Vec<String> {
    let request = Request::get(format!("{MAPS}?watch=1&timeoutSeconds=1&{query}")).body(Body::empty()).unwrap();
    let bytes = service.call(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| told(&serde_json::from_slice(line).unwrap())).collect()
}

fn told(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!(
        "{} {}{}",
        text(&event["type"]),
        text(&event["object"]["metadata"]["name"]),
        text(&event["object"]["reason"])
    )
}

/// Method, path, and whether there was something before and after.
fn effect(commit: &Commit) -> (String, bool, bool) {
    (format!("{} {}", commit.method, commit.path), commit.before.is_some(), commit.after.is_some())
}

#[tokio::test(start_paused = true)]
async fn every_effect_is_noted_once_with_whoever_had_it() {
    let api = FakeApi::new();
    let mut service = api.service("actions");
    let named = format!("{OF_SHOP}/a");
    assert_eq!(send(&mut service, Method::POST, OF_SHOP, &map("a", "1")).await.0, 201);
    assert_eq!(send(&mut service, Method::POST, OF_SHOP, &map("a", "1")).await.0, 409);
    assert_eq!(send(&mut service, Method::PUT, &named, &map("a", "1")).await.0, 200);
    assert_eq!(send(&mut service, Method::GET, &named, &Value::Null).await.0, 200);
    assert_eq!(send(&mut service, Method::PATCH, &named, &json!({"data": {"k": "2"}})).await.0, 200);
    api.put(MAPS, json!({"metadata": {"name": "b", "namespace": "shop"}}));
    assert_eq!(send(&mut service, Method::DELETE, &named, &Value::Null).await.0, 200);
    api.remove(MAPS, "shop", "b");
    api.remove(MAPS, "shop", "b");
    let commits = api.commits();
    let wanted = [
        (format!("POST {OF_SHOP}"), false, true),
        (format!("PATCH {named}"), true, true),
        (format!("PUT {OF_SHOP}/b"), false, true),
        (format!("DELETE {named}"), true, false),
        (format!("DELETE {OF_SHOP}/b"), true, false),
    ];
    assert_eq!(commits.iter().map(effect).collect::<Vec<_>>(), wanted);
    assert_eq!(commits.iter().map(|commit| commit.version).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(commits.iter().map(|commit| commit.index).collect::<Vec<_>>(), [Some(0), Some(4), None, Some(5), None]);
    let user = Some("system:serviceaccount:shop:remediator".to_owned());
    assert_eq!((&*commits[1].caller, &commits[1].user), ("actions", &user));
    assert_eq!((&*commits[2].caller, &commits[2].user), ("test", &None));
    assert_eq!(commits[1].before.as_ref().unwrap()["data"]["k"], "1");
    assert_eq!(commits[1].after, commits[3].before);
    assert_eq!(api.commits_since(3), commits[3..]);
    assert_eq!((api.requests(), api.seen().len()), (6, 6));
}

#[tokio::test]
async fn an_effect_is_noted_whether_or_not_its_answer_arrives() {
    let api = FakeApi::new();
    let mut service = api.service("actions");
    let faults = [
        (Fault::Refuse, false, 0),
        (Fault::Answer(500), true, 0),
        (Fault::CommitThenAnswer(504), true, 1),
        (Fault::DropAnswer, false, 1),
    ];
    for (n, (fault, answered, effects)) in faults.into_iter().enumerate() {
        let before = api.commits().len();
        api.on_request(move |_| fault.clone());
        let body = Body::from(map(&format!("m{n}"), "1").to_string().into_bytes());
        let request = Request::post(OF_SHOP).header("content-type", "application/json").body(body).unwrap();
        assert_eq!(service.call(request).await.is_ok(), answered);
        assert_eq!(api.commits().len() - before, effects);
    }
}

#[tokio::test]
async fn objects_are_made_and_marked_by_the_clock_that_was_given() {
    let seconds = Arc::new(AtomicI64::new(1_767_268_800));
    let clock = Arc::clone(&seconds);
    let api = FakeApi::with_clock(move || {
        Timestamp::from_second(clock.load(Ordering::Relaxed)).unwrap() + jiff::SignedDuration::from_millis(750)
    });
    let mut object = map("a", "1");
    object["metadata"]["finalizers"] = json!(["a.b/c"]);
    let mut service = api.service("rules");
    let (_, created) = send(&mut service, Method::POST, OF_SHOP, &object).await;
    assert_eq!(created["metadata"]["creationTimestamp"], "2026-01-01T12:00:00Z");
    seconds.fetch_add(90, Ordering::Relaxed);
    let (_, marked) = send(&mut service, Method::DELETE, &format!("{OF_SHOP}/a"), &Value::Null).await;
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T12:01:30Z");
    assert_eq!(api.commits()[1].at.to_string(), "2026-01-01T12:01:30.75Z");
}

#[tokio::test]
async fn the_same_requests_have_the_same_answers_and_effects() {
    async fn history() -> (Vec<(u16, Value)>, Vec<Commit>) {
        let api = FakeApi::new();
        let mut service = api.service("rules");
        let mut answers = Vec::new();
        for n in 0..200_u32 {
            let (name, value) = (format!("m{}", n * 7 % 13), n.to_string());
            let path = format!("{OF_SHOP}/{name}");
            let answer = match n % 5 {
                0 => send(&mut service, Method::DELETE, &path, &Value::Null).await,
                1 | 2 => send(&mut service, Method::PATCH, &path, &json!({"data": {"k": value}})).await,
                3 => send(&mut service, Method::GET, &format!("{MAPS}?limit=3"), &Value::Null).await,
                _ => send(&mut service, Method::POST, OF_SHOP, &map(&name, &value)).await,
            };
            answers.push(answer);
        }
        (answers, api.commits())
    }
    let (first, second) = (history().await, history().await);
    assert!(first.1.len() > 30, "{} effects", first.1.len());
    assert_eq!(first, second);
}

#[tokio::test]
async fn requests_are_counted_also_when_they_are_not_remembered() {
    let api = FakeApi::new();
    let mut service = api.service("rules");
    api.remember_requests(false);
    send(&mut service, Method::GET, MAPS, &Value::Null).await;
    assert_eq!((api.requests(), api.seen().len()), (1, 0));
    api.remember_requests(true);
    send(&mut service, Method::GET, MAPS, &Value::Null).await;
    let seen = api.seen();
    assert_eq!((seen.len(), seen[0].index, &*seen[0].caller), (1, 1, "rules"));
}

/// A watch that is not read falls behind; what it has missed it is never told as if nothing had been.
#[tokio::test(start_paused = true)]
async fn a_watch_that_is_too_slow_ends_and_is_told_why_when_it_comes_back() {
    let api = FakeApi::new();
    api.keep_changes(4);
    let mut service = api.service("rules");
    let put = |n: u32| api.put(MAPS, json!({"metadata": {"name": format!("m{n}"), "namespace": "shop"}}));
    put(0);
    let request = Request::get(format!("{MAPS}?watch=1&resourceVersion=1")).body(Body::empty()).unwrap();
    let mut slow = service.call(request).await.unwrap().into_body();
    put(1);
    let first = slow.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(told(&serde_json::from_slice(&first).unwrap()), "ADDED m1");
    (2..=6).for_each(|n| drop(put(n)));
    assert!(slow.frame().await.is_none(), "its place is no longer kept");
    assert_eq!(events(&mut service, "resourceVersion=2").await, ["ERROR Expired"]);
    assert_eq!(events(&mut service, "resourceVersion=3").await, ["ADDED m3", "ADDED m4", "ADDED m5", "ADDED m6"]);
}

#[tokio::test(start_paused = true)]
async fn a_compacted_server_forgets_and_a_watch_under_way_goes_on() {
    let api = FakeApi::new();
    let mut service = api.service("rules");
    for name in ["a", "b", "c"] {
        send(&mut service, Method::POST, OF_SHOP, &map(name, "1")).await;
    }
    let request = Request::get(format!("{MAPS}?watch=1&resourceVersion=1")).body(Body::empty()).unwrap();
    let mut under_way = service.call(request).await.unwrap().into_body();
    let (_, page) = send(&mut service, Method::GET, &format!("{MAPS}?limit=1"), &Value::Null).await;
    send(&mut service, Method::DELETE, &format!("{OF_SHOP}/b"), &Value::Null).await;
    api.compact();
    assert_eq!(events(&mut service, "resourceVersion=3").await, ["ERROR Expired"]);
    assert_eq!(events(&mut service, "resourceVersion=4").await, Vec::<String>::new());
    let token = page["metadata"]["continue"].as_str().unwrap();
    let (code, expired) =
        send(&mut service, Method::GET, &format!("{MAPS}?limit=1&continue={token}"), &Value::Null).await;
    assert_eq!((code, &expired["reason"]), (410, &json!("Expired")));
    for wanted in ["ADDED b", "ADDED c", "DELETED b"] {
        let event = under_way.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(told(&serde_json::from_slice(&event).unwrap()), wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn watches_that_are_broken_end_and_lose_nothing_to_those_that_come_after() {
    let api = FakeApi::new();
    let mut service = api.service("rules");
    let request = Request::get(format!("{MAPS}?watch=1")).body(Body::empty()).unwrap();
    let mut watch = service.call(request).await.unwrap().into_body();
    let waits = tokio::spawn(async move { watch.frame().await.is_none() });
    tokio::task::yield_now().await;
    api.break_watches();
    assert!(waits.await.unwrap(), "it ends though nothing has happened");
    send(&mut service, Method::POST, OF_SHOP, &map("a", "1")).await;
    assert_eq!(events(&mut service, "").await, ["ADDED a"]);
}

/// Its events are the same bytes for all of them, so that it costs no more to have many.
#[tokio::test(start_paused = true)]
async fn a_change_is_written_once_for_however_many_watches() {
    let api = FakeApi::new();
    let mut service = api.service("rules");
    let (mut watches, mut told) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let request = Request::get(format!("{MAPS}?watch=1&resourceVersion=0")).body(Body::empty()).unwrap();
        watches.push(service.call(request).await.unwrap().into_body());
    }
    for step in ["POST", "PATCH", "DELETE"] {
        match step {
            "POST" => send(&mut service, Method::POST, OF_SHOP, &map("a", "1")).await,
            "PATCH" => send(&mut service, Method::PATCH, &format!("{OF_SHOP}/a"), &json!({"data": {"k": "2"}})).await,
            _ => send(&mut service, Method::DELETE, &format!("{OF_SHOP}/a"), &Value::Null).await,
        };
        let mut places = Vec::new();
        for watch in &mut watches {
            let event = watch.frame().await.unwrap().unwrap().into_data().unwrap();
            places.push(event.as_ptr() as usize);
            // Kept, so that no other can be in its place.
            told.push(event);
        }
        places.dedup();
        assert_eq!(places.len(), 1, "{step}");
    }
}
