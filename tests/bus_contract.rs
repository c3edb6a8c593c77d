//! The bus's contract on the two adapters that need nothing else: memory and embedded.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A helper that fails is a test that fails.

mod contract;

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use eventpulse::{
    bus::{Bus, EmbeddedBus, EmbeddedConfig, LocalOptions, MemoryBus, TopicPartition},
    runtime::{Metrics, clock::SystemClock},
};
use tempfile::TempDir;

use crate::contract::{Crash, Harness, Member, PARTITIONS, eventually};

bus_contract!(memory, Memory);
bus_contract!(embedded, Embedded);

/// Long enough for a record or a revocation that must not come.
const PATIENCE: Duration = Duration::from_millis(200);

fn options() -> LocalOptions {
    LocalOptions {
        watch_interval: Duration::from_millis(200),
        store_interval: Duration::from_millis(20),
        ..LocalOptions::default()
    }
}

async fn take_and_acknowledge(bus: &dyn Bus, crash: &Crash) -> Member {
    let mut member = Member::join(bus, crash.group, crash.take).await;
    member.until_messages(crash.take).await;
    for delivery in std::mem::take(&mut member.messages) {
        if crash.acknowledge.contains(&delivery.offset) {
            delivery.ack.done();
        }
    }
    member
}

struct Memory(MemoryBus, Metrics);

#[async_trait(?Send)]
impl Harness for Memory {
    const MEMBERS_SURVIVE: bool = true;

    async fn fresh() -> Self {
        let metrics = Metrics::default();
        Self(MemoryBus::with(PARTITIONS, Arc::new(SystemClock), metrics.clone(), options()), metrics)
    }

    fn bus(&self) -> Arc<dyn Bus> {
        Arc::new(self.0.clone())
    }

    async fn another(&self) -> Arc<dyn Bus> {
        self.bus()
    }

    async fn stored_offset(&self, group: &str, at: TopicPartition) -> Option<u64> {
        self.0.stored_offset(group, at)
    }

    /// Memory ends with the process: only the member dies.
    async fn crash(&mut self, crash: Crash) {
        let member = take_and_acknowledge(&self.0, &crash).await;
        eventually("stored", async || self.0.stored_offset(crash.group, crash.at) == Some(crash.stored)).await;
        drop(member);
    }

    async fn go_away(&mut self) {
        self.0.set_available(false);
    }

    async fn come_back(&mut self) {
        self.0.set_available(true);
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    fn suppress_next_wakeup(&self) {
        self.0.suppress_next_wakeup();
    }

    fn metrics(&self) -> Metrics {
        self.1.clone()
    }

    /// Memory has no second life: another handle of the process.
    async fn reopen_with(&mut self, _partitions: u32) -> Arc<dyn Bus> {
        self.bus()
    }

    async fn check_topic_settings(&mut self) {}
}

struct Embedded {
    bus: EmbeddedBus,
    metrics: Metrics,
    directory: TempDir,
    /// Logs that died, on files that nobody looks at any more.
    dead: Vec<(EmbeddedBus, TempDir, Member)>,
}

impl Embedded {
    async fn open(directory: &Path, partitions: u32, metrics: &Metrics) -> EmbeddedBus {
        let config = EmbeddedConfig { partitions, ..EmbeddedConfig::new(directory) };
        EmbeddedBus::open(config, Arc::new(SystemClock), metrics.clone(), options()).await.unwrap()
    }

    fn on_disk(&self, group: &str, at: TopicPartition) -> Option<u64> {
        let file = rusqlite::Connection::open(self.directory.path().join("log.sqlite")).unwrap();
        let sql = "SELECT offset FROM offsets WHERE consumer_group = ?1 AND partition = ?2
                   AND topic = (SELECT id FROM topics WHERE name = ?3)";
        let row = file.query_row(sql, (group, at.partition, at.topic.name()), |row| row.get::<_, i64>(0));
        row.ok().map(|offset| u64::try_from(offset).unwrap())
    }
}

#[async_trait(?Send)]
impl Harness for Embedded {
    const MEMBERS_SURVIVE: bool = false;

    async fn fresh() -> Self {
        let (directory, metrics) = (tempfile::tempdir().unwrap(), Metrics::default());
        let bus = Self::open(directory.path(), PARTITIONS, &metrics).await;
        Self { bus, metrics, directory, dead: Vec::new() }
    }

    fn bus(&self) -> Arc<dyn Bus> {
        Arc::new(self.bus.clone())
    }

    async fn another(&self) -> Arc<dyn Bus> {
        self.bus()
    }

    async fn stored_offset(&self, group: &str, at: TopicPartition) -> Option<u64> {
        self.on_disk(group, at)
    }

    /// What a killed process leaves is what is in its files: they are copied under it.
    async fn crash(&mut self, crash: Crash) {
        let member = take_and_acknowledge(&self.bus, &crash).await;
        eventually("stored", async || self.on_disk(crash.group, crash.at) == Some(crash.stored)).await;
        let directory = tempfile::tempdir().unwrap();
        for file in ["log.sqlite", "log.sqlite-wal"] {
            std::fs::copy(self.directory.path().join(file), directory.path().join(file)).unwrap();
        }
        let bus = Self::open(directory.path(), PARTITIONS, &self.metrics).await;
        let old = std::mem::replace(&mut self.bus, bus);
        self.dead.push((old, std::mem::replace(&mut self.directory, directory), member));
    }

    async fn go_away(&mut self) {
        self.bus.close(contract::DEADLINE).await;
    }

    async fn come_back(&mut self) {
        self.bus = Self::open(self.directory.path(), PARTITIONS, &self.metrics).await;
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    fn suppress_next_wakeup(&self) {
        self.bus.suppress_next_wakeup();
    }

    fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    async fn reopen_with(&mut self, partitions: u32) -> Arc<dyn Bus> {
        self.bus.close(contract::DEADLINE).await;
        self.bus = Self::open(self.directory.path(), partitions, &self.metrics).await;
        self.bus()
    }

    async fn check_topic_settings(&mut self) {}
}
