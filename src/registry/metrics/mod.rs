//! Kinds of the API group `metrics.k8s.io`: what nodes and pods use. They are measured when asked for, never stored.
//!
//! Not in [`super::kinds`]: the group is served where the server is told to, and not where somebody else has an APIService
//! for it. The two shapes, their names and their verbs are those of metrics-server.

use serde_json::Value;

use crate::api::meta::quantity::Quantity;
use crate::api::scheme::{Column, KindInfo, Verbs};
use crate::api::value::ValueExt;
use crate::registry::Resource;
use crate::registry::strategy::Common;

/// The group.
pub const GROUP: &str = "metrics.k8s.io";

const NODE_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("cpu", "/usage/cpu"),
    Column::text("memory", "/usage/memory"),
    Column::text("Window", "/window"),
];

const POD_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("cpu", |o, _| sum(o, "/usage/cpu").into()),
    Column::new("memory", |o, _| sum(o, "/usage/memory").into()),
    Column::text("Window", "/window"),
];

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    let read = Verbs::GET.and(Verbs::LIST);
    let nodes = KindInfo::cluster(GROUP, "v1beta1", "NodeMetrics", "nodes", "").columns(NODE_COLUMNS).verbs(read);
    let pods = KindInfo::namespaced(GROUP, "v1beta1", "PodMetrics", "pods", "").columns(POD_COLUMNS).verbs(read);
    [nodes, pods].map(|info| Resource::new(info, Box::new(Common::NONE))).into()
}

/// What all containers use together.
fn sum(pod: &Value, at: &str) -> String {
    let containers = pod.items_at("/containers").iter();
    let parts = containers.filter_map(|c| Quantity::parse(c.str_at(at)?).ok());
    parts.reduce(Quantity::plus).map_or_else(String::new, |q| q.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn containers_are_summed() {
        let of = |cpu: &str, memory: &str| json!({"usage": {"cpu": cpu, "memory": memory}});
        let pod = json!({"containers": [of("1500000n", "1Mi"), of("500u", "512Ki")]});
        assert_eq!((sum(&pod, "/usage/cpu"), sum(&pod, "/usage/memory")), ("2m".into(), "1536Ki".into()));
        assert_eq!(sum(&json!({"containers": []}), "/usage/cpu"), "");
    }

    #[test]
    fn both_have_a_shape() {
        assert!(kinds().iter().all(|r| r.def.is_some() && !r.info.verbs.has(Verbs::WATCH)));
    }
}
