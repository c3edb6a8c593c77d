//! The service `actions`: it owns the Action, and the annotation `eventpulse.io/applied-actions` on targets.
//!
//! In: action.requested. Out: Actions, one committed effect for each at most (promise 2), action.completed and action.failed.
//! May not touch: any other service, any resource but the Action and the target. [`breaker`], [`judge`],
//! [`keepers`], [`plan`], [`resolve`] and [`ring`] are pure.
//!
//! The protocol (design, section 5), and where it stands:
//! claim ([`claim`]) → before every send read the target and what is patched for it ([`look`]), then the Action ([`turn`]) → one JSON Patch with tests and ring ([`plan`],
//! [`send`]) → what an answer or its absence means ([`judge`]) → fence before giving up ([`fence`]) → result and outbox in one
//! write ([`end`]). [`run`] goes round until then; what people wrote is read by [`live`].

pub mod breaker;
mod claim;
mod end;
mod fence;
pub mod judge;
pub mod keepers;
mod live;
mod look;
pub mod plan;
pub mod resolve;
pub mod ring;
mod run;
mod send;
mod service;
mod target;
mod trace;
mod turn;

pub use service::{ActionsConfig, ActionsError, CONSUMES, run};

#[cfg(test)]
mod tests;
