//! The words of an expression of the Common Expression Language.
//!
//! In: the text. Out: its tokens without white space and comments, or why it has none.

use std::fmt;

/// A word of an expression.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Token<'e> {
    /// A name or a reserved word.
    Name(&'e str),
    /// A name in backquotes.
    Quoted(&'e str),
    /// An operator or a bracket.
    Mark(&'e str),
    /// A text.
    Text,
    /// Bytes.
    Bytes,
    /// A number.
    Number,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Name(text) | Token::Quoted(text) | Token::Mark(text) => write!(f, "'{text}'"),
            Token::Text | Token::Bytes => f.write_str("a text"),
            Token::Number => f.write_str("a number"),
        }
    }
}

const MARKS: &[&str] = &[
    "||", "&&", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")", "[", "]",
    "{", "}",
];

/// The words of a text.
pub fn tokens(text: &str) -> Result<Vec<Token<'_>>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
            continue;
        }
        let Some(first) = rest.chars().next() else { return Ok(out) };
        let (token, length) = if let Some((bytes, length)) = quoted(rest)? {
            (if bytes { Token::Bytes } else { Token::Text }, length)
        } else if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
            (Token::Name(&rest[..end]), end)
        } else if first.is_ascii_digit() || (first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit())) {
            (Token::Number, number(rest)?)
        } else if let Some(after) = rest.strip_prefix('`') {
            let end = after.find('`').ok_or("Syntax error: a name in backquotes does not end")?;
            (Token::Quoted(&after[..end]), end + 2)
        } else {
            let found = MARKS.iter().find(|m| rest.starts_with(**m));
            let mark = found.ok_or_else(|| format!("Syntax error: token recognition error at: '{first}'"))?;
            (Token::Mark(mark), mark.len())
        };
        out.push(token);
        rest = &rest[length..];
    }
}

/// The length of a number at the start of a text. A letter must not follow it.
fn number(text: &str) -> Result<usize, String> {
    let digits = |from: usize, hex: bool| {
        let tail = &text[from..];
        let is_digit = |c: char| if hex { c.is_ascii_hexdigit() } else { c.is_ascii_digit() };
        from + tail.find(|c| !is_digit(c)).unwrap_or(tail.len())
    };
    let mut end = if text.starts_with("0x") || text.starts_with("0X") { digits(2, true) } else { digits(0, false) };
    if text[end..].starts_with('.') && text[end + 1..].starts_with(|c: char| c.is_ascii_digit()) {
        end = digits(end + 1, false);
    }
    if text[end..].starts_with(['e', 'E']) {
        let sign = usize::from(text[end + 1..].starts_with(['+', '-']));
        end = digits(end + 1 + sign, false);
    }
    if text[end..].starts_with(['u', 'U']) {
        end += 1;
    }
    match text[end..].chars().next() {
        Some(c) if c.is_ascii_alphabetic() || c == '_' => Err(format!("Syntax error: extraneous input '{c}'")),
        _ => Ok(end),
    }
}

/// The length of a text at the start of a text, and whether it stands for bytes.
fn quoted(text: &str) -> Result<Option<(bool, usize)>, String> {
    let prefix = text.bytes().take(2).take_while(|c| matches!(c, b'r' | b'R' | b'b' | b'B')).count();
    let body = &text[prefix..];
    let Some(mark) = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|m| body.starts_with(m)) else { return Ok(None) };
    let raw = text[..prefix].contains(['r', 'R']);
    let bytes = text[..prefix].contains(['b', 'B']);
    let unfinished = || "Syntax error: a text does not end".to_owned();
    let mut at = mark.len();
    loop {
        let tail = &body[at..];
        if tail.starts_with(mark) {
            return Ok(Some((bytes, prefix + at + mark.len())));
        }
        let c = tail.chars().next().ok_or_else(unfinished)?;
        if matches!(c, '\n' | '\r') && mark.len() == 1 {
            return Err(unfinished());
        }
        at += c.len_utf8();
        if c == '\\' && !raw {
            let escape = body[at..].chars().next().ok_or_else(unfinished)?;
            if !"abfnrtv\\?\"'`xXuU01234567".contains(escape) {
                return Err(format!("Syntax error: token recognition error at: '\\{escape}'"));
            }
            at += escape.len_utf8();
        }
    }
}
