//! Reading the current objects of a resource, and following their changes.

use std::sync::Arc;

use futures::stream::BoxStream;

use crate::api::meta::labels::Selector;
use crate::api::object::Object;

/// What happened to an object.
#[derive(Debug, Clone)]
pub enum Delta {
    /// It was created or changed; `old` is what stood there before, where known.
    Upsert {
        /// Before.
        old: Option<Arc<Object>>,
        /// Now.
        new: Arc<Object>,
    },
    /// It is gone; its last state.
    Delete(Arc<Object>),
    /// All objects that existed at the start have been delivered. Comes once.
    Synced,
}

/// The current objects of one resource. Reading never blocks and copies no object.
pub trait Lister: Send + Sync {
    /// One object; `namespace` is empty for cluster-scoped kinds.
    fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>>;
    /// All objects (of a namespace), in key order.
    fn list(&self, namespace: Option<&str>) -> Vec<Arc<Object>>;
    /// Those that an index has under a value. Indexes: each selectable field (`spec.nodeName`), and `owner` by the uid
    /// of any owner.
    fn by_index(&self, index: &str, value: &str) -> Vec<Arc<Object>>;
    /// What an object of this resource has in a selectable field that is an index, as `spec.nodeName`; "" where the
    /// object or the resource has none. Nothing is decoded.
    fn field<'o>(&self, object: &'o Object, index: &str) -> &'o str;
    /// Current objects as `Upsert`s, then `Synced`, then changes as they come. Ends when the source stops.
    /// One that reads too slowly sees intermediate states of an object skipped, never a missing last state.
    fn deltas(&self) -> BoxStream<'static, Delta>;
    /// True once the first full state is there.
    fn synced(&self) -> bool;

    /// Those (of a namespace) that a label selector matches.
    fn select(&self, namespace: Option<&str>, selector: &Selector) -> Vec<Arc<Object>> {
        let mut all = self.list(namespace);
        all.retain(|o| selector.matches(|k| o.meta.label(k)));
        all
    }
}

/// Listers by group and plural name.
pub trait Listers: Send + Sync {
    /// The lister of a resource, as `("apps", "deployments")`; made on first use where the source is remote.
    fn lister(&self, group: &str, resource: &str) -> Arc<dyn Lister>;
}
