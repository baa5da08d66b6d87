//! Volumes of a CSI driver on the node, through the whole of their lives: attached, staged, published, kept over the death of
//! the driver and of orch, resized, and taken away.
//!
//! The driver is [`driver`]; the test itself is the attacher and the resizer, which are others' programs.

mod driver;

use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::Cluster;
use driver::{Driver, NAME, Seen};

const VOLUME: &str = r#"
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: volumes.example.com}
spec:
  podInfoOnMount: true
  fsGroupPolicy: File
  volumeLifecycleModes: [Persistent, Ephemeral]
  tokenRequests: [{audience: vault}]
  serviceAccountTokenInSecrets: false
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: example}
provisioner: volumes.example.com
allowVolumeExpansion: true
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {password: sesame}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: pv}
spec:
  accessModes: [ReadWriteOnce]
  capacity: {storage: 10Mi}
  storageClassName: example
  persistentVolumeReclaimPolicy: Retain
  claimRef: {namespace: default, name: data}
  csi:
    driver: volumes.example.com
    volumeHandle: volume-1
    volumeAttributes: {colour: blue}
    nodeStageSecretRef: {namespace: default, name: key}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], storageClassName: example, volumeName: pv, resources: {requests: {storage: 10Mi}}}
"#;

fn pod(name: &str, more: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {{fsGroup: 4321}}
  containers:
  - name: main
    image: localhost/orch/web:v1
    volumeMounts: [{{name: data, mountPath: /data}}]
  volumes:
  - {{name: data, persistentVolumeClaim: {{claimName: data}}}}
{more}
"#
    )
}

/// The one attachment that there is.
fn attachment(cluster: &Cluster) -> Option<Value> {
    let all: Value = serde_json::from_str(&cluster.k(&["get", "volumeattachments", "-o", "json"])).unwrap();
    all["items"].as_array().and_then(|a| a.first().cloned())
}

/// What a driver's attacher does.
fn attach(cluster: &Cluster) {
    cluster.eventually("an attachment is asked for", || attachment(cluster).is_some());
    let found = attachment(cluster).unwrap();
    assert_eq!(found["spec"]["attacher"], NAME);
    assert_eq!(found["spec"]["nodeName"], "box");
    let name = found["metadata"]["name"].as_str().unwrap();
    let status = r#"{"status":{"attached":true,"attachmentMetadata":{"device":"sdz"}}}"#;
    cluster.k(&["patch", "volumeattachment", name, "--subresource=status", "--type=merge", "-p", status]);
}

fn ready(cluster: &Cluster, pod: &str) {
    cluster.k(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=60s"]);
}

fn told(cluster: &Cluster, pod: &str) -> String {
    let by = format!("--field-selector=involvedObject.name={pod}");
    cluster.k(&["get", "events", &by, "-o", r#"jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}"#])
}

#[test]
fn a_drivers_volume_outlives_its_pods_its_driver_and_orch() {
    let mut cluster = Cluster::with_node();
    cluster.import_web("v1");
    let (kubelet, backing) = (cluster.data_dir().join("agent/kubelet"), cluster.data_dir().join("backing"));
    let seen = Arc::new(Mutex::new(Seen::default()));
    let start = || Driver::start(&kubelet, &backing, seen.clone());
    let driver = start();
    cluster.eventually("the driver is told that it is registered", || seen.lock().unwrap().registered);
    let csi = cluster.field("csinode", "box", "/spec/drivers/0");
    assert_eq!((csi["name"].as_str(), csi["nodeID"].as_str()), (Some(NAME), Some("the-box")));
    assert_eq!(csi["allocatable"]["count"], 9);
    assert_eq!(cluster.field("node", "box", "/metadata/labels/topology.volumes.example.com~1rack"), "7");

    cluster.apply(VOLUME);
    cluster.apply(&pod("first", ""));
    attach(&cluster);
    ready(&cluster, "first");
    let unique = format!("kubernetes.io/csi/{NAME}^volume-1");
    assert_eq!(cluster.field("node", "box", "/status/volumesAttached/0/name"), unique.as_str());
    assert_eq!(cluster.field("node", "box", "/status/volumesInUse/0"), unique.as_str());
    let staged = driver.last("NodeStageVolume");
    assert_eq!(staged["context"]["device"], "sdz");
    assert_eq!(staged["secrets"]["password"], "sesame");
    let published = driver.last("NodePublishVolume");
    assert_eq!(published["attributes"]["colour"], "blue");
    assert_eq!(published["attributes"]["csi.storage.k8s.io/pod.name"], "first");
    let tokens = published["attributes"]["csi.storage.k8s.io/serviceAccount.tokens"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(tokens).unwrap()["vault"]["token"].is_string());
    cluster.k(&["exec", "first", "--", "sh", "-c", "echo kept > /data/file"]);
    let data = backing.join("volume-1");
    assert_eq!(std::fs::read_to_string(data.join("file")).unwrap(), "kept\n");
    assert_eq!(std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(&data).unwrap()), 4321, "the pod's group");
    assert!(
        told(&cluster, "first").contains("SuccessfulAttachVolume: AttachVolume.Attach succeeded for volume \"pv\"")
    );

    // Nobody is there to take the volume away, and orch itself starts anew meanwhile: what is there is remembered.
    drop(driver);
    cluster.eventually("the driver is forgotten", || cluster.field("csinode", "box", "/spec/drivers/0").is_null());
    cluster.k(&["delete", "pod", "first", "--wait=false"]);
    cluster.eventually("the container ends", || {
        let running = cluster.field("pod", "first", "/status/containerStatuses/0/state/running");
        running.is_null()
    });
    cluster.end_server(Signal::SIGKILL);
    cluster.start();
    cluster.wait_for_node();
    assert!(attachment(&cluster).is_some(), "it is still mounted");
    assert_eq!(cluster.kubectl(&["get", "pod", "first"]).code, Some(0), "it waits for its driver");
    let driver = start();
    cluster.eventually("the pod goes", || cluster.kubectl(&["get", "pod", "first"]).code == Some(1));
    assert_eq!(
        (driver.last("NodeUnpublishVolume")["id"].as_str(), driver.count("NodeUnstageVolume")),
        (Some("volume-1"), 1)
    );
    cluster.eventually("the volume is detached", || attachment(&cluster).is_none());
    assert!(cluster.field("node", "box", "/status/volumesInUse/0").is_null());

    // It has grown, and at first the driver does not manage. The pod brings a volume of its own.
    cluster.k(&["patch", "pvc", "data", "-p", r#"{"spec":{"resources":{"requests":{"storage":"20Mi"}}}}"#]);
    cluster.k(&["patch", "pv", "pv", "-p", r#"{"spec":{"capacity":{"storage":"20Mi"}}}"#]);
    driver.refuse(Some(("NodeStageVolume", "disk on fire")));
    cluster.apply(&pod("second", "  - {name: scratch, csi: {driver: volumes.example.com}}"));
    attach(&cluster);
    let why = "FailedMount: MountVolume.MountDevice failed for volume \"data\" : rpc error: code = Internal desc = disk on fire";
    cluster.eventually("the pod says what is wrong", || told(&cluster, "second").contains(why));
    driver.refuse(None);
    ready(&cluster, "second");
    assert_eq!(cluster.k(&["exec", "second", "--", "cat", "/data/file"]), "kept");
    assert_eq!(driver.last("NodeExpandVolume")["bytes"], 20 << 20);
    assert_eq!(cluster.field("pvc", "data", "/status/capacity/storage"), "20Mi");
    let grown = "FileSystemResizeSuccessful: MountVolume.NodeExpandVolume succeeded for volume \"pv\" box";
    cluster.eventually("the pod is told", || told(&cluster, "second").contains(grown));
    // How full it is, as its driver says.
    let summary = cluster.k(&["get", "--raw", "/api/v1/nodes/box/proxy/stats/summary"]);
    let summary: Value = serde_json::from_str(&summary).unwrap();
    let pods = summary["pods"].as_array().unwrap();
    let second = pods.iter().find(|p| p["podRef"]["name"] == "second").unwrap();
    let volume = &second["volume"][0];
    assert!(volume["pvcRef"]["name"] == "data" && volume["usedBytes"] == 40, "{volume}");
    let metrics = cluster.k(&["get", "--raw", "/api/v1/nodes/box/proxy/metrics"]);
    let free = "kubelet_volume_stats_inodes_free{namespace=\"default\",persistentvolumeclaim=\"data\"} 93";
    assert!(metrics.contains(free), "{metrics}");
    assert_eq!(driver.last("NodeGetVolumeStats")["there"], true);
    let own = driver.last("NodePublishVolume");
    assert_eq!(own["attributes"]["csi.storage.k8s.io/ephemeral"], "true");
    assert_eq!(own["staging"], "", "a pod's own volume is not staged");
    cluster.k(&["delete", "pod", "second", "--timeout=60s"]);
    cluster.eventually("nothing is left on the node", || attachment(&cluster).is_none());
    let left = std::fs::read_dir(kubelet.join("plugins/kubernetes.io/csi").join(NAME)).unwrap().count();
    assert_eq!(left, 0, "of what was staged");
}
