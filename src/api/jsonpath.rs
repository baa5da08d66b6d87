//! JSONPath in kubectl's dialect: templates, `range`, filters, slices, unions, recursive descent.
//!
//! Rules: upstream `client-go/util/jsonpath`. The parser here makes a tree; the evaluator walks it.
//!
//! **Invariant:** evaluation never panics, and what it may find is bounded.

use serde_json::Value;

/// Why a template does not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The template is not of the grammar.
    #[error("error parsing jsonpath {template}, {reason}")]
    Parse {
        /// The template.
        template: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The object is not what the template expects.
    #[error("{0}")]
    Run(String),
}

/// Brackets, ranges and filters within each other.
const MAX_DEPTH: usize = 64;
/// Values that one expression may find on its way; many descents behind each other multiply.
const MAX_VALUES: usize = 4_000_000;

/// A parsed template.
#[derive(Debug, Clone)]
pub struct JsonPath {
    /// The template, for messages.
    text: String,
    nodes: Vec<Node>,
    /// A field that is missing gives nothing; else it is an error.
    pub allow_missing: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    /// Text outside braces, or quoted inside.
    Text(String),
    /// One action in braces.
    Path(Vec<Step>),
    /// `{range …}…{end}`.
    Range(Vec<Step>, Vec<Node>),
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// `$`: the object itself.
    Root,
    /// `.name`.
    Field(String),
    /// `.*` and `[*]`.
    Wildcard,
    /// `..`.
    Recursive,
    /// `[i]` and `[from:to:step]`.
    Slice(Slice),
    /// `[?(left op right)]`.
    Filter(Vec<Step>, Op, Vec<Step>),
    /// `['a','b']`, `[0,2]`.
    Union(Vec<Vec<Step>>),
    /// A constant in a filter.
    Literal(Value),
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Slice {
    from: Option<i64>,
    to: Option<i64>,
    step: Option<i64>,
    /// One index: out of bounds is an error.
    single: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Exists,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

impl JsonPath {
    /// The template.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Parses a template: text, and expressions in braces.
    pub fn parse(template: &str) -> Result<Self, PathError> {
        let mut parser = Parser { text: template, at: 0, depth: 0 };
        let (nodes, ended) = parser.nodes().map_err(|reason| PathError::Parse { template: template.into(), reason })?;
        if ended {
            return Err(PathError::Parse { template: template.into(), reason: "not in range, nothing to end".into() });
        }
        Ok(Self { text: template.to_owned(), nodes, allow_missing: true })
    }

    /// Parses `.a.b`, `a.b` or `{.a.b}`, as sorting and custom columns take them.
    pub fn relaxed(expression: &str) -> Result<Self, PathError> {
        if expression.is_empty() {
            return Self::parse("");
        }
        let inner = expression.strip_prefix('{').and_then(|e| e.strip_suffix('}')).unwrap_or(expression);
        let inner = inner.strip_prefix('.').unwrap_or(inner);
        if inner.is_empty() || inner.contains(['{', '}']) {
            return Err(PathError::Run(
                "unexpected path string, expected a 'name1.name2' or '.name1.name2' or '{name1.name2}' or '{.name1.name2}'"
                    .into(),
            ));
        }
        Self::parse(&format!("{{.{inner}}}"))
    }

    /// The text of a template.
    pub fn render(&self, object: &Value) -> Result<String, PathError> {
        let mut out = String::new();
        Run { root: object, allow_missing: self.allow_missing }.render(&self.nodes, object, &mut out)?;
        Ok(out)
    }

    /// The values that the template's expressions find.
    pub fn find<'a>(&'a self, object: &'a Value) -> Result<Vec<&'a Value>, PathError> {
        let run = Run { root: object, allow_missing: self.allow_missing };
        let mut found = Vec::new();
        for node in &self.nodes {
            if let Node::Path(steps) = node {
                found.extend(run.steps(steps, vec![object])?);
            }
        }
        Ok(found)
    }
}

/// How a value is printed: text as it is, the rest as JSON.
pub fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Object(_) | Value::Array(_) => super::go_json::escape_html(&super::go_json::sorted(value).to_string()),
        scalar => scalar.to_string(),
    }
}

struct Run<'a> {
    root: &'a Value,
    allow_missing: bool,
}

impl<'a> Run<'a> {
    fn render(&self, nodes: &'a [Node], current: &'a Value, out: &mut String) -> Result<(), PathError> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Path(steps) => {
                    let found = self.steps(steps, vec![current])?;
                    out.push_str(&found.into_iter().map(show).collect::<Vec<_>>().join(" "));
                }
                Node::Range(steps, body) => {
                    for item in self.steps(steps, vec![current])? {
                        self.render(body, item, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn steps(&self, steps: &'a [Step], mut at: Vec<&'a Value>) -> Result<Vec<&'a Value>, PathError> {
        for step in steps {
            at = self.step(step, at)?;
            if at.len() > MAX_VALUES {
                return Err(PathError::Run(format!("the expression finds more than {MAX_VALUES} values")));
            }
        }
        Ok(at)
    }

    fn step(&self, step: &'a Step, at: Vec<&'a Value>) -> Result<Vec<&'a Value>, PathError> {
        let mut found = Vec::new();
        match step {
            Step::Root => found.push(self.root),
            Step::Literal(value) => found.push(value),
            Step::Field(name) => {
                for value in &at {
                    // A list is no object: nothing is found in it.
                    if let Value::Object(map) = value {
                        found.extend(map.get(name));
                    }
                }
                if found.is_empty() && !at.is_empty() && !self.allow_missing {
                    return Err(PathError::Run(format!("{name} is not found")));
                }
            }
            Step::Wildcard => {
                for value in at {
                    match value {
                        Value::Object(map) => found.extend(sorted_values(map)),
                        Value::Array(items) => found.extend(items),
                        _ => {}
                    }
                }
            }
            Step::Recursive => at.into_iter().for_each(|value| descend(value, &mut found)),
            Step::Slice(slice) => {
                for value in at {
                    match value {
                        Value::Array(items) => slice.take(items, &mut found)?,
                        Value::Null => {}
                        other => {
                            return Err(PathError::Run(format!("{} is not array or slice", show(other))));
                        }
                    }
                }
            }
            Step::Union(paths) => {
                for value in at {
                    for path in paths {
                        found.extend(self.steps(path, vec![value])?);
                    }
                }
            }
            Step::Filter(left, op, right) => {
                for value in at {
                    let Value::Array(items) = value else { continue };
                    for item in items {
                        if self.holds(item, left, *op, right)? {
                            found.push(item);
                        }
                    }
                }
            }
        }
        Ok(found)
    }

    fn holds(&self, item: &'a Value, left: &'a [Step], op: Op, right: &'a [Step]) -> Result<bool, PathError> {
        let inner = Run { root: self.root, allow_missing: true };
        let left = inner.steps(left, vec![item])?;
        if op == Op::Exists {
            return Ok(!left.is_empty());
        }
        let right = inner.steps(right, vec![item])?;
        let (Some(l), Some(r)) = (left.first(), right.first()) else { return Ok(false) };
        if left.len() > 1 || right.len() > 1 {
            return Err(PathError::Run("can only compare one element at a time".into()));
        }
        use std::cmp::Ordering::{Equal, Greater, Less};
        let order = match (l, r) {
            (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
                (Some(a), Some(b)) => Some(a.cmp(&b)),
                _ => a.as_f64().partial_cmp(&b.as_f64()),
            },
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Value::Bool(a), Value::Bool(b)) if a == b => Some(Equal),
            _ => None,
        };
        Ok(match op {
            Op::Eq => order == Some(Equal),
            Op::Ne => order != Some(Equal),
            Op::Lt => order == Some(Less),
            Op::Le => matches!(order, Some(Less | Equal)),
            Op::Gt => order == Some(Greater),
            Op::Ge => matches!(order, Some(Greater | Equal)),
            Op::Exists => true,
        })
    }
}

impl Slice {
    fn take<'a>(&self, items: &'a [Value], found: &mut Vec<&'a Value>) -> Result<(), PathError> {
        let len = items.len() as i64;
        let from_end = |i: i64| if i < 0 { i + len } else { i };
        let from = from_end(self.from.unwrap_or(0));
        if self.single {
            return match usize::try_from(from).ok().and_then(|i| items.get(i)) {
                Some(item) => {
                    found.push(item);
                    Ok(())
                }
                None => Err(PathError::Run(format!(
                    "array index out of bounds: index {}, length {len}",
                    self.from.unwrap_or(0)
                ))),
            };
        }
        let to = from_end(self.to.unwrap_or(len)).clamp(0, len);
        let step = self.step.unwrap_or(1);
        if step <= 0 {
            return Err(PathError::Run("step must be > 0".into()));
        }
        let mut i = from.max(0);
        while i < to {
            found.push(&items[i as usize]);
            i = i.saturating_add(step);
        }
        Ok(())
    }
}

fn sorted_values(map: &serde_json::Map<String, Value>) -> Vec<&Value> {
    let mut pairs: Vec<_> = map.iter().collect();
    pairs.sort_by(|a, b| a.0.cmp(b.0));
    pairs.into_iter().map(|(_, v)| v).collect()
}

/// The value and all below it, but scalars.
fn descend<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(map) => {
            found.push(value);
            sorted_values(map).into_iter().for_each(|v| descend(v, found));
        }
        Value::Array(items) => {
            found.push(value);
            items.iter().for_each(|v| descend(v, found));
        }
        _ => {}
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

type Parsed<T> = Result<T, String>;

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn eat(&mut self, token: &str) -> bool {
        let there = self.rest().starts_with(token);
        if there {
            self.at += token.len();
        }
        there
    }

    fn spaces(&mut self) {
        while let Some(c) = self.peek().filter(|c| c.is_whitespace()) {
            self.at += c.len_utf8();
        }
    }

    fn deeper(&mut self) -> Parsed<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(format!("nested more than {MAX_DEPTH} deep")) } else { Ok(()) }
    }

    /// Nodes up to the end of the text, or up to `{end}`, which is told.
    fn nodes(&mut self) -> Parsed<(Vec<Node>, bool)> {
        self.deeper()?;
        let mut nodes = Vec::new();
        while self.at < self.text.len() {
            let open = self.rest().find('{').unwrap_or(self.rest().len());
            if open > 0 {
                nodes.push(Node::Text(self.rest()[..open].to_owned()));
                self.at += open;
                continue;
            }
            self.at += 1;
            if self.action(&mut nodes)? {
                self.depth -= 1;
                return Ok((nodes, true));
            }
        }
        self.depth -= 1;
        Ok((nodes, false))
    }

    /// What stands in braces, the closing one included. True for `{end}`.
    fn action(&mut self, nodes: &mut Vec<Node>) -> Parsed<bool> {
        let mut steps: Vec<Step> = Vec::new();
        let mut flush = |steps: &mut Vec<Step>| {
            if !steps.is_empty() {
                nodes.push(Node::Path(std::mem::take(steps)));
            }
        };
        let mut range = false;
        loop {
            match self.peek() {
                None => return Err("unclosed action".into()),
                Some('}') => {
                    self.at += 1;
                    break;
                }
                Some(c) if c.is_whitespace() => {
                    self.spaces();
                    if !range {
                        flush(&mut steps);
                    }
                }
                Some(quote @ ('"' | '\'')) => {
                    flush(&mut steps);
                    let text = self.quoted(quote)?;
                    steps.push(Step::Literal(Value::String(text)));
                    flush(&mut steps);
                }
                Some(c) if steps.is_empty() && (c.is_alphabetic()) => match self.word().as_str() {
                    "range" => range = true,
                    "end" => {
                        self.spaces();
                        return if self.eat("}") { Ok(true) } else { Err("unclosed action".into()) };
                    }
                    "true" => steps.push(Step::Literal(true.into())),
                    "false" => steps.push(Step::Literal(false.into())),
                    // A bare name is a field, as upstream takes it.
                    name => steps.push(Step::Field(name.to_owned())),
                },
                Some(_) => self.step(&mut steps)?,
            }
        }
        if !range {
            flush(&mut steps);
            return Ok(false);
        }
        let (body, ended) = self.nodes()?;
        if !ended {
            return Err("unterminated range, expected {end}".into());
        }
        nodes.push(Node::Range(steps, body));
        Ok(false)
    }

    fn step(&mut self, steps: &mut Vec<Step>) -> Parsed<()> {
        match self.peek() {
            Some('$' | '@') => {
                if self.eat("$") {
                    steps.push(Step::Root);
                } else {
                    self.at += 1;
                }
            }
            Some('.') => {
                self.at += 1;
                if self.eat(".") {
                    steps.push(Step::Recursive);
                    if matches!(self.peek(), Some('[' | '*')) {
                        return Ok(());
                    }
                }
                self.field(steps);
            }
            Some('*') => {
                self.at += 1;
                steps.push(Step::Wildcard);
            }
            Some('[') => {
                self.at += 1;
                self.deeper()?;
                let step = self.bracket()?;
                self.depth -= 1;
                steps.push(step);
            }
            Some(c) => return Err(format!("unrecognized character in action: {c:?}")),
            None => return Err("unclosed action".into()),
        }
        Ok(())
    }

    /// A name behind a dot; a backslash takes the next sign as it is. No name (`{.}`) is the value itself.
    fn field(&mut self, steps: &mut Vec<Step>) {
        if self.eat("*") {
            steps.push(Step::Wildcard);
            return;
        }
        let name = self.word();
        if !name.is_empty() {
            steps.push(Step::Field(name));
        }
    }

    fn word(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            match c {
                '\\' => {
                    self.at += 1;
                    if let Some(next) = self.peek() {
                        name.push(next);
                        self.at += next.len_utf8();
                    }
                }
                '.' | '[' | ']' | '}' | '{' | ')' | '(' | ',' | '=' | '!' | '<' | '>' | '&' | '|' | '"' | '\'' => break,
                c if c.is_whitespace() => break,
                c => {
                    name.push(c);
                    self.at += c.len_utf8();
                }
            }
        }
        name
    }

    fn quoted(&mut self, quote: char) -> Parsed<String> {
        self.at += 1;
        let mut text = String::new();
        let mut signs = self.text[self.at..].char_indices();
        while let Some((i, c)) = signs.next() {
            match c {
                c if c == quote => {
                    self.at += i + c.len_utf8();
                    return Ok(text);
                }
                '\\' => match signs.next().map(|(_, c)| c) {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(other) => text.push(other),
                    None => break,
                },
                c => text.push(c),
            }
        }
        Err("unterminated quoted string".into())
    }

    /// What stands in brackets, the closing one included.
    fn bracket(&mut self) -> Parsed<Step> {
        self.spaces();
        if self.eat("?(") {
            return self.filter();
        }
        let mut parts = vec![self.bracket_part()?];
        loop {
            self.spaces();
            if self.eat("]") {
                break;
            }
            if !self.eat(",") {
                return Err("unterminated array".into());
            }
            self.spaces();
            parts.push(self.bracket_part()?);
        }
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        Ok(Step::Union(parts.into_iter().map(|p| vec![p]).collect()))
    }

    fn bracket_part(&mut self) -> Parsed<Step> {
        match self.peek() {
            Some('*') => {
                self.at += 1;
                Ok(Step::Wildcard)
            }
            // A name stands in single quotes; in double ones it is taken for an index, as kubectl takes it.
            Some('\'') => Ok(Step::Field(self.quoted('\'')?)),
            _ => {
                let end = self.rest().find([',', ']']).ok_or("unterminated array")?;
                let text = self.rest()[..end].trim().to_owned();
                self.at += end;
                slice(&text)
            }
        }
    }

    fn filter(&mut self) -> Parsed<Step> {
        self.spaces();
        let left = self.operand()?;
        self.spaces();
        const OPS: [(&str, Op); 6] =
            [("==", Op::Eq), ("!=", Op::Ne), ("<=", Op::Le), (">=", Op::Ge), ("<", Op::Lt), (">", Op::Gt)];
        let op = OPS.iter().find(|(token, _)| self.rest().starts_with(token)).copied();
        let step = match op {
            None => Step::Filter(left, Op::Exists, Vec::new()),
            Some((token, op)) => {
                self.at += token.len();
                self.spaces();
                let right = self.operand()?;
                self.spaces();
                Step::Filter(left, op, right)
            }
        };
        if self.eat(")") && self.eat("]") { Ok(step) } else { Err("unterminated filter".into()) }
    }

    fn operand(&mut self) -> Parsed<Vec<Step>> {
        let mut steps = Vec::new();
        match self.peek() {
            Some(quote @ ('\'' | '"')) => steps.push(Step::Literal(Value::String(self.quoted(quote)?))),
            Some(c) if c.is_ascii_digit() || c == '-' || c == '+' => {
                let end = self.rest().find(|c: char| !c.is_ascii_digit() && !"+-.eE".contains(c));
                let end = end.unwrap_or(self.rest().len());
                let text = &self.rest()[..end];
                let number = serde_json::from_str(text.trim_start_matches('+'));
                let number: serde_json::Number = number.map_err(|_| format!("cannot parse number {text}"))?;
                self.at += end;
                steps.push(Step::Literal(Value::Number(number)));
            }
            Some(c) if c.is_alphabetic() => match self.word().as_str() {
                "true" => steps.push(Step::Literal(true.into())),
                "false" => steps.push(Step::Literal(false.into())),
                other => return Err(format!("unrecognized identifier {other}")),
            },
            _ => {
                while let Some('$' | '@' | '.' | '[') = self.peek() {
                    self.step(&mut steps)?;
                }
            }
        }
        Ok(steps)
    }
}

/// `1`, `-1`, `1:3`, `::2`.
fn slice(text: &str) -> Parsed<Step> {
    let bad = || format!("invalid array index {text}");
    let number = |part: &str| -> Parsed<Option<i64>> {
        if part.is_empty() { Ok(None) } else { part.trim().parse().map(Some).map_err(|_| bad()) }
    };
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        [one] if !one.is_empty() => Ok(Step::Slice(Slice { from: number(one)?, to: None, step: None, single: true })),
        [from, to] => Ok(Step::Slice(Slice { from: number(from)?, to: number(to)?, step: None, single: false })),
        [from, to, step] => {
            Ok(Step::Slice(Slice { from: number(from)?, to: number(to)?, step: number(step)?, single: false }))
        }
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn object() -> Value {
        json!({
            "kind": "List",
            "items": [
                {"kind": "None", "metadata": {"name": "127.0.0.1", "labels": {"kubernetes.io/hostname": "127.0.0.1"}},
                 "status": {"capacity": {"cpu": "4"}, "n": 1, "ready": true}},
                {"kind": "None", "metadata": {"name": "127.0.0.2"}, "status": {"capacity": {"cpu": "8"}, "n": 2,
                 "addresses": [{"type": "A", "address": "127.0.0.2"}, {"type": "B", "address": "127.0.0.3"}]}},
                {"kind": "Odd", "metadata": {"name": "x"}, "status": {"n": 3}}],
            "users": [{"name": "myself", "user": {}}, {"name": "e2e", "user": {"username": "admin", "password": "secret"}}]
        })
    }

    #[test_case("plain text", "plain text")]
    #[test_case("kind is {.kind}", "kind is List")]
    #[test_case("{.kind}{\"\\n\"}", "List\n"; "quoted")]
    #[test_case("{['kind']}", "List"; "brackets")]
    #[test_case("{.items[*].metadata.name}", "127.0.0.1 127.0.0.2 x")]
    #[test_case("{.items[*]['metadata.name', 'status.capacity']}", ""; "a quoted name is one field")]
    #[test_case("{range .items[*]}[{.metadata.name}, {.status.n}] {end}", "[127.0.0.1, 1] [127.0.0.2, 2] [x, 3] "; "range")]
    #[test_case("{range .items[*]}{range .status.addresses[*]}{.type};{end}|{end}", "|A;B;||"; "range in range")]
    #[test_case("{.users[?(@.name==\"e2e\")].user.password}", "secret"; "filter")]
    #[test_case("{.items[?(@.status.n>1)].metadata.name}", "127.0.0.2 x"; "a number")]
    #[test_case("{.items[?(@.status.ready==true)].metadata.name}", "127.0.0.1"; "a truth")]
    #[test_case("{.items[?(@.status.addresses)].metadata.name}", "127.0.0.2"; "exists")]
    #[test_case("{.items[?(@.kind!='None')].metadata.name}", "x"; "not equal")]
    #[test_case("{..name}", "127.0.0.1 127.0.0.2 x myself e2e"; "descent")]
    #[test_case("{.items[0].metadata.name}", "127.0.0.1")]
    #[test_case("{.items[-1:].metadata.name}", "x"; "the last")]
    #[test_case("{.items[-1].metadata.name}", "x"; "negative")]
    #[test_case("{.items[0:2].metadata.name}", "127.0.0.1 127.0.0.2"; "slice")]
    #[test_case("{.items[::2].metadata.name}", "127.0.0.1 x"; "stride")]
    #[test_case("{.items[0,2].metadata.name}", "127.0.0.1 x"; "union")]
    #[test_case("{.items[0].metadata.labels.kubernetes\\.io/hostname}", "127.0.0.1"; "a dot in a name")]
    #[test_case("{.items[0].status.capacity}", "{\"cpu\":\"4\"}"; "an object")]
    #[test_case("{.items[0].status.ready} {.items[0].status.n}", "true 1"; "scalars")]
    #[test_case("{.nothing.here}", ""; "missing")]
    #[test_case("{$.kind}", "List"; "root")]
    #[test_case("{.kind} {.users[0].name}", "List myself"; "two actions")]
    fn renders(template: &str, want: &str) {
        assert_eq!(JsonPath::parse(template).unwrap().render(&object()).unwrap(), want);
    }

    #[test_case("{.items[5]}"; "out of bounds")]
    #[test_case("{.kind[0]}"; "no list")]
    fn cannot_run(template: &str) {
        assert!(JsonPath::parse(template).unwrap().render(&object()).is_err());
    }

    #[test_case("{.a"; "unclosed")]
    #[test_case("{range .a}x"; "no end")]
    #[test_case("{end}"; "end of nothing")]
    #[test_case("{.a[?(@.b==1]}"; "open filter")]
    #[test_case("{.a[1}"; "open array")]
    #[test_case("{.a['x]}"; "open quote")]
    #[test_case("{.a[x]}"; "no index")]
    fn refused(template: &str) {
        assert!(JsonPath::parse(template).is_err());
    }

    #[test_case(".kind")]
    #[test_case("kind")]
    #[test_case("{.kind}")]
    #[test_case("{kind}")]
    fn relaxed(expression: &str) {
        assert_eq!(JsonPath::relaxed(expression).unwrap().render(&object()).unwrap(), "List");
    }

    #[test]
    fn missing_is_an_error_where_that_is_asked_for() {
        let mut path = JsonPath::parse("{.nope}").unwrap();
        path.allow_missing = false;
        assert_eq!(path.render(&object()).unwrap_err().to_string(), "nope is not found");
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(template in "[{}.$@*\\[\\]?()'\"a-c0-2:,=<> -]{0,30}") {
            if let Ok(path) = JsonPath::parse(&template) {
                let _ = path.render(&object());
            }
        }
    }
}
