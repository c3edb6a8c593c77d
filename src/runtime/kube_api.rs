//! Calls to the API server: clients without hidden retries, a deadline on every call, and what an error means for the caller.

use std::{
    fmt::Debug,
    future::Future,
    time::{Duration, Instant},
};

use hyper::header::{HeaderValue, USER_AGENT};
use kube::{Api, Client, Config, Error, client::ClientBuilder, core::Status};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::{Metrics, ServiceHealth, api_metrics::ApiMetrics};

/// How long a call may take, unless its caller knows better.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The part of a service's readiness that tells of the API server.
const API_SERVER: &str = "api server";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// However much patience a server asks for, it is asked again after this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// The reason that kube makes up for an answer that is no `Status`.
const NO_STATUS: &str = "Failed to parse error data";
/// How much is kept of such an answer, in characters.
const FOREIGN_TEXT_MAX: usize = 200;

/// What an error of the API server means for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiFailure {
    /// There is no such object.
    #[error("not found: {0}")]
    NotFound(String),
    /// The object has changed since it was read.
    #[error("conflict: {0}")]
    Conflict(String),
    /// An object of this name is there already.
    #[error("already exists: {0}")]
    AlreadyExists(String),
    /// The server asks for patience: it did nothing.
    #[error("throttled: {message}")]
    Throttled {
        /// How long it asks to wait, at most a minute.
        after: Option<Duration>,
        /// What it said.
        message: String,
    },
    /// The server refuses for good (a 4xx but 404, 409 and 429; of a [`call`] but 401 too): trying again changes nothing, until
    /// somebody changes something.
    #[error("refused ({code} {reason}): {message}")]
    Refused {
        /// HTTP status.
        code: u16,
        /// Kubernetes' reason, like `Forbidden`.
        reason: String,
        /// What it said.
        message: String,
    },
    /// The answer could not be read as the object that it should be.
    #[error("malformed object: {0}")]
    Malformed(String),
    /// The server itself says that it failed in this call (500), or does not say anything in time of one that is [`ask`]ed for while it
    /// answers others, like a write whose admission webhook is away or slow: nobody knows whether it took effect, and it is no word about
    /// calls for other objects.
    #[error("failed: {0}")]
    Failed(String),
    /// Another 5xx, a time-out or a broken connection: nobody knows whether the call took effect.
    #[error("unavailable: {0}")]
    Unknown(String),
}

impl ApiFailure {
    /// A bounded label for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            ApiFailure::NotFound(_) => "not_found",
            ApiFailure::Conflict(_) => "conflict",
            ApiFailure::AlreadyExists(_) => "already_exists",
            ApiFailure::Throttled { .. } => "throttled",
            ApiFailure::Refused { .. } => "refused",
            ApiFailure::Malformed(_) => "malformed",
            ApiFailure::Failed(_) => "failed",
            ApiFailure::Unknown(_) => "unknown",
        }
    }
}

/// What an error of kube means. Only what the server itself answered with a `Status` counts as an answer: whatever else has a status
/// code comes from something before it, which may well have passed the request on. But 429, which is said in place of it.
pub fn classify(error: &Error) -> ApiFailure {
    match error {
        Error::Api(status) if !is_of_the_server(status) && status.code != 429 => {
            let text: String = status.message.chars().take(FOREIGN_TEXT_MAX).collect();
            ApiFailure::Unknown(format!("{} without a Status of the API server: {text}", status.code))
        }
        Error::Api(status) => {
            let message = status.message.clone();
            match status.code {
                404 | 410 => ApiFailure::NotFound(message),
                409 if status.is_already_exists() => ApiFailure::AlreadyExists(message),
                409 => ApiFailure::Conflict(message),
                429 => {
                    let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
                    let after = (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)).min(RETRY_AFTER_MAX));
                    ApiFailure::Throttled { after, message }
                }
                code @ 400..=499 => ApiFailure::Refused { code, reason: status.reason.clone(), message },
                500 => ApiFailure::Failed(format!("500 {message}")),
                code => ApiFailure::Unknown(format!("{code} {message}")),
            }
        }
        Error::SerdeError(error) => ApiFailure::Malformed(error.to_string()),
        other => ApiFailure::Unknown(chain(other)),
    }
}

fn is_of_the_server(status: &Status) -> bool {
    status.is_failure() && status.reason != NO_STATUS
}

/// An error with its sources: kube says only `ServiceError` of a refused connection.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    text
}

/// Makes a call with a deadline, as this process. That the server does not know us (401: a token that has expired) says nothing of
/// the call: it passes when the credentials are renewed, so it is no refusal.
pub async fn call<T>(timeout: Duration, future: impl Future<Output = kube::Result<T>>) -> Result<T, ApiFailure> {
    let Ok(result) = tokio::time::timeout(timeout, future).await else {
        return Err(ApiFailure::Unknown(format!("no answer within {} ms", timeout.as_millis())));
    };
    result.map_err(|error| match classify(&error) {
        failure @ ApiFailure::Refused { code: 401, .. } => ApiFailure::Unknown(failure.to_string()),
        failure => failure,
    })
}

/// The same, and readiness tells by the part `api server` whether it can be worked with. Whatever it answers but 429, it can. That it
/// failed in a call for one object is no word about the others, nor is it that a call had no answer in time while others had: reads tell
/// whether the server works.
pub async fn ask<T>(
    health: &ServiceHealth,
    timeout: Duration,
    future: impl Future<Output = kube::Result<T>>,
) -> Result<T, ApiFailure> {
    let began = Instant::now();
    let result = match tokio::time::timeout(timeout, call(Duration::MAX, Box::pin(future))).await {
        Ok(result) => result,
        Err(_) => {
            let what = format!("no answer within {} ms", timeout.as_millis());
            let works = health.has_worked_since(API_SERVER, began);
            Err(if works { ApiFailure::Failed(what) } else { ApiFailure::Unknown(what) })
        }
    };
    match &result {
        Err(failure @ ApiFailure::Failed(_)) => health.trouble(API_SERVER, Some(failure.to_string())),
        _ => {
            tell(health, &result);
            health.trouble(API_SERVER, None);
        }
    }
    result
}

/// Reads an object of ours; none where the API server itself says that there is none (kube's `get_opt` believes any 404). A write is
/// forbidden for what it writes, but a read only because somebody took our rights away: that is waited for, like a server that is
/// away, and readiness tells.
pub async fn find<K>(health: &ServiceHealth, api: &Api<K>, name: &str) -> Result<Option<K>, ApiFailure>
where
    K: Clone + Debug + DeserializeOwned,
{
    let result = match call(CALL_TIMEOUT, api.get(name)).await {
        Ok(object) => Ok(Some(object)),
        Err(ApiFailure::NotFound(_)) => Ok(None),
        Err(failure @ ApiFailure::Refused { code: 403, .. }) => Err(ApiFailure::Unknown(failure.to_string())),
        Err(failure) => Err(failure),
    };
    tell(health, &result);
    result
}

/// Whether the last answer was one that work can go on with.
pub fn can_be_worked_with(health: &ServiceHealth) -> bool {
    health.works(API_SERVER)
}

/// Counts how often the server can be worked with again after it could not.
pub fn returns(health: &ServiceHealth) -> watch::Receiver<u64> {
    health.returns(API_SERVER)
}

/// A watch began: the server can be worked with again, also for whoever has nothing to ask it any more.
pub fn tell_of_watch(health: &ServiceHealth) {
    health.ready(API_SERVER);
}

fn tell<T>(health: &ServiceHealth, result: &Result<T, ApiFailure>) {
    match result {
        Err(failure @ (ApiFailure::Failed(_) | ApiFailure::Unknown(_) | ApiFailure::Throttled { .. })) => {
            health.not_ready(API_SERVER, failure.to_string());
        }
        Ok(_) | Err(_) => health.ready(API_SERVER),
    }
}

/// A service's client, whose calls are counted, with a connection pool of its own (bulkhead), without kube's own retries: a PATCH that is sent again behind our back
/// would break promise 2.
pub fn client(config: &Config, service: &'static str, metrics: &Metrics) -> kube::Result<Client> {
    let mut config = config.clone();
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // In the audit log, and as the manager of the fields that it writes.
    if let Ok(agent) = HeaderValue::try_from(format!("eventpulse/{} ({service})", env!("CARGO_PKG_VERSION"))) {
        config.headers.push((USER_AGENT, agent));
    }
    Ok(ClientBuilder::try_from(config)?.with_layer(&ApiMetrics::new(service, metrics)).build())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;
    use crate::{
        runtime::Health,
        testing::{FakeApi, Fault},
    };

    #[test]
    fn an_answer_means_what_the_design_says() {
        for (code, reason, category) in [
            (404, "NotFound", "not_found"),
            (410, "Gone", "not_found"),
            (409, "AlreadyExists", "already_exists"),
            (409, "Conflict", "conflict"),
            (429, "TooManyRequests", "throttled"),
            (400, "BadRequest", "refused"),
            (403, "Forbidden", "refused"),
            (413, "RequestEntityTooLarge", "refused"),
            (422, "Invalid", "refused"),
            (500, "InternalError", "failed"),
            (503, "ServiceUnavailable", "unknown"),
            (504, "Timeout", "unknown"),
            (0, "", "unknown"),
        ] {
            let status = Status::failure("message", reason).with_code(code).boxed();
            assert_eq!(classify(&Error::Api(status)).category(), category, "{code} {reason}");
        }
    }

    #[tokio::test]
    async fn a_client_says_who_it_is() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let client = client(&Config::new(url), "rules", &Metrics::default()).unwrap();
        let asking = tokio::spawn(async move { client.apiserver_version().await });
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let read = tokio::io::AsyncReadExt::read(&mut stream, &mut request).await.unwrap();
        let request = String::from_utf8_lossy(&request[..read]).to_lowercase();
        assert!(request.contains("user-agent: eventpulse/") && request.contains("(rules)"), "{request}");
        drop(stream);
        assert!(asking.await.unwrap().is_err());
    }

    #[test]
    fn the_patience_that_a_server_asks_for_has_a_bound() {
        for (asked, granted) in [(0, None), (7, Some(7)), (u32::MAX, Some(60))] {
            let status = json!({"status": "Failure", "code": 429, "details": {"retryAfterSeconds": asked}});
            let status: Status = serde_json::from_value(status).unwrap();
            let ApiFailure::Throttled { after, .. } = classify(&Error::Api(status.boxed())) else { panic!("{asked}") };
            assert_eq!(after, granted.map(Duration::from_secs));
        }
    }

    /// What kube makes of an answer is its own; these go through it.
    async fn answer(fault: Fault) -> Result<Option<ConfigMap>, ApiFailure> {
        let api = FakeApi::new();
        api.on_request(move |_| fault.clone());
        let health = Health::default();
        let service = health.service("rules");
        service.ready("service");
        let maps: Api<ConfigMap> = Api::namespaced(api.client(), "shop");
        let found = find(&service, &maps, "a").await;
        let works =
            !matches!(found, Err(ApiFailure::Failed(_) | ApiFailure::Unknown(_) | ApiFailure::Throttled { .. }));
        assert_eq!(health.is_ready(), works, "{found:?}");
        found
    }

    #[tokio::test]
    async fn only_the_server_itself_can_refuse() {
        for code in [400, 403, 404, 408, 409, 410, 413, 422, 502] {
            let failure = answer(Fault::Page(code)).await.unwrap_err();
            assert_eq!(failure.category(), "unknown", "{code}: {failure}");
        }
        assert_eq!(answer(Fault::Page(429)).await.unwrap_err().category(), "throttled");
        assert_eq!(answer(Fault::Answer(404)).await, Ok(None));
        assert_eq!(answer(Fault::Answer(400)).await.unwrap_err().category(), "refused");
        let foreign: Status = serde_json::from_value(json!({"code": 404, "message": "no route"})).unwrap();
        assert_eq!(classify(&Error::Api(foreign.boxed())).category(), "unknown");
    }

    /// One namespace's admission webhook may be away.
    #[tokio::test]
    async fn a_write_that_fails_within_the_server_says_nothing_of_others() {
        let (health, api) = (Health::default(), FakeApi::new());
        let service = health.service("rules");
        service.ready("service");
        let maps: Api<ConfigMap> = Api::namespaced(api.client(), "shop");
        let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        for (fault, is_ready, troubles) in [
            (Fault::Answer(500), true, 1),
            (Fault::Page(500), false, 0),
            (Fault::Answer(503), false, 0),
            (Fault::Answer(500), false, 1),
            (Fault::None, true, 0),
        ] {
            api.on_request(move |_| fault.clone());
            let _ = ask(&service, CALL_TIMEOUT, maps.create(&Default::default(), &map)).await;
            assert_eq!((health.is_ready(), health.troubles().len()), (is_ready, troubles));
        }
        assert_eq!(answer(Fault::Answer(500)).await.unwrap_err().category(), "failed");
    }

    #[tokio::test]
    async fn rights_that_somebody_took_away_refuse_nothing_for_good() {
        for code in [401, 403] {
            assert_eq!(answer(Fault::Answer(code)).await.unwrap_err().category(), "unknown", "{code}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_ends_as_unknown() {
        let failure = call::<()>(Duration::from_millis(250), std::future::pending()).await.unwrap_err();
        assert_eq!(failure, ApiFailure::Unknown("no answer within 250 ms".into()));
    }
}
