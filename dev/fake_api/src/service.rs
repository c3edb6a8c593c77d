//! The server as its clients reach it: one service for each caller.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt, future::BoxFuture};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;
use tower::Service;

use crate::{answer::AnswerBody, api::FakeApi};

/// A request as the server saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Whose client it is.
    pub caller: Arc<str>,
    /// HTTP method.
    pub method: Method,
    /// Path without the query.
    pub path: String,
    /// Query.
    pub query: String,
    /// Body, where it is JSON.
    pub body: Arc<Value>,
    /// `Impersonate-User`, where it is set.
    pub impersonated: Option<String>,
    /// Its place among all requests, from 0.
    pub index: u64,
}

impl Seen {
    /// Whether it may change something.
    pub fn is_write(&self) -> bool {
        self.method != Method::GET
    }
}

/// A request with what is needed to serve it.
pub(crate) struct Call {
    pub(crate) seen: Seen,
    /// Without parameters; empty where there is none.
    pub(crate) content_type: String,
    pub(crate) body: Form,
    /// In bytes.
    pub(crate) size: usize,
}

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Empty,
    Json,
    Other,
}

/// The server for one caller, as the service under a client. Cheap to clone.
#[derive(Clone)]
pub struct ApiService {
    api: FakeApi,
    caller: Arc<str>,
}

impl ApiService {
    pub(crate) fn new(api: FakeApi, caller: &str) -> Self {
        Self { api, caller: caller.into() }
    }

    async fn read(caller: Arc<str>, api: &FakeApi, request: Request<Body>) -> Result<Call, std::io::Error> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let value = serde_json::from_slice::<Value>(&bytes).ok();
        let form = match &value {
            Some(_) => Form::Json,
            None if bytes.is_empty() => Form::Empty,
            None => Form::Other,
        };
        let content_type = header(&parts.headers, "content-type").unwrap_or_default();
        let seen = Seen {
            caller,
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            body: Arc::new(value.unwrap_or_default()),
            impersonated: header(&parts.headers, "impersonate-user").map(str::to_owned),
            index: api.next_index(),
        };
        let content_type = content_type.split(';').next().unwrap_or_default().trim().to_owned();
        Ok(Call { seen, content_type, body: form, size: bytes.len() })
    }
}

impl Service<Request<Body>> for ApiService {
    type Response = Response<AnswerBody>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { api, caller } = self.clone();
        async move {
            let call = Self::read(caller, &api, request).await?;
            let fault = api.fate_of(&call.seen);
            fault.happen(&api, call).await
        }
        .boxed()
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
