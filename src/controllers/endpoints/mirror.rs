//! EndpointSlices after Endpoints that somebody wrote by hand, for a Service that selects no pods: whoever reads slices only,
//! as the Service rules do, learns of them too.
//!
//! In: Endpoints with the name of a Service. Out: a slice for each set of ports and each family of addresses.
//! Rules: upstream `pkg/controller/endpointslicemirroring`.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::plan::{MANAGED_BY, SlicePlan, ports_key, recycle};
use crate::api::meta::labels::Selector;
use crate::api::object::{Object, ObjectKey};
use crate::api::services::SERVICE_NAME_LABEL;
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, optional, res};
use crate::controllers::common::claim;
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};
use crate::util::families::Family;

/// Who manages the slices.
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Endpoints with this label are mirrored by whoever wrote them, or not at all.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotations that stay behind.
const NOT_COPIED: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
/// Endpoints that are locks of the past have it.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Addresses of one subset that are mirrored.
const MAX_ADDRESSES: usize = 1000;

/// For the list of controllers.
pub fn mirror() -> Box<dyn Reconciler> {
    Box::new(Mirror)
}

struct Mirror;

#[async_trait]
impl Reconciler for Mirror {
    fn name(&self) -> &'static str {
        "endpointslicemirroring-controller"
    }

    fn speaks_as(&self) -> &'static str {
        "endpoint-slice-mirroring-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::ENDPOINTS).mapped(&res::SERVICES, |service, _| vec![ObjectKey::from(&service.meta)]).mapped(
            &res::ENDPOINT_SLICES,
            |slice, _| {
                let ours = slice.meta.label(MANAGED_BY) == Some(MANAGER);
                let service = slice.meta.label(SERVICE_NAME_LABEL).filter(|_| ours);
                service.map(|s| ObjectKey::new(&slice.meta.namespace, s)).into_iter().collect()
            },
        )
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let ns = &key.namespace;
        let ours = Selector::from_map(&json!({(SERVICE_NAME_LABEL): key.name, (MANAGED_BY): MANAGER}));
        let existing = cx.lister(&res::ENDPOINT_SLICES).select(Some(ns), &ours);
        let existing: Vec<Value> = existing.iter().filter(|s| !s.is_deleting()).map(|s| s.value()).collect();
        let selects = |s: Arc<Object>| s.value().get_at("/spec/selector").is_some_and(|s| !s.is_null());
        let wanted = cx.get(&res::SERVICES, key).is_some_and(|s| !selects(s));
        let endpoints = cx.get(&res::ENDPOINTS, key).filter(|e| wanted && !e.is_deleting() && is_mirrored(e));
        let plan = match &endpoints {
            None => SlicePlan { delete: existing.iter().map(name).collect(), ..SlicePlan::default() },
            Some(endpoints) => {
                let value = endpoints.value();
                let (mut slices, left_out) = slices(&value);
                for slice in &mut slices {
                    slice["metadata"]["ownerReferences"] =
                        vec![claim::owner_reference(&res::ENDPOINTS, endpoints)].into();
                }
                if left_out > 0 {
                    let why = format!(
                        "A max of {MAX_ADDRESSES} addresses can be mirrored to EndpointSlices per Endpoints subset. {left_out} addresses were skipped"
                    );
                    cx.events.warning(endpoints, "TooManyAddressesToMirror", why);
                }
                changes(&slices, &existing)
            }
        };
        for slice in plan.create {
            cx.client.create(&res::ENDPOINT_SLICES, ns, &slice).await?;
        }
        for slice in plan.update {
            cx.client.update(&res::ENDPOINT_SLICES, ns, &name(&slice), None, &slice).await?;
        }
        for name in plan.delete {
            optional(cx.client.delete(&res::ENDPOINT_SLICES, ns, &name, &DeleteOptions::default()).await)?;
        }
        Ok(Requeue::Never)
    }
}

fn is_mirrored(endpoints: &Object) -> bool {
    endpoints.meta.label(SKIP) != Some("true") && endpoints.value()["metadata"]["annotations"].get(LEADER).is_none()
}

fn name(slice: &Value) -> String {
    slice.str_at("/metadata/name").unwrap_or_default().to_owned()
}

/// The slices that Endpoints make, without owner, and how many addresses are too many.
fn slices(endpoints: &Value) -> (Vec<Value>, usize) {
    let (mut made, mut left_out): (Vec<Value>, usize) = (Vec::new(), 0);
    for subset in endpoints.items_at("/subsets") {
        let ports: Vec<Value> = subset.items_at("/ports").iter().map(port).collect();
        let addresses = [("/addresses", true), ("/notReadyAddresses", false)].map(|(at, ready)| {
            subset.items_at(at).iter().filter_map(move |a| Some((a.str_at("/ip")?.parse().ok()?, a, ready)))
        });
        let addresses: Vec<(IpAddr, &Value, bool)> = addresses.into_iter().flatten().collect();
        left_out += addresses.len().saturating_sub(MAX_ADDRESSES);
        for (ip, address, ready) in addresses.into_iter().take(MAX_ADDRESSES) {
            let family = Family::of(ip).name();
            let place = match made.iter().position(|s| s["addressType"] == family && s.items_at("/ports") == ports) {
                Some(place) => place,
                None => {
                    made.push(slice(endpoints, family, &ports));
                    made.len() - 1
                }
            };
            if let Some(Value::Array(all)) = made[place].get_mut("endpoints") {
                all.push(endpoint(ip, address, ready));
            }
        }
    }
    (made, left_out)
}

fn slice(endpoints: &Value, family: &str, ports: &[Value]) -> Value {
    let text = |at: &str| endpoints.str_at(at).unwrap_or_default();
    let map = |at: &str| endpoints.get_at(at).and_then(Value::as_object).cloned().unwrap_or_default();
    let mut labels = map("/metadata/labels");
    labels.insert(SERVICE_NAME_LABEL.into(), text("/metadata/name").into());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let mut meta = json!({
        "generateName": format!("{}-", text("/metadata/name")), "namespace": text("/metadata/namespace"), "labels": labels,
    });
    let annotations: Map<String, Value> =
        map("/metadata/annotations").into_iter().filter(|(k, _)| !NOT_COPIED.contains(&k.as_str())).collect();
    if !annotations.is_empty() {
        meta["annotations"] = annotations.into();
    }
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta, "addressType": family,
        "ports": ports, "endpoints": []})
}

fn port(port: &Value) -> Value {
    let mut made = json!({
        "name": port.str_at("/name").unwrap_or_default(),
        "port": port["port"],
        "protocol": port.str_at("/protocol").unwrap_or("TCP"),
    });
    if let Some(protocol) = port.str_at("/appProtocol") {
        made["appProtocol"] = protocol.into();
    }
    made
}

fn endpoint(ip: IpAddr, address: &Value, ready: bool) -> Value {
    let mut made = json!({"addresses": [ip.to_string()], "conditions": {"ready": ready}});
    for field in ["targetRef", "nodeName", "hostname"] {
        if let Some(value) = address.get(field).filter(|v| v.as_str() != Some("")) {
            made[field] = value.clone();
        }
    }
    made
}

/// What turns the slices that are there into those that are wanted: one for one, by family and ports; what is left of both by
/// family.
fn changes(wanted: &[Value], existing: &[Value]) -> SlicePlan {
    let mut plan = SlicePlan::default();
    let mut left: Vec<&Value> = existing.iter().collect();
    for want in wanted {
        let ports = |s: &Value| ports_key(s.items_at("/ports"));
        let same = |s: &&Value| s["addressType"] == want["addressType"] && ports(s) == ports(want);
        let Some(at) = left.iter().position(same) else {
            plan.create.push(want.clone());
            continue;
        };
        let known = left.swap_remove(at);
        let mut new = known.clone();
        new["endpoints"] = want["endpoints"].clone();
        new["metadata"]["labels"] = want["metadata"]["labels"].clone();
        match want.get_at("/metadata/annotations") {
            Some(annotations) => new["metadata"]["annotations"] = annotations.clone(),
            None => drop(new.remove_at("/metadata/annotations")),
        }
        if new != *known {
            plan.update.push(new);
        }
    }
    plan.update.extend(recycle(&mut plan.create, &mut left));
    plan.delete = left.into_iter().map(name).collect();
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Patch;
    use crate::runtime::fake::Cluster;
    use test_case::test_case;

    fn by_hand() -> Cluster {
        let cluster = Cluster::new();
        cluster.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "namespace": "n"},
            "spec": {"ports": [{"port": 80}]}}));
        cluster.put(json!({"apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": "db", "namespace": "n", "labels": {"a": "b"}},
            "subsets": [{"addresses": [{"ip": "10.1.2.3"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.1.2.4"}],
                "ports": [{"port": 80, "protocol": "TCP"}]}]}));
        cluster
    }

    fn made(cluster: &Cluster) -> Vec<Value> {
        let mut all = cluster.api.all(&res::ENDPOINT_SLICES);
        all.sort_by_key(|s| s.str_at("/addressType").map(str::to_owned));
        all
    }

    /// Conformance, [sig-network]: "EndpointSliceMirroring should mirror a custom Endpoints resource through create update and
    /// delete".
    #[tokio::test]
    async fn slices_follow_endpoints_that_were_written_by_hand() {
        let cluster = by_hand();
        cluster.reconcile(&*mirror(), "n", "db").await.unwrap();
        let slices = made(&cluster);
        assert_eq!(slices.len(), 2, "a slice for each family");
        let want = json!([
            {"addresses": ["10.1.2.3"], "conditions": {"ready": true}},
            {"addresses": ["10.1.2.4"], "conditions": {"ready": false}},
        ]);
        assert_eq!(slices[0]["endpoints"], want);
        assert_eq!(slices[0].pointer("/metadata/labels/a"), Some(&json!("b")));
        assert_eq!(slices[0].str_at("/metadata/ownerReferences/0/kind"), Some("Endpoints"));
        cluster.api.take_log();
        cluster.reconcile(&*mirror(), "n", "db").await.unwrap();
        assert_eq!(cluster.api.take_log(), [] as [&str; 0], "nothing new, nothing written");
        let other =
            json!({"subsets": [{"addresses": [{"ip": "10.2.3.4"}], "ports": [{"port": 80, "protocol": "TCP"}]}]});
        cluster.client().patch(&res::ENDPOINTS, "n", "db", None, Patch::Merge(&other)).await.unwrap();
        cluster.reconcile(&*mirror(), "n", "db").await.unwrap();
        let slices = made(&cluster);
        assert_eq!((slices.len(), slices[0].str_at("/endpoints/0/addresses/0")), (1, Some("10.2.3.4")));
        let other =
            json!({"subsets": [{"addresses": [{"ip": "10.2.3.4"}], "ports": [{"port": 81, "protocol": "TCP"}]}]});
        cluster.client().patch(&res::ENDPOINTS, "n", "db", None, Patch::Merge(&other)).await.unwrap();
        cluster.reconcile(&*mirror(), "n", "db").await.unwrap();
        let again = made(&cluster);
        assert_eq!(again[0]["metadata"]["uid"], slices[0]["metadata"]["uid"], "of other ports, and the same slice");
        assert_eq!((again.len(), again[0].int_at("/ports/0/port")), (1, Some(81)));
        cluster.client().delete(&res::ENDPOINTS, "n", "db", &DeleteOptions::default()).await.unwrap();
        cluster.reconcile(&*mirror(), "n", "db").await.unwrap();
        assert!(made(&cluster).is_empty());
    }

    #[test_case(&res::SERVICES, json!({"spec": {"selector": {"app": "db"}}}); "pods answer for the Service")]
    #[test_case(&res::ENDPOINTS, json!({"metadata": {"labels": {SKIP: "true"}}}); "they are not to be mirrored")]
    #[test_case(&res::ENDPOINTS, json!({"metadata": {"annotations": {LEADER: "{}"}}}); "they are a lock")]
    #[tokio::test]
    async fn slices_go_when(res: &'static crate::client::Res, change: Value) {
        let cluster = by_hand();
        cluster.reconcile(&*mirror(), "n", "db").await.unwrap();
        cluster.client().patch(res, "n", "db", None, Patch::Merge(&change)).await.unwrap();
        cluster.reconcile(&*mirror(), "n", "db").await.unwrap();
        assert!(made(&cluster).is_empty());
    }
}
