//! The real API server: its address and certificate authority, and the client that streams to it.

use std::{io, path::Path, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};
use serde::Deserialize;

use super::ProxyError;
use crate::server::Body;

/// Where requests go.
pub struct Upstream {
    server: Uri,
    token: Option<String>,
    client: Client<HttpsConnector<HttpConnector>, Body>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    user: User,
}

#[derive(Deserialize)]
struct User {
    token: Option<String>,
}

impl Upstream {
    /// Of a kubeconfig with one cluster and one user, who has a token.
    pub fn from_kubeconfig(path: &Path) -> Result<Self, ProxyError> {
        let problem = |what: String| ProxyError::Kubeconfig { path: path.to_owned(), problem: what };
        let text = std::fs::read_to_string(path).map_err(|error| problem(error.to_string()))?;
        let config: Kubeconfig = serde_norway::from_str(&text).map_err(|error| problem(error.to_string()))?;
        let [NamedCluster { cluster }] = config.clusters.as_slice() else {
            return Err(problem("must have exactly one cluster".into()));
        };
        let authority = match (&cluster.certificate_authority_data, &cluster.certificate_authority) {
            (Some(data), _) => Some(BASE64.decode(data).map_err(|error| problem(error.to_string()))?),
            (None, Some(file)) => {
                let file = path.parent().unwrap_or(Path::new("")).join(file);
                Some(std::fs::read(file).map_err(|error| problem(error.to_string()))?)
            }
            (None, None) => None,
        };
        let token = config.users.first().and_then(|user| user.user.token.clone());
        Self::new(&cluster.server, authority.as_deref(), token)
    }

    /// `authority` holds the certificates that an https server's must come from, in PEM.
    pub fn new(server: &str, authority: Option<&[u8]>, token: Option<String>) -> Result<Self, ProxyError> {
        let server: Uri = server.parse().map_err(|error| ProxyError::Upstream(format!("{server}: {error}")))?;
        if server.scheme().is_none() || server.authority().is_none() {
            return Err(ProxyError::Upstream(format!("{server}: is no http or https URL")));
        }
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority.unwrap_or_default()) {
            let certificate = certificate.map_err(|error| ProxyError::Upstream(error.to_string()))?;
            roots.add(certificate).map_err(|error| ProxyError::Upstream(error.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ProxyError::Upstream(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        // A request that may have been sent is never sent again behind the test's back.
        let client = Client::builder(TokioExecutor::new()).retry_canceled_requests(false).build(connector);
        Ok(Self { server, token, client })
    }

    /// The token of its user, for the kubeconfig that points to the proxy.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Sends a request on, as it came, but for the host.
    pub async fn send(&self, request: Request<Body>) -> io::Result<Response<Body>> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut target = self.server.clone().into_parts();
        target.path_and_query = Some(path.parse().map_err(io::Error::other)?);
        parts.uri = Uri::from_parts(target).map_err(io::Error::other)?;
        let host = self.server.authority().map_or("", |authority| authority.as_str());
        parts.headers.insert(header::HOST, HeaderValue::from_str(host).map_err(io::Error::other)?);
        parts.headers.remove(header::CONNECTION);
        let response = self.client.request(Request::from_parts(parts, body)).await.map_err(io::Error::other)?;
        let (mut parts, body) = response.into_parts();
        parts.headers.remove(header::CONNECTION);
        parts.headers.remove(header::TRANSFER_ENCODING);
        Ok(Response::from_parts(parts, body.map_err(io::Error::other).boxed_unsync()))
    }
}
