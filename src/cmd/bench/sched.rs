//! Pods that are given nodes: how many in a second.
//!
//! Makes nodes without kubelets, waits until they may be used and nobody writes to them any more, then makes pods and watches
//! them get their nodes. The server must have no node of its own, a range of pod addresses that is large enough, and patience
//! with nodes that nobody hears of (`node-monitor-grace-period`). The workloads are those of upstream's `scheduler_perf`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::ValueEnum;
use serde_json::{Value, json};

use super::arrivals::{Arrivals, Begin};
use super::load::{Until, drive, round};
use super::target::{Call, Connection, Target};
use crate::api::value::ValueExt;
use crate::util::clock::{Clock, SystemClock, rfc3339};

/// Longest wait for the nodes to be ready, and for the next pod to get its node.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between looks at whether nodes may be used.
const LOOK: Duration = Duration::from_millis(500);
/// Writes between two looks that are no work for the nodes any more: leases, for one.
const FEW: u64 = 10;
/// CPU of a node, in thousandths.
const NODE_MILLICPU: u32 = 8000;

/// Arguments of `orch bench sched`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// kubeconfig with embedded client certificate
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    /// Nodes to make
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    nodes: u32,
    /// Pods to make
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pods: u32,
    /// Connections that make them
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
    /// What the pods want
    #[arg(long, value_name = "WHAT", default_value = "plain")]
    workload: Workload,
}

/// What the pods want.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// A little CPU and memory
    Plain,
    /// A zone, by required node affinity
    NodeAffinity,
    /// To be spread over the zones, with a hard limit
    Spread,
    /// No other of them on their node
    AntiAffinity,
    /// The place of others, who are less important and fill the nodes
    Preemption,
}

impl Workload {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "sched",
            Self::NodeAffinity => "sched-node-affinity",
            Self::Spread => "sched-spread",
            Self::AntiAffinity => "sched-anti-affinity",
            Self::Preemption => "sched-preemption",
        }
    }

    /// One of the pods.
    fn pod(self, i: usize) -> Value {
        let mut out = pod(&format!("p-{i}"), 100);
        let labelled = json!({"matchLabels": {"app": "bench"}});
        let key = "topology.kubernetes.io/zone";
        let (at, value) = match self {
            Self::Plain => return out,
            Self::NodeAffinity => (
                "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution",
                json!({"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": key, "operator": "In", "values": ["zone-0", "zone-1"]}]}]}),
            ),
            Self::Spread => (
                "/spec/topologySpreadConstraints",
                json!([{"maxSkew": 5, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": labelled}]),
            ),
            Self::AntiAffinity => (
                "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution",
                json!([{"labelSelector": labelled, "topologyKey": "kubernetes.io/hostname"}]),
            ),
            Self::Preemption => {
                out = pod(&format!("p-{i}"), NODE_MILLICPU / 2);
                ("/spec/priorityClassName", json!("bench-high"))
            }
        };
        out.set_at(at, value);
        out
    }
}

/// Makes nodes and pods, and prints the figure.
pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let target = Target::of_kubeconfig(&args.kubeconfig)?;
    let mut connections = target.connect_as_clients(args.connections as usize).await?;
    let run = format!("{:x}", SystemClock.now().as_millisecond());
    let namespace = format!("orch-bench-{run}");
    let first = &mut connections[0];
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    first.ensure("/api/v1/namespaces", &object).await?;
    let core = format!("/api/v1/namespaces/{namespace}");
    // Pods need it, and its controller may be slower than we are.
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    first.ensure(&format!("{core}/serviceaccounts"), &account).await?;

    let (nodes, of) = (args.nodes, run.clone());
    let create = move |i| Call::create("/api/v1/nodes", &node(&of, i));
    let (mut connections, made) = drive(connections, Until::Count(nodes as usize), create).await?;
    eprintln!("{nodes} nodes made, {} in a second", made.rate());
    until_usable(&mut connections[0], nodes as usize).await?;
    until_quiet(&mut connections[0]).await?;
    // Those that were idle meanwhile may have been closed.
    connections = target.connect_as_clients(args.connections as usize).await?;

    let want = args.pods as usize;
    let placed = format!("{core}/pods?watch=1&fieldSelector=spec.nodeName!%3D");
    if args.workload == Workload::Preemption {
        connections = fill(&target, connections, &placed, &core, nodes as usize).await?;
        until_quiet(&mut connections[0]).await?;
        connections = target.connect_as_clients(args.connections as usize).await?;
    }
    // From now on: those that fill the nodes have theirs already.
    let revision = connections[0].json(Call::get(format!("{core}/pods?limit=1"))).await?;
    let revision = revision.str_at("/metadata/resourceVersion").unwrap_or_default().to_owned();
    let arrivals = Arrivals::watch(&target, &format!("{placed}&resourceVersion={revision}"), Begin::Revision).await?;
    let start = Instant::now();
    let placed = tokio::spawn(arrivals.count(want, start, PATIENCE));
    let (path, workload) = (format!("{core}/pods"), args.workload);
    let create = move |i| Call::create(path.clone(), &workload.pod(i));
    let (_, made) = drive(connections, Until::Count(want), create).await?;
    let took = placed.await??.as_secs_f64();
    println!(
        "{}",
        json!({"workload": workload.name(), "nodes": args.nodes, "pods": args.pods, "seconds": round(took),
            "per_s": (want as f64 / took).round(), "created_per_s": made.rate()})
    );
    Ok(())
}

/// Fills the nodes with pods that must yield: two on each, which leave no room for a third.
async fn fill(
    target: &Target,
    mut connections: Vec<Connection>,
    placed: &str,
    core: &str,
    nodes: usize,
) -> anyhow::Result<Vec<Connection>> {
    for (name, value) in [("bench-low", 1), ("bench-high", 1000)] {
        let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value});
        connections[0].ensure("/apis/scheduling.k8s.io/v1/priorityclasses", &class).await?;
    }
    let arrivals = Arrivals::watch(target, placed, Begin::Start).await?;
    let count = tokio::spawn(arrivals.count(2 * nodes, Instant::now(), PATIENCE));
    let path = format!("{core}/pods");
    let create = move |i| {
        let mut low = pod(&format!("low-{i}"), NODE_MILLICPU / 2);
        low.set_at("/spec/priorityClassName", "bench-low");
        Call::create(path.clone(), &low)
    };
    let (connections, _) = drive(connections, Until::Count(2 * nodes), create).await?;
    let took = count.await??.as_secs_f64();
    eprintln!("{nodes} nodes filled in {} s", round(took));
    Ok(connections)
}

fn node(run: &str, i: usize) -> Value {
    let name = format!("hollow-{run}-{i}");
    let now = rfc3339(SystemClock.now());
    let cpu = format!("{NODE_MILLICPU}m");
    let room = json!({"cpu": cpu, "memory": "32Gi", "pods": "110", "ephemeral-storage": "100Gi"});
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name,
            "topology.kubernetes.io/zone": format!("zone-{}", i % 3)}},
        "status": {"capacity": room, "allocatable": room, "conditions": [{"type": "Ready", "status": "True",
            "reason": "KubeletReady", "lastHeartbeatTime": now, "lastTransitionTime": now}]}})
}

/// Without a kubelet it is gone as soon as it is deleted.
fn pod(name: &str, millicpu: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "registry.invalid/pause",
                "resources": {"requests": {"cpu": format!("{millicpu}m"), "memory": "100Mi"}}}]}})
}

/// Waits until the nodes' controller has taken the taint of new nodes from all of them.
async fn until_usable(connection: &mut Connection, count: usize) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let list = connection.json(Call::get("/api/v1/nodes?resourceVersion=0")).await?;
        let all = list.items_at("/items");
        let usable = |n: &&Value| n.items_at("/spec/taints").is_empty() && n.get_at("/status/allocatable").is_some();
        let ready = all.iter().filter(usable).count();
        if ready >= count {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "only {ready} of {count} nodes may be used");
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until controllers have done their work: it is no part of what is measured.
async fn until_quiet(connection: &mut Connection) -> anyhow::Result<()> {
    let (start, mut before) = (Instant::now(), 0);
    loop {
        let list = connection.json(Call::get("/api/v1/nodes?limit=1")).await?;
        let now: u64 = list.str_at("/metadata/resourceVersion").unwrap_or_default().parse()?;
        if now.saturating_sub(before) <= FEW {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "controllers find no end with the nodes");
        before = now;
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_want_what_their_workload_says() {
        let of = |w: Workload| w.pod(3)["spec"].clone();
        assert!(of(Workload::Plain).get("affinity").is_none());
        assert!(of(Workload::NodeAffinity)["affinity"]["nodeAffinity"].is_object());
        assert_eq!(of(Workload::Spread)["topologySpreadConstraints"][0]["maxSkew"], 5);
        assert!(of(Workload::AntiAffinity)["affinity"]["podAntiAffinity"].is_object());
        let preempting = of(Workload::Preemption);
        assert_eq!(preempting["priorityClassName"], "bench-high");
        assert_eq!(preempting["containers"][0]["resources"]["requests"]["cpu"], "4000m");
    }
}
