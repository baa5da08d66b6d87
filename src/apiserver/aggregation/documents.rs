//! Discovery of what is served elsewhere, put among the server's own. Pure.
//!
//! Rules: upstream `kube-aggregator/pkg/apiserver/handler_apis.go`, `handler_discovery.go` and
//! `apiserver/pkg/endpoints/discovery/aggregated`.

use std::cmp::Reverse;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::api::meta::gvk::join;
use crate::api::value::ValueExt;
use crate::apiserver::discovery::{self, version_priority};

use super::Extension;
use crate::util::order::Arrange;

/// Priority of the groups of definitions, and of what is served here otherwise.
const DEFINED: i64 = 1000;

/// Adds the groups to `APIGroupList`.
pub fn into_group_list(list: &mut Value, extensions: &[Arc<Extension>]) {
    let Some(groups) = list.get_mut("groups").and_then(Value::as_array_mut) else { return };
    for e in extensions {
        match groups.iter_mut().find(|g| g.str_at("/name") == Some(&e.remote.group)) {
            Some(group) => add_version(group, &e.remote.group, &e.remote.version),
            None => groups.push(new_group(e)),
        }
    }
    sort(groups, "/name", extensions);
}

/// The document of one group.
pub fn into_group(own: Option<Value>, name: &str, extensions: &[Arc<Extension>]) -> Option<Value> {
    let mut group = own;
    for e in extensions.iter().filter(|e| e.remote.group == name) {
        match &mut group {
            Some(group) => add_version(group, name, &e.remote.version),
            None => {
                let mut made = json!({"kind": "APIGroup", "apiVersion": "v1"});
                if let (Some(made), Value::Object(rest)) = (made.as_object_mut(), new_group(e)) {
                    made.extend(rest);
                }
                group = Some(made);
            }
        }
    }
    group
}

/// Adds the groups to the aggregated form of `/apis`.
pub fn into_aggregated(list: &mut Value, extensions: &[Arc<Extension>]) {
    let Some(items) = list.get_mut("items").and_then(Value::as_array_mut) else { return };
    for e in extensions {
        let learned = e.learned.load();
        let version = json!({"version": e.remote.version, "resources": resources(&learned.resources, &e.remote.group),
            "freshness": if e.remote.available { "Current" } else { "Stale" }});
        let item = match items.iter_mut().find(|i| i.str_at("/metadata/name") == Some(&e.remote.group)) {
            Some(item) => item,
            None => {
                items.push(json!({"metadata": {"name": e.remote.group}, "versions": []}));
                items.last_mut().expect("just pushed")
            }
        };
        if let Some(versions) = item.get_mut("versions").and_then(Value::as_array_mut) {
            versions.retain(|v| v.str_at("/version") != Some(&e.remote.version));
            versions.push(version);
            let rank = |v: &Value| Reverse(version_priority(v.str_at("/version").unwrap_or_default()));
            versions.arrange_by_key(rank);
        }
    }
    sort(items, "/metadata/name", extensions);
}

/// The server's own groups keep their places; what others added comes by its priority, then by its name.
fn sort(groups: &mut [Value], name: &str, extensions: &[Arc<Extension>]) {
    let rank = |group: &Value| {
        let name = group.str_at(name).unwrap_or_default();
        if discovery::is_builtin(name) {
            return (0, Reverse(0), String::new());
        }
        let theirs = extensions.iter().filter(|e| e.remote.group == name).map(|e| e.remote.group_priority).max();
        (1, Reverse(theirs.unwrap_or(DEFINED)), name.to_owned())
    };
    // Stable: the order of those that are built in is upstream's already.
    groups.arrange_by_key(rank);
}

fn new_group(e: &Extension) -> Value {
    let version = group_version(&e.remote.group, &e.remote.version);
    json!({"name": e.remote.group, "versions": [version], "preferredVersion": version})
}

fn group_version(group: &str, version: &str) -> Value {
    json!({"groupVersion": join(group, version), "version": version})
}

fn add_version(group: &mut Value, name: &str, version: &str) {
    let Some(versions) = group.get_mut("versions").and_then(Value::as_array_mut) else { return };
    if versions.iter().all(|v| v.str_at("/version") != Some(version)) {
        versions.push(group_version(name, version));
        versions.arrange_by_key(|v| Reverse(version_priority(v.str_at("/version").unwrap_or_default())));
    }
    group["preferredVersion"] = group["versions"][0].clone();
}

/// Resources of an `APIResourceList` in the aggregated form.
fn resources(list: &Value, group: &str) -> Vec<Value> {
    let of_kind = |r: &Value| {
        let own = r.str_at("/group").filter(|g| !g.is_empty()).unwrap_or(group);
        json!({"group": own, "version": r.str_at("/version").unwrap_or_default(), "kind": r["kind"]})
    };
    let mut made: Vec<Value> = Vec::new();
    let (parents, subresources): (Vec<&Value>, Vec<&Value>) =
        list.items_at("/resources").iter().partition(|r| !r.str_at("/name").unwrap_or_default().contains('/'));
    for r in parents {
        let scope = if r.bool_at("/namespaced") == Some(true) { "Namespaced" } else { "Cluster" };
        let mut item = Map::new();
        item.insert("resource".into(), r["name"].clone());
        item.insert("responseKind".into(), of_kind(r));
        item.insert("scope".into(), scope.into());
        item.insert("singularResource".into(), r.str_at("/singularName").unwrap_or_default().into());
        item.insert("verbs".into(), r["verbs"].clone());
        for member in ["shortNames", "categories"] {
            if let Some(names) = r.get(member).filter(|n| !n.is_null()) {
                item.insert(member.into(), names.clone());
            }
        }
        made.push(Value::Object(item));
    }
    for s in subresources {
        let (parent, name) = s.str_at("/name").unwrap_or_default().split_once('/').unwrap_or_default();
        if let Some(item) = made.iter_mut().find(|m| m.str_at("/resource") == Some(parent)) {
            let sub = json!({"subresource": name, "responseKind": of_kind(s), "verbs": s["verbs"]});
            match item.get_mut("subresources").and_then(Value::as_array_mut) {
                Some(all) => all.push(sub),
                None => item["subresources"] = json!([sub]),
            }
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::aggregation::plan::Remote;

    fn extension(group: &str, version: &str, priority: i64) -> Arc<Extension> {
        let object = json!({"metadata": {"name": format!("{version}.{group}")}, "spec": {"group": group, "version": version,
            "groupPriorityMinimum": priority, "service": {"namespace": "n", "name": "s"}}});
        let list = json!({"resources": [
            {"name": "pods", "singularName": "pod", "namespaced": true, "kind": "PodMetrics", "verbs": ["get"]},
            {"name": "pods/status", "kind": "PodMetrics", "verbs": ["get"]}]});
        Extension::unconnected(Remote::of(&object).unwrap(), list)
    }

    #[test]
    fn groups_come_by_priority_behind_the_servers_own() {
        let extensions =
            [extension("low.io", "v1", 100), extension("high.io", "v1", 2000), extension("crd.io", "v2", 100)];
        let mut list = json!({"groups": [{"name": "apps"}, {"name": "batch"}, {"name": "crd.io",
            "versions": [{"groupVersion": "crd.io/v1", "version": "v1"}]}]});
        into_group_list(&mut list, &extensions);
        let names: Vec<&str> = list.items_at("/groups").iter().filter_map(|g| g.str_at("/name")).collect();
        assert_eq!(names, ["apps", "batch", "high.io", "crd.io", "low.io"]);
        assert_eq!(list["groups"][3]["preferredVersion"]["version"], "v2");
        let one = into_group(None, "low.io", &extensions).unwrap();
        assert_eq!((&one["kind"], &one["versions"][0]["groupVersion"]), (&json!("APIGroup"), &json!("low.io/v1")));
        assert_eq!(into_group(None, "none.io", &extensions), None);
    }

    #[test]
    fn resources_have_their_subresources() {
        let mut list = json!({"items": []});
        into_aggregated(&mut list, &[extension("m.io", "v1", 100)]);
        let version = &list["items"][0]["versions"][0];
        assert_eq!((&version["version"], &version["freshness"]), (&json!("v1"), &json!("Stale")));
        let pods = &version["resources"][0];
        assert_eq!((&pods["resource"], &pods["scope"]), (&json!("pods"), &json!("Namespaced")));
        assert_eq!(
            (&pods["responseKind"]["group"], &pods["subresources"][0]["subresource"]),
            (&json!("m.io"), &json!("status"))
        );
    }
}
