//! How much of anything is accepted (promise 6). A request beyond its bounds is refused whole; an alert beyond its own is refused
//! alone, and kept as a dead letter.

pub use crate::events::bounds::{AHEAD, ALERT_BYTES, ANNOTATION_VALUE_BYTES, LABEL_VALUE_BYTES, LABELS, NAME_BYTES};

/// Bytes of a request's body.
pub const BODY_BYTES: usize = 1 << 20;
/// Bytes of all bodies that are being read or taken in.
pub const BODIES_BYTES: usize = 64 << 20;
/// Alerts of a request.
pub const ALERTS: usize = 5_000;
/// Bytes of a generator URL; a longer one is left out.
pub const URL_BYTES: usize = 2 << 10;
/// Problems that an answer lists; beyond it there is the count.
pub const ANSWER_ERRORS: usize = 20;
