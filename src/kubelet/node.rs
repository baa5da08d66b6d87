//! The Node object: registered once, its status kept true, its lease renewed.
//!
//! Rules: upstream `kubelet_node_status.go` and `nodestatus/setters.go`; leases by `component-helpers/apimachinery/lease`.
//!
//! **Invariant:** only what changed is written, and a heartbeat every five minutes; the lease says that the node lives.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::config::Config;
use super::csi::Csi;
use super::downward::Facts;
use super::eviction::Pressure;
use super::eviction::plan::Signal;
use super::machine::{Machine, architecture};
use super::runtime::{Image, Runtime};
use crate::api::meta::quantity::Quantity;
use crate::api::status::{ApiResult, Reason};
use crate::api::value::ValueExt;
use crate::client::{Client, Patch, res};
use crate::runtime::{Delta, Listers};
use crate::util::backoff::Backoff;
use crate::util::clock::{SharedClock, rfc3339, rfc3339_micro};
use crate::util::order::Arrange;
use crate::util::tasks::Shutdown;

/// Where node leases are.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Seconds after which a node without a renewal counts as lost.
pub const LEASE_SECONDS: i64 = 40;
/// Between renewals: a quarter of that.
pub const RENEW: Duration = Duration::from_secs(10);
/// Between looks at the state of a node that is Ready.
const LOOK: Duration = Duration::from_secs(10);
/// Between looks at the state of one that is not: pods wait for it.
const LOOK_UNREADY: Duration = Duration::from_millis(200);
/// Between heartbeats of a status that does not change.
const REPORT_SECONDS: i64 = 300;
/// Images told at most. Upstream: `nodeStatusMaxImages`.
const MAX_IMAGES: usize = 50;
/// Names told of one image at most. Upstream: `maxNamesPerImageInNodeStatus`.
const MAX_IMAGE_NAMES: usize = 5;
/// The Kubernetes version that the node speaks.
const VERSION: &str = "v1.36.0";

/// What a Node's status is made of.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Configuration.
    pub config: &'a Config,
    /// The machine.
    pub machine: &'a Machine,
    /// The node's addresses, the main one first.
    pub ips: &'a [String],
    /// Name and version of the runtime, as `containerd://1.6.20`; empty when it is not known.
    pub runtime: &'a str,
    /// Why the node is not ready.
    pub not_ready: Option<&'a str>,
    /// What it runs short of.
    pub pressures: &'a [Pressure],
    /// Volumes that it uses and that are attached to it.
    pub in_use: &'a BTreeSet<String>,
    /// What the runtime has.
    pub images: &'a [Image],
    /// The status as the API has it.
    pub old: &'a Value,
    /// The clock.
    pub now: Timestamp,
}

/// The labels that upstream's kubelet gives its node, and those asked for.
fn labels(config: &Config) -> Value {
    let mut out = json!({
        "beta.kubernetes.io/arch": architecture(), "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": architecture(), "kubernetes.io/hostname": config.node_name, "kubernetes.io/os": "linux",
    });
    for (key, value) in &config.node_labels {
        out[key.as_str()] = value.as_str().into();
    }
    out
}

fn taint(text: &str) -> Option<Value> {
    let (key, effect) = text.rsplit_once(':')?;
    Some(match key.split_once('=') {
        Some((key, value)) => json!({"key": key, "value": value, "effect": effect}),
        None => json!({"key": key, "effect": effect}),
    })
}

/// The Node to register.
pub fn object(input: Input<'_>) -> Value {
    let taints: Vec<Value> = input.config.node_taints.iter().filter_map(|t| taint(t)).collect();
    let mut spec = json!({});
    if !taints.is_empty() {
        spec["taints"] = taints.into();
    }
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": input.config.node_name, "labels": labels(input.config),
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
        "spec": spec, "status": status(input),
    })
}

/// Bytes of memory and disk that pods may have: all but what eviction keeps free.
fn usable(config: &Config, machine: &Machine) -> (u64, u64) {
    let left = |signal, all: u64| all.saturating_sub(config.eviction.reserve(signal, all));
    (left(Signal::MemoryAvailable, machine.memory), left(Signal::NodefsAvailable, machine.disk))
}

/// What a node with this machine can give to pods.
pub fn allocatable(config: &Config, machine: &Machine) -> Facts {
    let (memory, _) = usable(config, machine);
    Facts {
        cpu_milli: i64::try_from(machine.cpus * 1000).unwrap_or(i64::MAX),
        memory: i64::try_from(memory).unwrap_or(i64::MAX),
        ..Facts::default()
    }
}

/// The Node's status.
pub fn status(input: Input<'_>) -> Value {
    let Input { config, machine, .. } = input;
    let kib = |bytes: u64| format!("{}Ki", bytes / 1024);
    let cpu = Quantity::units(i64::try_from(machine.cpus).unwrap_or(1)).to_string();
    let resources = |memory: u64, disk: String| {
        json!({"cpu": cpu, "ephemeral-storage": disk, "hugepages-1Gi": "0", "hugepages-2Mi": "0", "memory": kib(memory),
            "pods": config.max_pods.to_string()})
    };
    let mut addresses: Vec<Value> = input.ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    addresses.push(json!({"type": "Hostname", "address": config.node_name}));
    let (usable_memory, usable_disk) = usable(config, machine);
    let mut out = json!({
        "addresses": addresses,
        "capacity": resources(machine.memory, kib(machine.disk)),
        "allocatable": resources(usable_memory, usable_disk.to_string()),
        "conditions": conditions(input),
        "images": images(input.images),
        "nodeInfo": {
            "machineID": machine.machine_id, "systemUUID": machine.system_uuid, "bootID": machine.boot_id,
            "kernelVersion": machine.kernel, "osImage": machine.os_image, "containerRuntimeVersion": input.runtime,
            "kubeletVersion": VERSION, "kubeProxyVersion": "", "operatingSystem": "linux",
            "architecture": architecture(),
        },
    });
    if !input.in_use.is_empty() {
        out["volumesInUse"] = json!(input.in_use);
    }
    if config.port != 0 {
        out["daemonEndpoints"] = json!({"kubeletEndpoint": {"Port": config.port}});
    }
    out
}

/// The largest images, with digests before tags.
fn images(all: &[Image]) -> Vec<Value> {
    let mut all: Vec<&Image> = all.iter().collect();
    all.arrange_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let names = |i: &Image| i.digests.iter().chain(&i.tags).take(MAX_IMAGE_NAMES).cloned().collect::<Vec<_>>();
    all.into_iter().take(MAX_IMAGES).map(|i| json!({"names": names(i), "sizeBytes": i.size})).collect()
}

fn conditions(input: Input<'_>) -> Vec<Value> {
    let short_of = |what: Pressure, yes: (&'static str, &str), no: (&'static str, &str)| {
        let short = input.pressures.contains(&what);
        let (reason, message) = if short { yes } else { no };
        (what.condition(), (short, reason, message.to_owned()))
    };
    let ready = match input.not_ready {
        None => (true, "KubeletReady", "kubelet is posting ready status".to_owned()),
        Some(why) => (false, "KubeletNotReady", why.to_owned()),
    };
    [
        short_of(
            Pressure::Memory,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        short_of(
            Pressure::Disk,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        short_of(
            Pressure::Pid,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        ("Ready", ready),
    ]
    .into_iter()
    .map(|(kind, (yes, reason, message))| {
        let word = if yes { "True" } else { "False" };
        let old = input.old.items_at("/conditions").iter().find(|c| c.str_at("/type") == Some(kind));
        let since = old.filter(|c| c.str_at("/status") == Some(word)).and_then(|c| c.str_at("/lastTransitionTime"));
        json!({"type": kind, "status": word, "lastHeartbeatTime": rfc3339(input.now),
            "lastTransitionTime": since.map_or_else(|| rfc3339(input.now), str::to_owned),
            "reason": reason, "message": message})
    })
    .collect()
}

/// The patch that makes `old` say `new`; none when nothing but heartbeats differ and the last one is young.
pub fn patch(old: &Value, new: &Value, now: Timestamp) -> Option<Value> {
    let mut out = serde_json::Map::new();
    for key in ["addresses", "capacity", "allocatable", "images", "nodeInfo", "daemonEndpoints", "volumesInUse"] {
        let (before, after) = (old.get(key), new.get(key));
        let same = match key {
            // The server adds what newer fields it knows.
            "nodeInfo" | "capacity" | "allocatable" => after.is_none_or(|a| contains(before, a)),
            // An empty list is not kept.
            "images" => before.is_none() && after == Some(&json!([])) || before == after,
            _ => before == after,
        };
        if !same {
            out.insert(key.into(), after.cloned().unwrap_or(Value::Null));
        }
    }
    if let Some(list) = out.get_mut("addresses").and_then(Value::as_array_mut) {
        list.push(json!({"$patch": "replace"}));
    }
    let known = |c: &Value| old.items_at("/conditions").iter().find(|o| o.get("type") == c.get("type")).cloned();
    let news = |c: &Value| {
        known(c).is_none_or(|o| {
            let late = o
                .str_at("/lastHeartbeatTime")
                .and_then(|t| t.parse::<Timestamp>().ok())
                .is_none_or(|t| now.duration_since(t).as_secs() >= REPORT_SECONDS);
            late || ["status", "reason", "message"].iter().any(|f| o.get(f) != c.get(f))
        })
    };
    if new.items_at("/conditions").iter().any(news) {
        out.insert("conditions".into(), new["conditions"].clone());
    }
    (!out.is_empty()).then(|| json!({ "status": out }))
}

fn revision(node: &Value) -> u64 {
    node.str_at("/metadata/resourceVersion").and_then(|r| r.parse().ok()).unwrap_or(0)
}

fn contains(before: Option<&Value>, after: &Value) -> bool {
    let Some(before) = before else { return false };
    after
        .as_object()
        .into_iter()
        .flatten()
        .all(|(k, v)| before.get(k).is_some_and(|b| b == v) || v == "" && before.get(k).is_none())
}

/// Signs of life of the node's agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// When it last went round, with whatever end: a server that is away is no illness of the node's.
    pub last: tokio::time::Instant,
    /// What this process last told of the node.
    pub ready: bool,
}

impl Pulse {
    /// That of one that has just begun.
    pub fn new() -> watch::Sender<Self> {
        watch::Sender::new(Self { last: tokio::time::Instant::now(), ready: false })
    }
}

/// The node's agent towards the API.
pub struct Node {
    /// Configuration.
    pub config: Config,
    /// The API.
    pub client: Client,
    /// Asked whether it works.
    pub runtime: Arc<dyn Runtime>,
    /// The clock.
    pub clock: SharedClock,
    /// Signs of life.
    pub pulse: watch::Sender<Pulse>,
    /// The node's addresses, the main one first; a change is reported at once.
    pub ips: watch::Receiver<Vec<String>>,
    /// What the node runs short of; told at once: until then pods keep coming.
    pub pressure: watch::Receiver<Vec<Pressure>>,
    /// Volumes that it uses; told at once: nothing is mounted before.
    pub csi: Arc<Csi>,
}

impl Node {
    async fn input<T>(&self, old: &Value, in_use: &BTreeSet<String>, with: impl FnOnce(Input<'_>) -> T) -> T {
        let machine = Machine::read(&self.config.data_dir);
        let version = self.runtime.version().await.unwrap_or_default();
        let images = self.runtime.images().await.unwrap_or_default();
        let ips = self.ips.borrow().clone();
        let not_ready = match self.runtime.not_ready().await {
            Ok(why) => why,
            Err(e) => Some(format!("container runtime is down: {e}")),
        };
        with(Input {
            config: &self.config,
            machine: &machine,
            ips: &ips,
            runtime: &version,
            not_ready: not_ready.as_deref(),
            pressures: &self.pressure.borrow().clone(),
            in_use,
            images: &images,
            old,
            now: self.clock.now(),
        })
    }

    /// Registers the node, or takes over the one that is there: its labels are brought up to date, the rest stays.
    pub async fn register(&self) -> ApiResult<()> {
        let in_use = self.csi.about_to_say();
        let node = self.input(&Value::Null, &in_use, object).await;
        match self.client.create(&res::NODES, "", &node).await {
            Ok(made) => {
                self.csi.has_said(in_use, revision(&made));
                tracing::info!(node = self.config.node_name, "registered");
                Ok(())
            }
            Err(e) if e.reason == Reason::AlreadyExists => {
                let labels = json!({"metadata": {"labels": labels(&self.config)}});
                let patch = Patch::Strategic(&labels);
                self.client.patch(&res::NODES, "", &self.config.node_name, None, patch).await?;
                self.report().await.map(drop)
            }
            Err(e) => Err(e),
        }
    }

    /// Writes the status where it is news; gives whether it says Ready. A node that somebody deleted is registered anew.
    pub async fn report(&self) -> ApiResult<bool> {
        let in_use = self.csi.about_to_say();
        let node = match self.client.get(&res::NODES, "", &self.config.node_name).await {
            Err(e) if e.reason == Reason::NotFound => {
                let node = self.input(&Value::Null, &in_use, object).await;
                let made = self.client.create(&res::NODES, "", &node).await?;
                self.csi.has_said(in_use, revision(&made));
                return Ok(false);
            }
            other => other?,
        };
        let old = node.get("status").cloned().unwrap_or_default();
        let (ready, new) = self.input(&old, &in_use, |input| (input.not_ready.is_none(), status(input))).await;
        let Some(body) = patch(&old, &new, self.clock.now()) else {
            self.csi.has_said(in_use, revision(&node));
            return Ok(ready);
        };
        let patch = Patch::Strategic(&body);
        let written = self.client.patch(&res::NODES, "", &self.config.node_name, Some("status"), patch).await?;
        self.csi.has_said(in_use, revision(&written));
        Ok(ready)
    }

    /// Renews the lease, or makes it.
    pub async fn renew(&self) -> ApiResult<()> {
        let name = &self.config.node_name;
        let now = rfc3339_micro(self.clock.now());
        let body = json!({"spec": {"renewTime": now}});
        match self.client.patch(&res::LEASES, LEASE_NAMESPACE, name, None, Patch::Merge(&body)).await {
            Err(e) if e.reason == Reason::NotFound => {}
            other => return other.map(drop),
        }
        let node = self.client.get(&res::NODES, "", name).await?;
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "namespace": LEASE_NAMESPACE, "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.str_at("/metadata/uid").unwrap_or_default()}]},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now},
        });
        self.client.create(&res::LEASES, LEASE_NAMESPACE, &lease).await.map(drop)
    }

    /// A round of the loops below is over, with whatever end.
    pub(super) fn beat(&self, ready: Option<bool>) {
        self.pulse.send_modify(|pulse| {
            pulse.last = tokio::time::Instant::now();
            pulse.ready = ready.unwrap_or(pulse.ready);
        });
    }

    /// Registers, then reports and renews until the shutdown.
    pub async fn run(&self, shutdown: &Shutdown) {
        let mut failures = 0;
        while let Some(Err(e)) = shutdown.or(self.register()).await {
            failures += 1;
            tracing::warn!(node = self.config.node_name, "cannot register, trying again: {e}");
            self.beat(None);
            shutdown.or(tokio::time::sleep(Backoff::RESTART.delay(failures))).await;
        }
        let renewing = async {
            loop {
                if let Err(e) = self.renew().await {
                    tracing::warn!(node = self.config.node_name, "cannot renew the node's lease: {e}");
                }
                self.beat(None);
                tokio::time::sleep(RENEW).await;
            }
        };
        let reporting = async {
            let (mut pause, mut ips, mut pressure) = (LOOK_UNREADY, self.ips.clone(), self.pressure.clone());
            let mut in_use = self.csi.in_use();
            loop {
                // An error means that nobody is left to tell of changes.
                let news = async {
                    tokio::select! {
                        Ok(()) = ips.changed() => {}
                        Ok(()) = pressure.changed() => {}
                        Ok(()) = in_use.changed() => {}
                        else => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = news => {}
                }
                let reported = self.report().await;
                self.beat(reported.as_ref().ok().copied());
                pause = match reported {
                    Ok(false) => LOOK_UNREADY,
                    Ok(true) => LOOK,
                    Err(e) => {
                        tracing::warn!(node = self.config.node_name, "cannot report the node's status: {e}");
                        LOOK
                    }
                };
            }
        };
        shutdown.or(async { tokio::join!(renewing, reporting) }).await;
    }
}

/// Follows the Node's pod ranges: `spec.podCIDRs`, once the controller gave them.
pub async fn follow_pod_cidrs(
    name: &str,
    listers: &dyn Listers,
    out: &watch::Sender<Vec<String>>,
    shutdown: &Shutdown,
) {
    let mut deltas = listers.lister("", "nodes").deltas();
    while let Some(Some(delta)) = shutdown.or(deltas.next()).await {
        let Delta::Upsert { new, .. } = delta else { continue };
        if new.meta.name != name {
            continue;
        }
        let node = new.value();
        let mut cidrs: Vec<String> =
            node.items_at("/spec/podCIDRs").iter().filter_map(|c| c.as_str().map(str::to_owned)).collect();
        if cidrs.is_empty() {
            cidrs.extend(node.str_at("/spec/podCIDR").map(str::to_owned));
        }
        out.send_if_modified(|old| {
            let changed = *old != cidrs;
            *old = cidrs;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::fake::FakeRuntime;
    use crate::runtime::fake::Cluster;

    fn machine() -> Machine {
        Machine {
            cpus: 2,
            memory: 4 << 30,
            memory_available: 1 << 30,
            disk: 100 << 30,
            disk_available: 50 << 30,
            ..Machine::default()
        }
    }

    fn make(machine: &Machine, not_ready: Option<&str>, old: &Value, second: i64) -> Value {
        made(machine, not_ready, &[], old, second)
    }

    fn made(machine: &Machine, not_ready: Option<&str>, pressures: &[Pressure], old: &Value, second: i64) -> Value {
        let config = Config { node_labels: vec![("a".into(), "b".into())], ..Config::new("n", "/") };
        let now = Timestamp::from_second(second).unwrap();
        let ips = ["192.0.2.1".to_owned()];
        object(Input {
            config: &config,
            machine,
            ips: &ips,
            runtime: "containerd://1.7",
            not_ready,
            pressures,
            in_use: &BTreeSet::from(["kubernetes.io/csi/d^h".to_owned()]),
            images: &[],
            old,
            now,
        })
    }

    #[test]
    fn a_node_says_what_it_has() {
        let node = make(&machine(), None, &Value::Null, 0);
        assert_eq!(node.str_at("/status/capacity/memory"), Some("4194304Ki"));
        assert_eq!(node.str_at("/status/allocatable/memory"), Some("4091904Ki"));
        assert_eq!(node.str_at("/status/conditions/3/reason"), Some("KubeletReady"));
        assert_eq!(node.str_at("/metadata/labels/kubernetes.io~1hostname"), Some("n"));
        assert_eq!(node.str_at("/metadata/labels/a"), Some("b"));
        assert_eq!(node.str_at("/status/addresses/0/address"), Some("192.0.2.1"));
        assert_eq!(node.str_at("/status/volumesInUse/0"), Some("kubernetes.io/csi/d^h"));
    }

    #[test]
    fn the_largest_images_are_told() {
        let image = |id: usize, size| Image {
            id: id.to_string(),
            tags: (0..4).map(|n| format!("t{id}:{n}")).collect(),
            digests: vec![format!("t{id}@1"), format!("t{id}@2")],
            size,
            ..Image::default()
        };
        let all: Vec<Image> = (0..60).map(|n| image(n, n as u64)).collect();
        let told = images(&all);
        assert_eq!(told.len(), 50);
        let names = ["t59@1", "t59@2", "t59:0", "t59:1", "t59:2"];
        assert_eq!(told[0], json!({"names": names, "sizeBytes": 59}));
    }

    #[test]
    fn pressure_and_failures_are_told() {
        let node = made(&machine(), Some("cni"), &[Pressure::Memory, Pressure::Disk], &Value::Null, 0);
        let words: Vec<_> = node.items_at("/status/conditions").iter().filter_map(|c| c.str_at("/status")).collect();
        assert_eq!(words, ["True", "True", "False", "False"]);
    }

    #[test]
    fn only_news_are_written() {
        let old = make(&machine(), None, &Value::Null, 0)["status"].clone();
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        let same = make(&machine(), None, &old, 60)["status"].clone();
        assert_eq!(patch(&old, &same, at(60)), None);
        assert!(patch(&old, &same, at(301)).is_some(), "a heartbeat is due");
        let worse = make(&machine(), Some("cni"), &old, 60)["status"].clone();
        let p = patch(&old, &worse, at(60)).unwrap();
        assert_eq!(p.pointer("/status/capacity"), None);
        assert_eq!(p.str_at("/status/conditions/3/lastTransitionTime"), Some("1970-01-01T00:01:00Z"));
        assert_eq!(p.str_at("/status/conditions/0/lastTransitionTime"), Some("1970-01-01T00:00:00Z"));
    }

    #[test]
    fn taints_are_read() {
        assert_eq!(taint("a=b:NoSchedule").unwrap(), json!({"key": "a", "value": "b", "effect": "NoSchedule"}));
        assert_eq!(taint("a:NoExecute").unwrap(), json!({"key": "a", "effect": "NoExecute"}));
        assert_eq!(taint("a"), None);
    }

    #[tokio::test]
    async fn registers_and_renews() {
        let cluster = Cluster::new();
        let dir = tempfile::tempdir().unwrap();
        let node = Node {
            config: Config::for_tests(dir.path()),
            client: cluster.client(),
            runtime: Arc::new(FakeRuntime::default()),
            clock: cluster.clock.clone(),
            pulse: Pulse::new(),
            ips: watch::Sender::new(vec!["192.0.2.1".to_owned()]).subscribe(),
            pressure: watch::channel(Vec::new()).1,
            csi: Arc::new(Csi::new(dir.path().into(), dir.path().into(), "node", cluster.client())),
        };
        node.register().await.unwrap();
        node.register().await.unwrap();
        node.renew().await.unwrap();
        let first = cluster.get(&res::LEASES, LEASE_NAMESPACE, "node").unwrap();
        cluster.clock.advance(10);
        node.renew().await.unwrap();
        let second = cluster.get(&res::LEASES, LEASE_NAMESPACE, "node").unwrap();
        assert_eq!(first.int_at("/spec/leaseDurationSeconds"), Some(40));
        assert_ne!(first.str_at("/spec/renewTime"), second.str_at("/spec/renewTime"));
        assert!(cluster.get(&res::NODES, "", "node").is_some());
    }
}
