//! Roles and their bindings.

use serde_json::Value;

use super::{Out, annotations, text};
use crate::api::value::ValueExt;

fn head(out: &mut Out, object: &Value) {
    out.field(0, "Name", text(&object["metadata"]["name"]));
    out.map(0, "Labels", &object["metadata"]["labels"], "=");
    annotations(out, 0, object);
}

/// What a line of a role is about, and its verbs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rule {
    /// Group, resource, and the name where it is for one object only.
    resource: Option<(String, String, Option<String>)>,
    path: Option<String>,
    verbs: Vec<String>,
}

impl Rule {
    /// The text that kubectl sorts by: upstream's generated `PolicyRule.String()`.
    fn sorts_as(&self) -> String {
        let list = |item: Option<&str>| format!("[{}]", item.unwrap_or_default());
        let resource = self.resource.as_ref();
        format!(
            "&PolicyRule{{Verbs:[{}],APIGroups:{},Resources:{},ResourceNames:{},NonResourceURLs:{},}}",
            self.verbs.join(" "),
            list(resource.map(|(group, ..)| group.as_str())),
            list(resource.map(|(_, resource, _)| resource.as_str())),
            list(resource.and_then(|(.., name)| name.as_deref())),
            list(self.path.as_deref()),
        )
    }

    fn line(&self) -> String {
        let list = |item: Option<&str>| format!("[{}]", item.unwrap_or_default());
        let (mut what, mut name) = (String::new(), None);
        if let Some((group, resource, of)) = &self.resource {
            let (bare, sub) = resource.split_once('/').map_or((resource.as_str(), None), |(b, s)| (b, Some(s)));
            what = if group.is_empty() { bare.to_owned() } else { format!("{bare}.{group}") };
            if let Some(sub) = sub {
                what = format!("{what}/{sub}");
            }
            name = of.as_deref();
        }
        format!("{what}\t{}\t{}\t[{}]", list(self.path.as_deref()), list(name), self.verbs.join(" "))
    }
}

/// The rules taken apart, one resource or path each, with the verbs of the same resource together. Upstream:
/// `kubectl/pkg/util/rbac`.
fn compact(rules: &[Value]) -> Vec<Rule> {
    let strings = |rule: &Value, path: &str| -> Vec<String> {
        rule.items_at(path).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut out: Vec<Rule> = Vec::new();
    for rule in rules {
        let names: Vec<Option<String>> = match strings(rule, "/resourceNames") {
            names if names.is_empty() => vec![None],
            names => names.into_iter().map(Some).collect(),
        };
        let verbs = strings(rule, "/verbs");
        for group in strings(rule, "/apiGroups") {
            for resource in strings(rule, "/resources") {
                for name in &names {
                    let of = Some((group.clone(), resource.clone(), name.clone()));
                    let at = out.iter().position(|r| r.resource == of).unwrap_or_else(|| {
                        out.push(Rule { resource: of, ..Rule::default() });
                        out.len() - 1
                    });
                    let added = verbs.iter().filter(|v| !out[at].verbs.contains(v)).cloned().collect::<Vec<_>>();
                    out[at].verbs.extend(added);
                }
            }
        }
        for path in strings(rule, "/nonResourceURLs") {
            let one = |verb: &String| Rule { path: Some(path.clone()), verbs: vec![verb.clone()], resource: None };
            out.extend(verbs.iter().map(one));
        }
    }
    out.retain(|r| !r.verbs.is_empty());
    out.sort_by_cached_key(Rule::sorts_as);
    out
}

/// Describes a role: a line per resource and per path.
pub fn role(out: &mut Out, role: &Value) {
    head(out, role);
    out.line(0, "PolicyRule:");
    out.line(1, "Resources\tNon-Resource URLs\tResource Names\tVerbs");
    out.line(1, "---------\t-----------------\t--------------\t-----");
    compact(role.items_at("/rules")).iter().for_each(|rule| out.line(1, rule.line()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_are_taken_apart_put_together_and_sorted() {
        let rules = json!([
            {"apiGroups": ["", "apps"], "resources": ["pods/log"], "verbs": ["watch"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["b", "a"], "verbs": ["*"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
            {"nonResourceURLs": ["/healthz"], "verbs": ["get", "head"]},
        ]);
        let lines: Vec<String> = compact(rules.as_array().unwrap()).iter().map(Rule::line).collect();
        assert_eq!(
            lines,
            [
                "secrets\t[]\t[a]\t[*]",
                "secrets\t[]\t[b]\t[*]",
                "\t[/healthz]\t[]\t[get]",
                "\t[/healthz]\t[]\t[head]",
                "pods\t[]\t[]\t[list get]",
                "pods/log\t[]\t[]\t[watch]",
                "pods.apps/log\t[]\t[]\t[watch]",
            ]
        );
    }
}
