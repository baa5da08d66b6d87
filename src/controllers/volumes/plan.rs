//! What has to happen to a claim or a volume. No IO.
//!
//! Rules: upstream `pv_controller.go` (`syncClaim`, `syncVolume`), `index.go` (`findBestMatchForClaim`).

use super::model::{Claim, Class, Source, Volume};

/// What people are told with a decision: warning or not, reason, message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Say {
    /// True when somebody should look.
    pub warning: bool,
    /// `FailedBinding`, …
    pub reason: &'static str,
    /// What is the matter.
    pub message: String,
}

impl Say {
    fn normal(reason: &'static str, message: impl Into<String>) -> Option<Self> {
        Some(Self { warning: false, reason, message: message.into() })
    }

    fn warning(reason: &'static str, message: impl Into<String>) -> Option<Self> {
        Some(Self { warning: true, reason, message: message.into() })
    }
}

/// What happens to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForClaim {
    /// Nothing.
    Leave,
    /// It gets this volume, or what is missing of that.
    Bind(String),
    /// It goes on waiting.
    Wait(Option<Say>),
    /// It gets the default class, and is looked at again.
    Default(String),
    /// A provisioner is asked.
    Provision(String, Option<Say>),
    /// Its volume is gone for good.
    Lost(Say),
    /// Cannot be: somebody took an annotation away. What the claim is told, and why.
    Impossible(Say, String),
}

/// What there is beside the claim.
#[derive(Debug, Default)]
pub struct Around<'a> {
    /// The volumes that could be meant.
    pub volumes: &'a [Volume],
    /// The claim's class.
    pub class: Option<&'a Class>,
    /// Name of the default class.
    pub default: Option<&'a str>,
    /// The pods that use the claim, have no node and have not ended.
    pub waiting_pods: &'a [String],
}

/// Decides on a claim.
pub fn claim(c: &Claim, around: &Around<'_>) -> ForClaim {
    let named = around.volumes.iter().find(|v| v.name == c.volume);
    match (c.bind_completed, c.volume.is_empty()) {
        (true, _) => bound(c, named),
        (false, false) => asks_for(c, named),
        (false, true) if c.deleting => ForClaim::Leave,
        (false, true) => {
            let waits = around.class.is_some_and(|class| class.waits) && c.selected_node.is_none();
            match best(c, around.volumes, waits) {
                Some(volume) => ForClaim::Bind(volume.name.clone()),
                None => without(c, around, waits),
            }
        }
    }
}

/// A claim that was bound before.
fn bound(c: &Claim, named: Option<&Volume>) -> ForClaim {
    let lost = |reason, message: &str| ForClaim::Lost(Say { warning: true, reason, message: message.into() });
    if c.volume.is_empty() {
        return lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!");
    }
    match named.map(|v| (v, &v.claim)) {
        None => lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"),
        Some((v, None)) => ForClaim::Bind(v.name.clone()),
        Some((v, Some(r))) if r.uid == c.uid => ForClaim::Bind(v.name.clone()),
        Some(_) => lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly"),
    }
}

/// A claim that names its volume.
fn asks_for(c: &Claim, named: Option<&Volume>) -> ForClaim {
    let Some(volume) = named else { return ForClaim::Wait(None) };
    let taken = || {
        let message = format!("volume \"{}\" already bound to a different claim.", volume.name);
        Say { warning: true, reason: "FailedBinding", message }
    };
    match &volume.claim {
        None => match mismatch(c, volume) {
            Some(why) => {
                let message = format!("Cannot bind to requested volume \"{}\": {why}", volume.name);
                ForClaim::Wait(Say::warning("VolumeMismatch", message))
            }
            None => ForClaim::Bind(volume.name.clone()),
        },
        Some(_) if volume.is_for(c) => ForClaim::Bind(volume.name.clone()),
        Some(_) if !c.by_controller => ForClaim::Wait(Some(taken())),
        Some(r) => ForClaim::Impossible(
            taken(),
            format!(
                "the claim is bound to volume {}, which {}/{} has; put the annotation {} back, or make the claim anew",
                volume.name,
                r.namespace,
                r.name,
                super::BIND_COMPLETED
            ),
        ),
    }
}

/// Why a volume that a claim names does not do. Upstream: `checkVolumeSatisfyClaim`.
fn mismatch(c: &Claim, v: &Volume) -> Option<String> {
    if v.deleting {
        return Some(format!("the volume is marked for deletion \"{}\"", v.name));
    }
    let checks = [
        (v.size < c.size, "requested PV is too small"),
        (c.class.as_deref().unwrap_or_default() != v.class, "storageClassName does not match"),
        (c.attributes != v.attributes, "volumeAttributesClassName does not match"),
        (c.block != v.block, "incompatible volumeMode"),
        (!has_modes(c, v), "incompatible accessMode"),
    ];
    checks.iter().find(|(wrong, _)| *wrong).map(|(_, why)| (*why).to_owned())
}

fn has_modes(c: &Claim, v: &Volume) -> bool {
    c.modes.iter().all(|m| v.modes.contains(m))
}

/// The volume for a claim: one that is kept for it, else the smallest of those with the fewest access modes. `reserved`
/// takes only the former: the scheduler chooses for the claim.
pub fn best<'v>(c: &Claim, volumes: &'v [Volume], reserved: bool) -> Option<&'v Volume> {
    let could = |v: &&Volume| {
        let is_alike = v.block == c.block && v.attributes == c.attributes;
        (v.claim.is_none() || v.is_for(c)) && v.size >= c.size && is_alike && !v.deleting && has_modes(c, v)
    };
    if let Some(kept) = volumes.iter().filter(could).find(|v| v.is_for(c)) {
        return Some(kept);
    }
    if reserved {
        return None;
    }
    let class = c.class.as_deref().unwrap_or_default();
    let free = |v: &&Volume| v.phase == "Available" && v.selected_by(c) && v.class == class;
    volumes.iter().filter(could).filter(free).min_by_key(|v| (v.modes.len(), v.size, v.name.clone()))
}

/// Plugins that are no part of Kubernetes any more, and the drivers that do their work. Upstream: `csi-translation-lib`.
const DRIVERS: &[(&str, &str)] = &[
    ("kubernetes.io/aws-ebs", "ebs.csi.aws.com"),
    ("kubernetes.io/azure-disk", "disk.csi.azure.com"),
    ("kubernetes.io/azure-file", "file.csi.azure.com"),
    ("kubernetes.io/cinder", "cinder.csi.openstack.org"),
    ("kubernetes.io/gce-pd", "pd.csi.storage.gke.io"),
    ("kubernetes.io/portworx-volume", "pxd.portworx.com"),
    ("kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com"),
];

/// A claim for which there is no volume.
fn without(c: &Claim, around: &Around<'_>, waits: bool) -> ForClaim {
    if waits {
        let say = match around.waiting_pods {
            [] => Say::normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
            [pod] => Say::normal("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
            pods => Say::normal("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", pods.join(","))),
        };
        return ForClaim::Wait(say);
    }
    let Some(name) = c.class.as_deref() else {
        return match around.default {
            Some(class) => ForClaim::Default(class.to_owned()),
            None => no_class(),
        };
    };
    if name.is_empty() {
        return no_class();
    }
    let failed = |why: String| ForClaim::Wait(Say::warning("ProvisioningFailed", why));
    match around.class {
        None => failed(format!("storageclass.storage.k8s.io \"{name}\" not found")),
        Some(class) => {
            let driver = DRIVERS.iter().find(|(plugin, _)| *plugin == class.provisioner).map(|(_, driver)| *driver);
            if driver.is_none() && class.provisioner.starts_with("kubernetes.io/") {
                return failed(format!("no volume plugin matched name: {}", class.provisioner));
            }
            let by = driver.unwrap_or(&class.provisioner);
            let message = format!(
                "Waiting for a volume to be created either by the external provisioner '{by}' or manually by the system \
                 administrator. If volume creation is delayed, please verify that the provisioner is running and \
                 correctly registered."
            );
            ForClaim::Provision(by.to_owned(), Say::normal("ExternalProvisioning", message))
        }
    }
}

fn no_class() -> ForClaim {
    let message = "no persistent volumes available for this claim and no storage class is set";
    ForClaim::Wait(Say::normal("FailedBinding", message))
}

/// What happens to a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForVolume {
    /// Nothing: its claim is looked at, and that decides.
    Leave,
    /// Its phase should be this.
    Phase(&'static str),
    /// Its claim is gone: it is released, and its policy followed.
    Release,
    /// Its claim chose another one; it is given back. True when the reservation itself goes.
    Unbind(bool),
    /// It can never be the claim's.
    Mismatch,
}

/// Decides on a volume. `claim` is the one that it names, if there is one with that uid.
pub fn volume(v: &Volume, claim: Option<&Claim>) -> ForVolume {
    match (&v.claim, claim) {
        (None, _) => ForVolume::Phase("Available"),
        (Some(r), _) if r.uid.is_empty() => ForVolume::Phase("Available"),
        (Some(_), None) => ForVolume::Release,
        (Some(_), Some(c)) if c.volume.is_empty() && c.block != v.block => ForVolume::Mismatch,
        (Some(_), Some(c)) if c.volume.is_empty() => ForVolume::Leave,
        (Some(_), Some(c)) if c.volume == v.name => ForVolume::Phase("Bound"),
        (Some(_), Some(_)) if v.provisioner.is_some() && v.reclaim == "Delete" => ForVolume::Release,
        (Some(_), Some(_)) => ForVolume::Unbind(v.by_controller),
    }
}

/// What a released volume's policy asks of this controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reclaim {
    /// A person, or the volume's own provisioner, goes on.
    Nothing,
    /// It cannot be followed; the volume's phase says so.
    Failed(Say),
}

/// Follows the policy of a released volume. Upstream removes a directory below `/tmp` on its own machine, and empties
/// directories by a pod of its own. Here a volume's data may be on any node, and nobody is told that it is gone while it is
/// there.
/// Rules: upstream `reclaimVolume`, `findDeletablePlugin`, and the plugin `host_path`.
pub fn reclaim(v: &Volume) -> Reclaim {
    let failed = |reason, message: String| Reclaim::Failed(Say { warning: true, reason, message });
    let name = &v.name;
    match (v.reclaim.as_str(), &v.provisioner, &v.source) {
        ("Delete", _, Source::Driver) | ("Delete", Some(_), _) => Reclaim::Nothing,
        ("Delete", None, Source::HostPath(path))
            if path.split_once("/tmp/").is_some_and(|(_, rest)| !rest.is_empty()) =>
        {
            failed(
                "VolumeFailedDelete",
                format!(
                    "orch removes no directories of nodes: remove {path} where it is, then delete volume \"{name}\""
                ),
            )
        }
        ("Delete", None, Source::HostPath(path)) => failed(
            "VolumeFailedDelete",
            format!("host_path deleter only supports /tmp/.+ but received provided {path}"),
        ),
        ("Delete", None, _) => failed(
            "VolumeFailedDelete",
            format!("error getting deleter volume plugin for volume \"{name}\": no deletable volume plugin matched"),
        ),
        ("Recycle", _, Source::HostPath(_) | Source::Nfs) => {
            failed("VolumeFailedRecycle", "orch recycles no volumes; delete this one by hand".into())
        }
        ("Recycle", ..) => failed("VolumeFailedRecycle", "No recycler plugin found for the volume!".into()),
        _ => Reclaim::Nothing,
    }
}
