//! Kinds of the API group `networking.k8s.io`.

use serde_json::Value;

use crate::api::scheme::{Column, KindInfo, STATUS_ONLY};
use crate::api::table::text_or;
use crate::api::value::ValueExt;
use crate::registry::Resource;
use crate::registry::cells::{NONE, selector_query};
use crate::registry::strategy::{Common, Generation};

mod addresses;
mod ingress;
mod policy;

const INGRESS_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Class", |o, _| text_or(o, "/spec/ingressClassName", NONE)),
    Column::new("Hosts", |o, _| ingress::hosts(o).into()),
    Column::new("Address", |o, _| ingress::addresses(o).into()),
    Column::new("Ports", |o, _| if o.items_at("/spec/tls").is_empty() { "80" } else { "80, 443" }.into()),
    Column::AGE,
];

const CLASS_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Controller", "/spec/controller"),
    Column::new("Parameters", |o, _| ingress::parameters_cell(o).into()),
    Column::AGE,
];

const POLICY_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Pod-Selector", |o, _| {
        let text = selector_query(&o["spec"]["podSelector"]);
        if text.is_empty() { NONE.into() } else { text.into() }
    }),
    Column::AGE,
];

// Upstream's rows have an age that has no column.
const IP_ADDRESS_COLUMNS: &[Column] =
    &[Column::NAME, Column::new("ParentRef", |o, _| addresses::parent_cell(o).into()), Column::AGE.unlisted()];

const CIDR_COLUMNS: &[Column] =
    &[Column::NAME, Column::new("CIDRs", |o, _| joined(o.items_at("/spec/cidrs")).into()), Column::AGE];

fn joined(texts: &[Value]) -> String {
    texts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![
        Resource::new(
            KindInfo::cluster("networking.k8s.io", "v1", "IngressClass", "ingressclasses", "ingressclass")
                .columns(CLASS_COLUMNS),
            Box::new(Common::NONE.generation(Generation::Spec).check(ingress::check_class)),
        ),
        Resource::new(
            KindInfo::namespaced("networking.k8s.io", "v1", "Ingress", "ingresses", "ingress")
                .short(&["ing"])
                .columns(INGRESS_COLUMNS)
                .subresources(STATUS_ONLY),
            Box::new(
                Common::NONE
                    .generation(Generation::Spec)
                    .check(ingress::check)
                    .check_subresource(ingress::check_status),
            ),
        ),
        Resource::new(
            KindInfo::cluster("networking.k8s.io", "v1", "IPAddress", "ipaddresses", "ipaddress")
                .short(&["ip"])
                .columns(IP_ADDRESS_COLUMNS),
            Box::new(Common::NONE.names(addresses::name_errors).check(addresses::check)),
        ),
        Resource::new(
            KindInfo::namespaced("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "networkpolicy")
                .short(&["netpol"])
                .columns(POLICY_COLUMNS),
            Box::new(Common::NONE.generation(Generation::Spec).check(policy::check)),
        ),
        Resource::new(
            KindInfo::cluster("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", "servicecidr")
                .columns(CIDR_COLUMNS)
                .subresources(STATUS_ONLY),
            Box::new(Common::NONE.status_alone().check(addresses::check_cidr)),
        ),
    ]
}
