//! The idempotent producer: acknowledged by all in-sync replicas, record by record.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext},
};
use tokio::sync::oneshot;

use super::{
    connection::{Connection, LogContext},
    record::headers_of,
    topics::Partitions,
};
use crate::{
    bus::{BusError, check_record, partition_of},
    events::Record,
    runtime::{
        Liveness,
        liveness::{Beat, LOOP_BOUND},
    },
};

/// The part that hears acknowledgements: without it nothing is ever known to be written.
const PART: &str = "producer";

/// What became of a record.
type Outcome = Result<(), KafkaError>;

/// How long a full queue is left alone before the next try.
const QUEUE_FULL_RETRY: Duration = Duration::from_millis(5);
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a producer that is not used any more is still listened to. What is acknowledged is heard at once.
const POLL: Duration = Duration::from_secs(5);

/// librdkafka's producer, with a thread that hears its acknowledgements. rdkafka's own `FutureProducer` is listened to for 100 ms at a
/// time, and turns in a circle for what is left of the last millisecond: one hundredth of a processor for nothing.
struct Client {
    producer: Arc<BaseProducer<LogContext>>,
    is_dropped: Arc<AtomicBool>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.is_dropped.store(true, Ordering::Relaxed);
    }
}

impl ProducerContext for LogContext {
    type DeliveryOpaque = Box<oneshot::Sender<Outcome>>;

    fn delivery(&self, result: &DeliveryResult<'_>, waits: Self::DeliveryOpaque) {
        let outcome = result.as_ref().map(drop).map_err(|(error, _)| error.clone());
        // Nobody may wait any more.
        let _ = waits.send(outcome);
    }
}

pub(super) struct Producer {
    connection: Connection,
    liveness: Liveness,
    client: Mutex<Arc<Client>>,
    keyless: AtomicU32,
}

impl Producer {
    /// Fails for settings that librdkafka does not take.
    pub(super) fn new(connection: Connection, liveness: Liveness) -> Result<Self, BusError> {
        let client = create(&connection, &liveness)?;
        Ok(Self { connection, liveness, client: Mutex::new(Arc::new(client)), keyless: AtomicU32::new(0) })
    }

    pub(super) async fn publish(&self, records: Vec<Record>, partitions: &Partitions) -> Result<(), BusError> {
        for record in &records {
            check_record(record)?;
        }
        let client = self.client();
        // All are handed over in their order before the first is waited for, so that they travel together.
        let mut deliveries = Vec::with_capacity(records.len());
        for record in &records {
            deliveries.push(self.send(&client, record, partitions).await?);
        }
        let mut result = Ok(());
        for delivery in deliveries {
            let outcome = match delivery.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(self.failed(&client, &error)),
                Err(_) => Err(BusError::Closed),
            };
            result = result.and(outcome);
        }
        if result.is_ok() {
            self.connection.health.up();
        }
        result
    }

    async fn send(
        &self,
        client: &Arc<Client>,
        record: &Record,
        partitions: &Partitions,
    ) -> Result<oneshot::Receiver<Outcome>, BusError> {
        let topic = self.connection.topic_name(record.topic);
        let count = partitions.get(&record.topic).copied().unwrap_or(1).max(1);
        let partition = match &record.key {
            Some(key) => partition_of(key, count),
            None => self.keyless.fetch_add(1, Ordering::Relaxed) % count,
        };
        loop {
            let (waits, outcome) = oneshot::channel();
            let message = BaseRecord {
                topic: &topic,
                partition: i32::try_from(partition).ok(),
                payload: Some(&record.value[..]),
                key: record.key.as_deref(),
                timestamp: None,
                headers: Some(headers_of(record)),
                delivery_opaque: Box::new(waits),
            };
            match client.producer.send(message) {
                Ok(()) => return Ok(outcome),
                // It empties as records are acknowledged or time out.
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    tokio::time::sleep(QUEUE_FULL_RETRY).await;
                }
                Err((error, _)) => return Err(self.failed(client, &error)),
            }
        }
    }

    fn failed(&self, client: &Arc<Client>, error: &KafkaError) -> BusError {
        let text = self.connection.describe(error);
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::InvalidMessageSize
                | RDKafkaErrorCode::InvalidMessage
                | RDKafkaErrorCode::InvalidRecord,
            ) => return BusError::Refused(text),
            Some(RDKafkaErrorCode::MessageTimedOut) => self.connection.health.down(text.clone()),
            _ => {}
        }
        if client.producer.client().fatal_error().is_some() {
            self.replace(client);
        }
        BusError::Publish(text)
    }

    /// An idempotent producer that lost count of its records takes no more (librdkafka, INTRODUCTION.md, "Idempotent Producer").
    fn replace(&self, broken: &Arc<Client>) {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&client, broken) {
            match create(&self.connection, &self.liveness) {
                Ok(new) => {
                    tracing::warn!("The producer has failed for good; a new one takes its place.");
                    *client = Arc::new(new);
                }
                Err(error) => {
                    tracing::error!(%error, "The producer has failed for good, and a new one cannot be made.")
                }
            }
        }
    }

    /// Whether a broker answers.
    pub(super) async fn ask_brokers(&self) -> Result<(), String> {
        let client = self.client();
        let topic = self.connection.topic_name(crate::events::Topic::AlertRaised);
        let asked =
            tokio::task::spawn_blocking(move || client.producer.client().fetch_metadata(Some(&topic), ASK_TIMEOUT))
                .await;
        match asked {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.connection.describe(&error)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits for what was handed over.
    pub(super) async fn flush(&self, timeout: Duration) {
        let client = self.client();
        // A panic there has no answer either.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || client.producer.flush(timeout)).await {
            tracing::warn!(%error, "Not everything was acknowledged in time.");
        }
    }

    fn client(&self) -> Arc<Client> {
        Arc::clone(&self.client.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn create(connection: &Connection, liveness: &Liveness) -> Result<Client, BusError> {
    let created = connection.producer().create_with_context(connection.context());
    let producer: BaseProducer<_> = created.map_err(|error| BusError::Open(connection.describe(&error)))?;
    let client = Client { producer: Arc::new(producer), is_dropped: Arc::default() };
    let (producer, is_dropped) = (Arc::clone(&client.producer), Arc::clone(&client.is_dropped));
    let (guard, beat) = (connection.faults.clone().guard_thread(PART), liveness.beat("kafka producer", LOOP_BOUND));
    std::thread::Builder::new()
        .name("kafka-producer".into())
        .spawn(move || {
            let _guard = guard;
            hear(&beat, &is_dropped, || producer.poll(POLL));
        })
        .map_err(|error| BusError::Open(error.to_string()))?;
    Ok(client)
}

/// The thread: hears what is acknowledged, until nobody uses the producer any more.
fn hear(beat: &Beat, is_dropped: &AtomicBool, mut poll: impl FnMut()) {
    while !is_dropped.load(Ordering::Relaxed) {
        beat.moves();
        poll();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bus::KafkaConfig, runtime::liveness::LOOK_INTERVAL};

    #[test]
    fn the_thread_moves_with_every_round_and_one_that_hangs_is_stuck() {
        let (liveness, is_dropped) = (Liveness::default(), AtomicBool::new(false));
        let beat = liveness.beat("kafka producer", LOOP_BOUND);
        let looks = LOOP_BOUND.as_secs() + 5;
        let mut rounds = 0;
        hear(&beat, &is_dropped, || {
            liveness.look(LOOK_INTERVAL);
            assert_eq!(liveness.stuck(), []);
            rounds += 1;
            is_dropped.store(rounds == looks, Ordering::Relaxed);
        });
        (0..looks).for_each(|_| drop(liveness.look(LOOK_INTERVAL)));
        assert_eq!(liveness.stuck()[0].name, "kafka producer");
    }

    #[test]
    fn a_producer_is_followed_from_its_beginning() {
        let liveness = Liveness::default();
        let connection = Connection::new(KafkaConfig::new("127.0.0.1:1")).unwrap();
        let _producer = Producer::new(connection, liveness.clone()).unwrap();
        assert_eq!(liveness.report().into_keys().collect::<Vec<_>>(), ["kafka producer"]);
    }
}
