//! Where a scenario plays: a control plane of its own, a broker where the bus is Kafka, the example shop with Deployments by the
//! thousand, a receiver of messages, and EventPulse as a process. Everything is stopped and removed with it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use eventpulse_e2e::{START, Shop};
use eventpulse_env::{ControlPlaneOptions, Environment, cache_dir};
use eventpulse_testkit::{
    eventpulse::{EventPulse, Launcher},
    proxy::Proxy,
};
use serde_json::{Value, json};

use crate::{
    api::Api,
    audit::Audit,
    floors::{self, Floors},
    latencies::Latencies,
    outcome::Bus,
    probe,
    run::Options,
};

pub const WEBHOOK: &str = "/webhooks/alertmanager";
/// Where the example's channel posts.
pub const HOOK: &str = "/services/T000/B000/demo";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/shop/deployments";
/// EventPulse's own kinds, as paths.
pub const OURS: [&str; 4] = ["alertgroups", "incidents", "actions", "notifications"];

/// See the module's text.
pub struct Stage {
    /// Parts and sink.
    pub shop: Shop,
    /// The plain client.
    pub api: Api,
    /// EventPulse, once it runs.
    pub eventpulse: Option<EventPulse>,
    bus: Bus,
    hops: u32,
}

impl Stage {
    /// Starts the parts. Says so, because it takes some ten seconds.
    pub async fn open(options: &Options, name: &str, bus: Bus, audit_bodies: bool) -> anyhow::Result<Self> {
        let begin = Instant::now();
        // Beside the cache and not in /tmp: that may be memory, where fsync costs nothing.
        let dir = cache_dir().join("bench").join(format!("{name}-{bus}-{}", std::process::id()));
        let plane = ControlPlaneOptions { fsync: options.etcd_fsync, audit_bodies, ..ControlPlaneOptions::default() };
        let environment =
            Environment::builder("bench").dir(dir).control_plane(plane).kafka(bus == Bus::Kafka).start().await?;
        let shop = Shop::furnish(environment).await?;
        let api = Api::of(shop.environment.plane())?;
        say(&format!(
            "control plane{} started in {:.0} s",
            if bus == Bus::Kafka { " and Kafka" } else { "" },
            secs(begin)
        ));
        Ok(Self { shop, api, eventpulse: None, bus, hops: 0 })
    }

    /// Deployments `t0`, `t1`, …: paused and without replicas, so that no pod follows from them.
    pub async fn add_targets(&self, count: usize) -> anyhow::Result<()> {
        let begin = Instant::now();
        self.api.create_many(DEPLOYMENTS, count, |i| target(&format!("t{i}"))).await.context("the targets")?;
        say(&format!("{count} Deployments created in {:.0} s", secs(begin)));
        Ok(())
    }

    /// EventPulse, not started yet.
    pub fn launcher(&self) -> Launcher {
        self.on_bus(self.shop.launcher("eventpulse"))
    }

    /// A proxy before the API server, and an EventPulse, not started yet, that reaches it through the proxy only.
    pub async fn behind_a_proxy(&self) -> anyhow::Result<(Proxy, Launcher)> {
        let (proxy, launcher) = self.shop.proxied("eventpulse").await?;
        Ok((proxy, self.on_bus(launcher)))
    }

    fn on_bus(&self, launcher: Launcher) -> Launcher {
        match self.bus {
            Bus::Kafka => launcher.kafka(&self.shop.environment.kafka().bootstrap(), ""),
            Bus::Embedded => launcher,
        }
    }

    /// Starts EventPulse as it runs by default, and gives how long it took until it was ready.
    pub async fn start(&mut self) -> anyhow::Result<Duration> {
        self.start_with(self.launcher()).await
    }

    /// The same with other flags.
    pub async fn start_with(&mut self, launcher: Launcher) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        self.eventpulse = Some(launcher.start(START).await?);
        let took = begin.elapsed();
        say(&format!("EventPulse ready after {:.2} s", took.as_secs_f64()));
        Ok(took)
    }

    /// Ends EventPulse in order.
    pub async fn stop_eventpulse(&mut self) -> anyhow::Result<()> {
        if let Some(eventpulse) = self.eventpulse.take() {
            anyhow::ensure!(
                eventpulse.stop(START).await,
                "EventPulse did not end well: {}",
                eventpulse.process().last_lines()
            );
        }
        Ok(())
    }

    /// EventPulse, which runs.
    pub fn running(&self) -> anyhow::Result<&EventPulse> {
        let eventpulse = self.eventpulse.as_ref().context("EventPulse was not started")?;
        if let Some(status) = eventpulse.process().exited() {
            anyhow::bail!("EventPulse has ended ({status}). Its last lines:\n{}", eventpulse.process().last_lines());
        }
        Ok(eventpulse)
    }

    /// Where EventPulse receives alerts.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        let url = self.running()?.url("");
        url.trim_start_matches("http://").trim_end_matches('/').parse().with_context(|| url.clone())
    }

    /// What is written from now on.
    pub fn audit(&self) -> Audit {
        Audit::from_now(self.shop.environment.plane().audit_log())
    }

    /// The floors of this stage, with nothing else to do.
    pub async fn floors(&mut self, options: &Options) -> anyhow::Result<Floors> {
        let samples = if options.quick { 50 } else { 300 };
        let mut all = self.fsync(samples).await?;
        if self.bus == Bus::Kafka {
            // A topic of its own each time: the broker deletes the former one when it finds the time.
            self.hops += 1;
            all.add(floors::HOP, &hop(options, &self.shop.environment.kafka().bootstrap(), samples, self.hops).await?);
        }
        all.merge(&floors::api(&self.api, samples).await.context("the floors of the API server")?);
        Ok(all)
    }

    /// The floor of the disk alone.
    pub async fn fsync(&self, samples: usize) -> anyhow::Result<Floors> {
        let dir = self.shop.environment.dir().to_owned();
        let mut floors = Floors::default();
        floors.add(floors::FSYNC, &tokio::task::spawn_blocking(move || floors::fsync(&dir, samples)).await??);
        Ok(floors)
    }

    /// Every process of the stage, for who used the processors.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let parts = self.shop.environment.processes().into_iter().map(|part| (part.pid(), part.name().to_owned()));
        let eventpulse = self.eventpulse.iter().map(|it| (it.process().pid(), "eventpulse".to_owned()));
        parts.chain(eventpulse).collect()
    }

    /// Objects of the shop.
    pub async fn objects(&self, kind: &str) -> anyhow::Result<Vec<Value>> {
        self.api.list(&path_of(kind)).await
    }

    /// Stops everything and removes its directory.
    pub async fn close(mut self) -> anyhow::Result<()> {
        self.stop_eventpulse().await?;
        self.shop.environment.stop().await;
        Ok(())
    }
}

async fn hop(options: &Options, brokers: &str, samples: usize, number: u32) -> anyhow::Result<Latencies> {
    let (samples, topic) = (samples.to_string(), format!("eventpulse-bench-hop-{number}"));
    let line = probe::run(options, &["hop", "--brokers", brokers, "--samples", &samples, "--topic", &topic]).await?;
    let micros = line["micros"].as_array().context("the probe's micros")?.iter().filter_map(Value::as_u64);
    Ok(Latencies::of(micros.map(Duration::from_micros)))
}

/// The path of the shop's objects of a kind.
pub fn path_of(kind: &str) -> String {
    if kind == "deployments" {
        DEPLOYMENTS.into()
    } else {
        format!("/apis/eventpulse.io/v1alpha1/namespaces/shop/{kind}")
    }
}

/// A Deployment to act on.
pub fn target(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "shop", "annotations": {"team": "bench"}},
        "spec": {
            "replicas": 0, "paused": true, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "main", "image": "registry.invalid/t:1"}]},
            },
        },
    })
}

/// The benchmark's own files.
pub fn root() -> PathBuf {
    let root = eventpulse_e2e::root();
    root.canonicalize().unwrap_or(root)
}

/// Seconds since.
pub fn secs(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64()
}

/// A line of progress, on standard error: standard output is for the table.
pub fn say(text: &str) {
    eprintln!("    {text}");
}

/// A path as people write it, from the repository's root where it is below that.
pub fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
