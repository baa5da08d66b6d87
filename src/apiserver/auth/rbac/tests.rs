use serde_json::json;
use test_case::test_case;

use super::bootstrap::{self, Reconcile, reconcile};
use super::escalation;
use super::*;

fn object(kind: &str, namespace: &str, name: &str, rest: Value) -> Object {
    let mut v = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
        "metadata": {"name": name, "namespace": namespace}});
    for (k, x) in rest.as_object().unwrap() {
        v[k] = x.clone();
    }
    Object::from_value(&v, &[])
}

fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Value {
    json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "resourceNames": names})
}

fn ask(verb: &str, what: &str, namespace: &str, name: &str) -> Attributes {
    let mut parts = what.split('/');
    let (group, resource) = (parts.next().unwrap(), parts.next().unwrap());
    Attributes {
        verb: verb.into(),
        group: group.into(),
        resource: resource.into(),
        subresource: parts.next().unwrap_or_default().into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Attributes::default()
    }
}

fn jane() -> UserInfo {
    UserInfo::authenticated("jane", &[])
}

fn bound_to_jane() -> Rbac {
    let rbac = Rbac::default();
    rbac.upsert(&object(
        "Role",
        "a",
        "r",
        json!({"rules": [
            rule(&["get", "list"], &[""], &["configmaps"], &[]),
            rule(&["get"], &[""], &["secrets"], &["one"]),
            rule(&["*"], &["apps"], &["deployments/scale"], &[]),
            rule(&["get"], &["batch"], &["*/status"], &[]),
            rule(&["get"], &["policy"], &["x/*"], &[]),
        ]}),
    ));
    rbac.upsert(&object("RoleBinding", "a", "b", json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [
        {"kind": "User", "name": "jane"}, {"kind": "Group", "name": "devs"}, {"kind": "ServiceAccount", "name": "bot"}]})));
    rbac
}

#[test_case("get", "/configmaps", "a", "x", true)]
#[test_case("get", "/configmaps", "b", "x", false; "another namespace")]
#[test_case("list", "/configmaps", "", "", false; "the whole cluster")]
#[test_case("create", "/configmaps", "a", "", false; "another verb")]
#[test_case("get", "apps/configmaps", "a", "x", false; "another group")]
#[test_case("get", "/configmaps/status", "a", "x", false; "a subresource is another resource")]
#[test_case("get", "/secrets", "a", "one", true; "a named one")]
#[test_case("get", "/secrets", "a", "two", false; "not the other")]
#[test_case("get", "/secrets", "a", "", false; "a name is wanted")]
#[test_case("patch", "apps/deployments/scale", "a", "d", true; "every verb on the subresource")]
#[test_case("get", "apps/deployments", "a", "d", false; "but not its parent")]
#[test_case("get", "batch/jobs/status", "a", "j", true; "status of everything")]
#[test_case("get", "batch/jobs", "a", "j", false; "status of everything is not everything")]
#[test_case("get", "policy/x/y", "a", "j", false; "subresources have no wildcard")]
fn decides(verb: &str, what: &str, namespace: &str, name: &str, allowed: bool) {
    let rbac = bound_to_jane();
    let a = ask(verb, what, namespace, name);
    assert_eq!(rbac.authorize(&a, &jane()) == Decision::Allow, allowed);
    assert_eq!(rbac.authorize(&a, &UserInfo::authenticated("x", &["devs"])) == Decision::Allow, allowed);
    let bot = UserInfo::authenticated("system:serviceaccount:a:bot", &[]);
    assert_eq!(rbac.authorize(&a, &bot) == Decision::Allow, allowed);
    assert_ne!(rbac.authorize(&a, &UserInfo::authenticated("joe", &[])), Decision::Allow);
    assert_eq!(rbac.authorize(&a, &UserInfo::authenticated("root", &["system:masters"])), Decision::Allow);
}

#[test_case("/metrics", true)]
#[test_case("/logs/a/b", true)]
#[test_case("/logs", false)]
#[test_case("/metrics/x", false)]
fn decides_on_paths(path: &str, allowed: bool) {
    let rbac = Rbac::default();
    rbac.upsert(&object(
        "ClusterRole",
        "",
        "r",
        json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/metrics", "/logs/*"]}]}),
    ));
    rbac.upsert(&object(
        "ClusterRoleBinding",
        "",
        "b",
        json!({"roleRef": {"kind": "ClusterRole", "name": "r"},
        "subjects": [{"kind": "User", "name": "jane"}]}),
    ));
    let a = |verb: &str| Attributes { verb: verb.into(), path: path.into(), ..Attributes::default() };
    assert_eq!(rbac.authorize(&a("get"), &jane()) == Decision::Allow, allowed);
    assert_ne!(rbac.authorize(&a("post"), &jane()), Decision::Allow);
}

#[test]
fn changes_take_effect_at_once_and_leave_nothing_behind() {
    let rbac = bound_to_jane();
    let a = ask("get", "/configmaps", "a", "x");
    let (role, binding) = (object("Role", "a", "r", json!({})), object("RoleBinding", "a", "b", json!({})));
    rbac.remove(&role);
    assert_ne!(rbac.authorize(&a, &jane()), Decision::Allow, "its role is gone");
    rbac.upsert(&object("Role", "a", "r", json!({"rules": [rule(&["get"], &[""], &["configmaps"], &[])]})));
    assert_eq!(rbac.authorize(&a, &jane()), Decision::Allow, "its role is back");
    rbac.upsert(&object(
        "RoleBinding",
        "a",
        "b",
        json!({"roleRef": {"kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "joe"}]}),
    ));
    assert_ne!(rbac.authorize(&a, &jane()), Decision::Allow, "jane is no subject any more");
    rbac.remove(&binding);
    rbac.remove(&role);
    let state = rbac.0.read();
    assert!(state.roles.is_empty() && state.users.is_empty() && state.groups.is_empty() && state.bindings.is_empty());
}

#[test]
fn reasons_are_upstreams() {
    let rbac = bound_to_jane();
    let (decision, reason) = rbac.explain(&ask("get", "/configmaps", "a", "x"), &jane());
    assert_eq!(decision, Decision::Allow);
    assert_eq!(reason, "RBAC: allowed by RoleBinding \"b/a\" of Role \"r\" to User \"jane\"");
    assert_eq!(rbac.explain(&ask("get", "/pods", "a", "x"), &jane()).1, "");
}

#[test_case(&[rule(&["get"], &[""], &["pods"], &[])], "" ; "the same")]
#[test_case(&[rule(&["get", "delete"], &[""], &["pods"], &[])], "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}" ; "a verb more")]
#[test_case(&[rule(&["get"], &[""], &["pods", "secrets"], &[])], "{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}" ; "a resource more")]
#[test_case(&[rule(&["get"], &[""], &["pods"], &["a"])], "" ; "one of all names")]
#[test_case(&[rule(&["get"], &["x"], &["named"], &["a"])], "" ; "the name one has")]
#[test_case(&[rule(&["get"], &["x"], &["named"], &[])], "{APIGroups:[\"x\"], Resources:[\"named\"], Verbs:[\"get\"]}" ; "all names for one")]
#[test_case(&[rule(&["*"], &["*"], &["*"], &[])], "{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}" ; "everything")]
#[test_case(&[rule(&["get"], &["y"], &["a/scale"], &[])], "" ; "scale of everything covers one")]
#[test_case(&[rule(&["get"], &["y"], &["*/scale", "a/log"], &[])], "{APIGroups:[\"y\"], Resources:[\"a/log\"], Verbs:[\"get\"]}" ; "but no other subresource")]
fn nobody_grants_more_than_he_has(wanted: &[Value], lacking: &str) {
    let owner = [
        rule(&["get"], &[""], &["pods"], &[]),
        rule(&["get"], &["x"], &["named"], &["a", "b"]),
        rule(&["get"], &["y"], &["*/scale"], &[]),
    ];
    let compile = |rules: &[Value]| rules.iter().map(Rule::from_value).collect::<Vec<_>>();
    let missing: Vec<String> =
        escalation::covers(&compile(&owner), &compile(wanted)).iter().map(Rule::to_string).collect();
    assert_eq!(missing.join("\n"), lacking);
}

#[test]
fn escalation_reads_as_upstreams_and_bind_lifts_it() {
    let rbac = bound_to_jane();
    rbac.upsert(&object(
        "ClusterRole",
        "",
        "all",
        json!({"rules": [
        rule(&["*"], &["*"], &["*"], &[]), {"verbs": ["*"], "nonResourceURLs": ["*"]}]}),
    ));
    let binding =
        json!({"metadata": {"name": "no", "namespace": "a"}, "roleRef": {"kind": "ClusterRole", "name": "all"}});
    let refused = escalation::check_binding(&rbac, &rbac, &jane(), "rolebindings", &binding).unwrap_err();
    assert_eq!(
        refused.message,
        "rolebindings.rbac.authorization.k8s.io \"no\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) is \
         attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}\n\
         {NonResourceURLs:[\"*\"], Verbs:[\"*\"]}"
    );
    let absent = json!({"metadata": {"name": "no", "namespace": "a"}, "roleRef": {"kind": "Role", "name": "absent"}});
    let unknown = escalation::check_binding(&rbac, &rbac, &jane(), "rolebindings", &absent).unwrap_err();
    assert_eq!(unknown.message, "rolebindings.rbac.authorization.k8s.io \"absent\" not found");
    let role = |resource: &str| json!({"metadata": {"name": "n", "namespace": "a"}, "rules": [rule(&["get"], &[""], &[resource], &[])]});
    escalation::check_role(&rbac, &rbac, &jane(), "roles", &role("configmaps")).unwrap();
    escalation::check_role(&rbac, &rbac, &jane(), "roles", &role("secrets")).unwrap_err();
    rbac.upsert(&object(
        "Role",
        "a",
        "r",
        json!({"rules": [
        rule(&["bind"], &[GROUP], &["clusterroles"], &["all"]), rule(&["escalate"], &[GROUP], &["roles"], &[])]}),
    ));
    escalation::check_binding(&rbac, &rbac, &jane(), "rolebindings", &binding).unwrap();
    escalation::check_role(&rbac, &rbac, &jane(), "roles", &role("secrets")).unwrap();
}

#[test]
fn aggregation_takes_each_rule_once_in_order() {
    let role = |name: &str, resource: &str| {
        object(
            "ClusterRole",
            "",
            name,
            json!({"metadata": {"name": name, "labels": {"to": "x"}},
            "rules": [rule(&["get"], &[""], &[resource], &[])]}),
        )
    };
    let (b, a, c) = (role("b", "pods"), role("a", "nodes"), role("c", "pods"));
    let other = object("ClusterRole", "", "o", json!({"rules": [rule(&["*"], &["*"], &["*"], &[])]}));
    let wanted = json!({"metadata": {"name": "view"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "x"}}]}});
    let rules = escalation::aggregated_rules(&wanted, &[&b, &a, &c, &other]).unwrap();
    assert_eq!(rules, [rule(&["get"], &[""], &["nodes"], &[]), rule(&["get"], &[""], &["pods"], &[])]);
    assert_eq!(escalation::aggregated_rules(&json!({"rules": []}), &[&a]), None);
}

#[test]
fn the_bootstrap_table_is_whole() {
    let all = bootstrap::objects();
    let count = |kind: &str| all.iter().filter(|o| o["kind"] == kind).count();
    assert_eq!(
        (count("ClusterRole"), count("ClusterRoleBinding"), count("Role"), count("RoleBinding")),
        (75, 61, 9, 9)
    );
    let own = |o: &Value| o["metadata"]["name"].as_str().is_some_and(|n| n.starts_with("orch:"));
    let labelled = |o: &Value| o["metadata"]["labels"]["kubernetes.io/bootstrapping"] == "rbac-defaults";
    assert!(all.iter().all(|o| own(o) != labelled(o)), "who asks for upstream's gets upstream's");
    for binding in all.iter().filter(|o| o.get("roleRef").is_some()) {
        let namespace = match binding["roleRef"]["kind"] == "Role" {
            true => &binding["metadata"]["namespace"],
            false => &Value::Null,
        };
        let role = |o: &&Value| {
            o["kind"] == binding["roleRef"]["kind"]
                && o["metadata"]["name"] == binding["roleRef"]["name"]
                && o["metadata"]["namespace"] == *namespace
        };
        assert!(all.iter().any(|o| role(&o)), "{binding}");
    }
}

#[test]
fn the_bootstrap_table_gives_people_what_they_need() {
    let rbac = Rbac::default();
    for o in bootstrap::objects() {
        rbac.upsert(&Object::from_value(&o, &[]));
    }
    let path = |p: &str| Attributes { verb: "get".into(), path: p.into(), ..Attributes::default() };
    assert_eq!(rbac.authorize(&path("/api/v1"), &jane()), Decision::Allow);
    assert_eq!(rbac.authorize(&path("/healthz"), &UserInfo::anonymous()), Decision::Allow);
    assert_ne!(rbac.authorize(&path("/api"), &UserInfo::anonymous()), Decision::Allow);
    let scheduler = UserInfo::authenticated("system:kube-scheduler", &[]);
    assert_eq!(rbac.authorize(&ask("create", "/pods/binding", "a", "p"), &scheduler), Decision::Allow);
    let account = UserInfo::authenticated("system:serviceaccount:kube-system:replicaset-controller", &[]);
    assert_eq!(rbac.authorize(&ask("create", "/pods", "a", ""), &account), Decision::Allow);
    assert_ne!(rbac.authorize(&ask("get", "/secrets", "a", "s"), &account), Decision::Allow);
}

/// With the recorded answers of upstream at hand (`ORCH_ORACLE`: the directory), the table is compared with them.
#[test]
fn the_bootstrap_table_is_upstreams() {
    let Ok(dir) = std::env::var("ORCH_ORACLE") else { return };
    let recorded = std::fs::read_to_string(std::path::Path::new(&dir).join("answers.jsonl")).unwrap();
    let sorted = |v: &Value| -> Value {
        fn go(v: &Value) -> Value {
            match v {
                Value::Array(items) => {
                    let mut items: Vec<Value> = items.iter().map(go).collect();
                    items.sort_by_key(Value::to_string);
                    items.into()
                }
                Value::Object(map) => {
                    let mut entries: Vec<_> = map.iter().map(|(k, v)| (k.clone(), go(v))).collect();
                    entries.sort_by(|a, b| a.0.cmp(&b.0));
                    Value::Object(entries.into_iter().collect())
                }
                other => other.clone(),
            }
        }
        go(v)
    };
    let all = bootstrap::objects();
    let mut compared = 0;
    for line in recorded.lines() {
        let scenario: Value = serde_json::from_str(line).unwrap();
        let kinds: &[&str] = match scenario["name"].as_str().unwrap() {
            "rbac/bootstrap-cluster-roles" => &["ClusterRole"],
            "rbac/bootstrap-bindings" => &["ClusterRoleBinding", "Role", "RoleBinding"],
            _ => continue,
        };
        for (kind, answer) in kinds.iter().zip(scenario["answers"].as_array().unwrap()) {
            for (key, want) in answer["body"].as_object().unwrap() {
                let (namespace, name) = key.split_once('/').unwrap();
                let same = |o: &&Value| {
                    o["kind"] == *kind
                        && o["metadata"]["name"] == name
                        && o.str_at("/metadata/namespace").unwrap_or_default() == namespace
                };
                let ours = all.iter().find(same).unwrap_or_else(|| panic!("{kind} {key} is missing"));
                for (field, value) in want.as_object().unwrap() {
                    assert_eq!(sorted(&ours[field]), sorted(value), "{kind} {key} {field}");
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 150, "{compared} fields compared");
}

#[test]
fn reconciling_adds_what_is_missing_and_keeps_what_people_added() {
    let all = bootstrap::objects();
    let wanted =
        all.iter().find(|o| o["metadata"]["name"] == "system:node-proxier" && o["kind"] == "ClusterRole").unwrap();
    assert_eq!(reconcile(None, wanted), Reconcile::Create(wanted.clone()));
    assert_eq!(reconcile(Some(wanted), wanted), Reconcile::Nothing);
    let mut changed = wanted.clone();
    let removed = changed["rules"].as_array_mut().unwrap().remove(0);
    let added = rule(&["get"], &["own"], &["things"], &[]);
    changed["rules"].as_array_mut().unwrap().push(added.clone());
    let Reconcile::Update(updated) = reconcile(Some(&changed), wanted) else { panic!("nothing to do?") };
    assert!(updated["rules"].as_array().unwrap().contains(&added), "people's rule stays");
    let lacking = escalation::covers(&Rule::list(&updated), &[Rule::from_value(&removed)]);
    assert_eq!(lacking, [], "the removed rule is back");
    changed["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = "false".into();
    assert_eq!(reconcile(Some(&changed), wanted), Reconcile::Nothing);
}

#[test]
fn a_binding_to_another_role_is_made_again() {
    let all = bootstrap::objects();
    let wanted =
        all.iter().find(|o| o["kind"] == "ClusterRoleBinding" && o["metadata"]["name"] == "cluster-admin").unwrap();
    let mut other = wanted.clone();
    other["roleRef"]["name"] = "view".into();
    assert_eq!(reconcile(Some(&other), wanted), Reconcile::Recreate(wanted.clone()));
    let mut more = wanted.clone();
    more["subjects"] = json!([{"kind": "User", "name": "me"}]);
    let Reconcile::Update(updated) = reconcile(Some(&more), wanted) else { panic!("nothing to do?") };
    assert_eq!(updated["subjects"].as_array().unwrap().len(), 2);
}
