//! The floor of a hop: a plain client of Kafka, with the settings that EventPulse itself uses.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use rdkafka::{
    ClientConfig, Message, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(10);
/// As large as a small event.
const RECORD_BYTES: usize = 512;
/// Not counted: connections, metadata and the broker's own compilation.
const WARM_UP: u64 = 100;

#[derive(Args)]
pub struct Flags {
    /// The broker, `HOST:PORT`.
    #[arg(long)]
    brokers: String,
    /// How many records.
    #[arg(long, default_value_t = 500)]
    samples: u64,
    /// A topic that does not exist yet; it is deleted afterwards.
    #[arg(long, default_value = "eventpulse-bench-hop")]
    topic: String,
}

/// Gives the microseconds of every record.
pub fn run(flags: &Flags) -> anyhow::Result<Value> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &flags.brokers).create().context("the admin client")?;
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
    let topic = NewTopic::new(&flags.topic, 1, TopicReplication::Fixed(1));
    for created in runtime.block_on(admin.create_topics([&topic], &options)).context("create the topic")? {
        created.map_err(|(topic, error)| anyhow::anyhow!("create the topic {topic}: {error}"))?;
    }
    let measured = measure(flags);
    // Whatever was measured: a second run finds no topic of the first.
    let _ = runtime.block_on(admin.delete_topics(&[&flags.topic], &options));
    Ok(json!({"micros": measured?}))
}

fn measure(flags: &Flags) -> anyhow::Result<Vec<u64>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &flags.brokers)
        .set("group.id", &flags.topic)
        .set("enable.auto.commit", "false")
        .create()
        .context("the consumer")?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&flags.topic, 0, rdkafka::Offset::Beginning)?;
    consumer.assign(&list)?;
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", &flags.brokers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "0")
        .create()
        .context("the producer")?;
    let (sender, arrived) = mpsc::channel();
    let total = WARM_UP + flags.samples;
    let reading = std::thread::spawn(move || {
        for _ in 0..total {
            match consumer.poll(PATIENCE) {
                Some(Ok(message)) => {
                    let number = message.key().map(|key| String::from_utf8_lossy(key).into_owned());
                    if sender.send(Ok((number, Instant::now()))).is_err() {
                        return;
                    }
                }
                Some(Err(error)) => return drop(sender.send(Err(error.to_string()))),
                None => return drop(sender.send(Err("nothing came".to_owned()))),
            }
        }
    });
    let payload = vec![b'x'; RECORD_BYTES];
    let mut micros = Vec::new();
    for i in 0..total {
        let key = i.to_string();
        let begin = Instant::now();
        producer
            .send(BaseRecord::to(&flags.topic).partition(0).key(&key).payload(&payload))
            .map_err(|(error, _)| anyhow::anyhow!("produce: {error}"))?;
        let (number, at) =
            arrived.recv_timeout(PATIENCE).context("a record did not come")?.map_err(anyhow::Error::msg)?;
        anyhow::ensure!(number.as_deref() == Some(&key), "record {key} was awaited, and {number:?} came");
        if i >= WARM_UP {
            micros.push(at.duration_since(begin).as_micros() as u64);
        }
        // So that the next record finds the consumer waiting, as after a pause between alerts.
        std::thread::sleep(Duration::from_millis(2));
    }
    producer.flush(PATIENCE)?;
    reading.join().map_err(|_| anyhow::anyhow!("the consumer's thread panicked"))?;
    Ok(micros)
}
