//! The way of one service of one replica to the API server.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use eventpulse_fake_api::{AnswerBody, ApiService};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use kube::client::Body;
use serde_json::json;
use tokio::{sync::oneshot, time::sleep};
use tower::Service;

use crate::{
    coverage::Fault,
    gate::Gate,
    world::{Moment, World},
};

type Answer = io::Result<Response<AnswerBody>>;

/// How long a watch may stay silent before its connection is found broken.
const SILENCE: Duration = Duration::from_secs(40);

/// See the module's text.
#[derive(Clone)]
pub(crate) struct ApiPort {
    pub world: Arc<World>,
    pub gate: Gate,
    pub server: ApiService,
    /// Replica and service, for the timeline.
    pub who: Arc<str>,
}

/// What becomes of a request.
struct Fate {
    before: Duration,
    after: Duration,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Served,
    /// It does not arrive.
    Lost,
    /// It is answered with this, and not served.
    Refused(u16, &'static str),
    /// It is served, and answered with this.
    ServedAndAnswered(u16, &'static str),
    /// It is served, and the answer does not arrive.
    AnswerLost,
}

struct About {
    method: Method,
    path: String,
    is_watch: bool,
}

impl About {
    fn is_write(&self) -> bool {
        self.method != Method::GET
    }

    fn is_patch_of_target(&self) -> bool {
        self.method == Method::PATCH && self.path.contains("/deployments/")
    }

    /// Without the group and the namespace.
    fn object(&self) -> &str {
        self.path
            .split_once("/namespaces/")
            .and_then(|(_, rest)| rest.split_once('/'))
            .map_or(&self.path, |(_, rest)| rest)
    }
}

impl Service<Request<Body>> for ApiPort {
    type Response = Response<AnswerBody>;
    type Error = io::Error;
    type Future = BoxFuture<'static, Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.clone().exchange(request).boxed()
    }
}

impl ApiPort {
    async fn exchange(self, request: Request<Body>) -> Answer {
        self.gate.pass().await;
        let about = About {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            is_watch: request.uri().query().is_some_and(|query| query.contains("watch=")),
        };
        let crash = if about.is_write() { self.world.effect() } else { None };
        if crash == Some(Moment::Before) {
            self.world.crash(&self.gate, &self.who, Fault::CrashBeforeWrite);
            self.gate.pass().await;
        }
        if about.is_patch_of_target() && self.world.freezes_patch.swap(false, Ordering::SeqCst) {
            self.world.timeline.note(&self.who, "FROZEN in the middle of a patch");
            self.gate.freeze();
        }
        let (fate, is_watch) = (self.fate_of(&about), about.is_watch);
        let (reply, answer) = oneshot::channel();
        let port = self.clone();
        // On the network: it goes on when its sender has given up or is dead.
        tokio::spawn(async move {
            let answered = port.serve(request, about, &fate, crash).await;
            sleep(fate.after).await;
            // Nobody may be waiting any more.
            let _ = reply.send(answered);
        });
        let answer = answer.await.unwrap_or_else(|_| Err(broken()));
        self.gate.pass().await;
        if is_watch { answer.map(|answer| self.follow(answer)) } else { answer }
    }

    async fn serve(&self, request: Request<Body>, about: About, fate: &Fate, crash: Option<Moment>) -> Answer {
        sleep(fate.before).await;
        let answer = match fate.kind {
            Kind::Lost => Err(broken()),
            Kind::Refused(code, reason) => Ok(status(code, reason)),
            Kind::Served => self.server.clone().call(request).await,
            Kind::AnswerLost => self.server.clone().call(request).await.and(Err(broken())),
            Kind::ServedAndAnswered(code, reason) => {
                self.server.clone().call(request).await.map(|_| status(code, reason))
            }
        };
        if about.is_write() || answer.is_err() {
            let said = answer.as_ref().map_or_else(ToString::to_string, |answer| answer.status().as_u16().to_string());
            self.world.timeline.note(&self.who, format_args!("{} {} → {said}", about.method, about.object()));
        }
        if crash == Some(Moment::After) {
            self.world.crash(&self.gate, &self.who, Fault::CrashAfterWrite);
        }
        answer
    }

    fn fate_of(&self, about: &About) -> Fate {
        let world = &self.world;
        let fate = |kind| Fate { before: world.hop(), after: world.hop(), kind };
        let met = |fault, made: Fate| {
            world.reached(fault);
            made
        };
        // Of a read it is only an answer that did not come.
        let met_by_write = |fault, made| if about.is_write() { met(fault, made) } else { made };
        if world.api_is_away.load(Ordering::SeqCst) {
            return fate(Kind::Lost);
        }
        if world.webhook_is_away.load(Ordering::SeqCst) && about.is_write() && !about.is_patch_of_target() {
            return met(Fault::WriteFailed, fate(Kind::Refused(500, "InternalError")));
        }
        let rates = world.rates();
        if !world.chance.permille(if about.is_patch_of_target() {
            rates.patch.max(rates.request)
        } else {
            rates.request
        }) {
            return fate(Kind::Served);
        }
        if about.is_watch {
            return met(Fault::WatchExpired, fate(Kind::Refused(410, "Expired")));
        }
        match world.chance.below(8) {
            0 => met(Fault::RequestLost, fate(Kind::Lost)),
            1 => met_by_write(Fault::AnswerLost, fate(Kind::AnswerLost)),
            2 => met(Fault::AnswerLate, Fate { after: world.too_long(), ..fate(Kind::Served) }),
            3 => met_by_write(Fault::RequestLate, Fate { before: world.too_long(), ..fate(Kind::Served) }),
            4 => met_by_write(Fault::AnsweredAfterCommit, fate(Kind::ServedAndAnswered(504, "Timeout"))),
            5 => met(Fault::Unavailable, fate(Kind::Refused(503, "ServiceUnavailable"))),
            6 => met(Fault::Throttled, fate(Kind::Refused(429, "TooManyRequests"))),
            _ if about.method == Method::PUT || about.method == Method::PATCH => {
                met(Fault::Conflict, fate(Kind::Refused(409, "Conflict")))
            }
            _ => fate(Kind::Served),
        }
    }

    /// A watch whose frames come late, or no longer, or which breaks off.
    fn follow(self, answer: Response<AnswerBody>) -> Response<AnswerBody> {
        if answer.status() != 200 {
            return answer;
        }
        let (parts, body) = answer.into_parts();
        let frames = stream::unfold((self, BodyStream::new(body)), |(port, mut frames)| async move {
            let frame = frames.next().await?;
            let world = &port.world;
            sleep(world.hop()).await;
            if world.api_is_away.load(Ordering::SeqCst) {
                return Some((Err(broken()), (port, frames)));
            }
            if world.chance.permille(world.rates().watch) {
                match world.chance.below(4) {
                    0 | 1 => {
                        world.reached(Fault::WatchLate);
                        sleep(world.chance.time(Duration::from_millis(20), Duration::from_secs(8))).await;
                    }
                    2 => {
                        world.reached(Fault::WatchBroken);
                        return Some((Err(broken()), (port, frames)));
                    }
                    _ => {
                        world.reached(Fault::WatchSilent);
                        sleep(SILENCE).await;
                        return Some((Err(broken()), (port, frames)));
                    }
                }
            }
            port.gate.pass().await;
            Some((frame, (port, frames)))
        });
        Response::from_parts(parts, StreamBody::new(frames).boxed_unsync())
    }
}

fn status(code: u16, reason: &'static str) -> Response<AnswerBody> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
        "message": "a fault of the simulator", "details": {},
    });
    let body = Full::new(Bytes::from(status.to_string())).map_err(|never| match never {}).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    answer
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the connection broke (a fault of the simulator)")
}
