//! The node of this process: container runtime, network, overlay, DNS, Service rules, kubelet.
//!
//! Order matters and is the order below: the kubelet registers the Node, the controllers give it a pod range, the range
//! gives the bridge its address, and only then pods can have a network and DNS an address to listen on.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::{Ipv4Net, Ipv6Net};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::cluster::Cluster;
use super::flags::NodeFlags;
use super::kubelet_args::KubeletArgs;
use crate::api::services::Protocol;
use crate::client::Client;
use crate::cni::overlay::{self, Overlay};
use crate::cni::{self, CniConfig};
use crate::dns::{self, Dns};
use crate::kubelet::containerd::{Containerd, Options};
use crate::kubelet::cri::{CriRuntime, socket_path};
use crate::kubelet::csi;
use crate::kubelet::registries::{Registries, Rewrites};
use crate::kubelet::runtime::Runtime;
use crate::kubelet::serve::{Guard, listen};
use crate::kubelet::{Kubelet, config::Config};
use crate::pki::tls::SwappableCert;
use crate::proxy::{self, LocalService, Proxy};
use crate::runtime::Listers;
use crate::runtime::node_api::NodeApi;
use crate::util::address;
use crate::util::backoff::Backoff;
use crate::util::clock::SharedClock;
use crate::util::families::Networks;
use crate::util::files;
use crate::util::tasks::{OnEnd, Shutdown, Tasks};

/// Port of DNS.
const DNS_PORT: u16 = 53;

/// Between two looks for addresses that nobody uses any more.
const GARBAGE_EVERY: Duration = Duration::from_secs(300);
/// An address younger than this may belong to a sandbox that is being made: longer than the runtime is given for that.
const GARBAGE_AGE: Duration = Duration::from_secs(300);

/// What a node has to be told.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Data directory.
    pub data_dir: PathBuf,
    /// Node name.
    pub name: String,
    /// Node address, and its changes.
    pub address: watch::Receiver<IpAddr>,
    /// Its IPv6 address where that was given; in a cluster with IPv6 one is found otherwise.
    pub second_address: Option<Ipv6Addr>,
    /// Labels at registration.
    pub labels: Vec<(String, String)>,
    /// Taints at registration.
    pub taints: Vec<String>,
    /// Its cluster.
    pub cluster: Cluster,
    /// Port of the node's HTTPS server.
    pub kubelet_port: u16,
    /// Flags for the kubelet.
    pub(super) kubelet_args: KubeletArgs,
}

/// The container runtime of a node: found, not started.
pub struct FoundRuntime {
    containerd: Option<Arc<Containerd>>,
    socket: PathBuf,
    rewrites: Rewrites,
    /// Keeps a second orch from the same directory.
    _lock: std::fs::File,
}

impl FoundRuntime {
    /// Finds it: what is missing is told before anything starts.
    pub fn find(data_dir: &Path, flags: &NodeFlags) -> anyhow::Result<Self> {
        let lock = lock(&data_dir.join("agent"))?;
        match &flags.container_runtime_endpoint {
            Some(endpoint) => {
                if flags.private_registry.is_some() {
                    bail!(
                        "--private-registry is for orch's own containerd; configure the runtime at {endpoint} itself"
                    );
                }
                let (socket, rewrites) = (socket_path(endpoint)?, Rewrites::default());
                Ok(Self { containerd: None, socket, rewrites, _lock: lock })
            }
            None => {
                let mut options = Options::for_data_dir(data_dir);
                options.pause_image = flags.pause_image.clone();
                options.registries = Registries::load(flags.private_registry.as_deref())?;
                let rewrites = Rewrites::of(&options.registries);
                let containerd = Arc::new(Containerd::prepare(&options)?);
                let socket = containerd.socket().to_owned();
                Ok(Self { containerd: Some(containerd), socket, rewrites, _lock: lock })
            }
        }
    }
}

/// Takes the node's port.
pub async fn bind_port(port: u16) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another port with --kubelet-port"))
}

/// Takes the node's directory for this process.
fn lock(dir: &Path) -> anyhow::Result<std::fs::File> {
    files::create_dir_durable(dir)
        .with_context(|| format!("cannot create {}; choose another place with --data-dir", dir.display()))?;
    let path = dir.join("lock");
    let file = std::fs::File::options().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!("another orch runs a node in {}; stop it, or choose another --data-dir", dir.display())
        }
        Err(std::fs::TryLockError::Error(e)) => Err(e).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// The parts of a node, not started.
pub struct NodeParts {
    config: NodeConfig,
    runtime: FoundRuntime,
}

impl NodeParts {
    /// Of these.
    pub fn new(config: NodeConfig, runtime: FoundRuntime) -> Self {
        Self { config, runtime }
    }

    /// The kubelet, for the API server's streams.
    pub fn kubelet(&self, listers: Arc<dyn Listers>, client: Client, clock: SharedClock) -> Arc<Kubelet> {
        let c = &self.config;
        let mut config = Config::new(&c.name, &c.data_dir);
        config.node_ips = addresses(*c.address.borrow(), &mut None, c);
        config.cluster_dns = vec![c.cluster.cluster_dns.to_string()];
        config.cluster_domain = c.cluster.cluster_domain.clone();
        config.port = c.kubelet_port;
        config.node_labels = c.labels.clone();
        config.node_taints = c.taints.clone();
        if c.data_dir != Path::new("/var/lib/orch") {
            config.pod_logs = c.data_dir.join("agent/pod-logs");
            config.container_logs = c.data_dir.join("agent/container-logs");
        }
        let FoundRuntime { containerd, socket, rewrites, .. } = &self.runtime;
        if let Some(containerd) = containerd {
            config.containerd = Some(socket.clone());
            config.pinned_images = vec![containerd.pause_image().to_owned()];
        }
        if let Some(dir) = &c.cluster.local_storage {
            config.local_storage = dir.clone();
        }
        c.kubelet_args.apply(&mut config);
        if c.data_dir == Path::new("/var/lib/orch") {
            config.root_link = csi::link(&config.root(), Path::new(csi::KNOWN_ROOT));
        }
        let runtime: Arc<dyn Runtime> = Arc::new(CriRuntime::new(socket).with_rewrites(rewrites.clone()));
        Kubelet::new(config, runtime, listers, client, clock)
    }

    /// Serves the node's own port, once there is a certificate for it. `client_ca_pem` knows the clients.
    pub fn serve(
        &self,
        tasks: &mut Tasks,
        kubelet: &Arc<Kubelet>,
        listener: TcpListener,
        serving: watch::Receiver<Option<Arc<SwappableCert>>>,
        (client_ca_pem, client): (String, Client),
    ) {
        let node: Arc<dyn NodeApi> = Arc::new(kubelet.clone());
        let guard = Arc::new(Guard::new(&self.config.name, client));
        tasks.own("node-port", OnEnd::Fine, move |stop| async move {
            let mut serving = serving;
            let Some(cert) = stop.or(serving.wait_for(Option::is_some)).await else { return Ok(()) };
            let cert = cert.ok().and_then(|c| c.clone()).context("the node has no certificate for its port")?;
            let ca = CertificateDer::from_pem_slice(client_ca_pem.as_bytes()).context("the CA of clients is no PEM")?;
            let tls = crate::pki::tls::server_config(cert, &[&ca])?;
            listen(node, guard, listener, tls, stop).await
        });
    }

    /// Starts all parts as tasks.
    pub fn start(self, tasks: &mut Tasks, kubelet: Arc<Kubelet>, listers: Arc<dyn Listers>) {
        let Self { config, runtime: FoundRuntime { containerd, socket, _lock: lock, .. } } = self;
        let runtime: Arc<dyn Runtime> = Arc::new(CriRuntime::new(&socket));
        if let Some(containerd) = containerd {
            tasks.own_restarting("containerd", Backoff::RESTART, move |stop| {
                let containerd = containerd.clone();
                Box::pin(async move {
                    containerd.start().await?;
                    containerd.supervise(&stop).await
                })
            });
        }
        let (of_node, addressed) = (config.clone(), kubelet.clone());
        tasks.own("node-address", OnEnd::Fine, move |stop| async move {
            follow_addresses(&of_node, |now| addressed.set_node_ips(&now), &stop).await;
            Ok(())
        });
        let cidrs = kubelet.pod_cidrs();
        tasks.own_restarting("network", Backoff::RESTART, move |stop| {
            let (config, listers, mut cidrs) = (config.clone(), listers.clone(), cidrs.clone());
            let runtime = runtime.clone();
            Box::pin(async move {
                let Some(found) = stop.or(cidrs.wait_for(|c| !c.is_empty())).await else { return Ok(()) };
                let found = found.context("the kubelet ended")?.clone();
                let subnet = pod_ranges(&found, config.cluster.cluster_cidr)?;
                // A Node that was deleted and registered anew may get another range: then all of this begins again.
                let other = async {
                    let other = |c: &Vec<String>| {
                        !c.is_empty() && pod_ranges(c, config.cluster.cluster_cidr).ok() != Some(subnet)
                    };
                    match cidrs.wait_for(other).await.ok().map(|c| c.join(",")) {
                        Some(now) => bail!("this node has another pod range: {now} after {subnet}"),
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    ended = network(&config, subnet, &*listers, &*runtime, stop) => ended,
                    other = other => other,
                }
            })
        });
        tasks.own("kubelet", OnEnd::StopAll, move |stop| async move {
            kubelet.run(stop).await;
            drop(lock);
            Ok(())
        });
    }
}

/// The node's ranges among those that its Node has: of the cluster's families, IPv6 left out where the Node has none of it.
fn pod_ranges(of_node: &[String], cluster: Networks) -> anyhow::Result<Networks> {
    let first = of_node.first().map(String::as_str).unwrap_or_default();
    let v4: Ipv4Net = first.parse().with_context(|| format!("the node's pod range {first:?} is no IPv4 range"))?;
    let second = || of_node.iter().skip(1).find_map(|range| range.parse::<Ipv6Net>().ok());
    Ok(Networks { v4, v6: cluster.v6.and_then(|_| second()) })
}

/// What the network of a node with these ranges has of its cluster's: pods' and Services' addresses, of the same families.
fn families_of(subnet: Networks, cluster: &Cluster) -> (Networks, Networks) {
    let both = |of: Networks| Networks { v6: of.v6.filter(|_| subnet.v6.is_some()), ..of };
    (both(cluster.cluster_cidr), both(cluster.service_cidr))
}

/// The addresses that a node tells of: its address, and one of IPv6 where the cluster has that and the machine has one.
fn addresses(first: IpAddr, second: &mut Option<Ipv6Addr>, config: &NodeConfig) -> Vec<String> {
    let found = || address::ipv6_beside(first, *second, &config.cluster.networks());
    *second = config.cluster.cluster_cidr.v6.and_then(|_| config.second_address.or_else(found));
    std::iter::once(first).chain(second.map(IpAddr::V6)).map(|a| a.to_string()).collect()
}

/// Tells of the node's addresses, now and when they change, until told to stop.
async fn follow_addresses(config: &NodeConfig, tell: impl Fn(Vec<String>), stop: &Shutdown) {
    let mut address = config.address.clone();
    let follows = config.cluster.cluster_cidr.v6.is_some() && config.second_address.is_none();
    let (mut second, mut changes) = (None, None);
    loop {
        if follows && changes.is_none() {
            changes = address::Ipv6Changes::new().await.ok();
        }
        let first = *address.borrow_and_update();
        tell(addresses(first, &mut second, config));
        let heard = async {
            match &mut changes {
                Some(changes) => changes.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.wait() => return,
            moved = address.changed() => if moved.is_err() { return },
            whole = heard => if !whole { changes = None },
        }
    }
}

/// Bridge, CNI configuration, Service rules and DNS, once the pod range is known.
async fn network(
    config: &NodeConfig,
    subnet: Networks,
    listers: &dyn Listers,
    runtime: &dyn Runtime,
    stop: Shutdown,
) -> anyhow::Result<()> {
    let (cluster_cidr, service_cidr) = families_of(subnet, &config.cluster);
    let IpAddr::V4(cluster_dns) = config.cluster.cluster_dns else {
        bail!("cluster DNS has an IPv4 address only, so far")
    };
    if let (None, Some(net)) = (subnet.v6, config.cluster.cluster_cidr.v6) {
        tracing::warn!("this node's Node has no range of {net} in spec.podCIDRs: its pods go without IPv6");
    }
    let agent = config.data_dir.join("agent");
    let address = *config.address.borrow();
    let cni_config = CniConfig {
        bridge: "orch0".into(),
        subnet,
        cluster_cidr,
        service_cidr: Some(service_cidr),
        mtu: overlay::pod_mtu(config.cluster.backend, address).await?,
        table: "orch-cni".into(),
        data_dir: agent.join("cni/state"),
        bin_dir: agent.join("cni/bin"),
    };
    cni::setup(&cni_config).await?;
    let gateway: Ipv4Addr = subnet.v4.hosts().next().context("the pod range is empty")?;
    let dns_config = dns::Config {
        listen: vec![SocketAddr::from((gateway, DNS_PORT))],
        domain: config.cluster.cluster_domain.clone(),
        networks: config.cluster.networks(),
        upstreams: dns::forward::Upstreams::host(),
    };
    let serve_dns = config.cluster.serve_dns;
    let dns = if serve_dns { Some(Dns::new(dns_config, listers)?.bind().await?) } else { None };
    let local = |protocol| LocalService {
        name: "dns".into(),
        address: cluster_dns.into(),
        protocol,
        port: DNS_PORT,
        target: SocketAddr::from((gateway, DNS_PORT)),
    };
    let proxy_config = proxy::Config {
        table: "orch".into(),
        node_name: config.name.clone(),
        cluster_cidr,
        local_services: if serve_dns { vec![local(Protocol::Udp), local(Protocol::Tcp)] } else { Vec::new() },
    };
    let proxy = Proxy::new(proxy_config, listers);
    let overlay_config = overlay::Config {
        backend: config.cluster.backend,
        node_name: config.name.clone(),
        range: subnet,
        cluster_cidr,
    };
    let overlay = Overlay::new(overlay_config, listers, config.address.clone());
    let overlaid = overlay.applied();
    // Pods may start only when their network and DNS are there: the runtime is not ready without this file.
    let conf_dir = agent.join("cni/net.d");
    if let Some(other) = cni::write_conf(&conf_dir, &cni_config)? {
        tracing::info!("{} comes before orch's own network configuration", other.display());
    }
    tracing::info!(%subnet, "pod network is ready");
    tokio::try_join!(
        async { anyhow::Ok(cni::run(cni_config.clone(), stop.clone()).await?) },
        async {
            match dns {
                Some(dns) => Ok(dns.run(stop.clone()).await?),
                None => {
                    stop.wait().await;
                    Ok(())
                }
            }
        },
        async { Ok(proxy.run(stop.clone()).await?) },
        async {
            overlay.run(stop.clone()).await;
            Ok(())
        },
        follow_mtu(&conf_dir, cni_config.clone(), overlaid, &stop),
        collect_garbage(&cni_config, runtime, &stop),
    )?;
    anyhow::Ok(())
}

/// Pods that come after a change of the MTU get the new one; while the node's address is on no interface it stays.
async fn follow_mtu(
    dir: &std::path::Path,
    mut config: CniConfig,
    mut overlaid: watch::Receiver<overlay::Applied>,
    stop: &Shutdown,
) -> anyhow::Result<()> {
    loop {
        let mtu = config.mtu;
        let Some(Ok(applied)) = stop.or(overlaid.wait_for(|a| a.pod_mtu != 0 && a.pod_mtu != mtu)).await else {
            stop.wait().await;
            return Ok(());
        };
        config.mtu = applied.pod_mtu;
        drop(applied);
        cni::write_conf(dir, &config)?;
        tracing::info!(mtu = config.mtu, "new pods have another MTU");
    }
}

/// Gives back, now and then, what sandboxes left behind that the runtime does not know any more.
async fn collect_garbage(config: &CniConfig, runtime: &dyn Runtime, stop: &Shutdown) -> anyhow::Result<()> {
    loop {
        match runtime.inventory().await {
            Ok(inventory) => {
                let live: HashSet<&str> = inventory.sandboxes.iter().map(|s| s.id.as_str()).collect();
                match cni::collect_garbage(config, GARBAGE_AGE, |id| live.contains(id)).await {
                    Ok(0) => {}
                    Ok(n) => tracing::info!(addresses = n, "gave back what no sandbox uses"),
                    Err(e) => tracing::warn!("cannot give back unused addresses: {e}"),
                }
            }
            Err(e) => tracing::debug!("cannot list sandboxes: {e}"),
        }
        if stop.or(tokio::time::sleep(GARBAGE_EVERY)).await.is_none() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case(&["10.42.3.0/24"], "10.42.0.0/16", Some("10.42.3.0/24"); "one")]
    #[test_case(&["10.42.3.0/24", "fd42:0:0:3::/64"], "10.42.0.0/16,fd42::/56", Some("10.42.3.0/24,fd42:0:0:3::/64"); "both")]
    #[test_case(&["10.42.3.0/24", "fd42:0:0:3::/64"], "10.42.0.0/16", Some("10.42.3.0/24"); "one that the cluster does not have")]
    #[test_case(&["10.42.3.0/24"], "10.42.0.0/16,fd42::/56", Some("10.42.3.0/24"); "a Node of before")]
    #[test_case(&["fd42:0:0:3::/64"], "10.42.0.0/16,fd42::/56", None; "without IPv4 nothing goes")]
    fn ranges_are_of_the_clusters_families(of_node: &[&str], cluster: &str, want: Option<&str>) {
        let of_node: Vec<String> = of_node.iter().map(|r| (*r).to_owned()).collect();
        let got = pod_ranges(&of_node, cluster.parse().unwrap());
        assert_eq!(got.ok(), want.map(|w| w.parse().unwrap()));
    }

    #[test]
    fn a_node_without_ipv6_has_none_of_the_clusters() {
        let cluster = Cluster {
            cluster_cidr: "10.42.0.0/16,fd42::/56".parse().unwrap(),
            service_cidr: "10.43.0.0/16,fd43::/112".parse().unwrap(),
            cluster_dns: [10, 43, 0, 10].into(),
            cluster_domain: "cluster.local".into(),
            backend: overlay::Backend::Vxlan,
            local_storage: None,
            serve_dns: true,
        };
        let both = families_of("10.42.3.0/24,fd42:0:0:3::/64".parse().unwrap(), &cluster);
        assert_eq!(both, (cluster.cluster_cidr, cluster.service_cidr));
        let one = families_of("10.42.3.0/24".parse().unwrap(), &cluster);
        assert_eq!(one, ("10.42.0.0/16".parse().unwrap(), "10.43.0.0/16".parse().unwrap()));
    }
}
