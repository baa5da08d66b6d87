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
use jiff::Timestamp;
use tokio::sync::watch;

use crate::admission::Choice;
use crate::api::user::UserInfo;
use crate::apiserver::audit::Audit;
use crate::apiserver::health::Health;
use crate::apiserver::serve::{InProcess, serve};
use crate::apiserver::{Access, Api, Roads};
use crate::client::{Client, Credentials};
use crate::cni::overlay::Backend;
use crate::controllers::bootstrap::ApiServer;
use crate::controllers::volumes::local_path::Nodes;
use crate::controllers::{self, ClientFor, addons};
use crate::pki::{self, Pki, PkiConfig, kubeconfig, tls::SwappableCert, token};
use crate::registry::allocators::Allocators;
use crate::registry::outward::Calls;
use crate::registry::{Registry, Resources};
use crate::runtime::Listers;
use crate::runtime::metrics::Registry as MetricsRegistry;
use crate::scheduler::{self, Scheduler};
use crate::store::Store;
use crate::store::cache::Cache;
use crate::store::durable::{Durable, Options};
use crate::store::sealed::Encryption;
use crate::util::address::Address;
use crate::util::backoff::Backoff;
use crate::util::clock::{SharedClock, SystemClock};
use crate::util::families::Networks;
use crate::util::files;
use crate::util::tasks::{OnEnd, Shutdown, Tasks};

use super::access::AccessFlags;
use super::cluster::Cluster;
use super::components::disabled;
use super::flags::{Common, NodeFlags, TokenFlags};
use super::manager::{self, Watched};
use super::node::{FoundRuntime, NodeParts};
use super::role;

/// Between two looks at the certificates' ends at most.
const CERTIFICATE_LOOK: Duration = Duration::from_secs(60);
/// How long a stop may take before what still runs is aborted.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// Flags of `orch server`; the names are k3s's where k3s has the same thing.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
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
    /// Addresses of pods: a network of IPv4, and after a comma one of IPv6 where they are to have both
    #[arg(long, value_name = "CIDR", default_value = "10.42.0.0/16")]
    pub cluster_cidr: Networks,
    /// Addresses of Services, of the same families
    #[arg(long, value_name = "CIDR", default_value = "10.43.0.0/16")]
    pub service_cidr: Networks,
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
    #[command(flatten)]
    pub token: TokenFlags,
    #[command(flatten)]
    pub access: AccessFlags,
    /// Setting of a controller, as upstream's controller manager has it: node-monitor-grace-period, or
    /// cluster-signing-duration, for which the server's own certificates are made, too
    #[arg(long, value_name = "NAME=VALUE", value_parser = controller_setting, action = ArgAction::Append)]
    pub kube_controller_manager_arg: Vec<ControllerSetting>,
    /// Profiles of the scheduler: a file with a KubeSchedulerConfiguration
    #[arg(long, value_name = "FILE")]
    pub scheduler_config: Option<PathBuf>,
    /// Run no node here
    #[arg(long)]
    pub disable_agent: bool,
    /// How pods of different nodes reach each other: vxlan, host-gw, or none
    #[arg(long, value_name = "BACKEND", default_value = "vxlan")]
    pub flannel_backend: Backend,
    /// Parts to leave out, and add-ons of <data-dir>/server/manifests to treat as not there
    #[arg(long, value_name = "NAME", value_delimiter = ',', action = ArgAction::Append)]
    pub disable: Vec<String>,
    /// Where nodes keep the volumes of the class local-path; below their data directories if not given
    #[arg(long, value_name = "DIR")]
    pub default_local_storage_path: Option<PathBuf>,
    #[command(flatten)]
    pub node: NodeFlags,
}

impl Args {
    fn node_grace(&self) -> Option<i64> {
        let mut settings = self.kube_controller_manager_arg.iter().rev();
        settings.find_map(|s| if let ControllerSetting::NodeGrace(s) = s { Some(*s) } else { None })
    }

    fn signing_duration(&self) -> Option<i64> {
        let mut settings = self.kube_controller_manager_arg.iter().rev();
        settings.find_map(|s| if let ControllerSetting::Signing(s) = s { Some(*s) } else { None })
    }
}

/// Runs until a signal or a failure.
pub fn main(args: Args) -> anyhow::Result<ExitCode> {
    args.common.log();
    super::on_threads(async {
        let shutdown = Shutdown::new();
        let bound = build(args, shutdown.clone()).await?;
        super::signals::stop_on_signals(&shutdown)?;
        bound.run().await
    })
}

/// A server that holds its ports and its store, and does nothing yet.
pub struct Bound {
    api: Arc<Api>,
    access: Arc<Access>,
    listers: Arc<dyn Listers>,
    cache: Arc<Cache>,
    store: Arc<dyn Store>,
    encryption: Arc<Encryption>,
    audit: Option<Arc<Audit>>,
    clock: SharedClock,
    node: Option<(NodeParts, tokio::net::TcpListener)>,
    config: Config,
    node_address: Arc<Address>,
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
    /// Where the server is was told; its node's address does not matter then.
    advertised: bool,
    first: super::bootstrap::First,
    controllers: controllers::Config,
    scheduler: scheduler::Config,
    addons: addons::Config,
    node_name: String,
}

fn scheduler_config(args: &Args) -> anyhow::Result<scheduler::Config> {
    let Some(path) = &args.scheduler_config else { return Ok(scheduler::Config::default()) };
    let at = || format!("scheduler configuration {}", path.display());
    let profiles = scheduler::config::read(&std::fs::read_to_string(path).with_context(at)?).with_context(at)?;
    Ok(scheduler::Config { profiles, ..scheduler::Config::default() })
}

fn controllers_config(args: &Args, pki: &Pki, access: &Access) -> controllers::Config {
    let signing =
        controllers::certificates::Signing { client_ca: pki.client_ca.clone(), server_ca: pki.server_ca.clone() };
    let tokens = access.tokens.clone();
    controllers::Config {
        cluster_cidrs: args.cluster_cidr.iter().collect(),
        root_ca_pem: pki.server_ca.cert_pem.clone(),
        node_grace_seconds: args.node_grace(),
        token_secrets: Some(Arc::new(move |account, secret| tokens.legacy(account, secret))),
        signing: Some(signing),
        balanced_but: None,
        local_path: None,
    }
}

/// What a node of this process is made of, and its port; none without a node.
async fn node_parts(
    args: &Args,
    data_dir: &Path,
    name: &str,
    address: &Address,
    cluster: &Cluster,
) -> anyhow::Result<Option<(NodeParts, tokio::net::TcpListener)>> {
    if args.disable_agent {
        return Ok(None);
    }
    let config = args.node.config(data_dir, name, address.watch(), cluster)?;
    let port = super::node::bind_port(args.node.kubelet_port).await?;
    Ok(Some((NodeParts::new(config, FoundRuntime::find(data_dir, &args.node)?), port)))
}

/// The kinds, with what Services get of the server's ranges.
fn resources(args: &Args, metrics: bool) -> anyhow::Result<Arc<Resources>> {
    let ports = port_range(&args.service_node_port_range)?;
    let optional = if metrics { crate::registry::metrics::kinds() } else { Vec::new() };
    Ok(Resources::and(&Allocators::new(args.service_cidr, ports), optional))
}

/// The registry behind its admission.
fn admitting(
    choice: Choice,
    resources: Arc<Resources>,
    cache: &Arc<Cache>,
    access: &Arc<Access>,
    listers: &Arc<dyn Listers>,
    roads: &Roads,
) -> Arc<Registry> {
    let plugins = crate::apiserver::auth::admission::plugins(access.clone(), resources.clone(), listers.clone());
    let questions = crate::apiserver::auth::admission::questions(access.clone());
    let view = Arc::new(crate::registry::CacheView(cache.clone()));
    let calls = Arc::new(Calls::new(Arc::new(roads.clone())));
    let admission = crate::admission::chain(choice, view, plugins, questions, calls.clone());
    let registry = Arc::new(Registry::new(resources, cache.clone(), admission.clone(), calls));
    admission.charge_through(&registry);
    registry
}

/// Where the server keeps what is its own, made where it is not there.
fn server_dir(data_dir: &Path) -> anyhow::Result<PathBuf> {
    let dir = data_dir.join("server");
    files::create_dir_durable(&dir)
        .with_context(|| format!("cannot create {}; choose another place with --data-dir", dir.display()))?;
    Ok(dir)
}

/// What the certificates have to say.
fn pki_config(args: &Args, node_name: &str, node_ip: IpAddr, service_ip: IpAddr) -> PkiConfig {
    PkiConfig {
        node_name: node_name.to_owned(),
        node_ips: args.advertise_address.into_iter().chain([node_ip]).collect(),
        service_ips: vec![service_ip],
        cluster_domain: args.cluster_domain.clone(),
        tls_sans: args.tls_san.clone(),
        life_seconds: args.signing_duration(),
    }
}

/// Binds, opens, loads.
pub async fn build(args: Args, shutdown: Shutdown) -> anyhow::Result<Bound> {
    let data_dir = args.common.data_dir()?;
    if !args.disable_agent && !nix::unistd::geteuid().is_root() {
        bail!("a node needs root; run as root, or with --disable-agent for a control plane alone");
    }
    let (listener, address) = listen(&args).await?;
    let clock: SharedClock = Arc::new(SystemClock);
    let node_name = args.node.name()?;
    let manifests = data_dir.join("server/manifests");
    let disabled = disabled(&args.disable, &manifests)?;
    let cluster = cluster(&args, !disabled.dns)?;
    let node_address = args.node.address(None, &cluster, &data_dir);
    let node_ip = node_address.now();
    let service_ip = args.service_cidr.v4.hosts().next().map(IpAddr::V4).context("the service range is empty")?;
    let node = node_parts(&args, &data_dir, &node_name, &node_address, &cluster).await?;
    let server_dir = server_dir(&data_dir)?;
    // First of all what is in the data directory: its lock keeps two servers from changing each other's files.
    let store = open_store(server_dir.join("db")).await?;
    let encryption = Encryption::open(store.clone(), args.access.encryption(&server_dir))?;
    encryption.prepare().await;
    let pki = Pki::open(&server_dir.join("tls"), &pki_config(&args, &node_name, node_ip, service_ip), clock.now())?;
    let given = args.token.read()?;
    let token = token::open(&server_dir.join("token"), &pki.server_ca.sha256(), given.as_deref())?;
    let resources = resources(&args, !disabled.metrics)?;
    let cache = Cache::open(encryption.store(), resources.clone()).await.context("cannot load the store")?;
    let listers: Arc<dyn Listers> = Arc::new(super::listers::CacheListers(cache.clone()));
    let settings = args.access.settings()?;
    let access = Access::open(&pki, listers.clone(), clock.clone(), &args.cluster_domain, settings);
    let access = Arc::new(access.await?);
    let front_proxy = SwappableCert::new(pki.auth_proxy.certified()?);
    let roads =
        Roads::new(Arc::new(crate::registry::CacheView(cache.clone())), Credentials::Rotating(front_proxy.clone()));
    let registry = admitting(args.access.admission()?, resources, &cache, &access, &listers, &roads);
    let metrics = MetricsRegistry::default();
    let api = Api::new(
        registry,
        access.clone(),
        clock.clone(),
        shutdown.clone(),
        health(&store, &encryption, &shutdown),
        &roads,
    );
    api.attach_encryption(encryption.clone());
    let audit = audited(&args, &api, &clock).await?;
    let scheduler = scheduler_config(&args)?;
    let figures = super::figures::source(metrics.clone(), scheduler.metrics.clone(), store.clone(), cache.clone());
    api.publish_metrics(figures);
    let serving = SwappableCert::new(pki.serving_key()?);
    let tls = crate::pki::tls::server_config(serving.clone(), &[&pki.client_ca.cert, &pki.request_header_ca.cert])?;
    let nodes = api.clone();
    let balanced_but = (!disabled.service_lb).then(|| vec![args.https_listen_port, args.node.kubelet_port]);
    let local_path = (!disabled.local_storage).then(|| Arc::new(move |name: &str| nodes.node(name)) as Nodes);
    let config = Config {
        api: ApiServer {
            service_ip,
            service_cidr: args.service_cidr,
            address: args.advertise_address.unwrap_or(node_ip),
            port: address.port(),
        },
        advertised: args.advertise_address.is_some(),
        first: super::bootstrap::First {
            cluster,
            client_ca_pem: pki.client_ca.cert_pem.clone(),
            request_header_ca_pem: pki.request_header_ca.cert_pem.clone(),
            own_node: (!args.disable_agent).then(|| node_name.clone()),
            own_key_hash: crate::pki::request::key_hash(&pki.kubelet.key_pem)?,
            token,
            server_dir: server_dir.clone(),
        },
        addons: addons::Config { dir: manifests, server: node_name.clone(), disabled: disabled.addons },
        controllers: controllers::Config { local_path, balanced_but, ..controllers_config(&args, &pki, &access) },
        scheduler,
        node_name,
    };
    let node_serving = SwappableCert::new(pki.kubelet_serving.certified()?);
    let kubeconfig = KubeconfigTarget::of(&args, &data_dir, address)?;
    let identity = Identity { pki, serving, node_serving, front_proxy, advertised: args.advertise_address, kubeconfig };
    identity.kubeconfig.write(&identity.pki)?;
    let store = store as Arc<dyn Store>;
    Ok(Bound {
        api,
        access,
        listers,
        cache,
        store,
        encryption,
        audit,
        clock,
        node,
        config,
        node_address: Arc::new(node_address),
        identity,
        metrics,
        listener,
        tls,
        address,
        shutdown,
    })
}

/// The socket that clients come to, and where it is.
async fn listen(args: &Args) -> anyhow::Result<(tokio::net::TcpListener, SocketAddr)> {
    let bind = SocketAddr::new(args.bind_address, args.https_listen_port);
    let listener = tokio::net::TcpListener::bind(bind)
        .await
        .with_context(|| format!("cannot listen on {bind}; choose another port with --https-listen-port"))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Audit, where the flags ask for it.
async fn audited(args: &Args, api: &Api, clock: &SharedClock) -> anyhow::Result<Option<Arc<Audit>>> {
    let Some(settings) = args.access.audit() else { return Ok(None) };
    let audit = Audit::open(settings, clock.clone()).await?;
    api.attach_audit(audit.clone());
    Ok(Some(audit))
}

impl Bound {
    /// Runs until the shutdown.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut tasks = Tasks::new(self.shutdown.clone());
        let shutdown = self.shutdown;
        let cache = self.cache;
        tasks.own("watch-cache", OnEnd::StopAll, |stop| async move { Ok(cache.run(stop).await?) });
        if let Some(audit) = self.audit {
            // Started early: it ends late, when nobody makes events any more.
            tasks.own("audit", OnEnd::StopAll, |stop| async move {
                audit.run(stop).await;
                Ok(())
            });
        }
        let encryption = self.encryption;
        tasks.own("encryption", OnEnd::Fine, |stop| async move { Ok(encryption.run(stop).await?) });
        let api = self.api.clone();
        let client = move |user: UserInfo| Client::in_process(InProcess::new(api.clone(), user));
        let admin = client(UserInfo::authenticated("system:apiserver", &[UserInfo::MASTERS])).named("orch");
        if let Err(error) = super::bootstrap::run(&admin, &self.config.api, &self.config.first).await {
            shutdown.trigger();
            tasks.join_in_reverse(STOP_DEADLINE).await;
            self.store.close().await;
            return Err(error);
        }
        let (access, listers) = (self.access.clone(), self.listers.clone());
        let (loaded, roles) = tokio::sync::oneshot::channel::<()>();
        tasks.own("rbac", OnEnd::StopAll, |stop| async move {
            stop.or(access.follow(&*listers, move || drop(loaded))).await;
            Ok(())
        });
        let access = self.access.clone();
        tasks.own("access-files", OnEnd::Fine, |stop| async move { Ok(access.follow_files(stop).await?) });
        // Dropped when all roles are known: nobody is refused because the server is still loading.
        let _ = roles.await;
        let (identity, clock, moves) = (self.identity, self.clock.clone(), self.node_address.watch());
        let mut watched = Watched {
            api: Some((identity.kubeconfig.server.clone(), self.config.controllers.root_ca_pem.clone())),
            node: None,
        };
        let (_, node_serving) = watch::channel(Some(identity.node_serving.clone()));
        tasks.own("certificates", OnEnd::Fine, |stop| identity.keep_fresh(clock, moves, stop));
        let address = self.node_address.clone();
        tasks.own_restarting("address", Backoff::RESTART, move |stop| {
            let address = address.clone();
            async move { Ok(address.follow(stop).await?) }.boxed()
        });
        if !self.config.advertised {
            let (moves, api) = (self.node_address.watch(), self.config.api.clone());
            tasks.own("server-address", OnEnd::Fine, |stop| tell_address(admin, api, moves, stop));
        }
        let mut definitions = self.api.definitions();
        definitions.load().await?;
        self.api.aggregator().load();
        follow(&mut tasks, &self.api);
        let (api, listener, tls) = (self.api.clone(), self.listener, self.tls);
        tasks.own("apiserver", OnEnd::StopAll, |stop| serve(api, listener, tls, stop));
        tracing::info!(address = %self.address, "serving the Kubernetes API");
        let itself = client(UserInfo::authenticated("system:apiserver", &[UserInfo::MASTERS])).named("kube-apiserver");
        stand_for_itself(&mut tasks, &itself, &self.listers, &self.clock, &self.config);
        track_tokens(&mut tasks, itself, &self.access, &self.listers, &self.clock);
        let client_for: ClientFor = {
            let client = client.clone();
            Arc::new(move |name| client(service_account(name)))
        };
        controllers::start(
            &mut tasks,
            &self.config.controllers,
            &client_for,
            &self.listers,
            &self.clock,
            &self.metrics,
        );
        let addons = client(UserInfo::authenticated(super::bootstrap::ADDONS_USER, &[]));
        addons::start(&mut tasks, self.config.addons, addons, &self.listers, &self.clock, &self.metrics);
        let (listers, clock) = (self.listers.clone(), self.clock.clone());
        let scheduler = client(UserInfo::authenticated("system:kube-scheduler", &[]));
        let scheduling = self.config.scheduler.clone();
        tasks.own_restarting("scheduler", Backoff::RESTART, move |stop| {
            let scheduler = Scheduler::new(scheduling.clone(), listers.clone(), scheduler.clone(), clock.clone());
            async move {
                scheduler.run(stop).await;
                Ok(())
            }
            .boxed()
        });
        if let Some((node, port)) = self.node {
            let user = UserInfo::authenticated(format!("system:node:{}", self.config.node_name), &["system:nodes"]);
            let user = client(user);
            let kubelet = node.kubelet(self.listers.clone(), user.clone(), self.clock.clone());
            node.serve(&mut tasks, &kubelet, port, node_serving, (self.config.first.client_ca_pem, user));
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

/// What the cluster sees of this server: that it lives, and which node is its own.
fn stand_for_itself(
    tasks: &mut Tasks,
    client: &Client,
    listers: &Arc<dyn Listers>,
    clock: &SharedClock,
    config: &Config,
) {
    let (itself, followed, clock, host) = (client.clone(), listers.clone(), clock.clone(), config.node_name.clone());
    tasks.own("identity", OnEnd::Fine, |stop| async move {
        controllers::identity::run(&itself, &*followed, &clock, &host, stop).await;
        Ok(())
    });
    let Some(node) = config.first.own_node.clone() else { return };
    let (client, listers) = (client.clone(), listers.clone());
    tasks.own_restarting("node-role", Backoff::RESTART, move |stop| {
        let (client, listers, node) = (client.clone(), listers.clone(), node.clone());
        async move { role::run(client, &*listers, &node, &stop).await }.boxed()
    });
}

/// Writes down which tokens in Secrets are used.
fn track_tokens(
    tasks: &mut Tasks,
    client: Client,
    access: &Arc<Access>,
    listers: &Arc<dyn Listers>,
    clock: &SharedClock,
) {
    let (tokens, listers, clock) = (access.tokens.clone(), listers.clone(), clock.clone());
    tasks.own_restarting("token-tracking", Backoff::RESTART, move |stop| {
        let (client, listers, clock, uses) = (client.clone(), listers.clone(), clock.clone(), tokens.uses());
        async move { Ok(controllers::tokens::tracking::run(&client, &*listers, &clock, uses, stop).await?) }.boxed()
    });
}

/// What follows the objects that the API itself is made of.
fn follow(tasks: &mut Tasks, api: &Arc<Api>) {
    let (aggregator, fairness, definitions, policies) = (api.clone(), api.clone(), api.clone(), api.clone());
    tasks.own_restarting("aggregator", Backoff::RESTART, move |stop| aggregator.aggregator().follow(stop).boxed());
    tasks.own_restarting("fairness", Backoff::RESTART, move |stop| fairness.fairness().follow(stop).boxed());
    tasks.own_restarting("definitions", Backoff::RESTART, move |stop| definitions.definitions().follow(stop).boxed());
    tasks.own_restarting("policies", Backoff::RESTART, move |stop| policies.policies().follow(stop).boxed());
}

/// Tells clients inside the cluster where the server is when its node has another address.
async fn tell_address(
    client: Client,
    mut server: ApiServer,
    mut moves: watch::Receiver<IpAddr>,
    stop: Shutdown,
) -> anyhow::Result<()> {
    let mut failures = 0;
    loop {
        if failures == 0 && !matches!(stop.or(moves.changed()).await, Some(Ok(()))) {
            return Ok(());
        }
        server.address = *moves.borrow_and_update();
        match controllers::bootstrap::ensure(&client, &server).await {
            Ok(()) => failures = 0,
            Err(e) => {
                failures += 1;
                tracing::warn!(address = %server.address, "cannot tell where the API server is, trying again: {e}");
                if stop.or(tokio::time::sleep(Backoff::RESTART.delay(failures))).await.is_none() {
                    return Ok(());
                }
            }
        }
    }
}

/// The identity of a controller, as upstream's controller manager gives each its own.
fn service_account(name: &str) -> UserInfo {
    let account = match name {
        "kube-controller-manager" | "serviceaccount-token-controller" => {
            return UserInfo::authenticated("system:kube-controller-manager", &[]);
        }
        "certificate-signing-controller" | "certificate-cleaner" | "node-identity-controller" => {
            "certificate-controller"
        }
        // As upstream: the role of this one is enough.
        "node-ipam-controller" | "taint-eviction-controller" => "node-controller",
        "disruption-target-cleaner" => "disruption-controller",
        "persistent-volume-controller" => "persistent-volume-binder",
        "local-path-deleter" | "local-path-class" => "local-path-provisioner",
        "root-ca-certificate-publisher" => "root-ca-cert-publisher",
        "resource-claim-making-controller" => "resource-claim-controller",
        name => name,
    };
    UserInfo::authenticated(
        format!("system:serviceaccount:kube-system:{account}"),
        &["system:serviceaccounts", "system:serviceaccounts:kube-system"],
    )
}

/// What the flags say of the cluster.
fn cluster(args: &Args, serve_dns: bool) -> anyhow::Result<Cluster> {
    let cluster_dns = match args.cluster_dns {
        Some(ip) => ip,
        None => {
            let tenth = args.service_cidr.v4.hosts().nth(9);
            tenth.context("the service range has no tenth address for DNS")?.into()
        }
    };
    let (cluster_cidr, service_cidr) = (args.cluster_cidr, args.service_cidr);
    super::ranges::check(&cluster_cidr, &service_cidr)?;
    if cluster_cidr.v6.is_some() && cluster_dns.is_ipv6() {
        bail!("--cluster-dns {cluster_dns}: must be an address of IPv4, which all pods have");
    }
    let (cluster_domain, backend) = (args.cluster_domain.clone(), args.flannel_backend);
    let local_storage = args.default_local_storage_path.clone();
    if let Some(dir) = local_storage.as_deref().filter(|dir| !dir.is_absolute() || *dir == Path::new("/")) {
        bail!("--default-local-storage-path {}: must be an absolute path, and not /", dir.display());
    }
    Ok(Cluster { cluster_cidr, service_cidr, cluster_dns, cluster_domain, backend, local_storage, serve_dns })
}

/// Opens the store off the runtime's threads: it reads the journal.
async fn open_store(dir: PathBuf) -> anyhow::Result<Arc<Durable>> {
    let what = format!("cannot open the store in {}", dir.display());
    let open = move || Durable::open(&Options::new(dir));
    Ok(Arc::new(tokio::task::spawn_blocking(open).await?.context(what)?))
}

/// What `--kube-controller-manager-arg` can set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControllerSetting {
    /// Seconds after which a node that is not heard of is taken for lost.
    NodeGrace(i64),
    /// Seconds that certificates live.
    Signing(i64),
}

/// Seconds that a certificate has to live at least: a quarter of it is the time to get the next one.
const LEAST_LIFE_SECONDS: i64 = 30;

fn controller_setting(text: &str) -> Result<ControllerSetting, String> {
    let (name, value) = text.trim_start_matches("--").split_once('=').ok_or("must be of the form NAME=VALUE")?;
    let seconds = || value.parse::<jiff::SignedDuration>().map(|d| d.as_secs()).map_err(|e| format!("{name}: {e}"));
    match name {
        "node-monitor-grace-period" => {
            // The lease is renewed that often: less would make every node silent between two renewals.
            let least = crate::kubelet::node::RENEW.as_secs() as i64;
            match seconds()? {
                seconds if seconds > least => Ok(ControllerSetting::NodeGrace(seconds)),
                _ => Err(format!("{name} must be more than {least}s, which is how often nodes are heard of")),
            }
        }
        "cluster-signing-duration" => match seconds()? {
            seconds if seconds >= LEAST_LIFE_SECONDS => Ok(ControllerSetting::Signing(seconds)),
            _ => Err(format!("{name} must be at least {LEAST_LIFE_SECONDS}s")),
        },
        _ => Err(format!("{name} cannot be set; node-monitor-grace-period and cluster-signing-duration can")),
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
fn health(store: &Arc<Durable>, encryption: &Arc<Encryption>, shutdown: &Shutdown) -> Health {
    let (store, shutdown) = (store.clone(), shutdown.clone());
    let writable = move || store.read_only().map_or(Ok(()), |why| Err(format!("the store is read-only: {why}")));
    let health = Health::new(writable, move || shutdown.is_triggered());
    if !encryption.has_plugins() {
        return health;
    }
    let encryption = encryption.clone();
    health.needing("kms-providers", move || {
        let encryption = encryption.clone();
        async move { encryption.health().await }
    })
}

/// Keys and certificates of the running server.
struct Identity {
    pki: Pki,
    serving: Arc<SwappableCert>,
    node_serving: Arc<SwappableCert>,
    front_proxy: Arc<SwappableCert>,
    /// What `--advertise-address` says.
    advertised: Option<IpAddr>,
    kubeconfig: KubeconfigTarget,
}

impl Identity {
    /// Renews certificates long before they end, and the serving one when the node has another address; connections that
    /// are open keep what they have.
    async fn keep_fresh(
        mut self,
        clock: SharedClock,
        mut moves: watch::Receiver<IpAddr>,
        stop: Shutdown,
    ) -> anyhow::Result<()> {
        let mut owed = false;
        loop {
            let pause = match owed {
                false => pki::pause(self.pki.due(), clock.now(), CERTIFICATE_LOOK),
                true => CERTIFICATE_LOOK,
            };
            tokio::select! {
                () = stop.wait() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
                Ok(()) = moves.changed() => {}
            }
            let (now, address) = (clock.now(), *moves.borrow_and_update());
            owed |= self.pki.answer_at(self.advertised.into_iter().chain([address]).collect()) || self.pki.is_due(now);
            if !owed {
                continue;
            }
            match self.renew(now) {
                Ok(()) => owed = false,
                Err(e) => tracing::error!("cannot renew certificates, trying again: {e:#}"),
            }
        }
    }

    fn renew(&mut self, now: Timestamp) -> anyhow::Result<()> {
        let pki = self.pki.renewed(now)?;
        self.serving.swap(pki.serving_key()?);
        self.node_serving.swap(pki.kubelet_serving.certified()?);
        self.front_proxy.swap(pki.auth_proxy.certified()?);
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
    fn of(args: &Args, data_dir: &Path, address: SocketAddr) -> anyhow::Result<Self> {
        let mode = u32::from_str_radix(args.write_kubeconfig_mode.trim_start_matches("0o"), 8).with_context(|| {
            format!("--write-kubeconfig-mode {:?} is not an octal mode", args.write_kubeconfig_mode)
        })?;
        let host = if args.bind_address.is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { args.bind_address };
        // The well-known place belongs to the usual data directory; others have theirs beside their data.
        let other = match &args.write_kubeconfig {
            Some(path) => Some((path.clone(), mode)),
            None if data_dir == Path::new("/var/lib/orch") => Some((PathBuf::from("/etc/orch/orch.yaml"), mode)),
            None => None,
        };
        Ok(Self {
            server: format!("https://{}", SocketAddr::new(host, address.port())),
            own: data_dir.join("server/admin.kubeconfig"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    #[test_case("node-monitor-grace-period=15s", Ok(ControllerSetting::NodeGrace(15)))]
    #[test_case("--node-monitor-grace-period=1m", Ok(ControllerSetting::NodeGrace(60)))]
    #[test_case("cluster-signing-duration=24h0m0s", Ok(ControllerSetting::Signing(86_400)))]
    #[test_case("cluster-signing-duration=29s", Err("must be at least 30s"))]
    #[test_case("node-monitor-grace-period=10s", Err("must be more than 10s"))]
    #[test_case("node-monitor-grace-period=soon", Err("node-monitor-grace-period: "))]
    #[test_case("node-monitor-grace-period", Err("NAME=VALUE"))]
    #[test_case("pod-eviction-timeout=1s", Err("pod-eviction-timeout cannot be set"))]
    fn controller_settings(text: &str, want: Result<ControllerSetting, &str>) {
        match (controller_setting(text), want) {
            (Ok(got), want) => assert_eq!(Ok(got), want),
            (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
            (Err(why), Ok(_)) => panic!("{why}"),
        }
    }
}
