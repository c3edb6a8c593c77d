//! What every service stands on: clock, random source, the three steps, mailboxes, ownership, supervision and telemetry.
//!
//! In: the ports (bus, Kubernetes client, clock, random source) and the configuration. Out: the [`Context`] that a service is a
//! function of, and the pieces it is built from. May not touch: any service.

pub mod clock;
pub mod random;
