//! A small HTTP/1.1 server on loopback whose handler may also close the connection without an answer.

use std::{future::Future, io, net::SocketAddr, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{AbortHandle, JoinSet},
};

/// A body that may stream.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;
/// An error closes the connection without an answer.
pub type Answer = io::Result<Response<Body>>;
/// Answers requests.
pub type Handler = Arc<dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// A running server. Dropping it closes every connection.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    /// Counts up; whoever sees another number than at its beginning ends.
    cuts: watch::Sender<usize>,
    accepting: AbortHandle,
}

impl Server {
    /// Listens; port 0 is a free port.
    pub async fn start(listen: SocketAddr, handler: Handler) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let cuts = watch::Sender::new(0);
        let accepting = tokio::spawn(accept(listener, handler, cuts.clone())).abort_handle();
        Ok(Self { address, cuts, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection, whatever is under way on it, and gives how many there were. New ones are taken.
    pub fn cut(&self) -> usize {
        let connections = self.cuts.receiver_count();
        self.cuts.send_modify(|cuts| *cuts += 1);
        connections
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The connections end with this task, because it owns them.
async fn accept(listener: TcpListener, handler: Handler, cuts: watch::Sender<usize>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // Out of file descriptors, or gone before it was accepted: the next one may do better.
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let (handler, mut cut) = (Arc::clone(&handler), cuts.subscribe());
                connections.spawn(async move {
                    let service = service_fn(move |request| handler(request));
                    let mut server = http1::Builder::new();
                    let serving = server.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
                    // An error here is a connection that was closed, by the peer or by a handler on purpose.
                    tokio::select! {
                        _ = serving => {}
                        _ = cut.changed() => {}
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
