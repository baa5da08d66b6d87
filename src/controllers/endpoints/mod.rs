//! EndpointSlices, and the legacy Endpoints beside them: which pods answer for a Service.
//!
//! Two reconcilers over the same reading of Service and pods. Services without a selector are somebody else's: a third one
//! ([`mirror`]) makes slices of the Endpoints that people write for them.

mod legacy;
mod mirror;
pub mod plan;
mod topology;
mod trigger;

pub use mirror::mirror;

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;

use self::plan::Address;
use self::trigger::{PodTime, Triggers};
use crate::api::meta::labels::Selector;
use crate::api::object::{Object, ObjectKey};
use crate::api::services::SERVICE_NAME_LABEL;
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, optional, res};
use crate::controllers::common::pods::time;
use crate::controllers::common::{claim, conditions};
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

const ZONE: &str = "topology.kubernetes.io/zone";

/// EndpointSlices, for the list of controllers.
pub fn slices() -> Box<dyn Reconciler> {
    Box::<Slices>::default()
}

/// Endpoints, for the list of controllers.
pub fn endpoints() -> Box<dyn Reconciler> {
    Box::<Endpoints>::default()
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

/// The pods behind a Service.
struct Behind {
    addresses: Vec<Address>,
    times: Vec<PodTime>,
}

/// What is behind a Service; none for one without a selector. Pods whose node is not there may be left out: nobody knows where
/// they are.
fn behind(cx: &Cx, service: &Value, namespace: &str, lost_too: bool) -> Option<Behind> {
    let pods = cx.lister(&res::PODS).select(Some(namespace), &selector(service)?);
    let nodes = cx.lister(&res::NODES);
    let mut behind = Behind { addresses: Vec::with_capacity(pods.len()), times: Vec::with_capacity(pods.len()) };
    for pod in &pods {
        let value = pod.value();
        let ready = conditions::get(value.items_at("/status/conditions"), "Ready");
        let time = time(ready.and_then(|c| c.str_at("/lastTransitionTime")));
        behind.times.extend(PodTime::new(&pod.meta.name, time));
        let node = value.str_at("/spec/nodeName").and_then(|n| nodes.get("", n));
        if lost_too || node.is_some() {
            let zone = node.as_ref().and_then(|n| n.meta.label(ZONE)).unwrap_or_default();
            behind.addresses.extend(plan::addresses(service, &value, zone));
        }
    }
    Some(behind)
}

/// The Services with pods that were left out because this node, which is new, was not there. Pods come after their nodes, so
/// that most new nodes have none that are elder.
fn services_of_lost(node: &Object, cx: &Cx) -> Vec<ObjectKey> {
    let mut pods = cx.lister(&res::PODS).by_index("spec.nodeName", &node.meta.name);
    pods.retain(|pod| pod.meta.created <= node.meta.created);
    pods.iter().flat_map(|pod| services_of(None, Some(pod), cx)).collect()
}

#[derive(Default)]
struct Slices {
    triggers: Triggers,
    /// Services that this process spread over zones.
    spread: Mutex<HashSet<ObjectKey>>,
}

impl Slices {
    /// Spreads a Service over zones where it asks for that, and tells people of it.
    fn spread(&self, cx: &Cx, service: &Arc<Object>, value: &Value, addresses: &mut [Address], existing: &[Value]) {
        let key = ObjectKey::from(&service.meta);
        if !topology::is_asked_for(value) {
            if self.spread.lock().remove(&key) {
                let family = value.str_at("/spec/ipFamilies/0").unwrap_or("IPv4");
                let message = format!("Topology Aware Hints has been disabled, addressType: {family}");
                cx.events.warning(service, "TopologyAwareHintsDisabled", message);
            }
            return;
        }
        let nodes = cx.lister(&res::NODES).list(None);
        let parts = topology::parts(nodes.iter().filter_map(|n| topology::place(&n.value())));
        for told in plan::spread(value, addresses, existing, parts.as_ref()) {
            match told {
                Ok(family) => {
                    let message = format!("Topology Aware Hints has been enabled, addressType: {family}");
                    cx.events.normal(service, "TopologyAwareHintsEnabled", message);
                }
                Err(why) => cx.events.warning(service, "TopologyAwareHintsDisabled", why),
            }
        }
        match addresses.iter().any(|a| a.serves.is_some()) {
            true => self.spread.lock().insert(key),
            false => self.spread.lock().remove(&key),
        };
    }
}

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
                let mut keys = if place(old) == place(new) { Vec::new() } else { spread_over_zones(cx) };
                keys.extend(new.filter(|_| old.is_none()).into_iter().flat_map(|n| services_of_lost(n, cx)));
                keys
            })
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        // The slices of a Service that is gone go with it, by their owner reference.
        let Some(service) = cx.get(&res::SERVICES, key) else {
            self.triggers.forget(key);
            self.spread.lock().remove(key);
            return Ok(Requeue::Never);
        };
        let value = service.value();
        let lost_too = value.bool_at("/spec/publishNotReadyAddresses") == Some(true);
        let behind = behind(cx, &value, &key.namespace, lost_too).filter(|_| !service.is_deleting());
        let Some(Behind { mut addresses, times }) = behind else { return Ok(Requeue::Never) };
        let trigger = self.triggers.look(key, time(Some(&service.meta.created)), times);
        let mine = Selector::from_map(&serde_json::json!({
            (SERVICE_NAME_LABEL): key.name, (plan::MANAGED_BY): plan::MANAGER,
        }));
        let existing = cx.lister(&res::ENDPOINT_SLICES).select(Some(&key.namespace), &mine);
        let existing: Vec<Value> = existing.iter().filter(|s| !s.is_deleting()).map(|s| s.value()).collect();
        self.spread(cx, &service, &value, &mut addresses, &existing);
        let plan = plan::slices(&value, &addresses, &existing);
        let ns = &key.namespace;
        for mut slice in plan.create {
            slice["metadata"]["ownerReferences"] = vec![claim::owner_reference(&res::SERVICES, &service)].into();
            trigger::mark(&mut slice, trigger);
            cx.client.create(&res::ENDPOINT_SLICES, ns, &slice).await?;
        }
        for mut slice in plan.update {
            trigger::mark(&mut slice, trigger);
            let name = slice.str_at("/metadata/name").unwrap_or_default();
            cx.client.update(&res::ENDPOINT_SLICES, ns, name, None, &slice).await?;
        }
        for name in plan.delete {
            optional(cx.client.delete(&res::ENDPOINT_SLICES, ns, &name, &DeleteOptions::default()).await)?;
        }
        Ok(Requeue::Never)
    }
}

#[derive(Default)]
struct Endpoints {
    triggers: Triggers,
}

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
            self.triggers.forget(key);
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
        let Some(Behind { addresses, times }) = behind(cx, &value, ns, true) else { return Ok(Requeue::Never) };
        let trigger = self.triggers.look(key, time(Some(&service.meta.created)), times);
        let mut want = legacy::endpoints(&value, &addresses);
        match known {
            None => {
                trigger::mark(&mut want, trigger);
                cx.client.create(&res::ENDPOINTS, ns, &want).await?;
            }
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
                    trigger::mark(&mut new, trigger);
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
    use test_case::test_case;

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

    fn service(created: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "namespace": "n", "creationTimestamp": created},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}})
    }

    fn pod(name: &str, node: &str, ready: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "n", "labels": {"app": "web"}, "creationTimestamp": ready},
            "spec": {"nodeName": node}, "status": {"phase": "Running", "podIP": "10.0.0.1",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": ready}]}})
    }

    fn node(name: &str, created: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "creationTimestamp": created,
            "labels": {ZONE: name}}, "status": {"allocatable": {"cpu": "1"}, "conditions": [{"type": "Ready", "status": "True"}]}})
    }

    const TIMES: [&str; 3] = ["2026-01-01T00:00:00Z", "2026-01-01T00:00:05Z", "2026-01-01T00:00:09Z"];

    #[tokio::test]
    async fn what_is_written_says_when_that_happened_which_led_to_it() {
        let cluster = Cluster::new();
        cluster.put(service(TIMES[0]));
        cluster.put(node("x", TIMES[0]));
        let controllers = [slices(), endpoints()];
        let said = async || {
            for controller in &controllers {
                cluster.reconcile(&**controller, "n", "web").await.unwrap();
            }
            let slice = cluster.api.all(&res::ENDPOINT_SLICES).remove(0);
            let endpoints = cluster.get(&res::ENDPOINTS, "n", "web").unwrap();
            let of = |v: Value| v["metadata"]["annotations"][trigger::ANNOTATION].as_str().map(str::to_owned);
            let (slice, endpoints) = (of(slice), of(endpoints));
            assert_eq!(slice, endpoints);
            slice
        };
        cluster.put(pod("p", "x", TIMES[1]));
        assert_eq!(said().await.as_deref(), Some(TIMES[0]), "first the Service's own");
        cluster.put(pod("q", "x", TIMES[2]));
        assert_eq!(said().await.as_deref(), Some(TIMES[2]));
        cluster.api.take_log();
        assert_eq!(said().await.as_deref(), Some(TIMES[2]));
        assert_eq!(cluster.api.take_log(), [] as [&str; 0], "it is no reason to write");
        cluster.client().delete(&res::PODS, "n", "p", &DeleteOptions::default()).await.unwrap();
        assert_eq!(said().await, None, "nobody knows when a pod went");
    }

    #[test_case(false, 0)]
    #[test_case(true, 1; "who is published without being ready")]
    #[tokio::test]
    async fn a_pod_of_a_node_that_is_not_there_is_in_no_slice(publish: bool, want: usize) {
        let cluster = Cluster::new();
        let mut service = service(TIMES[0]);
        service["spec"]["publishNotReadyAddresses"] = publish.into();
        cluster.put(service);
        cluster.put(pod("p", "x", TIMES[1]));
        for controller in [slices(), endpoints()] {
            cluster.reconcile(&*controller, "n", "web").await.unwrap();
        }
        let slice = || cluster.api.all(&res::ENDPOINT_SLICES).remove(0);
        assert_eq!(slice().items_at("/endpoints").len(), want);
        assert_eq!(cluster.get(&res::ENDPOINTS, "n", "web").unwrap().items_at("/subsets").len(), 1);
        cluster.put(node("x", TIMES[1]));
        cluster.reconcile(&*slices(), "n", "web").await.unwrap();
        assert_eq!(slice().items_at("/endpoints").len(), 1);
    }

    #[tokio::test]
    async fn a_new_node_wakes_the_services_of_elder_pods() {
        let cluster = Cluster::new();
        cluster.put(service(TIMES[0]));
        cluster.put(pod("p", "x", TIMES[1]));
        let woken = |name: &str, created: &str| {
            services_of_lost(&Object::from_value(&node(name, created), &[]), &cluster.cx()).len()
        };
        assert_eq!(
            [woken("x", TIMES[0]), woken("x", TIMES[1]), woken("x", TIMES[2]), woken("y", TIMES[2])],
            [0, 1, 1, 0]
        );
    }

    #[tokio::test]
    async fn people_are_told_when_a_service_is_spread_no_more() {
        let cluster = Cluster::new();
        let mut service = service(TIMES[0]);
        service["spec"]["ipFamilies"] = json!(["IPv4"]);
        service["metadata"]["annotations"] = json!({"service.kubernetes.io/topology-mode": "Auto"});
        cluster.put(service.clone());
        for name in ["x", "y"] {
            cluster.put(node(name, TIMES[0]));
            cluster.put(pod(name, name, TIMES[1]));
        }
        let controller = slices();
        cluster.reconcile(&*controller, "n", "web").await.unwrap();
        assert!(cluster.api.all(&res::ENDPOINT_SLICES)[0].get_at("/endpoints/0/hints").is_some());
        service["metadata"]["annotations"] = json!({});
        cluster.put(service);
        let (cx, writer) = cluster.cx_and_events();
        for _ in 0..2 {
            controller.reconcile(&ObjectKey::new("n", "web"), &cx).await.unwrap();
        }
        drop(cx);
        writer.run(crate::util::tasks::Shutdown::new()).await;
        let events = cluster.api.all(&res::EVENTS);
        let told: Vec<_> = events.iter().filter_map(|e| e.str_at("/message")).collect();
        assert_eq!(told, ["Topology Aware Hints has been disabled, addressType: IPv4"]);
    }
}
