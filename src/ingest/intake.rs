//! Where accepted alerts go: the outbox, or the log itself where that is on this machine's disk.

use std::{sync::Arc, time::Duration};

use super::outbox::{Outbox, OutboxError};
use crate::{
    api::v1alpha1::OutboxEntry,
    events::Event,
    runtime::{Context, ServiceHealth, group_commit::WriteError},
};

const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

/// See the module's text.
#[derive(Clone)]
pub(super) enum Intake {
    /// Append, answer, relay.
    Outbox(Arc<Outbox>),
    /// One append to the log.
    Log,
}

/// Why nothing was accepted: the sender has to come again.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The outbox.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The log.
    #[error("the log does not take it: {0}")]
    Log(String),
    /// An event that cannot be written down.
    #[error("it cannot be written: {0}")]
    Unwritable(String),
}

fn unwritable(error: impl std::fmt::Display) -> IntakeError {
    IntakeError::Unwritable(error.to_string())
}

impl Intake {
    /// Returns when every event is durable.
    pub(super) async fn accept(&self, ctx: &Context, events: &[Event]) -> Result<(), IntakeError> {
        if events.is_empty() {
            return Ok(());
        }
        match self {
            Intake::Outbox(outbox) => {
                let row = |event| OutboxEntry::try_from(event).and_then(|entry| serde_json::to_string(&entry));
                let rows = events.iter().map(row).collect::<Result<Vec<_>, _>>().map_err(unwritable)?;
                let outbox = Arc::clone(outbox);
                // A sender that hangs up drops this future, but not the write that it has begun, nor its count.
                let appended = ctx.tasks.complete("ingest-append", async move { outbox.append(rows).await }).await;
                Ok(appended.unwrap_or(Err(OutboxError::Write(WriteError::Closed)))?)
            }
            Intake::Log => {
                let records = events.iter().map(Event::encode).collect::<Result<Vec<_>, _>>().map_err(unwritable)?;
                let told = if ctx.tracer.is_recording() { records.clone() } else { Vec::new() };
                match tokio::time::timeout(PUBLISH_TIMEOUT, ctx.bus.publish(records)).await {
                    Ok(Ok(())) => {
                        let now = ctx.clock.now();
                        told.iter().for_each(|record| ctx.tracer.produced(record, now));
                        Ok(())
                    }
                    Ok(Err(error)) => Err(IntakeError::Log(error.to_string())),
                    Err(_) => {
                        Err(IntakeError::Log(format!("no acknowledgement within {} s", PUBLISH_TIMEOUT.as_secs())))
                    }
                }
            }
        }
    }

    /// Readiness tells how full the outbox is; a trouble when it is likely to be full soon.
    pub(super) fn tell(&self, health: &ServiceHealth) {
        let Intake::Outbox(outbox) = self else { return };
        let (text, is_filling) = outbox.filling();
        health.trouble("outbox", is_filling.then(|| format!("{text}; when it is full, senders get 503")));
        health.ready_with("backlog", text);
    }

    /// Whether alerts would be accepted now.
    pub(super) async fn accepts(&self, ctx: &Context) -> Result<(), IntakeError> {
        match self {
            Intake::Outbox(outbox) => Ok(outbox.accepts().await?),
            Intake::Log => ctx.bus.health().map_err(IntakeError::Log),
        }
    }
}
