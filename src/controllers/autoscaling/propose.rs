//! One metric of an autoscaler: asks for it, and says how many replicas it wants.

use serde_json::{Value, json};

use super::calc::{self, Input, Output};
use super::metrics::Metrics;
use crate::api::meta::labels::Selector;
use crate::api::meta::quantity::Quantity;
use crate::api::value::ValueExt;
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

const NO_TARGET: &str = "neither a value target nor an average value target was set";

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
    let cpu = name == "cpu";
    let (Output { replicas, usage, utilization }, called) = match (average, source.int_at("/target/averageUtilization"))
    {
        (Some(wanted), _) => {
            let out = figures.and_then(|f| calc::by_average(input, f, wanted, cpu)).map_err(say)?;
            (out, format!("{name} resource"))
        }
        (None, Some(percent)) => {
            let out = figures.and_then(|f| {
                let requests = calc::requests(input.pods, name, container)?;
                calc::by_utilization(input, f, &requests, percent, cpu)
            });
            (out.map_err(say)?, format!("{name} resource utilization (percentage of request)"))
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

/// One value, wanted as such or per pod; where it goes in the status.
fn valued(source: &Value, input: &Input<'_>, usage: i64) -> Result<(Output, &'static str), String> {
    match (target(source, "value"), target(source, "averageValue")) {
        (_, Some(wanted)) => Ok((calc::by_value_per_pod(input, usage, wanted), "averageValue")),
        (Some(wanted), None) => Ok((calc::by_value(input, usage, wanted)?, "value")),
        (None, None) => Err(NO_TARGET.to_owned()),
    }
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
    let failed = |why: String| Failed {
        reason: "FailedGetObjectMetric",
        told: format!("failed to get object metric value: failed to get {name} object metric: {why}"),
        why,
    };
    let unable =
        |e: String| failed(format!("unable to get metric {name}: {kind} on {} {object}/{e}", metrics.namespace));
    let own = selector_of(source).map_err(failed)?;
    let found = kinds.find(get("/describedObject/apiVersion"), kind).await.map_err(|e| unable(e.message.clone()))?;
    let Some(res) = found else { return Err(unable(format!("no matches for kind \"{kind}\""))) };
    let usage = metrics.object(name, &res, object, &own).await.map_err(unable)?;
    let (out, field) = valued(source, input, usage).map_err(failed)?;
    let status = json!({"type": "Object", "object": {"metric": source["metric"],
        "describedObject": source["describedObject"], "current": {field: amount(out.usage)}}});
    Ok(Proposal { replicas: out.replicas, name: format!("{kind} metric {name}"), status })
}

async fn external(metrics: &Metrics<'_>, source: &Value, input: &Input<'_>) -> Result<Proposal, Failed> {
    let name = source.str_at("/metric/name").unwrap_or_default();
    let failed = |why: String| Failed {
        reason: "FailedGetExternalMetric",
        told: format!("failed to get {name} external metric value: {why}"),
        why,
    };
    let selector = selector_of(source).map_err(failed)?;
    let usage = metrics.external(name, &selector).await;
    let usage = usage
        .map_err(|e| failed(format!("unable to get external metric {}/{name}/{selector}: {e}", metrics.namespace)))?;
    let (out, field) = valued(source, input, usage).map_err(failed)?;
    let status =
        json!({"type": "External", "external": {"metric": source["metric"], "current": {field: amount(out.usage)}}});
    Ok(Proposal { replicas: out.replicas, name: format!("external metric {name}"), status })
}
