//! What `--disable` turns off: parts of orch by the names that k3s users know, and add-ons of the manifests directory.

use std::path::Path;

use anyhow::bail;

use crate::util::words::nearest;

/// The cluster's DNS on every node.
const DNS: &str = "coredns";
/// Volumes that are directories of nodes.
const LOCAL_STORAGE: &str = "local-storage";
/// What nodes and pods use, for `kubectl top` and autoscalers.
const METRICS: &str = "metrics-server";
/// Nodes' addresses for Services of type LoadBalancer.
const SERVICE_LB: &str = "servicelb";
/// What k3s ships and orch does not: there is nothing to turn off, and nothing wrong with saying so.
const NOT_SHIPPED: [&str; 2] = ["traefik", "runtimes"];

/// What is off.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Disabled {
    /// No DNS is served; the cluster brings its own.
    pub(super) dns: bool,
    /// No class `local-path`, and nobody makes its volumes.
    pub(super) local_storage: bool,
    /// No `metrics.k8s.io`.
    pub(super) metrics: bool,
    /// Services of type LoadBalancer wait for somebody else.
    pub(super) service_lb: bool,
    /// Add-ons by name.
    pub(super) addons: Vec<String>,
}

/// Sorts the names that were given. `manifests` is the directory of add-ons; it need not be there.
pub(super) fn disabled(names: &[String], manifests: &Path) -> anyhow::Result<Disabled> {
    let there = addons(manifests);
    let mut out = Disabled::default();
    for name in names.iter().filter(|n| !n.is_empty()) {
        if name == DNS {
            out.dns = true;
        } else if name == LOCAL_STORAGE {
            out.local_storage = true;
        } else if name == METRICS {
            out.metrics = true;
        } else if name == SERVICE_LB {
            out.service_lb = true;
        } else if there.contains(name) {
            out.addons.push(name.clone());
        } else if NOT_SHIPPED.contains(&name.as_str()) {
            tracing::info!("--disable {name}: orch does not ship it");
        } else {
            let known = [DNS, LOCAL_STORAGE, METRICS, SERVICE_LB]
                .into_iter()
                .chain(NOT_SHIPPED)
                .chain(there.iter().map(String::as_str));
            bail!(
                "--disable {name:?}: there is no such part, and no such file in {}; did you mean {:?}?",
                manifests.display(),
                nearest(known, name)
            );
        }
    }
    Ok(out)
}

/// The names of files, up to the first dot, and of directories.
fn addons(dir: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            out.extend(addons(&entry.path()));
            out.push(name);
        } else {
            out.extend(name.split('.').next().map(str::to_owned));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_files_and_what_k3s_ships_are_known() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("group")).unwrap();
        std::fs::write(dir.path().join("group/web.yaml"), "").unwrap();
        let of = |names: &[&str]| {
            disabled(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>(), dir.path()).map_err(|e| e.to_string())
        };
        let all = Disabled {
            dns: true,
            local_storage: true,
            metrics: true,
            service_lb: true,
            addons: vec!["web".into(), "group".into()],
        };
        assert_eq!(
            of(&["coredns", "web", "group", "traefik", "local-storage", "metrics-server", "servicelb"]),
            Ok(all)
        );
        assert!(of(&["cordns"]).unwrap_err().ends_with("did you mean \"coredns\"?"));
        assert!(disabled(&["x".into()], Path::new("/nonexistent")).is_err());
    }
}
