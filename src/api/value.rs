//! Reading and writing JSON by path: the small vocabulary that hooks, plans and printers share.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// Path access on JSON values. Paths are JSON pointers (`/spec/replicas`).
pub trait ValueExt {
    /// What stands at `path`: `Value::pointer`, without its two allocations for each part.
    fn get_at(&self, path: &str) -> Option<&Value>;
    /// The text at `path`.
    fn str_at(&self, path: &str) -> Option<&str>;
    /// The integer at `path`.
    fn int_at(&self, path: &str) -> Option<i64>;
    /// The boolean at `path`.
    fn bool_at(&self, path: &str) -> Option<bool>;
    /// The list at `path`; an absent one is empty.
    fn items_at(&self, path: &str) -> &[Value];
    /// Sets `path`, making the objects on the way; items of lists have to be there. The path must not lead through a scalar.
    fn set_at(&mut self, path: &str, value: impl Into<Value>);
    /// Sets `path` where nothing (or null) stands there.
    fn set_if_absent(&mut self, path: &str, value: impl Into<Value>);
    /// Removes what stands at `path` and gives it back.
    fn remove_at(&mut self, path: &str) -> Option<Value>;
    /// Levels of lists and objects: 0 for a scalar. Bodies are bounded by `codec::MAX_DEPTH`; what is made of them must be.
    fn depth(&self) -> usize;
}

/// A value that stands at a path of members: objects with one member each around it.
pub fn nested(path: &[&str], value: Value) -> Value {
    path.iter().rev().fold(value, |inner, name| Value::Object(Map::from_iter([((*name).to_owned(), inner)])))
}

/// A part of a path as it stands in the object.
fn unescaped(part: &str) -> Cow<'_, str> {
    match part.contains('~') {
        true => part.replace("~1", "/").replace("~0", "~").into(),
        false => part.into(),
    }
}

impl ValueExt for Value {
    fn get_at(&self, path: &str) -> Option<&Value> {
        let mut parts = path.split('/');
        if !parts.next()?.is_empty() {
            return None;
        }
        parts.try_fold(self, |at, part| match at {
            Self::Object(members) => members.get(&*unescaped(part)),
            // RFC 6901: digits, without zeros in front.
            Self::Array(items) if part == "0" || !part.starts_with(['0', '+']) => {
                items.get(part.parse::<usize>().ok()?)
            }
            _ => None,
        })
    }

    fn str_at(&self, path: &str) -> Option<&str> {
        self.get_at(path)?.as_str()
    }

    fn int_at(&self, path: &str) -> Option<i64> {
        self.get_at(path)?.as_i64()
    }

    fn bool_at(&self, path: &str) -> Option<bool> {
        self.get_at(path)?.as_bool()
    }

    fn items_at(&self, path: &str) -> &[Value] {
        self.get_at(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn set_at(&mut self, path: &str, value: impl Into<Value>) {
        let mut at = self;
        for part in path.split('/').skip(1) {
            let part = unescaped(part);
            let index = part.parse::<usize>().ok().filter(|i| at.as_array().is_some_and(|items| *i < items.len()));
            if let Some(index) = index {
                at = &mut at[index];
                continue;
            }
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            at = at.as_object_mut().expect("made an object above").entry(part.into_owned()).or_insert(Value::Null);
        }
        *at = value.into();
    }

    fn set_if_absent(&mut self, path: &str, value: impl Into<Value>) {
        if self.get_at(path).is_none_or(Value::is_null) {
            self.set_at(path, value);
        }
    }

    fn remove_at(&mut self, path: &str) -> Option<Value> {
        let (parent, last) = path.rsplit_once('/')?;
        self.pointer_mut(parent)?.as_object_mut()?.shift_remove(&*unescaped(last))
    }

    fn depth(&self) -> usize {
        match self {
            Value::Array(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            Value::Object(members) => 1 + members.values().map(Self::depth).max().unwrap_or(0),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_as_pointers_do() {
        let v = json!({"a": {"b/c": [1, {"~d": 2}], "": 3, "0": 4}});
        let paths = [
            "",
            "/",
            "a",
            "/a",
            "/a/",
            "/a/0",
            "/a/b~1c/0",
            "/a/b~1c/1/~0d",
            "/a/b~1c/2",
            "/a/b~1c/01",
            "/a/b~1c/+1",
            "/x",
            "/a/x/y",
        ];
        for path in paths {
            assert_eq!(v.get_at(path), v.pointer(path), "{path}");
        }
    }

    #[test]
    fn sets_and_removes_by_path() {
        let mut v = json!({"a": null});
        v.set_at("/a/b~1c", 1);
        v.set_if_absent("/a/b~1c", 2);
        v.set_if_absent("/x", "y");
        assert_eq!(v, json!({"a": {"b/c": 1}, "x": "y"}));
        assert_eq!(v.remove_at("/a/b~1c"), Some(json!(1)));
        assert_eq!(v.remove_at("/nope/b"), None);
        assert_eq!(v.items_at("/none"), &[] as &[Value]);
        assert_eq!([json!(1), json!([]), json!({"a": [{}]})].map(|v| v.depth()), [0, 1, 3]);
    }
}
