//! Kinds of the API group `apps`.

mod daemonset;
mod deployment;
mod replicaset;
mod revision;
mod statefulset;

use crate::registry::Resource;

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![revision::kind(), daemonset::kind(), deployment::kind(), replicaset::kind(), statefulset::kind()]
}
