//! StatefulSets over a fake API; the tests are the kubelet.

use jiff::Timestamp;
use test_case::test_case;

use super::*;
use crate::controllers::common::pods::Phase;
use crate::runtime::fake::Cluster;

fn set(extra: Value) -> Value {
    let mut set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "db", "namespace": "n", "uid": "uid-db", "generation": 1},
        "spec": {"replicas": 3, "serviceName": "dbs", "selector": {"matchLabels": {"app": "db"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}, "revisionHistoryLimit": 1,
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"version": 1, "containers": []}}}});
    for (key, value) in extra.as_object().unwrap() {
        set["spec"][key] = value.clone();
    }
    set
}

struct World(Cluster);

impl World {
    fn with(extra: Value) -> Self {
        let world = Self(Cluster::new());
        world.0.put(set(extra));
        world
    }

    async fn step(&self) {
        self.0.reconcile(&StatefulSets, "n", "db").await.unwrap();
    }

    /// Reconciles, with all pods becoming ready at once, until nothing is written.
    async fn settle(&self) {
        for _ in 0..60 {
            self.0.api.take_log();
            self.step().await;
            if !self.start_all() && self.0.api.take_log().is_empty() {
                return;
            }
        }
        panic!("it never settles");
    }

    /// Makes new pods ready; true when there were any.
    fn start_all(&self) -> bool {
        let mut new = self.0.api.all(&res::PODS);
        new.retain(|p| p.get("status").is_none());
        let any = !new.is_empty();
        for mut pod in new {
            pod["status"] = json!({"phase": "Running", "conditions":
                [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
            self.0.put(pod);
        }
        any
    }

    fn change(&self, at: &str, value: Value) {
        let mut set = self.get();
        set.set_at(at, value);
        self.0.put(set);
    }

    fn get(&self) -> Value {
        self.0.get(&res::STATEFUL_SETS, "n", "db").unwrap()
    }

    /// Names and versions of the pods.
    fn pods(&self) -> Vec<(String, i64)> {
        let all = self.0.api.all(&res::PODS);
        let of = |p: &Value| (p.str_at("/metadata/name").unwrap().to_owned(), p.int_at("/spec/version").unwrap());
        let mut all: Vec<_> = all.iter().map(of).collect();
        all.sort();
        all
    }

    fn names(&self) -> Vec<String> {
        self.pods().into_iter().map(|p| p.0).collect()
    }
}

#[tokio::test]
async fn pods_come_one_after_the_other_and_go_in_reverse() {
    let world = World::with(json!({}));
    world.step().await;
    world.step().await;
    assert_eq!(world.names(), ["db-0"], "the second one waits for the first to be ready");
    world.settle().await;
    assert_eq!(world.names(), ["db-0", "db-1", "db-2"]);
    let pod = world.0.get(&res::PODS, "n", "db-1").unwrap();
    assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("db-1"), &json!("dbs")));
    assert_eq!(pod["metadata"]["labels"][pod::POD_NAME], "db-1");
    assert_eq!(pod["metadata"]["labels"][pod::POD_INDEX], "1");
    let status = &world.get()["status"];
    assert_eq!(status["readyReplicas"], 3);
    assert_eq!(status["currentRevision"], status["updateRevision"]);
    world.change("/spec/replicas", json!(1));
    world.step().await;
    assert_eq!(world.names(), ["db-0", "db-1"], "the last one first");
    world.settle().await;
    assert_eq!(world.names(), ["db-0"]);
}

#[tokio::test]
async fn parallel_pods_do_not_wait() {
    let world = World::with(json!({"podManagementPolicy": "Parallel", "ordinals": {"start": 5}}));
    world.step().await;
    assert_eq!(world.names(), ["db-5", "db-6", "db-7"]);
}

#[tokio::test]
async fn updates_go_down_to_the_partition_and_back() {
    let world = World::with(json!({}));
    world.settle().await;
    world.change("/spec/updateStrategy/rollingUpdate/partition", json!(2));
    world.change("/spec/template/spec/version", json!(2));
    world.settle().await;
    let versions = |w: &World| w.pods().into_iter().map(|p| p.1).collect::<Vec<_>>();
    assert_eq!(versions(&world), [1, 1, 2]);
    let status = world.get()["status"].clone();
    assert_eq!((status["currentReplicas"].clone(), status["updatedReplicas"].clone()), (json!(2), json!(1)));
    assert_ne!(status["currentRevision"], status["updateRevision"]);
    // A pod below the partition that dies comes back as it was.
    world.0.client().delete(&res::PODS, "n", "db-0", &Default::default()).await.unwrap();
    world.settle().await;
    assert_eq!(versions(&world), [1, 1, 2]);
    // All that die at once come back as they were, too: that none of the old ones is left is no end of a roll-out.
    for name in ["db-0", "db-1", "db-2"] {
        world.0.client().delete(&res::PODS, "n", name, &Default::default()).await.unwrap();
    }
    world.settle().await;
    assert_eq!(versions(&world), [1, 1, 2]);
    assert_ne!(world.get()["status"]["currentRevision"], world.get()["status"]["updateRevision"]);
    world.change("/spec/updateStrategy/rollingUpdate/partition", json!(0));
    world.settle().await;
    assert_eq!(versions(&world), [2, 2, 2]);
    assert_eq!(world.get()["status"]["currentRevision"], world.get()["status"]["updateRevision"]);
    world.change("/spec/template/spec/version", json!(1));
    world.settle().await;
    assert_eq!(versions(&world), [1, 1, 1]);
    let revisions = world.0.api.all(&res::CONTROLLER_REVISIONS);
    let mut numbers: Vec<i64> = revisions.iter().map(|r| r.int_at("/revision").unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3], "the first one is the third now");
}

#[tokio::test]
async fn claims_are_made_kept_and_taken_along() {
    let claims = json!([{"metadata": {"name": "data"}, "spec": {"x": 1}}]);
    let policy = json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
    let world = World::with(json!({"volumeClaimTemplates": claims, "persistentVolumeClaimRetentionPolicy": policy}));
    world.settle().await;
    let owner = |name: &str| {
        let claim = world.0.get(&res::PERSISTENT_VOLUME_CLAIMS, "n", name).unwrap();
        claim.str_at("/metadata/ownerReferences/0/kind").map(str::to_owned)
    };
    assert_eq!(world.0.api.all(&res::PERSISTENT_VOLUME_CLAIMS).len(), 3);
    assert_eq!(owner("data-db-2").as_deref(), Some("StatefulSet"));
    let pod = world.0.get(&res::PODS, "n", "db-2").unwrap();
    assert_eq!(pod.str_at("/spec/volumes/0/persistentVolumeClaim/claimName"), Some("data-db-2"));
    world.change("/spec/replicas", json!(2));
    world.settle().await;
    assert_eq!(owner("data-db-2").as_deref(), Some("Pod"), "it goes with the pod that was scaled away");
    assert_eq!(owner("data-db-1").as_deref(), Some("StatefulSet"));
    // Its successor waits until the claim is gone.
    world.change("/spec/replicas", json!(3));
    assert!(world.0.reconcile(&StatefulSets, "n", "db").await.is_err());
    assert_eq!(world.names(), ["db-0", "db-1"]);
}

#[tokio::test]
async fn people_are_told_what_becomes_of_pods() {
    let claims = json!([{"metadata": {"name": "data"}, "spec": {"x": 1}}]);
    let world = World::with(json!({"volumeClaimTemplates": claims}));
    let (_, told) = world.0.reconcile_and_hear(&StatefulSets, "n", "db").await;
    let want = [
        "SuccessfulCreate: create Claim data-db-0 Pod db-0 in StatefulSet db success",
        "SuccessfulCreate: create Pod db-0 in StatefulSet db successful",
    ];
    assert_eq!(told, want);
    let pod = world.0.get(&res::PODS, "n", "db-0").unwrap();
    assert_eq!(pod["metadata"]["generateName"], "db-");
    world.settle().await;
    // A label that somebody took away comes back.
    let mut pod = world.0.get(&res::PODS, "n", "db-1").unwrap();
    pod.remove_at("/metadata/labels/apps.kubernetes.io~1pod-index");
    world.0.put(pod);
    let (_, told) = world.0.reconcile_and_hear(&StatefulSets, "n", "db").await;
    assert_eq!(told, ["SuccessfulUpdate: update Pod db-1 in StatefulSet db successful"]);
    world.change("/spec/replicas", json!(2));
    let (_, told) = world.0.reconcile_and_hear(&StatefulSets, "n", "db").await;
    assert_eq!(told, ["SuccessfulDelete: delete Pod db-2 in StatefulSet db successful"]);
}

#[tokio::test]
async fn people_are_told_why_a_pod_does_not_come() {
    use crate::api::status::Status;
    let full = || Status::forbidden("", "pods", "db-0", "full");
    let world = World::with(json!({}));
    world.0.api.refuse("POST /api/v1/namespaces/n/pods", full());
    let (outcome, told) = world.0.reconcile_and_hear(&StatefulSets, "n", "db").await;
    assert!(outcome.is_err());
    assert_eq!(told, [format!("FailedCreate: create Pod db-0 in StatefulSet db failed error: {}", full())]);

    let world = World::with(json!({}));
    world.0.api.refuse("POST /api/v1/namespaces/n/pods", Status::already_exists("", "pods", "db-0"));
    let (outcome, told) = world.0.reconcile_and_hear(&StatefulSets, "n", "db").await;
    assert_eq!((outcome.is_err(), told), (true, Vec::new()));

    let claims = json!([{"metadata": {"name": "data"}, "spec": {"x": 1}}]);
    let world = World::with(json!({"volumeClaimTemplates": claims}));
    world.0.api.refuse("POST /api/v1/namespaces/n/persistentvolumeclaims", full());
    let (outcome, told) = world.0.reconcile_and_hear(&StatefulSets, "n", "db").await;
    assert!(outcome.is_err());
    let claim = format!("FailedCreate: create Claim data-db-0 for Pod db-0 in StatefulSet db failed error: {}", full());
    let pod = format!(
        "FailedCreate: create Pod db-0 in StatefulSet db failed error: failed to create PVC data-db-0: {}",
        full()
    );
    assert_eq!(told, [claim, pod]);
}

/// A claim that names a pod that is gone as its owner stands in the way only where claims go with pods.
#[test_case("Delete", false; "it goes with the pod")]
#[test_case("Retain", true; "it is kept")]
#[tokio::test]
async fn claims_of_a_pod_that_is_gone(when_scaled: &str, made: bool) {
    let claims = json!([{"metadata": {"name": "data"}, "spec": {"x": 1}}]);
    let policy = json!({"whenDeleted": "Retain", "whenScaled": when_scaled});
    let world = World::with(json!({"volumeClaimTemplates": claims, "persistentVolumeClaimRetentionPolicy": policy}));
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "db-0", "uid": "gone"});
    world.0.put(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data-db-0", "namespace": "n", "ownerReferences": [owner]}}));
    let (outcome, told) = world.0.reconcile_and_hear(&StatefulSets, "n", "db").await;
    assert_eq!((outcome.is_ok(), told.len(), world.names().len()), (made, usize::from(made), usize::from(made)));
}

#[tokio::test]
async fn on_delete_updates_what_somebody_deletes() {
    let world = World::with(json!({"updateStrategy": {"type": "OnDelete"}}));
    world.settle().await;
    world.change("/spec/template/spec/version", json!(2));
    world.settle().await;
    assert_eq!(world.pods()[0].1, 1);
    world.0.client().delete(&res::PODS, "n", "db-0", &Default::default()).await.unwrap();
    world.settle().await;
    assert_eq!(world.pods().into_iter().map(|p| p.1).collect::<Vec<_>>(), [2, 1, 1]);
}

/// `r`: ready, `o`: ready and of an older revision, `p`: pending, `b`: old and not ready, `t`: on its way out,
/// `u`: its node is silent, `f`: failed, `m`: ready and not as its ordinal's should be, `n`: pending and so, `-`: not there.
fn members(text: &str) -> Vec<Member> {
    let member = |(i, c): (usize, char)| {
        let ready = matches!(c, 'r' | 'o' | 'm').then(|| Timestamp::from_second(0).unwrap());
        let phase = match c {
            'p' | 'n' => Phase::Pending,
            'u' => Phase::Unknown,
            'f' => Phase::Failed,
            _ => Phase::Running,
        };
        let view = PodView { phase, ready_since: ready, deleting: c == 't', ..PodView::default() };
        let revision = if matches!(c, 'o' | 'b') { "old" } else { "new" };
        Member { view, ordinal: i as i64, revision: revision.into(), mistaken: matches!(c, 'm' | 'n') }
    };
    text.chars().enumerate().filter(|(_, c)| *c != '-').map(member).collect()
}

#[test_case(false, 1, "rr-", "+2"; "the next one")]
#[test_case(false, 1, "rp-", "c1"; "waits for the second")]
#[test_case(false, 1, "rt-", ""; "one that is going is waited for")]
#[test_case(false, 1, "ru-", ""; "one on a silent node is not replaced")]
#[test_case(true, 1, "ru-", "+2"; "nor in parallel")]
#[test_case(false, 1, "rf-", "-1"; "one that failed goes")]
#[test_case(false, 1, "rrrrr", "-4"; "too many, one at a time")]
#[test_case(true, 1, "rrrrr", "-4 -3"; "too many, all at once")]
#[test_case(false, 1, "rrrpp", ""; "the lower one that is not ready goes first, but the higher is looked at")]
#[test_case(false, 1, "ooo", "-2"; "the highest is updated first")]
#[test_case(false, 1, "oor", "-1"; "then the next")]
#[test_case(true, 1, "oop", "c2"; "not while one is coming")]
#[test_case(true, 1, "obo", "-2"; "though one below is broken")]
#[test_case(true, 1, "obr", "-1"; "which is repaired when its turn comes")]
#[test_case(true, 2, "ooo", "-2 -1"; "two at once")]
#[test_case(true, 2, "bob", "-2"; "no more than two are missing")]
#[test_case(false, 1, "mr-", "=0 +2"; "put right on the way")]
#[test_case(false, 1, "nr-", "c0"; "not before it is of use")]
#[test_case(true, 1, "nrr", "c0 =0"; "at once in parallel")]
fn steps(parallel: bool, max_unavailable: i64, pods: &str, want: &str) {
    let set = Set { name: "db".into(), replicas: 3, parallel, max_unavailable, ..Set::default() };
    let steps = plan::plan(&set, &members(pods), "new", Timestamp::from_second(100).unwrap());
    let shown: Vec<String> = steps
        .iter()
        .map(|s| match s {
            Step::Create { ordinal, .. } => format!("+{ordinal}"),
            Step::Claims(o) => format!("c{o}"),
            Step::Fix(o) => format!("={o}"),
            Step::Delete(o) => format!("-{o}"),
        })
        .collect();
    assert_eq!(shown.join(" "), want);
}

/// Since when the pods are ready that should not be there; a minute makes them available, now is 100.
#[test_case(&[0, 0], Some(1); "the highest goes")]
#[test_case(&[0, 90], Some(1); "also when it is the only one not available")]
#[test_case(&[90, 0], Some(1); "or a lower one is")]
#[test_case(&[90, 90], None; "not when a lower one is not either")]
fn scaling_down_waits(ready: &[i64], want: Option<i64>) {
    let set = Set { name: "db".into(), min_ready: 60, ..Set::default() };
    let member = |(i, since): (usize, &i64)| {
        let ready_since = Some(Timestamp::from_second(*since).unwrap());
        let view = PodView { phase: Phase::Running, ready_since, ..PodView::default() };
        Member { view, ordinal: i as i64, ..Member::default() }
    };
    let members: Vec<Member> = ready.iter().enumerate().map(member).collect();
    let steps = plan::plan(&set, &members, "new", Timestamp::from_second(100).unwrap());
    assert_eq!(steps, want.map(Step::Delete).into_iter().collect::<Vec<_>>());
}

#[test_case("db", "db-0", Some(0))]
#[test_case("db", "db-12", Some(12))]
#[test_case("db", "db-01", None; "no such name")]
#[test_case("db", "db-x-1", None; "of another set")]
#[test_case("db", "db-", None; "none")]
fn ordinals(set: &str, pod: &str, want: Option<i64>) {
    assert_eq!(plan::ordinal(set, pod), want);
}
