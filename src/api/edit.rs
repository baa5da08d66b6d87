//! Changes of a few members in an object's JSON text, where it stands: the rest is neither decoded nor written anew.
//!
//! In: canonical text and its struct. Out: the text with members set or gone.
//!
//! **Invariant:** what is canonical stays so: a member that is new stands where the struct's order wants it. Its value is the
//! caller's, and canonical as well.
//! **Invariant:** text that is malformed is left as it is.
//!
//! Where the object's own members stand is known, so that what is asked of one is not looked for in the others.

use std::ops::Range;

use bytes::Bytes;
use serde_json::Value;

use super::scan::{self, Member};
use super::schema::{StructDef, Type};
use super::value::nested;

/// A text that is being changed.
pub struct Edit {
    text: Vec<u8>,
    def: &'static StructDef,
    /// The members of the object itself.
    members: Vec<Member>,
}

/// Where a member is, or would be.
enum Place {
    /// Its value.
    There(Range<usize>),
    /// Before another member.
    Before(usize),
    /// Behind the last member; the object has none where false.
    Last(usize, bool),
}

impl Edit {
    /// A copy of the text.
    pub fn new(json: &[u8], def: &'static StructDef) -> Self {
        // Room for a few short members.
        let mut text = Vec::with_capacity(json.len() + 512);
        text.extend_from_slice(json);
        let members = scan::members(&text, 0).collect();
        Self { text, def, members }
    }

    /// Decodes what stands at a path; none where there is nothing.
    pub fn read(&self, path: &[&str]) -> Option<Value> {
        serde_json::from_slice(&self.text[self.find(path)?]).ok()
    }

    /// Puts a value at a path of struct members; what is missing on the way is made.
    pub fn set(&mut self, path: &[&str], value: &Value) {
        let (mut at, mut def) = (0, self.def);
        for (i, name) in path.iter().enumerate() {
            let place = match i {
                0 => place(&self.text, at, self.members.iter().cloned(), name, def),
                _ => place(&self.text, at, scan::members(&self.text, at), name, def),
            };
            let rest = &path[i + 1..];
            match place {
                Place::There(range) if !rest.is_empty() => {
                    let Some(Type::Struct(inner)) = def.field(name).map(|f| &f.ty) else { return };
                    (at, def) = (range.start, *inner);
                }
                Place::There(range) => return self.splice(range, &value.to_string()),
                Place::Before(at) => {
                    return self.splice(at..at, &format!("\"{name}\":{},", nested(rest, value.clone())));
                }
                Place::Last(at, others) => {
                    let comma = if others { "," } else { "" };
                    return self.splice(at..at, &format!("{comma}\"{name}\":{}", nested(rest, value.clone())));
                }
            }
        }
    }

    /// Takes away what stands at a path.
    pub fn remove(&mut self, path: &[&str]) {
        let Some((last, parents)) = path.split_last() else { return };
        let Some(parent) = self.find(parents) else { return };
        let (mut before, mut gone) = (None, None);
        for member in scan::members(&self.text, parent.start) {
            // From quote to quote, where it is the first one.
            let begin = member.name.start - 1;
            if let Some((from, to, true)) = gone {
                gone = Some((from, if before.is_none() { begin } else { to }, false));
                break;
            }
            if &self.text[member.name.clone()] == last.as_bytes() {
                gone = Some((before.unwrap_or(begin), member.value.end, true));
            } else {
                before = Some(member.value.end);
            }
        }
        if let Some((from, to, _)) = gone {
            self.splice(from..to, "");
        }
    }

    /// The changed text.
    pub fn finish(self) -> Bytes {
        self.text.into()
    }

    fn find(&self, path: &[&str]) -> Option<Range<usize>> {
        let Some((first, rest)) = path.split_first() else { return Some(0..self.text.len()) };
        let member = self.members.iter().find(|m| &self.text[m.name.clone()] == first.as_bytes())?;
        scan::below(&self.text, member.value.clone(), rest)
    }

    fn splice(&mut self, range: Range<usize>, with: &str) {
        // Behind the end of a value there may come another member, but nothing of its own.
        let behind = |m: &Member| range.is_empty() && range.end == m.value.end;
        let within = |m: &Member| m.value.start <= range.start && range.end <= m.value.end && !behind(m);
        let changed = self.members.iter().position(within);
        let (before, after) = (range.len(), with.len());
        self.text.splice(range, with.bytes());
        match changed {
            Some(at) => {
                let moved = |position: &mut usize| *position = *position + after - before;
                moved(&mut self.members[at].value.end);
                for member in &mut self.members[at + 1..] {
                    let Member { name, value } = member;
                    [&mut name.start, &mut name.end, &mut value.start, &mut value.end].into_iter().for_each(moved);
                }
            }
            // There is one more, or one less.
            None => self.members = scan::members(&self.text, 0).collect(),
        }
    }
}

/// Where a member of the object at `at` is, among those that it has.
fn place(text: &[u8], at: usize, members: impl Iterator<Item = Member>, name: &str, def: &'static StructDef) -> Place {
    let order = |name: &[u8]| def.fields().iter().position(|f| f.json.as_bytes() == name);
    let own = order(name.as_bytes());
    let mut end = None;
    for member in members {
        let found = &text[member.name.clone()];
        if found == name.as_bytes() {
            return Place::There(member.value);
        }
        if order(found) > own {
            // It has no second place: what is canonical ascends.
            return Place::Before(member.name.start - 1);
        }
        end = Some(member.value.end);
    }
    // Behind the brace that opens it.
    let first = at + text[at..].iter().position(|b| *b == b'{').map_or(0, |i| i + 1);
    Place::Last(end.unwrap_or(first), end.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::schema::{self, table};
    use serde_json::json;
    use test_case::test_case;

    fn pod() -> &'static StructDef {
        table().kind("", "v1", "Pod").unwrap()
    }

    fn canonical(value: &Value) -> Vec<u8> {
        serde_json::to_vec(&schema::canonicalize(value.clone(), pod()).unwrap().value).unwrap()
    }

    const BARE: &str = r#"{"metadata": {}, "spec": {"containers": null}, "status": {}}"#;
    const FULL: &str = r#"{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a\"}", "uid": "u", "labels": {"x": "1"}},
        "spec": {"containers": [{"name": "nodeName", "resources": {}}], "nodeName": "old", "hostNetwork": true,
            "schedulerName": "s"},
        "status": {"phase": "Pending", "nominatedNodeName": "n", "conditions": [{"type": "A", "status": "True",
            "lastProbeTime": null, "lastTransitionTime": null}]}}"#;

    /// Whatever is set or taken away, the text is the one that decoding, changing and encoding would have led to.
    #[test_case(BARE)]
    #[test_case(FULL)]
    fn stays_canonical(text: &str) {
        let before: Value = serde_json::from_str(text).unwrap();
        let values = [
            (vec!["spec", "nodeName"], json!("n\"1")),
            (vec!["spec", "priority"], json!(7)),
            (vec!["metadata", "labels"], json!({"a": "b"})),
            (vec!["metadata", "annotations"], json!({"a": "b"})),
            (vec!["metadata", "resourceVersion"], json!("7")),
            (vec!["status", "nominatedNodeName"], json!("n")),
            (vec!["status", "phase"], json!("Running")),
            (vec!["status", "startTime"], json!("2026-01-01T00:00:00Z")),
            (vec!["spec", "securityContext", "runAsUser"], json!(5)),
            (vec!["kind"], json!("Pod")),
        ];
        for (path, value) in &values {
            let mut edit = Edit::new(&canonical(&before), pod());
            edit.set(path, value);
            assert_eq!(edit.read(path).as_ref(), Some(value));
            assert_eq!(edit.members, scan::members(&edit.text, 0).collect::<Vec<_>>(), "{path:?}");
            let mut want = before.clone();
            let mut at = &mut want;
            for name in path {
                at = &mut at[*name];
            }
            *at = value.clone();
            let set = edit.finish();
            assert_eq!(String::from_utf8_lossy(&set), String::from_utf8(canonical(&want)).unwrap(), "{path:?}");
            let mut edit = Edit::new(&set, pod());
            edit.remove(path);
            assert_eq!(edit.read(path), None);
            assert_eq!(edit.members, scan::members(&edit.text, 0).collect::<Vec<_>>(), "{path:?}");
            assert!(serde_json::from_slice::<Value>(&edit.finish()).is_ok(), "{path:?}");
        }
    }

    #[test_case(&["status", "phase"]; "the first of several")]
    #[test_case(&["status", "conditions"]; "one in the middle")]
    #[test_case(&["status", "nominatedNodeName"]; "another one")]
    #[test_case(&["metadata", "labels"]; "the last")]
    #[test_case(&["metadata", "annotations"]; "one that is not there")]
    #[test_case(&["nothing", "there"]; "one of nothing")]
    fn what_goes_leaves_the_rest(path: &[&str]) {
        let before = canonical(&serde_json::from_str(FULL).unwrap());
        let mut edit = Edit::new(&before, pod());
        edit.remove(path);
        let mut want: Value = serde_json::from_slice(&before).unwrap();
        if let Some(parent) = want.get_mut(path[0]).and_then(Value::as_object_mut) {
            parent.shift_remove(path[1]);
        }
        assert_eq!(edit.finish(), want.to_string());
    }
}
