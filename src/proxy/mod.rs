//! Services as nftables rules on this node.
//!
//! In: Services and EndpointSlices from listers. Out: one nftables table. Deltas are gathered for a moment, [`model`]
//! decides, [`nft`] applies what changed. Somebody who flushes the ruleset is noticed through the kernel's events and the
//! table is installed again.
//!
//! **Invariant:** nothing here polls. **Invariant:** before both listers have synced, the table of an earlier run stays.

pub mod model;
pub mod nft;

use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::BoxStream;
use nlink::netlink::Netfilter;
use nlink::netlink::connection::Connection;
use nlink::netlink::netfilter::{ConntrackFilter, IpProtocol};
use tokio::sync::watch;

pub use self::model::{Context, LocalService};
use self::model::{Front, Model, Stale};
use crate::api::object::{Object, ObjectKey};
use crate::api::services::{Service, Slice};
use crate::runtime::{Delta, Listers};
use crate::util::backoff::Backoff;
use crate::util::nft::{Disturbance, Watch};
use crate::util::tasks::Shutdown;

/// Changes that come within this time after the first one are applied with it.
const GATHER: Duration = Duration::from_millis(5);
/// Deltas of one transaction at most.
const MAX_GATHERED: usize = 65_536;
/// Before a failed transaction is tried again as a whole.
const RETRY: Backoff = Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(30) };
/// Label of a node: its zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What the proxy has to know of its node.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the nftables table; two nodes of one namespace need two.
    pub table: String,
    /// Node, pod network, and the addresses the node answers itself.
    pub context: Context,
}

/// What has been applied last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Transactions so far; 0 before the first one.
    pub transactions: u64,
    /// Whole installations among them: the first one, and repairs.
    pub installations: u64,
    /// From the first delta of the last transaction to its end.
    pub last: Duration,
}

/// Why the proxy ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refuses nftables altogether.
    #[error("cannot use nftables: {0}; the kernel needs nf_tables with nat")]
    Nftables(#[from] crate::util::nft::Error),
    /// A lister's stream ended.
    #[error("the source of {0} ended")]
    SourceEnded(&'static str),
}

/// The Service proxy of a node.
pub struct Proxy {
    config: Config,
    services: BoxStream<'static, Delta>,
    slices: BoxStream<'static, Delta>,
    nodes: BoxStream<'static, Delta>,
    applied: watch::Sender<Applied>,
}

impl Proxy {
    /// A proxy that follows these listers.
    pub fn new(config: Config, listers: &dyn Listers) -> Self {
        Self {
            config,
            services: listers.lister("", "services").deltas(),
            slices: listers.lister("discovery.k8s.io", "endpointslices").deltas(),
            nodes: listers.lister("", "nodes").deltas(),
            applied: watch::channel(Applied::default()).0,
        }
    }

    /// Follows what has been applied: ready once `transactions` is not 0.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// Keeps the rules right until told to stop. The table stays: running pods keep their Services.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        set_sysctls();
        let Self { config, mut services, mut slices, mut nodes, applied } = self;
        let mut rules = Rules::new(&config, applied)?;
        let mut watch = Watch::new(&config.table).await?;
        let (mut services_synced, mut slices_synced) = (false, false);
        loop {
            let synced = services_synced && slices_synced;
            let event = tokio::select! {
                () = shutdown.wait() => return Ok(()),
                d = services.next() => Event::Service(d),
                d = slices.next() => Event::Slice(d),
                d = nodes.next() => Event::Node(d),
                d = watch.next() => Event::Disturbed(d.ok()),
                () = tokio::time::sleep(RETRY.delay(rules.failures)), if synced && rules.broken => Event::Retry,
            };
            let began = Instant::now();
            match event {
                Event::Service(None) => return Err(Error::SourceEnded("services")),
                Event::Slice(None) => return Err(Error::SourceEnded("endpointslices")),
                Event::Service(Some(delta)) => services_synced |= rules.service(&delta),
                Event::Slice(Some(delta)) => slices_synced |= rules.slice(&delta),
                Event::Node(None) => return Err(Error::SourceEnded("nodes")),
                // Most of them are others': nothing changes then, and nothing is written.
                Event::Node(Some(delta)) => rules.node(&delta),
                Event::Disturbed(Some(what)) if synced => rules.disturbed(what).await,
                Event::Disturbed(Some(_)) | Event::Retry => {}
                Event::Disturbed(None) => {
                    watch = Watch::new(&config.table).await?;
                    rules.disturbed(Disturbance::Unknown).await;
                }
            }
            let end = tokio::time::Instant::now() + GATHER;
            for _ in 0..MAX_GATHERED {
                tokio::select! {
                    biased;
                    Some(delta) = services.next() => services_synced |= rules.service(&delta),
                    Some(delta) = slices.next() => slices_synced |= rules.slice(&delta),
                    () = tokio::time::sleep_until(end) => break,
                }
            }
            if services_synced && slices_synced {
                rules.apply(began).await;
            }
        }
    }
}

enum Event {
    Service(Option<Delta>),
    Slice(Option<Delta>),
    Node(Option<Delta>),
    Disturbed(Option<Disturbance>),
    Retry,
}

/// The model and the table that follows it.
struct Rules {
    model: Model,
    node_name: String,
    table: nft::Table,
    /// The table is not what the model's last change assumed: install it as a whole.
    broken: bool,
    /// Installations that failed in a row.
    failures: u32,
    applied: watch::Sender<Applied>,
}

impl Rules {
    fn new(config: &Config, applied: watch::Sender<Applied>) -> Result<Self, Error> {
        let table = nft::Table::new(&config.table)?;
        let (model, node_name) = (Model::new(config.context.clone()), config.context.node_name.clone());
        Ok(Self { model, node_name, table, broken: true, failures: 0, applied })
    }

    /// True for the end of the first list.
    fn service(&mut self, delta: &Delta) -> bool {
        match delta {
            Delta::Upsert { new, .. } => match Service::decode(new) {
                Ok(service) => self.model.set_service(ObjectKey::from(&new.meta), service),
                Err(error) => warn_undecodable(new, &error),
            },
            Delta::Delete(old) => self.model.remove_service(&ObjectKey::from(&old.meta)),
            Delta::Synced => return true,
        }
        false
    }

    fn node(&mut self, delta: &Delta) {
        if let Delta::Upsert { new, .. } = delta
            && *new.meta.name == *self.node_name
        {
            self.model.set_zone(new.meta.label(ZONE).unwrap_or_default());
        }
    }

    /// True for the end of the first list.
    fn slice(&mut self, delta: &Delta) -> bool {
        match delta {
            Delta::Upsert { new, .. } => match Slice::decode(new) {
                Ok(slice) => self.model.set_slice(ObjectKey::from(&new.meta), slice),
                Err(error) => warn_undecodable(new, &error),
            },
            Delta::Delete(old) => self.model.remove_slice(&ObjectKey::from(&old.meta)),
            Delta::Synced => return true,
        }
        false
    }

    async fn disturbed(&mut self, what: Disturbance) {
        let whole = match what {
            Disturbance::Changed => false,
            Disturbance::Unknown => self.table.is_whole(self.model.chain_count()).await.unwrap_or(false),
        };
        if !whole {
            tracing::warn!("somebody changed the rules of services; installing them again");
            self.broken = true;
        }
    }

    async fn apply(&mut self, began: Instant) {
        let change = self.model.take_change();
        if change.is_empty() && !self.broken {
            return;
        }
        let mut done = if self.broken { Ok(()) } else { self.table.apply(&change).await };
        if let Err(error) = &done {
            tracing::warn!("cannot change the rules of services, installing them anew: {error}");
            self.broken = true;
        }
        let whole = self.broken;
        if whole {
            done = self.table.install(&self.model.everything()).await;
        }
        match done {
            Err(error) => {
                self.failures += 1;
                tracing::error!("cannot install the rules of services, trying again: {error}");
            }
            Ok(()) => {
                (self.broken, self.failures) = (false, 0);
                self.applied.send_modify(|a| {
                    a.transactions += 1;
                    a.installations += u64::from(whole);
                    a.last = began.elapsed();
                });
                forget(&change.stale).await;
            }
        }
    }
}

fn warn_undecodable(object: &Arc<Object>, error: &serde_json::Error) {
    tracing::warn!(object = %ObjectKey::from(&object.meta), "cannot read it, keeping what was known before: {error}");
}

/// Removes the kernel's memory of UDP flows that now go elsewhere.
async fn forget(stale: &[Stale]) {
    if stale.is_empty() {
        return;
    }
    let conn = match Connection::<Netfilter>::new() {
        Ok(conn) => conn,
        Err(error) => return tracing::warn!("cannot forget old UDP flows: {error}"),
    };
    for one in stale {
        if let Err(error) = conn.flush_conntrack_matching(&filter(one)).await {
            tracing::warn!(?one, "cannot forget old UDP flows: {error}");
        }
    }
}

fn filter(stale: &Stale) -> ConntrackFilter {
    let all = ConntrackFilter::new().proto(IpProtocol::Udp);
    let to = match stale.front {
        Front::Address(address, _, port) => all.orig_dst(address).orig_dst_port(port),
        Front::Node(_, port) => all.orig_dst_port(port),
    };
    match stale.endpoint {
        Some(endpoint) => to.reply_src(*SocketAddrV4::ip(&endpoint)).reply_src_port(endpoint.port()),
        None => to,
    }
}

/// What packets between pods, nodes and Services need; each is said once when it cannot be had.
fn set_sysctls() {
    let wanted = [("net/ipv4/ip_forward", "1", "pods cannot reach anything outside their node")];
    for (name, value, otherwise) in wanted {
        let path = Path::new("/proc/sys").join(name);
        if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
            continue;
        }
        if let Err(error) = std::fs::write(&path, value) {
            tracing::warn!("cannot set {} to {value}, {otherwise}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_can_be_a_task() {
        fn is_send<T: Send>(_: impl FnOnce(Proxy) -> T) {}
        is_send(|proxy| proxy.run(Shutdown::new()));
    }
}
