//! The rules of a custom resource's schema (`x-kubernetes-validations`): compiled once for a schema, run on each write.
//!
//! In: the new object and, on an update, the old one. Out: what is wrong, with paths. Rules: upstream
//! `apiextensions-apiserver/pkg/apiserver/schema/cel/validation.go`.
//!
//! **Invariant:** the old value of a node is the one it can be told to have been: properties and entries of maps by their
//! names, elements of lists by their keys. Others have none, and rules that compare with it do not see them.
//! **Invariant:** on an update, what did not change is not refused by rules that look at the new value alone: rules may
//! become stricter while objects are there.

use std::sync::Arc;

use serde_json::Value as Json;

pub use super::rules_compile::{Defect, Rule, Why, compile};
use super::schema;
use super::value::{Key, ListKind, Val};
use super::{Budget, Error, Named, cost, escape};

/// Longest message that an expression makes, bytes.
const MESSAGE_MAX: usize = 5 * 1024;

/// A part of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A property.
    Field(String),
    /// The value of a key of a map.
    Key(String),
    /// An element of a list.
    Index(usize),
}

/// Something wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    /// Where, from the root of the object.
    pub path: Vec<Step>,
    /// The rule's own path below that, as `.spec.name`; empty for none.
    pub field_path: String,
    /// Why the value is refused.
    pub why: Why,
    /// In words.
    pub message: String,
    /// The value, where it is a scalar.
    pub value: Option<Json>,
}

/// The rules of a schema.
#[derive(Debug)]
pub struct RuleSet {
    schema: Arc<Json>,
    root: Node,
}

/// The rules of a node and of those below it; only nodes on the way to rules are there.
#[derive(Debug, Default)]
struct Node {
    rules: Vec<Rule>,
    properties: Vec<(String, Node)>,
    values: Option<Box<Node>>,
    items: Option<Box<Node>>,
    list: ListKind,
}

impl Node {
    /// The rules that compile: those that do not were refused when the schema was written.
    fn new(s: &Json, root: bool) -> Self {
        let rules = s.get("x-kubernetes-validations").and_then(Json::as_array).into_iter().flatten();
        let properties = s.get("properties").and_then(Json::as_object).into_iter().flatten();
        let below = |s: &Json| Node::new(s, schema::is_embedded(s));
        let some = |n: Node| (!n.is_empty()).then(|| Box::new(n));
        Self {
            rules: rules.filter_map(|r| compile(r, s, root)?.ok()).collect(),
            properties: properties.map(|(k, p)| (k.clone(), below(p))).filter(|(_, n)| !n.is_empty()).collect(),
            values: schema::values_of(s).map(below).and_then(some),
            items: s.get("items").filter(|i| i.is_object()).map(below).and_then(some),
            list: schema::list_kind(s),
        }
    }

    fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.properties.is_empty() && self.values.is_none() && self.items.is_none()
    }
}

/// A value in its two forms.
#[derive(Clone)]
struct Both<'a> {
    json: &'a Json,
    val: Val,
}

impl<'a> Both<'a> {
    fn member(&self, name: &str, is_map: bool) -> Option<Both<'a>> {
        let json = self.json.get(name)?;
        let Val::Map(m) = &self.val else { return None };
        let key = if is_map { name.to_owned() } else { escape::escape(name).unwrap_or_else(|| name.to_owned()) };
        Some(Both { json, val: m.entries.get(&Key::Str(key.into()))?.clone() })
    }

    fn element(&self, at: usize) -> Option<Both<'a>> {
        let Val::List(l) = &self.val else { return None };
        Some(Both { json: self.json.get(at)?, val: l.items.get(at)?.clone() })
    }

    fn elements(&self) -> impl Iterator<Item = Both<'a>> + '_ {
        (0..self.json.as_array().map_or(0, Vec::len)).filter_map(|i| self.element(i))
    }
}

struct Run {
    budget: Budget,
    path: Vec<Step>,
    out: Vec<Violation>,
}

impl RuleSet {
    /// The rules of an `openAPIV3Schema`; none when it has no rule.
    pub fn new(schema: &Json) -> Option<Self> {
        let root = Node::new(schema, true);
        (!root.is_empty()).then(|| Self { schema: Arc::new(schema.clone()), root })
    }

    /// What is wrong with an object.
    pub fn check(&self, new: &Json, old: Option<&Json>) -> Vec<Violation> {
        let both = |json| Both { json, val: schema::value(json, &self.schema) };
        let mut run = Run { budget: Budget::new(cost::PER_OBJECT), path: Vec::new(), out: Vec::new() };
        run.node(&self.root, &both(new), old.map(both).as_ref());
        run.out
    }
}

impl Run {
    fn node(&mut self, node: &Node, new: &Both<'_>, old: Option<&Both<'_>>) {
        if new.json.is_null() {
            return;
        }
        let unchanged = old.is_some_and(|o| o.json == new.json);
        for rule in &node.rules {
            if self.budget.left() == 0 {
                return;
            }
            let without_old = rule.transition && !rule.optional_old && old.is_none();
            if without_old || (unchanged && !rule.transition) {
                continue;
            }
            self.rule(rule, new, old);
        }
        for (name, below) in &node.properties {
            self.member(below, new, old, name, false);
        }
        if let Some(below) = &node.values {
            for name in new.json.as_object().into_iter().flatten().map(|(k, _)| k) {
                self.member(below, new, old, name, true);
            }
        }
        if let Some(below) = &node.items {
            for (i, element) in new.elements().enumerate() {
                let was = old.and_then(|o| counterpart(&node.list, element.json, o));
                self.path.push(Step::Index(i));
                self.node(below, &element, was.as_ref());
                self.path.pop();
            }
        }
    }

    fn member(&mut self, below: &Node, new: &Both<'_>, old: Option<&Both<'_>>, name: &str, is_map: bool) {
        let Some(value) = new.member(name, is_map) else { return };
        let was = old.and_then(|o| o.member(name, is_map));
        self.path.push(if is_map { Step::Key(name.to_owned()) } else { Step::Field(name.to_owned()) });
        self.node(below, &value, was.as_ref());
        self.path.pop();
    }

    fn rule(&mut self, rule: &Rule, new: &Both<'_>, old: Option<&Both<'_>>) {
        let was = match (old, rule.optional_old) {
            (Some(o), true) => Val::some(o.val.clone()),
            (None, true) => Val::Optional(None),
            (Some(o), false) => o.val.clone(),
            (None, false) => Val::Null,
        };
        let names = [("self", new.val.clone()), ("oldSelf", was)];
        let vars = Named(&names);
        match rule.program.eval(&vars, &mut self.budget) {
            Ok(Val::Bool(true)) => {}
            Ok(Val::Bool(false)) => {
                let message = message(rule, &vars, &mut self.budget);
                let scalar = !(new.json.is_object() || new.json.is_array());
                self.tell(rule.path.clone(), rule.reason, message, scalar.then(|| new.json.clone()));
            }
            Ok(_) => self.failed(rule, new, "the rule does not evaluate to a bool"),
            Err(Error::Budget) => {
                let text = match self.budget.left() {
                    0 => "validation failed due to running out of cost budget, no further validation rules will be run"
                        .to_owned(),
                    _ => format!("call cost exceeds limit for rule: {}", rule.text),
                };
                self.tell(String::new(), Why::Invalid, text, Some(type_word(new.json).into()));
            }
            Err(Error::Failed(why)) => self.failed(rule, new, &why),
        }
    }

    fn failed(&mut self, rule: &Rule, new: &Both<'_>, why: &str) {
        let text = format!("{why} evaluating rule: {}", named(rule));
        self.tell(String::new(), Why::Invalid, text, Some(type_word(new.json).into()));
    }

    fn tell(&mut self, field_path: String, why: Why, message: String, value: Option<Json>) {
        self.out.push(Violation { path: self.path.clone(), field_path, why, message, value });
    }
}

/// What a rule is called: its message, or itself.
fn named(rule: &Rule) -> &str {
    if rule.message.is_empty() { &rule.text } else { &rule.message }
}

fn message(rule: &Rule, vars: &Named<'_>, budget: &mut Budget) -> String {
    let made = rule.message_program.as_ref().and_then(|p| p.eval(vars, budget).ok());
    if let Some(Val::Str(made)) = made {
        let made = made.trim();
        if !made.is_empty() && made.len() <= MESSAGE_MAX && !made.contains('\n') {
            return made.to_owned();
        }
    }
    match &*rule.message {
        "" => format!("failed rule: {}", rule.text),
        text => text.to_owned(),
    }
}

fn type_word(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(n) if n.is_f64() => "number",
        Json::Number(_) => "integer",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}

/// What an element was: only lists with keys tell.
fn counterpart<'a>(list: &ListKind, element: &Json, old: &Both<'a>) -> Option<Both<'a>> {
    let ListKind::Map(keys) = list else { return None };
    old.elements().find(|o| keys.iter().all(|k| o.json.get(k) == element.get(k)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use test_case::test_case;

    use super::*;

    fn schema() -> Json {
        let rule = |text: &str| json!([{"rule": text}]);
        json!({"type": "object", "properties": {"spec": {"type": "object",
        "x-kubernetes-validations": [
            {"rule": "!has(self.a) || self.a < 10", "messageExpression": "'a is ' + string(self.a)", "fieldPath": ".a",
                "reason": "FieldValueForbidden"}],
        "properties": {
            "a": {"type": "integer", "x-kubernetes-validations": rule("self >= oldSelf")},
            "once": {"type": "string", "x-kubernetes-validations":
                [{"rule": "!oldSelf.hasValue() || self == oldSelf.value()", "optionalOldSelf": true}]},
            "a-b": {"type": "string", "x-kubernetes-validations": rule("self.size() < 3")},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"},
                "x-kubernetes-validations": rule("self == ['x', 'y']")},
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
                    "x-kubernetes-validations": rule("self.v >= oldSelf.v")}},
            "map": {"type": "object", "additionalProperties": {"type": "string",
                "x-kubernetes-validations": rule("self != 'bad'")}},
            "when": {"type": "string", "format": "date-time",
                "x-kubernetes-validations": rule("self.getFullYear() > 2000")},
            "n": {"type": "number", "x-kubernetes-validations": rule("self / 2.0 < 5.0")},
        }}}})
    }

    #[test_case(json!({"a": 5, "a-b": "x", "set": ["y", "x"], "n": 1}), None, &[]; "fine")]
    #[test_case(json!({"a": 50}), None, &[".spec.a: a is 50"]; "a message that was made")]
    #[test_case(json!({"a": 1}), Some(json!({"a": 2})), &[".spec.a: failed rule: self >= oldSelf"]; "transition")]
    #[test_case(json!({"once": "a"}), Some(json!({})), &[]; "optional old value, none")]
    #[test_case(json!({"once": "b"}), Some(json!({"once": "a"})),
        &[".spec.once: failed rule: !oldSelf.hasValue() || self == oldSelf.value()"]; "optional old value")]
    #[test_case(json!({"a-b": "long"}), None, &[".spec.a-b: failed rule: self.size() < 3"]; "escaped name")]
    #[test_case(json!({"a-b": "long"}), Some(json!({"a-b": "long"})), &[]; "what was wrong before may stay")]
    #[test_case(json!({"list": [{"k": "b", "v": 1}, {"k": "a", "v": 1}]}), Some(json!({"list": [{"k": "a", "v": 2}]})),
        &[".spec.list[1]: failed rule: self.v >= oldSelf.v"]; "elements by key")]
    #[test_case(json!({"map": {"x": "bad"}}), None, &[".spec.map[x]: failed rule: self != 'bad'"]; "entries")]
    #[test_case(json!({"when": "1999-01-01T00:00:00Z"}), None, &[".spec.when: failed rule: self.getFullYear() > 2000"]; "times")]
    #[test_case(json!({"when": "no time"}), None,
        &[".spec.when: invalid data, expected date-time, got \"no time\" evaluating rule: self.getFullYear() > 2000"];
        "a value that does not fit")]
    fn violations(new: Json, old: Option<Json>, want: &[&str]) {
        let rules = RuleSet::new(&schema()).unwrap();
        let found = rules.check(&json!({"spec": new}), old.map(|o| json!({"spec": o})).as_ref());
        let shown = |v: &Violation| {
            let mut path = String::new();
            for step in &v.path {
                path += &match step {
                    Step::Field(name) => format!(".{name}"),
                    Step::Key(name) => format!("[{name}]"),
                    Step::Index(i) => format!("[{i}]"),
                };
            }
            format!("{path}{}: {}", v.field_path, v.message)
        };
        assert_eq!(found.iter().map(shown).collect::<Vec<_>>(), want);
    }

    #[test_case("self.s == 5", "rule", "no matching overload")]
    #[test_case("self.zz == 1", "rule", "undefined field 'zz'")]
    #[test_case("1 + 1", "rule", "cel expression must evaluate to a bool")]
    fn defects(text: &str, member: &str, why: &str) {
        let node = json!({"type": "object", "properties": {"s": {"type": "string"}}});
        let got = compile(&json!({"rule": text}), &node, false).unwrap().unwrap_err();
        assert_eq!(got[0].member, member);
        assert!(got[0].why.contains(why), "{got:?}");
    }

    #[test]
    fn whole_resources_have_names() {
        let node = json!({"type": "object", "properties": {}});
        assert!(
            compile(&json!({"rule": "self.metadata.name != '' && self.kind == 'A'"}), &node, true).unwrap().is_ok()
        );
        assert!(compile(&json!({"rule": "self.metadata.name != ''"}), &node, false).unwrap().is_err());
    }

    #[test]
    fn a_schema_without_rules_has_no_set() {
        assert!(RuleSet::new(&json!({"type": "object", "properties": {"a": {"type": "string"}}})).is_none());
    }
}
