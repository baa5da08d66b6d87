//! Pods and inventories for the table tests of the kubelet.

use serde_json::{Value, json};

use super::pod::{PodInventory, PodView, keys};
use super::runtime::{ContainerStatus, SandboxStatus, State};

/// Seconds since the epoch at which the tests' sandboxes and containers were made.
pub const BORN: i64 = 1000;

/// A pod from its spec.
pub fn pod(spec: Value) -> PodView {
    PodView::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 1}, "spec": spec}))
        .unwrap()
}

/// A pod with one container `c`.
pub fn simple(policy: &str) -> PodView {
    pod(
        json!({"restartPolicy": policy, "terminationGracePeriodSeconds": 30, "containers": [{"name": "c", "image": "i"}]}),
    )
}

/// A pod with an init container `i`, a sidecar `s`, another init container `j` and an app container `c`.
pub fn staged(policy: &str) -> PodView {
    pod(json!({"restartPolicy": policy, "initContainers": [
        {"name": "i", "image": "i"}, {"name": "s", "image": "i", "restartPolicy": "Always"}, {"name": "j", "image": "i"}],
        "containers": [{"name": "c", "image": "i"}]}))
}

/// An inventory of the pod with one ready sandbox `s0`, and containers `(name, state, exit code)`; the later one of a
/// name is the newer.
pub fn inventory(pod: &PodView, containers: &[(&str, State, i32)]) -> PodInventory {
    let sandbox = SandboxStatus {
        id: "s0".into(),
        state: State::Running,
        ips: vec!["10.0.0.1".into()],
        created_at: BORN * 1_000_000_000,
        ..SandboxStatus::default()
    };
    let mut list: Vec<ContainerStatus> = Vec::new();
    for (name, state, exit_code) in containers {
        let attempt = list.iter().filter(|c| c.name == *name).count() as u32;
        let hash = pod.member(name).map(|m| m.hash.clone()).unwrap_or_default();
        let at = (BORN + i64::from(attempt)) * 1_000_000_000;
        list.push(ContainerStatus {
            id: format!("{name}{attempt}"),
            sandbox_id: "s0".into(),
            name: (*name).into(),
            attempt,
            image: "i".into(),
            image_ref: "sha256:i".into(),
            state: *state,
            created_at: at,
            started_at: at,
            finished_at: if *state == State::Exited { at } else { 0 },
            exit_code: *exit_code,
            annotations: [(keys::HASH.to_owned(), hash)].into(),
            ..ContainerStatus::default()
        });
    }
    PodInventory { sandboxes: vec![sandbox], containers: list, unclear: None }.sorted()
}
