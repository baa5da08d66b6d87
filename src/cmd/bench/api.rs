//! The workloads on an API server; those of DESIGN's budgets.

use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use rand::Rng;
use serde_json::{Value, json};

use super::load::{Taken, Until, drive};
use super::peak::Peak;
use super::target::{Call, Connection, Protocol, Target};
use super::{Api, Workload, watch};
use crate::api::value::ValueExt;
use crate::util::clock::{Clock, SystemClock, rfc3339_micro};

/// Bytes of a ConfigMap's value.
pub(super) const PAYLOAD_BYTES: usize = 1024;
/// Leases that patches go to.
const LEASES: usize = 256;
/// Variables of a pod's container: they make it 7 KiB when stored.
const POD_VARIABLES: usize = 40;
/// Lists that are measured.
const LISTS: usize = 10;
/// Names that gets choose from.
const NAMES: usize = 5000;

/// A ConfigMap of 1 KiB.
pub(super) fn config_map(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": "bench"}},
        "data": {"payload": "x".repeat(PAYLOAD_BYTES)},
    })
}

/// A pod that stays where it is: its scheduling gate is never taken away.
fn pod(name: &str, shard: &str) -> Value {
    let variable =
        |i| json!({"name": format!("VARIABLE_{i:02}"), "value": format!("a value of ordinary length, {i:02}")});
    let env: Vec<Value> = (0..POD_VARIABLES).map(variable).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "bench", "shard": shard}},
        "spec": {
            "schedulingGates": [{"name": "bench/held"}], "automountServiceAccountToken": false,
            "containers": [{
                "name": "main", "image": "localhost/bench:1", "env": env,
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
            }],
        },
    })
}

/// Stand for what differs between the pods.
const NAME: &str = "<name>";
const SHARD: &str = "<shard>";

/// An object's JSON with holes: who makes a load has to cost little beside the server.
struct Template(Vec<String>);

impl Template {
    /// Of an object in which each hole stands once, as a whole text, in this order.
    fn of(object: &Value, holes: &[&str]) -> Self {
        let (mut parts, mut rest) = (Vec::new(), object.to_string());
        for hole in holes {
            let (before, after) = rest.split_once(hole).expect("the object was made with its holes");
            parts.push(before.to_owned());
            rest = after.to_owned();
        }
        parts.push(rest);
        Self(parts)
    }

    /// The object with these texts, which need no escapes.
    fn fill(&self, texts: &[&str]) -> Bytes {
        let texts = texts.iter().copied().chain([""]);
        self.0.iter().zip(texts).flat_map(|(part, text)| [part, text]).collect::<String>().into()
    }
}

/// Runs the workloads in order and prints a line for each.
pub(super) async fn run(args: Api) -> anyhow::Result<()> {
    let target = Target::of_kubeconfig(&args.kubeconfig)?;
    let protocol = if args.http2 { Protocol::Http2 } else { Protocol::Http1 };
    let mut connections = target.connect_many(args.connections as usize, protocol).await?;
    let first = &mut connections[0];
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": args.namespace}});
    first.ensure("/api/v1/namespaces", &namespace).await?;
    let core = format!("/api/v1/namespaces/{}", args.namespace);
    // Pods need it, and its controller may be slower than we are.
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    first.ensure(&format!("{core}/serviceaccounts"), &account).await?;
    // Names of this run, so that it can run again on the same server.
    let run = format!("{:x}", SystemClock.now().as_millisecond());
    let count = Until::Count(args.count as usize);
    let peak = args.server_pid.map(Peak::of).transpose()?;
    for workload in &args.workloads {
        let mut figure = match workload {
            Workload::Create => {
                let (core, run) = (core.clone(), run.clone());
                let create = move |i| Call::create(format!("{core}/configmaps"), &config_map(&format!("cm-{run}-{i}")));
                load("create", &mut connections, count, create).await?
            }
            Workload::Get => {
                let names = names(&mut connections[0], &core).await?;
                let until = Until::Elapsed(Duration::from_secs(args.seconds.into()));
                let core = core.clone();
                let get = move |_| {
                    Call::get(format!("{core}/configmaps/{}", names[rand::rng().random_range(0..names.len())]))
                };
                load("get", &mut connections, until, get).await?
            }
            Workload::Patch => {
                let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", args.namespace);
                make_leases(&mut connections[0], &leases).await?;
                load("patch", &mut connections, count, move |i| renew(&format!("{leases}/l-{}", i % LEASES))).await?
            }
            Workload::Pods => {
                let (path, run, pod) =
                    (format!("{core}/pods"), run.clone(), Template::of(&pod(NAME, SHARD), &[NAME, SHARD]));
                let create = move |i: usize| {
                    let (name, shard) = (format!("p-{run}-{i}"), (i % 100).to_string());
                    Call::post(path.clone(), pod.fill(&[&name, &shard]))
                };
                load("pods", &mut connections, count, create).await?
            }
            Workload::List => list(&mut connections[0], &format!("{core}/pods")).await?,
            Workload::Watch => watch::run(&target, &args, &core, &run).await?,
        };
        if let Some(peak) = &peak {
            figure["server_peak_mb"] = peak.megabytes()?.into();
            peak.forget()?;
        }
        println!("{figure}");
    }
    Ok(())
}

async fn load(
    name: &str,
    connections: &mut Vec<Connection>,
    until: Until,
    call: impl Fn(usize) -> Call + Send + Sync + 'static,
) -> anyhow::Result<Value> {
    let count = connections.len();
    let (back, taken) = drive(std::mem::take(connections), until, call).await?;
    *connections = back;
    let mut figure = taken.figure(name);
    figure["connections"] = count.into();
    Ok(figure)
}

/// Names of ConfigMaps that are there.
async fn names(connection: &mut Connection, core: &str) -> anyhow::Result<Vec<String>> {
    let list = connection.json(Call::get(format!("{core}/configmaps?labelSelector=app%3Dbench&limit={NAMES}"))).await?;
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: Vec<String> = items.iter().filter_map(|i| i.str_at("/metadata/name")).map(str::to_owned).collect();
    ensure!(!names.is_empty(), "there is nothing to get; let create go before");
    Ok(names)
}

async fn make_leases(connection: &mut Connection, path: &str) -> anyhow::Result<()> {
    for i in 0..LEASES {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": format!("l-{i}")}, "spec": {"holderIdentity": "bench"},
        });
        connection.ensure(path, &lease).await?;
    }
    Ok(())
}

fn renew(path: &str) -> Call {
    let now = SystemClock.now();
    Call::patch(path, &json!({"spec": {"renewTime": rfc3339_micro(now)}}))
}

/// Full lists, one after the other; the first one only warms up.
async fn list(connection: &mut Connection, path: &str) -> anyhow::Result<Value> {
    let size = connection.exchange(Call::get(path)).await?;
    let (mut each, start) = (Vec::new(), Instant::now());
    for _ in 0..LISTS {
        let sent = Instant::now();
        connection.exchange(Call::get(path)).await?;
        each.push(sent.elapsed());
    }
    let taken = Taken::new(each, start.elapsed());
    let mut figure = taken.figure("list");
    figure["bytes"] = size.into();
    Ok(figure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_gives_what_the_object_would_be() {
        let filled = Template::of(&pod(NAME, SHARD), &[NAME, SHARD]).fill(&["p-7", "7"]);
        assert_eq!(serde_json::from_slice::<Value>(&filled).unwrap(), pod("p-7", "7"));
    }
}
