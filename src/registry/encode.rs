//! The bytes of an object for the store.

use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

/// Room for what is written, bytes; most objects fit, pods with their managed fields among them. It is held only until the
/// write is in the journal and the state.
const ROOM: usize = 8192;

/// An object's JSON without `metadata.resourceVersion`: the store's revision is its truth. Nothing is copied but once.
pub(super) fn unversioned(object: &Value) -> Bytes {
    let mut out = Vec::with_capacity(ROOM);
    let done = match object.as_object() {
        Some(members) => serde_json::to_writer(&mut out, &Object(members)),
        None => serde_json::to_writer(&mut out, object),
    };
    done.expect("a JSON value serializes");
    out.into()
}

struct Object<'a>(&'a Map<String, Value>);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in self.0 {
            match value {
                Value::Object(metadata) if key == "metadata" => map.serialize_entry(key, &Metadata(metadata))?,
                _ => map.serialize_entry(key, value)?,
            }
        }
        map.end()
    }
}

struct Metadata<'a>(&'a Map<String, Value>);

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in self.0.iter().filter(|(key, _)| *key != "resourceVersion") {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test_case(json!({"kind": "A", "metadata": {"uid": "u", "resourceVersion": "7", "labels": {"resourceVersion": "x"}},
        "spec": {"metadata": {"resourceVersion": "1"}}}),
        r#"{"kind":"A","metadata":{"uid":"u","labels":{"resourceVersion":"x"}},"spec":{"metadata":{"resourceVersion":"1"}}}"#;
        "only its own")]
    #[test_case(json!({"metadata": {"resourceVersion": "7"}}), r#"{"metadata":{}}"#; "nothing else")]
    #[test_case(json!({"metadata": null, "a": "\"\n"}), r#"{"metadata":null,"a":"\"\n"}"#; "no metadata")]
    fn leaves_the_revision_out(object: Value, want: &str) {
        assert_eq!(unversioned(&object), want);
    }
}
