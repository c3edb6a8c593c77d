//! A case's place at a server: a namespace of its own, requests, watches, and what was told of them.

use std::{collections::VecDeque, time::Duration};

use eventpulse_fake_api::FakeApi;
use http::{Method, Request};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::told::{Teller, causes};

/// How long an answer, or an event that is waited for, may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub const JSON: &str = "application/json";
pub const JSON_PATCH: &str = "application/json-patch+json";
pub const MERGE_PATCH: &str = "application/merge-patch+json";
pub const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// Which server.
pub enum Server {
    Fake(FakeApi),
    /// With the address of its etcd.
    Real(Client, String),
}

impl Server {
    fn client(&self) -> Client {
        match self {
            Server::Fake(api) => api.client(),
            Server::Real(client, _) => client.clone(),
        }
    }
}

pub struct Place<'a> {
    server: &'a Server,
    client: Client,
    pub namespace: String,
    teller: Teller,
}

/// What came back.
pub struct Answer {
    pub code: u16,
    /// Null where it is no JSON.
    pub body: Value,
}

/// A watch that goes on.
pub struct Watching {
    body: Body,
    buffer: Vec<u8>,
    events: VecDeque<Value>,
}

impl<'a> Place<'a> {
    pub async fn new(server: &'a Server, namespace: &str) -> Self {
        let mut place =
            Self { server, client: server.client(), namespace: namespace.to_owned(), teller: Teller::new(namespace) };
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        place.post("/api/v1/namespaces", &object).await.is(201);
        place
    }

    /// One line for each answer and event.
    pub fn told(self) -> Vec<String> {
        self.teller.lines()
    }

    /// A path of the case's namespace, `configmaps/a`; or a whole one, which begins with a slash.
    fn url(&self, path: &str) -> String {
        if path.starts_with('/') {
            return path.to_owned();
        }
        let plural = path.split(['/', '?']).next().unwrap();
        let root = match plural {
            "configmaps" | "secrets" => "/api/v1",
            "deployments" | "statefulsets" => "/apis/apps/v1",
            "horizontalpodautoscalers" => "/apis/autoscaling/v2",
            "rules" | "alertgroups" => "/apis/eventpulse.io/v1alpha1",
            other => panic!("{other}: of which group?"),
        };
        format!("{root}/namespaces/{}/{path}", self.namespace)
    }

    pub async fn send(&mut self, method: Method, path: &str, content_type: Option<&str>, body: Vec<u8>) -> Answer {
        let mut request = Request::builder().method(method.clone()).uri(self.url(path));
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let request = request.body(Body::from(body)).unwrap();
        let answer = async {
            let (parts, body) = self.client.send(request).await.unwrap().into_parts();
            (parts.status.as_u16(), body.collect().await.unwrap().to_bytes())
        };
        let (code, bytes) = tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time");
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let text = if body.is_null() { String::from_utf8_lossy(&bytes).into_owned() } else { String::new() };
        self.teller.answer(&format!("{method} {}", masked(path)), code, &body, &text);
        Answer { code, body }
    }

    async fn send_json(&mut self, method: Method, path: &str, content_type: &str, body: &Value) -> Answer {
        self.send(method, path, Some(content_type), body.to_string().into_bytes()).await
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(Method::GET, path, None, Vec::new()).await
    }

    pub async fn post(&mut self, path: &str, object: &Value) -> Answer {
        self.send_json(Method::POST, path, JSON, object).await
    }

    pub async fn put(&mut self, path: &str, object: &Value) -> Answer {
        self.send_json(Method::PUT, path, JSON, object).await
    }

    pub async fn patch(&mut self, content_type: &str, path: &str, patch: &Value) -> Answer {
        self.send_json(Method::PATCH, path, content_type, patch).await
    }

    pub async fn delete(&mut self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None, Vec::new()).await
    }

    pub async fn delete_with(&mut self, path: &str, options: &Value) -> Answer {
        self.send_json(Method::DELETE, path, JSON, options).await
    }

    /// Creates a ConfigMap with these labels and data.
    pub async fn config_map(&mut self, name: &str, labels: Value, data: Value) -> Value {
        let object = config_map(name, labels, data);
        self.post("configmaps", &object).await.is(201).body.clone()
    }

    pub async fn watch(&mut self, path: &str) -> Watching {
        let request = Request::get(self.url(path)).body(Body::empty()).unwrap();
        let answer =
            tokio::time::timeout(PATIENCE, self.client.send(request)).await.expect("an answer in time").unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        Watching { body: answer.into_body(), buffer: Vec::new(), events: VecDeque::new() }
    }

    /// The next events, without bookmarks.
    pub async fn events(&mut self, watching: &mut Watching, count: usize) -> Vec<Value> {
        let mut events = Vec::new();
        while events.len() < count {
            let event = watching.next().await.expect("the watch has ended");
            if event["type"] != "BOOKMARK" {
                self.teller.event(&event);
                events.push(event);
            }
        }
        events
    }

    /// What comes until this object is added, and that too.
    pub async fn events_until(&mut self, watching: &mut Watching, name: &str) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            events.extend(self.events(watching, 1).await);
            let last = &events[events.len() - 1];
            if last["type"] == "ADDED" && last["object"]["metadata"]["name"] == name {
                return events;
            }
        }
    }

    /// Nothing older than now can be asked for any more.
    pub async fn compact(&mut self) {
        match self.server {
            Server::Fake(api) => api.compact(),
            Server::Real(_, etcd) => {
                let object = self.get("configmaps?limit=1").await;
                let revision = &object.body["metadata"]["resourceVersion"];
                compact_etcd(etcd, &json!({"revision": revision})).await;
                return;
            }
        }
        // As many requests on both.
        self.get("configmaps?limit=1").await;
    }
}

/// A path without what depends on when it was made.
fn masked(path: &str) -> String {
    let Some((path, query)) = path.split_once('?') else { return path.to_owned() };
    let mask = |pair: &str| match pair.split_once('=') {
        Some((name @ ("continue" | "resourceVersion"), _)) => format!("{name}=…"),
        _ => pair.to_owned(),
    };
    format!("{path}?{}", query.split('&').map(mask).collect::<Vec<_>>().join("&"))
}

async fn compact_etcd(address: &str, body: &Value) {
    let body = body.to_string();
    let head = format!(
        "POST /v3/kv/compaction HTTP/1.1\r\nhost: etcd\r\nconnection: close\r\ncontent-type: {JSON}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut text = String::new();
    let talk = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        stream.read_to_string(&mut text).await.unwrap();
    };
    tokio::time::timeout(PATIENCE, talk).await.expect("etcd in time");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}

impl Answer {
    #[track_caller]
    pub fn is(&self, code: u16) -> &Self {
        assert_eq!(self.code, code, "{}", self.body);
        self
    }

    /// A `Status` with this reason.
    #[track_caller]
    pub fn refused(&self, code: u16, reason: &str) -> &Self {
        self.is(code);
        assert_eq!((&self.body["kind"], &self.body["reason"]), (&json!("Status"), &json!(reason)), "{}", self.body);
        self
    }

    /// A refusal that names these fields, each with why.
    #[track_caller]
    pub fn because(&self, wanted: &[(&str, &str)]) -> &Self {
        let found = self.body["details"]["causes"].as_array().map_or(&[][..], Vec::as_slice);
        assert_eq!(causes(found), wanted, "{}", self.body);
        self
    }

    pub fn meta(&self, field: &str) -> &Value {
        &self.body["metadata"][field]
    }

    pub fn names(&self) -> Vec<&str> {
        let items = self.body["items"].as_array().expect("a list").iter();
        items.map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
    }
}

impl Watching {
    /// None at its end.
    pub async fn next(&mut self) -> Option<Value> {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("an event in time")
    }

    async fn read(&mut self) -> Option<Value> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let frame = self.body.frame().await?.unwrap();
            self.buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| &data[..]));
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                self.events.push_back(serde_json::from_slice(&line).unwrap());
            }
        }
    }
}

pub fn config_map(name: &str, labels: Value, data: Value) -> Value {
    let meta = json!({"name": name, "labels": labels});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data})
}

pub fn rule(name: &str) -> Value {
    let spec = json!({"match": {"matchers": ["alertname=\"x\""]}, "suspend": false});
    json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": "Rule", "metadata": {"name": name}, "spec": spec})
}

pub fn alert_group(name: &str) -> Value {
    let spec = json!({"ruleRef": {"name": "r"}, "correlationID": "c", "changedAt": "2026-01-01T00:00:00Z"});
    json!({"apiVersion": "eventpulse.io/v1alpha1", "kind": "AlertGroup", "metadata": {"name": name}, "spec": spec})
}

/// A Deployment or a StatefulSet.
pub fn workload(kind: &str, name: &str) -> Value {
    let template =
        json!({"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "a", "image": "a"}]}});
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"app": name}}, "template": template});
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// A condition as Kubernetes has them.
pub fn condition(name: &str, status: &str) -> Value {
    json!({"type": name, "status": status, "reason": "Told", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"})
}
