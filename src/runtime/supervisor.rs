//! Starts the services, watches over them, and stops them in order: readiness off, intake off, work drained within a deadline, the
//! log flushed and its offsets stored.

use std::{sync::Arc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use super::{Context, Health, Metrics, TaskFailure, Tasks, clock::Clock, kube_api, random::Random};
use crate::bus::Bus;

/// How long services may take to finish what they began.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the log may take to take the last records.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

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
        Self { bus, kube, clock, random, tasks, failures, health, metrics, shutdown }
    }

    /// The surroundings of one service, with an API client of its own.
    pub fn context(&self, service: &'static str) -> kube::Result<Context> {
        Ok(Context {
            service,
            bus: Arc::clone(&self.bus),
            kube: kube_api::client(&self.kube)?,
            clock: Arc::clone(&self.clock),
            random: Arc::clone(&self.random),
            tasks: self.tasks.clone(),
            health: self.health.service(service),
            metrics: self.metrics.clone(),
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
        self.health.service("process").ready("service");
        let outcome = tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            Some(failure) = self.failures.recv() => Err(failure),
        };
        match &outcome {
            Ok(()) => tracing::info!("Stopping: finishing what was begun."),
            Err(failure) => tracing::error!(%failure, "Stopping: a task ended as it should not have."),
        }
        self.health.service("process").not_ready("service", "stopping");
        self.shutdown.cancel();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.tasks.finished()).await.is_err() {
            tracing::warn!(running = self.tasks.running(), "Some tasks did not end in time; their events come again.");
        }
        self.bus.close(FLUSH_TIMEOUT).await;
        tracing::info!("Stopped.");
        Ok(outcome)
    }
}
