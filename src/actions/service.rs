//! The service: it claims what is requested, and whoever holds a target's partition brings its actions to their end.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{autoscaling::v2::HorizontalPodAutoscaler, core::v1::Namespace};
use kube::{Api, ResourceExt as _};
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    breaker::Breakers,
    claim::{Claim, Queues, TargetKey, Turn, is_terminal},
    run::{WAITING_FOR_MAX, cut},
    target::Targets,
};
use crate::{
    api::v1alpha1::{Action, ActionPhase, ActionStatus, FINALIZER_CLAIM, LABEL_INCIDENT, OutboxEntry, Rule, Runbook},
    bus::{Ack, BusError, Consumes},
    events::{ActionRequested, AlertId, DeadLetterReason, NamespacedName, Payload, Topic, TraceContext, is_urgent},
    mutants::{Mutant, mutated},
    runtime::{
        ApiFailure, Context, Gate, Handler, Inbound, Kinds, KubeEvents, Mailboxes, Owned, Ownership, Rank, Step, Store,
        StoreError, WatchCache,
        consume::{bury, bury_and_tell, consume},
        kube_api::{self, CALL_TIMEOUT, call},
        metrics::catalogue::{ACTIONS_QUEUED, BREAKERS, RETRY_BUDGET, TARGET_CALLS},
        places::Places,
        retention::{self, Limits, Sweep},
        retry_budget::RetryBudgets,
        telemetry::{Ids, scope},
        watch_cache::name_of,
    },
};

/// How long after the deadline a claim stays: clocks of replicas may differ, and the log may deliver late.
pub(super) const CLAIM_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// Of how many targets actions may be under way or wait; those of others are taken up when a place is free.
const TARGETS_MAX: usize = 10_000;

/// What the service consumes.
pub const CONSUMES: Consumes = Consumes { group: "actions", topics: &[Topic::ActionRequested] };

/// How the service runs.
#[derive(Clone, Debug)]
pub struct ActionsConfig {
    /// The most requests of one partition that are claimed at once.
    pub max_in_flight: usize,
    /// The most actions that are worked on at once. One that waits is not counted.
    pub concurrency: usize,
    /// The most calls to targets at once.
    pub target_concurrency: usize,
    /// How long it is tried to write the fence before the outcome is unknown.
    pub fence_timeout: Duration,
    /// Longest wait before the first retry of a call about an Action itself.
    pub backoff_initial: Duration,
    /// Longest wait of all.
    pub backoff_max: Duration,
    /// How often unfinished actions, old outboxes and finalizers are looked at.
    pub keep_interval: Duration,
    /// How long finished actions are kept: at least as long as the topics keep their requests.
    pub ttl: SignedDuration,
    /// The most finished ones that one namespace keeps, beside those that tell a repetition.
    pub max_finished: usize,
    /// How long the topics keep their records: for so long an action stays, however many there are.
    pub repeats_for: SignedDuration,
}

impl Default for ActionsConfig {
    fn default() -> Self {
        Self {
            max_in_flight: 1_024,
            concurrency: 256,
            target_concurrency: 16,
            fence_timeout: Duration::from_secs(20),
            backoff_initial: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            keep_interval: Duration::from_secs(2),
            ttl: SignedDuration::from_hours(7 * 24),
            max_finished: 5_000,
            repeats_for: SignedDuration::from_hours(24),
        }
    }
}

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
pub enum ActionsError {
    /// The log cannot be consumed, and waiting does not mend it.
    #[error("consume for actions: {0}")]
    Consume(#[from] BusError),
}

impl ActionsError {
    /// A bounded label for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            ActionsError::Consume(error) => error.category(),
        }
    }

    /// Whether the same may succeed later.
    pub fn retry(&self) -> bool {
        match self {
            ActionsError::Consume(error) => error.is_transient(),
        }
    }
}

impl Owned for Action {
    const STATUS_SUBRESOURCE: bool = true;
    const OUTBOX_LIMIT: usize = 1;

    fn outbox(&self) -> &[OutboxEntry] {
        self.status.as_ref().map(|status| status.outbox.as_slice()).unwrap_or_default()
    }

    fn set_outbox(&mut self, entries: Vec<OutboxEntry>) {
        self.status.get_or_insert_default().outbox = entries;
    }

    /// A plan is recorded before it is sent; its result is told afterwards.
    fn rank(&self) -> Rank {
        let is_planned = self.status.as_ref().is_some_and(|status| status.phase == ActionPhase::Running);
        if is_planned { Rank::ToTarget { urgent: false } } else { Rank::LAST }
    }
}

/// Everything that running an action needs, shared by the service's parts.
pub(super) struct Actions {
    pub ctx: Context,
    pub config: ActionsConfig,
    pub store: Arc<Store<Action>>,
    pub rules: Arc<WatchCache<Rule>>,
    pub runbooks: Arc<WatchCache<Runbook>>,
    pub autoscalers: Arc<WatchCache<HorizontalPodAutoscaler>>,
    pub targets: Targets,
    pub kinds: Kinds,
    pub queues: Queues,
    pub ownership: Arc<Ownership>,
    /// How many takeovers the queues know of.
    pub taken_up: watch::Sender<u64>,
    /// For whoever does not wait (bulkhead): a thousand that wait for a circuit breaker hold up nobody.
    pub working: Arc<Places>,
    /// This process, in the plans that it makes.
    pub sender: String,
    /// How often the API server has come back.
    pub server_back: watch::Receiver<u64>,
    /// What people see on the target.
    pub kube_events: KubeEvents,
    breakers: Mutex<Breakers>,
    /// For retries, by runbook and target kind as the breakers.
    budgets: Mutex<RetryBudgets>,
}

impl Actions {
    pub(super) fn new(ctx: &Context, config: &ActionsConfig) -> Arc<Self> {
        Arc::new(Self {
            ctx: ctx.clone(),
            config: config.clone(),
            store: Store::new(ctx),
            rules: WatchCache::new(),
            runbooks: WatchCache::new(),
            autoscalers: WatchCache::new(),
            kinds: Kinds::new(ctx.kube.clone()),
            targets: Targets::new(ctx.kube.clone(), ctx.way.clone(), config.target_concurrency),
            queues: Queues::default(),
            ownership: Ownership::new(Arc::clone(&ctx.bus), Topic::ActionRequested),
            taken_up: watch::Sender::new(0),
            working: Arc::new(Places::new(config.concurrency)),
            sender: format!("{:016x}", ctx.random.next_u64()),
            server_back: kube_api::returns(&ctx.health),
            kube_events: KubeEvents::start(ctx),
            breakers: Mutex::default(),
            budgets: Mutex::default(),
        })
    }

    pub(super) fn breakers(&self) -> MutexGuard<'_, Breakers> {
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn budgets(&self) -> MutexGuard<'_, RetryBudgets> {
        self.budgets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self) {
        let tasks = &self.ctx.tasks;
        tasks.spawn_loop("actions-watch", Arc::clone(&self.store).run());
        tasks.spawn_loop("actions-watch-rules", Arc::clone(&self.rules).run(self.ctx.clone()));
        tasks.spawn_loop("actions-watch-runbooks", Arc::clone(&self.runbooks).run(self.ctx.clone()));
        tasks.spawn_loop("actions-watch-autoscalers", Arc::clone(&self.autoscalers).run(self.ctx.clone()));
    }

    fn measure(self: &Arc<Self>) {
        let actions = Arc::downgrade(self);
        self.ctx.metrics.on_sample(move |metrics| {
            let Some(actions) = actions.upgrade() else { return };
            let (open, half_open) = actions.breakers().states();
            metrics.set(&BREAKERS, ["open"], open);
            metrics.set(&BREAKERS, ["half_open"], half_open);
            metrics.set_amount(&RETRY_BUDGET, [], actions.budgets().fewest(actions.ctx.clock.now()));
            metrics.set(&ACTIONS_QUEUED, [], actions.queues.len());
            metrics.set(&TARGET_CALLS, [], actions.targets.in_flight());
        });
    }

    async fn ready(&self) {
        tokio::join!(self.store.ready(), self.rules.ready(), self.runbooks.ready(), self.autoscalers.ready());
    }
}

/// Runs the service until shutdown.
pub async fn run(ctx: Context, config: ActionsConfig) -> Result<(), ActionsError> {
    let actions = Actions::new(&ctx, &config);
    actions.watch();
    actions.measure();
    let runner = Mailboxes::new(&ctx, "action-run", TARGETS_MAX, Arc::new(Runner(Arc::clone(&actions))));
    let claimer = Claimer { actions: Arc::clone(&actions), runner: runner.clone() };
    let claims = Mailboxes::new(&ctx, "action-claim", config.concurrency, Arc::new(claimer));
    let ownership = Arc::clone(&actions.ownership);
    let gate = watch::Sender::new(Gate::Paused);
    let open = gate.subscribe();
    let keeper = Arc::new(Keeper { actions, runner });
    ctx.tasks.spawn_loop("actions-take-up", Arc::clone(&keeper).take_up_until_shutdown(gate));
    ctx.tasks.spawn_loop("actions-keeper", keeper.keep_until_shutdown());
    let options = CONSUMES.options(config.max_in_flight);
    let dispatch_ctx = ctx.clone();
    consume(&ctx, options, Some(ownership), Some(open), move |inbound| match &inbound.event.payload {
        Payload::ActionRequested(request) => claims.send(request.action_id.to_string(), Box::new(inbound)),
        _ => {
            let origin = inbound.origin();
            let message = "is no action.requested".to_owned();
            bury(
                &dispatch_ctx,
                inbound.record.to_dead_letter(DeadLetterReason::UnknownType, message, origin),
                inbound.ack,
            );
        }
    })
    .await?;
    Ok(())
}

/// Claims what is requested. The request is acknowledged when its claim exists; the Action is then brought to its end by whoever
/// holds its partition.
struct Claimer {
    actions: Arc<Actions>,
    runner: Mailboxes<TargetKey, ()>,
}

#[async_trait]
impl Handler<String, Box<Inbound>> for Claimer {
    fn is_urgent(&self, _: &String, inputs: &[Box<Inbound>]) -> bool {
        let is_urgent = |inbound: &Inbound| match &inbound.event.payload {
            Payload::ActionRequested(request) => is_urgent(&request.incident.severity),
            _ => false,
        };
        inputs.iter().any(|inbound| is_urgent(inbound))
    }

    async fn handle(&self, _: &String, inputs: Vec<Box<Inbound>>) {
        for inbound in inputs {
            let Payload::ActionRequested(request) = &inbound.event.payload else { continue };
            let lines = lines_of(request, Some(inbound.processing.context));
            self.claim(*inbound).instrument(lines).await;
        }
    }
}

impl Claimer {
    async fn claim(&self, inbound: Inbound) {
        let Payload::ActionRequested(request) = &inbound.event.payload else { return };
        let data = String::from_utf8_lossy(&inbound.record.value).into_owned();
        match self.actions.claim(request, &data, inbound.event.traceparent.clone()).await {
            Claim::Exists(action) => {
                if !is_terminal(&action) || mutated(Mutant::EndedRunsAgain) {
                    let key = TargetKey::of(&action);
                    self.actions.queues.add(&key, Turn::of(&action));
                    self.runner.send(key, ());
                }
                inbound.ack.done();
            }
            Claim::Refused(failure) => {
                let message = format!("the Action {} cannot be created: {failure}", request.action_id);
                // The ladder goes on from it, and the incident says it.
                let failed = self.actions.unclaimed(request, &inbound, message.clone());
                let letter = inbound.record.to_dead_letter(DeadLetterReason::Refused, message, inbound.origin());
                bury_and_tell(&self.actions.ctx, letter, failed, inbound.ack);
            }
            Claim::Shutdown => drop::<Ack>(inbound.ack),
        }
    }
}

fn lines_of(request: &ActionRequested, trace: Option<TraceContext>) -> tracing::Span {
    let (action, incident) = (request.action_id.as_str(), request.incident.incident_id.as_str());
    let alert = request.incident.alert().map(AlertId::as_str);
    scope(trace, Ids { alert, action: Some(action), incident: Some(incident), ..Ids::default() })
}

impl Actions {
    /// What the lines that are said while it runs belong to.
    fn lines(&self, name: &NamespacedName) -> tracing::Span {
        let action = self.store.get(name);
        let trace = action.as_ref().and_then(|action| TraceContext::read(action.spec.traceparent.as_deref()));
        let trace = trace.map(|trace| trace.of_action(&name.name));
        let request = action.as_ref().and_then(|action| serde_json::from_str(&action.spec.request).ok());
        if let Some(request) = request {
            return lines_of(&request, trace);
        }
        let incident = action.as_ref().and_then(|action| action.labels().get(LABEL_INCIDENT)).map(String::as_str);
        scope(trace, Ids { action: Some(&name.name), incident, ..Ids::default() })
    }
}

/// Brings the actions of one target to their end, one after the other.
struct Runner(Arc<Actions>);

#[async_trait]
impl Handler<TargetKey, ()> for Runner {
    async fn handle(&self, key: &TargetKey, _: Vec<()>) {
        while !self.0.ctx.shutdown.is_cancelled()
            && let Some(turn) = self.0.queues.first(key)
        {
            let name = NamespacedName { namespace: key.namespace.clone(), name: turn.action.clone() };
            let lines = self.0.lines(&name);
            match self.0.run_to_end(&name).instrument(lines.clone()).await {
                Ok(()) => self.0.queues.remove(key, &turn.action),
                Err(StoreError::Shutdown) => return,
                Err(error) => {
                    lines.in_scope(|| {
                        tracing::error!(action = %name, %error, "An Action cannot be written; it is tried again later.");
                    });
                    self.0.queues.remove(key, &turn.action);
                }
            }
        }
    }
}

/// Takes up unfinished actions after a takeover or a restart, publishes old outboxes, releases finalizers, deletes what is old.
struct Keeper {
    actions: Arc<Actions>,
    runner: Mailboxes<TargetKey, ()>,
}

impl Keeper {
    /// Apart from the keeping, so that nothing that goes wrong there holds up an action.
    async fn take_up_until_shutdown(self: Arc<Self>, gate: watch::Sender<Gate>) {
        let ctx = &self.actions.ctx;
        tokio::select! {
            () = self.actions.ready() => {}
            () = ctx.shutdown.cancelled() => return,
        }
        gate.send_replace(Gate::Open);
        ctx.health.ready("service");
        let mut ticks = Ticks::new(&self);
        while ticks.next().await {
            self.take_up();
        }
    }

    async fn keep_until_shutdown(self: Arc<Self>) {
        tokio::select! {
            () = self.actions.ready() => {}
            () = self.actions.ctx.shutdown.cancelled() => return,
        }
        let mut ticks = Ticks::new(&self);
        while ticks.next().await {
            if let Err(StoreError::Shutdown) = self.actions.store.sweep(|action| self.owns(action)).await {
                return;
            }
            if let Err(StoreError::Shutdown) = self.show_turns().await {
                return;
            }
            if let Err(StoreError::Shutdown) = self.release().await {
                return;
            }
            self.delete_old().await;
        }
    }

    fn owns(&self, action: &Action) -> bool {
        self.actions.ownership.owns(&TargetKey::of(action).event_key())
    }

    fn take_up(&self) {
        let takeovers = *self.actions.ownership.takeovers().borrow();
        for action in self.actions.store.list() {
            if !is_terminal(&action) && self.owns(&action) {
                let key = TargetKey::of(&action);
                self.actions.queues.add(&key, Turn::of(&action));
                self.runner.send(key, ());
            }
        }
        self.actions.taken_up.send_replace(takeovers);
    }

    /// Says once of each action that waits behind another one of its target after which it has its turn. A wait that is over within
    /// a keep interval is not worth a write.
    async fn show_turns(&self) -> Result<(), StoreError> {
        let unseen = |action: &Action| {
            let status = action.status.as_ref();
            status.is_none_or(|status| {
                status.phase == ActionPhase::Waiting && status.plans.is_empty() && status.waiting_for.is_none()
            })
        };
        let before = |action: &Action| {
            let name = action.metadata.name.as_deref().unwrap_or_default();
            self.actions.queues.before(&TargetKey::of(action), name)
        };
        let waits = |action: &&Arc<Action>| unseen(action) && self.owns(action) && before(action).is_some();
        let names = self.actions.store.list().iter().filter(waits).map(|action| name_of(action.as_ref())).collect();
        let shown = |current: Option<&Action>| {
            let waiting = current.filter(|action| unseen(action));
            let Some((action, turn)) = waiting.and_then(|action| Some((action, before(action)?))) else {
                return Step::Unchanged { publish: Vec::new() };
            };
            let waiting_for = Some(cut(&format!("its turn after {}", turn.action), WAITING_FOR_MAX));
            let status = ActionStatus { waiting_for, ..action.status.clone().unwrap_or_default() };
            Step::Write { object: Action { status: Some(status), ..action.clone() }, publish: Vec::new() }
        };
        self.actions.store.tidy(names, shown).await
    }

    /// Lets go of what may be deleted: finished, told, and past the time in which its request could still come again.
    async fn release(&self) -> Result<(), StoreError> {
        let now = self.actions.ctx.clock.now();
        let mut terminating = HashMap::new();
        let mut names = Vec::new();
        for action in self.actions.store.list().into_iter().filter(|action| self.owns(action)) {
            let told = action.status.as_ref().is_some_and(|s| s.phase.is_terminal() && s.outbox.is_empty());
            if !told || !is_held(&action) {
                continue;
            }
            let past = now > action.spec.deadline.saturating_add(CLAIM_SKEW).unwrap_or(action.spec.deadline);
            if past
                || (action.metadata.deletion_timestamp.is_some()
                    && self.is_terminating(&action, &mut terminating).await)
            {
                names.push(name_of(action.as_ref()));
            }
        }
        let without_claim = |current: Option<&Action>| match current {
            Some(current) if is_held(current) => {
                let mut object = current.clone();
                object.metadata.finalizers.get_or_insert_default().retain(|name| name != FINALIZER_CLAIM);
                Step::WriteMain { object }
            }
            _ => Step::Unchanged { publish: Vec::new() },
        };
        self.actions.store.tidy(names, without_claim).await
    }

    async fn delete_old(&self) {
        let (actions, config) = (&self.actions, &self.actions.config);
        let ended = |action: &Action| {
            let at = action.status.as_ref()?.finished_at?;
            Some((at, at.checked_add(config.repeats_for).unwrap_or(Timestamp::MAX)))
        };
        let may_delete =
            |action: &Action| self.owns(action) && !is_held(action) && action.metadata.deletion_timestamp.is_none();
        let limits = Limits { ttl: config.ttl, count: config.max_finished };
        retention::sweep(&actions.ctx, &actions.store, Sweep { kind: "action", limits, ended, may_delete }).await;
    }

    /// Asks once for each namespace.
    async fn is_terminating(&self, action: &Action, known: &mut HashMap<String, bool>) -> bool {
        let name = action.metadata.namespace.clone().unwrap_or_default();
        if let Some(known) = known.get(&name) {
            return *known;
        }
        let namespaces: Api<Namespace> = Api::all(self.actions.ctx.kube.clone());
        let terminating = match call(CALL_TIMEOUT, namespaces.get_metadata(&name)).await {
            Ok(namespace) => namespace.metadata.deletion_timestamp.is_some(),
            Err(failure) => matches!(failure, ApiFailure::NotFound(_)),
        };
        known.insert(name, terminating);
        terminating
    }
}

fn is_held(action: &Action) -> bool {
    action.metadata.finalizers.as_ref().is_some_and(|list| list.iter().any(|name| name == FINALIZER_CLAIM))
}

/// Every now and then, and at once after a takeover.
struct Ticks {
    shutdown: CancellationToken,
    takeovers: watch::Receiver<u64>,
    interval: Interval,
}

impl Ticks {
    fn new(keeper: &Keeper) -> Self {
        let mut interval = interval(keeper.actions.config.keep_interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            shutdown: keeper.actions.ctx.shutdown.clone(),
            takeovers: keeper.actions.ownership.takeovers(),
            interval,
        }
    }

    /// False on shutdown.
    async fn next(&mut self) -> bool {
        tokio::select! {
            () = self.shutdown.cancelled() => false,
            _ = self.interval.tick() => true,
            changed = self.takeovers.changed() => changed.is_ok(),
        }
    }
}
