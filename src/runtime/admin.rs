//! `/livez`, `/readyz[/SERVICE]` and `/metrics`, on a thread of their own: whoever asks is answered also when no async thread is free,
//! and until the process ends.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{StatusCode, Uri, header},
    response::IntoResponse,
    routing::get,
};
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;

use super::{
    Health, Liveness, Metrics, Tasks,
    http_server::{self, HttpBounds},
    liveness::LOOK_INTERVAL,
};

/// What the admin port tells.
#[derive(Clone)]
pub struct Admin {
    /// What the services wait for.
    pub health: Health,
    /// Whether the loops go on.
    pub liveness: Liveness,
    /// What was counted.
    pub metrics: Metrics,
}

/// Binds the admin port.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| io::Error::new(error.kind(), format!("--admin-listen {address}: {error}")))
}

/// A few probes and scrapers; whoever else can reach the port cannot use up the process's files, nor keep a probe out.
const BOUNDS: HttpBounds = HttpBounds {
    connections: 64,
    header_timeout: Duration::from_secs(2),
    // Nobody keeps the place of a probe.
    lifetime: Some(Duration::from_secs(20)),
};

/// Serves on a thread of its own until the process ends, and looks after the loops. Should that thread fail, nobody answers, and
/// Kubernetes takes that for what it is.
pub fn start(listener: TcpListener, admin: Admin) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let serve = move || {
        // What fails here fails for nobody else.
        let (tasks, _failures) = Tasks::new();
        runtime.block_on(async {
            tokio::join!(watch(admin.liveness.clone()), serve(listener, admin, tasks, CancellationToken::new()));
        });
    };
    std::thread::Builder::new().name("admin".into()).spawn(serve).map(drop)
}

/// Looks after the loops, for ever. What is found is said by a thread of its own: where nobody takes the log's lines any more, that is
/// what the loops are stuck in.
async fn watch(liveness: Liveness) {
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = look.tick().await;
    loop {
        let now = look.tick().await;
        let stuck = liveness.look(now.duration_since(last));
        last = now;
        if stuck.is_empty() {
            continue;
        }
        let say = move || {
            for one in stuck {
                let (still_s, bound_s) = (one.still.as_secs(), one.bound.as_secs());
                tracing::error!(
                    task = one.name,
                    still_s,
                    bound_s,
                    "A loop does not go on; /livez says so until it does."
                );
            }
        };
        // Without a thread /livez says it all the same.
        let _ = std::thread::Builder::new().name("liveness".into()).spawn(say);
    }
}

/// Serves until shutdown.
pub async fn serve(listener: TcpListener, admin: Admin, tasks: Tasks, shutdown: CancellationToken) {
    serve_within(BOUNDS, listener, admin, tasks, shutdown).await;
}

async fn serve_within(
    bounds: HttpBounds,
    listener: TcpListener,
    admin: Admin,
    tasks: Tasks,
    shutdown: CancellationToken,
) {
    let app = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/readyz/{*service}", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(admin);
    // It was made not to block; there is no other reason to refuse it.
    match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => {
            let service = TowerToHyperService::new(app);
            http_server::serve(&listener, bounds, "admin-connection", tasks, shutdown, service).await;
        }
        Err(error) => tracing::error!(%error, "The admin port cannot be served."),
    }
}

/// 200 while every loop moves, else 503 and those that do not. `?verbose` lists them all.
async fn livez(State(admin): State<Admin>, RawQuery(query): RawQuery) -> impl IntoResponse {
    let stuck = admin.liveness.stuck();
    let mut text: String = stuck.iter().map(|stuck| format!("[-] {stuck}\n")).collect();
    if is_verbose(query.as_deref()) {
        for (name, (count, still)) in admin.liveness.report() {
            let count = if count == 1 { String::new() } else { format!(" ({count})") };
            text.push_str(&format!("{name}{count}: moved {} s ago\n", still.as_secs()));
        }
    }
    let status = if stuck.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    text.push_str(if stuck.is_empty() { "ok\n" } else { "not alive\n" });
    (status, text)
}

/// 200 when every part of every service, or of the one that is asked for, is ready, else 503. `?verbose` lists them in either case;
/// trouble outside is always told.
async fn readyz(State(admin): State<Admin>, uri: Uri, RawQuery(query): RawQuery) -> impl IntoResponse {
    let service = uri.path().strip_prefix("/readyz/").map(|service| service.trim_end_matches('/'));
    let ready = match service {
        Some(service) => admin.health.is_service_ready(service),
        None => Some(admin.health.is_ready()),
    };
    let Some(ready) = ready else {
        return (StatusCode::NOT_FOUND, format!("this process runs {}\n", admin.health.service_names().join(", ")));
    };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let lines = admin.health.lines(service, is_verbose(query.as_deref()));
    let mut text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    text.push_str(if ready { "ready\n" } else { "not ready\n" });
    (status, text)
}

fn is_verbose(query: Option<&str>) -> bool {
    query.is_some_and(|query| query.split('&').any(|part| part == "verbose" || part.starts_with("verbose=")))
}

async fn metrics_text(State(admin): State<Admin>) -> impl IntoResponse {
    match admin.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
#[path = "admin_tests.rs"]
mod tests;
