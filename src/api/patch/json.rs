//! JSON patch.
//!
//! The operations are those of the `json-patch` crate; where upstream's library is laxer than the RFC (a `replace` of an
//! absent key adds it, a `test` for null passes where nothing stands, negative indexes count from the end, an absent
//! `value` is null), an operation is rewritten first.
//!
//! Rules: RFC 6902; upstream `evanphx/json-patch` v4 and `apiserver/pkg/endpoints/handlers/patch.go`.

use json_patch::jsonptr::PointerBuf;
use json_patch::{
    AddOperation, CopyOperation, MoveOperation, PatchOperation, RemoveOperation, ReplaceOperation, TestOperation,
};
use serde_json::{Value, json};

use crate::api::codec::MAX_DEPTH;
use crate::api::status::{ApiResult, Reason, Status};
use crate::api::value::ValueExt;

/// Operations of one patch. Upstream: `maxJSONPatchOperations`.
pub const MAX_OPERATIONS: usize = 10_000;
/// Bytes that all `copy` operations of a patch may add. Upstream: `JSONPatchMaxCopyBytes`.
pub const MAX_COPIED_BYTES: usize = 3 << 20;

/// Applies a patch, all of it or nothing.
///
/// # Errors
/// 400 when it is no list of operations, 413 when there are too many, 422 when one of them cannot be done.
pub fn apply(mut object: Value, patch: Value) -> ApiResult<Value> {
    let Value::Array(operations) = patch else {
        return Err(decoding(&format!(
            "cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
            super::json_type(&patch)
        )));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(Status::new(
            Reason::RequestEntityTooLarge,
            format!(
                "Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                operations.len()
            ),
        ));
    }
    if let Some(other) = operations.iter().find(|o| !o.is_object()) {
        return Err(decoding(&format!(
            "cannot unmarshal {} into Go value of type handlers.jsonPatchOp",
            super::json_type(other)
        )));
    }
    let mut copied = 0;
    for operation in operations {
        let Some(operation) = read(&object, operation).ok_or_else(rejected)? else { continue };
        if too_deep(&object, &operation) {
            return Err(rejected());
        }
        if let PatchOperation::Copy(copy) = &operation {
            copied += size_at(&object, copy.from.as_str());
            if copied > MAX_COPIED_BYTES {
                return Err(rejected());
            }
        }
        json_patch::patch_unsafe(&mut object, std::slice::from_ref(&operation)).map_err(|_| rejected())?;
    }
    Ok(object)
}

fn decoding(what: &str) -> Box<Status> {
    Status::bad_request(format!("error decoding patch: json: {what}"))
}

/// 422 as upstream words it: it does not say which operation it was.
fn rejected() -> Box<Status> {
    Status::new(Reason::Invalid, "the server rejected our request due to an error in our request")
        .with_details(json!({}))
}

/// The operation to do on this object; `Some(None)` is nothing to do, `None` what cannot be done.
fn read(object: &Value, mut operation: Value) -> Option<Option<PatchOperation>> {
    let path = pointer(object, operation.get("path")?.as_str()?, &operation)?;
    let value = operation.get_mut("value").map(Value::take).unwrap_or(Value::Null);
    let from = || pointer(object, operation.get("from")?.as_str()?, &Value::Null);
    let there = object.get_at(path.as_str());
    // Upstream's library does not act on the whole document.
    let operation = match operation.get("op")?.as_str()? {
        "test" if there.is_none() && value.is_null() => return in_object(object, path.as_str()).then_some(None),
        "test" => PatchOperation::Test(TestOperation { path, value }),
        _ if path.is_root() => return None,
        "add" => PatchOperation::Add(AddOperation { path, value }),
        "remove" => PatchOperation::Remove(RemoveOperation { path }),
        "replace" if there.is_none() && in_object(object, path.as_str()) => {
            PatchOperation::Add(AddOperation { path, value })
        }
        "replace" => PatchOperation::Replace(ReplaceOperation { path, value }),
        "move" => PatchOperation::Move(MoveOperation { from: from()?, path }),
        "copy" => PatchOperation::Copy(CopyOperation { from: from()?, path }),
        _ => return None,
    };
    Some(Some(operation))
}

/// The parent of a path that is not the root.
fn parent<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    object.get_at(path.rsplit_once('/')?.0)
}

fn in_object(object: &Value, path: &str) -> bool {
    parent(object, path).is_some_and(Value::is_object)
}

/// Reads a path, with negative indexes made positive. An `add` counts the place behind the last element.
fn pointer(object: &Value, text: &str, operation: &Value) -> Option<PointerBuf> {
    let adds = operation.get("op").and_then(Value::as_str) == Some("add");
    let mut path = String::with_capacity(text.len());
    if !text.is_empty() && !text.starts_with('/') {
        return None;
    }
    let mut parts = text.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        let negative = part.strip_prefix('-').and_then(|n| n.parse::<usize>().ok());
        let index = match (negative, object.get_at(&path)) {
            (Some(back), Some(Value::Array(items))) => {
                Some((items.len() + usize::from(adds && last)).checked_sub(back)?)
            }
            _ => None,
        };
        path.push('/');
        match index {
            Some(index) => path.push_str(&index.to_string()),
            None => path.push_str(part),
        }
    }
    PointerBuf::parse(path).ok()
}

/// True where the result would be nested deeper than a body may be. Of all patches only these can do that: an object
/// that is copied into itself doubles its depth each time.
fn too_deep(object: &Value, operation: &PatchOperation) -> bool {
    let at = |p: &PointerBuf| object.get_at(p.as_str()).map_or(0, Value::depth);
    let (path, added) = match operation {
        PatchOperation::Add(o) => (&o.path, o.value.depth()),
        PatchOperation::Replace(o) => (&o.path, o.value.depth()),
        PatchOperation::Copy(o) => (&o.path, at(&o.from)),
        PatchOperation::Move(o) => (&o.path, at(&o.from)),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return false,
    };
    path.as_str().matches('/').count() + added > MAX_DEPTH
}

/// Bytes of what stands at a path.
fn size_at(object: &Value, path: &str) -> usize {
    object.get_at(path).map_or(0, |v| v.to_string().len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn object() -> Value {
        json!({"a": {"b": 1}, "l": [1, 2, 3]})
    }

    #[test_case(json!([{"op": "replace", "path": "/a/c", "value": 2}]), json!({"a": {"b": 1, "c": 2}, "l": [1, 2, 3]}); "a replace adds a key")]
    #[test_case(json!([{"op": "test", "path": "/a/c", "value": null}]), object(); "null where nothing stands")]
    #[test_case(json!([{"op": "remove", "path": "/l/-1"}]), json!({"a": {"b": 1}, "l": [1, 2]}); "from the end")]
    #[test_case(json!([{"op": "add", "path": "/l/-1", "value": 4}]), json!({"a": {"b": 1}, "l": [1, 2, 3, 4]}); "behind the end")]
    #[test_case(json!([{"op": "add", "path": "/l/-", "value": 4}, {"op": "move", "from": "/a/b", "path": "/l/0"}]),
        json!({"a": {}, "l": [1, 1, 2, 3, 4]}); "in order")]
    #[test_case(json!([{"op": "copy", "from": "/l", "path": "/a/x~1y"}]), json!({"a": {"b": 1, "x/y": [1, 2, 3]}, "l": [1, 2, 3]}); "escapes")]
    #[test_case(json!([{"op": "add", "path": "/a/n"}]), json!({"a": {"b": 1, "n": null}, "l": [1, 2, 3]}); "no value is null")]
    #[test_case(json!([]), object(); "nothing")]
    fn does(patch: Value, want: Value) {
        assert_eq!(apply(object(), patch).unwrap(), want);
    }

    #[test_case(json!([{"op": "test", "path": "/a/b", "value": 2}]); "another value")]
    #[test_case(json!([{"op": "remove", "path": "/a/c"}]); "removes nothing")]
    #[test_case(json!([{"op": "replace", "path": "/l/3", "value": 2}]); "behind the list")]
    #[test_case(json!([{"op": "add", "path": "/x/y/z", "value": 2}]); "no parent")]
    #[test_case(json!([{"op": "add", "path": "/l/9", "value": 2}]); "far behind the list")]
    #[test_case(json!([{"op": "frobnicate", "path": "/a"}]); "no such operation")]
    #[test_case(json!([{"op": "remove", "path": ""}]); "everything")]
    #[test_case(json!([{"op": "add", "value": 1}]); "no path")]
    #[test_case(json!([{"op": "add", "path": "/a/new", "value": 1}, {"op": "test", "path": "/a/b", "value": 2}]); "the second fails")]
    fn refuses(patch: Value) {
        let status = apply(object(), patch).unwrap_err();
        assert_eq!((status.code, status.details), (422, json!({})));
    }

    #[test_case(json!({"op": "test"}), 400; "no list")]
    #[test_case(json!([1]), 400; "no operation")]
    #[test_case(Value::Array(vec![json!({"op": "test", "path": "/a/b", "value": 1}); MAX_OPERATIONS + 1]), 413; "too many")]
    fn refuses_the_form(patch: Value, code: u16) {
        assert_eq!(apply(object(), patch).unwrap_err().code, code);
    }

    #[test]
    fn copies_are_bounded() {
        // Doubling a list: 2^k elements after k operations.
        let copies: Vec<Value> = (0..40).map(|_| json!({"op": "copy", "from": "/l", "path": "/l/-"})).collect();
        assert_eq!(apply(object(), Value::Array(copies)).unwrap_err().code, 422);
    }

    #[test]
    fn nesting_is_bounded() {
        // Copied into itself: 2^k levels after k operations.
        let path = |levels: usize| "/a".repeat(levels);
        let copies: Vec<Value> =
            (0..10).map(|k| json!({"op": "copy", "from": "/a", "path": path((1 << k) + 1)})).collect();
        let deep = |n: usize| apply(json!({"a": {}}), Value::Array(copies[..n].to_vec()));
        assert_eq!(deep(6).unwrap().depth(), 65);
        assert_eq!(deep(7).unwrap_err().code, 422);
    }
}
