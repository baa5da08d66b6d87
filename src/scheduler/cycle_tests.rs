//! Whole decisions as tables: nodes, pods on them, a newcomer, and what becomes of it.

use std::sync::Arc;

use serde_json::{Value, json};
use test_case::test_case;

use super::answers::Answers;
use super::cluster::{Cluster, NodeInfo};
use super::cycle::{Checks, Nominated, best};
use super::framework::Cycle;
use super::pod::{Labels, PodInfo};
use super::preempt;
use super::profile::{PREFERRED, Profile, preferred};
use super::scores::Kept;
use super::side::Side;
use crate::api::object::Object;
use crate::runtime::fake::FakeListers;

fn node(name: &str, zone: &str, taint: &str) -> NodeInfo {
    let taints = if taint.is_empty() { json!([]) } else { json!([{"key": taint, "effect": "NoSchedule"}]) };
    let value = json!({"metadata": {"name": name, "labels": {"zone": zone, "host": name}},
        "spec": {"taints": taints}, "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}}});
    NodeInfo::new(&Object::from_value(&value, &[])).unwrap()
}

fn pod(name: &str, app: &str, spec: Value) -> Arc<PodInfo> {
    let value =
        json!({"metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": app}}, "spec": spec});
    PodInfo::new(&Object::from_value(&value, &[])).unwrap()
}

fn needs(cpu: &str, priority: i32) -> Value {
    json!({"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
}

fn term(app: &str, key: &str) -> Value {
    json!([{"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}])
}

fn near(app: &str, key: &str) -> Value {
    json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(app, key)}}})
}

fn far(app: &str, key: &str) -> Value {
    json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(app, key)}}})
}

fn spread(key: &str) -> Value {
    json!({"topologySpreadConstraints": [{"topologyKey": key, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}}]})
}

fn named(nodes: &[&str]) -> Value {
    json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": nodes}]}]}}}})
}

fn port(n: i32, ip: &str) -> Value {
    json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": n, "hostIP": ip}]}]})
}

/// Two nodes in zone a (the second tainted), one in zone b.
fn cluster(on: &[(&str, Arc<PodInfo>)]) -> Cluster {
    let mut cluster = Cluster::default();
    for n in [node("n1", "a", ""), node("n2", "a", "t"), node("n3", "b", "")] {
        cluster.set_node(n);
    }
    for (node, pod) in on {
        cluster.place(pod.clone(), node, false);
    }
    cluster
}

/// Names of the nodes that fit, or the message.
fn outcome(on: &[(&str, Arc<PodInfo>)], newcomer: &PodInfo) -> String {
    outcome_in(&cluster(on), newcomer)
}

fn outcome_in(cluster: &Cluster, newcomer: &PodInfo) -> String {
    let side = Side::new(&FakeListers::default());
    let cx =
        Cycle { pod: newcomer, cluster, side: &side, profile: &Profile::default(), default_spread: Box::default() };
    let mut checks = match Checks::new(&cx) {
        Ok(checks) => checks,
        Err((plugin, why)) => return format!("{plugin}: {why}"),
    };
    match checks.feasible(cluster, &Nominated::default(), &mut Answers::default(), &mut 0) {
        Ok(found) => found.iter().map(|at| &*cluster.nodes()[*at].name).collect::<Vec<_>>().join(" "),
        Err(no_fit) => no_fit.message(),
    }
}

/// What each plugin says of the nodes, in their order.
fn scores(cluster: &Cluster, newcomer: &PodInfo) -> Vec<Option<Vec<i64>>> {
    let (side, profile) = (Side::new(&FakeListers::default()), Profile::default());
    let default_spread = Box::default();
    let cx = Cycle { pod: newcomer, cluster, side: &side, profile: &profile, default_spread };
    let nodes: Vec<&NodeInfo> = cluster.nodes().iter().collect();
    profile.rows.iter().map(|row| row.plugin.score(&cx, &nodes)).collect()
}

/// Newcomers that count others, each in its way.
fn counting() -> Vec<Arc<PodInfo>> {
    let rather = |kind: &str, app: &str| {
        let wish = json!([{"weight": 7, "podAffinityTerm": term(app, "zone")[0]}, {"weight": 3, "podAffinityTerm": term(app, "host")[0]}]);
        json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": wish}}})
    };
    let mut soft = spread("zone");
    soft["topologySpreadConstraints"][0]["whenUnsatisfiable"] = "ScheduleAnyway".into();
    let mut by_host = soft.clone();
    by_host["topologySpreadConstraints"][0]["topologyKey"] = "kubernetes.io/hostname".into();
    let specs = [
        spread("zone"),
        spread("host"),
        soft,
        by_host,
        near("db", "zone"),
        near("web", "host"),
        far("web", "zone"),
        far("db", "host"),
        rather("podAffinity", "web"),
        rather("podAntiAffinity", "db"),
        json!({}),
    ];
    specs.into_iter().map(|spec| pod("p", "web", spec)).collect()
}

/// A cluster that was asked before counts as a new one does.
#[test]
fn counts_follow_what_moves() {
    let (web, other) = (|n: &str| pod(n, "web", json!({})), pod("x", "db", json!({})));
    let mut kept = cluster(&[]);
    let mut on: Vec<(&str, Arc<PodInfo>)> = Vec::new();
    let same = |kept: &Cluster, anew: &Cluster| {
        for (i, newcomer) in counting().iter().enumerate() {
            assert_eq!(outcome_in(kept, newcomer), outcome_in(anew, newcomer), "newcomer {i}");
            assert_eq!(scores(kept, newcomer), scores(anew, newcomer), "newcomer {i}");
        }
    };
    let ask = |kept: &Cluster, on: &[(&str, Arc<PodInfo>)], want: &str| {
        same(kept, &cluster(on));
        assert_eq!(outcome_in(kept, &pod("p", "web", spread("zone"))), want);
    };
    ask(&kept, &on, "n1 n3");
    for (node, pod, want) in
        [("n1", web("a"), "n3"), ("n3", other, "n3"), ("n3", web("b"), "n1 n3"), ("n3", web("c"), "n1")]
    {
        kept.place(pod.clone(), node, true);
        on.push((node, pod));
        ask(&kept, &on, want);
    }
    kept.displace("a");
    on.remove(0);
    ask(&kept, &on, "n1");
    // The same pod, now without the label; and a node that is another.
    let plain = pod("c", "db", json!({}));
    kept.place(plain.clone(), "n3", false);
    on[2] = ("n3", plain);
    ask(&kept, &on, "n1");
    // Those that are there have opinions too.
    for (node, spec) in [("n1", far("web", "zone")), ("n3", near("web", "zone")), ("n2", far("web", "host"))] {
        let neighbour = pod("o", "db", spec);
        kept.place(neighbour.clone(), node, false);
        on.push((node, neighbour));
        same(&kept, &cluster(&on));
        on.pop();
    }
    kept.displace("o");
    ask(&kept, &on, "n1");
    kept.set_node(node("n3", "", ""));
    let mut anew = cluster(&on);
    anew.set_node(node("n3", "", ""));
    same(&kept, &anew);
}

#[test_case(json!({}), "n1 n3"; "a taint keeps away")]
#[test_case(json!({"tolerations": [{"key": "t", "operator": "Exists"}]}), "n1 n2 n3"; "tolerated")]
#[test_case(json!({"nodeSelector": {"zone": "b"}}), "n3"; "selected")]
#[test_case(needs("3", 0), "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu."; "too large")]
#[test_case(needs("1500m", 0), "n3"; "only one has room")]
#[test_case(port(80, ""), "n3"; "a port is in use")]
#[test_case(port(80, "127.0.0.1"), "n3"; "all addresses include this one")]
#[test_case(port(81, ""), "n1 n3"; "another port")]
#[test_case(near("db", "zone"), "n1"; "near")]
#[test_case(near("none", "zone"),
    "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 node(s) didn't match pod affinity rules."; "near nobody")]
#[test_case(near("web", "zone"), "n1 n3"; "the first of its kind may go anywhere")]
#[test_case(far("db", "zone"), "n3"; "far")]
#[test_case(far("db", "host"), "n3"; "far by host")]
#[test_case(spread("zone"), "n1 n3"; "as even as before")]
#[test_case(named(&["n3", "n2", "gone"]), "n3"; "named")]
#[test_case(named(&["n2"]), "0/3 nodes are available: 1 node(s) had untolerated taint(s), \
    2 node(s) didn't satisfy plugin(s) [NodeAffinity]."; "named in vain")]
#[test_case(json!({"containers": [{"name": "c", "restartPolicyRules": [{"action": "Restart"}]}]}), "n1 n3"; "an old feature")]
#[test_case(json!({"containers": [{"name": "c", "restartPolicyRules": [{"action": "RestartAllContainers"}]}]}),
    "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 node(s) didn't match Pod's required features."; "a feature that no node has")]
#[test_case(json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "gpu"}]}),
    "DynamicResources: resourceclaim \"gpu\" not found"; "devices")]
#[test_case(json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}),
    "VolumeRestrictions: persistentvolumeclaim \"data\" not found"; "no such claim")]
fn filters(spec: Value, want: &str) {
    let mut holder = port(80, "");
    holder["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
    assert_eq!(outcome(&[("n1", pod("db", "db", holder))], &pod("p", "web", spec)), want);
}

#[test]
fn an_empty_selector_counts_no_pod() {
    let web = |name: &str| pod(name, "web", json!({}));
    let on = [("n1", web("a")), ("n1", web("b"))];
    let mut even = spread("zone");
    even["topologySpreadConstraints"][0]["labelSelector"] = json!({});
    assert_eq!(outcome(&on, &pod("p", "web", even)), "n1 n3");
}

#[test]
fn skew_and_foreign_anti_affinity_refuse() {
    let web = |name: &str| pod(name, "web", json!({}));
    let on = [("n1", web("a"))];
    assert_eq!(outcome(&on, &pod("p", "web", spread("zone"))), "n3");
    let on = [("n1", pod("a", "db", far("web", "zone")))];
    assert_eq!(outcome(&on, &web("p")), "n3", "who is there may forbid the newcomer");
    let on = [("n1", web("a")), ("n1", web("b")), ("n1", web("c"))];
    assert_eq!(outcome(&on, &web("p")), "n3", "no place for a fourth");
}

#[test]
fn emptier_nodes_win_and_victims_are_few() {
    let on = [
        ("n1", pod("low", "x", needs("1", 1))),
        ("n1", pod("mid", "x", needs("1", 5))),
        ("n3", pod("top", "x", needs("2", 9))),
    ];
    let (cluster, side, none) = (cluster(&on), Side::new(&FakeListers::default()), Nominated::default());
    let name = |at: usize| cluster.nodes()[at].name.to_string();
    let newcomer = pod("p", "web", needs("1", 7));
    let cx = Cycle {
        pod: &newcomer,
        cluster: &cluster,
        side: &side,
        profile: &Profile::default(),
        default_spread: Box::default(),
    };
    let mut checks = Checks::new(&cx).unwrap();
    let no_fit = checks.feasible(&cluster, &none, &mut Answers::default(), &mut 0).unwrap_err();
    let plan = preempt::plan(&cx, &mut checks, &none, &mut Answers::default(), &no_fit).unwrap();
    assert_eq!((name(plan.node), &*plan.victims[0].name, plan.victims.len()), ("n1".into(), "low", 1));
    let again = checks.feasible(&cluster, &none, &mut Answers::default(), &mut 0).unwrap_err();
    assert_eq!(again.message(), no_fit.message(), "pretending leaves no traces");
    let lesser = pod("q", "web", needs("1", 1));
    let cx = Cycle {
        pod: &lesser,
        cluster: &cluster,
        side: &side,
        profile: &Profile::default(),
        default_spread: Box::default(),
    };
    let none_of =
        preempt::plan(&cx, &mut Checks::new(&cx).unwrap(), &none, &mut Answers::default(), &no_fit).unwrap_err();
    assert_eq!(
        none_of.message,
        "0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod."
    );
    let mut half = Cluster::default();
    for n in [node("n1", "a", ""), node("n3", "b", "")] {
        half.set_node(n);
    }
    half.place(pod("e", "x", needs("1", 0)), "n1", false);
    let cx = Cycle {
        pod: &lesser,
        cluster: &half,
        side: &side,
        profile: &Profile::default(),
        default_spread: Box::default(),
    };
    assert_eq!(best(&cx, &[0, 1], &mut Kept::default(), |_| 0), 1);
}

/// Who is there and keeps apart, or whom the newcomer keeps away from, goes where that is enough.
#[test_case(json!({}), far("x", "host"); "the newcomer keeps apart")]
#[test_case(far("web", "host"), json!({}); "the other keeps apart")]
#[test_case(far("web", "zone"), far("x", "zone"); "both do")]
fn victims_make_room_for_anti_affinity(there: Value, newcomer: Value) {
    let important = |mut spec: Value, priority: i32| {
        spec["priority"] = priority.into();
        spec
    };
    let on = [
        ("n1", pod("low", "x", important(there.clone(), 1))),
        ("n3", pod("top", "x", important(there, 9))),
        ("n1", pod("bystander", "y", important(json!({}), 1))),
    ];
    let (cluster, side, none) = (cluster(&on), Side::new(&FakeListers::default()), Nominated::default());
    let (newcomer, profile) = (pod("p", "web", important(newcomer, 7)), Profile::default());
    let cx =
        Cycle { pod: &newcomer, cluster: &cluster, side: &side, profile: &profile, default_spread: Box::default() };
    let mut checks = Checks::new(&cx).unwrap();
    let no_fit = checks.feasible(&cluster, &none, &mut Answers::default(), &mut 0).unwrap_err();
    let plan = preempt::plan(&cx, &mut checks, &none, &mut Answers::default(), &no_fit).unwrap();
    let victims: Vec<&str> = plan.victims.iter().map(|v| &*v.name).collect();
    assert_eq!((&*cluster.nodes()[plan.node].name, victims), ("n1", vec!["low"]));
    let again = checks.feasible(&cluster, &none, &mut Answers::default(), &mut 0).unwrap_err();
    assert_eq!(again.message(), no_fit.message(), "pretending leaves no traces");
}

/// Who leaves the promised node is waited for where a scheduler sent it away; who goes for another reason is not.
#[test_case(json!([{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]),
    "not eligible due to a terminating pod on the nominated node."; "sent away")]
#[test_case(json!([{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]), "low"; "evicted")]
#[test_case(json!([{"type": "DisruptionTarget", "status": "False", "reason": "PreemptionByScheduler"}]), "low"; "not any more")]
#[test_case(json!([]), "low"; "deleted")]
fn victims_are_waited_for(conditions: Value, want: &str) {
    let low = json!({"metadata": {"name": "low", "namespace": "n", "uid": "low", "labels": {"app": "x"},
        "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": needs("2", 1), "status": {"conditions": conditions}});
    let low = PodInfo::new(&Object::from_value(&low, &[])).unwrap();
    let on = [("n1", low), ("n3", pod("top", "x", needs("2", 9)))];
    let (cluster, side, profile) = (cluster(&on), Side::new(&FakeListers::default()), Profile::default());
    let newcomer = pod("p", "web", needs("2", 7));
    let mut nominated = Nominated::default();
    nominated.set(&newcomer, "n1");
    let cx =
        Cycle { pod: &newcomer, cluster: &cluster, side: &side, profile: &profile, default_spread: Box::default() };
    let mut checks = Checks::new(&cx).unwrap();
    let no_fit = checks.feasible(&cluster, &nominated, &mut Answers::default(), &mut 0).unwrap_err();
    let said = match preempt::plan(&cx, &mut checks, &nominated, &mut Answers::default(), &no_fit) {
        Ok(plan) => plan.victims.iter().map(|v| v.name.to_string()).collect(),
        Err(none) => none.message,
    };
    assert_eq!(said, want);
}

/// Budgets mean no pod without labels, whatever they select.
#[test]
fn budgets_do_not_protect_pods_without_labels() {
    let listers = FakeListers::default();
    let selector = json!({"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]});
    let budget = json!({"metadata": {"name": "b", "namespace": "n"}, "spec": {"selector": selector},
        "status": {"disruptionsAllowed": 0}});
    listers.upsert(&crate::client::res::POD_DISRUPTION_BUDGETS, &budget);
    let bare = json!({"metadata": {"name": "bare", "namespace": "n", "uid": "bare"}, "spec": needs("1", 1)});
    let bare = PodInfo::new(&Object::from_value(&bare, &[])).unwrap();
    let on = [("n1", bare), ("n1", pod("other", "x", needs("1", 1))), ("n3", pod("top", "x", needs("2", 9)))];
    let (cluster, side, profile) = (cluster(&on), Side::new(&listers), Profile::default());
    let (newcomer, none) = (pod("p", "web", needs("1", 7)), Nominated::default());
    let cx =
        Cycle { pod: &newcomer, cluster: &cluster, side: &side, profile: &profile, default_spread: Box::default() };
    let mut checks = Checks::new(&cx).unwrap();
    let no_fit = checks.feasible(&cluster, &none, &mut Answers::default(), &mut 0).unwrap_err();
    let plan = preempt::plan(&cx, &mut checks, &none, &mut Answers::default(), &no_fit).unwrap();
    assert_eq!(plan.victims.iter().map(|v| &*v.name).collect::<Vec<_>>(), ["bare"]);
}

#[test]
fn who_sends_nobody_away_keeps_what_it_was_promised() {
    let mut spec = needs("1", 7);
    let said = |spec: &Value| {
        let none = preempt::no_help(&pod("p", "web", spec.clone()), 2);
        (none.message, none.withdraw)
    };
    let nodes = "0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    assert_eq!(said(&spec), (nodes.to_owned(), true));
    spec["preemptionPolicy"] = "Never".into();
    assert_eq!(said(&spec), ("not eligible due to preemptionPolicy=Never.".to_owned(), false));
}

#[test]
fn a_promised_node_counts_for_equals() {
    let (cluster, side) = (cluster(&[]), Side::new(&FakeListers::default()));
    let mut nominated = Nominated::default();
    nominated.set(&pod("first", "x", needs("2", 5)), "n1");
    for (priority, want) in [(5, vec![2]), (6, vec![0, 2])] {
        let newcomer = pod("p", "web", needs("1", priority));
        let cx = Cycle {
            pod: &newcomer,
            cluster: &cluster,
            side: &side,
            profile: &Profile::default(),
            default_spread: Box::default(),
        };
        let found = Checks::new(&cx).unwrap().feasible(&cluster, &nominated, &mut Answers::default(), &mut 0).unwrap();
        assert_eq!(found, want);
    }
}

/// Pods in rows of three that ask for the same, nodes that fill up, change, go and come back.
#[test]
fn scores_that_are_kept_are_those_of_now() {
    let (mut cluster, side, profile) = (Cluster::default(), Side::new(&FakeListers::default()), Profile::default());
    let all = ["a", "b", "c", "d"];
    all.iter().for_each(|name| drop(cluster.set_node(node(name, "z", ""))));
    let mut kept = Kept::default();
    for i in 0..60 {
        let asks = ["100m", "300m", "200m"][i / 3 % 3];
        let pod = pod(&format!("p{i}"), "web", needs(asks, 0));
        let cx = Cycle { pod: &pod, cluster: &cluster, side: &side, profile: &profile, default_spread: Box::default() };
        let some: Vec<usize> = (0..cluster.nodes().len()).filter(|at| at % 3 != i % 4).collect();
        assert_eq!(kept.totals(&cx, &some), Kept::default().totals(&cx, &some), "pod {i}");
        let name = all[i % 4];
        match i % 7 {
            3 => drop(cluster.remove_node(name)),
            5 => drop(cluster.displace(&format!("p{}", i / 2))),
            6 => {
                let mut other = node(name, "z", "");
                other.allocatable.cpu += 100 * i as i64;
                cluster.set_node(other);
            }
            _ => cluster.place(pod.clone(), name, i % 2 == 0),
        }
    }
}

/// Rows of pods that want the same, on nodes that fill up, change, go and come back, and are promised to some of them.
#[test]
fn answers_that_are_kept_are_those_of_now() {
    let (mut cluster, side, profile) = (Cluster::default(), Side::new(&FakeListers::default()), Profile::default());
    let all = ["a", "b", "c", "d", "e"];
    all.iter().for_each(|name| drop(cluster.set_node(node(name, "z", ""))));
    let (mut answers, mut nominated, mut kept) = (Answers::default(), Nominated::default(), 0);
    let describe = |plan: Result<Arc<preempt::Plan>, preempt::NoPlan>| match plan {
        Ok(plan) => (plan.node.to_string(), plan.victims.iter().map(|v| v.uid.to_string()).collect()),
        Err(none) => (none.message, Vec::new()),
    };
    for i in 0..300_usize {
        let pod = pod(&format!("p{i}"), "web", needs(["1", "2"][i / 10 % 2], (i / 20 % 3) as i32));
        if i % 10 == 4 {
            nominated.set(&pod, all[i / 10 % 5]);
        }
        nominated.take_moved().iter().for_each(|node| cluster.promises_changed(node));
        let cx = Cycle { pod: &pod, cluster: &cluster, side: &side, profile: &profile, default_spread: Box::default() };
        let mut checks = Checks::new(&cx).unwrap();
        assert!(checks.look_at_node_alone());
        answers.begin(&cx, &nominated, true);
        kept += usize::from(answers.are_kept());
        let mut ask = |answers: &mut Answers| match checks.feasible(&cluster, &nominated, answers, &mut 0) {
            Ok(found) => (found, String::new(), Default::default()),
            Err(no_fit) => {
                let plan = preempt::plan(&cx, &mut checks, &nominated, answers, &no_fit);
                (Vec::new(), no_fit.message(), describe(plan))
            }
        };
        let (found, now) = (ask(&mut answers), ask(&mut Answers::default()));
        drop(checks);
        assert_eq!(found, now, "pod {i}");
        let name = all[i % 5];
        match i % 11 {
            3 => drop(cluster.remove_node(name)),
            4 | 7 => drop(cluster.set_node(node(name, "z", if i % 2 == 0 { "t" } else { "" }))),
            5 | 6 => drop(cluster.displace(&format!("p{}", i / 2))),
            8 => nominated.remove(&format!("p{}", (i / 10 * 10).saturating_sub(6))),
            _ => match now.0.first() {
                Some(at) => {
                    let name = cluster.nodes()[*at].name.clone();
                    cluster.place(pod.clone(), &name, i % 2 == 0);
                }
                None => now.2.1.iter().for_each(|victim: &String| drop(cluster.displace(victim))),
            },
        }
    }
    assert!(kept > 200, "{kept}");
}

/// Zones come by turns, in whatever order their nodes came.
#[test]
fn a_part_of_many_nodes_is_of_all_zones() {
    let mut cluster = Cluster::default();
    for i in 0..200 {
        let zone = if i < 100 { "a" } else { "b" };
        let mut node = node(&format!("{zone}{i}"), zone, "");
        let labels: Labels = [("topology.kubernetes.io/zone".into(), zone.into())].into();
        node.labels = labels.into();
        cluster.set_node(node);
    }
    let found = outcome_in(&cluster, &pod("p", "web", json!({})));
    let of = |zone: &str| found.split(' ').filter(|name| name.starts_with(zone)).count();
    assert_eq!([of("a"), of("b")], [50, 50]);
}

/// Of nodes that are named only a part is enough too, where they are many.
#[test]
fn of_named_nodes_enough_are_found() {
    let mut cluster = Cluster::default();
    let names: Vec<String> = (0..1000).map(|i| format!("n{i}")).collect();
    names.iter().for_each(|name| drop(cluster.set_node(node(name, "a", ""))));
    for (named_, want) in [(240, 117), (90, 90), (150, 100)] {
        let some: Vec<&str> = names.iter().take(named_).map(String::as_str).collect();
        assert_eq!(outcome_in(&cluster, &pod("p", "web", named(&some))).split(' ').count(), want, "{named_}");
    }
}

/// What the scheduler prefers adds to what the pod prefers.
#[test]
fn preferred_terms_of_both_add_up() {
    let terms = |all: &[(i64, &str)]| {
        let term = |(weight, zone): &(i64, &str)| json!({"weight": weight, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}});
        json!({PREFERRED: all.iter().map(term).collect::<Vec<_>>()})
    };
    let (cluster, side, mut profile) = (cluster(&[]), Side::new(&FakeListers::default()), Profile::default());
    profile.args.added_preferred = preferred(&terms(&[(1, "a"), (2, "b")]));
    let own = pod("p", "web", json!({"affinity": {"nodeAffinity": terms(&[(3, "a")])}}));
    for (pod, want) in [(own, vec![100, 100, 50]), (pod("q", "web", json!({})), vec![50, 50, 100])] {
        let cx = Cycle { pod: &pod, cluster: &cluster, side: &side, profile: &profile, default_spread: Box::default() };
        let nodes: Vec<&NodeInfo> = cluster.nodes().iter().collect();
        let row = profile.rows.iter().find(|row| row.plugin.name() == "NodeAffinity").unwrap();
        assert_eq!(row.plugin.score(&cx, &nodes), Some(want));
    }
}

/// The selector has what `matchLabelKeys` stood for when the pod was created.
#[test]
fn label_keys_of_affinity_are_not_applied_again() {
    let mut spec = far("db", "host");
    let term = &mut spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
    term["matchLabelKeys"] = json!(["app"]);
    assert_eq!(outcome(&[("n1", pod("a", "db", json!({})))], &pod("p", "web", spec)), "n3");
}

/// What a pod is assumed to be is what the API makes of it, or each binding would count as a change.
#[test]
fn a_pod_gets_zone_and_region_of_its_node() {
    let labels = |all: &[(&str, &str)]| all.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<Labels>();
    let zone = "topology.kubernetes.io/zone";
    let mut near = node("near", "a", "");
    near.labels = labels(&[("other", "x"), (zone, "z")]).into();
    let web = pod("p", "web", json!({}));
    let there = web.on(&near.labels).unwrap();
    assert_eq!(there.labels, labels(&[("app", "web"), (zone, "z")]));
    assert!(there.on(&near.labels).is_none() && web.on(&[]).is_none());
    let mut cluster = Cluster::default();
    cluster.set_node(near);
    cluster.place(there, "near", true);
    assert!(!cluster.confirm("p", "near", &web.labels));
    assert!(!cluster.confirm("p", "elsewhere", &labels(&[("app", "web"), (zone, "z")])));
    assert!(cluster.is_assumed("p") && cluster.confirm("p", "near", &labels(&[("app", "web"), (zone, "z")])));
    assert!(!cluster.is_assumed("p"));
}
