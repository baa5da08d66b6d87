//! Integration tests: one binary, no root, no containers.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod allocator;
mod api;
mod conformance;
mod cri_proto;
mod dependencies;
mod fuzz;
mod layering;
mod store_crash;
