//! How large an alert may be, whoever writes alert.raised (promise 6). One beyond a bound is a dead letter.

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
