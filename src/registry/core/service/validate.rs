//! What is wrong with a Service.

use std::net::{IpAddr, Ipv6Addr};

use serde_json::Value;

use crate::api::meta::names;
use crate::api::value::ValueExt;
use crate::registry::errors::FieldErrors;
use crate::registry::validate::{self, Field, labels, port_number, port_or_name};

use super::{is_headless, kind_of, needs_cluster_ip, needs_health_check, reachable_from_outside};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
/// A day, seconds: longest session affinity.
const AFFINITY_MAX: i64 = 86400;

/// A Service as it is. What the old one had already is not told again.
pub fn service(object: &Value, old: Option<&Value>, errs: &FieldErrors) {
    let service = Field::root(object, errs);
    let spec = service.at("spec");
    let may_be_bare = is_headless(object) || old.is_some_and(is_headless) || kind_of(object) == "ExternalName";
    if spec.count("ports") == 0 && !may_be_bare {
        spec.errs.at("ports").required("");
    }
    topology_annotations(&service.at("metadata").at("annotations"));
    by_type(object, &spec);
    ports(object, &spec);
    labels::labels(&spec.at("selector"));
    affinity(&spec);
    if kind_of(object) != "ExternalName" {
        addresses(object, old.map_or(&[][..], |o| o.items_at("/spec/clusterIPs")), &spec);
    }
    for ip in spec.items("externalIPs") {
        if let Some(why) = validate::ip(&ip).and_then(validate::endpoint_ip) {
            ip.invalid(why);
        }
    }
    spec.needs_one_of("type", TYPES);
    balancer(object, &service, &spec);
    traffic(object, &spec);
}

/// An annotation by its old and its new name says the same.
fn topology_annotations(field: &Field<'_>) {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    const MODE: &str = "service.kubernetes.io/topology-mode";
    if let (Some(hints), Some(mode)) = (field.value.get(HINTS), field.value.get(MODE))
        && hints != mode
    {
        field.errs.key(MODE).invalid(mode.clone(), format!("must match annotations[{HINTS}] when both are specified"));
    }
}

fn by_type(object: &Value, spec: &Field<'_>) {
    let kind = kind_of(object);
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(object) => {
            let why = format!("may not be set to 'None' for {kind} services");
            spec.errs.at("clusterIPs").index(0).invalid("None", why);
        }
        "ExternalName" => {
            for list in ["clusterIPs", "ipFamilies"].iter().filter(|l| spec.count(l) > 0) {
                spec.errs.at(list).forbidden("may not be set for ExternalName services");
            }
            if spec.has("ipFamilyPolicy") {
                spec.errs.at("ipFamilyPolicy").forbidden("may not be set for ExternalName services");
            }
            let name = spec.text("externalName");
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.is_empty() {
                spec.errs.at("externalName").required("");
            } else {
                spec.errs.at("externalName").all_invalid(name, names::dns1123_subdomain(name));
            }
        }
        _ => {}
    }
}

fn ports(object: &Value, spec: &Field<'_>) {
    let many = spec.count("ports") > 1;
    let mut seen_names: Vec<&str> = Vec::new();
    let mut seen: Vec<(Option<i64>, &str)> = Vec::new();
    let mut seen_nodes: Vec<(i64, &str)> = Vec::new();
    for port in spec.items("ports") {
        let (name, protocol) = (port.text("name"), port.text("protocol"));
        if name.is_empty() {
            if many {
                port.errs.at("name").required("");
            }
        } else {
            port.at("name").reasons(names::dns1123_label(name));
            if seen_names.contains(&name) {
                port.errs.at("name").duplicate(name);
            }
            seen_names.push(name);
        }
        if let Some(why) = port_number(port.int("port").unwrap_or(0)) {
            port.errs.at("port").invalid(port.int("port").unwrap_or(0), why);
        }
        port.needs_one_of("protocol", &["SCTP", "TCP", "UDP"]);
        port_or_name(&port.at("targetPort"));
        if port.has("appProtocol") {
            port.at("appProtocol").reasons(names::qualified_name(port.text("appProtocol")));
        }
        let node_port = port.int("nodePort").unwrap_or(0);
        if kind_of(object) == "ClusterIP" && node_port != 0 {
            port.errs.at("nodePort").forbidden("may not be used when `type` is 'ClusterIP'");
        }
        if node_port != 0 {
            if seen_nodes.contains(&(node_port, protocol)) {
                port.errs.at("nodePort").duplicate(node_port);
            }
            seen_nodes.push((node_port, protocol));
        }
        if seen.contains(&(port.int("port"), protocol)) {
            port.errs.duplicate(port.value.clone());
        }
        seen.push((port.int("port"), protocol));
    }
}

fn affinity(spec: &Field<'_>) {
    spec.needs_one_of("sessionAffinity", &["ClientIP", "None"]);
    let config = spec.at("sessionAffinityConfig");
    match spec.text("sessionAffinity") {
        "ClientIP" => {
            if config.value.is_null() {
                config.errs.required("when session affinity type is ClientIP");
                return;
            }
            let client = config.at("clientIP");
            let seconds = client.errs.at("timeoutSeconds");
            if client.value.is_null() {
                client.errs.required("when session affinity type is ClientIP");
            } else if let Some(n) = client.int("timeoutSeconds") {
                if !(1..=AFFINITY_MAX).contains(&n) {
                    seconds.invalid(n, format!("must be greater than 0 and less than {AFFINITY_MAX}"));
                }
            } else {
                seconds.required("when session affinity type is ClientIP");
            }
        }
        "None" if !config.value.is_null() => {
            config.errs.forbidden("must not be set when session affinity is None");
        }
        _ => {}
    }
}

/// `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` among each other.
fn addresses(object: &Value, old: &[Value], spec: &Field<'_>) {
    let list = spec.at("clusterIPs");
    let ips: Vec<&str> = spec.items("clusterIPs").map(|ip| ip.as_text()).collect();
    let first = spec.text("clusterIP");
    match (first.is_empty(), ips.first()) {
        (true, Some(_)) => list.invalid("must be empty when `clusterIP` is not specified"),
        (false, None) => list.errs.required(""),
        (false, Some(listed)) if *listed != first => list.invalid("first value must match `clusterIP`"),
        _ => {}
    }
    spec.optional_one_of("ipFamilyPolicy", &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    let mut families: Vec<&str> = Vec::new();
    for family in spec.items("ipFamilies") {
        let text = family.as_text();
        if !matches!(text, "IPv4" | "IPv6") {
            family.errs.not_supported(text, &["IPv4", "IPv6"]);
        }
        if families.contains(&text) {
            family.errs.duplicate(text);
        }
        families.push(text);
    }
    let mut parsed: Vec<Option<IpAddr>> = Vec::new();
    for (i, ip) in spec.items("clusterIPs").enumerate() {
        if i == 0 && ip.as_text() == "None" {
            if ips.len() > 1 {
                list.invalid("'None' must be the first and only value");
                parsed.push(None);
            }
        } else if old.contains(ip.value) {
            parsed.push(validate::parse_ip(ip.as_text()));
        } else {
            parsed.push(validate::ip(&ip));
        }
    }
    if ips.len() > 2 {
        list.invalid("may only hold up to 2 values");
    }
    if parsed.iter().any(Option::is_none) || is_headless(object) {
        return;
    }
    let v4: Vec<bool> = parsed.iter().flatten().map(IpAddr::is_ipv4).collect();
    if v4.len() == 2 && v4[0] == v4[1] {
        list.invalid("may specify no more than one IP for each IP family");
    }
    for (i, (is_v4, family)) in v4.iter().zip(&families).enumerate() {
        let fits = match *family {
            "IPv4" => *is_v4,
            "IPv6" => !is_v4,
            _ => true,
        };
        if !fits {
            list.errs.index(i).invalid(ips[i], format!("expected an {family} value as indicated by `ipFamilies[{i}]`"));
        }
    }
}

fn balancer(object: &Value, service: &Field<'_>, spec: &Field<'_>) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let is_balancer = kind_of(object) == "LoadBalancer";
    // Upstream spells this path with a capital letter.
    let ranges = spec.errs.at("LoadBalancerSourceRanges");
    if spec.count("loadBalancerSourceRanges") > 0 {
        if !is_balancer {
            ranges.forbidden(ONLY);
        }
        for (i, range) in spec.items("loadBalancerSourceRanges").enumerate() {
            if validate::parse_cidr(range.as_text().trim()).is_none() {
                ranges
                    .index(i)
                    .invalid(range.as_text(), "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
            }
        }
    } else if let Some(text) = service.at("metadata").at("annotations").value.get(ANNOTATION).and_then(Value::as_str) {
        let at = service.errs.at("metadata").at("annotations").key(ANNOTATION);
        if !is_balancer {
            at.forbidden(ONLY);
        }
        if !text.trim().is_empty() && text.split(',').any(|r| validate::parse_cidr(r.trim()).is_none()) {
            at.invalid(text, "must be a comma separated list of CIDRs e.g. 192.168.0.0/16,10.0.0.0/8");
        }
    }
    match (is_balancer, spec.has("allocateLoadBalancerNodePorts")) {
        (true, false) => spec.errs.at("allocateLoadBalancerNodePorts").required(""),
        (false, true) => spec.errs.at("allocateLoadBalancerNodePorts").forbidden(ONLY),
        _ => {}
    }
    if spec.has("loadBalancerClass") {
        if is_balancer {
            spec.at("loadBalancerClass").reasons(names::qualified_name(spec.text("loadBalancerClass")));
        } else {
            spec.errs.at("loadBalancerClass").forbidden(ONLY);
        }
    }
}

fn traffic(object: &Value, spec: &Field<'_>) {
    let policy = spec.text("externalTrafficPolicy");
    if reachable_from_outside(object) {
        spec.needs_one_of("externalTrafficPolicy", &["Cluster", "Local"]);
    } else if !policy.is_empty() {
        spec.at("externalTrafficPolicy").invalid("may only be set for externally-accessible services");
    }
    let port = spec.int("healthCheckNodePort").unwrap_or(0);
    if needs_health_check(object) {
        // None yet: one is taken later.
        if let Some(why) = Some(port).filter(|p| *p != 0).and_then(port_number) {
            spec.at("healthCheckNodePort").invalid(why);
        }
    } else if port != 0 {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        spec.at("healthCheckNodePort").invalid(why);
    }
    if needs_cluster_ip(object) {
        spec.needs_one_of("internalTrafficPolicy", &["Cluster", "Local"]);
    }
    spec.optional_one_of("trafficDistribution", &["PreferClose", "PreferSameNode", "PreferSameZone"]);
}

/// What may not change.
pub fn update(new: &Value, old: &Value, errs: &FieldErrors) {
    let spec = Field::root(new, errs).at("spec");
    if needs_health_check(new)
        && needs_health_check(old)
        && new.get_at("/spec/healthCheckNodePort") != old.get_at("/spec/healthCheckNodePort")
    {
        spec.errs.at("healthCheckNodePort").forbidden("field is immutable");
    }
    if needs_cluster_ip(new) && needs_cluster_ip(old) {
        cluster_ips_update(&spec, new, old);
    }
    let both = kind_of(new) == "LoadBalancer" && kind_of(old) == "LoadBalancer";
    if both && new.get_at("/spec/loadBalancerClass") != old.get_at("/spec/loadBalancerClass") {
        spec.at("loadBalancerClass").invalid("may not change once set");
    }
}

/// Addresses stay. A second one may come and go: whether it may is said where it is taken, and so is what becomes of the
/// families, which have to be those of the addresses.
fn cluster_ips_update(spec: &Field<'_>, new: &Value, old: &Value) {
    if is_headless(new) && is_headless(old) {
        return;
    }
    let list = spec.at("clusterIPs");
    let (is, was) = (new.items_at("/spec/clusterIPs"), old.items_at("/spec/clusterIPs"));
    let tell = |i: usize, why: &str| list.errs.index(i).invalid(list.value.clone(), why);
    if is.is_empty() && !was.is_empty() {
        tell(0, "primary clusterIP can not be unset");
    }
    let compared = if is.len() == was.len() { was.len() } else { 1 };
    for i in (0..compared.min(is.len()).min(was.len())).filter(|i| is[*i] != was[*i]) {
        tell(i, "may not change once set");
    }
}

/// A write to `status`: what a balancer says of itself.
pub fn status(object: &Value, errs: &FieldErrors) {
    let balancer = Field::root(object, errs).at("status").at("loadBalancer");
    if kind_of(object) != "LoadBalancer" && balancer.count("ingress") > 0 {
        balancer.errs.at("ingress").forbidden("may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    for ingress in balancer.items("ingress") {
        let ip = ingress.text("ip");
        if !ip.is_empty() {
            validate::ip(&ingress.at("ip"));
        }
        match (ip.is_empty(), ingress.has("ipMode")) {
            (false, false) => ingress.errs.at("ipMode").required("must be specified when `ip` is set"),
            (true, true) => ingress.errs.at("ipMode").forbidden("may not be specified when `ip` is not set"),
            _ => ingress.optional_one_of("ipMode", &["Proxy", "VIP"]),
        }
        let name = ingress.text("hostname");
        if !name.is_empty() {
            ingress.at("hostname").reasons(names::dns1123_subdomain(name));
            if validate::parse_ip(name).is_some() {
                ingress.at("hostname").invalid("must be a DNS name, not an IP address");
            }
        }
    }
}

/// What is deprecated, or has no effect.
pub fn warnings(object: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let text = |at: &str| object.str_at(at).unwrap_or_default();
    for list in ["clusterIPs", "externalIPs"] {
        for (i, ip) in object.items_at(&format!("/spec/{list}")).iter().enumerate() {
            out.extend(unusual_form(&format!("spec.{list}[{i}]"), ip.as_str().unwrap_or_default()));
        }
    }
    out.extend(unusual_form("spec.loadBalancerIP", text("/spec/loadBalancerIP")));
    if !object.items_at("/spec/externalIPs").is_empty() {
        out.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    if text("/spec/trafficDistribution") == "PreferClose" {
        out.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    if kind_of(object) != "ExternalName" && !text("/spec/externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if is_headless(object) && text("/spec/sessionAffinity") == "ClientIP" {
        out.push("spec.SessionAffinity is ignored for headless services".to_owned());
    }
    out
}

/// What is told of an address of IPv6 that is not written as it usually is.
fn unusual_form(at: &str, text: &str) -> Option<String> {
    let ip: Ipv6Addr = text.parse().ok()?;
    (ip.to_string() != text)
        .then(|| format!("{at}: IPv6 address {text:?} should be in RFC 5952 canonical format (\"{ip}\")"))
}

#[cfg(test)]
mod tests;
