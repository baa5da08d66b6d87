//! From what people type (`po`, `deploy.apps`, `Pod`, `deployments.v1.apps`) to a resource of the server.
//!
//! In: the server's discovery, aggregated where it has that, group by group where not. Out: [`Resource`]s in the server's
//! order of preference.
//!
//! **Invariant:** discovery is read at most once per process and never kept on disk, so that it is never stale.

use std::cell::RefCell;
use std::collections::HashSet;

use serde_json::Value;

use super::cx::{Call, Cx};
use super::fail::Failure;
use crate::api::meta::gvk;
use crate::api::value::ValueExt;
use crate::client::Res;

/// Accepts discovery in one answer, newest form first.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                          application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

/// A resource that the server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Group, version, plural, kind and scope.
    pub res: Res,
    /// `pod`.
    pub singular: String,
    /// `po`.
    pub short: Vec<String>,
    /// `all`.
    pub categories: Vec<String>,
    /// `get`, `list`, …
    pub verbs: Vec<String>,
    /// `status`, `scale`, …
    pub subresources: Vec<String>,
}

impl Resource {
    /// A resource of this kind, of which nothing else is known: no server was asked.
    pub fn unasked(api_version: &str, kind: &str) -> Self {
        let (group, version) = gvk::split(api_version);
        let plural = kind.to_lowercase() + "s";
        Self {
            res: resource_of(group, version, kind, Some(&plural), Some("Namespaced")),
            singular: kind.to_lowercase(),
            short: Vec::new(),
            categories: Vec::new(),
            verbs: Vec::new(),
            subresources: Vec::new(),
        }
    }

    /// `deployment.apps`: how kubectl names what it changed.
    pub fn kind_name(&self) -> String {
        kind_name(&self.res.group, &self.res.kind)
    }

    /// `deployments.apps`: how the server names it in errors.
    pub fn qualified(&self) -> String {
        if self.res.group.is_empty() {
            self.res.plural.to_string()
        } else {
            format!("{}.{}", self.res.plural, self.res.group)
        }
    }

    /// True when the server offers this verb for it.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// True for a name of it: plural, singular or the kind in any case, a short one in its own.
    fn is_named(&self, name: &str) -> bool {
        self.res.plural.eq_ignore_ascii_case(name)
            || self.singular.eq_ignore_ascii_case(name)
            || self.short.iter().any(|s| s == name)
            || self.res.kind.eq_ignore_ascii_case(name)
    }
}

/// `deployment.apps`, `pod`.
pub fn kind_name(group: &str, kind: &str) -> String {
    let kind = kind.to_lowercase();
    if group.is_empty() { kind } else { format!("{kind}.{group}") }
}

/// All resources of the server, in its order of preference.
#[derive(Debug, Default)]
pub struct Mapper {
    resources: Vec<Resource>,
    versions: Vec<String>,
    warned: RefCell<HashSet<String>>,
}

impl Mapper {
    /// Reads discovery.
    pub async fn discover(cx: &Cx) -> Result<Self, Failure> {
        let mut mapper = Self::default();
        for root in ["/api", "/apis"] {
            let answer = cx.call(Call::get(root).accept(AGGREGATED)).await?;
            if answer["kind"] == "APIGroupDiscoveryList" {
                mapper.take_aggregated(&answer);
            } else {
                mapper.take_legacy(cx, root, &answer).await?;
            }
        }
        Ok(mapper)
    }

    /// Made of an aggregated discovery document.
    fn take_aggregated(&mut self, list: &Value) {
        for group in list.items_at("/items") {
            let name = group.str_at("/metadata/name").unwrap_or_default();
            for version in group.items_at("/versions") {
                let v = version.str_at("/version").unwrap_or_default();
                self.versions.push(gvk::join(name, v));
                for entry in version.items_at("/resources") {
                    // A resource of subresources alone (`pods/exec` of a foreign group) has no kind of its own.
                    let Some(kind) = entry.str_at("/responseKind/kind") else { continue };
                    let res = resource_of(name, v, kind, entry.str_at("/resource"), entry.str_at("/scope"));
                    self.resources.push(Resource {
                        res,
                        singular: text(entry, "/singularResource"),
                        short: texts(entry, "/shortNames"),
                        categories: texts(entry, "/categories"),
                        verbs: texts(entry, "/verbs"),
                        subresources: entry
                            .items_at("/subresources")
                            .iter()
                            .filter_map(|s| s.str_at("/subresource").map(str::to_owned))
                            .collect(),
                    });
                }
            }
        }
    }

    async fn take_legacy(&mut self, cx: &Cx, root: &str, answer: &Value) -> Result<(), Failure> {
        let mut group_versions: Vec<String> = Vec::new();
        for version in answer.items_at("/versions").iter().filter_map(Value::as_str) {
            group_versions.push(version.to_owned());
        }
        for group in answer.items_at("/groups") {
            let names = group.items_at("/versions").iter().filter_map(|v| v.str_at("/groupVersion"));
            group_versions.extend(names.map(str::to_owned));
        }
        for gv in group_versions {
            // One group that does not answer (an aggregated server that is down) must not hide the others.
            match cx.call(Call::get(format!("{root}/{gv}"))).await {
                Ok(list) => self.take_list(&gv, &list),
                Err(failure) => eprintln!("warning: couldn't get resource list for {gv}: {failure}"),
            }
            self.versions.push(gv);
        }
        Ok(())
    }

    fn take_list(&mut self, gv: &str, list: &Value) {
        let (group, version) = gvk::split(gv);
        let start = self.resources.len();
        for entry in list.items_at("/resources") {
            let name = entry.str_at("/name").unwrap_or_default();
            if let Some((parent, sub)) = name.split_once('/') {
                if let Some(r) = self.resources[start..].iter_mut().find(|r| r.res.plural == parent) {
                    r.subresources.push(sub.to_owned());
                }
                continue;
            }
            let scope = if entry.bool_at("/namespaced") == Some(true) { "Namespaced" } else { "Cluster" };
            let kind = entry.str_at("/kind").unwrap_or_default();
            self.resources.push(Resource {
                res: resource_of(group, version, kind, Some(name), Some(scope)),
                singular: text(entry, "/singularName"),
                short: texts(entry, "/shortNames"),
                categories: texts(entry, "/categories"),
                verbs: texts(entry, "/verbs"),
                subresources: Vec::new(),
            });
        }
    }

    /// Every resource.
    pub fn all(&self) -> &[Resource] {
        &self.resources
    }

    /// Every `group/version`.
    pub fn versions(&self) -> &[String] {
        &self.versions
    }

    /// The resource that `arg` names: `pods`, `deploy.apps`, `deployments.v1.apps`, in any case.
    pub fn find(&self, arg: &str) -> Result<&Resource, Failure> {
        let mut parts = arg.splitn(2, '.');
        let name = parts.next().unwrap_or_default();
        let Some(rest) = parts.next() else {
            let found = self.pick(|r| r.is_named(name)).ok_or_else(|| unknown(name))?;
            self.warn_of_others(found, name);
            return Ok(found);
        };
        // A short name stands for the version that the server likes best, whatever version is named beside it.
        if let Some((_, group)) = rest.split_once('.').filter(|(version, _)| is_version(version))
            && let Some(found) = self.pick(|r| r.res.group == group && r.short.iter().any(|s| s == name))
        {
            return Ok(found);
        }
        if let Some((version, group)) = rest.split_once('.')
            && let Some(found) = self.pick(|r| r.res.version == version && r.res.group == group && r.is_named(name))
        {
            return Ok(found);
        }
        // `pods.v1.`: the core group spelt out.
        if let Some(version) = rest.strip_suffix('.')
            && let Some(found) = self.pick(|r| r.res.version == version && r.res.group.is_empty() && r.is_named(name))
        {
            return Ok(found);
        }
        self.pick(|r| (r.res.group == rest || r.res.group.starts_with(&format!("{rest}."))) && r.is_named(name))
            .ok_or_else(|| unknown(name))
    }

    /// What `arg` names: one resource, or all of a category that can be listed.
    pub fn expand(&self, arg: &str) -> Result<Vec<&Resource>, Failure> {
        match self.find(arg) {
            Ok(one) => Ok(vec![one]),
            Err(failure) => {
                let mut found: Vec<&Resource> = Vec::new();
                for r in self.resources.iter().filter(|r| r.categories.iter().any(|c| c == arg) && r.can("list")) {
                    if !found.iter().any(|f| f.res.group == r.res.group && f.res.plural == r.res.plural) {
                        found.push(r);
                    }
                }
                if found.is_empty() { Err(failure) } else { Ok(found) }
            }
        }
    }

    /// The resource of an object with this apiVersion and kind.
    pub fn of_kind(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        let (group, version) = gvk::split(api_version);
        self.pick(|r| r.res.group == group && r.res.version == version && r.res.kind == kind)
    }

    /// Says, once, which resources of other groups a short name could mean too.
    fn warn_of_others(&self, found: &Resource, name: &str) {
        if !found.short.iter().any(|s| s == name) || !self.warned.borrow_mut().insert(name.to_owned()) {
            return;
        }
        let mut told = vec![&found.res.group];
        for other in self.resources.iter().filter(|r| r.short.iter().any(|s| s == name)) {
            if !told.contains(&&other.res.group) {
                told.push(&other.res.group);
                let other = other.qualified();
                eprintln!("Warning: short name {name:?} could also match lower priority resource {other}");
            }
        }
    }

    fn pick(&self, matches: impl Fn(&Resource) -> bool) -> Option<&Resource> {
        self.resources.iter().find(|r| matches(r))
    }
}

/// `v1`, `v2beta1`.
fn is_version(text: &str) -> bool {
    text.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// A group or version that was named beside it is not repeated, as kubectl does not.
fn unknown(resource: &str) -> Failure {
    Failure::Plain(format!("the server doesn't have a resource type {resource:?}"))
}

fn resource_of(group: &str, version: &str, kind: &str, plural: Option<&str>, scope: Option<&str>) -> Res {
    Res {
        group: group.to_owned().into(),
        version: version.to_owned().into(),
        plural: plural.unwrap_or_default().to_owned().into(),
        kind: kind.to_owned().into(),
        namespaced: scope == Some("Namespaced"),
    }
}

fn text(value: &Value, path: &str) -> String {
    value.str_at(path).unwrap_or_default().to_owned()
}

fn texts(value: &Value, path: &str) -> Vec<String> {
    value.items_at(path).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    /// A small server: pods, services, events twice, deployments.
    pub fn sample() -> Mapper {
        let resource = |plural: &str, kind: &str, singular: &str, short: &[&str], categories: &[&str], scope: &str| {
            json!({"resource": plural, "responseKind": {"kind": kind}, "singularResource": singular, "shortNames": short,
                "categories": categories, "scope": scope, "verbs": ["get", "list"], "subresources": [{"subresource": "status"}]})
        };
        let mut mapper = Mapper::default();
        mapper.take_aggregated(&json!({"items": [
            {"metadata": {"name": ""}, "versions": [{"version": "v1", "resources": [
                resource("events", "Event", "event", &["ev"], &[], "Namespaced"),
                resource("nodes", "Node", "node", &["no"], &[], "Cluster"),
                resource("pods", "Pod", "pod", &["po"], &["all"], "Namespaced")]}]},
            {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [
                resource("deployments", "Deployment", "deployment", &["deploy"], &["all"], "Namespaced")]}]},
            {"metadata": {"name": "events.k8s.io"}, "versions": [{"version": "v1", "resources": [
                resource("events", "Event", "event", &["ev"], &[], "Namespaced")]}]}
        ]}));
        mapper
    }

    #[test_case("po", "/v1 pods")]
    #[test_case("Pod", "/v1 pods")]
    #[test_case("pods.v1.", "/v1 pods"; "core spelt out")]
    #[test_case("deploy.apps", "apps/v1 deployments")]
    #[test_case("deployments.v1.apps", "apps/v1 deployments")]
    #[test_case("ev", "/v1 events"; "the first group wins")]
    #[test_case("ev.events.k8s.io", "events.k8s.io/v1 events")]
    #[test_case("events.events", "events.k8s.io/v1 events"; "a group may be shortened at a dot")]
    fn names(arg: &str, want: &str) {
        let mapper = sample();
        let found = &mapper.find(arg).unwrap().res;
        assert_eq!(format!("{}/{} {}", found.group, found.version, found.plural), want);
    }

    #[test]
    fn categories_and_the_unknown() {
        let mapper = sample();
        let all: Vec<_> = mapper.expand("all").unwrap().iter().map(|r| r.kind_name()).collect();
        assert_eq!(all, ["pod", "deployment.apps"]);
        let text = mapper.expand("nope").unwrap_err().to_string();
        assert_eq!(text, "error: the server doesn't have a resource type \"nope\"");
        let text = mapper.find("pods.apps").unwrap_err().to_string();
        assert_eq!(text, "error: the server doesn't have a resource type \"pods\"");
    }

    #[test]
    fn legacy_lists_know_subresources() {
        let mut mapper = Mapper::default();
        mapper.take_list(
            "apps/v1",
            &json!({"resources": [
            {"name": "deployments", "kind": "Deployment", "namespaced": true, "singularName": "deployment", "verbs": ["get"]},
            {"name": "deployments/scale", "kind": "Scale", "namespaced": true, "verbs": ["get"]}]}),
        );
        assert_eq!(mapper.all().len(), 1);
        assert_eq!(mapper.all()[0].subresources, ["scale"]);
        assert!(mapper.of_kind("apps/v1", "Deployment").is_some());
    }
}
