//! How fast pods may be taken from nodes that fell silent, zone by zone. No IO, no clock.
//!
//! Many silent nodes at once are rather a network that broke than nodes that died: then it is slower, or not at all.
//!
//! Rules: upstream `pkg/controller/nodelifecycle`, `ComputeZoneState`, `handleDisruption` and its limiters, with their defaults.
//!
//! **Invariant:** while no node of the cluster is ready nothing is evicted: it is this side that is ill.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::api::value::ValueExt;

/// Seconds between two nodes of a zone that lose their pods. Upstream: `--node-eviction-rate` 0.1.
pub const TURN_SECONDS: i64 = 10;
/// The same while much of a large zone is silent. Upstream: `--secondary-node-eviction-rate` 0.01.
const SLOW_TURN_SECONDS: i64 = 100;
/// Nodes of a zone that is large. Upstream: `--large-cluster-size-threshold`.
const LARGE: usize = 50;
/// Percent of a zone's nodes that are much. Upstream: `--unhealthy-zone-threshold` 0.55.
const MUCH_PERCENT: usize = 55;
/// Fewer silent nodes are never much.
const FEW: usize = 2;
/// A node with this label does not count.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";

/// Whether a node may lose its pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Now; that was its zone's turn.
    Now,
    /// In so many seconds.
    In(i64),
    /// Not before other nodes come back.
    No,
}

/// Zone of a node, as upstream names it; none when the node does not count.
pub fn zone_of(node: &Value) -> Option<String> {
    let label = |names: [&str; 2]| {
        let labels = node.get_at("/metadata/labels");
        names.iter().find_map(|n| labels.and_then(|l| l.get(*n)).and_then(Value::as_str)).unwrap_or_default()
    };
    if node.get_at("/metadata/labels").is_some_and(|l| l.get(EXCLUDED).is_some()) {
        return None;
    }
    let region = label(["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"]);
    let zone = label(["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"]);
    Some(format!("{region}:{zone}"))
}

#[derive(Debug, Clone, Copy, Default)]
struct Zone {
    ready: usize,
    silent: usize,
    /// Tick of the last turn.
    last: Option<i64>,
}

impl Zone {
    fn count(&mut self, ready: bool) -> &mut usize {
        if ready { &mut self.ready } else { &mut self.silent }
    }

    /// Seconds between turns; none when there are none.
    fn pace(&self) -> Option<i64> {
        let all = self.ready + self.silent;
        let much = self.ready > 0 && self.silent > FEW && self.silent * 100 >= all * MUCH_PERCENT;
        match (much, all > LARGE) {
            (false, _) => Some(TURN_SECONDS),
            (true, true) => Some(SLOW_TURN_SECONDS),
            (true, false) => None,
        }
    }
}

/// All zones.
#[derive(Debug, Default)]
pub struct Zones {
    nodes: HashMap<String, (String, bool)>,
    zones: BTreeMap<String, Zone>,
}

impl Zones {
    /// Notes zone and readiness of a node; no zone for one that is gone or does not count.
    pub fn note(&mut self, node: &str, zone: Option<String>, ready: bool) {
        if self.nodes.get(node).map(|(z, r)| (z.as_str(), *r)) == zone.as_deref().map(|z| (z, ready)) {
            return;
        }
        let before = self.nodes.remove(node);
        if let Some(zone) = zone {
            *self.zones.entry(zone.clone()).or_default().count(ready) += 1;
            self.nodes.insert(node.to_owned(), (zone, ready));
        }
        if let Some((zone, ready)) = before
            && let Some(known) = self.zones.get_mut(&zone)
        {
            *known.count(ready) -= 1;
            if known.ready + known.silent == 0 {
                self.zones.remove(&zone);
            }
        }
    }

    /// No node is ready.
    pub fn is_dark(&self) -> bool {
        self.zones.values().all(|z| z.ready == 0)
    }

    /// Asks for the turn of a node at tick `now`.
    pub fn turn(&mut self, zone: &str, now: i64) -> Turn {
        if self.is_dark() {
            return Turn::No;
        }
        // The zone of a node that does not count has its pace, too.
        let state = self.zones.entry(zone.to_owned()).or_default();
        match (state.pace(), state.last) {
            (None, _) => Turn::No,
            (Some(pace), Some(last)) if now < last + pace => Turn::In(last + pace - now),
            _ => {
                state.last = Some(now);
                Turn::Now
            }
        }
    }

    /// The last turn of a zone was not used.
    pub fn give_back(&mut self, zone: &str) {
        if let Some(zone) = self.zones.get_mut(zone) {
            zone.last = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn zones(ready: usize, silent: usize) -> Zones {
        let mut out = Zones::default();
        for i in 0..ready + silent {
            out.note(&format!("n{i}"), Some("z".into()), i < ready);
        }
        out
    }

    /// What the first, the second at once, and the third node 100 seconds later are told.
    #[test_case(3, 2, [Turn::Now, Turn::In(10), Turn::Now]; "a normal zone, one at a time")]
    #[test_case(2, 2, [Turn::Now, Turn::In(10), Turn::Now]; "two are never much")]
    #[test_case(2, 3, [Turn::No, Turn::No, Turn::No]; "much of a small zone")]
    #[test_case(3, 3, [Turn::Now, Turn::In(10), Turn::Now]; "half is not much")]
    #[test_case(20, 31, [Turn::Now, Turn::In(100), Turn::Now]; "much of a large zone")]
    #[test_case(0, 3, [Turn::No, Turn::No, Turn::No]; "the whole cluster")]
    fn turns(ready: usize, silent: usize, want: [Turn; 3]) {
        let mut zones = zones(ready, silent);
        assert_eq!([zones.turn("z", 1000), zones.turn("z", 1000), zones.turn("z", 1100)], want);
    }

    #[test]
    fn a_zone_that_is_gone_as_a_whole_is_evicted_while_others_live() {
        let mut zones = zones(0, 3);
        zones.note("elsewhere", Some("y".into()), true);
        assert_eq!((zones.turn("z", 0), zones.turn("z", 0)), (Turn::Now, Turn::In(10)));
        zones.note("elsewhere", Some("y".into()), false);
        assert_eq!(zones.turn("z", 1000), Turn::No);
        zones.note("n1", Some("z".into()), true);
        assert_eq!(zones.turn("y", 1000), Turn::Now, "each zone has its own turns");
    }

    #[test]
    fn nodes_that_go_or_do_not_count_are_not_counted() {
        let mut zones = zones(1, 0);
        zones.note("n0", Some("z".into()), true);
        assert!(!zones.is_dark());
        zones.note("n0", None, true);
        assert!(zones.is_dark());
        let node = |labels: Value| json!({"metadata": {"labels": labels}});
        assert_eq!(zone_of(&node(json!({EXCLUDED: ""}))), None);
        assert_eq!(zone_of(&node(json!({"topology.kubernetes.io/zone": "z"}))), Some(":z".into()));
        assert_eq!(zone_of(&json!({})), Some(":".into()));
    }

    #[test]
    fn a_node_that_comes_and_goes_keeps_its_zones_pace() {
        let mut zones = zones(0, 1);
        zones.note("elsewhere", Some("y".into()), true);
        assert_eq!(zones.turn("z", 0), Turn::Now);
        zones.note("n0", Some("z".into()), true);
        zones.note("n0", Some("z".into()), false);
        assert_eq!(zones.turn("z", 5), Turn::In(5));
    }

    #[test]
    fn a_turn_that_was_not_used_comes_again() {
        let mut zones = zones(3, 1);
        assert_eq!(zones.turn("z", 0), Turn::Now);
        zones.give_back("z");
        assert_eq!(zones.turn("z", 0), Turn::Now);
    }
}
