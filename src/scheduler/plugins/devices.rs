//! Devices of resource claims: what a claim has must be reachable from the node, what it waits for must be there.
//!
//! Upstream: `plugins/dynamicresources`. Not here: devices that ask for conditions before they are bound, and extended
//! resources that classes stand for (both are not yet for everybody upstream either).

use std::sync::Arc;

use serde_json::Value;

use super::super::cluster::NodeInfo;
use super::super::devices::model::Claim;
use super::super::devices::search::{Trouble, allocate};
use super::super::devices::{Inventory, RESERVED_MAX, result};
use super::super::framework::{Cycle, Event, Filter, Plugin, PreFilter, Refusal, normalise};
use super::super::pod::PodInfo;

/// See the module.
pub struct DynamicResources;

/// The plugin's name.
pub const NAME: &str = "DynamicResources";
/// Choices of one request; upstream's `FirstAvailableDeviceRequestMaxSize`.
const CHOICES_MAX: usize = 8;

const ELSEWHERE: &str = "resourceclaim not available on the node";
const NOT_ENOUGH: &str = "cannot allocate all claims";

/// The claims of one pod.
pub struct PodDevices<'a> {
    inventory: &'a Inventory,
    uid: &'a str,
    /// Those that have their devices.
    allocated: Vec<Arc<Claim>>,
    /// Those that have none yet.
    open: Vec<Arc<Claim>>,
}

/// What has to be written before the pod can be bound: its claims, with their devices where they get some now.
pub type DevicePlan = Vec<(Arc<Claim>, Option<Arc<Value>>)>;

impl<'a> PodDevices<'a> {
    /// Reads the claims; the error says why no node will do.
    pub fn new(inventory: &'a Inventory, pod: &'a PodInfo) -> Result<Self, String> {
        let mut out = Self { inventory, uid: &pod.uid, allocated: Vec::new(), open: Vec::new() };
        for claim in inventory.claims_of(pod)? {
            if claim.allocated {
                if claim.reserved.len() >= RESERVED_MAX && !claim.reserved.contains(&pod.uid) {
                    return Err("resourceclaim in use".into());
                }
                out.allocated.push(claim);
                continue;
            }
            if inventory.is_pending(&claim.uid) {
                return Err(format!("resource claim {} is in the process of being allocated", claim.key()));
            }
            for choice in claim.requests.iter().flat_map(|r| &r.choices) {
                let name = &choice.name;
                if choice.class.is_empty() {
                    return Err(format!("request {name}: unsupported request type"));
                }
                if inventory.class(&choice.class).is_none() {
                    return Err(format!("request {name}: device class {} does not exist", choice.class));
                }
            }
            // A pod may name a claim twice.
            if !out.open.iter().any(|c| c.uid == claim.uid) {
                out.open.push(claim);
            }
        }
        Ok(out)
    }

    /// What has to be written for this node.
    pub fn plan(&self, node: &NodeInfo) -> DevicePlan {
        let not_reserved = |c: &&Arc<Claim>| !c.reserved.iter().any(|uid| **uid == *self.uid);
        let mut plan: DevicePlan = self.allocated.iter().filter(not_reserved).map(|c| (c.clone(), None)).collect();
        let config = |class: &str| self.inventory.class(class).map(|c| c.config.clone()).unwrap_or_default();
        if let Ok(Some(solution)) = allocate(self.inventory, &self.open, node) {
            plan.extend(
                self.open.iter().enumerate().map(|(at, claim)| {
                    (claim.clone(), Some(Arc::new(result::allocation(&solution, at, claim, &config))))
                }),
            );
        }
        plan
    }

    /// A claim that keeps the pod from nodes, and that nobody uses: it may give its devices back.
    pub fn in_the_way(&self, nodes: &[NodeInfo]) -> Option<&Arc<Claim>> {
        let idle = |c: &Claim| c.reserved.iter().all(|uid| **uid == *self.uid) && c.reserved.len() <= 1;
        self.allocated.iter().find(|c| idle(c) && nodes.iter().any(|n| !reaches(c, n)))
    }
}

fn reaches(claim: &Claim, node: &NodeInfo) -> bool {
    claim.nodes.as_ref().is_none_or(|terms| terms.iter().any(|t| t.matches(&node.name, &node.labels)))
}

impl Filter for PodDevices<'_> {
    fn check(&self, node: &NodeInfo) -> Result<(), Refusal> {
        let found = if self.open.is_empty() {
            Ok(true)
        } else {
            allocate(self.inventory, &self.open, node).map(|s| s.is_some())
        };
        match found {
            Err(Trouble::Wrong(why)) => Err(Refusal::error(format!("running \"{NAME}\" filter plugin: {why}"))),
            Err(Trouble::Here(why)) => Err(Refusal::unresolvable(why)),
            Err(Trouble::TooMany) | Ok(false) => Err(Refusal::unresolvable(NOT_ENOUGH)),
            Ok(true) if !self.allocated.iter().all(|c| reaches(c, node)) => Err(Refusal::unresolvable(ELSEWHERE)),
            Ok(true) => Ok(()),
        }
    }
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pre_filter<'a>(&self, cx: &'a Cycle<'a>) -> PreFilter<'a> {
        if cx.pod.device_claims.is_empty() {
            return PreFilter::Skip;
        }
        match PodDevices::new(&cx.side.devices, cx.pod) {
            Err(why) => PreFilter::Reject(why),
            Ok(devices) => PreFilter::Check(Box::new(devices)),
        }
    }

    /// Prefers nodes on which the better choices of requests are to be had.
    fn score(&self, cx: &Cycle<'_>, nodes: &[&NodeInfo]) -> Option<Vec<i64>> {
        if cx.pod.device_claims.is_empty() {
            return None;
        }
        let devices = PodDevices::new(&cx.side.devices, cx.pod).ok()?;
        if !devices.open.iter().flat_map(|c| &c.requests).any(|r| r.prioritized) {
            return None;
        }
        let score = |node: &&NodeInfo| -> i64 {
            let Ok(Some(solution)) = allocate(devices.inventory, &devices.open, node) else { return 0 };
            let chosen =
                devices.open.iter().zip(&solution.chosen).flat_map(|(c, chosen)| c.requests.iter().zip(chosen));
            chosen.filter(|(r, _)| r.prioritized).map(|(_, at)| CHOICES_MAX.saturating_sub(*at) as i64).sum()
        };
        let mut scores: Vec<i64> = nodes.iter().map(score).collect();
        normalise(&mut scores, false);
        Some(scores)
    }

    fn wakes(&self, event: &Event, pod: &PodInfo) -> bool {
        match event {
            Event::Devices | Event::Itself | Event::Node(..) => true,
            Event::Claim { namespace, name, freed } => {
                let own = || pod.device_claims.iter().any(|c| c.claim.as_deref() == Some(&**name));
                *freed || **namespace == *pod.namespace && own()
            }
            _ => false,
        }
    }
}
