//! A small HTTP client for tests: one request, one answer, a deadline, no TLS and no proxy.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Retry-After, where it is given.
    pub retry_after: Option<String>,
    /// Body.
    pub body: Bytes,
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// Whether the status is a 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// There was no answer, so nobody knows whether the request took effect.
#[derive(Debug, thiserror::Error)]
#[error("{method} {url}: {problem}")]
pub struct NoReply {
    method: String,
    url: String,
    problem: String,
}

/// A GET.
pub async fn get(url: &str) -> Result<Reply, NoReply> {
    request("GET", url, &[], Bytes::new()).await
}

/// A POST of JSON.
pub async fn post(url: &str, body: &Value) -> Result<Reply, NoReply> {
    request("POST", url, &[("content-type", "application/json")], body.to_string()).await
}

/// Any request.
pub async fn request(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<Reply, NoReply> {
    let no_reply = |problem: String| NoReply { method: method.to_owned(), url: url.to_owned(), problem };
    let mut builder = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let request = builder.body(Full::new(body.into())).map_err(|error| no_reply(error.to_string()))?;
    let exchange = async {
        // A client of its own for each request: its connections must not outlive the runtime of one test. Nothing is sent twice.
        let client: Client<HttpConnector, Full<Bytes>> =
            Client::builder(TokioExecutor::new()).retry_canceled_requests(false).build(HttpConnector::new());
        let response = client.request(request).await.map_err(|error| chain(&error))?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| chain(&error))?.to_bytes();
        let retry_after = parts.headers.get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Reply { status: parts.status.as_u16(), retry_after, body })
    };
    match tokio::time::timeout(TIMEOUT, exchange).await {
        Ok(result) => result.map_err(no_reply),
        Err(_) => Err(no_reply(format!("no answer within {} s", TIMEOUT.as_secs()))),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
