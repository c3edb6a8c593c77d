//! The bus's contract on Apache Kafka: a real broker, shared by the cases, each with topics of its own.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A helper that fails is a test that fails.

mod contract;

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use eventpulse::{
    bus::{Bus, BusError, KafkaBus, KafkaConfig, KafkaOptions, MAX_RECORD_BYTES, TopicPartition},
    events::Topic,
    runtime::Metrics,
};
use eventpulse_env::Environment;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
};

use crate::contract::{Crash, DEADLINE, Harness, Member, PARTITIONS, eventually, within};

bus_contract!(kafka, Kafka);

/// The shortest that the broker allows.
const SESSION_TIMEOUT_MS: u64 = 6_000;
/// What the member that is to be killed gets its task in.
const TASK: &str = "EVENTPULSE_TEST_CRASH";

struct Kafka {
    config: KafkaConfig,
    bus: Arc<KafkaBus>,
    metrics: Metrics,
    /// A broker of one's own, where it is to be stopped.
    own: Option<Environment>,
}

impl Kafka {
    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.config.brokers).create().unwrap()
    }

    /// The full name of the topic that most cases use.
    fn topic(&self) -> String {
        format!("{}{}", self.config.topic_prefix, contract::TOPIC.name())
    }

    async fn delete_topic(&self) {
        let deleted = self.admin().delete_topics(&[&self.topic()], &AdminOptions::new()).await.unwrap();
        assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    }

    async fn create_topic(&self) {
        let (name, partitions) = (self.topic(), i32::try_from(PARTITIONS).unwrap());
        create(&self.admin(), NewTopic::new(&name, partitions, TopicReplication::Fixed(1))).await;
    }
}

fn config(brokers: &str, prefix: &str) -> KafkaConfig {
    let mut config = KafkaConfig::new(brokers);
    config.topic_prefix = prefix.to_owned();
    config.partitions = PARTITIONS;
    for name in ["session.timeout.ms", "max.poll.interval.ms"] {
        config.extra.push((name.into(), SESSION_TIMEOUT_MS.to_string()));
    }
    config
}

async fn open(config: &KafkaConfig) -> Result<KafkaBus, BusError> {
    open_with(config, &Metrics::default()).await
}

async fn open_with(config: &KafkaConfig, metrics: &Metrics) -> Result<KafkaBus, BusError> {
    let options = KafkaOptions { watch_interval: Duration::from_secs(1), ..KafkaOptions::default() };
    within("opening", KafkaBus::open(config.clone(), metrics.clone(), options)).await
}

fn new_prefix() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("case-{}-", COUNT.fetch_add(1, Ordering::SeqCst))
}

/// The broker that the cases share. It lives on a thread that never ends, and dies with this process.
fn shared_broker() -> String {
    static BROKER: OnceLock<String> = OnceLock::new();
    BROKER
        .get_or_init(|| {
            let (sender, receiver) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let started = Environment::builder("contract").kafka(true).dir(directory()).start().await;
                    match started {
                        Ok(environment) => {
                            sender.send(Ok(environment.kafka().bootstrap())).unwrap();
                            std::future::pending::<()>().await;
                        }
                        Err(error) => sender.send(Err(error.to_string())).unwrap(),
                    }
                });
            });
            receiver.recv().unwrap().unwrap()
        })
        .clone()
}

/// Below the target directory; what earlier runs left is removed.
fn directory() -> PathBuf {
    let parent = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    for entry in std::fs::read_dir(&parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(pid) = name.strip_prefix("bus-contract-")
            && !PathBuf::from("/proc").join(pid).exists()
        {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    parent.join(format!("bus-contract-{}", std::process::id()))
}

#[async_trait(?Send)]
impl Harness for Kafka {
    const MEMBERS_SURVIVE: bool = true;

    async fn fresh() -> Self {
        let brokers = tokio::task::spawn_blocking(shared_broker).await.unwrap();
        let (config, metrics) = (config(&brokers, &new_prefix()), Metrics::default());
        let bus = Arc::new(open_with(&config, &metrics).await.unwrap());
        Self { config, bus, metrics, own: None }
    }

    async fn fresh_for_outage() -> Self {
        let environment = Environment::builder("outage").kafka(true).start().await.unwrap();
        let mut config = config(&environment.kafka().bootstrap(), &new_prefix());
        config.extra.push(("message.timeout.ms".into(), "5000".into()));
        let metrics = Metrics::default();
        let bus = Arc::new(open_with(&config, &metrics).await.unwrap());
        Self { config, bus, metrics, own: Some(environment) }
    }

    fn bus(&self) -> Arc<dyn Bus> {
        Arc::clone(&self.bus) as Arc<dyn Bus>
    }

    async fn another(&self) -> Arc<dyn Bus> {
        Arc::new(open(&self.config).await.unwrap())
    }

    async fn stored_offset(&self, group: &str, at: TopicPartition) -> Option<u64> {
        let (brokers, prefix) = (self.config.brokers.clone(), self.config.topic_prefix.clone());
        let group = format!("{prefix}eventpulse-{group}");
        let committed = move || {
            let mut client = ClientConfig::new();
            client.set("bootstrap.servers", brokers).set("group.id", group);
            let consumer: BaseConsumer = client.create().unwrap();
            let mut list = TopicPartitionList::new();
            list.add_partition(&format!("{prefix}{}", at.topic.name()), i32::try_from(at.partition).unwrap());
            match consumer.committed_offsets(list, Duration::from_secs(10)).ok()?.elements()[0].offset() {
                Offset::Offset(offset) => u64::try_from(offset).ok(),
                _ => None,
            }
        };
        tokio::task::spawn_blocking(committed).await.unwrap()
    }

    /// The member is a process of its own, which is killed.
    async fn crash(&mut self, crash: Crash) {
        let task = format!(
            "{} {} {} {} {} {:?}",
            self.config.brokers,
            self.config.topic_prefix,
            crash.group,
            crash.at.partition,
            crash.take,
            crash.acknowledge
        );
        let mut victim = Victim::start(&task);
        let victim = tokio::task::spawn_blocking(move || {
            victim.wait_until_taken();
            victim
        });
        let victim = within("the member takes its records", victim).await.unwrap();
        eventually("stored", async || self.stored_offset(crash.group, crash.at).await == Some(crash.stored)).await;
        drop(victim);
    }

    async fn go_away(&mut self) {
        self.own.as_ref().unwrap().kafka().stop().await;
    }

    async fn come_back(&mut self) {
        self.own.as_mut().unwrap().kafka_mut().restart().await.unwrap();
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(SESSION_TIMEOUT_MS + 2_500)
    }

    fn suppress_next_wakeup(&self) {
        self.bus.suppress_next_wakeup();
    }

    fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    async fn reopen_with(&mut self, partitions: u32) -> Arc<dyn Bus> {
        self.bus.close(DEADLINE).await;
        self.config.partitions = partitions;
        self.bus = Arc::new(open(&self.config).await.unwrap());
        self.bus()
    }

    async fn check_topic_settings(&mut self) {
        let admin = self.admin();
        for (topic, retention_ms, segment_ms) in
            [(Topic::AlertRaised, "86400000", "21600000"), (Topic::DeadLetter, "604800000", "151200000")]
        {
            let name = format!("{}{}", self.config.topic_prefix, topic.name());
            let asked = [ResourceSpecifier::Topic(&name)];
            let described = admin.describe_configs(&asked, &AdminOptions::new()).await.unwrap().remove(0).unwrap();
            let setting = |name| described.get(name).and_then(|entry| entry.value.clone()).unwrap();
            assert_eq!(setting("cleanup.policy"), "delete");
            assert_eq!(
                (setting("retention.ms").as_str(), setting("segment.ms").as_str()),
                (retention_ms, segment_ms),
                "{name}"
            );
            assert!(setting("max.message.bytes").parse::<usize>().unwrap() > MAX_RECORD_BYTES);
            assert_eq!(setting("message.timestamp.type"), "LogAppendTime");
        }

        let one = || TopicReplication::Fixed(1);
        let adopted = config(&self.config.brokers, "adopted-");
        create(
            &admin,
            NewTopic::new("adopted-alert.raised", 7, one())
                .set("retention.ms", "3600000")
                .set("max.message.bytes", "4000000"),
        )
        .await;
        let bus = open(&adopted).await.unwrap();
        assert_eq!((bus.partitions(Topic::AlertRaised), bus.partitions(Topic::ActionFailed)), (7, PARTITIONS));

        create(&admin, NewTopic::new("wrong-action.failed", 1, one()).set("cleanup.policy", "compact")).await;
        let Err(error) = open(&config(&self.config.brokers, "wrong-")).await else {
            panic!("a compacted topic was taken")
        };
        assert!(matches!(&error, BusError::Topic { topic, .. } if topic == "wrong-action.failed"), "{error}");
        assert!(error.to_string().contains("--add-config cleanup.policy=delete"), "{error}");
    }
}

async fn create(admin: &AdminClient<DefaultClientContext>, topic: NewTopic<'_>) {
    let results = admin.create_topics([&topic], &AdminOptions::new()).await.unwrap();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    // The controller has it; the broker may learn of it a moment later.
    let name = topic.name;
    eventually("the topic is known", async || {
        let metadata = admin.inner().fetch_metadata(Some(name), Duration::from_secs(10)).unwrap();
        metadata.topics().iter().all(|topic| topic.error().is_none() && !topic.partitions().is_empty())
    })
    .await;
}

/// This test binary again, as the member that dies.
struct Victim(Child);

impl Victim {
    fn start(task: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["the_member_that_is_killed", "--exact", "--nocapture"]).env(TASK, task).stdout(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    fn wait_until_taken(&mut self) {
        let output = BufReader::new(self.0.stdout.take().unwrap());
        assert!(output.lines().map_while(Result::ok).any(|line| line.ends_with("TAKEN")), "the member failed");
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // SIGKILL, of our own child.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Does what [`TASK`] says, in a process of its own; without it there is nothing to do.
#[test]
fn the_member_that_is_killed() {
    let Ok(task) = std::env::var(TASK) else { return };
    let words: Vec<&str> = task.splitn(6, ' ').collect();
    let [brokers, prefix, group, partition, take, acknowledge] = words[..] else { panic!("{task}") };
    let acknowledge: Vec<u64> =
        acknowledge.trim_matches(['[', ']']).split(", ").map(|offset| offset.parse().unwrap()).collect();
    let (partition, take): (u32, usize) = (partition.parse().unwrap(), take.parse().unwrap());
    contract::run(async {
        let bus = open(&config(brokers, prefix)).await.unwrap();
        let mut member = Member::join(&bus, group, take).await;
        member.until_messages(take).await;
        let mut held = Vec::new();
        for delivery in std::mem::take(&mut member.messages) {
            assert_eq!(delivery.at, contract::place(partition));
            if acknowledge.contains(&delivery.offset) {
                delivery.ack.done();
            } else {
                held.push(delivery);
            }
        }
        println!("TAKEN");
        std::future::pending::<()>().await;
    });
}

/// The brokers answer all the time, and the producer works: what cannot be read is said nevertheless, until it can be again.
#[test]
fn a_consumer_that_cannot_read_its_topics_is_in_the_health() {
    contract::run(async {
        let harness = Kafka::fresh().await;
        let bus = harness.bus();
        let mut member = Member::join(&*bus, "rules", 10).await;
        member.until("assigned", |member| member.assigned.len() == PARTITIONS as usize).await;
        assert_eq!(bus.health(), Ok(()));
        harness.delete_topic().await;
        eventually("the health says so", async || bus.health().is_err()).await;
        let reason = bus.health().unwrap_err();
        assert!(reason.starts_with("consumer group rules: "), "{reason}");
        harness.create_topic().await;
        eventually("it is well again by itself", async || bus.health().is_ok()).await;
        eventually("publishing works", async || bus.publish(contract::records(0, 1)).await.is_ok()).await;
        member.until("the record of the new topic", |member| member.messages.iter().any(|m| m.offset == 0)).await;
    });
}

/// What was read of a log says nothing of another one in its place: a group that has yet to finish the first record of that begins with it.
#[test]
fn the_place_of_a_group_in_a_log_that_is_gone_is_not_its_place_in_the_next_one() {
    contract::run(async {
        let harness = Kafka::fresh().await;
        let bus = harness.bus();
        let mut member = Member::join(&*bus, "rules", 100).await;
        bus.publish(contract::records(0, 10)).await.unwrap();
        member.until_messages(10).await;
        member.finish();
        let stored = async || harness.stored_offset("rules", contract::place(0)).await;
        eventually("the offset is stored", async || stored().await == Some(10)).await;
        harness.delete_topic().await;
        harness.create_topic().await;
        eventually("publishing works", async || bus.publish(contract::records(0, 1)).await.is_ok()).await;
        member.until("the record of the new log", |member| member.messages.iter().any(|m| m.offset == 0)).await;
        for _ in 0..30 {
            assert!(stored().await.is_none_or(|offset| offset == 0), "{:?}", stored().await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        member.finish();
        eventually("the offset of the new log is stored", async || stored().await == Some(1)).await;
    });
}

/// With no broker there, the process starts, says what is wrong, and publishes as soon as there is one.
#[test]
fn a_bus_opens_without_brokers_and_says_so() {
    contract::run(async {
        let port = eventpulse_env::free_port();
        let mut config = config(&format!("127.0.0.1:{port}"), "away-");
        config.extra.push(("sasl.password".into(), "hunter2".into()));
        let bus = open(&config).await.unwrap();
        let reason = bus.health().unwrap_err();
        assert!(!reason.contains("hunter2"), "{reason}");
        let error = bus.publish(contract::records(0, 1)).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert_eq!(bus.partitions(Topic::AlertRaised), PARTITIONS);
        bus.close(Duration::from_secs(5)).await;
    });
}

/// The broker comes after the bus, with a topic that cannot be used: whoever goes on without, goes on with it when it is repaired.
#[test]
fn a_topic_that_is_repaired_is_used_without_a_new_start() {
    contract::run(async {
        let mut broker = Kafka::fresh_for_outage().await;
        let admin = broker.admin();
        let name = "late-action.failed";
        create(&admin, NewTopic::new(name, 1, TopicReplication::Fixed(1)).set("cleanup.policy", "compact")).await;
        broker.go_away().await;
        let bus = open(&config(&broker.config.brokers, "late-")).await.unwrap();
        broker.come_back().await;
        eventually("the topic is refused", async || {
            bus.health().is_err_and(|reason| reason.contains("cleanup.policy"))
        })
        .await;
        let error = bus.publish(contract::records(0, 1)).await.unwrap_err();
        assert!(matches!(&error, BusError::Topic { topic, .. } if topic == name), "{error}");
        let repaired = AlterConfig::new(ResourceSpecifier::Topic(name))
            .set("cleanup.policy", "delete")
            .set("retention.ms", "3600000")
            .set("max.message.bytes", "4000000");
        eventually("the settings can be changed", async || {
            let altered = admin.alter_configs([&repaired], &AdminOptions::new()).await;
            altered.is_ok_and(|results| results.iter().all(Result::is_ok))
        })
        .await;
        eventually("it is well", async || bus.health().is_ok()).await;
        bus.publish(contract::records(0, 1)).await.unwrap();
    });
}

#[test]
fn a_setting_that_librdkafka_does_not_know_is_named_and_its_value_is_not() {
    contract::run(async {
        let mut config = config("127.0.0.1:1", "x-");
        config.extra.push(("ssl.key.passwort".into(), "hunter2".into()));
        let Err(error) = open(&config).await else { panic!("it was taken") };
        let text = error.to_string();
        assert!(text.contains("ssl.key.passwort") && !text.contains("hunter2"), "{text}");
    });
}
