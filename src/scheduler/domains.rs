//! The part of the cluster that each node is in, by the value of one label: zones, hosts, racks.
//!
//! In: nodes, by index. Out: numbers in the place of texts, so that who looks at thousands of nodes for each pod compares and
//! hashes none. Made for a label when somebody asks first, and again when the nodes have changed ([`super::counts::Mark`]).
//!
//! **Invariant:** two nodes are in the same part exactly if the label has the same value.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::cluster::NodeInfo;

/// Labels whose parts are kept: those of constraints, of which a cluster has few.
const KEYS_KEPT: usize = 32;

/// Parts by one label.
#[derive(Debug, Default)]
pub struct Domains {
    /// By a node's index.
    of: Vec<Option<u32>>,
    names: Vec<Box<str>>,
}

impl Domains {
    fn new(nodes: &[NodeInfo], key: &str) -> Self {
        let (mut numbers, mut names) = (HashMap::<&str, u32>::new(), Vec::new());
        let of = nodes.iter().map(|node| {
            let name = node.label(key)?;
            Some(*numbers.entry(name).or_insert_with(|| {
                names.push(name.into());
                names.len() as u32 - 1
            }))
        });
        Self { of: of.collect(), names }
    }

    /// The part that a node is in; none where it lacks the label.
    pub fn of(&self, node: &NodeInfo) -> Option<usize> {
        self.of.get(node.at).copied().flatten().map(|n| n as usize)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// True where no node has the label.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The label's value.
    pub fn name(&self, part: usize) -> &str {
        &self.names[part]
    }
}

/// The parts by the labels that were asked for lately.
#[derive(Debug, Default)]
pub struct Kept(Mutex<(u64, HashMap<Box<str>, Arc<Domains>>)>);

impl Kept {
    /// By a label. `layout` tells states of the nodes apart.
    pub fn of(&self, nodes: &[NodeInfo], layout: u64, key: &str) -> Arc<Domains> {
        let mut kept = self.0.lock();
        let (of, known) = &mut *kept;
        if *of != layout {
            known.clear();
            *of = layout;
        }
        if let Some(known) = known.get(key) {
            return known.clone();
        }
        if known.len() >= KEYS_KEPT {
            known.clear();
        }
        known.entry(key.into()).or_insert_with(|| Arc::new(Domains::new(nodes, key))).clone()
    }
}
