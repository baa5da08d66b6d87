//! FieldsV1, the wire form of a field set: a trie of objects with keys `f:name`, `k:{…}`, `v:…`, `i:n` and `.`.
//!
//! Most writes touch few fields and many managers, so [`contains`] and [`touches`] answer on the wire form itself.
//!
//! **Invariant:** what [`print`] makes, [`parse`] reads back equal.
//!
//! Rules: upstream `structured-merge-diff/fieldpath` (`serialize.go`, `serialize-pe.go`).

use std::borrow::Cow;
use std::fmt::Write;

use serde_json::{Map, Value};

use super::fieldset::{Elem, FieldSet, Node};

/// Levels of a FieldsV1 that are read. Upstream's types are below 30 deep; JSON itself is read to 128.
const MAX_DEPTH: usize = 128;

/// Reads a FieldsV1. The error says which key is wrong.
pub fn parse(fields: &Value) -> Result<FieldSet<'_>, String> {
    match fields {
        Value::Object(map) => Ok(parse_map(map, 0)?.children),
        Value::Null => Ok(FieldSet::default()),
        _ => Err("fieldsV1 must be an object".into()),
    }
}

fn parse_map(map: &Map<String, Value>, depth: usize) -> Result<Node<'_>, String> {
    if depth > MAX_DEPTH {
        return Err("fieldsV1 is too deep".into());
    }
    let mut node = Node::default();
    for (key, below) in map {
        if key == "." {
            node.member = true;
            continue;
        }
        let below = below.as_object().ok_or_else(|| format!("{key:?} in fieldsV1 must be an object"))?;
        let elem = parse_elem(key)?;
        let mut child = parse_map(below, depth + 1)?;
        child.member |= child.children.is_empty();
        node.children.push(elem, child);
    }
    node.children.settle();
    Ok(node)
}

fn parse_elem(key: &str) -> Result<Elem<'_>, String> {
    let wrong = || format!("{key:?} is no path element");
    let (kind, rest) = key.split_once(':').ok_or_else(wrong)?;
    match kind {
        "f" => Ok(Elem::Field(rest)),
        "v" => serde_json::from_str(rest).map(|v| Elem::Value(Cow::Owned(v))).map_err(|_| wrong()),
        "i" => rest.parse().map(Elem::Index).map_err(|_| wrong()),
        "k" => {
            let fields: Map<String, Value> = serde_json::from_str(rest).map_err(|_| wrong())?;
            let mut fields: Vec<_> = fields.into_iter().map(|(k, v)| (Cow::Owned(k), Cow::Owned(v))).collect();
            fields.sort_by(|(a, _): &(Cow<'_, str>, _), (b, _)| a.cmp(b));
            Ok(Elem::Key(fields.into()))
        }
        _ => Err(wrong()),
    }
}

/// Makes a FieldsV1.
pub fn print(set: &FieldSet<'_>) -> Value {
    print_node(false, set)
}

fn print_node(member: bool, children: &FieldSet<'_>) -> Value {
    if children.is_empty() {
        return Value::Object(Map::new());
    }
    let mut map = Map::with_capacity(children.iter().len() + usize::from(member));
    if member {
        map.insert(".".into(), Value::Object(Map::new()));
    }
    let (mut all, mut like) = (children.iter().peekable(), None);
    while let Some((elem, node)) = all.next() {
        let mut key = String::new();
        write_elem(elem, &mut key);
        let below = like.take().unwrap_or_else(|| print_node(node.member, &node.children));
        // Elements of a list mostly have the same fields: a copy is made faster than the same once more.
        if !node.children.is_empty() && all.peek().is_some_and(|(_, next)| next == node) {
            like = Some(below.clone());
        }
        map.insert(key, below);
    }
    Value::Object(map)
}

const INFALLIBLE: &str = "writing to a String does not fail";

/// A JSON string; keys of lists are names and mostly need no escape.
fn write_text(text: &str, out: &mut String) {
    if text.bytes().all(|b| b >= b' ' && !matches!(b, b'"' | b'\\')) {
        out.reserve(text.len() + 2);
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        write!(out, "{}", Value::from(text)).expect(INFALLIBLE);
    }
}

fn write_elem(elem: &Elem<'_>, out: &mut String) {
    match elem {
        Elem::Field(name) => {
            out.reserve_exact(name.len() + 2);
            out.push_str("f:");
            out.push_str(name);
        }
        Elem::Key(fields) => {
            out.push_str("k:{");
            for (i, (name, value)) in fields.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_text(name, out);
                out.push(':');
                match value.as_str() {
                    Some(text) => write_text(text, out),
                    None => write!(out, "{value}").expect(INFALLIBLE),
                }
            }
            out.push('}');
        }
        Elem::Value(value) => write!(out, "v:{value}").expect(INFALLIBLE),
        Elem::Index(i) => write!(out, "i:{i}").expect(INFALLIBLE),
    }
}

/// True when every path of `set` is in `fields`.
pub fn contains(fields: &Value, set: &FieldSet<'_>) -> bool {
    walk(fields, set, &mut String::new(), &mut |owned, node| owned == node.member || !node.member, true)
}

/// True when some path of `set` is in `fields`.
pub fn touches(fields: &Value, set: &FieldSet<'_>) -> bool {
    walk(fields, set, &mut String::new(), &mut |owned, node| owned && node.member, false)
}

/// Looks up every node of `set`: all must pass the test, or any.
fn walk(
    fields: &Value,
    set: &FieldSet<'_>,
    key: &mut String,
    test: &mut impl FnMut(bool, &Node<'_>) -> bool,
    all: bool,
) -> bool {
    let Some(map) = fields.as_object() else { return all && set.is_empty() };
    for (elem, node) in set.iter() {
        key.clear();
        write_elem(elem, key);
        let found = match map.get(key.as_str()) {
            None => false,
            Some(below) => {
                let owned = below.as_object().is_some_and(|m| m.is_empty() || m.contains_key("."));
                let here = test(owned, node);
                let deeper = |key: &mut String, test: &mut _| walk(below, &node.children, key, test, all);
                if all { here && deeper(key, test) } else { here || (!node.children.is_empty() && deeper(key, test)) }
            }
        };
        if found != all {
            return found;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test_case(json!({"f:a": {}, "f:b": {".": {}, "f:c": {}}}), &[".a", ".b", ".b.c"]; "members above members")]
    #[test_case(json!({"f:l": {"k:{\"a\":1,\"b\":\"x\"}": {".": {}, "f:v": {}}}}),
        &[".l[a=1,b=\"x\"]", ".l[a=1,b=\"x\"].v"]; "keys")]
    #[test_case(json!({"f:l": {"k:{\"a\":1}": {".": {}, "f:v": {}}, "k:{\"a\":2}": {".": {}, "f:v": {}}, "k:{\"a\":3}": {}}}),
        &[".l[a=1]", ".l[a=2]", ".l[a=3]", ".l[a=1].v", ".l[a=2].v"]; "elements with the same fields, and one without")]
    #[test_case(json!({"f:s": {"v:\"x\"": {}, "v:2": {}}}), &[".s[=2]", ".s[=\"x\"]"]; "sets, numbers first")]
    #[test_case(json!({"f:l": {"k:{\"a\":\"x\\\"\\\\\\n\u{e9}\",\"b\":true}": {}}}),
        &[".l[a=\"x\\\"\\\\\\n\u{e9}\",b=true]"]; "keys that need escapes")]
    fn reads_and_writes(fields: Value, paths: &[&str]) {
        let set = parse(&fields).unwrap();
        assert_eq!(set.paths(), paths);
        assert_eq!(print(&set), fields);
        assert!(contains(&fields, &set) && touches(&fields, &set));
    }

    #[test]
    fn keys_are_written_in_order() {
        let fields = json!({"f:p": {"k:{\"protocol\":\"TCP\", \"port\":80}": {}}});
        assert_eq!(print(&parse(&fields).unwrap()), json!({"f:p": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {}}}));
    }

    #[test_case(json!({"a": {}}); "no kind")]
    #[test_case(json!({"x:a": {}}); "unknown kind")]
    #[test_case(json!({"k:[1]": {}}); "keys that are no object")]
    #[test_case(json!({"f:a": 1}); "a number")]
    #[test_case(json!([]); "a list")]
    fn refuses(fields: Value) {
        assert!(parse(&fields).is_err());
    }

    #[test]
    fn answers_on_the_wire_form() {
        let fields = json!({"f:a": {"f:b": {}}, "f:c": {".": {}, "f:d": {}}});
        let set = |paths: &[&[&'static str]]| FieldSet::of_fields(paths);
        assert!(contains(&fields, &set(&[&["a", "b"], &["c"]])));
        assert!(!contains(&fields, &set(&[&["a"]])), "a is only on the way to a.b");
        assert!(touches(&fields, &set(&[&["x"], &["c", "d"]])));
        assert!(!touches(&fields, &set(&[&["a"], &["c", "e"]])));
    }
}
