//! Resources: whether they suffice, and how evenly they are used.

use super::super::cluster::NodeInfo;
use super::super::framework::{Cycle, Event, Filter, Freed, MAX_SCORE, Plugin, PreFilter, Reasons, Refusal};
use super::super::pod::PodInfo;
use super::super::profile::{Args, Strategy};
use super::super::resources::Resources;

/// What a pod asks for must be there. Scores emptier nodes higher (upstream's `LeastAllocated`).
pub struct NodeResourcesFit;

struct Fits<'a> {
    pod: &'a PodInfo,
    args: &'a Args,
    /// Extended resources that classes of devices stand for: DynamicResources looks after them where a node has none itself.
    delegated: Vec<&'a str>,
}

impl Filter for Fits<'_> {
    fn check(&self, node: &NodeInfo) -> Result<(), Refusal> {
        match shortages(&self.pod.requests, node, self.args, &self.delegated) {
            refusal if refusal.reasons.is_empty() => Ok(()),
            refusal => Err(refusal),
        }
    }
}

/// Everything that is short; no reasons where all fits. Upstream: `fitsRequest`, `shouldDelegateResourceToDRA`.
fn shortages(wanted: &Resources, node: &NodeInfo, args: &Args, delegated: &[&str]) -> Refusal {
    let (have, used) = (&node.allocatable, &node.requested);
    let mut out = Refusal { reasons: Reasons::None, final_: false, error: false };
    if used.pods + 1 > have.pods {
        out.reasons.push("Too many pods");
    }
    let named = [
        ("Insufficient cpu", wanted.cpu, have.cpu, used.cpu),
        ("Insufficient memory", wanted.memory, have.memory, used.memory),
        ("Insufficient ephemeral-storage", wanted.storage, have.storage, used.storage),
    ];
    for (reason, want, have, used) in named {
        if want > 0 && want > have - used {
            out.reasons.push(reason);
            out.final_ |= want > have;
        }
    }
    for (name, want) in wanted.scalar.iter().filter(|(name, want)| *want > 0 && !args.ignores(name)) {
        let have = have.scalar(name);
        if have == 0 && delegated.contains(&&**name) {
            continue;
        }
        if *want > have - used.scalar(name) {
            out.reasons.push(format!("Insufficient {name}"));
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
        let names = cx.pod.requests.scalar.iter().map(|(name, _)| &**name);
        let delegated = match cx.pod.extended.is_empty() {
            true => Vec::new(),
            false => names.filter(|name| cx.side.devices.class_for(name).is_some()).collect(),
        };
        PreFilter::Check(Box::new(Fits { pod: cx.pod, args: &cx.profile.args, delegated }))
    }

    fn score(&self, cx: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let args = &cx.profile.args;
        Some(nodes.iter().map(|node| filled(node, cx.pod, args)).collect())
    }

    fn scores_by_resources(&self) -> bool {
        true
    }

    fn checks_node_alone(&self) -> bool {
        true
    }

    fn wakes(&self, event: &Event, pod: &PodInfo) -> bool {
        match event {
            Event::Itself => true,
            Event::PodGone(_, freed) => freed.as_ref().is_none_or(|freed| may_hold(freed, pod)),
            Event::PodPlaced(Some(old), new) => old.requests != new.requests,
            Event::DeviceClass(class) => pod.requests.scalar.iter().any(|(n, want)| *want > 0 && class.stands_for(n)),
            Event::Node(None, new) => fits_empty(&pod.requests, &new.allocatable),
            Event::Node(Some(old), new) => {
                old.allocatable != new.allocatable && fits_empty(&pod.requests, &new.allocatable)
            }
            _ => false,
        }
    }
}

/// False where a node that a pod has left has no room for another all the same, not even at the cost of less important pods.
/// A pod for which victims go elsewhere takes room that is free, and sends nobody away. Wider than the filter: scalar
/// resources are not looked at, because a profile may have others look after them.
fn may_hold(freed: &Freed, pod: &PodInfo) -> bool {
    let node = &freed.node;
    if *pod.nominated == *node.name {
        return true;
    }
    let mut used = node.requested.clone();
    for other in freed.promised.iter().filter(|p| p.priority >= pod.priority && p.uid != pod.uid) {
        used.add(&other.requests, 1);
        used.pods += 1;
    }
    if pod.preempts && pod.nominated.is_empty() {
        for victim in node.pods.iter().filter(|p| p.priority < pod.priority) {
            used.add(&victim.requests, -1);
            used.pods -= 1;
        }
    }
    let (want, have) = (&pod.requests, &node.allocatable);
    let fits = |want: i64, have: i64, used: i64| want <= 0 || want <= have - used;
    used.pods < have.pods
        && fits(want.cpu, have.cpu, used.cpu)
        && fits(want.memory, have.memory, used.memory)
        && fits(want.storage, have.storage, used.storage)
}

/// True when an empty node would do.
fn fits_empty(wanted: &Resources, have: &Resources) -> bool {
    wanted.cpu <= have.cpu
        && wanted.memory <= have.memory
        && wanted.storage <= have.storage
        && wanted.scalar.iter().all(|(name, want)| *want <= have.scalar(name))
}

/// What a node has of a resource, and what of it is used with the pod; none where the resource does not count.
fn share(node: &NodeInfo, pod: &PodInfo, name: &str) -> Option<(i64, i64)> {
    let (have, used) = match name {
        "cpu" => (node.allocatable.cpu, node.non_zero.0 + pod.non_zero.0),
        "memory" => (node.allocatable.memory, node.non_zero.1 + pod.non_zero.1),
        "ephemeral-storage" => (node.allocatable.storage, node.requested.storage + pod.requests.storage),
        // Nodes are not told apart by what the pod does not ask for.
        _ if pod.requests.scalar(name) == 0 => return None,
        _ => (node.allocatable.scalar(name), node.requested.scalar(name) + pod.requests.scalar(name)),
    };
    (have > 0).then_some((have, used))
}

/// The mean over the resources, by their weights.
fn filled(node: &NodeInfo, pod: &PodInfo, args: &Args) -> i64 {
    let (mut sum, mut weights) = (0, 0);
    for (name, weight) in &args.scored {
        let Some((have, used)) = share(node, pod, name) else { continue };
        let score = match &args.strategy {
            Strategy::Least if used > have => 0,
            Strategy::Least => (have - used) * MAX_SCORE / have,
            Strategy::Most => used.min(have) * MAX_SCORE / have,
            Strategy::Ratio(shape) => {
                let score = on_line(shape, if used > have { 100 } else { used * 100 / have });
                if score <= 0 {
                    continue;
                }
                score
            }
        };
        sum += score * weight;
        weights += weight;
    }
    match (&args.strategy, weights) {
        (_, 0) => 0,
        (Strategy::Ratio(_), weights) => (sum as f64 / weights as f64).round() as i64,
        (_, weights) => sum / weights,
    }
}

/// The score at `x` of the line through these points, level before the first and after the last.
fn on_line(points: &[(i64, i64)], x: i64) -> i64 {
    match points.iter().position(|(at, _)| x <= *at) {
        None => points.last().map_or(0, |(_, score)| *score),
        Some(0) => points[0].1,
        Some(i) => {
            let ((x0, y0), (x1, y1)) = (points[i - 1], points[i]);
            y0 + (y1 - y0) * (x - x0) / (x1 - x0)
        }
    }
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
        let names = &cx.profile.args.balanced;
        if names.iter().all(|name| amount(wanted, name) == 0) {
            return None;
        }
        let score = |n: &&NodeInfo| {
            let (have, used) = (&n.allocatable, &n.requested);
            let counted = || names.iter().filter(move |name| is_plain(name) || amount(wanted, name) > 0);
            let of = |sign: i64| {
                counted().map(move |name| (amount(used, name) + sign * amount(wanted, name), amount(have, name)))
            };
            let (with, without) = (balance(of(1)), balance(of(0)));
            MAX_SCORE / 2 + (MAX_SCORE / 2 + with - without) / 2
        };
        Some(nodes.iter().map(score).collect())
    }

    fn scores_by_resources(&self) -> bool {
        true
    }
}

fn is_plain(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage")
}

fn amount(of: &Resources, name: &str) -> i64 {
    match name {
        "cpu" => of.cpu,
        "memory" => of.memory,
        "ephemeral-storage" => of.storage,
        name => of.scalar(name),
    }
}

/// 100 where all parts are used to the same fraction; less by the standard deviation, with two 50 at least.
fn balance(parts: impl Iterator<Item = (i64, i64)> + Clone) -> i64 {
    let fractions = parts.filter(|(_, have)| *have != 0).map(|(used, have)| (used as f64 / have as f64).min(1.0));
    let (count, sum) = fractions.clone().fold((0.0, 0.0), |(count, sum), f| (count + 1.0, sum + f));
    let deviation = if count == 2.0 {
        // The same, without the root's rounding.
        (fractions.clone().fold(0.0, |difference: f64, f| f - difference) / 2.0).abs()
    } else if count > 2.0 {
        let mean = sum / count;
        (fractions.map(|f| (f - mean) * (f - mean)).sum::<f64>() / count).sqrt()
    } else {
        0.0
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
        let got = shortages(&wanted, &node, &Args::default(), &[]);
        let why: Vec<&str> = got.reasons.as_slice().iter().map(|r| &**r).collect();
        assert_eq!((why, got.final_), (reasons.to_vec(), final_));
    }

    /// A node with one CPU, all of it used by a pod of this priority, after another of half a CPU left it.
    #[test_case(500, 5, true, "", &[], true; "there is room")]
    #[test_case(600, 5, true, "", &[], false; "not enough of it")]
    #[test_case(600, 9, true, "", &[], true; "enough when the other goes")]
    #[test_case(600, 9, false, "", &[], false; "which this one does not ask for")]
    #[test_case(600, 9, true, "other", &[], false; "which others do for this one elsewhere")]
    #[test_case(600, 9, true, "n", &[], true; "its own node is always looked at")]
    #[test_case(500, 5, true, "", &[("p", 5)], true; "promised to itself")]
    #[test_case(500, 5, true, "", &[("q", 5)], false; "promised to an equal")]
    #[test_case(500, 5, true, "", &[("q", 4)], true; "promised to a lesser one")]
    fn a_freed_node_wakes_whom_it_may_hold(
        cpu: i64,
        priority: i32,
        preempts: bool,
        nominated: &str,
        promised: &[(&str, i32)],
        want: bool,
    ) {
        let of = |cpu| Resources { cpu, ..Resources::default() };
        let named = |uid: &str, cpu, priority| PodInfo {
            uid: uid.into(),
            requests: of(cpu),
            priority,
            preempts,
            nominated: nominated.into(),
            ..PodInfo::default()
        };
        let allocatable = Resources { pods: 10, ..of(1000) };
        let mut node = NodeInfo { name: "n".into(), allocatable, ..NodeInfo::default() };
        node.add(named("there", 500, 6).into());
        let promised = promised.iter().map(|(uid, priority)| named(uid, 500, *priority).into()).collect();
        assert_eq!(may_hold(&Freed { node, promised }, &named("p", cpu, priority)), want);
    }

    #[test_case([(50, 100), (50, 100)], 100)]
    #[test_case([(100, 100), (0, 100)], 50)]
    #[test_case([(300, 100), (100, 100)], 100; "more than all is all")]
    #[test_case([(3, 0), (50, 100)], 100; "what is not there does not count")]
    fn balances(parts: [(i64, i64); 2], want: i64) {
        assert_eq!(balance(parts.into_iter()), want);
    }

    #[test]
    fn three_parts_deviate_from_their_mean() {
        assert_eq!(balance([(0, 10), (5, 10), (10, 10)].into_iter()), 59);
    }

    #[test_case(Strategy::Least, 62; "the emptier")]
    #[test_case(Strategy::Most, 37; "the fuller")]
    #[test_case(Strategy::Ratio(vec![(0, 0), (50, 100), (100, 0)]), 75; "by a line")]
    fn strategies_differ(strategy: Strategy, want: i64) {
        let of = |cpu, memory| Resources { cpu, memory, ..Resources::default() };
        let node = NodeInfo { allocatable: of(100, 100), non_zero: (20, 30), ..NodeInfo::default() };
        let pod = PodInfo { non_zero: (5, 20), ..PodInfo::default() };
        let args = Args { strategy, ..Args::default() };
        assert_eq!(filled(&node, &pod, &args), want);
    }

    #[test]
    fn ignored_resources_are_not_asked_for() {
        let wanted = Resources { scalar: vec![("x/gpu".into(), 3)], ..Resources::default() };
        let node = NodeInfo { allocatable: Resources { pods: 1, ..Resources::default() }, ..NodeInfo::default() };
        let args = Args { ignored_groups: vec!["x".into()], ..Args::default() };
        assert!(shortages(&wanted, &node, &args, &[]).reasons.is_empty());
    }
}
