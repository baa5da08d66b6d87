//! Keys of objects: `/registry/<group or "core">/<resource>/<namespace>/<name>`, and without the namespace for
//! cluster-scoped kinds.

use std::borrow::Cow;

use crate::api::meta::GroupResource;
use crate::store::Key;

/// Below this stand the objects; other keys are none of the watch cache's business.
pub const OBJECTS: &str = "/registry/";
/// Stands for the core group, whose name is empty.
const CORE: &str = "core";

/// A group as keys have it.
fn in_key(group: &str) -> &str {
    if group.is_empty() { CORE } else { group }
}

/// The key of an object; `namespace` is empty for cluster-scoped kinds.
pub fn object_key(resource: &GroupResource, namespace: &str, name: &str) -> Key {
    let group = in_key(&resource.group);
    let plural = &resource.resource;
    match namespace {
        "" => format!("{OBJECTS}{group}/{plural}/{name}").into(),
        _ => format!("{OBJECTS}{group}/{plural}/{namespace}/{name}").into(),
    }
}

/// Where the keys of a resource's objects begin.
pub(super) fn prefix(resource: &GroupResource) -> Vec<u8> {
    format!("{OBJECTS}{}/{}/", in_key(&resource.group), resource.resource).into_bytes()
}

/// The parts of an object's key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ObjectPath<'a> {
    /// Group as in the key (`core`).
    group: &'a str,
    resource: &'a str,
    /// Empty when cluster-scoped.
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

impl<'a> ObjectPath<'a> {
    /// None for a key that is no object's.
    pub(super) fn parse(key: &'a [u8]) -> Option<Self> {
        let path = std::str::from_utf8(key).ok()?.strip_prefix(OBJECTS)?;
        let mut parts = path.split('/');
        let (group, resource, first) = (parts.next()?, parts.next()?, parts.next()?);
        let (namespace, name) = match (parts.next(), parts.next()) {
            (None, _) => ("", first),
            (Some(name), None) => (first, name),
            _ => return None,
        };
        let whole = !group.is_empty() && !resource.is_empty() && !name.is_empty() && !first.is_empty();
        whole.then_some(Self { group, resource, namespace, name })
    }

    /// `group/resource` as in the key: what tells resources apart without allocating.
    pub(super) fn resource_path(&self, key: &'a [u8]) -> &'a [u8] {
        &key[OBJECTS.len()..OBJECTS.len() + self.group.len() + 1 + self.resource.len()]
    }

    pub(super) fn group_resource(&self) -> GroupResource {
        let group = if self.group == CORE { "" } else { self.group };
        GroupResource { group: Cow::Owned(group.to_owned()), resource: Cow::Owned(self.resource.to_owned()) }
    }
}

/// As [`ObjectPath::resource_path`]. Made for every look at a resource, so without the machinery of formats.
pub(super) fn resource_path(group: &str, resource: &str) -> Vec<u8> {
    [in_key(group).as_bytes(), b"/", resource.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("", "pods", "n", "a", "/registry/core/pods/n/a")]
    #[test_case("apps", "deployments", "n", "a.b", "/registry/apps/deployments/n/a.b")]
    #[test_case("", "nodes", "", "a", "/registry/core/nodes/a")]
    #[test_case("x.io", "things", "", "a:b", "/registry/x.io/things/a:b")]
    fn keys_go_both_ways(group: &'static str, resource: &'static str, namespace: &str, name: &str, want: &str) {
        let gr = GroupResource::new(group, resource);
        let key = object_key(&gr, namespace, name);
        assert_eq!(key, want);
        let path = ObjectPath::parse(&key).unwrap();
        assert_eq!((path.namespace, path.name, path.group_resource()), (namespace, name, gr.clone()));
        assert_eq!(path.resource_path(&key), &*resource_path(&gr.group, &gr.resource));
    }

    #[test_case("/registry/core/pods"; "no name")]
    #[test_case("/registry/core/pods/"; "empty name")]
    #[test_case("/registry/core/pods/a/b/c"; "too deep")]
    #[test_case("/registry/core/pods//a"; "empty namespace")]
    #[test_case("/other/core/pods/a"; "elsewhere")]
    fn other_keys_are_no_objects(key: &str) {
        assert_eq!(ObjectPath::parse(key.as_bytes()), None);
    }
}
