//! orch: Kubernetes in one static binary.
//!
//! The modules below stand in layer order; a module uses only lower layers. `src/ARCHITECTURE.md` has the map, a
//! request's walk and the invariants; `tests/it/layering.rs` checks the layers.

// L0
pub mod util;
// L1
pub mod api;
pub mod pki;
// L2
pub mod client;
pub mod store;
// L3
pub mod runtime;
// L4
pub mod admission;
pub mod registry;
// L5
pub mod apiserver;
// L6
pub mod cni;
pub mod controllers;
pub mod ctl;
pub mod dns;
pub mod kubelet;
pub mod proxy;
pub mod scheduler;
// L7
pub mod cmd;
