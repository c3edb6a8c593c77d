//! Where accepted alerts go: the outbox, or the log itself where that is on this machine's disk.

use std::{sync::Arc, time::Duration};

use super::outbox::{Outbox, OutboxError};
use crate::{api::v1alpha1::OutboxEntry, events::Event, runtime::Context};

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
}

impl Intake {
    /// Returns when every event is durable.
    pub(super) async fn accept(&self, ctx: &Context, events: &[Event]) -> Result<(), IntakeError> {
        if events.is_empty() {
            return Ok(());
        }
        match self {
            Intake::Outbox(outbox) => {
                let entries: Vec<OutboxEntry> =
                    events.iter().filter_map(|event| OutboxEntry::try_from(event).ok()).collect();
                Ok(outbox.append(entries).await?)
            }
            Intake::Log => {
                let records = events.iter().filter_map(|event| event.encode().ok()).collect();
                match tokio::time::timeout(PUBLISH_TIMEOUT, ctx.bus.publish(records)).await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(error)) => Err(IntakeError::Log(error.to_string())),
                    Err(_) => {
                        Err(IntakeError::Log(format!("no acknowledgement within {} s", PUBLISH_TIMEOUT.as_secs())))
                    }
                }
            }
        }
    }
}
