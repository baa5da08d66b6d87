//! Many pods on many nodes: how long until all run, and what other requests take meanwhile.
//!
//! The nodes are there already (`orch bench hollow-nodes`). Pods are made as fast as the connections allow; one more
//! connection asks for this and that at a steady pace, as people and controllers do, and its answers are the figures by verb.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::arrivals::{Arrivals, Begin};
use super::load::{Taken, Until, drive, round};
use super::target::{Call, Connection, Protocol, Target};
use crate::util::clock::{Clock, SystemClock};

/// Namespaces that the pods are spread over.
const NAMESPACES: usize = 50;
/// Between two requests of the one who asks meanwhile.
const PACE: Duration = Duration::from_millis(20);
/// Longest time in which no further pod runs.
const PATIENCE: Duration = Duration::from_secs(120);
/// A watch of the pods that run.
const RUNNING: &str = "/api/v1/pods?watch=1&fieldSelector=status.phase%3DRunning";

/// Arguments of `orch bench density`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// kubeconfig with embedded client certificate
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    /// Pods to make
    #[arg(long, value_name = "N", default_value_t = 150_000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    pods: u32,
    /// Connections that make them
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
}

/// Makes the pods, waits until they run, prints the figures.
pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let target = Target::of_kubeconfig(&args.kubeconfig)?;
    let mut connections = target.connect_many(args.connections as usize, Protocol::Http1).await?;
    let run = format!("{:x}", SystemClock.now().as_millisecond());
    let namespace = move |i: usize| format!("density-{run}-{}", i % NAMESPACES);
    for i in 0..NAMESPACES {
        let object = json!({"metadata": {"name": namespace(i)}});
        connections[0].ensure("/api/v1/namespaces", &object).await?;
        let account = json!({"metadata": {"name": "default"}});
        connections[0].ensure(&format!("/api/v1/namespaces/{}/serviceaccounts", namespace(i)), &account).await?;
    }
    let lease = json!({"metadata": {"name": "asked"}, "spec": {"holderIdentity": "bench"}});
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", namespace(0));
    connections[0].ensure(&leases, &lease).await?;

    let (end, ended) = watch::channel(false);
    let asking = tokio::spawn(ask(target.connect(Protocol::Http1).await?, namespace(0), ended));
    let start = Instant::now();
    let (count, pods_of) = (args.pods as usize, namespace.clone());
    let create = move |i| Call::create(format!("/api/v1/namespaces/{}/pods", pods_of(i)), &pod(i));
    let running = Arrivals::watch(&target, RUNNING, Begin::Start).await?;
    let running = tokio::spawn(running.count(count, start, PATIENCE));
    let (_, made) = drive(connections, Until::Count(count), create).await?;
    println!("{}", made.figure("density-create"));
    let took = running.await??.as_secs_f64();
    end.send_replace(true);
    for (verb, taken) in asking.await?? {
        println!("{}", taken.figure(verb));
    }
    println!(
        "{}",
        json!({"workload": "density", "pods": count, "seconds": round(took), "per_s": (count as f64 / took).round()})
    );
    Ok(())
}

fn pod(i: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p-{i}"), "labels": {"app": "density"}},
        "spec": {"automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "registry.invalid/pause",
                "resources": {"requests": {"cpu": "5m", "memory": "8Mi"}}}]}})
}

/// Asks at a steady pace until the end; what each verb took.
async fn ask(
    mut connection: Connection,
    namespace: String,
    mut ended: watch::Receiver<bool>,
) -> anyhow::Result<Vec<(&'static str, Taken)>> {
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/asked");
    let call = |turn: usize| match turn % 4 {
        0 => ("density-get", Call::get(&lease)),
        1 => ("density-patch", Call::patch(&lease, &json!({"spec": {"leaseTransitions": turn}}))),
        2 => ("density-list", Call::get(format!("{pods}?limit=100"))),
        _ => ("density-list-namespace", Call::get(format!("{pods}?resourceVersion=0"))),
    };
    let start = Instant::now();
    let mut each: Vec<(&'static str, Vec<Duration>)> = Vec::new();
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for turn in 0.. {
        tokio::select! {
            _ = ended.wait_for(|e| *e) => break,
            _ = pace.tick() => {}
        }
        let (verb, call) = call(turn);
        let sent = Instant::now();
        connection.exchange(call).await.context(verb)?;
        match each.iter_mut().find(|(v, _)| *v == verb) {
            Some((_, all)) => all.push(sent.elapsed()),
            None => each.push((verb, vec![sent.elapsed()])),
        }
    }
    let all = start.elapsed();
    Ok(each.into_iter().map(|(verb, each)| (verb, Taken::new(each, all))).collect())
}
