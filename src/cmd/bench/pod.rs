//! Pods from creation to Ready, beside the bare calls of the container runtime for the same pod.
//!
//! Both run one after the other on the same node, in turns, so that both meet the same machine.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use serde_json::{Value, json};

use super::load::{Taken, round};
use crate::api::value::ValueExt;
use crate::client::{Client, DeleteOptions, ListOptions, Res};
use crate::kubelet::cri::CriRuntime;
use crate::kubelet::runtime::{ContainerConfig, Runtime, SandboxConfig};
use crate::util::clock::{Clock, SystemClock};

const PODS: Res = Res::new("", "v1", "pods", "Pod", true);
const NAMESPACE: &str = "default";
/// Longest wait for one pod.
const PATIENCE: Duration = Duration::from_secs(60);

/// Arguments of `orch bench pod`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// kubeconfig of the cluster
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    /// Socket of the node's container runtime
    #[arg(long, value_name = "SOCKET")]
    runtime: PathBuf,
    /// An image that the node has; it is run with `sleep`
    #[arg(long, value_name = "NAME")]
    image: String,
    /// Pods of each sort
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
}

/// Tries of the bare calls of a pod: the kubelet looks once a second, and ends what it does not know.
const TRIES: u32 = 5;

const COMMAND: [&str; 2] = ["sleep", "1000"];

/// Prints both medians and their ratio.
pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::from_kubeconfig(&args.kubeconfig).await?;
    let runtime = CriRuntime::new(&args.runtime);
    let logs = std::env::temp_dir().join(format!("orch-bench-{}", std::process::id()));
    let run = format!("{:x}", SystemClock.now().as_millisecond());
    let (mut whole, mut bare) = (Vec::new(), Vec::new());
    let start = Instant::now();
    let measured = async {
        for i in 0..args.count {
            let name = format!("bench-{run}-{i}");
            whole.push(through_the_cluster(&client, &name, &args.image).await.with_context(|| format!("pod {name}"))?);
            bare.push(undisturbed(&runtime, &name, &args.image, &logs).await?);
        }
        anyhow::Ok(())
    }
    .await;
    let _ = std::fs::remove_dir_all(&logs);
    measured?;
    let all = start.elapsed();
    let (whole, bare) = (Taken::new(whole, all), Taken::new(bare, all));
    println!(
        "{}",
        json!({
            "workload": "pod", "count": args.count,
            "ready_p50_ms": whole.quantile_ms(0.5), "ready_max_ms": whole.quantile_ms(1.0),
            "cri_p50_ms": bare.quantile_ms(0.5), "cri_max_ms": bare.quantile_ms(1.0),
            "ratio": round(whole.quantile_ms(0.5) / bare.quantile_ms(0.5)),
        })
    );
    Ok(())
}

/// Creates a pod, waits until it is Ready, deletes it. The time is from the request to the news.
async fn through_the_cluster(client: &Client, name: &str, image: &str) -> anyhow::Result<Duration> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": image, "imagePullPolicy": "Never", "command": COMMAND}],
        },
    });
    let options = ListOptions::fields(format!("metadata.name={name}"));
    let mut events = client.watch(&PODS, Some(NAMESPACE), &options).await?;
    let sent = Instant::now();
    client.create(&PODS, NAMESPACE, &pod).await?;
    let ready = async {
        while let Some(event) = events.next().await {
            if is_ready(&event?.object) {
                return anyhow::Ok(sent.elapsed());
            }
        }
        bail!("the watch ended before it was Ready")
    };
    let taken = tokio::time::timeout(PATIENCE, ready).await.context("not Ready in time")?;
    client.delete(&PODS, NAMESPACE, name, &DeleteOptions { grace: Some(0), ..DeleteOptions::default() }).await?;
    taken
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.get_at("/status/conditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|c| c.str_at("/type") == Some("Ready") && c.str_at("/status") == Some("True"))
}

/// The time of the bare calls, of the first try that the kubelet did not get in the way of.
async fn undisturbed(runtime: &CriRuntime, name: &str, image: &str, logs: &Path) -> anyhow::Result<Duration> {
    let mut tried = 1;
    loop {
        let name = format!("{name}-{tried}");
        match bare_calls(runtime, &name, image, logs).await {
            Ok(taken) => return Ok(taken),
            Err(e) if tried == TRIES => return Err(e).with_context(|| format!("sandbox {name}, try {tried}")),
            Err(_) => tried += 1,
        }
    }
}

/// The calls that a kubelet cannot do without: sandbox, container, start. They are not seen by the cluster.
async fn bare_calls(runtime: &CriRuntime, name: &str, image: &str, logs: &Path) -> anyhow::Result<Duration> {
    let log_directory = logs.join(name);
    std::fs::create_dir_all(&log_directory)?;
    let sandbox = SandboxConfig {
        name: name.to_owned(),
        namespace: "bench".to_owned(),
        uid: name.to_owned(),
        log_directory: log_directory.display().to_string(),
        ..SandboxConfig::default()
    };
    let container = ContainerConfig {
        name: "main".to_owned(),
        image: image.to_owned(),
        command: COMMAND.map(str::to_owned).to_vec(),
        log_path: "main.log".to_owned(),
        ..ContainerConfig::default()
    };
    let sent = Instant::now();
    let id = runtime.run_sandbox(&sandbox).await?;
    let started = async {
        let container = runtime.create_container(&id, &container, &sandbox).await?;
        runtime.start_container(&container).await
    };
    let result = started.await.map(|()| sent.elapsed());
    // The node's kubelet ends what it does not know, and may be at it already.
    let _ = runtime.stop_sandbox(&id).await;
    let _ = runtime.remove_sandbox(&id).await;
    Ok(result?)
}
