//! The volumes of a pod that matter for placing it.

use serde_json::Value;

use crate::api::value::ValueExt;

/// Claims and disks of a pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Volumes {
    /// Claims by name, in the pod's namespace; true where the claim is made for this pod (ephemeral).
    pub claims: Box<[(Box<str>, bool)]>,
    /// Disks named in the pod itself: what identifies them, and whether only for reading.
    pub disks: Box<[(Box<str>, bool)]>,
}

impl Volumes {
    /// From `spec.volumes` of the pod `pod`.
    pub fn new(pod: &str, volumes: &[Value]) -> Self {
        let claim = |v: &Value| match v.str_at("/persistentVolumeClaim/claimName") {
            Some(name) => Some((name.into(), false)),
            None => v.get("ephemeral").and_then(|_| v.str_at("/name")).map(|n| (format!("{pod}-{n}").into(), true)),
        };
        Self { claims: volumes.iter().filter_map(claim).collect(), disks: volumes.iter().filter_map(disk).collect() }
    }
}

/// Upstream: `plugins/volumerestrictions` (`isVolumeConflict`), which knows GCE PD, EBS, iSCSI and RBD.
fn disk(v: &Value) -> Option<(Box<str>, bool)> {
    let read_only = |at: &str| v.bool_at(at).unwrap_or(false);
    if let Some(name) = v.str_at("/gcePersistentDisk/pdName") {
        return Some((format!("gce:{name}").into(), read_only("/gcePersistentDisk/readOnly")));
    }
    if let Some(id) = v.str_at("/awsElasticBlockStore/volumeID") {
        // Never shared, not even for reading.
        return Some((format!("ebs:{id}").into(), false));
    }
    if let Some(iqn) = v.str_at("/iscsi/iqn") {
        return Some((format!("iscsi:{iqn}").into(), read_only("/iscsi/readOnly")));
    }
    let image = v.str_at("/rbd/image")?;
    let pool = v.str_at("/rbd/pool").unwrap_or("rbd");
    let monitors: Vec<&str> = v.items_at("/rbd/monitors").iter().filter_map(Value::as_str).collect();
    Some((format!("rbd:{}:{pool}:{image}", monitors.join(",")).into(), read_only("/rbd/readOnly")))
}
