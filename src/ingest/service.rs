//! The service: its port, its connections, its relay.

use std::{
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    pin::pin,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use hyper::service::service_fn;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    auth::{TokenError, Tokens},
    bounds,
    http::Endpoint,
    intake::Intake,
    outbox::{Bounds, Outbox, OutboxOpenError},
    relay::relay,
    said::Said,
    topic,
};
use crate::runtime::{
    Context,
    http_server::{self, HttpBounds, Listener},
    liveness::waiting,
    metrics::catalogue::{OUTBOX_AGE, OUTBOX_BYTES, OUTBOX_BYTES_LIMIT, OUTBOX_ENTRIES, OUTBOX_ENTRIES_LIMIT},
};

/// How the service runs.
#[derive(Clone, Debug)]
pub struct IngestConfig {
    /// Where alerts are received.
    pub listen: SocketAddr,
    /// Bearer tokens, one a line.
    pub auth_token_file: Option<PathBuf>,
    /// Whether everybody who can reach the port may send.
    pub allow_unauthenticated: bool,
    /// The name that alert ids of Alertmanager's webhook are derived from.
    pub source: String,
    /// The same for `/api/v2/alerts`.
    pub alerts_source: String,
    /// A topic of Kafka that is not ours, from which alerts are taken, too.
    pub alerts_topic: Option<String>,
    /// Where the outbox is kept.
    pub data_dir: PathBuf,
    /// The most alerts that wait in the outbox; beyond it senders get 503.
    pub outbox_max_alerts: u64,
    /// The most bytes of them.
    pub outbox_max_bytes: u64,
    /// The most connections at once; a further one takes the place of the one that has waited longest without a request.
    pub max_connections: usize,
    /// How long a request's headers may take.
    pub header_timeout: Duration,
    /// How long a request's body may take.
    pub body_timeout: Duration,
    /// How often the token file is looked at.
    pub token_interval: Duration,
    /// How often it is looked whether alerts that were refused would be taken now.
    pub intake_interval: Duration,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            auth_token_file: None,
            allow_unauthenticated: false,
            source: "alertmanager".into(),
            alerts_source: "prometheus".into(),
            alerts_topic: None,
            data_dir: PathBuf::from("eventpulse-data"),
            outbox_max_alerts: 1_000_000,
            outbox_max_bytes: 4 << 30,
            max_connections: 1_024,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            token_interval: Duration::from_secs(1),
            intake_interval: Duration::from_secs(1),
        }
    }
}

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The port.
    #[error("--listen {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The tokens.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// The outbox.
    #[error("--data-dir: {0}")]
    Outbox(#[from] OutboxOpenError),
}

/// How long reading the token file may take before readiness tells.
const TOKEN_PATIENCE: Duration = Duration::from_secs(5);

/// Binds the port by `listen` and runs the service until shutdown.
pub async fn run<L: Listener>(
    ctx: Context,
    config: IngestConfig,
    listen: impl Future<Output = io::Result<L>>,
) -> Result<(), IngestError> {
    let listener = listen.await.map_err(|source| IngestError::Listen { address: config.listen, source })?;
    let tokens = config.auth_token_file.clone().map(Tokens::load).transpose()?;
    let intake = open_intake(&ctx, &config).await?;
    if let Intake::Outbox(_) = intake {
        // Alerts are taken until the outbox is full, whatever becomes of the brokers.
        ctx.health.works_without_log();
    }
    let endpoint = Arc::new(Endpoint {
        ctx: ctx.clone(),
        intake,
        tokens,
        webhook_source: config.source.clone(),
        alerts_source: config.alerts_source.clone(),
        body_timeout: config.body_timeout,
        room: Arc::new(Semaphore::new(bounds::BODIES_BYTES)),
        unauthorised: Said::default(),
        crowded: Said::default(),
        rejected: Said::default(),
        refuses: AtomicBool::new(false),
    });
    ctx.tasks.spawn_loop("ingest-intake", watch_intake(Arc::clone(&endpoint), config.intake_interval));
    ctx.health.ready("service");
    let address = listener.address().map_or_else(|| "unknown".to_owned(), |address| address.to_string());
    tracing::info!(address, "Alerts are received.");
    let (intake, with_tokens) = (ctx.intake.clone(), Arc::clone(&endpoint));
    ctx.tasks.spawn_loop("ingest-tokens", keep_tokens(with_tokens, config.token_interval, intake.clone()));
    if let Some(name) = config.alerts_topic.clone() {
        let reader = topic::Reader::new(&ctx, name, config.source.clone(), config.alerts_source.clone());
        ctx.tasks.spawn("ingest-topic", topic::run(ctx.clone(), reader));
    }
    let service = service_fn(move |request| Arc::clone(&endpoint).serve(request));
    let bounds =
        HttpBounds { connections: config.max_connections, header_timeout: config.header_timeout, lifetime: None };
    http_server::serve(&listener, bounds, "ingest-connection", ctx.tasks.of_intake(), intake, service).await;
    Ok(())
}

/// On Kafka the outbox, on the embedded log that log. What an outbox still holds from a time on Kafka goes to the embedded log.
async fn open_intake(ctx: &Context, config: &IngestConfig) -> Result<Intake, IngestError> {
    if ctx.bus.is_local() && !Outbox::is_in(&config.data_dir) {
        return Ok(Intake::Log);
    }
    let bounds = Bounds {
        alerts: ctx.metrics.gauge(&OUTBOX_ENTRIES, []),
        max_alerts: config.outbox_max_alerts,
        bytes: ctx.metrics.gauge(&OUTBOX_BYTES, []),
        max_bytes: config.outbox_max_bytes,
    };
    let outbox = Outbox::open(&config.data_dir, bounds).await?;
    measure(ctx, config, &outbox);
    ctx.tasks.spawn_loop("ingest-relay", relay(ctx.clone(), Arc::clone(&outbox)));
    Ok(if ctx.bus.is_local() { Intake::Log } else { Intake::Outbox(outbox) })
}

fn measure(ctx: &Context, config: &IngestConfig, outbox: &Arc<Outbox>) {
    for (limit, max) in
        [(&OUTBOX_ENTRIES_LIMIT, config.outbox_max_alerts), (&OUTBOX_BYTES_LIMIT, config.outbox_max_bytes)]
    {
        ctx.metrics.set(limit, [], usize::try_from(max).unwrap_or(usize::MAX));
    }
    let (outbox, clock) = (Arc::downgrade(outbox), Arc::clone(&ctx.clock));
    ctx.metrics.on_sample(move |metrics| {
        let Some(outbox) = outbox.upgrade() else { return };
        let age_s = outbox.oldest_since().map_or(0.0, |since| clock.now().duration_since(since).as_secs_f64());
        metrics.set_amount(&OUTBOX_AGE, [], age_s.max(0.0));
    });
}

/// Until shutdown.
async fn watch_intake(endpoint: Arc<Endpoint>, interval: Duration) {
    let look_again = async {
        loop {
            endpoint.intake.tell(&endpoint.ctx.health);
            tokio::time::sleep(interval).await;
            endpoint.look_again().await;
        }
    };
    tokio::select! {
        () = endpoint.ctx.shutdown.cancelled() => {}
        () = look_again => {}
    }
}

/// Looks at the token file now and then, so that tokens are rotated without a restart. Readiness tells when it cannot be read: the
/// tokens that were read before go on being valid.
async fn keep_tokens(endpoint: Arc<Endpoint>, interval: Duration, shutdown: CancellationToken) {
    let Some(tokens) = &endpoint.tokens else { return };
    let health = &endpoint.ctx.health;
    let kept = |why: String| Some(format!("{why}; the tokens that were read before stay valid"));
    let look = async {
        let mut look = tokio::time::interval(interval);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let mut refresh = pin!(tokens.refresh());
            let refreshed = match tokio::time::timeout(TOKEN_PATIENCE, &mut refresh).await {
                Ok(refreshed) => refreshed,
                Err(_) => {
                    let seconds = TOKEN_PATIENCE.as_secs();
                    health.trouble("tokens", kept(format!("--auth-token-file: it cannot be read within {seconds} s")));
                    // Not a second time beside the first: each would keep a thread.
                    waiting(refresh).await
                }
            };
            health.trouble("tokens", refreshed.err().and_then(|error| kept(error.to_string())));
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = look => {}
    }
}
