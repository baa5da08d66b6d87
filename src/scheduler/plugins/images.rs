//! Nodes that have the pod's images.

use super::super::cluster::NodeInfo;
use super::super::framework::{Cycle, MAX_SCORE, Plugin};

const MB: i64 = 1024 * 1024;
/// Bytes of images below which they count nothing.
const MIN: i64 = 23 * MB;
/// Bytes of images per container above which more count nothing.
const MAX_PER_CONTAINER: i64 = 1000 * MB;

/// Prefers nodes that have the images already; one that many nodes have counts more, so that nodes do not heat up.
/// Upstream: `plugins/imagelocality`.
pub struct ImageLocality;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn score(&self, cx: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let total = cx.cluster.nodes().len() as i64;
        let sum = |node: &&NodeInfo| -> i64 {
            let here = cx.pod.images.iter().filter(|name| node.images.iter().any(|(have, _)| have == *name));
            let scaled = |name| {
                let image = cx.cluster.image(name);
                (image.size as f64 * (image.nodes as f64 / total as f64)) as i64
            };
            here.map(|name| scaled(name)).sum()
        };
        let max = MAX_PER_CONTAINER * cx.pod.images.len() as i64;
        let score = |node: &&NodeInfo| MAX_SCORE * (sum(node).clamp(MIN, max.max(MIN)) - MIN) / (max - MIN).max(1);
        Some(nodes.iter().map(score).collect())
    }
}
