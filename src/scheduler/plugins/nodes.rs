//! Rules about the node alone: its name, taints, labels, ports.

use std::collections::HashSet;

use super::super::cluster::NodeInfo;
use super::super::framework::{Cycle, Event, Filter, Plugin, PreFilter, Refusal, normalise};
use super::super::pod::{NodeTerm, PodInfo, Taint};
use crate::api::meta::labels::Op;

/// A check that is one function of pod and node.
struct Check<'a>(&'a PodInfo, fn(&PodInfo, &NodeInfo) -> Result<(), Refusal>);

impl Filter for Check<'_> {
    fn check(&self, node: &NodeInfo) -> Result<(), Refusal> {
        (self.1)(self.0, node)
    }
}

/// True for a node that is new, or whose `what` changed.
fn node_changed<T: PartialEq>(event: &Event, what: impl Fn(&NodeInfo) -> T) -> bool {
    matches!(event, Event::Node(old, new) if old.as_ref().is_none_or(|old| what(old) != what(new)))
}

/// Cordoned nodes are for those who tolerate it.
pub struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn pre_filter<'a>(&self, cx: &'a Cycle<'a>) -> PreFilter<'a> {
        let taint =
            Taint { key: "node.kubernetes.io/unschedulable".into(), value: "".into(), effect: "NoSchedule".into() };
        if cx.pod.tolerates(&taint) {
            return PreFilter::Skip;
        }
        PreFilter::Check(Box::new(Check(cx.pod, |_, node| match node.unschedulable {
            true => Err(Refusal::unresolvable("node(s) were unschedulable")),
            false => Ok(()),
        })))
    }

    fn checks_node_alone(&self) -> bool {
        true
    }

    fn wakes(&self, event: &Event, _pod: &PodInfo) -> bool {
        matches!(event, Event::Itself) || node_changed(event, |n| n.unschedulable)
    }
}

/// What a pod needs a node to be able to do, the node has to declare. Upstream: `plugins/nodedeclaredfeatures`.
pub struct NodeDeclaredFeatures;

impl Plugin for NodeDeclaredFeatures {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatures"
    }

    fn pre_filter<'a>(&self, cx: &'a Cycle<'a>) -> PreFilter<'a> {
        if cx.pod.features.is_empty() {
            return PreFilter::Skip;
        }
        PreFilter::Check(Box::new(Check(cx.pod, |pod, node| {
            match pod.features.iter().all(|f| node.features.iter().any(|has| has == f)) {
                true => Ok(()),
                false => Err(Refusal::unresolvable("node(s) didn't match Pod's required features")),
            }
        })))
    }

    fn wakes(&self, event: &Event, _pod: &PodInfo) -> bool {
        matches!(event, Event::Itself) || node_changed(event, |n| n.features.clone())
    }
}

/// A pod that names its node goes there or nowhere.
pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn pre_filter<'a>(&self, cx: &'a Cycle<'a>) -> PreFilter<'a> {
        if cx.pod.node.is_empty() {
            return PreFilter::Skip;
        }
        PreFilter::Check(Box::new(Check(cx.pod, |pod, node| match *pod.node == *node.name {
            true => Ok(()),
            false => Err(Refusal::unresolvable("node(s) didn't match the requested node name")),
        })))
    }

    fn checks_node_alone(&self) -> bool {
        true
    }

    fn wakes(&self, event: &Event, _pod: &PodInfo) -> bool {
        matches!(event, Event::Node(None, _))
    }
}

/// Taints keep pods away (NoSchedule, NoExecute) or make a node worse (PreferNoSchedule).
pub struct TaintToleration;

/// The first taint that keeps the pod away.
pub fn untolerated<'n>(pod: &PodInfo, node: &'n NodeInfo) -> Option<&'n Taint> {
    node.taints.iter().find(|t| matches!(&*t.effect, "NoSchedule" | "NoExecute") && !pod.tolerates(t))
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn pre_filter<'a>(&self, cx: &'a Cycle<'a>) -> PreFilter<'a> {
        PreFilter::Check(Box::new(Check(cx.pod, |pod, node| match untolerated(pod, node) {
            Some(_) => Err(Refusal::unresolvable("node(s) had untolerated taint(s)")),
            None => Ok(()),
        })))
    }

    fn score(&self, cx: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let counts = |t: &&Taint| {
            let mut prefer = cx.pod.tolerations.iter().filter(|t| matches!(&*t.effect, "" | "PreferNoSchedule"));
            &*t.effect == "PreferNoSchedule" && !prefer.any(|p| p.tolerates(t))
        };
        let mut scores: Vec<i64> = nodes.iter().map(|n| n.taints.iter().filter(counts).count() as i64).collect();
        normalise(&mut scores, true);
        Some(scores)
    }

    fn checks_node_alone(&self) -> bool {
        true
    }

    fn wakes(&self, event: &Event, pod: &PodInfo) -> bool {
        match event {
            Event::Itself => true,
            Event::Node(_, new) => node_changed(event, |n| n.taints.clone()) && untolerated(pod, new).is_none(),
            _ => false,
        }
    }
}

/// `nodeSelector` and node affinity.
pub struct NodeAffinity;

/// The node names that every term asks for; `None` where some term asks for none.
fn required_names(pod: &PodInfo) -> Option<HashSet<String>> {
    let terms = pod.node_required.as_ref()?;
    let mut names = HashSet::new();
    for term in terms {
        let mut of_term: Option<HashSet<String>> = None;
        for r in &term.names.0 {
            if let (Op::In(values), "metadata.name") = (&r.op, &*r.key) {
                let values: HashSet<String> = values.iter().cloned().collect();
                of_term = Some(match of_term {
                    Some(before) => before.intersection(&values).cloned().collect(),
                    None => values,
                });
            }
        }
        names.extend(of_term?);
    }
    (!terms.is_empty()).then_some(names)
}

/// Labels and names that the pod and its scheduler require.
struct Wanted<'a> {
    pod: &'a PodInfo,
    /// The scheduler's.
    added: Option<&'a [NodeTerm]>,
}

impl Filter for Wanted<'_> {
    fn check(&self, node: &NodeInfo) -> Result<(), Refusal> {
        if self.added.is_some_and(|terms| !terms.iter().any(|t| t.matches(&node.name, &node.labels))) {
            return Err(Refusal::unresolvable("node(s) didn't match scheduler-enforced node affinity"));
        }
        match self.pod.wants_node(&node.name, &node.labels) {
            true => Ok(()),
            false => Err(Refusal::unresolvable("node(s) didn't match Pod's node affinity/selector")),
        }
    }
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn pre_filter<'a>(&self, cx: &'a Cycle<'a>) -> PreFilter<'a> {
        let pod = cx.pod;
        let added = cx.profile.args.added_affinity.as_deref();
        if pod.node_selector.is_empty() && pod.node_required.is_none() && added.is_none() {
            return PreFilter::Skip;
        }
        let check = Box::new(Wanted { pod, added });
        match required_names(pod) {
            Some(names) if names.is_empty() => PreFilter::Reject("pod affinity terms conflict".into()),
            Some(names) => PreFilter::Only(names, check),
            None => PreFilter::Check(check),
        }
    }

    fn score(&self, cx: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        let (own, added) = (&cx.pod.node_preferred, &cx.profile.args.added_preferred);
        if own.is_empty() && added.is_empty() {
            return None;
        }
        let sum = |n: &&NodeInfo| {
            let matching = own.iter().chain(added).filter(|(_, t)| t.matches(&n.name, &n.labels));
            matching.map(|(weight, _)| weight).sum()
        };
        let mut scores: Vec<i64> = nodes.iter().map(sum).collect();
        normalise(&mut scores, false);
        Some(scores)
    }

    fn checks_node_alone(&self) -> bool {
        true
    }

    fn wakes(&self, event: &Event, pod: &PodInfo) -> bool {
        match event {
            Event::Itself => true,
            Event::Node(_, new) => node_changed(event, |n| n.labels.clone()) && pod.wants_node(&new.name, &new.labels),
            _ => false,
        }
    }
}

/// A port of the host is for one pod.
pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn pre_filter<'a>(&self, cx: &'a Cycle<'a>) -> PreFilter<'a> {
        if cx.pod.ports.is_empty() {
            return PreFilter::Skip;
        }
        PreFilter::Check(Box::new(Check(cx.pod, |pod, node| {
            match pod.ports.iter().any(|p| node.ports.iter().any(|o| p.conflicts(o))) {
                true => Err(Refusal::retry("node(s) didn't have free ports for the requested pod ports")),
                false => Ok(()),
            }
        })))
    }

    fn checks_node_alone(&self) -> bool {
        true
    }

    fn wakes(&self, event: &Event, pod: &PodInfo) -> bool {
        match event {
            Event::Node(None, _) => true,
            Event::PodGone(gone, _) => pod.ports.iter().any(|p| gone.ports.iter().any(|o| p.conflicts(o))),
            _ => false,
        }
    }
}
