//! EndpointSlices, and the legacy Endpoints beside them: which pods answer for a Service.
//!
//! Two reconcilers over the same reading of Service and pods. Services without a selector are somebody else's: a third one
//! ([`mirror`]) makes slices of the Endpoints that people write for them.

mod mirror;
pub mod plan;
mod topology;

pub use mirror::mirror;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use self::plan::Address;
use crate::api::meta::labels::Selector;
use crate::api::object::{Object, ObjectKey};
use crate::api::services::SERVICE_NAME_LABEL;
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, optional, res};
use crate::controllers::common::claim;
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

const ZONE: &str = "topology.kubernetes.io/zone";

/// EndpointSlices, for the list of controllers.
pub fn slices() -> Box<dyn Reconciler> {
    Box::new(Slices)
}

/// Endpoints, for the list of controllers.
pub fn endpoints() -> Box<dyn Reconciler> {
    Box::new(Endpoints)
}

/// The Services that select a pod.
fn services_of(old: Option<&Object>, new: Option<&Object>, cx: &Cx) -> Vec<ObjectKey> {
    let Some(pod) = new.or(old) else { return Vec::new() };
    let all = cx.lister(&res::SERVICES).list(Some(&pod.meta.namespace));
    // Most of what kubelets tell of a pod is nothing to those who ask it.
    let same = |(old, new): (&Object, &Object)| old.meta.labels == new.meta.labels && standing(old) == standing(new);
    if all.is_empty() || old.zip(new).is_some_and(same) {
        return Vec::new();
    }
    let selects = |s: &Arc<Object>| {
        let selector = selector(&s.only(&["spec"]));
        let matches = |pod: &Object| selector.as_ref().is_some_and(|s| s.matches(|k| pod.meta.label(k)));
        [old, new].into_iter().flatten().any(matches)
    };
    all.into_iter().filter(selects).map(|s| ObjectKey::from(&s.meta)).collect()
}

/// What of a pod an endpoint is made of, beside its labels.
fn standing(pod: &Object) -> impl PartialEq + '_ {
    let status = ["phase", "podIP", "podIPs", "conditions"].map(|member| pod.raw(&["status", member]));
    (&pod.meta.uid, pod.is_deleting(), pod.raw(&["spec"]), status)
}

/// The Services whose endpoints are spread over zones: what nodes say of themselves matters to them alone.
fn spread_over_zones(cx: &Cx) -> Vec<ObjectKey> {
    let asks =
        |s: &Arc<Object>| topology::ANNOTATIONS.iter().any(|a| s.mentions(a)) && topology::is_asked_for(&s.value());
    cx.lister(&res::SERVICES).list(None).into_iter().filter(asks).map(|s| ObjectKey::from(&s.meta)).collect()
}

fn selector(service: &Value) -> Option<Selector> {
    let map = service.get_at("/spec/selector").filter(|s| s.as_object().is_some_and(|m| !m.is_empty()))?;
    (service.str_at("/spec/type") != Some("ExternalName")).then(|| Selector::from_map(map))
}

/// All addresses behind a Service; none for one without a selector.
fn addresses(cx: &Cx, service: &Value, namespace: &str) -> Option<Vec<Address>> {
    let pods = cx.lister(&res::PODS).select(Some(namespace), &selector(service)?);
    let nodes = cx.lister(&res::NODES);
    let of_pod = |pod: &Arc<Object>| {
        let pod = pod.value();
        let node = pod.str_at("/spec/nodeName").and_then(|n| nodes.get("", n));
        let zone = node.as_ref().and_then(|n| n.meta.label(ZONE)).unwrap_or_default();
        plan::addresses(service, &pod, zone)
    };
    Some(pods.iter().flat_map(of_pod).collect())
}

struct Slices;

#[async_trait]
impl Reconciler for Slices {
    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    fn speaks_as(&self) -> &'static str {
        "endpoint-slice-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::SERVICES)
            .changed(&res::PODS, services_of)
            .mapped(&res::ENDPOINT_SLICES, |slice, _| {
                let ours = slice.meta.label(plan::MANAGED_BY) == Some(plan::MANAGER);
                let service = slice.meta.label(SERVICE_NAME_LABEL).filter(|_| ours);
                service.map(|s| ObjectKey::new(&slice.meta.namespace, s)).into_iter().collect()
            })
            .changed(&res::NODES, |old, new, cx| {
                let place = |node: Option<&Object>| node.and_then(|n| topology::place(&n.value()));
                if place(old) == place(new) { Vec::new() } else { spread_over_zones(cx) }
            })
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        // The slices of a Service that is gone go with it, by their owner reference.
        let Some(service) = cx.get(&res::SERVICES, key) else { return Ok(Requeue::Never) };
        let value = service.value();
        let Some(mut addresses) = addresses(cx, &value, &key.namespace).filter(|_| !service.is_deleting()) else {
            return Ok(Requeue::Never);
        };
        let mine = Selector::from_map(&serde_json::json!({
            (SERVICE_NAME_LABEL): key.name, (plan::MANAGED_BY): plan::MANAGER,
        }));
        let existing = cx.lister(&res::ENDPOINT_SLICES).select(Some(&key.namespace), &mine);
        let existing: Vec<Value> = existing.iter().filter(|s| !s.is_deleting()).map(|s| s.value()).collect();
        if topology::is_asked_for(&value) {
            let nodes = cx.lister(&res::NODES).list(None);
            let parts = topology::parts(nodes.iter().filter_map(|n| topology::place(&n.value())));
            for told in plan::spread(&value, &mut addresses, &existing, parts.as_ref()) {
                match told {
                    Ok(family) => {
                        let message = format!("Topology Aware Hints has been enabled, addressType: {family}");
                        cx.events.normal(&service, "TopologyAwareHintsEnabled", message);
                    }
                    Err(why) => cx.events.warning(&service, "TopologyAwareHintsDisabled", why),
                }
            }
        }
        let plan = plan::slices(&value, &addresses, &existing);
        let ns = &key.namespace;
        for mut slice in plan.create {
            slice["metadata"]["ownerReferences"] = vec![claim::owner_reference(&res::SERVICES, &service)].into();
            cx.client.create(&res::ENDPOINT_SLICES, ns, &slice).await?;
        }
        for slice in plan.update {
            let name = slice.str_at("/metadata/name").unwrap_or_default();
            cx.client.update(&res::ENDPOINT_SLICES, ns, name, None, &slice).await?;
        }
        for name in plan.delete {
            optional(cx.client.delete(&res::ENDPOINT_SLICES, ns, &name, &DeleteOptions::default()).await)?;
        }
        Ok(Requeue::Never)
    }
}

struct Endpoints;

#[async_trait]
impl Reconciler for Endpoints {
    fn name(&self) -> &'static str {
        "endpoint-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::SERVICES)
            .changed(&res::PODS, services_of)
            .mapped(&res::ENDPOINTS, |e, _| vec![ObjectKey::from(&e.meta)])
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let (ns, name) = (&key.namespace, &key.name);
        let known = cx.get(&res::ENDPOINTS, key);
        let Some(service) = cx.get(&res::SERVICES, key).filter(|s| !s.is_deleting()) else {
            // Only what this controller made: an Endpoints object without a Service can be a user's.
            let ours =
                |e: &Arc<Object>| e.meta.label("endpoints.kubernetes.io/managed-by") == Some("endpoint-controller");
            if let Some(known) = known.filter(ours) {
                let options = DeleteOptions::of_uid(&known.meta.uid);
                optional(cx.client.delete(&res::ENDPOINTS, ns, name, &options).await)?;
            }
            return Ok(Requeue::Never);
        };
        let value = service.value();
        let Some(addresses) = addresses(cx, &value, ns) else { return Ok(Requeue::Never) };
        let want = plan::endpoints(&value, &addresses);
        match known {
            None => drop(cx.client.create(&res::ENDPOINTS, ns, &want).await?),
            Some(known) => {
                let old = known.value();
                let same = old.items_at("/subsets") == want.items_at("/subsets")
                    && old.get_at("/metadata/labels") == want.get_at("/metadata/labels");
                if !same {
                    let mut new = want;
                    new["metadata"]["resourceVersion"] = known.revision.to_string().into();
                    if let Some(a) = old.get_at("/metadata/annotations") {
                        let cut = new.get_at("/metadata/annotations").cloned();
                        new["metadata"]["annotations"] = a.clone();
                        new.remove_at("/metadata/annotations/endpoints.kubernetes.io~1over-capacity");
                        cut.iter().for_each(|c| json_patch::merge(&mut new["metadata"]["annotations"], c));
                    }
                    cx.client.update(&res::ENDPOINTS, ns, name, None, &new).await?;
                }
            }
        }
        Ok(Requeue::Never)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;
    use serde_json::json;

    #[tokio::test]
    async fn only_what_endpoints_are_made_of_wakes_a_service() {
        let cluster = Cluster::new();
        cluster.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "n"},
            "spec": {"selector": {"app": "web"}}}));
        let cx = cluster.cx();
        let pod = |label: &str, node: &str, ready: &str, restarts: u32| {
            Object::from_value(
                &json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": label}},
                    "spec": {"nodeName": node}, "status": {"conditions": [{"type": "Ready", "status": ready}],
                        "containerStatuses": [{"restartCount": restarts}]}}),
                &[],
            )
        };
        let before = pod("web", "x", "True", 0);
        for (after, wakes) in [
            (pod("web", "x", "True", 1), false),
            (pod("web", "x", "False", 0), true),
            (pod("web", "y", "True", 0), true),
            (pod("other", "x", "True", 0), true),
        ] {
            let woken = services_of(Some(&before), Some(&after), &cx);
            assert_eq!(woken == [ObjectKey::new("n", "web")], wakes, "{woken:?}");
        }
        assert_eq!(services_of(None, Some(&pod("other", "x", "True", 0)), &cx), []);
        assert_eq!(services_of(Some(&before), None, &cx).len(), 1);
    }

    #[tokio::test]
    async fn a_service_gets_its_pods_and_loses_them() {
        let cluster = Cluster::new();
        cluster.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "n"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}));
        cluster.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "labels": {"app": "web"}},
            "spec": {"nodeName": "x"}, "status": {"phase": "Running", "podIP": "10.0.0.1",
                "conditions": [{"type": "Ready", "status": "True"}]}}));
        cluster.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "x", "labels": {ZONE: "z1"}}}));
        for controller in [slices(), endpoints()] {
            cluster.reconcile(&*controller, "n", "web").await.unwrap();
        }
        let slice = cluster.api.all(&res::ENDPOINT_SLICES).remove(0);
        assert_eq!(slice.str_at("/endpoints/0/addresses/0"), Some("10.0.0.1"));
        assert_eq!(slice.str_at("/endpoints/0/zone"), Some("z1"));
        assert_eq!(slice.str_at("/metadata/ownerReferences/0/kind"), Some("Service"));
        let legacy = cluster.get(&res::ENDPOINTS, "n", "web").unwrap();
        assert_eq!(legacy.str_at("/subsets/0/addresses/0/ip"), Some("10.0.0.1"));
        cluster.api.take_log();
        for controller in [slices(), endpoints()] {
            cluster.reconcile(&*controller, "n", "web").await.unwrap();
        }
        assert_eq!(cluster.api.take_log(), [] as [&str; 0], "nothing new, nothing written");
        let service = Object::from_value(&cluster.get(&res::SERVICES, "n", "web").unwrap(), &[]);
        cluster.client().delete(&res::SERVICES, "n", "web", &DeleteOptions::of_uid(service.meta.uid)).await.unwrap();
        cluster.reconcile(&*endpoints(), "n", "web").await.unwrap();
        assert!(cluster.get(&res::ENDPOINTS, "n", "web").is_none());
    }
}
