//! Where a pod may run, beside affinity: tolerations, spreading, gates; and its name resolution.

use serde_json::Value;

use crate::api::meta::names;

use super::affinity::{keys_named_twice, label_keys};
use super::{Field, ip, labels};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
/// Name servers of a pod.
const NAMESERVERS_MAX: usize = 3;
/// Search domains of a pod.
const SEARCHES_MAX: usize = 32;
/// All search domains together, characters.
const SEARCHES_MAX_CHARS: usize = 2048;

/// `tolerations`.
pub fn tolerations(spec: &Field<'_>) {
    toleration_list(spec.items("tolerations"));
}

/// Tolerations one by one.
pub fn toleration_list<'a>(all: impl Iterator<Item = Field<'a>>) {
    for t in all {
        let key = t.text("key");
        if !key.is_empty() {
            t.at("key").reasons(names::qualified_name(key));
        }
        let operator = t.text("operator");
        if key.is_empty() && operator != "Exists" {
            t.errs.at("operator").invalid(
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if t.has("tolerationSeconds") && t.text("effect") != "NoExecute" {
            t.errs.at("effect").invalid(t.text("effect"), "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator {
            "" | "Equal" => t.at("operator").errs.all_invalid(t.text("value"), names::label_value(t.text("value"))),
            "Exists" if !t.text("value").is_empty() => {
                t.errs.at("operator").invalid(t.value.clone(), "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            other => t.errs.at("operator").not_supported(other, &["Equal", "Exists"]),
        }
        if !t.text("effect").is_empty() {
            t.one_of("effect", EFFECTS);
        }
    }
}

/// Taints of a node. Upstream tells of them below `metadata.taints`.
pub fn taints(node: &Value, errs: &super::FieldErrors) {
    let renamed = Field { value: node.get("spec").unwrap_or(&Value::Null), errs: errs.at("metadata") };
    taint_list(renamed.items("taints"));
}

/// Taints one by one: valid ones, each key once with an effect.
pub fn taint_list<'a>(all: impl Iterator<Item = Field<'a>>) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for t in all {
        let (key, value) = (t.text("key"), t.text("value"));
        t.errs.at("key").all_invalid(key, names::qualified_name(key));
        t.errs.at("value").all_invalid(value, names::label_value(value));
        t.needs_one_of("effect", EFFECTS);
        if seen.contains(&(key, t.text("effect"))) {
            t.errs.duplicate(t.value.clone());
        }
        seen.push((key, t.text("effect")));
    }
}

/// `topologySpreadConstraints`.
pub fn spread(spec: &Field<'_>) {
    let kinds: Vec<(&str, &str)> =
        spec.items("topologySpreadConstraints").map(|c| (c.text("topologyKey"), c.text("whenUnsatisfiable"))).collect();
    for (i, c) in spec.items("topologySpreadConstraints").enumerate() {
        if c.int("maxSkew").unwrap_or(0) <= 0 {
            c.errs.at("maxSkew").invalid(c.int("maxSkew").unwrap_or(0), "must be greater than zero");
        }
        let (key, when) = kinds[i];
        c.needs("topologyKey");
        c.one_of("whenUnsatisfiable", &["DoNotSchedule", "ScheduleAnyway"]);
        // Upstream tells of the first of two.
        if kinds[i + 1..].contains(&(key, when)) {
            c.errs.at("{topologyKey, whenUnsatisfiable}").duplicate(format!("{{{key}, {when}}}"));
        }
        if let Some(domains) = c.int("minDomains") {
            if domains <= 0 {
                c.at("minDomains").invalid("must be greater than zero");
            }
            if when != "DoNotSchedule" {
                c.at("minDomains")
                    .invalid(format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}"));
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            c.optional_one_of(policy, &["Honor", "Ignore"]);
        }
        label_keys(&c, "matchLabelKeys");
        keys_named_twice(&c);
        labels::selector(&c.at("labelSelector"));
    }
}

/// `dnsPolicy` and `dnsConfig`.
pub fn dns(spec: &Field<'_>) {
    spec.needs_one_of("dnsPolicy", &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"]);
    let config = spec.at("dnsConfig");
    if spec.text("dnsPolicy") == "None" {
        if config.value.is_null() {
            config.errs.required("must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if config.count("nameservers") == 0 {
            config.errs.at("nameservers").required("must provide at least one DNS nameserver when `dnsPolicy` is None");
            return;
        }
    }
    if config.value.is_null() {
        return;
    }
    if config.count("nameservers") > NAMESERVERS_MAX {
        config.at("nameservers").invalid(format!("must not have more than {NAMESERVERS_MAX} nameservers"));
    }
    for server in config.items("nameservers") {
        ip(&server);
    }
    if config.count("searches") > SEARCHES_MAX {
        config.at("searches").invalid(format!("must not have more than {SEARCHES_MAX} search paths"));
    }
    let length: usize = config.items("searches").map(|s| s.as_text().len() + 1).sum();
    if length > SEARCHES_MAX_CHARS + 1 {
        config
            .at("searches")
            .invalid(format!("must not have more than {SEARCHES_MAX_CHARS} characters (including spaces)"));
    }
    for search in config.items("searches") {
        // A lone dot is the root.
        if search.as_text() != "." {
            let domain = search.as_text().strip_suffix('.').unwrap_or(search.as_text());
            search.reasons(names::dns1123_subdomain_with_underscore(domain));
        }
    }
    for option in config.items("options") {
        if option.text("name").is_empty() {
            option.errs.required("must not be empty");
        }
    }
}

/// `hostAliases`.
pub fn host_aliases(spec: &Field<'_>) {
    for alias in spec.items("hostAliases") {
        ip(&alias.at("ip"));
        for name in alias.items("hostnames") {
            name.reasons(names::dns1123_subdomain(name.as_text()));
        }
    }
}

/// `readinessGates` and `schedulingGates`.
pub fn gates(spec: &Field<'_>) {
    for gate in spec.items("readinessGates") {
        gate.at("conditionType")
            .errs
            .all_invalid(gate.text("conditionType"), names::qualified_name(gate.text("conditionType")));
    }
    let mut seen = Vec::new();
    for gate in spec.items("schedulingGates") {
        let name = gate.text("name");
        gate.errs.all_invalid(name, names::qualified_name(name));
        if seen.contains(&name) {
            gate.errs.duplicate(name);
        }
        seen.push(name);
    }
}
