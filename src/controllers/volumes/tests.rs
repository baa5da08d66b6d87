//! The binder's decisions as tables, and its controllers over a cluster in memory.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use test_case::test_case;

use super::model::{Claim, ClaimRef, Class, Source, Volume};
use super::plan::{self, Around, ForClaim, ForVolume, Reclaim};
use super::{claims, ephemeral, expand, local_path, protect, supply};
use crate::api::meta::labels::Selector;
use crate::api::object::{Object, ObjectKey};
use crate::api::status::{ApiResult, Reason, Status};
use crate::api::value::ValueExt;
use crate::client::{DeleteOptions, res};
use crate::runtime::fake::Cluster;
use crate::runtime::node_api::{Door, LogOptions, LogStream, NodeApi, NodeStream, Streams, Target};
use crate::runtime::{Reconciler, Requeue};
use crate::util::tasks::Shutdown;

const GI: i128 = 1 << 30;

fn wants() -> Claim {
    Claim {
        namespace: "n".into(),
        name: "c".into(),
        uid: "u".into(),
        class: Some("s".into()),
        modes: vec!["ReadWriteOnce".into()],
        size: 2 * GI,
        phase: "Pending".into(),
        ..Claim::default()
    }
}

fn has(name: &str, size: i128) -> Volume {
    Volume {
        name: name.into(),
        class: "s".into(),
        modes: vec!["ReadWriteOnce".into()],
        size: size * GI,
        phase: "Available".into(),
        reclaim: "Retain".into(),
        ..Volume::default()
    }
}

fn of(mut volume: Volume, name: &str, uid: &str) -> Volume {
    volume.claim = Some(ClaimRef { namespace: "n".into(), name: name.into(), uid: uid.into() });
    volume
}

fn with(mut volume: Volume, change: impl Fn(&mut Volume)) -> Volume {
    change(&mut volume);
    volume
}

fn class(provisioner: &str, waits: bool) -> Class {
    Class { name: "s".into(), provisioner: provisioner.into(), waits }
}

#[test_case(&[has("big", 9), has("fits", 3), has("small", 1)] => Some("fits".into()); "the smallest that is large enough")]
#[test_case(&[has("fits", 3), of(has("kept", 9), "c", "")] => Some("kept".into()); "one that is kept for it comes first")]
#[test_case(&[of(has("kept", 1), "c", "")] => None; "a kept one that is too small does not do")]
#[test_case(&[of(has("a", 3), "other", "")] => None; "kept for another")]
#[test_case(&[of(has("a", 3), "c", "old")] => None; "of a claim of the same name that is gone")]
#[test_case(&[with(has("a", 3), |v| v.phase = "Released".into())] => None; "released is not available")]
#[test_case(&[with(has("a", 3), |v| v.class.clear())] => None; "of no class")]
#[test_case(&[with(has("a", 3), |v| v.block = true)] => None; "a device is no file system")]
#[test_case(&[with(has("a", 3), |v| v.attributes = "gold".into())] => None; "of other attributes")]
#[test_case(&[with(of(has("a", 3), "c", ""), |v| v.attributes = "gold".into())] => None; "of other attributes, if it is kept")]
#[test_case(&[with(has("a", 3), |v| v.deleting = true)] => None; "on its way out")]
#[test_case(&[with(has("a", 3), |v| v.modes = vec!["ReadOnlyMany".into()])] => None; "without the access mode")]
#[test_case(&[with(has("a", 3), |v| v.modes.push("ReadWriteMany".into())), has("b", 9)] => Some("b".into()); "what can more is spared")]
#[test_case(&[has("b", 3), has("a", 3)] => Some("a".into()); "equal ones by name")]
fn the_best_volume(there: &[Volume]) -> Option<String> {
    plan::best(&wants(), there, false).map(|v| v.name.clone())
}

#[test]
fn a_selector_picks_among_free_volumes_only() {
    let labelled = with(has("a", 9), |v| v.labels = Box::new([("disk".into(), "fast".into())]));
    let all = [has("b", 3), labelled];
    let mut c = wants();
    c.selector = Some(Some(Selector::parse("disk=fast").unwrap()));
    assert_eq!(plan::best(&c, &all, false).map(|v| v.name.as_str()), Some("a"));
    c.selector = Some(None);
    assert!(plan::best(&c, &all, false).is_none(), "a selector that cannot be read selects nothing");
    let kept = [of(has("kept", 3), "c", "")];
    assert!(plan::best(&c, &kept, true).is_some(), "who keeps a volume for a claim has chosen");
}

/// What a decision is, in a word or two.
fn shown(decision: ForClaim) -> String {
    let reason = |s: Option<plan::Say>| {
        s.map_or(String::new(), |s| format!(" {}{}", if s.warning { "!" } else { "" }, s.reason))
    };
    match decision {
        ForClaim::Leave => "leave".into(),
        ForClaim::Bind(volume) => format!("bind {volume}"),
        ForClaim::Wait(say) => format!("wait{}", reason(say)),
        ForClaim::Default(class) => format!("default {class}"),
        ForClaim::Provision(by, say) => format!("provision {by}{}", reason(say)),
        ForClaim::Lost(say) => format!("lost {}", say.reason),
        ForClaim::Impossible(say, _) => format!("impossible{}", reason(Some(say))),
    }
}

fn decide(change: impl Fn(&mut Claim), there: &[Volume], class: Option<Class>) -> String {
    let mut c = wants();
    change(&mut c);
    let around = Around { volumes: there, class: class.as_ref(), default: Some("std"), waiting_pods: &[] };
    shown(plan::claim(&c, &around))
}

#[test]
fn claims_without_a_volume() {
    let made = |waits| Some(class("example.com/disk", waits));
    let got = |change: fn(&mut Claim), class| decide(change, &[], class);
    assert_eq!(got(|_| {}, made(false)), "provision example.com/disk ExternalProvisioning");
    assert_eq!(got(|_| {}, made(true)), "wait WaitForFirstConsumer");
    assert_eq!(
        got(|c| c.selected_node = Some("a".into()), made(true)),
        "provision example.com/disk ExternalProvisioning"
    );
    assert_eq!(got(|_| {}, None), "wait !ProvisioningFailed", "its class is not there");
    assert_eq!(got(|_| {}, Some(class("kubernetes.io/no-provisioner", false))), "wait !ProvisioningFailed");
    assert_eq!(got(|c| c.class = Some(String::new()), None), "wait FailedBinding", "it wants no class");
    assert_eq!(got(|c| c.class = None, None), "default std", "a default class that came later is its own");
    assert_eq!(got(|c| c.deleting = true, made(false)), "leave");
    let c = wants();
    let waits = class("example.com/disk", true);
    for (pods, want) in [(&["p"][..], "pod p"), (&["p", "q"], "pods p,q")] {
        let pods: Vec<String> = pods.iter().map(|p| (*p).to_owned()).collect();
        let around = Around { class: Some(&waits), waiting_pods: &pods, ..Around::default() };
        let ForClaim::Wait(Some(say)) = plan::claim(&c, &around) else { panic!("it waits for {pods:?}") };
        assert_eq!((say.reason, say.message), ("WaitForPodScheduled", format!("waiting for {want} to be scheduled")));
    }
}

#[test]
fn a_claim_that_waits_for_its_pod_takes_only_what_is_kept_for_it() {
    let waits = || Some(class("example.com/disk", true));
    assert_eq!(decide(|_| {}, &[has("a", 3)], waits()), "wait WaitForFirstConsumer");
    assert_eq!(decide(|_| {}, &[of(has("a", 3), "c", "u")], waits()), "bind a", "the scheduler has chosen");
}

#[test]
fn claims_that_name_their_volume() {
    let named = |c: &mut Claim| c.volume = "a".into();
    assert_eq!(decide(named, &[], None), "wait", "it may come");
    assert_eq!(decide(named, &[has("a", 3)], None), "bind a");
    assert_eq!(decide(named, &[has("a", 1)], None), "wait !VolumeMismatch");
    assert_eq!(decide(named, &[with(has("a", 3), |v| v.class.clear())], None), "wait !VolumeMismatch");
    assert_eq!(decide(named, &[of(has("a", 1), "c", "")], None), "bind a", "both name each other");
    assert_eq!(decide(named, &[of(has("a", 3), "other", "o")], None), "wait !FailedBinding", "another has it");
    let ours = |c: &mut Claim| {
        c.volume = "a".into();
        c.by_controller = true;
    };
    assert_eq!(decide(ours, &[of(has("a", 3), "other", "o")], None), "impossible !FailedBinding");
}

#[test_case(|v| v.deleting = true, "the volume is marked for deletion \"a\"")]
#[test_case(|v| v.size = 0, "requested PV is too small")]
#[test_case(|v| v.class.clear(), "storageClassName does not match")]
#[test_case(|v| v.attributes.clear(), "volumeAttributesClassName does not match")]
#[test_case(|v| v.block = true, "incompatible volumeMode")]
#[test_case(|v| v.modes.clear(), "incompatible accessMode")]
#[test_case(|v| (v.attributes, v.block) = (String::new(), true), "volumeAttributesClassName does not match"; "the first counts")]
fn why_a_named_volume_does_not_do(change: fn(&mut Volume), why: &str) {
    let c = Claim { volume: "a".into(), attributes: "gold".into(), ..wants() };
    let volume = with(has("a", 3), |v| {
        v.attributes = "gold".into();
        change(v);
    });
    let ForClaim::Wait(Some(say)) = plan::claim(&c, &Around { volumes: &[volume], ..Around::default() }) else {
        panic!("it waits")
    };
    let want = format!("Cannot bind to requested volume \"a\": {why}");
    assert_eq!((say.reason, say.message), ("VolumeMismatch", want));
}

#[test_case("kubernetes.io/gce-pd", "provision pd.csi.storage.gke.io ExternalProvisioning"; "a driver has its work")]
#[test_case("kubernetes.io/no-provisioner", "wait !ProvisioningFailed")]
#[test_case("example.com/disk", "provision example.com/disk ExternalProvisioning")]
fn who_makes_a_volume(provisioner: &str, want: &str) {
    assert_eq!(decide(|_| {}, &[], Some(class(provisioner, false))), want);
}

#[test_case("Delete", Source::HostPath("/mnt/x".into()), "host_path deleter only supports /tmp/.+ but received provided /mnt/x")]
#[test_case("Delete", Source::HostPath("/tmp/".into()), "host_path deleter only supports /tmp/.+ but received provided /tmp/")]
#[test_case("Delete", Source::HostPath("/tmp/x".into()), "orch removes no directories of nodes: remove /tmp/x where it is, then delete volume \"a\"")]
#[test_case(
    "Delete",
    Source::Nfs,
    "error getting deleter volume plugin for volume \"a\": no deletable volume plugin matched"
)]
#[test_case("Delete", Source::Driver, ""; "its driver goes on")]
#[test_case("Retain", Source::Nfs, "")]
#[test_case("Recycle", Source::Nfs, "orch recycles no volumes; delete this one by hand")]
#[test_case("Recycle", Source::Other, "No recycler plugin found for the volume!")]
fn what_a_released_volume_says(policy: &str, source: Source, want: &str) {
    let volume = Volume { reclaim: policy.into(), source, ..of(has("a", 3), "c", "u") };
    let said = match plan::reclaim(&volume) {
        Reclaim::Failed(say) => say.message,
        Reclaim::Nothing => String::new(),
    };
    assert_eq!(said, want);
}

#[test_case(json!({"hostPath": {"path": "/x"}}) => Source::HostPath("/x".into()))]
#[test_case(json!({"nfs": {"server": "s", "path": "/x"}}) => Source::Nfs)]
#[test_case(json!({"csi": {"driver": "d"}}) => Source::Driver)]
#[test_case(json!({"local": {"path": "/x"}}) => Source::Other)]
fn sources_are_told_apart(spec: Value) -> Source {
    Volume::new(&Object::from_value(&json!({"metadata": {"name": "a"}, "spec": spec}), &[])).source
}

#[test]
fn claims_that_were_bound() {
    let bound = |c: &mut Claim| {
        c.volume = "a".into();
        c.bind_completed = true;
    };
    assert_eq!(decide(bound, &[of(has("a", 3), "c", "u")], None), "bind a", "what is missing of it is written");
    assert_eq!(decide(bound, &[has("a", 3)], None), "bind a", "the volume's side was lost");
    assert_eq!(decide(bound, &[], None), "lost ClaimLost");
    assert_eq!(decide(bound, &[of(has("a", 3), "c", "other")], None), "lost ClaimMisbound");
    assert_eq!(decide(|c| c.bind_completed = true, &[], None), "lost ClaimLost", "its name was taken away");
}

#[test]
fn volumes_follow_their_claims() {
    let claim = |volume: &str| Claim { volume: volume.into(), ..wants() };
    let got = |v: Volume, c: Option<Claim>| plan::volume(&v, c.as_ref());
    let ours = || of(has("a", 3), "c", "u");
    assert_eq!(got(has("a", 3), None), ForVolume::Phase("Available"));
    assert_eq!(got(of(has("a", 3), "c", ""), Some(claim(""))), ForVolume::Phase("Available"), "kept, not given");
    assert_eq!(got(ours(), None), ForVolume::Release);
    assert_eq!(got(ours(), Some(claim("a"))), ForVolume::Phase("Bound"));
    assert_eq!(got(ours(), Some(claim(""))), ForVolume::Leave, "the claim comes next");
    assert_eq!(got(with(ours(), |v| v.block = true), Some(claim(""))), ForVolume::Mismatch);
    assert_eq!(got(ours(), Some(claim("b"))), ForVolume::Unbind(false), "a person kept it");
    assert_eq!(got(with(ours(), |v| v.by_controller = true), Some(claim("b"))), ForVolume::Unbind(true));
    let spare = |v: &mut Volume| {
        v.provisioner = Some("p".into());
        v.reclaim = "Delete".into();
    };
    assert_eq!(got(with(ours(), spare), Some(claim("b"))), ForVolume::Release, "made for a claim that has another");
    assert_eq!(plan::reclaim(&with(ours(), spare)), Reclaim::Nothing, "its provisioner goes on");
    assert_eq!(plan::reclaim(&ours()), Reclaim::Nothing);
    for policy in ["Delete", "Recycle"] {
        let v = with(ours(), |v| v.reclaim = policy.into());
        assert!(matches!(plan::reclaim(&v), Reclaim::Failed(_)), "{policy} by nobody");
    }
}

fn claim_object(name: &str, class: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "n", "finalizers": ["kubernetes.io/pvc-protection"]},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "volumeMode": "Filesystem",
            "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"}})
}

fn volume_object(name: &str, class: &str, policy: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "capacity": {"storage": "2Gi"},
            "persistentVolumeReclaimPolicy": policy, "hostPath": {"path": "/x"}},
        "status": {"phase": "Pending"}})
}

async fn settle(cluster: &Cluster) {
    // Each looks at everything until nothing is written any more.
    for _ in 0..20 {
        cluster.api.take_log();
        for claim in cluster.api.all(&res::PERSISTENT_VOLUME_CLAIMS) {
            let name = claim.str_at("/metadata/name").unwrap();
            cluster.reconcile(&claims::Claims, "n", name).await.unwrap();
            cluster.reconcile(&*protect::claims(), "n", name).await.unwrap();
        }
        for volume in cluster.api.all(&res::PERSISTENT_VOLUMES) {
            let name = volume.str_at("/metadata/name").unwrap();
            cluster.reconcile(&supply::Volumes, "", name).await.unwrap();
            cluster.reconcile(&*protect::volumes(), "", name).await.unwrap();
        }
        if cluster.api.take_log().is_empty() {
            return;
        }
    }
    panic!("it never comes to rest");
}

fn phases(cluster: &Cluster) -> (String, String) {
    let text = |v: Option<Value>| v.and_then(|v| v.str_at("/status/phase").map(str::to_owned)).unwrap_or("gone".into());
    (text(cluster.get(&res::PERSISTENT_VOLUME_CLAIMS, "n", "c")), text(cluster.get(&res::PERSISTENT_VOLUMES, "", "v")))
}

#[tokio::test]
async fn a_claim_and_a_volume_are_bound_and_parted() {
    let cluster = Cluster::new();
    cluster.put(volume_object("v", "", "Retain"));
    settle(&cluster).await;
    assert_eq!(phases(&cluster), ("gone".into(), "Available".into()));
    cluster.put(claim_object("c", ""));
    settle(&cluster).await;
    assert_eq!(phases(&cluster), ("Bound".into(), "Bound".into()));
    let claim = cluster.get(&res::PERSISTENT_VOLUME_CLAIMS, "n", "c").unwrap();
    assert_eq!(claim.str_at("/spec/volumeName"), Some("v"));
    assert_eq!(claim.str_at("/status/capacity/storage"), Some("2Gi"));
    assert_eq!(claim["metadata"]["annotations"][super::BIND_COMPLETED], "yes");
    assert_eq!(claim["metadata"]["annotations"][super::BY_CONTROLLER], "yes");
    let volume = cluster.get(&res::PERSISTENT_VOLUMES, "", "v").unwrap();
    assert_eq!(volume.pointer("/spec/claimRef/uid"), claim.pointer("/metadata/uid"));

    // A pod on a node keeps the claim, even while it is being deleted.
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "a",
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]}});
    cluster.put(pod);
    let client = cluster.client();
    client.delete(&res::PERSISTENT_VOLUME_CLAIMS, "n", "c", &Default::default()).await.unwrap();
    settle(&cluster).await;
    assert_eq!(phases(&cluster), ("Bound".into(), "Bound".into()));
    client.delete(&res::PODS, "n", "p", &Default::default()).await.unwrap();
    settle(&cluster).await;
    assert_eq!(phases(&cluster), ("gone".into(), "Released".into()));

    // Another claim of the same name does not get the data.
    cluster.put({
        let mut other = claim_object("c", "");
        other["metadata"]["uid"] = "another".into();
        other
    });
    settle(&cluster).await;
    assert_eq!(phases(&cluster), ("Pending".into(), "Released".into()));
}

/// What was told by one reconcile: of which kind of object, why, what.
async fn told(cluster: &Cluster, controller: &dyn Reconciler, ns: &str, name: &str) -> Vec<[String; 3]> {
    let (cx, writer) = cluster.cx_and_events();
    let outcome = controller.reconcile(&ObjectKey::new(ns, name), &cx).await;
    drop((cx, outcome));
    writer.run(Shutdown::new()).await;
    let text = |e: &Value, at: &str| e.str_at(at).unwrap_or_default().to_owned();
    let mut all: Vec<[String; 3]> = cluster
        .api
        .all(&res::EVENTS)
        .iter()
        .map(|e| ["/involvedObject/kind", "/reason", "/message"].map(|at| text(e, at)))
        .collect();
    all.sort();
    all
}

#[tokio::test]
async fn both_sides_hear_that_a_device_is_no_file_system() {
    let cluster = Cluster::new();
    cluster.put(claim_object("c", ""));
    let uid =
        cluster.get(&res::PERSISTENT_VOLUME_CLAIMS, "n", "c").unwrap().str_at("/metadata/uid").unwrap().to_owned();
    let mut volume = volume_object("v", "", "Retain");
    volume["spec"]["volumeMode"] = "Block".into();
    volume["spec"]["claimRef"] = json!({"namespace": "n", "name": "c", "uid": uid});
    cluster.put(volume);
    let all = told(&cluster, &supply::Volumes, "", "v").await;
    let messages = [
        (
            "PersistentVolume",
            "Cannot bind PersistentVolume to requested PersistentVolumeClaim \"c\" due to incompatible volumeMode.",
        ),
        (
            "PersistentVolumeClaim",
            "Cannot bind PersistentVolume \"v\" to requested PersistentVolumeClaim due to incompatible volumeMode.",
        ),
    ];
    assert_eq!(all, messages.map(|(kind, text)| [kind, "VolumeMismatch", text].map(str::to_owned)));
}

#[tokio::test]
async fn who_waits_is_who_has_neither_node_nor_end() {
    let cluster = Cluster::new();
    cluster.put(json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "s"},
        "provisioner": "p", "volumeBindingMode": "WaitForFirstConsumer"}));
    cluster.put(claim_object("c", "s"));
    for (name, node, phase) in [("a", "", "Pending"), ("b", "", "Failed"), ("d", "n1", "Running"), ("e", "", "Pending")]
    {
        cluster.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n"},
            "spec": {"nodeName": node, "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]},
            "status": {"phase": phase}}));
    }
    let all = told(&cluster, &claims::Claims, "n", "c").await;
    assert_eq!(all[0][2], "waiting for pods a,e to be scheduled");
}

#[tokio::test]
async fn a_pod_hears_why_its_volume_has_no_claim() {
    let cluster = Cluster::new();
    cluster.put(claim_object("p-data", ""));
    let template = json!({"spec": {"accessModes": ["ReadWriteOnce"]}});
    cluster.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"volumes": [{"name": "data", "ephemeral": {"volumeClaimTemplate": template}}]}}));
    let all = told(&cluster, &*ephemeral::controller(), "n", "p").await;
    let why = "ephemeral volume data: PVC n/p-data was not created for pod n/p (pod is not owner)";
    assert_eq!(all, [["Pod", "FailedBinding", why].map(str::to_owned)]);
}

#[tokio::test]
async fn a_policy_that_nobody_can_follow_fails_for_all_to_see() {
    let cluster = Cluster::new();
    cluster.put(volume_object("v", "", "Delete"));
    cluster.put(claim_object("c", ""));
    settle(&cluster).await;
    cluster.client().delete(&res::PERSISTENT_VOLUME_CLAIMS, "n", "c", &Default::default()).await.unwrap();
    settle(&cluster).await;
    assert_eq!(phases(&cluster), ("gone".into(), "Failed".into()));
}

#[test_case("Bound", "2Gi", "1Gi" => true; "asks for more")]
#[test_case("Bound", "1Gi", "1024Mi" => false; "has it")]
#[test_case("Bound", "1Gi", "2Gi" => false; "was given more")]
#[test_case("Pending", "2Gi", "0" => false; "has none yet")]
fn growing(phase: &str, request: &str, capacity: &str) -> bool {
    expand::wants_more(&json!({"spec": {"resources": {"requests": {"storage": request}}},
        "status": {"phase": phase, "capacity": {"storage": capacity}}}))
}

#[test]
fn ephemeral_claims_belong_to_their_pod() {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
        "nodeName": "a", "volumes": [{"name": "data", "ephemeral": {"volumeClaimTemplate": template}}, {"name": "x", "emptyDir": {}}]}});
    let object = Object::from_value(&pod, &[]);
    let made = ephemeral::claims(&object, &pod);
    assert_eq!(made.iter().map(|(volume, _)| &**volume).collect::<Vec<_>>(), ["data"]);
    let made: Vec<Value> = made.into_iter().map(|(_, claim)| claim).collect();
    assert_eq!(made[0].str_at("/metadata/name"), Some("p-data"));
    assert_eq!(made[0].str_at("/metadata/ownerReferences/0/uid"), Some("u"));
    assert_eq!(made[0].str_at("/metadata/labels/a"), Some("b"));
    let claim = Object::from_value(&made[0], &[]);
    assert!(protect::uses(&object, &claim));
    let mut strangers = made[0].clone();
    strangers.remove_at("/metadata/ownerReferences");
    assert!(!protect::uses(&object, &Object::from_value(&strangers, &[])), "it only has the name");
}

/// A node that writes down what it is asked, or is away.
#[derive(Default)]
struct Node {
    asked: Mutex<Vec<String>>,
    away: Mutex<bool>,
}

#[async_trait]
impl NodeApi for Arc<Node> {
    async fn make_local_volume(&self, name: &str) -> ApiResult<String> {
        self.asked.lock().push(format!("make {name}"));
        Ok(format!("/storage/{name}"))
    }

    async fn remove_local_volume(&self, path: &str) -> ApiResult<()> {
        self.asked.lock().push(format!("remove {path}"));
        Ok(())
    }

    async fn logs(&self, _: &Target, _: &LogOptions) -> ApiResult<LogStream> {
        Err(Status::bad_request("none"))
    }

    async fn exec(&self, _: &Target, _: &[String], _: Streams, _: http::Request<()>) -> ApiResult<http::Response<()>> {
        Err(Status::bad_request("none"))
    }

    async fn attach(&self, _: &Target, _: Streams, _: http::Request<()>) -> ApiResult<http::Response<()>> {
        Err(Status::bad_request("none"))
    }

    async fn port_forward(&self, _: &Target, _: &[u16], _: http::Request<()>) -> ApiResult<http::Response<()>> {
        Err(Status::bad_request("none"))
    }

    async fn open(&self, _: Door) -> std::io::Result<NodeStream> {
        Err(std::io::Error::other("none"))
    }

    async fn stats_summary(&self) -> ApiResult<Value> {
        Ok(Value::Null)
    }

    async fn resource_metrics(&self) -> ApiResult<String> {
        Ok(String::new())
    }

    async fn healthz(&self) -> Result<(), String> {
        Ok(())
    }

    async fn pods(&self) -> ApiResult<Value> {
        Ok(Value::Null)
    }

    async fn metrics(&self) -> ApiResult<String> {
        Ok(String::new())
    }
}

/// The way to the node `a`, the only one that there is.
fn way(node: &Arc<Node>) -> local_path::Nodes {
    let node = node.clone();
    Arc::new(move |name| match name == "a" && !*node.away.lock() {
        true => Ok(Arc::new(node.clone()) as Arc<dyn NodeApi>),
        false => Err(Status::new(Reason::ServiceUnavailable, "not connected")),
    })
}

async fn run(cluster: &Cluster, controller: &dyn Reconciler, ns: &str, name: &str) -> Requeue {
    cluster.reconcile(controller, ns, name).await.unwrap()
}

fn node_object(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}})
}

#[tokio::test]
async fn a_directory_comes_and_goes_with_its_claim() {
    let (cluster, node) = (Cluster::new(), Arc::new(Node::default()));
    let (make, remove) = (local_path::provisioner(Some(way(&node))), local_path::deleter(Some(way(&node))));
    let class = local_path::class(Some(way(&node)));
    cluster.put(node_object("stranger"));
    run(&cluster, &*class, "", "stranger").await;
    assert!(cluster.get(&res::STORAGE_CLASSES, "", "local-path").is_none(), "nobody runs that node");
    cluster.put(node_object("a"));
    run(&cluster, &*class, "", "a").await;
    assert!(cluster.get(&res::STORAGE_CLASSES, "", "local-path").is_some());

    let mut claim = claim_object("c", "local-path");
    claim["metadata"]["uid"] = "1".into();
    cluster.put(claim);
    settle(&cluster).await;
    run(&cluster, &*make, "n", "c").await;
    assert!(node.asked.lock().is_empty(), "it waits for its first pod");
    let mut claim = cluster.get(&res::PERSISTENT_VOLUME_CLAIMS, "n", "c").unwrap();
    claim["metadata"]["annotations"][super::SELECTED_NODE] = "a".into();
    cluster.put(claim);
    settle(&cluster).await;
    *node.away.lock() = true;
    assert!(matches!(run(&cluster, &*make, "n", "c").await, Requeue::After(_)), "a node that is away is asked again");
    *node.away.lock() = false;
    run(&cluster, &*make, "n", "c").await;
    run(&cluster, &*make, "n", "c").await;
    assert_eq!(*node.asked.lock(), ["make pvc-1_n_c"], "once");
    settle(&cluster).await;
    let bound = |c: &Cluster| {
        c.get(&res::PERSISTENT_VOLUMES, "", "pvc-1").and_then(|v| v.str_at("/status/phase").map(str::to_owned))
    };
    assert_eq!(bound(&cluster).as_deref(), Some("Bound"));
    run(&cluster, &*remove, "", "pvc-1").await;
    assert!(bound(&cluster).is_some(), "nothing of a bound one is removed");

    cluster.client().delete(&res::PERSISTENT_VOLUME_CLAIMS, "n", "c", &Default::default()).await.unwrap();
    settle(&cluster).await;
    *node.away.lock() = true;
    assert!(matches!(run(&cluster, &*remove, "", "pvc-1").await, Requeue::After(_)));
    assert_eq!(bound(&cluster).as_deref(), Some("Released"), "it waits for its node");
    *node.away.lock() = false;
    run(&cluster, &*remove, "", "pvc-1").await;
    assert_eq!(node.asked.lock().last().unwrap(), "remove /storage/pvc-1_n_c");
    settle(&cluster).await;
    assert_eq!(bound(&cluster), None);
}

#[tokio::test]
async fn a_claim_whose_node_is_gone_is_placed_again() {
    let (cluster, node) = (Cluster::new(), Arc::new(Node::default()));
    cluster.put(node_object("a"));
    run(&cluster, &*local_path::class(Some(way(&node))), "", "a").await;
    let mut claim = claim_object("c", "local-path");
    claim["metadata"]["annotations"] = json!({super::SELECTED_NODE: "gone", super::PROVISIONER[0]: local_path::NAME});
    cluster.put(claim);
    run(&cluster, &*local_path::provisioner(Some(way(&node))), "n", "c").await;
    let claim = cluster.get(&res::PERSISTENT_VOLUME_CLAIMS, "n", "c").unwrap();
    assert!(claim["metadata"]["annotations"].get(super::SELECTED_NODE).is_none());
}

#[tokio::test]
async fn a_class_that_is_disabled_goes_unless_it_is_a_persons() {
    for (label, stays) in [("orch", false), ("me", true)] {
        let cluster = Cluster::new();
        cluster.put(node_object("a"));
        cluster.put(json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": local_path::NAME,
            "metadata": {"name": "local-path", "labels": {"app.kubernetes.io/managed-by": label}}}));
        run(&cluster, &*local_path::class(None), "", "a").await;
        assert_eq!(cluster.get(&res::STORAGE_CLASSES, "", "local-path").is_some(), stays, "{label}");
    }
}

#[tokio::test]
async fn a_class_of_attributes_stays_while_it_is_named() {
    let cluster = Cluster::new();
    cluster
        .put(json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass", "metadata": {"name": "gold"},
        "driverName": "d"}));
    let mut claim = claim_object("c", "");
    claim["spec"]["volumeAttributesClassName"] = "gold".into();
    claim["metadata"]["finalizers"] = json!([]);
    cluster.put(claim);
    let look = async || cluster.reconcile(&*protect::classes(), "", "gold").await.unwrap();
    let class = || cluster.get(&res::VOLUME_ATTRIBUTES_CLASSES, "", "gold");
    look().await;
    assert_eq!(class().unwrap()["metadata"]["finalizers"], json!(["kubernetes.io/vac-protection"]));
    let options = DeleteOptions::default();
    cluster.client().delete(&res::VOLUME_ATTRIBUTES_CLASSES, "", "gold", &options).await.unwrap();
    look().await;
    assert!(class().is_some(), "a claim names it");
    cluster.client().delete(&res::PERSISTENT_VOLUME_CLAIMS, "n", "c", &options).await.unwrap();
    look().await;
    assert!(class().is_none());
}
