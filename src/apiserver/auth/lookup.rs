//! The live objects that identity depends on: accounts, pods, secrets, nodes.

use std::sync::Arc;

use crate::api::object::Object;
use crate::runtime::Listers;

/// Reads current objects; never blocks.
pub trait ObjectLookup: Send + Sync {
    /// One object; `namespace` is empty for cluster-scoped kinds.
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>>;
    /// The pods bound to a node.
    fn pods_on(&self, node: &str) -> Vec<Arc<Object>>;
}

/// Lookups in the watch cache.
pub struct CacheLookup(pub Arc<dyn Listers>);

impl ObjectLookup for CacheLookup {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.0.lister(group, resource).get(namespace, name)
    }

    fn pods_on(&self, node: &str) -> Vec<Arc<Object>> {
        self.0.lister("", "pods").by_index("spec.nodeName", node)
    }
}

/// A fake: objects in a list.
#[cfg(test)]
pub(crate) mod fake {
    use super::*;
    use crate::api::value::ValueExt;
    use serde_json::Value;

    /// Group, resource and object.
    #[derive(Default)]
    pub(crate) struct Objects(pub Vec<(&'static str, &'static str, Arc<Object>)>);

    impl Objects {
        pub(crate) fn with(mut self, group: &'static str, resource: &'static str, object: Value) -> Self {
            self.0.push((group, resource, Arc::new(Object::from_value(&object, &[]))));
            self
        }
    }

    impl ObjectLookup for Objects {
        fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
            let found = |(g, r, o): &&(&str, &str, Arc<Object>)| {
                *g == group && *r == resource && o.meta.namespace == namespace && o.meta.name == name
            };
            self.0.iter().find(found).map(|(.., o)| o.clone())
        }

        fn pods_on(&self, node: &str) -> Vec<Arc<Object>> {
            let on = |o: &Arc<Object>| o.value().str_at("/spec/nodeName") == Some(node);
            self.0.iter().filter(|(_, r, o)| *r == "pods" && on(o)).map(|(.., o)| o.clone()).collect()
        }
    }
}
