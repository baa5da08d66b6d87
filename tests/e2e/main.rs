//! End-to-end tests: real processes, real containerd. Need root.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod addons;
mod agent;
mod bad_input;
mod clients;
mod clock;
mod crd;
mod csi;
mod ctl;
mod debug;
mod harness;
mod images;
mod install;
mod main_job;
mod net;
mod node;
mod nodes;
mod overlay;
mod pods;
mod registry;
mod resize;
mod runtime;
mod uninstall;
mod volumes;
mod workloads;
