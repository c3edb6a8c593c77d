//! Calls to the API server: clients without hidden retries, a deadline on every call, and what an error means for the caller.

use std::{future::Future, time::Duration};

use kube::{Client, Config, Error, client::ClientBuilder};

/// How long a call may take, unless its caller knows better.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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
        /// How long it asks to wait.
        after: Option<Duration>,
        /// What it said.
        message: String,
    },
    /// The server refuses for good (a 4xx but 404, 409 and 429): trying again changes nothing, until somebody changes something.
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
    /// A 5xx, a time-out or a broken connection: nobody knows whether the call took effect.
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
            ApiFailure::Unknown(_) => "unknown",
        }
    }
}

/// What an error of kube means. Only what the server itself answered with a `Status` counts as an answer.
pub fn classify(error: &Error) -> ApiFailure {
    match error {
        Error::Api(status) => {
            let message = status.message.clone();
            match status.code {
                404 | 410 => ApiFailure::NotFound(message),
                409 if status.is_already_exists() => ApiFailure::AlreadyExists(message),
                409 => ApiFailure::Conflict(message),
                429 => {
                    let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
                    let after = (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)));
                    ApiFailure::Throttled { after, message }
                }
                code @ 400..=499 => ApiFailure::Refused { code, reason: status.reason.clone(), message },
                code => ApiFailure::Unknown(format!("{code} {message}")),
            }
        }
        Error::SerdeError(error) => ApiFailure::Malformed(error.to_string()),
        other => ApiFailure::Unknown(chain(other)),
    }
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

/// Makes a call with a deadline.
pub async fn call<T>(timeout: Duration, future: impl Future<Output = kube::Result<T>>) -> Result<T, ApiFailure> {
    match tokio::time::timeout(timeout, future).await {
        Ok(result) => result.map_err(|error| classify(&error)),
        Err(_) => Err(ApiFailure::Unknown(format!("no answer within {} ms", timeout.as_millis()))),
    }
}

/// A client with a connection pool of its own (bulkhead), without kube's own retries: a PATCH that is sent again behind our back
/// would break promise 2.
pub fn client(config: &Config) -> kube::Result<Client> {
    let mut config = config.clone();
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Ok(ClientBuilder::try_from(config)?.build())
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

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
            (500, "InternalError", "unknown"),
            (503, "ServiceUnavailable", "unknown"),
            (504, "Timeout", "unknown"),
            (0, "", "unknown"),
        ] {
            let status = Status::failure("message", reason).with_code(code).boxed();
            assert_eq!(classify(&Error::Api(status)).category(), category, "{code} {reason}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_ends_as_unknown() {
        let failure = call::<()>(Duration::from_millis(250), std::future::pending()).await.unwrap_err();
        assert_eq!(failure, ApiFailure::Unknown("no answer within 250 ms".into()));
    }
}
