//! Whose a node's name is: the machine with a key, whose hash is kept in a ConfigMap beside the Node.
//!
//! The certificates controller writes it, and the API takes no other key for the node from then on.

use serde_json::{Value, json};

use super::value::ValueExt;

/// Where the records are.
pub const NAMESPACE: &str = "kube-system";
/// Behind a node's name in the name of its record.
const SUFFIX: &str = ".node-identity";
/// Key of a record: the hash of the machine's key (`pki::request::key_hash`).
const KEY_HASH: &str = "public-key-sha256";

/// Name of the record of a node.
pub fn name_of(node: &str) -> String {
    format!("{node}{SUFFIX}")
}

/// The node of a record, by its name; none for other ConfigMaps.
pub fn node_of(name: &str) -> Option<&str> {
    name.strip_suffix(SUFFIX)
}

/// The record of a node.
pub fn record(node: &str, key_hash: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name_of(node), "namespace": NAMESPACE},
        "data": {KEY_HASH: key_hash}})
}

/// The hash in a record.
pub fn key_hash(record: &Value) -> &str {
    record.str_at(&format!("/data/{KEY_HASH}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_is_written() {
        let record = record("edge.1", "abc");
        assert_eq!(key_hash(&record), "abc");
        assert_eq!(record.str_at("/metadata/name").and_then(node_of), Some("edge.1"));
        assert_eq!(node_of("kube-root-ca.crt"), None);
    }
}
