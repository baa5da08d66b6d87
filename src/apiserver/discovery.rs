//! Discovery: what is served, made from the rows: legacy and aggregated.
//!
//! Rules: upstream `apiserver/pkg/endpoints/discovery` and the `apidiscovery.k8s.io/v2` types.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::meta::Gvk;
use crate::api::meta::gvk::join;
use crate::api::scheme::{KindInfo, Subresource};
use crate::registry::{Resource, Resources};
use crate::util::order::Arrange;

/// Groups in upstream's order of preference; those not named come last, by name.
const GROUP_ORDER: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "resource.k8s.io",
];

/// True for a group of the server's own.
pub fn is_builtin(group: &str) -> bool {
    GROUP_ORDER.contains(&group)
}

/// A group and its versions, the preferred one first.
pub struct Group {
    /// Name, empty for core.
    pub name: String,
    /// Versions and their resources.
    pub versions: Vec<(String, Vec<Arc<Resource>>)>,
}

/// All groups that are served.
pub fn groups(resources: &Resources) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for r in resources.all() {
        let gvk = &r.info.gvk;
        let at = match groups.iter().position(|g| g.name == gvk.group) {
            Some(at) => at,
            None => {
                groups.push(Group { name: gvk.group.to_string(), versions: Vec::new() });
                groups.len() - 1
            }
        };
        let versions = &mut groups[at].versions;
        match versions.iter_mut().find(|(v, _)| *v == gvk.version) {
            Some((_, list)) => list.push(r.clone()),
            None => versions.push((gvk.version.to_string(), vec![r.clone()])),
        }
    }
    let rank = |name: &str| GROUP_ORDER.iter().position(|g| *g == name).unwrap_or(GROUP_ORDER.len());
    groups.arrange_by(|a, b| rank(&a.name).cmp(&rank(&b.name)).then_with(|| a.name.cmp(&b.name)));
    for g in &mut groups {
        g.versions.arrange_by_key(|(v, _)| std::cmp::Reverse(version_priority(v)));
    }
    groups
}

/// `v2` before `v1` before `v1beta2` before `v1alpha1`: upstream's `CompareKubeAwareVersionStrings`.
pub fn version_priority(version: &str) -> (u8, u32, u32) {
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let major = rest[..end].parse().unwrap_or(0);
    let tail = &rest[end..];
    let minor = |t: &str| t.parse().unwrap_or(0);
    match tail {
        "" => (3, major, 0),
        t if t.starts_with("beta") => (2, major, minor(&t[4..])),
        t if t.starts_with("alpha") => (1, major, minor(&t[5..])),
        _ => (0, 0, 0),
    }
}

/// `GET /api`.
pub fn api_versions(server_address: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}]})
}

fn group_value(group: &Group) -> Value {
    let version = |v: &str| json!({"groupVersion": join(&group.name, v), "version": v});
    json!({
        "name": group.name,
        "versions": group.versions.iter().map(|(v, _)| version(v)).collect::<Vec<_>>(),
        "preferredVersion": group.versions.first().map(|(v, _)| version(v)),
    })
}

/// `GET /apis`.
pub fn group_list(resources: &Resources) -> Value {
    let groups: Vec<Value> = groups(resources).iter().filter(|g| !g.name.is_empty()).map(group_value).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `GET /apis/<group>`.
pub fn group(resources: &Resources, name: &str) -> Option<Value> {
    let found = groups(resources).into_iter().find(|g| g.name == name && !name.is_empty())?;
    let mut v = group_value(&found);
    v["kind"] = "APIGroup".into();
    v["apiVersion"] = "v1".into();
    Some(v)
}

/// `GET /api/v1`, `GET /apis/<group>/<version>`.
pub fn resource_list(resources: &Resources, group: &str, version: &str) -> Option<Value> {
    let groups = groups(resources);
    let (_, list) = groups.iter().find(|g| g.name == group)?.versions.iter().find(|(v, _)| v == version)?;
    let mut all: Vec<Value> = Vec::new();
    for r in list {
        all.push(legacy_resource(r));
        all.extend(r.info.subresources.iter().map(|s| legacy_subresource(&r.info, s)));
    }
    // Those of definitions come as they are made: the resource, its status, its scale.
    if list.iter().all(|r| r.custom.is_none()) {
        all.arrange_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    }
    let mut list = json!({"kind": "APIResourceList"});
    // Upstream writes the core group's list without an apiVersion.
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    list["groupVersion"] = join(group, version).into();
    list["resources"] = all.into();
    Some(list)
}

/// The verbs of a definition's kind, in upstream's order.
const CUSTOM_VERBS: [&str; 8] = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

fn verbs(r: &Resource) -> Vec<&'static str> {
    if r.custom.is_some() { CUSTOM_VERBS.to_vec() } else { r.info.verbs.names() }
}

fn legacy_resource(r: &Resource) -> Value {
    let info = &r.info;
    let mut v = json!({"name": info.plural, "singularName": info.singular, "namespaced": info.is_namespaced(),
        "kind": info.gvk.kind, "verbs": verbs(r)});
    if !info.short.is_empty() {
        v["shortNames"] = json!(info.short);
    }
    if !info.categories.is_empty() {
        v["categories"] = json!(info.categories);
    }
    if r.custom.is_none()
        && info.verbs.has(crate::api::scheme::Verbs::LIST)
        && info.verbs.has(crate::api::scheme::Verbs::WATCH)
    {
        v["storageVersionHash"] = storage_version_hash(info).into();
    }
    v
}

/// A short text that changes with the stored version, for clients that track migrations.
fn storage_version_hash(info: &KindInfo) -> String {
    use base64::Engine;
    let text = format!("{}/{}/{}", info.stored.group, info.stored_version, info.gvk.kind);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(&digest.as_ref()[..8])
}

fn legacy_subresource(info: &KindInfo, sub: &Subresource) -> Value {
    let mut v = json!({"name": format!("{}/{}", info.plural, sub.name), "singularName": "",
        "namespaced": info.is_namespaced(), "kind": info.gvk.kind, "verbs": sub.verbs.names()});
    if let Some(gvk) = &sub.gvk {
        v["kind"] = (*gvk.kind).into();
        if (&gvk.group, &gvk.version) != (&info.gvk.group, &info.gvk.version) {
            v["group"] = (*gvk.group).into();
            v["version"] = (*gvk.version).into();
        }
    }
    v
}

/// Aggregated discovery (`apidiscovery.k8s.io`): of `/api` the core group, of `/apis` all others.
pub fn aggregated(resources: &Resources, core: bool, api_version: &str) -> Value {
    let groups = groups(resources);
    let items: Vec<Value> = groups
        .iter()
        .filter(|g| g.name.is_empty() == core)
        .map(|g| {
            let versions: Vec<Value> = g.versions.iter().map(|(v, list)| version_item(v, list)).collect();
            let metadata = if g.name.is_empty() { json!({}) } else { json!({"name": g.name}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items})
}

fn version_item(version: &str, list: &[Arc<Resource>]) -> Value {
    let mut resources: Vec<Value> = list.iter().map(|r| aggregated_resource(r)).collect();
    resources.arrange_by(|a, b| a["resource"].as_str().cmp(&b["resource"].as_str()));
    json!({"version": version, "freshness": "Current", "resources": resources})
}

/// The kind of an answer; of the core group only the kind is told.
fn response_kind(gvk: &Gvk) -> Value {
    let version = if gvk.group.is_empty() { "" } else { &*gvk.version };
    json!({"group": gvk.group, "version": version, "kind": gvk.kind})
}

fn aggregated_resource(r: &Resource) -> Value {
    let info = &r.info;
    let scope = if info.is_namespaced() { "Namespaced" } else { "Cluster" };
    let full = response_kind(&info.gvk);
    let mut v = json!({"resource": info.plural, "responseKind": full, "scope": scope,
        "singularResource": info.singular, "verbs": verbs(r)});
    if !info.short.is_empty() {
        v["shortNames"] = json!(info.short);
    }
    if !info.categories.is_empty() {
        v["categories"] = json!(info.categories);
    }
    let mut subs: Vec<&Subresource> = info.subresources.iter().collect();
    subs.arrange_by(|a, b| a.name.cmp(&b.name));
    if !subs.is_empty() {
        v["subresources"] = subs
            .iter()
            .map(|s| {
                let of = response_kind;
                let response = s.gvk.as_ref().map_or(full.clone(), of);
                json!({"subresource": s.name, "responseKind": response, "verbs": s.verbs.names()})
            })
            .collect();
    }
    v
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_what_the_rows_say() {
        let r = Resources::builtin();
        let apps = resource_list(&r, "apps", "v1").unwrap();
        let names: Vec<&str> =
            apps["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
        assert!(names.contains(&"deployments") && names.contains(&"deployments/scale"));
        assert_eq!(group(&r, "autoscaling").unwrap()["preferredVersion"]["version"], "v2");
        assert!(resource_list(&r, "nope", "v1").is_none());
        assert_eq!(aggregated(&r, true, "apidiscovery.k8s.io/v2")["items"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn stable_versions_come_first() {
        let mut all = vec!["v1beta1", "v1", "v2", "v1alpha3"];
        all.sort_by_key(|v| std::cmp::Reverse(version_priority(v)));
        assert_eq!(all, ["v2", "v1", "v1beta1", "v1alpha3"]);
    }
}
