//! Paths in schemas, as rules and selectable fields name them: `.spec.name`, `.labels['a/b']`.
//!
//! **Invariant:** a path goes through properties and additional properties; elements of lists have none.

use serde_json::Value;

/// The names on a path; none when it is no path.
pub fn steps(path: &str) -> Option<Vec<String>> {
    let mut out = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("['") {
            let end = after.find("']")?;
            out.push(after[..end].replace("\\'", "'"));
            rest = &after[end + 2..];
            continue;
        }
        let after = rest.strip_prefix('.')?;
        let end = after.find(['.', '[']).unwrap_or(after.len());
        let name = &after[..end];
        let first = name.bytes().next()?;
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
        if !(first.is_ascii_alphabetic() || first == b'_') || !name.bytes().all(plain) {
            return None;
        }
        out.push(name.to_owned());
        rest = &after[end..];
    }
    (!out.is_empty()).then_some(out)
}

/// The schema at a path below a schema.
pub fn resolve<'a>(path: &str, schema: &'a Value) -> Option<&'a Value> {
    steps(path)?.iter().try_fold(schema, |at, step| {
        let named = at.get("properties").and_then(|p| p.get(step));
        named.or_else(|| at.get("additionalProperties").filter(|a| a.is_object()))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_go_through_properties() {
        let schema = json!({"properties": {
            "spec": {"properties": {"a-b": {"type": "string"}}},
            "map": {"additionalProperties": {"type": "integer"}},
            "list": {"items": {"type": "string"}},
        }});
        for (path, found) in [
            (".spec.a-b", Some("string")),
            (".spec['a-b']", Some("string")),
            (".map['any/thing']", Some("integer")),
            (".map.anything", Some("integer")),
            (".spec.absent", None),
            (".list[0]", None),
            ("spec", None),
            ("", None),
            (".", None),
            (".spec.", None),
            (".spec[a-b]", None),
            (".!bad", None),
        ] {
            let type_ = resolve(path, &schema).and_then(|s| s.get("type")).and_then(Value::as_str);
            assert_eq!(type_, found, "{path}");
        }
    }
}
