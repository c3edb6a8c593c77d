//! One request: authenticate, bound, read, normalise, accept, answer. In this order: nothing of a body is read before its sender
//! is known, and nothing is answered with 200 before it is durable.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    header,
};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument as _;

use super::{
    auth::Tokens,
    bounds,
    intake::{Intake, IntakeError},
    normalise::{Batch, Format, normalise},
    said::Said,
};
use crate::{
    crash_points::{Point, reached},
    events::{DeadLetter, Event, EventId, Topic, TraceContext},
    mutants::{Mutant, mutated},
    runtime::{
        Context,
        consume::reason_label,
        metrics::catalogue::{DEAD_LETTERS, INGEST_ALERTS, INGEST_REQUEST_DURATION, INGEST_REQUESTS},
        telemetry::{Ids, Span, SpanKind, scope},
    },
};

/// Seconds that a sender is asked to wait when nothing can be accepted.
const RETRY_AFTER_S: u32 = 5;

/// What answering needs, shared by all connections.
pub(super) struct Endpoint {
    pub ctx: Context,
    pub intake: Intake,
    /// None: everybody who can reach the port may send.
    pub tokens: Option<Tokens>,
    pub webhook_source: String,
    pub alerts_source: String,
    pub body_timeout: Duration,
    /// The bytes that bodies may still take, of all of them.
    pub room: Arc<Semaphore>,
    /// Lines about senders without a token, about bodies that find no room, and about alerts that are none.
    pub unauthorised: Said,
    pub crowded: Said,
    pub rejected: Said,
    /// Whether alerts were refused since it was last found that they are taken.
    pub refuses: AtomicBool,
}

type Answer = Response<Full<Bytes>>;

/// Why a body was not read.
enum Unread {
    TooLarge,
    NoRoom,
    TooSlow,
    Broken,
}

impl Endpoint {
    /// The same as [`Endpoint::answer`], as the server wants it.
    pub(super) async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, Infallible> {
        Ok(self.answer(request).await)
    }

    /// Answers a request. Never fails: whatever is wrong is said.
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let began = Instant::now();
        let answer = self.respond(request).await;
        self.ctx.metrics.count(&INGEST_REQUESTS, [answer.status().as_str()], 1);
        self.ctx.metrics.observe(&INGEST_REQUEST_DURATION, [answer.status().as_str()], began.elapsed());
        answer
    }

    async fn respond<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let format = match request.uri().path() {
            path if path == Format::Webhook.path() => Format::Webhook,
            path if path == Format::Alerts.path() => Format::Alerts,
            _ => {
                return closing(
                    StatusCode::NOT_FOUND,
                    "alerts are received at POST /webhooks/alertmanager and POST /api/v2/alerts",
                );
            }
        };
        let authorization = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
        if self.tokens.as_ref().is_some_and(|tokens| !tokens.allow(authorization)) {
            if let Some(refused) = self.unauthorised.tell(1) {
                tracing::warn!(refused, "Requests without a valid token were refused.");
            }
            return closing(StatusCode::UNAUTHORIZED, "a valid token is needed: Authorization: Bearer TOKEN");
        }
        if request.method() != Method::POST {
            let mut answer = closing(StatusCode::METHOD_NOT_ALLOWED, "only POST is answered here");
            answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("POST"));
            return answer;
        }
        if request.headers().get(header::CONTENT_ENCODING).is_some_and(|value| value != "identity") {
            return closing(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Encoding: only identity is supported");
        }
        // Whatever stands there must never hold up an alert.
        let given = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
        let given = TraceContext::read(given);
        // The room is given back when the alerts are kept, or are not.
        let (body, _room) = match self.read(request.into_body()).await {
            Ok(read) => read,
            Err(Unread::TooLarge) => {
                return closing(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    &format!("the body is larger than {} bytes", bounds::BODY_BYTES),
                );
            }
            Err(Unread::NoRoom) => {
                if let Some(refused) = self.crowded.tell(1) {
                    tracing::warn!(
                        refused,
                        "Requests found no room for their bodies; their senders are asked to come again."
                    );
                }
                let mut answer = closing(
                    StatusCode::SERVICE_UNAVAILABLE,
                    &format!("the bodies of all requests take {} bytes, which is all they may", bounds::BODIES_BYTES),
                );
                answer.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(RETRY_AFTER_S));
                return answer;
            }
            Err(Unread::TooSlow) => return closing(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"),
            Err(Unread::Broken) => return closing(StatusCode::BAD_REQUEST, "the body broke off"),
        };
        self.accept(format, &body, given).await
    }

    /// The body, and the room that it takes.
    async fn read<B>(&self, body: B) -> Result<(Bytes, OwnedSemaphorePermit), Unread>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let reading = read_within(body, Arc::clone(&self.room));
        tokio::time::timeout(self.body_timeout, reading).await.unwrap_or(Err(Unread::TooSlow))
    }

    /// The request is one trace with its alerts: the sender's, or one that is named after when it came and what it brought.
    async fn accept(&self, format: Format, body: &[u8], given: Option<TraceContext>) -> Answer {
        let source = if format == Format::Webhook { &self.webhook_source } else { &self.alerts_source };
        let now = self.ctx.clock.now();
        let batch = match normalise(body, &super::normalise::Request { format, source, now }) {
            Ok(batch) => batch,
            Err(error) => return answer(StatusCode::BAD_REQUEST, &json!({"error": error.to_string()})),
        };
        let Batch { accepted, rejected } = batch;
        let letters = rejected.iter().map(|letter| letter_event(&self.ctx, letter.clone()));
        let (accepted, mut events) = (accepted.len(), accepted.into_iter().chain(letters).collect::<Vec<Event>>());
        let first = events.first().map(|event| event.id.to_string()).unwrap_or_default();
        let (at, count) = (now.as_nanosecond().to_string(), events.len().to_string());
        let (own, parent) = self.ctx.tracer.come_in(given, &["request", format.path(), &at, &first, &count]);
        let traceparent = own.to_string();
        events.iter_mut().for_each(|event| event.traceparent = Some(traceparent.clone()));
        let answer = self.take_in(accepted, &rejected, &events).instrument(scope(Some(own), Ids::default())).await;
        self.ctx.tracer.record(&own, || {
            let (name, end) = (format!("POST {}", format.path()), self.ctx.clock.now());
            let (status, count) = (answer.status(), |count: usize| i64::try_from(count).unwrap_or(i64::MAX));
            let mut span = Span::new(parent, own, SpanKind::Server, name, now, end)
                .with("http.request.method", "POST")
                .with("http.route", format.path())
                .with("url.path", format.path())
                .with("url.scheme", "http")
                .with("http.response.status_code", i64::from(status.as_u16()))
                .with("eventpulse.accepted", count(accepted))
                .with("eventpulse.rejected", count(rejected.len()));
            span.error = status.is_server_error().then(|| status.to_string());
            span
        });
        answer
    }

    async fn take_in(&self, accepted: usize, rejected: &[DeadLetter], events: &[Event]) -> Answer {
        reached(Point::AlertsTaken, "");
        let kept = self.intake.accept(&self.ctx, events).await;
        if kept.is_ok() {
            reached(Point::AlertsKept, "");
        }
        if let Err(error) = kept
            && !mutated(Mutant::AnsweredBeforeKept)
        {
            self.refused(&error);
            tracing::warn!(%error, "Alerts were not accepted; their sender is asked to come again.");
            let mut answer = answer(StatusCode::SERVICE_UNAVAILABLE, &json!({"error": error.to_string()}));
            answer.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(RETRY_AFTER_S));
            return answer;
        }
        count_alerts(&self.ctx, accepted, rejected.len());
        count_letters(&self.ctx, rejected);
        if let Some(told) = self.rejected.tell(rejected.len()) {
            let first = rejected.first().map_or("", |letter| &letter.message);
            tracing::warn!(rejected = told, first, "Alerts were rejected; each is a dead letter.");
        }
        let errors: Vec<&str> =
            rejected.iter().take(bounds::ANSWER_ERRORS).map(|letter| letter.message.as_str()).collect();
        answer(StatusCode::OK, &json!({"accepted": accepted, "rejected": rejected.len(), "errors": errors}))
    }

    fn refused(&self, error: &IntakeError) {
        // An event that cannot be written says nothing of the place where it was to be written.
        if !matches!(error, IntakeError::Unwritable(_)) {
            self.refuses.store(true, Ordering::SeqCst);
            self.ctx.health.not_ready("intake", error.to_string());
        }
    }

    /// After a refusal, whether alerts are taken again. It must not wait for the next request: to a process that is not ready
    /// Kubernetes sends none.
    pub(super) async fn look_again(&self) {
        if !self.refuses.swap(false, Ordering::SeqCst) {
            return;
        }
        match self.intake.accepts(&self.ctx).await {
            // One that was refused meanwhile is looked after the next time.
            Ok(()) if self.refuses.load(Ordering::SeqCst) => {}
            Ok(()) => self.ctx.health.ready("intake"),
            Err(error) => self.refused(&error),
        }
    }
}

/// Takes room for what has come, byte by byte: who only says that much will come keeps nobody out.
async fn read_within<B>(body: B, room: Arc<Semaphore>) -> Result<(Bytes, OwnedSemaphorePermit), Unread>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = pin!(Limited::new(body, bounds::BODY_BYTES));
    let mut taken = Arc::clone(&room).try_acquire_many_owned(0).map_err(|_| Unread::NoRoom)?;
    let mut read = BytesMut::new();
    while let Some(frame) = body.as_mut().frame().await {
        let frame =
            frame.map_err(|error| if error.is::<LengthLimitError>() { Unread::TooLarge } else { Unread::Broken })?;
        // Trailers say nothing here.
        let Ok(data) = frame.into_data() else { continue };
        let bytes = u32::try_from(data.len()).map_err(|_| Unread::TooLarge)?;
        taken.merge(Arc::clone(&room).try_acquire_many_owned(bytes).map_err(|_| Unread::NoRoom)?);
        read.extend_from_slice(&data);
    }
    Ok((read.freeze(), taken))
}

/// A rejected alert's dead letter, to be put where the accepted ones go.
pub(super) fn letter_event(ctx: &Context, letter: DeadLetter) -> Event {
    Event {
        id: EventId::new(Topic::DeadLetter.name(), &letter.origin, &format!("{}{}", letter.message, letter.data)),
        time: ctx.clock.now(),
        source: ctx.source(),
        subject: letter.origin.clone(),
        key: letter.origin.clone(),
        traceparent: None,
        payload: letter.into(),
    }
}

/// To be called when they are kept.
pub(super) fn count_letters(ctx: &Context, letters: &[DeadLetter]) {
    for letter in letters {
        ctx.metrics.count(&DEAD_LETTERS, [reason_label(letter.reason)], 1);
    }
}

pub(super) fn count_alerts(ctx: &Context, accepted: usize, rejected: usize) {
    for (result, count) in [("accepted", accepted), ("rejected", rejected)] {
        ctx.metrics.count(&INGEST_ALERTS, [result], count as u64);
    }
}

fn answer(status: StatusCode, body: &serde_json::Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

/// An answer to a request whose body is not read to its end: the connection cannot be used again.
fn closing(status: StatusCode, message: &str) -> Answer {
    let mut answer = answer(status, &json!({"error": message}));
    answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    answer
}
