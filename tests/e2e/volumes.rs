//! Volumes on a fresh install: a StatefulSet's claims become directories of the node, keep what pods wrote, and go when they
//! should.
//!
//! Of upstream's conformance tests this covers the heart of: "StatefulSet should … volume claim templates", "PVC Protection
//! Verify that PVC in active use by a pod is not removed immediately", and of k3s's local-path what its users rely on.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::Cluster;

const SET: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  serviceName: dbs
  podManagementPolicy: Parallel
  persistentVolumeClaimRetentionPolicy: {whenScaled: Delete, whenDeleted: Retain}
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      securityContext: {fsGroup: 4321}
      containers:
      - name: main
        image: localhost/orch/web:v1
        env: [{name: EDITION, value: first}]
        volumeMounts: [{name: data, mountPath: /data}, {name: data, mountPath: /part, subPath: part}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
"#;

const WAITS: &str = r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: none}
spec: {accessModes: [ReadWriteOnce], storageClassName: absent, resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: waits}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "localhost/orch/web:v1"}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: none}}]
"#;

/// A disk of the node, raw, for a pod that writes to it.
const DISK: &str = r#"
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk}
spec:
  capacity: {storage: 1Mi}
  accessModes: [ReadWriteOnce]
  volumeMode: Block
  storageClassName: ""
  persistentVolumeReclaimPolicy: Retain
  local: {path: DEVICE}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [box]}]}]}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec: {accessModes: [ReadWriteOnce], volumeMode: Block, storageClassName: "", resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: writer}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: "localhost/orch/web:v1"
    securityContext: {runAsUser: 0}
    command: [sh, -c, "echo raw > /dev/own && sync && exec sleep 1000"]
    volumeDevices: [{name: data, devicePath: /dev/own}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: disk}}]
---
apiVersion: v1
kind: Pod
metadata: {name: mistaken}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: "localhost/orch/web:v1"
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: disk}}]
"#;

/// A file as a disk; gone with this.
struct Disk(String);

impl Disk {
    fn of(file: &Path) -> Self {
        std::fs::write(file, vec![0; 1 << 20]).unwrap();
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file).output().unwrap();
        assert!(made.status.success(), "losetup: {}", String::from_utf8_lossy(&made.stderr));
        Self(String::from_utf8(made.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("losetup").args(["--detach", &self.0]).status());
    }
}

fn a_disk_is_given_as_it_is(cluster: &Cluster) {
    let file = cluster.data_dir().join("disk");
    let disk = Disk::of(&file);
    cluster.apply(&DISK.replace("DEVICE", &disk.0));
    cluster.k(&["wait", "--for=condition=Ready", "pod/writer", "--timeout=60s"]);
    let said = || cluster.kubectl(&["logs", "writer", "--previous"]).stdout;
    cluster.eventually_or("it has written", said, || std::fs::read(&file).unwrap().starts_with(b"raw\n"));
    cluster.eventually("a device is no directory", || {
        let of = "--field-selector=involvedObject.name=mistaken";
        let events = cluster.k(&["get", "events", of, "-o", "jsonpath={.items[*].message}"]);
        events.contains("volume data has volumeMode Block, but is specified in volumeMounts")
    });
    cluster.k(&["delete", "pod/writer", "pod/mistaken", "pvc/disk", "pv/disk", "--timeout=60s"]);
}

/// Directories of volumes on the node.
fn directories(cluster: &Cluster) -> Vec<PathBuf> {
    let found = std::fs::read_dir(cluster.data_dir().join("storage")).into_iter().flatten().flatten();
    found.map(|e| e.path()).collect()
}

fn phase(cluster: &Cluster, claim: &str) -> String {
    cluster.field("pvc", claim, "/status/phase").as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_set_keeps_its_data_and_its_claims_go_when_they_should() {
    let cluster = Cluster::with_node();
    cluster.import_web("v1");
    cluster
        .eventually("the class is there", || cluster.kubectl(&["get", "storageclass", "local-path"]).code == Some(0));
    a_disk_is_given_as_it_is(&cluster);
    cluster.apply(SET);
    cluster.apply(WAITS);
    cluster.k(&["rollout", "status", "statefulset/db", "--timeout=90s"]);
    assert_eq!(phase(&cluster, "data-db-0"), "Bound");
    let volume = cluster.field("pvc", "data-db-0", "/spec/volumeName").as_str().unwrap().to_owned();
    let volume = cluster.get("pv", &volume);
    let path = PathBuf::from(volume["spec"]["local"]["path"].as_str().unwrap());
    assert!(path.starts_with(cluster.data_dir().join("storage")) && path.is_dir(), "{}", path.display());
    cluster.k(&["exec", "db-0", "--", "sh", "-c", "echo kept > /data/file; echo partly > /part/file"]);
    assert_eq!(std::fs::read_to_string(path.join("file")).unwrap(), "kept\n");
    assert_eq!(std::fs::read_to_string(path.join("part/file")).unwrap(), "partly\n");
    assert_eq!(std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(&path).unwrap()), 4321, "the pod's group");

    let uid = cluster.field("pod", "db-0", "/metadata/uid");
    cluster.k(&["delete", "pod", "db-0", "--timeout=60s"]);
    cluster.k(&["set", "env", "statefulset/db", "EDITION=second"]);
    cluster.k(&["rollout", "status", "statefulset/db", "--timeout=90s"]);
    assert_ne!(cluster.field("pod", "db-0", "/metadata/uid"), uid);
    assert_eq!(cluster.k(&["exec", "db-0", "--", "cat", "/data/file"]).trim(), "kept");

    // A claim in use stays until its pod is gone.
    cluster.k(&["delete", "pvc", "data-db-0", "--wait=false"]);
    assert_eq!(phase(&cluster, "data-db-0"), "Bound");
    assert!(path.is_dir());
    cluster.k(&["scale", "statefulset/db", "--replicas=0"]);
    cluster.eventually("claims and volumes go with their pods", || {
        cluster.k(&["get", "pv", "-o", "name"]).trim().is_empty() && directories(&cluster).is_empty()
    });
    assert_eq!(cluster.kubectl(&["get", "pvc", "data-db-1"]).code, Some(1), "scaled away");

    let reason = cluster.field("pod", "waits", "/status/conditions/0/message");
    assert!(reason.to_string().contains("unbound immediate PersistentVolumeClaims"), "{reason}");
    cluster.eventually("the claim says why it waits", || {
        let events = cluster.k(&[
            "get",
            "events",
            "--field-selector=involvedObject.name=none",
            "-o",
            "jsonpath={.items[*].message}",
        ]);
        events.contains("storageclass.storage.k8s.io \"absent\" not found")
    });
}
