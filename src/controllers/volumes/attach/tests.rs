//! The controller over an API in memory.

use super::*;
use crate::runtime::fake::Cluster;

fn cluster() -> Cluster {
    let cluster = Cluster::new();
    for node in ["a", "b"] {
        cluster.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
        let name = format!("p{node}");
        cluster.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n"},
            "spec": {"nodeName": node, "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]}}));
    }
    let claim = cluster
        .put(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "n"},
        "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}}));
    cluster.put(json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "csi": {"driver": "d", "volumeHandle": "h"},
        "claimRef": {"namespace": "n", "name": "c", "uid": claim["metadata"]["uid"]}}}));
    cluster
}

fn all(cluster: &Cluster) -> Vec<Value> {
    cluster.api.all(&res::VOLUME_ATTACHMENTS)
}

fn node(cluster: &Cluster, name: &str) -> Value {
    cluster.get(&res::NODES, "", name).unwrap()
}

#[tokio::test]
async fn a_volume_goes_from_node_to_node() {
    let cluster = cluster();
    let attacher = Attacher::default();
    cluster.reconcile(&attacher, "", "a").await.unwrap();
    let made = all(&cluster);
    assert_eq!(made.len(), 1);
    assert_eq!(made[0]["spec"], json!({"attacher": "d", "nodeName": "a", "source": {"persistentVolumeName": "pv"}}));

    // The other node has to wait, whatever the first one's attacher has done.
    cluster.reconcile(&attacher, "", "b").await.unwrap();
    assert_eq!(all(&cluster).len(), 1);

    let mut attached = made[0].clone();
    attached["status"] = json!({"attached": true});
    cluster.put(attached);
    cluster.reconcile(&attacher, "", "a").await.unwrap();
    let mut a = node(&cluster, "a");
    assert_eq!(a["status"]["volumesAttached"], json!([{"name": "kubernetes.io/csi/d^h", "devicePath": ""}]));
    a["status"]["volumesInUse"] = json!(["kubernetes.io/csi/d^h"]);
    cluster.put(a);

    // The pod is gone, and its node has not unmounted yet.
    cluster.client().delete(&res::PODS, "n", "pa", &DeleteOptions::default()).await.unwrap();
    cluster.reconcile(&attacher, "", "a").await.unwrap();
    assert_eq!(all(&cluster).len(), 1);
    let mut a = node(&cluster, "a");
    a["status"]["volumesInUse"] = json!([]);
    cluster.put(a);
    cluster.reconcile(&attacher, "", "a").await.unwrap();
    assert_eq!(node(&cluster, "a")["status"]["volumesAttached"], json!([]));
    assert!(all(&cluster).is_empty());

    cluster.reconcile(&attacher, "", "b").await.unwrap();
    assert_eq!(all(&cluster)[0]["spec"]["nodeName"], "b");
}

#[tokio::test]
async fn a_silent_node_has_its_time() {
    let cluster = cluster();
    let attacher = Attacher::default();
    cluster.reconcile(&attacher, "", "a").await.unwrap();
    let mut a = node(&cluster, "a");
    a["status"] =
        json!({"volumesInUse": ["kubernetes.io/csi/d^h"], "conditions": [{"type": "Ready", "status": "Unknown"}]});
    cluster.put(a);
    cluster.client().delete(&res::PODS, "n", "pa", &DeleteOptions::default()).await.unwrap();
    let again = cluster.reconcile(&attacher, "", "a").await.unwrap();
    assert_eq!(again, Requeue::after_seconds(Some(plan::UNMOUNT_SECONDS)));
    cluster.clock.advance(plan::UNMOUNT_SECONDS);
    cluster.reconcile(&attacher, "", "a").await.unwrap();
    assert!(all(&cluster).is_empty());
}

#[tokio::test]
async fn what_needs_no_attachment_gets_none() {
    let cluster = cluster();
    cluster.put(json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": "d"},
        "spec": {"attachRequired": false}}));
    cluster.reconcile(&Attacher::default(), "", "a").await.unwrap();
    assert!(all(&cluster).is_empty());
}
