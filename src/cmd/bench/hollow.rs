//! Nodes that run nothing: the kubelet with a runtime that is only a list, thousands of them in one process.
//!
//! Each registers its Node, keeps its lease and its status, watches its pods and its Node, and tells what became of the pods,
//! all over the real API: a laptop can be a large cluster. Unlike `orch agent` they share the kubeconfig's identity and
//! some connections, and have no network, no DNS and no port of their own.
//!
//! Flow: flags → one [`Kubelet`] for each node, over [`HollowListers`] → a line of JSON when all are ready → until a signal.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::json;

use super::load::round;
use crate::client::{Client, res};
use crate::kubelet::eviction::Thresholds;
use crate::kubelet::hollow::HollowRuntime;
use crate::kubelet::{Config, Kubelet};
use crate::runtime::informer::{self, RemoteListers, Source};
use crate::runtime::{Lister, Listers, fields, objects::Objects};
use crate::util::clock::SystemClock;
use crate::util::tasks::{OnEnd, Shutdown, Tasks};

/// Nodes that share a connection: each has two watches open, and servers allow 250 requests on one.
const PER_CONNECTION: u32 = 50;
/// Nodes that register at the same time.
const AT_ONCE: usize = 200;
/// Longest wait for all of them to be ready.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a stop may take.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// Arguments of `orch bench hollow-nodes`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// kubeconfig of an administrator
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    /// Where the kubelets keep what they keep: volumes and logs' directories
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Beginning of the nodes' names
    #[arg(long, value_name = "NAME", default_value = "hollow")]
    prefix: String,
    /// Zones that the nodes are in, in turn
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    zones: u32,
    /// How many nodes
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..=15_000))]
    nodes: u32,
}

/// What one node sees: its own pods, its own Node, and with all others of this process the rest.
struct HollowListers {
    pods: Arc<Objects>,
    nodes: Arc<Objects>,
    shared: Arc<RemoteListers>,
}

impl Listers for HollowListers {
    fn lister(&self, group: &str, resource: &str) -> Arc<dyn Lister> {
        match (group, resource) {
            ("", "pods") => self.pods.clone(),
            ("", "nodes") => self.nodes.clone(),
            _ => self.shared.lister(group, resource),
        }
    }
}

/// One node.
struct Hollow {
    name: String,
    client: Client,
    kubelet: Arc<Kubelet>,
    pods: Arc<Objects>,
    nodes: Arc<Objects>,
}

impl Hollow {
    fn new(args: &Args, number: u32, client: Client, shared: &Arc<RemoteListers>) -> anyhow::Result<Self> {
        let name = format!("{}-{number}", args.prefix);
        let dir = args.data_dir.join(&name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let made = |plural| Objects::new(fields::indexed("", plural));
        let (pods, nodes) = (made("pods"), made("nodes"));
        let zone = format!("zone-{}", number % args.zones);
        let config = Config {
            pod_logs: dir.join("logs"),
            container_logs: dir.join("links"),
            // There are no cgroups below it, and nothing that the machine is short of is the pods' doing.
            cgroup_root: dir.join("cgroup"),
            eviction: Thresholds(Default::default()),
            node_ips: vec![std::net::Ipv4Addr::from(0x0AC0_0000 + number).to_string()],
            node_labels: vec![("topology.kubernetes.io/zone".into(), zone)],
            port: 0,
            ..Config::new(&name, &dir)
        };
        let listers = HollowListers { pods: pods.clone(), nodes: nodes.clone(), shared: shared.clone() };
        let clock = Arc::new(SystemClock);
        let runtime = Arc::new(HollowRuntime::new(number, clock.clone()));
        let kubelet = Kubelet::new(config, runtime, Arc::new(listers), client.clone(), clock);
        Ok(Self { name, client, kubelet, pods, nodes })
    }

    async fn run(self, stop: Shutdown) {
        let pods = Source::fields(&res::PODS, format!("spec.nodeName={}", self.name));
        let node = Source::fields(&res::NODES, format!("metadata.name={}", self.name));
        tokio::join!(
            informer::follow(&self.client, &pods, &*self.pods, &stop),
            informer::follow(&self.client, &node, &*self.nodes, &stop),
            self.kubelet.run(stop.clone()),
        );
    }
}

/// Runs the nodes until a signal.
pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let shutdown = Shutdown::new();
    crate::cmd::signals::stop_on_signals(&shutdown)?;
    let mut tasks = Tasks::new(shutdown.clone());
    let (shared, informers) = RemoteListers::new(Client::from_kubeconfig(&args.kubeconfig).await?, Vec::new());
    tasks.own("informers", OnEnd::StopAll, move |stop| async move {
        informers.run(stop).await;
        Ok(())
    });
    let start = Instant::now();
    let (mut pulses, mut client) = (Vec::new(), None);
    let mut starting = FuturesUnordered::new();
    for number in 0..args.nodes {
        if number % PER_CONNECTION == 0 {
            client = Some(Client::from_kubeconfig(&args.kubeconfig).await?);
        }
        let Some(client) = client.clone() else { continue };
        let hollow = Hollow::new(&args, number, client, &shared)?;
        let mut pulse = hollow.kubelet.pulse();
        pulses.push(pulse.clone());
        tasks.own("hollow-node", OnEnd::Fine, move |stop| async move {
            hollow.run(stop).await;
            Ok(())
        });
        starting.push(async move { pulse.wait_for(|p| p.ready).await.map(drop) });
        if starting.len() >= AT_ONCE && within(&shutdown, start, starting.next()).await?.is_none() {
            break;
        }
    }
    while within(&shutdown, start, starting.next()).await?.flatten().is_some() {}
    if !shutdown.is_triggered() {
        let ready = pulses.iter().filter(|p| p.borrow().ready).count();
        let seconds = round(start.elapsed().as_secs_f64());
        println!("{}", json!({"workload": "hollow-nodes", "nodes": ready, "seconds": seconds}));
    }
    shutdown.wait().await;
    tasks.join_in_reverse(STOP_DEADLINE).await;
    Ok(())
}

/// None when it is time to stop.
async fn within<T>(stop: &Shutdown, start: Instant, work: impl Future<Output = T>) -> anyhow::Result<Option<T>> {
    let left = PATIENCE.saturating_sub(start.elapsed());
    let done = tokio::time::timeout(left, stop.or(work)).await;
    ensure!(done.is_ok(), "the nodes are not ready after {PATIENCE:?}");
    Ok(done.unwrap_or(None))
}
