//! Alertmanager's older, tolerant grammar (`pkg/labels`): the value may be bare, and a spurious backslash stands for itself.

use super::{Operator, Raw};

/// Reads any number of matchers; none when the text is not of this grammar (`ParseMatchers`).
pub(super) fn parse(input: &str) -> Option<Vec<Raw>> {
    let input = input.strip_prefix('{').unwrap_or(input);
    let input = input.strip_suffix('}').unwrap_or(input);
    let mut matchers = Vec::new();
    let (mut quoted, mut escaped, mut begin) = (false, false, 0);
    for (at, c) in input.char_indices() {
        match c {
            // Alertmanager leaves `escaped` as it is at a comma, within quotes and without.
            ',' if !quoted => {
                matchers.push(matcher(&input[begin..at])?);
                begin = at + 1;
            }
            ',' => {}
            '"' if escaped => escaped = false,
            '"' => quoted = !quoted,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    let last = input[begin..].trim();
    if !last.is_empty() {
        matchers.push(matcher(last)?);
    }
    Some(matchers)
}

/// Go's `\s`: ASCII only, without the vertical tab.
fn is_space(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\x0c' | '\r' | ' ')
}

/// One matcher (`ParseMatcher`).
fn matcher(text: &str) -> Option<Raw> {
    let text = text.trim_matches(is_space);
    let name_len = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').unwrap_or(text.len());
    let (name, rest) = text.split_at(name_len);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let rest = rest.trim_start_matches(is_space);
    let (operator, value) =
        [("=~", Operator::Match), ("=", Operator::Equal), ("!=", Operator::NotEqual), ("!~", Operator::NotMatch)]
            .into_iter()
            .find_map(|(sign, operator)| rest.strip_prefix(sign).map(|value| (operator, value)))?;
    Some(Raw { name: name.to_owned(), operator, value: value_of(value.trim_start_matches(is_space))? })
}

/// Undoes OpenMetrics' escapes; a `"` that is neither escaped nor the first or last character is refused.
fn value_of(raw: &str) -> Option<String> {
    let (raw, mut expect_quote) = raw.strip_prefix('"').map_or((raw, false), |inner| (inner, true));
    let mut value = String::with_capacity(raw.len());
    let mut escaped = false;
    for (at, c) in raw.char_indices() {
        let last = at + c.len_utf8() == raw.len();
        if escaped {
            escaped = false;
            match c {
                'n' => value.push('\n'),
                '"' | '\\' => value.push(c),
                _ => value.extend(['\\', c]),
            }
            continue;
        }
        match c {
            '\\' if !last => escaped = true,
            '"' if !expect_quote || !last => return None,
            '"' => expect_quote = false,
            _ => value.push(c),
        }
    }
    (!expect_quote).then_some(value)
}
