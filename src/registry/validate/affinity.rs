//! Node and pod affinity.

use serde_json::Value;

use crate::api::meta::names;

use super::{Field, labels};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `affinity` of a pod.
pub fn affinity(field: &Field<'_>) {
    let node = field.at("nodeAffinity");
    if node.has(REQUIRED) {
        node_selector(&node.at(REQUIRED), true);
    }
    for term in node.items(PREFERRED) {
        weight(&term);
        node_term(&term.at("preference"), false);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = field.at(kind);
        for term in pods.items(REQUIRED) {
            pod_term(&term);
        }
        for term in pods.items(PREFERRED) {
            weight(&term);
            pod_term(&term.at("podAffinityTerm"));
        }
    }
}

fn weight(term: &Field<'_>) {
    if !(1..=100).contains(&term.int("weight").unwrap_or(0)) {
        term.errs.at("weight").invalid(term.int("weight").unwrap_or(0), "must be in the range 1-100");
    }
}

/// A `NodeSelector`: at least one term.
pub fn node_selector(field: &Field<'_>, check_values: bool) {
    if field.count("nodeSelectorTerms") == 0 {
        field.errs.at("nodeSelectorTerms").required("must have at least one node selector term");
        return;
    }
    for term in field.items("nodeSelectorTerms") {
        node_term(&term, check_values);
    }
}

fn node_term(term: &Field<'_>, check_values: bool) {
    for r in term.items("matchExpressions") {
        let count = r.count("values");
        match r.text("operator") {
            "In" | "NotIn" if count == 0 => {
                r.errs.at("values").required("must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if count > 0 => {
                r.errs.at("values").forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Gt" | "Lt" if count != 1 => {
                r.errs.at("values").required("must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => r.errs.at("operator").invalid(other, "not a valid selector operator"),
        }
        r.errs.at("key").all_invalid(r.text("key"), names::qualified_name(r.text("key")));
        if check_values {
            for value in r.items("values") {
                value.reasons(names::label_value(value.as_text()));
            }
        }
    }
    for r in term.items("matchFields") {
        match r.text("operator") {
            "In" | "NotIn" if r.count("values") != 1 => {
                r.errs
                    .at("values")
                    .required("must be only one value when `operator` is 'In' or 'NotIn' for node field selector");
            }
            "In" | "NotIn" => {}
            other => r.errs.at("operator").invalid(other, "not a valid selector operator"),
        }
        if r.text("key") == "metadata.name" {
            for value in r.items("values") {
                value.reasons(names::dns1123_subdomain(value.as_text()));
            }
        } else {
            r.errs.at("key").invalid(r.text("key"), "not a valid field selector key");
        }
    }
}

fn pod_term(term: &Field<'_>) {
    labels::selector(&term.at("labelSelector"));
    labels::selector(&term.at("namespaceSelector"));
    for name in term.items("namespaces") {
        term.errs.at("namespace").all_invalid(name.as_text(), names::dns1123_label(name.as_text()));
    }
    label_keys(term, "matchLabelKeys");
    label_keys(term, "mismatchLabelKeys");
    keys_named_twice(term);
    let mismatch: Vec<&Value> = term.items("mismatchLabelKeys").map(|k| k.value).collect();
    for key in term.items("matchLabelKeys").filter(|k| mismatch.contains(&k.value)) {
        key.invalid("exists in both matchLabelKeys and mismatchLabelKeys");
    }
    if term.needs("topologyKey") {
        term.at("topologyKey").reasons(names::qualified_name(term.text("topologyKey")));
    } else {
        term.errs.at("topologyKey").all_invalid("", names::qualified_name(""));
    }
}

/// Keys of labels whose values a selector takes from the pod; there must be a selector for that.
pub fn label_keys(term: &Field<'_>, list: &str) {
    if term.count(list) > 0 && !term.has("labelSelector") {
        term.errs.at(list).forbidden("must not be specified when labelSelector is not set");
        return;
    }
    for key in term.items(list) {
        key.reasons(names::qualified_name(key.as_text()));
    }
}

/// Keys of `matchLabelKeys` that the selector names itself. In a pod each of them has become an expression already, so
/// that a second mention counts; upstream tells of it at the term, by the key's place in the list.
pub fn keys_named_twice(term: &Field<'_>) {
    let keys: Vec<&str> = term.items("matchLabelKeys").map(|k| k.as_text()).collect();
    let selector = term.at("labelSelector");
    let mut named: Vec<&str> = selector.entries("matchLabels").map(|(key, _)| key).collect();
    for expression in selector.items("matchExpressions") {
        let key = expression.text("key");
        if let Some(i) = keys.iter().rposition(|k| *k == key).filter(|_| named.contains(&key)) {
            term.errs.index(i).invalid(key, "exists in both matchLabelKeys and labelSelector");
        }
        named.push(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::errors::FieldErrors;
    use serde_json::json;
    use test_case::test_case;

    #[test_case(json!({"topologyKey": "k", "matchLabelKeys": ["A b"]}), &["matchLabelKeys"]; "keys without a selector")]
    #[test_case(json!({"topologyKey": "k", "matchLabelKeys": ["a", "b"], "labelSelector": {"matchLabels": {"b": "1"},
        "matchExpressions": [{"key": "b", "operator": "In", "values": ["1"]}]}}), &["[1]"]; "a key that is named already")]
    #[test_case(json!({"topologyKey": "k", "labelSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b c"]}]}}),
        &["labelSelector.matchExpressions[0].values[0]"]; "no label's value")]
    #[test_case(json!({"matchLabelKeys": ["a"], "mismatchLabelKeys": ["a"], "labelSelector": {}}),
        &["matchLabelKeys[0]", "topologyKey", "topologyKey", "topologyKey"]; "both ways, and nowhere")]
    fn terms(term: Value, paths: &[&str]) {
        let errs = FieldErrors::new();
        pod_term(&Field::root(&term, &errs));
        assert_eq!(errs.take().into_iter().map(|c| c.field).collect::<Vec<_>>(), paths);
    }
}
