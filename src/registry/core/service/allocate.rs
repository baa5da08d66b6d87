//! Addresses and ports of a Service that is about to be written.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::api::status::{ApiResult, Status};
use crate::api::value::ValueExt;
use crate::registry::allocators::{Allocators, Hold, Number, Refused};
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{Held, HookCx, View};
use crate::util::families::Family;

use super::{is_headless, kind_of, needs_cluster_ip, needs_health_check, needs_node_ports};

/// Fills in families, addresses and ports; what it took is in the answer.
pub fn all(allocators: &Allocators, new: &mut Value, old: Option<&Value>, cx: &HookCx<'_>) -> ApiResult<Held> {
    let errs = FieldErrors::new();
    if needs_cluster_ip(new) {
        families(|family| allocators.has(family), new, old, &errs);
    }
    refuse(new, &errs)?;
    let wanted = wanted(new, old);
    if wanted.is_empty() && !needs_node_ports(new) {
        return Ok(Held::default());
    }
    let uid = new.str_at("/metadata/uid").unwrap_or_default().to_owned();
    let (taken, ports) = allocators.taken(cx.view, &uid);
    let mut holds = addresses(allocators, cx.view, new, &wanted, &taken, &errs);
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
        new.set_at("/spec/healthCheckNodePort", hold.port());
        holds.push(hold);
    } else if needs_health_check(new) {
        let asked = new.int_at("/spec/healthCheckNodePort").unwrap_or(0);
        let had = old.and_then(|o| o.int_at("/spec/healthCheckNodePort")) == Some(asked);
        if !had {
            let number = Number::try_from(asked).unwrap_or(0);
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

const POLICY: &str = "/spec/ipFamilyPolicy";
const FAMILIES: &str = "/spec/ipFamilies";
const IPS: &str = "/spec/clusterIPs";

/// `ipFamilies` and `ipFamilyPolicy`, on a cluster that has some families, of which IPv4 is one; a second address goes where
/// the policy says so. Upstream: `initIPFamilyFields`.
fn families(has: impl Fn(Family) -> bool, new: &mut Value, old: Option<&Value>, errs: &FieldErrors) {
    if old.is_some_and(|old| prefers_both_as_before(new, old)) {
        return;
    }
    let selects = new.get_at("/spec/selector").and_then(Value::as_object).is_some_and(|s| !s.is_empty());
    let free = is_headless(new) && !selects;
    let before = old.and_then(|o| o.str_at(POLICY));
    let usual = before.unwrap_or(if free { "RequireDualStack" } else { "SingleStack" });
    new.set_if_absent(POLICY, usual);
    let policy = new.str_at(POLICY).unwrap_or_default().to_owned();
    let spec = errs.at("spec");
    lengths(new, old, &policy, &spec.at("ipFamilyPolicy"));
    of_addresses(&has, new, &spec.at("clusterIPs"));
    if !spec.is_empty() {
        return;
    }
    let dual = Family::ALL.into_iter().all(&has);
    // Who makes the endpoints of such a Service knows which families they have.
    if !free {
        if policy == "RequireDualStack" && !dual {
            spec.at("ipFamilyPolicy")
                .invalid(policy.as_str(), "this cluster is not configured for dual-stack services");
        }
        for (i, family) in new.items_at(FAMILIES).iter().enumerate() {
            if !family.as_str().and_then(Family::named).is_some_and(&has) {
                spec.at("ipFamilies").index(i).invalid(family.clone(), "not configured on this cluster");
            }
        }
        if !spec.is_empty() {
            return;
        }
    }
    let mut all: Vec<Family> = named(new);
    if all.is_empty() {
        all.push(Family::V4);
    }
    if let ([one], true) = (all.as_slice(), policy != "SingleStack" && (free || dual)) {
        all.push(one.other());
    }
    new.set_at(FAMILIES, all.iter().map(|f| Value::from(f.name())).collect::<Vec<_>>());
}

/// A Service that prefers both families, and of which nothing of this changes, stays as it is: it does not follow a cluster
/// that becomes dual-stack, or is that no more.
fn prefers_both_as_before(new: &Value, old: &Value) -> bool {
    const PREFER: Option<&str> = Some("PreferDualStack");
    needs_cluster_ip(old)
        && kind_of(old) == kind_of(new)
        && new.str_at(POLICY) == PREFER
        && old.str_at(POLICY).is_none_or(|p| Some(p) == PREFER)
        && [IPS, FAMILIES].iter().all(|list| new.items_at(list) == old.items_at(list))
}

/// How many addresses and families there are by the policy. Where one is enough and nothing else was said, the first stays.
fn lengths(new: &mut Value, old: Option<&Value>, policy: &str, at: &FieldErrors) {
    for (list, address) in [(IPS, "cluster IP"), (FAMILIES, "IP family")] {
        let was = old.map_or(&[][..], |o| o.items_at(list));
        let is = new.items_at(list);
        if policy == "SingleStack" && is.len() > 1 && is == was {
            let first = is[..1].to_vec();
            new.set_at(list, first);
        } else if policy != "SingleStack" && !is.is_empty() && is.len() < was.len() {
            at.invalid(policy, format!("must be 'SingleStack' to release the secondary {address}"));
        }
    }
    for (list, addresses) in [(IPS, "cluster IPs"), (FAMILIES, "IP families")] {
        if policy == "SingleStack" && new.items_at(list).len() == 2 {
            let why =
                format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {addresses} are specified");
            at.invalid(policy, why);
        }
    }
}

/// Families that are left out are those of the addresses.
fn of_addresses(has: impl Fn(Family) -> bool, new: &mut Value, at: &FieldErrors) {
    let ips = new.items_at(IPS).to_vec();
    let mut all = new.items_at(FAMILIES).to_vec();
    for (i, ip) in ips.iter().filter_map(Value::as_str).enumerate().take_while(|(_, ip)| *ip != "None") {
        let family = Family::of_text(ip);
        if i < all.len() {
            continue;
        }
        if has(family) {
            all.push(family.name().into());
        } else {
            at.index(i).invalid(ips.clone(), format!("{family} is not configured on this cluster"));
        }
    }
    if !all.is_empty() {
        new.set_at(FAMILIES, all);
    }
}

fn named(service: &Value) -> Vec<Family> {
    service.items_at(FAMILIES).iter().filter_map(|f| Family::named(f.as_str()?)).collect()
}

/// An address that a Service lacks: its place, its family, and the certain one that is asked for, or nothing.
type Wanted = (usize, Family, String);

/// The addresses that a Service has not had until now, one of each of its families.
fn wanted(new: &Value, old: Option<&Value>) -> Vec<Wanted> {
    if !needs_cluster_ip(new) || is_headless(new) {
        return Vec::new();
    }
    let at =
        |service: &Value, i: usize| service.items_at(IPS).get(i).and_then(Value::as_str).unwrap_or_default().to_owned();
    let each = named(new).into_iter().enumerate().map(|(i, family)| (i, family, at(new, i)));
    each.filter(|(i, _, ip)| ip.is_empty() || old.is_none_or(|old| at(old, *i) != *ip)).collect()
}

/// Takes all of these addresses and says so in the Service, or none.
fn addresses(
    allocators: &Allocators,
    view: &dyn View,
    new: &mut Value,
    wanted: &[Wanted],
    taken: &HashSet<Number>,
    errs: &FieldErrors,
) -> Vec<Hold> {
    let mut holds = Vec::with_capacity(wanted.len());
    let mut ips = new.items_at(IPS).to_vec();
    for (place, family, asked) in wanted {
        let got = match asked.as_str() {
            "" => allocators.take_any_address(view, *family, taken),
            ip => match ip.parse() {
                Ok(ip) => allocators.take_address(view, ip, taken),
                Err(_) => Err(Refused::OutOfRange),
            },
        };
        match got {
            Ok(hold) if asked.is_empty() => {
                ips.truncate(*place);
                ips.push(hold.address().to_string().into());
                holds.push(hold);
            }
            Ok(hold) => holds.push(hold),
            Err(why) => {
                let why = match why {
                    Refused::OutOfRange => "the provided network does not match the current range".to_owned(),
                    Refused::Taken => "provided IP is already allocated".to_owned(),
                    Refused::Full => why.to_string(),
                };
                let value = new.get_at(IPS).cloned().unwrap_or(json!([]));
                let at = errs.at("spec").at("clusterIPs");
                at.invalid(value, format!("failed to allocate IP {asked}: {why}"));
                return Vec::new();
            }
        }
    }
    if let Some(first) = ips.first().filter(|_| !holds.is_empty()).cloned() {
        new.set_at("/spec/clusterIP", first);
        new.set_at(IPS, ips);
    }
    holds
}

/// Ports of one number share a node port, whatever their protocol; what a client asks for goes first.
fn node_ports(
    allocators: &Allocators,
    new: &mut Value,
    old: Option<&Value>,
    taken: &HashSet<Number>,
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
            n => allocators.ports.take(Number::try_from(n).unwrap_or(0), taken),
        };
        match got {
            Ok(hold) => {
                ports[i]["nodePort"] = hold.port().into();
                held.push(i64::from(hold.port()));
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

#[cfg(test)]
mod tests;
