//! Types of expressions, and how functions' signatures are written.
//!
//! Rules: cel-go `common/types`, `checker`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A type.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// Known when it runs.
    Dyn,
    /// Null.
    Null,
    /// True or false.
    Bool,
    /// Whole numbers.
    Int,
    /// Whole numbers from zero on.
    Uint,
    /// Floating-point numbers.
    Double,
    /// Texts.
    String,
    /// Bytes.
    Bytes,
    /// Points in time.
    Timestamp,
    /// Lengths of time.
    Duration,
    /// A type itself.
    Type(Box<Type>),
    /// Lists.
    List(Box<Type>),
    /// Maps.
    Map(Box<Type>, Box<Type>),
    /// Optional values.
    Optional(Box<Type>),
    /// Objects whose fields are known.
    Object(Arc<Object>),
    /// What only functions look into.
    Opaque(&'static str),
    /// A type that a call fixes.
    Var(u32),
}

/// The fields of an object.
#[derive(Debug, Default)]
pub struct Object {
    /// The type's name.
    pub name: String,
    /// The fields by their escaped names.
    pub fields: BTreeMap<String, Type>,
    /// Takes any field (of a type that no schema describes).
    pub open: bool,
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Type {
    /// A list.
    pub fn list(of: Type) -> Self {
        Self::List(Box::new(of))
    }

    /// A map.
    pub fn map(key: Type, value: Type) -> Self {
        Self::Map(Box::new(key), Box::new(value))
    }

    /// An object with fields.
    pub fn object<'a>(name: &str, fields: impl IntoIterator<Item = (&'a str, Type)>) -> Self {
        let fields = fields.into_iter().map(|(k, t)| (k.to_owned(), t)).collect();
        Self::Object(Arc::new(Object { name: name.to_owned(), fields, open: false }))
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::Type(t) => write!(f, "type({t})"),
            Self::List(t) => write!(f, "list({t})"),
            Self::Map(k, v) => write!(f, "map({k}, {v})"),
            Self::Optional(t) => write!(f, "optional_type({t})"),
            Self::Object(o) => f.write_str(&o.name),
            Self::Opaque(name) => f.write_str(name),
            Self::Var(n) => write!(f, "_var{n}"),
        }
    }
}

/// One way to call a function.
#[derive(Debug, Clone)]
pub struct Signature {
    /// The first argument is a receiver.
    pub member: bool,
    /// Types of the arguments.
    pub args: Vec<Type>,
    /// The type of the result.
    pub result: Type,
}

/// Reads `string.(int,A) bool` or `(list(A)) A`; variables are `A` and `B`.
///
/// Called with the table's own texts, which a test reads all.
pub fn signature(text: &str) -> Option<Signature> {
    let open = text.find('(').filter(|at| *at == 0 || text[..*at].ends_with('.'));
    // The receiver may have brackets of its own: `list(A).(…)`.
    let (receiver, rest) = match (open, text.find(".(")) {
        (Some(0), _) => (None, &text[1..]),
        (_, Some(at)) => (Some(&text[..at]), &text[at + 2..]),
        _ => return None,
    };
    let end = rest.rfind(") ")?;
    let mut args = Vec::new();
    if let Some(receiver) = receiver {
        args.push(named(receiver)?);
    }
    for part in split(&rest[..end]) {
        args.push(named(part)?);
    }
    Some(Signature { member: receiver.is_some(), args, result: named(&rest[end + 2..])? })
}

/// At the commas outside of brackets.
fn split(text: &str) -> Vec<&str> {
    let (mut out, mut depth, mut from) = (Vec::new(), 0, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                out.push(text[from..i].trim());
                from = i + 1;
            }
            _ => {}
        }
    }
    if !text[from..].trim().is_empty() {
        out.push(text[from..].trim());
    }
    out
}

/// Types that only functions look into.
const OPAQUE: &[&str] = &[
    "kubernetes.Quantity",
    "kubernetes.URL",
    "net.IP",
    "net.CIDR",
    "kubernetes.Semver",
    "kubernetes.NamedFormat",
    "kubernetes.authorization.Authorizer",
    "kubernetes.authorization.PathCheck",
    "kubernetes.authorization.GroupCheck",
    "kubernetes.authorization.ResourceCheck",
    "kubernetes.authorization.Decision",
];

fn named(text: &str) -> Option<Type> {
    if let Some((head, rest)) = text.split_once('(') {
        let parts = split(rest.strip_suffix(')')?);
        let mut parts = parts.into_iter().map(named);
        let first = parts.next()??;
        return Some(match head {
            "list" => Type::list(first),
            "opt" => Type::Optional(Box::new(first)),
            "type" => Type::Type(Box::new(first)),
            "map" => Type::map(first, parts.next()??),
            _ => return None,
        });
    }
    Some(match text {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "A" => Type::Var(0),
        "B" => Type::Var(1),
        other => Type::Opaque(OPAQUE.iter().find(|n| **n == other || n.ends_with(&format!(".{other}")))?),
    })
}
