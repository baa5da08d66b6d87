//! Ingress and IngressClass.
//!
//! Rules: upstream `pkg/apis/networking/validation`.

use serde_json::Value;

use crate::api::meta::names;
use crate::api::value::ValueExt;
use crate::registry::strategy::HookCx;
use crate::registry::validate::{Field, domain_prefixed_path, parse_ip, port_name, port_number};

use super::super::cells::NONE;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
/// What a path of a prefix or exact match must not hold.
const BAD_SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
/// What it must not end in.
const BAD_SUFFIXES: [&str; 2] = ["/..", "/."];
/// Longest controller name, bytes.
const CONTROLLER_MAX: usize = 250;
/// How many hosts a cell shows.
const HOSTS_SHOWN: usize = 3;

/// Create and update of an Ingress.
pub fn check(o: &Field<'_>, old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    if spec.count("rules") == 0 && !spec.has("defaultBackend") {
        spec.invalid("either `defaultBackend` or `rules` must be specified");
    }
    if spec.has("defaultBackend") {
        backend(&spec.at("defaultBackend"));
    }
    for rule in spec.items("rules") {
        host(&rule.at("host"));
        if rule.has("http") {
            let http = rule.at("http");
            if http.count("paths") == 0 {
                http.errs.at("paths").required("");
            }
            http.items("paths").for_each(|p| path(&p));
        }
    }
    for tls in spec.items("tls") {
        tls.items("hosts").for_each(|h| host_name(&h));
        if !tls.text("secretName").is_empty() {
            tls.at("secretName").reasons(names::dns1123_subdomain(tls.text("secretName")));
        }
    }
    if spec.has("ingressClassName") {
        let class = spec.at("ingressClassName");
        class.reasons(names::dns1123_subdomain(class.as_text()));
        let old_way = o.value["metadata"]["annotations"][CLASS_ANNOTATION].as_str();
        if let Some(other) = old_way.filter(|other| old.is_none() && *other != class.as_text()) {
            o.errs
                .at("annotations")
                .at(CLASS_ANNOTATION)
                .invalid(other, "must match `ingressClassName` when both are specified");
        }
    }
}

/// A write to `status`.
pub fn check_status(o: &Field<'_>, _old: Option<&Value>, _cx: &HookCx<'_>) {
    for ingress in o.at("status").at("loadBalancer").items("ingress") {
        let ip = ingress.text("ip");
        if !ip.is_empty() && parse_ip(ip).is_none() {
            ingress.at("ip").invalid("must be a valid IP address");
        }
        let hostname = ingress.text("hostname");
        if !hostname.is_empty() {
            ingress.at("hostname").reasons(names::dns1123_subdomain(hostname));
            if parse_ip(hostname).is_some() {
                ingress.at("hostname").invalid("must be a DNS name, not an IP address");
            }
        }
    }
}

fn host(field: &Field<'_>) {
    let host = field.as_text();
    if host.is_empty() {
        return;
    }
    if parse_ip(host).is_some() {
        field.invalid("must be a DNS name, not an IP address");
    }
    host_name(field);
}

/// A name, or a wildcard for one label.
fn host_name(field: &Field<'_>) {
    let host = field.as_text();
    match host.strip_prefix("*.") {
        Some(rest) if host.contains('*') => field.reasons(names::dns1123_subdomain(rest)),
        _ if host.contains('*') => field.invalid("a wildcard DNS-1123 subdomain must start with '*.'"),
        _ => field.reasons(names::dns1123_subdomain(host)),
    }
}

fn path(p: &Field<'_>) {
    let text = p.text("path");
    match p.value.get("pathType").and_then(Value::as_str) {
        None => {
            p.errs.at("pathType").required("pathType must be specified");
            return;
        }
        Some("Exact" | "Prefix") => {
            let path = Field { value: &p.value["path"], errs: p.errs.at("path") };
            if !text.starts_with('/') {
                path.errs.invalid(text, "must be an absolute path");
            }
            for bad in BAD_SEQUENCES.iter().filter(|b| text.contains(**b)) {
                path.errs.invalid(text, format!("must not contain '{bad}'"));
            }
            for bad in BAD_SUFFIXES.iter().filter(|b| text.ends_with(**b)) {
                path.errs.invalid(text, format!("cannot end with '{bad}'"));
            }
        }
        Some("ImplementationSpecific") => {
            if !text.is_empty() && !text.starts_with('/') {
                p.errs.at("path").invalid(text, "must be an absolute path");
            }
        }
        Some(other) => {
            p.errs.at("pathType").not_supported(other, &["Exact", "ImplementationSpecific", "Prefix"]);
        }
    }
    backend(&p.at("backend"));
}

fn backend(b: &Field<'_>) {
    match (b.has("service"), b.has("resource")) {
        (true, true) => b.invalid("cannot set both resource and service backends"),
        (false, false) => b.invalid("resource or service backend is required"),
        (true, false) => service_backend(b),
        (false, true) => local_reference(&b.at("resource")),
    }
}

fn service_backend(b: &Field<'_>) {
    let service = b.at("service");
    if service.needs("name") {
        service.at("name").reasons(names::dns1123_label(service.text("name")));
    }
    let port = service.at("port");
    let (name, number) = (port.text("name"), port.int("number").unwrap_or(0));
    match (name.is_empty(), number == 0) {
        (false, false) => b.invalid("cannot set both port name & port number"),
        (true, true) => b.errs.required("port name or number is required"),
        (false, true) => port.at("name").reasons(port_name(name)),
        (true, false) => {
            if let Some(why) = port_number(number) {
                port.at("number").invalid(why);
            }
        }
    }
}

/// A reference to an object of any kind in the same namespace.
fn local_reference(r: &Field<'_>) {
    if r.has("apiGroup") {
        r.at("apiGroup").reasons(names::dns1123_subdomain(r.text("apiGroup")));
    }
    for member in ["kind", "name"] {
        if r.needs(member) {
            r.at(member).reasons(names::path_segment(r.text(member)));
        }
    }
}

/// Create and update of an IngressClass.
pub fn check_class(o: &Field<'_>, old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    if let Some(old) = old
        && spec.text("controller") != old.str_at("/spec/controller").unwrap_or_default()
    {
        spec.errs.at("controller").invalid(spec.text("controller"), "field is immutable");
    }
    let controller = spec.text("controller");
    if controller.len() > CONTROLLER_MAX {
        spec.errs.at("controller").too_long(CONTROLLER_MAX);
    }
    domain_prefixed_path(&Field {
        value: spec.value.get("controller").unwrap_or(&Value::Null),
        errs: spec.errs.at("controller"),
    });
    let parameters = spec.at("parameters");
    if parameters.value.is_null() {
        return;
    }
    local_reference(&parameters);
    let namespace = parameters.at("namespace");
    match parameters.value.get("scope").and_then(Value::as_str) {
        None => parameters.errs.at("scope").required(""),
        Some("Namespace") if namespace.value.is_null() => {
            namespace.errs.required("`parameters.scope` is set to 'Namespace'");
        }
        Some("Namespace") => namespace.reasons(names::dns1123_label(namespace.as_text())),
        Some("Cluster") if !namespace.value.is_null() => {
            namespace.errs.forbidden("`parameters.scope` is set to 'Cluster'");
        }
        Some("Cluster") => {}
        Some(other) => parameters.errs.at("scope").not_supported(other, &["Cluster", "Namespace"]),
    }
}

/// The hosts of the rules; `*` when there are none.
pub fn hosts(o: &Value) -> String {
    let all: Vec<&str> =
        o.items_at("/spec/rules").iter().filter_map(|r| r.str_at("/host")).filter(|h| !h.is_empty()).collect();
    match all.len() {
        0 => "*".to_owned(),
        n if n <= HOSTS_SHOWN => all.join(","),
        n => format!("{} + {} more...", all[..HOSTS_SHOWN].join(","), n - HOSTS_SHOWN),
    }
}

/// Where the controller serves it.
pub fn addresses(o: &Value) -> String {
    let one = |i: &Value| {
        let ip = i.str_at("/ip").unwrap_or_default().to_owned();
        if ip.is_empty() { i.str_at("/hostname").unwrap_or_default().to_owned() } else { ip }
    };
    let all: Vec<String> =
        o.items_at("/status/loadBalancer/ingress").iter().map(one).filter(|t| !t.is_empty()).collect();
    all.join(",")
}

/// `Kind.group/name`.
pub fn parameters_cell(o: &Value) -> String {
    let Some(p) = o.get_at("/spec/parameters") else { return NONE.to_owned() };
    let text = |k: &str| p.get(k).and_then(Value::as_str).unwrap_or_default();
    match text("apiGroup") {
        "" => format!("{}/{}", text("kind"), text("name")),
        group => format!("{}.{group}/{}", text("kind"), text("name")),
    }
}
