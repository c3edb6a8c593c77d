//! Alerts of producers that are not ours, from a topic of theirs (`--alerts-topic`).
//!
//! The topic itself is what keeps them until they are on the log: a record's offset is stored when the log has acknowledged all that
//! it holds (promise 1). A record that comes again, after a crash, becomes the same events: what they say of a time is when the
//! record was written, and never the clock's (promise 5). What cannot be read becomes a dead letter and holds up nothing.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    http::{count_alerts, count_letters, letter_event},
    normalise::{Batch, ForeignRecord, Senders, normalise_record},
    said::Said,
};
use crate::{
    bus::{BusError, Delivery, SubscribeOptions},
    events::{DeadLetterReason, Event, HEADER_TRACEPARENT, TraceContext},
    runtime::{
        Context, Handler, Mailboxes,
        consume::{consume_foreign, publish_until_acknowledged},
        telemetry::{Span, SpanKind},
    },
};

/// The consumer group of all replicas.
const GROUP: &str = "ingest-alerts";
/// The most records of one partition that are worked on at once.
const IN_FLIGHT: usize = 256;
/// Partitions that are worked on at once.
const CONCURRENCY: usize = 16;
/// How many events are published together; a record's own are never parted.
const TOGETHER: usize = 1_000;
/// How often it is looked whether the topic can be read.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Reads the topic until shutdown. Fails only for a reason that waiting does not mend.
pub(super) async fn run(ctx: Context, reader: Reader) -> Result<(), BusError> {
    let topic = reader.topic.clone();
    ctx.tasks.spawn_loop("ingest-topic-health", follow_health(ctx.clone(), topic.clone()));
    let mailboxes = Mailboxes::new(&ctx, "ingest-topic-partition", CONCURRENCY, Arc::new(reader));
    let options = SubscribeOptions { group: GROUP.into(), topics: Vec::new(), max_in_flight: IN_FLIGHT };
    consume_foreign(&ctx, &topic, options, |delivery| mailboxes.send(delivery.at.partition, delivery)).await
}

/// A topic of others that is missing makes nobody unready: without this process there would be no alerts over HTTP either.
async fn follow_health(ctx: Context, topic: String) {
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    let mut told = None;
    loop {
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            _ = look.tick() => {}
        }
        let trouble = ctx.bus.foreign_health().err().map(|reason| {
            format!("--alerts-topic {topic}: {reason}; it is read as soon as it is there and may be read, and is not created")
        });
        if told != trouble {
            match &trouble {
                Some(trouble) => tracing::warn!(trouble, "Alerts are not taken from the topic."),
                None => tracing::info!(topic, "Alerts are taken from the topic."),
            }
            ctx.health.trouble("alerts-topic", trouble.clone());
            told = trouble;
        }
    }
}

/// What becomes of the records, one partition at a time.
pub(super) struct Reader {
    ctx: Context,
    topic: String,
    webhook_source: String,
    alerts_source: String,
    rejected: Said,
}

impl Reader {
    /// The sources are those of ingest's endpoints.
    pub fn new(ctx: &Context, topic: String, webhook_source: String, alerts_source: String) -> Self {
        Self { ctx: ctx.clone(), topic, webhook_source, alerts_source, rejected: Said::default() }
    }

    fn read(&self, delivery: &Delivery) -> Batch {
        let origin = format!("{}/{}@{}", self.topic, delivery.at.partition, delivery.offset);
        let traceparent = delivery.record.headers.iter().rev().find(|(name, _)| name == HEADER_TRACEPARENT);
        let traceparent = traceparent.and_then(|(_, value)| std::str::from_utf8(value).ok());
        let now = self.ctx.clock.now();
        let record = ForeignRecord {
            value: &delivery.record.value,
            origin: &origin,
            // Topics of long ago tell no time, and a clock that is ahead makes nothing younger than now.
            written_at: Some(delivery.timestamp).filter(|at| *at > Timestamp::UNIX_EPOCH).map_or(now, |at| at.min(now)),
        };
        let senders = Senders { webhook: &self.webhook_source, alerts: &self.alerts_source };
        let mut batch = normalise_record(record, senders).unwrap_or_else(|error| {
            let letter =
                delivery.record.to_dead_letter(DeadLetterReason::InvalidData, error.to_string(), origin.clone());
            Batch { accepted: Vec::new(), rejected: vec![letter] }
        });
        let own = self.trace(TraceContext::read(traceparent), &origin, now).to_string();
        batch.accepted.iter_mut().for_each(|event| event.traceparent = Some(own.clone()));
        batch
    }

    /// A record is one trace with its alerts: its producer's, or one that is named after its place, so that it is the same again.
    fn trace(&self, given: Option<TraceContext>, origin: &str, now: Timestamp) -> TraceContext {
        let (own, parent) = self.ctx.tracer.come_in(given, &["record", origin]);
        self.ctx.tracer.record(&own, || {
            let (name, end) = (format!("process {}", self.topic), self.ctx.clock.now());
            Span::new(parent, own, SpanKind::Consumer, name, now, end)
                .with("messaging.operation.type", "process")
                .with("messaging.destination.name", self.topic.clone())
        });
        own
    }

    /// False on shutdown.
    async fn publish(&self, batch: Batch) -> bool {
        let Batch { accepted, rejected } = batch;
        let counts = (accepted.len(), rejected.len());
        if let Some(told) = self.rejected.tell(counts.1) {
            let (origin, first) = rejected.first().map_or(("", ""), |letter| (&letter.origin, &letter.message));
            tracing::warn!(rejected = told, origin, first, "Alerts of the topic were rejected; each is a dead letter.");
        }
        let letters = rejected.iter().map(|letter| letter_event(&self.ctx, letter.clone()));
        let events: Vec<Event> = accepted.into_iter().chain(letters).collect();
        let records = events.iter().filter_map(|event| {
            let encoded = event.encode();
            encoded
                .inspect_err(|error| tracing::error!(%error, id = %event.id, "An alert cannot be written as JSON."))
                .ok()
        });
        if !publish_until_acknowledged(&self.ctx, records.collect()).await {
            return false;
        }
        count_alerts(&self.ctx, counts.0, counts.1);
        count_letters(&self.ctx, &rejected);
        true
    }
}

#[async_trait]
impl Handler<u32, Delivery> for Reader {
    async fn handle(&self, _: &u32, deliveries: Vec<Delivery>) {
        let (mut batch, mut acks) = (Batch::default(), Vec::new());
        let mut deliveries = deliveries.into_iter().peekable();
        while let Some(delivery) = deliveries.next() {
            let read = self.read(&delivery);
            batch.accepted.extend(read.accepted);
            batch.rejected.extend(read.rejected);
            acks.push(delivery.ack);
            if batch.accepted.len() + batch.rejected.len() >= TOGETHER || deliveries.peek().is_none() {
                if !self.publish(std::mem::take(&mut batch)).await {
                    return;
                }
                acks.drain(..).for_each(crate::bus::Ack::done);
            }
        }
    }
}

#[cfg(test)]
#[path = "topic_tests.rs"]
mod tests;
