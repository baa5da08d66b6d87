//! What a node has to know of its cluster: written by the server into the ConfigMap `kube-system/orch-cluster`, read by
//! agents, which may read this one and keep what it says for the time that the server is away.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::cni::overlay::Backend;
use crate::util::families::Networks;

/// Namespace of the ConfigMap.
pub const NAMESPACE: &str = "kube-system";
/// Its name.
pub const NAME: &str = "orch-cluster";

/// A cluster, as its nodes see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Pod addresses.
    pub cluster_cidr: Networks,
    /// Service addresses.
    pub service_cidr: Networks,
    /// Address of DNS.
    pub cluster_dns: IpAddr,
    /// Domain.
    pub cluster_domain: String,
    /// How packets get from node to node.
    pub backend: Backend,
    /// Where nodes keep volumes of the class `local-path`; none for below their own data directories.
    pub local_storage: Option<PathBuf>,
    /// Whether nodes answer for the cluster's DNS; if not, the cluster brings its own.
    pub serve_dns: bool,
}

impl Cluster {
    /// All networks that are the cluster's own: of pods and of Services.
    pub fn networks(&self) -> Vec<IpNet> {
        self.cluster_cidr.iter().chain(self.service_cidr.iter()).collect()
    }

    /// The ConfigMap; with the CA of clients, by which a node's server knows them.
    pub fn to_config_map(&self, client_ca_pem: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": NAMESPACE}, "data": {
            "cluster-cidr": self.cluster_cidr.to_string(), "service-cidr": self.service_cidr.to_string(),
            "cluster-dns": self.cluster_dns.to_string(), "cluster-domain": self.cluster_domain,
            "flannel-backend": self.backend.to_string(), "serve-dns": self.serve_dns.to_string(),
            "local-storage-path": self.local_storage.as_deref().map(Path::to_string_lossy).unwrap_or_default(),
            "client-ca.crt": client_ca_pem}})
    }

    /// From the ConfigMap, with the CA of clients.
    pub fn from_config_map(map: &Value) -> anyhow::Result<(Self, String)> {
        let text = |key: &str| match map["data"][key].as_str() {
            Some(text) if !text.is_empty() => Ok(text),
            _ => bail!("{NAMESPACE}/{NAME} does not say {key}"),
        };
        let bad = |key: &str| format!("{NAMESPACE}/{NAME}: {key} cannot be read");
        let cluster = Self {
            cluster_cidr: text("cluster-cidr")?
                .parse()
                .map_err(anyhow::Error::msg)
                .with_context(|| bad("cluster-cidr"))?,
            service_cidr: text("service-cidr")?
                .parse()
                .map_err(anyhow::Error::msg)
                .with_context(|| bad("service-cidr"))?,
            cluster_dns: text("cluster-dns")?.parse().with_context(|| bad("cluster-dns"))?,
            cluster_domain: text("cluster-domain")?.to_owned(),
            backend: text("flannel-backend")?
                .parse()
                .map_err(anyhow::Error::msg)
                .with_context(|| bad("flannel-backend"))?,
            local_storage: map["data"]["local-storage-path"].as_str().filter(|p| !p.is_empty()).map(PathBuf::from),
            // Servers before this setting always did.
            serve_dns: map["data"]["serve-dns"] != "false",
        };
        Ok((cluster, text("client-ca.crt")?.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_writes_is_what_a_node_reads() {
        let cluster = Cluster {
            cluster_cidr: "10.42.0.0/16,fd42::/56".parse().unwrap(),
            service_cidr: "10.43.0.0/16".parse().unwrap(),
            cluster_dns: "10.43.0.10".parse().unwrap(),
            cluster_domain: "cluster.local".into(),
            backend: Backend::HostGw,
            local_storage: Some("/srv/volumes".into()),
            serve_dns: false,
        };
        let mut map = cluster.to_config_map("pem");
        assert_eq!(Cluster::from_config_map(&map).unwrap(), (cluster, "pem".into()));
        map["data"]["cluster-dns"] = "".into();
        assert!(Cluster::from_config_map(&map).unwrap_err().to_string().contains("does not say cluster-dns"));
    }
}
