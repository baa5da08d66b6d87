//! What APIServices say, and what has to be done about them. Pure.
//!
//! Rules: upstream `kube-aggregator/pkg/controllers/status/remote`, `…/autoregister` and
//! `kubernetes/pkg/controlplane/controller/crdregistration`.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::api::value::ValueExt;
use crate::client::Trust;
use crate::registry::outward::ServicePort;

/// Marks APIServices that the server makes itself, and keeps as they should be.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Priorities of what definitions serve. Upstream's.
const DEFINED_GROUP_PRIORITY: i64 = 1000;
const DEFINED_VERSION_PRIORITY: i64 = 100;

/// An APIService that is served elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// `v1beta1.metrics.k8s.io`.
    pub name: String,
    /// API group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Who serves it.
    pub service: ServicePort,
    /// Whose certificate that one shows.
    pub trust: Trust,
    /// The higher, the earlier the group comes.
    pub group_priority: i64,
    /// The same for the version within its group.
    pub version_priority: i64,
    /// It answered lately.
    pub available: bool,
}

impl Remote {
    /// From an APIService; none for a local one.
    pub fn of(apiservice: &Value) -> Option<Self> {
        let service = apiservice.get_at("/spec/service").filter(|s| s.is_object())?;
        let text = |at: &str| apiservice.str_at(at).unwrap_or_default().to_owned();
        let trust = match apiservice.bool_at("/spec/insecureSkipTLSVerify") {
            Some(true) => Trust::Anybody,
            // What is no base64 did not pass the wire table.
            _ => Trust::of_bundle(STANDARD.decode(text("/spec/caBundle")).unwrap_or_default()),
        };
        let available = condition(apiservice).is_some_and(|c| c.str_at("/status") == Some("True"));
        let priority = |at: &str| apiservice.int_at(at).unwrap_or(0);
        Some(Self {
            name: text("/metadata/name"),
            group: text("/spec/group"),
            version: text("/spec/version"),
            service: ServicePort::of(service),
            trust,
            group_priority: priority("/spec/groupPriorityMinimum"),
            version_priority: priority("/spec/versionPriority"),
            available,
        })
    }

    /// The path that it must answer.
    pub fn path(&self) -> String {
        format!("/apis/{}/{}", self.group, self.version)
    }
}

fn condition(apiservice: &Value) -> Option<&Value> {
    apiservice.items_at("/status/conditions").iter().find(|c| c.str_at("/type") == Some("Available"))
}

/// Whether an APIService is available: reason and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// It is.
    pub available: bool,
    /// Why, in a word.
    pub reason: &'static str,
    /// Why.
    pub message: String,
}

impl Verdict {
    /// The reason of a failure that only asking finds; others pass with a change of objects.
    pub const ASKED: &str = "FailedDiscoveryCheck";

    /// It answered.
    pub fn passed() -> Self {
        Self { available: true, reason: "Passed", message: "all checks passed".into() }
    }

    /// It did not.
    pub fn silent(why: String) -> Self {
        Self { available: false, reason: Self::ASKED, message: why }
    }

    fn missing(reason: &'static str, message: String) -> Self {
        Self { available: false, reason, message }
    }

    /// True when an APIService says just that.
    pub fn is_told_by(&self, apiservice: &Value) -> bool {
        let status = if self.available { "True" } else { "False" };
        condition(apiservice).is_some_and(|c| {
            c.str_at("/status") == Some(status)
                && c.str_at("/reason") == Some(self.reason)
                && c.str_at("/message") == Some(&self.message)
        })
    }
}

/// What can be said without asking. None when it has to be asked.
pub fn look(asked: &ServicePort, service: Option<&Value>, slices: &[Value]) -> Option<Verdict> {
    let ServicePort { namespace, name, port } = asked;
    let Some(service) = service else {
        return Some(Verdict::missing("ServiceNotFound", format!("service/{name} in {namespace:?} is not present")));
    };
    if service.str_at("/spec/type").unwrap_or("ClusterIP") != "ClusterIP" {
        return None;
    }
    let Some(found) = service.items_at("/spec/ports").iter().find(|p| p.int_at("/port") == Some(*port)) else {
        let why = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Some(Verdict::missing("ServicePortError", why));
    };
    if slices.is_empty() {
        let why = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Some(Verdict::missing("EndpointsNotFound", why));
    }
    let port_name = found.str_at("/name").unwrap_or_default();
    let ready = |s: &&Value| s.items_at("/endpoints").iter().any(|e| e.bool_at("/conditions/ready") != Some(false));
    let named = |s: &Value| {
        let mut ports = s.items_at("/ports").iter();
        ports.any(|p| p.str_at("/name").unwrap_or_default() == port_name && p.int_at("/port").is_some())
    };
    if !slices.iter().filter(ready).any(named) {
        let why = format!(
            "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
        );
        return Some(Verdict::missing("MissingEndpoints", why));
    }
    None
}

/// What to do about the APIServices of definitions.
#[derive(Debug, Default, PartialEq)]
pub struct Registrations {
    /// To be made.
    pub create: Vec<Value>,
    /// Names of those that nothing is served for any more.
    pub delete: Vec<String>,
}

/// Every version that a definition serves has an APIService, and so has every version of `own`, the groups that the server
/// may or may not serve. One that somebody else made, or made theirs, is theirs.
pub fn registrations(own: &[(String, String)], definitions: &[Value], apiservices: &[Value]) -> Registrations {
    let mut wanted: BTreeSet<(String, String)> = own.iter().cloned().collect();
    for crd in definitions {
        let conditions = crd.items_at("/status/conditions");
        let established =
            conditions.iter().any(|c| c.str_at("/type") == Some("Established") && c.str_at("/status") == Some("True"));
        let served = crd.items_at("/spec/versions").iter().filter(|v| v.bool_at("/served") == Some(true));
        for version in served.filter(|_| established) {
            let text = |v: &Value, at: &str| v.str_at(at).unwrap_or_default().to_owned();
            wanted.insert((text(crd, "/spec/group"), text(version, "/name")));
        }
    }
    let name = |(group, version): &(String, String)| format!("{version}.{group}");
    let known: BTreeSet<&str> = apiservices.iter().filter_map(|a| a.str_at("/metadata/name")).collect();
    let names: BTreeSet<String> = wanted.iter().map(name).collect();
    let is_local = |a: &&Value| a.get_at("/spec/service").is_none_or(Value::is_null);
    let managed = |a: &&Value| a["metadata"]["labels"][MANAGED] == "true" && is_local(a);
    let gone = apiservices.iter().filter(managed).filter_map(|a| a.str_at("/metadata/name"));
    Registrations {
        create: wanted.iter().filter(|w| !known.contains(&*name(w))).map(apiservice).collect(),
        delete: gone.filter(|n| !names.contains(*n)).map(str::to_owned).collect(),
    }
}

fn apiservice((group, version): &(String, String)) -> Value {
    json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": format!("{version}.{group}"), "labels": {MANAGED: "true"}},
        "spec": {"group": group, "version": version, "groupPriorityMinimum": DEFINED_GROUP_PRIORITY,
            "versionPriority": DEFINED_VERSION_PRIORITY}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn asked() -> ServicePort {
        ServicePort { namespace: "n".into(), name: "s".into(), port: 443 }
    }

    fn slice(port: &str, ready: bool) -> Value {
        json!({"ports": [{"name": port, "port": 8443}],
            "endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": ready}}]})
    }

    const PORTS: &str = r#"{"spec": {"type": "ClusterIP", "ports": [{"name": "h", "port": 443}]}}"#;

    #[test_case("null", &[] => Some("ServiceNotFound"); "no service")]
    #[test_case(r#"{"spec": {"ports": [{"port": 80}]}}"#, &[] => Some("ServicePortError"); "another port")]
    #[test_case(PORTS, &[] => Some("EndpointsNotFound"); "no slices")]
    #[test_case(PORTS, &[slice("h", false)] => Some("MissingEndpoints"); "nobody ready")]
    #[test_case(PORTS, &[slice("x", true)] => Some("MissingEndpoints"); "another port of the slice")]
    #[test_case(PORTS, &[slice("h", true)] => None; "to be asked")]
    #[test_case(r#"{"spec": {"type": "ExternalName"}}"#, &[] => None; "outside")]
    fn looks(service: &str, slices: &[Value]) -> Option<&'static str> {
        let service: Value = serde_json::from_str(service).unwrap();
        look(&asked(), Some(&service).filter(|s| !s.is_null()), slices).map(|v| v.reason)
    }

    #[test]
    fn what_is_served_elsewhere_is_read() {
        let mut object = json!({"metadata": {"name": "v1.x.io"}, "spec": {"group": "x.io", "version": "v1",
            "service": {"namespace": "n", "name": "s", "port": 8443}, "caBundle": "YQ==", "versionPriority": 7}});
        let remote = Remote::of(&object).unwrap();
        assert_eq!((remote.service.port, &remote.trust, remote.available), (8443, &Trust::Ca(b"a".to_vec()), false));
        object["spec"]["insecureSkipTLSVerify"] = true.into();
        object["status"] = json!({"conditions": [{"type": "Available", "status": "True"}]});
        let remote = Remote::of(&object).unwrap();
        assert_eq!((remote.trust, remote.available), (Trust::Anybody, true));
        assert_eq!(Remote::of(&json!({"spec": {"group": "apps", "version": "v1"}})), None);
    }

    #[test]
    fn definitions_have_apiservices() {
        let crd = |established: &str| {
            json!({"spec": {"group": "x.io", "versions": [{"name": "v1", "served": true}, {"name": "v2", "served": true},
                {"name": "v3", "served": false}]}, "status": {"conditions": [{"type": "Established", "status": established}]}})
        };
        let theirs = json!({"metadata": {"name": "v2.x.io"}});
        let old = json!({"metadata": {"name": "v1.old.io", "labels": {MANAGED: "true"}}});
        let local = json!({"metadata": {"name": "v1.apps", "labels": {MANAGED: "onstart"}}});
        let known = [theirs, old, local];
        let plan = registrations(&[], &[crd("True")], &known);
        assert_eq!(plan.create.iter().map(|o| &o["metadata"]["name"]).collect::<Vec<_>>(), ["v1.x.io"]);
        assert_eq!(plan.delete, ["v1.old.io"]);
        assert_eq!(registrations(&[], &[crd("False")], &known[..1]), Registrations::default());
    }

    #[test]
    fn own_groups_have_apiservices_until_somebody_takes_them_over() {
        let own = [("metrics.k8s.io".to_owned(), "v1beta1".to_owned())];
        let plan = registrations(&own, &[], &[]);
        assert_eq!(plan.create[0]["metadata"]["name"], "v1beta1.metrics.k8s.io");
        assert_eq!(registrations(&[], &[], &plan.create).delete, ["v1beta1.metrics.k8s.io"], "not served any more");
        let mut theirs = plan.create[0].clone();
        theirs["spec"]["service"] = json!({"namespace": "kube-system", "name": "metrics-server"});
        assert_eq!(registrations(&[], &[], &[theirs]), Registrations::default());
    }
}
