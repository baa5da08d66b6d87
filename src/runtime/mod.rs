//! What controllers, scheduler, kubelet and network share: listers fed by the watch cache or a remote watch, work queues,
//! the loop around a reconciler, events.
//!
//! **Invariant:** nobody above can tell where a lister's objects come from.

pub mod events;
#[cfg(test)]
pub mod fake;
pub mod fields;
pub mod informer;
pub mod kept;
pub mod lister;
pub mod metrics;
pub mod node_api;
pub mod node_listers;
pub mod objects;
pub mod queue;
pub mod reconciler;
pub mod references;
pub mod remote_node;
pub mod tunnel;

pub use events::Recorder;
pub use lister::{Delta, Lister, Listers};
pub use reconciler::{Cx, Error, Reconciler, Requeue, Watches};
