//! Documents of other servers, put into the server's own v2 document.
//!
//! In: what other servers say of a group version each. Out: paths and definitions that stand beside the server's own.
//!
//! **Invariant:** what the server says itself stays as it is, but for the kinds that a common definition is also of: another
//! server's definition of the same name that says something else gets another name, and so do those that refer to it.
//!
//! Rules: upstream `kube-openapi/pkg/aggregator` (`FilterSpecByPaths`, `mergeSpecs`).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::value::ValueExt;

/// The kinds that a definition is of.
const KINDS: &str = "x-kubernetes-group-version-kind";
const DEFINITIONS: &str = "#/definitions/";
const PARAMETERS: &str = "#/parameters/";

/// What another server's v2 document says of what it serves below one path.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    paths: BTreeMap<String, Value>,
    /// Those that the paths refer to, and those that these refer to.
    definitions: BTreeMap<String, Value>,
}

impl Part {
    /// Of a whole document; `below` has no slash at its end. Shared parameters go where they are used.
    pub fn of(document: &Value, below: &str) -> Self {
        let is_below =
            |path: &str| path.strip_prefix(below).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let all = document.get("paths").and_then(Value::as_object).into_iter().flatten();
        let mut part = Self::default();
        for (path, item) in all.filter(|(path, _)| is_below(path)) {
            let mut item = item.clone();
            inline(&mut item, &document["parameters"]);
            part.paths.insert(path.clone(), item);
        }
        let mut wanted = BTreeSet::new();
        part.paths.values().for_each(|item| referred(item, &mut wanted));
        while let Some(name) = wanted.pop_first() {
            // One that is missing is left out: who reads the document finds nothing of that name.
            let Some(found) = document["definitions"].get(&name) else { continue };
            if let Entry::Vacant(entry) = part.definitions.entry(name) {
                referred(found, &mut wanted);
                entry.insert(found.clone());
            }
        }
        part
    }

    /// True when it says nothing.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }
}

/// Puts the shared parameters in place of references to them, wherever these are.
fn inline(value: &mut Value, parameters: &Value) {
    let shared = value.str_at("/$ref").and_then(|r| parameters.get(r.strip_prefix(PARAMETERS)?)).cloned();
    match (shared, value) {
        (Some(shared), value) => *value = shared,
        (None, Value::Object(members)) => members.values_mut().for_each(|v| inline(v, parameters)),
        (None, Value::Array(items)) => items.iter_mut().for_each(|v| inline(v, parameters)),
        _ => {}
    }
}

/// Adds the definitions that something refers to.
fn referred(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| match value.as_str() {
            Some(text) if name == "$ref" => out.extend(text.strip_prefix(DEFINITIONS).map(str::to_owned)),
            _ => referred(value, out),
        }),
        Value::Array(items) => items.iter().for_each(|item| referred(item, out)),
        _ => {}
    }
}

/// Lets references to the definitions go to their new names.
fn rename(value: &mut Value, names: &BTreeMap<String, String>) {
    match value {
        Value::Object(members) => members.iter_mut().for_each(|(name, value)| match value.as_str() {
            Some(text) if name == "$ref" => {
                if let Some(new) = text.strip_prefix(DEFINITIONS).and_then(|old| names.get(old)) {
                    *value = format!("{DEFINITIONS}{new}").into();
                }
            }
            _ => rename(value, names),
        }),
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, names)),
        _ => {}
    }
}

/// What stands beside the server's own.
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// Paths, none of which is the server's own.
    pub paths: Vec<(String, Value)>,
    /// Definitions by the names that the server's own do not have.
    pub definitions: BTreeMap<String, Value>,
    /// Further kinds that the server's own definitions are of.
    kinds: BTreeMap<String, Vec<Value>>,
}

impl Merged {
    /// Of all parts, in their order; `own` gives a definition of the server's, `own_paths` are what it serves itself: a group
    /// version that somebody has taken over may be among that, and no path stands twice.
    pub fn of(parts: Vec<Part>, own: impl Fn(&str) -> Option<Value>, own_paths: &BTreeSet<String>) -> Self {
        let mut merged = Self::default();
        for mut part in parts {
            part.paths.retain(|path, _| !own_paths.contains(path));
            merged.add(part, &own);
        }
        merged
    }

    fn add(&mut self, mut part: Part, own: &impl Fn(&str) -> Option<Value>) {
        let names = self.new_names(&part, own);
        for (path, mut item) in part.paths {
            if self.paths.iter().all(|(known, _)| *known != path) {
                rename(&mut item, &names);
                self.paths.push((path, item));
            }
        }
        for (name, mut definition) in std::mem::take(&mut part.definitions) {
            rename(&mut definition, &names);
            let name = names.get(&name).cloned().unwrap_or(name);
            let Some(known) = self.definitions.get(&name).cloned().or_else(|| own(&name)) else {
                self.definitions.insert(name, definition);
                continue;
            };
            let more = definition.items_at(&format!("/{KINDS}")).iter();
            let more: Vec<Value> =
                more.filter(|kind| !known.items_at(&format!("/{KINDS}")).contains(kind)).cloned().collect();
            match self.definitions.get_mut(&name) {
                Some(known) => extend(known, &more),
                None if more.is_empty() => {}
                None => {
                    let all = self.kinds.entry(name).or_default();
                    all.extend(more.into_iter().filter(|kind| !all.contains(kind)).collect::<Vec<_>>());
                }
            }
        }
    }

    /// New names of a part's definitions, where theirs mean something else here.
    fn new_names(&self, part: &Part, own: &impl Fn(&str) -> Option<Value>) -> BTreeMap<String, String> {
        let known = |name: &str| self.definitions.get(name).cloned().or_else(|| own(name));
        let mut others: BTreeSet<&str> = BTreeSet::new();
        for (name, definition) in &part.definitions {
            if known(name).is_some_and(|known| !same(&known, definition)) {
                others.insert(name);
            }
        }
        // One that refers to another definition than the one known here says something else as well.
        loop {
            let refers = |definition: &Value| {
                let mut found = BTreeSet::new();
                referred(definition, &mut found);
                found.iter().any(|name| others.contains(&**name))
            };
            let more: Vec<&str> = part
                .definitions
                .iter()
                .filter(|(name, definition)| !others.contains(&***name) && refers(definition) && known(name).is_some())
                .map(|(name, _)| &**name)
                .collect();
            if more.is_empty() {
                break;
            }
            others.extend(more);
        }
        let free = |name: &&str| {
            let mut numbered = (2..).map(|n| format!("{name}_v{n}"));
            numbered
                .find(|new| known(new).is_none() && !part.definitions.contains_key(new))
                .expect("numbers do not end")
        };
        others.iter().map(|name| ((*name).to_owned(), free(name))).collect()
    }

    /// A definition of the server's own, with the further kinds that it is of.
    pub fn completed(&self, name: &str, mut definition: Value) -> Value {
        if let Some(more) = self.kinds.get(name) {
            extend(&mut definition, more);
        }
        definition
    }
}

fn extend(definition: &mut Value, kinds: &[Value]) {
    match definition.get_mut(KINDS).and_then(Value::as_array_mut) {
        Some(all) => all.extend(kinds.iter().cloned()),
        None if kinds.is_empty() => {}
        None => definition[KINDS] = kinds.into(),
    }
}

/// True when two definitions say the same, whatever kinds they are of.
fn same(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let rest = |v: &serde_json::Map<String, Value>| v.len() - usize::from(v.contains_key(KINDS));
    rest(a) == rest(b) && a.iter().filter(|(name, _)| *name != KINDS).all(|(name, value)| b.get(name) == Some(value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> Value {
        json!({
            "paths": {
                "/apis/e.io/v1": {"get": {"parameters": [{"$ref": "#/parameters/pretty-1"}]}},
                "/apis/e.io/v1/things": {"get": {"responses": {"200": {"schema": {"$ref": "#/definitions/io.e.Thing"}}}}},
                "/apis/e.io/v10/things": {"get": {"responses": {"200": {"schema": {"$ref": "#/definitions/io.e.Other"}}}}},
                "/version": {},
            },
            "definitions": {
                "io.e.Thing": {"properties": {"metadata": {"$ref": "#/definitions/Meta"}}},
                "io.e.Other": {}, "Meta": {"properties": {"time": {"$ref": "#/definitions/Time"}}},
                "Time": {"type": "string"},
            },
            "parameters": {"pretty-1": {"name": "pretty", "in": "query"}},
        })
    }

    #[test]
    fn a_part_has_what_its_paths_need() {
        let part = Part::of(&document(), "/apis/e.io/v1");
        assert_eq!(part.paths.keys().collect::<Vec<_>>(), ["/apis/e.io/v1", "/apis/e.io/v1/things"]);
        assert_eq!(part.definitions.keys().collect::<Vec<_>>(), ["Meta", "Time", "io.e.Thing"]);
        let parameters = &part.paths["/apis/e.io/v1"]["get"]["parameters"];
        assert_eq!(*parameters, json!([{"name": "pretty", "in": "query"}]));
        assert!(Part::of(&json!([1]), "/apis/e.io/v1").is_empty());
        assert!(Part::of(&document(), "/apis/none.io/v1").is_empty());
    }

    #[test]
    fn what_says_the_same_stands_once() {
        let own = |name: &str| document()["definitions"].get(name).filter(|_| name != "io.e.Thing").cloned();
        let part = || vec![Part::of(&document(), "/apis/e.io/v1")];
        let merged = Merged::of(part(), own, &BTreeSet::new());
        assert_eq!(merged.definitions.keys().collect::<Vec<_>>(), ["io.e.Thing"]);
        assert_eq!(merged.paths.len(), 2);
        let merged = Merged::of(part(), own, &["/apis/e.io/v1/things".to_owned()].into());
        assert_eq!(merged.paths.iter().map(|(path, _)| path).collect::<Vec<_>>(), ["/apis/e.io/v1"]);
    }

    #[test]
    fn what_says_something_else_has_another_name_and_so_has_what_refers_to_it() {
        // Time differs, Meta refers to it, and Thing is not known here.
        let own = |name: &str| match name {
            "Time" => Some(json!({"type": "integer"})),
            "Time_v2" => Some(json!({})),
            "Meta" => Some(document()["definitions"]["Meta"].clone()),
            _ => None,
        };
        let merged = Merged::of(vec![Part::of(&document(), "/apis/e.io/v1")], own, &BTreeSet::new());
        let want = json!({
            "Time_v3": {"type": "string"}, "Meta_v2": {"properties": {"time": {"$ref": "#/definitions/Time_v3"}}},
            "io.e.Thing": {"properties": {"metadata": {"$ref": "#/definitions/Meta_v2"}}},
        });
        assert_eq!(serde_json::to_value(&merged.definitions).unwrap(), want);
        assert_eq!(merged.completed("Meta", json!({})), json!({}));
    }

    #[test]
    fn a_common_definition_is_of_the_kinds_of_all() {
        let kinds = |group: &str| json!([{"group": group, "version": "v1", "kind": "DeleteOptions"}]);
        let part = |group: &str| {
            let path = format!("/apis/{group}/v1");
            let mut document = json!({"definitions": {"Options": {"type": "object", KINDS: kinds(group)}}});
            document["paths"][&path] = json!({"$ref": "#/definitions/Options"});
            Part::of(&document, &path)
        };
        let own = |name: &str| (name == "Options").then(|| json!({"type": "object", KINDS: kinds("apps")}));
        let merged = Merged::of(vec![part("a.io"), part("b.io"), part("a.io")], own, &BTreeSet::new());
        assert!(merged.definitions.is_empty());
        let all = merged.completed("Options", own("Options").unwrap());
        let groups: Vec<_> = all[KINDS].as_array().unwrap().iter().map(|k| k["group"].as_str().unwrap()).collect();
        assert_eq!(groups, ["apps", "a.io", "b.io"]);
        // Nobody's own: the first one's, and the second one's kinds.
        let merged = Merged::of(vec![part("a.io"), part("b.io")], |_| None, &BTreeSet::new());
        assert_eq!(merged.definitions["Options"][KINDS].as_array().unwrap().len(), 2);
    }
}
