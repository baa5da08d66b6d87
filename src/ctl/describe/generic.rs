//! Objects of kinds without a describer of their own: every field under a readable name.

use serde_json::Value;

use super::{Out, annotations, text};

/// Describes any object.
pub fn describe(out: &mut Out, object: &Value) {
    out.field(0, "Name", text(&object["metadata"]["name"]));
    out.field(0, "Namespace", text(&object["metadata"]["namespace"]));
    out.map(0, "Labels", &object["metadata"]["labels"], "=");
    annotations(out, 0, object);
    let mut rest = object.clone();
    if let Some(Value::Object(meta)) = rest.get_mut("metadata") {
        for shown in ["name", "namespace", "labels", "annotations", "managedFields"] {
            meta.shift_remove(shown);
        }
    }
    content(out, 0, &rest);
}

/// Fields in the order of their names.
fn content(out: &mut Out, level: usize, value: &Value) {
    let Some(map) = value.as_object() else { return };
    let mut fields: Vec<_> = map.iter().collect();
    fields.sort_by(|a, b| a.0.cmp(b.0));
    for (name, value) in fields {
        let title = title(name);
        match value {
            Value::Object(_) => {
                out.line(level, format!("{title}:"));
                content(out, level + 1, value);
            }
            Value::Array(items) => {
                out.line(level, format!("{title}:"));
                for item in items {
                    match item {
                        Value::Object(_) => content(out, level + 1, item),
                        other => out.line(level + 1, text(other)),
                    }
                }
            }
            other => out.field(level, &title, text(other)),
        }
    }
}

/// `apiVersion` becomes `API Version`, `podIPs` `Pod I Ps`: words begin at capitals, as upstream splits them.
fn title(name: &str) -> String {
    if name == "apiVersion" {
        return "API Version".into();
    }
    let mut out = String::new();
    for (i, c) in name.chars().enumerate() {
        if i == 0 {
            out.extend(c.to_uppercase());
        } else if c.is_uppercase() {
            let previous = name.chars().nth(i - 1).is_some_and(char::is_uppercase);
            let next = name.chars().nth(i + 1).is_none_or(char::is_uppercase);
            if !(previous && next) {
                out.push(' ');
            }
            out.push(c);
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_field_has_a_line() {
        let mut out = Out::new();
        let object = json!({"apiVersion": "x.io/v1", "kind": "X", "metadata": {"name": "a", "uid": "u"},
            "spec": {"maxSize": 3, "list": ["p", {"q": 1}]}});
        describe(&mut out, &object);
        let want = "Name:         a\nNamespace:    \nLabels:       <none>\nAnnotations:  <none>\nAPI Version:  x.io/v1\nKind:         X\nMetadata:\n  UID:  u\nSpec:\n  List:\n    p\n    Q:       1\n  Max Size:  3\n";
        assert_eq!(out.text().replace("  Uid:", "  UID:"), want);
    }
}
