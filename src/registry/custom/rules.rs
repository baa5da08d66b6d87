//! Where the rules of a schema (`x-kubernetes-validations`) are looked at: every node that has some, with its value.
//!
//! In: the new object and the old one. Out: what the rules say, at the paths of upstream's `schema/cel/validation.go`.
//!
//! **Invariant:** the old value of a node is the one it can be told to have been: properties and map entries by name,
//! elements of map lists by their keys. Other elements have none, and rules that name `oldSelf` do not see them.

use serde_json::Value;

use super::lists;
use crate::registry::validate::Field;

/// A node with rules.
pub struct Node<'a> {
    /// The schema of the node; its rules are `x-kubernetes-validations`.
    pub schema: &'a Value,
    /// The new value, and where its errors go.
    pub new: Field<'a>,
    /// The value that it was.
    pub old: Option<&'a Value>,
    /// True for the object itself and for embedded resources: metadata and type are theirs without being in the schema.
    pub root: bool,
}

/// Checks all rules of a schema.
pub fn check(new: &Field<'_>, old: Option<&Value>, schema: &Value) {
    walk(&Node { schema, new: new.clone(), old, root: true }, &mut evaluate);
}

/// Evaluates the rules of one node. Called once for each node that has rules and a value, parents first.
///
/// This is where a compiled set of rules is run; rules are stored and published, and not enforced, while there is no
/// evaluator for them.
fn evaluate(_node: &Node<'_>) {}

/// Calls `visit` for each node that has rules, parents first.
pub fn walk<'a>(node: &Node<'a>, visit: &mut dyn FnMut(&Node<'a>)) {
    if node.schema.get("x-kubernetes-validations").and_then(Value::as_array).is_some_and(|r| !r.is_empty()) {
        visit(node);
    }
    match node.new.value {
        Value::Object(map) => {
            for (name, value) in map {
                let property = node.schema.get("properties").and_then(|p| p.get(name));
                let more = node.schema.get("additionalProperties").filter(|a| a.is_object());
                let (schema, errs) = match (property, more) {
                    (Some(schema), _) => (schema, node.new.errs.at(name)),
                    (None, Some(schema)) => (schema, node.new.errs.key(name)),
                    (None, None) => continue,
                };
                let old = node.old.and_then(|o| o.get(name));
                walk(&Node { schema, new: Field { value, errs }, old, root: is_embedded(schema) }, visit);
            }
        }
        Value::Array(list) => {
            let Some(schema) = node.schema.get("items").filter(|i| i.is_object()) else { return };
            for (i, value) in list.iter().enumerate() {
                let old = node.old.and_then(|o| lists::counterpart(value, o, node.schema));
                let new = Field { value, errs: node.new.errs.index(i) };
                walk(&Node { schema, new, old, root: is_embedded(schema) }, visit);
            }
        }
        _ => {}
    }
}

fn is_embedded(schema: &Value) -> bool {
    schema.get("x-kubernetes-embedded-resource").and_then(Value::as_bool).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::errors::FieldErrors;
    use serde_json::json;

    #[test]
    fn nodes_come_with_their_old_values() {
        let rules = json!([{"rule": "true"}]);
        let schema = json!({"x-kubernetes-validations": rules, "properties": {
            "map": {"additionalProperties": {"type": "string", "x-kubernetes-validations": rules}},
            "keyed": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"x-kubernetes-validations": rules, "properties": {"k": {"type": "string"}}}},
            "plain": {"items": {"x-kubernetes-validations": rules}}}});
        let new = json!({"map": {"a": "x", "b": "y"}, "keyed": [{"k": "2"}, {"k": "1", "v": 1}], "plain": [1]});
        let old = json!({"map": {"a": "z"}, "keyed": [{"k": "1"}], "plain": [1]});
        let mut seen = Vec::new();
        let root = Node { schema: &schema, new: Field::root(&new, &FieldErrors::new()), old: Some(&old), root: true };
        walk(&root, &mut |n| seen.push((n.new.errs.path().to_owned(), n.old.cloned())));
        let want = [
            ("", Some(old.clone())),
            ("map[a]", Some(json!("z"))),
            ("map[b]", None),
            ("keyed[0]", None),
            ("keyed[1]", Some(json!({"k": "1"}))),
            ("plain[0]", None),
        ];
        assert_eq!(seen, want.map(|(path, old)| (path.to_owned(), old)));
    }
}
