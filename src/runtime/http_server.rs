//! Serves HTTP with bounds: so many connections at once, so long for a request's headers, so much of them (promise 6).
//!
//! In: a port that is bound, and what answers a request. Out: answers. Each connection is a task of its own. Whoever comes when all
//! places are taken gets that of whoever has waited longest without a request: slow senders keep nobody out.

mod places;

use std::{
    convert::Infallible,
    error::Error,
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Incoming},
    header,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_util::sync::CancellationToken;

use self::places::{Place, Places};
use super::{Tasks, liveness::waiting};

/// How long a sender whose body was not read to its end may take to read its answer.
const LINGER: Duration = Duration::from_secs(1);
/// How much more of its body is read meanwhile, and thrown away.
const LINGER_BYTES: usize = 256 << 10;
/// The same for a sender that nobody knows: with what the HTTP library reads at once, less than 64 KiB in all.
const LINGER_BYTES_UNKNOWN: usize = 16 << 10;
/// What the HTTP library reads at once, and the most that it reads of a request before its body.
const BUFFER_BYTES: usize = 32 << 10;

/// How much is taken on.
#[derive(Clone, Copy, Debug)]
pub struct HttpBounds {
    /// The most connections at once. A further one takes the place of the one that has waited longest for a request, or to have its
    /// answer taken; where all are being answered it waits.
    pub connections: usize,
    /// How long a request's headers may take, and how long a connection may be kept for the next one.
    pub header_timeout: Duration,
    /// How long a connection may last, which is then one request's; none: as long as its sender likes.
    pub lifetime: Option<Duration>,
}

/// Both directions of a connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// A port that is bound.
#[async_trait]
pub trait Listener: Send + Sync + 'static {
    /// The next connection.
    async fn accept(&self) -> io::Result<Box<dyn Stream>>;

    /// Where it listens, as far as that can be said.
    fn address(&self) -> Option<SocketAddr>;
}

#[async_trait]
impl Listener for TcpListener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        let (stream, _) = TcpListener::accept(self).await?;
        // Small answers must not wait for more.
        let _ = stream.set_nodelay(true);
        Ok(Box::new(stream))
    }

    fn address(&self) -> Option<SocketAddr> {
        self.local_addr().ok()
    }
}

/// Serves until shutdown; then each connection's request under way is answered. `task` names the connections' tasks.
pub async fn serve<S, B>(
    listener: &dyn Listener,
    bounds: HttpBounds,
    task: &'static str,
    tasks: Tasks,
    shutdown: CancellationToken,
    service: S,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let places = Places::new(bounds.connections.max(1));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            (stream, place) = waiting(accept(listener, &places)) => {
                let place = Arc::new(place);
                let conversation = converse(seated(service.clone(), Arc::clone(&place)), stream, bounds, shutdown.clone());
                tasks.spawn_infallible(task, async move {
                    tokio::select! {
                        // Whether it came to its end or its time is over, there is room for another one.
                        _ = tokio::time::timeout(bounds.lifetime.unwrap_or(Duration::MAX), conversation) => {}
                        () = place.taken() => tracing::debug!("A connection without a request made room for another one."),
                    }
                });
            }
        }
    }
}

/// Says of a connection when it is being answered, and when it waits again.
fn seated<S, B>(
    service: S,
    place: Arc<Place>,
) -> impl Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send> + Send + Sync
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    service_fn(move |request| {
        place.works();
        let (answer, place) = (service.call(request), Arc::clone(&place));
        async move {
            let answer = answer.await;
            place.waits();
            answer
        }
    })
}

/// The next connection, and its place. A failed accept (too many files, a peer that is gone) is no reason to stop.
async fn accept(listener: &dyn Listener, places: &Arc<Places>) -> (Box<dyn Stream>, Place) {
    loop {
        match listener.accept().await {
            Ok(stream) => return (stream, places.find().await),
            Err(error) => {
                tracing::warn!(%error, "A connection was not accepted.");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// One connection: its requests, until the sender ends it, an answer ends it, or shutdown; and an end that lets the last answer
/// arrive.
pub async fn converse<I, S, B>(service: S, io: I, bounds: HttpBounds, shutdown: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let unread = AtomicUsize::new(0);
    let service = service_fn(|request| {
        let (answer, unread) = (service.call(request), &unread);
        Box::pin(async move {
            let answer = answer.await;
            unread.store(answer.as_ref().map_or(0, linger_bytes), Ordering::SeqCst);
            answer
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header_timeout)
        .keep_alive(bounds.lifetime.is_none())
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(io), service);
    let ended = tokio::select! {
        ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => ended,
        () = shutdown.cancelled() => {
            // The request under way is answered; the next one finds the connection closed.
            Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|cx| connection.poll_without_shutdown(cx)).await
        }
    };
    match ended {
        Ok(()) => linger(connection.into_parts().io.into_inner(), unread.load(Ordering::SeqCst)).await,
        Err(error) => tracing::debug!(%error, "A connection ended early."),
    }
}

/// How much of what follows an answer is still read. Nothing, unless the answer came before the end of its request.
fn linger_bytes<B>(answer: &Response<B>) -> usize {
    match answer.status() {
        _ if !answer.headers().contains_key(header::CONNECTION) => 0,
        StatusCode::UNAUTHORIZED => LINGER_BYTES_UNKNOWN,
        _ => LINGER_BYTES,
    }
}

/// Closing a socket with unread bytes resets the connection, and a reset takes the answer with it that the sender has not read
/// yet (RFC 9112, section 9.6). So the sender is told that nothing more comes, and gets a moment to read and to hang up.
async fn linger<I: AsyncRead + AsyncWrite + Unpin>(mut io: I, mut bytes: usize) {
    if bytes == 0 {
        return;
    }
    let until_it_hangs_up = async {
        io.shutdown().await?;
        let mut buffer = [0; 4 << 10];
        while bytes > 0 {
            let most = bytes.min(buffer.len());
            match io.read(&mut buffer[..most]).await? {
                0 => return Ok(()),
                read => bytes -= read,
            }
        }
        // No more is read; the rest of the time is the sender's.
        std::future::pending::<io::Result<()>>().await
    };
    // Whether it hung up or its time is over, the connection ends.
    let _ = tokio::time::timeout(LINGER, until_it_hangs_up).await;
}
