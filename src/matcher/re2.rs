//! Go's regular expressions (RE2, `regexp/syntax` with Perl flags) in Rust's: anchored at both ends, as Alertmanager does.
//!
//! The two engines are of one family, linear in time and without backreferences, but differ in what they accept: Go's `\d`, `\w`,
//! `\s` and `\b` are ASCII; in a class `[` and `&&` are plain characters; `{,5}` is text; `**` is an error; and Rust knows flags
//! and escapes that Go does not. Each is translated, or refused with a clear message, so that a matcher means here what it means
//! in Alertmanager.

use regex::{Regex, RegexBuilder};

use super::MatcherError;

/// Memory for one compiled expression and for its lazy automaton (promise 6).
const SIZE_MAX: usize = 1 << 20;
/// The same for a pattern of an expression: the least that is tried, and the most that is allowed.
const SEARCH_SIZE_MIN: usize = 1 << 10;
const SEARCH_SIZE_MAX: usize = 1 << 16;
/// How deep groups may be nested.
const NESTING_MAX: u32 = 64;
/// Go's own bound on `{n,m}`.
const REPEAT_MAX: u32 = 1000;

const DIGIT: &str = "0-9";
const WORD: &str = "0-9A-Za-z_";
const SPACE: &str = r"\t\n\f\r ";

/// Compiles `^(?:pattern)$`.
pub(super) fn compile(pattern: &str) -> Result<Regex, MatcherError> {
    let translated = translate(pattern).map_err(|problem| error(pattern, problem.to_owned()))?;
    build(&format!("^(?:{translated})$"), SIZE_MAX).map_err(|e| told(pattern, SIZE_MAX, &e))
}

/// Compiles a pattern that may match anywhere in a text, as CEL's `matches` has it, which is RE2 too. Beside it the bytes, as a power
/// of two, that it needs at most: what matching costs at the worst grows with them.
pub fn search(pattern: &str) -> Result<(Regex, usize), MatcherError> {
    let translated = translate(pattern).map_err(|problem| error(pattern, problem.to_owned()))?;
    let mut size = SEARCH_SIZE_MIN;
    loop {
        match build(&translated, size) {
            Ok(regex) => return Ok((regex, size)),
            Err(regex::Error::CompiledTooBig(_)) if size < SEARCH_SIZE_MAX => size *= 2,
            Err(e) => return Err(told(pattern, size, &e)),
        }
    }
}

fn build(translated: &str, size_max: usize) -> Result<Regex, regex::Error> {
    RegexBuilder::new(translated).size_limit(size_max).dfa_size_limit(SIZE_MAX).nest_limit(NESTING_MAX).build()
}

fn error(pattern: &str, problem: String) -> MatcherError {
    MatcherError::Regex { pattern: pattern.chars().take(200).collect(), problem }
}

fn told(pattern: &str, size_max: usize, e: &regex::Error) -> MatcherError {
    match e {
        regex::Error::CompiledTooBig(_) => error(pattern, format!("needs more than {size_max} bytes when compiled")),
        // The library draws the expression with an arrow; its last line says what is wrong.
        other => {
            let text = other.to_string();
            let line = text.lines().last().unwrap_or_default();
            error(pattern, line.trim_start_matches("error: ").to_owned())
        }
    }
}

type Outcome<T> = Result<T, &'static str>;

fn translate(pattern: &str) -> Outcome<String> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    // Whether the last thing was a repetition, which Go does not let another one follow.
    let mut repeated = false;
    let mut depth: u32 = 0;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        let was_repeated = std::mem::take(&mut repeated);
        rest = match c {
            '\\' => escape(after, &mut out)?,
            '[' => class(after, &mut out)?,
            '(' => {
                depth += 1;
                if depth > NESTING_MAX {
                    return Err("groups are nested too deeply");
                }
                group(after, &mut out, &mut depth)?
            }
            ')' => {
                depth = depth.checked_sub(1).ok_or("unexpected )")?;
                out.push(')');
                after
            }
            '*' | '+' | '?' => {
                out.push(c);
                repeated = true;
                after
            }
            '{' => match counted(rest)? {
                Some(len) => {
                    out.push_str(&rest[..len]);
                    repeated = true;
                    &rest[len..]
                }
                None => {
                    out.push_str(r"\{");
                    after
                }
            },
            '}' => {
                out.push_str(r"\}");
                after
            }
            _ => {
                out.push(c);
                after
            }
        };
        if repeated {
            if was_repeated {
                return Err("one repetition operator cannot follow another");
            }
            // A `?` right after makes it lazy.
            if let Some(lazy) = rest.strip_prefix('?') {
                out.push('?');
                rest = lazy;
            }
        }
    }
    if depth == 0 { Ok(out) } else { Err("missing closing )") }
}

/// The length of `{n}`, `{n,}` or `{n,m}` at the beginning; none where Go takes the brace as text.
fn counted(text: &str) -> Outcome<Option<usize>> {
    let Some(end) = text.find('}') else { return Ok(None) };
    let inner = &text[1..end];
    let (low, high) = inner.split_once(',').map_or((inner, None), |(low, high)| (low, Some(high)));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(low) || !high.is_none_or(|high| high.is_empty() || digits(high)) {
        return Ok(None);
    }
    let number =
        |part: &str| part.parse::<u32>().ok().filter(|n| *n <= REPEAT_MAX).ok_or("a repeat count is above 1000");
    number(low)?;
    if let Some(high) = high.filter(|high| !high.is_empty()) {
        number(high)?;
    }
    Ok(Some(end + 1))
}

/// A group's opening, after `(`. Of the flags, Go knows i, m, s and U.
fn group<'a>(after: &'a str, out: &mut String, depth: &mut u32) -> Outcome<&'a str> {
    out.push('(');
    let Some(extension) = after.strip_prefix('?') else { return Ok(after) };
    if extension.starts_with("P<")
        || (extension.starts_with('<') && !extension.starts_with("<=") && !extension.starts_with("<!"))
    {
        let end = extension.find('>').ok_or("a group's name has no end")?;
        let name = extension[..end].trim_start_matches('P').trim_start_matches('<');
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err("a group's name is invalid");
        }
        // Go lets a name begin with a digit; nobody can refer to it here, so that a number is as good.
        return Ok(&extension[end + 1..]);
    }
    let end = extension.find([':', ')']).ok_or("missing closing )")?;
    if !extension[..end].bytes().all(|b| b"imsU-".contains(&b)) {
        return Err("this group syntax is not supported; flags are i, m, s and U, and there is no looking around");
    }
    out.push('?');
    out.push_str(&extension[..=end]);
    if extension[end..].starts_with(')') {
        *depth -= 1;
    }
    Ok(&extension[end + 1..])
}

/// An escape outside of a class, after the backslash.
fn escape<'a>(after: &'a str, out: &mut String) -> Outcome<&'a str> {
    let c = after.chars().next().ok_or("a backslash stands at the end")?;
    let rest = &after[c.len_utf8()..];
    match c {
        'd' | 'w' | 's' => out.push_str(&format!("[{}]", perl(c))),
        'D' | 'W' | 'S' => out.push_str(&format!("[^{}]", perl(c))),
        'b' => out.push_str(r"(?-u:\b)"),
        'B' => out.push_str(r"(?-u:\B)"),
        'A' | 'z' => out.extend(['\\', c]),
        'Q' => {
            let (literal, rest) = rest.split_once(r"\E").unwrap_or((rest, ""));
            out.push_str(&regex::escape(literal));
            return Ok(rest);
        }
        _ => return character_escape(after, out),
    }
    Ok(rest)
}

/// The ASCII members of `\d`, `\w` or `\s`, and of their opposites.
fn perl(c: char) -> &'static str {
    match c {
        'd' | 'D' => DIGIT,
        'w' | 'W' => WORD,
        _ => SPACE,
    }
}

/// Escapes that are the same in and out of a class: single characters and Unicode classes.
fn character_escape<'a>(after: &'a str, out: &mut String) -> Outcome<&'a str> {
    let c = after.chars().next().ok_or("a backslash stands at the end")?;
    let rest = &after[c.len_utf8()..];
    match c {
        'a' | 'f' | 't' | 'n' | 'r' | 'v' => {
            out.extend(['\\', c]);
            Ok(rest)
        }
        'x' => {
            let len = if rest.starts_with('{') { rest.find('}').ok_or("\\x{ has no end")? + 1 } else { 2 };
            let digits = rest.get(..len).ok_or("\\x needs two hexadecimal digits")?;
            out.push_str("\\x");
            out.push_str(digits);
            Ok(&rest[len..])
        }
        'p' | 'P' => {
            let len = match rest.chars().next() {
                Some('{') => rest.find('}').ok_or("\\p{ has no end")? + 1,
                Some(letter) => letter.len_utf8(),
                None => return Err("\\p needs a name"),
            };
            let name = rest[..len].trim_start_matches('{').trim_end_matches('}');
            let (name, negated) = name.strip_prefix('^').map_or((name, c == 'P'), |name| (name, c == 'p'));
            if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err("the name of a Unicode class is invalid");
            }
            out.push_str(&format!("\\{}{{{name}}}", if negated { 'P' } else { 'p' }));
            Ok(&rest[len..])
        }
        '0'..='7' => octal(after, out),
        _ if c.is_ascii() && !c.is_ascii_alphanumeric() => {
            out.push_str(&regex::escape(&c.to_string()));
            Ok(rest)
        }
        _ => Err("unknown escape"),
    }
}

/// `\123`: up to three octal digits; a single one but 0 would be a backreference, which there is none of.
fn octal<'a>(after: &'a str, out: &mut String) -> Outcome<&'a str> {
    let len = after.bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
    if len == 1 && !after.starts_with('0') {
        return Err("backreferences are not supported");
    }
    let code = u32::from_str_radix(&after[..len], 8).map_err(|_| "an octal escape is invalid")?;
    out.push_str(&format!("\\x{{{code:x}}}"));
    Ok(&after[len..])
}

/// A class, after `[`.
fn class<'a>(after: &'a str, out: &mut String) -> Outcome<&'a str> {
    out.push('[');
    let mut rest = after;
    if let Some(negated) = rest.strip_prefix('^') {
        out.push('^');
        rest = negated;
    }
    let mut first = true;
    loop {
        let c = rest.chars().next().ok_or("missing closing ]")?;
        let after = &rest[c.len_utf8()..];
        rest = match c {
            ']' if !first => {
                out.push(']');
                return Ok(after);
            }
            '[' if after.starts_with(':') => match after[1..].find(":]") {
                Some(len) => {
                    out.push_str(posix(&after[1..=len])?);
                    &after[len + 3..]
                }
                None => literal(c, after, out),
            },
            '\\' => match after.chars().next() {
                Some(kind @ ('d' | 'w' | 's')) => {
                    out.push_str(perl(kind));
                    &after[1..]
                }
                Some(kind @ ('D' | 'W' | 'S')) => {
                    out.push_str(&format!("[^{}]", perl(kind)));
                    &after[1..]
                }
                _ => character_escape(after, out)?,
            },
            // A range, unless it stands at an end of the class.
            '-' if !first && !after.starts_with(']') => {
                out.push('-');
                after
            }
            _ => literal(c, after, out),
        };
        first = false;
    }
}

fn literal<'a>(c: char, after: &'a str, out: &mut String) -> &'a str {
    if "[]&~-^\\".contains(c) {
        out.push('\\');
    }
    out.push(c);
    after
}

/// The POSIX classes, which are ASCII in both.
fn posix(name: &str) -> Outcome<&'static str> {
    const NAMES: [(&str, &str); 14] = [
        ("alnum", "[:alnum:]"),
        ("alpha", "[:alpha:]"),
        ("ascii", "[:ascii:]"),
        ("blank", "[:blank:]"),
        ("cntrl", "[:cntrl:]"),
        ("digit", "[:digit:]"),
        ("graph", "[:graph:]"),
        ("lower", "[:lower:]"),
        ("print", "[:print:]"),
        ("punct", "[:punct:]"),
        ("space", "[:space:]"),
        ("upper", "[:upper:]"),
        ("word", "[:word:]"),
        ("xdigit", "[:xdigit:]"),
    ];
    const NEGATED: [(&str, &str); 14] = [
        ("^alnum", "[:^alnum:]"),
        ("^alpha", "[:^alpha:]"),
        ("^ascii", "[:^ascii:]"),
        ("^blank", "[:^blank:]"),
        ("^cntrl", "[:^cntrl:]"),
        ("^digit", "[:^digit:]"),
        ("^graph", "[:^graph:]"),
        ("^lower", "[:^lower:]"),
        ("^print", "[:^print:]"),
        ("^punct", "[:^punct:]"),
        ("^space", "[:^space:]"),
        ("^upper", "[:^upper:]"),
        ("^word", "[:^word:]"),
        ("^xdigit", "[:^xdigit:]"),
    ];
    NAMES
        .iter()
        .chain(&NEGATED)
        .find_map(|(known, class)| (*known == name).then_some(*class))
        .ok_or("there is no such POSIX class")
}
