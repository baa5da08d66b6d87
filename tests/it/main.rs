//! Integration tests: one binary, no root, no containers.

mod cri_proto;
mod dependencies;
mod layering;
mod store_crash;
