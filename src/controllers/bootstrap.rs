//! What a cluster has from the start: its four namespaces, the Service range, and the Service `kubernetes` with the API
//! server behind it.
//!
//! The server calls [`ensure`] once it answers; it is idempotent, and a deleted object comes back with the next call.

use std::net::IpAddr;

use futures::future::try_join_all;
use futures::try_join;
use serde_json::{Value, json};

use crate::api::services::SERVICE_NAME_LABEL;
use crate::api::status::{ApiResult, Reason};
use crate::api::value::ValueExt;
use crate::client::{Client, Patch, Res, optional, res};
use crate::util::families::{Family, Networks};

/// The namespaces of every cluster.
pub const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Where the API server is.
#[derive(Debug, Clone)]
pub struct ApiServer {
    /// The first address of the Service range.
    pub service_ip: IpAddr,
    /// The Service range itself, of each family.
    pub service_cidr: Networks,
    /// Where nodes and pods reach the server itself.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// Creates what is missing and corrects what is not so any more.
pub async fn ensure(client: &Client, server: &ApiServer) -> ApiResult<()> {
    // Together: writes that wait for the store at one time share its sync.
    try_join_all(NAMESPACES.map(async |name| {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        create(client, &res::NAMESPACES, "", &object).await
    }))
    .await?;
    let family = Family::of(server.address).name();
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "type": "ClusterIP", "clusterIP": server.service_ip, "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": server.port}],
        },
    });
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": server.address}],
            "ports": [{"name": "https", "port": server.port, "protocol": "TCP"}]}],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {SERVICE_NAME_LABEL: "kubernetes"}},
        "addressType": family,
        "endpoints": [{"addresses": [server.address], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": server.port, "protocol": "TCP"}],
    });
    try_join!(
        service_range(client, server.service_cidr),
        put(client, &res::SERVICES, &service, &["/spec/ports"]),
        async {
            // A machine that never had a network yet is told of when it has one: nobody comes to a loopback address.
            if server.address.is_loopback() {
                return Ok(());
            }
            try_join!(
                put(client, &res::ENDPOINTS, &endpoints, &["/subsets"]),
                put(client, &res::ENDPOINT_SLICES, &slice, &["/endpoints", "/ports"]),
            )?;
            Ok(())
        },
    )?;
    Ok(())
}

/// The object that says what the Service range is. It is told, not asked: the range is the server's setting. A cluster that
/// becomes dual-stack gets its second family there; nothing else of it can change.
/// Upstream: `pkg/controlplane/controller/defaultservicecidr`.
async fn service_range(client: &Client, range: Networks) -> ApiResult<()> {
    let cidrs: Vec<String> = range.iter().map(|net| net.to_string()).collect();
    let wanted = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": cidrs}});
    let known = match optional(client.get(&res::SERVICE_CIDRS, "", "kubernetes").await)? {
        Some(known) => known,
        None => client.create(&res::SERVICE_CIDRS, "", &wanted).await?,
    };
    if let ([first], [same, _]) = (known.items_at("/spec/cidrs"), cidrs.as_slice())
        && first == same
    {
        let body = json!({"spec": {"cidrs": cidrs}});
        client.patch(&res::SERVICE_CIDRS, "", "kubernetes", None, Patch::Merge(&body)).await?;
    }
    if known.items_at("/status/conditions").iter().any(|c| c.str_at("/type") == Some("Ready")) {
        return Ok(());
    }
    let ready = json!({"type": "Ready", "status": "True", "reason": "",
        "lastTransitionTime": known["metadata"]["creationTimestamp"],
        "message": "Kubernetes default Service CIDR is ready"});
    // Its controller writes it at the same time: whoever is last says the same.
    let body = json!({"status": {"conditions": [ready]}});
    client.patch(&res::SERVICE_CIDRS, "", "kubernetes", Some("status"), Patch::Merge(&body)).await?;
    Ok(())
}

async fn create(client: &Client, res: &Res, ns: &str, object: &Value) -> ApiResult<()> {
    match client.create(res, ns, object).await {
        Err(e) if e.reason != Reason::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// Creates the object, or makes `parts` of the present one as they should be.
async fn put(client: &Client, res: &Res, want: &Value, parts: &[&str]) -> ApiResult<()> {
    let name = want.str_at("/metadata/name").unwrap_or_default();
    let Some(mut known) = optional(client.get(res, "default", name).await)? else {
        return create(client, res, "default", want).await;
    };
    let mut changed = false;
    for part in parts {
        let wanted = want.get_at(part).cloned().unwrap_or_default();
        if known.get_at(part) != Some(&wanted) {
            known.set_at(part, wanted);
            changed = true;
        }
    }
    if changed {
        client.update(res, "default", name, None, &known).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fake::Cluster;

    #[tokio::test]
    async fn a_cluster_begins_with_what_clients_expect() {
        let cluster = Cluster::new();
        let mut server = ApiServer {
            service_ip: [10, 43, 0, 1].into(),
            service_cidr: "10.43.0.0/16".parse().unwrap(),
            address: [127, 0, 0, 1].into(),
            port: 6443,
        };
        ensure(&cluster.client(), &server).await.unwrap();
        assert!(cluster.get(&res::ENDPOINTS, "default", "kubernetes").is_none(), "it has no network yet");
        server.address = [192, 0, 2, 1].into();
        ensure(&cluster.client(), &server).await.unwrap();
        assert_eq!(cluster.api.all(&res::NAMESPACES).len(), 4);
        cluster.api.take_log();
        ensure(&cluster.client(), &server).await.unwrap();
        assert!(cluster.api.take_log().iter().all(|l| l.starts_with("POST")), "nothing was changed");
        server.address = [192, 0, 2, 9].into();
        ensure(&cluster.client(), &server).await.unwrap();
        let slice = cluster.get(&res::ENDPOINT_SLICES, "default", "kubernetes").unwrap();
        assert_eq!(slice.str_at("/endpoints/0/addresses/0"), Some("192.0.2.9"));
        // The cluster becomes dual-stack; its own Service does not.
        let cidrs = || cluster.get(&res::SERVICE_CIDRS, "", "kubernetes").unwrap()["spec"]["cidrs"].clone();
        assert_eq!(cidrs(), json!(["10.43.0.0/16"]));
        for (range, want) in [
            ("10.44.0.0/16,fd43::/112", json!(["10.43.0.0/16"])),
            ("10.43.0.0/16,fd43::/112", json!(["10.43.0.0/16", "fd43::/112"])),
            ("10.43.0.0/16", json!(["10.43.0.0/16", "fd43::/112"])),
        ] {
            server.service_cidr = range.parse().unwrap();
            ensure(&cluster.client(), &server).await.unwrap();
            assert_eq!(cidrs(), want, "{range}");
        }
    }
}
