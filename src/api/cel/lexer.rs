//! The words of an expression.
//!
//! Rules: the language's specification, "Lexis".

/// A word.
#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    /// A name, or a reserved word.
    Ident(String),
    /// A name between backquotes, allowed where a field stands.
    Quoted(String),
    /// Digits, without a sign.
    Int(u64),
    /// Digits with a `u`.
    Uint(u64),
    /// A floating-point number.
    Double(f64),
    /// A text.
    Str(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// An operator or a bracket.
    Mark(&'static str),
    /// The end.
    End,
}

/// A problem at a place, counted in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The place.
    pub at: usize,
    /// What is wrong.
    pub why: String,
}

const MARKS: &[&str] = &[
    "&&", "||", "==", "!=", "<=", ">=", "?", ":", "<", ">", "+", "-", "*", "/", "%", "!", "(", ")", "[", "]", "{", "}",
    ".", ",",
];

struct Lexer<'a> {
    chars: &'a [char],
    at: usize,
}

/// All words with their places, the end among them.
pub fn tokens(text: &str) -> Result<Vec<(Token, usize)>, Problem> {
    let chars: Vec<char> = text.chars().collect();
    let mut lexer = Lexer { chars: &chars, at: 0 };
    let mut out = Vec::new();
    loop {
        lexer.skip();
        let at = lexer.at;
        let token = lexer.token()?;
        let done = token == Token::End;
        out.push((token, at));
        if done {
            return Ok(out);
        }
    }
}

type Lexed<T> = Result<T, Problem>;

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn skip(&mut self) {
        while let Some(c) = self.peek(0) {
            if matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{c}') {
                self.at += 1;
            } else if c == '/' && self.peek(1) == Some('/') {
                while self.peek(0).is_some_and(|c| c != '\n') {
                    self.at += 1;
                }
            } else {
                return;
            }
        }
    }

    fn bad(&self, from: usize) -> Problem {
        let text: String = self.chars[from..self.at.min(self.chars.len())].iter().collect();
        Problem { at: from, why: format!("Syntax error: token recognition error at: '{text}'") }
    }

    fn token(&mut self) -> Lexed<Token> {
        let Some(c) = self.peek(0) else { return Ok(Token::End) };
        if let Some(token) = self.literal(c)? {
            return Ok(token);
        }
        if c.is_ascii_alphabetic() || c == '_' {
            return Ok(Token::Ident(self.word()));
        }
        if c.is_ascii_digit() || (c == '.' && self.peek(1).is_some_and(|d| d.is_ascii_digit())) {
            return self.number();
        }
        if c == '`' {
            return self.quoted();
        }
        let found = MARKS.iter().find(|m| m.chars().enumerate().all(|(i, c)| self.peek(i) == Some(c)));
        match found {
            Some(mark) => {
                self.at += mark.len();
                Ok(Token::Mark(mark))
            }
            None => {
                self.at += 1;
                Err(self.bad(self.at - 1))
            }
        }
    }

    fn word(&mut self) -> String {
        let from = self.at;
        while self.peek(0).is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
            self.at += 1;
        }
        self.chars[from..self.at].iter().collect()
    }

    fn quoted(&mut self) -> Lexed<Token> {
        let from = self.at;
        self.at += 1;
        while self.peek(0).is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ' ')) {
            self.at += 1;
        }
        let name: String = self.chars[from + 1..self.at].iter().collect();
        if name.is_empty() || self.peek(0) != Some('`') {
            self.at += 1;
            return Err(self.bad(from));
        }
        self.at += 1;
        Ok(Token::Quoted(name))
    }

    fn digits(&mut self) -> usize {
        let from = self.at;
        while self.peek(0).is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - from
    }

    fn number(&mut self) -> Lexed<Token> {
        let from = self.at;
        if self.peek(0) == Some('0') && self.peek(1) == Some('x') {
            self.at += 2;
            let start = self.at;
            while self.peek(0).is_some_and(|c| c.is_ascii_hexdigit()) {
                self.at += 1;
            }
            let text: String = self.chars[start..self.at].iter().collect();
            return self.whole(from, u64::from_str_radix(&text, 16).ok());
        }
        self.digits();
        let mut double = false;
        if self.peek(0) == Some('.') && self.peek(1).is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
            self.digits();
            double = true;
        }
        if matches!(self.peek(0), Some('e' | 'E')) {
            let sign = usize::from(matches!(self.peek(1), Some('+' | '-')));
            if self.peek(1 + sign).is_some_and(|c| c.is_ascii_digit()) {
                self.at += 1 + sign;
                self.digits();
                double = true;
            }
        }
        let text: String = self.chars[from..self.at].iter().collect();
        if double {
            let invalid = || Problem { at: from, why: "invalid double literal".into() };
            return text.parse().map(Token::Double).map_err(|_| invalid());
        }
        self.whole(from, text.parse().ok())
    }

    fn whole(&mut self, from: usize, value: Option<u64>) -> Lexed<Token> {
        let unsigned = matches!(self.peek(0), Some('u' | 'U'));
        self.at += usize::from(unsigned);
        let kind = if unsigned { "uint" } else { "int" };
        match value {
            Some(v) if unsigned => Ok(Token::Uint(v)),
            // The sign comes later: the smallest number has no positive twin.
            Some(v) if v <= 1 << 63 => Ok(Token::Int(v)),
            _ => Err(Problem { at: from, why: format!("invalid {kind} literal") }),
        }
    }

    /// A text or bytes, with their prefixes.
    fn literal(&mut self, first: char) -> Lexed<Option<Token>> {
        let (mut raw, mut bytes, mut ahead, mut c) = (false, false, 0, first);
        while matches!(c, 'r' | 'R' | 'b' | 'B') && ahead < 2 {
            match c {
                'r' | 'R' if !raw => raw = true,
                'b' | 'B' if !bytes => bytes = true,
                _ => return Ok(None),
            }
            ahead += 1;
            match self.peek(ahead) {
                Some(next) => c = next,
                None => return Ok(None),
            }
        }
        if !matches!(c, '"' | '\'') {
            return Ok(None);
        }
        let from = self.at;
        self.at += ahead;
        let long = self.peek(1) == Some(c) && self.peek(2) == Some(c);
        self.at += if long { 3 } else { 1 };
        let mut out = Out { bytes, text: Vec::new() };
        loop {
            let Some(next) = self.peek(0) else { return Err(self.bad(from)) };
            let ends = next == c && (!long || (self.peek(1) == Some(c) && self.peek(2) == Some(c)));
            if ends {
                self.at += if long { 3 } else { 1 };
                break;
            }
            if !long && matches!(next, '\n' | '\r') {
                return Err(self.bad(from));
            }
            self.at += 1;
            if next == '\\' && !raw {
                self.escape(from, &mut out)?;
            } else {
                out.push(next);
            }
        }
        if bytes {
            return Ok(Some(Token::Bytes(out.text)));
        }
        String::from_utf8(out.text).map(|s| Some(Token::Str(s))).map_err(|_| self.bad(from))
    }

    fn escape(&mut self, from: usize, out: &mut Out) -> Lexed<()> {
        let Some(c) = self.peek(0) else { return Err(self.bad(from)) };
        self.at += 1;
        let plain = match c {
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '\\' | '\'' | '"' | '`' | '?' => c,
            'x' | 'X' => return self.code(from, 2, 16, out),
            'u' if !out.bytes => return self.code(from, 4, 16, out),
            'U' if !out.bytes => return self.code(from, 8, 16, out),
            '0'..='3' => {
                self.at -= 1;
                return self.code(from, 3, 8, out);
            }
            _ => return Err(self.bad(from)),
        };
        out.push(plain);
        Ok(())
    }

    fn code(&mut self, from: usize, digits: usize, radix: u32, out: &mut Out) -> Lexed<()> {
        let mut code = 0u32;
        for _ in 0..digits {
            let digit = self.peek(0).and_then(|c| c.to_digit(radix)).ok_or_else(|| self.bad(from))?;
            code = code.wrapping_mul(radix) + digit;
            self.at += 1;
        }
        if out.bytes {
            out.text.push(code as u8);
            return Ok(());
        }
        let c = char::from_u32(code).ok_or_else(|| self.bad(from))?;
        out.push(c);
        Ok(())
    }
}

struct Out {
    bytes: bool,
    text: Vec<u8>,
}

impl Out {
    fn push(&mut self, c: char) {
        self.text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
}
