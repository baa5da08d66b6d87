//! End-to-end tests: real processes, real containerd. Need root.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod access;
mod addons;
mod agent;
mod apps;
mod autoscaling;
mod bad_input;
mod clients;
mod clock;
mod containers;
mod crd;
mod csi;
mod ctl;
mod debug;
mod dual_stack;
mod harness;
mod images;
mod install;
mod main_job;
mod net;
mod node;
mod nodes;
mod operators;
mod overlay;
mod pods;
mod registry;
mod renewal;
mod resize;
mod runtime;
mod scenario;
mod scheduling;
mod serving;
mod uninstall;
mod volumes;
mod workloads;
