//! What the node, its pods, its containers and their volumes use: `/stats/summary`, `/metrics/resource`, and a part of
//! `/metrics`.
//!
//! In: the runtime's figures of containers, the cgroups' of pods and of the node. Out: the two forms, made purely of one
//! [`Usage`].
//!
//! Rules: upstream `kubelet/pkg/apis/stats/v1alpha1` and `pkg/kubelet/metrics/collectors/resource_metrics.go`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::cgroups::{Tree, Used};
use super::machine::Machine;
use super::pleg::Snapshot;
use super::pod::time_of;
use super::runtime::ContainerUsage;
use super::volumes::fullness::{Amounts, Fullness, OfClaim};
use crate::util::clock::rfc3339;
use crate::util::order::Arrange;
use crate::util::prometheus;

/// Where cgroups are mounted when orch makes none itself.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Rates are over at least so long: shorter ones say nothing.
const LEAST_SPAN_NANOS: i128 = 1_000_000_000;

/// Everything at one moment.
pub(super) struct Usage {
    node: String,
    now: Timestamp,
    machine: Machine,
    /// CPU time of the node, nanoseconds.
    cpu_nanos: u64,
    pods: Vec<PodUsage>,
    /// Behind claims; none where nobody asked.
    volumes: Vec<OfClaim>,
}

struct PodUsage {
    namespace: String,
    name: String,
    uid: String,
    started: Option<Timestamp>,
    used: Used,
    containers: Vec<Container>,
}

struct Container {
    name: String,
    started: Option<Timestamp>,
    used: Used,
    disk_bytes: u64,
}

impl Usage {
    /// Puts together what is known of `latest`; what has no figures is left out.
    pub(super) fn of(
        node: &str,
        data_dir: &Path,
        tree: Option<&Tree>,
        latest: &Snapshot,
        containers: &[ContainerUsage],
        now: Timestamp,
    ) -> Self {
        let by_id: HashMap<&str, &ContainerUsage> = containers.iter().map(|u| (u.id.as_str(), u)).collect();
        let mut pods = Vec::new();
        for (uid, pod) in &latest.pods {
            let Some(sandbox) = pod.sandboxes.first() else { continue };
            let found = pod.containers.iter().filter_map(|c| Some((c, by_id.get(c.id.as_str())?)));
            let containers: Vec<Container> = found
                .map(|(c, u)| Container {
                    name: c.name.clone(),
                    started: time_of(c.started_at),
                    used: Used { cpu_nanos: u.cpu_nanos, memory: u.memory_working_set },
                    disk_bytes: u.disk_bytes,
                })
                .collect();
            let sum = |of: fn(&Used) -> u64| containers.iter().map(|c| of(&c.used)).sum();
            let used = tree.and_then(|t| t.used_by_pod(uid));
            let used = used.unwrap_or_else(|| Used { cpu_nanos: sum(|u| u.cpu_nanos), memory: sum(|u| u.memory) });
            pods.push(PodUsage {
                namespace: sandbox.namespace.clone(),
                name: sandbox.name.clone(),
                uid: uid.clone(),
                started: time_of(sandbox.created_at),
                used,
                containers,
            });
        }
        pods.arrange_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let whole = Tree::at(CGROUPS);
        let cpu_nanos = tree.unwrap_or(&whole).cpu_of_all().or_else(super::machine::cpu_nanos).unwrap_or(0);
        Self { node: node.to_owned(), now, machine: Machine::read(data_dir), cpu_nanos, pods, volumes: Vec::new() }
    }

    /// With how full the volumes are.
    pub(super) fn with(mut self, volumes: Vec<OfClaim>) -> Self {
        self.volumes = volumes;
        self
    }

    fn node_memory(&self) -> u64 {
        self.machine.memory.saturating_sub(self.machine.memory_available)
    }

    /// `/stats/summary`.
    pub(super) fn summary(&self, rates: &Rates) -> Value {
        let now = rfc3339(self.now);
        let cpu = |key: &str, nanos: u64| {
            let mut cpu = json!({"time": now, "usageCoreNanoSeconds": nanos});
            if let Some(rate) = rates.per_second(key, self.now, nanos) {
                cpu["usageNanoCores"] = rate.into();
            }
            cpu
        };
        let memory = |bytes: u64| json!({"time": now, "workingSetBytes": bytes});
        let pods: Vec<Value> = self
            .pods
            .iter()
            .map(|p| {
                let containers: Vec<Value> = p
                    .containers
                    .iter()
                    .map(|c| {
                        json!({"name": c.name, "startTime": c.started.map(rfc3339),
                            "cpu": cpu(&format!("{}/{}", p.uid, c.name), c.used.cpu_nanos),
                            "memory": memory(c.used.memory), "rootfs": {"time": now, "usedBytes": c.disk_bytes}})
                    })
                    .collect();
                let mut pod = json!({"podRef": {"name": p.name, "namespace": p.namespace, "uid": p.uid},
                    "startTime": p.started.map(rfc3339), "containers": containers,
                    "cpu": cpu(&p.uid, p.used.cpu_nanos), "memory": memory(p.used.memory)});
                let volumes: Vec<Value> =
                    self.volumes.iter().filter(|v| v.uid == p.uid).map(|v| volume(v, &now)).collect();
                if !volumes.is_empty() {
                    pod["volume"] = volumes.into();
                }
                pod
            })
            .collect();
        let m = &self.machine;
        let summary = json!({"node": {"nodeName": self.node, "cpu": cpu("", self.cpu_nanos),
            "memory": {"time": now, "availableBytes": m.memory_available, "workingSetBytes": self.node_memory()},
            "fs": {"time": now, "availableBytes": m.disk_available, "capacityBytes": m.disk,
                "usedBytes": m.disk.saturating_sub(m.disk_available)}}, "pods": pods});
        rates.forget_before(self.now);
        summary
    }

    /// `/metrics/resource`, in Prometheus' text form.
    pub(super) fn resource(&self) -> String {
        let (mut out, at) = (String::new(), self.now.as_millisecond());
        let mut family = |name: &str, kind: &str, help: &str, samples: &mut dyn Iterator<Item = (String, String)>| {
            let rows = samples.map(|(labels, value)| (labels, format!("{value} {at}")));
            prometheus::family(&mut out, name, kind, &format!("[STABLE] {help}"), rows);
        };
        let of_pod = |p: &PodUsage| format!("{{namespace=\"{}\",pod=\"{}\"}}", p.namespace, p.name);
        let containers = || {
            self.pods.iter().flat_map(|p| p.containers.iter().map(move |c| (p, c))).map(|(p, c)| {
                (format!("{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}}", c.name, p.namespace, p.name), c)
            })
        };
        family(
            "container_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the container in core-seconds",
            &mut containers().map(|(l, c)| (l, seconds(c.used.cpu_nanos))),
        );
        family(
            "container_memory_working_set_bytes",
            "gauge",
            "Current working set of the container in bytes",
            &mut containers().map(|(l, c)| (l, c.used.memory.to_string())),
        );
        family(
            "container_start_time_seconds",
            "gauge",
            "Start time of the container since unix epoch in seconds",
            &mut containers().filter_map(|(l, c)| {
                let nanos = u64::try_from(c.started?.as_nanosecond()).ok()?;
                Some((l, seconds(nanos)))
            }),
        );
        family(
            "node_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the node in core-seconds",
            &mut [(String::new(), seconds(self.cpu_nanos))].into_iter(),
        );
        family(
            "node_memory_working_set_bytes",
            "gauge",
            "Current working set of the node in bytes",
            &mut [(String::new(), self.node_memory().to_string())].into_iter(),
        );
        family(
            "pod_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the pod in core-seconds",
            &mut self.pods.iter().map(|p| (of_pod(p), seconds(p.used.cpu_nanos))),
        );
        family(
            "pod_memory_working_set_bytes",
            "gauge",
            "Current working set of the pod in bytes",
            &mut self.pods.iter().map(|p| (of_pod(p), p.used.memory.to_string())),
        );
        let help = "1 if there was an error while getting container metrics, 0 otherwise";
        family("resource_scrape_error", "gauge", help, &mut [(String::new(), "0".to_owned())].into_iter());
        out
    }
}

/// A volume of a summary.
fn volume(of: &OfClaim, now: &str) -> Value {
    let mut out = json!({"time": now, "name": of.volume, "pvcRef": {"name": of.claim, "namespace": of.namespace}});
    for (amounts, names) in [
        (of.fullness.bytes, ["capacityBytes", "availableBytes", "usedBytes"]),
        (of.fullness.inodes, ["inodes", "inodesFree", "inodesUsed"]),
    ] {
        let Some(Amounts { total, available, used }) = amounts else { continue };
        for (name, value) in names.into_iter().zip([total, available, used]) {
            out[name] = value.into();
        }
    }
    if let Some(abnormal) = of.fullness.abnormal {
        out["volumeHealthStats"] = json!({"abnormal": abnormal});
    }
    out
}

/// `kubelet_volume_stats_…` of `/metrics`, each claim once, however many pods have it. Upstream:
/// `pkg/kubelet/metrics/collectors/volume_stats.go`.
pub(super) fn volume_metrics(out: &mut String, all: &[OfClaim]) {
    let claims: BTreeMap<(&str, &str), Fullness> =
        all.iter().map(|v| ((&*v.namespace, &*v.claim), v.fullness)).collect();
    let mut family = |name: &str, help: &str, of: &dyn Fn(&Fullness) -> Option<u64>| {
        let labels = |(ns, claim): &(&str, &str)| format!("{{namespace=\"{ns}\",persistentvolumeclaim=\"{claim}\"}}");
        let rows: Vec<_> = claims.iter().filter_map(|(key, f)| Some((labels(key), of(f)?))).collect();
        if !rows.is_empty() {
            prometheus::family(out, &format!("kubelet_volume_stats_{name}"), "gauge", help, rows);
        }
    };
    family("capacity_bytes", "[ALPHA] Capacity in bytes of the volume", &|f| Some(f.bytes?.total));
    family("available_bytes", "[ALPHA] Number of available bytes in the volume", &|f| Some(f.bytes?.available));
    family("used_bytes", "[ALPHA] Number of used bytes in the volume", &|f| Some(f.bytes?.used));
    family("inodes", "[ALPHA] Maximum number of inodes in the volume", &|f| Some(f.inodes?.total));
    family("inodes_free", "[ALPHA] Number of free inodes in the volume", &|f| Some(f.inodes?.available));
    family("inodes_used", "[ALPHA] Number of used inodes in the volume", &|f| Some(f.inodes?.used));
    let help = "[ALPHA] Abnormal volume health status: 1 is unhealthy, 0 is healthy";
    family("health_status_abnormal", help, &|f| f.abnormal.map(u64::from));
}

/// Whole and fractional seconds, exactly.
fn seconds(nanos: u64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// CPU time that was seen last, for rates. Holds what the last summary named, and nothing else.
#[derive(Default)]
pub(super) struct Rates(Mutex<HashMap<String, Seen>>);

struct Seen {
    at: Timestamp,
    nanos: u64,
    rate: Option<u64>,
    named: Timestamp,
}

impl Rates {
    /// Nanoseconds a second since the last look; none at the first one.
    fn per_second(&self, key: &str, now: Timestamp, nanos: u64) -> Option<u64> {
        let mut all = self.0.lock();
        let Some(seen) = all.get_mut(key) else {
            all.insert(key.to_owned(), Seen { at: now, nanos, rate: None, named: now });
            return None;
        };
        seen.named = now;
        let span = now.as_nanosecond() - seen.at.as_nanosecond();
        if span < LEAST_SPAN_NANOS {
            return seen.rate;
        }
        // A container that was started again begins from nothing.
        let used = i128::from(nanos.checked_sub(seen.nanos).unwrap_or(nanos));
        seen.rate = u64::try_from(used * 1_000_000_000 / span).ok();
        (seen.at, seen.nanos) = (now, nanos);
        seen.rate
    }

    fn forget_before(&self, now: Timestamp) {
        self.0.lock().retain(|_, seen| seen.named >= now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn usage(second: i64, cpu: u64) -> Usage {
        let used = Used { cpu_nanos: cpu, memory: 4096 };
        let container = Container { name: "c".into(), started: Some(at(5)), used, disk_bytes: 7 };
        let pod = PodUsage {
            namespace: "n".into(),
            name: "p".into(),
            uid: "u".into(),
            started: Some(at(4)),
            used,
            containers: vec![container],
        };
        let machine = Machine { memory: 100, memory_available: 40, disk: 10, disk_available: 4, ..Machine::default() };
        Usage { node: "box".into(), now: at(second), machine, cpu_nanos: 2 * cpu, pods: vec![pod], volumes: vec![] }
    }

    #[test]
    fn the_resource_metrics_are_upstreams() {
        let text = usage(10, 1_500_000_000).resource();
        let samples: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                r#"container_cpu_usage_seconds_total{container="c",namespace="n",pod="p"} 1.500000000 10000"#,
                r#"container_memory_working_set_bytes{container="c",namespace="n",pod="p"} 4096 10000"#,
                r#"container_start_time_seconds{container="c",namespace="n",pod="p"} 5.000000000 10000"#,
                "node_cpu_usage_seconds_total 3.000000000 10000",
                "node_memory_working_set_bytes 60 10000",
                r#"pod_cpu_usage_seconds_total{namespace="n",pod="p"} 1.500000000 10000"#,
                r#"pod_memory_working_set_bytes{namespace="n",pod="p"} 4096 10000"#,
                "resource_scrape_error 0 10000",
            ]
        );
    }

    fn of_claim(uid: &str, fullness: Fullness) -> OfClaim {
        let [uid, volume, namespace, claim] = [uid, "data", "n", "c"].map(str::to_owned);
        OfClaim { uid, volume, namespace, claim, fullness }
    }

    #[test]
    fn volumes_behind_claims_are_told_of() {
        let bytes = Some(Amounts { total: 10, available: 3, used: 6 });
        let told = Fullness { bytes, inodes: None, abnormal: Some(true) };
        let volumes = vec![of_claim("u", told), of_claim("other", told)];
        let mut text = String::new();
        volume_metrics(&mut text, &volumes);
        let samples: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
        let of = |name: &str, n: u64| {
            format!("kubelet_volume_stats_{name}{{namespace=\"n\",persistentvolumeclaim=\"c\"}} {n}")
        };
        let want =
            [of("capacity_bytes", 10), of("available_bytes", 3), of("used_bytes", 6), of("health_status_abnormal", 1)];
        assert_eq!(samples, want, "each claim once, and nothing that nobody told");
        let summary = usage(10, 1).with(volumes).summary(&Rates::default());
        let want = json!([{"time": summary["node"]["cpu"]["time"], "name": "data", "pvcRef": {"name": "c", "namespace": "n"},
            "capacityBytes": 10, "availableBytes": 3, "usedBytes": 6, "volumeHealthStats": {"abnormal": true}}]);
        assert_eq!(summary["pods"][0]["volume"], want);
        assert!(usage(10, 1).summary(&Rates::default())["pods"][0].get("volume").is_none());
    }

    #[test]
    fn a_summary_has_rates_from_the_second_look_on() {
        let rates = Rates::default();
        let first = usage(10, 1_000_000_000).summary(&rates);
        assert_eq!(first["pods"][0]["containers"][0]["cpu"]["usageCoreNanoSeconds"], 1_000_000_000);
        assert!(first["node"]["cpu"].get("usageNanoCores").is_none());
        let second = usage(14, 2_000_000_000).summary(&rates);
        assert_eq!(second["pods"][0]["containers"][0]["cpu"]["usageNanoCores"], 250_000_000);
        assert_eq!(second["node"]["cpu"]["usageNanoCores"], 500_000_000);
        assert_eq!(second["pods"][0]["memory"]["workingSetBytes"], 4096);
        // Started again.
        let third = usage(16, 100).summary(&rates);
        assert_eq!(third["pods"][0]["cpu"]["usageNanoCores"], 50);
        let mut gone = usage(18, 100);
        gone.pods.clear();
        gone.summary(&rates);
        assert_eq!(rates.0.lock().len(), 1, "what is gone is forgotten");
    }
}
