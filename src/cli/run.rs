//! `eventpulse run`.

use std::sync::Arc;

use anyhow::Context as _;

use crate::{
    actions, bus,
    config::{Config, Service},
    config_status, incidents, ingest, notify, rules,
    runtime::{
        Metrics, Supervisor, admin,
        clock::{Clock, SystemClock},
        random::Random,
        telemetry::{self, Telemetry},
    },
};

pub(super) fn run(config: Config) -> anyhow::Result<()> {
    // One provider for the whole process: kube and reqwest would each choose their own (design, section 6).
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the async runtime")?;
    let telemetry = {
        let _within = runtime.enter();
        Telemetry::start(&config.telemetry, &config.log).context("set up the log and telemetry")?
    };
    let outcome = runtime.block_on(supervise(config, &telemetry));
    // Last of all, so that the end is told too.
    telemetry.shut_down();
    outcome
}

async fn supervise(config: Config, telemetry: &Telemetry) -> anyhow::Result<()> {
    let admin_listener = admin::bind(config.admin_listen).await?;
    let kube = kube::Config::infer().await.context(
        "find the API server: set KUBECONFIG, or run in a pod with a service account; `kubectl version` shows whether it can be found",
    )?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let metrics = Metrics::of_the_process();
    let bus = bus::open(config.bus.clone(), Arc::clone(&clock), metrics.clone()).await.context("open the log")?;
    let supervisor =
        Supervisor::new(bus, kube, clock, Arc::new(Random::from_system()), metrics).with_tracer(telemetry.tracer());
    let (health, metrics, shutdown) = (supervisor.health(), supervisor.metrics(), supervisor.shutdown());
    let tasks = supervisor.tasks();
    tasks.spawn_infallible("admin", admin::serve(admin_listener, health, metrics, tasks.clone(), shutdown));
    if let Some(file) = config.log.filter_file.clone() {
        let following = telemetry::follow_filter_file(telemetry.log_filter(), file, supervisor.shutdown());
        tasks.spawn_infallible("log-filter", following);
    }
    for service in &config.services {
        start(&supervisor, *service, &config).with_context(|| format!("start the service {}", service.name()))?;
    }
    tracing::info!(services = ?config.services.iter().map(|service| service.name()).collect::<Vec<_>>(), "Started.");
    supervisor.run().await?.map_err(Into::into)
}

fn start(supervisor: &Supervisor, service: Service, config: &Config) -> kube::Result<()> {
    let (ctx, tasks) = (supervisor.context(service.name())?, supervisor.tasks());
    match service {
        Service::Ingest => tasks.spawn("ingest", ingest::run(ctx, config.ingest.clone())),
        Service::Rules => tasks.spawn("rules", rules::run(ctx, config.rules.clone())),
        Service::Actions => tasks.spawn("actions", actions::run(ctx, config.actions.clone())),
        Service::Incidents => tasks.spawn("incidents", incidents::run(ctx, config.incidents.clone())),
        Service::Notify => tasks.spawn("notify", notify::run(ctx, config.notify.clone())),
        Service::Config => tasks.spawn("config", config_status::run(ctx)),
    }
    Ok(())
}
