//! `orch server`: a control plane, and a node unless `--disable-agent`.
//!
//! **Invariant:** all ports are bound before any work; the store is the last to stop.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ArgAction;
use futures::FutureExt;
use ipnet::IpNet;
use jiff::Timestamp;

use crate::api::meta::names;
use crate::api::user::UserInfo;
use crate::apiserver::health::Health;
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
use crate::scheduler::{self, Scheduler};
use crate::store::Store;
use crate::store::cache::Cache;
use crate::store::durable::{Durable, Options};
use crate::util::backoff::Backoff;
use crate::util::clock::{SharedClock, SystemClock};
use crate::util::tasks::{OnEnd, Shutdown, Tasks};
use crate::util::{files, telemetry};

use super::manager::{self, Watched};
use super::node::{NodeConfig, NodeParts};

/// Between two looks at the certificates' ends: short, because a clock that is set moves them at once.
const CERTIFICATE_LOOK: Duration = Duration::from_secs(60);
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
    identity: Identity,
    metrics: MetricsRegistry,
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
pub async fn build(mut args: Args, shutdown: Shutdown) -> anyhow::Result<Bound> {
    // Other programs get paths below it, and they run elsewhere.
    args.data_dir = std::path::absolute(&args.data_dir).context("cannot tell the present directory")?;
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
    files::create_dir_durable(&server_dir)
        .with_context(|| format!("cannot create {}; choose another place with --data-dir", server_dir.display()))?;
    // First of all what is in the data directory: its lock keeps two servers from changing each other's files.
    let store = open_store(server_dir.join("db")).await?;
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
    let IpNet::V4(services) = args.service_cidr else { bail!("Services have IPv4 addresses only, so far") };
    let ports = port_range(&args.service_node_port_range)?;
    let resources = Resources::with(&Allocators::new((services.network(), services.prefix_len()), ports));
    let cache =
        Cache::open(store.clone() as Arc<dyn Store>, resources.clone()).await.context("cannot load the store")?;
    let listers: Arc<dyn Listers> = Arc::new(super::listers::CacheListers(cache.clone()));
    let access = Arc::new(Access::new(&pki, listers.clone(), clock.clone(), &args.cluster_domain)?);
    let plugins = crate::apiserver::auth::admission::plugins(access.clone(), listers.clone());
    let admission = crate::admission::chain(Arc::new(crate::registry::CacheView(cache.clone())), plugins);
    let registry = Arc::new(Registry::new(resources, cache.clone(), admission.clone()));
    admission.charge_through(&registry);
    let metrics = MetricsRegistry::default();
    let api = Api::new(registry, access.clone(), clock.clone(), shutdown.clone(), health(&store, &shutdown));
    api.publish_metrics(super::figures::source(metrics.clone(), store.clone(), cache.clone()));
    let serving = SwappableCert::new(pki.serving_key()?);
    let tls = crate::pki::tls::server_config(serving.clone(), &[&pki.client_ca.cert, &pki.request_header_ca.cert])?;
    let config = Config {
        api: ApiServer { service_ip, address: args.advertise_address.unwrap_or(node_ip), port: address.port() },
        cluster_cidr: args.cluster_cidr,
        root_ca_pem: pki.server_ca.cert_pem.clone(),
        node_name,
    };
    let identity = Identity { pki, serving, kubeconfig: KubeconfigTarget::of(&args, address)? };
    identity.kubeconfig.write(&identity.pki)?;
    let store = store as Arc<dyn Store>;
    Ok(Bound {
        api,
        access,
        listers,
        cache,
        store,
        clock,
        node,
        config,
        identity,
        metrics,
        listener,
        tls,
        address,
        shutdown,
    })
}

impl Bound {
    /// Runs until the shutdown.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut tasks = Tasks::new(self.shutdown.clone());
        let shutdown = self.shutdown;
        let cache = self.cache;
        tasks.own("watch-cache", OnEnd::StopAll, |stop| async move { Ok(cache.run(stop).await?) });
        let api = self.api.clone();
        let client = move |user: UserInfo| Client::in_process(InProcess::new(api.clone(), user));
        let admin = client(UserInfo::authenticated("system:apiserver", &[UserInfo::MASTERS])).named("orch");
        if let Err(error) = super::bootstrap::run(&admin, &self.config.api).await {
            shutdown.trigger();
            tasks.join_in_reverse(STOP_DEADLINE).await;
            self.store.close().await;
            return Err(error);
        }
        let (access, listers) = (self.access, self.listers.clone());
        let (loaded, roles) = tokio::sync::oneshot::channel::<()>();
        tasks.own("rbac", OnEnd::StopAll, |stop| async move {
            stop.or(access.follow(&*listers, move || drop(loaded))).await;
            Ok(())
        });
        // Dropped when all roles are known: nobody is refused because the server is still loading.
        let _ = roles.await;
        let (identity, clock) = (self.identity, self.clock.clone());
        let mut watched =
            Watched { api: Some((identity.kubeconfig.server.clone(), self.config.root_ca_pem.clone())), node: None };
        tasks.own("certificates", OnEnd::Fine, |stop| identity.keep_fresh(clock, stop));
        let (api, listener, tls) = (self.api.clone(), self.listener, self.tls);
        tasks.own("apiserver", OnEnd::StopAll, |stop| serve(api, listener, tls, stop));
        tracing::info!(address = %self.address, "serving the Kubernetes API");
        let client_for: ClientFor = {
            let client = client.clone();
            Arc::new(move |name| client(service_account(name)))
        };
        let controllers =
            controllers::Config { cluster_cidrs: vec![self.config.cluster_cidr], root_ca_pem: self.config.root_ca_pem };
        controllers::start(&mut tasks, &controllers, &client_for, &self.listers, &self.clock, &self.metrics);
        let (listers, clock) = (self.listers.clone(), self.clock.clone());
        let scheduler = client(UserInfo::authenticated("system:kube-scheduler", &[]));
        tasks.own_restarting("scheduler", Backoff::RESTART, move |stop| {
            let scheduler =
                Scheduler::new(scheduler::Config::default(), listers.clone(), scheduler.clone(), clock.clone());
            async move {
                scheduler.run(stop).await;
                Ok(())
            }
            .boxed()
        });
        if let Some(node) = self.node {
            let user = UserInfo::authenticated(format!("system:node:{}", self.config.node_name), &["system:nodes"]);
            let kubelet = node.kubelet(self.listers.clone(), client(user), self.clock.clone());
            self.api.attach_node(&self.config.node_name, Arc::new(kubelet.clone()));
            watched.node = Some(kubelet.pulse());
            node.start(&mut tasks, kubelet, self.listers.clone());
        }
        manager::start(&mut tasks, watched);
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
async fn open_store(dir: PathBuf) -> anyhow::Result<Arc<Durable>> {
    let what = format!("cannot open the store in {}", dir.display());
    let open = move || Durable::open(&Options::new(dir));
    Ok(Arc::new(tokio::task::spawn_blocking(open).await?.context(what)?))
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

/// The address that the default route leaves from; loopback where there is none.
fn default_address() -> IpAddr {
    default_route_address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The address that the default route leaves from. Nothing is sent.
pub fn default_route_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
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

/// `30000-32767`.
fn port_range(text: &str) -> anyhow::Result<RangeInclusive<u16>> {
    let parts = text.split_once('-').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
    match parts {
        Some((from, to)) if 0 < from && from <= to => Ok(from..=to),
        _ => bail!("--service-node-port-range {text:?} is not of the form FROM-TO"),
    }
}

/// What `/readyz` looks at.
fn health(store: &Arc<Durable>, shutdown: &Shutdown) -> Health {
    let (store, shutdown) = (store.clone(), shutdown.clone());
    let writable = move || store.read_only().map_or(Ok(()), |why| Err(format!("the store is read-only: {why}")));
    Health::new(writable, move || shutdown.is_triggered())
}

/// Keys and certificates of the running server.
struct Identity {
    pki: Pki,
    serving: Arc<SwappableCert>,
    kubeconfig: KubeconfigTarget,
}

impl Identity {
    /// Renews certificates long before they end; connections that are open keep what they have.
    async fn keep_fresh(mut self, clock: SharedClock, stop: Shutdown) -> anyhow::Result<()> {
        while stop.or(tokio::time::sleep(CERTIFICATE_LOOK)).await.is_some() {
            let now = clock.now();
            if self.pki.is_due(now)
                && let Err(e) = self.renew(now)
            {
                tracing::error!("cannot renew certificates, trying again: {e:#}");
            }
        }
        Ok(())
    }

    fn renew(&mut self, now: Timestamp) -> anyhow::Result<()> {
        let pki = self.pki.renewed(now)?;
        self.serving.swap(pki.serving_key()?);
        self.kubeconfig.write(&pki)?;
        self.pki = pki;
        Ok(())
    }
}

/// Where the administrator's kubeconfig goes.
struct KubeconfigTarget {
    server: String,
    own: PathBuf,
    other: Option<(PathBuf, u32)>,
}

impl KubeconfigTarget {
    fn of(args: &Args, address: SocketAddr) -> anyhow::Result<Self> {
        let mode = u32::from_str_radix(args.write_kubeconfig_mode.trim_start_matches("0o"), 8).with_context(|| {
            format!("--write-kubeconfig-mode {:?} is not an octal mode", args.write_kubeconfig_mode)
        })?;
        let host = if args.bind_address.is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { args.bind_address };
        // The well-known place belongs to the usual data directory; others have theirs beside their data.
        let other = match &args.write_kubeconfig {
            Some(path) => Some((path.clone(), mode)),
            None if args.data_dir == Path::new("/var/lib/orch") => Some((PathBuf::from("/etc/orch/orch.yaml"), mode)),
            None => None,
        };
        Ok(Self {
            server: format!("https://{}", SocketAddr::new(host, address.port())),
            own: args.data_dir.join("server/admin.kubeconfig"),
            other,
        })
    }

    fn write(&self, pki: &Pki) -> anyhow::Result<()> {
        let text = kubeconfig::render(&self.server, &pki.server_ca.cert_pem, &pki.admin);
        kubeconfig::write_if_changed(&self.own, &text, Some(files::SECRET_MODE))?;
        let Some((path, mode)) = &self.other else { return Ok(()) };
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        kubeconfig::write_if_changed(path, &text, Some(*mode))?;
        Ok(())
    }
}
