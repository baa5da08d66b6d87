//! Which pods a node refuses although they are bound to it. Pure.
//!
//! Rules: upstream's admit handlers in their order: `eviction_manager.Admit`, `sysctl/allowlist.go`, `lifecycle/predicate.go`.
//! A pod that has been started here before is not judged again.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{NodeSelectorTerm, Taint, Toleration};
use serde_json::Value;

use super::cgroups::{self, Qos};
use super::eviction::{Pressure, is_critical};
use super::pod::{PodView, Role};
use super::preemption;
use super::status::{Failure, FailureKind};
use crate::api::meta::labels::Requirement;
use crate::api::meta::quantity::Quantity;
use crate::api::value::ValueExt;

/// Sysctls that no other pod feels, and the namespace each belongs to. Upstream: `safe_sysctls.go`.
const SAFE_SYSCTLS: [(&str, &str); 12] = [
    ("kernel.shm_rmid_forced", "ipc"),
    ("net.ipv4.ip_local_port_range", "net"),
    ("net.ipv4.ip_local_reserved_ports", "net"),
    ("net.ipv4.ip_unprivileged_port_start", "net"),
    ("net.ipv4.ping_group_range", "net"),
    ("net.ipv4.tcp_fin_timeout", "net"),
    ("net.ipv4.tcp_keepalive_intvl", "net"),
    ("net.ipv4.tcp_keepalive_probes", "net"),
    ("net.ipv4.tcp_keepalive_time", "net"),
    ("net.ipv4.tcp_rmem", "net"),
    ("net.ipv4.tcp_syncookies", "net"),
    ("net.ipv4.tcp_wmem", "net"),
];
const OS: &str = "linux";
const OS_LABEL: &str = "kubernetes.io/os";
const MEMORY_TAINT: &str = "node.kubernetes.io/memory-pressure";

/// What is known of the node.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// The Node object; none while it is not known, and then nothing is held against it.
    pub node: Option<Value>,
    /// What runs short.
    pub pressures: Vec<Pressure>,
}

/// Whether the pod may run beside `others`, those that run or were admitted; and which of them have to make room for it,
/// by uid.
pub fn admit(pod: &PodView, site: &Site, others: &[&PodView]) -> Result<Vec<String>, Failure> {
    let verdict = pressure(pod, &site.pressures)
        .and_then(|()| sysctls(pod))
        .and_then(|()| operating_system(pod))
        .and_then(|()| site.node.as_ref().map_or(Ok(Vec::new()), |node| predicates(pod, node, others)));
    verdict.map_err(|(reason, message)| Failure {
        reason,
        message: format!("Pod was rejected: {message}"),
        kind: FailureKind::Rejected,
    })
}

type Verdict<T = ()> = Result<T, (String, String)>;

fn refuse<T>(reason: &str, message: impl Into<String>) -> Verdict<T> {
    Err((reason.to_owned(), message.into()))
}

/// A node in need takes critical pods only, and for want of memory also those that promised what they use.
fn pressure(pod: &PodView, pressures: &[Pressure]) -> Verdict {
    if pressures.is_empty() || is_critical(pod) {
        return Ok(());
    }
    if pressures == [Pressure::Memory] {
        let taint = Taint { key: MEMORY_TAINT.into(), effect: "NoSchedule".into(), value: None, ..Taint::default() };
        if cgroups::qos(pod) != Qos::BestEffort || tolerated(pod, &taint) {
            return Ok(());
        }
    }
    let names: Vec<&str> = pressures.iter().map(|p| p.condition()).collect();
    refuse("Evicted", format!("The node had condition: [{}]. ", names.join(" ")))
}

fn sysctls(pod: &PodView) -> Verdict {
    let spec = &pod.spec;
    for sysctl in spec.security_context.iter().flat_map(|s| s.sysctls.iter().flatten()) {
        let name = dotted(&sysctl.name);
        let why = match SAFE_SYSCTLS.iter().find(|(n, _)| *n == name) {
            Some((_, "ipc")) if spec.host_ipc == Some(true) => format!("{name:?} not allowed with host ipc enabled"),
            Some((_, "net")) if pod.host_network() => format!("{name:?} not allowed with host net enabled"),
            Some(_) => continue,
            None => format!("{name:?} not allowlisted"),
        };
        return refuse("SysctlForbidden", format!("forbidden sysctl: {why}"));
    }
    Ok(())
}

/// With slashes as separators dots are part of a name.
fn dotted(name: &str) -> String {
    let by_slash = name.find(['/', '.']).is_some_and(|i| name.as_bytes()[i] == b'/');
    if !by_slash {
        return name.to_owned();
    }
    name.chars()
        .map(|c| match c {
            '/' => '.',
            '.' => '/',
            c => c,
        })
        .collect()
}

fn operating_system(pod: &PodView) -> Verdict {
    if pod.labels().get(OS_LABEL).is_some_and(|os| os != OS) {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return refuse("PodOSSelectorNodeLabelDoesNotMatch", message);
    }
    if pod.spec.os.as_ref().is_some_and(|os| os.name != OS) {
        return refuse("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS");
    }
    Ok(())
}

fn predicates(pod: &PodView, node: &Value, others: &[&PodView]) -> Verdict<Vec<String>> {
    let lacks = lacking(pod, node, others);
    if let Some(lack) = lacks.first().filter(|_| !is_critical(pod)) {
        return refuse(&format!("OutOf{}", lack.resource), lack.to_string());
    }
    place(pod, node, others)?;
    match preemption::victims(pod, others, &lacks) {
        Some(victims) => Ok(victims.into_iter().map(|v| v.uid.clone()).collect()),
        None => refuse(
            "UnexpectedAdmissionError",
            format!(
                "Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods \
                 to preempt: no set of running pods found to reclaim resources: {}",
                lacks.iter().map(Lack::to_string).collect::<Vec<_>>().join(", ")
            ),
        ),
    }
}

/// What else than resources a pod has to find on its node.
fn place(pod: &PodView, node: &Value, others: &[&PodView]) -> Verdict {
    let failed = |name: &str, why: &str| refuse(name, format!("Predicate {name} failed: {why}"));
    if !selected(pod, node) {
        return failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector");
    }
    let wanted = host_ports(pod);
    if others.iter().flat_map(|p| host_ports(p)).any(|used| wanted.iter().any(|port| clash(port, &used))) {
        return failed("NodePorts", "node(s) didn't have free ports for the requested pod ports");
    }
    let taints = node.items_at("/spec/taints").iter().filter_map(|t| serde_json::from_value::<Taint>(t.clone()).ok());
    if taints.into_iter().any(|t| t.effect == "NoExecute" && !tolerated(pod, &t)) {
        return failed("TaintToleration", "node(s) had taints that the pod didn't tolerate");
    }
    Ok(())
}

/// Whether what the pod requests is there beside what the others have; else what is not.
pub fn room(pod: &PodView, node: &Value, others: &[&PodView]) -> Result<(), String> {
    lacking(pod, node, others).first().map_or(Ok(()), |lack| Err(lack.to_string()))
}

/// A resource of which too little is left: thousandths of CPUs, whole units of the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// Its name.
    pub resource: String,
    /// What the pod asks for.
    pub requested: i64,
    /// What others have.
    pub used: i64,
    /// What there is.
    pub capacity: i64,
}

impl Lack {
    /// What would have to be free beside what is.
    pub fn missing(&self) -> i64 {
        self.requested.saturating_sub(self.capacity.saturating_sub(self.used))
    }
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { resource, requested, used, capacity } = self;
        write!(
            f,
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        )
    }
}

/// What the pod requests and the node has not, beside what the others have.
fn lacking(pod: &PodView, node: &Value, others: &[&PodView]) -> Vec<Lack> {
    let allocatable = node.get_at("/status/allocatable").and_then(Value::as_object);
    let number = |name: &str, q: Quantity| if name == "cpu" { q.milli_value() } else { q.value() };
    let mut capacities: BTreeMap<&str, i64> = allocatable
        .into_iter()
        .flatten()
        .filter_map(|(name, q)| Some((name.as_str(), number(name, Quantity::parse(q.as_str()?).ok()?))))
        .collect();
    let mut out = Vec::new();
    let lack =
        |resource: &str, requested, used, capacity| Lack { resource: resource.into(), requested, used, capacity };
    if let Some(pods) = capacities.remove("pods") {
        let used = i64::try_from(others.len()).unwrap_or(i64::MAX);
        if used >= pods {
            out.push(lack("pods", 1, used, pods));
        }
    }
    // What the node does not know of is somebody else's to judge.
    for (name, capacity) in capacities {
        let requested = cgroups::requested(pod, name);
        let used = others.iter().map(|p| cgroups::requested(p, name)).sum::<i64>();
        if requested > 0 && requested > capacity - used {
            out.push(lack(name, requested, used, capacity));
        }
    }
    out
}

/// `nodeSelector` and required node affinity.
fn selected(pod: &PodView, node: &Value) -> bool {
    let label = |key: &str| node.get_at("/metadata/labels").and_then(|l| l.get(key)).and_then(Value::as_str);
    if !pod.spec.node_selector.iter().flatten().all(|(key, value)| label(key) == Some(value)) {
        return false;
    }
    let affinity = pod.spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let Some(required) = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()) else {
        return true;
    };
    let field = |key: &str| (key == "metadata.name").then(|| node.str_at("/metadata/name")).flatten();
    required.node_selector_terms.iter().any(|term| meant(term, label, field))
}

/// Whether a term means the node; an empty one means none, and so does one that cannot be understood.
fn meant<'a>(
    term: &NodeSelectorTerm,
    label: impl Fn(&str) -> Option<&'a str>,
    field: impl Fn(&str) -> Option<&'a str>,
) -> bool {
    let (labels, fields) = (term.match_expressions.iter().flatten(), term.match_fields.iter().flatten());
    let holds = |key: &str, operator: &str, values: &Option<Vec<String>>, value: Option<&str>| {
        let values = values.as_deref().unwrap_or_default();
        Requirement::of_node(key, operator, values).is_some_and(|r| r.matches(value))
    };
    let (mut labels, mut fields) = (labels.peekable(), fields.peekable());
    (labels.peek().is_some() || fields.peek().is_some())
        && labels.all(|e| holds(&e.key, &e.operator, &e.values, label(&e.key)))
        && fields.all(|e| holds(&e.key, &e.operator, &e.values, field(&e.key)))
}

fn tolerated(pod: &PodView, taint: &Taint) -> bool {
    pod.spec.tolerations.iter().flatten().any(|t| tolerates(t, taint))
}

fn tolerates(t: &Toleration, taint: &Taint) -> bool {
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    let (effect, key) = (text(&t.effect), text(&t.key));
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match t.operator.as_deref() {
            Some("Exists") => true,
            None | Some("" | "Equal") => text(&t.value) == text(&taint.value),
            Some(_) => false,
        }
}

/// Address, protocol and number.
type HostPort = (String, String, i32);

fn host_ports(pod: &PodView) -> BTreeSet<HostPort> {
    let lasting = pod.members.iter().filter(|m| matches!(m.role, Role::App | Role::Sidecar));
    let ports = lasting.flat_map(|m| m.spec.ports.iter().flatten());
    let port = |p: &k8s_openapi::api::core::v1::ContainerPort| {
        let address = p.host_ip.clone().filter(|a| !a.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
        Some((address, p.protocol.clone().unwrap_or_else(|| "TCP".into()), p.host_port.filter(|n| *n > 0)?))
    };
    ports.filter_map(port).collect()
}

/// All addresses are one with each.
fn clash(a: &HostPort, b: &HostPort) -> bool {
    a.1 == b.1 && a.2 == b.2 && (a.0 == b.0 || a.0 == "0.0.0.0" || b.0 == "0.0.0.0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::testing::pod;
    use serde_json::json;
    use test_case::test_case;

    fn node() -> Value {
        json!({"metadata": {"name": "node", "labels": {"disk": "ssd"}},
            "spec": {"taints": [{"key": "gone", "effect": "NoExecute"}, {"key": "full", "effect": "NoSchedule"}]},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "2"}}})
    }

    /// The reason, or nothing.
    fn judged(mut spec: Value, pressures: &[Pressure], others: &[Value]) -> String {
        spec.set_if_absent("/containers", json!([{"name": "c"}]));
        spec.set_if_absent("/tolerations", json!([{"key": "gone", "operator": "Exists"}]));
        let site = Site { node: Some(node()), pressures: pressures.to_vec() };
        let others: Vec<PodView> = others.iter().map(|s| pod(s.clone())).collect();
        let verdict = admit(&pod(spec), &site, &others.iter().collect::<Vec<_>>());
        verdict
            .err()
            .map(|f| format!("{}: {}", f.reason, f.message.trim_start_matches("Pod was rejected: ")))
            .unwrap_or_default()
    }

    #[test_case(json!({}) => ""; "nothing special")]
    #[test_case(json!({"os": {"name": "windows"}}) => "PodOSNotSupported: Failed to admit pod as the OS field doesn't match node OS")]
    #[test_case(json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}}) => ""; "a safe sysctl")]
    #[test_case(json!({"securityContext": {"sysctls": [{"name": "kernel/msgmax", "value": "1"}]}}) => "SysctlForbidden: forbidden sysctl: \"kernel.msgmax\" not allowlisted"; "an unsafe one")]
    #[test_case(json!({"hostNetwork": true, "securityContext": {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}}) => "SysctlForbidden: forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host net enabled"; "the host's")]
    #[test_case(json!({"nodeSelector": {"disk": "ssd"}}) => ""; "selected")]
    #[test_case(json!({"nodeSelector": {"disk": "hdd"}}) => "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"; "not selected")]
    #[test_case(json!({"tolerations": []}) => "TaintToleration: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"; "not tolerated")]
    fn alone(spec: Value) -> String {
        judged(spec, &[], &[])
    }

    #[test_case(json!([{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]) => true; "by label")]
    #[test_case(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["other"]}]}]) => false; "by name")]
    #[test_case(json!([{}]) => false; "an empty term")]
    #[test_case(json!([{}, {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]) => true; "any of them")]
    #[test_case(json!([{"matchExpressions": [{"key": "disk", "operator": "Like", "values": ["s"]}]}]) => false; "an operator that is none")]
    fn affinity(terms: Value) -> bool {
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        judged(json!({"affinity": {"nodeAffinity": required}}), &[], &[]).is_empty()
    }

    #[test]
    fn what_others_have_is_not_there() {
        let asks = |cpu: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
        assert_eq!(judged(asks("1500m"), &[], &[asks("500m")]), "");
        assert_eq!(
            judged(asks("1600m"), &[], &[asks("500m")]),
            "OutOfcpu: Node didn't have enough resource: cpu, requested: 1600, used: 500, capacity: 2000"
        );
        let full = judged(json!({}), &[], &[asks("0"), asks("0")]);
        assert_eq!(full, "OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2");
        let port = |ip: &str| json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80, "hostIP": ip}]}]});
        assert!(judged(port(""), &[], &[port("10.0.0.1")]).starts_with("NodePorts: "));
        assert_eq!(judged(port("10.0.0.2"), &[], &[port("10.0.0.1")]), "");
    }

    #[test_case(json!({}), &[Pressure::Memory] => "Evicted: The node had condition: [MemoryPressure]. "; "no promise, no memory")]
    #[test_case(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1m"}}}]}), &[Pressure::Memory] => ""; "a promise")]
    #[test_case(json!({"tolerations": [{"operator": "Exists"}]}), &[Pressure::Memory] => ""; "tolerated")]
    #[test_case(json!({"tolerations": [{"operator": "Exists"}]}), &[Pressure::Memory, Pressure::Disk] => "Evicted: The node had condition: [MemoryPressure DiskPressure]. "; "the disk is everybody's")]
    #[test_case(json!({"priority": 2_000_000_000}), &[Pressure::Disk] => ""; "critical")]
    fn under_pressure(spec: Value, pressures: &[Pressure]) -> String {
        judged(spec, pressures, &[])
    }

    #[test]
    fn others_make_room_for_the_critical() {
        let asks = |name: &str, cpu: &str, priority: i32| {
            let resources = json!({"requests": {"cpu": cpu}});
            let mut view = pod(json!({"containers": [{"name": "c", "resources": resources}], "priority": priority,
                "tolerations": [{"operator": "Exists"}]}));
            view.uid = name.to_owned();
            view
        };
        let site = Site { node: Some(node()), pressures: Vec::new() };
        let critical = |cpu: &str| asks("new", cpu, cgroups::SYSTEM_CRITICAL);
        let (small, large) = (asks("small", "400m", 0), asks("large", "1500m", 0));
        let goes = |pod: &PodView, others: &[&PodView]| admit(pod, &site, others).map_err(|f| (f.reason, f.message));
        assert_eq!(goes(&critical("1"), &[&small]), Ok(vec![]), "there is room");
        assert_eq!(goes(&critical("500m"), &[&large]), Ok(vec![]), "just enough");
        assert_eq!(goes(&critical("400m"), &[&small, &large]), Ok(vec!["small".into()]), "and a place");
        assert_eq!(goes(&critical("1500m"), &[&small, &large]), Ok(vec!["large".into()]));
        let nobody = goes(&critical("3"), &[&small, &large]).unwrap_err();
        assert_eq!(nobody.0, "UnexpectedAdmissionError");
        assert!(nobody.1.contains("no set of running pods found to reclaim resources"), "{}", nobody.1);
        let mut elsewhere = critical("1500m");
        elsewhere.spec.node_selector = Some([("disk".to_owned(), "hdd".to_owned())].into());
        assert_eq!(goes(&elsewhere, &[&large]).unwrap_err().0, "NodeAffinity", "nobody goes for one that cannot stay");
        assert_eq!(goes(&asks("new", "1", 5), &[&large]).unwrap_err().0, "OutOfcpu", "the scheduler sees to the rest");
    }

    #[test]
    fn an_unknown_node_is_not_held_against_the_pod() {
        let selective = pod(json!({"containers": [{"name": "c"}], "nodeSelector": {"disk": "hdd"}}));
        assert!(admit(&selective, &Site::default(), &[]).is_ok());
    }
}
