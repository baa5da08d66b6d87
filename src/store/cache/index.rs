//! The current objects of one resource in key order, and secondary indexes over them.
//!
//! An index is made when it is first asked for and kept from then on: most selectable fields are never looked up, and
//! an index of 10,000 pods costs about a megabyte.
//!
//! **Invariant:** an index holds exactly the current objects.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use crate::api::object::Object;

/// Name of the index by the uid of any owner.
pub const OWNER_INDEX: &str = "owner";

/// Namespace and name, ordered as the store's keys are: as `namespace/name`.
trait Keyed {
    fn key(&self) -> (&str, &str);
}

/// A current object, ordered by its key.
#[derive(Clone)]
struct Slot(Arc<Object>);

impl Keyed for Slot {
    fn key(&self) -> (&str, &str) {
        (&self.0.meta.namespace, &self.0.meta.name)
    }
}

impl Keyed for (&str, &str) {
    fn key(&self) -> (&str, &str) {
        *self
    }
}

impl<'a> Borrow<dyn Keyed + 'a> for Slot {
    fn borrow(&self) -> &(dyn Keyed + 'a) {
        self
    }
}

impl Ord for dyn Keyed + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        let ((ns_a, a), (ns_b, b)) = (self.key(), other.key());
        order_namespaces(ns_a, ns_b).then_with(|| a.cmp(b))
    }
}
impl PartialOrd for dyn Keyed + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for dyn Keyed + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl Eq for dyn Keyed + '_ {}

impl Ord for Slot {
    fn cmp(&self, other: &Self) -> Ordering {
        (self as &dyn Keyed).cmp(other as &dyn Keyed)
    }
}
impl PartialOrd for Slot {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl Eq for Slot {}

impl Hash for dyn Keyed + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}
impl Hash for Slot {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// As if a `/` followed: in the store's keys `a-b/…` stands before `a/…`.
fn order_namespaces(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let n = a.len().min(b.len());
    a[..n].cmp(&b[..n]).then_with(|| match (a.get(n), b.get(n)) {
        (None, None) => Ordering::Equal,
        (None, Some(c)) => b'/'.cmp(c),
        (Some(c), None) => c.cmp(&b'/'),
        (Some(_), Some(_)) => unreachable!("one of the two ends at n"),
    })
}

/// What an index is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    /// The selectable field at this place of `Object::fields`.
    Field(usize),
    /// The uids of the owners.
    Owner,
}

/// Objects by their keys, in key order, at the cost of a pointer each.
#[derive(Default)]
struct ObjectSet(BTreeSet<Slot>);

impl ObjectSet {
    /// Puts an object in its place; gives back what stood there.
    fn put(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        self.0.replace(Slot(object)).map(|s| s.0)
    }

    /// Takes out the object of a key.
    fn take(&mut self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.0.take(&(namespace, name) as &dyn Keyed).map(|s| s.0)
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.0.iter().map(|s| &s.0)
    }
}

struct Index {
    over: Over,
    by_value: HashMap<Box<str>, ObjectSet>,
}

impl Index {
    fn each_value<'o>(&self, object: &'o Object, mut f: impl FnMut(&'o str)) {
        match self.over {
            Over::Field(i) => object.fields.get(i).into_iter().for_each(|v| f(v)),
            Over::Owner => object.meta.owners.iter().for_each(|o| f(&o.uid)),
        }
    }

    fn insert(&mut self, object: &Arc<Object>) {
        let mut values = Vec::new();
        self.each_value(object, |v| values.push(v));
        for value in values {
            match self.by_value.get_mut(value) {
                Some(set) => drop(set.put(object.clone())),
                None => drop(self.by_value.entry(value.into()).or_default().put(object.clone())),
            }
        }
    }

    fn remove(&mut self, object: &Object) {
        let mut values = Vec::new();
        self.each_value(object, |v| values.push(v));
        for value in values {
            let Some(set) = self.by_value.get_mut(value) else { continue };
            set.take(&object.meta.namespace, &object.meta.name);
            if set.0.is_empty() {
                self.by_value.remove(value);
            }
        }
    }
}

/// The current objects.
#[derive(Default)]
pub(super) struct Objects {
    all: ObjectSet,
    /// The same by their keys: each request looks up several objects, and on its way through the order it would look at
    /// a dozen others.
    by_key: HashSet<Slot>,
    indexes: Vec<Index>,
    bytes: usize,
}

impl Objects {
    pub(super) fn len(&self) -> usize {
        self.all.0.len()
    }

    /// JSON of all objects, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.by_key.get(&(namespace, name) as &dyn Keyed).map(|s| &s.0)
    }

    /// Puts an object in its place; gives back what stood there.
    pub(super) fn put(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        self.bytes += object.json.len();
        let old = self.all.put(object.clone());
        self.by_key.replace(Slot(object.clone()));
        if let Some(old) = &old {
            self.bytes -= old.json.len();
            self.indexes.iter_mut().for_each(|i| i.remove(old));
        }
        self.indexes.iter_mut().for_each(|i| i.insert(&object));
        old
    }

    pub(super) fn remove(&mut self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let old = self.by_key.take(&(namespace, name) as &dyn Keyed)?.0;
        self.all.take(namespace, name);
        self.bytes -= old.json.len();
        self.indexes.iter_mut().for_each(|i| i.remove(&old));
        Some(old)
    }

    /// Objects (of a namespace) after a key, in key order.
    pub(super) fn range<'a>(
        &'a self,
        namespace: Option<&'a str>,
        after: Option<(&'a str, &'a str)>,
    ) -> impl Iterator<Item = &'a Arc<Object>> {
        let first = (namespace.unwrap_or_default(), "");
        let start = match &after {
            Some(key) if namespace.is_none_or(|ns| ns == key.0) => Bound::Excluded(key as &dyn Keyed),
            _ => Bound::Included(&first as &dyn Keyed),
        };
        let all = self.all.0.range::<dyn Keyed, _>((start, Bound::Unbounded)).map(|s| &s.0);
        all.take_while(move |o| namespace.is_none_or(|ns| o.meta.namespace == ns))
    }

    fn index(&self, over: Over) -> Option<&Index> {
        self.indexes.iter().find(|i| i.over == over)
    }

    /// Those that an index has under a value, in key order; `names` are those of the selectable fields, in their order.
    /// An index that does not exist has nothing.
    pub(super) fn find(&self, names: &[String], index: &str, value: &str) -> Result<Vec<Arc<Object>>, NotMade> {
        let Some(over) = over(names, index) else { return Ok(Vec::new()) };
        let made = self.index(over).ok_or(NotMade)?;
        Ok(made.by_value.get(value).into_iter().flat_map(ObjectSet::iter).cloned().collect())
    }

    /// Makes an index, if it is one and not there.
    pub(super) fn make_index(&mut self, names: &[String], index: &str) {
        let Some(over) = over(names, index) else { return };
        if self.index(over).is_none() {
            let mut made = Index { over, by_value: HashMap::new() };
            self.all.iter().for_each(|o| made.insert(o));
            self.indexes.push(made);
        }
    }
}

/// The index is not there yet.
pub(super) struct NotMade;

fn over(names: &[String], index: &str) -> Option<Over> {
    match index {
        OWNER_INDEX => Some(Over::Owner),
        field => names.iter().position(|n| n == field).map(Over::Field),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::value::ValueExt;
    use serde_json::json;

    fn object(namespace: &str, name: &str, node: &str, owner: &str) -> Arc<Object> {
        let mut v = json!({"metadata": {"name": name, "namespace": namespace, "ownerReferences": [{"uid": owner}]}});
        v.set_at("/spec/nodeName", node);
        Arc::new(Object::from_value(&v, &["/spec/nodeName"]))
    }

    fn names<'a>(objects: impl IntoIterator<Item = &'a Arc<Object>>) -> Vec<String> {
        objects.into_iter().map(|o| format!("{}/{}", o.meta.namespace, o.meta.name)).collect()
    }

    #[test]
    fn order_is_that_of_the_stores_keys() {
        let mut objects = Objects::default();
        let mut keys = ["a/b", "a-b/c", "a/a", "ab/x", "a.b/q", "b/a", "a/b-c", "/z"];
        for key in keys {
            let (ns, name) = key.split_once('/').unwrap();
            objects.put(object(ns, name, "", ""));
        }
        keys.sort_unstable();
        assert_eq!(names(objects.range(None, None)), keys);
        assert_eq!(names(objects.range(Some("a"), None)), ["a/a", "a/b", "a/b-c"]);
        assert_eq!(names(objects.range(Some("a"), Some(("a", "b")))), ["a/b-c"]);
        assert_eq!(names(objects.range(None, Some(("a", "zz")))), ["ab/x", "b/a"]);
        assert_eq!(names(objects.range(Some("none"), None)), Vec::<String>::new());
    }

    #[test]
    fn indexes_follow_the_objects() {
        let fields = ["spec.nodeName".to_owned()];
        let mut objects = Objects::default();
        objects.put(object("n", "a", "n1", "u1"));
        assert!(objects.find(&fields, "spec.nodeName", "n1").is_err(), "not made yet");
        objects.make_index(&fields, "spec.nodeName");
        objects.make_index(&fields, OWNER_INDEX);
        objects.put(object("n", "b", "n1", "u2"));
        objects.put(object("n", "a", "n2", "u1"));
        let find = |o: &Objects, index, value| names(&o.find(&fields, index, value).ok().unwrap());
        assert_eq!(find(&objects, "spec.nodeName", "n1"), ["n/b"]);
        assert_eq!(find(&objects, "spec.nodeName", "n2"), ["n/a"]);
        assert_eq!(find(&objects, OWNER_INDEX, "u1"), ["n/a"]);
        assert_eq!(find(&objects, "unknown", "x"), Vec::<String>::new());
        assert!(objects.remove("n", "a").is_some());
        assert_eq!(find(&objects, OWNER_INDEX, "u1"), Vec::<String>::new());
        assert_eq!(objects.bytes(), objects.get("n", "b").unwrap().json.len());
        assert_eq!(objects.len(), 1);
    }
}
