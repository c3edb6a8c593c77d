//! The service `ingest`: it accepts alerts over HTTP and puts them on the log.
//!
//! In: `POST /webhooks/alertmanager` (Alertmanager's webhook, version 4) and `POST /api/v2/alerts` (what Prometheus sends to an
//! Alertmanager), and the same on a topic of Kafka that is not ours ([`topic`]). Out: alert.raised, dead letters. What is answered with 2xx is on disk or on the log (promise 1): [`outbox`] keeps
//! it while the broker is away, [`relay`] takes it from there. May not touch: any other service, kube. [`normalise`] and
//! [`bounds`] are pure.

mod auth;
pub mod bounds;
mod http;
mod intake;
pub mod normalise;
mod outbox;
mod relay;
mod said;
mod service;
mod topic;

pub use auth::{TokenError, check_token_file};
pub use outbox::check_file as check_outbox_file;
pub use service::{IngestConfig, IngestError, run};

#[cfg(test)]
mod tests;
