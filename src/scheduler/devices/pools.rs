//! The pools whose devices a node reaches.
//!
//! Only the newest generation of a pool counts. A pool of which slices are missing, in which a name stands twice, or in which
//! a device takes from counters that nobody has, is not allocated from. Devices that wait for conditions come last.
//! Upstream: `structured/internal/incubating/pools_incubating` (`GatherPools`, `buildPool`).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::super::cluster::NodeInfo;
use super::model::{Amounts, Device, DeviceId, Reach, Slice};
use super::{Inventory, PoolKey};

/// A device that the node may reach.
#[derive(Debug)]
pub struct Candidate<'a> {
    /// Its slice.
    pub slice: &'a Slice,
    /// The device.
    pub device: &'a Device,
    /// Who it is.
    pub id: DeviceId,
    /// Somebody has all of it.
    pub taken: bool,
}

/// A pool.
#[derive(Debug)]
pub struct Pool<'a> {
    /// Driver and name.
    pub key: PoolKey,
    /// Some slices are missing: it is being changed.
    pub incomplete: bool,
    /// What its slices say of each other is wrong.
    pub invalid: bool,
    /// Drivers of some devices have to agree after they were chosen.
    pub conditional: bool,
    /// Devices, in their order.
    pub devices: Vec<Candidate<'a>>,
    /// What is left of shared counters, by set and name.
    pub left: HashMap<(&'a str, &'a str), i128>,
}

/// All pools with devices for the node, in an order that is always the same.
pub fn gather<'a>(inventory: &'a Inventory, node: &NodeInfo) -> Vec<Pool<'a>> {
    let own = inventory.on_node.get(&*node.name).into_iter().flatten();
    let slices = own.chain(&inventory.anywhere).filter_map(|name| inventory.slices.get(name));
    let near = slices.filter(|s| s.reaches(node)).map(|s| (s.driver.clone(), s.pool.clone()));
    let keys: BTreeSet<PoolKey> = near.collect();
    let mut pools: Vec<Pool<'a>> = keys.into_iter().filter_map(|key| pool(inventory, node, key)).collect();
    pools.sort_by_key(|p| p.conditional);
    pools
}

/// None where the newest generation has nothing for the node.
fn pool<'a>(inventory: &'a Inventory, node: &NodeInfo, key: PoolKey) -> Option<Pool<'a>> {
    let of_pool = inventory.by_pool.get(&key)?;
    let all: Vec<&'a Arc<Slice>> = of_pool.names.iter().filter_map(|n| inventory.slices.get(n)).collect();
    let newest = all.iter().map(|s| s.generation).max()?;
    let current: Vec<&'a Slice> = all.into_iter().filter(|s| s.generation == newest).map(|s| &**s).collect();
    let mut near: Vec<&'a Slice> = current.iter().copied().filter(|s| s.reaches(node)).collect();
    let expected = near.first()?.slices;
    near.sort_by_key(|s| s.conditional);
    let mut devices = Vec::new();
    let invalid = *of_pool.invalid.get_or_init(|| is_invalid(&current));
    for slice in near {
        for device in &slice.devices {
            if matches!(slice.reach, Reach::Each) && !device.reach.includes(node) {
                continue;
            }
            let id = slice.id(device);
            let taken = inventory.is_taken(&id);
            devices.push(Candidate { slice, device, id, taken });
        }
    }
    let incomplete = i64::try_from(current.len()) != Ok(expected);
    let conditional = current.iter().any(|s| s.conditional);
    Some(Pool { key, incomplete, invalid, conditional, devices, left: counters(inventory, &current) })
}

/// True where names of devices or of sets of counters stand twice, or a device takes from counters that are not there.
fn is_invalid(slices: &[&Slice]) -> bool {
    let (mut devices, mut sets) = (HashSet::new(), HashMap::new());
    let twice = slices.iter().flat_map(|s| &s.devices).any(|d| !devices.insert(&*d.name))
        || slices.iter().flat_map(|s| &s.counters).any(|(set, has)| sets.insert(&**set, has).is_some());
    let has_all =
        |(set, wants): &(Box<str>, Amounts)| sets.get(&**set).is_some_and(|h| wants.keys().all(|k| h.contains_key(k)));
    twice || slices.iter().flat_map(|s| &s.devices).flat_map(|d| &d.consumes).any(|wants| !has_all(wants))
}

/// What devices that somebody has, wherever they are, leave of the pool's counters.
fn counters<'a>(inventory: &Inventory, slices: &[&'a Slice]) -> HashMap<(&'a str, &'a str), i128> {
    let mut left = HashMap::new();
    for (set, amounts) in slices.iter().flat_map(|s| &s.counters) {
        left.extend(amounts.iter().map(|(name, amount)| ((&**set, &**name), *amount)));
    }
    if left.is_empty() {
        return left;
    }
    for slice in slices {
        for device in slice.devices.iter().filter(|d| !d.consumes.is_empty()) {
            let id = slice.id(device);
            if inventory.is_taken(&id) || inventory.parts.contains_key(&id) {
                take(&mut left, device, 1);
            }
        }
    }
    left
}

/// Takes what a device needs from the counters (`sign` 1), or gives it back (-1).
pub fn take<'a>(left: &mut HashMap<(&'a str, &'a str), i128>, device: &'a Device, sign: i128) {
    for (set, amounts) in &device.consumes {
        for (name, amount) in amounts {
            if let Some(have) = left.get_mut(&(&**set, &**name)) {
                *have -= sign * amount;
            }
        }
    }
}
