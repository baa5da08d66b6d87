//! Services of type LoadBalancer get the nodes' addresses: the same port of each node leads to the Service, as with k3s'
//! `servicelb`. Nothing runs for it; every node's rules lead what comes to these addresses to the Service's pods.
//!
//! Reads Services, Nodes and slices; writes `status.loadBalancer`. **Invariant:** a Service whose `loadBalancerClass` names
//! somebody is theirs.

pub mod plan;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use self::plan::{Place, Port, Wish};
use crate::api::object::{Object, ObjectKey};
use crate::api::services::SERVICE_NAME_LABEL;
use crate::api::value::ValueExt;
use crate::client::res;
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};

/// The controller.
struct Balancers {
    reserved: Option<Vec<Port>>,
}

/// For the list of controllers; `reserved` are TCP ports that the nodes need themselves. None gives no addresses.
pub fn controller(reserved: Option<&[u16]>) -> Box<dyn Reconciler> {
    let port = |p: &u16| ("TCP".to_owned(), i64::from(*p));
    Box::new(Balancers { reserved: reserved.map(|all| all.iter().map(port).collect()) })
}

fn all(cx: &Cx) -> Vec<Arc<Object>> {
    let mut all = cx.lister(&res::SERVICES).list(None);
    all.retain(|s| s.mentions("LoadBalancer"));
    all
}

fn keys(cx: &Cx) -> Vec<ObjectKey> {
    all(cx).iter().map(|s| ObjectKey::from(&s.meta)).collect()
}

/// The wish of a Service, with its nodes where they matter.
fn wish(service: &Object, cx: &Cx) -> Option<Wish> {
    let mut wish = Wish::new(service)?;
    if let Some(only) = &mut wish.only {
        let (ns, name) = (&service.meta.namespace, &service.meta.name);
        let of_it = crate::api::meta::labels::Selector::from_map(&json!({SERVICE_NAME_LABEL: name}));
        for slice in cx.lister(&res::ENDPOINT_SLICES).select(Some(ns), &of_it) {
            let slice = slice.value();
            let ready = slice.items_at("/endpoints").iter().filter(|e| e.bool_at("/conditions/ready") != Some(false));
            only.extend(ready.filter_map(|e| e.str_at("/nodeName").map(str::to_owned)));
        }
    }
    Some(wish)
}

#[async_trait]
impl Reconciler for Balancers {
    fn name(&self) -> &'static str {
        "service-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own_changed(&res::SERVICES, |old, new, cx| {
            let wish = |o: Option<&Object>| o.filter(|o| o.mentions("LoadBalancer")).and_then(Wish::new);
            let me = |o: Option<&Object>| o.map(|o| ObjectKey::from(&o.meta)).into_iter().collect();
            let (before, after) = (wish(old), wish(new));
            match before == after {
                // Its status may have been written by somebody.
                true if after.is_some() => me(new),
                true => Vec::new(),
                // What it wants no more others may have.
                false => keys(cx),
            }
        })
        .changed(&res::NODES, |old, new, cx| {
            let place = |node: Option<&Object>| node.and_then(|n| Place::new(&n.value()));
            if place(old) == place(new) { Vec::new() } else { keys(cx) }
        })
        .mapped(&res::ENDPOINT_SLICES, |slice, cx| {
            let service = slice
                .meta
                .label(SERVICE_NAME_LABEL)
                .and_then(|s| cx.lister(&res::SERVICES).get(&slice.meta.namespace, s));
            let local = service.filter(|s| s.mentions("Local") && s.mentions("LoadBalancer"));
            local.map(|_| keys(cx)).unwrap_or_default()
        })
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(reserved) = &self.reserved else { return Ok(Requeue::Never) };
        let Some(service) = cx.get(&res::SERVICES, key) else { return Ok(Requeue::Never) };
        let Some(me) = wish(&service, cx) else { return Ok(Requeue::Never) };
        let mut elder: Vec<Wish> = all(cx).iter().filter_map(|s| wish(s, cx)).filter(|w| *w < me).collect();
        elder.sort();
        let nodes = cx.lister(&res::NODES).list(None);
        let places: Vec<Place> = nodes.iter().filter_map(|n| Place::new(&n.value())).collect();
        let wanted = plan::addresses(&me, &elder, &places, reserved);
        let value = service.value();
        let known: Vec<&str> =
            value.items_at("/status/loadBalancer/ingress").iter().filter_map(|i| i.str_at("/ip")).collect();
        if known == wanted {
            return Ok(Requeue::Never);
        }
        let ingress: Vec<_> = wanted.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
        let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        cx.change(&res::SERVICES, &service, Some("status"), &status).await?;
        let message = format!("LoadBalancer Ingress IP addresses updated: {}", wanted.join(", "));
        cx.events.normal(&service, "UpdatedIngressIP", message);
        Ok(Requeue::Never)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;
    use serde_json::Value;

    fn service(cluster: &Cluster, name: &str, created: &str, spec: Value) {
        let mut all =
            json!({"type": "LoadBalancer", "ipFamilies": ["IPv4"], "ports": [{"port": 80, "protocol": "TCP"}]});
        json_patch::merge(&mut all, &spec);
        cluster.put(json!({"apiVersion": "v1", "kind": "Service", "metadata":
            {"name": name, "namespace": "n", "creationTimestamp": created}, "spec": all, "status": {"loadBalancer": {}}}));
    }

    fn node(cluster: &Cluster, name: &str, ip: &str, ready: &str) {
        cluster.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {
            "conditions": [{"type": "Ready", "status": ready}], "addresses": [{"type": "InternalIP", "address": ip}]}}));
    }

    #[tokio::test]
    async fn services_get_the_nodes_there_are() {
        let cluster = Cluster::new();
        let controller = controller(Some(&[6443]));
        node(&cluster, "a", "192.0.2.1", "True");
        node(&cluster, "b", "192.0.2.2", "False");
        service(&cluster, "first", "2026-01-01T00:00:00Z", json!({}));
        service(&cluster, "second", "2026-01-01T00:00:01Z", json!({}));
        service(
            &cluster,
            "theirs",
            "2026-01-01T00:00:00Z",
            json!({"loadBalancerClass": "example.com/lb", "ports": [{"port": 90}]}),
        );
        let has = async |name: &str| {
            cluster.reconcile(&*controller, "n", name).await.unwrap();
            let service = cluster.get(&res::SERVICES, "n", name).unwrap();
            let all = service.items_at("/status/loadBalancer/ingress").iter();
            all.map(|i| i["ip"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(has("first").await, "192.0.2.1");
        assert_eq!(has("second").await, "", "the elder one has the port");
        assert_eq!(has("theirs").await, "");
        node(&cluster, "b", "192.0.2.2", "True");
        assert_eq!(has("first").await, "192.0.2.1 192.0.2.2");
        cluster.client().delete(&res::SERVICES, "n", "first", &Default::default()).await.unwrap();
        assert_eq!(has("second").await, "192.0.2.1 192.0.2.2");
        // One whose traffic stays where it comes to has the nodes with its pods.
        cluster.put(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata":
            {"name": "s", "namespace": "n", "labels": {SERVICE_NAME_LABEL: "second"}},
            "endpoints": [{"nodeName": "a", "conditions": {"ready": false}}, {"nodeName": "b"}]}));
        service(&cluster, "second", "2026-01-01T00:00:01Z", json!({"externalTrafficPolicy": "Local"}));
        assert_eq!(has("second").await, "192.0.2.2");
    }
}
