//! A workload's metric: a gauge that Prometheus scrapes, with the value that the test gives it.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

use http::Response;
use http_body_util::{BodyExt, Full};

use crate::server::{self, Server};

/// A running endpoint. Dropping it ends it.
pub struct Gauge {
    server: Server,
    state: Arc<State>,
}

struct State {
    name: String,
    value: AtomicI64,
    scrapes: AtomicUsize,
}

impl Gauge {
    /// On a free port of loopback. Every path answers with this metric.
    pub async fn start(name: &str, value: i64) -> io::Result<Self> {
        let state = Arc::new(State { name: name.to_owned(), value: value.into(), scrapes: AtomicUsize::new(0) });
        let shared = Arc::clone(&state);
        let handler: server::Handler = Arc::new(move |_| {
            shared.scrapes.fetch_add(1, Ordering::SeqCst);
            let (name, value) = (&shared.name, shared.value.load(Ordering::SeqCst));
            let text = format!("# TYPE {name} gauge\n{name} {value}\n");
            let body = Full::new(text.into()).map_err(|never| match never {}).boxed_unsync();
            let answer = Response::builder().header("content-type", "text/plain; version=0.0.4").body(body);
            Box::pin(std::future::ready(answer.map_err(io::Error::other)))
        });
        Ok(Self { server: Server::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), handler).await?, state })
    }

    /// Where it is scraped: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.server.address().to_string()
    }

    /// What it says from now on.
    pub fn set(&self, value: i64) {
        self.state.value.store(value, Ordering::SeqCst);
    }

    /// How often it was scraped.
    pub fn scrapes(&self) -> usize {
        self.state.scrapes.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client;

    #[tokio::test]
    async fn it_says_what_it_was_told_last() {
        let gauge = Gauge::start("cpu_percent", 50).await.unwrap();
        let url = format!("http://{}/metrics", gauge.address());
        assert_eq!(client::get(&url).await.unwrap().text(), "# TYPE cpu_percent gauge\ncpu_percent 50\n");
        gauge.set(97);
        assert!(client::get(&url).await.unwrap().text().ends_with("cpu_percent 97\n"));
        assert_eq!(gauge.scrapes(), 2);
    }
}
