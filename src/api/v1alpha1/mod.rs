//! `eventpulse.io/v1alpha1`.
//!
//! Written by people: [`Rule`], [`Runbook`], [`NotificationChannel`].
//! Written by EventPulse, each kind by exactly one service (design, section 1): `AlertGroup` (rules), `Action` (actions),
//! `Incident` (incidents), `Notification` (notify).

// Printer columns of one kind share their type.
#![allow(clippy::duplicated_attributes)]

mod action;
mod alert_group;
mod channel;
mod duration;
mod incident;
mod notification;
mod outbox;
mod reference;
mod rule;
mod runbook;
mod workload;

pub use action::*;
pub use alert_group::*;
pub use channel::*;
pub use duration::{Duration, InvalidDuration};
pub use incident::*;
pub use notification::*;
pub use outbox::{OUTBOX_MAX, OutboxEntry};
pub use reference::*;
pub use rule::*;
pub use runbook::*;
pub use workload::*;

/// The API group of every kind.
pub const GROUP: &str = "eventpulse.io";
/// The API version of every kind.
pub const VERSION: &str = "v1alpha1";
/// Label on Incident, Action, Notification and AlertGroup: the name of the rule they belong to.
pub const LABEL_RULE: &str = "eventpulse.io/rule";
/// Label of an AlertGroup that is its rule's storm.
pub const LABEL_STORM: &str = "eventpulse.io/storm";
/// Label on Incident, Action, Notification and AlertGroup: the name of the incident that they are about.
pub const LABEL_INCIDENT: &str = "eventpulse.io/incident";
/// Annotation on targets: the bounded ring of applied action ids (design, section 5, actions).
pub const ANNOTATION_APPLIED: &str = "eventpulse.io/applied-actions";
/// Finalizer that keeps an Action, which is a claim, until nothing can repeat it any more.
pub const FINALIZER_CLAIM: &str = "eventpulse.io/claim";
