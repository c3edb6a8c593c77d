//! The service: what it consumes, what it watches, and its clock.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{broadcast, watch},
    time::{MissedTickBehavior, interval},
};

use super::{
    fold::subject,
    policy::{PolicyState, watch_policy},
    retention::ended,
    store::{Incidents, Waiting},
};
use crate::{
    api::v1alpha1::{Duration as ApiDuration, Incident, IncidentDecisionType, IncidentPhase},
    bus::{BusError, Consumes},
    events::{DeadLetterReason, NamespacedName, Topic},
    runtime::{
        Context, Gate, Inbound, KubeEvents, Mailboxes, Ownership, Store, StoreError,
        consume::{bury, consume},
        liveness::waiting,
        metrics::catalogue::INCIDENTS,
        retention::{self, Limits, Sweep},
        watch_cache::name_of,
    },
};

/// How the service runs.
#[derive(Clone, Debug)]
pub struct IncidentsConfig {
    /// The most records of one partition that are worked on at once.
    pub max_in_flight: usize,
    /// The most incidents that are written at once.
    pub concurrency: usize,
    /// How long a finished incident is kept, and how old an incident may be to be created from an event. At least the retention of
    /// the topics.
    pub ttl: ApiDuration,
    /// The most finished incidents that one namespace keeps.
    pub max_finished: usize,
    /// How often finished incidents are looked through.
    pub retention_interval: Duration,
    /// How often the admission policy is looked for.
    pub policy_interval: Duration,
}

impl Default for IncidentsConfig {
    fn default() -> Self {
        Self {
            max_in_flight: 512,
            concurrency: 512,
            ttl: ApiDuration::from_secs(7 * 24 * 3600),
            max_finished: 1_000,
            retention_interval: Duration::from_secs(5),
            policy_interval: Duration::from_secs(30),
        }
    }
}

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
pub enum IncidentsError {
    /// The log cannot be consumed, and waiting does not mend it.
    #[error("consume for incidents: {0}")]
    Consume(#[from] BusError),
}

impl IncidentsError {
    /// A bounded label for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            IncidentsError::Consume(error) => error.category(),
        }
    }

    /// Whether the same may succeed later.
    pub fn retry(&self) -> bool {
        match self {
            IncidentsError::Consume(error) => error.is_transient(),
        }
    }
}

/// What the service consumes.
pub const CONSUMES: Consumes = Consumes {
    group: "incidents",
    topics: &[
        Topic::IncidentOpened,
        Topic::IncidentResolved,
        Topic::ActionRequested,
        Topic::ActionCompleted,
        Topic::ActionFailed,
        Topic::NotificationDelivered,
        Topic::NotificationFailed,
    ],
};
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How long an event waits for those right behind it, so that what happens at once (opened and requested, completed and delivered) is
/// one write. No other service waits for an Incident, and people do not see so short a time.
const FOLD_WINDOW: Duration = Duration::from_millis(150);

/// Runs until shutdown.
pub async fn run(ctx: Context, config: IncidentsConfig) -> Result<(), IncidentsError> {
    let store = Store::<Incident>::new(&ctx);
    let (policy_state, policy) = watch::channel(PolicyState::Unknown);
    let incidents = Arc::new(Incidents {
        store: Arc::clone(&store),
        policy: policy.clone(),
        kube_events: KubeEvents::start(&ctx),
        retention: config.ttl.as_signed(),
        ctx: ctx.clone(),
    });
    let service = Arc::new(Service {
        mailboxes: Mailboxes::lingering(&ctx, "incident", config.concurrency, FOLD_WINDOW, incidents),
        ownership: Ownership::new(Arc::clone(&ctx.bus), Topic::IncidentOpened),
        store: Arc::clone(&store),
        config: config.clone(),
        ctx: ctx.clone(),
    });
    ctx.tasks.spawn_loop("incidents-watch", store.run());
    ctx.tasks.spawn_loop("policy-watch", watch_policy(ctx.clone(), config.policy_interval, policy_state));
    let gate = watch::Sender::new(Gate::Paused);
    let gate_open = gate.subscribe();
    let (gatekeeper, clock) = (Arc::clone(&service), Arc::clone(&service));
    ctx.tasks.spawn_loop("incidents-gate", async move { gatekeeper.open(gate, policy).await });
    ctx.tasks.spawn_loop("incidents-clock", async move { clock.keep_time().await });
    let options = CONSUMES.options(config.max_in_flight);
    let ownership = Arc::clone(&service.ownership);
    consume(&ctx, options, Some(ownership), Some(gate_open), |inbound| service.dispatch(inbound)).await?;
    Ok(())
}

struct Service {
    ctx: Context,
    config: IncidentsConfig,
    store: Arc<Store<Incident>>,
    mailboxes: Mailboxes<NamespacedName, Waiting>,
    ownership: Arc<Ownership>,
}

impl Service {
    fn dispatch(&self, inbound: Inbound) {
        match subject(&inbound.event, self.ctx.clock.now()) {
            Ok(name) => self.mailboxes.send(name, Waiting::Event(Box::new(inbound))),
            Err(error) => {
                let origin = inbound.origin();
                let letter = inbound.record.to_dead_letter(DeadLetterReason::InvalidData, error.to_string(), origin);
                bury(&self.ctx, letter, inbound.ack);
            }
        }
    }

    /// Nothing is consumed before the incidents are known, and whether names of people are verified.
    async fn open(&self, gate: watch::Sender<Gate>, mut policy: watch::Receiver<PolicyState>) {
        let ready = async {
            self.store.ready().await;
            // Its sender ends only with the process.
            let _ = waiting(policy.wait_for(|state| *state != PolicyState::Unknown)).await;
        };
        tokio::select! {
            () = ready => {}
            () = self.ctx.shutdown.cancelled() => return,
        }
        self.ctx.health.ready("service");
        gate.send_replace(Gate::Open);
        // The gate stays as it is as long as its sender lives.
        waiting(self.ctx.shutdown.cancelled()).await;
    }

    /// People's decisions, sweeps and retention of the incidents whose partition is this replica's.
    async fn keep_time(&self) {
        let mut changes = self.store.changes();
        let mut takeovers = self.ownership.takeovers();
        tokio::select! {
            () = self.store.ready() => {}
            () = self.ctx.shutdown.cancelled() => return,
        }
        self.look_at_all();
        let mut sweep = interval(SWEEP_INTERVAL);
        let mut retention = interval(self.config.retention_interval);
        for tick in [&mut sweep, &mut retention] {
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            tokio::select! {
                () = self.ctx.shutdown.cancelled() => return,
                change = changes.recv() => match change {
                    Ok(name) => self.look_at(&name),
                    Err(broadcast::error::RecvError::Lagged(_)) => self.look_at_all(),
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                changed = takeovers.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.look_at_all();
                }
                _ = sweep.tick() => {
                    if let Err(StoreError::Shutdown) = self.store.sweep(|incident| self.owns(&name_of(incident))).await {
                        return;
                    }
                }
                _ = retention.tick() => {
                    self.count();
                    // A decision whose write was refused is tried again: a policy or quota may have been mended since.
                    self.look_at_all();
                    self.delete_expired().await;
                }
            }
        }
    }

    fn owns(&self, name: &NamespacedName) -> bool {
        self.ownership.owns(&name.name)
    }

    fn look_at_all(&self) {
        self.store.list().iter().for_each(|incident| self.look_at(&name_of(incident.as_ref())));
    }

    fn look_at(&self, name: &NamespacedName) {
        let decided = self.store.get(name).is_some_and(|incident| has_new_decision(&incident));
        if decided && self.owns(name) {
            self.mailboxes.send_once(name.clone(), Waiting::Look, |waiting| matches!(waiting, Waiting::Look));
        }
    }

    /// Of each phase, how many incidents of this replica's partitions there are: the sum over the replicas counts each once.
    fn count(&self) {
        let incidents = self.store.list();
        for phase in [IncidentPhase::Open, IncidentPhase::Mitigating, IncidentPhase::Failed, IncidentPhase::Resolved] {
            let is_in = |incident: &&Arc<Incident>| {
                incident.status.as_ref().map(|status| status.phase).unwrap_or_default() == phase
                    && self.owns(&name_of(incident.as_ref()))
            };
            let count = i64::try_from(incidents.iter().filter(is_in).count()).unwrap_or(i64::MAX);
            self.ctx.metrics.gauge(&INCIDENTS, [&format!("{phase:?}")]).set(count);
        }
    }

    async fn delete_expired(&self) {
        let limits = Limits { ttl: self.config.ttl.as_signed(), count: self.config.max_finished };
        let ended = |one: &Incident| ended(one, limits.ttl);
        let may_delete = |one: &Incident| self.owns(&name_of(one));
        retention::sweep(&self.ctx, &self.store, Sweep { kind: "incident", limits, ended, may_delete }).await;
    }
}

/// Whether a person has decided something that the status does not say yet.
fn has_new_decision(incident: &Incident) -> bool {
    let known = |kind| {
        let mut decisions = incident.status.iter().flat_map(|status| &status.decisions);
        decisions.any(|decision| decision.r#type == kind)
    };
    incident.spec.acknowledged && !known(IncidentDecisionType::Acknowledged)
        || incident.spec.resolved && !known(IncidentDecisionType::Resolved)
}
