//! Roles and their bindings.

use serde_json::Value;

use super::{Out, annotations, text};
use crate::api::value::ValueExt;

fn head(out: &mut Out, object: &Value) {
    out.field(0, "Name", text(&object["metadata"]["name"]));
    out.map(0, "Labels", &object["metadata"]["labels"], "=");
    annotations(out, 0, object);
}

fn words(rule: &Value, path: &str) -> String {
    let items: Vec<&str> = rule.items_at(path).iter().filter_map(Value::as_str).collect();
    format!("[{}]", items.join(" "))
}

/// Describes a role: a line per resource and per path.
pub fn role(out: &mut Out, role: &Value) {
    head(out, role);
    out.line(0, "PolicyRule:");
    out.line(1, "Resources\tNon-Resource URLs\tResource Names\tVerbs");
    out.line(1, "---------\t-----------------\t--------------\t-----");
    for rule in role.items_at("/rules") {
        let (names, verbs) = (words(rule, "/resourceNames"), words(rule, "/verbs"));
        for group in rule.items_at("/apiGroups").iter().filter_map(Value::as_str) {
            for resource in rule.items_at("/resources").iter().filter_map(Value::as_str) {
                let (bare, sub) = resource.split_once('/').map_or((resource, None), |(b, s)| (b, Some(s)));
                let mut name = if group.is_empty() { bare.to_owned() } else { format!("{bare}.{group}") };
                if let Some(sub) = sub {
                    name = format!("{name}/{sub}");
                }
                out.line(1, format!("{name}\t[]\t{names}\t{verbs}"));
            }
        }
        if !rule.items_at("/nonResourceURLs").is_empty() {
            out.line(1, format!("\t{}\t{names}\t{verbs}", words(rule, "/nonResourceURLs")));
        }
    }
}

/// Describes a binding.
pub fn binding(out: &mut Out, binding: &Value) {
    head(out, binding);
    out.line(0, "Role:");
    out.field(1, "Kind", text(&binding["roleRef"]["kind"]));
    out.field(1, "Name", text(&binding["roleRef"]["name"]));
    out.line(0, "Subjects:");
    out.line(1, "Kind\tName\tNamespace");
    out.line(1, "----\t----\t---------");
    for subject in binding.items_at("/subjects") {
        out.line(1, format!("{}\t{}\t{}", text(&subject["kind"]), text(&subject["name"]), text(&subject["namespace"])));
    }
}
