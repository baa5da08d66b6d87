//! Integration tests: one binary, no root, no containers.

mod layering;
mod store_crash;
