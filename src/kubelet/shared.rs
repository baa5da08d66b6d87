//! What all pod workers use.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};

use super::ask::Asker;
use super::cgroups::Tree;
use super::config::Config;
use super::container;
use super::csi::Csi;
use super::downward::Facts;
use super::eviction::Pressure;
use super::images::Pins;
use super::pleg::Pleg;
use super::pod::{Member, PodInventory, PodView, Role};
use super::pull;
use super::runtime::{Runtime, State};
use super::sources::Sources;
use super::volumes::Tokens;
use crate::api::value::ValueExt;
use crate::client::Client;
use crate::runtime::Listers;
use crate::runtime::events::{EventType, Recorder, Regarding};
use crate::util::clock::SharedClock;

/// Images pulled at the same time.
pub const MAX_PARALLEL_PULLS: usize = 4;

/// The node's side of every pod worker.
pub struct Shared {
    /// Configuration.
    pub config: Config,
    /// The container runtime.
    pub runtime: Arc<dyn Runtime>,
    /// Name of the runtime in container ids, as `containerd`.
    pub runtime_name: ArcSwap<String>,
    /// Lists of what runs.
    pub pleg: Arc<Pleg>,
    /// ConfigMaps, Secrets, Services.
    pub sources: Arc<dyn Sources>,
    /// Service account tokens.
    pub tokens: Arc<dyn Tokens>,
    /// Drivers of volumes on the node.
    pub csi: Arc<Csi>,
    /// The API.
    pub client: Client,
    /// Events for people.
    pub events: Recorder,
    /// Asks containers for probes.
    pub asker: Arc<dyn Asker>,
    /// The clock.
    pub clock: SharedClock,
    /// The node, as pods may learn of it.
    pub facts: ArcSwap<Facts>,
    /// Pod cgroups; none where they cannot be made.
    pub cgroups: Option<Tree>,
    /// Bounds pulls.
    pub pulls: Semaphore,
    /// Images that stay, and whether all are there that should be from the start.
    pub pins: Arc<Pins>,
    /// What the node runs short of.
    pub pressure: watch::Sender<Vec<Pressure>>,
    /// Nodes, pods, RuntimeClasses.
    pub listers: Arc<dyn Listers>,
}

impl Shared {
    /// What a pod with these addresses may learn.
    pub fn facts_of(&self, pod: &PodView, inventory: &PodInventory) -> Facts {
        let mut facts = (**self.facts.load()).clone();
        facts.pod_ips = if pod.host_network() {
            facts.host_ips.clone()
        } else {
            inventory.sandboxes.first().map(|s| s.ips.clone()).unwrap_or_default()
        };
        facts
    }

    /// The pod's directory.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        container::pod_dir(&self.config, uid)
    }

    /// What the runtime has of a pod right now, last words included. An error when it does not tell all: who acted on half
    /// of the truth would start what runs already.
    pub async fn inventory(&self, uid: &str) -> Result<PodInventory, String> {
        self.whole(uid, &self.pleg.fresh().await.pod(uid))
    }

    /// The same as it was last listed.
    pub fn last_inventory(&self, uid: &str) -> Result<PodInventory, String> {
        self.whole(uid, &self.pleg.latest().pod(uid))
    }

    fn whole(&self, uid: &str, listed: &PodInventory) -> Result<PodInventory, String> {
        if let Some(why) = &listed.unclear {
            return Err(format!("cannot tell what runs of it: {why}"));
        }
        let mut inventory = listed.clone();
        for c in inventory.containers.iter_mut().filter(|c| c.state == State::Exited && c.message.is_empty()) {
            c.message = container::last_words(&self.config, uid, c);
        }
        Ok(inventory)
    }

    /// The runtime handler that the pod's RuntimeClass names; empty for the default one.
    pub fn runtime_handler(&self, pod: &PodView) -> Result<String, String> {
        let Some(class) = pod.spec.runtime_class_name.as_deref().filter(|c| !c.is_empty()) else {
            return Ok(String::new());
        };
        let found = self.listers.lister("node.k8s.io", "runtimeclasses").get("", class);
        let found = found.ok_or_else(|| format!("RuntimeClass.node.k8s.io \"{class}\" not found"))?;
        Ok(found.value().str_at("/handler").unwrap_or_default().to_owned())
    }

    /// Records a warning about the node.
    pub fn node_event(&self, reason: &str, message: impl Into<String>) {
        let name = &self.config.node_name;
        let about = Regarding {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.clone(),
            // Upstream's kubelet knows no other: its events are found by this one.
            uid: name.clone(),
            ..Regarding::default()
        };
        self.events.event(about, EventType::Warning, reason, message);
    }

    /// Records an event of a pod, or of one of its containers.
    pub fn event(
        &self,
        pod: &PodView,
        member: Option<&Member>,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let mut about = pod.regarding();
        if let Some(member) = member {
            let list = match member.role {
                Role::Init | Role::Sidecar => "initContainers",
                Role::App => "containers",
                Role::Ephemeral => "ephemeralContainers",
            };
            about.field_path = format!("spec.{list}{{{}}}", member.name());
        }
        self.events.event(about, kind, reason, message);
    }
}

/// Tells what happens to the images of a pod.
pub struct Tell<'a> {
    /// Who writes events.
    pub shared: &'a Shared,
    /// The pod.
    pub pod: &'a PodView,
}

impl pull::Listener for Tell<'_> {
    fn tell(&self, member: &Member, warning: bool, reason: &str, message: String) {
        let kind = if warning { EventType::Warning } else { EventType::Normal };
        self.shared.event(self.pod, Some(member), kind, reason, message);
    }
}

/// Volumes of a pod by name.
pub type Volumes = HashMap<String, super::volumes::Prepared>;
