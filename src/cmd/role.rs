//! The role of the server's own node, which `kubectl get nodes` shows: k3s's label.
//!
//! **Invariant:** a kubelet may not give itself a role (NodeRestriction), so the server does it, once for each Node object
//! in the life of a process: whoever takes the label away meanwhile is left alone.

use futures::StreamExt;
use serde_json::json;

use crate::api::status::Reason;
use crate::client::{Client, Patch, res};
use crate::runtime::{Delta, Listers};
use crate::util::tasks::Shutdown;

/// Label and value, as k3s has them.
const CONTROL_PLANE: (&str, &str) = ("node-role.kubernetes.io/control-plane", "true");

/// Labels the Node of that name, whenever it is registered, until the shutdown.
pub(super) async fn run(client: Client, listers: &dyn Listers, node: &str, stop: &Shutdown) -> anyhow::Result<()> {
    let mut deltas = listers.lister("", "nodes").deltas();
    let mut labelled = String::new();
    while let Some(Some(delta)) = stop.or(deltas.next()).await {
        let Delta::Upsert { new, .. } = delta else { continue };
        if new.meta.name != node || new.meta.uid == labelled {
            continue;
        }
        let (label, role) = CONTROL_PLANE;
        if new.meta.label(label) != Some(role) {
            // Only this Node: one that is registered anew meanwhile is the next to come.
            let patch = json!({"metadata": {"uid": new.meta.uid, "labels": {label: role}}});
            match client.patch(&res::NODES, "", node, None, Patch::Merge(&patch)).await {
                Ok(_) => tracing::debug!(node, "has the role of the control plane"),
                Err(e) if matches!(e.reason, Reason::NotFound | Reason::Conflict) => {}
                Err(e) => return Err(e.into()),
            }
        }
        labelled.clone_from(&new.meta.uid);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::api::value::ValueExt;
    use crate::runtime::fake::Cluster;

    #[tokio::test]
    async fn the_servers_node_has_a_role_and_nobody_elses() {
        let cluster = Cluster::new();
        let node =
            |name: &str, uid: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": uid}});
        cluster.put(node("other", "o"));
        cluster.put(node("own", "a"));
        let (stop, listers) = (Shutdown::new(), cluster.listers.clone());
        let role = |name: &str| {
            let node = cluster.get(&res::NODES, "", name)?;
            node.pointer("/metadata/labels").and_then(|l: &Value| l.get(CONTROL_PLANE.0)).cloned()
        };
        let labelled = async || {
            while role("own") != Some(json!("true")) {
                tokio::task::yield_now().await;
            }
        };
        let test = async {
            labelled().await;
            // Somebody does not want it: what comes later is labelled, so that it was seen.
            cluster.put(node("own", "a"));
            tokio::task::yield_now().await;
            assert_eq!(role("own"), None);
            cluster.put(node("own", "b"));
            labelled().await;
            assert_eq!(cluster.get(&res::NODES, "", "own").unwrap().str_at("/metadata/uid"), Some("b"));
            assert_eq!(role("other"), None);
            stop.trigger();
        };
        let (ran, ()) = tokio::join!(run(cluster.client(), &*listers, "own", &stop), test);
        ran.unwrap();
    }
}
