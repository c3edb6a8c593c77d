//! The log as one replica has it: the log of all in memory, over a network that fails.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use eventpulse::{
    bus::{Bus, BusError, SubscribeOptions, Subscription},
    events::{HEADER_ID, HEADER_SUBJECT, Record, Topic},
};
use eventpulse_oracle as oracle;
use serde_json::Value;
use tokio::time::sleep;

use crate::{
    coverage::Fault,
    gate::Gate,
    world::{Moment, World},
};

/// How long a producer tries while the broker is away.
const PATIENCE: Duration = Duration::from_secs(5);

/// A replica's memberships: group and member.
pub(crate) type Members = Arc<Mutex<Vec<(String, u64)>>>;

/// See the module's text.
pub(crate) struct LogPort {
    pub world: Arc<World>,
    pub gate: Gate,
    pub who: Arc<str>,
    pub members: Members,
}

/// Puts records on the log, and tells the oracle.
pub(crate) async fn append(world: &World, who: &str, records: Vec<Record>) -> Result<(), BusError> {
    for record in &records {
        let id = header(record, HEADER_ID);
        let of = header(record, HEADER_SUBJECT).unwrap_or_default();
        world.timeline.note(who, format_args!("  {} {} of {of}", record.topic, id.as_deref().unwrap_or("?")));
        let data = serde_json::from_slice(&record.value).unwrap_or(Value::Null);
        world.published().push(oracle::Record { topic: record.topic.to_string(), at: world.time.now(), id, data });
    }
    world.log.publish(records).await
}

fn header(record: &Record, header: &str) -> Option<String> {
    let (_, value) = record.headers.iter().find(|(name, _)| name == header)?;
    String::from_utf8(value.to_vec()).ok()
}

impl LogPort {
    fn is_away(&self) -> bool {
        self.world.broker_is_away.load(Ordering::SeqCst)
    }

    fn lost(&self, fault: Fault) -> BusError {
        self.world.reached(fault);
        self.world.timeline.note(&self.who, format_args!("publish: {}", fault.text()));
        BusError::Publish(format!("{} (a fault of the simulator)", fault.text()))
    }

    async fn deliver(&self, records: Vec<Record>) -> Result<(), BusError> {
        let world = &self.world;
        if !world.chance.permille(world.rates().publish) {
            return append(world, &self.who, records).await;
        }
        match world.chance.below(4) {
            0 => Err(self.lost(Fault::PublishRefused)),
            1 if records.len() > 1 => {
                let part = records[..records.len() / 2].to_vec();
                append(world, &self.who, part).await?;
                Err(self.lost(Fault::PublishInPart))
            }
            2 => {
                append(world, &self.who, records).await?;
                Err(self.lost(Fault::AcknowledgementLost))
            }
            _ => {
                world.reached(Fault::PublishedTwice);
                append(world, &self.who, records.clone()).await?;
                append(world, &self.who, records).await
            }
        }
    }
}

#[async_trait]
impl Bus for LogPort {
    async fn publish(&self, records: Vec<Record>) -> Result<(), BusError> {
        self.gate.pass().await;
        let crash = self.world.effect();
        if crash == Some(Moment::Before) {
            self.world.crash(&self.gate, &self.who, Fault::CrashBeforePublish);
            self.gate.pass().await;
        }
        sleep(self.world.hop()).await;
        if self.is_away() {
            sleep(PATIENCE).await;
            if self.is_away() {
                return Err(BusError::Publish("the broker is away (a fault of the simulator)".into()));
            }
        }
        self.gate.pass().await;
        let delivered = self.deliver(records).await;
        if crash == Some(Moment::After) {
            self.world.crash(&self.gate, &self.who, Fault::CrashAfterPublish);
        }
        sleep(self.world.hop()).await;
        self.gate.pass().await;
        delivered
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription, BusError> {
        self.gate.pass().await;
        sleep(self.world.hop()).await;
        self.gate.pass().await;
        if self.is_away() {
            return Err(BusError::Subscribe("the broker is away (a fault of the simulator)".into()));
        }
        let group = options.group.clone();
        let subscription = self.world.log.subscribe(options).await?;
        if let Some(member) = self.world.log.members(&group).last() {
            self.members.lock().unwrap_or_else(PoisonError::into_inner).push((group, *member));
        }
        Ok(subscription)
    }

    fn partitions(&self, topic: Topic) -> u32 {
        self.world.log.partitions(topic)
    }

    fn health(&self) -> Result<(), String> {
        if self.is_away() { Err("the broker is away".into()) } else { self.world.log.health() }
    }

    fn can_read(&self, group: &str) -> bool {
        !self.is_away() && self.world.log.can_read(group)
    }

    fn is_local(&self) -> bool {
        // Without an outbox on a disk: what ingest answers is on the log.
        true
    }

    async fn close(&self, _: Duration) {
        // It is the others' log as well.
    }
}
