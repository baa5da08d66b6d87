//! Volumes behind a claim: which PersistentVolume it is, and making that.
//!
//! In: the claim and its volume, asked of the API once for a pod and then kept beside the pod's other files. Out: what the
//! volume's own source makes of it.
//! Rules: upstream `desired_state_of_world_populator.go`.
//!
//! **Invariant:** a pod gets a volume only while the claim and the volume name each other, by uid.
//! **Invariant:** what a pod was given stays what it gets, also after a reboot without a server.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;
use serde_json::{Value, json};

use super::{Cx, Labels, Prepared, VolumeError, csi, host_path, local, nfs};
use crate::api::meta::labels::Requirement;
use crate::api::status::{ApiResult, Reason};
use crate::api::value::ValueExt;
use crate::client::{Client, res};
use crate::kubelet::pod::PodView;
use crate::util::files;

/// Gives claims and volumes: a node may read those of its pods, one by one.
#[async_trait]
pub trait Claims: Send + Sync {
    /// A claim.
    async fn claim(&self, namespace: &str, name: &str) -> ApiResult<Value>;
    /// A volume.
    async fn volume(&self, name: &str) -> ApiResult<Value>;
}

#[async_trait]
impl Claims for Client {
    async fn claim(&self, namespace: &str, name: &str) -> ApiResult<Value> {
        self.get(&res::PERSISTENT_VOLUME_CLAIMS, namespace, name).await
    }

    async fn volume(&self, name: &str) -> ApiResult<Value> {
        self.get(&res::PERSISTENT_VOLUMES, "", name).await
    }
}

/// The claim behind a volume, and whether it was made for the pod alone.
pub fn name_of(pod: &PodView, volume: &Volume) -> Option<(String, bool)> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some((source.claim_name.clone(), false)),
        (None, Some(_)) => Some((format!("{}-{}", pod.name, volume.name), true)),
        (None, None) => None,
    }
}

/// Makes the volume behind a claim. `fresh` says that this pod has not had it since the kubelet started.
pub async fn prepare(cx: &mut Cx<'_>, volume: &Volume, fresh: bool) -> Result<Prepared, VolumeError> {
    let persistent = match kept(cx.dir, &volume.name) {
        Some(known) => known,
        None => find(cx, volume).await?,
    };
    let spec = &persistent["spec"];
    let read_only = volume.persistent_volume_claim.as_ref().is_some_and(|s| s.read_only == Some(true));
    let block = spec.str_at("/volumeMode") == Some("Block");
    check_use(cx.pod, &volume.name, block)?;
    if spec.get("csi").is_some() {
        let (claim, _) = name_of(cx.pod, volume).unwrap_or_default();
        return csi::persistent(cx, &persistent, &claim, read_only).await;
    }
    if block {
        let source = spec.get("local").ok_or(VolumeError::Unsupported("volumeMode Block, not local"))?;
        return Ok(Prepared { read_only, ..local::device(source)? });
    }
    let name = persistent.str_at("/metadata/name").unwrap_or_default();
    let options: Vec<&str> = spec.items_at("/mountOptions").iter().filter_map(Value::as_str).collect();
    let prepared = if let Some(source) = spec.get("hostPath") {
        host_path::prepare(&serde_json::from_value(source.clone()).map_err(|e| unreadable(name, e))?)?
    } else if let Some(source) = spec.get("local") {
        local::prepare(cx, source, fresh && !read_only)?
    } else if let Some(source) = spec.get("nfs") {
        let source = serde_json::from_value(source.clone()).map_err(|e| unreadable(name, e))?;
        nfs::prepare(cx, name, &source, &options, read_only).await?
    } else {
        let source = spec.as_object().into_iter().flatten().find(|(_, v)| v.is_object() && !is_common(v));
        let kind = source.map_or("unknown", |(k, _)| k.as_str());
        return Err(VolumeError::Missing(format!("orch does not serve persistent volumes of this source: {kind}")));
    };
    Ok(Prepared { read_only: prepared.read_only || read_only, ..prepared })
}

/// A device is no directory, and a directory no device.
fn check_use(pod: &PodView, volume: &str, block: bool) -> Result<(), VolumeError> {
    let containers = || pod.spec.containers.iter().chain(pod.spec.init_containers.iter().flatten());
    let mounted = || containers().any(|c| c.volume_mounts.iter().flatten().any(|m| m.name == volume));
    let mapped = || containers().any(|c| c.volume_devices.iter().flatten().any(|d| d.name == volume));
    let (mode, field) = match block {
        true if mounted() => ("Block", "volumeMounts"),
        false if mapped() => ("Filesystem", "volumeDevices"),
        _ => return Ok(()),
    };
    Err(VolumeError::Missing(format!("volume {volume} has volumeMode {mode}, but is specified in {field}")))
}

/// Fields of a volume's spec that are not its source.
fn is_common(field: &Value) -> bool {
    field.get("storage").is_some() || field.get("required").is_some() || field.get("uid").is_some()
}

fn unreadable(name: &str, e: serde_json::Error) -> VolumeError {
    VolumeError::Missing(format!("persistent volume {name} cannot be read: {e}"))
}

fn file(pod_dir: &Path, volume: &str) -> PathBuf {
    pod_dir.join("claims").join(format!("{volume}.json"))
}

/// What the pod was given before. A torn file is as good as none: the API is asked again.
fn kept(pod_dir: &Path, volume: &str) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(file(pod_dir, volume)).ok()?).ok()
}

/// A persistent volume that a pod was given.
pub struct Given {
    /// The pod.
    pub uid: String,
    /// The pod's name for it.
    pub volume: String,
    /// Its name and its spec.
    pub persistent: Value,
}

/// The persistent volumes that the pods below `pods_dir` were given. A pod's directory is there until its containers have
/// ended, whatever the API says of it.
pub fn given(pods_dir: &Path) -> Vec<Given> {
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten().collect::<Vec<_>>();
    let mut out = Vec::new();
    for pod in entries(pods_dir) {
        for found in entries(&pod.path().join("claims")) {
            let Some(persistent) = std::fs::read(found.path()).ok().and_then(|b| serde_json::from_slice(&b).ok())
            else {
                continue;
            };
            let volume = found.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
            out.push(Given { uid: pod.file_name().to_string_lossy().into_owned(), volume, persistent });
        }
    }
    out
}

/// Asks for the claim and its volume, and keeps the answer.
async fn find(cx: &Cx<'_>, volume: &Volume) -> Result<Value, VolumeError> {
    let (name, ephemeral) = name_of(cx.pod, volume).unwrap_or_default();
    let namespace = &cx.pod.namespace;
    let wrong = |why: String| VolumeError::Missing(format!("error processing PVC {namespace}/{name}: {why}"));
    let refused = |what: &str, e: Box<crate::api::status::Status>| match e.reason {
        Reason::NotFound => wrong(format!("{what} not found")),
        _ => wrong(format!("failed to fetch {what} from API server: {e}")),
    };
    let claim = cx.claims.claim(namespace, &name).await.map_err(|e| refused("PVC", e))?;
    let volume_name = claim_is_good(cx.pod, &claim, ephemeral).map_err(&wrong)?;
    let found = cx.claims.volume(volume_name).await.map_err(|e| refused(&format!("PV {volume_name}"), e))?;
    volume_is_good(&claim, &found, cx.node_labels, &cx.facts.node_name).map_err(wrong)?;
    let known = json!({"metadata": {"name": volume_name}, "spec": found["spec"]});
    let path = file(cx.dir, &volume.name);
    let dir = path.parent().unwrap_or(cx.dir);
    std::fs::create_dir_all(dir).map_err(|e| VolumeError::io(dir, e))?;
    files::write_atomic(&path, known.to_string().as_bytes(), 0o600).map_err(|e| VolumeError::io(&path, e))?;
    Ok(known)
}

/// The name of the claim's volume, or why the pod may not have it.
fn claim_is_good<'c>(pod: &PodView, claim: &'c Value, ephemeral: bool) -> Result<&'c str, String> {
    let mut owners = claim.items_at("/metadata/ownerReferences").iter();
    if ephemeral && !owners.any(|o| o.str_at("/uid") == Some(&pod.uid) && o.bool_at("/controller") == Some(true)) {
        return Err(format!("PVC was not created for pod {}/{} (pod is not owner)", pod.namespace, pod.name));
    }
    if claim.get_at("/metadata/deletionTimestamp").is_some() {
        return Err("PVC is being deleted".into());
    }
    match (claim.str_at("/status/phase"), claim.str_at("/spec/volumeName")) {
        (Some("Bound"), Some(volume)) if !volume.is_empty() => Ok(volume),
        _ => Err("PVC is not bound".into()),
    }
}

/// Why a volume is not the claim's, or cannot be used here.
fn volume_is_good(claim: &Value, volume: &Value, labels: &Labels, node: &str) -> Result<(), String> {
    let name = volume.str_at("/metadata/name").unwrap_or_default();
    if volume.str_at("/spec/claimRef/uid").is_none() {
        return Err(format!("PV {name} is not bound"));
    }
    if volume.get_at("/spec/claimRef/uid") != claim.get_at("/metadata/uid") {
        return Err(format!("PV {name} is bound to another claim"));
    }
    if !reachable(volume, labels, node) {
        return Err(format!("node affinity of PV {name} does not match this node, {node}"));
    }
    Ok(())
}

/// True when the volume's node affinity admits the node.
fn reachable(volume: &Value, labels: &Labels, node: &str) -> bool {
    let Some(required) = volume.get_at("/spec/nodeAffinity/required") else { return true };
    let holds = |e: &Value, value: Option<&str>| {
        let values: Vec<String> = e.items_at("/values").iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let (key, operator) = (e.str_at("/key").unwrap_or_default(), e.str_at("/operator").unwrap_or_default());
        Requirement::of_node(key, operator, &values).is_some_and(|r| r.matches(value))
    };
    let label = |e: &Value| {
        let key = e.str_at("/key")?;
        labels.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v)
    };
    required.items_at("/nodeSelectorTerms").iter().any(|term| {
        let (by_label, by_field) = (term.items_at("/matchExpressions"), term.items_at("/matchFields"));
        !(by_label.is_empty() && by_field.is_empty())
            && by_label.iter().all(|e| holds(e, label(e)))
            && by_field.iter().all(|e| holds(e, Some(node)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn claim() -> Value {
        json!({"metadata": {"name": "c", "namespace": "n", "uid": "1"}, "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}})
    }

    fn pod() -> PodView {
        PodView::from_value(
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": []}}),
        )
        .unwrap()
    }

    #[test_case("/status/phase", json!("Pending"), false => Err("PVC is not bound".into()); "not yet")]
    #[test_case("/metadata/deletionTimestamp", json!("x"), false => Err("PVC is being deleted".into()); "going")]
    #[test_case("/spec/x", json!(1), true => Err("PVC was not created for pod n/p (pod is not owner)".into()); "anothers")]
    #[test_case("/metadata/ownerReferences", json!([{"uid": "u", "controller": true}]), true => Ok("v".into()); "its own")]
    #[test_case("/spec/x", json!(1), false => Ok("v".into()); "bound")]
    fn claims_that_a_pod_may_use(at: &str, value: Value, ephemeral: bool) -> Result<String, String> {
        let mut c = claim();
        c.set_at(at, value);
        claim_is_good(&pod(), &c, ephemeral).map(str::to_owned)
    }

    #[test_case(json!({}), false; "reserved only")]
    #[test_case(json!({"claimRef": {"uid": "2"}}), false; "a claim of the same name")]
    #[test_case(json!({"claimRef": {"uid": "1"}}), true; "its own")]
    #[test_case(json!({"claimRef": {"uid": "1"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "host", "operator": "In", "values": ["b"]}]}]}}}), false; "elsewhere")]
    #[test_case(json!({"claimRef": {"uid": "1"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "host", "operator": "In", "values": ["a"]}]}]}}}), true; "here")]
    fn volumes_that_are_the_claims(spec: Value, good: bool) {
        let labels: &Labels = &[("host".into(), "a".into())];
        let volume = json!({"metadata": {"name": "v"}, "spec": spec});
        assert_eq!(volume_is_good(&claim(), &volume, labels, "node").is_ok(), good);
    }
}
