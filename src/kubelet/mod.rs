//! The node agent: makes the containers of its node what the bound pods ask for.
//!
//! In: pods of this node, ConfigMaps, Secrets, Services and the Node from listers; what runs from the [`runtime`]; probe
//! results. Out: calls of the runtime, files below the data directory, pod and node status, leases and events through the
//! client.
//!
//! Each pod has a [`worker`], a state machine in a task of its own. It decides by pure functions ([`sync::plan`],
//! [`status::status`]) and acts by [`start`] and [`stop`]. What runs is listed once for all of them ([`pleg`]).
//!
//! **Invariant:** stopping the kubelet stops no container; starting it adopts what runs.
//! **Invariant:** what the API does not know is stopped, but only once all pods of the API have been seen.

pub mod admit;
pub mod ask;
pub mod cgroups;
pub mod config;
pub mod container;
pub mod containerd;
pub mod cri;
pub mod csi;
pub mod disk;
pub mod downward;
pub mod env;
pub mod eviction;
pub mod expand;
#[cfg(test)]
pub mod fake;
pub mod health;
pub mod hollow;
pub mod hooks;
pub mod images;
pub mod logs;
pub mod machine;
pub mod network;
pub mod node;
pub mod past;
pub mod pause;
pub mod pleg;
pub mod pod;
mod pods;
pub mod preemption;
pub mod probes;
pub mod pull;
pub mod registries;
pub mod resize;
pub mod runtime;
pub mod security;
pub mod serve;
mod server;
pub mod shared;
pub mod sources;
pub mod start;
mod stats;
pub mod status;
pub mod stop;
pub mod sync;
#[cfg(test)]
mod testing;
pub mod volumes;
pub mod worker;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

pub use config::Config;

use crate::client::Client;
use crate::runtime::Listers;
use crate::runtime::events::{self, EventWriter};
use crate::util::backoff::Backoff;
use crate::util::clock::SharedClock;
use crate::util::tasks::Shutdown;
use eviction::Eviction;
use images::{Cleaner, Pins, Preload};
use machine::Machine;
use node::Node;
use pods::Pods;
use runtime::{Runtime, State};
use shared::Shared;

/// Between two attempts to reach the container runtime at the start.
const RUNTIME_RETRY: Backoff = Backoff { base: Duration::from_millis(20), cap: Duration::from_secs(5) };
/// Attempts that a runtime may take to start before it is worth a word: about two seconds.
const RUNTIME_STARTS: u32 = 7;

/// Between looks at the size of logs. Upstream: `containerLogMonitorInterval`.
const LOG_LOOK: Duration = Duration::from_secs(10);

/// The node agent.
pub struct Kubelet {
    shared: Arc<Shared>,
    listers: Arc<dyn Listers>,
    node: Node,
    pods: Pods,
    cidrs: watch::Sender<Vec<String>>,
    ips: watch::Sender<Vec<String>>,
    cleaner: Arc<Cleaner>,
    eviction: Eviction,
    writer: Mutex<Option<EventWriter>>,
    rates: stats::Rates,
    gauge: volumes::fullness::Gauge,
    tokens: Arc<volumes::Given>,
}

impl Kubelet {
    /// A kubelet that does nothing yet. Needs a tokio runtime.
    pub fn new(
        config: Config,
        runtime: Arc<dyn Runtime>,
        listers: Arc<dyn Listers>,
        client: Client,
        clock: SharedClock,
    ) -> Arc<Self> {
        let client = client.named("kubelet");
        let tokens = Arc::new(volumes::Given::new(client.clone()));
        let (recorder, writer) = events::recorder(client.clone(), "kubelet", &config.node_name, clock.clone());
        let mut facts = node::allocatable(&config, &Machine::read(&config.data_dir));
        facts.node_name = config.node_name.clone();
        facts.host_ips = config.node_ips.clone();
        let tree = cgroups::Tree::at(&config.cgroup_root);
        let pins = Arc::new(Pins::new(config.pinned_images.clone()));
        let (pressure, short_of) = watch::channel(Vec::new());
        let known_as = config.known_root();
        let csi = Arc::new(csi::Csi::new(config.root(), known_as, &config.node_name, client.clone()));
        let shared = Arc::new(Shared {
            csi: csi.clone(),
            pins: pins.clone(),
            pressure,
            listers: listers.clone(),
            runtime_name: ArcSwap::from_pointee(String::new()),
            pleg: Arc::new(pleg::Pleg::new(runtime.clone())),
            sources: Arc::new(sources::Listed(listers.clone())),
            tokens: tokens.clone(),
            client: client.clone(),
            events: recorder,
            asker: Arc::new(ask::Network { runtime: runtime.clone() }),
            clock: clock.clone(),
            facts: ArcSwap::from_pointee(facts),
            cgroups: config.cgroup_root.is_dir().then_some(tree),
            pulls: Semaphore::new(shared::MAX_PARALLEL_PULLS),
            runtime: runtime.clone(),
            config: config.clone(),
        });
        let pods = Pods::new(shared.clone());
        let (policy, root) = (config.image_gc, config.image_root.clone());
        let cleaner = Arc::new(Cleaner::new(runtime.clone(), pins, clock.clone(), policy, root));
        let eviction = Eviction::new(shared.clone(), cleaner.clone());
        let ips = watch::Sender::new(config.node_ips.clone());
        let pulse = node::Pulse::new();
        let node = Node { config, client, runtime, clock, ips: ips.subscribe(), pressure: short_of, csi, pulse };
        Arc::new(Self {
            shared,
            listers,
            node,
            pods,
            cidrs: watch::Sender::default(),
            ips,
            cleaner,
            eviction,
            writer: Mutex::new(Some(writer)),
            rates: stats::Rates::default(),
            gauge: Default::default(),
            tokens,
        })
    }

    /// Keeps the tokens of pods there, and falls back on them while no server answers. Only the first call counts.
    pub fn keep_tokens(&self, kept: Arc<crate::runtime::kept::Tokens>) {
        self.tokens.keep(kept);
    }

    /// The node's pod ranges, as they become known: what the network needs.
    pub fn pod_cidrs(&self) -> watch::Receiver<Vec<String>> {
        self.cidrs.subscribe()
    }

    /// Signs of life, and whether this process has told that the node is Ready.
    pub fn pulse(&self) -> watch::Receiver<node::Pulse> {
        self.node.pulse.subscribe()
    }

    /// The node has other addresses, the main one first: its status says so at once, and so do pods on the host's network.
    pub fn set_node_ips(&self, ips: &[String]) {
        let changed = |now: &mut Vec<String>| std::mem::replace(now, ips.to_vec()) != ips;
        if !self.ips.send_if_modified(changed) {
            return;
        }
        self.shared.facts.rcu(|facts| downward::Facts { host_ips: ips.to_vec(), ..(**facts).clone() });
        self.pods.look_all();
    }

    /// Works until the shutdown. Containers run on.
    pub async fn run(&self, shutdown: Shutdown) {
        let Some(writer) = self.writer.lock().take() else { return };
        if shutdown.or(self.wait_for_runtime()).await.is_none() {
            return;
        }
        let changed = |_: &pleg::Snapshot, uids| self.pods.changed(uids);
        tokio::join!(
            writer.run(shutdown.clone()),
            self.shared.pleg.run(shutdown.clone(), || self.pods.any(), changed),
            self.node.run(&shutdown),
            self.shared.csi.run(&*self.listers, &shutdown),
            node::follow_pod_cidrs(&self.shared.config.node_name, &*self.listers, &self.cidrs, &shutdown),
            self.pods.run(&*self.listers, &shutdown),
            self.pods.follow(&*self.listers, sources::Kind::ConfigMap, &shutdown),
            self.pods.follow(&*self.listers, sources::Kind::Secret, &shutdown),
            self.rotate_logs(&shutdown),
            self.preload(&shutdown),
            self.cleaner.run(&shutdown, |why| self.shared.node_event("FreeDiskSpaceFailed", why)),
            self.eviction.run(&self.pods, &shutdown),
        );
    }

    /// Container ids are told with the runtime's name, so nothing is told before it is known.
    async fn wait_for_runtime(&self) {
        let mut failures = 0;
        loop {
            match self.shared.runtime.version().await {
                Ok(version) => {
                    let name = version.split("://").next().unwrap_or_default().to_owned();
                    self.shared.runtime_name.store(Arc::new(name));
                    return;
                }
                Err(e) => {
                    failures += 1;
                    // Nobody tells of a socket that begins to answer. One that has just been started does so soon.
                    if failures > RUNTIME_STARTS {
                        tracing::warn!("waiting for the container runtime: {e}");
                    }
                    self.node.beat(None);
                    tokio::time::sleep(RUNTIME_RETRY.delay(failures)).await;
                }
            }
        }
    }

    /// Imports what the node shall have from the start, where the runtime can be given images.
    async fn preload(&self, shutdown: &Shutdown) {
        let config = &self.shared.config;
        let Some(socket) = &config.containerd else { return self.shared.pins.finish() };
        let preload = Preload {
            dir: config.images_dir(),
            record: config.data_dir.join("agent/imported-images.json"),
            socket,
            runtime: &*self.shared.runtime,
            pins: &self.shared.pins,
        };
        shutdown.or(preload.run()).await;
    }

    async fn rotate_logs(&self, shutdown: &Shutdown) {
        while shutdown.or(tokio::time::sleep(LOG_LOOK)).await.is_some() {
            if !self.pods.any() {
                continue;
            }
            let latest = self.shared.pleg.latest();
            let running = latest.pods.values().flat_map(|p| &p.containers).filter(|c| c.state == State::Running);
            for c in running {
                let path = std::path::Path::new(&c.log_path);
                let (runtime, now) = (&*self.shared.runtime, self.shared.clock.now());
                match logs::rotate(runtime, &c.id, path, logs::Rotation::default(), now).await {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        tracing::warn!(container = c.name, "cannot rotate its log: {e}");
                    }
                    _ => {}
                }
            }
        }
    }
}
pub mod stream;
