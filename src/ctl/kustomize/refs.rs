//! What was renamed is renamed where it is named.
//!
//! Rules: upstream's default name references, `kustomize/api/internal/konfig/builtinpluginconsts/namereference.go`.

use serde_json::Value;

use super::Resource;
use super::fields::{each, pod_spec};
use crate::api::value::ValueExt;

/// A field of a kind that names an object of another kind.
struct Reference {
    /// Kinds that are named.
    to: &'static str,
    /// The kind that names; empty for whatever has pods.
    of: &'static str,
    /// Where.
    path: &'static str,
}

const fn row(to: &'static str, of: &'static str, path: &'static str) -> Reference {
    Reference { to, of, path }
}

/// References by name alone. Paths of pods are those below their spec.
const REFERENCES: &[Reference] = &[
    row("ConfigMap", "", "volumes/configMap/name"),
    row("ConfigMap", "", "volumes/projected/sources/configMap/name"),
    row("ConfigMap", "", "CONTAINERS/env/valueFrom/configMapKeyRef/name"),
    row("ConfigMap", "", "CONTAINERS/envFrom/configMapRef/name"),
    row("Secret", "", "volumes/secret/secretName"),
    row("Secret", "", "volumes/projected/sources/secret/name"),
    row("Secret", "", "volumes/csi/nodePublishSecretRef/name"),
    row("Secret", "", "CONTAINERS/env/valueFrom/secretKeyRef/name"),
    row("Secret", "", "CONTAINERS/envFrom/secretRef/name"),
    row("Secret", "", "imagePullSecrets/name"),
    row("PersistentVolumeClaim", "", "volumes/persistentVolumeClaim/claimName"),
    row("ServiceAccount", "", "serviceAccountName"),
    row("ServiceAccount", "", "serviceAccount"),
    row("PriorityClass", "", "priorityClassName"),
    row("Secret", "Ingress", "spec/tls/secretName"),
    row("Secret", "ServiceAccount", "imagePullSecrets/name"),
    row("Secret", "ServiceAccount", "secrets/name"),
    row("Service", "StatefulSet", "spec/serviceName"),
    row("Service", "Ingress", "spec/rules/http/paths/backend/service/name"),
    row("Service", "Ingress", "spec/defaultBackend/service/name"),
    row("Service", "APIService", "spec/service/name"),
    row("Service", "ValidatingWebhookConfiguration", "webhooks/clientConfig/service/name"),
    row("Service", "MutatingWebhookConfiguration", "webhooks/clientConfig/service/name"),
    row("StorageClass", "PersistentVolume", "spec/storageClassName"),
    row("StorageClass", "PersistentVolumeClaim", "spec/storageClassName"),
    row("StorageClass", "StatefulSet", "spec/volumeClaimTemplates/spec/storageClassName"),
    row("PersistentVolume", "PersistentVolumeClaim", "spec/volumeName"),
    row("IngressClass", "Ingress", "spec/ingressClassName"),
];
/// Objects that name others by kind and name.
const TYPED: [(&str, &str); 4] = [
    ("HorizontalPodAutoscaler", "spec/scaleTargetRef"),
    ("RoleBinding", "roleRef"),
    ("ClusterRoleBinding", "roleRef"),
    ("VerticalPodAutoscaler", "spec/targetRef"),
];
const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// Names and namespaces before a change, in the order of the objects.
#[derive(Debug)]
pub struct Names(Vec<(String, String, String)>);

impl Names {
    /// Those of now.
    pub fn of(all: &[Resource]) -> Self {
        let names = |r: &Resource| (r.kind().to_owned(), r.name().to_owned(), r.namespace().to_owned());
        Self(all.iter().map(names).collect())
    }
}

/// What objects were called and are called now.
struct Renamed {
    kind: String,
    /// What it was called before the change, and, less closely, ever.
    last: String,
    all: Vec<String>,
    was_in: Vec<String>,
    name: String,
    ns: String,
}

/// Brings references up to date. `before` are the names that the references use, those of the first objects of `all`.
pub fn follow(all: &mut [Resource], before: &Names) {
    let renamed: Vec<Renamed> = all
        .iter()
        .map(|r| {
            // A patch may have removed objects: each is found by a name that it had.
            let was = before.0.iter().find(|(kind, name, ns)| kind == r.kind() && r.is_called(name) && r.is_in(ns));
            let ns = was.map_or(r.namespace(), |(_, _, ns)| ns).to_owned();
            Renamed {
                kind: r.kind().to_owned(),
                last: was.map_or(r.name(), |(_, name, _)| name).to_owned(),
                all: r.names.clone(),
                was_in: [vec![ns, r.namespace().to_owned()], r.namespaces.clone()].concat(),
                name: r.name().to_owned(),
                ns: r.namespace().to_owned(),
            }
        })
        .collect();
    for resource in all {
        one(resource, &renamed);
    }
}

/// The object that is meant; none where none is, or where it could be several.
fn find<'a>(renamed: &'a [Renamed], kind: &str, name: &str, ns: Option<&str>) -> Option<&'a Renamed> {
    let fits = |r: &&Renamed| {
        r.kind == kind && ns.is_none_or(|ns| CLUSTER.contains(&kind) || r.was_in.iter().any(|n| n == ns))
    };
    let only = |found: Vec<&'a Renamed>| if let [one] = found[..] { Some(one) } else { None };
    let close: Vec<&Renamed> = renamed.iter().filter(fits).filter(|r| r.last == name).collect();
    if !close.is_empty() {
        return only(close);
    }
    only(renamed.iter().filter(fits).filter(|r| r.name == name || r.all.iter().any(|n| n == name)).collect())
}

/// Kinds that are named from every namespace.
const CLUSTER: [&str; 5] = ["ClusterRole", "PriorityClass", "StorageClass", "PersistentVolume", "IngressClass"];

fn one(resource: &mut Resource, renamed: &[Renamed]) {
    let (kind, ns) = (resource.kind().to_owned(), resource.namespace().to_owned());
    // The object and what it names move together: either the old or the new namespace holds.
    let change = |to: &str, value: &mut Value| {
        let found = value
            .as_str()
            .and_then(|name| find(renamed, to, name, Some(&ns)).or_else(|| find(renamed, to, name, None)));
        if let Some(found) = found {
            *value = found.name.clone().into();
        }
    };
    for reference in REFERENCES {
        let paths: Vec<String> = match (reference.of, pod_spec(&kind)) {
            ("", Some(spec)) => match reference.path.strip_prefix("CONTAINERS") {
                Some(rest) => CONTAINERS.iter().map(|c| format!("{spec}/{c}{rest}")).collect(),
                None => vec![format!("{spec}/{}", reference.path)],
            },
            (of, _) if of == kind => vec![reference.path.to_owned()],
            _ => continue,
        };
        for path in paths {
            each(&mut resource.object, &path, false, &mut |value| change(reference.to, value));
        }
    }
    for (_, path) in TYPED.iter().filter(|(of, _)| *of == kind) {
        each(&mut resource.object, path, false, &mut |target| {
            let to = target.str_at("/kind").unwrap_or_default().to_owned();
            if let Some(name) = target.get_mut("name") {
                change(&to, name);
            }
        });
    }
    if kind.ends_with("RoleBinding") {
        each(&mut resource.object, "subjects", false, &mut |subject| self::subject(subject, renamed));
    }
}

/// Subjects say the namespace too.
fn subject(subject: &mut Value, renamed: &[Renamed]) {
    if subject["kind"] != "ServiceAccount" {
        return;
    }
    let name = subject.str_at("/name").unwrap_or_default();
    if let Some(found) = find(renamed, "ServiceAccount", name, subject.str_at("/namespace")) {
        let explicit = subject.get("namespace").is_some() || found.ns != "default";
        subject["name"] = found.name.clone().into();
        if explicit {
            subject["namespace"] = found.ns.clone().into();
        }
    }
}
