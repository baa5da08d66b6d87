//! Ranges of Service addresses that people add, and the object that each address in use has.
//!
//! A ServiceCIDR is ready once a finalizer keeps it; then the API server gives its addresses away (`registry::allocators`). One
//! that is to go gives none any more, and waits until the addresses of others cover what is in use ([`plan`]). Each address of
//! a Service has an IPAddress, as upstream's allocator makes them; here they follow the Services, which are what is true.
//!
//! Rule: upstream `pkg/controller/servicecidrs`, `pkg/registry/core/service/ipallocator`.

pub mod plan;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ipnet::IpNet;
use serde_json::{Value, json};

use self::plan::Range;
use crate::api::object::{Object, ObjectKey};
use crate::api::services::{IP_ALLOCATOR, IP_MANAGED_BY_LABEL};
use crate::api::status::Reason;
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, optional, res};
use crate::controllers::common::conditions::{self, Condition};
use crate::controllers::common::pods::time;
use crate::runtime::{Cx, Error, Reconciler, Requeue, Watches};
use crate::util::clock::rfc3339;
use crate::util::families::Family;

/// Keeps a ServiceCIDR while its addresses are in use.
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
/// Writes that took an address of a range, and began before it was to go, have ended so long after. Upstream's number.
const GRACE: Duration = Duration::from_secs(10);

/// Ranges, for the list of controllers.
pub fn ranges() -> Box<dyn Reconciler> {
    Box::new(Ranges)
}

/// Addresses, for the list of controllers.
pub fn addresses() -> Box<dyn Reconciler> {
    Box::new(Addresses)
}

struct Ranges;

fn range(object: &Object) -> Range {
    let nets =
        object.value().items_at("/spec/cidrs").iter().filter_map(|c| c.as_str()?.parse::<IpNet>().ok()).collect();
    (object.meta.name.clone(), nets)
}

fn all_ranges(cx: &Cx) -> Vec<Range> {
    cx.lister(&res::SERVICE_CIDRS).list(None).iter().map(|o| range(o)).collect()
}

/// An address that the allocator has given away.
fn given(object: &Object) -> Option<IpAddr> {
    let ours = object.meta.label(IP_MANAGED_BY_LABEL) == Some(IP_ALLOCATOR);
    ours.then(|| object.meta.name.parse().ok()).flatten()
}

#[async_trait]
impl Reconciler for Ranges {
    fn name(&self) -> &'static str {
        "service-cidrs-controller"
    }

    fn speaks_as(&self) -> &'static str {
        "service-cidr-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::SERVICE_CIDRS)
            .mapped(&res::SERVICE_CIDRS, |changed, cx| {
                // Whom it covers may go when it comes, and not when it goes.
                let nets = range(changed).1;
                let overlaps =
                    |(_, other): &Range| other.iter().any(|o| nets.iter().any(|n| o.contains(n) || n.contains(o)));
                all_ranges(cx).into_iter().filter(overlaps).map(|(name, _)| ObjectKey::new("", &name)).collect()
            })
            .mapped(&res::IP_ADDRESSES, |ip, cx| {
                let Some(ip) = given(ip) else { return Vec::new() };
                plan::sources(&all_ranges(cx), ip).map(|name| ObjectKey::new("", name)).collect()
            })
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Some(object) = cx.get(&res::SERVICE_CIDRS, key) else { return Ok(Requeue::Never) };
        let value = object.value();
        let kept = object.meta.finalizers.iter().any(|f| &**f == FINALIZER);
        if !object.is_deleting() {
            if !kept {
                let all: Vec<&str> = object.meta.finalizers.iter().map(|f| &**f).chain([FINALIZER]).collect();
                cx.change(&res::SERVICE_CIDRS, &object, None, &json!({"metadata": {"finalizers": all}})).await?;
                // The change brings it here again.
                return Ok(Requeue::Never);
            }
            let ready = Condition::new("Ready", "True", "", "Kubernetes Service CIDR is ready");
            if let Err(error) = report(cx, &object, &value, &ready).await {
                let message = "The ServiceCIDR Status can not be set to Ready=True";
                cx.events.warning(&object, "KubernetesServiceCIDRError", message);
                return Err(error);
            }
            return Ok(Requeue::Never);
        }
        if !kept {
            return Ok(Requeue::Never);
        }
        let used: Vec<IpAddr> = cx.lister(&res::IP_ADDRESSES).list(None).iter().filter_map(|o| given(o)).collect();
        if !plan::may_go(&range(&object), &all_ranges(cx), &used) {
            let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
            report(cx, &object, &value, &Condition::new("Ready", "False", "Terminating", message)).await?;
            return Ok(Requeue::Never);
        }
        let since = time(value.str_at("/metadata/deletionTimestamp")).unwrap_or(cx.now());
        let passed = Duration::try_from(cx.now().duration_since(since)).unwrap_or_default();
        if let Some(left) = GRACE.checked_sub(passed).filter(|left| !left.is_zero()) {
            return Ok(Requeue::After(left));
        }
        let left: Vec<&str> = object.meta.finalizers.iter().map(|f| &**f).filter(|f| *f != FINALIZER).collect();
        optional(cx.change(&res::SERVICE_CIDRS, &object, None, &json!({"metadata": {"finalizers": left}})).await)?;
        Ok(Requeue::Never)
    }
}

async fn report(cx: &Cx, object: &Object, value: &Value, condition: &Condition<'_>) -> Result<(), Error> {
    let known = value.items_at("/status/conditions");
    let mut all = known.to_vec();
    conditions::set(&mut all, condition, &rfc3339(cx.now()));
    if all != known {
        cx.change(&res::SERVICE_CIDRS, object, Some("status"), &json!({"status": {"conditions": all}})).await?;
    }
    Ok(())
}

/// Its keys are addresses.
struct Addresses;

fn cluster_ips(service: &Value) -> impl Iterator<Item = IpAddr> {
    service.items_at("/spec/clusterIPs").iter().filter_map(|ip| ip.as_str()?.parse().ok())
}

/// Whether an address is a Service's. Addresses of IPv6 may be written in more than one way.
fn has(service: &Object, ip: IpAddr) -> bool {
    cluster_ips(&service.only(&["spec", "clusterIPs"])).any(|own| own == ip)
}

/// The Service that has an address.
fn owner(cx: &Cx, ip: IpAddr) -> Option<Arc<Object>> {
    let services = cx.lister(&res::SERVICES);
    services.by_index("spec.clusterIP", &ip.to_string()).into_iter().next().or_else(|| {
        // A second address is in no index; where there is one family, nobody has one.
        let mut nets = all_ranges(cx).into_iter().flat_map(|(_, nets)| nets);
        let dual = ip.is_ipv6() || nets.any(|net| Family::of(net.addr()) == Family::V6);
        dual.then(|| services.list(None).into_iter().find(|s| has(s, ip))).flatten()
    })
}

#[async_trait]
impl Reconciler for Addresses {
    fn name(&self) -> &'static str {
        "service-ip-address-controller"
    }

    fn watches(&self) -> Watches {
        Watches::own(&res::IP_ADDRESSES).changed(&res::SERVICES, |old, new, _| {
            let of = |o: Option<&Object>| -> Vec<IpAddr> {
                o.map(|o| cluster_ips(&o.value()).collect()).unwrap_or_default()
            };
            let (before, after) = (of(old), of(new));
            let moved =
                before.iter().filter(|ip| !after.contains(ip)).chain(after.iter().filter(|ip| !before.contains(ip)));
            moved.map(|ip| ObjectKey::new("", ip.to_string())).collect()
        })
    }

    async fn reconcile(&self, key: &ObjectKey, cx: &Cx) -> Result<Requeue, Error> {
        let Ok(ip) = key.name.parse::<IpAddr>() else { return Ok(Requeue::Never) };
        if let Some(known) = cx.get(&res::IP_ADDRESSES, key) {
            let value = known.value();
            let parent = |field: &str| value["spec"]["parentRef"].str_at(field).unwrap_or_default();
            let service = cx.lister(&res::SERVICES).get(parent("/namespace"), parent("/name"));
            let is_its = parent("/resource") == "services" && service.is_some_and(|s| has(&s, ip));
            // Somebody else's address is theirs: no Service has got it.
            if given(&known).is_none() || is_its {
                return Ok(Requeue::Never);
            }
            // What it names cannot change. Its end brings the address here again.
            optional(
                cx.client.delete(&res::IP_ADDRESSES, "", &key.name, &DeleteOptions::of_uid(&known.meta.uid)).await,
            )?;
            return Ok(Requeue::Never);
        }
        let Some(service) = owner(cx, ip) else { return Ok(Requeue::Never) };
        let parent = json!({"group": "", "resource": "services", "namespace": service.meta.namespace, "name": service.meta.name});
        let family = Family::of(ip).name();
        let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
            "metadata": {"name": key.name, "labels": {FAMILY: family, IP_MANAGED_BY_LABEL: IP_ALLOCATOR}}, "spec": {"parentRef": parent}});
        match cx.client.create(&res::IP_ADDRESSES, "", &object).await {
            Err(e) if e.reason != Reason::AlreadyExists => Err(e.into()),
            _ => Ok(Requeue::Never),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;

    fn cidr(cluster: &Cluster, name: &str, net: &str) {
        cluster.put(json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
            "spec": {"cidrs": [net]}}));
    }

    fn service(cluster: &Cluster, name: &str, ip: &str) {
        cluster.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "n"},
            "spec": {"clusterIP": ip, "clusterIPs": [ip]}}));
    }

    #[tokio::test]
    async fn a_range_is_ready_and_goes_when_nobody_needs_it() {
        let cluster = Cluster::new();
        cidr(&cluster, "more", "10.9.0.0/24");
        for _ in 0..2 {
            cluster.reconcile(&Ranges, "", "more").await.unwrap();
        }
        let get = |c: &Cluster| c.get(&res::SERVICE_CIDRS, "", "more");
        let ready = |c: &Cluster| get(c).unwrap()["status"]["conditions"][0]["status"].clone();
        assert_eq!(get(&cluster).unwrap()["metadata"]["finalizers"], json!([FINALIZER]));
        assert_eq!(ready(&cluster), "True");
        service(&cluster, "web", "10.9.0.7");
        cluster.reconcile(&Addresses, "", "10.9.0.7").await.unwrap();
        let ip = cluster.get(&res::IP_ADDRESSES, "", "10.9.0.7").unwrap();
        assert_eq!(ip["spec"]["parentRef"]["name"], "web");
        assert_eq!(ip["metadata"]["labels"], json!({FAMILY: "IPv4", IP_MANAGED_BY_LABEL: IP_ALLOCATOR}));
        cluster.client().delete(&res::SERVICE_CIDRS, "", "more", &DeleteOptions::default()).await.unwrap();
        cluster.reconcile(&Ranges, "", "more").await.unwrap();
        assert_eq!(ready(&cluster), "False");
        cluster.client().delete(&res::SERVICES, "n", "web", &DeleteOptions::default()).await.unwrap();
        cluster.reconcile(&Addresses, "", "10.9.0.7").await.unwrap();
        assert!(cluster.get(&res::IP_ADDRESSES, "", "10.9.0.7").is_none());
        cluster.clock.advance(60);
        cluster.reconcile(&Ranges, "", "more").await.unwrap();
        assert!(get(&cluster).is_none());
    }

    #[tokio::test]
    async fn an_address_is_its_services_or_somebodys_own() {
        let cluster = Cluster::new();
        let address = |ip: &str, labels: Value, parent: &str| {
            cluster.put(json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
                "metadata": {"name": ip, "labels": labels}, "spec": {"parentRef": {"resource": "services", "namespace": "n", "name": parent}}}));
        };
        address("10.9.0.1", json!({}), "reserved");
        address("10.9.0.2", json!({IP_MANAGED_BY_LABEL: IP_ALLOCATOR}), "before");
        service(&cluster, "now", "10.9.0.2");
        for ip in ["10.9.0.1", "10.9.0.2", "10.9.0.2"] {
            cluster.reconcile(&Addresses, "", ip).await.unwrap();
        }
        let parent = |ip: &str| cluster.get(&res::IP_ADDRESSES, "", ip).unwrap()["spec"]["parentRef"]["name"].clone();
        assert_eq!((parent("10.9.0.1"), parent("10.9.0.2")), (json!("reserved"), json!("now")));
        cluster.api.take_log();
        cluster.reconcile(&Addresses, "", "10.9.0.2").await.unwrap();
        assert_eq!(cluster.api.take_log(), [] as [&str; 0]);
    }

    #[tokio::test]
    async fn each_address_of_a_service_has_its_object() {
        let cluster = Cluster::new();
        cluster.put(
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": ["10.9.0.0/24", "fd09::/112"]}}),
        );
        let service = |ips: &[&str]| {
            cluster.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "n"},
                "spec": {"clusterIP": ips[0], "clusterIPs": ips}}));
        };
        let settle = async || {
            for ip in ["10.9.0.7", "fd09::7", "10.9.0.7", "fd09::7"] {
                cluster.reconcile(&Addresses, "", ip).await.unwrap();
            }
            let ip = |ip: &str| cluster.get(&res::IP_ADDRESSES, "", ip);
            (ip("10.9.0.7"), ip("fd09::7"))
        };
        service(&["10.9.0.7", "FD09::0007"]);
        let (Some(first), Some(second)) = settle().await else { panic!("both are there") };
        assert_eq!(first["spec"], second["spec"]);
        assert_eq!(second["metadata"]["labels"], json!({FAMILY: "IPv6", IP_MANAGED_BY_LABEL: IP_ALLOCATOR}));
        cluster.api.take_log();
        settle().await;
        assert_eq!(cluster.api.take_log(), [] as [&str; 0]);
        service(&["10.9.0.7"]);
        let (first, second) = settle().await;
        assert!(first.is_some() && second.is_none(), "it was released");
        service(&["fd09::7", "10.9.0.7"]);
        let (first, second) = settle().await;
        assert!(first.is_some() && second.is_some(), "whichever goes first");
    }
}
