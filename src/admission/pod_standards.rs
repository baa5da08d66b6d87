//! The Pod Security Standards. Pure.
//!
//! Rules and words: upstream `k8s.io/pod-security-admission/policy`, at its newest version.

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

type Rule = fn(&Pod<'_>) -> Option<String>;

const BASELINE: &[Rule] = &[
    app_armor,
    added_capabilities,
    host_namespaces,
    host_path,
    host_ports,
    privileged,
    proc_mount,
    selinux,
    unconfined,
    sysctls,
    host_process,
];
const RESTRICTED: &[Rule] = &[escalation, dropped_capabilities, volume_types, run_as_non_root, run_as_user, seccomp];

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
/// Kernel parameters that a pod may set.
const SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];
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
pub fn violations(metadata: &Value, spec: &Value, level: Level) -> Vec<String> {
    let pod = Pod { metadata, spec };
    let mut out: Vec<String> = Vec::new();
    if level >= Level::Restricted {
        out.extend(RESTRICTED.iter().filter_map(|rule| rule(&pod)));
    }
    if level >= Level::Baseline {
        // The restricted rules for capabilities, volumes and seccomp say more than these.
        let covered: &[Rule] =
            if level == Level::Restricted { &[added_capabilities, host_path, unconfined] } else { &[] };
        let rules = BASELINE.iter().filter(|rule| !covered.iter().any(|c| std::ptr::fn_addr_eq(*c, **rule)));
        out.splice(0..0, rules.filter_map(|rule| rule(&pod)));
    }
    out
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

fn selinux(pod: &Pod<'_>) -> Option<String> {
    let bad = |c: &Value| {
        let o = &c["securityContext"]["seLinuxOptions"];
        let text = |k: &str| o.get(k).and_then(Value::as_str).unwrap_or_default();
        !SELINUX_TYPES.contains(&text("type")) || !text("user").is_empty() || !text("role").is_empty()
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

fn sysctls(pod: &Pod<'_>) -> Option<String> {
    let all = pod.spec.items_at("/securityContext/sysctls").iter().filter_map(|s| s.str_at("/name"));
    let bad: Vec<&str> = all.filter(|n| !SYSCTLS.contains(n)).collect();
    (!bad.is_empty()).then(|| format!("forbidden sysctls ({})", bad.join(", ")))
}

fn host_process(pod: &Pod<'_>) -> Option<String> {
    let bad = |c: &Value| c.bool_at("/securityContext/windowsOptions/hostProcess") == Some(true);
    (bad(pod.spec) || pod.containers().any(bad)).then(|| {
        "hostProcess (pod or containers must not set securityContext.windowsOptions.hostProcess=true)".to_owned()
    })
}

fn escalation(pod: &Pod<'_>) -> Option<String> {
    if pod.is_windows() {
        return None;
    }
    let who = pod.named(|c| c.bool_at("/securityContext/allowPrivilegeEscalation") != Some(false))?;
    Some(format!("allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"))
}

fn dropped_capabilities(pod: &Pod<'_>) -> Option<String> {
    if pod.is_windows() {
        return None;
    }
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
    if let Some(who) = pod.named(|c| of(c) == Some(false)) {
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
    if pod.is_windows() {
        return None;
    }
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
    fn levels(spec: Value, level: Level, want: usize) {
        assert_eq!(violations(&Value::Null, &spec, level).len(), want, "{:?}", violations(&Value::Null, &spec, level));
    }
}
