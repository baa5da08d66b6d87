//! PodSecurity: what pods of a namespace may ask of the node, by the namespace's labels.
//!
//! Rules: upstream `k8s.io/pod-security-admission`.

use serde_json::Value;

use crate::api::audit::{annotate, is_collecting};
use crate::api::object::Object;
use crate::api::status::{ApiResult, Cause, Status};
use crate::api::value::ValueExt;
use crate::registry::{Admission, View};

use super::pod_standards::{self, Level, Version};
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
        let Some(spec) = new.get_at(path).filter(|s| !s.is_null()) else { return Ok(()) };
        let is_pod = a.is("", "pods");
        if is_pod && old.is_some_and(|old| !is_significant(new, old)) {
            return Ok(());
        }
        let metadata =
            path.strip_suffix("/spec").and_then(|p| new.get_at(&format!("{p}/metadata"))).unwrap_or(&Value::Null);
        let broken = |mode: &str| -> Option<String> {
            let level = level_of(&namespace, mode);
            let asked = namespace.meta.label(&format!("{PREFIX}{mode}-version")).and_then(Version::parse);
            let found = pod_standards::violations(metadata, spec, level, asked.unwrap_or(Version::LATEST));
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

/// Subresources through which a pod gets nothing that a level could forbid.
const HARMLESS: [&str; 8] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// Where the pod's spec stands in objects that hold one.
fn spec_path(a: &Admission<'_>) -> Option<&'static str> {
    let info = &a.resource.info;
    let of_pod = a.is("", "pods") && !HARMLESS.contains(&a.subresource);
    if !a.subresource.is_empty() && !of_pod {
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

/// True for an update of a pod that may bring in something new: another image, another profile, more containers. What
/// else can change of a pod is no matter of its level.
fn is_significant(new: &Value, old: &Value) -> bool {
    const PROFILES: [&str; 2] =
        ["container.seccomp.security.alpha.kubernetes.io/", "container.apparmor.security.beta.kubernetes.io/"];
    ["containers", "initContainers", "ephemeralContainers"].iter().any(|list| {
        let of = |pod: &'_ Value| pod["spec"][*list].as_array().cloned().unwrap_or_default();
        let (now, before) = (of(new), of(old));
        let differs = |(now, before): (&Value, &Value)| {
            let name = now["name"].as_str().unwrap_or_default();
            let annotation =
                |pod: &Value, key: &str| pod["metadata"]["annotations"].get(format!("{key}{name}")).cloned();
            now["image"] != before["image"] || PROFILES.iter().any(|key| annotation(new, key) != annotation(old, key))
        };
        now.len() != before.len() || now.iter().zip(&before).any(differs)
    })
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
    let version_of =
        |o: &Value| label(o, "enforce-version").and_then(|v| Version::parse(&v)).unwrap_or(Version::LATEST);
    // Another version of the same level may be stricter.
    let stricter = level > before || level == before && version_of(new) != version_of(old);
    if level == Level::Privileged || !stricter {
        return;
    }
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for pod in view.list("", "pods", Some(&a.target.name)).into_iter().take(EXISTING_MAX) {
        let body = pod.value();
        let found = pod_standards::violations(&body["metadata"], &body["spec"], level, version_of(new));
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
    Version::parse(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test_case(|_| {}, false; "nothing")]
    #[test_case(|p| p["spec"]["tolerations"] = json!([{"operator": "Exists"}]), false; "tolerations")]
    #[test_case(|p| p["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "1"}}), false; "amounts")]
    #[test_case(|p| p["spec"]["containers"][0]["image"] = json!("j"), true; "an image")]
    #[test_case(|p| p["spec"]["ephemeralContainers"] = json!([{"name": "d", "image": "i"}]), true; "a container to debug with")]
    #[test_case(|p| p["metadata"]["annotations"] = json!({"container.apparmor.security.beta.kubernetes.io/c": "unconfined"}), true; "a profile")]
    fn significant(change: fn(&mut Value), want: bool) {
        let old = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let mut new = old.clone();
        change(&mut new);
        assert_eq!(is_significant(&new, &old), want);
    }
}
