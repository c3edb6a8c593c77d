//! The one way out: a POST with limits on everything. Nothing else in this service opens a connection to the outside.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use super::deliver::Outcome;

/// How much of an answer is read; the rest is for nobody.
const ANSWER_MAX: usize = 4096;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle connections to one host that are kept (promise 6).
const IDLE_PER_HOST: usize = 4;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The most characters of a receiver's answer that an error repeats.
const EXCERPT_MAX: usize = 200;

/// A text that must not be seen: it is masked wherever it would be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Takes it out of a text, and each of its parts that could stand for it: what a receiver answers may repeat what it was asked.
    pub fn mask(&self, text: &str) -> String {
        if self.0.is_empty() {
            return text.to_owned();
        }
        let parts = self.0.split(['/', '?', '&', '=', '@']).filter(|part| part.len() >= 6 && !part.ends_with(':'));
        let masked = text.replace(&self.0, "***");
        // The host's name is no secret, and says which receiver it is.
        let host = host_of(&self.0);
        parts.filter(|part| Some(*part) != host).fold(masked, |text, part| text.replace(part, "***"))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

fn host_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    rest.split(['/', '?', '#']).next()?.rsplit('@').next()
}

/// A POST.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// Where to.
    pub url: Secret,
    /// Beside `Content-Type`, which is JSON.
    pub headers: Vec<(&'static str, String)>,
    /// JSON.
    pub body: Bytes,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// HTTP status.
    pub status: u16,
    /// The header, as it came.
    pub retry_after: Option<String>,
    /// Its beginning.
    pub body: String,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpFailure {
    /// The URL is none, or is not http or https. The text has no secret in it.
    #[error("the URL cannot be used: {0}")]
    Url(String),
    /// There was no connection, so nothing was sent.
    #[error("connect: {0}")]
    Connect(String),
    /// The request was on its way, and nobody knows what became of it.
    #[error("send: {0}")]
    Send(String),
    /// No answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
}

impl HttpFailure {
    /// A bounded label for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            HttpFailure::Url(_) => "url",
            HttpFailure::Connect(_) => "connect",
            HttpFailure::Send(_) => "send",
            HttpFailure::Timeout(_) => "timeout",
        }
    }

    /// Whether the same request may succeed later: always, a URL too can be mended.
    pub fn retry(&self) -> bool {
        true
    }
}

/// The port to the outside; a simulator puts its own here.
#[async_trait]
pub trait HttpTransport: Send + Sync + 'static {
    /// Sends once, without redirects and without hidden retries, and gives up after `timeout`.
    async fn post(&self, request: &HttpRequest, timeout: Duration) -> Result<HttpAnswer, HttpFailure>;
}

/// The machine's own, over reqwest and rustls.
#[derive(Clone, Debug)]
pub struct HttpClient(reqwest::Client);

impl HttpClient {
    /// `proxy`: the URL of an HTTP proxy for everything; none: no proxy, whatever the environment says.
    pub fn new(proxy: Option<&str>) -> Result<Self, reqwest::Error> {
        // One crypto provider for the process: the first one to be needed installs it, and it is always ring.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        builder(proxy)?.build().or_else(|error| {
            // A machine without certificate authorities can still talk to plain http.
            tracing::warn!(error = %error.without_url(), "No certificate authorities are known; https channels will fail.");
            builder(proxy)?.tls_certs_only(std::iter::empty()).build()
        })
        .map(Self)
    }
}

fn builder(proxy: Option<&str>) -> Result<reqwest::ClientBuilder, reqwest::Error> {
    let builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .user_agent(concat!("eventpulse/", env!("CARGO_PKG_VERSION")));
    Ok(match proxy {
        Some(proxy) => builder.proxy(reqwest::Proxy::all(proxy)?),
        None => builder,
    })
}

#[async_trait]
impl HttpTransport for HttpClient {
    async fn post(&self, request: &HttpRequest, timeout: Duration) -> Result<HttpAnswer, HttpFailure> {
        let url = reqwest::Url::parse(request.url.reveal()).map_err(|error| HttpFailure::Url(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(HttpFailure::Url("its scheme is neither http nor https".into()));
        }
        let mut post = self.0.post(url).header("content-type", "application/json").body(request.body.clone());
        for (name, value) in &request.headers {
            post = post.header(*name, value);
        }
        let exchange = async {
            let mut answer = post.send().await?;
            let status = answer.status().as_u16();
            let retry_after =
                answer.headers().get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_owned);
            let mut body = Vec::new();
            // The status has decided; a body that breaks off changes nothing.
            while body.len() < ANSWER_MAX
                && let Ok(Some(chunk)) = answer.chunk().await
            {
                body.extend_from_slice(&chunk[..chunk.len().min(ANSWER_MAX - body.len())]);
            }
            Ok(HttpAnswer { status, retry_after, body: String::from_utf8_lossy(&body).into_owned() })
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(result) => result.map_err(|error| failure_of(error, timeout)),
            Err(_) => Err(HttpFailure::Timeout(timeout)),
        }
    }
}

fn failure_of(error: reqwest::Error, timeout: Duration) -> HttpFailure {
    let error = error.without_url();
    let text = chain(&error);
    if error.is_connect() {
        HttpFailure::Connect(text)
    } else if error.is_timeout() {
        HttpFailure::Timeout(timeout)
    } else if error.is_builder() {
        HttpFailure::Url(text)
    } else {
        HttpFailure::Send(text)
    }
}

/// An error with its sources: reqwest says only `error sending request`.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// What an exchange means. As Alertmanager's and Flux's notifiers do it: a 4xx other than 408, 425 and 429 is an answer that no
/// repetition changes; redirects are not followed, because they would carry the message to somebody else.
pub fn judge(result: Result<HttpAnswer, HttpFailure>, secret: &Secret, now: Timestamp) -> Outcome {
    match result {
        Ok(answer) => {
            let retry_after = answer.retry_after.as_deref().and_then(|text| retry_after(text, now));
            let visible: String = secret.mask(&answer.body).chars().filter(|c| !c.is_control()).collect();
            // Masked again: what was left out may have parted a secret.
            let excerpt: String = secret.mask(&visible).chars().take(EXCERPT_MAX).collect();
            let reason = format!("HTTP {} {}", answer.status, excerpt.trim()).trim_end().to_owned();
            match answer.status {
                200..=299 => Outcome::Delivered,
                408 | 425 | 429 => Outcome::Refused { reason, retry_after },
                300..=399 => Outcome::Rejected { reason: format!("{reason} (redirects are not followed)") },
                400..=499 => Outcome::Rejected { reason },
                // A gateway's 5xx says nothing about what stands behind it.
                _ => Outcome::Unknown { reason, retry_after },
            }
        }
        Err(failure) => {
            let reason = secret.mask(&failure.to_string());
            match failure {
                HttpFailure::Url(_) | HttpFailure::Connect(_) => Outcome::Refused { reason, retry_after: None },
                HttpFailure::Send(_) | HttpFailure::Timeout(_) => Outcome::Unknown { reason, retry_after: None },
            }
        }
    }
}

/// Retry-After in both of its forms (RFC 9110, section 10.2.3): seconds, or a date. None for anything else and for the past.
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Duration::try_from(date.duration_since(now)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T12:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        for (text, seconds) in [
            ("3", Some(3)),
            (" 120 ", Some(120)),
            ("0", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Thu, 01 Jan 2026 12:00:30 GMT", Some(30)),
            ("Thu, 01 Jan 2026 11:59:30 GMT", None),
            ("-3", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
            ("Thu, 99 Jan 2026 12:00:30 GMT", None),
        ] {
            assert_eq!(retry_after(text, now()), seconds.map(Duration::from_secs), "{text:?}");
        }
    }

    #[test]
    fn an_exchange_means_what_the_documentation_says() {
        let answer = |status| Ok(HttpAnswer { status, retry_after: Some("7".into()), body: "why".into() });
        let secret = Secret::new("https://hooks.example/x");
        for (result, wanted) in [
            (answer(200), "Delivered"),
            (answer(204), "Delivered"),
            (answer(302), "Rejected"),
            (answer(400), "Rejected"),
            (answer(403), "Rejected"),
            (answer(404), "Rejected"),
            (answer(410), "Rejected"),
            (answer(408), "Refused"),
            (answer(425), "Refused"),
            (answer(429), "Refused"),
            (answer(500), "Unknown"),
            (answer(503), "Unknown"),
            (answer(101), "Unknown"),
            (Err(HttpFailure::Url("x".into())), "Refused"),
            (Err(HttpFailure::Connect("x".into())), "Refused"),
            (Err(HttpFailure::Send("x".into())), "Unknown"),
            (Err(HttpFailure::Timeout(Duration::from_secs(1))), "Unknown"),
        ] {
            let outcome = judge(result.clone(), &secret, now());
            assert!(format!("{outcome:?}").starts_with(wanted), "{result:?} gave {outcome:?}");
            if let Outcome::Refused { retry_after: Some(after), .. }
            | Outcome::Unknown { retry_after: Some(after), .. } = outcome
            {
                assert_eq!(after, Duration::from_secs(7));
            }
        }
    }

    #[tokio::test]
    async fn of_an_answer_its_beginning_is_read_and_less_of_it_repeated() {
        use eventpulse_testkit::sink::{Answer, Sink};
        let sink = Sink::start().await.unwrap();
        sink.script("/hook", [Answer::status(400).body("x".repeat(1 << 20))]);
        let secret = Secret::new(sink.url("/hook"));
        let request = HttpRequest { url: secret.clone(), headers: Vec::new(), body: "{}".into() };
        let answer = HttpClient::new(None).unwrap().post(&request, Duration::from_secs(30)).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (400, ANSWER_MAX));
        let Outcome::Rejected { reason } = judge(Ok(answer), &secret, now()) else { panic!("not rejected") };
        assert_eq!(reason, format!("HTTP 400 {}", "x".repeat(EXCERPT_MAX)));
    }

    /// A receiver's answer may repeat the URL or a part of it; neither may reach a log or a condition.
    #[test]
    fn a_secret_is_masked_whole_and_in_parts() {
        let secret = Secret::new("https://hooks.slack.com/services/T0000000/B1111111/xoxsecretxox?token=abcdef123");
        let text = "POST https://hooks.slack.com/services/T0000000/B1111111/xoxsecretxox?token=abcdef123 to hooks.slack.com: \
                    no xoxsecretxox in B1111111 with abcdef123";
        let masked = secret.mask(text);
        for part in ["xoxsecretxox", "B1111111", "T0000000", "abcdef123"] {
            assert!(!masked.contains(part), "{masked}");
        }
        assert!(masked.contains("hooks.slack.com"), "{masked}");
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(Secret::new("").mask("the URL cannot be used"), "the URL cannot be used");
        let answer = HttpAnswer { status: 404, retry_after: None, body: "no xoxsecretxox\u{7}".into() };
        assert_eq!(judge(Ok(answer), &secret, now()), Outcome::Rejected { reason: "HTTP 404 no ***".into() });
        let answer = HttpAnswer { status: 404, retry_after: None, body: "no xoxsec\r\nret\u{0}xox".into() };
        assert_eq!(judge(Ok(answer), &secret, now()), Outcome::Rejected { reason: "HTTP 404 no ***".into() });
    }
}
