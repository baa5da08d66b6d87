//! The node of this process: container runtime, network, DNS, Service rules, kubelet.
//!
//! Order matters and is the order below: the kubelet registers the Node, the controllers give it a pod range, the range
//! gives the bridge its address, and only then pods can have a network and DNS an address to listen on.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::{IpNet, Ipv4Net};

use crate::api::services::Protocol;
use crate::client::Client;
use crate::cni::{self, CniConfig};
use crate::dns::{self, Dns};
use crate::kubelet::containerd::{Containerd, Options};
use crate::kubelet::cri::{CriRuntime, socket_path};
use crate::kubelet::registries::{Registries, Rewrites};
use crate::kubelet::runtime::Runtime;
use crate::kubelet::{Kubelet, config::Config};
use crate::proxy::model::{Context as ProxyContext, LocalService};
use crate::proxy::{self, Proxy};
use crate::runtime::Listers;
use crate::util::backoff::Backoff;
use crate::util::clock::SharedClock;
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
    /// Node address.
    pub ip: IpAddr,
    /// Labels at registration.
    pub labels: Vec<(String, String)>,
    /// Taints at registration.
    pub taints: Vec<String>,
    /// Pod addresses of the cluster.
    pub cluster_cidr: IpNet,
    /// Service addresses of the cluster.
    pub service_cidr: IpNet,
    /// Address of the cluster's DNS.
    pub cluster_dns: IpAddr,
    /// Cluster domain.
    pub cluster_domain: String,
    /// Another runtime's socket.
    pub runtime_endpoint: Option<String>,
    /// Image of sandboxes.
    pub pause_image: Option<String>,
    /// The registries file that was asked for; none for the usual one.
    pub private_registry: Option<PathBuf>,
    /// Flags for the kubelet, as `name=value`.
    pub kubelet_args: Vec<String>,
    /// Whether this node answers for the cluster's DNS.
    pub serve_dns: bool,
}

/// The runtime of a node: found, not started.
pub struct NodeParts {
    config: NodeConfig,
    containerd: Option<Arc<Containerd>>,
    socket: PathBuf,
    rewrites: Rewrites,
    kubelet: Config,
}

impl NodeParts {
    /// Finds the container runtime: what is missing is told before anything starts.
    pub fn prepare(config: NodeConfig) -> anyhow::Result<Self> {
        let mut kubelet = kubelet_config(&config);
        super::kubelet_args::apply(&mut kubelet, &config.kubelet_args)?;
        match &config.runtime_endpoint {
            Some(endpoint) => {
                if config.private_registry.is_some() {
                    bail!(
                        "--private-registry is for orch's own containerd; configure the runtime at {endpoint} itself"
                    );
                }
                let socket = socket_path(endpoint)?;
                Ok(Self { config, containerd: None, socket, rewrites: Rewrites::default(), kubelet })
            }
            None => {
                let mut options = Options::for_data_dir(&config.data_dir);
                options.pause_image = config.pause_image.clone();
                options.registries = Registries::load(config.private_registry.as_deref())?;
                let rewrites = Rewrites::of(&options.registries);
                let containerd = Arc::new(Containerd::prepare(&options)?);
                let socket = containerd.socket().to_owned();
                Ok(Self { config, containerd: Some(containerd), socket, rewrites, kubelet })
            }
        }
    }

    /// The kubelet, for the API server's streams.
    pub fn kubelet(&self, listers: Arc<dyn Listers>, client: Client, clock: SharedClock) -> Arc<Kubelet> {
        let mut config = self.kubelet.clone();
        if let Some(containerd) = &self.containerd {
            config.containerd = Some(self.socket.clone());
            config.pinned_images = vec![containerd.pause_image().to_owned()];
        }
        let runtime: Arc<dyn Runtime> = Arc::new(CriRuntime::new(&self.socket).with_rewrites(self.rewrites.clone()));
        Kubelet::new(config, runtime, listers, client, clock)
    }

    /// Starts all parts as tasks.
    pub fn start(self, tasks: &mut Tasks, kubelet: Arc<Kubelet>, listers: Arc<dyn Listers>) {
        let Self { config, containerd, socket, .. } = self;
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
        let cidrs = kubelet.pod_cidrs();
        tasks.own_restarting("network", Backoff::RESTART, move |stop| {
            let (config, listers, mut cidrs) = (config.clone(), listers.clone(), cidrs.clone());
            let runtime = runtime.clone();
            Box::pin(async move {
                let Some(found) = stop.or(cidrs.wait_for(|c| !c.is_empty())).await else { return Ok(()) };
                let cidr = found.context("the kubelet ended")?.first().cloned().unwrap_or_default();
                let subnet: Ipv4Net =
                    cidr.parse().with_context(|| format!("the node's pod range {cidr:?} is no IPv4 range"))?;
                network(&config, subnet, &*listers, &*runtime, stop).await
            })
        });
        tasks.own("kubelet", OnEnd::StopAll, move |stop| async move {
            kubelet.run(stop).await;
            Ok(())
        });
    }
}

fn kubelet_config(c: &NodeConfig) -> Config {
    let mut config = Config::new(&c.name, &c.data_dir);
    config.node_ips = vec![c.ip.to_string()];
    config.cluster_dns = vec![c.cluster_dns.to_string()];
    config.cluster_domain = c.cluster_domain.clone();
    config.node_labels = c.labels.clone();
    config.node_taints = c.taints.clone();
    if c.data_dir != std::path::Path::new("/var/lib/orch") {
        config.pod_logs = c.data_dir.join("agent/pod-logs");
        config.container_logs = c.data_dir.join("agent/container-logs");
    }
    config
}

/// Bridge, CNI configuration, Service rules and DNS, once the pod range is known.
async fn network(
    config: &NodeConfig,
    subnet: Ipv4Net,
    listers: &dyn Listers,
    runtime: &dyn Runtime,
    stop: Shutdown,
) -> anyhow::Result<()> {
    let IpNet::V4(cluster_cidr) = config.cluster_cidr else { bail!("pods have IPv4 addresses only, so far") };
    let IpNet::V4(service_cidr) = config.service_cidr else { bail!("Services have IPv4 addresses only, so far") };
    let IpAddr::V4(cluster_dns) = config.cluster_dns else { bail!("cluster DNS has an IPv4 address only, so far") };
    let agent = config.data_dir.join("agent");
    let cni_config = CniConfig {
        bridge: "orch0".into(),
        subnet,
        cluster_cidr,
        service_cidr: Some(service_cidr),
        mtu: 0,
        table: "orch-cni".into(),
        data_dir: agent.join("cni/state"),
        bin_dir: agent.join("cni/bin"),
    };
    cni::setup(&cni_config).await?;
    let gateway: Ipv4Addr = subnet.hosts().next().context("the pod range is empty")?;
    let dns_config = dns::Config {
        listen: vec![std::net::SocketAddr::from((gateway, DNS_PORT))],
        domain: config.cluster_domain.clone(),
        networks: vec![config.cluster_cidr, config.service_cidr],
        upstreams: dns::forward::Upstreams::host(),
    };
    let dns = if config.serve_dns { Some(Dns::new(dns_config, listers)?.bind().await?) } else { None };
    let local = |protocol| LocalService {
        name: "dns".into(),
        address: cluster_dns,
        protocol,
        port: DNS_PORT,
        target: SocketAddrV4::new(gateway, DNS_PORT),
    };
    let context = ProxyContext {
        node_name: config.name.clone(),
        cluster_cidr: Some(cluster_cidr),
        local_services: if config.serve_dns { vec![local(Protocol::Udp), local(Protocol::Tcp)] } else { Vec::new() },
    };
    let proxy = Proxy::new(proxy::Config { table: "orch".into(), context }, listers);
    // Pods may start only when their network and DNS are there: the runtime is not ready without this file.
    if let Some(other) = cni::write_conf(&agent.join("cni/net.d"), &cni_config)? {
        tracing::info!("{} comes before orch's own network configuration", other.display());
    }
    tracing::info!(%subnet, "pod network is ready");
    tokio::try_join!(
        async { anyhow::Ok(cni::run(cni_config.clone(), stop.clone()).await?) },
        async {
            match dns {
                Some(dns) => Ok(dns.run(stop.clone()).await?),
                None => Ok(stop.wait().await),
            }
        },
        async { Ok(proxy.run(stop.clone()).await?) },
        collect_garbage(&cni_config, runtime, &stop),
    )?;
    anyhow::Ok(())
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
