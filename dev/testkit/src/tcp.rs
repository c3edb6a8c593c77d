//! A proxy before anything that speaks TCP: it passes, cuts every connection, or holds them open and passes nothing, or no answers.
//!
//! In: connections on a free port of loopback; out: one address, which may be told later. What is inside is not looked at.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{AbortHandle, JoinSet},
};

const CHUNK: usize = 64 << 10;

/// A running proxy. Dropping it closes every connection through it.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    state: Arc<State>,
    accepting: AbortHandle,
}

#[derive(Debug)]
struct State {
    upstream: Mutex<Option<SocketAddr>>,
    holds: watch::Sender<Holds>,
    /// Counts up; whoever sees another number than at its beginning ends.
    cuts: watch::Sender<usize>,
}

/// What does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Nothing,
    Answers,
    Everything,
}

impl TcpProxy {
    /// On a free port. Connections are closed until it is told where to [lead](Self::lead_to).
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = State {
            upstream: Mutex::default(),
            holds: watch::Sender::new(Holds::Nothing),
            cuts: watch::Sender::new(0),
        };
        let state = Arc::new(state);
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state))).abort_handle();
        Ok(Self { address, state, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where connections go from now on.
    pub fn lead_to(&self, upstream: SocketAddr) {
        *self.state.upstream.lock().unwrap_or_else(PoisonError::into_inner) = Some(upstream);
    }

    /// Ends every connection, and gives how many there were. New ones pass.
    pub fn cut(&self) -> usize {
        let connections = self.state.cuts.receiver_count();
        self.state.cuts.send_modify(|cuts| *cuts += 1);
        connections
    }

    /// Connections stay and are taken, and nothing passes, in no direction.
    pub fn hold(&self) {
        self.state.holds.send_replace(Holds::Everything);
    }

    /// What is asked passes, and no answer does: cut then, they are lost after what they answer was done.
    pub fn hold_answers(&self) {
        self.state.holds.send_replace(Holds::Answers);
    }

    /// Everything passes, what was held first.
    pub fn pass(&self) {
        self.state.holds.send_replace(Holds::Nothing);
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The connections end with this task, because it owns them.
async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // Out of file descriptors, or gone before it was accepted: the next one may do better.
                let Ok((stream, _)) = accepted else { continue };
                let state = Arc::clone(&state);
                let cuts = state.cuts.subscribe();
                connections.spawn(async move { drop(connect(stream, &state, cuts).await) });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(near: TcpStream, state: &State, mut cuts: watch::Receiver<usize>) -> io::Result<()> {
    let upstream = *state.upstream.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(upstream) = upstream else { return Ok(()) };
    let far = TcpStream::connect(upstream).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::select! {
        // First: what was held when it was cut is lost, whatever passes again by then.
        biased;
        _ = cuts.changed() => Ok(()),
        // Of one direction that ends the other has nothing to wait for: both sides close whole connections.
        passed = pass(near_in, far_out, state.holds.subscribe(), |holds| holds != Holds::Everything) => passed,
        passed = pass(far_in, near_out, state.holds.subscribe(), |holds| holds == Holds::Nothing) => passed,
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut holds: watch::Receiver<Holds>,
    passes: impl Fn(Holds) -> bool,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = from.read(&mut chunk).await?;
        if read == 0 || holds.wait_for(|holds| passes(*holds)).await.is_err() {
            return Ok(());
        }
        to.write_all(&chunk[..read]).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn it_passes_holds_and_cuts() {
        let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let proxy = TcpProxy::start().await.unwrap();
        proxy.lead_to(upstream.local_addr().unwrap());
        let mut near = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut far, _) = upstream.accept().await.unwrap();
        let mut byte = [0];
        near.write_all(b"a").await.unwrap();
        far.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"a");
        proxy.hold();
        far.write_all(b"b").await.unwrap();
        assert!(timeout(Duration::from_millis(100), near.read_exact(&mut byte)).await.is_err());
        proxy.pass();
        near.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"b");
        proxy.hold_answers();
        near.write_all(b"q").await.unwrap();
        far.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"q");
        far.write_all(b"lost").await.unwrap();
        assert!(timeout(Duration::from_millis(100), near.read_exact(&mut byte)).await.is_err());
        assert_eq!(proxy.cut(), 1);
        proxy.pass();
        assert_eq!(near.read(&mut byte).await.unwrap(), 0);
        let mut again = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut far, _) = upstream.accept().await.unwrap();
        again.write_all(b"c").await.unwrap();
        far.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"c");
    }

    #[tokio::test]
    async fn it_closes_what_leads_nowhere() {
        let proxy = TcpProxy::start().await.unwrap();
        let mut near = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
    }
}
