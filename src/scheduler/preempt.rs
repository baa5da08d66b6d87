//! Which pods have to go so that a more important one finds room. Pure.
//!
//! Upstream: `plugins/defaultpreemption` and `framework/preemption`.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::answers::{Answers, Tally};
use super::cluster::NodeInfo;
use super::cycle::{Checks, NoFit, Nominated, Refused};
use super::framework::{Cycle, Refusal};
use super::pod::{PodInfo, label};
use crate::api::meta::labels::Selector;
use crate::api::object::Object;
use crate::api::value::ValueExt;

/// The plugin's name, as upstream has it.
pub const NAME: &str = "DefaultPreemption";

/// What is said where a plugin refused all nodes before it saw them.
pub fn no_help(pod: &PodInfo, nodes: usize) -> NoPlan {
    if !pod.preempts {
        return never();
    }
    let reasons = BTreeMap::from([(NOT_HELPFUL.into(), nodes)]);
    NoPlan { message: NoFit { total: nodes, reasons, ..NoFit::default() }.message(), withdraw: true }
}

/// What is said for a pod that sends nobody away.
fn never() -> NoPlan {
    NoPlan { message: "not eligible due to preemptionPolicy=Never.".into(), withdraw: false }
}

const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";

/// Who has to go, and from where.
#[derive(Debug)]
pub struct Plan {
    /// The node, by index.
    pub node: usize,
    /// The pods to delete, the most important first.
    pub victims: Vec<Arc<PodInfo>>,
    cost: Cost,
}

/// What the victims of a node cost; less is better: broken budgets, the most important one, all their importance, their
/// number, and how long the most important has been running.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    violations: usize,
    highest: i64,
    sum: i64,
    number: usize,
    earliest: Reverse<Box<str>>,
}

impl Cost {
    /// Of victims, the most important first; budgets protect some of them.
    fn of(victims: &[Arc<PodInfo>], violations: usize) -> Self {
        let highest = victims.first().map_or(i64::from(i32::MIN), |p| i64::from(p.priority));
        let shifted = |p: &Arc<PodInfo>| i64::from(p.priority) + i64::from(i32::MAX) + 1;
        let earliest = victims.iter().filter(|p| i64::from(p.priority) == highest).map(|p| started(p)).min();
        Self {
            violations,
            highest,
            sum: victims.iter().map(shifted).sum(),
            number: victims.len(),
            earliest: Reverse(earliest.unwrap_or_default().into()),
        }
    }
}

/// How many pods of a kind may still be disrupted.
#[derive(Debug)]
struct Budget {
    namespace: String,
    selector: Selector,
    allowed: i64,
    disrupted: Vec<String>,
}

impl Budget {
    fn new(object: &Object) -> Option<Self> {
        let value = object.value();
        let selector = Selector::from_label_selector(value.get_at("/spec/selector")?).ok()?;
        let disrupted = value.get_at("/status/disruptedPods").and_then(Value::as_object);
        Some(Self {
            namespace: object.meta.namespace.clone(),
            // An empty selector means no pod here, though it means all of them elsewhere.
            selector: (!selector.is_empty()).then_some(selector)?,
            allowed: value.int_at("/status/disruptionsAllowed").unwrap_or(0),
            disrupted: disrupted.into_iter().flatten().map(|(name, _)| name.clone()).collect(),
        })
    }

    fn protects(&self, pod: &PodInfo) -> bool {
        *self.namespace == *pod.namespace
            // Upstream looks for no budget of a pod without labels, though a selector may mean it.
            && !pod.labels.is_empty()
            && self.selector.matches(|k| label(&pod.labels, k))
            && !self.disrupted.iter().any(|name| **name == *pod.name)
    }
}

/// Nobody goes.
#[derive(Debug)]
pub struct NoPlan {
    /// The end of the message that says why.
    pub message: String,
    /// A node that was promised before is of no use any more.
    pub withdraw: bool,
}

/// Chooses a node and its victims for a pod that fits nowhere. Nodes are not asked again what they have answered, unless
/// there are budgets, which change without them.
pub fn plan(
    cx: &Cycle<'_>,
    checks: &mut Checks<'_>,
    nominated: &Nominated,
    answers: &mut Answers,
    no_fit: &NoFit,
) -> Result<Arc<Plan>, NoPlan> {
    let nodes = cx.cluster.nodes();
    if !cx.pod.preempts {
        return Err(never());
    }
    if is_waiting_for_victims(cx, nominated, no_fit) {
        let message = "not eligible due to a terminating pod on the nominated node.".into();
        return Err(NoPlan { message, withdraw: false });
    }
    let budgets: Vec<Budget> = cx.side.budgets.list(None).iter().filter_map(|o| Budget::new(o)).collect();
    let args = &cx.profile.args;
    let enough = (nodes.len() * args.min_candidates_percent / 100).max(args.min_candidates);
    let (mut refused, mut plans, mut harmless) = (Tally::default(), Vec::new(), false);
    for at in &no_fit.candidates {
        let ask = || victims_on(cx.pod, checks, nominated, *at, &nodes[*at], &budgets).map(Arc::new);
        match answers.plan(cx.cluster, *at, budgets.is_empty(), ask) {
            Ok(plan) => {
                harmless |= plan.cost.violations == 0;
                plans.push(plan);
            }
            Err(number) => refused.note(number),
        }
        // Of those that break budgets there may be any number: one that breaks none is better than all of them.
        if plans.len() >= enough && harmless {
            break;
        }
    }
    if let Some(best) = plans.into_iter().min_by(|a, b| a.cost.cmp(&b.cost)) {
        return Ok(best);
    }
    let mut reasons = answers.reasons(&refused);
    let hopeless = nodes.len() - no_fit.candidates.len();
    if hopeless > 0 {
        reasons.insert(NOT_HELPFUL.into(), hopeless);
    }
    let message = NoFit { total: nodes.len(), reasons, ..NoFit::default() }.message();
    Err(NoPlan { message, withdraw: true })
}

/// True while pods leave the node that was promised to this one.
fn is_waiting_for_victims(cx: &Cycle<'_>, nominated: &Nominated, no_fit: &NoFit) -> bool {
    let Some(name) = nominated.node_of(&cx.pod.uid) else { return false };
    let Some(at) = cx.cluster.index(name) else { return false };
    // Where victims cannot help any more there is no use in waiting for them.
    let pods = &cx.cluster.nodes()[at].pods;
    no_fit.candidates.binary_search(&at).is_ok() && pods.iter().any(|p| p.preempted && p.priority < cx.pod.priority)
}

fn started(pod: &PodInfo) -> &str {
    // Not started yet is later than any time.
    if pod.started.is_empty() { "~" } else { &pod.started }
}

/// The most important first.
fn by_importance(a: &Arc<PodInfo>, b: &Arc<PodInfo>) -> Ordering {
    b.priority.cmp(&a.priority).then_with(|| started(a).cmp(started(b)))
}

/// The fewest victims on one node, or why there are none.
fn victims_on(
    pod: &PodInfo,
    checks: &mut Checks<'_>,
    nominated: &Nominated,
    at: usize,
    node: &NodeInfo,
    budgets: &[Budget],
) -> Result<Plan, Refused> {
    let mut candidates: Vec<Arc<PodInfo>> = node.pods.iter().filter(|p| p.priority < pod.priority).cloned().collect();
    if candidates.is_empty() {
        return Err((NAME, Refusal::retry(NO_VICTIMS)));
    }
    candidates.sort_by(by_importance);
    let mut without = node.clone();
    for victim in &candidates {
        without.remove(&victim.uid);
        checks.changed(victim, &without, -1);
    }
    let (protected, free) = split(&candidates, budgets);
    let (mut victims, mut violations) = (Vec::new(), 0);
    let fits = checks.check_promised(&without, nominated);
    if fits.is_ok() {
        // As many as possible are spared, first those that a budget protects.
        for (spare, is_protected) in protected.iter().map(|p| (p, true)).chain(free.iter().map(|p| (p, false))) {
            without.add(spare.clone());
            checks.changed(spare, &without, 1);
            if checks.check_promised(&without, nominated).is_err() {
                without.remove(&spare.uid);
                checks.changed(spare, &without, -1);
                victims.push(spare.clone());
                violations += usize::from(is_protected);
            }
        }
    }
    // Everything as it was, for the next node.
    for back in candidates.iter().filter(|p| !without.pods.iter().any(|o| o.uid == p.uid)).cloned().collect::<Vec<_>>()
    {
        without.add(back.clone());
        checks.changed(&back, &without, 1);
    }
    fits?;
    victims.sort_by(by_importance);
    Ok(Plan { node: at, cost: Cost::of(&victims, violations), victims })
}

/// Those whose going a budget forbids, and the others.
fn split(pods: &[Arc<PodInfo>], budgets: &[Budget]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut left: Vec<i64> = budgets.iter().map(|b| b.allowed).collect();
    pods.iter().cloned().partition(|pod| {
        let mut forbidden = false;
        for (_, left) in budgets.iter().zip(&mut left).filter(|(b, _)| b.protects(pod)) {
            *left -= 1;
            forbidden |= *left < 0;
        }
        forbidden
    })
}
