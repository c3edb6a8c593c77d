//! Counts the calls to the API server and times them, below everything that makes some.
//!
//! A layer and not a wrapper of [`call`](super::kube_api::call): lists, watches and patches of targets go through it all the same, and
//! a call that its caller gives up is one that nobody answered.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use hyper::{Method, Request, Response, StatusCode};
use kube::client::Body;
use tower::{Layer, Service};

use super::{
    Metrics,
    metrics::catalogue::{API_REQUEST_DURATION, API_REQUESTS},
};

/// See the module's text.
#[derive(Clone)]
pub struct ApiMetrics {
    service: &'static str,
    metrics: Metrics,
}

impl ApiMetrics {
    /// For the client of one service.
    pub fn new(service: &'static str, metrics: &Metrics) -> Self {
        Self { service, metrics: metrics.clone() }
    }
}

impl<S> Layer<S> for ApiMetrics {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured { inner, of: self.clone() }
    }
}

/// What [`ApiMetrics`] makes of a client's service.
#[derive(Clone)]
pub struct Measured<S> {
    inner: S,
    of: ApiMetrics,
}

impl<S, B> Service<Request<Body>> for Measured<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let verb = verb(request.method(), request.uri().path(), request.uri().query().unwrap_or_default());
        let call = Call { of: self.of.clone(), verb, began: Instant::now(), outcome: "no_answer" };
        let answer = self.inner.call(request);
        Box::pin(async move {
            // Taken whole: however this future ends, it is dropped and counts.
            let mut call = call;
            let answer = answer.await;
            if let Ok(response) = &answer {
                call.outcome = outcome(response.status());
            }
            answer
        })
    }
}

/// One call; dropped without an answer, it had none.
struct Call {
    of: ApiMetrics,
    verb: &'static str,
    began: Instant,
    outcome: &'static str,
}

impl Drop for Call {
    fn drop(&mut self) {
        let ApiMetrics { service, metrics } = &self.of;
        metrics.count(&API_REQUESTS, [service, self.verb, self.outcome], 1);
        metrics.observe(&API_REQUEST_DURATION, [service, self.verb], self.began.elapsed());
    }
}

fn outcome(status: StatusCode) -> &'static str {
    match status.as_u16() {
        ..=399 => "ok",
        404 | 410 => "not_found",
        409 => "conflict",
        429 => "throttled",
        400..=499 => "refused",
        _ => "server_error",
    }
}

/// Kubernetes' verb (kubernetes.io/docs/reference/access-authn-authz/authorization, "Determine the request verb").
fn verb(method: &Method, path: &str, query: &str) -> &'static str {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    // /api/VERSION/… or /apis/GROUP/VERSION/…
    let prefix = match parts.next() {
        Some("api") => 1,
        Some("apis") => 2,
        _ => return "other",
    };
    let mut parts: Vec<&str> = parts.skip(prefix).collect();
    if parts.len() > 2 && parts[0] == "namespaces" {
        parts.drain(..2);
    }
    let of_one = parts.len() > 1;
    let watches = query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1" | "watch"));
    match *method {
        _ if parts.is_empty() => "other",
        Method::GET if watches => "watch",
        Method::GET if of_one => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::{
        Api,
        api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams},
    };

    use super::*;
    use crate::testing::{FakeApi, Fault, measured_client};

    #[test]
    fn a_request_has_the_verb_that_kubernetes_gives_it() {
        for (method, path, query, wanted) in [
            (Method::GET, "/api/v1/namespaces", "", "list"),
            (Method::GET, "/api/v1/namespaces/shop", "", "get"),
            (Method::GET, "/api/v1/namespaces/shop/secrets/a", "", "get"),
            (Method::GET, "/api/v1/namespaces/shop/secrets", "limit=5", "list"),
            (Method::GET, "/apis/apps/v1/deployments", "limit=5&watch=true", "watch"),
            (Method::GET, "/apis/apps/v1/deployments", "fieldSelector=watch%3Dtrue", "list"),
            (Method::PATCH, "/apis/apps/v1/namespaces/shop/deployments/a", "", "patch"),
            (Method::PUT, "/apis/eventpulse.io/v1alpha1/namespaces/shop/incidents/a/status", "", "update"),
            (Method::POST, "/apis/events.k8s.io/v1/namespaces/shop/events", "", "create"),
            (Method::GET, "/version", "", "other"),
            (Method::GET, "/apis", "", "other"),
            (Method::OPTIONS, "/api/v1/pods", "", "other"),
        ] {
            assert_eq!(verb(&method, path, query), wanted, "{method} {path}?{query}");
        }
    }

    #[tokio::test]
    async fn every_call_is_counted_by_what_came_of_it() {
        let (api, metrics) = (FakeApi::new(), Metrics::default());
        let maps: Api<ConfigMap> = Api::namespaced(measured_client(&api, "rules", &metrics), "shop");
        let map: ConfigMap = serde_json::from_value(serde_json::json!({"metadata": {"name": "a"}})).unwrap();
        maps.create(&PostParams::default(), &map).await.unwrap();
        maps.create(&PostParams::default(), &map).await.unwrap_err();
        maps.list(&ListParams::default()).await.unwrap();
        maps.get("b").await.unwrap_err();
        drop(maps.watch(&WatchParams::default(), "1").await.unwrap());
        api.on_request(|seen| if seen.method == "PATCH" { Fault::Answer(503) } else { Fault::Answer(403) });
        maps.patch("a", &PatchParams::default(), &Patch::Merge(&map)).await.unwrap_err();
        maps.delete("a", &DeleteParams::default()).await.unwrap_err();
        api.on_request(|_| Fault::Delay(Duration::from_secs(60)));
        tokio::time::timeout(Duration::from_millis(20), maps.get("a")).await.unwrap_err();
        let text = metrics.encode().unwrap();
        for (verb, outcome) in [
            ("create", "ok"),
            ("create", "conflict"),
            ("list", "ok"),
            ("get", "not_found"),
            ("watch", "ok"),
            ("patch", "server_error"),
            ("delete", "refused"),
            ("get", "no_answer"),
        ] {
            let line =
                format!("eventpulse_api_requests_total{{service=\"rules\",verb=\"{verb}\",outcome=\"{outcome}\"}} 1");
            assert!(text.contains(&line), "{line} is missing in\n{text}");
        }
        assert!(text.contains("eventpulse_api_request_duration_seconds_count{service=\"rules\",verb=\"get\"} 2"));
    }
}
