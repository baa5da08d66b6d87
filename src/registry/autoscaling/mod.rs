//! Kinds of the API group `autoscaling`: one kind in two versions, stored as v2.

use crate::api::scheme::{Column, KindInfo, STATUS_ONLY};
use crate::registry::Resource;
use crate::registry::strategy::Common;

mod cells;
mod check;
mod convert;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Reference", |o, _| cells::reference(o).into()),
    Column::new("Targets", |o, _| cells::targets(o).into()),
    Column::new("MinPods", |o, _| cells::min_pods(o).into()),
    Column::int("MaxPods", "/spec/maxReplicas"),
    Column::int("Replicas", "/status/currentReplicas"),
    Column::AGE,
];

fn row(version: &'static str) -> KindInfo {
    KindInfo::namespaced(
        "autoscaling",
        version,
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        "horizontalpodautoscaler",
    )
    .short(&["hpa"])
    .categories(&["all"])
    .columns(COLUMNS)
    .subresources(STATUS_ONLY)
}

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    let stored = row("v1").stored_as("autoscaling", "horizontalpodautoscalers", "v2");
    vec![
        Resource::new(stored, Box::new(Common::NONE.check(check::v1).convert(convert::convert))),
        Resource::new(row("v2"), Box::new(Common::NONE.check(check::v2))),
    ]
}
