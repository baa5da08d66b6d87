//! Services with their endpoints.

use serde_json::Value;

use super::{Out, annotations, text};
use crate::api::services::SERVICE_NAME_LABEL;
use crate::api::value::ValueExt;
use crate::client::res::ENDPOINT_SLICES;
use crate::ctl::cx::{Cx, Done};
use crate::util::order::Arrange;

/// Addresses that are shown of a port.
const MAX_ADDRESSES: usize = 3;

/// Describes a service.
pub async fn describe(cx: &Cx, out: &mut Out, service: &Value) -> Done {
    let at = |path: &str| service.str_at(path).unwrap_or_default();
    out.field(0, "Name", at("/metadata/name"));
    out.field(0, "Namespace", at("/metadata/namespace"));
    out.map(0, "Labels", &service["metadata"]["labels"], "=");
    annotations(out, 0, service);
    let mut selector: Vec<String> = service["spec"]["selector"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", text(v)))
        .collect();
    selector.arrange();
    out.field(0, "Selector", if selector.is_empty() { "<none>".into() } else { selector.join(",") });
    out.field(0, "Type", at("/spec/type"));
    out.some(0, "IP Family Policy", service.str_at("/spec/ipFamilyPolicy"));
    let list = |path: &str| service.items_at(path).iter().map(text).collect::<Vec<_>>().join(",");
    let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
    out.field(0, "IP Families", or_none(list("/spec/ipFamilies")));
    out.field(0, "IP", at("/spec/clusterIP"));
    out.field(0, "IPs", or_none(list("/spec/clusterIPs")));
    if !service.items_at("/spec/externalIPs").is_empty() {
        out.field(0, "External IPs", list("/spec/externalIPs"));
    }
    out.some(0, "Desired LoadBalancer IP", service.str_at("/spec/loadBalancerIP"));
    out.some(0, "External Name", service.str_at("/spec/externalName"));
    let ingress = service.items_at("/status/loadBalancer/ingress");
    if !ingress.is_empty() {
        let one = |i: &Value| i.str_at("/ip").or(i.str_at("/hostname")).unwrap_or_default().to_owned();
        out.field(0, "LoadBalancer Ingress", ingress.iter().map(one).collect::<Vec<_>>().join(", "));
    }
    let query = format!("{SERVICE_NAME_LABEL}={}", at("/metadata/name"));
    let slices = cx.items(&ENDPOINT_SLICES, at("/metadata/namespace"), &query, "").await?;
    for port in service.items_at("/spec/ports") {
        let name = port.str_at("/name").unwrap_or("<unset>");
        let protocol = port.str_at("/protocol").unwrap_or("TCP");
        out.field(0, "Port", format!("{name}\t{}/{protocol}", text(&port["port"])));
        out.field(0, "TargetPort", format!("{}/{protocol}", text(&port["targetPort"])));
        if let Some(node_port) = port.int_at("/nodePort").filter(|p| *p > 0) {
            out.field(0, "NodePort", format!("{name}\t{node_port}/{protocol}"));
        }
        out.field(0, "Endpoints", endpoints(&slices, port.str_at("/name").unwrap_or_default()));
    }
    out.field(0, "Session Affinity", at("/spec/sessionAffinity"));
    out.some(0, "External Traffic Policy", service.str_at("/spec/externalTrafficPolicy"));
    out.some(0, "Internal Traffic Policy", service.str_at("/spec/internalTrafficPolicy"));
    Ok(())
}

/// `10.0.0.1:80,10.0.0.2:80 + 3 more...`
pub fn endpoints(slices: &[Value], port: &str) -> String {
    let mut all = Vec::new();
    for slice in slices {
        let ports = slice.items_at("/ports").iter().filter(|p| p.str_at("/name").unwrap_or_default() == port);
        for number in ports.map(|p| text(&p["port"])) {
            for endpoint in slice.items_at("/endpoints") {
                if endpoint.bool_at("/conditions/ready") == Some(false) {
                    continue;
                }
                for address in endpoint.items_at("/addresses").iter().filter_map(Value::as_str) {
                    all.push(if address.contains(':') {
                        format!("[{address}]:{number}")
                    } else {
                        format!("{address}:{number}")
                    });
                }
            }
        }
    }
    let more = all.len().saturating_sub(MAX_ADDRESSES);
    all.truncate(MAX_ADDRESSES);
    match (all.is_empty(), more) {
        (true, _) => String::new(),
        (_, 0) => all.join(","),
        (_, more) => format!("{} + {more} more...", all.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn some_addresses_and_how_many_more() {
        let endpoint = |ip: &str, ready: bool| json!({"addresses": [ip], "conditions": {"ready": ready}});
        let slices = [json!({"ports": [{"name": "web", "port": 80}], "endpoints": [
            endpoint("1", true), endpoint("2", true), endpoint("3", true), endpoint("4", true), endpoint("5", false)]})];
        assert_eq!(endpoints(&slices, "web"), "1:80,2:80,3:80 + 1 more...");
        assert_eq!(endpoints(&slices, "other"), "");
    }
}
