//! The sink and the proxy, over real connections.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    proxy::{Call, Fault, Proxy, Upstream, When},
    server::Body,
    sink::{Answer, Sink},
};

const SOON: Duration = Duration::from_secs(20);

fn client(server: &str) -> Upstream {
    Upstream::new(server, None, None).unwrap()
}

async fn send(client: &Upstream, method: Method, path: &str, body: &Value) -> Result<(u16, Bytes), std::io::Error> {
    let body: Body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
    let request = Request::builder().method(method).uri(path).header("Idempotency-Key", "key-1").body(body).unwrap();
    let response: Response<Body> = client.send(request).await?;
    let status = response.status().as_u16();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

async fn post(client: &Upstream, path: &str) -> Result<u16, std::io::Error> {
    send(client, Method::POST, path, &json!({"text": "hello"})).await.map(|(status, _)| status)
}

#[tokio::test]
async fn the_sink_answers_as_scripted_and_writes_everything_down() {
    let sink = Sink::start().await.unwrap();
    let client = client(&sink.url(""));
    let throttled = Answer::status(429).header("Retry-After", "3");
    sink.script("/services/a", [throttled, Answer::close(), Answer::status(500)]);
    assert_eq!(post(&client, "/services/a").await.unwrap(), 429);
    assert!(post(&client, "/services/a").await.is_err());
    assert_eq!(post(&client, "/services/a").await.unwrap(), 500);
    assert_eq!(post(&client, "/services/a").await.unwrap(), 200);
    assert_eq!(send(&client, Method::POST, "/services/a", &json!({})).await.unwrap(), (400, "no_text".into()));
    assert_eq!(send(&client, Method::POST, "/other", &json!({})).await.unwrap().0, 200);

    let received = sink.wait_for_on("/services/a", 5, SOON).await.unwrap();
    let answers: Vec<_> = received.iter().map(|request| request.answered).collect();
    assert_eq!(answers, [Some(429), None, Some(500), Some(200), Some(400)]);
    assert_eq!(received[0].json()["text"], "hello");
    assert_eq!(sink.count_by_key(), [("key-1".to_owned(), 6)].into());
    let shortfall = sink.wait_for(7, Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(shortfall.to_string(), "requests: 6 of 7 within 50 ms");
}

#[tokio::test]
async fn a_hang_ends_with_the_client_and_holds_up_no_other_path() {
    let sink = Sink::start().await.unwrap();
    let client = client(&sink.url(""));
    sink.always("/dead", Some(Answer::hang()));
    assert!(tokio::time::timeout(Duration::from_millis(200), post(&client, "/dead")).await.is_err());
    assert_eq!(post(&client, "/live").await.unwrap(), 200);
    sink.always("/dead", None);
    assert_eq!(post(&client, "/dead").await.unwrap(), 200);
}

#[tokio::test]
async fn a_message_is_shown_as_its_reader_sees_it() {
    let sink = Sink::start().await.unwrap();
    let block = json!({"blocks": [
        {"type": "header", "text": {"type": "plain_text", "text": "Incident opened"}},
        {"type": "section", "fields": [{"type": "mrkdwn", "text": "*Rule*\ncpu-high"}]},
    ]});
    send(&client(&sink.url("")), Method::POST, "/services/a", &block).await.unwrap();
    let text = sink.received()[0].to_string();
    assert!(text.contains("on /services/a → 200\n   Incident opened\n   *Rule*\n   cpu-high\n"), "{text}");
}

/// A JSON Patch of a Deployment, as the actions service sends it.
fn scale() -> Value {
    json!([
        {"op": "test", "path": "/metadata/uid", "value": "u"},
        {"op": "replace", "path": "/spec/replicas", "value": 4},
        {"op": "add", "path": "/metadata/annotations/eventpulse.io~1applied-actions", "value": "x"},
    ])
}

#[test]
fn a_rule_is_about_what_a_patch_changes_and_not_about_what_it_tests() {
    let call = |body: Value| Call {
        method: "PATCH".into(),
        path: "/apis/apps/v1/namespaces/shop/deployments/svc-a".into(),
        query: String::new(),
        body,
        impersonated: Some("system:serviceaccount:shop:remediator".into()),
        user_agent: None,
    };
    let patch = |op: &str, path: &str| call(json!([{"op": op, "path": path}]));
    for (call, matches) in [
        (call(scale()), true),
        (patch("replace", "/spec/replicas"), true),
        (patch("replace", "/spec"), true),
        (patch("test", "/spec/replicas"), false),
        (patch("add", "/spec/replicasOfSomething"), false),
        (patch("add", "/metadata/annotations"), false),
        (call(json!({"spec": {"replicas": 4}})), false),
        (call(Value::Null), false),
    ] {
        assert_eq!(When::patch_of_replicas().matches(&call), matches, "{call:?}");
    }
    assert!(When::patch().path_contains("/deployments/").matches(&call(scale())));
    assert!(!When::patch().path_ends("/status").matches(&call(scale())));
    assert!(!When::any().impersonating("somebody").matches(&call(scale())));
    assert!(When::write().matches(&call(scale())));
}

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/svc-a";

/// A proxy before a server that answers every request with an object, and counts.
async fn proxied() -> (Sink, Proxy, Upstream) {
    let server = Sink::start().await.unwrap();
    let object = json!({"metadata": {"resourceVersion": "17"}}).to_string();
    server.always(DEPLOYMENT, Some(Answer::status(200).body(object)));
    let proxy = Proxy::start(client(&server.url(""))).await.unwrap();
    let client = client(&proxy.url());
    (server, proxy, client)
}

#[tokio::test]
async fn a_refused_request_never_reaches_the_server() {
    let (server, proxy, client) = proxied().await;
    let refused = proxy.rule("no scaling", When::patch_of_replicas(), Fault::Answer(503));
    let (status, body) = send(&client, Method::PATCH, DEPLOYMENT, &scale()).await.unwrap();
    assert_eq!((status, serde_json::from_slice::<Value>(&body).unwrap()["kind"].as_str()), (503, Some("Status")));
    let restart = json!([{"op": "add", "path": "/spec/template/metadata/annotations/x", "value": "y"}]);
    assert_eq!(send(&client, Method::PATCH, DEPLOYMENT, &restart).await.unwrap().0, 200);
    refused.remove();
    assert_eq!(send(&client, Method::PATCH, DEPLOYMENT, &scale()).await.unwrap().0, 200);

    let closed = proxy.rule("away", When::any(), Fault::Close);
    assert!(send(&client, Method::GET, DEPLOYMENT, &Value::Null).await.is_err());
    proxy.clear();
    assert_eq!((refused.matched(), closed.matched(), server.received().len()), (1, 1, 2));
    let writes = proxy.writes();
    assert_eq!(writes.iter().map(|write| write.upstream).collect::<Vec<_>>(), [None, Some(200), Some(200)]);
    assert_eq!(writes[0].rule.as_deref(), Some("no scaling"));
    assert_eq!(writes[2].call.body, scale());
}

#[tokio::test]
async fn an_answer_is_lost_after_the_server_gave_it() {
    let (server, proxy, client) = proxied().await;
    let dropped = proxy.limited_rule("lost", When::patch(), Fault::DropAnswer, 1, 1);
    assert_eq!(send(&client, Method::PATCH, DEPLOYMENT, &scale()).await.unwrap().0, 200);
    assert!(send(&client, Method::PATCH, DEPLOYMENT, &scale()).await.is_err());
    assert_eq!(send(&client, Method::PATCH, DEPLOYMENT, &scale()).await.unwrap().0, 200);
    proxy.rule("late", When::patch(), Fault::ReplaceAnswer(504));
    assert_eq!(send(&client, Method::PATCH, DEPLOYMENT, &scale()).await.unwrap().0, 504);
    assert_eq!((dropped.matched(), server.received().len()), (1, 4));
    assert!(proxy.writes().iter().all(|write| write.committed.as_deref() == Some("17")));
}

#[tokio::test]
async fn what_is_held_arrives_when_it_is_released_even_if_its_sender_is_gone() {
    let (server, proxy, client) = proxied().await;
    let gate = proxy.rule("gate", When::patch(), Fault::Hold);
    let patch = scale();
    assert!(
        tokio::time::timeout(Duration::from_millis(200), send(&client, Method::PATCH, DEPLOYMENT, &patch))
            .await
            .is_err()
    );
    gate.wait_for(1, SOON).await.unwrap();
    assert!(server.received().is_empty());
    gate.release();
    server.wait_for(1, SOON).await.unwrap();

    let after = proxy.limited_rule("after", When::method(When::any(), "DELETE"), Fault::HoldAnswer, 0, 1);
    let deletion = send(&client, Method::DELETE, DEPLOYMENT, &Value::Null);
    tokio::pin!(deletion);
    tokio::select! {
        _ = &mut deletion => panic!("the answer came before it was released"),
        arrived = server.wait_for(2, SOON) => drop(arrived.unwrap()),
    }
    after.release();
    assert_eq!(deletion.await.unwrap().0, 200);
}

#[tokio::test]
async fn a_cut_ends_what_is_under_way_and_what_has_reached_the_proxy_goes_on() {
    let (server, proxy, client) = proxied().await;
    let gate = proxy.limited_rule("gate", When::patch(), Fault::Hold, 0, 1);
    let patch = scale();
    let cut = async {
        gate.wait_for(1, SOON).await.unwrap();
        proxy.cut()
    };
    let (answer, connections) = tokio::join!(send(&client, Method::PATCH, DEPLOYMENT, &patch), cut);
    assert!(answer.is_err());
    assert_eq!(connections, 1);
    gate.release();
    server.wait_for(1, SOON).await.unwrap();
    assert_eq!(send(&client, Method::PATCH, DEPLOYMENT, &patch).await.unwrap().0, 200, "new ones are taken");
}

/// A watch never ends: what has come so far must be there before the rest.
#[tokio::test]
async fn a_watch_streams_through_tls() {
    let (address, authority) = start_watch_server().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.crt"), authority).unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    let text = format!(
        "clusters: [{{name: a, cluster: {{server: 'https://localhost:{}', certificate-authority: ca.crt}}}}]\n\
         users: [{{name: a, user: {{token: secret}}}}]\n",
        address.port()
    );
    std::fs::write(&kubeconfig, text).unwrap();
    let proxy = Proxy::before(&kubeconfig).await.unwrap();
    proxy.write_kubeconfig(&dir.path().join("through")).unwrap();
    let through = Upstream::from_kubeconfig(&dir.path().join("through")).unwrap();
    assert_eq!(through.token(), Some("secret"));

    let body: Body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
    let response = through.send(Request::get("/watch").body(body).unwrap()).await.unwrap();
    let mut body = response.into_body();
    let first = tokio::time::timeout(SOON, body.frame()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "first\n");
    assert_eq!(proxy.cut(), 1);
    let next = tokio::time::timeout(SOON, body.frame()).await.unwrap();
    assert!(matches!(next, None | Some(Err(_))), "{next:?}");
}

#[tokio::test]
async fn a_broken_kubeconfig_is_said_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kubeconfig");
    assert!(Upstream::from_kubeconfig(&file).is_err());
    for text in
        ["", "{", "clusters: []", "clusters: [{cluster: {server: ''}}]", "clusters: [{cluster: {server: '/x'}}]"]
    {
        std::fs::write(&file, text).unwrap();
        assert!(Upstream::from_kubeconfig(&file).is_err(), "{text:?} was accepted");
    }
}

/// An https server that answers one request with one chunk and nothing more; gives its certificate.
async fn start_watch_server() -> (SocketAddr, String) {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = key.cert.der().clone();
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], private)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
        let mut request = vec![0; 4096];
        let read = stream.read(&mut request).await.unwrap();
        assert!(request[..read].starts_with(b"GET /watch HTTP/1.1\r\n"));
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nfirst\n\r\n").await.unwrap();
        stream.flush().await.unwrap();
        std::future::pending::<()>().await;
    });
    (address, key.cert.pem())
}
