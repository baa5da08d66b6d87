//! What the server serves: the built-in resources, and those of CustomResourceDefinitions, which come and go.
//!
//! Flow: `apiserver::crd` sets the custom ones; requests, discovery and OpenAPI look here; the watch cache asks how stored
//! objects are to be read.
//!
//! **Invariant:** a reader sees one whole state: the index is swapped, never changed.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use serde_json::Value;

use super::{Resource, allocators, kinds};
use crate::api::meta::GroupResource;
use crate::api::object::{Meta, Object};
use crate::store::Revision;
use crate::store::cache::{Decode, Generic};

/// All resources by what clients call them.
#[derive(Default, Clone)]
struct Index {
    /// The built-in ones; the rest of `all` is of definitions.
    builtin: usize,
    all: Vec<Arc<Resource>>,
    by_path: HashMap<(String, String, String), Arc<Resource>>,
    stored: HashMap<GroupResource, Arc<Resource>>,
}

impl Index {
    fn of(builtin: usize, all: Vec<Arc<Resource>>) -> Self {
        let mut index = Self { builtin, ..Self::default() };
        for r in &all {
            if r.is_stored_version() {
                index.stored.insert(r.info.stored.clone(), r.clone());
            }
            if !r.is_served() {
                continue;
            }
            let gvk = &r.info.gvk;
            index
                .by_path
                .insert((gvk.group.to_string(), gvk.version.to_string(), r.info.plural.to_string()), r.clone());
        }
        index.all = all.into_iter().filter(|r| r.is_served()).collect();
        index
    }
}

/// The resources that the server serves; those of CustomResourceDefinitions come and go.
pub struct Resources(ArcSwap<Index>, Generic);

impl Resources {
    /// The built-in ones.
    pub fn builtin() -> Arc<Self> {
        Self::with(&allocators::Allocators::default())
    }

    /// The built-in ones, which take addresses and ports out of `allocators`.
    pub fn with(allocators: &allocators::Allocators) -> Arc<Self> {
        Self::and(allocators, Vec::new())
    }

    /// The same and `optional` ones: of groups that not every server serves.
    pub fn and(allocators: &allocators::Allocators, optional: Vec<Resource>) -> Arc<Self> {
        let all: Vec<_> = kinds::all(allocators).into_iter().chain(optional).map(Arc::new).collect();
        Arc::new(Self(ArcSwap::from_pointee(Index::of(all.len(), all)), Generic::default()))
    }

    /// Serves these beside the built-in ones, and no others. A built-in kind is never hidden. One task calls this.
    pub fn set_custom(&self, custom: Vec<Arc<Resource>>) {
        let old = self.0.load();
        let mut all = old.all[..old.builtin].to_vec();
        let known =
            |r: &Resource| all[..old.builtin].iter().any(|b| b.info.group_resource() == r.info.group_resource());
        let new: Vec<_> = custom.into_iter().filter(|r| !known(r)).collect();
        all.extend(new);
        self.0.store(Arc::new(Index::of(old.builtin, all)));
    }

    /// The one whose form a resource is stored in, whether it is served or not.
    pub fn stored(&self, gr: &GroupResource) -> Option<Arc<Resource>> {
        self.0.load().stored.get(gr).cloned()
    }

    /// By group, version and plural name.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.0.load().by_path.get(&(group.to_owned(), version.to_owned(), plural.to_owned())).cloned()
    }

    /// All, in the order of the rows.
    pub fn all(&self) -> Vec<Arc<Resource>> {
        self.0.load().all.clone()
    }
}

impl Decode for Resources {
    fn decode(&self, gr: &GroupResource, json: Bytes, revision: Revision) -> Result<Object, String> {
        let index = self.0.load();
        match index.stored.get(gr) {
            Some(r) => {
                let json = match &r.custom {
                    Some(custom) => custom.current_json(json),
                    None => json,
                };
                let gvk = r.gvk_of(&json);
                let lazy = Object::from_json(gvk.clone(), json.clone(), revision, &r.info.selectable);
                lazy.or_else(|_| {
                    // Metadata of other types than upstream's (a custom resource written by an older version): as far as
                    // it can be understood.
                    let parsed: Value = serde_json::from_slice(&json).map_err(|e| e.to_string())?;
                    let fields = r.info.extract_fields(&parsed);
                    Ok(Object { gvk, meta: Meta::from_value(&parsed), fields, json, revision })
                })
            }
            None => self.1.decode(gr, json, revision),
        }
    }

    fn fields(&self, gr: &GroupResource) -> Vec<String> {
        let index = self.0.load();
        index.stored.get(gr).map_or_else(Vec::new, |r| r.info.selectable.iter().map(|s| s.field.to_string()).collect())
    }
}
