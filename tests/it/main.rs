//! Integration tests: one binary, no root, no containers.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod allocator;
mod api;
mod conformance;
mod dependencies;
mod fuzz;
mod layering;
mod protos;
mod store_crash;
