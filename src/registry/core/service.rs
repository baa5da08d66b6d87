//! Services: stable addresses for sets of pods.
//!
//! Rules: upstream `pkg/registry/core/service` (strategy, allocation), `ValidateService`.

mod allocate;
mod print;
mod validate;

use serde_json::{Value, json};

use crate::api::meta::{Gvk, names};
use crate::api::scheme::{Column, KindInfo, STATUS, Selectable, Subresource, Verbs};
use crate::api::status::ApiResult;
use crate::api::value::ValueExt;
use crate::registry::allocators::Allocators;
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{Held, HookCx, Op, Strategy};
use crate::registry::{Resource, cells};

const SUBRESOURCES: &[Subresource] = &[
    Subresource::of(
        "proxy",
        Verbs::CREATE.and(Verbs::DELETE).and(Verbs::GET).and(Verbs::PATCH).and(Verbs::UPDATE),
        Gvk::new("", "v1", "ServiceProxyOptions"),
    ),
    STATUS,
];

/// The allocators read the first two by their places.
const FIELDS: &[Selectable] =
    &[Selectable::new("spec.clusterIP", "/spec/clusterIP"), Selectable::new("spec.type", "/spec/type")];

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Type", "/spec/type"),
    Column::new("Cluster-IP", |s, _| cells::or_none(s, "/spec/clusterIPs/0")),
    Column::new("External-IP", print::external),
    Column::new("Port(s)", print::ports),
    Column::AGE,
    Column::new("Selector", |s, _| cells::label_text(s.get_at("/spec/selector")).into()).wide(),
];

/// The kind.
pub fn kind(allocators: &Allocators) -> Resource {
    let info = KindInfo::namespaced("", "v1", "Service", "services", "service")
        .short(&["svc"])
        .categories(&["all"])
        .subresources(SUBRESOURCES)
        .selectable(FIELDS)
        .columns(COLUMNS);
    Resource::new(info, Box::new(Services(allocators.clone())))
}

struct Services(Allocators);

impl Strategy for Services {
    fn name_errors(&self, name: &str) -> Vec<String> {
        names::dns1123_label(name)
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    /// An address is one that the node takes as its own, unless it is said to be a proxy's.
    fn default(&self, new: &mut Value, _: &HookCx<'_>) {
        if kind_of(new) != "LoadBalancer" {
            return;
        }
        let ingress = new.pointer_mut("/status/loadBalancer/ingress").and_then(Value::as_array_mut);
        for address in ingress.into_iter().flatten() {
            if !address.str_at("/ip").unwrap_or_default().is_empty() && address.get("ipMode").is_none() {
                address.set_at("/ipMode", "VIP");
            }
        }
    }

    fn prepare(&self, new: &mut Value, old: Option<&Value>, cx: &HookCx<'_>) {
        match old {
            None => {
                new["status"] = json!({"loadBalancer": {}});
                mirror_cluster_ip(new, None);
            }
            Some(old) if cx.op == Op::Update => {
                keep_allocated(new, old);
                mirror_cluster_ip(new, Some(old));
                drop_for_type(new, old);
            }
            Some(_) => {}
        }
    }

    fn validate(&self, new: &Value, old: Option<&Value>, cx: &HookCx<'_>, errs: &FieldErrors) {
        if matches!(cx.op, Op::Subresource(_)) {
            return validate::status(new, errs);
        }
        validate::service(new, old, errs);
        if let Some(old) = old {
            validate::update(new, old, errs);
        }
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>, _: &HookCx<'_>) -> Vec<String> {
        validate::warnings(new)
    }

    fn allocate(&self, new: &mut Value, old: Option<&Value>, cx: &HookCx<'_>) -> ApiResult<Held> {
        if matches!(cx.op, Op::Subresource(_)) {
            return Ok(Held::default());
        }
        allocate::all(&self.0, new, old, cx)
    }
}

/// The type; `ClusterIP` where there is none.
fn kind_of(service: &Value) -> &str {
    service.str_at("/spec/type").unwrap_or("ClusterIP")
}

fn needs_cluster_ip(service: &Value) -> bool {
    matches!(kind_of(service), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn needs_node_ports(service: &Value) -> bool {
    matches!(kind_of(service), "NodePort" | "LoadBalancer")
}

fn needs_health_check(service: &Value) -> bool {
    kind_of(service) == "LoadBalancer" && service.str_at("/spec/externalTrafficPolicy") == Some("Local")
}

fn reachable_from_outside(service: &Value) -> bool {
    needs_node_ports(service) || kind_of(service) == "ClusterIP" && !service.items_at("/spec/externalIPs").is_empty()
}

fn is_headless(service: &Value) -> bool {
    service.str_at("/spec/clusterIPs/0") == Some("None") || service.str_at("/spec/clusterIP") == Some("None")
}

/// What the client left out of what was allocated stays.
fn keep_allocated(new: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && needs_cluster_ip(new) {
        if new.str_at("/spec/clusterIP").unwrap_or_default().is_empty()
            && let Some(ip) = old.get_at("/spec/clusterIP").cloned()
        {
            new.set_at("/spec/clusterIP", ip);
        }
        let same = new.get_at("/spec/clusterIP") == old.get_at("/spec/clusterIP");
        if same
            && new.items_at("/spec/clusterIPs").is_empty()
            && let Some(ips) = old.get_at("/spec/clusterIPs").cloned()
        {
            new.set_at("/spec/clusterIPs", ips);
        }
    }
    if needs_node_ports(old) && needs_node_ports(new) {
        let before = old.items_at("/spec/ports");
        let mut used: Vec<i64> = new.items_at("/spec/ports").iter().filter_map(|p| p.int_at("/nodePort")).collect();
        for port in new.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
            let was = before.iter().find(|p| p["port"] == port["port"] && p["protocol"] == port["protocol"]);
            let node_port = was.and_then(|p| p.int_at("/nodePort")).unwrap_or(0);
            if port.int_at("/nodePort").unwrap_or(0) == 0 && node_port != 0 && !used.contains(&node_port) {
                port["nodePort"] = node_port.into();
                used.push(node_port);
            }
        }
    }
    let health = "/spec/healthCheckNodePort";
    if needs_health_check(old)
        && needs_health_check(new)
        && new.int_at(health).unwrap_or(0) == 0
        && let Some(port) = old.get_at(health).cloned()
    {
        new.set_at(health, port);
    }
}

/// `clusterIP` and `clusterIPs` say the same; a client may know only the first.
fn mirror_cluster_ip(new: &mut Value, old: Option<&Value>) {
    let ip = new.str_at("/spec/clusterIP").unwrap_or_default().to_owned();
    let Some(old) = old else {
        if !ip.is_empty() && new.items_at("/spec/clusterIPs").is_empty() {
            new.set_at("/spec/clusterIPs", json!([ip]));
        }
        return;
    };
    let was = old.str_at("/spec/clusterIP").unwrap_or_default();
    let same_list = new.items_at("/spec/clusterIPs") == old.items_at("/spec/clusterIPs");
    if ip.is_empty() && !was.is_empty() && same_list {
        new.remove_at("/spec/clusterIPs");
    } else if !ip.is_empty() && ip != was && same_list {
        new.set_at("/spec/clusterIPs", json!([ip]));
    }
}

/// What belongs to the old type and was not changed goes with it.
fn drop_for_type(new: &mut Value, old: &Value) {
    let same = |new: &Value, field: &str| new.get_at(field) == old.get_at(field);
    let lost_ip = needs_cluster_ip(old) && !needs_cluster_ip(new);
    if lost_ip && same(new, "/spec/clusterIP") && same(new, "/spec/clusterIPs") {
        new.remove_at("/spec/clusterIP");
        new.remove_at("/spec/clusterIPs");
    }
    let drop_fields = |needed: fn(&Value) -> bool, fields: &[&str], new: &mut Value| {
        if !needed(old) || needed(new) {
            return;
        }
        for field in fields {
            let at = format!("/spec/{field}");
            if same(new, &at) {
                new.remove_at(&at);
            }
        }
    };
    drop_fields(needs_cluster_ip, &["ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"], new);
    drop_fields(needs_health_check, &["healthCheckNodePort"], new);
    drop_fields(|s| kind_of(s) == "LoadBalancer", &["allocateLoadBalancerNodePorts", "loadBalancerClass"], new);
    drop_fields(reachable_from_outside, &["externalTrafficPolicy"], new);
    if needs_node_ports(old) && !needs_node_ports(new) {
        let ports =
            |s: &Value| -> Vec<Value> { s.items_at("/spec/ports").iter().map(|p| p["nodePort"].clone()).collect() };
        let was = ports(old);
        if ports(new).iter().all(|p| p.is_null() || was.contains(p)) {
            for port in new.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
                port.remove_at("/nodePort");
            }
        }
    }
    if kind_of(old) == "LoadBalancer" && kind_of(new) != "LoadBalancer" {
        new.set_at("/status/loadBalancer", json!({}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_change_takes_its_fields_along() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"],
            "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "nodePort": 30001}]}});
        let mut new = old.clone();
        new["spec"]["type"] = "ClusterIP".into();
        drop_for_type(&mut new, &old);
        assert_eq!(
            new["spec"],
            json!({"type": "ClusterIP", "clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"],
            "ports": [{"port": 80}]})
        );
        new["spec"]["type"] = "ExternalName".into();
        drop_for_type(&mut new, &old);
        assert_eq!(new.pointer("/spec/clusterIP"), None);
    }

    #[test]
    fn a_put_without_addresses_keeps_them() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
        keep_allocated(&mut new, &old);
        assert_eq!(new, old);
    }
}
