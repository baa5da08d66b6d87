//! Admission plugins that flags switch on and off, and those that look at other objects.

use orch::admission::Choice;

use super::*;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const PODS: &str = "/api/v1/namespaces/n/pods";

fn pod(name: &str, more: Value) -> Value {
    let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    for (part, members) in more.as_object().unwrap() {
        pod[part].as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    }
    pod
}

impl Server {
    /// Lets a user do things with kinds of the core and of `apps`.
    async fn grant(&self, user: &str, verbs: &[&str], resources: &[&str]) {
        let rules = json!([{"apiGroups": ["", "apps"], "resources": resources, "verbs": verbs}]);
        self.post(&format!("{RBAC}/clusterroles"), json!({"metadata": {"name": user}, "rules": rules})).await.is(201);
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user});
        let binding =
            json!({"metadata": {"name": user}, "subjects": [{"kind": "User", "name": user}], "roleRef": role});
        self.post(&format!("{RBAC}/clusterrolebindings"), binding).await.is(201);
        let attributes = json!({"verb": verbs[0], "resource": resources[0], "group": "", "namespace": "n"});
        self.until_allowed(json!({"user": user, "resourceAttributes": attributes})).await;
    }
}

#[tokio::test]
async fn who_sets_owners_has_to_be_allowed_to_delete_and_to_finalize() {
    let admission = Choice::of(&["OwnerReferencesPermissionEnforcement".to_owned()], &[]).unwrap();
    let s = Server::with(Setup { admission, ..Setup::default() }).await;
    let everything = ["configmaps"];
    s.grant("writer", &["create", "update"], &everything).await;
    s.grant("deleter", &["create", "update", "delete"], &everything).await;
    s.grant("finalizer", &["create", "update", "delete"], &["configmaps", "deployments/finalizers"]).await;
    let map = |name: &str, api_version: &str, blocks: bool| {
        let owner = json!({"apiVersion": api_version, "kind": "Deployment", "name": "d", "uid": "1", "blockOwnerDeletion": blocks});
        json!({"metadata": {"name": name, "ownerReferences": [owner]}})
    };
    let refused = |got: &Got, why: &str| {
        let told = got.is(403);
        assert!(told["message"].as_str().unwrap().contains(why), "{told}");
    };
    // Who makes an object takes nothing from anybody, unless its owner has to wait for it.
    s.as_user("writer", "POST", MAPS, map("a", "apps/v1", false)).await.is(201);
    let finalizers =
        "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on";
    refused(&s.as_user("writer", "POST", MAPS, map("b", "apps/v1", true)).await, finalizers);
    s.as_user("finalizer", "POST", MAPS, map("b", "apps/v1", true)).await.is(201);
    let unknown = "cannot find RESTMapping for APIVersion none.io/v1 Kind Deployment";
    refused(&s.as_user("finalizer", "POST", MAPS, map("c", "none.io/v1", true)).await, unknown);
    // A change of owners.
    s.config_map("m", json!({})).await.is(201);
    let change = async |user: &str, blocks: bool| {
        s.as_user(user, "PUT", &format!("{MAPS}/m"), map("m", "apps/v1", blocks)).await
    };
    refused(&change("writer", false).await, "cannot set an ownerRef on a resource you can't delete");
    change("deleter", false).await.is(200);
    change("writer", false).await.is(200);
    refused(&change("deleter", true).await, finalizers);
    change("finalizer", true).await.is(200);
    // Unless it is switched on, nobody is asked.
    let s = Server::new().await;
    s.grant("writer", &["create"], &everything).await;
    s.as_user("writer", "POST", MAPS, map("b", "apps/v1", true)).await.is(201);
}

#[tokio::test]
async fn plugins_are_switched_off() {
    let admission = Choice::of(&[], &["PodTopologyLabels".to_owned(), "ResourceQuota".to_owned()]).unwrap();
    let s = Server::with(Setup { admission, ..Setup::default() }).await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "0"}}});
    s.post("/api/v1/namespaces/n/resourcequotas", quota).await.is(201);
    s.config_map("m", json!({})).await.is(201);
}

#[tokio::test]
async fn a_pod_has_zone_and_region_of_its_node() {
    let s = Server::new().await;
    let labels = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "other": "x"});
    s.post("/api/v1/nodes", json!({"metadata": {"name": "near", "labels": labels}})).await.is(201);
    s.post("/api/v1/nodes", json!({"metadata": {"name": "bare"}})).await.is(201);
    let bind = async |pod: &str, node: &str| {
        let binding = json!({"metadata": {"name": pod}, "target": {"kind": "Node", "name": node}});
        s.post(&format!("{PODS}/{pod}/binding"), binding).await.is(201);
        s.get(&format!("{PODS}/{pod}")).await.is(200)["metadata"]["labels"].clone()
    };
    s.post(PODS, pod("a", json!({"metadata": {"labels": {"app": "a", "topology.kubernetes.io/zone": "own"}}})))
        .await
        .is(201);
    let want = json!({"app": "a", "topology.kubernetes.io/zone": "own", "topology.kubernetes.io/region": "r"});
    assert_eq!(bind("a", "near").await, want);
    for (name, node) in [("b", "bare"), ("c", "nowhere")] {
        s.post(PODS, pod(name, json!({}))).await.is(201);
        assert_eq!(bind(name, node).await, Value::Null);
    }
    let placed = s.post(PODS, pod("d", json!({"spec": {"nodeName": "near"}}))).await.is(201);
    let want = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r"});
    assert_eq!(placed["metadata"]["labels"], want);
}
