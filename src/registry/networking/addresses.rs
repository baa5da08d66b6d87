//! IPAddress and ServiceCIDR.
//!
//! Rules: upstream `pkg/apis/networking/validation`.

use std::net::IpAddr;

use serde_json::Value;

use crate::api::meta::names;
use crate::api::value::ValueExt;
use crate::registry::strategy::HookCx;
use crate::registry::validate::{Field, strict_cidr};

/// Ranges of a dual-stack cluster.
const CIDRS_MAX: usize = 2;

/// Names of IPAddresses are addresses in their canonical form.
pub fn name_errors(name: &str) -> Vec<String> {
    match name.parse::<IpAddr>() {
        Ok(ip) if ip.to_string() == name => Vec::new(),
        Ok(ip) => vec![format!("must be in canonical form (\"{ip}\")")],
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// Create and update of an IPAddress.
pub fn check(o: &Field<'_>, old: Option<&Value>, _cx: &HookCx<'_>) {
    let parent = o.at("spec").at("parentRef");
    if parent.value.is_null() {
        parent.errs.required("");
    } else {
        for member in ["resource", "name"] {
            if parent.needs(member) {
                parent.at(member).reasons(names::path_segment(parent.text(member)));
            }
        }
        if !parent.text("group").is_empty() {
            parent.at("group").reasons(names::dns1123_subdomain(parent.text("group")));
        }
        parent.at("namespace").reasons(names::path_segment(parent.text("namespace")));
    }
    if let Some(old) = old {
        o.at("spec").immutable("parentRef", &old["spec"]);
    }
}

/// `resource.group/namespace/name`.
pub fn parent_cell(o: &Value) -> String {
    let text = |k: &str| o["spec"]["parentRef"].get(k).and_then(Value::as_str).unwrap_or_default();
    let mut parts = vec![match text("group") {
        "" => text("resource").to_owned(),
        group => format!("{}.{group}", text("resource")),
    }];
    parts.extend(["namespace", "name"].map(text).into_iter().filter(|t| !t.is_empty()).map(str::to_owned));
    parts.join("/")
}

/// Create and update of a ServiceCIDR: a second family may be added, nothing else changed.
pub fn check_cidr(o: &Field<'_>, old: Option<&Value>, _cx: &HookCx<'_>) {
    let cidrs = o.at("spec").at("cidrs");
    let new = o.value.items_at("/spec/cidrs");
    let Some(old) = old.map(|o| o.items_at("/spec/cidrs")) else { return families(o) };
    match (old.len(), new.len()) {
        (a, b) if a == b => {
            for (i, _) in new.iter().zip(old).enumerate().filter(|(_, (n, o))| n != o) {
                cidrs.errs.index(i).invalid(new[i].clone(), "field is immutable");
            }
        }
        (1, 2) => {
            if new[0] != old[0] {
                cidrs.errs.index(0).invalid(new[0].clone(), "field is immutable");
            }
            families(o);
        }
        _ => cidrs.invalid("field is immutable"),
    }
}

fn families(o: &Field<'_>) {
    let cidrs = o.at("spec").at("cidrs");
    let all: Vec<Field<'_>> = o.at("spec").items("cidrs").collect();
    if all.is_empty() {
        cidrs.errs.required("at least one CIDR required");
        return;
    }
    if all.len() > CIDRS_MAX {
        cidrs.invalid("may only hold up to 2 values");
        return;
    }
    let parsed: Vec<Option<ipnet::IpNet>> = all.iter().map(strict_cidr).collect();
    if let [Some(a), Some(b)] = parsed[..]
        && a.addr().is_ipv4() == b.addr().is_ipv4()
    {
        cidrs.invalid("may specify no more than one IP for each IP family");
    }
}
