//! The loop that every service begins with: join the group, decode or dead-letter, keep the ownership, hand over.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::watch;

use super::{
    Context, Ownership,
    liveness::{LOOP_BOUND, waiting},
    metrics::catalogue::{DEAD_LETTERS, INPUT_DURATION, INPUTS, INPUTS_IN_FLIGHT, RETRIES},
    random::{Random, exponential},
    telemetry::Processing,
};
use crate::{
    bus::{Ack, BusError, Delivery, Ending, SubscribeOptions, Subscription, SubscriptionEvent, TopicPartition},
    crash_points::{Point, reached},
    events::{DeadLetter, DeadLetterReason, Event, EventId, Payload, Record, Topic},
};

/// How long a group that is to be left waits for work that was begun. When the process stops, its own deadline holds.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The part of a service's readiness that tells of its place in its group.
const PARTITIONS: &str = "partitions";
const BACKOFF_INITIAL: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Whether a service may consume now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// It may.
    Open,
    /// Not now: keep the membership and poll on.
    Paused,
    /// Not for longer: leave the group, so that another replica takes over.
    Left,
}

/// An event that was handed to this replica.
#[derive(Debug)]
pub struct Inbound {
    /// The event. Its trace context is that of the work on it, so that what follows from it belongs under that.
    pub event: Event,
    /// The record it was read from.
    pub record: Record,
    /// Where it stands.
    pub at: TopicPartition,
    /// Its place there.
    pub offset: u64,
    /// When the log took it.
    pub timestamp: Timestamp,
    /// To be called when every effect is durable.
    pub ack: Ack,
    /// The span of the work on it.
    pub processing: Arc<Processing>,
}

impl Inbound {
    /// As dead letters and logs say it: `alert.raised/3@1207`.
    pub fn origin(&self) -> String {
        format!("{}@{}", self.at, self.offset)
    }
}

/// Consumes until shutdown. `dispatch` must return at once: it hands the event to a mailbox. What cannot be decoded becomes a dead
/// letter and never blocks its partition. Fails only for a reason that waiting does not mend, like a topic with wrong settings.
pub async fn consume<F>(
    ctx: &Context,
    options: SubscribeOptions,
    ownership: Option<Arc<Ownership>>,
    gate: Option<watch::Receiver<Gate>>,
    dispatch: F,
) -> Result<(), BusError>
where
    F: FnMut(Inbound) + Send,
{
    let name = format!("{} consumer", ctx.service);
    let consuming = consume_until_shutdown(ctx, options, ownership, gate, dispatch);
    ctx.tasks.liveness().follow(name, LOOP_BOUND, consuming).await
}

async fn consume_until_shutdown<F>(
    ctx: &Context,
    options: SubscribeOptions,
    ownership: Option<Arc<Ownership>>,
    gate: Option<watch::Receiver<Gate>>,
    mut dispatch: F,
) -> Result<(), BusError>
where
    F: FnMut(Inbound) + Send,
{
    for topic in &options.topics {
        // There from the start: a counter that appears with its first 1 has no increase that an alert could see.
        ["done", "dead_letter", "returned"]
            .into_iter()
            .for_each(|outcome| ctx.metrics.count(&INPUTS, [ctx.service, topic.name(), outcome], 0));
    }
    consume_records(ctx, None, options, ownership, gate, |delivery| decode(ctx, delivery, &mut dispatch)).await
}

/// The same for a topic that is not ours: its records come as they are.
pub async fn consume_foreign<F>(
    ctx: &Context,
    topic: &str,
    options: SubscribeOptions,
    dispatch: F,
) -> Result<(), BusError>
where
    F: FnMut(Delivery) + Send,
{
    let name = format!("{} consumer of {topic}", ctx.service);
    let consuming = consume_records(ctx, Some(topic), options, None, None, dispatch);
    ctx.tasks.liveness().follow(name, LOOP_BOUND, consuming).await
}

async fn consume_records<F>(
    ctx: &Context,
    foreign: Option<&str>,
    options: SubscribeOptions,
    ownership: Option<Arc<Ownership>>,
    gate: Option<watch::Receiver<Gate>>,
    mut dispatch: F,
) -> Result<(), BusError>
where
    F: FnMut(Delivery) + Send,
{
    let mut gate = gate.unwrap_or_else(|| watch::Sender::new(Gate::Open).subscribe());
    while !ctx.shutdown.is_cancelled() {
        if !wait_until_not_left(ctx, &mut gate).await {
            break;
        }
        let Some(subscription) = join(ctx, foreign, &options).await? else { break };
        let is_foreign = foreign.is_some();
        let member =
            Member { ctx, ownership: ownership.as_deref(), subscription, partitions: BTreeSet::new(), is_foreign };
        member.run(&mut gate, &mut dispatch).await;
        if let Some(ownership) = &ownership {
            ownership.clear();
        }
    }
    Ok(())
}

/// False on shutdown.
async fn wait_until_not_left(ctx: &Context, gate: &mut watch::Receiver<Gate>) -> bool {
    tokio::select! {
        () = ctx.shutdown.cancelled() => false,
        // A gate whose sender is gone stays as it is, which is open for a service without one.
        _ = waiting(gate.wait_for(|gate| *gate != Gate::Left)) => true,
    }
}

/// None on shutdown.
async fn join(
    ctx: &Context,
    foreign: Option<&str>,
    options: &SubscribeOptions,
) -> Result<Option<Subscription>, BusError> {
    let mut retry = 0;
    if foreign.is_none() {
        ctx.health.not_ready(PARTITIONS, format!("consumer group {} has not been joined yet", options.group));
    }
    loop {
        let joined = match foreign {
            Some(topic) => ctx.bus.subscribe_foreign(topic, options.clone()).await,
            None => ctx.bus.subscribe(options.clone()).await,
        };
        match joined {
            Ok(subscription) => {
                ctx.health.ready("bus");
                return Ok(Some(subscription));
            }
            Err(error) if error.is_transient() => {
                ctx.health.not_ready("bus", error.to_string());
                ctx.metrics.count(&RETRIES, [ctx.service, "log"], 1);
                let wait = ctx.random.up_to(exponential(BACKOFF_INITIAL, BACKOFF_MAX, retry));
                retry += 1;
                tokio::select! {
                    () = ctx.shutdown.cancelled() => return Ok(None),
                    () = tokio::time::sleep(wait) => {}
                }
            }
            Err(error) => return Err(error),
        }
    }
}

struct Member<'a> {
    ctx: &'a Context,
    ownership: Option<&'a Ownership>,
    subscription: Subscription,
    partitions: BTreeSet<TopicPartition>,
    /// Of a topic that is not ours: the service is ready without it.
    is_foreign: bool,
}

impl Member<'_> {
    /// Until shutdown, the group is to be left, or the log ends the membership.
    async fn run<F: FnMut(Delivery) + Send>(mut self, gate: &mut watch::Receiver<Gate>, dispatch: &mut F) {
        let mut gate_has_sender = true;
        loop {
            match *gate.borrow_and_update() {
                Gate::Open => self.subscription.resume(),
                Gate::Paused => self.subscription.pause(),
                Gate::Left => break,
            }
            tokio::select! {
                () = self.ctx.shutdown.cancelled() => break,
                changed = gate.changed(), if gate_has_sender => gate_has_sender = changed.is_ok(),
                event = waiting(self.subscription.next()) => match event {
                    Some(event) => self.handle(event, dispatch),
                    None => return,
                },
            }
        }
        self.leave().await;
    }

    fn handle<F: FnMut(Delivery)>(&mut self, event: SubscriptionEvent, dispatch: &mut F) {
        if let Some(ownership) = self.ownership {
            ownership.apply(&event);
        }
        match event {
            SubscriptionEvent::Assigned(partitions) => {
                tracing::debug!(?partitions, "Partitions assigned.");
                self.partitions.extend(partitions);
                self.tell_of_partitions();
            }
            SubscriptionEvent::Revoked(partitions) => {
                tracing::debug!(?partitions, "Partitions revoked.");
                self.partitions.retain(|at| !partitions.contains(at));
                self.tell_of_partitions();
            }
            SubscriptionEvent::Message(delivery) => dispatch(delivery),
        }
    }

    /// One without any waits for the others, and is ready to take over.
    fn tell_of_partitions(&self) {
        if self.is_foreign {
            return;
        }
        self.ctx.health.ready_with(PARTITIONS, format!("{} partitions", self.partitions.len()));
    }

    /// Takes nothing new, gives what was begun time to end, stores its offsets.
    async fn leave(self) {
        self.subscription.pause();
        let drained = async {
            while self.subscription.held() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if self.ctx.shutdown.is_cancelled() {
            // The supervisor says how long.
            drained.await;
        } else if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
            tracing::warn!(open = self.subscription.held(), "Work was not finished in time; its events come again.");
        }
        self.subscription.leave().await;
    }
}

/// Counts an event and the time that its service needs for it.
fn measured(ctx: &Context, topic: Topic, traceparent: Option<String>, ack: Ack) -> Ack {
    let (service, metrics, began) = (ctx.service, ctx.metrics.clone(), Instant::now());
    metrics.gauge(&INPUTS_IN_FLIGHT, [service]).inc();
    ack.watched(move |ending| {
        metrics.gauge(&INPUTS_IN_FLIGHT, [service]).dec();
        let outcome = match ending {
            Ending::Done => "done",
            Ending::Buried => "dead_letter",
            Ending::Returned => "returned",
        };
        metrics.count(&INPUTS, [service, topic.name(), outcome], 1);
        if ending == Ending::Done {
            reached(Point::RecordDone, topic.name());
            metrics.observe_traced(&INPUT_DURATION, [service, topic.name()], began.elapsed(), traceparent.as_deref());
        }
    })
}

/// Hands over what can be read, and buries what cannot.
fn decode(ctx: &Context, delivery: Delivery, dispatch: &mut impl FnMut(Inbound)) {
    match delivery.record.decode() {
        Ok(mut event) => {
            let Delivery { record, at, offset, timestamp, ack } = delivery;
            reached(Point::RecordRead, at.topic.name());
            let (processing, ack) = ctx.tracer.process(ctx.service, &event, ack, &ctx.clock);
            event.traceparent = Some(processing.context.to_string());
            let ack = measured(ctx, at.topic, event.traceparent.clone(), ack);
            dispatch(Inbound { event, record, at, offset, timestamp, ack, processing });
        }
        Err(error) => {
            let letter = delivery.record.to_dead_letter(error.reason(), error.to_string(), delivery.origin());
            bury(ctx, letter, measured(ctx, delivery.at.topic, None, delivery.ack));
        }
    }
}

/// Publishes a dead letter in a task of its own, and acknowledges its record then.
pub fn bury(ctx: &Context, letter: DeadLetter, ack: Ack) {
    bury_after(ctx, None, letter, ack);
}

/// The same, after an event that tells those who wait for what the record asked for.
pub fn bury_and_tell(ctx: &Context, letter: DeadLetter, event: Event, ack: Ack) {
    let encoded = event.encode().inspect_err(|error| {
        tracing::error!(%error, id = %event.id, "An event could not be written as JSON; its dead letter remains.");
    });
    bury_after(ctx, encoded.ok(), letter, ack);
}

fn bury_after(ctx: &Context, first: Option<Record>, letter: DeadLetter, ack: Ack) {
    let task_ctx = ctx.clone();
    ctx.tasks.spawn_infallible("dead-letter", async move {
        if let Some(record) = first
            && !publish_until_acknowledged(&task_ctx, vec![record]).await
        {
            return;
        }
        if publish_dead_letter(&task_ctx, letter).await {
            ack.buried();
        }
    });
}

/// Publishes a dead letter and waits until the log has it. False only on shutdown: then the record must not be acknowledged.
pub async fn publish_dead_letter(ctx: &Context, letter: DeadLetter) -> bool {
    match dead_letter_record(ctx, letter) {
        Some(record) => publish_until_acknowledged(ctx, vec![record]).await,
        None => true,
    }
}

fn dead_letter_record(ctx: &Context, letter: DeadLetter) -> Option<Record> {
    tracing::warn!(origin = letter.origin, reason = ?letter.reason, message = letter.message, "Dead letter.");
    ctx.metrics.count(&DEAD_LETTERS, [reason_label(letter.reason)], 1);
    let encoded = dead_letter_event(ctx, letter).encode();
    encoded
        .inspect_err(|error| {
            tracing::error!(%error, "A dead letter could not be written as JSON; only this line remains of it.")
        })
        .ok()
}

/// What is published in place of a record that the log refuses for good, so that it neither is lost nor holds up the others: its
/// dead letter, and in place of a letter one without the original's bytes. None when that is refused too: it is tried again until
/// somebody has repaired the topic, and the readiness says so.
fn in_place_of(ctx: &Context, record: &Record, problem: &str) -> Option<Record> {
    let event = record.decode().ok();
    let id = event.as_ref().map_or_else(|| "?".to_owned(), |event| event.id.to_string());
    let Some(Event { payload: Payload::DeadLetter(mut letter), .. }) = event else {
        tracing::error!(problem, topic = %record.topic, id, "The log refuses a record for good.");
        let origin = format!("{} {id} of {}", record.topic, ctx.source());
        return dead_letter_record(ctx, record.to_dead_letter(DeadLetterReason::Refused, problem.to_owned(), origin));
    };
    if letter.data.is_empty() && letter.headers.is_empty() {
        return None;
    }
    tracing::error!(problem, id, "The log refuses a dead letter; it is written without the original's bytes.");
    (letter.data, letter.truncated) = (String::new(), true);
    letter.headers.clear();
    dead_letter_record(ctx, *letter)
}

/// Publishes and retries until every record is acknowledged. In place of a record that the log refuses for good its dead letter is
/// published. False only on shutdown.
pub async fn publish_until_acknowledged(ctx: &Context, records: Vec<Record>) -> bool {
    let mut retry = 0;
    let mut records = records;
    loop {
        records.iter().for_each(|record| reached(Point::BeforePublish, record.topic.name()));
        let problem = match ctx.bus.publish(records.clone()).await {
            Ok(()) => {
                records.iter().for_each(|record| reached(Point::Published, record.topic.name()));
                ctx.health.ready("bus");
                let now = ctx.clock.now();
                records.iter().for_each(|record| ctx.tracer.produced(record, now));
                return true;
            }
            Err(BusError::Refused(problem)) if records.len() == 1 => match in_place_of(ctx, &records[0], &problem) {
                Some(letter) => {
                    records = vec![letter];
                    continue;
                }
                None => format!("topic {} refuses even the smallest record: {problem}", records[0].topic),
            },
            Err(BusError::Refused(_)) => {
                // One of several: find it by publishing them one by one.
                let rest = records.split_off(1);
                if !Box::pin(publish_until_acknowledged(ctx, records)).await {
                    return false;
                }
                records = rest;
                continue;
            }
            Err(error) => error.to_string(),
        };
        ctx.health.not_ready("bus", problem);
        ctx.metrics.count(&RETRIES, [ctx.service, "log"], 1);
        if !pause_before_retry(ctx, &ctx.random, retry).await {
            return false;
        }
        retry += 1;
    }
}

/// False when the process is to stop, after the drain's time.
async fn pause_before_retry(ctx: &Context, random: &Random, retry: u32) -> bool {
    let wait = random.up_to(exponential(BACKOFF_INITIAL, BACKOFF_MAX, retry));
    if ctx.shutdown.is_cancelled() {
        return false;
    }
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        // Once more, at once.
        () = ctx.shutdown.cancelled() => {}
    }
    true
}

fn dead_letter_event(ctx: &Context, letter: DeadLetter) -> Event {
    Event {
        id: EventId::new(
            Topic::DeadLetter.name(),
            &letter.origin,
            &format!("{:?}{}{}", letter.reason, letter.message, letter.data),
        ),
        time: ctx.clock.now(),
        source: ctx.source(),
        subject: letter.origin.clone(),
        key: letter.key.clone().unwrap_or_else(|| letter.origin.clone()),
        traceparent: None,
        payload: letter.into(),
    }
}

/// A reason as metrics have it.
pub fn reason_label(reason: DeadLetterReason) -> &'static str {
    match reason {
        DeadLetterReason::InvalidHeaders => "invalid_headers",
        DeadLetterReason::InvalidData => "invalid_data",
        DeadLetterReason::UnknownType => "unknown_type",
        DeadLetterReason::InvalidAlert => "invalid_alert",
        DeadLetterReason::Refused => "refused",
    }
}
