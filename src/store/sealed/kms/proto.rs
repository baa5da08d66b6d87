//! The generated client; `tests/it/protos.rs` keeps it equal to `proto/kms.proto`.
//! Included, not declared as a module, so that formatting leaves it as generated.

#![allow(missing_docs, clippy::all, clippy::too_many_lines, clippy::unwrap_used)]

include!("generated/v2.rs");
