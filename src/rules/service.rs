//! The service: what it consumes and when, its clock, and its rules.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use tokio::sync::{broadcast, watch};

use super::{
    adoption::KnownIncident,
    decide::{GroupKey, Limits, decided, quiet_since},
    group::{Groups, Ledger, Origin, OwnedInput, Source, Work, key_of},
    input::{RaisedAlert, plus},
    matching::RuleSet,
    routing::{Route, remembers, route},
    storms::{StormStep, Storms},
    timers::{GroupIndex, rule_of},
};
use crate::{
    api::v1alpha1::{AlertGroup, Duration as RuleDuration, Rule},
    bus::{Ack, BusError, Consumes},
    compile::{CompiledRule, compile},
    events::{
        CorrelationId, DeadLetterReason, DecisionReason, Event, IncidentHeader, NamespacedName, Payload, Topic,
        UpdateCause,
    },
    runtime::{
        Context, Gate, Inbound, Mailboxes, Ownership, Store, StoreError, WatchCache,
        consume::{bury, consume},
        kube_api::can_be_worked_with,
        liveness::waiting,
        metrics::catalogue::{ALERT_TO_RULES, RULES, STORMS},
        retention::{self, Sweep},
        watch_cache::{WatchState, name_of},
    },
};

/// What the service consumes.
pub const CONSUMES: Consumes = Consumes {
    group: "rules",
    topics: &[Topic::AlertRaised, Topic::ActionCompleted, Topic::ActionFailed, Topic::IncidentUpdated],
};

/// How the service runs.
#[derive(Clone, Debug)]
pub struct RulesConfig {
    /// The most records of one partition that are worked on at once.
    pub max_in_flight: usize,
    /// The most groups that are worked on at once.
    pub concurrency: usize,
    /// For how long what ended is remembered: at least as long as the topics keep their records.
    pub retention: RuleDuration,
    /// The most groups of one namespace that are over, beside those that tell a repetition.
    pub max_quiet: usize,
    /// How long the topics keep their records: for so long a group that is over stays, however many there are.
    pub repeats_for: RuleDuration,
    /// How long after its `endsAt` an alert is believed: Prometheus moves it with every repetition.
    pub ends_at_grace: RuleDuration,
    /// With so many open groups of one rule no further one opens; so many wait for room, and the rest is only counted.
    pub storm_threshold: usize,
    /// For how long a tenth of them must be free before a storm is over.
    pub storm_calm: RuleDuration,
    /// After a takeover or an outage no timer fires until the log is read up to the present: alerts come that were accepted since,
    /// or none comes for so long.
    pub takeover_grace: Duration,
    /// How often outboxes that others left are looked for.
    pub sweep_interval: Duration,
    /// How often groups that are over are looked for.
    pub eviction_interval: Duration,
    /// How long the watch of Rules may be broken before the consumer group is left, so that another replica takes over.
    pub stale_after: Duration,
}

impl Default for RulesConfig {
    fn default() -> Self {
        Self {
            max_in_flight: 2_048,
            concurrency: 512,
            retention: RuleDuration::from_secs(7 * 24 * 3600),
            max_quiet: 5_000,
            repeats_for: RuleDuration::from_secs(24 * 3600),
            ends_at_grace: RuleDuration::from_secs(5 * 60),
            storm_threshold: 1_000,
            storm_calm: RuleDuration::from_secs(60),
            takeover_grace: Duration::from_secs(10),
            sweep_interval: Duration::from_secs(1),
            eviction_interval: Duration::from_secs(5),
            stale_after: Duration::from_secs(30),
        }
    }
}

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The log cannot be consumed, and waiting does not mend it.
    #[error("consume for rules: {0}")]
    Consume(#[from] BusError),
}

impl RulesError {
    /// A bounded label for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            RulesError::Consume(error) => error.category(),
        }
    }

    /// Whether the same may succeed later.
    pub fn retry(&self) -> bool {
        match self {
            RulesError::Consume(error) => error.is_transient(),
        }
    }
}

/// How often the clock is asked when nothing is known to be due.
const TICK_MAX: Duration = Duration::from_millis(250);
/// How often every group is looked at anew, whatever was missed.
const LOOK_AGAIN_INTERVAL: Duration = Duration::from_secs(60);

/// Runs until shutdown.
pub async fn run(ctx: Context, config: RulesConfig) -> Result<(), RulesError> {
    let groups = Arc::new(Groups {
        store: Store::new(&ctx),
        rules: WatchCache::<Rule>::new(),
        incidents: WatchCache::keeping(KnownIncident::of),
        compiled: RwLock::default(),
        index: Mutex::default(),
        backlog: Mutex::default(),
        invalid_told: Mutex::default(),
        quiet: jiff::SignedDuration::try_from(config.takeover_grace).unwrap_or_default(),
        limits: Limits { retention: config.retention.as_signed(), ends_at_grace: config.ends_at_grace.as_signed() },
        storm_threshold: config.storm_threshold,
        ctx: ctx.clone(),
    });
    let service = Arc::new(Service {
        mailboxes: Mailboxes::new(&ctx, "rules-group", config.concurrency, Arc::clone(&groups) as _),
        ledger: Mailboxes::new(&ctx, "rules-ledger", config.concurrency, Arc::new(Ledger(Arc::clone(&groups)))),
        ownership: Ownership::new(Arc::clone(&ctx.bus), Topic::AlertRaised),
        groups: Arc::clone(&groups),
        config: config.clone(),
        ctx: ctx.clone(),
    });
    ctx.tasks.spawn_loop("rules-watch", Arc::clone(&groups.rules).run(ctx.clone()));
    ctx.tasks.spawn_loop("incidents-watch", Arc::clone(&groups.incidents).run(ctx.clone()));
    ctx.tasks.spawn_loop("groups-watch", Arc::clone(&groups.store).run());
    let gate = watch::Sender::new(Gate::Paused);
    let gate_open = gate.subscribe();
    let (gatekeeper, compiler) = (Arc::clone(&service), Arc::clone(&service));
    let (clock, cleaner) = (Arc::clone(&service), Arc::clone(&service));
    let (compiled, first_compiled) = watch::channel(false);
    let (rules_known, clock_gate) = (first_compiled.clone(), gate.subscribe());
    ctx.tasks.spawn_loop("rules-compile", async move { compiler.keep_compiled(compiled).await });
    ctx.tasks.spawn_loop("rules-gate", async move { gatekeeper.keep_gate(gate, first_compiled).await });
    ctx.tasks.spawn_loop("rules-clock", async move { clock.keep_time(rules_known, clock_gate).await });
    ctx.tasks.spawn_loop("rules-sweep", async move { cleaner.keep_clean().await });
    let options = CONSUMES.options(config.max_in_flight);
    let ownership = Arc::clone(&service.ownership);
    consume(&ctx, options, Some(ownership), Some(gate_open), |inbound| service.dispatch(inbound)).await?;
    Ok(())
}

struct Service {
    ctx: Context,
    config: RulesConfig,
    groups: Arc<Groups>,
    mailboxes: Mailboxes<NamespacedName, Work>,
    ledger: Mailboxes<u32, (Vec<Event>, Ack)>,
    ownership: Arc<Ownership>,
}

impl Service {
    fn dispatch(&self, inbound: Inbound) {
        let place = inbound.origin();
        let Inbound { event, record, at, ack, processing, .. } = inbound;
        let source = Source { record: Arc::new(record), place, processing };
        match event.payload {
            Payload::AlertRaised(alert) => {
                match RaisedAlert::read(event.id, event.traceparent, *alert, self.ctx.clock.now()) {
                    Ok(raised) => self.dispatch_alert(Arc::new(raised), at.partition, ack, source),
                    Err(error) => {
                        bury(&self.ctx, source.to_dead_letter(DeadLetterReason::InvalidAlert, error.to_string()), ack);
                    }
                }
            }
            Payload::ActionCompleted(result) => {
                self.send(&result.incident.clone(), OwnedInput::Completed(result), Origin { ack, source });
            }
            Payload::ActionFailed(result) => {
                self.send(&result.incident.clone(), OwnedInput::Failed(result), Origin { ack, source });
            }
            // Only a person's decision counts, everything else the rules have decided themselves.
            Payload::IncidentUpdated(update) if update.cause == UpdateCause::Decision => {
                self.send(&update.incident.clone(), OwnedInput::Updated(update), Origin { ack, source });
            }
            _ => ack.done(),
        }
    }

    fn dispatch_alert(&self, raised: Arc<RaisedAlert>, partition: u32, ack: Ack, source: Source) {
        let now = self.ctx.clock.now();
        self.groups.backlog(|backlog| backlog.read(partition, raised.alert.accepted_at, now));
        let waited = (raised.alert.accepted_at, now);
        self.ctx.metrics.observe_between(&ALERT_TO_RULES, [], waited, raised.traceparent.as_deref());
        let matches = self.groups.rule_set().matches(&raised.alert, &raised.fingerprint);
        let routes = route(&raised, matches, self.holders(&raised));
        if routes.is_empty() {
            let entry = decided(&raised, None, DecisionReason::NoRule, String::new(), None, now);
            self.ledger.send(partition, (vec![entry], ack));
            return;
        }
        let acks = ack.split(routes.len());
        for (to, ack) in routes.into_iter().zip(acks) {
            let (key, matched) = match to {
                Route::Group { key, matched } => (key, matched),
                Route::Undecided { rule, error } => {
                    let entry = decided(&raised, Some(&rule), DecisionReason::Invalid, error.to_string(), None, now);
                    self.ledger.send(partition, (vec![entry], ack));
                    continue;
                }
            };
            let alert = Arc::clone(&raised);
            let input = if matched { OwnedInput::Alert(alert) } else { OwnedInput::Remembered(alert) };
            let name = NamespacedName { namespace: key.rule.namespace.clone(), name: key.correlation.to_string() };
            let origin = Some(Origin { ack, source: source.clone() });
            self.mailboxes.send(name, Work { key, input, origin });
        }
    }

    /// The groups that remember an alert, whatever its rule says today.
    fn holders(&self, raised: &RaisedAlert) -> Vec<GroupKey> {
        let names = self.index(|index| index.groups_that_know(&raised.fingerprint));
        let known = names.into_iter().filter_map(|name| Some((self.groups.store.get(&name)?, name)));
        known
            .filter(|(group, name)| remembers(&name.namespace, &group.spec, raised))
            .map(|(group, name)| key_of(&name.namespace, &group.spec))
            .collect()
    }

    fn send(&self, header: &IncidentHeader, input: OwnedInput, origin: Origin) {
        if !is_namespace(&header.rule.namespace) {
            let message = "incident.rule.namespace: is no name of a namespace".to_owned();
            bury(&self.ctx, origin.source.to_dead_letter(DeadLetterReason::InvalidData, message), origin.ack);
            return;
        }
        let name = NamespacedName { namespace: header.rule.namespace.clone(), name: header.correlation_id.to_string() };
        let key = GroupKey {
            rule: header.rule.clone(),
            correlation: header.correlation_id.clone(),
            group_by: Default::default(),
        };
        self.mailboxes.send(name, Work { key, input, origin: Some(origin) });
    }

    /// An input that comes from no event, for a group of the cache.
    fn send_internal(&self, name: NamespacedName, group: &AlertGroup, input: OwnedInput) {
        let key = key_of(&name.namespace, &group.spec);
        self.send_once(name, key, input);
    }

    fn send_once(&self, name: NamespacedName, key: GroupKey, input: OwnedInput) {
        // They hold nothing but what they are, so one that waits already says as much.
        let kind = std::mem::discriminant(&input);
        let same = |waiting: &Work| waiting.origin.is_none() && std::mem::discriminant(&waiting.input) == kind;
        self.mailboxes.send_once(name, Work { key, input, origin: None }, same);
    }

    /// Compiles rules when they change, never on the way of an alert. A rule that does not compile matches nothing.
    async fn keep_compiled(&self, first: watch::Sender<bool>) {
        let rules = Arc::clone(&self.groups.rules);
        let mut changes = rules.changes();
        tokio::select! {
            () = rules.ready() => {}
            () = self.ctx.shutdown.cancelled() => return,
        }
        let mut known: HashMap<NamespacedName, Compiled> = HashMap::new();
        let mut touched: Option<Vec<NamespacedName>> = None;
        loop {
            self.compile_all(&rules, &mut known, touched.as_deref());
            first.send_replace(true);
            touched = tokio::select! {
                change = waiting(changes.recv()) => match change {
                    Ok(name) => Some(drain(&mut changes, name)),
                    Err(broadcast::error::RecvError::Lagged(_)) => None,
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                () = self.ctx.shutdown.cancelled() => return,
            };
        }
    }

    /// Compiles those that changed; with none given, all.
    fn compile_all(
        &self,
        rules: &WatchCache<Rule>,
        known: &mut HashMap<NamespacedName, Compiled>,
        touched: Option<&[NamespacedName]>,
    ) {
        let all: Vec<NamespacedName>;
        let touched = match touched {
            Some(touched) => touched,
            None => {
                let gone = known.keys().cloned();
                all = rules.list().iter().map(|rule| name_of(rule.as_ref())).chain(gone).collect();
                &all
            }
        };
        for name in touched {
            match rules.get(name) {
                Some(rule) => {
                    let version = (rule.metadata.uid.clone(), rule.metadata.generation);
                    if known.get(name).is_none_or(|compiled| compiled.version != version) {
                        let rule = compile_or_say(&rule).map(Arc::new);
                        known.insert(name.clone(), Compiled { version, rule });
                    }
                }
                None => drop(known.remove(name)),
            }
        }
        let usable: Vec<Arc<CompiledRule>> = known.values().filter_map(|compiled| compiled.rule.clone()).collect();
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.groups.invalid_told.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.ctx.metrics.gauge(&RULES, ["usable"]).set(count(usable.len()));
        self.ctx.metrics.gauge(&RULES, ["broken"]).set(count(known.len() - usable.len()));
        *self.groups.compiled.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(RuleSet::new(usable));
        self.tell_groups(Some(touched));
    }

    /// Groups that wait for their rule to be taken up again hear that it may have been: those of these rules, or all.
    fn tell_groups(&self, rules: Option<&[NamespacedName]>) {
        for group in self.groups.store.list() {
            let name = name_of(group.as_ref());
            let waits = group.spec.episode.as_ref().is_some_and(|episode| episode.step_pending)
                || group.spec.alerts.iter().any(|alert| alert.facts.is_some());
            let concerned = rules.is_none_or(|rules| rules.contains(&rule_of(&name.namespace, &group.spec)));
            if waits && concerned && self.owns(&group.spec.correlation_id) {
                self.send_internal(name, &group, OwnedInput::RuleChanged);
            }
        }
    }

    /// Nothing is consumed before the first complete list of Rules; while their watch is broken the partitions are paused, and
    /// after a while the group is left, so that a replica that can see takes over.
    async fn keep_gate(&self, gate: watch::Sender<Gate>, mut compiled: watch::Receiver<bool>) {
        let ready = async {
            self.groups.store.ready().await;
            self.groups.incidents.ready().await;
            // Its sender ends only with the process.
            let _ = waiting(compiled.wait_for(|compiled| *compiled)).await;
        };
        tokio::select! {
            () = ready => {}
            () = self.ctx.shutdown.cancelled() => return,
        }
        // Nothing is consumed before it is known which groups know what.
        self.look_at_all();
        self.ctx.health.ready("service");
        let mut state = self.groups.rules.state();
        loop {
            let following = *state.borrow_and_update() == WatchState::Following;
            gate.send_replace(if following { Gate::Open } else { Gate::Paused });
            tokio::select! {
                changed = waiting(state.changed()) => if changed.is_err() { return },
                () = tokio::time::sleep(self.config.stale_after), if !following => {
                    tracing::warn!("The watch of Rules is stale; the consumer group is left.");
                    gate.send_replace(Gate::Left);
                    tokio::select! {
                        changed = waiting(state.changed()) => if changed.is_err() { return },
                        () = self.ctx.shutdown.cancelled() => return,
                    }
                }
                () = self.ctx.shutdown.cancelled() => return,
            }
        }
    }

    /// Timers of the groups whose partition is this replica's.
    async fn keep_time(&self, mut rules_known: watch::Receiver<bool>, gate: watch::Receiver<Gate>) {
        let store = Arc::clone(&self.groups.store);
        let mut changes = store.changes();
        let mut takeovers = self.ownership.takeovers();
        let ready = async {
            store.ready().await;
            // Without the rules every one of them would look deleted. The sender ends only with the process.
            let _ = waiting(rules_known.wait_for(|known| *known)).await;
        };
        tokio::select! {
            () = ready => {}
            () = self.ctx.shutdown.cancelled() => return,
        }
        self.look_at_all();
        let mut behind = true;
        let mut storms = Storms::default();
        let mut look = tokio::time::interval(TICK_MAX);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut again = tokio::time::interval(LOOK_AGAIN_INTERVAL);
        loop {
            tokio::select! {
                () = self.ctx.shutdown.cancelled() => return,
                change = changes.recv() => match change {
                    Ok(name) => self.index(|index| index.update(&name, store.get(&name).as_deref())),
                    Err(broadcast::error::RecvError::Lagged(_)) => self.look_at_all(),
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                changed = takeovers.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // What is due, and what waits, is looked at when it is read what others left in the log.
                    let now = self.ctx.clock.now();
                    self.groups.backlog(|backlog| backlog.stop(now));
                    behind = true;
                }
                _ = look.tick() => if !behind { self.follow_storms(&mut storms) },
                () = tokio::time::sleep(if behind { TICK_MAX } else { self.until_due() }) => {}
                // A timer whose write was refused has left the index, and may be carried out by now; a rule may have been taken up
                // again while nobody looked.
                _ = again.tick() => {
                    self.look_at_all();
                    self.tell_groups(None);
                }
            }
            self.follow_reading(*gate.borrow());
            let was_behind = std::mem::replace(&mut behind, self.groups.is_behind());
            if was_behind && !behind {
                // What came while it was behind had no effect.
                self.look_at_all();
                self.tell_groups(None);
            }
            if !behind {
                self.fire_due();
            }
        }
    }

    /// Takes note of whether the log is read: reading that begins, begins with what waits.
    fn follow_reading(&self, gate: Gate) {
        // While the API server cannot be worked with, what was read waits for its write, and holds up what comes after it.
        let works = self.ctx.bus.can_read(CONSUMES.group) && can_be_worked_with(&self.ctx.health);
        let reads = gate == Gate::Open && self.ownership.any() && works;
        let now = self.ctx.clock.now();
        self.groups.backlog(|backlog| match (reads, backlog.is_reading()) {
            (true, false) => backlog.begin(now),
            (false, true) => backlog.stop(now),
            _ => {}
        });
    }

    /// Publishes what others left unsaid, and deletes what is over.
    async fn keep_clean(&self) {
        let store = &self.groups.store;
        let mut evicted_at = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = self.ctx.shutdown.cancelled() => return,
                () = tokio::time::sleep(self.config.sweep_interval) => {}
            }
            if let Err(StoreError::Shutdown) = store.sweep(|group| self.owns(&group.spec.correlation_id)).await {
                return;
            }
            if evicted_at.elapsed() >= self.config.eviction_interval {
                evicted_at = tokio::time::Instant::now();
                self.evict().await;
            }
        }
    }

    fn until_due(&self) -> Duration {
        let due = self.index(|index| index.next_due());
        let wait = due.map(|due| due.duration_since(self.ctx.clock.now()));
        wait.map_or(TICK_MAX, |wait| Duration::try_from(wait).unwrap_or_default())
            .clamp(Duration::from_millis(5), TICK_MAX)
    }

    fn fire_due(&self) {
        let now = self.ctx.clock.now();
        for name in self.index(|index| index.take_due(now)) {
            // What is another's comes back with a takeover, when everything is looked at anew.
            if let Some(group) = self.groups.store.get(&name).filter(|group| self.owns(&group.spec.correlation_id)) {
                self.send_internal(name, &group, OwnedInput::Timer);
            }
        }
    }

    fn follow_storms(&self, storms: &mut Storms) {
        let (threshold, calm, now) =
            (self.config.storm_threshold, self.config.storm_calm.as_signed(), self.ctx.clock.now());
        let (steps, going_on) = self.index(|index| (storms.look(index, threshold, calm, now), index.storms().len()));
        self.ctx.metrics.gauge(&STORMS, []).set(i64::try_from(going_on).unwrap_or(i64::MAX));
        for step in steps {
            match step {
                StormStep::Begins(rule) if self.may_begin(&rule) => self.tell_storm(rule, OwnedInput::StormBegins),
                StormStep::Begins(_) => {}
                StormStep::Ends(rule) => self.tell_storm(rule, OwnedInput::StormEnds),
                StormStep::Room(name) => {
                    let group = self.groups.store.get(&name);
                    if let Some(group) = group.filter(|group| self.owns(&group.spec.correlation_id)) {
                        self.send_internal(name, &group, OwnedInput::RuleChanged);
                    }
                }
            }
        }
    }

    /// A rule that is suspended, deleted or broken begins nothing.
    fn may_begin(&self, rule: &NamespacedName) -> bool {
        self.groups.rules.get(rule).is_some_and(|rule| !rule.spec.suspend) && self.groups.rule_set().get(rule).is_some()
    }

    fn tell_storm(&self, rule: NamespacedName, input: OwnedInput) {
        let correlation = CorrelationId::of_storm(&rule.namespace, &rule.name);
        if self.owns(&correlation) {
            let name = NamespacedName { namespace: rule.namespace.clone(), name: correlation.to_string() };
            self.send_once(name, GroupKey { rule, correlation, group_by: Default::default() }, input);
        }
    }

    fn look_at_all(&self) {
        // Within the lock: what it is told in between is not newer than what is listed here.
        self.index(|index| {
            index.clear();
            let groups = self.groups.store.list();
            groups.iter().for_each(|group| index.update(&name_of(group.as_ref()), Some(group)));
        });
    }

    async fn evict(&self) {
        let now = self.ctx.clock.now();
        let ended = |group: &AlertGroup| {
            let at = quiet_since(&group.spec, now)?;
            let rule = self.groups.rule_set().get(&rule_of(&name_of(group).namespace, &group.spec)).cloned();
            let window = rule.map(|rule| rule.accept_window.as_signed()).unwrap_or_default();
            Some((at, plus(at, self.config.repeats_for.as_signed().max(window))))
        };
        let may_delete = |group: &AlertGroup| self.owns(&group.spec.correlation_id);
        let limits = retention::Limits { ttl: self.groups.limits.retention, count: self.config.max_quiet };
        retention::sweep(&self.ctx, &self.groups.store, Sweep { kind: "alertgroup", limits, ended, may_delete }).await;
    }

    fn owns(&self, correlation: &CorrelationId) -> bool {
        self.ownership.owns(correlation.as_str())
    }

    fn index<T>(&self, work: impl FnOnce(&mut GroupIndex) -> T) -> T {
        work(&mut self.groups.index.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A namespace's name goes into the paths of requests, and a header may be anybody's making (RFC 1123 label).
fn is_namespace(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len()) && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// A rule of the cache, compiled or not.
struct Compiled {
    version: (Option<String>, Option<i64>),
    rule: Option<Arc<CompiledRule>>,
}

fn compile_or_say(rule: &Rule) -> Option<CompiledRule> {
    compile(rule)
        .inspect_err(|errors| {
            let error = errors.first().map(ToString::to_string).unwrap_or_default();
            tracing::warn!(rule = %name_of(rule), errors = errors.len(), error, "A rule cannot be used; it matches nothing.");
        })
        .ok()
}

/// Everything that has changed by now, so that many changes at once are one new index.
fn drain(changes: &mut broadcast::Receiver<NamespacedName>, first: NamespacedName) -> Vec<NamespacedName> {
    let mut names = vec![first];
    while let Ok(name) = changes.try_recv() {
        names.push(name);
    }
    names
}
