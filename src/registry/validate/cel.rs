//! Expressions of the Common Expression Language: their grammar, and the names that they may use.
//!
//! In: an expression and what its place declares. Out: why it cannot be compiled. Rules: the language's specification and
//! upstream `apiserver/pkg/cel`.
//!
//! **Invariant:** what is told here fails in upstream too. The other way round it is not so: of types only those are
//! known that the form of an expression gives away, and costs are not estimated.

use super::Field;
use super::cel_lexer::{Token, tokens};

/// What an expression's value is, as far as its form says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// True or false.
    Bool,
    /// A text.
    Text,
    /// A number.
    Number,
    /// A list.
    List,
    /// A map or a message.
    Map,
    /// Nothing.
    Null,
    /// Not to be told without types.
    Unknown,
}

/// What the place of an expression declares.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// Variables.
    pub names: &'a [&'a str],
    /// The members that a variable has, where no others are known.
    pub members: &'a [(&'a str, Vec<&'a str>)],
    /// What the value may be.
    pub result: &'a [Kind],
}

/// Functions without a receiver, and types used as functions or values.
const GLOBALS: &str = "bool bytes cidr double duration dyn has int ip isCIDR isIP isQuantity isSemver isURL list map \
    null_type quantity semver size string timestamp type uint url matches isSorted sum min max indexOf \
    lastIndexOf find findAll cel math sets lists optional format jsonpatch google optional_type strings \
    base64 contains startsWith endsWith";

/// Words that are no names.
const RESERVED: &str = "as break const continue else false for function if import in let loop package namespace null return \
    true var void while";

/// Functions whose first arguments name new variables.
const MACROS: &str = "all exists exists_one existsOne map filter optMap optFlatMap transformList transformMap \
    transformMapEntry bind sortBy";

/// How deep an expression may nest.
const DEPTH_MAX: usize = 100;

fn is_one_of(word: &str, list: &str) -> bool {
    list.split(' ').any(|w| w == word)
}

/// True for a text that can name a variable.
pub fn is_identifier(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_');
    first && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_') && !is_one_of(text, RESERVED)
}

/// Why an expression cannot be compiled.
pub fn error(expression: &str, scope: &Scope<'_>) -> Option<String> {
    let tokens = match tokens(expression) {
        Ok(tokens) => tokens,
        Err(why) => return Some(why),
    };
    let mut parser = Parser { tokens, at: 0, scope, local: Vec::new(), depth: 0 };
    let kind = match parser.expr() {
        Ok(kind) => kind,
        Err(why) => return Some(why),
    };
    if let Some(token) = parser.peek() {
        return Some(format!("Syntax error: unexpected {token}"));
    }
    let fits = kind == Kind::Unknown || scope.result.is_empty() || scope.result.contains(&kind);
    (!fits).then(|| format!("must evaluate to {:?}", scope.result[0]).to_lowercase())
}

/// Tells at an expression's place why it cannot be compiled.
pub fn check(expression: &Field<'_>, scope: &Scope<'_>) {
    if let Some(why) = error(expression.as_text(), scope) {
        expression.invalid(format!("compilation failed: {why}"));
    }
}

type Parsed<T> = Result<T, String>;

struct Parser<'a, 'e> {
    tokens: Vec<Token<'e>>,
    at: usize,
    scope: &'a Scope<'a>,
    /// Variables of macros around this place.
    local: Vec<&'e str>,
    depth: usize,
}

/// Binary operators, the loosest first, and what they make.
const LEVELS: &[(&[&str], Option<Kind>)] = &[
    (&["||"], Some(Kind::Bool)),
    (&["&&"], Some(Kind::Bool)),
    (&["<", "<=", ">", ">=", "==", "!=", "in"], Some(Kind::Bool)),
    (&["+", "-"], None),
    (&["*", "/", "%"], None),
];

impl<'e> Parser<'_, 'e> {
    fn peek(&self) -> Option<Token<'e>> {
        self.tokens.get(self.at).copied()
    }

    fn takes(&mut self, mark: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Mark(m)) if m == mark);
        self.at += usize::from(found);
        found
    }

    fn needs(&mut self, mark: &str) -> Parsed<()> {
        if self.takes(mark) { Ok(()) } else { Err(self.unexpected(mark)) }
    }

    fn unexpected(&self, wanted: &str) -> String {
        match self.peek() {
            Some(token) => format!("Syntax error: unexpected {token}, expecting {wanted}"),
            None => format!("Syntax error: unexpected end, expecting {wanted}"),
        }
    }

    fn expr(&mut self) -> Parsed<Kind> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err("expression recursion limit exceeded".to_owned());
        }
        let mut kind = self.binary(0)?;
        if self.takes("?") {
            let yes = self.binary(0)?;
            self.needs(":")?;
            let no = self.expr()?;
            kind = if yes == no { yes } else { Kind::Unknown };
        }
        self.depth -= 1;
        Ok(kind)
    }

    fn binary(&mut self, level: usize) -> Parsed<Kind> {
        let Some((operators, made)) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        while let Some(operator) = self.operator(operators) {
            let right = self.binary(level + 1)?;
            for side in [left, right].into_iter().filter(|k| *k != Kind::Unknown) {
                let fits = match operator {
                    "||" | "&&" => side == Kind::Bool,
                    "-" | "*" | "/" | "%" => side == Kind::Number,
                    _ => true,
                };
                if !fits {
                    return Err(format!("found no matching overload for '{operator}'"));
                }
            }
            left = made.unwrap_or(if left == right { left } else { Kind::Unknown });
        }
        Ok(left)
    }

    fn operator(&mut self, of: &[&'static str]) -> Option<&'static str> {
        let text = match self.peek()? {
            Token::Mark(mark) => mark,
            Token::Name("in") => "in",
            _ => return None,
        };
        let found = of.iter().find(|o| **o == text).copied()?;
        self.at += 1;
        Some(found)
    }

    fn unary(&mut self) -> Parsed<Kind> {
        let (mut not, mut minus) = (false, false);
        while self.takes("!") {
            not = true;
        }
        while !not && self.takes("-") {
            minus = true;
        }
        let kind = self.member()?;
        match kind {
            Kind::Unknown => Ok(if not { Kind::Bool } else { Kind::Unknown }),
            Kind::Bool if !minus => Ok(kind),
            Kind::Number if !not => Ok(kind),
            _ if not || minus => Err("found no matching overload for a sign".to_owned()),
            _ => Ok(kind),
        }
    }

    fn member(&mut self) -> Parsed<Kind> {
        let (mut kind, mut path) = self.primary()?;
        loop {
            if self.takes(".") {
                let optional = self.takes("?");
                let name = self.name(true)?;
                if self.takes("(") {
                    (kind, path) = (self.call(name)?, None);
                    continue;
                }
                if !self.is_member(path.as_deref(), name) {
                    return Err(format!("undefined field '{name}'"));
                }
                kind = Kind::Unknown;
                path = path.filter(|_| !optional).map(|p| format!("{p}.{name}"));
            } else if self.takes("[") {
                self.takes("?");
                self.expr()?;
                self.needs("]")?;
                (kind, path) = (Kind::Unknown, None);
            } else if path.is_some() && self.takes("{") {
                self.entries("}", true)?;
                (kind, path) = (Kind::Map, None);
            } else {
                return Ok(kind);
            }
        }
    }

    /// Names that the language spells in another way are not looked for.
    fn is_member(&self, of: Option<&str>, name: &str) -> bool {
        let known = self.scope.members.iter().find(|(variable, _)| Some(*variable) == of);
        known.is_none_or(|(variable, names)| {
            self.local.contains(variable) || names.contains(&name) || name.contains("__")
        })
    }

    /// A name; members may be called like reserved words.
    fn name(&mut self, member: bool) -> Parsed<&'e str> {
        match self.peek() {
            Some(Token::Name(name)) if member && !matches!(name, "in" | "true" | "false" | "null") => {
                self.at += 1;
                Ok(name)
            }
            Some(Token::Name(name)) if !is_one_of(name, RESERVED) => {
                self.at += 1;
                Ok(name)
            }
            Some(Token::Quoted(name)) if member => {
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.unexpected("a name")),
        }
    }

    /// A primary expression, and its name where it is one.
    fn primary(&mut self) -> Parsed<(Kind, Option<String>)> {
        let literal = match self.peek() {
            Some(Token::Text) => Some(Kind::Text),
            Some(Token::Bytes) => Some(Kind::Unknown),
            Some(Token::Number) => Some(Kind::Number),
            Some(Token::Name("true" | "false")) => Some(Kind::Bool),
            Some(Token::Name("null")) => Some(Kind::Null),
            _ => None,
        };
        if let Some(kind) = literal {
            self.at += 1;
            return Ok((kind, None));
        }
        if self.takes("(") {
            let kind = self.expr()?;
            self.needs(")")?;
            return Ok((kind, None));
        }
        if self.takes("[") {
            self.entries("]", false)?;
            return Ok((Kind::List, None));
        }
        if self.takes("{") {
            self.entries("}", false)?;
            return Ok((Kind::Map, None));
        }
        self.takes(".");
        let name = self.name(false)?;
        if self.takes("(") {
            if !is_one_of(name, GLOBALS) {
                return Err(format!("undeclared reference to '{name}' (in container '')"));
            }
            return Ok((self.call(name)?, None));
        }
        let known = self.local.contains(&name) || self.scope.names.contains(&name) || is_one_of(name, GLOBALS);
        if !known {
            return Err(format!("undeclared reference to '{name}' (in container '')"));
        }
        Ok((Kind::Unknown, Some(name.to_owned())))
    }

    /// The arguments of a call, after its parenthesis.
    fn call(&mut self, function: &str) -> Parsed<Kind> {
        let before = self.local.len();
        if is_one_of(function, MACROS) {
            self.bound_names();
        }
        let mut count = 0;
        while !self.takes(")") {
            if count > 0 {
                self.needs(",")?;
            }
            self.expr()?;
            count += 1;
        }
        self.local.truncate(before);
        Ok(match function {
            "has" | "all" | "exists" | "exists_one" | "existsOne" | "startsWith" | "endsWith" | "contains"
            | "matches" | "isQuantity" | "isURL" | "isIP" | "isCIDR" | "isSemver" | "bool" => Kind::Bool,
            "string" | "lowerAscii" | "upperAscii" | "trim" | "join" | "format" => Kind::Text,
            "int" | "uint" | "double" | "size" => Kind::Number,
            "filter" | "split" => Kind::List,
            _ => Kind::Unknown,
        })
    }

    /// The variables that a macro binds: names at its start, each before a comma.
    fn bound_names(&mut self) {
        let mut at = self.at;
        while let (Some(Token::Name(name)), Some(Token::Mark(","))) = (self.tokens.get(at), self.tokens.get(at + 1)) {
            self.local.push(*name);
            at += 2;
        }
    }

    /// The elements of a list, or the entries of a map or (with `names`) of a message, up to the closing mark.
    fn entries(&mut self, close: &str, names: bool) -> Parsed<()> {
        while !self.takes(close) {
            self.takes("?");
            if names {
                self.name(true)?;
            } else {
                self.expr()?;
            }
            if close == "}" {
                self.needs(":")?;
                self.expr()?;
            }
            if !self.takes(",") {
                return self.needs(close);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_compile_or_not() {
        let members = [("variables", vec!["max"])];
        let names = &["object", "variables", "self", "Object", "JSONPatch"];
        let scope = |result| Scope { names, members: &members, result };
        for (expression, fine) in [
            ("object.spec.replicas <= variables.max", true),
            ("object.spec.replicas <= variables.maxx", false),
            ("!object.groups.exists(g, g == 'system:masters')", true),
            ("object.groups.exists(g, g == 'a') && g == 'b'", false),
            ("has(object.spec.replicas)", true),
            ("has(object.spec.replicas)x", false),
            ("object['a/b'].c[0].?d.orValue(1) == -1", true),
            ("self.items.map(i, i.size > 2, i.name).join(',') == ''", true),
            ("cel.bind(x, object.a, x + x) == 2u", true),
            ("quantity('1Gi').isGreaterThan(quantity('1'))", true),
            ("object.x in ['a', 'b',]", true),
            ("object.x ? 1 : 2.5e3 == 0x1f", true),
            ("r'\\d' == \"\"\"it's\"\"\"", true),
            ("bogus", false),
            ("bogus(1)", false),
            ("Not_Valid.-/ ", false),
            ("'open", false),
            ("", false),
            ("1 +", false),
            ("object.if", true),
            ("if", false),
            ("{'a': 1, 2: object}.size() > 0", true),
            ("('a'", false),
            ("'a' && true", false),
            ("'text'", false),
            ("'a' - 1 == 2", false),
        ] {
            assert_eq!(error(expression, &scope(&[Kind::Bool])).is_none(), fine, "{expression}");
        }
        let message = "Object{metadata: Object.metadata{labels: {'a': variables.max}}}";
        assert_eq!(error(message, &scope(&[Kind::Map])), None);
        assert_eq!(error("[JSONPatch{op: \"add\", path: \"/a\", value: \"v\"}]", &scope(&[Kind::List])), None);
        assert_eq!(error("'n ' + string(object.x)", &scope(&[Kind::Text])), None);
    }
}
