//! PodSecurity: what pods of a namespace may ask of the node, by the namespace's labels.
//!
//! Rules: upstream `k8s.io/pod-security-admission`, the newest version of each level whatever version a label names.

use serde_json::Value;

use crate::api::audit::{annotate, is_collecting};
use crate::api::object::Object;
use crate::api::status::{ApiResult, Cause, Status};
use crate::registry::{Admission, View};

use super::pod_standards::{self, Level};
use super::{Plugin, name_of, refuse};

const PREFIX: &str = "pod-security.kubernetes.io/";

/// The plugin.
pub struct PodSecurity;

impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn validate(&self, a: &Admission<'_>, new: Option<&Value>, old: Option<&Value>, view: &dyn View) -> ApiResult<()> {
        let Some(new) = new.filter(|_| matches!(a.operation, "CREATE" | "UPDATE")) else { return Ok(()) };
        if a.is("", "namespaces") && a.subresource.is_empty() {
            labels(a, new, old)?;
            tell_of_existing(a, new, old, view);
            return Ok(());
        }
        let Some(path) = spec_path(a) else { return Ok(()) };
        let Some(namespace) = view.get("", "namespaces", "", &a.target.namespace) else { return Ok(()) };
        let Some(spec) = new.pointer(path).filter(|s| !s.is_null()) else { return Ok(()) };
        let is_pod = a.is("", "pods");
        if is_pod && old.is_some_and(|old| old.pointer(path) == Some(spec)) {
            return Ok(());
        }
        let metadata =
            path.strip_suffix("/spec").and_then(|p| new.pointer(&format!("{p}/metadata"))).unwrap_or(&Value::Null);
        let broken = |mode: &str| -> Option<String> {
            let level = level_of(&namespace, mode);
            let found = pod_standards::violations(metadata, spec, level);
            (!found.is_empty()).then(|| {
                let version = namespace.meta.label(&format!("{PREFIX}{mode}-version")).unwrap_or("latest");
                format!("violates PodSecurity \"{}:{version}\": {}", level.name(), found.join(", "))
            })
        };
        if is_pod {
            annotate(|| {
                let version = namespace.meta.label(&format!("{PREFIX}enforce-version")).unwrap_or("latest");
                (format!("{PREFIX}enforce-policy"), format!("{}:{version}", level_of(&namespace, "enforce").name()))
            });
        }
        if is_collecting()
            && let Some(why) = broken("audit")
        {
            let why = format!("would {}", why.replacen("violates", "violate", 1));
            annotate(|| (format!("{PREFIX}audit-violations"), why));
        }
        if is_pod && let Some(why) = broken("enforce") {
            return Err(refuse(a, name_of(new), why));
        }
        if let Some(why) = broken("warn") {
            a.cx.warn(format!("would {}", why.replacen("violates", "violate", 1)));
        }
        Ok(())
    }
}

/// Where the pod's spec stands in objects that hold one.
fn spec_path(a: &Admission<'_>) -> Option<&'static str> {
    let info = &a.resource.info;
    if !a.subresource.is_empty() {
        return None;
    }
    match (&*info.gvk.group, &*info.plural) {
        ("", "pods") => Some("/spec"),
        ("", "replicationcontrollers") => Some("/spec/template/spec"),
        ("", "podtemplates") => Some("/template/spec"),
        ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets") | ("batch", "jobs") => {
            Some("/spec/template/spec")
        }
        ("batch", "cronjobs") => Some("/spec/jobTemplate/spec/template/spec"),
        _ => None,
    }
}

fn level_of(namespace: &Object, mode: &str) -> Level {
    let text = namespace.meta.label(&format!("{PREFIX}{mode}")).unwrap_or_default();
    Level::parse(text).unwrap_or(if text.is_empty() { Level::Privileged } else { Level::Restricted })
}

/// Most pods that are looked at when a namespace becomes stricter.
const EXISTING_MAX: usize = 3000;

/// Warns of pods that a new level would not have let in.
fn tell_of_existing(a: &Admission<'_>, new: &Value, old: Option<&Value>, view: &dyn View) {
    let Some(old) = old else { return };
    let label = |o: &Value, key: &str| o["metadata"]["labels"][format!("{PREFIX}{key}")].as_str().map(str::to_owned);
    let level = label(new, "enforce").and_then(|l| Level::parse(&l)).unwrap_or(Level::Privileged);
    let before = label(old, "enforce").and_then(|l| Level::parse(&l)).unwrap_or(Level::Privileged);
    if level <= before {
        return;
    }
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for pod in view.list("", "pods", Some(&a.target.name)).into_iter().take(EXISTING_MAX) {
        let body = pod.value();
        let found = pod_standards::violations(&body["metadata"], &body["spec"], level);
        if found.is_empty() {
            continue;
        }
        let rules: Vec<&str> = found.iter().map(|f| f.split(" (").next().unwrap_or(f)).collect();
        let text = rules.join(", ");
        match groups.iter_mut().find(|(t, _)| *t == text) {
            Some((_, pods)) => pods.push(pod.meta.name.clone()),
            None => groups.push((text, vec![pod.meta.name.clone()])),
        }
    }
    if groups.is_empty() {
        return;
    }
    let version = label(new, "enforce-version").unwrap_or_else(|| "latest".to_owned());
    a.cx.warn(format!(
        "existing pods in namespace {:?} violate the new PodSecurity enforce level \"{}:{version}\"",
        a.target.name,
        level.name()
    ));
    for (text, pods) in groups {
        let more = match pods.len() - 1 {
            0 => String::new(),
            1 => " (and 1 other pod)".to_owned(),
            n => format!(" (and {n} other pods)"),
        };
        a.cx.warn(format!("{}{more}: {text}", pods[0]));
    }
}

/// Refuses labels that say no level or version, where they are new.
fn labels(a: &Admission<'_>, new: &Value, old: Option<&Value>) -> ApiResult<()> {
    let mut causes = Vec::new();
    for mode in ["enforce", "audit", "warn"] {
        for (suffix, ok, why) in [
            ("", is_level as fn(&str) -> bool, "must be one of privileged, baseline, restricted"),
            ("-version", is_version, "must be \"latest\" or \"v1.x\""),
        ] {
            let key = format!("{PREFIX}{mode}{suffix}");
            let of = |o: &Value| o["metadata"]["labels"][&key].as_str().map(str::to_owned);
            let Some(value) = of(new).filter(|v| !ok(v)) else { continue };
            if old.and_then(of).as_ref() == Some(&value) {
                continue;
            }
            causes.push(Cause {
                reason: "FieldValueInvalid",
                message: format!("Invalid value: {value:?}: {why}"),
                field: format!("metadata.labels[{key}]"),
            });
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(Status::invalid("", &a.resource.info.gvk.kind, name_of(new), causes)) }
}

fn is_level(text: &str) -> bool {
    Level::parse(text).is_some()
}

fn is_version(text: &str) -> bool {
    text == "latest"
        || text.strip_prefix("v1.").is_some_and(|minor| {
            !minor.is_empty() && minor.bytes().all(|c| c.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'))
        })
}
