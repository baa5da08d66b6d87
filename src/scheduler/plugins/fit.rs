//! Resources: whether they suffice, and how evenly they are used.

use super::super::cluster::NodeInfo;
use super::super::framework::{Cycle, Event, Filter, MAX_SCORE, Plugin, PreFilter, Refusal};
use super::super::pod::PodInfo;
use super::super::resources::Resources;

/// What a pod asks for must be there. Scores emptier nodes higher (upstream's `LeastAllocated`).
pub struct NodeResourcesFit;

struct Fits<'a>(&'a PodInfo);

impl Filter for Fits<'_> {
    fn check(&self, node: &NodeInfo) -> Result<(), Refusal> {
        match shortages(&self.0.requests, node) {
            refusal if refusal.reasons.is_empty() => Ok(()),
            refusal => Err(refusal),
        }
    }
}

/// Everything that is short; no reasons where all fits.
fn shortages(wanted: &Resources, node: &NodeInfo) -> Refusal {
    let (have, used) = (&node.allocatable, &node.requested);
    let mut out = Refusal { reasons: Vec::new(), final_: false, error: false };
    if used.pods + 1 > have.pods {
        out.reasons.push("Too many pods".into());
    }
    let named = [
        ("Insufficient cpu", wanted.cpu, have.cpu, used.cpu),
        ("Insufficient memory", wanted.memory, have.memory, used.memory),
        ("Insufficient ephemeral-storage", wanted.storage, have.storage, used.storage),
    ];
    for (reason, want, have, used) in named {
        if want > 0 && want > have - used {
            out.reasons.push(reason.into());
            out.final_ |= want > have;
        }
    }
    for (name, want) in wanted.scalar.iter().filter(|(_, want)| *want > 0) {
        let have = have.scalar(name);
        if *want > have - used.scalar(name) {
            out.reasons.push(format!("Insufficient {name}").into());
            out.final_ |= *want > have;
        }
    }
    out
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn pre_filter<'a>(&self, cx: &'a Cycle<'a>) -> PreFilter<'a> {
        PreFilter::Check(Box::new(Fits(cx.pod)))
    }

    fn score(&self, cx: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let (cpu, memory) = cx.pod.non_zero;
        let score = |n: &&NodeInfo| {
            let parts = [(n.allocatable.cpu, n.non_zero.0 + cpu), (n.allocatable.memory, n.non_zero.1 + memory)];
            let parts: Vec<i64> =
                parts.into_iter().filter(|(have, _)| *have > 0).map(|(have, used)| free(have, used)).collect();
            if parts.is_empty() { 0 } else { parts.iter().sum::<i64>() / parts.len() as i64 }
        };
        Some(nodes.iter().map(score).collect())
    }

    fn wakes(&self, event: &Event, pod: &PodInfo) -> bool {
        match event {
            Event::Itself => true,
            // Its place on the node is free, whatever it asked for.
            Event::PodGone(_) => true,
            Event::PodPlaced(Some(old), new) => old.requests != new.requests,
            Event::Node(None, new) => fits_empty(&pod.requests, &new.allocatable),
            Event::Node(Some(old), new) => {
                old.allocatable != new.allocatable && fits_empty(&pod.requests, &new.allocatable)
            }
            _ => false,
        }
    }
}

/// True when an empty node would do.
fn fits_empty(wanted: &Resources, have: &Resources) -> bool {
    wanted.cpu <= have.cpu
        && wanted.memory <= have.memory
        && wanted.storage <= have.storage
        && wanted.scalar.iter().all(|(name, want)| *want <= have.scalar(name))
}

fn free(have: i64, used: i64) -> i64 {
    if used > have { 0 } else { (have - used) * MAX_SCORE / have }
}

/// Prefers nodes on which CPU and memory are used evenly after the pod came.
/// Upstream: `plugins/noderesources` (`balancedResourceScorer`).
pub struct NodeResourcesBalancedAllocation;

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn score(&self, cx: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let wanted = &cx.pod.requests;
        if wanted.cpu == 0 && wanted.memory == 0 {
            return None;
        }
        let score = |n: &&NodeInfo| {
            let (have, used) = (&n.allocatable, &n.requested);
            let with = balance([(used.cpu + wanted.cpu, have.cpu), (used.memory + wanted.memory, have.memory)]);
            let without = balance([(used.cpu, have.cpu), (used.memory, have.memory)]);
            MAX_SCORE / 2 + (MAX_SCORE / 2 + with - without) / 2
        };
        Some(nodes.iter().map(score).collect())
    }
}

/// 100 where both parts are used to the same fraction, 50 where they could not differ more.
fn balance(parts: [(i64, i64); 2]) -> i64 {
    let fraction = |(used, have): (i64, i64)| (have != 0).then(|| (used as f64 / have as f64).min(1.0));
    let deviation = match parts.map(fraction) {
        [Some(a), Some(b)] => ((a - b) / 2.0).abs(),
        _ => 0.0,
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case((2000, 0, 0), (4000, 8, 10), (1000, 4, 1), &[], false; "fits")]
    #[test_case((4000, 0, 0), (4000, 8, 10), (1000, 4, 1), &["Insufficient cpu"], false; "a victim would help")]
    #[test_case((5000, 9, 0), (4000, 8, 10), (0, 0, 0), &["Insufficient cpu", "Insufficient memory"], true; "never")]
    #[test_case((0, 0, 0), (4000, 8, 1), (9000, 9, 1), &["Too many pods"], false; "zero always fits")]
    #[test_case((0, 0, 3), (4000, 8, 10), (0, 0, 0), &["Insufficient x/gpu"], true; "extended")]
    fn everything_short_is_named(
        want: (i64, i64, i64),
        have: (i64, i64, i64),
        used: (i64, i64, i64),
        reasons: &[&str],
        final_: bool,
    ) {
        let wanted =
            Resources { cpu: want.0, memory: want.1, scalar: vec![("x/gpu".into(), want.2)], ..Resources::default() };
        let of = |(cpu, memory, pods)| Resources { cpu, memory, pods, ..Resources::default() };
        let node = NodeInfo { allocatable: of(have), requested: of(used), ..NodeInfo::default() };
        let got = shortages(&wanted, &node);
        assert_eq!((got.reasons.iter().map(|r| &**r).collect::<Vec<_>>(), got.final_), (reasons.to_vec(), final_));
    }

    #[test_case([(50, 100), (50, 100)], 100)]
    #[test_case([(100, 100), (0, 100)], 50)]
    #[test_case([(300, 100), (100, 100)], 100; "more than all is all")]
    #[test_case([(3, 0), (50, 100)], 100; "what is not there does not count")]
    fn balances(parts: [(i64, i64); 2], want: i64) {
        assert_eq!(balance(parts), want);
    }
}
