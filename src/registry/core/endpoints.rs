//! Endpoints: addresses behind a Service, in the old form.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::meta::names;
use crate::api::scheme::{Column, KindInfo};
use crate::api::value::ValueExt;
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::{HookCx, Strategy};
use crate::registry::validate::{self, Field, port_number};
use crate::registry::{Resource, cells};

const COLUMNS: &[Column] = &[Column::NAME, Column::new("Endpoints", addresses), Column::AGE];
/// How many endpoints a cell names.
const SHOWN: usize = 3;

/// The kind.
pub fn kind() -> Resource {
    let info = KindInfo::namespaced("", "v1", "Endpoints", "endpoints", "endpoints")
        .short(&["ep"])
        .deprecated("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice");
    Resource::new(info.columns(COLUMNS), Box::new(EndpointsKind))
}

fn addresses(object: &Value, _: Timestamp) -> Value {
    let mut all = Vec::new();
    for subset in object.items_at("/subsets") {
        let ips = subset.items_at("/addresses").iter().filter_map(|a| a.str_at("/ip"));
        let ports = subset.items_at("/ports");
        if ports.is_empty() {
            all.extend(ips.map(str::to_owned));
            continue;
        }
        for port in ports {
            let number = port.int_at("/port").unwrap_or(0);
            let with_port =
                |ip: &str| if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") };
            all.extend(subset.items_at("/addresses").iter().filter_map(|a| a.str_at("/ip")).map(with_port));
        }
    }
    if all.is_empty() {
        return cells::NONE.into();
    }
    let more = all.len().saturating_sub(SHOWN);
    let text = all[..all.len().min(SHOWN)].join(",");
    if more > 0 { format!("{text} + {more} more...").into() } else { text.into() }
}

struct EndpointsKind;

impl Strategy for EndpointsKind {
    fn create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, new: &Value, _: Option<&Value>, _: &HookCx<'_>, errs: &FieldErrors) {
        for subset in Field::root(new, errs).items("subsets") {
            if subset.count("addresses") + subset.count("notReadyAddresses") == 0 {
                subset.errs.required("must specify `addresses` or `notReadyAddresses`");
            }
            for address in ["addresses", "notReadyAddresses"].iter().flat_map(|list| subset.items(list)) {
                let ip = Field { value: address.value.get("ip").unwrap_or(&Value::Null), errs: address.errs.at("ip") };
                if let Some(why) = validate::ip(&ip).and_then(validate::endpoint_ip) {
                    ip.invalid(why);
                }
                if !address.text("hostname").is_empty() {
                    address.at("hostname").reasons(names::dns1123_label(address.text("hostname")));
                }
                if address.has("nodeName") {
                    address.at("nodeName").reasons(names::dns1123_subdomain(address.text("nodeName")));
                }
            }
            let many = subset.count("ports") > 1;
            for port in subset.items("ports") {
                let name = port.text("name");
                if many && name.is_empty() {
                    port.errs.at("name").required("");
                } else if !name.is_empty() {
                    port.at("name").reasons(names::dns1123_label(name));
                }
                let number = port.int("port").unwrap_or(0);
                if let Some(why) = port_number(number) {
                    port.errs.at("port").invalid(number, why);
                }
                port.needs_one_of("protocol", &["SCTP", "TCP", "UDP"]);
                if port.has("appProtocol") {
                    port.at("appProtocol").reasons(names::qualified_name(port.text("appProtocol")));
                }
            }
        }
    }
}
