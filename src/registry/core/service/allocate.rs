//! Addresses and ports of a Service that is about to be written.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::api::status::{ApiResult, Status};
use crate::api::value::ValueExt;
use crate::registry::allocators::{Allocators, Hold, Refused};
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{Held, HookCx, View};

use super::{is_headless, needs_cluster_ip, needs_health_check, needs_node_ports};

/// Fills in families, addresses and ports; what it took is in the answer.
pub fn all(allocators: &Allocators, new: &mut Value, old: Option<&Value>, cx: &HookCx<'_>) -> ApiResult<Held> {
    let errs = FieldErrors::new();
    if needs_cluster_ip(new) {
        families(new, old, &errs);
    }
    refuse(new, &errs)?;
    let wants_ip = needs_cluster_ip(new) && !is_headless(new);
    let ip = |o: &Value| o.str_at("/spec/clusterIP").filter(|ip| !ip.is_empty()).map(str::to_owned);
    let has_ip = wants_ip && ip(new).is_some() && old.is_some_and(|o| ip(o) == ip(new));
    if has_ip && !needs_node_ports(new) {
        return Ok(Held::default());
    }
    if !wants_ip && !needs_node_ports(new) {
        return Ok(Held::default());
    }
    let uid = new.str_at("/metadata/uid").unwrap_or_default().to_owned();
    let (addresses, ports) = allocators.taken(cx.view, &uid);
    let mut holds: Vec<Hold> = Vec::new();
    if wants_ip && !has_ip {
        holds.extend(address(allocators, cx.view, new, &addresses, &errs));
    }
    refuse(new, &errs)?;
    if needs_node_ports(new) {
        node_ports(allocators, new, old, &ports, &mut holds, &errs);
        refuse(new, &errs)?;
    }
    if needs_health_check(new) && new.int_at("/spec/healthCheckNodePort").unwrap_or(0) == 0 {
        let hold = allocators
            .ports
            .take_any(&ports)
            .map_err(|e| Status::internal(format!("failed to allocate a health check port: {e}")))?;
        new.set_at("/spec/healthCheckNodePort", hold.number);
        holds.push(hold);
    } else if needs_health_check(new) {
        let asked = new.int_at("/spec/healthCheckNodePort").unwrap_or(0);
        let had = old.and_then(|o| o.int_at("/spec/healthCheckNodePort")) == Some(asked);
        if !had {
            let number = u32::try_from(asked).unwrap_or(0);
            let hold = allocators.ports.take(number, &ports).map_err(|e| {
                Status::internal(format!("failed to allocate the requested health check port {asked}: {e}"))
            })?;
            holds.push(hold);
        }
    }
    Ok(Held::new(holds))
}

fn refuse(new: &Value, errs: &FieldErrors) -> ApiResult<()> {
    if errs.is_empty() {
        return Ok(());
    }
    let name = new.str_at("/metadata/name").unwrap_or_default();
    Err(Status::invalid("", "Service", name, errs.take()))
}

/// `ipFamilies` and `ipFamilyPolicy`, on a cluster that has IPv4 only.
fn families(new: &mut Value, old: Option<&Value>, errs: &FieldErrors) {
    let spec_errs = errs.at("spec");
    if let Some(old) = old.filter(|o| needs_cluster_ip(o)) {
        for field in ["/spec/ipFamilyPolicy", "/spec/ipFamilies"] {
            let missing = new.get_at(field).is_none_or(|v| v.is_null() || v.as_array().is_some_and(Vec::is_empty));
            if let (true, Some(v)) = (missing, old.get_at(field).cloned()) {
                new.set_at(field, v);
            }
        }
    }
    let listed = new.items_at("/spec/ipFamilies").len().max(new.items_at("/spec/clusterIPs").len());
    let policy = new.str_at("/spec/ipFamilyPolicy").unwrap_or_default().to_owned();
    if listed >= 2 && policy == "SingleStack" {
        let why = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified";
        spec_errs.at("ipFamilyPolicy").invalid(policy.clone(), why);
        return;
    }
    let ips = new.items_at("/spec/clusterIPs").to_vec();
    for (i, ip) in ips.iter().filter_map(Value::as_str).enumerate().filter(|(_, ip)| *ip != "None") {
        let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
        if family == "IPv6" {
            spec_errs.at("clusterIPs").index(i).invalid(json!(ips), "IPv6 is not configured on this cluster");
        }
        if new.items_at("/spec/ipFamilies").len() <= i {
            let mut all = new.items_at("/spec/ipFamilies").to_vec();
            all.push(family.into());
            new.set_at("/spec/ipFamilies", all);
        }
    }
    if !spec_errs.is_empty() {
        return;
    }
    let selects = new.get_at("/spec/selector").and_then(Value::as_object).is_some_and(|s| !s.is_empty());
    if is_headless(new) && !selects {
        new.set_if_absent("/spec/ipFamilyPolicy", "RequireDualStack");
        let dual = new.str_at("/spec/ipFamilyPolicy") != Some("SingleStack");
        match new.items_at("/spec/ipFamilies") {
            [] if dual => new.set_at("/spec/ipFamilies", json!(["IPv4", "IPv6"])),
            [] => new.set_at("/spec/ipFamilies", json!(["IPv4"])),
            [one] if dual => {
                let other = if one == "IPv4" { "IPv6" } else { "IPv4" };
                let both = json!([one, other]);
                new.set_at("/spec/ipFamilies", both);
            }
            _ => {}
        }
        return;
    }
    if policy == "RequireDualStack" {
        spec_errs.at("ipFamilyPolicy").invalid(policy, "this cluster is not configured for dual-stack services");
    }
    for (i, family) in new.items_at("/spec/ipFamilies").iter().enumerate().filter(|(_, f)| *f != "IPv4") {
        spec_errs.at("ipFamilies").index(i).invalid(family.clone(), "not configured on this cluster");
    }
    new.set_if_absent("/spec/ipFamilyPolicy", "SingleStack");
    if new.items_at("/spec/ipFamilies").is_empty() {
        new.set_at("/spec/ipFamilies", json!(["IPv4"]));
    }
}

fn address(
    allocators: &Allocators,
    view: &dyn View,
    new: &mut Value,
    taken: &std::collections::HashSet<u32>,
    errs: &FieldErrors,
) -> Option<Hold> {
    let at = errs.at("spec").at("clusterIPs");
    let asked = new.str_at("/spec/clusterIP").unwrap_or_default().to_owned();
    let got = match asked.as_str() {
        "" => allocators.take_any_address(view, taken),
        ip => match ip.parse::<Ipv4Addr>() {
            Ok(ip) => allocators.take_address(view, u32::from(ip), taken),
            Err(_) => Err(Refused::OutOfRange),
        },
    };
    match got {
        Ok(hold) => {
            let ip = Ipv4Addr::from(hold.number).to_string();
            new.set_at("/spec/clusterIPs", json!([ip]));
            new.set_at("/spec/clusterIP", ip);
            Some(hold)
        }
        Err(why) => {
            let why = match why {
                Refused::OutOfRange => "the provided network does not match the current range".to_owned(),
                Refused::Taken => "provided IP is already allocated".to_owned(),
                Refused::Full => why.to_string(),
            };
            let value = new.get_at("/spec/clusterIPs").cloned().unwrap_or(json!([]));
            at.invalid(value, format!("failed to allocate IP {asked}: {why}"));
            None
        }
    }
}

/// Ports of one number share a node port, whatever their protocol; what a client asks for goes first.
fn node_ports(
    allocators: &Allocators,
    new: &mut Value,
    old: Option<&Value>,
    taken: &std::collections::HashSet<u32>,
    holds: &mut Vec<Hold>,
    errs: &FieldErrors,
) {
    let automatic = new.bool_at("/spec/allocateLoadBalancerNodePorts") != Some(false)
        || new.str_at("/spec/type") == Some("NodePort");
    let mine: Vec<i64> =
        old.map_or(&[][..], |o| o.items_at("/spec/ports")).iter().filter_map(|p| p.int_at("/nodePort")).collect();
    let mut ports = new.items_at("/spec/ports").to_vec();
    let mut held: Vec<i64> = Vec::new();
    for i in 0..ports.len() {
        let at = errs.at("spec").at("ports").index(i).at("nodePort");
        let number = ports[i].int_at("/port").unwrap_or(0);
        let mut asked = ports[i].int_at("/nodePort").unwrap_or(0);
        if asked == 0 && !automatic {
            continue;
        }
        if asked == 0 {
            let shared = ports.iter().find(|p| {
                p.int_at("/port") == Some(number)
                    && p["protocol"] != ports[i]["protocol"]
                    && p.int_at("/nodePort").unwrap_or(0) != 0
            });
            asked = shared.and_then(|p| p.int_at("/nodePort")).unwrap_or(0);
        }
        if asked != 0 {
            ports[i]["nodePort"] = asked.into();
            if mine.contains(&asked) || held.contains(&asked) {
                continue;
            }
        }
        let got = match asked {
            0 => allocators.ports.take_any(taken),
            n => allocators.ports.take(u32::try_from(n).unwrap_or(0), taken),
        };
        match got {
            Ok(hold) => {
                ports[i]["nodePort"] = hold.number.into();
                held.push(i64::from(hold.number));
                holds.push(hold);
            }
            Err(Refused::OutOfRange) => {
                let range = allocators.ports.range();
                let (first, last) = (range.start(), range.end());
                at.invalid(
                    asked,
                    format!("provided port is not in the valid range. The range of valid ports is {first}-{last}"),
                );
            }
            Err(Refused::Taken) => at.invalid(asked, "provided port is already allocated"),
            Err(Refused::Full) => at.internal("failed to allocate a nodePort: range is full"),
        }
    }
    if new.get_at("/spec/ports").is_some() {
        new.set_at("/spec/ports", ports);
    }
}
