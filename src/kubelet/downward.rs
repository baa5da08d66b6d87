//! What a container may learn of its pod: field and resource references, for env and for volumes.
//!
//! Rules: upstream `pkg/fieldpath` and `pkg/api/v1/resource`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceFieldSelector;

use super::pod::PodView;
use crate::api::meta::quantity::Quantity;

/// What is known of the node and the pod's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Node name.
    pub node_name: String,
    /// Node addresses, the main one first.
    pub host_ips: Vec<String>,
    /// Pod addresses, the main one first; the node's for host network.
    pub pod_ips: Vec<String>,
    /// Allocatable CPU, thousandths: what a container without a limit may use.
    pub cpu_milli: i64,
    /// Allocatable memory, bytes.
    pub memory: i64,
}

/// `key="value"` lines, sorted, quoted as Go's `%q`.
pub fn format_map(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(k, v)| format!("{k}={}", quote(v))).collect::<Vec<_>>().join("\n")
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The key of `labels['key']`.
fn subscript<'a>(path: &'a str, field: &str) -> Option<&'a str> {
    path.strip_prefix(field)?.strip_prefix("['")?.strip_suffix("']")
}

/// The value at a field path; none when the path is not one that can be referred to.
pub fn field(pod: &PodView, path: &str, facts: &Facts) -> Option<String> {
    let labels = pod.pod.metadata.labels.as_ref();
    let annotations = pod.pod.metadata.annotations.as_ref();
    let map = |m: Option<&BTreeMap<String, String>>| m.map(format_map).unwrap_or_default();
    let first = |ips: &[String]| ips.first().cloned().unwrap_or_default();
    if let Some(key) = subscript(path, "metadata.labels") {
        return Some(labels.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Some(annotations.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    Some(match path {
        "metadata.name" => pod.name.clone(),
        "metadata.namespace" => pod.namespace.clone(),
        "metadata.uid" => pod.uid.clone(),
        "metadata.labels" => map(labels),
        "metadata.annotations" => map(annotations),
        "spec.nodeName" => facts.node_name.clone(),
        "spec.serviceAccountName" => pod.spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => first(&facts.host_ips),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => first(&facts.pod_ips),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return None,
    })
}

/// The value of a resource reference: rounded up to whole divisors. A missing limit is what the node can give.
pub fn resource(
    pod: &PodView,
    container: &str,
    reference: &ResourceFieldSelector,
    facts: &Facts,
) -> Result<String, String> {
    let name = reference.container_name.as_deref().filter(|n| !n.is_empty()).unwrap_or(container);
    let member = pod.member(name).ok_or_else(|| format!("container {name} not found"))?;
    let (list, what) = reference
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", reference.resource))?;
    let resources = member.spec.resources.clone().unwrap_or_default();
    let values = if list == "limits" { resources.limits } else { resources.requests }.unwrap_or_default();
    let quantity = values.get(what).and_then(|q| Quantity::parse(&q.0).ok());
    let divisor = reference.divisor.as_ref().and_then(|q| Quantity::parse(&q.0).ok()).filter(|q| q.nanos() > 0);
    let fallback = |n: Quantity| if list == "limits" { n } else { Quantity::units(0) };
    let ceil = |value: i64, by: i64| value.div_euclid(by.max(1)) + i64::from(value.rem_euclid(by.max(1)) != 0);
    let number = match what {
        "cpu" => {
            let value = quantity.unwrap_or_else(|| fallback(Quantity::milli(facts.cpu_milli)));
            ceil(value.milli_value(), divisor.map_or(1000, |d| d.milli_value()))
        }
        "memory" => {
            let value = quantity.unwrap_or_else(|| fallback(Quantity::bytes(facts.memory)));
            ceil(value.value(), divisor.map_or(1, |d| d.value()))
        }
        _ => {
            let value = quantity.unwrap_or_else(|| Quantity::units(0));
            ceil(value.value(), divisor.map_or(1, |d| d.value()))
        }
    };
    Ok(number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn pod() -> PodView {
        PodView::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u",
            "labels": {"b": "2", "a": "say \"hi\"\n"}, "annotations": {"x": "y"}},
            "spec": {"serviceAccountName": "sa", "containers": [{"name": "c", "resources":
                {"limits": {"cpu": "1500m"}, "requests": {"memory": "1Gi"}}}]}}))
        .unwrap()
    }

    fn facts() -> Facts {
        let ips = |a: &[&str]| a.iter().map(|s| (*s).to_owned()).collect();
        Facts {
            node_name: "node".into(),
            host_ips: ips(&["1.1.1.1"]),
            pod_ips: ips(&["10.0.0.1", "fd::1"]),
            cpu_milli: 4000,
            memory: 8 << 30,
        }
    }

    #[test_case("metadata.name", Some("p"))]
    #[test_case("metadata.labels['b']", Some("2"); "one label")]
    #[test_case("metadata.labels['none']", Some(""); "absent label")]
    #[test_case("metadata.labels", Some("a=\"say \\\"hi\\\"\\n\"\nb=\"2\""); "all labels")]
    #[test_case("status.podIPs", Some("10.0.0.1,fd::1"))]
    #[test_case("status.hostIP", Some("1.1.1.1"))]
    #[test_case("spec.containers", None)]
    fn fields(path: &str, want: Option<&str>) {
        assert_eq!(field(&pod(), path, &facts()).as_deref(), want);
    }

    #[test_case("limits.cpu", None, "2"; "cpu rounds up")]
    #[test_case("limits.cpu", Some("1m"), "1500"; "cpu in thousandths")]
    #[test_case("limits.memory", None, "8589934592"; "no limit is the node's")]
    #[test_case("requests.memory", Some("1Mi"), "1024"; "memory in Mi")]
    #[test_case("requests.cpu", None, "0"; "no request is none")]
    fn resources(what: &str, divisor: Option<&str>, want: &str) {
        let reference: ResourceFieldSelector =
            serde_json::from_value(json!({"resource": what, "divisor": divisor.unwrap_or("0")})).unwrap();
        assert_eq!(resource(&pod(), "c", &reference, &facts()).unwrap(), want);
    }
}
