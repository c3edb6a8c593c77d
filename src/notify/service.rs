//! The service: what it consumes and when, its clock, and how long it remembers.

use std::{
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use tokio::sync::{broadcast, watch};

use super::{
    deliver::next_look,
    due::Due,
    http::{HttpClient, HttpTransport},
    lanes::Lanes,
    record::name_of_request,
    retention::ended,
    secrets::Secrets,
    sender::{Input, Sender},
    smtp::{MailTransport, SmtpClient},
};
use crate::{
    api::v1alpha1::{Duration as ApiDuration, Notification},
    bus::{BusError, Consumes},
    events::{NamespacedName, Payload, Topic},
    runtime::{
        Context, Gate, Inbound, Mailboxes, Ownership, Store, StoreError, WatchCache, consume,
        metrics::catalogue::{CHANNELS_FAILING, LANES},
        retention::{self, Limits, Sweep},
        watch_cache::name_of,
    },
};

/// What the service consumes.
pub const CONSUMES: Consumes = Consumes { group: "notify", topics: &[Topic::NotificationRequested] };

/// How the service runs.
#[derive(Clone, Debug)]
pub struct NotifyConfig {
    /// The most requests of one partition that are not in a resource yet.
    pub max_in_flight: usize,
    /// The most notifications that are worked on at once.
    pub concurrency: usize,
    /// The most tries of one channel at once. `concurrency` divided by it is how many channels may hang before others notice.
    pub per_channel: usize,
    /// How long a finished notification stays: at least as long as the topics keep their records, so that a request which comes again
    /// is known.
    pub ttl: ApiDuration,
    /// The most finished notifications that one namespace keeps; beyond it the oldest go, once their deadline has passed.
    pub max_finished: usize,
    /// URL of a proxy for all messages. None: no proxy, whatever the environment says.
    pub proxy: Option<String>,
}

impl Default for NotifyConfig {
    fn default() -> Self {
        Self {
            max_in_flight: 512,
            concurrency: 256,
            per_channel: 4,
            ttl: ApiDuration::from_secs(7 * 24 * 3600),
            max_finished: 5_000,
            proxy: None,
        }
    }
}

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// The log cannot be consumed, and waiting does not mend it.
    #[error("consume for notify: {0}")]
    Consume(#[from] BusError),
    /// There is no way to the outside.
    #[error("make an HTTP client: {0}")]
    HttpClient(#[from] reqwest::Error),
}

impl NotifyError {
    /// A bounded label for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            NotifyError::Consume(error) => error.category(),
            NotifyError::HttpClient(_) => "http_client",
        }
    }

    /// Whether the same may succeed later.
    pub fn retry(&self) -> bool {
        match self {
            NotifyError::Consume(error) => error.is_transient(),
            NotifyError::HttpClient(_) => false,
        }
    }
}

/// How often the clock is asked when nothing is known to be due.
const TICK_MAX: Duration = Duration::from_millis(250);
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
const RETENTION_INTERVAL: Duration = Duration::from_secs(5);

/// The ways to the outside; a simulator puts its own here.
#[derive(Clone)]
pub struct Outside {
    /// For webhooks of every kind.
    pub http: Arc<dyn HttpTransport>,
    /// For mail.
    pub mail: Arc<dyn MailTransport>,
}

impl Outside {
    /// Over the machine's own network; `proxy` as [`HttpClient::new`] has it.
    pub fn of_the_machine(proxy: Option<&str>) -> Result<Self, NotifyError> {
        Ok(Self { http: Arc::new(HttpClient::new(proxy)?), mail: Arc::new(SmtpClient::default()) })
    }
}

/// Runs until shutdown, with these ways to the outside.
pub async fn run(ctx: Context, config: NotifyConfig, outside: Outside) -> Result<(), NotifyError> {
    let ownership = Ownership::new(Arc::clone(&ctx.bus), Topic::NotificationRequested);
    let sender = Arc::new(Sender {
        store: Store::new(&ctx),
        channels: WatchCache::new(),
        secrets: Secrets::new(&ctx),
        outside,
        ownership: Arc::clone(&ownership),
        lanes: Lanes::new(config.per_channel),
        due: Mutex::new(Due::default()),
        telling: Mutex::default(),
        me: format!("{:016x}", ctx.random.next_u64()),
        again: OnceLock::new(),
        ctx: ctx.clone(),
    });
    let mailboxes = Mailboxes::new(&ctx, "notification", config.concurrency, Arc::clone(&sender) as _);
    let lanes = sender.lanes.clone();
    ctx.metrics.on_sample(move |metrics| {
        let (sending, in_line, failing) = lanes.depths();
        metrics.set(&LANES, ["sending"], sending);
        metrics.set(&LANES, ["in_line"], in_line);
        metrics.set(&CHANNELS_FAILING, [], failing);
    });
    let back = mailboxes.downgrade();
    // Set once, just here.
    let _ = sender.again.set(Arc::new(move |name, channel| back.send(name, Input::Turn { channel })));
    ctx.tasks.spawn_loop("notifications-watch", Arc::clone(&sender.store).run());
    ctx.tasks.spawn_loop("channels-watch", Arc::clone(&sender.channels).run(ctx.clone()));
    let gate = watch::Sender::new(Gate::Paused);
    let gate_open = gate.subscribe();
    let (opener, clock, keeper, notifications) =
        (Arc::clone(&sender), Arc::clone(&sender), Arc::clone(&sender), mailboxes.clone());
    let max_in_flight = config.max_in_flight;
    ctx.tasks.spawn_loop("notify-gate", async move { open(&opener, gate).await });
    ctx.tasks.spawn_loop("notify-clock", async move { keep_time(&clock, &notifications).await });
    ctx.tasks.spawn_loop("notify-keeper", async move { keep_order(&keeper, &config).await });
    let options = CONSUMES.options(max_in_flight);
    consume(&ctx, options, Some(ownership), Some(gate_open), |inbound| dispatch(&mailboxes, inbound)).await?;
    Ok(())
}

fn dispatch(mailboxes: &Mailboxes<NamespacedName, Input>, inbound: Inbound) {
    let place = inbound.origin();
    let Inbound { event, record, ack, .. } = inbound;
    match event.payload {
        Payload::NotificationRequested(request) => {
            let name = name_of_request(&request);
            let input =
                Input::Requested { request, traceparent: event.traceparent, record: Box::new(record), place, ack };
            mailboxes.send(name, input);
        }
        _ => ack.done(),
    }
}

/// Nothing is consumed before it is known which notifications and channels there are.
async fn open(sender: &Sender, gate: watch::Sender<Gate>) {
    let ready = async {
        sender.store.ready().await;
        sender.channels.ready().await;
    };
    tokio::select! {
        () = ready => {
            gate.send_replace(Gate::Open);
            sender.ctx.health.ready("service");
        }
        () = sender.ctx.shutdown.cancelled() => {}
    }
}

/// Outboxes that nobody has published, and what is over for long, of the partitions of this replica. Not in the way of the tries:
/// publishing waits as long as the log is away.
async fn keep_order(sender: &Sender, config: &NotifyConfig) {
    tokio::select! {
        () = sender.store.ready() => {}
        () = sender.ctx.shutdown.cancelled() => return,
    }
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut retention = tokio::time::interval(RETENTION_INTERVAL);
    retention.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = sender.ctx.shutdown.cancelled() => return,
            _ = sweep.tick() => {
                if let Err(StoreError::Shutdown) = sender.store.sweep(|object| sender.owns(&object.spec)).await {
                    return;
                }
            }
            _ = retention.tick() => forget_finished(sender, config).await,
        }
    }
}

/// Tries that are due, of the partitions of this replica.
async fn keep_time(sender: &Sender, mailboxes: &Mailboxes<NamespacedName, Input>) {
    let store = &sender.store;
    let mut changes = store.changes();
    let mut takeovers = sender.ownership.takeovers();
    tokio::select! {
        () = store.ready() => {}
        () = sender.ctx.shutdown.cancelled() => return,
    }
    look_at_all(sender);
    loop {
        tokio::select! {
            () = sender.ctx.shutdown.cancelled() => return,
            change = changes.recv() => match change {
                Ok(name) => look_at(sender, &name, store.get(&name).as_deref()),
                Err(broadcast::error::RecvError::Lagged(_)) => look_at_all(sender),
                Err(broadcast::error::RecvError::Closed) => return,
            },
            // What is another's is forgotten when it is due, and comes back with its partition.
            changed = takeovers.changed() => match changed {
                Ok(()) => look_at_all(sender),
                Err(_) => return,
            },
            () = tokio::time::sleep(until_due(sender)) => {}
        }
        let now = sender.ctx.clock.now();
        for name in sender.due(|due| due.take(now)) {
            if store.get(&name).is_some_and(|object| sender.owns(&object.spec)) {
                mailboxes.send_once(name, Input::Due, |waiting| matches!(waiting, Input::Due));
            }
        }
    }
}

fn look_at(sender: &Sender, name: &NamespacedName, object: Option<&Notification>) {
    sender.due(|due| due.set(name, object.and_then(|object| next_look(&object.spec))));
}

fn look_at_all(sender: &Sender) {
    let objects = sender.store.list();
    sender.due(|due| {
        due.clear();
        objects.iter().for_each(|object| due.set(&name_of(object.as_ref()), next_look(&object.spec)));
    });
}

fn until_due(sender: &Sender) -> Duration {
    let wait = sender.due(|due| due.next()).map(|due| due.duration_since(sender.ctx.clock.now()));
    wait.map_or(TICK_MAX, |wait| Duration::try_from(wait).unwrap_or_default()).clamp(Duration::from_millis(5), TICK_MAX)
}

/// Deletes what has been over for long, and beyond the bound what has been over longest (promise 6). A request for one that is gone
/// is past its deadline, and so without effect (promise 5).
async fn forget_finished(sender: &Sender, config: &NotifyConfig) {
    let limits = Limits { ttl: config.ttl.as_signed(), count: config.max_finished };
    let may_delete = |object: &Notification| sender.owns(&object.spec);
    retention::sweep(&sender.ctx, &sender.store, Sweep { kind: "notification", limits, ended, may_delete }).await;
}
