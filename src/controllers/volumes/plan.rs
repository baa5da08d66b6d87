//! What has to happen to a claim or a volume. No IO.
//!
//! Rules: upstream `pv_controller.go` (`syncClaim`, `syncVolume`), `index.go` (`findBestMatchForClaim`).

use super::model::{Claim, Class, Volume};

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
    /// Cannot be: somebody took an annotation away.
    Impossible(String),
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
    /// The first pod that uses the claim and has no node.
    pub waiting_pod: Option<&'a str>,
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
    match &volume.claim {
        None => match mismatch(c, volume) {
            Some(why) => {
                let message = format!("Cannot bind to requested volume \"{}\": {why}", volume.name);
                ForClaim::Wait(Say::warning("VolumeMismatch", message))
            }
            None => ForClaim::Bind(volume.name.clone()),
        },
        Some(_) if volume.is_for(c) => ForClaim::Bind(volume.name.clone()),
        Some(_) if !c.by_controller => ForClaim::Wait(None),
        Some(r) => ForClaim::Impossible(format!(
            "the claim is bound to volume {}, which {}/{} has; put the annotation {} back, or make the claim anew",
            volume.name,
            r.namespace,
            r.name,
            super::BIND_COMPLETED
        )),
    }
}

/// Why a volume that a claim names does not do. Upstream: `checkVolumeSatisfyClaim`.
fn mismatch(c: &Claim, v: &Volume) -> Option<&'static str> {
    if v.deleting {
        return Some("the volume is being deleted");
    }
    if v.size < c.size {
        return Some("requested PV is too small");
    }
    if c.class.clone().unwrap_or_default() != v.class {
        return Some("storageClassName does not match");
    }
    if c.block != v.block {
        return Some("incompatible volumeMode");
    }
    if !has_modes(c, v) {
        return Some("incompatible accessMode");
    }
    None
}

fn has_modes(c: &Claim, v: &Volume) -> bool {
    c.modes.iter().all(|m| v.modes.contains(m))
}

/// The volume for a claim: one that is kept for it, else the smallest of those with the fewest access modes. `reserved`
/// takes only the former: the scheduler chooses for the claim.
pub fn best<'v>(c: &Claim, volumes: &'v [Volume], reserved: bool) -> Option<&'v Volume> {
    let could = |v: &&Volume| {
        (v.claim.is_none() || v.is_for(c)) && v.size >= c.size && v.block == c.block && !v.deleting && has_modes(c, v)
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

/// A claim for which there is no volume.
fn without(c: &Claim, around: &Around<'_>, waits: bool) -> ForClaim {
    if waits {
        let say = match around.waiting_pod {
            Some(pod) => Say::normal("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
            None => Say::normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
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
        Some(class) if class.provisioner.starts_with("kubernetes.io/") => {
            failed(format!("no volume plugin matched name: {}", class.provisioner))
        }
        Some(class) => {
            let message = format!(
                "Waiting for a volume to be created either by the external provisioner '{}' or manually by the system \
                 administrator. If volume creation is delayed, please verify that the provisioner is running and \
                 correctly registered.",
                class.provisioner
            );
            ForClaim::Provision(class.provisioner.clone(), Say::normal("ExternalProvisioning", message))
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

/// Follows the policy of a released volume.
pub fn reclaim(v: &Volume) -> Reclaim {
    let failed = |reason, message: String| Reclaim::Failed(Say { warning: true, reason, message });
    match (v.reclaim.as_str(), &v.provisioner) {
        ("Delete", None) => failed(
            "VolumeFailedDelete",
            format!(
                "error getting deleter volume plugin for volume \"{}\": no deletable volume plugin matched",
                v.name
            ),
        ),
        ("Recycle", _) => failed("VolumeFailedRecycle", "orch recycles no volumes; delete this one by hand".into()),
        _ => Reclaim::Nothing,
    }
}
