//! What the kubelet is told at its start.

use std::path::PathBuf;

use super::eviction::{Soft, Thresholds};
use super::images::GcPolicy;

/// Configuration of the node agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the Node object.
    pub node_name: String,
    /// Data directory of orch; the kubelet's is below it.
    pub data_dir: PathBuf,
    /// The kubelet's own directory, where it is not below the data directory.
    pub root_dir: Option<PathBuf>,
    /// A link to the kubelet's own directory, where others look for it.
    pub root_link: Option<PathBuf>,
    /// Where the directories are that are volumes of the class `local-path`.
    pub local_storage: PathBuf,
    /// Where container logs are, `/var/log/pods` upstream.
    pub pod_logs: PathBuf,
    /// Where links to the logs are that name pod, namespace and container, `/var/log/containers` upstream: collectors of
    /// logs look there.
    pub container_logs: PathBuf,
    /// Addresses of the node at the start, the main one first.
    pub node_ips: Vec<String>,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<String>,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// Labels that registration adds (`--node-label`).
    pub node_labels: Vec<(String, String)>,
    /// Taints that registration adds, as `key=value:effect` (`--node-taint`).
    pub node_taints: Vec<String>,
    /// Most pods of the node.
    pub max_pods: u32,
    /// The resolver configuration that pods inherit: the first of these that names a server outside this machine.
    pub resolv_conf: Vec<PathBuf>,
    /// The cgroup file system.
    pub cgroup_root: PathBuf,
    /// Socket of a containerd into which archives of images can be imported; none for another runtime.
    pub containerd: Option<PathBuf>,
    /// Where the runtime keeps images: their file system is watched.
    pub image_root: PathBuf,
    /// Names of images that are never removed.
    pub pinned_images: Vec<String>,
    /// When images are removed.
    pub image_gc: GcPolicy,
    /// What has to be left of the node's resources.
    pub eviction: Thresholds,
    /// What should be left of them most of the time.
    pub eviction_soft: Soft,
    /// Port of the node's HTTPS server, as the Node object names it; 0 for none.
    pub port: u16,
}

impl Config {
    /// Upstream's defaults for a node of this name.
    pub fn new(node_name: impl Into<String>, data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            containerd: None,
            root_dir: None,
            root_link: None,
            local_storage: data_dir.join("storage"),
            image_root: data_dir.join("agent/containerd"),
            pinned_images: Vec::new(),
            image_gc: GcPolicy::default(),
            eviction: Thresholds::default(),
            eviction_soft: Soft::default(),
            node_name: node_name.into(),
            data_dir,
            pod_logs: "/var/log/pods".into(),
            container_logs: "/var/log/containers".into(),
            node_ips: Vec::new(),
            cluster_dns: vec!["10.43.0.10".into()],
            cluster_domain: "cluster.local".into(),
            node_labels: Vec::new(),
            node_taints: Vec::new(),
            max_pods: 110,
            // The second one is what systemd-resolved asks; its own address is a loopback one, which no pod reaches.
            resolv_conf: vec!["/etc/resolv.conf".into(), "/run/systemd/resolve/resolv.conf".into()],
            cgroup_root: "/sys/fs/cgroup".into(),
            port: 10250,
        }
    }

    /// The kubelet's own directory.
    pub fn root(&self) -> PathBuf {
        self.root_dir.clone().unwrap_or_else(|| self.data_dir.join("agent/kubelet"))
    }

    /// The same by the name that plugins and drivers know it by: their charts say `/var/lib/kubelet`.
    pub fn known_root(&self) -> PathBuf {
        self.root_link.clone().unwrap_or_else(|| self.root())
    }

    /// Archives of images and lists of them, for the node to have from the start.
    pub fn images_dir(&self) -> PathBuf {
        self.data_dir.join("agent/images")
    }

    /// One that touches nothing outside `dir`.
    #[cfg(test)]
    pub fn for_tests(dir: &std::path::Path) -> Self {
        Self {
            pod_logs: dir.join("logs"),
            container_logs: dir.join("links"),
            node_ips: vec!["192.0.2.1".into()],
            cgroup_root: dir.join("cgroup"),
            resolv_conf: vec![dir.join("resolv.conf")],
            // The machine that runs the tests may be short of anything.
            eviction: Thresholds(Default::default()),
            ..Self::new("node", dir)
        }
    }
}
