//! EventPulse: alerts become incidents, actions and notifications inside a Kubernetes cluster.
//!
//! The services (`docs/design.md`, section 1) react to each other's events and never import one another; they share
//! [`api`], [`events`], [`bus`] and [`runtime`].

pub mod api;
pub mod bus;
pub mod cli;
pub mod compile;
pub mod config;
pub mod crash_points;
pub mod events;
pub mod expression;
pub mod matcher;
pub mod mutants;
pub mod runtime;
pub mod services;
pub mod template;

pub mod actions;
pub mod config_status;
pub mod incidents;
pub mod ingest;
pub mod notify;
pub mod rules;

#[cfg(test)]
pub mod testing;
