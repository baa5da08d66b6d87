//! Pods that claim devices.

use super::super::framework::{Cycle, Plugin, PreFilter};

/// Keeps pods waiting that claim devices: none are allocated here yet, and such a pod must not run without them.
pub struct DynamicResources;

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn pre_filter<'a>(&self, cx: &'a Cycle<'a>) -> PreFilter<'a> {
        match cx.pod.claims_devices {
            true => PreFilter::Reject("devices of resource claims cannot be allocated by this scheduler".into()),
            false => PreFilter::Skip,
        }
    }
}
