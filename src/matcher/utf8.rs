//! Alertmanager's present grammar (`matcher/parse`): names and values are quoted, or hold none of the reserved characters.

use super::{MatcherError, Operator, Raw};

/// Characters that a name or value holds only in quotes (`lexer.go`, `isReserved`).
pub(super) fn is_reserved(c: char) -> bool {
    c.is_whitespace() || "{}!=~,\\\"'`".contains(c)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    OpenBrace,
    CloseBrace,
    Comma,
    Operator(Operator),
    Quoted,
    Unquoted,
}

#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
    /// Columns, in characters from 0.
    begin: usize,
    end: usize,
}

impl Token<'_> {
    fn error(&self, problem: impl Into<String>) -> MatcherError {
        MatcherError::Syntax { begin: self.begin, end: self.end, problem: problem.into() }
    }

    fn unexpected(&self, expected: &str) -> MatcherError {
        self.error(format!("unexpected {}: expected {expected}", self.text))
    }

    fn is_text(&self) -> bool {
        matches!(self.kind, Kind::Quoted | Kind::Unquoted)
    }

    /// The text that it stands for.
    fn value(&self) -> Result<String, MatcherError> {
        if self.kind == Kind::Quoted {
            unquote(self.text).ok_or_else(|| self.error(format!("{}: invalid input", self.text)))
        } else {
            Ok(self.text.to_owned())
        }
    }
}

/// Reads any number of matchers, in braces or not. None at all is allowed here.
pub(super) fn parse(input: &str) -> Result<Vec<Raw>, MatcherError> {
    let mut parser = Parser { lexer: Lexer { input, at: 0, column: 0 }, peeked: None };
    let open = parser.accept(Kind::OpenBrace)?;
    let mut matchers = Vec::new();
    loop {
        match parser.peek()? {
            None => break,
            Some(token) if token.kind == Kind::CloseBrace => break,
            Some(_) => matchers.push(parser.matcher()?),
        }
        match parser.peek()? {
            Some(token) if token.kind == Kind::Comma => parser.next()?,
            Some(token) if token.kind == Kind::CloseBrace => break,
            Some(token) => return Err(token.unexpected("a comma or close brace")),
            None => break,
        };
    }
    match (open, parser.next()?) {
        (true, None) => return Err(parser.at_end("expected close brace")),
        (false, Some(token)) => return Err(token.error("}: expected opening brace")),
        _ => {}
    }
    match parser.next()? {
        Some(token) => Err(token.error(format!("{}: expected end of input", token.text))),
        None => Ok(matchers),
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    peeked: Option<Option<Token<'a>>>,
}

impl<'a> Parser<'a> {
    fn peek(&mut self) -> Result<Option<Token<'a>>, MatcherError> {
        if self.peeked.is_none() {
            self.peeked = Some(self.lexer.scan()?);
        }
        Ok(self.peeked.flatten())
    }

    fn next(&mut self) -> Result<Option<Token<'a>>, MatcherError> {
        let token = self.peek()?;
        self.peeked = None;
        Ok(token)
    }

    fn accept(&mut self, kind: Kind) -> Result<bool, MatcherError> {
        let found = self.peek()?.is_some_and(|token| token.kind == kind);
        if found {
            self.next()?;
        }
        Ok(found)
    }

    fn at_end(&self, expected: &str) -> MatcherError {
        let end = self.lexer.column;
        MatcherError::Syntax { begin: 0, end, problem: format!("end of input: {expected}") }
    }

    fn text(&mut self, what: &str) -> Result<String, MatcherError> {
        match self.next()? {
            Some(token) if token.is_text() => token.value(),
            Some(token) => Err(token.unexpected(what)),
            None => Err(self.at_end(&format!("expected {what}"))),
        }
    }

    fn matcher(&mut self) -> Result<Raw, MatcherError> {
        const OPERATOR: &str = "an operator such as '=', '!=', '=~' or '!~'";
        let name = self.text("label name")?;
        let operator = match self.next()? {
            Some(Token { kind: Kind::Operator(operator), .. }) => operator,
            Some(token) => return Err(token.unexpected(OPERATOR)),
            None => return Err(self.at_end(&format!("expected {OPERATOR}"))),
        };
        Ok(Raw { name, operator, value: self.text("label value")? })
    }
}

struct Lexer<'a> {
    input: &'a str,
    /// Byte offset and column of the next character.
    at: usize,
    column: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.input[self.at..]
    }

    /// The next `len` bytes as a token.
    fn take(&mut self, kind: Kind, len: usize) -> Token<'a> {
        let text = &self.rest()[..len];
        let begin = self.column;
        self.at += len;
        self.column += text.chars().count();
        Token { kind, text, begin, end: self.column }
    }

    fn error(&self, width: usize, problem: String) -> MatcherError {
        MatcherError::Syntax { begin: self.column, end: self.column + width, problem }
    }

    fn scan(&mut self) -> Result<Option<Token<'a>>, MatcherError> {
        let space = self.rest().len() - self.rest().trim_start().len();
        self.column += self.rest()[..space].chars().count();
        self.at += space;
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(None) };
        let (kind, len) = match first {
            '{' => (Kind::OpenBrace, 1),
            '}' => (Kind::CloseBrace, 1),
            ',' => (Kind::Comma, 1),
            '=' if rest.starts_with("=~") => (Kind::Operator(Operator::Match), 2),
            '=' => (Kind::Operator(Operator::Equal), 1),
            '!' if rest.starts_with("!=") => (Kind::Operator(Operator::NotEqual), 2),
            '!' if rest.starts_with("!~") => (Kind::Operator(Operator::NotMatch), 2),
            '!' => return Err(self.error(1, "!: expected one of '=~'".into())),
            '"' => {
                let len = quoted_len(rest)
                    .ok_or_else(|| self.error(rest.chars().count(), format!("{rest}: missing end \"")))?;
                (Kind::Quoted, len)
            }
            c if is_reserved(c) => return Err(self.error(1, format!("{c}: invalid input"))),
            _ => (Kind::Unquoted, rest.find(is_reserved).unwrap_or(rest.len())),
        };
        Ok(Some(self.take(kind, len)))
    }
}

/// How many bytes the quoted text at the beginning has, quotes included.
fn quoted_len(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// What a text in double quotes stands for, as Go's `strconv.Unquote` says. None when an escape is invalid, a line break is not
/// escaped, or the bytes are no UTF-8.
fn unquote(text: &str) -> Option<String> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(c) = rest.chars().next() {
        if c == '\n' {
            return None;
        }
        if c != '\\' {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let kind = *rest.as_bytes().get(1)?;
        let simple = match kind {
            b'a' => Some(7),
            b'b' => Some(8),
            b'f' => Some(12),
            b'n' => Some(b'\n'),
            b'r' => Some(b'\r'),
            b't' => Some(b'\t'),
            b'v' => Some(11),
            b'\\' | b'"' => Some(kind),
            _ => None,
        };
        let len = match (simple, kind) {
            (Some(byte), _) => {
                bytes.push(byte);
                2
            }
            (None, b'x') => {
                bytes.push(u8::try_from(digits(rest, 2..4, 16)?).ok()?);
                4
            }
            (None, b'0'..=b'7') => {
                bytes.push(u8::try_from(digits(rest, 1..4, 8)?).ok()?);
                4
            }
            (None, b'u' | b'U') => {
                let len = if kind == b'u' { 6 } else { 10 };
                let c = char::from_u32(digits(rest, 2..len, 16)?)?;
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                len
            }
            _ => return None,
        };
        rest = rest.get(len..)?;
    }
    String::from_utf8(bytes).ok()
}

fn digits(text: &str, range: std::ops::Range<usize>, radix: u32) -> Option<u32> {
    let digits = text.get(range)?;
    // `from_str_radix` would accept a sign.
    if digits.starts_with('+') { None } else { u32::from_str_radix(digits, radix).ok() }
}

/// A text in double quotes, as Go's `strconv.Quote` writes it and [`parse`] reads it: what people do not see is escaped.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\'' => quoted.push(c),
            c if c.escape_debug().eq([c]) => quoted.push(c),
            c if c.is_ascii() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if u32::from(c) < 0x1_0000 => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}
