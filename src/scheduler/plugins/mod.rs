//! The plugins. [`PLUGINS`] is the one list, in the order in which they refuse.

pub mod affinity;
pub mod binding;
pub mod devices;
mod fit;
mod images;
mod nodes;
pub mod spread;
mod volumes;

use super::framework::Plugin;

/// Plugins that filter and score, with the weights of their scores. Upstream: `apis/config/v1/default_plugins`.
///
/// Of upstream's default plugins those that do neither have their place in the flow: PrioritySort and SchedulingGates in
/// [`queue`](super::queue), DefaultPreemption in [`preempt`](super::preempt), DefaultBinder in `write`.
pub const PLUGINS: &[(&dyn Plugin, i64)] = &[
    (&nodes::NodeUnschedulable, 0),
    (&nodes::NodeName, 0),
    (&nodes::TaintToleration, 3),
    (&nodes::NodeAffinity, 2),
    (&nodes::NodePorts, 0),
    (&fit::NodeResourcesFit, 1),
    (&volumes::VolumeRestrictions, 0),
    (&volumes::NodeVolumeLimits, 0),
    (&binding::VolumeBinding, 0),
    (&volumes::VolumeZone, 0),
    (&spread::PodTopologySpread, 2),
    (&affinity::InterPodAffinity, 2),
    (&devices::DynamicResources, 2),
    (&fit::NodeResourcesBalancedAllocation, 1),
    (&images::ImageLocality, 1),
    (&nodes::NodeDeclaredFeatures, 0),
];
