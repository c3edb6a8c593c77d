//! A stream that gives its reader one line at a time.
//!
//! What reads answers before STARTTLS keeps what it has read ahead, and would take it for answers from within TLS: somebody on the way
//! could put a `250` there, and a message that nobody took would count as delivered (the flaw that NO STARTTLS, USENIX Security 2021,
//! calls response injection). Whoever reads from this stream never holds more than the line it is about to use; what stands after the
//! answer to STARTTLS comes to the TLS handshake, which fails on it.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// As much as is read at once; a longer line comes in pieces.
const CHUNK: usize = 1024;

/// See the module's text.
#[derive(Debug)]
pub(super) struct LineByLine {
    stream: TcpStream,
    read: Box<[u8; CHUNK]>,
    /// What of `read` was not given out yet.
    from: usize,
    to: usize,
}

impl LineByLine {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, read: Box::new([0; CHUNK]), from: 0, to: 0 }
    }
}

impl AsyncRead for LineByLine {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.from == this.to {
            let mut into = ReadBuf::new(this.read.as_mut_slice());
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut into))?;
            (this.from, this.to) = (0, into.filled().len());
        }
        let rest = &this.read[this.from..this.to];
        let line = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
        let count = line.min(buf.remaining());
        buf.put_slice(&rest[..count]);
        this.from += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LineByLine {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncTokioStream for LineByLine {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }
}
