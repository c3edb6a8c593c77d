//! How the process is asked to stop, how long each stage of it may take, and how it has ended.

use std::{io, time::Duration};

use async_trait::async_trait;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long after the last stage the process may need to end.
pub const END_MARGIN: Duration = Duration::from_secs(2);

/// How long each stage of the stop may take, in their order. A stage ends as soon as nothing is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Readiness is off and alerts are still taken, until whoever sends them knows. The only one that is waited for in any case.
    pub delay: Duration,
    /// No connection is accepted any more; the requests under way are answered.
    pub intake: Duration,
    /// Nothing new is begun; what was begun is finished.
    pub drain: Duration,
    /// The log takes the last records and stores the offsets.
    pub flush: Duration,
    /// Telemetry is handed out.
    pub telemetry: Duration,
}

impl Default for Deadlines {
    /// 28 s with the margin: Kubernetes kills after 30 s.
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            intake: Duration::from_secs(3),
            drain: Duration::from_secs(15),
            flush: Duration::from_secs(5),
            telemetry: Duration::from_secs(3),
        }
    }
}

impl Deadlines {
    /// All stages and the margin.
    pub fn total(&self) -> Duration {
        self.delay + self.intake + self.drain + self.flush + self.telemetry + END_MARGIN
    }
}

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In order.
    Orderly,
    /// At once, by a second signal: its number.
    AtOnce(u8),
}

/// What asks a process to stop: the first time in order, the second time at once.
#[async_trait]
pub trait Stop: Send {
    /// The next time: a name for the log, and the number of the signal.
    async fn next(&mut self) -> (&'static str, u8);
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they do not end the process by themselves: the first process of a container would not even hear of them otherwise.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }
}

#[async_trait]
impl Stop for Signals {
    async fn next(&mut self) -> (&'static str, u8) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", 15),
            _ = self.interrupt.recv() => ("SIGINT", 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_the_stages_fit_in_what_kubernetes_grants() {
        assert_eq!(Deadlines::default().total(), Duration::from_secs(28));
    }
}
