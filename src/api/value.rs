//! Reading and writing JSON by path: the small vocabulary that hooks, plans and printers share.

use serde_json::{Map, Value};

/// Path access on JSON values. Paths are JSON pointers (`/spec/replicas`).
pub trait ValueExt {
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

impl ValueExt for Value {
    fn str_at(&self, path: &str) -> Option<&str> {
        self.pointer(path)?.as_str()
    }

    fn int_at(&self, path: &str) -> Option<i64> {
        self.pointer(path)?.as_i64()
    }

    fn bool_at(&self, path: &str) -> Option<bool> {
        self.pointer(path)?.as_bool()
    }

    fn items_at(&self, path: &str) -> &[Value] {
        self.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn set_at(&mut self, path: &str, value: impl Into<Value>) {
        let mut at = self;
        for part in path.split('/').skip(1) {
            let part = part.replace("~1", "/").replace("~0", "~");
            let index = part.parse::<usize>().ok().filter(|i| at.as_array().is_some_and(|items| *i < items.len()));
            if let Some(index) = index {
                at = &mut at[index];
                continue;
            }
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            at = at.as_object_mut().expect("made an object above").entry(part).or_insert(Value::Null);
        }
        *at = value.into();
    }

    fn set_if_absent(&mut self, path: &str, value: impl Into<Value>) {
        if self.pointer(path).is_none_or(Value::is_null) {
            self.set_at(path, value);
        }
    }

    fn remove_at(&mut self, path: &str) -> Option<Value> {
        let (parent, last) = path.rsplit_once('/')?;
        let last = last.replace("~1", "/").replace("~0", "~");
        self.pointer_mut(parent)?.as_object_mut()?.shift_remove(&last)
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
