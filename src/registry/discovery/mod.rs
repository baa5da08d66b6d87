//! Kinds of the API group `discovery.k8s.io`.
//!
//! Rules: upstream `pkg/apis/discovery/validation`.

use std::net::IpAddr;

use serde_json::Value;

use crate::api::meta::names;
use crate::api::scheme::{Column, KindInfo};
use crate::api::value::ValueExt;
use crate::registry::Resource;
use crate::registry::strategy::{Common, Generation, HookCx};
use crate::registry::validate::{Field, endpoint_ip, labels, parse_ip};

/// Addresses of one endpoint.
const ADDRESSES_MAX: usize = 100;
/// Endpoints of one slice.
const ENDPOINTS_MAX: usize = 1000;
/// Ports of one slice.
const PORTS_MAX: usize = 20_000;
/// Zones or nodes that an endpoint's hints name.
const HINTS_MAX: usize = 8;
/// How many ports or addresses a cell shows.
const SHOWN: usize = 3;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("AddressType", "/addressType"),
    Column::new("Ports", |o, _| ports_cell(o).into()),
    Column::new("Endpoints", |o, _| {
        let all = o.items_at("/endpoints").iter().flat_map(|e| e.items_at("/addresses"));
        shortened(all.filter_map(|a| a.as_str().map(str::to_owned)).collect()).into()
    }),
    Column::AGE,
];

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![Resource::new(
        KindInfo::namespaced("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "endpointslice")
            .columns(COLUMNS),
        Box::new(Common::NONE.generation(Generation::All).prepare(prepare).warn(warn).check(check)),
    )]
}

fn shortened(all: Vec<String>) -> String {
    match all.len() {
        0 => "<unset>".to_owned(),
        n if n <= SHOWN => all.join(","),
        n => format!("{} + {} more...", all[..SHOWN].join(","), n - SHOWN),
    }
}

fn ports_cell(o: &Value) -> String {
    let one = |p: &Value| match p.int_at("/port") {
        Some(n) => n.to_string(),
        None => p.str_at("/name").unwrap_or_default().to_owned(),
    };
    shortened(o.items_at("/ports").iter().map(one).collect())
}

/// The topology of old versions is not kept: zone and node name stand in fields of their own.
fn prepare(new: &mut Value, old: Option<&Value>, _cx: &HookCx<'_>) {
    if old.is_some_and(|old| old.get("endpoints") == new.get("endpoints")) {
        return;
    }
    for endpoint in new.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten() {
        endpoint.remove_at("/deprecatedTopology");
    }
}

fn warn(new: &Value, _old: Option<&Value>) -> Vec<String> {
    match new.str_at("/addressType") {
        Some("FQDN") => vec!["spec.addressType: FQDN endpoints are deprecated".to_owned()],
        _ => Vec::new(),
    }
}

/// Create and update.
fn check(o: &Field<'_>, old: Option<&Value>, _cx: &HookCx<'_>) {
    let kind = o.text("addressType");
    o.needs_one_of("addressType", &["FQDN", "IPv4", "IPv6"]);
    if o.count("endpoints") > ENDPOINTS_MAX {
        o.errs.at("endpoints").too_many(o.count("endpoints"), ENDPOINTS_MAX);
    }
    o.items("endpoints").for_each(|e| endpoint(&e, kind));
    ports(o);
    if let Some(old) = old {
        o.immutable("addressType", old);
    }
}

fn ports(o: &Field<'_>) {
    if o.count("ports") > PORTS_MAX {
        o.errs.at("ports").too_many(o.count("ports"), PORTS_MAX);
    }
    let mut seen = Vec::new();
    for port in o.items("ports") {
        let name = port.text("name");
        if !name.is_empty() {
            port.at("name").reasons(names::dns1123_label(name));
        }
        if seen.contains(&name) {
            port.errs.at("name").duplicate(name);
        }
        seen.push(name);
        if !port.has("protocol") {
            port.errs.at("protocol").required("");
        } else {
            port.one_of("protocol", &["SCTP", "TCP", "UDP"]);
        }
        if port.has("appProtocol") {
            port.at("appProtocol").reasons(names::qualified_name(port.text("appProtocol")));
        }
    }
}

fn endpoint(e: &Field<'_>, kind: &str) {
    let count = e.count("addresses");
    if count == 0 {
        e.errs.at("addresses").required("must contain at least 1 address");
    } else if count > ADDRESSES_MAX {
        e.errs.at("addresses").too_many(count, ADDRESSES_MAX);
    }
    e.items("addresses").for_each(|a| address(&a, kind));
    if e.has("nodeName") {
        e.at("nodeName").reasons(names::dns1123_subdomain(e.text("nodeName")));
    }
    labels::labels(&e.at("deprecatedTopology"));
    if e.has("hostname") {
        e.at("hostname").reasons(names::dns1123_label(e.text("hostname")));
    }
    let hints = e.at("hints");
    for (list, rule) in
        [("forZones", names::label_value as fn(&str) -> Vec<String>), ("forNodes", names::dns1123_subdomain)]
    {
        if hints.count(list) > HINTS_MAX {
            hints.errs.at(list).too_many(hints.count(list), HINTS_MAX);
            continue;
        }
        let mut seen = Vec::new();
        for hint in hints.items(list) {
            let name = hint.text("name");
            if seen.contains(&name) {
                hint.errs.at("name").duplicate(name);
            }
            seen.push(name);
            hint.errs.at("name").all_invalid(name, rule(name));
        }
    }
}

fn address(a: &Field<'_>, kind: &str) {
    let text = a.as_text();
    match kind {
        "IPv4" | "IPv6" => match parse_ip(text) {
            Some(ip) if matches!(ip, IpAddr::V4(_)) == (kind == "IPv4") => {
                if let Some(why) = endpoint_ip(ip) {
                    a.invalid(why);
                }
            }
            _ => a.invalid(format!("must be a valid {kind} address")),
        },
        "FQDN" if text.is_empty() => a.errs.required(""),
        "FQDN" => {
            let name = text.strip_suffix('.').unwrap_or(text);
            let reasons = names::dns1123_subdomain(name);
            if !reasons.is_empty() {
                a.reasons(reasons);
            } else if !name.contains('.') {
                a.invalid("should be a domain with at least two segments separated by dots");
            }
        }
        _ => {}
    }
}
