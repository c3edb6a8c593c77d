//! How much of anything is accepted (promise 6). A request beyond its bounds is refused whole; an alert beyond its own is refused
//! alone, and kept as a dead letter.

/// Bytes of a request's body.
pub const BODY_BYTES: usize = 1 << 20;
/// Alerts of a request.
pub const ALERTS: usize = 5_000;
/// Labels, and annotations, of an alert.
pub const LABELS: usize = 128;
/// Bytes of a label's or annotation's name.
pub const NAME_BYTES: usize = 256;
/// Bytes of a label's value.
pub const LABEL_VALUE_BYTES: usize = 4 << 10;
/// Bytes of an annotation's value.
pub const ANNOTATION_VALUE_BYTES: usize = 16 << 10;
/// Bytes of an alert in all, as it is put on the log.
pub const ALERT_BYTES: usize = 128 << 10;
/// Bytes of a generator URL; a longer one is left out.
pub const URL_BYTES: usize = 2 << 10;
/// Problems that an answer lists; beyond it there is the count.
pub const ANSWER_ERRORS: usize = 20;
