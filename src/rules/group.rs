//! One group at a time: read, decide, write, publish, acknowledge. Inputs that waited behind a write are folded into the next one.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use async_trait::async_trait;
use jiff::SignedDuration;
use kube::api::ObjectMeta;
use tracing::Instrument as _;

use super::{
    adoption::{KnownIncident, Orphan},
    backlog::Backlog,
    decide::{Adopted, GroupKey, Limits, RuleView, decide, decided},
    input::{Input, RaisedAlert},
    matching::RuleSet,
    timers::{GroupIndex, rule_of},
};
use crate::{
    api::v1alpha1::{
        AlertGroup, AlertGroupSpec, GROUP_SIZE_MAX, Incident, LABEL_INCIDENT, LABEL_RULE, LABEL_STORM, OutboxEntry,
        Rule,
    },
    bus::Ack,
    compile::CompiledRule,
    events::{
        ActionCompleted, ActionFailed, AlertDecided, AlertId, DeadLetter, DeadLetterReason, DecisionReason, Event,
        IncidentHeader, IncidentUpdated, NamespacedName, Payload, Record, Topic, TraceContext, is_urgent,
    },
    mutants::{Mutant, mutated},
    runtime::{
        ApiFailure, Context, Handler, Owned, Rank, Step, Store, StoreError, WatchCache,
        consume::{publish_dead_letter, publish_until_acknowledged},
        metrics::catalogue::ALERTS_DECIDED,
        telemetry::{Ids, Processing, scope},
        watch_cache::forget_managed_fields,
    },
};

/// Events of one write, beyond which further inputs wait for the next one: an outbox is bounded, and so is the object (promise 6).
const FOLD_OUTPUTS_MAX: usize = 24;
/// Of the object's bound, what one outbox entry may need beside its data.
const ENTRY_OVERHEAD: usize = 512;

impl Owned for AlertGroup {
    const STATUS_SUBRESOURCE: bool = false;

    fn outbox(&self) -> &[OutboxEntry] {
        &self.spec.outbox
    }

    fn set_outbox(&mut self, entries: Vec<OutboxEntry>) {
        self.spec.outbox = entries;
    }

    fn rank(&self) -> Rank {
        let says = |topic: Topic| self.spec.outbox.iter().any(|entry| entry.topic == topic.name());
        if says(Topic::ActionRequested) {
            let urgent = self.spec.episode.as_ref().is_some_and(|episode| is_urgent(&episode.severity));
            return Rank::ToTarget { urgent };
        }
        Rank::Record { precedes_message: says(Topic::NotificationRequested) }
    }

    /// Our own labels are written anew with every state.
    fn forget_unread(&mut self) {
        forget_managed_fields(self);
        let is_own = |label: &String| [LABEL_RULE, LABEL_STORM, LABEL_INCIDENT].contains(&label.as_str());
        if self.metadata.labels.as_ref().is_some_and(|labels| labels.keys().all(is_own)) {
            self.metadata.labels = None;
        }
    }
}

/// What waits for a group.
#[derive(Debug)]
pub(super) struct Work {
    /// The group, as its rule and labels say.
    pub key: GroupKey,
    /// What happens to it.
    pub input: OwnedInput,
    /// Where it came from; none for a timer.
    pub origin: Option<Origin>,
}

/// Where an input came from, and what is acknowledged when it is done.
#[derive(Debug)]
pub(super) struct Origin {
    pub ack: Ack,
    pub source: Source,
}

/// The record that an input was read from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub record: Arc<Record>,
    pub place: String,
    pub processing: Arc<Processing>,
}

impl Source {
    /// The dead letter of the whole record.
    pub(super) fn to_dead_letter(&self, reason: DeadLetterReason, message: String) -> DeadLetter {
        self.record.to_dead_letter(reason, message, self.place.clone())
    }
}

impl Work {
    /// What the input brought about belongs under the work on it, where both are of one trace.
    fn caused(&self, event: Event) -> Event {
        let own = self.origin.as_ref().map(|origin| origin.source.processing.context);
        let said = TraceContext::read(event.traceparent.as_deref());
        match own.filter(|own| said.is_some_and(|said| said.trace_id == own.trace_id)) {
            Some(own) => Event { traceparent: Some(own.to_string()), ..event },
            None => event,
        }
    }

    /// An incident keeps the trace of the alert that opened it; whatever else concerns it is linked with that.
    fn link(&self, incident: TraceContext) {
        if let Some(origin) = &self.origin {
            origin.source.processing.link(incident);
        }
    }
}

/// Of the open incident.
fn trace_of(group: &AlertGroupSpec) -> Option<TraceContext> {
    TraceContext::read(group.episode.as_ref()?.traceparent.as_deref())
}

/// What the lines that are said about some inputs belong to: the first of them that came from somewhere.
fn scope_of(items: &[Work]) -> tracing::Span {
    let trace = items.iter().find_map(|item| item.origin.as_ref()).map(|origin| origin.source.processing.context);
    let alert = items.iter().find_map(|item| match &item.input {
        OwnedInput::Alert(raised) | OwnedInput::Remembered(raised) => Some(raised.alert_id.as_str()),
        _ => None,
    });
    let action = items.iter().find_map(|item| match &item.input {
        OwnedInput::Completed(result) => Some((result.action_id.as_str(), result.incident.incident_id.as_str())),
        OwnedInput::Failed(result) => Some((result.action_id.as_str(), result.incident.incident_id.as_str())),
        _ => None,
    });
    let (action, incident) = action.unzip();
    scope(trace, Ids { alert, action, incident, ..Ids::default() })
}

/// What a line about one event belongs to, whatever it was decided together with.
fn scope_of_event(event: &Event) -> tracing::Span {
    let trace = TraceContext::read(event.traceparent.as_deref());
    let header = event.payload.incident();
    let alert = match &event.payload {
        Payload::AlertDecided(entry) => Some(&entry.alert_id),
        _ => header.and_then(IncidentHeader::alert),
    };
    let (alert, incident) = (alert.map(AlertId::as_str), header.map(|header| header.incident_id.as_str()));
    scope(trace, Ids { alert, incident, ..Ids::default() })
}

#[derive(Debug)]
pub(super) enum OwnedInput {
    Alert(Arc<RaisedAlert>),
    Remembered(Arc<RaisedAlert>),
    Completed(Box<ActionCompleted>),
    Failed(Box<ActionFailed>),
    Updated(Box<IncidentUpdated>),
    Timer,
    RuleChanged,
    StormBegins,
    StormEnds,
}

impl OwnedInput {
    fn borrow(&self, storm_threshold: usize) -> Input<'_> {
        match self {
            OwnedInput::Alert(raised) => Input::Alert(raised),
            OwnedInput::Remembered(raised) => Input::Remembered(raised),
            OwnedInput::Completed(result) => Input::Completed(result),
            OwnedInput::Failed(result) => Input::Failed(result),
            OwnedInput::Updated(update) => Input::Updated(update),
            OwnedInput::Timer => Input::Timer,
            OwnedInput::RuleChanged => Input::RuleChanged,
            OwnedInput::StormBegins => Input::StormBegins { threshold: storm_threshold },
            OwnedInput::StormEnds => Input::StormEnds,
        }
    }

    /// Whether nobody but the clock, or a rule's change, wants it.
    fn is_by_itself(&self) -> bool {
        matches!(self, Self::Timer | Self::RuleChanged | Self::StormBegins | Self::StormEnds)
    }
}

/// Everything that decisions need, shared by the service's parts.
pub(super) struct Groups {
    pub ctx: Context,
    pub store: Arc<Store<AlertGroup>>,
    pub rules: Arc<WatchCache<Rule>>,
    pub incidents: Arc<WatchCache<Incident, KnownIncident>>,
    pub compiled: RwLock<Arc<RuleSet>>,
    pub index: Mutex<GroupIndex>,
    pub backlog: Mutex<Backlog>,
    /// The rules of which it was told that they cannot decide; no more than there are rules.
    pub invalid_told: Mutex<HashSet<NamespacedName>>,
    /// How long nothing comes of a partition whose backlog is read.
    pub quiet: SignedDuration,
    pub limits: Limits,
    pub storm_threshold: usize,
}

impl Groups {
    /// The rules as they are compiled now.
    pub fn rule_set(&self) -> Arc<RuleSet> {
        Arc::clone(&self.compiled.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What was read of the log.
    pub fn backlog<T>(&self, work: impl FnOnce(&mut Backlog) -> T) -> T {
        work(&mut self.backlog.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether alerts may wait in the log, so that nothing is due by itself.
    pub fn is_behind(&self) -> bool {
        let now = self.ctx.clock.now();
        self.backlog(|backlog| backlog.is_behind(self.quiet, now))
    }

    /// Events that need no memory: derived from the input alone. False on shutdown.
    pub async fn publish(&self, events: &[Event]) -> bool {
        events.iter().for_each(|event| self.count(event));
        let records = events.iter().filter_map(|event| event.encode().ok()).collect();
        publish_until_acknowledged(&self.ctx, records).await
    }

    fn count(&self, event: &Event) {
        if let Payload::AlertDecided(entry) = &event.payload {
            self.ctx.metrics.count(&ALERTS_DECIDED, [reason_label(entry.reason)], 1);
            if entry.reason == DecisionReason::Invalid {
                scope_of_event(event).in_scope(|| self.tell_invalid(entry));
            }
        }
        if let Payload::IncidentOpened(opened) = &event.payload {
            let (rule, summary) = (&opened.incident.rule, &opened.incident.summary);
            scope_of_event(event).in_scope(|| tracing::info!(%rule, summary, "An incident opened."));
        }
    }

    /// A rule that cannot decide its alerts compiles all the same: nobody would know. Told once for each state of the rules.
    fn tell_invalid(&self, entry: &AlertDecided) {
        let Some(rule) = &entry.rule else { return };
        let mut told = self.invalid_told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(rule.clone()) {
            let problem = &entry.detail;
            tracing::warn!(%rule, problem, "A rule cannot decide an alert; it opens nothing. Told once until a rule changes.");
        }
    }

    fn index<T>(&self, work: impl FnOnce(&mut GroupIndex) -> T) -> T {
        work(&mut self.index.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn view<'a>(
        &self,
        name: &NamespacedName,
        group: &NamespacedName,
        compiled: Option<&'a CompiledRule>,
        behind: bool,
        storm: bool,
    ) -> RuleView<'a> {
        // The newest known spec, whether it compiles or not: a broken edit does not take `suspend` back.
        let suspended = self.rules.get(name).is_none_or(|rule| rule.spec.suspend);
        let waiting = self.index(|index| index.waiting_beside(name, group));
        RuleView {
            rule: compiled,
            suspended,
            storm,
            crowded: waiting >= self.storm_threshold,
            behind,
            limits: self.limits,
        }
    }

    /// Decides as many inputs as fit one write, in their order. Gives the step, and how many inputs are in it.
    fn fold(
        &self,
        name: &NamespacedName,
        items: &[Work],
        current: Option<&AlertGroup>,
        adopted: Option<&Adopted>,
    ) -> (Step<AlertGroup>, usize) {
        let now = self.ctx.clock.now();
        let rule_set = self.rule_set();
        let mut group: Option<AlertGroupSpec> = current.map(|object| object.spec.clone());
        let (mut changed, mut certain, mut taken) = (false, true, 0);
        let mut outputs: Vec<Event> = Vec::new();
        let mut said: BTreeSet<String> = BTreeSet::new();
        let behind = self.is_behind();
        for item in items {
            if behind && item.input.is_by_itself() {
                // It may have waited for its write through an outage, and an alert that waits in the log may have ended. The clock
                // comes back to it when the log is read.
                taken += 1;
                continue;
            }
            let compiled = rule_set.get(&item.key.rule);
            // A group that may open takes its place before it does: many are decided side by side.
            let may_open = group.as_ref().is_none_or(|spec| spec.episode.is_none() && spec.storm.is_none());
            let storm = may_open && !self.index(|index| index.reserve(&item.key.rule, name, self.storm_threshold));
            let view = self.view(&item.key.rule, name, compiled.map(Arc::as_ref), behind, storm);
            // An existing group knows its rule best: an event's header may be somebody else's making.
            let key = group.as_ref().map_or_else(|| item.key.clone(), |spec| key_of(&item.key.rule.namespace, spec));
            let input = item.input.borrow(self.storm_threshold);
            let decision = decide(&key, group.as_ref(), adopted, input, view, now);
            taken += 1;
            changed |= decision.changed;
            certain &= decision.certain;
            let concerned = [&decision.group, &group].map(|group| group.as_ref().and_then(trace_of));
            concerned.into_iter().flatten().next().inspect(|trace| item.link(*trace));
            group = decision.group;
            let opens = group.as_ref().is_some_and(|spec| spec.episode.is_some() && spec.storm.is_none());
            if may_open && !opens {
                self.index(|index| index.release(&item.key.rule, name));
            }
            let decided = decision.outputs.into_iter().map(|event| item.caused(event));
            outputs.extend(decided.filter(|event| said.insert(event.id.to_string())));
            if outputs.len() >= FOLD_OUTPUTS_MAX || mutated(Mutant::FoldedInputsForgotten) {
                break;
            }
        }
        let namespace = items.first().map(|item| item.key.rule.namespace.clone()).unwrap_or_default();
        let step = match group {
            Some(spec) if changed => {
                Step::Write { object: object_of(&namespace, current, fitted(spec, &outputs)), publish: outputs }
            }
            _ if certain => Step::Unchanged { publish: outputs },
            _ => Step::Nothing { publish: outputs },
        };
        (step, taken)
    }

    /// One write's worth of inputs. Gives how many were done.
    async fn take(&self, name: &NamespacedName, items: &[Work]) -> Result<usize, StoreError> {
        let mut taken = 0;
        let mut reasons = Vec::new();
        let mut orphan = self.orphan_unless_known(name).await?;
        if mutated(Mutant::OrphanNotAdopted) {
            orphan = Orphan::None;
        }
        let written = loop {
            let mut must_look = false;
            let written = self
                .store
                .transact(name, |current| {
                    must_look = current.is_none() && orphan == Orphan::NotLooked;
                    if must_look {
                        return Step::Nothing { publish: Vec::new() };
                    }
                    let (step, count) = self.fold(name, items, current, orphan.adopted());
                    taken = count;
                    if let Step::Write { publish, .. } | Step::Nothing { publish } | Step::Unchanged { publish } = &step
                    {
                        reasons.clone_from(publish);
                    }
                    step
                })
                .await;
            if !must_look || written.is_err() {
                break written;
            }
            // The cache knew of a group that has gone.
            orphan = self.orphan(name).await?;
        };
        // What was written counts at once, and what was not has no place.
        self.index(|index| {
            if written.is_ok() {
                index.update(name, self.store.get(name).as_deref());
            }
            items.iter().for_each(|item| index.settle(&item.key.rule, name));
        });
        written?;
        reasons.iter().for_each(|event| self.count(event));
        Ok(taken)
    }

    fn would_be_urgent(&self, work: &Work) -> bool {
        let OwnedInput::Alert(raised) = &work.input else { return false };
        let rule = self.rule_set().get(&work.key.rule).cloned();
        rule.is_some_and(|rule| {
            let scope = super::matching::scope_of(&raised.alert, &raised.fingerprint);
            is_urgent(&rule.severity(&scope, &raised.alert.labels))
        })
    }

    /// The API server refuses the group for good: the input ends with that reason, and the partition goes on.
    async fn refuse(&self, work: Work, failure: &ApiFailure) {
        let Some(Origin { ack, source }) = work.origin else { return };
        if let OwnedInput::Alert(raised) | OwnedInput::Remembered(raised) = &work.input {
            let entry = decided(
                raised,
                Some(&work.key.rule),
                DecisionReason::Refused,
                failure.to_string(),
                None,
                self.ctx.clock.now(),
            );
            if !self.publish(&[entry]).await {
                return;
            }
        }
        let letter = source.to_dead_letter(DeadLetterReason::Refused, format!("AlertGroup: {failure}"));
        if publish_dead_letter(&self.ctx, letter).await {
            ack.buried();
        }
    }
}

#[async_trait]
impl Handler<NamespacedName, Work> for Groups {
    /// By what an incident of it says, or would say.
    fn is_urgent(&self, name: &NamespacedName, inputs: &[Work]) -> bool {
        let known =
            self.store.get(name).and_then(|group| group.spec.episode.as_ref().map(|open| is_urgent(&open.severity)));
        known.unwrap_or_else(|| inputs.iter().any(|work| self.would_be_urgent(work)))
    }

    async fn handle(&self, name: &NamespacedName, inputs: Vec<Work>) {
        let mut rest = inputs;
        // After a refusal one by one: only the input that is to blame ends with it.
        let mut singly = false;
        while !rest.is_empty() {
            let batch = if singly { &rest[..1] } else { &rest[..] };
            match self.take(name, batch).instrument(scope_of(batch)).await {
                Ok(taken) => {
                    let forgotten = mutated(Mutant::FoldedInputsForgotten);
                    for work in rest.drain(..if forgotten { batch.len() } else { taken.clamp(1, batch.len()) }) {
                        if let Some(origin) = work.origin {
                            origin.ack.done();
                        }
                    }
                }
                Err(StoreError::Shutdown) => return,
                // Where the server fails in writes it is none of them that is to blame.
                Err(error @ StoreError::Refused { .. }) if batch.len() > 1 && !error.is_of_the_server() => {
                    singly = true
                }
                Err(StoreError::Refused { failure, .. }) => {
                    let count = batch.len();
                    for work in rest.drain(..count) {
                        self.refuse(work, &failure).await;
                    }
                }
            }
        }
    }
}

/// Ledger entries of alerts that concern no group: no rule matched, or a rule could not say.
pub(super) struct Ledger(pub Arc<Groups>);

#[async_trait]
impl Handler<u32, (Vec<Event>, Ack)> for Ledger {
    async fn handle(&self, _: &u32, inputs: Vec<(Vec<Event>, Ack)>) {
        let (events, acks): (Vec<Vec<Event>>, Vec<Ack>) = inputs.into_iter().unzip();
        let events: Vec<Event> = events.into_iter().flatten().collect();
        if mutated(Mutant::UnmatchedNotDecided) || self.0.publish(&events).await {
            acks.into_iter().for_each(Ack::done);
        }
    }
}

/// The key of a group that is there.
pub(super) fn key_of(namespace: &str, spec: &AlertGroupSpec) -> GroupKey {
    GroupKey {
        rule: rule_of(namespace, spec),
        correlation: spec.correlation_id.clone(),
        group_by: spec.group_by.clone(),
    }
}

fn object_of(namespace: &str, current: Option<&AlertGroup>, spec: AlertGroupSpec) -> AlertGroup {
    let open = spec.episode.as_ref().map(|episode| &episode.incident_id);
    let incident = open.or(spec.last_episode.as_ref().map(|ended| &ended.incident_id)).map(ToString::to_string);
    let mut metadata = current.map(|object| object.metadata.clone()).unwrap_or_else(|| ObjectMeta {
        name: Some(spec.correlation_id.to_string()),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    });
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(LABEL_RULE.into(), spec.rule_ref.name.clone());
    if spec.storm.is_some() {
        labels.insert(LABEL_STORM.into(), "true".into());
    }
    if let Some(incident) = incident {
        labels.insert(LABEL_INCIDENT.into(), incident);
    }
    AlertGroup { metadata, spec }
}

/// Keeps the object within its bound: what is least needed goes first (promise 6).
pub(super) fn fitted(mut spec: AlertGroupSpec, outputs: &[Event]) -> AlertGroupSpec {
    let carried: usize = spec.outbox.iter().map(|entry| entry.data.len() + ENTRY_OVERHEAD).sum();
    let new: usize = outputs
        .iter()
        .filter_map(|event| OutboxEntry::try_from(event).ok())
        .map(|entry| entry.data.len() + ENTRY_OVERHEAD)
        .sum();
    let room = GROUP_SIZE_MAX.saturating_sub(carried + new);
    let size = |spec: &AlertGroupSpec| serde_json::to_vec(&spec.alerts).map_or(0, |bytes| bytes.len());
    // Those that began last: the incident opens from the first one that it can.
    while size(&spec) > room {
        let held = spec.alerts.iter_mut().filter(|alert| alert.facts.is_some());
        let Some(last) = held.max_by(|a, b| (a.starts_at, &a.fingerprint).cmp(&(b.starts_at, &b.fingerprint))) else {
            break;
        };
        last.facts = None;
    }
    while size(&spec) > room {
        let ended = |alert: &&mut crate::api::v1alpha1::GroupAlert| !alert.in_episode;
        let oldest = spec.alerts.iter_mut().filter(ended).map(|alert| alert.accepted_at).min();
        let Some(oldest) = oldest else { break };
        spec.alerts.retain(|alert| alert.in_episode || alert.accepted_at > oldest);
    }
    spec
}

fn reason_label(reason: DecisionReason) -> &'static str {
    match reason {
        DecisionReason::Opened => "opened",
        DecisionReason::Joined => "joined",
        DecisionReason::Repeated => "repeated",
        DecisionReason::Resolved => "resolved",
        DecisionReason::NothingToResolve => "nothing_to_resolve",
        DecisionReason::NoRule => "no_rule",
        DecisionReason::Cooldown => "cooldown",
        DecisionReason::Suspended => "suspended",
        DecisionReason::Storm => "storm",
        DecisionReason::Stale => "stale",
        DecisionReason::Invalid => "invalid",
        DecisionReason::Refused => "refused",
    }
}
