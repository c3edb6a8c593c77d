//! The log on Apache Kafka, by librdkafka.
//!
//! In: records, each acknowledged by all in-sync replicas before `publish` returns. Out: deliveries, by consumers that are
//! polled on threads of their own. The topics are created or checked first; while the brokers are away everything waits, says
//! so in the health, and goes on by itself.

mod connection;
pub(super) mod history;
mod member;
pub(super) mod offsets;
mod positions;
mod producer;
mod record;
mod topics;
mod watch;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use rdkafka::producer::BaseProducer;
use tokio::sync::{Notify, watch as tokio_watch};
use tokio_util::sync::CancellationToken;

use self::{
    connection::{Connection, LogContext},
    member::{Ended, Member, Shared},
    producer::Producer,
    topics::{NotReady, Partitions},
    watch::Asker,
};
use super::{
    Bus, BusError, DeliveryQueue, KafkaConfig, Membership, SubscribeOptions, Subscription,
    faults::{self, Faults},
};
use crate::{
    events::{Record, Topic},
    runtime::{Liveness, Metrics},
};

/// How long the first contact may take before the bus goes on without.
const FIRST_CONTACT: Duration = Duration::from_secs(5);
/// How long a call waits for topics that are not ready.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
const PREPARE_RETRY: Duration = Duration::from_secs(1);
/// How long until topics that a person has to repair are looked at again.
const REFUSED_RETRY: Duration = Duration::from_secs(30);
/// How long leaving may take; a consumer that takes longer ends by its session timeout.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(15);
/// How often the brokers are asked whether they are there.
const HEALTH_INTERVAL: Duration = Duration::from_secs(2);

/// Settings of the adapter itself.
#[derive(Clone, Debug)]
pub struct KafkaOptions {
    /// How often a member compares what it has with what the brokers have. A consumer that does not move from one time to the
    /// next, although records wait, is made anew.
    pub watch_interval: Duration,
    /// Whether the threads of consumers and producer go on.
    pub liveness: Liveness,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self { watch_interval: Duration::from_secs(5), liveness: Liveness::default() }
    }
}

/// The log on Kafka.
pub struct KafkaBus {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Connection,
    options: KafkaOptions,
    metrics: Metrics,
    producer: Producer,
    asker: Asker,
    topics: tokio_watch::Sender<Topics>,
    members: Mutex<Vec<Weak<Shared>>>,
    /// What is wrong with topics that are not ours.
    foreign_faults: Faults,
    closed: CancellationToken,
}

#[derive(Clone)]
enum Topics {
    Waiting(String),
    Ready(Arc<Partitions>),
    Refused(BusError),
}

impl KafkaBus {
    /// Creates or checks the topics. Fails for what a person has to change; goes on without brokers that cannot be reached, and
    /// prepares the topics when they can.
    pub async fn open(config: KafkaConfig, metrics: Metrics, options: KafkaOptions) -> Result<Self, BusError> {
        let connection = Connection::new(config)?;
        let producer = Producer::new(connection.clone(), options.liveness.clone())?;
        let asker = Asker::new(&connection).map_err(|error| BusError::Open(connection.describe(&error)))?;
        let inner = Arc::new(Inner {
            connection,
            options,
            metrics,
            producer,
            asker,
            topics: tokio_watch::Sender::new(Topics::Waiting("the brokers have not answered yet".into())),
            members: Mutex::default(),
            foreign_faults: Faults::default(),
            closed: CancellationToken::new(),
        });
        let faults = inner.connection.faults.clone();
        let preparing = prepare(Arc::downgrade(&inner), inner.connection.clone(), inner.closed.clone());
        tokio::spawn(faults.clone().guard("topics".into(), preparing));
        let watching = watch_health(Arc::downgrade(&inner), inner.closed.clone());
        tokio::spawn(faults.guard("health".into(), watching));
        let mut topics = inner.topics.subscribe();
        let known = async { topics.wait_for(|topics| !matches!(topics, Topics::Waiting(_))).await.map(drop) };
        // An error says that it takes longer; it goes on meanwhile.
        let _ = tokio::time::timeout(FIRST_CONTACT, known).await;
        match &*inner.topics.borrow() {
            Topics::Refused(error) => return Err(error.clone()),
            Topics::Waiting(reason) => {
                tracing::warn!(reason, "The topics are not ready; going on as soon as they are.")
            }
            Topics::Ready(_) => {}
        }
        Ok(Self { inner })
    }

    /// For the contract suite: consumers that live now are not heard any more from their next record on.
    pub fn suppress_next_wakeup(&self) {
        self.inner.living().iter().for_each(|member| member.deafen.store(true, Ordering::SeqCst));
    }
}

/// Whether librdkafka takes these settings, without asking any broker. Gives what is wrong, without values.
pub fn check_settings(config: &KafkaConfig) -> Result<(), String> {
    let connection = match Connection::new(config.clone()) {
        Ok(connection) => connection,
        Err(BusError::Open(problem)) => return Err(problem),
        Err(error) => return Err(error.to_string()),
    };
    for client in [connection.client(), connection.producer(), connection.consumer("any")] {
        client.create_native_config().map_err(|error| connection.describe(&error))?;
    }
    Ok(())
}

/// Whether librdkafka makes a client of them, which loads certificates and keys. There is no broker that it could ask. Gives what is
/// wrong, without secrets.
pub fn check_client(config: &KafkaConfig) -> Result<(), String> {
    let connection = Connection::new(config.clone()).map_err(|error| error.to_string())?;
    let mut settings = connection.producer();
    settings.remove("bootstrap.servers");
    let client: Result<BaseProducer<LogContext>, _> = settings.create_with_context(connection.context());
    client.map(drop).map_err(|error| connection.describe(&error))
}

/// See [`super::beside::publish`].
pub(super) async fn publish_beside(config: KafkaConfig, records: Vec<Record>) -> Result<(), BusError> {
    let topics: BTreeSet<Topic> = records.iter().map(|record| record.topic).collect();
    let producer = Producer::new(Connection::new(config.clone())?, Liveness::default())?;
    let asked = tokio::task::spawn_blocking(move || history::partitions_of(&config, &topics)).await;
    let partitions = asked.unwrap_or_else(|error| Err(BusError::Open(error.to_string())))?;
    producer.publish(records, &partitions).await
}

/// Until the topics are ready. Refused ones are looked at again: whoever goes on without them, as ingest does, is not to wait for its next
/// start when somebody has repaired them.
async fn prepare(inner: Weak<Inner>, connection: Connection, closed: CancellationToken) {
    let mut said = None;
    loop {
        let result = tokio::select! {
            () = closed.cancelled() => return,
            result = topics::prepare(&connection) => result,
        };
        let Some(inner) = inner.upgrade() else { return };
        let (state, again) = match result {
            Ok(partitions) => (Topics::Ready(Arc::new(partitions)), None),
            Err(NotReady::Never(error)) => {
                let problem = Some(error.to_string());
                if std::mem::replace(&mut said, problem.clone()) != problem {
                    tracing::error!(%error, "The topics cannot be used.");
                }
                (Topics::Refused(error), Some(REFUSED_RETRY))
            }
            Err(NotReady::Later(reason)) => {
                connection.health.down(reason.clone());
                (Topics::Waiting(reason), Some(PREPARE_RETRY))
            }
        };
        inner.topics.send_replace(state);
        drop(inner);
        let Some(again) = again else { return };
        tokio::time::sleep(again).await;
    }
}

/// librdkafka says when all brokers are gone, and not when one is back.
async fn watch_health(inner: Weak<Inner>, closed: CancellationToken) {
    loop {
        tokio::select! {
            () = closed.cancelled() => return,
            () = tokio::time::sleep(HEALTH_INTERVAL) => {}
        }
        let Some(inner) = inner.upgrade() else { return };
        match inner.producer.ask_brokers().await {
            Ok(()) => inner.connection.health.up(),
            Err(reason) => inner.connection.health.down(reason),
        }
    }
}

impl Inner {
    fn living(&self) -> Vec<Arc<Shared>> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|member| member.strong_count() > 0);
        members.iter().filter_map(Weak::upgrade).collect()
    }

    /// The topics, when they are ready; the reason, when they are not after a while.
    async fn ready(&self, not_yet: fn(String) -> BusError) -> Result<Arc<Partitions>, BusError> {
        let mut topics = self.topics.subscribe();
        let settled = async {
            match topics.wait_for(|topics| !matches!(topics, Topics::Waiting(_))).await.as_deref() {
                Ok(Topics::Ready(partitions)) => Ok(Arc::clone(partitions)),
                Ok(Topics::Refused(error)) => Err(error.clone()),
                Ok(Topics::Waiting(_)) | Err(_) => Err(BusError::Closed),
            }
        };
        tokio::select! {
            () = self.closed.cancelled() => Err(BusError::Closed),
            settled = tokio::time::timeout(READY_TIMEOUT, settled) => settled.unwrap_or_else(|_| match &*self.topics.borrow() {
                Topics::Waiting(reason) => Err(not_yet(reason.clone())),
                Topics::Ready(partitions) => Ok(Arc::clone(partitions)),
                Topics::Refused(error) => Err(error.clone()),
            }),
        }
    }

    async fn join(&self, options: SubscribeOptions, connection: Connection) -> Result<Subscription, BusError> {
        self.ready(BusError::Subscribe).await?;
        let queue = DeliveryQueue::new(options.max_in_flight, Arc::new(Notify::new()));
        let shared = Arc::new(Shared {
            group: options.group,
            queue: Arc::clone(&queue),
            leave: self.closed.child_token(),
            ended: CancellationToken::new(),
            deafen: AtomicBool::new(false),
            faults: connection.faults.clone(),
            metrics: self.metrics.clone(),
            watch_interval: self.options.watch_interval,
            liveness: self.options.liveness.clone(),
        });
        let asker = self.asker.clone();
        let member = Member::new(Arc::clone(&shared), connection, asker, options.topics, options.max_in_flight);
        let ended = Ended(Arc::clone(&shared));
        // Not a task: librdkafka's calls block.
        std::thread::Builder::new()
            .name(format!("kafka-{}", shared.group))
            .spawn(move || {
                let _ended = ended;
                member.run();
            })
            .map_err(|error| BusError::Subscribe(error.to_string()))?;
        self.members.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&shared));
        Ok(Subscription::new(queue, Arc::new(KafkaMembership(shared))))
    }
}

#[async_trait]
impl Bus for KafkaBus {
    async fn publish(&self, records: Vec<Record>) -> Result<(), BusError> {
        let partitions = self.inner.ready(BusError::Publish).await?;
        self.inner.producer.publish(records, &partitions).await
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription, BusError> {
        self.inner.join(options, self.inner.connection.clone()).await
    }

    async fn subscribe_foreign(&self, topic: &str, options: SubscribeOptions) -> Result<Subscription, BusError> {
        let connection = self.inner.connection.to_foreign(topic, self.inner.foreign_faults.clone());
        let options = SubscribeOptions { topics: vec![Topic::AlertRaised], ..options };
        self.inner.join(options, connection).await
    }

    fn foreign_health(&self) -> Result<(), String> {
        self.inner.foreign_faults.check()
    }

    fn partitions(&self, topic: Topic) -> u32 {
        match &*self.inner.topics.borrow() {
            Topics::Ready(partitions) => partitions.get(&topic).copied().unwrap_or(1),
            _ => self.inner.connection.config.partitions.max(1),
        }
    }

    fn health(&self) -> Result<(), String> {
        match &*self.inner.topics.borrow() {
            _ if self.inner.closed.is_cancelled() => Err(BusError::Closed.to_string()),
            Topics::Waiting(reason) => Err(reason.clone()),
            Topics::Refused(error) => Err(error.to_string()),
            Topics::Ready(_) => {
                self.inner.connection.health.check().and_then(|()| self.inner.connection.faults.check())
            }
        }
    }

    async fn failed(&self) -> String {
        self.inner.connection.faults.panicked().await
    }

    fn can_read(&self, group: &str) -> bool {
        let connection = &self.inner.connection;
        !self.inner.closed.is_cancelled()
            && matches!(&*self.inner.topics.borrow(), Topics::Ready(_))
            && connection.health.check().is_ok()
            && !connection.faults.is_set(&faults::consumer(group))
    }

    fn is_local(&self) -> bool {
        false
    }

    async fn close(&self, timeout: Duration) {
        let ending = async {
            self.inner.producer.flush(timeout).await;
            self.inner.closed.cancel();
            for member in self.inner.living() {
                member.ended.cancelled().await;
            }
        };
        if tokio::time::timeout(timeout, ending).await.is_err() {
            self.inner.closed.cancel();
            tracing::warn!("The log was not closed in time; what was not acknowledged comes again.");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

struct KafkaMembership(Arc<Shared>);

#[async_trait]
impl Membership for KafkaMembership {
    async fn leave(&self) {
        self.0.leave.cancel();
        if tokio::time::timeout(LEAVE_TIMEOUT, self.0.ended.cancelled()).await.is_err() {
            tracing::warn!(
                group = self.0.group,
                "The group was not left in time; the brokers notice it by themselves."
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_no_client_can_be_made_of_are_told_without_their_secrets() {
        let problem = |extra: &[(&str, &str)]| {
            let mut config = KafkaConfig::new("127.0.0.1:1");
            config.extra = extra.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            assert_eq!(check_settings(&config), Ok(()), "each by itself is one");
            check_client(&config)
        };
        assert_eq!(problem(&[]), Ok(()));
        assert_eq!(problem(&[("security.protocol", "SSL")]), Ok(()));
        let plain = [("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanism", "PLAIN")];
        assert_eq!(problem(&[&plain[..], &[("sasl.username", "a"), ("sasl.password", "b")]].concat()), Ok(()));
        for (extra, says) in [
            (&[("security.protocol", "SSL"), ("ssl.ca.location", "/nonexistent/ca.pem")][..], "ssl.ca.location"),
            (&[("security.protocol", "SSL"), ("ssl.key.pem", "hunter2")], "ssl.key.pem"),
            (&plain, "sasl.username"),
            (&[("security.protocol", "SASL_SSL"), ("sasl.mechanism", "nonsense")], "Unsupported SASL mechanism"),
        ] {
            let problem = problem(extra).unwrap_err();
            assert!(problem.contains(says) && problem.lines().count() == 1, "{extra:?}: {problem}");
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }
}
