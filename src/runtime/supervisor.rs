//! Starts the services, watches over them, and stops them in order: readiness off, intake off, work drained within a deadline, the
//! log flushed and its offsets stored.

use std::{sync::Arc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use super::{
    Context, Health, Metrics, ServiceHealth, TaskFailure, Tasks, clock::Clock, kube_api, random::Random,
    telemetry::Tracer,
};
use crate::bus::Bus;

/// How long services may take to finish what they began.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the log may take to take the last records.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the log is asked how it is.
const BUS_INTERVAL: Duration = Duration::from_secs(1);

/// The surroundings of every service of the process.
pub struct Supervisor {
    bus: Arc<dyn Bus>,
    kube: kube::Config,
    clock: Arc<dyn Clock>,
    random: Arc<Random>,
    tasks: Tasks,
    failures: mpsc::Receiver<TaskFailure>,
    health: Health,
    metrics: Metrics,
    tracer: Tracer,
    shutdown: CancellationToken,
}

impl Supervisor {
    /// Nothing runs yet.
    pub fn new(
        bus: Arc<dyn Bus>,
        kube: kube::Config,
        clock: Arc<dyn Clock>,
        random: Arc<Random>,
        metrics: Metrics,
    ) -> Self {
        let (tasks, failures) = Tasks::new();
        let (health, shutdown) = (Health::default(), CancellationToken::new());
        // Not ready before every service is there to say what it waits for.
        health.service("process");
        health.measure(&metrics);
        let tracer = Tracer::default();
        Self { bus, kube, clock, random, tasks, failures, health, metrics, tracer, shutdown }
    }

    /// What services do is told there.
    pub fn with_tracer(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// The surroundings of one service, with an API client of its own.
    pub fn context(&self, service: &'static str) -> kube::Result<Context> {
        Ok(Context {
            service,
            bus: Arc::clone(&self.bus),
            kube: kube_api::client(&self.kube, service, &self.metrics)?,
            clock: Arc::clone(&self.clock),
            random: Arc::clone(&self.random),
            tasks: self.tasks.clone(),
            health: self.health.service(service),
            metrics: self.metrics.clone(),
            tracer: self.tracer.clone(),
            shutdown: self.shutdown.clone(),
        })
    }

    /// What the services say about themselves.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// The process's metrics.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Where to start a task.
    pub fn tasks(&self) -> Tasks {
        self.tasks.clone()
    }

    /// Cancelled when the process is to stop.
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Until SIGTERM, SIGINT or the first failure; then everything is stopped in order. Gives the failure.
    pub async fn run(mut self) -> std::io::Result<Result<(), TaskFailure>> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let process = self.health.service("process");
        process.not_ready("bus", "it has not been asked yet");
        let following = follow_bus(Arc::clone(&self.bus), process.clone(), self.shutdown.clone());
        self.tasks.spawn_infallible("bus-health", following);
        process.ready("service");
        let outcome = tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            Some(failure) = self.failures.recv() => Err(failure),
        };
        match &outcome {
            Ok(()) => tracing::info!("Stopping: finishing what was begun."),
            Err(failure) => tracing::error!(%failure, "Stopping: a task ended as it should not have."),
        }
        process.not_ready("service", "stopping");
        self.shutdown.cancel();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.tasks.finished()).await.is_err() {
            tracing::warn!(running = self.tasks.running(), "Some tasks did not end in time; their events come again.");
        }
        self.bus.close(FLUSH_TIMEOUT).await;
        tracing::info!("Stopped.");
        Ok(outcome)
    }
}

/// Says whether the log can be reached, also while nobody has anything to publish: a consumer that hears nothing cannot tell a quiet
/// log from one that is away.
async fn follow_bus(bus: Arc<dyn Bus>, health: ServiceHealth, shutdown: CancellationToken) {
    let mut look = tokio::time::interval(BUS_INTERVAL);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = look.tick() => match bus.health() {
                Ok(()) => health.ready("bus"),
                Err(reason) => health.not_ready("bus", reason),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::MemoryBus;

    #[tokio::test(start_paused = true)]
    async fn a_log_that_is_away_makes_the_process_not_ready_until_it_is_back() {
        let (bus, health, shutdown) = (MemoryBus::new(1), Health::default(), CancellationToken::new());
        let process = health.service("process");
        process.ready("service");
        let following = tokio::spawn(follow_bus(Arc::new(bus.clone()), process, shutdown.clone()));
        for available in [true, false, true] {
            bus.set_available(available);
            tokio::time::sleep(BUS_INTERVAL * 2).await;
            assert_eq!(health.is_ready(), available, "{:?}", health.report());
        }
        let why = |(part, why): (String, Option<String>)| (part == "process/bus").then_some(why);
        bus.set_available(false);
        tokio::time::sleep(BUS_INTERVAL * 2).await;
        let why = health.report().into_iter().find_map(why).flatten();
        assert_eq!(why.as_deref(), Some("the log is away, as a test wants it"));
        shutdown.cancel();
        following.await.unwrap();
    }
}
