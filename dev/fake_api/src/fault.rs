//! What may happen to a request beside being served.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt, StreamBody};

use crate::{
    answer::{Answer, Refusal, page, respond},
    api::FakeApi,
    service::Call,
};

/// What happens to a request.
#[derive(Clone)]
pub enum Fault {
    /// Nothing: it is served.
    None,
    /// It is answered with this status and changes nothing.
    Answer(u16),
    /// It is answered with 429 and this Retry-After in seconds, and changes nothing.
    Throttle(u32),
    /// It is answered with a 422 that names a field (a failed `test` of a JSON Patch names none), and changes nothing.
    Invalid,
    /// The connection breaks before it arrives.
    Refuse,
    /// It is served, and the connection breaks before its answer.
    DropAnswer,
    /// It is served, and the answer is this status all the same (a 504 after the commit).
    CommitThenAnswer(u16),
    /// It waits until the semaphore gives a permit, and is served then.
    Hold(Arc<tokio::sync::Semaphore>),
    /// Something before the server answers with this status and a page for people, and nobody knows what it did with the request.
    Page(u16),
    /// It is answered as a watch of which nothing ever comes, not even its end: a connection that died in silence.
    Silence,
    /// It is answered as a watch that ends at once.
    Ended,
    /// It waits, and is served then.
    Delay(Duration),
    /// It is served after these changes by somebody else: a race between a read and a write.
    After(Arc<dyn Fn(&FakeApi) + Send + Sync>),
}

impl Fault {
    /// Lets it happen.
    pub(crate) async fn happen(self, api: &FakeApi, call: Call) -> Result<Answer, std::io::Error> {
        let json = "application/json";
        match self {
            Fault::None => {}
            Fault::Answer(code) => return Ok(Refusal::fault(code, 0).answer()),
            Fault::Throttle(seconds) => return Ok(Refusal::fault(429, seconds).answer()),
            Fault::Invalid => return Ok(Refusal::faulty_field().answer()),
            Fault::Refuse => return Err(broken()),
            Fault::DropAnswer => {
                drop(api.answer(call));
                return Err(broken());
            }
            Fault::CommitThenAnswer(code) => {
                drop(api.answer(call));
                return Ok(Refusal::fault(code, 0).answer());
            }
            Fault::Hold(semaphore) => {
                if let Ok(permit) = semaphore.acquire().await {
                    permit.forget();
                }
            }
            Fault::Page(code) => return Ok(page(code, "text/html", "<html><body>Try later.</body></html>")),
            Fault::Silence => {
                return Ok(respond(200, json, StreamBody::new(futures::stream::pending()).boxed_unsync()));
            }
            Fault::Ended => return Ok(respond(200, json, StreamBody::new(futures::stream::empty()).boxed_unsync())),
            Fault::Delay(time) => tokio::time::sleep(time).await,
            Fault::After(change) => change(api),
        }
        Ok(api.answer(call))
    }
}

fn broken() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::ConnectionReset, "the connection broke (a fault on request)")
}
