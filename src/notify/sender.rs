//! One notification at a time: look, prepare, claim, send, write down what became of it. The order is what keeps promise 4: nothing
//! is sent whose claim is not written, and nothing is acknowledged that is not in a resource.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use tracing::Instrument as _;

use super::{
    channels::Message,
    deliver::{Asker, Move, Outcome, Outlook, Readiness, Said, begin, next_look, outlook, settle},
    due::Due,
    lanes::{Lanes, Pass},
    prepare::Prepared,
    record::{event_of, first_state, header_of, object_of},
    secrets::Secrets,
    service::Outside,
};
use crate::{
    api::v1alpha1::{Notification, NotificationChannel, NotificationPhase, NotificationSpec, OutboxEntry},
    bus::Ack,
    crash_points::{Point, reached},
    events::{
        AlertId, DeadLetterReason, Event, IncidentHeader, NamespacedName, NotificationRequested, Record, TraceContext,
    },
    mutants::{Mutant, mutated},
    runtime::{
        Context, Handler, Owned, Ownership, Rank, Step, Store, StoreError, WatchCache,
        metrics::catalogue::{ALERT_TO_MESSAGE, NOTIFICATION_TRIES, NOTIFICATION_TRY_DURATION},
        publish_dead_letter,
        telemetry::{INCIDENT_ID, Ids, NOTIFICATION_ID, Span, SpanKind, scope},
    },
};

/// At least so long, and at most twice that, a message waits for which the budget for retries has nothing left.
const RETRY_WAIT: Duration = Duration::from_secs(5);
/// When a notification that the API server refuses to change is looked at again.
const REFUSED_AGAIN: SignedDuration = SignedDuration::from_secs(30);

/// How many channels that fail readiness tells by name.
const CHANNELS_TOLD: usize = 5;

impl Owned for Notification {
    const STATUS_SUBRESOURCE: bool = false;

    fn outbox(&self) -> &[OutboxEntry] {
        &self.spec.outbox
    }

    fn set_outbox(&mut self, entries: Vec<OutboxEntry>) {
        self.spec.outbox = entries;
    }

    /// It is there before it is sent.
    fn rank(&self) -> Rank {
        Rank::Record { precedes_message: self.spec.phase == NotificationPhase::Sending }
    }
}

/// What happens to a notification.
#[derive(Debug)]
pub(super) enum Input {
    /// It was requested.
    Requested {
        request: Box<NotificationRequested>,
        traceparent: Option<String>,
        record: Box<Record>,
        place: String,
        ack: Ack,
    },
    /// Its time has come.
    Due,
    /// It stood first in its channel's line, and there is room. Whatever becomes of it, even if it is gone, the line goes on.
    Turn { channel: NamespacedName },
}

/// Gives a notification its turn in the line of its channel.
pub(super) type Again = Arc<dyn Fn(NamespacedName, NamespacedName) + Send + Sync>;

pub(super) struct Sender {
    pub ctx: Context,
    pub store: Arc<Store<Notification>>,
    pub channels: Arc<WatchCache<NotificationChannel>>,
    pub secrets: Secrets,
    pub outside: Outside,
    pub ownership: Arc<Ownership>,
    pub lanes: Lanes,
    pub due: Mutex<Due>,
    pub telling: Mutex<()>,
    /// This incarnation of this replica.
    pub me: String,
    pub again: std::sync::OnceLock<Again>,
}

#[async_trait]
impl Handler<NamespacedName, Input> for Sender {
    async fn handle(&self, name: &NamespacedName, inputs: Vec<Input>) {
        let first = inputs.iter().find_map(|input| match input {
            Input::Requested { request, traceparent, .. } => Some(first_state(request, traceparent.as_deref())),
            Input::Due | Input::Turn { .. } => None,
        });
        let known = self.store.get(name);
        let spec = known.as_deref().map(|object| &object.spec);
        let mut channels: BTreeSet<NamespacedName> =
            spec.into_iter().chain(&first).map(|spec| channel_of(name, spec)).collect();
        channels.extend(inputs.iter().filter_map(|input| match input {
            Input::Turn { channel } => Some(channel.clone()),
            Input::Requested { .. } | Input::Due => None,
        }));
        // What is another's is not looked after; what was requested here is, because its record is here.
        if first.is_some() || spec.is_some_and(|spec| self.owns(spec)) {
            let lines = lines_of(name, spec.or(first.as_ref()));
            match self.advance(name, spec, first.as_ref()).instrument(lines.clone()).await {
                Ok(()) => {
                    self.look_again(name);
                    inputs.into_iter().for_each(Input::done);
                }
                Err(StoreError::Shutdown) => return,
                Err(StoreError::Refused { failure, .. }) => {
                    let message = format!("Notification: {failure}");
                    for input in inputs {
                        self.refuse(name, input, message.clone()).instrument(lines.clone()).await;
                    }
                    let again = self.ctx.clock.now().saturating_add(REFUSED_AGAIN).unwrap_or(Timestamp::MAX);
                    let again = self.store.get(name).map(|_| again);
                    self.due(|due| due.set_where_none(name, again));
                }
            }
        }
        // Whoever came to an end lets the next one of its channel go on.
        channels.iter().for_each(|channel| self.next_in_line(channel));
    }
}

impl Input {
    fn done(self) {
        if let Input::Requested { ack, .. } = self {
            ack.done();
        }
    }
}

impl Sender {
    pub fn owns(&self, spec: &NotificationSpec) -> bool {
        self.ownership.owns(&spec.incident.incident_id)
    }

    pub fn due<T>(&self, work: impl FnOnce(&mut Due) -> T) -> T {
        work(&mut self.due.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its time was taken when it came. If it was still too early when it was decided, because the clock was set back, it has none any more.
    fn look_again(&self, name: &NamespacedName) {
        let next = self.store.get(name).and_then(|object| next_look(&object.spec));
        self.due(|due| due.set_where_none(name, next));
    }

    fn next_in_line(&self, channel: &NamespacedName) {
        move_on(&self.lanes, self.again.get(), channel);
    }

    /// What a try says of its channel. One that failed is left alone for a while; then its line moves on.
    fn note_try(&self, channel: NamespacedName, outcome: &Outcome) {
        match outcome {
            Outcome::Refused { retry_after, .. } | Outcome::Unknown { retry_after, .. } => {
                let pause = self.lanes.failed(&channel, *retry_after);
                let (lanes, again, shutdown) =
                    (self.lanes.clone(), self.again.get().cloned(), self.ctx.shutdown.clone());
                self.ctx.tasks.spawn_infallible("notify-pause", async move {
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                    move_on(&lanes, again.as_ref(), &channel);
                });
            }
            _ => self.lanes.works(&channel),
        }
        self.tell_of_channels();
    }

    async fn advance(
        &self,
        name: &NamespacedName,
        known: Option<&NotificationSpec>,
        first: Option<&NotificationSpec>,
    ) -> Result<(), StoreError> {
        let Some(view) = known.or(first) else { return Ok(()) };
        let mut prepared = None;
        // What is over or waits needs nothing prepared. If the cache lags, the next look prepares it.
        let readiness = match outlook(known, view.deadline, self.ctx.clock.now()) {
            Outlook::Try => self.make_ready(name, view, &mut prepared).await,
            // Whoever stood in a line has no other time than its deadline, and it may be early again: a clock can be set back.
            Outlook::Wait(time) => {
                self.due(|due| due.set(name, Some(time)));
                Readiness::Busy
            }
            Outlook::Over | Outlook::Expire => Readiness::Busy,
        };
        let Some((claimed, pass, prepared)) = self.claim(name, first, &readiness, prepared).await? else {
            return Ok(());
        };
        let (tries, fresh) = (claimed.tries, prepared.fresh);
        let outcome = self.send(name, &claimed, prepared).await;
        if outcome != Outcome::NotSent {
            self.note_try(channel_of(name, &claimed), &outcome);
        }
        drop(pass);
        let outcome = match outcome {
            // The receiver may have been told of a new URL or key that this replica had not read yet.
            Outcome::Rejected { reason } if !fresh => {
                self.secrets.forget(&name.namespace);
                Outcome::Refused { reason, retry_after: None }
            }
            outcome => outcome,
        };
        self.write_down(name, tries, &outcome).await
    }

    /// Readiness tells of channels that do not take their messages; the process is ready all the same.
    fn tell_of_channels(&self) {
        // One after the other, so that what is told last is what is known last.
        let _telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let failing = self.lanes.failing(|channel| self.channels.get(channel).is_some());
        let names: Vec<String> = failing.iter().take(CHANNELS_TOLD).map(ToString::to_string).collect();
        let more = match failing.len() - names.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let trouble = (!names.is_empty()).then(|| format!("messages wait for {}{more}", names.join(", ")));
        self.ctx.health.trouble("channels", trouble);
    }

    async fn make_ready(
        &self,
        name: &NamespacedName,
        view: &NotificationSpec,
        prepared: &mut Option<(Pass, Prepared)>,
    ) -> Readiness {
        let (channel, now) = (channel_of(name, view), self.ctx.clock.now());
        let Some(pass) = self.lanes.enter(&channel, name) else {
            // Its deadline comes whether the line moves or not.
            self.due(|due| due.set(name, Some(view.deadline)));
            return Readiness::Busy;
        };
        // It stands in no line any more: whatever becomes of this, its next time is the one that its state says.
        self.due(|due| due.set(name, None));
        if view.tries > 0 && !self.lanes.may_retry(&channel, now) {
            let wait = RETRY_WAIT + self.ctx.random.up_to(RETRY_WAIT);
            let later = now.saturating_add(wait).unwrap_or(Timestamp::MAX);
            self.due(|due| due.set(name, Some(later.min(view.deadline))));
            return Readiness::Busy;
        }
        match self.prepare(name, view).await {
            Ok(ready) => {
                let timeout = ready.timeout;
                *prepared = Some((pass, ready));
                Readiness::Ready(timeout)
            }
            Err(reason) => Readiness::NotReady(reason),
        }
    }

    /// Writes the claim, or whatever else the state asks for. Some: the try is ours to make.
    async fn claim(
        &self,
        name: &NamespacedName,
        first: Option<&NotificationSpec>,
        readiness: &Readiness,
        prepared: Option<(Pass, Prepared)>,
    ) -> Result<Option<(NotificationSpec, Pass, Prepared)>, StoreError> {
        let mut claiming = None;
        let (mut ours, mut wrote, mut said) = (false, false, None);
        let object = self
            .store
            .transact(name, |current| {
                let step = begin(current.map(|object| &object.spec), first, readiness, self.asker(claiming));
                ours = matches!(step, Move::Claim(_) | Move::Claimed);
                (wrote, said) = (matches!(step, Move::Write(..)), None);
                match step {
                    // Without a request there is nothing that a cache which lags could hide for long.
                    Move::Nothing if first.is_none() => Step::Unchanged { publish: Vec::new() },
                    Move::Nothing => Step::Nothing { publish: Vec::new() },
                    Move::Claimed => Step::Unchanged { publish: Vec::new() },
                    Move::Claim(spec) if mutated(Mutant::SentWithoutClaim) && current.is_some() => {
                        claiming = Some(spec.tries);
                        Step::Unchanged { publish: Vec::new() }
                    }
                    Move::Claim(spec) => {
                        claiming = Some(spec.tries);
                        Step::Write { object: object_of(name, current, *spec), publish: Vec::new() }
                    }
                    Move::Write(spec, saying) => {
                        said = saying;
                        let publish = self.events(name, &spec, saying);
                        Step::Write { object: object_of(name, current, *spec), publish }
                    }
                }
            })
            .await?;
        let Some(object) = object else { return Ok(None) };
        if wrote {
            self.tell(name, &object.spec, said);
        }
        if !ours {
            return Ok(None);
        }
        Ok(prepared.map(|(pass, prepared)| (object.spec.clone(), pass, prepared)))
    }

    async fn send(&self, name: &NamespacedName, claimed: &NotificationSpec, prepared: Prepared) -> Outcome {
        let now = self.ctx.clock.now();
        // Writing the claim may have taken long, or this replica may have been frozen: after `sendUntil` the try is another's.
        let left = claimed.send_until.map_or(SignedDuration::ZERO, |until| until.duration_since(now));
        let left = Duration::try_from(left).unwrap_or_default();
        // Nothing is begun when the process stops.
        if left.is_zero() || self.ctx.shutdown.is_cancelled() {
            return Outcome::NotSent;
        }
        if claimed.tries == 1 {
            self.lanes.first_try(&channel_of(name, claimed), now);
        }
        let message = Message { name, spec: claimed, templates: &prepared.templates, now };
        let began = Instant::now();
        reached(Point::BeforeMessage, "");
        let outcome = prepared.channel.send(message, prepared.timeout.min(left)).await;
        if outcome == Outcome::Delivered {
            reached(Point::MessageSent, "");
        }
        self.ctx.metrics.observe(&NOTIFICATION_TRY_DURATION, [], began.elapsed());
        self.tell_sent(name, claimed, now, &outcome);
        outcome
    }

    /// One try, as a span. That of a sender which died is told by nobody.
    fn tell_sent(&self, name: &NamespacedName, claimed: &NotificationSpec, sent_at: Timestamp, outcome: &Outcome) {
        let Some(under) = TraceContext::read(claimed.traceparent.as_deref()) else { return };
        let own = under.of_message(&name.name, claimed.tries);
        self.ctx.tracer.record(&own, || {
            let mut span = Span::under(&under, own, SpanKind::Client, "send message", sent_at, self.ctx.clock.now())
                .with("eventpulse.channel", claimed.channel_ref.name.as_str())
                .with("eventpulse.template", claimed.template.as_str())
                .with("eventpulse.try", i64::from(claimed.tries))
                .with(NOTIFICATION_ID, name.name.as_str())
                .with(INCIDENT_ID, claimed.incident.incident_id.as_str());
            span.error = match outcome {
                Outcome::Refused { reason, .. } | Outcome::Unknown { reason, .. } | Outcome::Rejected { reason } => {
                    Some(reason.clone())
                }
                Outcome::Delivered | Outcome::DeliveredInPart { .. } | Outcome::NotSent => None,
            };
            span
        });
    }

    async fn write_down(&self, name: &NamespacedName, tries: i32, outcome: &Outcome) -> Result<(), StoreError> {
        let mut said = None;
        let object = self
            .store
            .transact(name, |current| {
                let next = current.and_then(|object| settle(&object.spec, tries, outcome, self.asker(None)));
                match (current, next) {
                    (Some(current), Some((spec, saying))) => {
                        said = saying;
                        let publish = self.events(name, &spec, saying);
                        Step::Write { object: object_of(name, Some(current), spec), publish }
                    }
                    _ => {
                        said = None;
                        Step::Unchanged { publish: Vec::new() }
                    }
                }
            })
            .await?;
        self.count(match outcome {
            Outcome::Delivered | Outcome::DeliveredInPart { .. } => "accepted",
            Outcome::Refused { .. } => "refused",
            Outcome::Unknown { .. } => "unknown",
            Outcome::Rejected { .. } => "rejected",
            Outcome::NotSent => "not_sent",
        });
        if let Outcome::DeliveredInPart { reason } = outcome {
            tracing::warn!(%name, reason, "A message does not reach all of its recipients.");
        }
        if let Some(object) = object {
            self.tell(name, &object.spec, said);
        }
        Ok(())
    }

    fn asker(&self, claiming: Option<i32>) -> Asker<'_> {
        // 53 bits are a whole number in a double.
        let jitter = (self.ctx.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        Asker { me: &self.me, claiming, now: self.ctx.clock.now(), jitter }
    }

    fn events(&self, name: &NamespacedName, spec: &NotificationSpec, said: Option<Said>) -> Vec<Event> {
        let event = |said| event_of(name, spec, said, self.ctx.source());
        said.and_then(event).into_iter().collect()
    }

    fn count(&self, outcome: &'static str) {
        self.ctx.metrics.count(&NOTIFICATION_TRIES, [outcome], 1);
    }

    fn tell(&self, name: &NamespacedName, spec: &NotificationSpec, said: Option<Said>) {
        let (channel, tries) = (&spec.channel_ref.name, spec.tries);
        let error = spec.last_error.as_deref().unwrap_or_default();
        match said {
            Some(Said::Delivered) => {
                tracing::info!(%name, channel, tries, "A message was delivered.");
                self.measure(spec);
            }
            Some(Said::Failed) => tracing::warn!(%name, channel, tries, error, "A message could not be delivered."),
            None if !error.is_empty() && !spec.phase.is_terminal() => {
                tracing::info!(%name, channel, tries, error, "A message waits for its next try.");
            }
            None => {}
        }
    }

    /// How long it took from the alert to the message.
    fn measure(&self, spec: &NotificationSpec) {
        let Some((accepted_at, delivered_at)) = spec.incident.accepted_at.zip(spec.finished_at) else { return };
        let (event, trace) = (format!("{:?}", spec.event), spec.traceparent.as_deref());
        self.ctx.metrics.observe_between(&ALERT_TO_MESSAGE, [&event], (accepted_at, delivered_at), trace);
    }

    /// The API server refuses the resource for good: the request ends as a dead letter, and the partition goes on.
    async fn refuse(&self, name: &NamespacedName, input: Input, message: String) {
        match input {
            Input::Requested { record, place, ack, .. } => {
                let letter = record.to_dead_letter(DeadLetterReason::Refused, message, place);
                if publish_dead_letter(&self.ctx, letter).await {
                    ack.buried();
                }
            }
            Input::Due | Input::Turn { .. } => {
                tracing::warn!(%name, message, "A notification cannot be written; it is tried again.");
                let again = self.ctx.clock.now().saturating_add(REFUSED_AGAIN).unwrap_or(Timestamp::MAX);
                self.due(|due| due.set(name, Some(again)));
            }
        }
    }
}

/// What the lines that are said about a notification belong to.
fn lines_of(name: &NamespacedName, spec: Option<&NotificationSpec>) -> tracing::Span {
    let trace = spec.and_then(|spec| TraceContext::read(spec.traceparent.as_deref()));
    let incident = spec.map(|spec| spec.incident.incident_id.as_str());
    let header = spec.and_then(|spec| header_of(&name.namespace, spec));
    let alert = header.as_ref().and_then(IncidentHeader::alert).map(AlertId::as_str);
    scope(trace, Ids { alert, incident, notification: Some(&name.name), ..Ids::default() })
}

/// Gives their turn to those that stand first in a channel's line, as many as there is room for.
fn move_on(lanes: &Lanes, again: Option<&Again>, channel: &NamespacedName) {
    let Some(again) = again else { return };
    lanes.next(channel).into_iter().for_each(|next| again(next, channel.clone()));
}

/// The channel of a notification: always of its own namespace.
pub(super) fn channel_of(name: &NamespacedName, spec: &NotificationSpec) -> NamespacedName {
    NamespacedName { namespace: name.namespace.clone(), name: spec.channel_ref.name.clone() }
}
