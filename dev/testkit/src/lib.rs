//! Parts of the end-to-end tests and the demo that are not the product.
//!
//! - [`sink`]: takes messages as Slack and as a generic webhook would, and misbehaves on request;
//! - [`proxy`]: stands before the API server, and loses, refuses, delays or holds what a rule names;
//! - [`tcp`]: stands before a broker, and cuts or holds connections;
//! - [`eventpulse`]: EventPulse as a process of its own;
//! - [`gauge`]: a metric to be scraped, whose value the test says;
//! - [`mail`]: an SMTP peer, a relay that loses answers, and what a mail server took;
//! - [`alerts`]: what Alertmanager and Prometheus send; [`client`] posts it.
//!
//! Everything listens on loopback, on a free port, and ends when its handle is dropped.

pub mod alerts;
pub mod client;
pub mod eventpulse;
pub mod gauge;
pub mod mail;
pub mod proxy;
pub mod sink;
pub mod tcp;

mod server;
mod slack;
mod teams;

#[cfg(test)]
mod tests;

use std::time::Duration;

/// Something did not happen in time.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {seen} of {wanted} within {} ms", deadline.as_millis())]
pub struct Shortfall {
    /// What was waited for.
    pub what: String,
    /// How often it was wanted.
    pub wanted: usize,
    /// How often it happened.
    pub seen: usize,
    /// How long it had.
    pub deadline: Duration,
}
