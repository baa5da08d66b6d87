//! The node agent: makes the containers of its node what the bound pods ask for.

pub mod anytls;
pub mod ask;
pub mod cgroups;
pub mod config;
pub mod container;
pub mod containerd;
pub mod cri;
pub mod downward;
pub mod env;
pub mod expand;
#[cfg(test)]
pub mod fake;
pub mod health;
pub mod hooks;
pub mod images;
pub mod logs;
pub mod network;
pub mod pause;
pub mod pleg;
pub mod pod;
pub mod probes;
pub mod pull;
pub mod runtime;
pub mod security;
pub mod sources;
pub mod status;
pub mod sync;
pub mod volumes;
