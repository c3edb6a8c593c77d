//! A plain client of the API server: connections that stay open, one request, one answer, no retries. What it reaches is what this
//! control plane can give.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use eventpulse_env::ControlPlane;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::Value;

/// By this the audit log tells the benchmark's own calls from EventPulse's.
pub const USER_AGENT: &str = "eventpulse-bench";
pub const JSON_PATCH: &str = "application/json-patch+json";
const JSON: &str = "application/json";
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests at once, where many objects are made.
const AT_ONCE: usize = 16;

/// See the module's text. Clones share their connections.
#[derive(Clone)]
pub struct Api {
    server: Arc<str>,
    token: Arc<str>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Api {
    /// As administrator.
    pub fn of(plane: &ControlPlane) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(plane.ca_pem().as_bytes()) {
            roots.add(certificate.context("the API server's authority")?)?;
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let client =
            Client::builder(TokioExecutor::new()).retry_canceled_requests(false).build(connector.wrap_connector(http));
        Ok(Self { server: plane.server().into(), token: plane.admin_token().into(), client })
    }

    /// Any request; its status and its body.
    pub async fn send(&self, method: Method, path: &str, kind: &str, body: Bytes) -> anyhow::Result<(u16, Bytes)> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT, JSON)
            .header(header::CONTENT_TYPE, kind)
            .body(Full::new(body))?;
        let exchange = async {
            let response = self.client.request(request).await?;
            let status = response.status().as_u16();
            anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
        };
        tokio::time::timeout(PATIENCE, exchange).await.context("the API server did not answer in time")?
    }

    /// A request that must succeed.
    pub async fn call(&self, method: Method, path: &str, kind: &str, body: impl Into<Bytes>) -> anyhow::Result<Value> {
        let (status, answer) = self.send(method.clone(), path, kind, body.into()).await?;
        if !(200..300).contains(&status) {
            bail!("{method} {path}: {status} {}", String::from_utf8_lossy(&answer));
        }
        serde_json::from_slice(&answer).with_context(|| format!("{method} {path}: the answer"))
    }

    /// A GET.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, JSON, "").await
    }

    /// A GET of text, like `/metrics`.
    pub async fn text(&self, path: &str) -> anyhow::Result<String> {
        let (status, answer) = self.send(Method::GET, path, JSON, Bytes::new()).await?;
        anyhow::ensure!(status == 200, "GET {path}: {status}");
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// A POST of a new object.
    pub async fn create(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, JSON, object.to_string()).await
    }

    /// A PUT.
    pub async fn replace(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        self.call(Method::PUT, path, JSON, object.to_string()).await
    }

    /// Creates many objects, several at a time; `body` gives each by its number.
    pub async fn create_many(
        &self,
        path: &str,
        count: usize,
        body: impl Fn(usize) -> Value + Send + Sync + 'static,
    ) -> anyhow::Result<()> {
        let (next, body) = (Arc::new(std::sync::atomic::AtomicUsize::new(0)), Arc::new(body));
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..AT_ONCE.min(count) {
            let (api, next, body, path) = (self.clone(), Arc::clone(&next), Arc::clone(&body), path.to_owned());
            workers.spawn(async move {
                loop {
                    let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if number >= count {
                        return anyhow::Ok(());
                    }
                    api.create(&path, &body(number)).await?;
                }
            });
        }
        while let Some(done) = workers.join_next().await {
            done??;
        }
        Ok(())
    }

    /// Every object of a list, a page at a time.
    pub async fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let (mut all, mut more) = (Vec::new(), String::new());
        loop {
            let mut page = self.get(&format!("{path}?limit=500{more}")).await?;
            if let Some(items) = page["items"].as_array_mut() {
                all.append(items);
            }
            match page["metadata"]["continue"].as_str() {
                Some(token) if !token.is_empty() => more = format!("&continue={token}"),
                _ => return Ok(all),
            }
        }
    }
}
