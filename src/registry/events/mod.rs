//! Kinds of the API group `events.k8s.io`.

use crate::api::scheme::KindInfo;
use crate::registry::Resource;
use crate::registry::strategy::Common;

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![Resource::new(
        KindInfo::namespaced("events.k8s.io", "v1", "Event", "events", "event")
            .short(&["ev"])
            .stored_as("", "events", "v1"),
        Box::new(Common::NONE),
    )]
}
