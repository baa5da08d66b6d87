//! Services as nftables rules on this node.
//!
//! In: Services and EndpointSlices from listers. Out: one nftables table for each address family of the cluster. Deltas are gathered for a moment, [`model`]
//! decides, [`nft`] applies what changed. Somebody who flushes the ruleset is noticed through the kernel's events and the
//! table is installed again.
//!
//! **Invariant:** nothing here polls. **Invariant:** before both listers have synced, the table of an earlier run stays.

pub mod model;
pub mod nft;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::BoxStream;
use nlink::netlink::Netfilter;
use nlink::netlink::connection::Connection;
use nlink::netlink::netfilter::{ConntrackFilter, IpProtocol};
use nlink::netlink::types::AddressFamily;
use tokio::sync::watch;

pub use self::model::{Context, LocalService};
use self::model::{Front, Model, Stale};
use crate::api::object::{Object, ObjectKey};
use crate::api::services::{Service, Slice};
use crate::runtime::{Delta, Listers};
use crate::util::backoff::Backoff;
use crate::util::families::{Family, Networks};
use crate::util::nft::{Disturbance, Watch};
use crate::util::sysctl;
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
    /// Name of the nftables tables; two nodes of one namespace need two.
    pub table: String,
    /// This node's name.
    pub node_name: String,
    /// Addresses of pods: their families are those that there are rules of.
    pub cluster_cidr: Networks,
    /// Addresses that the node itself answers.
    pub local_services: Vec<LocalService>,
}

impl Config {
    /// What the rules of each family depend on.
    fn contexts(&self) -> impl Iterator<Item = Context> {
        self.cluster_cidr.families().map(|family| Context {
            family,
            node_name: self.node_name.clone(),
            cluster_cidr: self.cluster_cidr.of(family),
            zone: String::new(),
            local_services: self.local_services.iter().filter(|l| family.has(&l.address)).cloned().collect(),
        })
    }
}

/// What has been applied last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Transactions so far, one of each family counted as one; 0 before the first one.
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
        set_sysctls(&self.config.cluster_cidr);
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
                () = tokio::time::sleep(RETRY.delay(rules.failures())), if synced && rules.broken() => Event::Retry,
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

/// The rules of all families.
struct Rules {
    sides: Vec<Side>,
    node_name: String,
    applied: watch::Sender<Applied>,
}

/// The model of a family and the table that follows it.
struct Side {
    model: Model,
    table: nft::Table,
    /// The table is not what the model's last change assumed: install it as a whole.
    broken: bool,
    /// Installations that failed in a row.
    failures: u32,
}

impl Rules {
    fn new(config: &Config, applied: watch::Sender<Applied>) -> Result<Self, Error> {
        let side = |context: Context| {
            let table = nft::Table::new(&config.table, context.family)?;
            Ok(Side { model: Model::new(context), table, broken: true, failures: 0 })
        };
        let sides = config.contexts().map(side).collect::<Result<_, Error>>()?;
        Ok(Self { sides, node_name: config.node_name.clone(), applied })
    }

    fn broken(&self) -> bool {
        self.sides.iter().any(|s| s.broken)
    }

    fn failures(&self) -> u32 {
        self.sides.iter().map(|s| s.failures).max().unwrap_or_default()
    }

    /// Tells all models; the last one gets the thing itself.
    fn tell<T: Clone>(&mut self, what: T, tell: impl Fn(&mut Model, T)) {
        let Some((last, others)) = self.sides.split_last_mut() else { return };
        for side in others {
            tell(&mut side.model, what.clone());
        }
        tell(&mut last.model, what);
    }

    /// True for the end of the first list.
    fn service(&mut self, delta: &Delta) -> bool {
        match delta {
            Delta::Upsert { new, .. } => match Service::decode(new) {
                Ok(service) => self.tell((ObjectKey::from(&new.meta), service), |m, (key, s)| m.set_service(key, s)),
                Err(error) => warn_undecodable(new, &error),
            },
            Delta::Delete(old) => self.tell(ObjectKey::from(&old.meta), |m, key| m.remove_service(&key)),
            Delta::Synced => return true,
        }
        false
    }

    fn node(&mut self, delta: &Delta) {
        if let Delta::Upsert { new, .. } = delta
            && *new.meta.name == *self.node_name
        {
            self.tell(new.meta.label(ZONE).unwrap_or_default(), Model::set_zone);
        }
    }

    /// True for the end of the first list.
    fn slice(&mut self, delta: &Delta) -> bool {
        match delta {
            Delta::Upsert { new, .. } => match Slice::decode(new) {
                Ok(slice) => self.tell((ObjectKey::from(&new.meta), slice), |m, (key, s)| m.set_slice(key, s)),
                Err(error) => warn_undecodable(new, &error),
            },
            Delta::Delete(old) => self.tell(ObjectKey::from(&old.meta), |m, key| m.remove_slice(&key)),
            Delta::Synced => return true,
        }
        false
    }

    async fn disturbed(&mut self, what: Disturbance) {
        let mut any = false;
        for side in &mut self.sides {
            let whole = match what {
                Disturbance::Changed => false,
                Disturbance::Unknown => side.table.is_whole(side.model.chain_count()).await.unwrap_or(false),
            };
            side.broken |= !whole;
            any |= !whole;
        }
        if any {
            tracing::warn!("somebody changed the rules of services; installing them again");
        }
    }

    async fn apply(&mut self, began: Instant) {
        let (mut done, mut installed, mut stale) = (false, false, Vec::new());
        for side in &mut self.sides {
            if let Some((whole, of_side)) = side.apply().await {
                (done, installed) = (true, installed | whole);
                stale.extend(of_side.into_iter().map(|s| (side.model.family(), s)));
            }
        }
        if done {
            self.applied.send_modify(|a| {
                a.transactions += 1;
                a.installations += u64::from(installed);
                a.last = began.elapsed();
            });
            forget(&stale).await;
        }
    }
}

impl Side {
    /// Brings the table to where the model is. What was done: whether as a whole, and what is to be forgotten now; none when
    /// there was nothing to do, or it failed.
    async fn apply(&mut self) -> Option<(bool, Vec<Stale>)> {
        let change = self.model.take_change();
        if change.is_empty() && !self.broken {
            return None;
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
                let family = self.model.family();
                tracing::error!(%family, "cannot install the rules of services, trying again: {error}");
                None
            }
            Ok(()) => {
                (self.broken, self.failures) = (false, 0);
                Some((whole, change.stale))
            }
        }
    }
}

fn warn_undecodable(object: &Arc<Object>, error: &serde_json::Error) {
    tracing::warn!(object = %ObjectKey::from(&object.meta), "cannot read it, keeping what was known before: {error}");
}

/// Removes the kernel's memory of UDP flows that now go elsewhere.
async fn forget(stale: &[(Family, Stale)]) {
    if stale.is_empty() {
        return;
    }
    let conn = match Connection::<Netfilter>::new() {
        Ok(conn) => conn,
        Err(error) => return tracing::warn!("cannot forget old UDP flows: {error}"),
    };
    for (family, one) in stale {
        if let Err(error) = conn.flush_conntrack_matching(&filter(*family, one)).await {
            tracing::warn!(?one, "cannot forget old UDP flows: {error}");
        }
    }
}

fn filter(family: Family, stale: &Stale) -> ConntrackFilter {
    let family = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    let all = ConntrackFilter::new().family(family).proto(IpProtocol::Udp);
    let to = match stale.front {
        Front::Address(address, _, port) => all.orig_dst(address).orig_dst_port(port),
        Front::Node(_, port) => all.orig_dst_port(port),
    };
    match stale.endpoint {
        Some(endpoint) => to.reply_src(endpoint.ip()).reply_src_port(endpoint.port()),
        None => to,
    }
}

/// What packets between pods, nodes and Services need; each is said once when it cannot be had.
fn set_sysctls(networks: &Networks) {
    let (path, done) = ("net/ipv4/ip_forward", sysctl::ensure("net/ipv4/ip_forward", "1"));
    let of_ipv6 = networks.v6.map(|_| ("net/ipv6/conf/all/forwarding", sysctl::forward_ipv6()));
    for (name, done) in [(path, done)].into_iter().chain(of_ipv6) {
        if let Err(error) = done {
            let path = sysctl::path(name);
            tracing::warn!(
                "cannot set {} to 1, pods cannot reach anything outside their node: {error}",
                path.display()
            );
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
