//! The controllers: each brings one kind of object where it should be.
//!
//! One folder each: `plan.rs` decides (pure), `mod.rs` reads and acts. `CONTROLLERS` is the one list.

pub mod common;
pub mod deployment;
pub mod replicaset;
