//! Finds the end of an expression and bounds it before the parser sees it: the parser recurses with the text's nesting.

use super::{CONCATENATIONS_MAX, EXPRESSION_LEN_MAX, NESTING_MAX, OPERATORS_MAX, Problem};

/// Reads an expression's lexical shape: strings, comments and brackets.
///
/// With `until_close` it ends at the first `)` that has no opening partner and gives that offset; without, it ends at the text's
/// end and gives the length.
pub(super) fn scan(text: &str, until_close: bool) -> Result<usize, Problem> {
    let bytes = text.as_bytes();
    let mut shape = Shape::default();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if at > EXPRESSION_LEN_MAX {
            return Err(Problem::at(at, format!("an expression has at most {EXPRESSION_LEN_MAX} bytes")));
        }
        match byte {
            b'"' | b'\'' => {
                at = string_end(bytes, at).ok_or_else(|| Problem::at(at, "a string has no end"))?;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at += bytes[at..].iter().take_while(|b| **b != b'\n').count();
                continue;
            }
            b')' if until_close && shape.open.is_empty() => return Ok(at),
            b'(' | b'[' | b'{' => shape.opens(*byte, at)?,
            b')' | b']' | b'}' => shape.closes(*byte, at)?,
            _ => shape.operator(*byte, at)?,
        }
        at += 1;
    }
    match (shape.open.pop(), until_close) {
        (Some((_, at)), _) => Err(Problem::at(at, "a bracket is opened and never closed")),
        (None, true) => Err(Problem::at(0, "$( has no closing )")),
        (None, false) => Ok(at),
    }
}

#[derive(Default)]
struct Shape {
    open: Vec<(u8, usize)>,
    operators: usize,
    concatenations: usize,
}

impl Shape {
    fn opens(&mut self, bracket: u8, at: usize) -> Result<(), Problem> {
        self.open.push((bracket, at));
        if self.open.len() > NESTING_MAX {
            return Err(Problem::at(at, format!("brackets are nested more than {NESTING_MAX} deep")));
        }
        self.count(at)
    }

    fn closes(&mut self, bracket: u8, at: usize) -> Result<(), Problem> {
        let expected = match self.open.pop() {
            Some((b'(', _)) => b')',
            Some((b'[', _)) => b']',
            Some((b'{', _)) => b'}',
            _ => 0,
        };
        if expected == bracket { Ok(()) } else { Err(Problem::at(at, "a bracket is closed that was not opened")) }
    }

    fn operator(&mut self, byte: u8, at: usize) -> Result<(), Problem> {
        if byte == b'+' {
            self.concatenations += 1;
            if self.concatenations > CONCATENATIONS_MAX {
                return Err(Problem::at(at, format!("an expression has at most {CONCATENATIONS_MAX} +")));
            }
        }
        if b"+-*/%<>=!&|?:.,".contains(&byte) { self.count(at) } else { Ok(()) }
    }

    fn count(&mut self, at: usize) -> Result<(), Problem> {
        self.operators += 1;
        if self.operators > OPERATORS_MAX {
            return Err(Problem::at(at, format!("an expression has at most {OPERATORS_MAX} operators")));
        }
        Ok(())
    }
}

/// The offset after the string that begins with the quote at `at`: raw, triple-quoted and escaped ones as CEL has them.
fn string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let quote = bytes[at];
    let raw = at > 0 && matches!(bytes[at - 1], b'r' | b'R');
    let triple = bytes.get(at..at + 3) == Some(&[quote; 3]);
    let width = if triple { 3 } else { 1 };
    let mut at = at + width;
    while let Some(byte) = bytes.get(at) {
        if *byte == b'\\' && !raw {
            at += 2;
        } else if *byte == quote && (!triple || bytes.get(at..at + 3) == Some(&[quote; 3])) {
            return Some(at + width);
        } else {
            at += 1;
        }
    }
    None
}
