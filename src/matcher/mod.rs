//! Alertmanager's matchers: `severity=~"warning|critical"` (prometheus/alertmanager, `matcher/parse`, `matcher/compat` and
//! `pkg/labels`, as of version 0.31).
//!
//! In: the text of a matcher and a set of labels. Out: whether they match, or a [`MatcherError`] that names the place.
//! Pure: no I/O, no clock, no service.

mod classic;
mod re2;
mod utf8;

use std::{collections::BTreeMap, fmt};

use regex::Regex;

pub use re2::search;

/// The most bytes of one text of matchers.
pub const MATCHERS_LEN_MAX: usize = 4096;

/// Why a text is no matcher.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatcherError {
    /// It breaks the grammar; columns are characters from 0.
    #[error("{begin}:{end}: {problem}")]
    Syntax {
        /// Where the problem begins.
        begin: usize,
        /// Where it ends.
        end: usize,
        /// What is wrong.
        problem: String,
    },
    /// The regular expression cannot be used.
    #[error("regular expression {pattern:?}: {problem}")]
    Regex {
        /// The expression.
        pattern: String,
        /// What is wrong.
        problem: String,
    },
    /// There is none.
    #[error("no matchers")]
    None,
    /// It is too long.
    #[error("matchers have at most {MATCHERS_LEN_MAX} bytes")]
    TooLong,
}

/// How a matcher compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Match,
    /// `!~`
    NotMatch,
}

/// One matcher, compiled.
#[derive(Clone)]
pub struct Matcher {
    raw: Raw,
    regex: Option<Regex>,
}

/// What a parser reads, before regular expressions are compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Raw {
    name: String,
    operator: Operator,
    value: String,
}

impl Matcher {
    /// The label it looks at.
    pub fn name(&self) -> &str {
        &self.raw.name
    }

    /// How it compares.
    pub fn operator(&self) -> Operator {
        self.raw.operator
    }

    /// What it compares with.
    pub fn value(&self) -> &str {
        &self.raw.value
    }

    /// Whether the label set matches. A label that is missing is the empty text, as in Alertmanager.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.raw.name).map_or("", String::as_str);
        let matched = self.regex.as_ref().is_some_and(|regex| regex.is_match(value));
        match self.raw.operator {
            Operator::Equal => value == self.raw.value,
            Operator::NotEqual => value != self.raw.value,
            Operator::Match => matched,
            Operator::NotMatch => !matched,
        }
    }

    fn compile(raw: Raw) -> Result<Self, MatcherError> {
        let regex = match raw.operator {
            Operator::Equal | Operator::NotEqual => None,
            Operator::Match | Operator::NotMatch => Some(re2::compile(&raw.value)?),
        };
        Ok(Self { raw, regex })
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operator = match self.raw.operator {
            Operator::Equal => "=",
            Operator::NotEqual => "!=",
            Operator::Match => "=~",
            Operator::NotMatch => "!~",
        };
        let (name, value) = (&self.raw.name, utf8::quote(&self.raw.value));
        if name.is_empty() || name.chars().any(utf8::is_reserved) {
            write!(f, "{}{operator}{value}", utf8::quote(name))
        } else {
            write!(f, "{name}{operator}{value}")
        }
    }
}

/// Reads one entry of a `matchers` list as Alertmanager reads its own configuration: usually one matcher; several with commas
/// between them, and braces around them, are accepted too, and all must hold. At least one is needed.
///
/// Both of Alertmanager's parsers are asked, as it does by default: where the older one reads the text otherwise, or is the only
/// one that reads it, it wins (`matcher/compat`, `FallbackMatchersParser`).
pub fn parse(input: &str) -> Result<Vec<Matcher>, MatcherError> {
    if input.len() > MATCHERS_LEN_MAX {
        return Err(MatcherError::TooLong);
    }
    let raw = match (utf8::parse(input), classic::parse(input)) {
        (_, Some(classic)) if !classic.is_empty() => {
            // The older parser reads a regular expression that cannot be compiled as an error, too.
            match classic.into_iter().map(Matcher::compile).collect() {
                Ok(matchers) => return Ok(matchers),
                Err(error) => utf8::parse(input).map_err(|_: MatcherError| error)?,
            }
        }
        (utf8, _) => utf8?,
    };
    if raw.is_empty() {
        return Err(MatcherError::None);
    }
    raw.into_iter().map(Matcher::compile).collect()
}

#[cfg(test)]
mod tests;
