//! Serves HTTP with bounds: so many connections at once, so long for a request's headers, so much of them (promise 6).
//!
//! In: a port that is bound, and what answers a request. Out: answers. Each connection is a task of its own.

use std::{convert::Infallible, error::Error, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    server::conn::http1,
    service::Service,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

use super::Tasks;

/// The most that is read of a request before its body.
const HEADER_BYTES_MAX: usize = 32 << 10;

/// How much is taken on.
#[derive(Clone, Copy, Debug)]
pub struct HttpBounds {
    /// The most connections at once; further ones wait to be accepted.
    pub connections: usize,
    /// How long a request's headers may take, and how long a connection may be kept for the next one.
    pub header_timeout: Duration,
}

/// Serves until shutdown; then each connection's request under way is answered. `task` names the connections' tasks.
pub async fn serve<S, B>(
    listener: TcpListener,
    bounds: HttpBounds,
    task: &'static str,
    tasks: Tasks,
    shutdown: CancellationToken,
    service: S,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let permits = Arc::new(Semaphore::new(bounds.connections.max(1)));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            (stream, permit) = accept(&listener, &permits) => {
                let connection = connection(service.clone(), stream, permit, bounds.header_timeout, shutdown.clone());
                tasks.spawn_infallible(task, connection);
            }
        }
    }
}

/// The next connection, when there is room for it. A failed accept (too many files, a peer that is gone) is no reason to stop.
async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed.
    let permit = Arc::clone(permits).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(error) => {
                tracing::warn!(%error, "A connection was not accepted.");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection<S, B>(
    service: S,
    stream: TcpStream,
    _permit: Option<OwnedSemaphorePermit>,
    header_timeout: Duration,
    shutdown: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    // Small answers must not wait for more.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            // The request under way is answered; the next one finds the connection closed.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "A connection ended early.");
    }
}
