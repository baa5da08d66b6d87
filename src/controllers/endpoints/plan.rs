//! From a Service and its pods to EndpointSlices. No IO.
//!
//! Rules: upstream `k8s.io/endpointslice`.
//! **Invariant:** a slice holds at most [`SLICE_MAX`] endpoints, all of one address family and one set of ports.
//! **Invariant:** an endpoint stays in the slice it is in, so that one pod's change rewrites one slice.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::topology;
use crate::api::services::SERVICE_NAME_LABEL;
use crate::api::value::ValueExt;
use crate::util::families::Family;
use crate::util::order::Arrange;

/// Endpoints of one slice.
pub const SLICE_MAX: usize = 100;

/// Says who writes a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// This controller, in that label.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";

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

/// Labels that slices and Endpoints have of their Service.
pub fn copied_labels(service: &Value) -> Map<String, Value> {
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
        let members = addresses.iter().filter(|a| a.family == family);
        slices_of_family(service, &labels, family, members, &of_family, &mut plan);
    }
    plan
}

/// The same within one family. Rule: upstream `reconcileByAddressType`.
fn slices_of_family<'a>(
    service: &Value,
    labels: &Value,
    family: &str,
    members: impl Iterator<Item = &'a Address>,
    existing: &[&Value],
    plan: &mut SlicePlan,
) {
    let prefix = format!("{}-", service.str_at("/metadata/name").unwrap_or_default());
    let new = |endpoints: Vec<Value>, ports: &[Value]| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"generateName": prefix, "labels": labels},
            "addressType": family, "endpoints": endpoints, "ports": ports,
        })
    };
    let prefers = service.str_at("/spec/trafficDistribution").filter(|_| !topology::is_asked_for(service));
    let distribution = prefers.unwrap_or_default();
    let mut groups: BTreeMap<String, (&[Value], BTreeMap<String, Value>)> = BTreeMap::new();
    for a in members {
        let group = groups.entry(ports_key(&a.ports)).or_insert_with(|| (&a.ports, BTreeMap::new()));
        group.1.insert(a.pod.2.clone(), endpoint(a, distribution));
    }
    let mut known: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    let (mut create, mut going): (Vec<Value>, Vec<&Value>) = Default::default();
    for slice in existing {
        if is_owned(slice, service) {
            known.entry(ports_key(slice.items_at("/ports"))).or_default().push(slice);
        } else {
            // The slice of a Service of this name that is gone; the garbage collector would take what was put there.
            plan.delete.push(name(slice));
        }
    }
    let foreign = existing.len() - known.values().map(Vec::len).sum::<usize>();
    for (key, (ports, wanted)) in groups {
        let packed = pack(known.remove(&key).unwrap_or_default(), wanted, labels);
        plan.update.extend(packed.changed.into_iter().map(|(slice, endpoints)| {
            let mut changed = slice.clone();
            changed["endpoints"] = endpoints.into();
            changed["metadata"]["labels"] = labels.clone();
            changed
        }));
        going.extend(packed.going);
        create.extend(packed.new.into_iter().map(|endpoints| new(endpoints, ports)));
    }
    going.extend(known.into_values().flatten());
    if create.is_empty() && going.len() + foreign == existing.len() {
        // A Service without pods has an empty slice, so that its readers know.
        let placeholder = new(Vec::new(), &[]);
        let is_there = |s: &Value| {
            s.items_at("/endpoints").is_empty()
                && s.items_at("/ports").is_empty()
                && s.get_at("/metadata/labels") == Some(labels)
        };
        match going[..] {
            [one] if is_there(one) => going.clear(),
            _ => create.push(placeholder),
        }
    }
    plan.update.extend(recycle(&mut create, &mut going));
    plan.create.extend(create);
    plan.delete.extend(going.into_iter().map(name));
}

/// The same for the same ports, in whichever order they stand. Rule: upstream `NewPortMapKey`.
pub fn ports_key(ports: &[Value]) -> String {
    let text = |p: &Value| {
        let [name, protocol, app] = ["/name", "/protocol", "/appProtocol"].map(|at| p.str_at(at).unwrap_or_default());
        format!("{name}/{}/{protocol}/{app}", p.int_at("/port").unwrap_or_default())
    };
    let mut texts: Vec<String> = ports.iter().map(text).collect();
    texts.arrange();
    texts.join(",")
}

fn is_owned(slice: &Value, service: &Value) -> bool {
    let is_it = |o: &Value| {
        o["kind"] == "Service" && o["apiVersion"] == "v1" && o.str_at("/uid") == service.str_at("/metadata/uid")
    };
    slice.items_at("/metadata/ownerReferences").iter().any(is_it)
}

/// Slices that would go become what would be made anew in their family: name and uid stay, and their watchers see one change
/// where there would be two. Takes what it brings together from both lists.
/// Rule: upstream `finalize`, and `recycleSlices` of the mirroring controller.
pub fn recycle(create: &mut Vec<Value>, going: &mut Vec<&Value>) -> Vec<Value> {
    let mut changed = Vec::new();
    going.retain(|old| {
        let Some(at) = create.iter().rposition(|new| new["addressType"] == old["addressType"]) else { return true };
        let new = create.remove(at);
        let mut kept = (*old).clone();
        kept["endpoints"] = new["endpoints"].clone();
        kept["ports"] = new["ports"].clone();
        for (member, optional) in [("labels", false), ("annotations", false), ("ownerReferences", true)] {
            match new["metadata"].get(member) {
                Some(value) => kept["metadata"][member] = value.clone(),
                None if optional => {}
                None => drop(kept.remove_at(&format!("/metadata/{member}"))),
            }
        }
        changed.push(kept);
        false
    });
    changed
}

fn name(slice: &Value) -> String {
    slice.str_at("/metadata/name").unwrap_or_default().to_owned()
}

fn pod_uid(endpoint: &Value) -> &str {
    endpoint.str_at("/targetRef/uid").unwrap_or_default()
}

/// The endpoints of one set of ports, in slices.
#[derive(Default)]
struct Packed<'a> {
    /// Slices and their endpoints from now on.
    changed: Vec<(&'a Value, Vec<Value>)>,
    /// Slices that nothing is left in.
    going: Vec<&'a Value>,
    /// The endpoints of new slices.
    new: Vec<Vec<Value>>,
}

/// Packs what is `wanted`, by the pods' uids. What a slice has stays there. The rest fills slices that change anyway, the
/// fullest first; what is left then goes into one other slice that takes all of it, the fullest of those, or into new ones.
/// Rule: upstream `reconcileByPortMapping` and `getSliceToFill`.
fn pack<'a>(existing: Vec<&'a Value>, mut wanted: BTreeMap<String, Value>, labels: &Value) -> Packed<'a> {
    let (mut packed, mut unchanged) = (Packed::default(), Vec::new());
    for slice in existing {
        let old = slice.items_at("/endpoints");
        let kept = old.iter().filter_map(|e| wanted.remove(pod_uid(e)));
        let kept: Vec<Value> = kept.take(SLICE_MAX).collect();
        match kept == old {
            true if slice.get_at("/metadata/labels") == Some(labels) => unchanged.push(slice),
            false if kept.is_empty() => packed.going.push(slice),
            _ => packed.changed.push((slice, kept)),
        }
    }
    let mut rest: Vec<Value> = wanted.into_values().collect();
    packed.changed.arrange_by_key(|(_, endpoints)| Reverse(endpoints.len()));
    for (_, endpoints) in &mut packed.changed {
        let room = SLICE_MAX.saturating_sub(endpoints.len()).min(rest.len());
        endpoints.extend(rest.drain(..room));
    }
    while !rest.is_empty() {
        let len = |slice: &Value| slice.items_at("/endpoints").len();
        // Upstream looks for room only while the rest would not fill a slice of its own.
        let fitting = unchanged.iter().filter(|s| rest.len() < SLICE_MAX && len(s) + rest.len() <= SLICE_MAX);
        match fitting.max_by_key(|s| len(s)).copied() {
            Some(slice) => {
                let endpoints = slice.items_at("/endpoints").iter().cloned().chain(rest.drain(..)).collect();
                packed.changed.push((slice, endpoints));
            }
            None => packed.new.push(rest.drain(..rest.len().min(SLICE_MAX)).collect()),
        }
    }
    packed
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub(super) mod tests;
