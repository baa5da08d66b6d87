//! Nodes: what they have, what runs on them, and how much of it is promised.

use serde_json::Value;

use super::{Out, annotations, text, time};
use crate::api::meta::quantity::Quantity;
use crate::api::value::ValueExt;
use crate::client::res::{LEASES, PODS};
use crate::ctl::age;
use crate::ctl::cx::{Cx, Done};
use crate::ctl::fail::Failure;
use crate::util::order::Arrange;

/// Describes a node.
pub async fn describe(cx: &Cx, out: &mut Out, node: &Value) -> Done {
    let name = node.str_at("/metadata/name").unwrap_or_default();
    out.field(0, "Name", name);
    out.field(0, "Roles", roles(node));
    out.map(0, "Labels", &node["metadata"]["labels"], "=");
    annotations(out, 0, node);
    out.field(0, "CreationTimestamp", time(&text(&node["metadata"]["creationTimestamp"])));
    taints(out, node);
    out.field(0, "Unschedulable", (node["spec"]["unschedulable"] == true).to_string());
    match cx.get(&LEASES, "kube-node-lease", name).await {
        Err(Failure::Server { status, .. }) => {
            out.field(0, "Lease", format!("Failed to get lease: {}", status.message));
        }
        Err(other) => return Err(other),
        Ok(lease) => {
            out.line(0, "Lease:");
            out.field(1, "HolderIdentity", text(&lease["spec"]["holderIdentity"]));
            out.field(1, "AcquireTime", lease.str_at("/spec/acquireTime").map_or("<unset>".into(), time));
            out.field(1, "RenewTime", lease.str_at("/spec/renewTime").map_or("<unset>".into(), time));
        }
    }
    let conditions = node.items_at("/status/conditions");
    if !conditions.is_empty() {
        out.line(0, "Conditions:\n  Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage");
        out.line(1, "----\t------\t-----------------\t------------------\t------\t-------");
    }
    for c in conditions {
        let (heard, since) = (time(&text(&c["lastHeartbeatTime"])), time(&text(&c["lastTransitionTime"])));
        out.line(
            1,
            format!(
                "{} \t{} \t{heard} \t{since} \t{} \t{}",
                text(&c["type"]),
                text(&c["status"]),
                text(&c["reason"]),
                text(&c["message"])
            ),
        );
    }
    out.line(0, "Addresses:");
    node.items_at("/status/addresses").iter().for_each(|a| out.field(1, &text(&a["type"]), text(&a["address"])));
    for (title, path) in [("Capacity", "/status/capacity"), ("Allocatable", "/status/allocatable")] {
        let mut pairs: Vec<_> = node.get_at(path).and_then(Value::as_object).into_iter().flatten().collect();
        if pairs.is_empty() {
            continue;
        }
        out.line(0, format!("{title}:"));
        pairs.arrange_by(|a, b| a.0.cmp(b.0));
        pairs.into_iter().for_each(|(k, v)| out.field(1, k, text(v)));
    }
    out.line(0, "System Info:");
    for (title, field) in [
        ("Machine ID", "machineID"),
        ("System UUID", "systemUUID"),
        ("Boot ID", "bootID"),
        ("Kernel Version", "kernelVersion"),
        ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"),
        ("Architecture", "architecture"),
        ("Container Runtime Version", "containerRuntimeVersion"),
        ("Kubelet Version", "kubeletVersion"),
        ("Kube-Proxy Version", "kubeProxyVersion"),
    ] {
        out.field(1, title, text(&node["status"]["nodeInfo"][field]));
    }
    out.some(0, "PodCIDR", node.str_at("/spec/podCIDR"));
    let cidrs: Vec<String> = node.items_at("/spec/podCIDRs").iter().map(text).collect();
    out.some(0, "PodCIDRs", Some(&cidrs.join(",")));
    out.some(0, "ProviderID", node.str_at("/spec/providerID"));
    let fields = format!("spec.nodeName={name},status.phase!=Succeeded,status.phase!=Failed");
    let pods = cx.items(&PODS, "", "", &fields).await?;
    promised(out, node, &pods);
    Ok(())
}

fn roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object();
    let mut roles: Vec<String> = Vec::new();
    for (key, value) in labels.into_iter().flatten() {
        match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => roles.push(role.to_owned()),
            _ if key == "kubernetes.io/role" => roles.push(text(value)),
            _ => {}
        }
    }
    roles.arrange();
    if roles.is_empty() { "<none>".into() } else { roles.join(",") }
}

fn taints(out: &mut Out, node: &Value) {
    let mut all = node.items_at("/spec/taints").iter().map(|t| {
        let value = t.str_at("/value").filter(|v| !v.is_empty()).map_or(String::new(), |v| format!("={v}"));
        format!("{}{value}:{}", text(&t["key"]), text(&t["effect"]))
    });
    out.field(0, "Taints", all.next().as_deref().unwrap_or("<none>"));
    all.for_each(|t| out.line(0, format!("\t{t}")));
}

/// What a pod asks for of a resource: its containers' sum, or its largest init container with the sidecars before it.
///
/// Rules: upstream `component-helpers/resource` `PodRequests`, without in-place resizing.
fn of_pod(pod: &Value, field: &str, resource: &str) -> Quantity {
    let one = |c: &Value| -> Quantity {
        let amount = c.get_at(&format!("/resources/{field}/{resource}")).map(text);
        amount.and_then(|a| Quantity::parse(&a).ok()).unwrap_or(Quantity::units(0))
    };
    let main = pod.items_at("/spec/containers").iter().map(one).fold(Quantity::units(0), Quantity::plus);
    let (mut sidecars, mut peak) = (Quantity::units(0), Quantity::units(0));
    for init in pod.items_at("/spec/initContainers") {
        let amount = one(init);
        let during = if init["restartPolicy"] == "Always" {
            sidecars = sidecars.plus(amount);
            sidecars
        } else {
            sidecars.plus(amount)
        };
        if during.nanos() > peak.nanos() {
            peak = during;
        }
    }
    let running = main.plus(sidecars);
    let most = if peak.nanos() > running.nanos() { peak } else { running };
    let overhead = pod.get_at(&format!("/spec/overhead/{resource}")).map(text);
    overhead.and_then(|a| Quantity::parse(&a).ok()).map_or(most, |o| most.plus(o))
}

fn percent(part: Quantity, node: &Value, resource: &str) -> i128 {
    let whole = node.get_at(&format!("/status/allocatable/{resource}")).map(text);
    let whole = whole.and_then(|w| Quantity::parse(&w).ok()).map_or(0, |q| q.nanos());
    if whole == 0 { 0 } else { part.nanos() * 100 / whole }
}

fn promised(out: &mut Out, node: &Value, pods: &[Value]) {
    const COLUMNS: [(&str, &str); 4] =
        [("requests", "cpu"), ("limits", "cpu"), ("requests", "memory"), ("limits", "memory")];
    out.line(0, format!("Non-terminated Pods:\t({} in total)", pods.len()));
    out.line(1, "Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge");
    out.line(1, "---------\t----\t\t------------\t----------\t---------------\t-------------\t---");
    let now = jiff::Timestamp::now();
    for pod in pods {
        let mut line = format!("{}\t{}\t", text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
        for (field, resource) in COLUMNS {
            let amount = of_pod(pod, field, resource);
            line += &format!("\t{amount} ({}%)", percent(amount, node, resource));
        }
        out.line(1, format!("{line}\t{}", age::since(&text(&pod["metadata"]["creationTimestamp"]), now)));
    }
    out.line(0, "Allocated resources:\n  (Total limits may be over 100 percent, i.e., overcommitted.)");
    out.line(1, "Resource\tRequests\tLimits");
    out.line(1, "--------\t--------\t------");
    let mut resources = vec!["cpu", "memory", "ephemeral-storage"];
    let more = node["status"]["allocatable"].as_object();
    resources.extend(
        more.into_iter()
            .flatten()
            .map(|(k, _)| k.as_str())
            .filter(|k| !matches!(*k, "cpu" | "memory" | "ephemeral-storage" | "pods")),
    );
    for resource in resources {
        let key = resource.replace('/', "~1");
        let sum = |field: &str| pods.iter().map(|p| of_pod(p, field, &key)).fold(Quantity::units(0), Quantity::plus);
        let show = |q: Quantity| format!("{q} ({}%)", percent(q, node, &key));
        out.line(1, format!("{resource}\t{}\t{}", show(sum("requests")), show(sum("limits"))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_asks_for_its_sum_or_its_largest_init_container() {
        let amount = |n: &str| json!({"resources": {"requests": {"cpu": n}}});
        let mut pod =
            json!({"spec": {"containers": [amount("100m"), amount("200m")], "initContainers": [amount("1")]}});
        assert_eq!(of_pod(&pod, "requests", "cpu").milli_value(), 1000);
        pod["spec"]["initContainers"][0]["restartPolicy"] = "Always".into();
        assert_eq!(of_pod(&pod, "requests", "cpu").milli_value(), 1300);
    }
}
