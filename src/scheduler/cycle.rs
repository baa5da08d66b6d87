//! One pod, one decision: filter, score, choose; or why no node will do. Pure.
//!
//! Upstream: `scheduler/schedule_one`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::answers::{Answers, Tally};
use super::cluster::{Cluster, NodeInfo};
use super::framework::{Cycle, Filter, PreFilter, Reason, Refusal};
use super::plugins::devices;
use super::pod::PodInfo;
use super::scores::Kept;

/// So many nodes that fit are always looked for, where there are so many.
const MIN_FEASIBLE: usize = 100;
/// The smallest part of a large cluster that is looked at, in percent.
const MIN_PERCENT: usize = 5;

/// Who refuses a node, and why.
pub type Refused = (&'static str, Refusal);
/// What a node says to a pod: nothing, or who refuses it and why.
pub type Checked = Result<(), Refused>;

/// Pods that were promised a node for which others had to go, by node.
#[derive(Debug, Default)]
pub struct Nominated {
    /// Nodes whose promises changed.
    moved: HashSet<Box<str>>,
    by_node: HashMap<Box<str>, Vec<Arc<PodInfo>>>,
    of_pod: HashMap<Box<str>, Box<str>>,
}

impl Nominated {
    /// Promises a node to a pod, or (an empty name) takes the promise back.
    pub fn set(&mut self, pod: &Arc<PodInfo>, node: &str) {
        self.remove(&pod.uid);
        if !node.is_empty() {
            self.moved.insert(node.into());
            self.of_pod.insert(pod.uid.clone(), node.into());
            self.by_node.entry(node.into()).or_default().push(pod.clone());
        }
    }

    /// True when no pod was promised a node.
    pub fn is_empty(&self) -> bool {
        self.of_pod.is_empty()
    }

    /// Takes a promise back.
    pub fn remove(&mut self, uid: &str) {
        let Some(node) = self.of_pod.remove(uid) else { return };
        if let Some(pods) = self.by_node.get_mut(&node) {
            pods.retain(|p| *p.uid != *uid);
            if pods.is_empty() {
                self.by_node.remove(&node);
            }
        }
        self.moved.insert(node);
    }

    /// Nodes whose promises changed since this was asked last.
    pub fn take_moved(&mut self) -> HashSet<Box<str>> {
        std::mem::take(&mut self.moved)
    }

    /// The node that was promised to a pod.
    pub fn node_of(&self, uid: &str) -> Option<&str> {
        self.of_pod.get(uid).map(|n| &**n)
    }

    /// Whether somebody was promised each node, by its index; nothing at all where nobody was promised any.
    fn promised(&self, cluster: &Cluster) -> Vec<bool> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut out = vec![false; cluster.nodes().len()];
        for at in self.by_node.keys().filter_map(|name| cluster.index(name)) {
            out[at] = true;
        }
        out
    }

    /// Pods that were promised a node.
    pub fn on(&self, node: &str) -> &[Arc<PodInfo>] {
        self.by_node.get(node).map_or(&[], Vec::as_slice)
    }
}

/// No node fits.
#[derive(Debug, Default)]
pub struct NoFit {
    /// Nodes there are.
    pub total: usize,
    /// How many nodes gave a reason.
    pub reasons: BTreeMap<Reason, usize>,
    /// A plugin refused before it saw nodes.
    pub rejected: Option<String>,
    /// Something is wrong, with this message; nothing else counts.
    pub error: Option<String>,
    /// Who refused.
    pub by: Vec<&'static str>,
    /// Nodes that victims might help on, in their order.
    pub candidates: Vec<usize>,
    /// Nodes that would do, but for claims that have their devices elsewhere.
    pub elsewhere: Vec<usize>,
}

impl NoFit {
    /// As upstream says it, without what preemption adds.
    pub fn message(&self) -> String {
        if self.total == 0 {
            return "no nodes available to schedule pods".into();
        }
        let mut parts: Vec<String> = self.reasons.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        parts.sort();
        let why = self.rejected.clone().unwrap_or_else(|| parts.join(", "));
        format!("0/{} nodes are available: {why}.", self.total)
    }

    fn blame(&mut self, plugin: &'static str) {
        if !self.by.contains(&plugin) {
            self.by.push(plugin);
        }
    }
}

/// The checks that plugins want to do for one pod.
pub struct Checks<'a> {
    pod: &'a PodInfo,
    /// Percent of all nodes that are enough to fit; by their number where 0.
    percent: usize,
    /// All filters look at the pod and the node alone.
    alone: bool,
    filters: Vec<(&'static str, Box<dyn Filter + 'a>)>,
    only: Option<HashSet<String>>,
    only_by: Vec<&'static str>,
}

impl<'a> Checks<'a> {
    /// Asks each plugin. The error is the first that refuses all nodes, and what it says.
    pub fn new(cx: &'a Cycle<'a>) -> Result<Self, (&'static str, String)> {
        let percent = cx.profile.args.nodes_to_score;
        let mut out = Self { pod: cx.pod, percent, alone: true, filters: Vec::new(), only: None, only_by: Vec::new() };
        for plugin in cx.profile.rows.iter().filter(|r| r.filters).map(|r| r.plugin) {
            let asked = plugin.pre_filter(cx);
            out.alone &= matches!(asked, PreFilter::Skip) || plugin.checks_node_alone();
            match asked {
                PreFilter::Skip => {}
                PreFilter::Check(filter) => out.filters.push((plugin.name(), filter)),
                PreFilter::Only(names, filter) => {
                    out.filters.push((plugin.name(), filter));
                    out.only_by.push(plugin.name());
                    out.only = Some(match out.only {
                        Some(before) => before.intersection(&names).cloned().collect(),
                        None => names,
                    });
                }
                PreFilter::Reject(why) => return Err((plugin.name(), why)),
            }
        }
        Ok(out)
    }

    /// True where all filters look at the pod and the node alone.
    pub fn look_at_node_alone(&self) -> bool {
        self.alone && self.only.is_none()
    }

    /// The first refusal.
    pub fn check(&self, node: &NodeInfo) -> Checked {
        self.filters.iter().try_for_each(|(name, filter)| filter.check(node).map_err(|refusal| (*name, refusal)))
    }

    /// As if a pod came to the node (`sign` 1), or left it (-1).
    pub fn changed(&mut self, pod: &PodInfo, node: &NodeInfo, sign: i64) {
        for (_, filter) in &mut self.filters {
            filter.changed(pod, node, sign);
        }
    }

    /// Checks as if the pods that were promised the node and are no less important were there already; then also without
    /// them, because they may never come.
    pub fn check_promised(&mut self, node: &NodeInfo, nominated: &Nominated) -> Checked {
        if nominated.is_empty() {
            return self.check(node);
        }
        let own = self.pod;
        let counts = |p: &&Arc<PodInfo>| p.priority >= own.priority && p.uid != own.uid;
        let promised: Vec<_> = nominated.on(&node.name).iter().filter(counts).cloned().collect();
        if !promised.is_empty() {
            let mut with = node.clone();
            for pod in &promised {
                with.add(pod.clone());
                self.changed(pod, &with, 1);
            }
            let result = self.check(&with);
            for pod in promised.iter().rev() {
                with.remove(&pod.uid);
                self.changed(pod, &with, -1);
            }
            result?;
        }
        self.check(node)
    }

    /// Nodes that fit, by index, from the place `start` of their order on until enough are found; `start` is moved on for the
    /// next pod. Nodes are not asked again what they have answered.
    #[allow(clippy::result_large_err, reason = "made once for a pod, where it fits nowhere")]
    pub fn feasible(
        &mut self,
        cluster: &Cluster,
        nominated: &Nominated,
        answers: &mut Answers,
        start: &mut usize,
    ) -> Result<Vec<usize>, NoFit> {
        let nodes = cluster.nodes();
        let total = nodes.len();
        let first = if *start < total { *start } else { 0 };
        let (order, excluded) = self.order(cluster, first);
        // Where few nodes are asked each is looked up, else all at once.
        let promised = if answers.are_kept() { Vec::new() } else { nominated.promised(cluster) };
        let (enough, mut seen, mut found) = (enough(total - excluded, self.percent), 0, Vec::new());
        let (mut refused, mut candidates, mut elsewhere) = (Tally::default(), Vec::new(), Vec::new());
        // How many of the candidates come before the search starts again from the first.
        let mut before = 0;
        for (place, at) in order {
            seen += 1;
            let checked = answers.fits(cluster, at, || match promised.get(at) {
                Some(false) => self.check(&nodes[at]),
                _ => self.check_promised(&nodes[at], nominated),
            });
            let Err(number) = checked else {
                found.push(at);
                if found.len() == enough {
                    break;
                }
                continue;
            };
            refused.note(number);
            let (plugin, refusal) = answers.refused(number);
            if self.pod.wants_devices() && devices::is_elsewhere(plugin, refusal) {
                elsewhere.push(at);
            }
            if refusal.error {
                let error = refusal.reasons.as_slice().iter().map(|r| &**r).collect();
                return Err(NoFit { total, error: Some(error), ..NoFit::default() });
            }
            if !refusal.final_ {
                candidates.push(at);
                before += usize::from(place >= first);
            }
        }
        *start = if total == 0 { 0 } else { (first + seen) % total };
        if !found.is_empty() {
            return Ok(found);
        }
        // They came in their order, but for where it began.
        candidates.rotate_left(before);
        let mut no_fit = NoFit { total, reasons: answers.reasons(&refused), candidates, elsewhere, ..NoFit::default() };
        if excluded > 0 {
            let by = self.only_by.join(" ");
            *no_fit.reasons.entry(format!("node(s) didn't satisfy plugin(s) [{by}]").into()).or_default() += excluded;
        }
        answers.plugins(&refused).chain(self.only_by.iter().copied()).for_each(|plugin| no_fit.blame(plugin));
        Err(no_fit)
    }

    /// The nodes to look at from the place `start` of their order on, each with its place, and how many are not to be looked
    /// at.
    fn order<'c>(
        &self,
        cluster: &'c Cluster,
        start: usize,
    ) -> (Box<dyn Iterator<Item = (usize, usize)> + Send + 'c>, usize) {
        let total = cluster.nodes().len();
        let Some(only) = &self.only else {
            let (behind, ahead) = cluster.order().split_at(start);
            let ahead = ahead.iter().copied().enumerate().map(move |(i, at)| (start + i, at));
            let all = ahead.chain(behind.iter().copied().enumerate());
            return (Box::new(all), 0);
        };
        // These come in no order, as upstream: their index is as good a place as any.
        let mut some: Vec<usize> = only.iter().filter_map(|name| cluster.index(name)).collect();
        some.sort_unstable_by_key(|at| (at + total - start) % total);
        let excluded = total - some.len();
        (Box::new(some.into_iter().map(|at| (at, at))), excluded)
    }
}

/// How many nodes that fit are enough, of those that come into question. Upstream: `numFeasibleNodesToFind`.
fn enough(nodes: usize, percent: usize) -> usize {
    if nodes < MIN_FEASIBLE || percent >= 100 {
        return nodes;
    }
    let percent = if percent > 0 { percent } else { 50usize.saturating_sub(nodes / 125).max(MIN_PERCENT) };
    (nodes * percent / 100).max(MIN_FEASIBLE)
}

/// The best of the nodes that fit; among equals one by `random`, which gives a number below its argument.
pub fn best(cx: &Cycle<'_>, feasible: &[usize], kept: &mut Kept, random: impl Fn(usize) -> usize) -> usize {
    if let [only] = feasible {
        return *only;
    }
    let nodes: Vec<&NodeInfo> = feasible.iter().map(|at| &cx.cluster.nodes()[*at]).collect();
    let mut totals = kept.totals(cx, feasible);
    for row in cx.profile.rows.iter().filter(|r| r.weight > 0 && !r.plugin.scores_by_resources()) {
        for (total, score) in totals.iter_mut().zip(row.plugin.score(cx, &nodes).unwrap_or_default()) {
            *total += row.weight * score;
        }
    }
    let max = totals.iter().copied().max().unwrap_or(0);
    let winners: Vec<usize> = (0..totals.len()).filter(|i| totals[*i] == max).collect();
    feasible[winners[random(winners.len())]]
}
