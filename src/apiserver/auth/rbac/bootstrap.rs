//! The roles and bindings every cluster starts with, and how they are kept: what is missing is added, what people added
//! stays, and `rbac.authorization.kubernetes.io/autoupdate: "false"` keeps an object from being touched.
//!
//! The policy itself is the table `bootstrap.txt`. Rules: upstream `rbac/bootstrappolicy` and `rbac/reconciliation`.

use serde_json::{Map, Value, json};

use super::GROUP;
use super::rules::{Rule, missing};
use crate::api::value::ValueExt;

const TABLE: &str = include_str!("bootstrap.txt");
/// orch's own: what a node needs to join, and to be a whole node with one identity.
const OWN: &str = include_str!("own.txt");
/// Beginning of the names in it.
const OWN_PREFIX: &str = "orch:";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const CONTROLLER: &str = "system:controller:";

/// Everything a cluster starts with, as whole objects without server-made metadata: ClusterRoles, Roles, bindings.
pub fn objects() -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    let mut controllers = Vec::new();
    for line in TABLE.lines().chain(OWN.lines()).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(rule) = line.strip_prefix("  ") {
            let role = out.last_mut().expect("the table begins with a role");
            role["rules"].as_array_mut().expect("made with the role").push(rule_of(rule));
            continue;
        }
        let (head, subjects) = line.split_once(" :").unwrap_or((line, ""));
        let words: Vec<&str> = head.split(' ').collect();
        match words[..] {
            ["clusterrole", name, ref options @ ..] => {
                if let Some(account) = name.strip_prefix(CONTROLLER) {
                    controllers.push(binding("", name, "ClusterRole", name, &format!("s:kube-system/{account}")));
                }
                out.push(cluster_role(name, options));
            }
            ["role", namespace, name] => {
                out.push(object("Role", namespace, name));
                out.last_mut().expect("just pushed")["rules"] = json!([]);
            }
            ["clusterbinding", name] => out.push(binding("", name, "ClusterRole", name, subjects)),
            ["clusterbinding", name, role] => out.push(binding("", name, "ClusterRole", role, subjects)),
            ["binding", namespace, name, role] => out.push(binding(namespace, name, "Role", role, subjects)),
            _ => unreachable!("a test reads the whole table: {line}"),
        }
    }
    out.extend(controllers);
    out
}

/// The rules of one bootstrap ClusterRole, compiled.
pub fn cluster_role_rules(name: &str) -> Box<[Rule]> {
    let found = objects().into_iter().find(|o| o["kind"] == "ClusterRole" && o["metadata"]["name"] == name);
    found.map(|o| Rule::list(&o)).unwrap_or_default()
}

fn object(kind: &str, namespace: &str, name: &str) -> Value {
    let mut metadata = Map::new();
    metadata.insert("name".into(), name.into());
    if !namespace.is_empty() {
        metadata.insert("namespace".into(), namespace.into());
    }
    // Who asks for upstream's by this label gets upstream's.
    if !name.starts_with(OWN_PREFIX) {
        metadata.insert("labels".into(), json!({"kubernetes.io/bootstrapping": "rbac-defaults"}));
    }
    metadata.insert("annotations".into(), json!({AUTOUPDATE: "true"}));
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata})
}

fn cluster_role(name: &str, options: &[&str]) -> Value {
    let mut role = object("ClusterRole", "", name);
    role["rules"] = json!([]);
    let label = |to: &str| format!("rbac.authorization.k8s.io/aggregate-to-{to}");
    for option in options.chunks_exact(2) {
        match option {
            ["aggregates", to] => {
                role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label(to): "true"}}]});
            }
            [_, to] => role["metadata"]["labels"][label(to)] = "true".into(),
            _ => unreachable!("chunks of two"),
        }
    }
    role
}

fn rule_of(line: &str) -> Value {
    let words: Vec<&str> = line.split(' ').collect();
    let list = |text: &str| -> Vec<String> {
        text.split(',').map(|t| if t == "core" { String::new() } else { t.to_owned() }).collect()
    };
    match words[..] {
        [verbs, "url", urls] => json!({"verbs": list(verbs), "nonResourceURLs": list(urls)}),
        [verbs, groups, resources] => {
            json!({"verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources)})
        }
        [verbs, groups, resources, names] => json!({"verbs": list(verbs), "apiGroups": list(groups),
            "resources": list(resources), "resourceNames": list(names)}),
        _ => unreachable!("a test reads the whole table: {line}"),
    }
}

fn binding(namespace: &str, name: &str, role_kind: &str, role: &str, subjects: &str) -> Value {
    let mut out = object(if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" }, namespace, name);
    let subject = |word: &str| match word.split_at(2) {
        ("s:", account) => {
            let (namespace, name) = account.split_once('/').expect("a test reads the whole table");
            json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
        }
        (kind, name) => {
            json!({"apiGroup": GROUP, "kind": if kind == "g:" { "Group" } else { "User" }, "name": name})
        }
    };
    let subjects: Vec<Value> = subjects.split_whitespace().map(subject).collect();
    if !subjects.is_empty() {
        out["subjects"] = subjects.into();
    }
    out["roleRef"] = json!({"apiGroup": GROUP, "kind": role_kind, "name": role});
    out
}

/// What has to be done so that an object is what the bootstrap policy wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Reconcile {
    /// Nothing.
    Nothing,
    /// Create it.
    Create(Value),
    /// Replace it with this.
    Update(Value),
    /// Delete it and create this: what a binding refers to cannot be changed.
    Recreate(Value),
}

/// Compares an existing object with the wanted one. Pure.
pub fn reconcile(existing: Option<&Value>, wanted: &Value) -> Reconcile {
    let Some(existing) = existing else { return Reconcile::Create(wanted.clone()) };
    if existing["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return Reconcile::Nothing;
    }
    if wanted.get("roleRef").is_some() && !same_role(existing, wanted) {
        return Reconcile::Recreate(wanted.clone());
    }
    let mut updated = existing.clone();
    for field in ["labels", "annotations"] {
        let own = wanted["metadata"][field].as_object().into_iter().flatten();
        for (key, value) in own {
            if existing["metadata"][field].get(key).is_none() {
                updated
                    .set_at(&format!("/metadata/{field}/{}", key.replace('~', "~0").replace('/', "~1")), value.clone());
            }
        }
    }
    if let Some(aggregation) = wanted.get("aggregationRule") {
        // The rules of an aggregated role are the aggregation controller's.
        add_missing(
            &mut updated,
            "/aggregationRule/clusterRoleSelectors",
            aggregation.items_at("/clusterRoleSelectors"),
        );
    } else if wanted.get("rules").is_some() {
        let lacking = missing(&Rule::list(existing), &Rule::list(wanted));
        let lacking: Vec<Value> = lacking.iter().map(Rule::to_value).collect();
        add_missing(&mut updated, "/rules", &lacking);
    }
    add_missing(&mut updated, "/subjects", wanted.items_at("/subjects"));
    if updated == *existing { Reconcile::Nothing } else { Reconcile::Update(updated) }
}

fn same_role(a: &Value, b: &Value) -> bool {
    ["/roleRef/kind", "/roleRef/name"].iter().all(|p| a.str_at(p) == b.str_at(p))
}

fn add_missing(object: &mut Value, path: &str, wanted: &[Value]) {
    let mut all = object.items_at(path).to_vec();
    let before = all.len();
    for value in wanted {
        if !all.contains(value) {
            all.push(value.clone());
        }
    }
    if all.len() > before {
        object.set_at(path, all);
    }
}
