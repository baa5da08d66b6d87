//! What a driver is asked for a volume, from the volume's spec. Pure.
//!
//! Rules: upstream `pkg/volume/csi/{csi_mounter,csi_client,csi_util}.go`.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use serde_json::Value;

use super::data;
use super::driver::Abilities;
use crate::api::value::ValueExt;
use crate::kubelet::cri::proto::csi as pb;
use crate::kubelet::cri::proto::csi::volume_capability::access_mode::Mode;
use crate::kubelet::cri::proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use crate::kubelet::pod::PodView;

/// Strings by name, as the protocol has them.
pub type Strings = BTreeMap<String, String>;

/// Where a Secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// A volume of a driver's, whether it is behind a claim or a pod's own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Volume {
    /// The driver.
    pub driver: String,
    /// The driver's id of it.
    pub handle: String,
    /// Name of the PersistentVolume, or of the pod's volume.
    pub name: String,
    /// It is the pod's own: made with it, gone with it.
    pub ephemeral: bool,
    /// File system; empty for the driver's choice.
    pub fs_type: String,
    /// What the driver said of it when it made it.
    pub attributes: Strings,
    /// `ReadWriteOnce` and so on.
    pub access_modes: Vec<String>,
    /// Mount options.
    pub options: Vec<String>,
    /// The pod may only read it.
    pub read_only: bool,
    /// It is a device, not a file system.
    pub block: bool,
    /// Secrets for staging.
    pub stage_secret: Option<SecretRef>,
    /// Secrets for publishing.
    pub publish_secret: Option<SecretRef>,
    /// Secrets for expansion.
    pub expand_secret: Option<SecretRef>,
    /// Bytes that it has.
    pub capacity: i64,
}

fn strings(value: Option<&Value>) -> Strings {
    let all = value.and_then(Value::as_object).into_iter().flatten();
    all.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

fn list(value: &Value, at: &str) -> Vec<String> {
    value.items_at(at).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Volume {
    /// From a PersistentVolume; none when it is no driver's.
    pub fn persistent(volume: &Value, read_only: bool) -> Option<Self> {
        let (spec, source) = (&volume["spec"], volume.get_at("/spec/csi")?);
        let text = |at: &str| source.str_at(at).unwrap_or_default().to_owned();
        let secret = |at: &str| {
            let found = source.get(at)?;
            Some(SecretRef {
                namespace: found.str_at("/namespace").unwrap_or_default().to_owned(),
                name: found.str_at("/name")?.to_owned(),
            })
        };
        let size = spec.str_at("/capacity/storage").and_then(|q| crate::api::meta::quantity::Quantity::parse(q).ok());
        Some(Self {
            driver: text("/driver"),
            handle: text("/volumeHandle"),
            name: volume.str_at("/metadata/name").unwrap_or_default().to_owned(),
            ephemeral: false,
            fs_type: text("/fsType"),
            attributes: strings(source.get("volumeAttributes")),
            access_modes: list(spec, "/accessModes"),
            options: list(spec, "/mountOptions"),
            read_only,
            block: spec.str_at("/volumeMode") == Some("Block"),
            stage_secret: secret("nodeStageSecretRef"),
            publish_secret: secret("nodePublishSecretRef"),
            expand_secret: secret("nodeExpandSecretRef"),
            capacity: size.map_or(0, |q| q.value()),
        })
    }

    /// From a volume of the pod's own.
    pub fn inline(pod: &PodView, name: &str, source: &k8s_openapi::api::core::v1::CSIVolumeSource) -> Self {
        let secret = source.node_publish_secret_ref.as_ref();
        Self {
            driver: source.driver.clone(),
            handle: format!("csi-{}", sha256(&format!("{}{name}", pod.uid))),
            name: name.to_owned(),
            ephemeral: true,
            fs_type: source.fs_type.clone().unwrap_or_default(),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            read_only: source.read_only.unwrap_or(false),
            publish_secret: secret.map(|s| SecretRef { namespace: pod.namespace.clone(), name: s.name.clone() }),
            ..Self::default()
        }
    }

    /// Its name in the status of nodes.
    pub fn unique_name(&self) -> String {
        data::unique_name(&self.driver, &self.handle)
    }

    /// The name of its VolumeAttachment for a node.
    pub fn attachment(&self, node: &str) -> String {
        format!("csi-{}", sha256(&format!("{}{}{node}", self.handle, self.driver)))
    }

    /// The directory that is its own among those of the driver's staged volumes.
    pub fn stage_name(&self) -> String {
        sha256(&self.handle)
    }

    /// `Persistent` or `Ephemeral`.
    pub fn mode(&self) -> &'static str {
        if self.ephemeral { "Ephemeral" } else { "Persistent" }
    }

    /// How it is to be mounted. `group` is the pod's, for a driver that gives volumes to groups by itself.
    pub fn capability(&self, can: Abilities, group: Option<u32>) -> pb::VolumeCapability {
        let access_type = if self.block {
            AccessType::Block(BlockVolume {})
        } else {
            let group = group.filter(|_| can.mount_group).map(|g| g.to_string()).unwrap_or_default();
            let (fs_type, mount_flags) = (self.fs_type.clone(), self.options.clone());
            AccessType::Mount(MountVolume { fs_type, mount_flags, volume_mount_group: group })
        };
        let mode = access_mode(self.access_modes.first().map(String::as_str), can.single_node);
        pb::VolumeCapability { access_mode: Some(AccessMode { mode: mode.into() }), access_type: Some(access_type) }
    }

    /// True when the kubelet gives the volume to the pod's group, by the driver's policy.
    pub fn wants_group(&self, driver: Option<&Value>, can: Abilities) -> bool {
        if can.mount_group || self.read_only || self.block {
            return false;
        }
        match driver.and_then(|d| d.str_at("/spec/fsGroupPolicy")) {
            Some("None") => false,
            Some("File") => true,
            _ => {
                let once = || self.access_modes.iter().any(|m| m == "ReadWriteOnce" || m == "ReadWriteOncePod");
                !self.fs_type.is_empty() && (self.ephemeral || once())
            }
        }
    }

    /// Attributes with what the driver wants to know of the pod.
    pub fn attributes_for(&self, driver: Option<&Value>, pod: &PodView) -> Strings {
        let mut out = self.attributes.clone();
        if driver.and_then(|d| d.bool_at("/spec/podInfoOnMount")) == Some(true) {
            let account = pod.spec.service_account_name.clone().unwrap_or_default();
            let mut put = |key: &str, value: String| out.insert(format!("csi.storage.k8s.io/{key}"), value);
            put("pod.name", pod.name.clone());
            put("pod.namespace", pod.namespace.clone());
            put("pod.uid", pod.uid.clone());
            put("serviceAccount.name", account);
            put("ephemeral", self.ephemeral.to_string());
        }
        out
    }

    /// Why the driver does not serve volumes of this kind; a driver that nobody described serves persistent ones.
    pub fn check_mode(&self, driver: Option<&Value>) -> Result<(), String> {
        let (mode, name) = (self.mode(), &self.driver);
        let Some(driver) = driver else {
            return match self.ephemeral {
                false => Ok(()),
                true => Err(format!("volume mode \"{mode}\" not supported by driver {name} (no CSIDriver object)")),
            };
        };
        let modes = list(driver, "/spec/volumeLifecycleModes");
        let served = if modes.is_empty() { !self.ephemeral } else { modes.iter().any(|m| m == mode) };
        let why = format!("volume mode \"{mode}\" not supported by driver {name} (only supports {modes:?})");
        if served { Ok(()) } else { Err(why) }
    }
}

/// True when a volume of this driver is attached to a node before it is mounted there.
pub fn is_attached_first(driver: Option<&Value>) -> bool {
    driver.and_then(|d| d.bool_at("/spec/attachRequired")) != Some(false)
}

fn access_mode(mode: Option<&str>, single_node: bool) -> Mode {
    match (mode.unwrap_or("ReadWriteOnce"), single_node) {
        ("ReadWriteOnce", true) => Mode::SingleNodeMultiWriter,
        ("ReadWriteOncePod", true) => Mode::SingleNodeSingleWriter,
        ("ReadWriteOnce" | "ReadWriteOncePod", false) => Mode::SingleNodeWriter,
        ("ReadOnlyMany", _) => Mode::MultiNodeReaderOnly,
        ("ReadWriteMany", _) => Mode::MultiNodeMultiWriter,
        _ => Mode::Unknown,
    }
}

fn sha256(text: &str) -> String {
    crate::pki::hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn volume(more: Value) -> Volume {
        let mut pv = json!({"metadata": {"name": "pvc-1"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"}, "mountOptions": ["noatime"],
            "csi": {"driver": "d", "volumeHandle": "h", "fsType": "ext4", "volumeAttributes": {"a": "b"},
                "nodeStageSecretRef": {"name": "s", "namespace": "n"}}}});
        pv.as_object_mut().unwrap()["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Volume::persistent(&pv, false).unwrap()
    }

    fn pod() -> PodView {
        let spec = json!({"containers": [], "serviceAccountName": "sa"});
        PodView::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
    }

    #[test]
    fn names_are_upstreams() {
        let v = volume(json!({}));
        assert_eq!(v.unique_name(), "kubernetes.io/csi/d^h");
        // What `printf hdnode | sha256sum` and `printf h | sha256sum` say.
        assert_eq!(v.attachment("node"), "csi-c42cf57099d6443b605c16f111056170d3d4e01cedcbcbac71a93245953703cf");
        assert_eq!(v.stage_name(), "aaa9402664f1a41f40ebbc52c9993eb66aeb366602958fdfaa283b71e64db123");
        assert_eq!(v.stage_secret, Some(SecretRef { namespace: "n".into(), name: "s".into() }));
        assert_eq!(v.capacity, 1 << 30);
        let source = serde_json::from_value(json!({"driver": "d", "nodePublishSecretRef": {"name": "x"}})).unwrap();
        let inline = Volume::inline(&pod(), "data", &source);
        assert!(inline.ephemeral && inline.handle.starts_with("csi-") && inline.handle.len() == 68);
        assert_eq!(inline.publish_secret.unwrap().namespace, "n");
    }

    #[test_case("ReadWriteOnce", false => Mode::SingleNodeWriter)]
    #[test_case("ReadWriteOnce", true => Mode::SingleNodeMultiWriter)]
    #[test_case("ReadWriteOncePod", false => Mode::SingleNodeWriter)]
    #[test_case("ReadWriteOncePod", true => Mode::SingleNodeSingleWriter)]
    #[test_case("ReadOnlyMany", true => Mode::MultiNodeReaderOnly)]
    #[test_case("ReadWriteMany", false => Mode::MultiNodeMultiWriter)]
    fn access_modes(mode: &str, single_node: bool) -> Mode {
        access_mode(Some(mode), single_node)
    }

    #[test]
    fn capabilities() {
        let can = Abilities { mount_group: true, ..Abilities::default() };
        let Some(AccessType::Mount(mount)) = volume(json!({})).capability(can, Some(7)).access_type else { panic!() };
        assert_eq!((mount.fs_type.as_str(), mount.volume_mount_group.as_str()), ("ext4", "7"));
        assert_eq!(mount.mount_flags, ["noatime"]);
        let block = volume(json!({"volumeMode": "Block"})).capability(can, Some(7)).access_type;
        assert!(matches!(block, Some(AccessType::Block(_))));
    }

    #[test_case(json!({}), None, true; "no description, once, with a file system")]
    #[test_case(json!({"accessModes": ["ReadWriteMany"]}), None, false; "shared")]
    #[test_case(json!({"accessModes": ["ReadWriteMany"]}), Some("File"), true; "shared, and the driver wants it")]
    #[test_case(json!({}), Some("None"), false; "the driver does not want it")]
    #[test_case(json!({"csi": {"driver": "d"}}), Some("ReadWriteOnceWithFSType"), false; "no file system named")]
    fn groups(spec: Value, policy: Option<&str>, want: bool) {
        let driver = policy.map(|p| json!({"spec": {"fsGroupPolicy": p}}));
        assert_eq!(volume(spec.clone()).wants_group(driver.as_ref(), Abilities::default()), want);
        let can = Abilities { mount_group: true, ..Abilities::default() };
        assert!(!volume(spec).wants_group(driver.as_ref(), can), "the driver does it");
    }

    #[test]
    fn a_driver_is_told_of_the_pod_when_it_wants_to_know() {
        let v = volume(json!({}));
        assert_eq!(v.attributes_for(None, &pod()), v.attributes);
        let told = v.attributes_for(Some(&json!({"spec": {"podInfoOnMount": true}})), &pod());
        assert_eq!(told["csi.storage.k8s.io/pod.uid"], "u");
        assert_eq!(told["csi.storage.k8s.io/serviceAccount.name"], "sa");
        assert_eq!(told["csi.storage.k8s.io/ephemeral"], "false");
        assert_eq!(told["a"], "b");
    }

    #[test_case(None, false, true; "nobody described it, persistent")]
    #[test_case(None, true, false; "nobody described it, ephemeral")]
    #[test_case(Some(json!(["Ephemeral"])), true, true; "ephemeral")]
    #[test_case(Some(json!(["Persistent"])), true, false; "not ephemeral")]
    #[test_case(Some(json!([])), false, true; "the default")]
    fn modes(modes: Option<Value>, ephemeral: bool, good: bool) {
        let driver = modes.map(|m| json!({"spec": {"volumeLifecycleModes": m}}));
        let v = Volume { ephemeral, ..volume(json!({})) };
        assert_eq!(v.check_mode(driver.as_ref()).is_ok(), good);
    }
}
