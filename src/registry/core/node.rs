//! Nodes.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::meta::{Gvk, names};
use crate::api::scheme::{Column, KindInfo, STATUS, Selectable, Subresource, Verbs};
use crate::api::value::ValueExt;
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{HookCx, Op, Strategy};
use crate::registry::validate::{self, Field, resources, scheduling};
use crate::registry::{Resource, cells};

const SUBRESOURCES: &[Subresource] = &[
    Subresource::of(
        "proxy",
        Verbs::CREATE.and(Verbs::DELETE).and(Verbs::GET).and(Verbs::PATCH).and(Verbs::UPDATE),
        Gvk::new("", "v1", "NodeProxyOptions"),
    ),
    STATUS,
];
const FIELDS: &[Selectable] = &[Selectable::or("spec.unschedulable", "/spec/unschedulable", "false")];
const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Status", status),
    Column::new("Roles", roles),
    Column::AGE,
    Column::text("Version", "/status/nodeInfo/kubeletVersion"),
    Column::new("Internal-IP", |n, _| address(n, "InternalIP")).wide(),
    Column::new("External-IP", |n, _| address(n, "ExternalIP")).wide(),
    Column::new("OS-Image", |n, _| info(n, "osImage")).wide(),
    Column::new("Kernel-Version", kernel).wide(),
    Column::new("Container-Runtime", |n, _| info(n, "containerRuntimeVersion")).wide(),
];

/// The kind.
pub fn kind() -> Resource {
    let info = KindInfo::cluster("", "v1", "Node", "nodes", "node").short(&["no"]);
    Resource::new(info.subresources(SUBRESOURCES).selectable(FIELDS).columns(COLUMNS), Box::new(Nodes))
}

fn info(node: &Value, field: &str) -> Value {
    let text = node.str_at(&format!("/status/nodeInfo/{field}")).unwrap_or_default();
    if text.is_empty() { "<unknown>".into() } else { text.into() }
}

fn kernel(node: &Value, _: Timestamp) -> Value {
    match node.str_at("/status/nodeInfo/architecture").filter(|a| !a.is_empty()) {
        Some(architecture) => {
            format!("{} ({architecture})", info(node, "kernelVersion").as_str().unwrap_or_default()).into()
        }
        None => info(node, "kernelVersion"),
    }
}

fn address(node: &Value, kind: &str) -> Value {
    let found = node.items_at("/status/addresses").iter().find(|a| a.str_at("/type") == Some(kind));
    found.and_then(|a| a.str_at("/address")).unwrap_or(cells::NONE).into()
}

fn status(node: &Value, _: Timestamp) -> Value {
    let ready = node.items_at("/status/conditions").iter().find(|c| c.str_at("/type") == Some("Ready"));
    let mut text = match ready.and_then(|c| c.str_at("/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.bool_at("/spec/unschedulable") == Some(true) {
        text.push_str(",SchedulingDisabled");
    }
    text.into()
}

fn roles(node: &Value, _: Timestamp) -> Value {
    let labels = node.get_at("/metadata/labels").and_then(Value::as_object);
    let mut all: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    all.sort_unstable();
    all.dedup();
    if all.is_empty() { cells::NONE.into() } else { all.join(",").into() }
}

struct Nodes;

impl Strategy for Nodes {
    /// A node registers with its status.
    fn has_status(&self, _: &KindInfo) -> bool {
        false
    }

    fn prepare(&self, new: &mut Value, old: Option<&Value>, cx: &HookCx<'_>) {
        // The older field wins over the list that it is the first of.
        let first = new.str_at("/spec/podCIDR").filter(|c| !c.is_empty()).map(str::to_owned);
        if let Some(first) = first.filter(|f| new.str_at("/spec/podCIDRs/0") != Some(f)) {
            new.set_at("/spec/podCIDRs", vec![first]);
        }
        if let (Op::Update, Some(old)) = (&cx.op, old) {
            match old.get("status") {
                Some(status) => new["status"] = status.clone(),
                None => drop(new.remove_at("/status")),
            }
        }
    }

    fn validate(&self, new: &Value, old: Option<&Value>, _: &HookCx<'_>, errs: &FieldErrors) {
        scheduling::taints(new, errs);
        let node = Field::root(new, errs);
        let (spec, status) = (node.at("spec"), node.at("status"));
        for list in ["capacity", "allocatable"] {
            let at = status.errs.at(list);
            for (name, amount) in status.at(list).value.as_object().into_iter().flatten() {
                resources::value(name, &Field { value: amount, errs: at.at(name) });
            }
        }
        annotations(&node.at("metadata").at("annotations"));
        pod_cidrs(&spec);
        if let Some(old) = old {
            update(&spec, &status, old);
        }
    }
}

/// One network of a family, and valid ones.
fn pod_cidrs(spec: &Field<'_>) {
    let list = spec.at("podCIDRs");
    let count = spec.count("podCIDRs");
    let mut families = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for cidr in spec.items("podCIDRs") {
        match validate::parse_cidr(cidr.as_text()) {
            Some((address, _)) => families.push(address.is_ipv4()),
            None => cidr.invalid(validate::NOT_A_CIDR),
        }
        if seen.contains(&cidr.as_text()) {
            cidr.errs.duplicate(cidr.as_text());
        }
        seen.push(cidr.as_text());
    }
    if count < 2 {
        return;
    }
    if families.len() < count {
        list.errs.internal("failed to check for dual stack: not all of them are networks");
    }
    if families.len() < count || count > 2 || families[0] == families[1] {
        list.invalid("may specify no more than one CIDR for each IP family");
    }
}

/// Taints in the form that they had before there was a field.
fn annotations(field: &Field<'_>) {
    const TAINTS: &str = "scheduler.alpha.kubernetes.io/taints";
    let Some(text) = field.value.get(TAINTS).and_then(Value::as_str).filter(|t| !t.is_empty()) else { return };
    match serde_json::from_str::<Value>(text) {
        Ok(list) if list.is_array() => {
            let holder = serde_json::json!({ TAINTS: list });
            scheduling::taint_list(Field { value: &holder, errs: field.errs.clone() }.items(TAINTS));
        }
        _ => field.errs.invalid(TAINTS, "is no list of taints"),
    }
}

/// Addresses and the provider's name are given once.
fn update(spec: &Field<'_>, status: &Field<'_>, old: &Value) {
    let mut seen = Vec::new();
    for (i, address) in status.value.items_at("/addresses").iter().enumerate() {
        if seen.contains(&address) {
            status.errs.at("addresses").index(i).duplicate(address.clone());
        }
        seen.push(address);
    }
    if !old.items_at("/spec/podCIDRs").is_empty() && spec.value.items_at("/podCIDRs") != old.items_at("/spec/podCIDRs")
    {
        spec.errs.at("podCIDRs").forbidden("node updates may not change podCIDR except from \"\" to valid");
    }
    let was = old.str_at("/spec/providerID").unwrap_or_default();
    if !was.is_empty() && spec.text("providerID") != was {
        spec.errs.at("providerID").forbidden("node updates may not change providerID except from \"\" to valid");
    }
    if spec.text("externalID") != old.str_at("/spec/externalID").unwrap_or_default() {
        spec.errs.at("externalID").forbidden("may not be updated");
    }
    if spec.has("configSource") {
        config_source(&spec.at("configSource"), false);
    }
    for used in ["assigned", "active", "lastKnownGood"].iter().map(|u| status.at("config").at(u)) {
        if !used.value.is_null() {
            config_source(&used, true);
        }
    }
}

/// Where a kubelet's configuration was to come from, once. What is used has an identity, what is asked for has none.
fn config_source(source: &Field<'_>, used: bool) {
    let map = source.at("configMap");
    if map.value.is_null() {
        source.invalid("exactly one reference subfield must be non-nil");
        return;
    }
    for identity in ["uid", "resourceVersion"] {
        match (used, map.text(identity).is_empty()) {
            (true, true) => map.errs.at(identity).required("must be set in status"),
            (false, false) => map.errs.at(identity).forbidden("must not be set in spec"),
            _ => {}
        }
    }
    type Rule = fn(&str) -> Vec<String>;
    let rules: [(&str, Rule); 3] = [
        ("namespace", names::dns1123_label),
        ("name", names::dns1123_subdomain),
        ("kubeletConfigKey", validate::config_key),
    ];
    for (member, rule) in rules {
        if map.needs(member) {
            map.at(member).reasons(rule(map.text(member)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn paths(errs: &FieldErrors) -> Vec<String> {
        errs.take().into_iter().map(|c| c.field).collect()
    }

    #[test_case(json!(["10.0.0.0/24", "2001:db8::/64"]), &[]; "one of each family")]
    #[test_case(json!(["10.0.0.0/24", "10.0.1.0/24"]), &["podCIDRs"]; "two of a family")]
    #[test_case(json!(["10.0.0.0/24", "10.0.0.0/24"]), &["podCIDRs[1]", "podCIDRs"]; "one twice")]
    #[test_case(json!(["x"]), &["podCIDRs[0]"]; "no network")]
    fn networks(list: Value, want: &[&str]) {
        let (spec, errs) = (json!({ "podCIDRs": list }), FieldErrors::new());
        pod_cidrs(&Field::root(&spec, &errs));
        assert_eq!(paths(&errs), want);
    }

    #[test]
    fn what_is_asked_for_has_no_identity() {
        let source = json!({"configMap": {"uid": "u", "namespace": "n", "name": "m"}});
        let errs = FieldErrors::new();
        config_source(&Field::root(&source, &errs), false);
        config_source(&Field::root(&source, &errs), true);
        let key = "configMap.kubeletConfigKey";
        assert_eq!(paths(&errs), ["configMap.uid", key, "configMap.resourceVersion", key]);
    }
}
