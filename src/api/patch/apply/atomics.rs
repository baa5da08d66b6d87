//! What of a configuration would replace a whole list, map or struct.
//!
//! Rules: upstream `apiserver/pkg/admission/plugin/policy/mutating/patch/smd.go`: a policy's configuration names no atomic
//! value, because all that it does not say of one would go away.

use serde_json::Value;

use crate::api::schema::{ListType, View};

/// Paths of the atomic values of a configuration, as `.spec.containers[0].args`.
pub fn atomics(view: View<'_>, config: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(view, config, &mut String::new(), &mut found);
    found
}

fn walk(view: View<'_>, value: &Value, path: &mut String, found: &mut Vec<String>) {
    let before = path.len();
    match value {
        Value::Object(members) => {
            if view.is_atomic_struct() || view.is_deduced() && view.field_def().is_some() {
                found.push(path.clone());
                return;
            }
            for (name, value) in members {
                path.push('.');
                path.push_str(name);
                walk(view.field(name), value, path, found);
                path.truncate(before);
            }
        }
        Value::Array(items) => {
            if view.list() == ListType::Atomic {
                found.push(path.clone());
                return;
            }
            for (i, value) in items.iter().enumerate() {
                path.push_str(&format!("[{i}]"));
                walk(view.element(), value, path, found);
                path.truncate(before);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::schema::table;
    use serde_json::json;
    use test_case::test_case;

    #[test_case(json!({"replicas": 2, "template": {"metadata": {"labels": {"a": "b"}}}}), &[]; "fields and maps")]
    #[test_case(json!({"template": {"spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "1"}]}]}}}), &[]; "lists by keys")]
    #[test_case(json!({"template": {"spec": {"containers": [{"name": "c", "args": ["x"]}]}}}), &[".spec.template.spec.containers[0].args"]; "a list of texts")]
    #[test_case(json!({"template": {"spec": {"tolerations": [], "nodeSelector": {"a": "b"}}}}),
        &[".spec.template.spec.tolerations", ".spec.template.spec.nodeSelector"]; "a list, a map")]
    #[test_case(json!({"selector": {"matchLabels": {"a": "b"}}}), &[".spec.selector"]; "a struct")]
    fn of_deployments(spec: Value, want: &[&str]) {
        let view = View::of(table().kind("apps", "v1", "Deployment").expect("the table has Deployments"));
        assert_eq!(atomics(view, &json!({"spec": spec})), want);
    }
}
