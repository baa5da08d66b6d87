//! Selectors of requests as the requirements of reviews, and back. Pure.
//!
//! Rules: upstream `apiserver/pkg/authorization/authorizer` and `pkg/registry/authorization/util`: what has no form in a
//! review is left out, because fewer requirements ask for more.

use serde_json::{Value, json};

use crate::api::meta::fields::FieldSelector;
use crate::api::meta::labels::{Op, Selector};
use crate::api::value::ValueExt;

/// The requirements of a selector in its query form; none when it cannot be read.
pub fn requirements(text: &str, of_fields: bool) -> Vec<Value> {
    if text.is_empty() {
        return Vec::new();
    }
    if of_fields {
        let terms = FieldSelector::parse(text).map(|s| s.0).unwrap_or_default();
        let one = |t: &crate::api::meta::fields::Term| json!({"key": t.field, "operator": if t.equal { "In" } else { "NotIn" }, "values": [t.value]});
        return terms.iter().map(one).collect();
    }
    let all = Selector::parse(text).map(|s| s.0).unwrap_or_default();
    let one = |r: &crate::api::meta::labels::Requirement| {
        Some(match &r.op {
            Op::In(values) => json!({"key": r.key, "operator": "In", "values": values}),
            Op::NotIn(values) => json!({"key": r.key, "operator": "NotIn", "values": values}),
            Op::Exists => json!({"key": r.key, "operator": "Exists"}),
            Op::DoesNotExist => json!({"key": r.key, "operator": "DoesNotExist"}),
            Op::Gt(_) | Op::Lt(_) => return None,
        })
    };
    all.iter().filter_map(one).collect()
}

/// The query form of a review's selector.
pub fn text(selector: &Value, of_fields: bool) -> String {
    if let Some(raw) = selector.str_at("/rawSelector").filter(|raw| !raw.is_empty()) {
        return raw.to_owned();
    }
    let one = |r: &Value| {
        let key = r.str_at("/key")?;
        let values: Vec<&str> = r.items_at("/values").iter().filter_map(Value::as_str).collect();
        let single = if let [one] = values[..] { Some(one) } else { None };
        Some(match (r.str_at("/operator")?, single) {
            ("In", Some(value)) => format!("{key}={value}"),
            ("NotIn", Some(value)) => format!("{key}!={value}"),
            ("In", None) if !of_fields => format!("{key} in ({})", values.join(",")),
            ("NotIn", None) if !of_fields => format!("{key} notin ({})", values.join(",")),
            ("Exists", _) if !of_fields => key.to_owned(),
            ("DoesNotExist", _) if !of_fields => format!("!{key}"),
            _ => return None,
        })
    };
    selector.items_at("/requirements").iter().filter_map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    #[test_case("spec.nodeName=n,status.phase!=Failed", true)]
    #[test_case("a=b,c!=d,e in (f,g),h notin (i,j),k,!l", false)]
    fn selectors_go_both_ways(query: &str, of_fields: bool) {
        let requirements = requirements(query, of_fields);
        assert_eq!(
            requirements.len(),
            query.split(',').filter(|p| p.len() > 1 || !of_fields).count() - if of_fields { 0 } else { 2 }
        );
        assert_eq!(text(&json!({"requirements": requirements}), of_fields), query);
    }

    #[test]
    fn what_cannot_be_said_asks_for_more() {
        assert_eq!(requirements("a=b,c>1", false), [json!({"key": "a", "operator": "In", "values": ["b"]})]);
        assert!(requirements("a in (", false).is_empty() && requirements("", true).is_empty());
        assert_eq!(text(&json!({"rawSelector": "x=y"}), true), "x=y");
        let many = json!({"requirements": [{"key": "a", "operator": "In", "values": ["b", "c"]}]});
        assert_eq!((text(&many, true), text(&many, false)), (String::new(), "a in (b,c)".into()));
    }
}
