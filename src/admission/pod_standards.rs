//! The Pod Security Standards. Pure.
//!
//! Rules and words: upstream `k8s.io/pod-security-admission/policy`. A rule may say something else in later versions of the
//! standards; a namespace may ask for the standards of an older one.

use serde_json::Value;

use crate::api::value::ValueExt;

/// A level; each one has the rules of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// No rules.
    Privileged,
    /// No known ways up.
    Baseline,
    /// What is good practice.
    Restricted,
}

impl Level {
    /// From a label's value.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Privileged, Self::Baseline, Self::Restricted].into_iter().find(|l| l.name() == text)
    }

    /// As labels have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// A version of the standards: a minor version of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u32);

impl Version {
    /// Whatever is newest.
    pub const LATEST: Version = Version(u32::MAX);

    /// From a label's value: `latest` or `v1.30`.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Self::LATEST);
        }
        let minor = text.strip_prefix("v1.")?;
        let plain = minor.bytes().all(|c| c.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
        minor.parse().ok().filter(|_| plain).map(Self)
    }
}

/// Says what of a pod is not allowed.
type Check = fn(&Pod<'_>) -> Option<String>;

/// A rule: its name, and what it says since which minor version, in ascending order.
struct Rule(&'static str, &'static [(u32, Check)]);

impl Rule {
    /// The check of a version; none before the rule came.
    fn at(&self, version: Version) -> Option<Check> {
        self.1.iter().rev().find(|(since, _)| *since <= version.0).map(|(_, check)| *check)
    }
}

const BASELINE: &[Rule] = &[
    Rule("appArmorProfile", &[(0, app_armor)]),
    Rule("capabilities_baseline", &[(0, added_capabilities)]),
    Rule("hostNamespaces", &[(0, host_namespaces)]),
    Rule("hostPathVolumes", &[(0, host_path)]),
    Rule("hostPorts", &[(0, host_ports)]),
    Rule("hostProbesAndHostLifecycle", &[(34, probe_hosts)]),
    Rule("privileged", &[(0, privileged)]),
    Rule("procMount_baseline", &[(0, proc_mount), (35, |pod| as_host_user(pod, proc_mount))]),
    Rule("seLinuxOptions", &[(0, |pod| selinux(pod, &SELINUX_TYPES[..4])), (31, |pod| selinux(pod, SELINUX_TYPES))]),
    Rule("seccompProfile_baseline", &[(0, unconfined_of_old), (19, unconfined)]),
    Rule(
        "sysctls",
        &[
            (0, |pod| sysctls(pod, &SYSCTLS[..5])),
            (27, |pod| sysctls(pod, &SYSCTLS[..6])),
            (29, |pod| sysctls(pod, &SYSCTLS[..10])),
            (32, |pod| sysctls(pod, SYSCTLS)),
        ],
    ),
    Rule("windowsHostProcess", &[(0, host_process)]),
];
const RESTRICTED: &[Rule] = &[
    Rule("allowPrivilegeEscalation", &[(8, escalation), (25, |pod| on_linux(pod, escalation))]),
    Rule("capabilities_restricted", &[(22, dropped_capabilities), (25, |pod| on_linux(pod, dropped_capabilities))]),
    Rule("restrictedVolumes", &[(0, volume_types)]),
    Rule("procMount_restricted", &[(35, user_namespace_proc_mount)]),
    Rule("runAsNonRoot", &[(0, run_as_non_root), (35, |pod| as_host_user(pod, run_as_non_root))]),
    Rule("runAsUser", &[(23, run_as_user), (35, |pod| as_host_user(pod, run_as_user))]),
    Rule("seccompProfile_restricted", &[(19, seccomp), (25, |pod| on_linux(pod, seccomp))]),
];
/// Baseline rules that say less than a restricted one, where that is in force.
const COVERED: [(&str, &str); 3] = [
    ("capabilities_baseline", "capabilities_restricted"),
    ("hostPathVolumes", "restrictedVolumes"),
    ("seccompProfile_baseline", "seccompProfile_restricted"),
];

/// Capabilities that containers may add at the baseline.
const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Kernel parameters that a pod may set, in the order in which they came to be allowed.
const SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];
/// The last one came later.
const SELINUX_TYPES: &[&str] = &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

struct Pod<'a> {
    metadata: &'a Value,
    spec: &'a Value,
}

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        ["/initContainers", "/containers", "/ephemeralContainers"].into_iter().flat_map(move |p| spec.items_at(p))
    }

    /// The containers for which something holds, for messages: `container "a"`, `containers "a", "b"`.
    fn named(&self, bad: impl Fn(&Value) -> bool) -> Option<String> {
        let names: Vec<String> = self
            .containers()
            .filter(|c| bad(c))
            .map(|c| format!("{:?}", c.str_at("/name").unwrap_or_default()))
            .collect();
        match names.len() {
            0 => None,
            1 => Some(format!("container {}", names[0])),
            _ => Some(format!("containers {}", names.join(", "))),
        }
    }

    fn is_windows(&self) -> bool {
        self.spec.str_at("/os/name") == Some("windows")
    }
}

/// What of a pod its level does not allow, one text per rule.
pub fn violations(metadata: &Value, spec: &Value, level: Level, version: Version) -> Vec<String> {
    let pod = Pod { metadata, spec };
    let mut out: Vec<String> = Vec::new();
    let restricted = level == Level::Restricted;
    if level >= Level::Baseline {
        let in_force = |name: &str| RESTRICTED.iter().any(|r| r.0 == name && r.at(version).is_some());
        let covered = |rule: &Rule| restricted && COVERED.iter().any(|(less, more)| *less == rule.0 && in_force(more));
        let rules = BASELINE.iter().filter(|rule| !covered(rule));
        out.extend(rules.filter_map(|rule| rule.at(version)?(&pod)));
    }
    if restricted {
        out.extend(RESTRICTED.iter().filter_map(|rule| rule.at(version)?(&pod)));
    }
    out
}

/// A check that does not hold for Windows pods.
fn on_linux(pod: &Pod<'_>, check: Check) -> Option<String> {
    if pod.is_windows() { None } else { check(pod) }
}

/// A check that does not hold for pods whose root is nobody on the node.
fn as_host_user(pod: &Pod<'_>, check: Check) -> Option<String> {
    if pod.spec.bool_at("/hostUsers") == Some(false) { None } else { check(pod) }
}

fn app_armor(pod: &Pod<'_>) -> Option<String> {
    let key = "container.apparmor.security.beta.kubernetes.io/";
    let annotations = pod.metadata["annotations"].as_object().into_iter().flatten();
    let ok = |v: &str| matches!(v, "" | "runtime/default") || v.starts_with("localhost/");
    let annotated = annotations.filter(|(k, v)| k.starts_with(key) && !ok(v.as_str().unwrap_or_default())).count() > 0;
    let field = |c: &Value| c.str_at("/securityContext/appArmorProfile/type") == Some("Unconfined");
    (annotated || field(pod.spec) || pod.containers().any(field))
        .then(|| "forbidden AppArmor profiles (an unconfined or unknown profile is set)".to_owned())
}

fn added_capabilities(pod: &Pod<'_>) -> Option<String> {
    capabilities(pod, CAPABILITIES).map(|(who, what)| {
        format!("non-default capabilities ({who} must not include {what} in securityContext.capabilities.add)")
    })
}

/// Who adds capabilities beyond `allowed`, and which.
fn capabilities(pod: &Pod<'_>, allowed: &[&str]) -> Option<(String, String)> {
    let more = |c: &Value| -> Vec<String> {
        let added = c.items_at("/securityContext/capabilities/add").iter().filter_map(Value::as_str);
        added.filter(|a| !allowed.contains(a)).map(|a| format!("{a:?}")).collect()
    };
    let who = pod.named(|c| !more(c).is_empty())?;
    let mut what: Vec<String> = pod.containers().flat_map(more).collect();
    what.sort();
    what.dedup();
    Some((who, what.join(", ")))
}

fn host_namespaces(pod: &Pod<'_>) -> Option<String> {
    let set = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|f| pod.spec[*f] == true);
    let all: Vec<String> = set.map(|f| format!("{f}=true")).collect();
    (!all.is_empty()).then(|| format!("host namespaces ({})", all.join(", ")))
}

fn host_path(pod: &Pod<'_>) -> Option<String> {
    let bad = pod.spec.items_at("/volumes").iter().filter(|v| v.get("hostPath").is_some());
    let names: Vec<String> = bad.map(|v| format!("{:?}", v.str_at("/name").unwrap_or_default())).collect();
    let word = if names.len() == 1 { "volume" } else { "volumes" };
    (!names.is_empty()).then(|| format!("hostPath volumes ({word} {})", names.join(", ")))
}

fn host_ports(pod: &Pod<'_>) -> Option<String> {
    let ports = |c: &Value| -> Vec<i64> {
        c.items_at("/ports").iter().filter_map(|p| p.int_at("/hostPort")).filter(|p| *p != 0).collect()
    };
    let who = pod.named(|c| !ports(c).is_empty())?;
    let mut all: Vec<i64> = pod.containers().flat_map(ports).collect();
    all.sort_unstable();
    all.dedup();
    let texts: Vec<String> = all.iter().map(i64::to_string).collect();
    let (verb, word) = (
        if who.starts_with("containers") { "use" } else { "uses" },
        if all.len() == 1 { "hostPort" } else { "hostPorts" },
    );
    Some(format!("hostPort ({who} {verb} {word} {})", texts.join(", ")))
}

fn privileged(pod: &Pod<'_>) -> Option<String> {
    let who = pod.named(|c| c.bool_at("/securityContext/privileged") == Some(true))?;
    Some(format!("privileged ({who} must not set securityContext.privileged=true)"))
}

fn proc_mount(pod: &Pod<'_>) -> Option<String> {
    let who = pod.named(|c| c.str_at("/securityContext/procMount").is_some_and(|m| m != "Default"))?;
    Some(format!("procMount ({who} must not set securityContext.procMount to a value other than \"Default\")"))
}

/// At the restricted level a user namespace excuses nothing of it. The baseline has told of all other pods.
fn user_namespace_proc_mount(pod: &Pod<'_>) -> Option<String> {
    if pod.spec.bool_at("/hostUsers") == Some(false) { proc_mount(pod) } else { None }
}

/// Hosts that the node would be made to talk to.
fn probe_hosts(pod: &Pod<'_>) -> Option<String> {
    fn hosts(container: &Value) -> Vec<String> {
        const AT: [&str; 5] =
            ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
        let handlers = AT.iter().filter_map(|at| container.get_at(at));
        let named =
            handlers.flat_map(|h| ["/httpGet/host", "/tcpSocket/host"].map(|at| h.str_at(at).unwrap_or_default()));
        named.filter(|host| !host.is_empty()).map(|host| format!("{host:?}")).collect()
    }
    let who = pod.named(|c| !hosts(c).is_empty())?;
    let mut all: Vec<String> = pod.containers().flat_map(hosts).collect();
    all.sort();
    all.dedup();
    let verb = if who.starts_with("containers") { "use" } else { "uses" };
    let word = if all.len() == 1 { "host" } else { "hosts" };
    Some(format!("probe or lifecycle host ({who} {verb} probe or lifecycle {word} {})", all.join(", ")))
}

fn selinux(pod: &Pod<'_>, types: &[&str]) -> Option<String> {
    let bad = |c: &Value| {
        let o = &c["securityContext"]["seLinuxOptions"];
        let text = |k: &str| o.get(k).and_then(Value::as_str).unwrap_or_default();
        !types.contains(&text("type")) || !text("user").is_empty() || !text("role").is_empty()
    };
    (bad(pod.spec) || pod.containers().any(bad))
        .then(|| "seLinuxOptions (pod or containers set forbidden securityContext.seLinuxOptions)".to_owned())
}

fn unconfined(pod: &Pod<'_>) -> Option<String> {
    let bad = |c: &Value| c.str_at("/securityContext/seccompProfile/type") == Some("Unconfined");
    (bad(pod.spec) || pod.containers().any(bad)).then(|| {
        "seccompProfile (pod or containers must not set securityContext.seccompProfile.type to \"Unconfined\")"
            .to_owned()
    })
}

/// As annotations said it before there was a field.
fn unconfined_of_old(pod: &Pod<'_>) -> Option<String> {
    let ok = |v: &str| matches!(v, "runtime/default" | "docker/default") || v.starts_with("localhost/");
    let keys = ["seccomp.security.alpha.kubernetes.io/pod", "container.seccomp.security.alpha.kubernetes.io/"];
    let annotations = pod.metadata["annotations"].as_object().into_iter().flatten();
    let bad =
        annotations.filter(|(k, v)| (*k == keys[0] || k.starts_with(keys[1])) && !ok(v.as_str().unwrap_or_default()));
    let mut bad: Vec<String> = bad.map(|(k, v)| format!("{k}={v}")).collect();
    bad.sort();
    (!bad.is_empty()).then(|| format!("seccompProfile (forbidden annotations {})", bad.join(", ")))
}

fn sysctls(pod: &Pod<'_>, allowed: &[&str]) -> Option<String> {
    let all = pod.spec.items_at("/securityContext/sysctls").iter().filter_map(|s| s.str_at("/name"));
    let bad: Vec<&str> = all.filter(|n| !allowed.contains(n)).collect();
    (!bad.is_empty()).then(|| format!("forbidden sysctls ({})", bad.join(", ")))
}

fn host_process(pod: &Pod<'_>) -> Option<String> {
    let bad = |c: &Value| c.bool_at("/securityContext/windowsOptions/hostProcess") == Some(true);
    (bad(pod.spec) || pod.containers().any(bad)).then(|| {
        "hostProcess (pod or containers must not set securityContext.windowsOptions.hostProcess=true)".to_owned()
    })
}

fn escalation(pod: &Pod<'_>) -> Option<String> {
    let who = pod.named(|c| c.bool_at("/securityContext/allowPrivilegeEscalation") != Some(false))?;
    Some(format!("allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"))
}

fn dropped_capabilities(pod: &Pod<'_>) -> Option<String> {
    let keeps = |c: &Value| !c.items_at("/securityContext/capabilities/drop").iter().any(|d| d == "ALL");
    let mut told = Vec::new();
    if let Some(who) = pod.named(keeps) {
        told.push(format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    if let Some((who, what)) = capabilities(pod, &["NET_BIND_SERVICE"]) {
        told.push(format!("{who} must not include {what} in securityContext.capabilities.add"));
    }
    (!told.is_empty()).then(|| format!("unrestricted capabilities ({})", told.join("; ")))
}

fn volume_types(pod: &Pod<'_>) -> Option<String> {
    let kind = |v: &Value| v.as_object()?.keys().find(|k| *k != "name" && !VOLUMES.contains(&k.as_str())).cloned();
    let bad: Vec<String> = pod
        .spec
        .items_at("/volumes")
        .iter()
        .filter_map(|v| {
            Some(format!(
                "volume {:?} uses restricted volume type {:?}",
                v.str_at("/name").unwrap_or_default(),
                kind(v)?
            ))
        })
        .collect();
    (!bad.is_empty()).then(|| format!("restricted volume types ({})", bad.join(", ")))
}

fn run_as_non_root(pod: &Pod<'_>) -> Option<String> {
    let of = |c: &Value| c.bool_at("/securityContext/runAsNonRoot");
    let whole = of(pod.spec);
    let mut who: Vec<String> = Vec::new();
    if whole == Some(false) {
        who.push("pod".into());
    }
    who.extend(pod.named(|c| of(c) == Some(false)));
    if !who.is_empty() {
        let who = who.join(" and ");
        return Some(format!("runAsNonRoot != true ({who} must not set securityContext.runAsNonRoot=false)"));
    }
    if whole == Some(true) {
        return None;
    }
    let who = pod.named(|c| of(c).is_none())?;
    Some(format!("runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"))
}

fn run_as_user(pod: &Pod<'_>) -> Option<String> {
    let zero = |c: &Value| c.int_at("/securityContext/runAsUser") == Some(0);
    let mut who: Vec<String> = Vec::new();
    if zero(pod.spec) {
        who.push("pod".into());
    }
    who.extend(pod.named(zero));
    (!who.is_empty()).then(|| format!("runAsUser=0 ({} must not set runAsUser=0)", who.join(" and ")))
}

fn seccomp(pod: &Pod<'_>) -> Option<String> {
    let of = |c: &Value| c.str_at("/securityContext/seccompProfile/type").map(str::to_owned);
    let ok = |t: &str| matches!(t, "RuntimeDefault" | "Localhost");
    let whole = of(pod.spec).is_some_and(|t| ok(&t));
    let who = pod.named(|c| match of(c) {
        Some(own) => !ok(&own),
        None => !whole,
    })?;
    Some(format!(
        "seccompProfile (pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    #[test_case(json!({"hostPID": true, "containers": []}), Level::Baseline, 1; "host pid")]
    #[test_case(json!({"hostPID": true, "containers": []}), Level::Privileged, 0; "privileged")]
    #[test_case(json!({"containers": [{"name": "c"}]}), Level::Baseline, 0; "plain pod")]
    #[test_case(json!({"containers": [{"name": "c"}]}), Level::Restricted, 4; "plain pod, restricted")]
    #[test_case(json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}), Level::Restricted, 0; "hardened")]
    #[test_case(json!({"containers": [{"name": "c", "securityContext": {"capabilities": {"add": ["SYS_ADMIN", "CHOWN"]}}}]}), Level::Baseline, 1; "capability")]
    #[test_case(json!({"securityContext": {"runAsNonRoot": false, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "securityContext": {"runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}), Level::Restricted, 1; "a pod that wants to be root")]
    #[test_case(json!({"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "10.0.0.1"}}}]}), Level::Baseline, 1; "a probe of somebody else")]
    fn levels(spec: Value, level: Level, want: usize) {
        let found = violations(&Value::Null, &spec, level, Version::LATEST);
        assert_eq!(found.len(), want, "{found:?}");
    }

    #[test_case("v1.7", Level::Restricted, json!({"containers": [{"name": "c"}]}), 1; "escalation is not asked about yet")]
    #[test_case("v1.24", Level::Restricted, json!({"os": {"name": "windows"}, "containers": [{"name": "c"}]}), 4; "Windows was asked for all of it")]
    #[test_case("v1.25", Level::Restricted, json!({"os": {"name": "windows"}, "containers": [{"name": "c"}]}), 1; "and is not any more")]
    #[test_case("v1.33", Level::Baseline, json!({"containers": [{"name": "c", "livenessProbe": {"tcpSocket": {"host": "h"}}}]}), 0; "hosts of probes came later")]
    #[test_case("v1.26", Level::Baseline, json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}}), 1; "a parameter before its time")]
    #[test_case("v1.32", Level::Baseline, json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}}), 0; "and at its time")]
    #[test_case("v1.34", Level::Baseline, json!({"hostUsers": false, "containers": [{"name": "c", "securityContext": {"procMount": "Unmasked"}}]}), 1; "user namespaces do not count yet")]
    #[test_case("v1.35", Level::Baseline, json!({"hostUsers": false, "containers": [{"name": "c", "securityContext": {"procMount": "Unmasked"}}]}), 0; "and do")]
    #[test_case("v1.35", Level::Restricted, json!({"hostUsers": false, "containers": [{"name": "c", "securityContext": {"procMount": "Unmasked"}}]}), 4; "but for the masks of a restricted pod")]
    #[test_case("v1.18", Level::Baseline, json!({"containers": [{"name": "c", "securityContext": {"seccompProfile": {"type": "Unconfined"}}}]}), 0; "no field for it then")]
    #[test_case("v1.30", Level::Baseline, json!({"securityContext": {"seLinuxOptions": {"type": "container_engine_t"}}}), 1; "a type before its time")]
    fn versions(version: &str, level: Level, spec: Value, want: usize) {
        let found = violations(&Value::Null, &spec, level, Version::parse(version).unwrap());
        assert_eq!(found.len(), want, "{found:?}");
    }

    #[test_case("latest", true)]
    #[test_case("v1.0", true)]
    #[test_case("v1.36", true)]
    #[test_case("v1.036", false)]
    #[test_case("v1.", false)]
    #[test_case("1.30", false)]
    #[test_case("v2.0", false)]
    fn names_of_versions(text: &str, want: bool) {
        assert_eq!(Version::parse(text).is_some(), want);
    }
}
