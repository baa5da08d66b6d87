//! Brings a pod's volumes of drivers, and takes them away.
//!
//! The order of bringing: it is in use, it is attached, it is remembered, staged, published, given to the pod's group. Each
//! step may be cut off and done again; taking away goes by what is remembered.
//! Rules: upstream `csi_mounter.go`, `csi_attacher.go`, `csi_block.go`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::data::{self, Data};
use super::driver::{Abilities, Driver};
use super::request::{SecretRef, Strings, Volume, is_attached_first};
use super::{Csi, POD_DEVICES, POD_VOLUMES, STAGED};
use crate::api::value::ValueExt;
use crate::client::{optional, res};
use crate::kubelet::cri::proto::csi as pb;
use crate::kubelet::volumes::fullness::{Amounts, Fullness};
use crate::kubelet::volumes::{Cx, Prepared, VolumeError, mounts, ownership};
use crate::runtime::events::Regarding;

/// Wait for a volume to be attached. Upstream: `podAttachAndMountTimeout`.
const ATTACH_PATIENCE: Duration = Duration::from_secs(120);
/// Between two times that a driver which wants that publishes a volume again, and between looks whether a volume has grown: the
/// node may only ask for claims, not follow them. Upstream: the sync of pods.
const AGAIN: SignedDuration = SignedDuration::from_secs(60);

/// Where a volume of a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// What the pod has is remembered here.
    pub dir: PathBuf,
    /// Where it is published.
    pub target: PathBuf,
    /// What is staged is remembered here.
    pub staged: PathBuf,
    /// Where it is staged.
    pub staging: PathBuf,
}

/// A volume that a pod has, by the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodMount {
    pub data: Data,
    pub block: bool,
}

impl Place {
    /// Of a volume below the kubelet's directory.
    fn of(root: &Path, pod_dir: &Path, volume: &Volume) -> Self {
        let (name, staged) = (volume.name.replace('/', "~"), root.join(STAGED));
        let record = staged.join(&volume.driver).join(volume.stage_name());
        if volume.block {
            let devices = staged.join("volumeDevices");
            let uid = pod_dir.file_name().unwrap_or_default();
            return Self {
                dir: pod_dir.join(POD_DEVICES).join(&name),
                target: devices.join("publish").join(&name).join(uid),
                staged: record,
                staging: devices.join("staging").join(&name),
            };
        }
        let dir = pod_dir.join(POD_VOLUMES).join(name);
        Self { target: dir.join("mount"), dir, staging: record.join("globalmount"), staged: record }
    }

    /// True when the driver has published it, as far as the kernel tells.
    fn is_published(&self, block: bool) -> bool {
        use std::os::unix::fs::FileTypeExt;
        match block {
            true => std::fs::metadata(&self.target).is_ok_and(|m| m.file_type().is_block_device()),
            false => mounts::is_mounted(&self.target).unwrap_or(false),
        }
    }
}

/// What a pod has, by its directory.
pub(super) fn of_pod(pod_dir: &Path) -> Vec<PodMount> {
    let all = [(POD_VOLUMES, false), (POD_DEVICES, true)];
    let read = |(below, block): (&str, bool)| {
        let found = data::within(&pod_dir.join(below));
        found.into_iter().map(move |(_, data)| PodMount { data, block })
    };
    all.into_iter().flat_map(read).collect()
}

/// A volume on its way to a pod.
struct Way<'a> {
    volume: &'a Volume,
    place: &'a Place,
    driver: &'a Driver,
    can: Abilities,
    /// What the driver's object says; it may have none.
    object: Option<&'a Value>,
    /// What the attachment says.
    context: Strings,
}

impl Csi {
    /// Makes a volume of the pod. `claim` is the one it is behind.
    pub async fn set_up(&self, cx: &mut Cx<'_>, volume: &Volume, claim: Option<&str>) -> Result<Prepared, VolumeError> {
        let place = Place::of(&self.root, cx.dir, volume);
        let there = Data::load(&place.dir).is_some() && place.is_published(volume.block);
        let again = cx.now.checked_add(AGAIN).ok();
        let prepared = |refresh| Prepared { path: place.target.clone(), refresh, read_only: volume.read_only };
        let asked = async {
            let object = self.object_of(&volume.driver).await?;
            let driver = self.driver(&volume.driver)?;
            let can = driver.abilities().await?;
            Ok::<_, VolumeError>((object, driver, can))
        };
        let (object, driver, can) = match asked.await {
            // What is there is there: neither a driver nor a server has to be for a container to start again.
            Err(_) if there => return Ok(prepared(again)),
            other => other?,
        };
        let object = object.as_ref();
        volume.check_mode(object).map_err(VolumeError::Missing)?;
        let republish = object.and_then(|o| o.bool_at("/spec/requiresRepublish")) == Some(true);
        let publish = !there || republish;
        let unique = volume.unique_name();
        let first = publish && !volume.ephemeral && is_attached_first(object);
        let _coming = first.then(|| self.coming(&unique));
        let context = if first { self.attached(volume).await? } else { Strings::new() };
        let _turn = self.turn(&unique).await;
        let way = Way { volume, place: &place, driver: &driver, can, object, context };
        if publish {
            self.publish(cx, &way, first, there).await?;
        }
        if let Some(claim) = claim.filter(|_| can.expand) {
            self.expand(cx, &way, claim).await?;
        }
        Ok(prepared(again.filter(|_| republish || (can.expand && claim.is_some()))))
    }

    /// What the driver says of itself; it need not say anything.
    async fn object_of(&self, driver: &str) -> Result<Option<Value>, VolumeError> {
        let found = optional(self.client.get(&res::CSI_DRIVERS, "", driver).await);
        found.map_err(|e| VolumeError::Missing(format!("cannot get CSIDriver {driver}: {e}")))
    }

    /// Waits until the API says that the volume is attached to this node and used by it; gives what the attacher wrote.
    async fn attached(&self, volume: &Volume) -> Result<Strings, VolumeError> {
        let unique = volume.unique_name();
        let (mut told, mut said) = (self.told.subscribe(), self.said.subscribe());
        let ready = async {
            while !self.is_settled(&unique) {
                tokio::select! {
                    // Both senders live as long as this.
                    _ = told.changed() => {}
                    _ = said.changed() => {}
                }
            }
        };
        let late = || VolumeError::Missing(format!("{unique} is not attached to this node: timed out waiting for it"));
        tokio::time::timeout(ATTACH_PATIENCE, ready).await.map_err(|_| late())?;
        let name = volume.attachment(&self.node);
        let refused = |why: String| VolumeError::Missing(format!("volume attachment {name}: {why}"));
        let found = self.client.get(&res::VOLUME_ATTACHMENTS, "", &name).await.map_err(|e| refused(e.to_string()))?;
        if found.get_at("/metadata/deletionTimestamp").is_some() {
            return Err(refused("it is being deleted".into()));
        }
        if found.bool_at("/status/attached") != Some(true) {
            let why = found.str_at("/status/attachError/message").unwrap_or("it is not attached").to_owned();
            return Err(refused(why));
        }
        let metadata = found.get_at("/status/attachmentMetadata").and_then(Value::as_object);
        Ok(metadata.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect())
    }

    /// Stages and publishes. `again` says that the pod has it already.
    async fn publish(&self, cx: &mut Cx<'_>, way: &Way<'_>, attached: bool, again: bool) -> Result<(), VolumeError> {
        let Way { volume, place, driver, can, object, .. } = way;
        let data = Data {
            name: volume.name.clone(),
            volume_handle: volume.handle.clone(),
            driver_name: volume.driver.clone(),
            node_name: self.node.clone(),
            attachment: if attached { volume.attachment(&self.node) } else { String::new() },
            volume_lifecycle_mode: volume.mode().into(),
        };
        data.save(&place.dir).map_err(|e| VolumeError::io(&place.dir, e))?;
        let group = ownership::group(cx.pod);
        let staged = can.stage && !volume.ephemeral;
        if staged {
            self.stage(way, &data, group).await?;
        }
        let mut attributes = volume.attributes_for(*object, cx.pod);
        let mut secrets = self.secrets("nodePublishSecretRef", volume.publish_secret.as_ref()).await?;
        if let Some(tokens) = tokens(cx, *object).await? {
            let in_secrets = object.and_then(|o| o.bool_at("/spec/serviceAccountTokenInSecrets")) == Some(true);
            let to = if in_secrets { &mut secrets } else { &mut attributes };
            to.insert("csi.storage.k8s.io/serviceAccount.tokens".into(), tokens);
        }
        let parent = place.target.parent().unwrap_or(&place.dir);
        std::fs::create_dir_all(parent).map_err(|e| VolumeError::io(parent, e))?;
        let asked = pb::NodePublishVolumeRequest {
            volume_id: volume.handle.clone(),
            publish_context: way.context.clone(),
            staging_target_path: if staged { self.tell(&place.staging) } else { String::new() },
            target_path: self.tell(&place.target),
            volume_capability: Some(volume.capability(*can, group)),
            readonly: volume.read_only,
            secrets,
            volume_context: attributes,
        };
        driver.publish(asked).await?;
        if volume.wants_group(*object, *can) && !again {
            ownership::apply(cx.pod, &place.target).map_err(|e| VolumeError::io(&place.target, e))?;
        }
        Ok(())
    }

    async fn stage(&self, way: &Way<'_>, data: &Data, group: Option<u32>) -> Result<(), VolumeError> {
        let Way { volume, place, .. } = way;
        data.save(&place.staged).map_err(|e| VolumeError::io(&place.staged, e))?;
        std::fs::create_dir_all(&place.staging).map_err(|e| VolumeError::io(&place.staging, e))?;
        let asked = pb::NodeStageVolumeRequest {
            volume_id: volume.handle.clone(),
            publish_context: way.context.clone(),
            staging_target_path: self.tell(&place.staging),
            volume_capability: Some(volume.capability(way.can, group)),
            secrets: self.secrets("nodeStageSecretRef", volume.stage_secret.as_ref()).await?,
            volume_context: volume.attributes.clone(),
        };
        way.driver.stage(asked).await.map_err(VolumeError::Stage)
    }

    /// What a Secret says, for the driver.
    async fn secrets(&self, what: &str, at: Option<&SecretRef>) -> Result<Strings, VolumeError> {
        let Some(SecretRef { namespace, name }) = at else { return Ok(Strings::new()) };
        let failed = |why: String| VolumeError::Missing(format!("fetching {what} {namespace}/{name} failed: {why}"));
        let found = self.client.get(&res::SECRETS, namespace, name).await.map_err(|e| failed(e.to_string()))?;
        let mut out = Strings::new();
        for (key, value) in found.get("data").and_then(Value::as_object).into_iter().flatten() {
            let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap_or_default());
            let text = bytes.ok().and_then(|b| String::from_utf8(b).ok());
            out.insert(key.clone(), text.ok_or_else(|| failed(format!("{key} is no text")))?);
        }
        Ok(out)
    }

    /// Makes the file system as large as the volume has become, and says so in the claim.
    async fn expand(&self, cx: &Cx<'_>, way: &Way<'_>, claim: &str) -> Result<(), VolumeError> {
        let Way { volume, place, .. } = way;
        let failed = |why: String| {
            VolumeError::Missing(format!("MountVolume.NodeExpandVolume failed for volume \"{}\" : {why}", volume.name))
        };
        let namespace = &cx.pod.namespace;
        let known = cx.claims.claim(namespace, claim).await.map_err(|e| failed(e.to_string()))?;
        if !has_to_grow(&known, None) {
            return Ok(());
        }
        let found = cx.claims.volume(&volume.name).await.map_err(|e| failed(e.to_string()))?;
        if !has_to_grow(&known, Some(&found)) {
            return Ok(());
        }
        let Some(now) = Volume::persistent(&found, volume.read_only) else { return Ok(()) };
        let asked = pb::NodeExpandVolumeRequest {
            volume_id: volume.handle.clone(),
            volume_path: self.tell(&place.target),
            capacity_range: Some(pb::CapacityRange { required_bytes: now.capacity, limit_bytes: 0 }),
            staging_target_path: if way.can.stage { self.tell(&place.staging) } else { String::new() },
            volume_capability: Some(volume.capability(way.can, ownership::group(cx.pod))),
            secrets: self.secrets("nodeExpandSecretRef", now.expand_secret.as_ref()).await?,
        };
        way.driver.expand(asked).await.map_err(|e| failed(e.to_string()))?;
        let body = json!({ "status": grown(&known, &found) });
        let patch = crate::client::Patch::Merge(&body);
        let written = self.client.patch(&res::PERSISTENT_VOLUME_CLAIMS, namespace, claim, Some("status"), patch).await;
        written.map_err(|e| failed(e.to_string()))?;
        let message = format!("MountVolume.NodeExpandVolume succeeded for volume \"{}\" {}", volume.name, self.node);
        let of_claim = Regarding {
            api_version: "v1".into(),
            kind: "PersistentVolumeClaim".into(),
            namespace: namespace.clone(),
            name: claim.to_owned(),
            uid: known.str_at("/metadata/uid").unwrap_or_default().to_owned(),
            ..Regarding::default()
        };
        for about in [cx.pod.regarding(), of_claim] {
            cx.events.normal(about, "FileSystemResizeSuccessful", message.clone());
        }
        Ok(())
    }

    /// How full a pod's volume is; none where its driver does not tell.
    pub async fn fullness(&self, pod_dir: &Path, persistent: &Value) -> Option<Fullness> {
        let volume = Volume::persistent(persistent, false)?;
        let place = Place::of(&self.root, pod_dir, &volume);
        let driver = self.driver(&volume.driver).ok()?;
        let can = driver.abilities().await.ok().filter(|can| can.stats)?;
        let staging = if can.stage { self.tell(&place.staging) } else { String::new() };
        let told = driver.stats(&volume.handle, self.tell(&place.target), staging).await;
        let told = told.inspect_err(|e| tracing::debug!(volume = volume.name, "its driver tells no statistics: {e}"));
        Some(fullness(&told.ok()?))
    }

    /// True when a driver may still have something of the pod's.
    pub fn has(&self, pod_dir: &Path) -> bool {
        !of_pod(pod_dir).is_empty()
    }

    /// Takes all volumes of drivers away from a pod, and off the node what no other pod has.
    ///
    /// # Errors
    /// What could not be taken away; it is remembered, and the next call tries again.
    pub async fn tear_down(&self, pod_dir: &Path) -> Result<(), String> {
        let mut failed = Ok(());
        for mount in of_pod(pod_dir) {
            let _turn = self.turn(&mount.data.unique_name()).await;
            if let Err(why) = self.take_away(pod_dir, &mount).await {
                failed = Err(format!("UnmountVolume.TearDown failed for volume \"{}\" : {why}", mount.data.name));
            }
        }
        self.settle();
        failed
    }

    async fn take_away(&self, pod_dir: &Path, PodMount { data, block }: &PodMount) -> Result<(), String> {
        let volume = Volume {
            driver: data.driver_name.clone(),
            handle: data.volume_handle.clone(),
            name: data.name.clone(),
            ephemeral: data.is_ephemeral(),
            block: *block,
            ..Volume::default()
        };
        let place = Place::of(&self.root, pod_dir, &volume);
        let driver = self.awaited(&volume.driver).await.map_err(|e| e.to_string())?;
        driver.unpublish(&volume.handle, self.tell(&place.target)).await.map_err(|e| e.to_string())?;
        let uid = pod_dir.file_name().unwrap_or_default().to_string_lossy();
        let others = self.of_all_pods();
        let last = !others.iter().any(|(other, d)| *other != uid && d.is_same_volume(data));
        if last && Data::load(&place.staged).is_some() {
            driver.unstage(&volume.handle, self.tell(&place.staging)).await.map_err(|e| e.to_string())?;
            if *block {
                absent(std::fs::remove_dir(&place.staging))?;
            }
            let inner = (!block).then_some("globalmount");
            data::forget(&place.staged, inner).map_err(|e| format!("{}: {e}", place.staged.display()))?;
        }
        if *block {
            absent(std::fs::remove_file(&place.target))?;
        }
        let inner = (!block).then_some("mount");
        data::forget(&place.dir, inner).map_err(|e| format!("{}: {e}", place.dir.display()))
    }
}

/// What a driver tells, as far as it tells it.
fn fullness(told: &pb::NodeGetVolumeStatsResponse) -> Fullness {
    use pb::volume_usage::Unit;
    let amounts = |unit: Unit| {
        let of = told.usage.iter().find(|u| u.unit() == unit)?;
        let amount = |n: i64| u64::try_from(n).unwrap_or(0);
        Some(Amounts { total: amount(of.total), available: amount(of.available), used: amount(of.used) })
    };
    Fullness {
        bytes: amounts(Unit::Bytes),
        inodes: amounts(Unit::Inodes),
        abnormal: told.volume_condition.as_ref().map(|c| c.abnormal),
    }
}

fn absent(result: std::io::Result<()>) -> Result<(), String> {
    match result {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.to_string()),
        _ => Ok(()),
    }
}

/// Tokens of the pod's account for those that the driver names, as JSON; none when it names none.
async fn tokens(cx: &Cx<'_>, driver: Option<&Value>) -> Result<Option<String>, VolumeError> {
    let requests = driver.map_or(&[][..], |d| d.items_at("/spec/tokenRequests"));
    if requests.is_empty() {
        return Ok(None);
    }
    let account = cx.pod.spec.service_account_name.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
    let mut out = BTreeMap::new();
    for request in requests {
        let audience = request.str_at("/audience").unwrap_or_default();
        let audiences: Vec<&str> = Some(audience).filter(|a| !a.is_empty()).into_iter().collect();
        let mut spec = json!({"audiences": audiences,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": cx.pod.name, "uid": cx.pod.uid}});
        if let Some(seconds) = request.int_at("/expirationSeconds") {
            spec["expirationSeconds"] = seconds.into();
        }
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let answer = cx.tokens.request(&cx.pod.namespace, account, &body).await?;
        out.insert(audience.to_owned(), answer["status"].clone());
    }
    Ok(Some(json!(out).to_string()))
}

/// True when a bound claim has less than it asks for, or (where the volume is known) than its volume has.
fn has_to_grow(claim: &Value, volume: Option<&Value>) -> bool {
    use crate::api::meta::quantity::Quantity;
    let size = |v: &Value, at: &str| v.str_at(at).and_then(|q| Quantity::parse(q).ok()).map_or(0, |q| q.nanos());
    let has = size(claim, "/status/capacity/storage");
    match volume {
        Some(volume) => size(volume, "/spec/capacity/storage") > has,
        None => size(claim, "/spec/resources/requests/storage") > has,
    }
}

/// What a claim's status says once the file system has grown.
fn grown(claim: &Value, volume: &Value) -> Value {
    let ended = ["FileSystemResizePending", "Resizing"];
    let mut conditions = claim.items_at("/status/conditions").to_vec();
    conditions.retain(|c| !c.str_at("/type").is_some_and(|t| ended.contains(&t)));
    let mut status = json!({"capacity": {"storage": volume["spec"]["capacity"]["storage"]}, "conditions": conditions});
    if claim.get_at("/status/allocatedResourceStatuses/storage").is_some() {
        status["allocatedResourceStatuses"] = json!({ "storage": null });
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_upstreams() {
        let volume = Volume { driver: "d".into(), handle: "h".into(), name: "pvc-1".into(), ..Volume::default() };
        let at = |volume: &Volume| Place::of(Path::new("/k"), Path::new("/k/pods/u"), volume);
        let staged = "/k/plugins/kubernetes.io/csi/d/aaa9402664f1a41f40ebbc52c9993eb66aeb366602958fdfaa283b71e64db123";
        let place = at(&volume);
        assert_eq!(place.target, Path::new("/k/pods/u/volumes/kubernetes.io~csi/pvc-1/mount"));
        assert_eq!(place.staging, Path::new(staged).join("globalmount"));
        let block = at(&Volume { block: true, ..volume });
        assert_eq!(block.target, Path::new("/k/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/u"));
        assert_eq!(block.staging, Path::new("/k/plugins/kubernetes.io/csi/volumeDevices/staging/pvc-1"));
        assert_eq!(block.staged, Path::new(staged));
    }

    #[test]
    fn a_claim_grows_to_what_its_volume_has() {
        let claim = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}, "status": {"capacity": {"storage": "1Gi"},
            "allocatedResourceStatuses": {"storage": "NodeResizePending"},
            "conditions": [{"type": "FileSystemResizePending"}, {"type": "Other"}]}});
        let volume = |size: &str| json!({"spec": {"capacity": {"storage": size}}});
        assert!(has_to_grow(&claim, None));
        assert!(!has_to_grow(&claim, Some(&volume("1Gi"))), "the volume has not grown yet");
        assert!(has_to_grow(&claim, Some(&volume("2Gi"))));
        let want = json!({"capacity": {"storage": "2Gi"}, "conditions": [{"type": "Other"}],
            "allocatedResourceStatuses": {"storage": null}});
        assert_eq!(grown(&claim, &volume("2Gi")), want);
    }
}
