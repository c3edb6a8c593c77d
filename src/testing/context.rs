//! A context for service tests: the memory bus, the API server in memory, a clock that stands still, a seeded random source.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tower::Layer;

use super::FakeApi;
use crate::{
    bus::Bus,
    runtime::{
        Context, Health, Metrics, RightOfWay, TaskFailure, Tasks,
        api_metrics::ApiMetrics,
        clock::{Clock, ManualClock},
        random::Random,
        telemetry::Tracer,
    },
};

/// Everything that a test may want to reach behind a [`Context`].
pub struct TestContext {
    /// What the service under test gets.
    pub ctx: Context,
    /// The API server.
    pub api: FakeApi,
    /// The clock.
    pub clock: Arc<ManualClock>,
    /// What the services say about themselves.
    pub health: Health,
    /// Tasks that ended as they should not have.
    pub failures: mpsc::Receiver<TaskFailure>,
}

impl TestContext {
    /// For one service, on this bus, with an empty API server; it is 2026-01-01T12:00:00Z.
    pub fn new(service: &'static str, bus: Arc<dyn Bus>) -> Self {
        Self::with_api(service, bus, FakeApi::new())
    }

    /// For one more service, or one more replica, beside others at the same API server.
    pub fn with_api(service: &'static str, bus: Arc<dyn Bus>, api: FakeApi) -> Self {
        Self::with_metrics(service, bus, api, &Metrics::default())
    }

    /// The same, counting in these metrics.
    pub fn with_metrics(service: &'static str, bus: Arc<dyn Bus>, api: FakeApi, metrics: &Metrics) -> Self {
        let clock = Arc::new(ManualClock::new("2026-01-01T12:00:00Z".parse().expect("a constant time")));
        let health = Health::default();
        health.measure(metrics);
        let (tasks, failures) = Tasks::new();
        let shutdown = CancellationToken::new();
        let ctx = Context {
            service,
            bus,
            kube: measured_client(&api, service, metrics),
            way: RightOfWay::new(metrics),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            random: Arc::new(Random::from_seed(1)),
            tasks,
            health: health.service(service),
            metrics: metrics.clone(),
            tracer: Tracer::default(),
            intake: shutdown.child_token(),
            shutdown,
        };
        Self { ctx, api, clock, health, failures }
    }
}

/// A client of the API server in memory whose calls are counted as those of this service.
pub fn measured_client(api: &FakeApi, service: &'static str, metrics: &Metrics) -> kube::Client {
    kube::Client::new(ApiMetrics::new(service, metrics).layer(api.service(service)), "default")
}
