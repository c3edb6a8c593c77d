//! `/livez`, `/readyz[?verbose]` and `/metrics`.

use std::{io, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    Health, Metrics, Tasks,
    http_server::{self, HttpBounds},
};

#[derive(Clone)]
struct Admin {
    health: Health,
    metrics: Metrics,
}

/// Binds the admin port.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("--admin-listen {address}: {error}")))
}

/// A few probes and scrapers; whoever else can reach the port cannot use up the process's files.
const BOUNDS: HttpBounds = HttpBounds {
    connections: 64,
    header_timeout: Duration::from_secs(10),
    // Nobody keeps the place of a probe.
    lifetime: Some(Duration::from_secs(20)),
};

/// Serves until shutdown.
pub async fn serve(listener: TcpListener, health: Health, metrics: Metrics, tasks: Tasks, shutdown: CancellationToken) {
    serve_within(BOUNDS, listener, health, metrics, tasks, shutdown).await;
}

async fn serve_within(
    bounds: HttpBounds,
    listener: TcpListener,
    health: Health,
    metrics: Metrics,
    tasks: Tasks,
    shutdown: CancellationToken,
) {
    let app = Router::new()
        // That this is answered at all is the sign of life: the loop that answers is the one that works.
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(Admin { health, metrics });
    http_server::serve(listener, bounds, "admin-connection", tasks, shutdown, TowerToHyperService::new(app)).await;
}

/// 200 when every part of every service is ready, else 503. `?verbose` lists them in either case; trouble outside is always told.
async fn readyz(State(admin): State<Admin>, RawQuery(query): RawQuery) -> impl IntoResponse {
    let ready = admin.health.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose =
        query.is_some_and(|query| query.split('&').any(|part| part == "verbose" || part.starts_with("verbose=")));
    let mut text = String::new();
    for (part, reason) in admin.health.report() {
        match reason {
            Some(reason) => text.push_str(&format!("[-] {part}: {reason}\n")),
            None if verbose => text.push_str(&format!("[+] {part}\n")),
            None => {}
        }
    }
    for (part, trouble) in admin.health.troubles() {
        text.push_str(&format!("[!] {part}: {trouble}\n"));
    }
    text.push_str(if ready { "ready\n" } else { "not ready\n" });
    (status, text)
}

async fn metrics_text(State(admin): State<Admin>) -> impl IntoResponse {
    match admin.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get_text(address: SocketAddr, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        (text[9..12].parse().unwrap(), text)
    }

    #[tokio::test]
    async fn readiness_lists_what_is_missing_and_why() {
        let (health, metrics, shutdown) = (Health::default(), Metrics::default(), CancellationToken::new());
        let rules = health.service("rules");
        rules.ready("bus");
        rules.not_ready("service", "the first list of rules has not arrived");
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, health, metrics, Tasks::new().0, shutdown.clone()));
        let (status, text) = get_text(address, "/readyz").await;
        assert_eq!(status, 503);
        assert!(text.contains("[-] rules/service: the first list of rules has not arrived"), "{text}");
        assert!(!text.contains("rules/bus"), "{text}");
        rules.ready("service");
        let (status, text) = get_text(address, "/readyz?verbose").await;
        assert_eq!((status, text.contains("[+] rules/bus")), (200, true), "{text}");
        rules.trouble("channels", Some("messages to shop/ops-slack wait".into()));
        let (status, text) = get_text(address, "/readyz").await;
        assert_eq!(
            (status, text.contains("[!] rules/channels: messages to shop/ops-slack wait")),
            (200, true),
            "{text}"
        );
        rules.trouble("channels", None);
        assert!(!get_text(address, "/readyz?verbose").await.1.contains("channels"));
        assert_eq!(get_text(address, "/livez").await.0, 200);
        assert_eq!(get_text(address, "/metrics").await.0, 200);
        shutdown.cancel();
        server.await.unwrap();
    }

    /// Else whoever asks again and again on one connection would keep the place of a probe.
    #[tokio::test]
    async fn a_connection_is_one_requests() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (health, metrics, shutdown) = (Health::default(), Metrics::default(), CancellationToken::new());
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, health, metrics, Tasks::new().0, shutdown.clone()));
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2).as_bytes()).await.unwrap();
        let mut text = String::new();
        // The second request is not read, so that its sender may see a reset.
        let _ = stream.read_to_string(&mut text).await;
        assert_eq!(text.matches("HTTP/1.1 200").count(), 1, "{text}");
        shutdown.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn whoever_says_nothing_is_hung_up_on_and_makes_room() {
        use tokio::io::AsyncReadExt;
        let (health, shutdown) = (Health::default(), CancellationToken::new());
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let bounds = HttpBounds { connections: 2, header_timeout: Duration::from_millis(300), ..BOUNDS };
        let (tasks, metrics) = (Tasks::new().0, Metrics::default());
        let server = tokio::spawn(serve_within(bounds, listener, health, metrics, tasks.clone(), shutdown.clone()));
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
        // Two are served, the third waits its turn; all are hung up on in the end, and so this one is answered.
        assert_eq!(get_text(address, "/livez").await.0, 200);
        for mut stream in silent {
            let mut text = Vec::new();
            let _ = stream.read_to_end(&mut text).await;
        }
        shutdown.cancel();
        server.await.unwrap();
        tasks.finished().await;
    }
}
