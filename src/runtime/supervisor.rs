//! Starts the services, watches over them, and stops them in order: readiness off, intake off, work drained, the log flushed and its
//! offsets stored, telemetry handed out, each within its deadline ([`Deadlines`]).

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Context, Deadlines, Ending, Health, Metrics, RightOfWay, ServiceHealth, Stop, TaskFailure, Tasks,
    clock::Clock,
    liveness::{EXECUTOR_BOUND, LOOK_INTERVAL},
    random::Random,
    telemetry::Tracer,
};
use crate::bus::Bus;

/// How often the log is asked how it is.
const BUS_INTERVAL: Duration = Duration::from_secs(1);

/// Makes a service's own client, whose calls are counted in these metrics ([`kube_api::client`](super::kube_api::client)).
pub type Clients = Arc<dyn Fn(&'static str, &Metrics) -> kube::Result<kube::Client> + Send + Sync>;

/// What a supervisor watches over, and with what.
pub struct Parts {
    /// Where tasks start.
    pub tasks: Tasks,
    /// Where those tasks say that they failed.
    pub failures: mpsc::Receiver<TaskFailure>,
    /// What the services say about themselves.
    pub health: Health,
    /// The process's metrics.
    pub metrics: Metrics,
    /// Where services put what they have done, as spans.
    pub tracer: Tracer,
    /// The log.
    pub bus: Arc<dyn Bus>,
    /// The way to the API server.
    pub clients: Clients,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub random: Arc<Random>,
    /// Of the stop.
    pub deadlines: Deadlines,
}

/// Watches over the services of the process.
pub struct Supervisor {
    parts: Parts,
    way: RightOfWay,
    shutdown: CancellationToken,
    /// Ends with the other at the latest.
    intake: CancellationToken,
}

impl Supervisor {
    /// Nothing runs yet.
    pub fn new(parts: Parts) -> Self {
        let shutdown = CancellationToken::new();
        // Not ready before every service is there to say what it waits for.
        parts.health.process();
        parts.health.measure(&parts.metrics);
        Self { intake: shutdown.child_token(), way: RightOfWay::new(&parts.metrics), parts, shutdown }
    }

    /// The surroundings of one service, with an API client of its own.
    pub fn context(&self, service: &'static str) -> kube::Result<Context> {
        let parts = &self.parts;
        Ok(Context {
            service,
            bus: Arc::clone(&parts.bus),
            kube: (parts.clients)(service, &parts.metrics)?,
            way: self.way.clone(),
            clock: Arc::clone(&parts.clock),
            random: Arc::clone(&parts.random),
            tasks: parts.tasks.clone(),
            health: parts.health.service(service),
            metrics: parts.metrics.clone(),
            tracer: parts.tracer.clone(),
            intake: self.intake.clone(),
            shutdown: self.shutdown.clone(),
        })
    }

    /// Cancelled when the process is to stop.
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Where to start a task.
    pub fn tasks(&self) -> Tasks {
        self.parts.tasks.clone()
    }

    /// Until the first signal or the first failure; then everything is stopped in order. Gives the failure.
    pub async fn run(mut self, stop: &mut dyn Stop) -> Result<Ending, TaskFailure> {
        let process = self.parts.health.process();
        process.not_ready("bus", "it has not been asked yet");
        let following = follow_bus(Arc::clone(&self.parts.bus), process.clone(), self.shutdown.clone());
        self.parts.tasks.spawn_loop("bus-health", following);
        let executor = self.parts.tasks.liveness().follow("executor", EXECUTOR_BOUND, tick(self.shutdown.clone()));
        self.parts.tasks.spawn_infallible("executor", executor);
        process.ready("service");
        let bus = Arc::clone(&self.parts.bus);
        let failure = tokio::select! {
            (signal, _) = stop.next() => {
                tracing::info!(signal, "Stopping: finishing what was begun.");
                None
            }
            Some(failure) = self.parts.failures.recv() => {
                tracing::error!(%failure, "Stopping: a task ended as it should not have.");
                Some(failure)
            }
            reason = bus.failed() => {
                let failure = TaskFailure { task: "log", reason };
                tracing::error!(%failure, "Stopping: a task ended as it should not have.");
                Some(failure)
            }
        };
        process.not_ready("service", "stopping");
        let ending = tokio::select! {
            () = self.stop() => Ending::Orderly,
            (signal, number) = stop.next() => {
                let running = self.parts.tasks.running();
                tracing::warn!(signal, running, "Asked a second time: ending at once. What was not finished comes again.");
                Ending::AtOnce(number)
            }
        };
        // One that fails while it stops has not stopped in order either.
        failure.or_else(|| self.parts.failures.try_recv().ok()).map_or(Ok(ending), Err)
    }

    async fn stop(&self) {
        // Telemetry is handed out last of all, by whoever has it.
        let Deadlines { delay, intake, drain, flush, telemetry: _ } = self.parts.deadlines;
        tokio::time::sleep(delay).await;
        self.intake.cancel();
        if tokio::time::timeout(intake, self.parts.tasks.intake_finished()).await.is_err() {
            tracing::warn!(
                running = self.parts.tasks.running(),
                "Some requests were not answered in time; their senders come again."
            );
        }
        self.shutdown.cancel();
        if tokio::time::timeout(drain, self.parts.tasks.finished()).await.is_err() {
            tracing::warn!(
                running = self.parts.tasks.running(),
                "Some tasks did not end in time; their events come again."
            );
        }
        self.parts.bus.close(flush).await;
        tracing::info!("Stopped.");
    }
}

/// Shows that the async threads run what is due.
async fn tick(shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(LOOK_INTERVAL);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
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
    use async_trait::async_trait;

    use super::*;
    use crate::{
        bus::{BusError, MemoryBus, SubscribeOptions, Subscription},
        events::{Record, Topic},
        runtime::clock::SystemClock,
    };

    /// A log of which a part has ended.
    struct Ended;

    #[async_trait]
    impl Bus for Ended {
        async fn publish(&self, _: Vec<Record>) -> Result<(), BusError> {
            Err(BusError::Closed)
        }

        async fn subscribe(&self, _: SubscribeOptions) -> Result<Subscription, BusError> {
            Err(BusError::Closed)
        }

        fn partitions(&self, _: Topic) -> u32 {
            1
        }

        fn health(&self) -> Result<(), String> {
            Ok(())
        }

        async fn failed(&self) -> String {
            "producer: it panicked".into()
        }

        fn can_read(&self, _: &str) -> bool {
            true
        }

        fn is_local(&self) -> bool {
            false
        }

        async fn close(&self, _: Duration) {}
    }

    /// Nobody asks to stop.
    struct Never;

    #[async_trait]
    impl Stop for Never {
        async fn next(&mut self) -> (&'static str, u8) {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_part_of_the_log_ends_the_process_with_its_reason() {
        let (tasks, failures) = Tasks::new();
        let parts = Parts {
            tasks,
            failures,
            health: Health::default(),
            metrics: Metrics::default(),
            tracer: Tracer::default(),
            bus: Arc::new(Ended),
            clients: Arc::new(|_, _| unreachable!("no service is started")),
            clock: Arc::new(SystemClock),
            random: Arc::new(Random::from_seed(1)),
            deadlines: Deadlines::default(),
        };
        let running = Supervisor::new(parts);
        // No time passes before the failure is heard; the deadline only ends a test that fails.
        let ended = tokio::time::timeout(Duration::from_secs(60), running.run(&mut Never)).await.expect("it goes on");
        assert_eq!(ended.unwrap_err().to_string(), "task log: producer: it panicked");
    }

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
