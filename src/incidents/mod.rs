//! The service `incidents`: it owns the Incident, the truth that `kubectl get incidents` shows.
//!
//! In: incident.opened, incident.resolved, action.requested, action.completed, action.failed, notification.delivered and
//! notification.failed; people's decisions in `spec.acknowledged` and `spec.resolved`. Out: Incidents, and incident.updated. What is
//! known of an incident is a join of what was said ([`facts`]), so no order, repetition or crash changes its end (promise 5).
//! May not touch: any other service, any resource but the Incident. [`evolve`], [`facts`], [`fold`], [`said`], [`text`] and
//! [`retention`] are pure.

pub mod evolve;
pub mod facts;
pub mod fold;
mod policy;
pub mod reason;
pub mod retention;
pub mod said;
mod service;
mod store;
pub mod text;
mod told;

pub use policy::POLICY_NAME;
pub use service::{CONSUMES, IncidentsConfig, IncidentsError, run};

#[cfg(test)]
mod tests;
