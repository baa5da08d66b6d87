//! From a Service and its pods to EndpointSlices and the legacy Endpoints. No IO.
//!
//! Rules: upstream `k8s.io/endpointslice` and `pkg/controller/endpoint`.
//! **Invariant:** a slice holds at most [`SLICE_MAX`] endpoints, all of one address family and one set of ports.
//! **Invariant:** an endpoint stays in the slice it is in, so that one pod's change rewrites one slice.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::topology;
use crate::api::services::SERVICE_NAME_LABEL;
use crate::api::value::ValueExt;
use crate::util::families::Family;
use crate::util::order::Arrange;

/// Endpoints of one slice.
pub const SLICE_MAX: usize = 100;
/// Addresses of one Endpoints object; more are cut off, and an annotation says so.
pub const ENDPOINTS_MAX: usize = 1000;

/// Says who writes a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// This controller, in that label.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// One address of one pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Address {
    /// IP.
    pub ip: String,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// Takes new connections.
    pub ready: bool,
    /// Answers, even if it is being deleted.
    pub serving: bool,
    /// Its pod is being deleted.
    pub terminating: bool,
    /// For DNS; only where the pod asks for it.
    pub hostname: Option<String>,
    /// Its node, or empty.
    pub node: String,
    /// Its zone, or empty.
    pub zone: String,
    /// The zone whose clients should come to it, where the Service asks for topology-aware routing and it can be had.
    pub serves: Option<String>,
    /// Namespace, name and uid of the pod.
    pub pod: (String, String, String),
    /// The Service's ports, resolved for this pod.
    pub ports: Vec<Value>,
}

/// The addresses of a pod behind a Service; none when it has ended or has no IP. `zone` is its node's.
pub fn addresses(service: &Value, pod: &Value, zone: &str) -> Vec<Address> {
    if matches!(pod.str_at("/status/phase"), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let text = |p: &str| pod.str_at(p).unwrap_or_default().to_owned();
    let terminating = pod.str_at("/metadata/deletionTimestamp").is_some();
    let serving = crate::controllers::common::conditions::is_true(pod.items_at("/status/conditions"), "Ready");
    let publish = service.bool_at("/spec/publishNotReadyAddresses").unwrap_or(false);
    let hostname = text("/spec/hostname");
    let named = !hostname.is_empty() && pod.str_at("/spec/subdomain") == service.str_at("/metadata/name");
    let ports: Vec<Value> = service.items_at("/spec/ports").iter().filter_map(|p| port(p, pod)).collect();
    let mut ips: Vec<&str> = pod.items_at("/status/podIPs").iter().filter_map(|i| i.str_at("/ip")).collect();
    if ips.is_empty() {
        ips.extend(pod.str_at("/status/podIP"));
    }
    let make = |ip: &str| Address {
        ip: ip.to_owned(),
        family: Family::of_text(ip).name(),
        ready: publish || (serving && !terminating),
        serving,
        terminating,
        hostname: named.then(|| hostname.clone()),
        node: text("/spec/nodeName"),
        zone: zone.to_owned(),
        serves: None,
        pod: (text("/metadata/namespace"), text("/metadata/name"), text("/metadata/uid")),
        ports: ports.clone(),
    };
    ips.into_iter().filter(|ip| !ip.is_empty()).map(make).collect()
}

/// A Service port as the pod has it; none when it names a container port that the pod does not have.
fn port(service_port: &Value, pod: &Value) -> Option<Value> {
    let protocol = service_port.str_at("/protocol").unwrap_or("TCP");
    let target = service_port.get("targetPort");
    let number = match target.and_then(Value::as_str) {
        None => target.and_then(Value::as_i64).filter(|n| *n != 0).or_else(|| service_port.int_at("/port"))?,
        Some(name) => {
            let sidecars = pod.items_at("/spec/initContainers").iter().filter(|c| c["restartPolicy"] == "Always");
            let containers = pod.items_at("/spec/containers").iter().chain(sidecars);
            let mut ports = containers.flat_map(|c| c.items_at("/ports"));
            let same =
                |p: &&Value| p.str_at("/name") == Some(name) && p.str_at("/protocol").unwrap_or("TCP") == protocol;
            ports.find(same)?.int_at("/containerPort")?
        }
    };
    let mut out =
        json!({"name": service_port.str_at("/name").unwrap_or_default(), "port": number, "protocol": protocol});
    if let Some(app) = service_port.str_at("/appProtocol") {
        out["appProtocol"] = app.into();
    }
    Some(out)
}

/// Whose clients should come to an endpoint that takes any, by what the Service prefers. Upstream: `trafficdist`.
fn hints(distribution: &str, a: &Address) -> Option<Value> {
    let own = |name: &str| (!name.is_empty()).then(|| json!([{"name": name}]));
    if let Some(zone) = &a.serves {
        return Some(json!({"forZones": [{"name": zone}]}));
    }
    let mut hints = Map::new();
    if a.ready && matches!(distribution, "PreferClose" | "PreferSameZone" | "PreferSameNode") {
        hints.extend(own(&a.zone).map(|zones| ("forZones".to_owned(), zones)));
    }
    if a.ready && distribution == "PreferSameNode" {
        hints.extend(own(&a.node).map(|nodes| ("forNodes".to_owned(), nodes)));
    }
    (!hints.is_empty()).then(|| hints.into())
}

fn endpoint(a: &Address, distribution: &str) -> Value {
    let (ns, name, uid) = &a.pod;
    let mut out = json!({
        "addresses": [a.ip],
        "conditions": {"ready": a.ready, "serving": a.serving, "terminating": a.terminating},
        "targetRef": {"kind": "Pod", "namespace": ns, "name": name, "uid": uid},
    });
    for (key, value) in [("nodeName", &a.node), ("zone", &a.zone)] {
        if !value.is_empty() {
            out[key] = value.as_str().into();
        }
    }
    if let Some(hostname) = &a.hostname {
        out["hostname"] = hostname.as_str().into();
    }
    if let Some(hints) = hints(distribution, a) {
        out["hints"] = hints;
    }
    out
}

/// Says of each address whose clients should come to it, where a Service asks for that; and what to tell of it, for each
/// family: whether it can be had, and why not. `existing` are the slices of before.
pub fn spread(
    service: &Value,
    addresses: &mut [Address],
    existing: &[Value],
    parts: Option<&topology::Parts>,
) -> Vec<Result<&'static str, String>> {
    let mut told = Vec::new();
    for family in ["IPv4", "IPv6"] {
        if !service.items_at("/spec/ipFamilies").iter().any(|f| f == family) {
            continue;
        }
        let of_family = existing.iter().filter(|s| s.str_at("/addressType") == Some(family));
        let before: BTreeMap<&str, &str> = of_family
            .flat_map(|s| s.items_at("/endpoints"))
            .filter_map(|e| Some((pod_uid(e), e.str_at("/hints/forZones/0/name")?)))
            .collect();
        let mut ready: Vec<&mut Address> = addresses.iter_mut().filter(|a| a.family == family && a.ready).collect();
        let spots: Vec<topology::Spot<'_>> = ready
            .iter()
            .map(|a| topology::Spot { zone: &a.zone, before: before.get(a.pod.2.as_str()).copied() })
            .collect();
        match topology::zones(&spots, parts) {
            Ok(zones) => {
                ready.iter_mut().zip(zones).for_each(|(a, zone)| a.serves = Some(zone));
                told.extend(before.is_empty().then_some(Ok(family)));
            }
            Err(why) => told.push(Err(format!("{why}, addressType: {family}"))),
        }
    }
    told
}

/// What to do with the slices of a Service.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SlicePlan {
    /// New slices, without owner.
    pub create: Vec<Value>,
    /// Slices with changed content.
    pub update: Vec<Value>,
    /// Names of slices that are not needed.
    pub delete: Vec<String>,
}

/// Labels of a Service's slices.
fn slice_labels(service: &Value) -> Value {
    let mut labels = copied_labels(service);
    labels.insert(SERVICE_NAME_LABEL.into(), service["metadata"]["name"].clone());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels.into()
}

fn copied_labels(service: &Value) -> Map<String, Value> {
    let own = service.get_at("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut labels: Map<String, Value> =
        own.into_iter().filter(|(k, _)| ![SERVICE_NAME_LABEL, MANAGED_BY, HEADLESS].contains(&k.as_str())).collect();
    if service.str_at("/spec/clusterIP") == Some("None") {
        labels.insert(HEADLESS.into(), "".into());
    }
    labels
}

/// Fits `addresses` into the existing slices, and into new ones where these are full.
pub fn slices(service: &Value, addresses: &[Address], existing: &[Value]) -> SlicePlan {
    let families = service.items_at("/spec/ipFamilies").iter().filter_map(Value::as_str);
    let mut families: BTreeSet<&str> = families.collect();
    if families.is_empty() {
        families.insert("IPv4");
    }
    let labels = slice_labels(service);
    let mut plan = SlicePlan::default();
    let strangers = existing.iter().filter(|s| !s.str_at("/addressType").is_some_and(|t| families.contains(t)));
    plan.delete.extend(strangers.map(name));
    for family in families {
        let of_family: Vec<&Value> = existing.iter().filter(|s| s.str_at("/addressType") == Some(family)).collect();
        let mut groups: BTreeMap<String, (Vec<Value>, Vec<&Address>)> = BTreeMap::new();
        for a in addresses.iter().filter(|a| a.family == family) {
            let group = groups.entry(json!(a.ports).to_string()).or_insert_with(|| (a.ports.clone(), Vec::new()));
            group.1.push(a);
        }
        if groups.is_empty() {
            // A Service without pods has an empty slice, so that its readers know.
            groups.insert(String::new(), (Vec::new(), Vec::new()));
        }
        let mut used = BTreeSet::new();
        for (ports, members) in groups.into_values() {
            fit(service, &labels, family, &ports, members, &of_family, &mut used, &mut plan);
        }
        plan.delete.extend(of_family.iter().map(|s| name(s)).filter(|n| !used.contains(n)));
    }
    plan
}

fn name(slice: &Value) -> String {
    slice.str_at("/metadata/name").unwrap_or_default().to_owned()
}

fn pod_uid(endpoint: &Value) -> &str {
    endpoint.str_at("/targetRef/uid").unwrap_or_default()
}

/// One group of equal ports into its slices.
#[allow(clippy::too_many_arguments)] // the pieces of one loop, cut out to be read
fn fit(
    service: &Value,
    labels: &Value,
    family: &str,
    ports: &[Value],
    members: Vec<&Address>,
    existing: &[&Value],
    used: &mut BTreeSet<String>,
    plan: &mut SlicePlan,
) {
    let prefers = service.str_at("/spec/trafficDistribution").filter(|_| !topology::is_asked_for(service));
    let distribution = prefers.unwrap_or_default();
    let mut wanted: BTreeMap<String, Value> =
        members.iter().map(|a| (a.pod.2.clone(), endpoint(a, distribution))).collect();
    let mut kept: Vec<(&Value, Vec<Value>)> = Vec::new();
    for slice in existing.iter().filter(|s| s.items_at("/ports") == ports) {
        let endpoints = slice.items_at("/endpoints").iter().filter_map(|e| wanted.remove(pod_uid(e)));
        kept.push((slice, endpoints.take(SLICE_MAX).collect()));
    }
    let mut rest = wanted.into_values();
    for (_, endpoints) in &mut kept {
        let room = SLICE_MAX - endpoints.len();
        endpoints.extend(rest.by_ref().take(room));
    }
    let everything_is_empty = kept.iter().all(|(_, e)| e.is_empty()) && members.is_empty();
    for (i, (slice, endpoints)) in kept.into_iter().enumerate() {
        if endpoints.is_empty() && !(everything_is_empty && i == 0) {
            continue;
        }
        used.insert(name(slice));
        if slice.items_at("/endpoints") != endpoints || slice.get_at("/metadata/labels") != Some(labels) {
            let mut changed = slice.clone();
            changed["endpoints"] = endpoints.into();
            changed["metadata"]["labels"] = labels.clone();
            plan.update.push(changed);
        }
    }
    let prefix = format!("{}-", service.str_at("/metadata/name").unwrap_or_default());
    let new = |endpoints: &[Value]| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"generateName": prefix, "labels": labels},
            "addressType": family, "endpoints": endpoints, "ports": ports,
        })
    };
    let rest: Vec<Value> = rest.collect();
    plan.create.extend(rest.chunks(SLICE_MAX).map(new));
    if everything_is_empty && !existing.iter().any(|s| used.contains(&name(s))) {
        plan.create.push(new(&[]));
    }
}

/// The Endpoints object of a Service, without its resourceVersion.
pub fn endpoints(service: &Value, addresses: &[Address]) -> Value {
    let family = service.str_at("/spec/ipFamilies/0").unwrap_or("IPv4");
    let mut live: Vec<&Address> =
        addresses.iter().filter(|a| a.family == family && (!a.terminating || a.ready)).collect();
    live.arrange_by(|a, b| (!a.ready, &a.ip, &a.pod.2).cmp(&(!b.ready, &b.ip, &b.pod.2)));
    let cut = live.len() > ENDPOINTS_MAX;
    live.truncate(ENDPOINTS_MAX);
    let mut subsets: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for a in live {
        // Upstream leaves out an empty port name here, unlike in slices.
        let mut ports = a.ports.clone();
        ports.iter_mut().filter(|p| p["name"] == "").for_each(|p| drop(p.remove_at("/name")));
        let subset = subsets.entry(json!(ports).to_string()).or_default();
        if !ports.is_empty() {
            subset.insert("ports".into(), ports.into());
        }
        let list = if a.ready { "addresses" } else { "notReadyAddresses" };
        if let Some(all) = subset.entry(list).or_insert_with(|| json!([])).as_array_mut() {
            all.push(endpoint_address(a));
        }
    }
    let mut labels = copied_labels(service);
    labels.insert("endpoints.kubernetes.io/managed-by".into(), "endpoint-controller".into());
    let mut metadata = json!({"name": service["metadata"]["name"], "namespace": service["metadata"]["namespace"],
        "labels": labels});
    if cut {
        metadata["annotations"] = json!({OVER_CAPACITY: "truncated"});
    }
    let mut out = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata});
    if !subsets.is_empty() {
        out["subsets"] = subsets.into_values().map(Value::Object).collect();
    }
    out
}

fn endpoint_address(a: &Address) -> Value {
    let (ns, name, uid) = &a.pod;
    let mut out = json!({"ip": a.ip});
    if let Some(hostname) = &a.hostname {
        out["hostname"] = hostname.as_str().into();
    }
    if !a.node.is_empty() {
        out["nodeName"] = a.node.as_str().into();
    }
    out["targetRef"] = json!({"kind": "Pod", "namespace": ns, "name": name, "uid": uid});
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn service() -> Value {
        json!({"metadata": {"name": "web", "namespace": "n", "labels": {"team": "a"}}, "spec": {"clusterIP": "10.43.0.1",
            "ipFamilies": ["IPv4"], "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]}})
    }

    fn pod(i: usize) -> Value {
        json!({"metadata": {"name": format!("p{i}"), "namespace": "n", "uid": format!("u{i:04}")},
            "spec": {"nodeName": "x", "containers": [{"ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": format!("10.0.{}.{}", i / 250, i % 250 + 1),
                "conditions": [{"type": "Ready", "status": "True"}]}})
    }

    fn all(pods: std::ops::Range<usize>) -> Vec<Address> {
        pods.flat_map(|i| addresses(&service(), &pod(i), "z")).collect()
    }

    /// What the server makes of new slices.
    fn stored(plan: SlicePlan) -> Vec<Value> {
        let mut all = plan.create;
        for (i, slice) in all.iter_mut().enumerate() {
            slice["metadata"]["name"] = format!("web-{i}").into();
        }
        all
    }

    #[test]
    fn an_endpoint_says_all_there_is() {
        let want = json!({"addresses": ["10.0.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": "n", "name": "p0", "uid": "u0000"}, "nodeName": "x", "zone": "z"});
        let plan = slices(&service(), &all(0..1), &[]);
        assert_eq!(plan.create[0]["endpoints"][0], want);
        assert_eq!(plan.create[0]["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
        assert_eq!(plan.create[0]["metadata"]["labels"][SERVICE_NAME_LABEL], "web");
        assert_eq!(plan.create[0]["metadata"]["labels"]["team"], "a");
    }

    #[test_case(json!({"status": {"phase": "Failed"}}), None; "an ended pod is none")]
    #[test_case(json!({"status": {"podIP": null}}), None; "nor is one without an address")]
    #[test_case(json!({"status": {"conditions": []}}), Some((false, false, false)); "not ready")]
    #[test_case(json!({"metadata": {"deletionTimestamp": "t"}}), Some((false, true, true)); "going, but still answering")]
    fn conditions(change: Value, want: Option<(bool, bool, bool)>) {
        let mut pod = pod(0);
        json_patch::merge(&mut pod, &change);
        let got = addresses(&service(), &pod, "");
        assert_eq!(got.first().map(|a| (a.ready, a.serving, a.terminating)), want);
    }

    #[test_case("PreferSameZone", json!({"forZones": [{"name": "z"}]}))]
    #[test_case("PreferClose", json!({"forZones": [{"name": "z"}]}))]
    #[test_case("PreferSameNode", json!({"forZones": [{"name": "z"}], "forNodes": [{"name": "x"}]}))]
    #[test_case("", Value::Null)]
    fn endpoints_say_whose_they_would_be(distribution: &str, want: Value) {
        let mut service = service();
        service["spec"]["trafficDistribution"] = distribution.into();
        let mut pods = all(0..2);
        pods[1].ready = false;
        let plan = slices(&service, &pods, &[]);
        assert_eq!(plan.create[0]["endpoints"][0]["hints"], want);
        assert_eq!(plan.create[0]["endpoints"][1]["hints"], Value::Null, "nobody comes to one that is not ready");
        // Of what was preferred before nothing is left.
        let other = json!({"metadata": service["metadata"], "spec": {"ipFamilies": ["IPv4"]}});
        let again = slices(&other, &pods, &stored(plan));
        assert_eq!(again.update.len(), usize::from(!want.is_null()));
    }

    /// All pods of a zone, and none of the other's: each zone gets half of them, and keeps it.
    #[test]
    fn a_service_that_asks_for_it_is_spread_over_zones() {
        let mut service = service();
        service["metadata"]["annotations"] = json!({"service.kubernetes.io/topology-mode": "Auto"});
        service["spec"]["trafficDistribution"] = "PreferSameNode".into();
        let parts = topology::parts([("y".to_owned(), 1), ("z".to_owned(), 1)].into_iter());
        let zones = |plan: &SlicePlan| -> Vec<String> {
            let ends = plan.create[0].items_at("/endpoints").iter();
            ends.map(|e| e["hints"]["forZones"][0]["name"].as_str().unwrap_or("none").to_owned()).collect()
        };
        let mut pods = all(0..4);
        assert_eq!(spread(&service, &mut pods, &[], parts.as_ref()), [Ok("IPv4")]);
        let plan = slices(&service, &pods, &[]);
        assert_eq!(zones(&plan), ["y", "y", "z", "z"]);
        assert_eq!(plan.create[0]["endpoints"][0]["hints"].get("forNodes"), None);
        let known = stored(plan);
        let mut again = all(0..4);
        assert_eq!(spread(&service, &mut again, &known, parts.as_ref()), [] as [Result<&str, String>; 0]);
        assert_eq!(slices(&service, &again, &known), SlicePlan::default(), "nothing moves");
        // A node that says nothing of its zone ends it, and somebody is told.
        let mut none = all(0..4);
        assert!(spread(&service, &mut none, &known, None)[0].as_ref().is_err_and(|e| e.ends_with("addressType: IPv4")));
        assert_eq!(slices(&service, &none, &known).update.len(), 1);
    }

    #[test]
    fn full_slices_are_followed_by_more_and_changes_touch_one() {
        let slices_of_250 = stored(slices(&service(), &all(0..250), &[]));
        assert_eq!(slices_of_250.iter().map(|s| s.items_at("/endpoints").len()).collect::<Vec<_>>(), [100, 100, 50]);
        assert_eq!(slices(&service(), &all(0..250), &slices_of_250), SlicePlan::default());
        let mut pods = all(0..250);
        pods.remove(120);
        let plan = slices(&service(), &pods, &slices_of_250);
        assert_eq!(
            (plan.create.len(), plan.update.len(), plan.delete.len()),
            (0, 1, 0),
            "the others stay where they are"
        );
    }

    #[test]
    fn the_last_pod_leaves_an_empty_slice() {
        let none = slices(&service(), &[], &[]);
        assert_eq!(none.create.len(), 1);
        assert_eq!(slices(&service(), &[], &stored(none)), SlicePlan::default());
        let one = stored(slices(&service(), &all(0..1), &[]));
        let plan = slices(&service(), &[], &one);
        assert_eq!((plan.create.len(), plan.delete.len()), (1, 1));
        assert_eq!(plan.create[0]["ports"], json!([]));
    }

    #[test]
    fn endpoints_mirror_the_ready_and_the_others() {
        let mut sick = pod(1);
        sick["status"]["conditions"] = json!([]);
        let mut both = all(0..1);
        both.extend(addresses(&service(), &sick, ""));
        let got = endpoints(&service(), &both);
        assert_eq!(got["subsets"][0]["addresses"][0]["ip"], "10.0.0.1");
        assert_eq!(got["subsets"][0]["notReadyAddresses"][0]["ip"], "10.0.0.2");
        assert_eq!(got["subsets"][0]["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
        assert!(endpoints(&service(), &[]).get("subsets").is_none());
        let many = endpoints(&service(), &all(0..1001));
        assert_eq!(many["metadata"]["annotations"][OVER_CAPACITY], "truncated");
    }
}
