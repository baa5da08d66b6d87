//! What controllers, scheduler, kubelet and network share: listers fed by the watch cache or a remote watch.
//!
//! **Invariant:** nobody above can tell which of the two it is.

pub mod lister;

pub use lister::{Delta, Lister, Listers};
