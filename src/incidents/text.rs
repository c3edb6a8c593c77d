//! Texts and times as an Incident keeps them: bounded and clean, whatever an event says (promise 6). Pure.

use jiff::Timestamp;

/// Longest `by` of a history entry, in bytes of JSON.
pub const BY_MAX: usize = 300;
/// Longest `what` of a history entry, in bytes of JSON: with everything else of the entry at most 900.
pub const WHAT_MAX: usize = 430;
/// Longest message of a condition, in bytes of JSON.
pub const MESSAGE_MAX: usize = 256;
/// Longest target, in bytes of JSON.
pub const TARGET_MAX: usize = 96;
/// Longest name of a runbook, step, alert or action, in bytes of JSON.
pub const NAME_MAX: usize = 63;
/// Longest fingerprint, in bytes of JSON.
pub const FINGERPRINT_MAX: usize = 64;
/// Longest name of a user, in bytes of JSON.
pub const USER_MAX: usize = 253;
/// Longest summary, in bytes of JSON.
pub const SUMMARY_MAX: usize = 1024;
/// Longest severity, in bytes of JSON.
pub const SEVERITY_MAX: usize = 128;

const ELLIPSIS: &str = "…";

/// The text without control characters, cut so that it takes at most `max` bytes in JSON. A cut text ends with `…`; cutting it
/// again changes nothing.
pub fn cut(text: &str, max: usize) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut kept = String::new();
    let mut size = 0;
    // Where to cut if the text turns out to be too long: the ellipsis needs room.
    let mut with_ellipsis = 0;
    for c in clean {
        size += if c == '"' || c == '\\' { 2 } else { c.len_utf8() };
        if size > max {
            kept.truncate(with_ellipsis);
            kept.push_str(ELLIPSIS);
            return kept;
        }
        kept.push(c);
        if size + ELLIPSIS.len() <= max {
            with_ellipsis = kept.len();
        }
    }
    kept
}

/// The time in whole milliseconds and not before 1970, so that it reads the same after a write, whoever claims what. Keeps the order.
pub fn sane(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond().max(0)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The time in whole seconds, as the conditions of Kubernetes keep it.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(sane(time).as_second()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Whether a text is a DNS label (RFC 1123), like a namespace.
pub fn is_dns_label(text: &str) -> bool {
    is_name(text, |b| b.is_ascii_lowercase() || b.is_ascii_digit(), |b| b == b'-')
}

/// Whether a text can be a resource's name and a label's value at once, like a rule's name.
pub fn is_rule_name(text: &str) -> bool {
    is_name(text, |b| b.is_ascii_lowercase() || b.is_ascii_digit(), |b| b == b'-' || b == b'.')
}

fn is_name(text: &str, edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && edge(bytes[0])
        && edge(bytes[bytes.len() - 1])
        && bytes.iter().all(|b| edge(*b) || inner(*b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_short_text_stays_as_it_is_and_a_long_one_says_that_it_was_cut() {
        assert_eq!(cut("Deployment/svc-a 3 → 4", 40), "Deployment/svc-a 3 → 4");
        assert_eq!(cut("abcdefgh", 7), "abcd…");
        assert_eq!(cut("a\nb\u{0}c", 9), "a b c");
        assert_eq!(cut("\"\"\"", 6), "\"\"\"");
        assert_eq!(cut("\"\"\"\"", 6), "\"…");
    }

    #[test]
    fn absurd_times_become_times_that_can_be_written_and_read_again() {
        for time in [Timestamp::MIN, Timestamp::MAX, Timestamp::UNIX_EPOCH] {
            let sane = sane(time);
            let text = serde_json::to_string(&sane).unwrap();
            assert_eq!(serde_json::from_str::<Timestamp>(&text).unwrap(), sane);
            assert!(text.len() <= 26, "{text}");
        }
    }

    #[test]
    fn names_that_would_change_a_path_or_break_a_label_are_none() {
        for text in ["", "..", "a/b", "a%2fb", "-a", "a-", "A", "ä", "a b", &"a".repeat(64)] {
            assert!(!is_dns_label(text) && !is_rule_name(text), "{text:?} was accepted");
        }
        assert!(is_dns_label("shop") && is_rule_name("cpu.high-1") && !is_dns_label("cpu.high"));
    }

    proptest! {
        #[test]
        fn a_cut_text_fits_and_is_stable(text in "\\PC*|.{0,80}", max in 3_usize..60) {
            let once = cut(&text, max);
            prop_assert!(serde_json::to_string(&once).unwrap().len() - 2 <= max);
            prop_assert_eq!(cut(&once, max), once);
        }
    }
}
