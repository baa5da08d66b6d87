//! Kinds of the API group `apiregistration.k8s.io`.
//!
//! Rules: upstream `kube-aggregator/pkg/apis/apiregistration/validation`.

use serde_json::{Value, json};

use crate::api::meta::names;
use crate::api::scheme::{Column, KindInfo, STATUS_ONLY};
use crate::api::value::ValueExt;
use crate::registry::Resource;
use crate::registry::strategy::{Common, HookCx};
use crate::registry::validate::{Field, port_number};
use crate::util::clock::rfc3339;

mod local;

pub use local::objects;

/// Highest priority of a group, and of a version within one.
const PRIORITY_MAX: [(&str, i64); 2] = [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)];

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Service", |o, _| service_cell(o).into()),
    Column::new("Available", |o, _| available_cell(o).into()),
    Column::AGE,
];

/// The rows of this group.
pub fn kinds() -> Vec<Resource> {
    vec![Resource::new(
        KindInfo::cluster("apiregistration.k8s.io", "v1", "APIService", "apiservices", "apiservice")
            .categories(&["api-extensions"])
            .columns(COLUMNS)
            .subresources(STATUS_ONLY),
        Box::new(
            Common::NONE.status_alone().conditional_update().names(names::path_segment).prepare(prepare).check(check),
        ),
    )]
}

fn service_cell(o: &Value) -> String {
    match o.get_at("/spec/service").filter(|s| !s.is_null()) {
        Some(s) => {
            format!("{}/{}", s.str_at("/namespace").unwrap_or_default(), s.str_at("/name").unwrap_or_default())
        }
        None => "Local".to_owned(),
    }
}

fn available_cell(o: &Value) -> String {
    match o.items_at("/status/conditions").iter().find(|c| c.str_at("/type") == Some("Available")) {
        Some(c) if c.str_at("/status") == Some("True") => "True".to_owned(),
        Some(c) => {
            format!("{} ({})", c.str_at("/status").unwrap_or_default(), c.str_at("/reason").unwrap_or_default())
        }
        None => "Unknown".to_owned(),
    }
}

/// What this server serves itself is there at once.
fn prepare(new: &mut Value, old: Option<&Value>, cx: &HookCx<'_>) {
    if old.is_none() && new.get_at("/spec/service").is_none_or(Value::is_null) {
        new["status"] = json!({"conditions": [{"type": "Available", "status": "True",
            "lastTransitionTime": rfc3339(cx.now), "reason": "Local",
            "message": "Local APIServices are always available"}]});
    }
}

fn check(o: &Field<'_>, _old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    let (group, version) = (spec.text("group"), spec.text("version"));
    let name = o.value.str_at("/metadata/name").unwrap_or_default();
    let wanted = format!("{version}.{group}");
    if !name.is_empty() && name != wanted {
        o.errs.at("metadata").at("name").invalid(name, format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"));
    }
    if group.is_empty() {
        if version != "v1" {
            spec.errs.at("group").required("only v1 may have an empty group and it better be legacy kube");
        }
    } else {
        spec.at("group").reasons(names::dns1123_subdomain(group));
    }
    spec.errs.at("version").all_invalid(version, names::dns1035_label(version));
    for (field, max) in PRIORITY_MAX {
        let n = spec.int(field).unwrap_or(0);
        if n <= 0 || n > max {
            spec.errs.at(field).invalid(n, format!("must be positive and less than {max}"));
        }
    }
    let bundle = !spec.text("caBundle").is_empty();
    let insecure = spec.flag("insecureSkipTLSVerify");
    let service = spec.at("service");
    if service.value.is_null() {
        if bundle {
            spec.at("caBundle").invalid("local APIServices may not have a caBundle");
        }
        if insecure {
            spec.at("insecureSkipTLSVerify").invalid("local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    }
    service.needs("namespace");
    service.needs("name");
    if let Some(why) = service.int("port").and_then(port_number) {
        service.at("port").invalid(why);
    }
    if insecure && bundle {
        spec.at("insecureSkipTLSVerify").invalid("may not be true if caBundle is present");
    }
}
