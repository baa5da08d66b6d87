//! `orch server`: a control plane, and a node unless `--disable-agent`.
//!
//! **Invariant:** all ports are bound before any work; the store is the last to stop.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ArgAction;
use ipnet::IpNet;

use crate::api::meta::names;
use crate::api::user::UserInfo;
use crate::apiserver::serve::{InProcess, serve};
use crate::apiserver::{Access, Api};
use crate::client::Client;
use crate::controllers::bootstrap::ApiServer;
use crate::controllers::{self, ClientFor};
use crate::pki::{Pki, PkiConfig, kubeconfig, tls::SwappableCert, token};
use crate::registry::allocators::Allocators;
use crate::registry::{Registry, Resources};
use crate::runtime::Listers;
use crate::runtime::metrics::Registry as MetricsRegistry;
use crate::store::Store;
use crate::store::cache::Cache;
use crate::store::durable::{Durable, Options};
use crate::util::clock::{SharedClock, SystemClock};
use crate::util::tasks::{OnEnd, Shutdown, Tasks};
use crate::util::{files, telemetry};

use super::node::{NodeConfig, NodeParts};

/// How long a stop may take before what still runs is aborted.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// Flags of `orch server`; the names are k3s's where k3s has the same thing.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file: any flag by its name
    #[arg(short, long, value_name = "FILE", env = "ORCH_CONFIG_FILE")]
    pub config: Option<PathBuf>,
    /// Where all state is kept
    #[arg(short, long, value_name = "DIR", default_value = "/var/lib/orch")]
    pub data_dir: PathBuf,
    /// Port of the Kubernetes API
    #[arg(long, value_name = "PORT", default_value_t = 6443)]
    pub https_listen_port: u16,
    /// Address the Kubernetes API is bound to
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Address that nodes and pods reach the API at; the node's when not given
    #[arg(long, value_name = "IP")]
    pub advertise_address: Option<IpAddr>,
    /// More names and addresses for the API's certificate
    #[arg(long, value_name = "NAME", value_delimiter = ',', action = ArgAction::Append)]
    pub tls_san: Vec<String>,
    /// Addresses of pods
    #[arg(long, value_name = "CIDR", default_value = "10.42.0.0/16")]
    pub cluster_cidr: IpNet,
    /// Addresses of Services
    #[arg(long, value_name = "CIDR", default_value = "10.43.0.0/16")]
    pub service_cidr: IpNet,
    /// Ports of NodePort Services
    #[arg(long, value_name = "FROM-TO", default_value = "30000-32767")]
    pub service_node_port_range: String,
    /// Address of the cluster's DNS; the tenth of the service range when not given
    #[arg(long, value_name = "IP")]
    pub cluster_dns: Option<IpAddr>,
    /// Domain of the cluster's DNS names
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Where the administrator's kubeconfig is written
    #[arg(short = 'o', long, value_name = "FILE", env = "ORCH_KUBECONFIG_OUTPUT")]
    pub write_kubeconfig: Option<PathBuf>,
    /// Mode of that file
    #[arg(long, value_name = "MODE", default_value = "0600")]
    pub write_kubeconfig_mode: String,
    /// Token that agents join with; made on the first start when not given
    #[arg(short, long, value_name = "TOKEN", env = "ORCH_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// File that holds the token
    #[arg(long, value_name = "FILE", env = "ORCH_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Run no node here
    #[arg(long)]
    pub disable_agent: bool,
    /// Name of the node; the host's when not given
    #[arg(long, value_name = "NAME", env = "ORCH_NODE_NAME")]
    pub node_name: Option<String>,
    /// Address of the node; that of the default route when not given
    #[arg(short = 'i', long, value_name = "IP")]
    pub node_ip: Option<IpAddr>,
    /// Labels of the node when it registers
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', action = ArgAction::Append)]
    pub node_label: Vec<String>,
    /// Taints of the node when it registers
    #[arg(long, value_name = "KEY=VALUE:EFFECT", value_delimiter = ',', action = ArgAction::Append)]
    pub node_taint: Vec<String>,
    /// Socket of another container runtime than orch's own containerd
    #[arg(long, value_name = "SOCKET")]
    pub container_runtime_endpoint: Option<String>,
    /// Image of pod sandboxes; orch's own when not given
    #[arg(long, value_name = "IMAGE")]
    pub pause_image: Option<String>,
    /// Log more: debug
    #[arg(long)]
    pub debug: bool,
    /// Log as JSON
    #[arg(long)]
    pub log_json: bool,
    /// Log only errors
    #[arg(short, long, conflicts_with = "debug")]
    pub quiet: bool,
}

/// Runs until a signal or a failure.
pub fn main(args: Args) -> anyhow::Result<ExitCode> {
    let level = if args.debug {
        "orch=debug,info"
    } else if args.quiet {
        "error"
    } else {
        "orch=info,warn"
    };
    telemetry::init(level, args.log_json);
    crate::pki::install_provider();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let done = runtime.block_on(async {
        let shutdown = Shutdown::new();
        let bound = build(args, shutdown.clone()).await?;
        super::signals::stop_on_signals(&shutdown)?;
        bound.run().await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    done.map(|()| ExitCode::SUCCESS)
}

/// Ranges of the Services' addresses and ports.
fn allocators(args: &Args) -> anyhow::Result<Allocators> {
    let IpNet::V4(network) = args.service_cidr else { bail!("Services have IPv4 addresses only, so far") };
    let range = &args.service_node_port_range;
    let ends =
        range.split_once('-').and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    let Some((first, last)) = ends.filter(|(first, last)| 0 < *first && first <= last) else {
        bail!("--service-node-port-range {range:?} is not a range as 30000-32767");
    };
    Ok(Allocators::new((network.network(), network.prefix_len()), first..=last))
}

/// A server that holds its ports and its store, and does nothing yet.
pub struct Bound {
    api: Arc<Api>,
    access: Arc<Access>,
    listers: Arc<dyn Listers>,
    cache: Arc<Cache>,
    store: Arc<dyn Store>,
    clock: SharedClock,
    node: Option<NodeParts>,
    config: Config,
    listener: tokio::net::TcpListener,
    tls: Arc<rustls::ServerConfig>,
    address: SocketAddr,
    shutdown: Shutdown,
}

/// What the parts of the server are told of the cluster.
struct Config {
    api: ApiServer,
    cluster_cidr: IpNet,
    root_ca_pem: String,
    node_name: String,
}

/// Binds, opens, loads.
pub async fn build(args: Args, shutdown: Shutdown) -> anyhow::Result<Bound> {
    if !args.disable_agent && !nix::unistd::geteuid().is_root() {
        bail!("a node needs root; run as root, or with --disable-agent for a control plane alone");
    }
    let bind = SocketAddr::new(args.bind_address, args.https_listen_port);
    let listener = tokio::net::TcpListener::bind(bind)
        .await
        .with_context(|| format!("cannot listen on {bind}; choose another port with --https-listen-port"))?;
    let address = listener.local_addr()?;
    let clock: SharedClock = Arc::new(SystemClock);
    let node_name = node_name(&args)?;
    let node_ip = args.node_ip.unwrap_or_else(default_address);
    let service_ip = args.service_cidr.hosts().next().context("the service range is empty")?;
    let node =
        if args.disable_agent { None } else { Some(NodeParts::prepare(node_config(&args, &node_name, node_ip)?)?) };
    let server_dir = args.data_dir.join("server");
    std::fs::create_dir_all(&server_dir).with_context(|| format!("cannot create {}", server_dir.display()))?;
    let pki_config = PkiConfig {
        node_name: node_name.clone(),
        node_ips: args.advertise_address.into_iter().chain([node_ip]).collect(),
        service_ips: vec![service_ip],
        cluster_domain: args.cluster_domain.clone(),
        tls_sans: args.tls_san.clone(),
    };
    let pki = Pki::open(&server_dir.join("tls"), &pki_config, clock.now())?;
    let given = token_of(&args)?;
    token::open(&server_dir.join("token"), &pki.server_ca.sha256(), given.as_deref())?;
    write_kubeconfig(&args, &pki, address)?;
    let store = open_store(server_dir.join("db")).await?;
    let resources = Resources::with(&allocators(&args)?);
    let cache = Cache::open(store.clone(), resources.clone()).await.context("cannot load the store")?;
    let listers: Arc<dyn Listers> = Arc::new(super::listers::CacheListers(cache.clone()));
    let access = Arc::new(Access::new(&pki, listers.clone(), clock.clone(), &args.cluster_domain)?);
    let plugins = crate::apiserver::auth::admission::plugins(access.clone(), listers.clone());
    let admission = crate::admission::chain(Arc::new(crate::registry::CacheView(cache.clone())), plugins);
    let registry = Arc::new(Registry::new(resources, cache.clone(), admission.clone()));
    admission.charge_through(&registry);
    let api = Api::new(registry, access.clone(), clock.clone(), shutdown.clone());
    let serving = SwappableCert::new(pki.serving_key()?);
    let tls = crate::pki::tls::server_config(serving, &[&pki.client_ca.cert, &pki.request_header_ca.cert])?;
    let config = Config {
        api: ApiServer { service_ip, address: args.advertise_address.unwrap_or(node_ip), port: address.port() },
        cluster_cidr: args.cluster_cidr,
        root_ca_pem: pki.server_ca.cert_pem.clone(),
        node_name,
    };
    Ok(Bound { api, access, listers, cache, store, clock, node, config, listener, tls, address, shutdown })
}

impl Bound {
    /// Where the API listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs until the shutdown.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut tasks = Tasks::new(self.shutdown.clone());
        let shutdown = self.shutdown;
        let cache = self.cache;
        tasks.own("watch-cache", OnEnd::StopAll, |stop| async move { Ok(cache.run(stop).await?) });
        let (access, listers) = (self.access, self.listers.clone());
        tasks.own("rbac", OnEnd::StopAll, |stop| async move {
            stop.or(access.follow(&*listers)).await;
            Ok(())
        });
        let api = self.api.clone();
        let client = move |user: UserInfo| Client::in_process(InProcess::new(api.clone(), user));
        let admin = client(UserInfo::authenticated("system:apiserver", &[UserInfo::MASTERS])).named("orch");
        if let Err(error) = super::bootstrap::run(&admin, &self.config.api).await {
            shutdown.trigger();
            tasks.join_in_reverse(STOP_DEADLINE).await;
            self.store.close().await;
            return Err(error);
        }
        let (api, listener, tls) = (self.api.clone(), self.listener, self.tls);
        tasks.own("apiserver", OnEnd::StopAll, |stop| serve(api, listener, tls, stop));
        tracing::info!(address = %self.address, "serving the Kubernetes API");
        let client_for: ClientFor = {
            let client = client.clone();
            Arc::new(move |name| client(service_account(name)))
        };
        let controllers =
            controllers::Config { cluster_cidrs: vec![self.config.cluster_cidr], root_ca_pem: self.config.root_ca_pem };
        controllers::start(
            &mut tasks,
            &controllers,
            &client_for,
            &self.listers,
            &self.clock,
            &MetricsRegistry::default(),
        );
        if let Some(node) = self.node {
            let user = UserInfo::authenticated(format!("system:node:{}", self.config.node_name), &["system:nodes"]);
            let kubelet = node.kubelet(self.listers.clone(), client(user), self.clock.clone());
            self.api.attach_node(&self.config.node_name, Arc::new(kubelet.clone()));
            node.start(&mut tasks, kubelet, self.listers.clone());
        }
        tasks.join_in_reverse(STOP_DEADLINE).await;
        self.store.close().await;
        tracing::info!("stopped");
        Ok(())
    }
}

/// The identity of a controller, as upstream's controller manager gives each its own.
fn service_account(name: &str) -> UserInfo {
    let account = match name {
        "kube-controller-manager" => return UserInfo::authenticated("system:kube-controller-manager", &[]),
        "node-ipam-controller" => "node-controller",
        "root-ca-certificate-publisher" => "root-ca-cert-publisher",
        name => name,
    };
    UserInfo::authenticated(
        format!("system:serviceaccount:kube-system:{account}"),
        &["system:serviceaccounts", "system:serviceaccounts:kube-system"],
    )
}

fn node_config(args: &Args, name: &str, ip: IpAddr) -> anyhow::Result<NodeConfig> {
    let labels = args.node_label.iter().map(|l| {
        let (key, value) = l.split_once('=').unwrap_or((l, ""));
        let why = names::qualified_name(key).into_iter().chain(names::label_value(value)).next();
        match why {
            Some(why) => bail!("--node-label {l:?}: {why}"),
            None => Ok((key.to_owned(), value.to_owned())),
        }
    });
    let dns = match args.cluster_dns {
        Some(ip) => ip,
        None => args.service_cidr.hosts().nth(9).context("the service range has no tenth address for DNS")?,
    };
    Ok(NodeConfig {
        data_dir: args.data_dir.clone(),
        name: name.to_owned(),
        ip,
        labels: labels.collect::<anyhow::Result<_>>()?,
        taints: args.node_taint.clone(),
        cluster_cidr: args.cluster_cidr,
        service_cidr: args.service_cidr,
        cluster_dns: dns,
        cluster_domain: args.cluster_domain.clone(),
        runtime_endpoint: args.container_runtime_endpoint.clone(),
        pause_image: args.pause_image.clone(),
    })
}

/// Opens the store off the runtime's threads: it reads the journal.
async fn open_store(dir: PathBuf) -> anyhow::Result<Arc<dyn Store>> {
    let open = move || Durable::open(&Options::new(dir));
    Ok(Arc::new(tokio::task::spawn_blocking(open).await?.context("cannot open the store")?))
}

fn node_name(args: &Args) -> anyhow::Result<String> {
    let name = match &args.node_name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()?.to_string_lossy().to_lowercase(),
    };
    match names::dns1123_subdomain(&name).into_iter().next() {
        Some(why) => bail!("node name {name:?}: {why}; choose another with --node-name"),
        None => Ok(name),
    }
}

/// The address that the default route leaves from; loopback where there is none. Nothing is sent.
fn default_address() -> IpAddr {
    let probe = || -> std::io::Result<IpAddr> {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        Ok(socket.local_addr()?.ip())
    };
    probe().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn token_of(args: &Args) -> anyhow::Result<Option<String>> {
    match (&args.token, &args.token_file) {
        (Some(token), _) => Ok(Some(token.clone())),
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read the token file {}", file.display()))?;
            Ok(Some(text.trim().to_owned()))
        }
        _ => Ok(None),
    }
}

fn write_kubeconfig(args: &Args, pki: &Pki, address: SocketAddr) -> anyhow::Result<()> {
    let mode = u32::from_str_radix(args.write_kubeconfig_mode.trim_start_matches("0o"), 8)
        .with_context(|| format!("--write-kubeconfig-mode {:?} is not an octal mode", args.write_kubeconfig_mode))?;
    let host = if args.bind_address.is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { args.bind_address };
    let text = kubeconfig::render(
        &format!("https://{}", SocketAddr::new(host, address.port())),
        &pki.server_ca.cert_pem,
        &pki.admin,
    );
    // The well-known place is written by root with the usual data directory; others get theirs beside their data.
    let own = args.data_dir.join("server/admin.kubeconfig");
    kubeconfig::write_if_changed(&own, &text, Some(files::SECRET_MODE))?;
    let path = match &args.write_kubeconfig {
        Some(path) => path.clone(),
        None if args.data_dir == Path::new("/var/lib/orch") => PathBuf::from("/etc/orch/orch.yaml"),
        None => return Ok(()),
    };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    kubeconfig::write_if_changed(&path, &text, Some(mode))?;
    Ok(())
}
