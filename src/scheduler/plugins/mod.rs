//! The plugins. [`PLUGINS`] is the one list, in the order in which they refuse.

mod affinity;
pub mod binding;
mod fit;
mod images;
mod nodes;
mod spread;
mod volumes;

use super::framework::Plugin;

/// Plugins with the weights of their scores. Upstream: `apis/config/v1/default_plugins`.
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
    (&fit::NodeResourcesBalancedAllocation, 1),
    (&images::ImageLocality, 1),
];
