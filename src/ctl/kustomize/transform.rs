//! What a kustomization changes in all of its objects: namespace, names, labels, annotations, replicas, images.
//!
//! Rules: upstream's default field specs, `kustomize/api/internal/konfig/builtinpluginconsts`.

use serde_json::{Map, Value};

use super::fields::{each, template};
use super::load::Kustomization;
use super::{Resource, patch};
use crate::api::value::ValueExt;
use crate::ctl::cx::Done;
use crate::ctl::fail::fail;

/// Kinds that are in no namespace.
const CLUSTER_SCOPED: [&str; 22] = [
    "APIService",
    "CSIDriver",
    "CSINode",
    "CertificateSigningRequest",
    "ClusterRole",
    "ClusterRoleBinding",
    "ClusterTrustBundle",
    "CustomResourceDefinition",
    "DeviceClass",
    "FlowSchema",
    "IngressClass",
    "MutatingWebhookConfiguration",
    "Namespace",
    "Node",
    "PersistentVolume",
    "PriorityClass",
    "PriorityLevelConfiguration",
    "RuntimeClass",
    "StorageClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
];
/// Kinds whose name is not theirs to choose.
const KEEP_THEIR_NAME: [&str; 3] = ["APIService", "CustomResourceDefinition", "Namespace"];

/// Selectors: the kind, where, and whether one is made that is not there.
const SELECTORS: [(&str, &str, bool); 11] = [
    ("Service", "spec/selector", true),
    ("ReplicationController", "spec/selector", true),
    ("Deployment", "spec/selector/matchLabels", true),
    ("ReplicaSet", "spec/selector/matchLabels", true),
    ("DaemonSet", "spec/selector/matchLabels", true),
    ("StatefulSet", "spec/selector/matchLabels", true),
    ("Job", "spec/selector/matchLabels", false),
    ("CronJob", "spec/jobTemplate/spec/selector/matchLabels", false),
    ("PodDisruptionBudget", "spec/selector/matchLabels", false),
    ("NetworkPolicy", "spec/podSelector/matchLabels", false),
    ("NetworkPolicy", "spec/ingress/from/podSelector/matchLabels", false),
];
/// More of the same, in pods and rules.
const MORE_SELECTORS: [(&str, &str); 5] = [
    ("NetworkPolicy", "spec/egress/to/podSelector/matchLabels"),
    (
        "Deployment",
        "spec/template/spec/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution/labelSelector/matchLabels",
    ),
    (
        "Deployment",
        "spec/template/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution/labelSelector/matchLabels",
    ),
    ("Deployment", "spec/template/spec/topologySpreadConstraints/labelSelector/matchLabels"),
    ("StatefulSet", "spec/template/spec/topologySpreadConstraints/labelSelector/matchLabels"),
];

/// Changes the objects, in upstream's order.
pub fn run(kustomization: &Kustomization, all: &mut Vec<Resource>) -> Done {
    let fields = &kustomization.fields;
    let text = |field: &str| fields[field].as_str().unwrap_or_default();
    if !text("namespace").is_empty() {
        all.iter_mut().for_each(|r| namespace(r, text("namespace")));
    }
    let (prefix, suffix) = (text("namePrefix"), text("nameSuffix"));
    if !prefix.is_empty() || !suffix.is_empty() {
        for r in all.iter_mut().filter(|r| !KEEP_THEIR_NAME.contains(&r.kind())) {
            r.rename(format!("{prefix}{}{suffix}", r.name()));
        }
    }
    for r in all.iter_mut() {
        for labels in kustomization.items("labels") {
            let pairs = labels["pairs"].as_object().cloned().unwrap_or_default();
            let selectors = labels["includeSelectors"] == true;
            label(r, &pairs, selectors, selectors || labels["includeTemplates"] == true);
        }
        if let Some(pairs) = fields["commonLabels"].as_object() {
            label(r, pairs, true, true);
        }
        if let Some(pairs) = fields["commonAnnotations"].as_object() {
            annotate(r, pairs);
        }
    }
    patch::lists(kustomization, all)?;
    for entry in kustomization.items("replicas") {
        replicas(entry, all)?;
    }
    for image in kustomization.items("images") {
        all.iter_mut().for_each(|r| images(&mut r.object, image));
    }
    Ok(())
}

fn namespace(resource: &mut Resource, ns: &str) {
    if resource.kind() == "Namespace" {
        resource.rename(ns.to_owned());
    } else if !CLUSTER_SCOPED.contains(&resource.kind()) {
        resource.move_to(ns);
    }
    if resource.kind().ends_with("RoleBinding") {
        each(&mut resource.object, "subjects", false, &mut |subject| {
            if subject["kind"] == "ServiceAccount" && subject["name"] == "default" {
                subject["namespace"] = ns.into();
            }
        });
    }
}

/// Adds pairs to the map at a path.
fn put(object: &mut Value, path: &str, create: bool, pairs: &Map<String, Value>) {
    each(object, path, create, &mut |map| {
        if map.is_null() {
            *map = Value::Object(Map::new());
        }
        if let Value::Object(map) = map {
            map.extend(pairs.clone());
        }
    });
}

fn label(resource: &mut Resource, pairs: &Map<String, Value>, selectors: bool, templates: bool) {
    let kind = resource.kind().to_owned();
    let object = &mut resource.object;
    put(object, "metadata/labels", true, pairs);
    if templates {
        if let Some(template) = template(&kind) {
            put(object, &format!("{template}/metadata/labels"), true, pairs);
        }
        if kind == "CronJob" {
            put(object, "spec/jobTemplate/metadata/labels", true, pairs);
        }
        if kind == "StatefulSet" && selectors {
            put(object, "spec/volumeClaimTemplates/metadata/labels", true, pairs);
        }
    }
    if selectors {
        for (_, path, create) in SELECTORS.iter().filter(|(of, ..)| *of == kind) {
            put(object, path, *create, pairs);
        }
        for (_, path) in MORE_SELECTORS.iter().filter(|(of, _)| *of == kind) {
            put(object, path, false, pairs);
        }
    }
}

fn annotate(resource: &mut Resource, pairs: &Map<String, Value>) {
    let kind = resource.kind().to_owned();
    put(&mut resource.object, "metadata/annotations", true, pairs);
    if let Some(template) = template(&kind) {
        put(&mut resource.object, &format!("{template}/metadata/annotations"), true, pairs);
    }
    if kind == "CronJob" {
        put(&mut resource.object, "spec/jobTemplate/metadata/annotations", true, pairs);
    }
}

fn replicas(entry: &Value, all: &mut [Resource]) -> Done {
    let name = entry.str_at("/name").unwrap_or_default();
    let scaled = ["Deployment", "ReplicaSet", "ReplicationController", "StatefulSet"];
    let mut found = false;
    for r in all.iter_mut().filter(|r| scaled.contains(&r.kind()) && r.is_called(name)) {
        found = true;
        r.object.set_at("/spec/replicas", entry["count"].clone());
    }
    if !found {
        fail!(
            "resource with name {name} does not match a config with the following GVK [Deployment.[noVer].[noGrp] ReplicationController.[noVer].[noGrp] ReplicaSet.[noVer].[noGrp] StatefulSet.[noVer].[noGrp]]"
        );
    }
    Ok(())
}

/// Changes images wherever containers stand, those of custom resources too.
fn images(value: &mut Value, image: &Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| images(item, image)),
        Value::Object(map) => {
            for (key, below) in map.iter_mut() {
                if matches!(key.as_str(), "containers" | "initContainers") {
                    each(below, "image", false, &mut |text| {
                        if let Some(new) = text.as_str().and_then(|old| renamed(old, image)) {
                            *text = new.into();
                        }
                    });
                }
                images(below, image);
            }
        }
        _ => {}
    }
}

/// Name, tag and digest of an image.
fn split(text: &str) -> (&str, Option<&str>, Option<&str>) {
    let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
    // A colon before the last slash parts a port.
    match rest.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((name, tag)) => (name, Some(tag), digest),
        None => (rest, None, digest),
    }
}

/// What an image becomes; none where another one is meant.
fn renamed(old: &str, image: &Value) -> Option<String> {
    let (name, tag, digest) = split(old);
    if image.str_at("/name") != Some(name) {
        return None;
    }
    let say = |field: &str| match &image[field] {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let name = say("newName").unwrap_or_else(|| name.to_owned());
    let (tag, digest) = match (say("newTag"), say("digest")) {
        (tag, Some(digest)) => (tag, Some(digest)),
        (Some(tag), None) => (Some(tag), None),
        (None, None) => match say("tagSuffix") {
            Some(suffix) => (tag.map(|t| format!("{t}{suffix}")), None),
            None => (tag.map(str::to_owned), digest.map(str::to_owned)),
        },
    };
    let part = |sign: char, text: Option<String>| text.map_or(String::new(), |t| format!("{sign}{t}"));
    Some(format!("{name}{}{}", part(':', tag), part('@', digest)))
}
