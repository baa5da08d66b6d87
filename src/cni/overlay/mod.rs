//! The overlay: pods of all nodes reach each other.
//!
//! In: Nodes from a lister, this node's address, word of the kernel's own changes. Out: the vxlan device, routes, and what
//! the kernel has to know to use them. [`plan`] decides what should be and what leads there; [`kernel`] reads and acts.
//!
//! Each pass compares the whole of what should be with the whole of what is: a crash, a node that came meanwhile and an
//! administrator who removed a route are one case. Passes follow events; there is no polling.
//!
//! **Invariant:** nothing is removed before all Nodes are known: a restart interrupts no connection.
//! **Invariant:** what does not work is told once and tried again; the node itself goes on.

pub mod kernel;
pub mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use ipnet::IpNet;
use nlink::netlink::connection::Connection;
use tokio::sync::watch;

pub use kernel::Error;
pub use plan::Backend;
use plan::{Link, Note, Own, Peer};

use crate::runtime::{Delta, Listers};
use crate::util::backoff::Backoff;
use crate::util::families::Networks;
use crate::util::tasks::Shutdown;

/// Name of the vxlan device.
pub const DEVICE: &str = "orch-vxlan";

/// What the overlay is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// How.
    pub backend: Backend,
    /// This node's name.
    pub node_name: String,
    /// Addresses of this node's pods.
    pub range: Networks,
    /// Addresses of all pods.
    pub cluster_cidr: Networks,
}

/// What the last pass left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Passes so far.
    pub passes: u64,
    /// Other nodes' ranges that are routed.
    pub routed: BTreeSet<IpNet>,
    /// What does not go.
    pub notes: BTreeSet<String>,
    /// MTU for pods; 0 for the kernel's default.
    pub pod_mtu: u32,
}

/// The MTU of pods on a node with this address; 0, the kernel's default, while that is on no interface.
pub async fn pod_mtu(backend: Backend, address: IpAddr) -> Result<u32, Error> {
    let conn = Connection::<nlink::Route>::new()?;
    Ok(mtu_over(backend, address, kernel::find_link(&conn, address).await?.as_ref()))
}

fn mtu_over(backend: Backend, address: IpAddr, link: Option<&Link>) -> u32 {
    link.filter(|_| !address.is_loopback()).map_or(0, |l| backend.pod_mtu(l.mtu))
}

/// Follows nodes, addresses and the kernel.
pub struct Overlay {
    config: Config,
    nodes: BoxStream<'static, Delta>,
    address: watch::Receiver<IpAddr>,
    peers: BTreeMap<String, Peer>,
    synced: bool,
    /// Number of the interface that has the node's address.
    link: Option<u32>,
    told: BTreeSet<String>,
    applied: watch::Sender<Applied>,
}

impl Overlay {
    /// One that has done nothing yet.
    pub fn new(config: Config, listers: &dyn Listers, address: watch::Receiver<IpAddr>) -> Self {
        Self {
            config,
            nodes: listers.lister("", "nodes").deltas(),
            address,
            peers: BTreeMap::new(),
            synced: false,
            link: None,
            told: BTreeSet::new(),
            applied: watch::Sender::default(),
        }
    }

    /// What each pass left.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// Works until told to stop. What is in the kernel stays: so do the pods' connections.
    pub async fn run(mut self, stop: Shutdown) {
        let mut events = Events::Lost;
        let mut failures = 0;
        loop {
            let retry = async {
                match failures {
                    0 => std::future::pending().await,
                    n => tokio::time::sleep(Backoff::RESTART.delay(n)).await,
                }
            };
            let due = tokio::select! {
                () = stop.wait() => return,
                delta = self.nodes.next() => match delta {
                    Some(delta) => self.take(delta),
                    // The source has stopped, and so will this.
                    None => return stop.wait().await,
                },
                () = moved(&mut self.address) => true,
                () = events.next(&self.config, self.link) => true,
                () = retry => true,
            };
            let more = self.take_ready();
            if !(due || more) || !self.synced {
                continue;
            }
            match self.pass().await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    tracing::debug!(failures, "{error}");
                }
            }
        }
    }

    /// Takes what is there already, so that many changes are one pass.
    fn take_ready(&mut self) -> bool {
        let mut due = false;
        while let Some(Some(delta)) = self.nodes.next().now_or_never() {
            due |= self.take(delta);
        }
        due
    }

    /// Notes a node; true when that changes something. Most changes of a Node are heartbeats.
    fn take(&mut self, delta: Delta) -> bool {
        match delta {
            Delta::Upsert { new, .. } => {
                let peer = Peer::of(&new);
                self.peers.insert(peer.name.clone(), peer.clone()) != Some(peer)
            }
            Delta::Delete(last) => self.peers.remove(&last.meta.name).is_some(),
            Delta::Synced => !std::mem::replace(&mut self.synced, true),
        }
    }

    async fn pass(&mut self) -> Result<(), Error> {
        let done = self.try_pass().await;
        if let Err(error) = &done {
            self.tell([error.to_string()].into());
        }
        done.and_then(|failed| failed.map_or(Ok(()), Err))
    }

    /// One pass; gives the first change that the kernel refused.
    async fn try_pass(&mut self) -> Result<Option<Error>, Error> {
        let conn = Connection::<nlink::Route>::new()?;
        let address = *self.address.borrow_and_update();
        let link = kernel::find_link(&conn, address).await?;
        self.link = link.as_ref().map(|l| l.index);
        let pod_mtu = mtu_over(self.config.backend, address, link.as_ref());
        let own = Own { name: self.config.node_name.clone(), address, range: self.config.range, link };
        let want = plan::wanted(self.config.backend, &own, self.peers.values());
        let have = kernel::read(&conn, DEVICE, self.config.cluster_cidr).await?;
        let (steps, foreign) = plan::steps(&want, &have);
        let mut failed = None;
        for step in &steps {
            tracing::debug!(?step, "overlay");
            if let Err(error) = kernel::apply(&conn, DEVICE, step).await {
                // Without the device nothing else works; of the rest each stands for itself.
                let vital = matches!(step, plan::Step::AddDevice(_) | plan::Step::SetUp);
                failed.get_or_insert(error);
                if vital {
                    break;
                }
            }
        }
        let blocked: BTreeSet<IpNet> =
            foreign.iter().filter_map(|n| if let Note::Foreign(to, _) = n { Some(*to) } else { None }).collect();
        let refused = failed.iter().map(ToString::to_string);
        let notes: BTreeSet<String> =
            want.notes.iter().chain(&foreign).map(ToString::to_string).chain(refused).collect();
        self.tell(notes.clone());
        let routed = want.routes.into_keys().filter(|r| failed.is_none() && !blocked.contains(r)).collect();
        self.applied.send_modify(|a| *a = Applied { passes: a.passes + 1, routed, notes, pod_mtu });
        Ok(failed)
    }

    /// Logs what is new of what does not go.
    fn tell(&mut self, notes: BTreeSet<String>) {
        for note in notes.difference(&self.told) {
            tracing::warn!(backend = %self.config.backend, "{note}");
        }
        self.told = notes;
    }
}

/// Waits for another address; for ever when nobody is left to tell of one.
async fn moved(address: &mut watch::Receiver<IpAddr>) {
    if address.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Events of the kernel; watched again when some were lost.
enum Events {
    Lost,
    Watching(Box<kernel::Events>),
}

impl Events {
    /// Waits for a change; one may have been missed when events were lost.
    async fn next(&mut self, config: &Config, link: Option<u32>) {
        if let Self::Watching(events) = self {
            if events.next(link).await.is_err() {
                *self = Self::Lost;
            }
            return;
        }
        match kernel::Events::new(DEVICE, config.cluster_cidr).await {
            Ok(events) => *self = Self::Watching(Box::new(events)),
            Err(error) => {
                tracing::warn!("{error}");
                tokio::time::sleep(Backoff::RESTART.cap).await;
            }
        }
    }
}
