//! How many replicas one metric asks for. Pure.
//!
//! In: pods, what they use, and what is wanted. Numbers are in thousandths, as upstream counts. A pod that is not ready yet
//! counts as one that uses nothing where more are wanted, one without figures as one that uses all, or what is wanted where that
//! is more, where fewer are.
//! Upstream: `podautoscaler/replica_calculator`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::api::meta::quantity::Quantity;
use crate::api::usage;
use crate::api::value::ValueExt;
use crate::controllers::common::conditions;
use crate::controllers::common::pods::time;

/// So long after its start the CPU of a pod may be that of its start; upstream's
/// `--horizontal-pod-autoscaler-cpu-initialization-period`.
const INITIALISATION: SignedDuration = SignedDuration::from_secs(300);
/// A pod that became unready so soon after its start was never ready; upstream's
/// `--horizontal-pod-autoscaler-initial-readiness-delay`.
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);
/// Upstream's `--horizontal-pod-autoscaler-tolerance`.
const TOLERANCE: f64 = 0.1;

const NO_PODS: &str = "no pods returned by selector while calculating replica count";
const NO_FIGURES: &str = "did not receive metrics for targeted pods (pods might be unready)";

/// What a pod uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// Thousandths.
    pub value: i64,
    /// When it was measured.
    pub at: Option<Timestamp>,
    /// Over how long.
    pub window: SignedDuration,
}

impl Figure {
    fn of(value: i64) -> Self {
        Self { value, at: None, window: SignedDuration::ZERO }
    }
}

/// Figures by pod.
pub type Figures = BTreeMap<String, Figure>;

/// How far a ratio may be from 1 without anything happening.
#[derive(Debug, Clone, Copy)]
pub struct Tolerances {
    down: f64,
    up: f64,
}

impl Tolerances {
    /// Of an autoscaler: its own, or everybody's.
    pub fn of(spec: &Value) -> Self {
        let own = |at: &str| {
            let text = spec.str_at(at)?;
            Quantity::parse(text).ok().map(|q| q.nanos() as f64 / 1e9)
        };
        Self {
            down: own("/behavior/scaleDown/tolerance").unwrap_or(TOLERANCE),
            up: own("/behavior/scaleUp/tolerance").unwrap_or(TOLERANCE),
        }
    }

    fn allow(&self, ratio: f64) -> bool {
        (1.0 - self.down) <= ratio && ratio <= (1.0 + self.up)
    }
}

/// Everything a calculation looks at.
pub struct Input<'a> {
    /// `spec.replicas` of the target.
    pub replicas: i64,
    /// `status.replicas` of the target.
    pub running: i64,
    /// Pods of the target.
    pub pods: &'a [Value],
    /// See there.
    pub tolerances: Tolerances,
    /// The time.
    pub now: Timestamp,
}

/// What comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// So many are wanted.
    pub replicas: i64,
    /// What was measured, per pod where the target is; thousandths.
    pub usage: i64,
    /// The same in percent of what pods ask for.
    pub utilization: Option<i64>,
}

/// How pods count.
#[derive(Debug, Default)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    /// They go, or have failed.
    ignored: BTreeSet<String>,
}

fn group(input: &Input<'_>, figures: &Figures, cpu: bool) -> Groups {
    let mut out = Groups::default();
    for pod in input.pods {
        let name = pod.str_at("/metadata/name").unwrap_or_default().to_owned();
        let phase = pod.str_at("/status/phase").unwrap_or_default();
        if pod.get_at("/metadata/deletionTimestamp").is_some() || phase == "Failed" {
            out.ignored.insert(name);
        } else if phase == "Pending" {
            out.unready.insert(name);
        } else if let Some(figure) = figures.get(&name) {
            if cpu && is_starting(pod, figure, input.now) {
                out.unready.insert(name);
            } else {
                out.ready += 1;
            }
        } else {
            out.missing.insert(name);
        }
    }
    out
}

/// True while the CPU of a pod says nothing about the load.
fn is_starting(pod: &Value, figure: &Figure, now: Timestamp) -> bool {
    let ready = conditions::get(pod.items_at("/status/conditions"), "Ready");
    let (Some(ready), Some(started)) = (ready, time(pod.str_at("/status/startTime"))) else { return true };
    let unready = ready.str_at("/status") == Some("False");
    let since = time(ready.str_at("/lastTransitionTime")).unwrap_or(Timestamp::UNIX_EPOCH);
    if started + INITIALISATION > now {
        return unready || figure.at.is_none_or(|at| at < since + figure.window);
    }
    unready && started + INITIAL_READINESS > since
}

/// What pods ask for of a resource, by pod; of one container where it is named.
pub fn requests(pods: &[Value], resource: &str, container: Option<&str>) -> Result<BTreeMap<String, i64>, String> {
    let one = |pod: &Value| {
        let at_pod = pod.get_at("/spec/resources/requests").and_then(Value::as_object).is_some_and(|r| !r.is_empty());
        let asked =
            if at_pod && container.is_none() { of_all(pod, resource) } else { of_each(pod, resource, container) };
        Ok((pod.str_at("/metadata/name").unwrap_or_default().to_owned(), asked?))
    };
    pods.iter().map(one).collect()
}

/// What a pod asks for that asks for some of it at its own level.
fn of_all(pod: &Value, resource: &str) -> Result<i64, String> {
    let asked = usage::of_pod(pod, "requests").get(resource).map(|q| q.milli_value());
    let name = pod.str_at("/metadata/name").unwrap_or_default();
    asked.ok_or_else(|| format!("missing pod-level request for {resource} in Pod {name}"))
}

/// What the containers that stay ask for, each of which has to; or the one that is named.
fn of_each(pod: &Value, resource: &str, container: Option<&str>) -> Result<i64, String> {
    let milli = |v: &Value| v.as_str().and_then(|t| Quantity::parse(t).ok()).map(|q| q.milli_value());
    let name = pod.str_at("/metadata/name").unwrap_or_default();
    let sidecars = pod.items_at("/spec/initContainers").iter().filter(|c| c.str_at("/restartPolicy") == Some("Always"));
    let all = pod.items_at("/spec/containers").iter().chain(sidecars);
    let mut those = all.filter(|c| container.is_none_or(|wanted| c.str_at("/name") == Some(wanted))).peekable();
    if let (Some(wanted), None) = (container, those.peek()) {
        return Err(format!("container {wanted} not found in Pod {name}"));
    }
    let mut sum = 0;
    for c in those {
        let asked = c.get_at("/resources/requests").and_then(|r| r.get(resource)).and_then(milli);
        let of = c.str_at("/name").unwrap_or_default();
        sum += asked.ok_or_else(|| format!("missing request for {resource} in container {of} of Pod {name}"))?;
    }
    Ok(sum)
}

/// Measured against what pods ask for: ratio to the target, percent, and the average.
fn utilization(figures: &Figures, requests: &BTreeMap<String, i64>, target: i64) -> Result<(f64, i64, i64), String> {
    let (mut used, mut asked, mut count) = (0, 0, 0);
    for (name, figure) in figures {
        // A pod whose request is not known is not ours.
        let Some(request) = requests.get(name) else { continue };
        used += figure.value;
        asked += request;
        count += 1;
    }
    if asked == 0 {
        return Err("no metrics returned matched known pods".to_owned());
    }
    let percent = used * 100 / asked;
    Ok((percent as f64 / target as f64, percent, used / count))
}

/// Measured against a value per pod: ratio, and the average.
fn average(figures: &Figures, target: i64) -> (f64, i64) {
    let sum: i64 = figures.values().map(|f| f.value).sum();
    let average = sum / figures.len().max(1) as i64;
    (average as f64 / target as f64, average)
}

fn ceil(x: f64) -> i64 {
    x.ceil() as i64
}

/// What pods use of a resource, wanted as percent of what they ask for, or what one container of them does.
pub fn by_utilization(
    input: &Input<'_>,
    mut figures: Figures,
    resource: &str,
    container: Option<&str>,
    target: i64,
) -> Result<Output, String> {
    let groups = counted(input, &mut figures, resource == "cpu")?;
    let requests = requests(input.pods, resource, container)?;
    let mut first = None;
    let full = |name: &str| requests.get(name).copied().unwrap_or(0) * target.max(100) / 100;
    let replicas = by_ratio(input, figures, groups, full, |figures| {
        let (ratio, percent, usage) = utilization(figures, &requests, target)?;
        first.get_or_insert((percent, usage));
        Ok(ratio)
    })?;
    let (percent, usage) = first.unwrap_or_default();
    Ok(Output { replicas, usage, utilization: Some(percent) })
}

/// What pods use, wanted as a value for each.
pub fn by_average(input: &Input<'_>, mut figures: Figures, target: i64, cpu: bool) -> Result<Output, String> {
    let groups = counted(input, &mut figures, cpu)?;
    let mut first = None;
    let replicas = by_ratio(
        input,
        figures,
        groups,
        |_| target,
        |figures| {
            let (ratio, usage) = average(figures, target);
            first.get_or_insert(usage);
            Ok(ratio)
        },
    )?;
    Ok(Output { replicas, usage: first.unwrap_or_default(), utilization: None })
}

/// The pods by how they count, and only the figures of those that do.
fn counted(input: &Input<'_>, figures: &mut Figures, cpu: bool) -> Result<Groups, String> {
    if input.pods.is_empty() {
        return Err(NO_PODS.to_owned());
    }
    let groups = group(input, figures, cpu);
    figures.retain(|name, _| !groups.unready.contains(name) && !groups.ignored.contains(name));
    if figures.is_empty() { Err(NO_FIGURES.to_owned()) } else { Ok(groups) }
}

/// The common way: `full` is what a pod without figures is taken to use where fewer are wanted.
fn by_ratio(
    input: &Input<'_>,
    mut figures: Figures,
    groups: Groups,
    full: impl Fn(&str) -> i64,
    mut ratio_of: impl FnMut(&Figures) -> Result<f64, String>,
) -> Result<i64, String> {
    let ratio = ratio_of(&figures)?;
    let unready_count = !groups.unready.is_empty() && ratio > 1.0;
    if !unready_count && groups.missing.is_empty() {
        let same = input.tolerances.allow(ratio);
        return Ok(if same { input.replicas } else { ceil(ratio * groups.ready as f64) });
    }
    for name in groups.missing {
        let value = match ratio {
            fewer if fewer < 1.0 => full(&name),
            more if more > 1.0 => 0,
            // Nothing is made up where all is exactly as wanted.
            _ => continue,
        };
        figures.insert(name, Figure::of(value));
    }
    if unready_count {
        figures.extend(groups.unready.into_iter().map(|name| (name, Figure::of(0))));
    }
    let new = ratio_of(&figures)?;
    let turned = (ratio < 1.0 && new > 1.0) || (ratio > 1.0 && new < 1.0);
    let replicas = ceil(new * figures.len() as f64);
    let against = (new < 1.0 && replicas > input.replicas) || (new > 1.0 && replicas < input.replicas);
    Ok(if input.tolerances.allow(new) || turned || against { input.replicas } else { replicas })
}

/// One value for all, wanted as such.
pub fn by_value(input: &Input<'_>, usage: i64, target: i64) -> Result<Output, String> {
    let ratio = usage as f64 / target as f64;
    let replicas = match input.replicas {
        0 => ceil(ratio),
        same if input.tolerances.allow(ratio) => same,
        _ if input.pods.is_empty() => return Err(format!("unable to calculate ready pods: {NO_PODS}")),
        _ => {
            let ready = |pod: &&Value| {
                pod.str_at("/status/phase") == Some("Running")
                    && conditions::is_true(pod.items_at("/status/conditions"), "Ready")
            };
            ceil(ratio * input.pods.iter().filter(ready).count() as f64)
        }
    };
    Ok(Output { replicas, usage, utilization: None })
}

/// One value for all, wanted as a part for each pod.
pub fn by_value_per_pod(input: &Input<'_>, usage: i64, target: i64) -> Output {
    let ratio = usage as f64 / (target as f64 * input.running as f64);
    let replicas = match input.tolerances.allow(ratio) {
        true => input.running,
        false => ceil(usage as f64 / target as f64),
    };
    let each = if input.running == 0 { usage } else { ceil(usage as f64 / input.running as f64) };
    Output { replicas, usage: each, utilization: None }
}
