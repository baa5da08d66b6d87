//! From text to tree; macros become comprehensions here.
//!
//! Rules: the language's grammar; the macros of cel-go, of its optional types, bindings and two-variable comprehensions.
//!
//! **Invariant:** no tree is deeper than [`DEPTH_MAX`]: whoever walks one may recurse.

mod macros;

use super::ast::{Entry, Expr, Kind};
use super::lexer::{self, Problem, Token};
use super::value::Val;

/// How deep an expression may nest.
pub const DEPTH_MAX: usize = 100;
/// Longest chain of one operator, and most entries of one literal.
const CHAIN_MAX: usize = 1000;
/// Longest expression, characters.
pub const LENGTH_MAX: usize = 100_000;

/// Words that are no names of variables.
pub const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "package",
    "namespace",
    "null",
    "return",
    "true",
    "var",
    "void",
    "while",
];

type Parsed<T> = Result<T, Problem>;

/// The tree of a text.
pub fn parse(text: &str) -> Parsed<Expr> {
    if text.len() > LENGTH_MAX && text.chars().count() > LENGTH_MAX {
        return Err(Problem { at: 0, why: format!("expression code point size exceeds limit: {LENGTH_MAX}") });
    }
    let tokens = lexer::tokens(text)?;
    let mut parser = Parser { tokens, next: 0, depth: 0 };
    let expr = parser.expr()?;
    match parser.peek() {
        Token::End => Ok(expr),
        _ => Err(parser.unexpected("<EOF>")),
    }
}

/// True for a text that can name a variable.
pub fn is_identifier(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_');
    first && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_') && !RESERVED.contains(&text)
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    next: usize,
    depth: usize,
}

/// Binary operators by how tightly they bind, the loosest first.
const LEVELS: &[&[&str]] = &[&["<", "<=", ">", ">=", "==", "!=", "in"], &["+", "-"], &["*", "/", "%"]];

fn call(name: &str, args: Vec<Expr>, member: bool, at: usize) -> Expr {
    Kind::Call { name: name.to_owned(), member, args, fun: None }.at(at)
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.next].0
    }

    fn at(&self) -> usize {
        self.tokens[self.next].1
    }

    fn advance(&mut self) -> Token {
        let token = self.tokens[self.next].0.clone();
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    fn is(&self, mark: &str) -> bool {
        matches!(self.peek(), Token::Mark(m) if *m == mark)
    }

    fn takes(&mut self, mark: &str) -> bool {
        let found = self.is(mark);
        if found {
            self.advance();
        }
        found
    }

    fn needs(&mut self, mark: &str) -> Parsed<()> {
        if self.takes(mark) { Ok(()) } else { Err(self.unexpected(&format!("'{mark}'"))) }
    }

    fn unexpected(&self, wanted: &str) -> Problem {
        let found = match self.peek() {
            Token::End => "<EOF>".to_owned(),
            Token::Mark(m) => (*m).to_owned(),
            Token::Ident(s) | Token::Quoted(s) => s.clone(),
            Token::Int(i) => i.to_string(),
            Token::Uint(i) => format!("{i}u"),
            Token::Double(d) => d.to_string(),
            Token::Str(s) => format!("\"{s}\""),
            Token::Bytes(_) => "bytes".to_owned(),
        };
        Problem { at: self.at(), why: format!("Syntax error: mismatched input '{found}' expecting {wanted}") }
    }

    /// Counts a level while something nested is read.
    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Problem { at: self.at(), why: format!("expression recursion limit exceeded: {DEPTH_MAX}") });
        }
        let out = read(self)?;
        self.depth -= 1;
        Ok(out)
    }

    fn expr(&mut self) -> Parsed<Expr> {
        self.nested(|p| {
            let cond = p.or()?;
            let at = p.at();
            if !p.takes("?") {
                return Ok(cond);
            }
            let yes = p.or()?;
            p.needs(":")?;
            let no = p.expr()?;
            Ok(Kind::Cond(Box::new([cond, yes, no])).at(at))
        })
    }

    fn chain(&mut self, mark: &str, read: fn(&mut Self) -> Parsed<Expr>) -> Parsed<(Vec<Expr>, usize)> {
        let mut parts = vec![read(self)?];
        let at = self.at();
        while self.takes(mark) {
            parts.push(read(self)?);
            self.bounded(parts.len())?;
        }
        Ok((parts, at))
    }

    fn bounded(&self, count: usize) -> Parsed<()> {
        match count > CHAIN_MAX {
            true => Err(Problem { at: self.at(), why: format!("expression is longer than {CHAIN_MAX} parts") }),
            false => Ok(()),
        }
    }

    fn or(&mut self) -> Parsed<Expr> {
        let (mut parts, at) = self.chain("||", Self::and)?;
        Ok(if parts.len() == 1 { parts.remove(0) } else { Kind::Or(parts).at(at) })
    }

    fn and(&mut self) -> Parsed<Expr> {
        let (mut parts, at) = self.chain("&&", |p| p.binary(0))?;
        Ok(if parts.len() == 1 { parts.remove(0) } else { Kind::And(parts).at(at) })
    }

    fn operator(&self, level: usize) -> Option<&'static str> {
        let text = match self.peek() {
            Token::Mark(m) => *m,
            Token::Ident(word) if word == "in" => "in",
            _ => return None,
        };
        LEVELS[level].contains(&text).then_some(text)
    }

    fn binary(&mut self, level: usize) -> Parsed<Expr> {
        if level == LEVELS.len() {
            return self.unary();
        }
        let mut left = self.binary(level + 1)?;
        let mut levels = 0;
        while let Some(op) = self.operator(level) {
            let at = self.at();
            self.advance();
            let right = self.binary(level + 1)?;
            let name = if op == "in" { "@in".to_owned() } else { format!("_{op}_") };
            left = call(&name, vec![left, right], false, at);
            // Every operator of a row is one more level of the tree, which lasts until the row is read.
            levels += 1;
            self.depth += 1;
            if self.depth > 2 * DEPTH_MAX {
                return Err(Problem { at, why: format!("expression recursion limit exceeded: {DEPTH_MAX}") });
            }
        }
        self.depth -= levels;
        Ok(left)
    }

    fn unary(&mut self) -> Parsed<Expr> {
        let at = self.at();
        for (mark, name) in [("!", "!_"), ("-", "-_")] {
            if !self.is(mark) {
                continue;
            }
            self.advance();
            if mark == "-" {
                match *self.peek() {
                    Token::Int(i) if !matches!(self.tokens.get(self.next + 1), Some((Token::Mark("."), _))) => {
                        self.advance();
                        let value = 0i64.checked_sub_unsigned(i);
                        let why = "invalid int literal".to_owned();
                        return Ok(Kind::Const(Val::Int(value.ok_or(Problem { at, why })?)).at(at));
                    }
                    Token::Double(d) => {
                        self.advance();
                        return Ok(Kind::Const(Val::Double(-d)).at(at));
                    }
                    _ => {}
                }
            }
            return self.nested(|p| Ok(call(name, vec![p.unary()?], false, at)));
        }
        self.member()
    }

    fn member(&mut self) -> Parsed<Expr> {
        let mut e = self.primary()?;
        let mut levels = 0;
        loop {
            let at = self.at();
            if self.takes(".") {
                let optional = self.takes("?");
                let name = self.field(!optional)?;
                let open = self.at();
                e = if !optional && self.takes("(") {
                    let args = self.arguments(")")?;
                    self.method(e, name, args, open)?
                } else {
                    Kind::Select { operand: Box::new(e), field: name, test: false, optional }.at(at)
                };
            } else if self.takes("[") {
                let optional = self.takes("?");
                let index = Box::new(self.expr()?);
                self.needs("]")?;
                e = Kind::Index { operand: Box::new(e), index, optional }.at(at)
            } else if self.is("{") && e.dotted().is_some() {
                self.advance();
                e = self.message(e.dotted().unwrap_or_default(), at)?;
            } else {
                self.depth -= levels;
                return Ok(e);
            }
            levels += 1;
            self.depth += 1;
            if self.depth > 2 * DEPTH_MAX {
                return Err(Problem { at, why: format!("expression recursion limit exceeded: {DEPTH_MAX}") });
            }
        }
    }

    fn field(&mut self, quoted: bool) -> Parsed<String> {
        match self.peek().clone() {
            Token::Ident(name) if !matches!(&*name, "true" | "false" | "null" | "in") => {
                self.advance();
                Ok(name)
            }
            Token::Quoted(name) if quoted => {
                self.advance();
                Ok(super::escape::escape(&name).unwrap_or(name))
            }
            _ => Err(self.unexpected("IDENTIFIER")),
        }
    }

    fn arguments(&mut self, close: &str) -> Parsed<Vec<Expr>> {
        let mut args = Vec::new();
        while !self.takes(close) {
            args.push(self.expr()?);
            self.bounded(args.len())?;
            if !self.is(close) {
                self.needs(",")?;
                if self.is(close) && close == ")" {
                    return Err(self.unexpected(EXPRESSION));
                }
            }
        }
        Ok(args)
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let at = self.at();
        let value = match self.peek().clone() {
            Token::Int(i) => match i64::try_from(i) {
                Ok(i) => Val::Int(i),
                Err(_) => return Err(Problem { at, why: "invalid int literal".into() }),
            },
            Token::Uint(u) => Val::Uint(u),
            Token::Double(d) => Val::Double(d),
            Token::Str(s) => Val::from(s),
            Token::Bytes(b) => Val::Bytes(b.into()),
            Token::Ident(word) => match &*word {
                "true" => Val::Bool(true),
                "false" => Val::Bool(false),
                "null" => Val::Null,
                _ => return self.named(word, at),
            },
            Token::Mark("(") => {
                self.advance();
                let e = self.expr()?;
                self.needs(")")?;
                return Ok(e);
            }
            Token::Mark("[") => return self.list(at),
            Token::Mark("{") => return self.map(at),
            // A leading dot names from the root, which is the only place names are looked for.
            Token::Mark(".") => {
                self.advance();
                return match self.peek().clone() {
                    Token::Ident(word) => self.named(word, at),
                    _ => Err(self.unexpected("IDENTIFIER")),
                };
            }
            _ => return Err(self.unexpected(EXPRESSION)),
        };
        self.advance();
        Ok(Kind::Const(value).at(at))
    }

    fn named(&mut self, word: String, at: usize) -> Parsed<Expr> {
        if word == "in" {
            return Err(self.unexpected(EXPRESSION));
        }
        self.advance();
        let open = self.at();
        if self.takes("(") {
            let mut args = self.arguments(")")?;
            if word == "has" && args.len() == 1 {
                let arg = args.remove(0);
                return match arg.kind {
                    Kind::Select { operand, field, optional: false, .. } => {
                        Ok(Kind::Select { operand, field, test: true, optional: false }.at(open))
                    }
                    _ => Err(Problem { at: arg.at as usize, why: "invalid argument to has() macro".into() }),
                };
            }
            return Ok(call(&word, args, false, open));
        }
        if RESERVED.contains(&&*word) {
            return Err(Problem { at, why: format!("reserved identifier: {word}") });
        }
        Ok(Kind::Ident { name: word, local: false }.at(at))
    }

    fn list(&mut self, at: usize) -> Parsed<Expr> {
        self.advance();
        let mut items = Vec::new();
        while !self.takes("]") {
            let optional = self.takes("?");
            items.push(Entry { key: (), value: self.expr()?, optional });
            self.bounded(items.len())?;
            if !self.is("]") {
                self.needs(",")?;
            }
        }
        Ok(Kind::List(items).at(at))
    }

    fn map(&mut self, at: usize) -> Parsed<Expr> {
        self.advance();
        let mut entries = Vec::new();
        while !self.takes("}") {
            let optional = self.takes("?");
            let key = self.expr()?;
            self.needs(":")?;
            entries.push(Entry { key, value: self.expr()?, optional });
            self.bounded(entries.len())?;
            if !self.is("}") {
                self.needs(",")?;
            }
        }
        Ok(Kind::Map(entries).at(at))
    }

    fn message(&mut self, name: String, at: usize) -> Parsed<Expr> {
        let mut fields = Vec::new();
        while !self.takes("}") {
            let optional = self.takes("?");
            let key = self.field(true)?;
            self.needs(":")?;
            fields.push(Entry { key, value: self.expr()?, optional });
            self.bounded(fields.len())?;
            if !self.is("}") {
                self.needs(",")?;
            }
        }
        Ok(Kind::Struct { name, fields }.at(at))
    }
}

const EXPRESSION: &str =
    "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
