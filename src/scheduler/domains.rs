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
    count: usize,
}

impl Domains {
    fn new(nodes: &[NodeInfo], key: &str) -> Self {
        let mut numbers = HashMap::<&str, u32>::new();
        let of = nodes.iter().map(|node| {
            let next = numbers.len() as u32;
            Some(*numbers.entry(node.label(key)?).or_insert(next))
        });
        Self { of: of.collect(), count: numbers.len() }
    }

    /// The part that a node is in; none where it lacks the label.
    pub fn of(&self, node: &NodeInfo) -> Option<usize> {
        self.of.get(node.at).copied().flatten().map(|n| n as usize)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }
}

/// The parts by the labels that were asked for lately.
#[derive(Debug, Default)]
pub struct Kept(Mutex<Asked>);

#[derive(Debug, Default)]
struct Asked {
    /// The state of the nodes that they are of.
    layout: u64,
    by_key: HashMap<Box<str>, Arc<Domains>>,
}

impl Kept {
    /// By a label. `layout` tells states of the nodes apart.
    pub fn of(&self, nodes: &[NodeInfo], layout: u64, key: &str) -> Arc<Domains> {
        let mut asked = self.0.lock();
        if asked.layout != layout {
            *asked = Asked { layout, ..Asked::default() };
        }
        if let Some(known) = asked.by_key.get(key) {
            return known.clone();
        }
        if asked.by_key.len() >= KEYS_KEPT {
            asked.by_key.clear();
        }
        let domains = Arc::new(Domains::new(nodes, key));
        asked.by_key.insert(key.into(), domains.clone());
        domains
    }
}
