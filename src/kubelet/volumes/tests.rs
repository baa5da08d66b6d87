//! Volumes of a pod, on a real file system.

use super::*;
use crate::kubelet::sources::fake::FakeSources;
use crate::util::clock::ManualClock;
use serde_json::json;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use test_case::test_case;

/// Counts its tokens; gives no more than three.
#[derive(Default)]
struct FakeTokens(std::sync::atomic::AtomicU32);

#[async_trait]
impl Tokens for FakeTokens {
    async fn request(&self, namespace: &str, account: &str, body: &Value) -> ApiResult<Value> {
        let n = self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(body["spec"]["boundObjectRef"]["uid"], "u");
        if n > 2 {
            return Err(Status::internal("no more"));
        }
        Ok(
            json!({"status": {"token": format!("{namespace}/{account}/{n}"), "expirationTimestamp": "1970-01-01T01:00:00Z"}}),
        )
    }
}

/// The claim and the volume that there are.
#[derive(Default)]
struct Claimed(Option<(Value, Value)>);

#[async_trait]
impl claim::Claims for Claimed {
    async fn claim(&self, _: &str, name: &str) -> ApiResult<Value> {
        self.0.as_ref().map(|c| c.0.clone()).ok_or_else(|| Status::not_found("", "persistentvolumeclaims", name))
    }

    async fn volume(&self, name: &str) -> ApiResult<Value> {
        self.0.as_ref().map(|c| c.1.clone()).ok_or_else(|| Status::not_found("", "persistentvolumes", name))
    }
}

struct Bench {
    dir: tempfile::TempDir,
    sources: FakeSources,
    tokens: FakeTokens,
    claims: Claimed,
    known: Option<Prepared>,
    issued: Issued,
}

impl Bench {
    fn new() -> Self {
        let sources = FakeSources::default().with(Kind::ConfigMap, "n", "cm", &[("a", "1"), ("b", "2")]).with(
            Kind::Secret,
            "n",
            "s",
            &[("pw", "x")],
        );
        Self {
            dir: tempfile::tempdir().unwrap(),
            sources,
            tokens: FakeTokens::default(),
            claims: Claimed::default(),
            known: None,
            issued: Issued::new(),
        }
    }

    async fn prepare(&mut self, pod_spec: Value, volume: Value, now: i64) -> Result<Prepared, VolumeError> {
        let mut spec = json!({"containers": [], "serviceAccountName": "sa"});
        spec.as_object_mut().unwrap().extend(pod_spec.as_object().cloned().unwrap_or_default());
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"k": "v"}}, "spec": spec});
        let pod = PodView::from_value(pod).unwrap();
        let client = crate::runtime::fake::Cluster::new().client();
        let clock = Arc::new(ManualClock::at(now));
        let (events, _writer) = crate::runtime::events::recorder(client.clone(), "kubelet", "node", clock);
        let mut cx = Cx {
            pod: &pod,
            dir: self.dir.path(),
            facts: &Facts::default(),
            sources: &self.sources,
            tokens: &self.tokens,
            claims: &self.claims,
            csi: &crate::kubelet::csi::Csi::new(self.dir.path().into(), self.dir.path().into(), "node", client),
            events: &events,
            node_labels: &[],
            issued: &mut self.issued,
            now: Timestamp::from_second(now).unwrap(),
        };
        prepare(&mut cx, &serde_json::from_value(volume).unwrap(), self.known.as_ref()).await
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Secrets may have been mounted.
        teardown(&self.dir.path().join("volumes")).unwrap();
    }
}

fn read(p: &Prepared, name: &str) -> String {
    std::fs::read_to_string(p.path.join(name)).unwrap()
}

#[tokio::test]
async fn config_maps_become_files_and_follow_changes() {
    let mut bench = Bench::new();
    let volume = json!({"name": "v", "configMap": {"name": "cm", "items": [{"key": "a", "path": "d/x", "mode": 256}]}});
    let p = bench.prepare(json!({}), volume.clone(), 0).await.unwrap();
    assert_eq!(read(&p, "d/x"), "1");
    assert!(p.read_only, "what the API says is not for containers to change");
    assert_eq!(std::fs::metadata(p.path.join("d/x")).unwrap().mode() & 0o777, 0o400);
    bench.sources = FakeSources::default().with(Kind::ConfigMap, "n", "cm", &[("a", "9")]);
    let p = bench.prepare(json!({}), volume, 1).await.unwrap();
    assert_eq!(read(&p, "d/x"), "9");
}

#[test_case(json!({"configMap": {"name": "no"}}), "configmap \"no\" not found"; "configmap")]
#[test_case(json!({"secret": {"secretName": "no"}}), "secret \"no\" not found"; "secret")]
#[test_case(json!({"secret": {"secretName": "s", "items": [{"key": "z", "path": "z"}]}}), "references non-existent secret key: z"; "key")]
#[test_case(json!({"hostPath": {"path": "/proc/version", "type": "Directory"}}), "is not a directory"; "host path type")]
#[test_case(json!({"hostPath": {"path": "/proc/../etc"}}), "'..'"; "host path dots")]
#[test_case(json!({"image": {"reference": "x"}}), "image"; "unknown source")]
#[test_case(json!({"csi": {"driver": "x"}}), "driver name x not found in the list of registered CSI drivers"; "driver")]
#[test_case(json!({"persistentVolumeClaim": {"claimName": "no"}}), "error processing PVC n/no: PVC not found"; "claim")]
#[tokio::test]
async fn what_is_missing_is_named(mut volume: Value, want: &str) {
    volume["name"] = "v".into();
    let error = Bench::new().prepare(json!({}), volume, 0).await.unwrap_err();
    assert!(error.to_string().contains(want), "{error}");
}

/// A claim that is bound to a directory of this node.
fn claimed(path: &Path) -> Claimed {
    let claim = json!({"metadata": {"name": "c", "namespace": "n", "uid": "1"}, "spec": {"volumeName": "pv"},
        "status": {"phase": "Bound"}});
    let volume = json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"uid": "1"}, "local": {"path": path}}});
    Claimed(Some((claim, volume)))
}

#[tokio::test]
async fn a_claim_is_the_directory_that_it_is_bound_to() {
    let mut bench = Bench::new();
    let path = bench.dir.path().join("disk");
    let volume =
        |read_only: bool| json!({"name": "v", "persistentVolumeClaim": {"claimName": "c", "readOnly": read_only}});
    bench.claims = claimed(&path);
    let missing = bench.prepare(json!({}), volume(false), 0).await.unwrap_err();
    assert!(missing.to_string().contains("does not exist"), "{missing}");
    std::fs::create_dir(&path).unwrap();
    // What the pod was given it keeps, though no server answers any more.
    bench.claims = Claimed::default();
    assert_eq!(bench.prepare(json!({}), volume(false), 0).await.unwrap().path, path);
    assert!(bench.prepare(json!({}), volume(true), 0).await.unwrap().read_only);
    let uids: Vec<String> = claim::given(bench.dir.path().parent().unwrap()).into_iter().map(|g| g.uid).collect();
    assert!(uids.iter().any(|uid| bench.dir.path().ends_with(uid)), "whoever removes directories can see it");
}

#[tokio::test]
async fn a_claims_directory_belongs_to_the_pods_group_once_a_pod() {
    let mut bench = Bench::new();
    let path = bench.dir.path().join("disk");
    std::fs::create_dir(&path).unwrap();
    bench.claims = claimed(&path);
    let file = path.join("file");
    std::fs::write(&file, "x").unwrap();
    // Root may give it to any group; others only to their own.
    let own = nix::unistd::getegid().as_raw();
    let group = if nix::unistd::geteuid().is_root() { 4321 } else { own };
    let pod = json!({"securityContext": {"fsGroup": group}});
    let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
    let prepared = bench.prepare(pod.clone(), volume.clone(), 0).await.unwrap();
    let meta = std::fs::metadata(&file).unwrap();
    assert_eq!((meta.gid(), meta.mode() & 0o060), (group, 0o060));
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    bench.known = Some(prepared);
    bench.prepare(pod, volume, 0).await.unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600, "what the pod does afterwards is its own");
}

#[tokio::test]
async fn optional_ones_are_empty() {
    let volume = json!({"name": "v", "configMap": {"name": "no", "optional": true}});
    let p = Bench::new().prepare(json!({}), volume, 0).await.unwrap();
    assert!(p.path.join("..data").is_dir() || !p.path.exists());
}

#[tokio::test]
async fn host_paths_are_made_where_asked() {
    let mut bench = Bench::new();
    let path = bench.dir.path().join("host/new");
    let volume = |kind: &str| json!({"name": "v", "hostPath": {"path": path.to_str().unwrap(), "type": kind}});
    assert!(bench.prepare(json!({}), volume("Directory"), 0).await.is_err());
    assert_eq!(bench.prepare(json!({}), volume("DirectoryOrCreate"), 0).await.unwrap().path, path);
    assert!(bench.prepare(json!({}), volume("Directory"), 0).await.is_ok());
    assert!(bench.prepare(json!({}), volume("File"), 0).await.is_err());
}

#[tokio::test]
async fn tokens_are_renewed_at_80_percent() {
    let mut bench = Bench::new();
    let volume = json!({"name": "v", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
        {"configMap": {"name": "cm", "items": [{"key": "a", "path": "ca"}]}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}});
    let p = bench.prepare(json!({}), volume.clone(), 0).await.unwrap();
    assert_eq!(p.refresh, Some(Timestamp::from_second(2880).unwrap()));
    assert_eq!(
        (read(&p, "token"), read(&p, "ca"), read(&p, "labels")),
        ("n/sa/0".into(), "1".into(), "k=\"v\"".into())
    );
    let p = bench.prepare(json!({}), volume.clone(), 2879).await.unwrap();
    assert_eq!(read(&p, "token"), "n/sa/0");
    let p = bench.prepare(json!({}), volume, 2881).await.unwrap();
    assert_eq!(read(&p, "token"), "n/sa/1");
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_is_kept_while_it_is_good() {
    let mut bench = Bench::new();
    bench.tokens.0.store(2, std::sync::atomic::Ordering::SeqCst);
    let volume = json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}});
    bench.prepare(json!({}), volume.clone(), 0).await.unwrap();
    let p = bench.prepare(json!({}), volume.clone(), 3000).await.unwrap();
    assert_eq!((read(&p, "token"), p.refresh), ("n/sa/2".into(), Timestamp::from_second(3060).ok()));
    let error = bench.prepare(json!({}), volume, 3600).await.unwrap_err();
    assert!(error.to_string().contains("no more"), "{error}");
}

#[tokio::test]
async fn an_empty_dir_is_the_groups_once() {
    let mut bench = Bench::new();
    let volume = json!({"name": "v", "emptyDir": {}});
    let grouped = json!({"securityContext": {"fsGroup": 4242}});
    // Made, and then the power went.
    bench.prepare(json!({}), volume.clone(), 0).await.unwrap();
    let Ok(p) = bench.prepare(grouped.clone(), volume.clone(), 0).await else {
        assert!(!nix::unistd::geteuid().is_root(), "root may give files away");
        return;
    };
    let root = std::fs::metadata(&p.path).unwrap();
    assert_eq!((root.gid(), root.mode() & 0o7777), (4242, 0o2777));
    std::fs::write(p.path.join("x"), "1").unwrap();
    std::os::unix::fs::chown(p.path.join("x"), None, Some(0)).unwrap();
    bench.prepare(grouped, volume, 1).await.unwrap();
    assert_eq!(std::fs::metadata(p.path.join("x")).unwrap().gid(), 0, "what the pod did later is its own matter");
}

#[tokio::test]
async fn an_empty_dir_keeps_what_is_in_it() {
    let mut bench = Bench::new();
    let volume = json!({"name": "v", "emptyDir": {}});
    let p = bench.prepare(json!({}), volume.clone(), 0).await.unwrap();
    assert_eq!(std::fs::metadata(&p.path).unwrap().mode() & 0o777, 0o777);
    assert!(!p.read_only);
    std::fs::write(p.path.join("x"), "1").unwrap();
    let p = bench.prepare(json!({}), volume, 1).await.unwrap();
    assert_eq!(read(&p, "x"), "1");
}

#[test]
fn mounts_are_found_below_the_directory_only() {
    let text = "1 2 0:1 / /pods/u rw - tmpfs t rw\n1 2 0:1 / /pods/u/v\\040x rw - tmpfs t rw\n1 2 0:1 / /pods/uu rw - t t rw\n";
    assert_eq!(mounts::below(text, Path::new("/pods/u")), [PathBuf::from("/pods/u/v x")]);
}

#[test_case(json!({"downwardAPI": {"items": []}}), "2", true; "downward")]
#[test_case(json!({"projected": {"sources": [{"downwardAPI": {"items": []}}]}}), "2", true; "projected")]
#[test_case(json!({"downwardAPI": {"items": []}}), "1", false; "nothing changed")]
#[test_case(json!({"emptyDir": {}}), "2", false; "no volume tells of it")]
fn changed_labels_reach_the_volumes_that_tell_of_them(mut volume: Value, label: &str, want: bool) {
    volume["name"] = "v".into();
    let pod = |label: &str| {
        let spec = json!({"containers": [], "volumes": [volume]});
        PodView::from_value(json!({"metadata": {"name": "p", "labels": {"k": label}}, "spec": spec})).unwrap()
    };
    assert_eq!(tell_of(&pod("1"), &pod(label)), want);
}

#[test]
fn what_is_mounted_survives_also_behind_a_link() {
    use nix::mount::{MsFlags, mount};
    let dir = tempfile::tempdir().unwrap();
    let (precious, at) = (dir.path().join("precious"), dir.path().join("disk/pods/u/volumes/v"));
    std::fs::create_dir_all(&precious).unwrap();
    std::fs::create_dir_all(&at).unwrap();
    std::fs::write(precious.join("file"), "1").unwrap();
    std::os::unix::fs::symlink(dir.path().join("disk"), dir.path().join("data")).unwrap();
    if let Err(e) = mount(Some(&precious), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>) {
        assert!(!nix::unistd::geteuid().is_root(), "root may mount: {e}");
        return;
    }
    teardown(&dir.path().join("data/pods/u")).unwrap();
    assert!(!dir.path().join("disk/pods/u").exists());
    assert_eq!(std::fs::read_to_string(precious.join("file")).unwrap(), "1");
}
