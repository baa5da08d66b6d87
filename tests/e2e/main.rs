//! End-to-end tests: real processes, real containerd. Need root.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod bad_input;
mod ctl;
mod harness;
mod install;
mod main_job;
mod net;
mod node;
mod pods;
mod registry;
mod runtime;
mod uninstall;
