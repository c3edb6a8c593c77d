//! What a service is a function of.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Metrics, RightOfWay, ServiceHealth, Tasks, clock::Clock, random::Random, telemetry::Tracer};
use crate::bus::Bus;

/// The ports and the surroundings of one service. A simulator can put its own in every place.
#[derive(Clone)]
pub struct Context {
    /// The service's name, as it stands in `--services`, metrics and `ce_source`.
    pub service: &'static str,
    /// The log.
    pub bus: Arc<dyn Bus>,
    /// The service's own client, with a connection pool of its own (bulkhead).
    pub kube: kube::Client,
    /// Who of the process goes first at the API server.
    pub way: RightOfWay,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub random: Arc<Random>,
    /// The only way to start a task.
    pub tasks: Tasks,
    /// Where the service says what it waits for.
    pub health: ServiceHealth,
    /// Where the service counts.
    pub metrics: Metrics,
    /// Where the service puts what it has done, as spans.
    pub tracer: Tracer,
    /// Cancelled first when the process is to stop: nothing more is taken from outside.
    pub intake: CancellationToken,
    /// Cancelled then: begin nothing new, finish what was begun.
    pub shutdown: CancellationToken,
}

impl Context {
    /// `ce_source` of the events that this service decides.
    pub fn source(&self) -> String {
        format!("eventpulse/{}", self.service)
    }
}
