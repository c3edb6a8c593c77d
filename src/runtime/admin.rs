//! `/livez`, `/readyz[?verbose]` and `/metrics`.

use std::{io, net::SocketAddr};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Health, Metrics};

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

/// Serves until shutdown.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let app = Router::new()
        // That this is answered at all is the sign of life: the loop that answers is the one that works.
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(Admin { health, metrics });
    axum::serve(listener, app).with_graceful_shutdown(async move { shutdown.cancelled().await }).await
}

/// 200 when every part of every service is ready, else 503. `?verbose` lists them in either case.
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
        let server = tokio::spawn(serve(listener, health, metrics, shutdown.clone()));
        let (status, text) = get_text(address, "/readyz").await;
        assert_eq!(status, 503);
        assert!(text.contains("[-] rules/service: the first list of rules has not arrived"), "{text}");
        assert!(!text.contains("rules/bus"), "{text}");
        rules.ready("service");
        let (status, text) = get_text(address, "/readyz?verbose").await;
        assert_eq!((status, text.contains("[+] rules/bus")), (200, true), "{text}");
        assert_eq!(get_text(address, "/livez").await.0, 200);
        assert_eq!(get_text(address, "/metrics").await.0, 200);
        shutdown.cancel();
        server.await.unwrap().unwrap();
    }
}
