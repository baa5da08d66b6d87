//! Even numbers of like pods over zones, hosts, or whatever a label names.
//!
//! Upstream: `plugins/podtopologyspread`.

use std::sync::Arc;

use super::super::cluster::NodeInfo;
use super::super::counts::{Move, Parts, Sums};
use super::super::domains::Domains;
use super::super::framework::{Cycle, Event, Filter, MAX_SCORE, Plugin, PreFilter, Refusal};
use super::super::pod::{Labels, NodeTerm, PodInfo, Spread, Toleration};
use super::super::profile::DefaultSpread;
use super::nodes::untolerated;

const HOSTNAME: &str = "kubernetes.io/hostname";

/// Hard constraints refuse nodes; soft ones, and those of Services and controllers, make them worse.
pub struct PodTopologySpread;

/// True when nodes like this take part in a constraint.
fn takes_part(c: &Spread, pod: &PodInfo, node: &NodeInfo) -> bool {
    (!c.honor_affinity || pod.wants_node(&node.name, &node.labels))
        && (!c.honor_taints || untolerated(pod, node).is_none())
}

/// True for a pod that counts for a constraint; those that are going do not. An empty selector means no pod here, though
/// it means the newcomer itself.
fn is_counted(c: &Spread, pod: &PodInfo, other: &PodInfo) -> bool {
    c.selector.as_ref().is_some_and(|s| !s.is_empty())
        && !other.deleting
        && other.namespace == pod.namespace
        && c.counts(other)
}

/// What of a pod decides which nodes and pods its constraints count.
#[derive(Debug)]
pub struct Kind {
    namespace: Box<str>,
    constraints: Box<[Spread]>,
    soft: bool,
    all_keys: bool,
    tolerations: Box<[Toleration]>,
    node_selector: Labels,
    node_required: Option<Box<[NodeTerm]>>,
}

/// Constraints of a pod, all that refuse nodes or all that score them, which count the pods of all nodes.
struct Census<'a> {
    cx: &'a Cycle<'a>,
    constraints: &'a [&'a Spread],
    /// For each of them the parts that it counts.
    domains: Vec<Arc<Domains>>,
    soft: bool,
    /// Nodes that lack the key of one of them count for none.
    all_keys: bool,
}

impl<'a> Census<'a> {
    fn new(cx: &'a Cycle<'a>, constraints: &'a [&'a Spread], soft: bool, all_keys: bool) -> Self {
        let domains = constraints.iter().map(|c| cx.cluster.domains(&c.key)).collect();
        Self { cx, constraints, domains, soft, all_keys }
    }

    /// Pods in the parts of the cluster, for each constraint.
    fn parts(&self) -> Parts {
        let cluster = self.cx.cluster;
        let anew = || (self.kind(), self.count());
        cluster.spread.of(|kind| self.is(kind), cluster.moves(), |parts, step| self.follow(parts, step), anew)
    }

    fn kind(&self) -> Kind {
        let pod = self.cx.pod;
        Kind {
            namespace: pod.namespace.clone(),
            constraints: self.constraints.iter().map(|c| (*c).clone()).collect(),
            soft: self.soft,
            all_keys: self.all_keys,
            tolerations: pod.tolerations.clone(),
            node_selector: pod.node_selector.clone(),
            node_required: pod.node_required.clone(),
        }
    }

    fn is(&self, kind: &Kind) -> bool {
        let pod = self.cx.pod;
        kind.namespace == pod.namespace
            && (kind.soft, kind.all_keys) == (self.soft, self.all_keys)
            && kind.constraints.iter().eq(self.constraints.iter().copied())
            && kind.tolerations == pod.tolerations
            && kind.node_selector == pod.node_selector
            && kind.node_required == pod.node_required
    }

    fn has_keys(&self, node: &NodeInfo) -> bool {
        !self.all_keys || self.domains.iter().all(|domains| domains.of(node).is_some())
    }

    /// True for a constraint whose parts are the nodes themselves, whoever takes part.
    fn is_by_host(&self, c: &Spread) -> bool {
        self.soft && &*c.key == HOSTNAME
    }

    /// The constraints, with the parts that they count.
    fn each(&self) -> impl Iterator<Item = (&'a Spread, &Domains)> {
        self.constraints.iter().copied().zip(self.domains.iter().map(|d| &**d))
    }

    /// The part that a node is in for a constraint.
    fn part(&self, (c, domains): (&Spread, &Domains), node: &NodeInfo) -> Option<usize> {
        if self.is_by_host(c) { Some(node.at) } else { domains.of(node) }
    }

    /// The same, where it takes part.
    fn counted_part(&self, (c, domains): (&Spread, &Domains), node: &NodeInfo) -> Option<usize> {
        self.part((c, domains), node).filter(|_| self.is_by_host(c) || takes_part(c, self.cx.pod, node))
    }

    fn count(&self) -> Parts {
        let nodes = self.cx.cluster.nodes();
        let size = |(c, domains): (&Spread, &Domains)| if self.is_by_host(c) { nodes.len() } else { domains.count() };
        let mut all: Vec<Sums> = self.each().map(|c| Sums::new(size(c))).collect();
        for node in nodes.iter().filter(|n| self.has_keys(n)) {
            for (c, parts) in self.each().zip(&mut all) {
                let Some(part) = self.counted_part(c, node) else { continue };
                let n = node.pods.iter().filter(|p| is_counted(c.0, self.cx.pod, p)).count() as i64;
                // For a hard constraint a part without pods counts too.
                parts.add(part, n);
            }
        }
        all.into_iter().map(Arc::new).collect()
    }

    /// Takes a pod that moved into the counts.
    fn follow(&self, all: &mut Parts, step: &Move) {
        let node = &self.cx.cluster.nodes()[step.at];
        if !self.has_keys(node) {
            return;
        }
        for (c, parts) in self.each().zip(all) {
            if !is_counted(c.0, self.cx.pod, &step.pod) {
                continue;
            }
            if let Some(part) = self.counted_part(c, node) {
                Arc::make_mut(parts).add(part, step.sign);
            }
        }
    }
}

/// One hard constraint, with the number of pods in each part of the cluster.
struct Counted<'a> {
    constraint: &'a Spread,
    parts: Arc<Sums>,
    domains: Arc<Domains>,
    /// The newcomer itself.
    own: i64,
}

impl Counted<'_> {
    fn least(&self) -> i64 {
        if (self.parts.iter().count() as i64) < self.constraint.min_domains {
            return 0;
        }
        self.parts.iter().min().unwrap_or(0)
    }
}

struct Even<'a> {
    pod: &'a PodInfo,
    constraints: Vec<Counted<'a>>,
    /// The least number of pods of each constraint.
    least: Vec<i64>,
}

impl Filter for Even<'_> {
    fn check(&self, node: &NodeInfo) -> Result<(), Refusal> {
        for (counted, least) in self.constraints.iter().zip(&self.least) {
            let Some(part) = counted.domains.of(node) else {
                return Err(Refusal::unresolvable(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                ));
            };
            let there = counted.parts.get(part).unwrap_or(0);
            if there + counted.own - least > counted.constraint.max_skew {
                return Err(Refusal::retry("node(s) didn't match pod topology spread constraints"));
            }
        }
        Ok(())
    }

    fn changed(&mut self, pod: &PodInfo, node: &NodeInfo, sign: i64) {
        if pod.deleting || pod.namespace != self.pod.namespace {
            return;
        }
        let all_keys = self.constraints.iter().all(|c| c.domains.of(node).is_some());
        for (counted, least) in self.constraints.iter_mut().zip(&mut self.least) {
            if !all_keys || !counted.constraint.counts(pod) || !takes_part(counted.constraint, self.pod, node) {
                continue;
            }
            let part = counted.domains.of(node).filter(|part| counted.parts.get(*part).is_some());
            if let Some(part) = part {
                Arc::make_mut(&mut counted.parts).add(part, sign);
                *least = counted.least();
            }
        }
    }
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn pre_filter<'a>(&self, cx: &'a Cycle<'a>) -> PreFilter<'a> {
        let hard: Vec<&Spread> = constraints(cx).iter().filter(|c| c.hard).collect();
        if hard.is_empty() {
            return PreFilter::Skip;
        }
        let census = Census::new(cx, &hard, false, true);
        let counted = |((constraint, domains), parts): ((&&'a Spread, &Arc<Domains>), Arc<Sums>)| {
            let (domains, own) = (domains.clone(), i64::from(constraint.counts(cx.pod)));
            Counted { constraint, parts, domains, own }
        };
        let constraints: Vec<Counted<'a>> = hard.iter().zip(&census.domains).zip(census.parts()).map(counted).collect();
        let least = constraints.iter().map(Counted::least).collect();
        PreFilter::Check(Box::new(Even { pod: cx.pod, constraints, least }))
    }

    fn score(&self, cx: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let soft: Vec<&Spread> = constraints(cx).iter().filter(|c| !c.hard).collect();
        if soft.is_empty() {
            return None;
        }
        // The defaults of the system take nodes that lack some of the keys; others do not.
        let all_keys = !cx.pod.spread.is_empty() || matches!(cx.profile.args.default_spread, DefaultSpread::List(_));
        Some(scores(cx, &soft, nodes, all_keys))
    }

    fn wakes(&self, event: &Event, pod: &PodInfo) -> bool {
        // Who has no constraints was refused by those of the scheduler; whom they count is looked up when the pod is tried.
        let defaults = pod.spread.is_empty();
        let hard = || pod.spread.iter().filter(|c| c.hard);
        let counted = |p: &PodInfo| p.namespace == pod.namespace && (defaults || hard().any(|c| c.counts(p)));
        let has_keys = |n: &NodeInfo| hard().all(|c| n.label(&c.key).is_some());
        match event {
            Event::Itself => true,
            Event::PodPlaced(None, new) => counted(new),
            // One that is going counts no more, but is waited for until it is gone.
            Event::PodPlaced(Some(old), new) => {
                let turned =
                    if defaults { old.labels != new.labels } else { hard().any(|c| c.counts(old) != c.counts(new)) };
                turned && new.namespace == pod.namespace
            }
            Event::PodGone(gone, _) => counted(gone),
            Event::Node(None, node) | Event::NodeGone(node) => has_keys(node),
            Event::Node(Some(old), new) => {
                let moved = || match defaults {
                    true => old.labels != new.labels,
                    false => hard().any(|c| old.label(&c.key) != new.label(&c.key)),
                };
                has_keys(old) != has_keys(new) || has_keys(new) && (moved() || old.taints != new.taints)
            }
            _ => false,
        }
    }
}

/// A pod's own constraints, or else those that its scheduler has for it.
fn constraints<'a>(cx: &'a Cycle<'_>) -> &'a [Spread] {
    if cx.pod.spread.is_empty() { &cx.default_spread } else { &cx.pod.spread }
}

/// Soft constraints: fewer pods in a node's parts are better, the more so the fewer parts there are.
fn scores(cx: &Cycle<'_>, constraints: &[&Spread], nodes: &[&NodeInfo], all_keys: bool) -> Vec<i64> {
    let census = Census::new(cx, constraints, true, all_keys);
    let ignored: Vec<bool> = nodes.iter().map(|n| !census.has_keys(n)).collect();
    let kept = || nodes.iter().zip(&ignored).filter(|(_, ignored)| !**ignored).map(|(n, _)| *n);
    // The more parts the feasible nodes are in, the more a constraint weighs.
    let size = |(c, domains): (&Spread, &Domains)| {
        if census.is_by_host(c) {
            return kept().count();
        }
        // Nodes without the label, where they are taken, are one more part.
        let mut seen = vec![false; domains.count() + 1];
        let parts = kept().map(|n| domains.of(n).unwrap_or(domains.count()));
        parts.filter(|part| !std::mem::replace(&mut seen[*part], true)).count()
    };
    let weights: Vec<f64> = census.each().map(|c| ((size(c) + 2) as f64).ln()).collect();
    let parts = census.parts();
    let raw = |node: &NodeInfo| {
        let mut score = 0.0;
        for ((c, parts), weight) in census.each().zip(&parts).zip(&weights) {
            if c.1.of(node).is_none() {
                continue;
            }
            let there = census.part(c, node).and_then(|part| parts.get(part)).unwrap_or(0);
            score += there as f64 * weight + (c.0.max_skew - 1) as f64;
        }
        score.round() as i64
    };
    let mut out: Vec<i64> = nodes.iter().zip(&ignored).map(|(n, ignored)| if *ignored { 0 } else { raw(n) }).collect();
    normalise(&mut out, &ignored);
    out
}

/// The fewest become [`MAX_SCORE`]; nodes that lack a key get nothing.
fn normalise(scores: &mut [i64], ignored: &[bool]) {
    let kept = || scores.iter().zip(ignored).filter(|(_, i)| !**i).map(|(s, _)| *s);
    let (min, max) = (kept().min().unwrap_or(0), kept().max().unwrap_or(0));
    for (score, ignored) in scores.iter_mut().zip(ignored) {
        *score = match (ignored, max) {
            (true, _) => 0,
            (_, 0) => MAX_SCORE,
            _ => MAX_SCORE * (max + min - *score) / max,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use test_case::test_case;

    use super::super::super::cluster::Cluster;
    use super::super::super::profile::Profile;
    use super::super::super::raw;
    use super::super::super::side::Side;
    use super::*;
    use crate::api::object::Object;
    use crate::runtime::fake::FakeListers;

    const ZONE: &str = "topology.kubernetes.io/zone";

    fn node(name: &str, zone: &str) -> NodeInfo {
        let mut labels = json!({HOSTNAME: name});
        if !zone.is_empty() {
            labels[ZONE] = zone.into();
        }
        NodeInfo::new(&Object::from_value(&json!({"metadata": {"name": name, "labels": labels}}), &[])).unwrap()
    }

    fn pod(name: &str, app: &str, more: Value) -> Arc<PodInfo> {
        let mut value = json!({"metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": app}}});
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        PodInfo::new(&Object::from_value(&value, &[])).unwrap()
    }

    fn owned(api_version: &str, kind: &str, app: &str) -> Arc<PodInfo> {
        let owners = json!([{"apiVersion": api_version, "kind": kind, "name": "o", "uid": "o", "controller": true}]);
        let meta =
            json!({"name": "p", "namespace": "n", "uid": "p", "labels": {"app": app}, "ownerReferences": owners});
        pod("p", app, json!({"metadata": meta}))
    }

    /// A Service that means `app=web`, and what is more.
    fn side(listers: &FakeListers) -> Side {
        let mut side = Side::new(listers);
        let service = json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"selector": {"app": "web"}}});
        side.set_service(&Object::from_value(&service, &[]));
        side
    }

    /// Nodes in these zones, with so many pods each.
    fn cluster(nodes: &[(&str, usize)]) -> Cluster {
        let mut cluster = Cluster::default();
        for (i, (zone, pods)) in nodes.iter().enumerate() {
            let name = format!("n{i}");
            cluster.set_node(node(&name, zone));
            (0..*pods).for_each(|k| cluster.place(pod(&format!("{name}-{k}"), "web", json!({})), &name, false));
        }
        cluster
    }

    fn list(hard: bool) -> DefaultSpread {
        let raw = raw::Spread {
            max_skew: 1,
            topology_key: ZONE.into(),
            when_unsatisfiable: if hard { "DoNotSchedule" } else { "ScheduleAnyway" }.into(),
            ..raw::Spread::default()
        };
        DefaultSpread::List([raw].into())
    }

    /// What the plugin says of all nodes: why it refuses each, and their scores.
    fn asked(cluster: &Cluster, default_spread: DefaultSpread) -> (Vec<Result<(), String>>, Option<Vec<i64>>) {
        let (side, newcomer, mut profile) =
            (side(&FakeListers::default()), pod("p", "web", json!({})), Profile::default());
        profile.args.default_spread = default_spread;
        let default_spread = side.default_spread(&newcomer, &profile.args.default_spread);
        let cx = Cycle { pod: &newcomer, cluster, side: &side, profile: &profile, default_spread };
        let why = |refusal: Refusal| refusal.reasons.as_slice().concat();
        let refusals = match PodTopologySpread.pre_filter(&cx) {
            PreFilter::Check(filter) => cluster.nodes().iter().map(|n| filter.check(n).map_err(why)).collect(),
            _ => Vec::new(),
        };
        let nodes: Vec<&NodeInfo> = cluster.nodes().iter().collect();
        (refusals, PodTopologySpread.score(&cx, &nodes))
    }

    #[test]
    fn nodes_without_a_zone_are_one_more_part() {
        let (_, scores) = asked(&cluster(&[("a", 3), ("b", 3), ("", 8)]), DefaultSpread::System);
        assert_eq!(scores, Some(vec![93, 93, 100]));
    }

    #[test]
    fn listed_defaults_refuse_or_score_as_they_say() {
        let (refusals, scores) = asked(&cluster(&[("a", 1), ("b", 0), ("", 0)]), list(true));
        let why = "node(s) didn't match pod topology spread constraints";
        assert_eq!(refusals, [Err(why.into()), Ok(()), Err(format!("{why} (missing required label)"))]);
        assert_eq!(scores, None);
        let (refusals, scores) = asked(&cluster(&[("a", 1), ("b", 0), ("", 0)]), list(false));
        assert_eq!((refusals.len(), scores), (0, Some(vec![0, 100, 0])), "a node without the label is not taken");
    }

    #[test_case("apps/v1", "ReplicaSet", json!({"matchLabels": {"tier": "x"}}), 2; "of a group that is known")]
    #[test_case("apps.example.com/v1", "ReplicaSet", json!({"matchLabels": {"tier": "x"}}), 1; "of another group")]
    #[test_case("apps/v1", "ReplicaSet", json!({"matchExpressions": [{"key": "a", "operator": "Near"}]}), 1; "not to be read")]
    fn pods_of_owners_are_spread(api_version: &str, kind: &str, selector: Value, want: usize) {
        let listers = FakeListers::default();
        let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "o", "namespace": "n"}, "spec": {"selector": selector}});
        listers.objects("apps", "replicasets").upsert(Arc::new(Object::from_value(&set, &[])));
        let constraints = side(&listers).default_spread(&owned(api_version, kind, "web"), &DefaultSpread::System);
        assert_eq!(constraints[0].selector.as_ref().unwrap().0.len(), want);
    }

    /// For a pod that spreads `app=web` over zones, and for one that was refused by the defaults.
    #[test_case(|| Event::NodeGone(node("x", "a").into()), [true, true]; "a node went")]
    #[test_case(|| Event::NodeGone(node("x", "").into()), [false, true]; "one that did not count went")]
    #[test_case(|| Event::Node(None, node("x", "a").into()), [true, true]; "a node came")]
    #[test_case(|| Event::Node(Some(node("x", "a").into()), node("x", "b").into()), [true, true]; "into another zone")]
    #[test_case(|| Event::Node(Some(node("x", "a").into()), node("y", "a").into()), [false, true]; "another label")]
    #[test_case(|| Event::PodPlaced(None, pod("x", "web", json!({}))), [true, true]; "a like one came")]
    #[test_case(|| Event::PodPlaced(None, pod("x", "db", json!({}))), [false, true]; "another came")]
    #[test_case(|| Event::PodPlaced(Some(pod("x", "db", json!({}))), pod("x", "web", json!({}))), [true, true]; "became a like one")]
    #[test_case(|| Event::PodPlaced(Some(pod("x", "web", json!({}))), going()), [false, false]; "is going")]
    #[test_case(|| Event::PodGone(going(), None), [true, true]; "is gone")]
    fn what_helps(event: fn() -> Event, want: [bool; 2]) {
        let over = json!([{"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]);
        let pods = [json!({"spec": {"topologySpreadConstraints": over}}), json!({})].map(|spec| pod("p", "web", spec));
        assert_eq!(pods.map(|pod| PodTopologySpread.wakes(&event(), &pod)), want);
    }

    fn going() -> Arc<PodInfo> {
        Arc::new(PodInfo { deleting: true, ..(*pod("x", "web", json!({}))).clone() })
    }
}
