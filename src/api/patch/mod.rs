//! JSON patch, merge patch, strategic merge patch, server-side apply.
//!
//! Flow: the stored object and the decoded patch in, the patched object or a Status out. What comes out is not yet
//! canonical: the caller decodes it as if a client had sent it.
//!
//! **Invariant:** a patch that fails leaves nothing changed: objects come in by value and go out by value.

pub mod apply;
pub mod go;
pub mod json;
pub mod merge;
pub mod strategic;
pub mod three_way;

#[cfg(test)]
mod tests;

pub use three_way::{three_way, three_way_merge};

/// What Go calls a JSON value's type.
fn json_type(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "bool",
        serde_json::Value::Number(_) => "number",
        serde_json::Value::String(_) => "string",
        serde_json::Value::Array(_) => "array",
        serde_json::Value::Object(_) => "object",
    }
}
