//! What an inventory need not ask again.
//!
//! A running container's status stays as it is until its state changes, an exited one's for ever, and a sandbox keeps
//! its addresses. A quiet node therefore costs two calls an inventory.
//!
//! **Invariant:** the cache holds nothing that the last listing did not name, so it is as large as the node's pods.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use super::convert;
use super::proto::runtime as pb;
use crate::kubelet::runtime::{ContainerStatus, State};

/// Final answers by id.
#[derive(Default)]
pub(super) struct Cache {
    containers: Mutex<HashMap<String, ContainerStatus>>,
    ips: Mutex<HashMap<String, Vec<String>>>,
}

impl Cache {
    /// The status of a listed container if the known one still holds.
    pub(super) fn container(&self, listed: &pb::Container) -> Option<ContainerStatus> {
        let known = self.containers.lock().get(&listed.id).cloned()?;
        (known.state == convert::state(listed.state())).then_some(known)
    }

    /// Remembers a status, unless the runtime itself is not sure of it.
    pub(super) fn keep_container(&self, status: &ContainerStatus) {
        if status.state != State::Unknown {
            self.containers.lock().insert(status.id.clone(), status.clone());
        }
    }

    /// The addresses of a sandbox.
    pub(super) fn ips(&self, id: &str) -> Option<Vec<String>> {
        self.ips.lock().get(id).cloned()
    }

    /// Remembers addresses once there are any: a sandbox on the host's network has none, ever.
    pub(super) fn keep_ips(&self, id: &str, ips: &[String]) {
        self.ips.lock().insert(id.to_owned(), ips.to_vec());
    }

    /// Forgets what is no longer listed.
    pub(super) fn retain(&self, sandboxes: &[pb::PodSandbox], containers: &[pb::Container]) {
        let ids: HashSet<&str> = containers.iter().map(|c| c.id.as_str()).collect();
        self.containers.lock().retain(|id, _| ids.contains(id.as_str()));
        let ids: HashSet<&str> = sandboxes.iter().map(|s| s.id.as_str()).collect();
        self.ips.lock().retain(|id, _| ids.contains(id.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(id: &str, state: pb::ContainerState) -> pb::Container {
        pb::Container { id: id.into(), state: state.into(), ..Default::default() }
    }

    #[test]
    fn a_status_holds_until_the_state_changes_or_the_container_goes() {
        let cache = Cache::default();
        cache.keep_container(&ContainerStatus { id: "a".into(), state: State::Running, ..Default::default() });
        assert!(cache.container(&listed("a", pb::ContainerState::ContainerRunning)).is_some());
        assert!(cache.container(&listed("a", pb::ContainerState::ContainerExited)).is_none());
        cache.keep_ips("s", &["10.0.0.1".into()]);
        cache.retain(&[], &[]);
        assert!(cache.container(&listed("a", pb::ContainerState::ContainerRunning)).is_none());
        assert!(cache.ips("s").is_none());
    }

    #[test]
    fn an_unknown_state_is_asked_for_every_time() {
        let cache = Cache::default();
        cache.keep_container(&ContainerStatus { id: "a".into(), ..Default::default() });
        assert!(cache.container(&listed("a", pb::ContainerState::ContainerUnknown)).is_none());
    }
}
