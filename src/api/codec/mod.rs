//! Bodies: JSON, YAML and protobuf in; the same out.
//!
//! In: bytes of a bounded length. Out: `serde_json::Value` and the paths of duplicate fields; what stands in the value is
//! the matter of `schema`.
//!
//! **Invariant:** no body, however nested or malformed, overflows the stack or grows beyond a small multiple of its
//! length.

pub mod json;
pub mod proto;
pub mod yaml;

/// Bytes of one request body that are read at most. Upstream: `MaxRequestBodyBytes`.
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

/// Nesting of lists and objects in one body. Upstream stops at 10,000; real objects stay below 60.
pub const MAX_DEPTH: usize = 120;
