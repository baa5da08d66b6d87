//! DaemonSets over a fake API; the tests are scheduler and kubelet.

use jiff::Timestamp;
use serde_json::json;
use test_case::test_case;

use super::nodes::Fit;
use super::*;
use crate::controllers::common::pods::Phase;
use crate::runtime::fake::Cluster;

fn set(strategy: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d", "namespace": "n", "uid": "uid-d", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "d"}}, "updateStrategy": strategy, "revisionHistoryLimit": 10,
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"version": 1, "nodeSelector": {"os": "linux"}}}}})
}

struct World(Cluster, DaemonSets);

impl World {
    fn with(strategy: Value) -> Self {
        let world = Self(Cluster::new(), DaemonSets::default());
        for name in ["a", "b", "c"] {
            world.node(name, "linux");
        }
        world.node("w", "windows");
        world.0.put(set(strategy));
        world
    }

    fn node(&self, name: &str, os: &str) {
        self.0.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"os": os}}}));
    }

    async fn step(&self) -> Requeue {
        self.0.reconcile(&self.1, "n", "d").await.unwrap()
    }

    /// Reconciles, with all pods becoming ready at once, until nothing is written.
    async fn settle(&self) {
        for _ in 0..60 {
            self.0.api.take_log();
            self.step().await;
            let mut new = self.0.api.all(&res::PODS);
            new.retain(|p| p.get("status").is_none());
            let settled = new.is_empty();
            for mut pod in new {
                pod["spec"]["nodeName"] = nodes::node_of(&pod).unwrap().into();
                pod["status"] = json!({"phase": "Running", "conditions":
                    [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
                self.0.put(pod);
            }
            if settled && self.0.api.take_log().is_empty() {
                return;
            }
        }
        panic!("it never settles");
    }

    fn get(&self) -> Value {
        self.0.get(&res::DAEMON_SETS, "n", "d").unwrap()
    }

    fn change(&self, at: &str, value: Value) {
        let mut set = self.get();
        set.set_at(at, value);
        self.0.put(set);
    }

    /// Nodes and versions of the pods.
    fn pods(&self) -> Vec<(String, i64)> {
        let all = self.0.api.all(&res::PODS);
        let of = |p: &Value| (nodes::node_of(p).unwrap().to_owned(), p.int_at("/spec/version").unwrap());
        let mut all: Vec<_> = all.iter().map(of).collect();
        all.sort();
        all
    }

    fn at(&self, version: i64) -> usize {
        self.pods().iter().filter(|p| p.1 == version).count()
    }
}

#[tokio::test]
async fn each_node_that_is_meant_has_one_and_so_do_new_ones() {
    let world = World::with(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}));
    world.settle().await;
    assert_eq!(world.pods(), [("a".into(), 1), ("b".into(), 1), ("c".into(), 1)]);
    let status = world.get()["status"].clone();
    assert_eq!((status["desiredNumberScheduled"].clone(), status["numberAvailable"].clone()), (json!(3), json!(3)));
    world.node("e", "linux");
    world.node("a", "windows");
    world.settle().await;
    assert_eq!(world.pods(), [("b".into(), 1), ("c".into(), 1), ("e".into(), 1)]);
    assert_eq!(world.get()["status"]["numberMisscheduled"], 0);
}

#[tokio::test]
async fn updates_one_node_at_a_time_and_back() {
    let world = World::with(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}));
    world.settle().await;
    world.change("/spec/template/spec/version", json!(2));
    world.step().await;
    assert_eq!(world.at(1), 2, "one is missing now");
    world.settle().await;
    assert_eq!((world.at(2), world.get()["status"]["updatedNumberScheduled"].clone()), (3, json!(3)));
    world.change("/spec/template/spec/version", json!(1));
    world.settle().await;
    assert_eq!(world.at(1), 3);
    let revisions = world.0.api.all(&res::CONTROLLER_REVISIONS);
    let mut numbers: Vec<i64> = revisions.iter().map(|r| r.int_at("/revision").unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3], "the first one is the third now");
}

#[tokio::test]
async fn with_surge_the_new_one_comes_before_the_old_one_goes() {
    let world = World::with(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}));
    world.settle().await;
    world.change("/spec/template/spec/version", json!(2));
    world.step().await;
    world.step().await;
    assert_eq!((world.at(1), world.at(2)), (3, 1));
    world.settle().await;
    assert_eq!((world.at(1), world.at(2)), (0, 3));
}

#[tokio::test]
async fn on_delete_nothing_moves_by_itself() {
    let world = World::with(json!({"type": "OnDelete"}));
    world.settle().await;
    world.change("/spec/template/spec/version", json!(2));
    world.settle().await;
    assert_eq!(world.at(1), 3);
    let name = world.0.api.all(&res::PODS)[0].str_at("/metadata/name").unwrap().to_owned();
    world.0.client().delete(&res::PODS, "n", &name, &Default::default()).await.unwrap();
    world.settle().await;
    assert_eq!((world.at(1), world.at(2)), (2, 1));
}

#[tokio::test]
async fn failed_pods_are_replaced_more_and_more_slowly() {
    let world = World::with(json!({"type": "OnDelete"}));
    world.settle().await;
    let fail = || {
        let mut pod = world.0.api.all(&res::PODS).into_iter().find(|p| nodes::node_of(p) == Some("a")).unwrap();
        pod["status"] = json!({"phase": "Failed"});
        world.0.put(pod);
    };
    fail();
    world.settle().await;
    assert_eq!(world.0.api.all(&res::PODS).iter().filter(|p| p["status"]["phase"] == "Failed").count(), 0);
    fail();
    assert_eq!(world.step().await, Requeue::after_seconds(Some(1)));
    world.0.clock.advance(1);
    world.settle().await;
    fail();
    assert_eq!(world.step().await, Requeue::after_seconds(Some(2)));
}

/// A pod on each node: `r`: ready, `o`: ready and old, `b`: old and not ready, `p`: new and not ready, `t`: on its way out,
/// `e`: the same, and ended, `f`: old, failed and to be replaced later, `n`: the same, but new, `-`: none. Two with a `+`
/// share a node.
fn daemons(text: &str) -> Vec<Daemon> {
    let daemon = |node: usize, here: usize, c: char| Daemon {
        view: PodView {
            name: if here == 0 { node.to_string() } else { format!("{node}'") },
            node: node.to_string(),
            phase: if matches!(c, 'e' | 'f' | 'n') { Phase::Failed } else { Phase::Running },
            ready_since: matches!(c, 'r' | 'o').then_some(Timestamp::UNIX_EPOCH),
            deleting: matches!(c, 't' | 'e'),
            ..PodView::default()
        },
        updated: matches!(c, 'r' | 'p' | 'n'),
        bound: true,
    };
    let mut all = Vec::new();
    let (mut node, mut here) = (0, 0);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '-' {
            all.push(daemon(node, here, c));
        }
        if chars.next_if_eq(&'+').is_some() {
            here += 1;
        } else {
            (node, here) = (node + 1, 0);
        }
    }
    all
}

fn shown(plan: &Plan) -> String {
    let made = plan.create.iter().map(|n| format!("+{n}"));
    let shown: Vec<String> = made.chain(plan.delete.iter().map(|n| format!("-{n}"))).collect();
    shown.join(" ")
}

#[test_case(1, 0, "ooo", "-0"; "one may be missing")]
#[test_case(2, 0, "ooo", "-0 -1"; "two may be missing")]
#[test_case(1, 0, "poo", ""; "one is missing")]
#[test_case(1, 0, "too", ""; "one is on its way out")]
#[test_case(1, 0, "pbo", "-1"; "one that is of no use goes at once")]
#[test_case(1, 0, "boo", "-0"; "and is missing already")]
#[test_case(2, 0, "boo", "-0 -1"; "another one may be")]
#[test_case(1, 0, "foo", "-0"; "one that failed does not wait for its turn")]
#[test_case(1, 0, "-oo", "+0"; "what is missing comes first")]
#[test_case(1, 0, "eoo", "+0"; "one that ended and is going is none")]
#[test_case(1, 0, "o+ooo", "-0'"; "one too many goes first")]
#[test_case(0, 1, "ooo", "+0"; "surge: one too many")]
#[test_case(0, 1, "rrb", "+2"; "beside one that is of no use")]
#[test_case(0, 1, "trr", "+0"; "one on its way out is not waited for")]
#[test_case(0, 1, "nrr", ""; "one that failed is, for a while")]
#[test_case(0, 1, "frr", "+0"; "but not an older one")]
#[test_case(0, 1, "o+por", ""; "the new one is waited for")]
#[test_case(0, 1, "o+ror", "-0"; "then the old one goes")]
#[test_case(0, 1, "b+por", "-0"; "and at once where it is of no use")]
#[test_case(0, 1, "t+por", "+1"; "a node whose old one is going is done with")]
#[test_case(0, 0, "ooo", "-0"; "nothing would move otherwise")]
fn updates(max_unavailable: i64, max_surge: i64, pods: &str, want: &str) {
    let yes = Fit { run: true, stay: true };
    let nodes: Nodes = (0..3).map(|i| (i.to_string(), yes)).collect();
    let ds = Daemons { max_unavailable: max_unavailable.into(), max_surge: max_surge.into(), ..Daemons::default() };
    let plan = plan::plan(&ds, &nodes, &daemons(pods), &|_| 60, Timestamp::from_second(100).unwrap());
    assert_eq!(shown(&plan), want);
}

/// The first node should not get one, but what is there may stay.
#[test_case(1, 0, "orr", "-0"; "an old one goes as far as pods may be missing")]
#[test_case(1, 0, "oor", "-0"; "in its turn")]
#[test_case(1, 0, "opr", ""; "not while one is missing")]
#[test_case(1, 0, "brr", "-0"; "at once where it is of no use")]
#[test_case(1, 0, "rrr", ""; "a new one stays")]
#[test_case(1, 0, "trr", ""; "and has no successor")]
#[test_case(0, 1, "trr", ""; "with surge neither")]
#[test_case(0, 1, "orr", "-0"; "surge: where enough are available")]
#[test_case(0, 1, "opr", ""; "surge: else it stays")]
#[test_case(0, 1, "bpr", "-0"; "surge: but one that is of no use")]
fn updates_where_none_should_be_made(max_unavailable: i64, max_surge: i64, pods: &str, want: &str) {
    let nodes: Nodes = (0..3).map(|i| (i.to_string(), Fit { run: i > 0, stay: true })).collect();
    let ds = Daemons { max_unavailable: max_unavailable.into(), max_surge: max_surge.into(), ..Daemons::default() };
    let plan = plan::plan(&ds, &nodes, &daemons(pods), &|_| 60, Timestamp::from_second(100).unwrap());
    assert_eq!(shown(&plan), want);
}

/// Pods that are there, up to date, ready, and on nodes where none should be.
#[test_case("rrr", (3, 3, 3, 0))]
#[test_case("o+prr", (3, 2, 3, 0); "of two the older one counts")]
#[test_case("err", (2, 2, 2, 0); "one that ended and is going is none")]
#[test_case("trr", (3, 2, 2, 0); "one that is going is there")]
#[test_case("rrrr", (3, 3, 3, 1))]
#[test_case("rrre", (3, 3, 3, 0); "nor is it in the wrong place")]
fn statuses(pods: &str, want: (i64, i64, i64, i64)) {
    let nodes: Nodes = (0..4).map(|i| (i.to_string(), Fit { run: i < 3, stay: true })).collect();
    let status =
        plan::status(None, &Daemons::default(), &nodes, &daemons(pods), 0, Timestamp::from_second(100).unwrap());
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    let got = (
        count("currentNumberScheduled"),
        count("updatedNumberScheduled"),
        count("numberReady"),
        count("numberMisscheduled"),
    );
    assert_eq!(got, want);
}
