//! The environment of a container.
//!
//! Rules: upstream `kubelet_pods.makeEnvironmentVariables` and `pkg/kubelet/envvars`: services first, then envFrom in
//! order, then env in order, where a value may use what stands before it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource};
use serde_json::Value;

use super::downward::{self, Facts};
use super::expand::expand;
use super::pod::{Member, PodView};
use super::sources::{Kind, Sources};
use crate::api::value::ValueExt;

/// Why a container cannot be configured: the message of `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

type Vars = BTreeMap<String, String>;

/// The environment in the order it is passed: what the container names itself, then the services it does not shadow.
pub fn environment(
    pod: &PodView,
    member: &Member,
    facts: &Facts,
    sources: &dyn Sources,
) -> Result<Vec<(String, String)>, ConfigError> {
    let services = service_vars(pod, &sources.services());
    let mut vars: Vec<(String, String)> = Vec::new();
    let mut set = |name: String, value: String| match vars.iter_mut().find(|(n, _)| *n == name) {
        Some(var) => var.1 = value,
        None => vars.push((name, value)),
    };
    for from in member.spec.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (kind, name, optional) = if let Some(r) = &from.config_map_ref {
            (Kind::ConfigMap, r.name.as_str(), r.optional)
        } else if let Some(r) = &from.secret_ref {
            (Kind::Secret, r.name.as_str(), r.optional)
        } else {
            continue;
        };
        let Some(data) = fetch(sources, kind, pod, name, optional)? else { continue };
        for (key, bytes) in data {
            set(format!("{prefix}{key}"), String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    let mut known: Vars = vars.iter().cloned().collect();
    for var in member.spec.env.iter().flatten() {
        if let Some(value) = env_value(pod, member, var, facts, sources, &known, &services)? {
            known.insert(var.name.clone(), value.clone());
            match vars.iter_mut().find(|(n, _)| *n == var.name) {
                Some(v) => v.1 = value,
                None => vars.push((var.name.clone(), value)),
            }
        }
    }
    vars.extend(services.into_iter().filter(|(name, _)| !known.contains_key(name)));
    Ok(vars)
}

fn env_value(
    pod: &PodView,
    member: &Member,
    var: &EnvVar,
    facts: &Facts,
    sources: &dyn Sources,
    known: &Vars,
    services: &Vars,
) -> Result<Option<String>, ConfigError> {
    match &var.value_from {
        None => {
            let lookup = |n: &str| known.get(n).or_else(|| services.get(n)).cloned();
            Ok(Some(expand(var.value.as_deref().unwrap_or_default(), lookup)))
        }
        Some(from) => value_from(pod, member, from, facts, sources),
    }
}

fn value_from(
    pod: &PodView,
    member: &Member,
    from: &EnvVarSource,
    facts: &Facts,
    sources: &dyn Sources,
) -> Result<Option<String>, ConfigError> {
    if let Some(r) = &from.field_ref {
        return match downward::field(pod, &r.field_path, facts) {
            Some(value) => Ok(Some(value)),
            None => Err(ConfigError(format!("unsupported fieldPath: {}", r.field_path))),
        };
    }
    if let Some(r) = &from.resource_field_ref {
        return downward::resource(pod, member.name(), r, facts).map(Some).map_err(ConfigError);
    }
    let (kind, name, key, optional) = if let Some(r) = &from.config_map_key_ref {
        (Kind::ConfigMap, r.name.as_str(), r.key.as_str(), r.optional)
    } else if let Some(r) = &from.secret_key_ref {
        (Kind::Secret, r.name.as_str(), r.key.as_str(), r.optional)
    } else {
        return Ok(None);
    };
    let Some(data) = fetch(sources, kind, pod, name, optional)? else { return Ok(None) };
    match data.get(key) {
        Some(bytes) => Ok(Some(String::from_utf8_lossy(bytes).into_owned())),
        None if optional == Some(true) => Ok(None),
        None => Err(ConfigError(format!("couldn't find key {key} in {} {}/{name}", kind.title(), pod.namespace))),
    }
}

fn fetch(
    sources: &dyn Sources,
    kind: Kind,
    pod: &PodView,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<BTreeMap<String, Vec<u8>>>, ConfigError> {
    match sources.data(kind, &pod.namespace, name) {
        Some(data) => Ok(Some(data)),
        None if optional == Some(true) => Ok(None),
        None => Err(ConfigError(format!("{} \"{name}\" not found", kind.singular()))),
    }
}

/// Variables of the services of the pod's namespace (unless `enableServiceLinks: false`) and of `default/kubernetes`.
pub fn service_vars(pod: &PodView, services: &[Value]) -> Vars {
    let links = pod.spec.enable_service_links.unwrap_or(true);
    let mut vars = Vars::new();
    // The namespace's own `kubernetes` service wins over the cluster's, so it comes last.
    let cluster = |s: &&Value| {
        s.str_at("/metadata/namespace") == Some("default") && s.str_at("/metadata/name") == Some("kubernetes")
    };
    let own = |s: &&Value| links && s.str_at("/metadata/namespace") == Some(&pod.namespace);
    for service in services.iter().filter(cluster).chain(services.iter().filter(own)) {
        one_service(service, &mut vars);
    }
    vars
}

fn one_service(service: &Value, vars: &mut Vars) {
    let ip = match service.str_at("/spec/clusterIP") {
        None | Some("" | "None") => return,
        Some(ip) => ip,
    };
    let ports = service.items_at("/spec/ports");
    let Some(first) = ports.first() else { return };
    let upper = |s: &str| s.to_uppercase().replace('-', "_");
    let name = upper(service.str_at("/metadata/name").unwrap_or_default());
    let number = |p: &Value| p.int_at("/port").unwrap_or(0);
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    vars.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
    vars.insert(format!("{name}_SERVICE_PORT"), number(first).to_string());
    for (i, port) in ports.iter().enumerate() {
        let n = number(port);
        if let Some(port_name) = port.str_at("/name").filter(|n| !n.is_empty()) {
            vars.insert(format!("{name}_SERVICE_PORT_{}", upper(port_name)), n.to_string());
        }
        let protocol = port.str_at("/protocol").unwrap_or("TCP");
        let url = format!("{}://{host}:{n}", protocol.to_lowercase());
        let prefix = format!("{name}_PORT_{n}_{}", protocol.to_uppercase());
        if i == 0 {
            vars.insert(format!("{name}_PORT"), url.clone());
        }
        vars.insert(prefix.clone(), url);
        vars.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
        vars.insert(format!("{prefix}_PORT"), n.to_string());
        vars.insert(format!("{prefix}_ADDR"), ip.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::sources::fake::FakeSources;
    use serde_json::json;
    use test_case::test_case;

    fn pod(container: Value) -> PodView {
        PodView::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [container]}}))
            .unwrap()
    }

    fn sources() -> FakeSources {
        FakeSources::default()
            .with(Kind::ConfigMap, "n", "cm", &[("a", "1"), ("b", "2")])
            .with(Kind::Secret, "n", "s", &[("pw", "x")])
            .service(json!({"metadata": {"name": "kubernetes", "namespace": "default"},
                "spec": {"clusterIP": "10.43.0.1", "ports": [{"name": "https", "port": 443}]}}))
            .service(json!({"metadata": {"name": "my-db", "namespace": "n"},
                "spec": {"clusterIP": "10.43.0.9", "ports": [{"port": 53, "protocol": "UDP"}]}}))
            .service(json!({"metadata": {"name": "headless", "namespace": "n"},
                "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}))
    }

    fn env(container: Value) -> Result<BTreeMap<String, String>, ConfigError> {
        let pod = pod(container);
        environment(&pod, &pod.members[0], &Facts::default(), &sources()).map(|v| v.into_iter().collect())
    }

    #[test]
    fn values_see_what_stands_before_them() {
        let got = env(json!({"name": "c", "envFrom": [{"prefix": "CM_", "configMapRef": {"name": "cm"}}],
            "env": [{"name": "X", "value": "$(CM_a)"}, {"name": "Y", "value": "$(X)$(LATER)"},
                {"name": "LATER", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pw"}}},
                {"name": "DB", "value": "$(MY_DB_SERVICE_HOST)"}, {"name": "CM_b", "value": "own"}]}))
        .unwrap();
        assert_eq!((got["X"].as_str(), got["Y"].as_str(), got["LATER"].as_str()), ("1", "1$(LATER)", "x"));
        assert_eq!((got["DB"].as_str(), got["CM_b"].as_str()), ("10.43.0.9", "own"));
    }

    #[test]
    fn services_are_announced() {
        let got = env(json!({"name": "c"})).unwrap();
        assert_eq!(got["KUBERNETES_SERVICE_PORT_HTTPS"], "443");
        assert_eq!(got["MY_DB_PORT"], "udp://10.43.0.9:53");
        assert_eq!(got["MY_DB_PORT_53_UDP_ADDR"], "10.43.0.9");
        assert!(!got.keys().any(|k| k.starts_with("HEADLESS")));
    }

    #[test_case(json!({"configMapKeyRef": {"name": "cm", "key": "z"}}), Err("couldn't find key z in ConfigMap n/cm"); "key")]
    #[test_case(json!({"configMapKeyRef": {"name": "no", "key": "z"}}), Err("configmap \"no\" not found"); "configmap")]
    #[test_case(json!({"secretKeyRef": {"name": "no", "key": "z"}}), Err("secret \"no\" not found"); "secret")]
    #[test_case(json!({"secretKeyRef": {"name": "no", "key": "z", "optional": true}}), Ok(()); "optional")]
    #[test_case(json!({"fieldRef": {"fieldPath": "spec.x"}}), Err("unsupported fieldPath: spec.x"); "field")]
    fn refuses(from: Value, want: Result<(), &str>) {
        let got = env(json!({"name": "c", "env": [{"name": "X", "valueFrom": from}]}));
        assert_eq!(got.map(|v| assert!(!v.contains_key("X"))).map_err(|e| e.0), want.map_err(str::to_owned));
    }
}
