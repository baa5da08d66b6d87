//! Claims of devices, their templates, and classes of devices.
//!
//! Rules: upstream `pkg/apis/resource/validation`.

use serde_json::Value;

use crate::api::cel::{Type, device};
use crate::api::meta::names;
use crate::registry::errors::FieldErrors;
use crate::registry::strategy::HookCx;
use crate::registry::validate::cel;
use crate::registry::validate::volume_sources::csi_driver;
use crate::registry::validate::{Field, meta, resources};

/// Requests, constraints and configurations of one claim.
const LIST_MAX: usize = 32;
/// Choices of one request.
const CHOICES_MAX: usize = 8;
/// Longest name of a driver, bytes.
const DRIVER_MAX: usize = 63;
/// Longest name of an attribute, bytes, less its domain.
const IDENTIFIER_MAX: usize = 32;
/// Longest configuration for a driver, bytes.
const PARAMETERS_MAX_BYTES: usize = 10 * 1024;

/// Create and update of a ResourceClaim.
pub fn check(o: &Field<'_>, old: Option<&Value>, _cx: &HookCx<'_>) {
    match old {
        Some(old) => o.immutable_amounts("spec", old, "resource.v1.ResourceClaim"),
        None => spec(&o.at("spec")),
    }
}

/// Create and update of a ResourceClaimTemplate.
pub fn check_template(o: &Field<'_>, old: Option<&Value>, _cx: &HookCx<'_>) {
    meta::of_template(&o.at("spec").at("metadata"));
    spec(&o.at("spec").at("spec"));
    if let Some(old) = old {
        o.immutable_amounts("spec", old, "resource.v1.ResourceClaimTemplate");
    }
}

/// Create and update of a DeviceClass.
pub fn check_class(o: &Field<'_>, _old: Option<&Value>, _cx: &HookCx<'_>) {
    let spec = o.at("spec");
    selectors(&spec);
    bounded(&spec, "config", LIST_MAX);
    spec.items("config").for_each(|c| opaque(&c));
    if spec.has("extendedResourceName") && !resources::is_extended(spec.text("extendedResourceName")) {
        spec.at("extendedResourceName").invalid("must be a valid extended resource name");
    }
}

fn bounded(o: &Field<'_>, list: &str, max: usize) {
    if o.count(list) > max {
        o.errs.at(list).too_many(o.count(list), max);
    }
}

fn spec(spec: &Field<'_>) {
    let devices = spec.at("devices");
    for list in ["requests", "constraints", "config"] {
        bounded(&devices, list, LIST_MAX);
    }
    let mut known: Vec<String> = Vec::new();
    for r in devices.items("requests") {
        request(&r, &mut known);
    }
    for constraint in devices.items("constraints") {
        references(&constraint, &known);
        match (constraint.has("matchAttribute"), constraint.has("distinctAttribute")) {
            (true, _) => attribute(&constraint.at("matchAttribute")),
            (_, true) => attribute(&constraint.at("distinctAttribute")),
            _ => constraint.errs.required("exactly one of `matchAttribute` or `distinctAttribute` is required"),
        }
    }
    for config in devices.items("config") {
        references(&config, &known);
        opaque(&config);
    }
}

/// `domain/name`.
fn attribute(field: &Field<'_>) {
    qualified(field.as_text(), &field.errs);
    if !field.as_text().contains('/') {
        field.invalid("a fully qualified name must be a domain and a name separated by a slash");
    }
}

/// `name` or `domain/name`, where the name is an identifier of C. Errors stand at one place, the parts are not told apart.
pub fn qualified(text: &str, errs: &FieldErrors) {
    match text.split('/').collect::<Vec<_>>()[..] {
        [name] => identifier(name, errs),
        [domain, name] => {
            if domain.is_empty() {
                errs.invalid("", "the domain must not be empty");
            } else {
                if domain.len() > DRIVER_MAX {
                    errs.too_long(DRIVER_MAX);
                }
                errs.all_invalid(domain, names::dns1123_subdomain(&domain.to_lowercase()));
            }
            if name.is_empty() {
                errs.invalid("", "the name must not be empty");
            } else {
                identifier(name, errs);
            }
        }
        _ => {}
    }
}

fn identifier(name: &str, errs: &FieldErrors) {
    if name.len() > IDENTIFIER_MAX {
        errs.too_long(IDENTIFIER_MAX);
    }
    let first = name.bytes().next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_');
    if !first || !name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_') {
        errs.invalid(name, "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'");
    }
}

fn request(r: &Field<'_>, known: &mut Vec<String>) {
    let name = r.text("name");
    r.errs.at("name").all_invalid(name, names::dns1123_label(name));
    if known.iter().any(|k| k == name) {
        r.errs.duplicate(name);
    }
    known.push(name.to_owned());
    match (r.has("exactly"), r.count("firstAvailable") > 0) {
        (true, true) => r.invalid("exactly one of `exactly` or `firstAvailable` is required"),
        (false, false) => r.errs.required("exactly one of `exactly` or `firstAvailable` is required"),
        (true, false) => device(&r.at("exactly")),
        (false, true) => {
            bounded(r, "firstAvailable", CHOICES_MAX);
            let mut seen = Vec::new();
            for choice in r.items("firstAvailable") {
                let sub = choice.text("name");
                choice.errs.at("name").all_invalid(sub, names::dns1123_label(sub));
                if seen.contains(&sub) {
                    choice.errs.duplicate(sub);
                }
                seen.push(sub);
                known.push(format!("{name}/{sub}"));
                device(&choice);
            }
        }
    }
}

fn device(d: &Field<'_>) {
    if d.needs("deviceClassName") {
        d.at("deviceClassName").reasons(names::dns1123_subdomain(d.text("deviceClassName")));
    }
    selectors(d);
    let count = d.int("count").unwrap_or(0);
    match d.text("allocationMode") {
        "ExactCount" if count <= 0 => d.errs.at("count").invalid(count, "must be greater than zero"),
        "ExactCount" => {}
        "All" if count != 0 => d.errs.at("count").invalid(count, "must not be specified when allocationMode is 'All'"),
        "All" => {}
        other => d.errs.at("allocationMode").not_supported(other, &["All", "ExactCount"]),
    }
    for t in d.items("tolerations") {
        let key = t.text("key");
        if !key.is_empty() {
            t.at("key").reasons(names::qualified_name(key));
        }
        match t.text("operator") {
            "Exists" if !t.text("value").is_empty() => {
                t.at("value").invalid("must be empty for operator `Exists`");
            }
            "Exists" => {}
            "Equal" => t.errs.at("value").all_invalid(t.text("value"), names::label_value(t.text("value"))),
            "" => t.errs.at("operator").required(""),
            other => t.errs.at("operator").not_supported(other, &["Equal", "Exists"]),
        }
        if !t.text("effect").is_empty() {
            t.one_of("effect", &["NoExecute", "NoSchedule", "None"]);
        }
    }
}

fn selectors(o: &Field<'_>) {
    bounded(o, "selectors", LIST_MAX);
    let env = device::env();
    for s in o.items("selectors") {
        let cel = s.at("cel");
        if cel.value.is_null() {
            cel.errs.required("");
        } else {
            cel::check(&cel.at("expression"), &env, &[Type::Bool]);
        }
    }
}

/// Names of requests, of this claim.
fn references(o: &Field<'_>, known: &[String]) {
    bounded(o, "requests", LIST_MAX);
    let mut seen = Vec::new();
    for r in o.items("requests") {
        let text = r.as_text();
        let parts = text.split('/').count();
        if parts <= 2 {
            text.split('/').for_each(|part| r.reasons(names::dns1123_label(part)));
        }
        if parts > 2 || !known.iter().any(|k| k == text) {
            r.invalid(
                "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
            );
        }
        if seen.contains(&text) {
            r.errs.duplicate(text);
        }
        seen.push(text);
    }
}

/// A configuration for a driver.
fn opaque(config: &Field<'_>) {
    let o = config.at("opaque");
    if o.value.is_null() {
        o.errs.required("");
        return;
    }
    csi_driver(&o, "driver");
    let parameters = o.at("parameters");
    match parameters.value {
        Value::Null => parameters.errs.required(""),
        Value::Object(_) => {
            if parameters.value.to_string().len() > PARAMETERS_MAX_BYTES {
                parameters.errs.too_long(PARAMETERS_MAX_BYTES);
            }
        }
        _ => parameters.invalid("must be a valid JSON object"),
    }
}
