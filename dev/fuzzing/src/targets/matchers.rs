//! Alertmanager's matchers: what is read is read the same again, and of an operator and its opposite exactly one holds.

use std::collections::BTreeMap;

use eventpulse::matcher::{MATCHERS_LEN_MAX, Matcher, MatcherError, Operator, parse};

use crate::check::is_told;

/// What else the label may say.
const PROBES: [&str; 6] = ["", "x", "warning", "A\nb", "0", "ü\u{202e}"];

pub(crate) fn matchers(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let matchers = match parse(text) {
        Ok(matchers) => matchers,
        Err(error) => {
            is_told(&error, 3 * MATCHERS_LEN_MAX);
            if let MatcherError::Syntax { begin, end, .. } = error {
                assert!(begin <= end && end <= text.chars().count() + 1, "{begin}:{end} is no place in {text:?}");
            }
            return;
        }
    };
    assert!(!matchers.is_empty() && text.len() <= MATCHERS_LEN_MAX, "{text:?}");
    assert_eq!(parse(text).as_ref(), Ok(&matchers), "{text:?}");
    matchers.iter().for_each(is_sound);
}

fn is_sound(matcher: &Matcher) {
    let opposite = match matcher.operator() {
        Operator::Equal => "!=",
        Operator::NotEqual => "=",
        Operator::Match => "!~",
        Operator::NotMatch => "=~",
    };
    let (name, value) = (matcher.name(), matcher.value());
    let written = format!("{}{opposite}{}", quoted(name), quoted(value));
    let opposite = (written.len() <= MATCHERS_LEN_MAX).then(|| parse(&written).expect("what is read can be written"));
    for probe in PROBES.into_iter().chain([value]) {
        let labels = labels(name, probe);
        let matches = matcher.matches(&labels);
        match matcher.operator() {
            Operator::Equal => assert_eq!(matches, probe == value, "{matcher} with {probe:?}"),
            Operator::NotEqual => assert_eq!(matches, probe != value, "{matcher} with {probe:?}"),
            Operator::Match | Operator::NotMatch => {}
        }
        if let Some(opposite) = &opposite {
            let [opposite] = opposite.as_slice() else { panic!("{written} is {opposite:?}") };
            assert_eq!((opposite.name(), opposite.value()), (name, value), "{written}");
            assert_ne!(opposite.matches(&labels), matches, "{matcher} and {opposite} with {probe:?}");
        }
    }
    // A label that is missing is the empty text.
    assert_eq!(matcher.matches(&BTreeMap::new()), matcher.matches(&labels(name, "")), "{matcher}");
    let shown = matcher.to_string();
    if is_visible(name) && is_visible(value) && shown.len() <= MATCHERS_LEN_MAX {
        assert_eq!(
            parse(&shown).as_deref(),
            Ok(std::slice::from_ref(matcher)),
            "what is shown reads otherwise: {shown}"
        );
    }
}

fn labels(name: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(name.to_owned(), value.to_owned())])
}

/// A text in quotes, as Go reads it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// Whether people see every character of it: others are shown escaped, as no matcher is written.
fn is_visible(text: &str) -> bool {
    text.chars().all(|c| "\"\\\n'".contains(c) || c.escape_debug().eq([c]))
}
