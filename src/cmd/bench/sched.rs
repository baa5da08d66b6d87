//! Pods that are given nodes: how many in a second.
//!
//! Makes nodes without kubelets, waits until they may be used, then makes pods and watches them get their nodes. The server
//! must have no node of its own and a range of pod addresses that is large enough. Everything is over within a minute: after
//! that, nodes that nobody hears of are taken for lost.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::io::StreamReader;

use super::load::{Until, drive, round};
use super::target::{Call, Connection, Protocol, Target};
use crate::api::value::ValueExt;
use crate::util::clock::{Clock, SystemClock, rfc3339};

/// Longest wait for the nodes to be ready, and for the next pod to get its node.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between looks at whether nodes may be used.
const LOOK: Duration = Duration::from_millis(500);
/// Bytes of one event.
const EVENT_BYTES: usize = 1 << 20;

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
    /// Each pod keeps all others off its node
    #[arg(long)]
    anti_affinity: bool,
}

/// Makes nodes and pods, and prints the figure.
pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let target = Target::of_kubeconfig(&args.kubeconfig)?;
    let mut connections = target.connect_many(args.connections as usize, Protocol::Http1).await?;
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

    let mut watcher = target.connect(Protocol::Http2).await?;
    let path = format!("{core}/pods?watch=1&fieldSelector=spec.nodeName!%3D");
    let answer = watcher.send(Call::get(path)).await?;
    ensure!(answer.status().is_success(), "cannot watch pods: {}", answer.status());
    let bytes = answer.into_body().into_data_stream().map_err(std::io::Error::other);
    let lines =
        FramedRead::new(StreamReader::new(bytes.map_ok(Bytes::from)), LinesCodec::new_with_max_length(EVENT_BYTES));
    let want = args.pods as usize;
    let start = Instant::now();
    let placed = tokio::spawn(count(lines, want, start));
    let (path, apart) = (format!("{core}/pods"), args.anti_affinity);
    let create = move |i| Call::create(path.clone(), &pod(i, apart));
    let (_, made) = drive(connections, Until::Count(want), create).await?;
    let took = placed.await??.as_secs_f64();
    println!(
        "{}",
        json!({"workload": if args.anti_affinity { "sched-anti-affinity" } else { "sched" }, "nodes": args.nodes,
            "pods": args.pods, "seconds": round(took), "per_s": (want as f64 / took).round(),
            "created_per_s": made.rate()})
    );
    Ok(())
}

fn node(run: &str, i: usize) -> Value {
    let name = format!("hollow-{run}-{i}");
    let now = rfc3339(SystemClock.now());
    let room = json!({"cpu": "8", "memory": "32Gi", "pods": "110", "ephemeral-storage": "100Gi"});
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name,
            "topology.kubernetes.io/zone": format!("zone-{}", i % 3)}},
        "status": {"capacity": room, "allocatable": room, "conditions": [{"type": "Ready", "status": "True",
            "reason": "KubeletReady", "lastHeartbeatTime": now, "lastTransitionTime": now}]}})
}

fn pod(i: usize, apart: bool) -> Value {
    let mut out = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p-{i}"), "labels": {"app": "bench"}},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c", "image": "registry.invalid/pause",
            "resources": {"requests": {"cpu": "100m", "memory": "100Mi"}}}]}});
    if apart {
        let term = json!({"labelSelector": {"matchLabels": {"app": "bench"}}, "topologyKey": "kubernetes.io/hostname"});
        out.set_at("/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution", json!([term]));
    }
    out
}

/// Waits until the nodes' controller has taken the taint of new nodes from all of them.
async fn until_usable(connection: &mut Connection, count: usize) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let list = connection.json(Call::get("/api/v1/nodes?resourceVersion=0")).await?;
        let all = list.items_at("/items");
        let usable = |n: &&Value| n.items_at("/spec/taints").is_empty() && n.pointer("/status/allocatable").is_some();
        let ready = all.iter().filter(usable).count();
        if ready >= count {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "only {ready} of {count} nodes may be used");
        tokio::time::sleep(LOOK).await;
    }
}

/// When the last of `want` pods had its node.
async fn count<S>(mut lines: S, want: usize, start: Instant) -> anyhow::Result<Duration>
where
    S: futures::Stream<Item = Result<String, tokio_util::codec::LinesCodecError>> + Unpin,
{
    let mut seen = 0;
    while seen < want {
        let next = tokio::time::timeout(PATIENCE, lines.next()).await;
        let line = next.with_context(|| format!("{seen} of {want} pods have nodes"))?.context("the watch ended")??;
        // With this selector a pod is added when it gets its node.
        seen += usize::from(line.starts_with("{\"type\":\"ADDED\""));
    }
    Ok(start.elapsed())
}
