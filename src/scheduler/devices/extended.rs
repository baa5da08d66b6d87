//! Extended resources that classes of devices stand for: what a claim for them asks for, and what of it is whose. Pure.
//!
//! A container that runs on has requests of its own. Init containers that end use what is asked for those that start after
//! them, and share one more request for what they need beyond that.
//! Upstream: `plugins/dynamicresources/extendeddynamicresources` (`createRequestsAndMappings`).

use std::collections::HashSet;

use serde_json::{Value, json};

/// Each class stands for the resource of this name with its own after it.
pub const IMPLICIT: &str = "deviceclass.resource.kubernetes.io/";
/// Says of a claim that it stands for extended resources.
pub const ANNOTATION: &str = "resource.kubernetes.io/extended-resource-claim";
/// The name of such a claim before it is made; none that the API would take.
pub const UNMADE: &str = "<extended-resources>";

/// True for a resource that a class may stand for.
pub fn is_name(name: &str) -> bool {
    let is_native = !name.contains('/') || name.contains("kubernetes.io/");
    name.starts_with(IMPLICIT) || !is_native && !name.starts_with("requests.")
}

/// A container of a pod that wants such resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub name: Box<str>,
    /// An init container that ends before the next starts.
    pub ends: bool,
    /// Which of all that it requests, the name of the resource, and how many.
    pub wants: Box<[(usize, Box<str>, usize)]>,
}

/// What a claim asks for.
#[derive(Debug, Default, PartialEq)]
pub struct Asked {
    /// Requests, as the API has them.
    pub requests: Vec<Value>,
    /// Which container gets what for which request, as the pod's status has it.
    pub mappings: Vec<Value>,
}

struct Request {
    name: String,
    count: usize,
}

/// What a container asks for of one resource, after it took what it may use of others' requests.
fn of_container(at: usize, c: &Container, resource: &str, others: &[Option<Request>]) -> (Option<Request>, Vec<Value>) {
    let mut mappings = Vec::new();
    let Some((index, _, count)) = c.wants.iter().find(|(_, name, count)| **name == *resource && *count > 0) else {
        return (None, mappings);
    };
    let mapping = |request: &str| json!({"containerName": c.name, "resourceName": resource, "requestName": request});
    let mut left = *count;
    for other in others.iter().flatten() {
        left = left.saturating_sub(other.count);
        mappings.push(mapping(&other.name));
        if left == 0 {
            return (None, mappings);
        }
    }
    let name = format!("container-{at}-request-{index}");
    mappings.push(mapping(&name));
    (Some(Request { name, count: left }), mappings)
}

/// What has to be asked for; `resources` with the class that stands for each, sorted by name.
pub fn ask(containers: &[Container], resources: &[(&str, &str)]) -> Asked {
    let mut requests: Vec<(&str, Request)> = Vec::new();
    let mut mappings: Vec<Value> = Vec::new();
    for (resource, class) in resources {
        let mut lasting: Vec<Option<Request>> = Vec::with_capacity(containers.len());
        for (at, c) in containers.iter().enumerate() {
            let (request, of) = if c.ends { (None, Vec::new()) } else { of_container(at, c, resource, &[]) };
            lasting.push(request);
            mappings.extend(of);
        }
        let (mut most, mut names, mut shared): (Option<Request>, HashSet<String>, Vec<Value>) = Default::default();
        for (at, c) in containers.iter().enumerate().filter(|(_, c)| c.ends) {
            let (request, of) = of_container(at, c, resource, &lasting[at..]);
            if let Some(request) = request {
                names.insert(request.name.clone());
                if most.as_ref().is_none_or(|m| m.count < request.count) {
                    most = Some(request);
                }
            }
            shared.extend(of);
        }
        if let Some(most) = &most {
            // One of them after the other has the same devices.
            for mapping in shared.iter_mut().filter(|m| m["requestName"].as_str().is_some_and(|n| names.contains(n))) {
                mapping["requestName"] = most.name.as_str().into();
            }
        }
        mappings.extend(shared);
        requests.extend(most.into_iter().chain(lasting.into_iter().flatten()).map(|r| (*class, r)));
    }
    requests.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    let request = |(class, r): (&str, Request)| {
        json!({"name": r.name, "exactly":
            {"deviceClassName": class, "allocationMode": "ExactCount", "count": r.count}})
    };
    Asked { requests: requests.into_iter().map(request).collect(), mappings }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::value::ValueExt;
    use test_case::test_case;

    fn container(name: &str, wants: &[(usize, usize)], ends: bool) -> Container {
        let wants = wants.iter().map(|(at, count)| (*at, "x/gpu".into(), *count)).collect();
        Container { name: name.into(), ends, wants }
    }

    #[test_case(&[("a", 1, false)], "container-0-request-0*1", "a:0"; "one")]
    #[test_case(&[("a", 0, false)], "", ""; "none")]
    #[test_case(&[("a", 1, false), ("b", 2, false)], "container-0-request-0*1 container-1-request-0*2", "a:0 b:1"; "two")]
    #[test_case(&[("i", 1, true), ("a", 2, false)], "container-1-request-0*2", "a:1 i:1"; "one that ends needs no more")]
    #[test_case(&[("i", 3, true), ("a", 2, false)], "container-0-request-0*1 container-1-request-0*2", "a:1 i:1 i:0"; "or one more")]
    #[test_case(&[("i", 3, true), ("j", 4, true), ("a", 2, false)],
        "container-1-request-0*2 container-2-request-0*2", "a:2 i:2 i:1 j:2 j:1"; "those that end share what they need more")]
    #[test_case(&[("s", 2, false), ("i", 1, true), ("a", 0, false)],
        "container-0-request-0*2 container-1-request-0*1", "s:0 i:1"; "what started before is in use")]
    fn claims_ask(containers: &[(&str, usize, bool)], requests: &str, mappings: &str) {
        let containers: Vec<Container> = containers.iter().map(|(n, w, e)| container(n, &[(0, *w)], *e)).collect();
        let got = ask(&containers, &[("x/gpu", "gpu")]);
        let request = |r: &Value| format!("{}*{}", r["name"].as_str().unwrap(), r["exactly"]["count"]);
        assert_eq!(got.requests.iter().map(request).collect::<Vec<_>>().join(" "), requests);
        let mapping = |m: &Value| {
            let at = m.str_at("/requestName").unwrap().split('-').nth(1).unwrap();
            format!("{}:{at}", m.str_at("/containerName").unwrap())
        };
        assert_eq!(got.mappings.iter().map(mapping).collect::<Vec<_>>().join(" "), mappings);
    }

    #[test]
    fn resources_are_told_by_their_place_in_the_container() {
        let c = Container {
            name: "c".into(),
            ends: false,
            wants: vec![(1, "a/one".into(), 1), (3, "b/two".into(), 2)].into(),
        };
        let got = ask(&[c], &[("a/one", "one"), ("b/two", "two")]);
        let names: Vec<_> = got.requests.iter().map(|r| (&r["name"], &r["exactly"]["deviceClassName"])).collect();
        let (a, b) = (json!("container-0-request-1"), json!("container-0-request-3"));
        assert_eq!(names, [(&a, &json!("one")), (&b, &json!("two"))]);
        assert_eq!(got.mappings[1], json!({"containerName": "c", "resourceName": "b/two", "requestName": b}));
    }

    #[test_case("example.com/gpu", true)]
    #[test_case("deviceclass.resource.kubernetes.io/gpu", true; "of a class")]
    #[test_case("kubernetes.io/x", false; "native")]
    #[test_case("hugepages-2Mi", false; "without a domain")]
    fn classes_stand_for_extended_resources(name: &str, want: bool) {
        assert_eq!(is_name(name), want);
    }
}
