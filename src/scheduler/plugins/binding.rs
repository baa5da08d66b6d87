//! Claims of the pod: bound ones must be reachable from the node, waiting ones must find or get a volume there.
//!
//! Upstream: `plugins/volumebinding`.

use std::collections::HashSet;

use super::super::cluster::NodeInfo;
use super::super::framework::{Cycle, Event, Filter, Plugin, PreFilter, Reasons, Refusal};
use super::super::pod::PodInfo;
use super::super::side::Side;
use super::super::volumes::{Claim, Class, Match, Volume, VolumePlan, match_for};

/// See the module.
pub struct VolumeBinding;

const NO_VOLUME: &str = "node(s) didn't find available persistent volumes to bind";
const NO_SPACE: &str = "node(s) did not have enough free storage";
const ELSEWHERE: &str = "node(s) didn't match PersistentVolume's node affinity";
const NO_SUCH_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

/// The claims of one pod.
pub struct Claims<'a> {
    side: &'a Side,
    bound: Vec<Option<Volume>>,
    /// Waiting ones with their class and the volumes of the class, smallest first.
    waiting: Vec<(Claim, Class)>,
    volumes: Vec<Volume>,
}

impl<'a> Claims<'a> {
    /// Reads the claims; the error is upstream's sentence about the first that no node will do for.
    pub fn new(side: &'a Side, pod: &PodInfo) -> Result<Self, String> {
        let mut out = Self { side, bound: Vec::new(), waiting: Vec::new(), volumes: Vec::new() };
        let mut immediate = false;
        for (name, ephemeral) in &pod.volumes.claims {
            let Some(claim) = side.claim(&pod.namespace, name) else {
                return Err(match ephemeral {
                    true => format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\""
                    ),
                    false => format!("persistentvolumeclaim \"{name}\" not found"),
                });
            };
            if claim.lost {
                return Err(format!(
                    "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{}\"",
                    claim.volume
                ));
            }
            if claim.deleting {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            // Upstream: `ephemeral.VolumeIsForPod`.
            if *ephemeral && claim.controller != pod.uid {
                let ns = &pod.namespace;
                return Err(format!("PVC {ns}/{name} was not created for pod {ns}/{} (pod is not owner)", pod.name));
            }
            if claim.bound {
                out.bound.push(side.volume(&claim.volume));
                continue;
            }
            // A pod may name a claim twice.
            if out.waiting.iter().any(|(c, _)| c.uid == claim.uid) {
                continue;
            }
            match side.class(&claim.class).filter(|c| c.waits && claim.volume.is_empty()) {
                Some(class) => out.waiting.push((claim, class)),
                None => immediate = true,
            }
        }
        if immediate {
            return Err("pod has unbound immediate PersistentVolumeClaims".into());
        }
        if !out.waiting.is_empty() {
            let classes: HashSet<&str> = out.waiting.iter().map(|(c, _)| &*c.class).collect();
            out.volumes = side.volumes_of(&classes);
            out.volumes.sort_by_key(|v| v.size);
            out.waiting.sort_by_key(|(c, _)| c.size);
        }
        Ok(out)
    }

    /// True when the claims have nothing to say.
    pub fn is_empty(&self) -> bool {
        self.bound.is_empty() && self.waiting.is_empty()
    }

    /// What has to be done with the waiting claims on this node.
    pub fn plan(&self, node: &NodeInfo) -> Result<VolumePlan, &'static str> {
        let mut plan = VolumePlan::default();
        let mut taken = HashSet::new();
        let mut without = Vec::new();
        for (claim, class) in &self.waiting {
            if claim.selected_node.as_ref().is_some_and(|n| **n != *node.name) {
                return Err(NO_VOLUME);
            }
            let left = |v: &&Volume| !taken.contains(&v.name);
            let found = match claim.selected_node {
                Some(_) => None,
                None => match_for(claim, self.volumes.iter().filter(left), node),
            };
            match found {
                Some(volume) => {
                    taken.insert(volume.name.clone());
                    plan.bind.push(Match {
                        volume: volume.name.clone(),
                        revision: volume.revision,
                        kept: volume.is_for(claim) && !self.side.is_taken(&volume.name),
                        claim: claim.clone(),
                    });
                }
                None => without.push((claim, class)),
            }
        }
        for (claim, class) in without {
            if !class.provisions() || !class.reaches(node) {
                return Err(NO_VOLUME);
            }
            if !self.side.has_space(claim, class, node) {
                return Err(NO_SPACE);
            }
            plan.provision.push(claim.clone());
        }
        Ok(plan)
    }
}

impl Filter for Claims<'_> {
    fn check(&self, node: &NodeInfo) -> Result<(), Refusal> {
        let mut refusal = Refusal { reasons: Reasons::None, final_: true, error: false };
        // Of the bound ones the first that does not do speaks for all.
        let bad = self.bound.iter().find(|v| v.as_ref().is_none_or(|v| !v.reachable(node)));
        if matches!(bad, Some(Some(_))) {
            refusal.reasons.push(ELSEWHERE);
        }
        if let Err(why) = self.plan(node) {
            refusal.reasons.push(why);
        }
        if matches!(bad, Some(None)) {
            refusal.reasons.push(NO_SUCH_VOLUME);
        }
        if refusal.reasons.is_empty() { Ok(()) } else { Err(refusal) }
    }
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn pre_filter<'a>(&self, cx: &'a Cycle<'a>) -> PreFilter<'a> {
        match Claims::new(cx.side, cx.pod) {
            Err(why) => PreFilter::Reject(why),
            Ok(claims) if claims.is_empty() => PreFilter::Skip,
            Ok(claims) => PreFilter::Check(Box::new(claims)),
        }
    }

    fn wakes(&self, event: &Event, _pod: &PodInfo) -> bool {
        matches!(event, Event::Storage | Event::Node(..))
    }
}
