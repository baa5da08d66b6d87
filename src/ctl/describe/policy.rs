//! Disruption budgets, autoscalers, quotas, limits, priority classes, requests for certificates.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use super::{Out, annotations, head, text, time};
use crate::api::value::ValueExt;
use crate::ctl::pods::selector_query;
use crate::util::order::Arrange;

/// Describes a disruption budget.
pub fn budget(out: &mut Out, budget: &Value) {
    out.field(0, "Name", text(&budget["metadata"]["name"]));
    out.field(0, "Namespace", text(&budget["metadata"]["namespace"]));
    for (title, key) in [("Min available", "minAvailable"), ("Max unavailable", "maxUnavailable")] {
        out.some(0, title, Some(&text(&budget["spec"][key])));
    }
    let selector = match &budget["spec"]["selector"] {
        Value::Null => "<unset>".to_owned(),
        selector => match selector_query(selector) {
            empty if empty.is_empty() => "<none>".to_owned(),
            text => text,
        },
    };
    out.field(0, "Selector", selector);
    out.line(0, "Status:");
    for (title, path) in [
        ("Allowed disruptions", "/status/disruptionsAllowed"),
        ("Current", "/status/currentHealthy"),
        ("Desired", "/status/desiredHealthy"),
        ("Total", "/status/expectedPods"),
    ] {
        out.field(2, title, budget.int_at(path).unwrap_or(0).to_string());
    }
}

/// Describes a priority class.
pub fn priority_class(out: &mut Out, class: &Value) {
    out.field(0, "Name", text(&class["metadata"]["name"]));
    out.field(0, "Value", class.int_at("/value").unwrap_or(0).to_string());
    out.field(0, "GlobalDefault", class.bool_at("/globalDefault").unwrap_or(false).to_string());
    out.field(0, "PreemptionPolicy", class.str_at("/preemptionPolicy").unwrap_or("PreemptLowerPriority"));
    out.field(0, "Description", text(&class["description"]));
    annotations(out, 0, class);
}

/// Describes a quota.
pub fn quota(out: &mut Out, quota: &Value) {
    out.field(0, "Name", text(&quota["metadata"]["name"]));
    out.field(0, "Namespace", text(&quota["metadata"]["namespace"]));
    let mut scopes: Vec<String> = quota.items_at("/spec/scopes").iter().map(text).collect();
    scopes.arrange();
    if !scopes.is_empty() {
        out.field(0, "Scopes", scopes.join(", "));
    }
    out.line(0, "Resource\tUsed\tHard");
    out.line(0, "--------\t----\t----");
    used(out, 0, quota);
}

/// What a quota grants and what is used of it.
pub fn used(out: &mut Out, level: usize, quota: &Value) {
    let mut names: Vec<(&String, &Value)> = quota["status"]["hard"].as_object().into_iter().flatten().collect();
    names.arrange_by(|a, b| a.0.cmp(b.0));
    for (name, hard) in names {
        let used = quota["status"]["used"].get(name).map(text).unwrap_or_else(|| "0".into());
        out.line(level, format!("{name}\t{used}\t{}", text(hard)));
    }
}

/// Describes a limit range.
pub fn limits(out: &mut Out, range: &Value) {
    out.field(0, "Name", text(&range["metadata"]["name"]));
    out.field(0, "Namespace", text(&range["metadata"]["namespace"]));
    table_of_limits(out, "", std::slice::from_ref(range));
}

/// The limits of ranges, a line for each resource.
pub fn table_of_limits(out: &mut Out, indent: &str, ranges: &[Value]) {
    let heads = "Type\tResource\tMin\tMax\tDefault Request\tDefault Limit\tMax Limit/Request Ratio";
    out.line(0, format!("{indent}{heads}"));
    let rules = "----\t--------\t---\t---\t---------------\t-------------\t-----------------------";
    out.line(0, format!("{indent}{rules}"));
    const COLUMNS: [&str; 5] = ["min", "max", "defaultRequest", "default", "maxLimitRequestRatio"];
    for limit in ranges.iter().flat_map(|r| r.items_at("/spec/limits")) {
        let mut names: Vec<&String> =
            COLUMNS.iter().filter_map(|c| limit[*c].as_object()).flat_map(serde_json::Map::keys).collect();
        names.arrange();
        names.dedup();
        for name in names {
            let cells = COLUMNS.map(|c| limit[c].get(name).map_or("-".to_owned(), text));
            out.line(0, format!("{indent}{}\t{name}\t{}", text(&limit["type"]), cells.join("\t")));
        }
    }
}

/// Describes an autoscaler.
pub fn autoscaler(out: &mut Out, scaler: &Value) {
    head(out, scaler);
    out.field(0, "CreationTimestamp", time(&text(&scaler["metadata"]["creationTimestamp"])));
    let target = &scaler["spec"]["scaleTargetRef"];
    out.field(0, "Reference", format!("{}/{}", text(&target["kind"]), text(&target["name"])));
    out.field(0, "Metrics", "( current / target )");
    for (i, metric) in scaler.items_at("/spec/metrics").iter().enumerate() {
        let current = scaler.items_at("/status/currentMetrics").get(i);
        measure(out, metric, current.unwrap_or(&Value::Null));
    }
    out.field(0, "Min replicas", scaler.int_at("/spec/minReplicas").map_or("<unset>".into(), |n| n.to_string()));
    out.field(0, "Max replicas", text(&scaler["spec"]["maxReplicas"]));
    if scaler["spec"]["behavior"].is_object() {
        out.line(0, "Behavior:");
        behavior(out, "Scale Up", &scaler["spec"]["behavior"]["scaleUp"]);
        behavior(out, "Scale Down", &scaler["spec"]["behavior"]["scaleDown"]);
    }
    let (is, wanted) = (scaler.int_at("/status/currentReplicas"), scaler.int_at("/status/desiredReplicas"));
    let counts = format!("{} current / {} desired", is.unwrap_or(0), wanted.unwrap_or(0));
    out.field(0, &format!("{} pods", text(&target["kind"])), counts);
    if !scaler.items_at("/status/conditions").is_empty() {
        out.line(0, "Conditions:\n  Type\tStatus\tReason\tMessage");
        out.line(1, "----\t------\t------\t-------");
        for c in scaler.items_at("/status/conditions") {
            let cells = ["type", "status", "reason", "message"].map(|f| text(&c[f]));
            out.line(1, cells.join("\t"));
        }
    }
}

/// How fast a scaler may go one way.
fn behavior(out: &mut Out, way: &str, rules: &Value) {
    if !rules.is_object() {
        return;
    }
    out.line(1, format!("{way}:"));
    if let Some(seconds) = rules.int_at("/stabilizationWindowSeconds") {
        out.line(2, format!("Stabilization Window: {seconds} seconds"));
    }
    if !rules.items_at("/policies").is_empty() {
        out.line(2, format!("Select Policy: {}", rules.str_at("/selectPolicy").unwrap_or("Max")));
        out.line(2, "Policies:");
        for policy in rules.items_at("/policies") {
            let [kind, value, period] = ["type", "value", "periodSeconds"].map(|f| text(&policy[f]));
            out.line(3, format!("- Type: {kind}\tValue: {value}\tPeriod: {period} seconds"));
        }
    }
}

/// A metric: what it is, what it measures now, and what it shall.
fn measure(out: &mut Out, metric: &Value, current: &Value) {
    let kind = metric.str_at("/type").unwrap_or_default();
    let field = match kind {
        "ContainerResource" => "containerResource",
        "Resource" => "resource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return out.line(1, format!("<unknown metric type {kind:?}>")),
    };
    let (of, now) = (&metric[field], &current[field]["current"]);
    let name = of.str_at("/name").or(of.str_at("/metric/name")).unwrap_or_default();
    let target = &of["target"];
    let shares = target["averageUtilization"].is_number();
    let title = match kind {
        "Resource" if shares => format!("resource {name} on pods  (as a percentage of request)"),
        "Resource" => format!("resource {name} on pods"),
        "ContainerResource" => format!("resource {name} of container {:?} on pods", text(&of["container"])),
        "Pods" => format!("{name:?} on pods"),
        "Object" => {
            let object = &of["describedObject"];
            format!("{name:?} on {}/{}", text(&object["kind"]), text(&object["name"]))
        }
        _ => format!("{name:?} (target {})", if target["averageValue"].is_null() { "value" } else { "average value" }),
    };
    let shown = if shares {
        let is = now.int_at("/averageUtilization").map(|n| format!("{n}% ({})", text(&now["averageValue"])));
        format!("{} / {}%", is.unwrap_or_else(|| "<unknown>".into()), text(&target["averageUtilization"]))
    } else {
        let key = if target["averageValue"].is_null() { "value" } else { "averageValue" };
        let is = text(&now[key]);
        format!("{} / {}", if is.is_empty() { "<unknown>" } else { &is }, text(&target[key]))
    };
    out.field(1, &title, shown);
}

/// Describes a request for a certificate.
pub fn certificate(out: &mut Out, request: &Value) {
    out.field(0, "Name", text(&request["metadata"]["name"]));
    out.pairs(0, "Labels", &request["metadata"]["labels"]);
    out.pairs(0, "Annotations", &request["metadata"]["annotations"]);
    out.field(0, "CreationTimestamp", time(&text(&request["metadata"]["creationTimestamp"])));
    out.field(0, "Requesting User", text(&request["spec"]["username"]));
    out.some(0, "Signer", request.str_at("/spec/signerName"));
    if let Some(seconds) = request.int_at("/spec/expirationSeconds") {
        out.field(0, "Requested Duration", crate::ctl::age::human(seconds));
    }
    let has = |kind: &str| request.items_at("/status/conditions").iter().any(|c| c["type"] == kind);
    let mut status = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    }
    .to_owned();
    if has("Failed") {
        status += ",Failed";
    }
    if request.str_at("/status/certificate").is_some_and(|c| !c.is_empty()) {
        status += ",Issued";
    }
    out.field(0, "Status", status);
    subject(out, request.str_at("/spec/request").unwrap_or_default());
}

fn subject(out: &mut Out, request: &str) {
    let pem = STANDARD.decode(request).unwrap_or_default();
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(&pem) else { return };
    let Ok((_, csr)) = X509CertificationRequest::from_der(&pem.contents) else { return };
    let info = &csr.certification_request_info;
    let texts = |found: Vec<&str>| found.join(", ");
    let name = &info.subject;
    let one = |iter: &mut dyn Iterator<Item = &x509_parser::x509::AttributeTypeAndValue<'_>>| {
        iter.next().and_then(|a| a.as_str().ok().map(str::to_owned)).unwrap_or_default()
    };
    out.line(0, "Subject:");
    out.line(1, format!("Common Name:\t{}", one(&mut name.iter_common_name())));
    out.line(1, "Serial Number:\t");
    for (title, found) in [
        ("Organization", texts(name.iter_organization().filter_map(|a| a.as_str().ok()).collect())),
        ("Organizational Unit", texts(name.iter_organizational_unit().filter_map(|a| a.as_str().ok()).collect())),
        ("Country", texts(name.iter_country().filter_map(|a| a.as_str().ok()).collect())),
        ("Locality", texts(name.iter_locality().filter_map(|a| a.as_str().ok()).collect())),
        ("Province", texts(name.iter_state_or_province().filter_map(|a| a.as_str().ok()).collect())),
    ] {
        out.some(1, title, Some(&found));
    }
}
