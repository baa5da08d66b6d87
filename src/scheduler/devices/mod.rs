//! Devices: what there is, who has what, and what claims ask for.
//!
//! In: slices, classes and claims by deltas; decisions that are not written yet. Out: the [`Inventory`] that decisions are
//! made on; [`search`] finds devices for claims on a node, [`result`] writes down what was found.
//!
//! **Invariant:** a device that a decision gave away is taken until the claim is seen with it, or the write failed.
//! **Invariant:** everything is decoded once per change, never per decision.
//! Upstream: `dynamic-resource-allocation/structured`, `plugins/dynamicresources/dra_manager`.

pub mod agreed;
mod capacity;
mod constraint;
pub mod extended;
pub mod model;
pub mod pools;
pub mod result;
pub mod search;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use serde_json::Value;

use super::pod::PodInfo;
use super::resources::Resources;
use crate::api::object::Object;
use model::{Amounts, Claim, Class, DeviceId, Slice, Use};

/// Who may use a claim at once; upstream's `ResourceClaimReservedForMaxSize`.
pub const RESERVED_MAX: usize = 256;

/// Driver and name of a pool.
pub type PoolKey = (Arc<str>, Arc<str>);

/// The slices of a pool.
#[derive(Debug, Default)]
struct PoolSlices {
    names: BTreeSet<Box<str>>,
    /// Whether what they say of each other is wrong; looked at once after a change, not for each node.
    invalid: OnceLock<bool>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Inventory {
    slices: BTreeMap<Box<str>, Arc<Slice>>,
    /// Names of slices whose devices belong to one node.
    on_node: HashMap<Box<str>, BTreeSet<Box<str>>>,
    /// Names of slices whose devices several nodes reach.
    anywhere: BTreeSet<Box<str>>,
    by_pool: HashMap<PoolKey, PoolSlices>,
    classes: HashMap<Box<str>, Arc<Class>>,
    /// The classes that stand for extended resources, by the resource.
    by_resource: HashMap<Box<str>, Arc<Class>>,
    claims: HashMap<(Box<str>, Box<str>), Arc<Claim>>,
    /// Claims that stand for extended resources, by the pod's uid.
    standing: HashMap<Box<str>, Arc<Claim>>,
    /// The time of the decision, by which drivers are late.
    pub now: Timestamp,
    /// Decisions that are on their way, by the claim's uid.
    pending: HashMap<Box<str>, Vec<Use>>,
    /// How often each device is taken as a whole.
    taken: HashMap<DeviceId, usize>,
    /// What is taken of shared devices.
    parts: HashMap<DeviceId, Vec<Amounts>>,
}

/// Slices and classes.
impl Inventory {
    /// A slice as it is now.
    pub fn set_slice(&mut self, o: &Object) {
        self.remove_slice(o);
        let (name, slice) = (Box::<str>::from(&*o.meta.name), Slice::new(o));
        let place = match &slice.reach {
            model::Reach::Node(node) => self.on_node.entry(node.clone()).or_default(),
            _ => &mut self.anywhere,
        };
        place.insert(name.clone());
        let of_pool = self.by_pool.entry((slice.driver.clone(), slice.pool.clone())).or_default();
        of_pool.names.insert(name.clone());
        of_pool.invalid = OnceLock::new();
        self.slices.insert(name, Arc::new(slice));
    }

    /// A slice is gone.
    pub fn remove_slice(&mut self, o: &Object) {
        let Some(slice) = self.slices.remove(&*o.meta.name) else { return };
        self.anywhere.remove(&*o.meta.name);
        if let model::Reach::Node(node) = &slice.reach
            && let Some(names) = self.on_node.get_mut(node)
        {
            names.remove(&*o.meta.name);
            if names.is_empty() {
                self.on_node.remove(node);
            }
        }
        let pool = (slice.driver.clone(), slice.pool.clone());
        if let Some(of_pool) = self.by_pool.get_mut(&pool) {
            of_pool.names.remove(&*o.meta.name);
            of_pool.invalid = OnceLock::new();
            if of_pool.names.is_empty() {
                self.by_pool.remove(&pool);
            }
        }
    }

    /// A class as it is now.
    pub fn set_class(&mut self, o: &Object) {
        self.classes.insert(o.meta.name.as_str().into(), Arc::new(Class::new(o)));
        self.map_resources();
    }

    /// A class is gone.
    pub fn remove_class(&mut self, o: &Object) {
        self.classes.remove(&*o.meta.name);
        self.map_resources();
    }

    fn map_resources(&mut self) {
        self.by_resource.clear();
        for class in self.classes.values() {
            self.by_resource.insert(format!("{}{}", extended::IMPLICIT, class.name).into(), class.clone());
            let Some(resource) = &class.extended else { continue };
            if self.by_resource.get(resource).is_none_or(|other| class.supersedes(other)) {
                self.by_resource.insert(resource.clone(), class.clone());
            }
        }
    }

    /// The class that stands for an extended resource.
    pub fn class_for(&self, resource: &str) -> Option<&Arc<Class>> {
        self.by_resource.get(resource)
    }

    /// What a node has, as if it had devices without end for each extended resource that a class stands for and that it has
    /// not itself: which of them there are does not stand with the node.
    pub fn lend(&self, allocatable: &mut Resources) {
        for resource in self.by_resource.keys() {
            let slot = allocatable.slot(resource);
            *slot = if *slot == 0 { i64::MAX } else { *slot };
        }
    }

    /// A class by name.
    pub fn class(&self, name: &str) -> Option<&Arc<Class>> {
        self.classes.get(name)
    }
}

/// Claims.
impl Inventory {
    /// A claim as it is now; what is older than what is known does not count.
    pub fn set_claim(&mut self, o: &Object) {
        let key = (Box::<str>::from(&*o.meta.namespace), Box::<str>::from(&*o.meta.name));
        if self.claims.get(&key).is_some_and(|known| known.revision >= o.revision && o.revision > 0) {
            return;
        }
        let claim = Claim::new(o);
        if let Some(old) = self.claims.remove(&key) {
            self.count(&old.uses, false);
            self.stands_no_more(&old);
            if old.uid != claim.uid {
                self.forget(&old.uid);
            }
        }
        if claim.allocated {
            self.forget(&claim.uid);
        }
        self.count(&claim.uses, true);
        let claim = Arc::new(claim);
        if let Some(owner) = claim.owner.clone().filter(|_| claim.extended) {
            self.standing.insert(owner, claim.clone());
        }
        self.claims.insert(key, claim);
    }

    fn stands_no_more(&mut self, claim: &Claim) {
        if let Some(owner) = claim.owner.as_ref().filter(|_| claim.extended)
            && self.standing.get(owner).is_some_and(|c| c.uid == claim.uid)
        {
            self.standing.remove(owner);
        }
    }

    /// The claim that stands for the extended resources of a pod.
    pub fn standing_for(&self, pod: &str) -> Option<&Arc<Claim>> {
        self.standing.get(pod)
    }

    /// A claim is gone, unless another of its name is known by now.
    pub fn remove_claim(&mut self, o: &Object) {
        let key = (Box::<str>::from(&*o.meta.namespace), Box::<str>::from(&*o.meta.name));
        if self.claims.get(&key).is_some_and(|known| *known.uid == *o.meta.uid)
            && let Some(old) = self.claims.remove(&key)
        {
            self.count(&old.uses, false);
            self.stands_no_more(&old);
            self.forget(&old.uid);
        }
    }

    /// A claim by name.
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Arc<Claim>> {
        self.claims.get(&(namespace.into(), name.into()))
    }

    /// A decision gives devices to a claim.
    pub fn promise(&mut self, uid: &str, allocation: &Value) {
        let uses = model::uses_of(allocation);
        self.count(&uses, true);
        self.pending.insert(uid.into(), uses);
    }

    /// The decision came true and was seen, or did not.
    pub fn forget(&mut self, uid: &str) {
        if let Some(uses) = self.pending.remove(uid) {
            self.count(&uses, false);
        }
    }

    /// True while a decision about the claim is on its way.
    pub fn is_pending(&self, uid: &str) -> bool {
        self.pending.contains_key(uid)
    }

    fn count(&mut self, uses: &[Use], add: bool) {
        for Use { id, part } in uses {
            match (part, add) {
                (None, true) => *self.taken.entry(id.clone()).or_default() += 1,
                (None, false) => {
                    if let Some(n) = self.taken.get_mut(id) {
                        *n -= 1;
                        if *n == 0 {
                            self.taken.remove(id);
                        }
                    }
                }
                (Some(part), true) => self.parts.entry(id.clone()).or_default().push(part.clone()),
                (Some(part), false) => {
                    if let Some(all) = self.parts.get_mut(id) {
                        if let Some(at) = all.iter().position(|p| p == part) {
                            all.swap_remove(at);
                        }
                        if all.is_empty() {
                            self.parts.remove(id);
                        }
                    }
                }
            }
        }
    }

    /// True when a claim has the whole device.
    pub fn is_taken(&self, id: &DeviceId) -> bool {
        self.taken.contains_key(id)
    }

    /// What claims have of a shared device; none where nobody has any.
    pub fn used_of(&self, id: &DeviceId) -> Option<Amounts> {
        let mut sum = Amounts::new();
        for (name, amount) in self.parts.get(id)?.iter().flatten() {
            *sum.entry(name.clone()).or_default() += amount;
        }
        Some(sum)
    }
}

/// A claim of a pod, as the pod names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodClaim {
    /// The claim; none where it is still to be made.
    pub claim: Option<Box<str>>,
    /// It is made for this pod alone.
    pub own: bool,
}

impl Inventory {
    /// The claims of a pod; the error says which is not there yet, or going.
    pub fn claims_of(&self, pod: &PodInfo) -> Result<Vec<Arc<Claim>>, String> {
        let find = |c: &PodClaim| {
            let Some(name) = &c.claim else {
                return Err(format!("pod \"{}\": resource claim not created yet", pod.key()));
            };
            let Some(claim) = self.claim(&pod.namespace, name) else {
                return Err(format!("resourceclaim \"{name}\" not found"));
            };
            if claim.deleting {
                return Err(format!("resourceclaim \"{name}\" is being deleted"));
            }
            if c.own && claim.owner.as_deref() != Some(&*pod.uid) {
                let (ns, name) = (&claim.namespace, &claim.name);
                return Err(format!(
                    "ResourceClaim {ns}/{name} was not created for pod {} (pod is not owner)",
                    pod.key()
                ));
            }
            Ok(claim.clone())
        };
        pod.device_claims.iter().map(find).collect()
    }

    /// True when the claims of a pod are there, so that it is worth trying.
    pub fn admits(&self, pod: &PodInfo) -> bool {
        pod.device_claims.is_empty() || self.claims_of(pod).is_ok()
    }
}
