//! How large an alert may be, whoever writes alert.raised, and how large a dead letter gets (promise 6). An alert beyond a bound is
//! a dead letter, and a dead letter is cut.

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
/// How far ahead of the time at which an alert is accepted it may have begun: the sender's clock may be ahead. Beyond it nothing
/// could begin anew until that time has come, and what is remembered of the alert would stay as long.
pub const AHEAD: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);
/// How far ahead the end that a firing alert gives itself counts; the longest `expireAfter` of a rule.
pub const ENDS_AHEAD: jiff::SignedDuration = jiff::SignedDuration::from_hours(720);
/// Bytes of the original that a dead letter keeps, before base 64.
pub const DEAD_LETTER_DATA_BYTES: usize = 64 << 10;
/// Headers of the original that a dead letter keeps.
pub const DEAD_LETTER_HEADERS: usize = 32;
/// Bytes of a header's value that a dead letter keeps.
pub const DEAD_LETTER_HEADER_BYTES: usize = 1 << 10;
/// Bytes of a dead letter's message.
pub const DEAD_LETTER_MESSAGE_BYTES: usize = 1 << 10;
/// Bytes of the original's key that a dead letter keeps, and that its own key has.
pub const DEAD_LETTER_KEY_BYTES: usize = 256;
