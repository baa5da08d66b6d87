//! Devices of resource claims: what a claim has must be reachable from the node, what it waits for must be there.
//!
//! Extended resources that the node does not have itself, and that a class of devices stands for, are one more claim, which
//! is made when the pod is bound ([`extended`]). Upstream: `plugins/dynamicresources`.

use std::cell::OnceCell;
use std::sync::Arc;

use serde_json::Value;

use super::super::cluster::NodeInfo;
use super::super::devices::agreed::{Agreed, has_conditions};
use super::super::devices::extended::{self, Asked};
use super::super::devices::model::Claim;
use super::super::devices::search::{Trouble, allocate};
use super::super::devices::{Inventory, RESERVED_MAX, result};
use super::super::framework::{Cycle, Event, Filter, Plugin, PreFilter, Reasons, Refusal, normalise};
use super::super::pod::PodInfo;

/// See the module.
pub struct DynamicResources;

/// The plugin's name.
pub const NAME: &str = "DynamicResources";
/// Choices of one request; upstream's `FirstAvailableDeviceRequestMaxSize`.
const CHOICES_MAX: usize = 8;

const ELSEWHERE: &str = "resourceclaim not available on the node";
const NOT_ENOUGH: &str = "cannot allocate all claims";
const STALE: &str = "cannot schedule extended resource claim";
const NO_SUCH_RESOURCE: &str = "cannot fit resource";

/// True where a claim has its devices elsewhere, and nothing else was found to be wrong with the node before.
pub fn is_elsewhere(plugin: &str, refusal: &Refusal) -> bool {
    plugin == NAME && matches!(&refusal.reasons, Reasons::One(reason) if **reason == *ELSEWHERE)
}

/// Claims that need devices; and what the last of them stands for, if it stands for something.
type ToAllocate = (Vec<Arc<Claim>>, Option<Arc<StandIn>>);

/// The claims of one pod.
pub struct PodDevices<'a> {
    inventory: &'a Inventory,
    pod: &'a PodInfo,
    /// Those that have their devices.
    allocated: Vec<Arc<Claim>>,
    /// Those that have none yet.
    open: Vec<Arc<Claim>>,
    extended: Extended<'a>,
}

/// Extended resources of the pod that may come from devices.
enum Extended<'a> {
    /// No class stands for any.
    None,
    /// A claim for them is left of an earlier attempt. What it has may not be true any more: it has to go first.
    Stale(Arc<Claim>),
    /// All of them, with the class that stands for each; and the claim for all that have one, which most nodes need.
    Wanted(Vec<(&'a str, Option<&'a str>)>, OnceCell<Arc<StandIn>>),
}

/// A claim that stands for extended resources, before it is made.
#[derive(Debug)]
pub struct StandIn {
    /// What devices are looked for by; its uid is nobody else's.
    pub claim: Arc<Claim>,
    /// The same as the API has it, and what of it is whose.
    pub asked: Asked,
}

/// What has to be written before the pod can be bound.
#[derive(Debug, Default)]
pub struct DevicePlan {
    /// Claims that are to be reserved, with their devices where they get some now.
    pub claims: Vec<(Arc<Claim>, Option<Arc<Value>>)>,
    /// One that has to be made first.
    pub new: Option<NewClaim>,
    /// Drivers of claims that need not be written have not agreed yet.
    pub waiting: Vec<Arc<Claim>>,
}

/// A claim that is made for a pod.
#[derive(Debug)]
pub struct NewClaim {
    /// What it asks for.
    pub of: Arc<StandIn>,
    /// What it gets.
    pub allocation: Arc<Value>,
    /// The claim, once it is there.
    pub made: Option<Arc<Claim>>,
}

impl DevicePlan {
    /// What is given away, by the uid of the claim that gets it.
    pub fn gifts(&self) -> impl Iterator<Item = (&str, &Value)> {
        let of_claims = self.claims.iter().filter_map(|(c, a)| Some((&*c.uid, &**a.as_ref()?)));
        of_claims.chain(self.new.iter().map(|n| (&*n.of.claim.uid, &*n.allocation)))
    }

    /// Names of the claims whose drivers have to agree before the pod is bound.
    pub fn awaited(&self) -> Vec<&str> {
        let asks = |(claim, allocation): &(Arc<Claim>, Option<Arc<Value>>)| match allocation {
            Some(allocation) => has_conditions(allocation),
            None => claim.agreed != Agreed::Yes,
        };
        let known = self.claims.iter().filter(|c| asks(c)).map(|(c, _)| c).chain(&self.waiting);
        let new = self.new.iter().filter(|n| has_conditions(&n.allocation)).filter_map(|n| n.made.as_ref());
        known.chain(new).map(|c| &*c.name).collect()
    }
}

impl<'a> PodDevices<'a> {
    /// Reads the claims; the error says why no node will do.
    pub fn new(inventory: &'a Inventory, pod: &'a PodInfo) -> Result<Self, String> {
        let (allocated, open) = (Vec::new(), Vec::new());
        let mut out = Self { inventory, pod, allocated, open, extended: Extended::new(inventory, pod) };
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

    /// True where there is nothing to look after.
    pub fn is_empty(&self) -> bool {
        self.allocated.is_empty() && self.open.is_empty() && matches!(self.extended, Extended::None)
    }

    /// What has to be written for this node.
    pub fn plan(&self, node: &NodeInfo) -> DevicePlan {
        let is_reserved = |c: &Claim| c.reserved.iter().any(|uid| **uid == *self.pod.uid);
        let mut plan = DevicePlan::default();
        for claim in &self.allocated {
            match is_reserved(claim) {
                false => plan.claims.push((claim.clone(), None)),
                true if claim.agreed != Agreed::Yes => plan.waiting.push(claim.clone()),
                true => {}
            }
        }
        let Ok((claims, stand_in)) = self.to_allocate(node) else { return plan };
        let config = |class: &str| self.inventory.class(class).map(|c| c.config.clone()).unwrap_or_default();
        if let Ok(Some(solution)) = allocate(self.inventory, &claims, node) {
            let gets = |(at, claim): (usize, &Arc<Claim>)| {
                Arc::new(result::allocation(&solution, at, claim, &node.name, &config))
            };
            let mut found: Vec<Arc<Value>> = claims.iter().enumerate().map(gets).collect();
            if let Some(of) = stand_in
                && let Some(allocation) = found.pop()
            {
                plan.new = Some(NewClaim { of, allocation, made: None });
            }
            plan.claims.extend(self.open.iter().cloned().zip(found.into_iter().map(Some)));
        }
        plan
    }

    /// A claim that keeps the pod from one of these nodes, and that nobody else uses: it may give its devices back.
    pub fn in_the_way<'n>(&self, mut nodes: impl Iterator<Item = &'n NodeInfo>) -> Option<&Arc<Claim>> {
        let idle = |c: &&Arc<Claim>| c.reserved.iter().all(|uid| **uid == *self.pod.uid) && c.reserved.len() <= 1;
        let idle: Vec<&Arc<Claim>> = self.allocated.iter().filter(idle).collect();
        nodes.find_map(|n| idle.iter().find(|c| !self.serves(c, n)).copied())
    }

    /// A claim for extended resources that is left of an earlier attempt.
    pub fn stale(&self) -> Option<&Arc<Claim>> {
        match &self.extended {
            Extended::Stale(claim) => Some(claim),
            _ => None,
        }
    }

    /// True where an allocated claim is of use on a node.
    fn serves(&self, claim: &Claim, node: &NodeInfo) -> bool {
        let reaches = claim.nodes.as_ref().is_none_or(|all| all.iter().any(|t| t.matches(&node.name, &node.labels)));
        reaches
            && match claim.agreed {
                Agreed::Yes => true,
                Agreed::NotYet => claim.late_at.is_none_or(|late| late >= self.inventory.now),
                Agreed::No(_) => false,
            }
    }

    /// The claims that need devices on this node; the one that stands for extended resources is the last, if there is one.
    fn to_allocate(&self, node: &NodeInfo) -> Result<ToAllocate, &'static str> {
        let stand_in = self.extended.on(self.pod, node)?;
        Ok((self.open.iter().chain(stand_in.as_ref().map(|s| &s.claim)).cloned().collect(), stand_in))
    }
}

impl<'a> Extended<'a> {
    fn new(inventory: &'a Inventory, pod: &'a PodInfo) -> Self {
        if pod.extended.is_empty() {
            return Self::None;
        }
        let names = pod.requests.scalar.iter().filter(|(name, want)| *want > 0 && extended::is_name(name));
        let all: Vec<_> = names.map(|(name, _)| (&**name, inventory.class_for(name).map(|c| &*c.name))).collect();
        match inventory.standing_for(&pod.uid) {
            _ if all.iter().all(|(_, class)| class.is_none()) => Self::None,
            Some(claim) => Self::Stale(claim.clone()),
            None => Self::Wanted(all, OnceCell::new()),
        }
    }

    /// What a node does not have itself.
    fn on(&self, pod: &PodInfo, node: &NodeInfo) -> Result<Option<Arc<StandIn>>, &'static str> {
        let (all, usual) = match self {
            Self::None => return Ok(None),
            Self::Stale(_) => return Err(STALE),
            Self::Wanted(all, usual) => (all, usual),
        };
        let mut needed = Vec::new();
        for (name, class) in all {
            let has = node.allocatable.scalar.iter().find(|(n, _)| **n == **name).map(|(_, has)| *has);
            match (class, has) {
                (Some(class), None | Some(0)) => needed.push((*name, *class)),
                (None, None) => return Err(NO_SUCH_RESOURCE),
                _ => {}
            }
        }
        Ok(match needed.len() {
            0 => None,
            n if n == all.len() => Some(usual.get_or_init(|| StandIn::new(pod, &needed)).clone()),
            _ => Some(StandIn::new(pod, &needed)),
        })
    }
}

impl StandIn {
    fn new(pod: &PodInfo, needed: &[(&str, &str)]) -> Arc<Self> {
        let asked = extended::ask(&pod.extended, needed);
        let uid = format!("{}/{}", pod.uid, extended::UNMADE).into();
        Arc::new(Self { claim: Arc::new(Claim::unmade(&pod.namespace, uid, &asked.requests)), asked })
    }
}

impl Filter for PodDevices<'_> {
    fn check(&self, node: &NodeInfo) -> Result<(), Refusal> {
        let (claims, _) = self.to_allocate(node).map_err(Refusal::unresolvable)?;
        let found =
            if claims.is_empty() { Ok(true) } else { allocate(self.inventory, &claims, node).map(|s| s.is_some()) };
        match found {
            Err(Trouble::Wrong(why)) => Err(Refusal::error(format!("running \"{NAME}\" filter plugin: {why}"))),
            Err(Trouble::Here(why)) => Err(Refusal::unresolvable(why)),
            Err(Trouble::TooMany) | Ok(false) => Err(Refusal::unresolvable(NOT_ENOUGH)),
            Ok(true) if !self.allocated.iter().all(|c| self.serves(c, node)) => Err(Refusal::unresolvable(ELSEWHERE)),
            Ok(true) => Ok(()),
        }
    }
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pre_filter<'a>(&self, cx: &'a Cycle<'a>) -> PreFilter<'a> {
        if !cx.pod.wants_devices() {
            return PreFilter::Skip;
        }
        match PodDevices::new(&cx.side.devices, cx.pod) {
            Err(why) => PreFilter::Reject(why),
            Ok(devices) if devices.is_empty() => PreFilter::Skip,
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
            let Ok((claims, _)) = devices.to_allocate(node) else { return 0 };
            let Ok(Some(solution)) = allocate(devices.inventory, &claims, node) else { return 0 };
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
            Event::Devices | Event::DeviceClass(_) | Event::Itself | Event::Node(..) => true,
            Event::Claim { namespace, name, freed } => {
                let own = || pod.device_claims.iter().any(|c| c.claim.as_deref() == Some(&**name));
                *freed || **namespace == *pod.namespace && own()
            }
            _ => false,
        }
    }
}
