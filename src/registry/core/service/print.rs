//! Cells of Services.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::value::ValueExt;
use crate::registry::cells::NONE;

fn joined(list: &[Value]) -> String {
    list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

/// Where the world reaches it.
pub fn external(service: &Value, _: Timestamp) -> Value {
    let ips = joined(service.items_at("/spec/externalIPs"));
    let kind = service.str_at("/spec/type").unwrap_or_default();
    match kind {
        "ExternalName" => service.str_at("/spec/externalName").unwrap_or_default().into(),
        "LoadBalancer" => {
            let points: Vec<&str> = service
                .items_at("/status/loadBalancer/ingress")
                .iter()
                .filter_map(|i| i.str_at("/ip").filter(|t| !t.is_empty()).or(i.str_at("/hostname")))
                .collect();
            match (points.join(","), ips) {
                (balanced, ips) if balanced.is_empty() && ips.is_empty() => "<pending>".into(),
                (balanced, ips) if ips.is_empty() => balanced.into(),
                (balanced, ips) if balanced.is_empty() => ips.into(),
                (balanced, ips) => format!("{balanced},{ips}").into(),
            }
        }
        _ if ips.is_empty() => NONE.into(),
        _ => ips.into(),
    }
}

/// `80/TCP,443:30001/TCP`.
pub fn ports(service: &Value, _: Timestamp) -> Value {
    let one = |p: &Value| {
        let (port, protocol) = (p.int_at("/port").unwrap_or(0), p.str_at("/protocol").unwrap_or_default());
        match p.int_at("/nodePort").unwrap_or(0) {
            0 => format!("{port}/{protocol}"),
            node => format!("{port}:{node}/{protocol}"),
        }
    };
    let all: Vec<String> = service.items_at("/spec/ports").iter().map(one).collect();
    if all.is_empty() { NONE.into() } else { all.join(",").into() }
}
