//! `eventpulse run`.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context as _;

use crate::{
    bus,
    config::Config,
    runtime::{
        Ending, Health, Metrics, Signals, Stop as _, Supervisor, Tasks,
        admin::{self, Admin},
        api_server,
        clock::{Clock, SystemClock},
        kube_api,
        random::Random,
        supervisor::{Clients, Parts},
        telemetry::{self, Telemetry},
    },
    services::{self, Machine},
};

pub(super) fn run(config: Config) -> anyhow::Result<Ending> {
    // One provider for the whole process: kube and reqwest would each choose their own (design, section 6).
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the async runtime")?;
    let telemetry = {
        let _within = runtime.enter();
        Telemetry::start(&config.telemetry, &config.log).context("set up the log and telemetry")?
    };
    let deadline = config.deadlines.telemetry;
    let ended = runtime.block_on(supervise(config, &telemetry));
    // Last of all, so that the end is told too; who is asked a second time does not wait for it.
    if !matches!(ended, Ok(Ending::AtOnce(_))) {
        telemetry.shut_down(deadline);
    }
    // A read that hangs, on a mount that is away, and a plugin that does not answer must not keep the process.
    runtime.shutdown_background();
    ended
}

async fn supervise(config: Config, telemetry: &Telemetry) -> anyhow::Result<Ending> {
    let mut signals = Signals::listen().context("listen to signals")?;
    // Whoever asks is answered from the beginning.
    let (health, metrics, (tasks, failures)) = (Health::default(), Metrics::of_the_process(), Tasks::new());
    telemetry.export_metrics(&metrics);
    let process = health.process();
    let admin = Admin { health: health.clone(), liveness: tasks.liveness(), metrics: metrics.clone() };
    admin::start(admin::bind(config.admin_listen)?, admin).context("start the admin port")?;
    process.not_ready("service", "finding the API server");
    let starting = async {
        let kube = api_server::find().await.context("find the API server")?;
        let mut known = BTreeMap::new();
        // One after the other: a plugin that asks somebody, or writes a cache, is not run twice at once.
        for service in config.services.iter().map(|service| service.name()) {
            let client = api_server::client(&kube, service, &metrics).await.context("find the API server")?;
            known.insert(service, client);
        }
        process.not_ready("service", "opening the log");
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let consumers = config.services.iter().filter_map(|service| services::consumes(*service)).collect();
        let bus = bus::open(config.bus.clone(), Arc::clone(&clock), metrics.clone(), tasks.liveness(), consumers)
            .await
            .context("open the log")?;
        let random = Arc::new(Random::from_system());
        let (deadlines, tracer) = (config.deadlines, telemetry.tracer());
        let clients: Clients = Arc::new(move |service, metrics| match known.get(service) {
            Some(client) => Ok(client.clone()),
            None => kube_api::client(&kube, service, metrics),
        });
        let parts = Parts { tasks, failures, health, metrics, tracer, bus, clients, clock, random, deadlines };
        anyhow::Ok(Supervisor::new(parts))
    };
    let supervisor = tokio::select! {
        started = starting => started?,
        (signal, _) = signals.next() => {
            tracing::info!(signal, "Stopped before it had started.");
            return Ok(Ending::Orderly);
        }
    };
    if let Some(file) = config.log.filter_file.clone() {
        let following = telemetry::follow_filter_file(telemetry.log_filter(), file, supervisor.shutdown());
        supervisor.tasks().spawn_loop("log-filter", following);
    }
    for service in &config.services {
        services::start(&supervisor, *service, &config, &Machine)
            .with_context(|| format!("start the service {}", service.name()))?;
    }
    let services: Vec<&str> = config.services.iter().map(|service| service.name()).collect();
    tracing::info!(services = services.join(","), "Started.");
    supervisor.run(&mut signals).await.map_err(Into::into)
}
