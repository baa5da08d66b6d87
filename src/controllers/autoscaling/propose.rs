//! One metric of an autoscaler: asks for it, and says how many replicas it wants.

use serde_json::{Value, json};

use super::calc::{self, Input, Output};
use super::metrics::Metrics;
use crate::api::meta::gvk;
use crate::api::meta::labels::{Selector, go_text};
use crate::api::meta::quantity::Quantity;
use crate::api::value::ValueExt;
use crate::client::Res;
use crate::controllers::common::discovery::Kinds;

/// What a metric wants.
#[derive(Debug)]
pub struct Proposal {
    /// So many replicas.
    pub replicas: i64,
    /// What it is called where it decides.
    pub name: String,
    /// Its entry in `status.currentMetrics`.
    pub status: Value,
}

/// Why it wants nothing.
#[derive(Debug)]
pub struct Failed {
    /// Reason of the condition and the event.
    pub reason: &'static str,
    /// What they say.
    pub why: String,
    /// What is said of it among all metrics.
    pub told: String,
}

fn target(source: &Value, field: &str) -> Option<i64> {
    let text = source.get("target")?.get(field)?.as_str()?;
    Quantity::parse(text).ok().map(|q| q.milli_value())
}

fn amount(milli: i64) -> Value {
    Quantity::milli(milli).to_string().into()
}

fn selector_of(source: &Value) -> Result<String, String> {
    match source.get_at("/metric/selector") {
        Some(selector) => Selector::from_label_selector(selector).map(|s| s.to_string()).map_err(|e| e.to_string()),
        None => Ok(String::new()),
    }
}

/// What `metric`, an entry of `spec.metrics`, wants. `selector` is the target's, as a query.
pub async fn propose(
    metrics: &Metrics<'_>,
    kinds: &mut Kinds<'_>,
    metric: &Value,
    input: &Input<'_>,
    selector: &str,
) -> Result<Proposal, Failed> {
    let kind = metric.str_at("/type").unwrap_or_default();
    let none = Value::Null;
    let of = |field: &str| metric.get(field).unwrap_or(&none);
    match kind {
        "Resource" => resource(metrics, of("resource"), None, input, selector).await,
        "ContainerResource" => {
            let source = of("containerResource");
            resource(metrics, source, source.str_at("/container"), input, selector).await
        }
        "Pods" => pods(metrics, of("pods"), input, selector).await,
        "Object" => object(metrics, kinds, of("object"), input).await,
        "External" => external(metrics, of("external"), input).await,
        other => {
            let why = format!("unknown metric source type \"{other}\"");
            Err(Failed { reason: "InvalidMetricSourceType", told: why.clone(), why })
        }
    }
}

async fn resource(
    metrics: &Metrics<'_>,
    source: &Value,
    container: Option<&str>,
    input: &Input<'_>,
    selector: &str,
) -> Result<Proposal, Failed> {
    let name = source.str_at("/name").unwrap_or_default();
    let (reason, whose) = match container {
        Some(container) => ("FailedGetContainerResourceMetric", format!("{container} container")),
        None => ("FailedGetResourceMetric", format!("{name} resource")),
    };
    let failed = |why: String| Failed { reason, told: format!("failed to get {whose} metric value: {why}"), why };
    let figures = metrics.resource(name, container, selector).await;
    let figures = figures.map_err(|e| format!("unable to get metrics for resource {name}: {e}"));
    let average = target(source, "averageValue");
    let what = if average.is_some() { "usage" } else { "utilization" };
    let say = |why: String| failed(format!("failed to get {name} {what}: {why}"));
    let (Output { replicas, usage, utilization }, called) = match (average, source.int_at("/target/averageUtilization"))
    {
        (Some(wanted), _) => {
            let out = figures.and_then(|f| calc::by_average(input, f, wanted, name == "cpu")).map_err(say)?;
            (out, format!("{name} resource"))
        }
        (None, Some(percent)) => {
            let out = figures.and_then(|f| calc::by_utilization(input, f, name, container, percent));
            let whose = if container.is_some() { "container resource" } else { "resource" };
            (out.map_err(say)?, format!("{name} {whose} utilization (percentage of request)"))
        }
        (None, None) => {
            let why = "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set";
            return Err(failed(why.to_owned()));
        }
    };
    let mut current = json!({"averageValue": amount(usage)});
    if let Some(percent) = utilization {
        current["averageUtilization"] = percent.into();
    }
    let status = match container {
        Some(container) => json!({"type": "ContainerResource",
            "containerResource": {"name": name, "container": container, "current": current}}),
        None => json!({"type": "Resource", "resource": {"name": name, "current": current}}),
    };
    Ok(Proposal { replicas, name: called, status })
}

async fn pods(metrics: &Metrics<'_>, source: &Value, input: &Input<'_>, selector: &str) -> Result<Proposal, Failed> {
    let name = source.str_at("/metric/name").unwrap_or_default();
    let failed = |why: String| Failed {
        reason: "FailedGetPodsMetric",
        told: format!("failed to get pods metric value: {why}"),
        why,
    };
    let own = selector_of(source).map_err(failed)?;
    let figures = metrics.pods(name, selector, &own).await;
    let figures = figures.map_err(|e| failed(format!("unable to get metric {name}: {e}")))?;
    let wanted = target(source, "averageValue").unwrap_or_default();
    let out = calc::by_average(input, figures, wanted, false).map_err(failed)?;
    let status = json!({"type": "Pods",
        "pods": {"metric": source["metric"], "current": {"averageValue": amount(out.usage)}}});
    Ok(Proposal { replicas: out.replicas, name: format!("pods metric {name}"), status })
}

/// How one value is wanted.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    /// As such.
    Value(i64),
    /// As a part for each pod.
    PerPod(i64),
}

impl Wanted {
    fn decide(self, input: &Input<'_>, usage: i64) -> Result<Output, String> {
        match self {
            Self::Value(wanted) => calc::by_value(input, usage, wanted),
            Self::PerPod(wanted) => Ok(calc::by_value_per_pod(input, usage, wanted)),
        }
    }

    /// What was measured, for the status.
    fn current(self, out: &Output) -> Value {
        match self {
            Self::Value(_) => json!({"value": amount(out.usage)}),
            Self::PerPod(_) => json!({"averageValue": amount(out.usage)}),
        }
    }
}

/// What upstream calls a metric of anything but pods where it decides, with its selector as Go prints it.
fn outside(source: &Value) -> String {
    let name = source.str_at("/metric/name").unwrap_or_default();
    format!("external metric {name}({})", go_text(&source["metric"]["selector"]))
}

async fn object(
    metrics: &Metrics<'_>,
    kinds: &mut Kinds<'_>,
    source: &Value,
    input: &Input<'_>,
) -> Result<Proposal, Failed> {
    let name = source.str_at("/metric/name").unwrap_or_default();
    let get = |at: &str| source.str_at(at).unwrap_or_default();
    let (kind, object) = (get("/describedObject/kind"), get("/describedObject/name"));
    let failed = |within: &str, why: String| Failed {
        reason: "FailedGetObjectMetric",
        told: format!("failed to get object metric value: {within}{why}"),
        why,
    };
    let own = selector_of(source).map_err(|e| failed("", e))?;
    let wanted = match (get("/target/type"), target(source, "value"), target(source, "averageValue")) {
        ("Value", Some(wanted), _) => Wanted::Value(wanted),
        ("AverageValue", _, Some(wanted)) => Wanted::PerPod(wanted),
        _ => {
            let why = "invalid object metric source: neither a value target nor an average value target was set";
            return Err(failed("", why.to_owned()));
        }
    };
    let usage = match named(kinds, get("/describedObject/apiVersion"), kind).await {
        Ok(res) => metrics.object(name, &res, object, &own).await,
        Err(why) => Err(format!("unable to fetch metrics from custom metrics API: {why}")),
    };
    let usage = usage.map_err(|e| format!("unable to get metric {name}: {kind} on {} {object}/{e}", metrics.namespace));
    let within = match wanted {
        Wanted::Value(_) => String::new(),
        Wanted::PerPod(_) => format!("failed to get {name} object metric: "),
    };
    let out = usage.and_then(|usage| wanted.decide(input, usage)).map_err(|e| failed(&within, e))?;
    // Upstream names the object only where the value is wanted as such.
    let (called, described) = match wanted {
        Wanted::Value(_) => (format!("{kind} metric {name}"), source["describedObject"].clone()),
        Wanted::PerPod(_) => (outside(source), json!({"kind": "", "name": ""})),
    };
    let status = json!({"type": "Object", "object": {"metric": source["metric"],
        "describedObject": described, "current": wanted.current(&out)}});
    Ok(Proposal { replicas: out.replicas, name: called, status })
}

/// The resource of a kind that an autoscaler names.
async fn named(kinds: &mut Kinds<'_>, api_version: &str, kind: &str) -> Result<Res, String> {
    let (group, _) = gvk::split(api_version);
    let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
    let found = kinds.find_in_group(api_version, kind).await.map_err(|e| e.message.clone());
    let found = found.and_then(|res| res.ok_or_else(|| no_match(api_version, kind)));
    found.map_err(|e| format!("unable to map kind {qualified} to resource: {e}"))
}

/// Nobody knows the kind, in any version of its group.
pub fn no_match(api_version: &str, kind: &str) -> String {
    format!("no matches for kind \"{kind}\" in group \"{}\"", gvk::split(api_version).0)
}

async fn external(metrics: &Metrics<'_>, source: &Value, input: &Input<'_>) -> Result<Proposal, Failed> {
    let name = source.str_at("/metric/name").unwrap_or_default();
    let failed = |within: &str, why: String| Failed {
        reason: "FailedGetExternalMetric",
        told: format!("failed to get {name} external metric value: {within}{why}"),
        why,
    };
    let (wanted, within) = match (target(source, "averageValue"), target(source, "value")) {
        (Some(wanted), _) => (Wanted::PerPod(wanted), format!("failed to get {name} external metric: ")),
        (None, Some(wanted)) => (Wanted::Value(wanted), format!("failed to get external metric {name}: ")),
        (None, None) => {
            let why = "invalid external metric source: neither a value target nor an average value target was set";
            return Err(failed("", why.to_owned()));
        }
    };
    let selector = selector_of(source).map_err(|e| failed(&within, e))?;
    let usage = metrics.external(name, &selector).await.map_err(|e| {
        let selector = go_text(&source["metric"]["selector"]);
        format!("unable to get external metric {}/{name}/{selector}: {e}", metrics.namespace)
    });
    let out = usage.and_then(|usage| wanted.decide(input, usage)).map_err(|e| failed(&within, e))?;
    let status = json!({"type": "External", "external": {"metric": source["metric"], "current": wanted.current(&out)}});
    Ok(Proposal { replicas: out.replicas, name: outside(source), status })
}
