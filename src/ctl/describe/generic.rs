//! Objects of kinds without a describer of their own: every field under a readable name.

use serde_json::Value;

use super::{Out, annotations, text};
use crate::util::order::Arrange;

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
    fields.arrange_by(|a, b| a.0.cmp(b.0));
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

/// Words that are written in capitals.
const ACRONYMS: [&str; 5] = ["API", "URL", "UID", "OSB", "GUID"];

/// `apiVersion` becomes `API Version`: words begin at capitals.
fn title(name: &str) -> String {
    let signs: Vec<char> = name.chars().collect();
    let mut words: Vec<String> = Vec::new();
    for (i, c) in signs.iter().enumerate() {
        let upper = |at: Option<&char>| at.is_some_and(|c| c.is_uppercase());
        let within_capitals = i > 0 && upper(signs.get(i - 1)) && signs.get(i + 1).is_none_or(|n| n.is_uppercase());
        match words.last_mut() {
            Some(word) if !c.is_uppercase() || within_capitals => word.push(*c),
            _ => words.push(c.to_uppercase().collect()),
        }
    }
    let spelt = |word: String| if ACRONYMS.contains(&&*word.to_uppercase()) { word.to_uppercase() } else { word };
    words.into_iter().map(spelt).collect::<Vec<_>>().join(" ")
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
        assert_eq!(out.text(), want);
    }
}
