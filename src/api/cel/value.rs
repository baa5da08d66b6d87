//! Values of expressions: how they compare, and how JSON becomes one.
//!
//! Rules: the language's specification and cel-go `common/types`.
//!
//! **Invariant:** a value is cheap to clone: what is large stands behind an `Arc`.

mod order;

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use indexmap::IndexMap;
use jiff::Timestamp;
use serde_json::{Map as JsonMap, Number, Value as Json};

use super::authorizer::Authz;
use super::lib_format::Format;
use super::lib_semver::Semver;
use super::lib_url::Url;
use crate::api::meta::quantity::Quantity;

use order::same_keys;
pub use order::{compare, equal};

/// A value.
#[derive(Debug, Clone)]
pub enum Val {
    /// JSON's null.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number that is never below zero.
    Uint(u64),
    /// A floating-point number.
    Double(f64),
    /// A text.
    Str(Arc<str>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A list.
    List(Arc<List>),
    /// A map, or an object with fields.
    Map(Arc<Map>),
    /// A point in time.
    Time(Timestamp),
    /// A length of time, nanoseconds.
    Duration(i64),
    /// A type.
    Type(Arc<str>),
    /// A value or none.
    Optional(Option<Arc<Val>>),
    /// A quantity.
    Quantity(Quantity),
    /// A URL.
    Url(Arc<Url>),
    /// An address.
    Ip(IpAddr),
    /// A prefix with the address as written.
    Cidr(ipnet::IpNet),
    /// A semantic version.
    Semver(Arc<Semver>),
    /// A named format of texts.
    Format(&'static Format),
    /// Questions to the authorizer, and their answers.
    Authz(Arc<Authz>),
    /// A member of an object that does not fit its schema: an error once it is used.
    Bad(Arc<str>),
}

/// How a list's elements are told apart (`x-kubernetes-list-type`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ListKind {
    /// By their places.
    #[default]
    Atomic,
    /// By themselves.
    Set,
    /// By the fields with these names.
    Map(Vec<String>),
}

/// Elements in order.
#[derive(Debug, Default)]
pub struct List {
    /// The elements.
    pub items: Vec<Val>,
    /// How they are told apart.
    pub kind: ListKind,
    /// How many values it holds at all depths: the work of looking at all of it.
    weight: u64,
}

impl List {
    /// A list.
    pub fn new(items: Vec<Val>, kind: ListKind) -> Self {
        let weight = items.iter().fold(1, |sum: u64, v| sum.saturating_add(v.weight()));
        Self { items, kind, weight }
    }
}

/// A map's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number that does not fit the former.
    Uint(u64),
    /// A text.
    Str(Arc<str>),
}

/// Entries in the order of the source.
#[derive(Debug, Default)]
pub struct Map {
    /// The entries.
    pub entries: IndexMap<Key, Val>,
    /// The name of an object's type, where it has one.
    pub type_name: Option<Arc<str>>,
    /// What stands for every entry that is not there.
    pub default: Option<Val>,
    /// How many values it holds at all depths.
    weight: u64,
}

impl Key {
    /// The key that a value is, if it can be one. Numbers of all types are one key.
    pub fn of(v: &Val) -> Option<Self> {
        Some(match v {
            Val::Bool(b) => Self::Bool(*b),
            Val::Int(i) => Self::Int(*i),
            Val::Uint(u) => i64::try_from(*u).map_or(Self::Uint(*u), Self::Int),
            Val::Double(d) if d.fract() == 0.0 && d.abs() < 9.0e18 => Self::Int(*d as i64),
            Val::Str(s) => Self::Str(s.clone()),
            _ => return None,
        })
    }

    /// The value that a key is.
    pub fn value(&self) -> Val {
        match self {
            Self::Bool(b) => Val::Bool(*b),
            Self::Int(i) => Val::Int(*i),
            Self::Uint(u) => Val::Uint(*u),
            Self::Str(s) => Val::Str(s.clone()),
        }
    }
}

impl Map {
    /// A map.
    pub fn new(entries: IndexMap<Key, Val>, type_name: Option<Arc<str>>) -> Self {
        let weight = entries.values().fold(1, |sum: u64, v| sum.saturating_add(v.weight()));
        Self { entries, type_name, default: None, weight }
    }

    /// The entry of a text.
    pub fn field(&self, name: &str) -> Option<&Val> {
        self.entry(&Key::Str(name.into()))
    }

    /// An entry, or what stands for it.
    pub fn entry(&self, key: &Key) -> Option<&Val> {
        self.entries.get(key).or(self.default.as_ref())
    }
}

impl From<&str> for Val {
    fn from(s: &str) -> Self {
        Val::Str(s.into())
    }
}

impl From<String> for Val {
    fn from(s: String) -> Self {
        Val::Str(s.into())
    }
}

impl From<bool> for Val {
    fn from(b: bool) -> Self {
        Val::Bool(b)
    }
}

impl Val {
    /// A list.
    pub fn list(items: Vec<Val>) -> Self {
        Val::List(Arc::new(List::new(items, ListKind::Atomic)))
    }

    /// A map with texts as keys.
    pub fn map<K: Into<Arc<str>>>(entries: impl IntoIterator<Item = (K, Val)>) -> Self {
        let entries = entries.into_iter().map(|(k, v)| (Key::Str(k.into()), v)).collect();
        Val::Map(Arc::new(Map::new(entries, None)))
    }

    /// A value that is there.
    pub fn some(v: Val) -> Self {
        Val::Optional(Some(Arc::new(v)))
    }

    /// The same, with what stands for every entry that is not there.
    pub fn map_with_default<K: Into<Arc<str>>>(entries: impl IntoIterator<Item = (K, Val)>, default: Val) -> Self {
        let entries = entries.into_iter().map(|(k, v)| (Key::Str(k.into()), v)).collect();
        Val::Map(Arc::new(Map { default: Some(default), ..Map::new(entries, None) }))
    }

    /// JSON of which no schema is known.
    pub fn from_json(json: &Json) -> Self {
        match json {
            Json::Null => Val::Null,
            Json::Bool(b) => Val::Bool(*b),
            Json::Number(n) => number(n),
            Json::String(s) => Val::from(s.as_str()),
            Json::Array(a) => Val::list(a.iter().map(Val::from_json).collect()),
            Json::Object(o) => Val::map(o.iter().map(|(k, v)| (k.as_str(), Val::from_json(v)))),
        }
    }

    /// The JSON of a value; none for what has none.
    pub fn to_json(&self) -> Option<Json> {
        Some(match self {
            Val::Null => Json::Null,
            Val::Bool(b) => Json::Bool(*b),
            Val::Int(i) => Json::from(*i),
            Val::Uint(u) => Json::from(*u),
            Val::Double(d) => Json::Number(Number::from_f64(*d)?),
            Val::Str(s) => Json::from(&**s),
            Val::List(l) => Json::Array(l.items.iter().map(Val::to_json).collect::<Option<_>>()?),
            Val::Map(m) => Json::Object(object(m)?),
            Val::Bytes(b) => Json::from(STANDARD.encode(b)),
            Val::Quantity(q) => Json::from(q.to_string()),
            Val::Time(_) | Val::Duration(_) | Val::Ip(_) | Val::Cidr(_) | Val::Url(_) | Val::Semver(_) => {
                Json::from(&*super::convert::text(self).ok()?)
            }
            Val::Optional(o) => o.as_ref().map_or(Some(Json::Null), |v| v.to_json())?,
            Val::Type(_) | Val::Format(_) | Val::Authz(_) | Val::Bad(_) => return None,
        })
    }

    /// The name of the value's type.
    pub fn type_name(&self) -> Arc<str> {
        match self {
            Val::Null => "null_type",
            Val::Bool(_) => "bool",
            Val::Int(_) => "int",
            Val::Uint(_) => "uint",
            Val::Double(_) => "double",
            Val::Str(_) => "string",
            Val::Bytes(_) => "bytes",
            Val::List(_) => "list",
            Val::Map(m) => return m.type_name.clone().unwrap_or_else(|| "map".into()),
            Val::Time(_) => "google.protobuf.Timestamp",
            Val::Duration(_) => "google.protobuf.Duration",
            Val::Type(_) => "type",
            Val::Optional(_) => "optional_type",
            Val::Quantity(_) => "kubernetes.Quantity",
            Val::Url(_) => "kubernetes.URL",
            Val::Ip(_) => "net.IP",
            Val::Cidr(_) => "net.CIDR",
            Val::Semver(_) => "kubernetes.Semver",
            Val::Format(_) => "kubernetes.NamedFormat",
            Val::Authz(a) => return a.type_name(),
            Val::Bad(_) => "error",
        }
        .into()
    }

    /// True for what stands for nothing: zero, an empty text, list or map.
    pub fn is_zero(&self) -> bool {
        match self {
            Val::Null => true,
            Val::Bool(b) => !b,
            Val::Int(i) => *i == 0,
            Val::Uint(u) => *u == 0,
            Val::Double(d) => *d == 0.0,
            Val::Str(s) => s.is_empty(),
            Val::Bytes(b) => b.is_empty(),
            Val::List(l) => l.items.is_empty(),
            Val::Map(m) => m.entries.is_empty(),
            Val::Duration(d) => *d == 0,
            Val::Optional(o) => o.is_none(),
            _ => false,
        }
    }

    /// How many values it holds at all depths, itself counted. Shared ones count as often as they are held.
    pub fn weight(&self) -> u64 {
        match self {
            Val::List(l) => l.weight,
            Val::Map(m) => m.weight,
            Val::Optional(Some(v)) => v.weight().saturating_add(1),
            Val::Str(s) => 1 + s.len() as u64 / 10,
            Val::Bytes(b) => 1 + b.len() as u64 / 10,
            _ => 1,
        }
    }

    /// How large the value is, for costs: elements, characters or bytes; 1 for all else.
    pub fn size(&self) -> u64 {
        match self {
            Val::Str(s) => s.chars().count() as u64,
            Val::Bytes(b) => b.len() as u64,
            Val::List(l) => l.items.len() as u64,
            Val::Map(m) => m.entries.len() as u64,
            Val::Optional(Some(v)) => v.size(),
            Val::Ip(IpAddr::V4(_)) | Val::Cidr(ipnet::IpNet::V4(_)) => 4,
            Val::Ip(IpAddr::V6(_)) | Val::Cidr(ipnet::IpNet::V6(_)) => 16,
            _ => 1,
        }
    }
}

/// A JSON number, by how it is written.
pub fn number(n: &Number) -> Val {
    match (n.as_i64(), n.as_u64()) {
        (Some(i), _) => Val::Int(i),
        (None, Some(u)) => Val::Uint(u),
        _ => Val::Double(n.as_f64().unwrap_or_default()),
    }
}

fn object(m: &Map) -> Option<JsonMap<String, Json>> {
    let mut out = JsonMap::new();
    for (k, v) in &m.entries {
        let Key::Str(name) = k else { return None };
        let name = if m.type_name.is_some() { super::escape::unescape(name) } else { name.to_string() };
        out.insert(name, v.to_json()?);
    }
    Some(out)
}

/// Two lists after one another; in sets and lists with keys, what is there already keeps its place.
pub fn concat(a: &List, b: &List) -> Val {
    let mut items = a.items.clone();
    for v in &b.items {
        let place = match &a.kind {
            ListKind::Atomic => None,
            ListKind::Set => items.iter().position(|w| equal(v, w)),
            ListKind::Map(keys) => items.iter().position(|w| same_keys(v, w, keys)),
        };
        match place {
            Some(i) => items[i] = v.clone(),
            None => items.push(v.clone()),
        }
    }
    Val::List(Arc::new(List::new(items, a.kind.clone())))
}
