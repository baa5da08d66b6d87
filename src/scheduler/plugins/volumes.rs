//! Rules about volumes that exist: who may share them, how many a node takes, in which zone they are.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

use super::super::cluster::{Cluster, NodeInfo};
use super::super::framework::{Cycle, Event, Filter, Plugin, PreFilter, Refusal};
use super::super::pod::PodInfo;
use super::super::side::Side;
use super::super::volumes::Volume;

/// One disk, one writer; one claim of mode ReadWriteOncePod, one pod.
pub struct VolumeRestrictions;

struct Shared<'a> {
    pod: &'a PodInfo,
    /// Claims that only one pod may use.
    exclusive: Vec<&'a str>,
    /// Other pods that use them.
    users: i64,
}

fn uses(pod: &PodInfo, namespace: &str, claims: &[&str]) -> i64 {
    if *pod.namespace != *namespace {
        return 0;
    }
    pod.volumes.named().filter(|name| claims.contains(name)).count() as i64
}

impl Filter for Shared<'_> {
    fn check(&self, node: &NodeInfo) -> Result<(), Refusal> {
        let conflict = |theirs: &PodInfo| {
            let mut pairs =
                self.pod.volumes.disks.iter().flat_map(|a| theirs.volumes.disks.iter().map(move |b| (a, b)));
            pairs.any(|((a, a_reads), (b, b_reads))| a == b && !(*a_reads && *b_reads))
        };
        if !self.pod.volumes.disks.is_empty() && node.pods.iter().any(|p| conflict(p)) {
            return Err(Refusal::retry("node(s) had no available disk"));
        }
        if self.users > 0 {
            return Err(Refusal::retry(
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
            ));
        }
        Ok(())
    }

    fn changed(&mut self, pod: &PodInfo, _node: &NodeInfo, sign: i64) {
        self.users += sign * uses(pod, &self.pod.namespace, &self.exclusive);
    }
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn pre_filter<'a>(&self, cx: &'a Cycle<'a>) -> PreFilter<'a> {
        let pod = cx.pod;
        let mut exclusive = Vec::new();
        for name in pod.volumes.named() {
            match cx.side.claim(&pod.namespace, name) {
                Some(claim) if claim.once_per_pod => exclusive.push(name),
                Some(_) => {}
                None => return PreFilter::Reject(format!("persistentvolumeclaim \"{name}\" not found")),
            }
        }
        if pod.volumes.disks.is_empty() && exclusive.is_empty() {
            return PreFilter::Skip;
        }
        let users = if exclusive.is_empty() { 0 } else { users(cx.cluster, &pod.namespace, &exclusive) };
        PreFilter::Check(Box::new(Shared { pod, exclusive, users }))
    }

    fn wakes(&self, event: &Event, _pod: &PodInfo) -> bool {
        matches!(event, Event::PodGone(..) | Event::Storage | Event::Node(None, _))
    }
}

fn users(cluster: &Cluster, namespace: &str, claims: &[&str]) -> i64 {
    cluster.nodes().iter().flat_map(|n| &n.pods).map(|p| uses(p, namespace, claims)).sum()
}

/// A driver attaches only so many volumes to a node. Upstream: `plugins/nodevolumelimits`.
pub struct NodeVolumeLimits;

struct Limits<'a> {
    side: &'a Side,
    /// What the pod adds: driver and volume.
    wanted: HashSet<(String, String)>,
    /// Volumes by name that are attached to nodes, looked at once one has a limit.
    attached: OnceCell<HashMap<String, Vec<String>>>,
}

impl Limits<'_> {
    /// Volumes that are attached to a node, whether a pod there uses them or not.
    fn attached_to(&self, node: &str) -> impl Iterator<Item = (String, String)> {
        let names = self.attached.get_or_init(|| self.side.attached()).get(node);
        names.into_iter().flatten().filter_map(|name| self.side.volume(name)?.csi)
    }
}

/// Volumes of drivers that a pod uses; a claim that is not bound yet counts as a volume of its class's provisioner.
fn attached(side: &Side, pod: &PodInfo) -> HashSet<(String, String)> {
    let of_claim = |name: &str| {
        let claim = side.claim(&pod.namespace, name)?;
        match side.volume(&claim.volume) {
            Some(volume) => volume.csi,
            None => Some((side.class(&claim.class)?.provisioner, format!("pvc-{}/{name}", pod.namespace))),
        }
    };
    pod.volumes.claims.iter().filter_map(|(name, _)| of_claim(name)).collect()
}

impl Filter for Limits<'_> {
    fn check(&self, node: &NodeInfo) -> Result<(), Refusal> {
        let limits = self.side.volume_limits(&node.name);
        let limited = |(driver, _): &&(String, String)| limits.contains_key(driver);
        if !self.wanted.iter().any(|v| limited(&v)) {
            return Ok(());
        }
        let used: HashSet<_> = node.pods.iter().flat_map(|p| attached(self.side, p)).collect();
        // Without a pod that uses it here it is about to be detached: it counts beside its being wanted, as it does upstream.
        let left: HashSet<_> = self.attached_to(&node.name).filter(|v| !used.contains(v)).collect();
        let mut counts: HashMap<&str, i64> = HashMap::new();
        for (driver, _) in used.union(&self.wanted).chain(&left) {
            *counts.entry(driver).or_default() += 1;
        }
        let new = self.wanted.difference(&used).filter(limited);
        match new.into_iter().any(|(driver, _)| counts[&**driver] > limits[driver]) {
            true => Err(Refusal::retry("node(s) exceed max volume count")),
            false => Ok(()),
        }
    }
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn pre_filter<'a>(&self, cx: &'a Cycle<'a>) -> PreFilter<'a> {
        let wanted = attached(cx.side, cx.pod);
        if wanted.is_empty() {
            return PreFilter::Skip;
        }
        PreFilter::Check(Box::new(Limits { side: cx.side, wanted, attached: OnceCell::new() }))
    }

    fn wakes(&self, event: &Event, _pod: &PodInfo) -> bool {
        matches!(event, Event::PodGone(..) | Event::Storage | Event::Detached | Event::Node(None, _))
    }
}

/// A volume with a zone in its labels is used in that zone.
pub struct VolumeZone;

const ZONE_LABELS: [&str; 4] = [
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];

/// Labels and the values that they may have.
struct Zones(Vec<(String, Vec<String>)>);

fn current_label(key: &str) -> String {
    key.replace("failure-domain.beta.kubernetes.io", "topology.kubernetes.io")
}

impl Filter for Zones {
    fn check(&self, node: &NodeInfo) -> Result<(), Refusal> {
        // A cluster without zones has nothing to say.
        if !ZONE_LABELS.iter().any(|key| node.label(key).is_some()) {
            return Ok(());
        }
        let fits = |(key, values): &(String, Vec<String>)| {
            let there = node.label(key).or_else(|| node.label(&current_label(key)));
            there.is_some_and(|there| values.iter().any(|v| v == there))
        };
        match self.0.iter().all(fits) {
            true => Ok(()),
            false => Err(Refusal::unresolvable("node(s) had no available volume zone")),
        }
    }
}

fn zones(volume: &Volume) -> impl Iterator<Item = (String, Vec<String>)> {
    ZONE_LABELS.iter().filter_map(|key| {
        let value = super::super::pod::label(&volume.labels, key)?;
        Some(((*key).to_owned(), value.split("__").map(str::to_owned).collect()))
    })
}

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn pre_filter<'a>(&self, cx: &'a Cycle<'a>) -> PreFilter<'a> {
        let mut all = Vec::new();
        let claims = cx.pod.volumes.named().filter_map(|name| cx.side.claim(&cx.pod.namespace, name));
        for claim in claims.filter(|c| !c.volume.is_empty()) {
            match cx.side.volume(&claim.volume) {
                Some(volume) => all.extend(zones(&volume)),
                None => return PreFilter::Reject(format!("persistentvolume \"{}\" not found", claim.volume)),
            }
        }
        if all.is_empty() { PreFilter::Skip } else { PreFilter::Check(Box::new(Zones(all))) }
    }

    fn wakes(&self, event: &Event, _pod: &PodInfo) -> bool {
        matches!(event, Event::Storage | Event::Node(..))
    }
}
