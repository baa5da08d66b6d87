//! What of the listers is kept: of the pods of a node all that they need to start, of the cluster what the network is made of.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Tokens;
use super::file::Body;
use crate::api::value::ValueExt;
use crate::runtime::lister::{Delta, Listers};
use crate::runtime::references::references;

/// A kind as listers name it.
pub type Kind = (&'static str, &'static str);

const NODES: Kind = ("", "nodes");
const NAMESPACES: Kind = ("", "namespaces");
const SERVICES: Kind = ("", "services");
const SLICES: Kind = ("discovery.k8s.io", "endpointslices");
const CONFIG_MAPS: Kind = ("", "configmaps");
const SECRETS: Kind = ("", "secrets");
const PODS: Kind = ("", "pods");

/// One of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The node's pods, what they name, their tokens, and the node itself.
    Pods,
    /// What Service rules, DNS and the overlay are made of.
    Network,
}

impl Part {
    /// The file's name below `<data-dir>/agent`.
    pub fn file(self) -> &'static str {
        match self {
            Self::Pods => "last-known",
            Self::Network => "last-known-network",
        }
    }

    /// What it is made of; changes of these are followed.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Pods => &[NODES, SERVICES, CONFIG_MAPS, SECRETS, PODS],
            Self::Network => &[NODES, NAMESPACES, SERVICES, SLICES],
        }
    }

    /// Whether all is known that the file has to say.
    pub fn is_known(self, listers: &dyn Listers) -> bool {
        let synced = |(group, plural): &Kind| listers.lister(group, plural).synced();
        match self {
            Self::Pods => synced(&PODS),
            Self::Network => self.kinds().iter().all(synced),
        }
    }

    /// Whether a change may change the file. Most changes of Nodes are signs of life.
    pub fn is_changed_by(delta: &Delta) -> bool {
        match delta {
            Delta::Upsert { old: Some(old), new } if &*new.gvk.kind == "Node" => {
                without_beats(&old.value()) != without_beats(&new.value())
            }
            _ => true,
        }
    }

    /// What the file has to say.
    pub fn gather(self, node: &str, listers: &dyn Listers, tokens: &Tokens) -> Body {
        match self {
            Self::Pods => pods(node, listers, tokens),
            Self::Network => network(node, listers),
        }
    }
}

/// What of the listers a node needs to start its pods.
fn pods(node: &str, listers: &dyn Listers, tokens: &Tokens) -> Body {
    let of = |(group, plural): Kind| listers.lister(group, plural);
    let mut body = Body::new(node);
    if let Some(own) = of(NODES).get("", node) {
        body.object(NODES.1, &without_beats(&own.value()));
    }
    let pods: Vec<Value> = of(PODS).by_index("spec.nodeName", node).iter().map(|o| essence(&o.value())).collect();
    let alive = |pod: &&Value| !matches!(pod.str_at("/status/phase"), Some("Succeeded" | "Failed"));
    let pods: Vec<&Value> = pods.iter().filter(alive).collect();
    let mut spaces: BTreeSet<&str> = pods.iter().filter_map(|p| p.str_at("/metadata/namespace")).collect();
    // Where the Service `kubernetes` is, which every pod's environment has.
    spaces.insert("default");
    let services = of(SERVICES);
    for service in spaces.iter().flat_map(|ns| services.list(Some(ns))) {
        body.object(SERVICES.1, &essence(&service.value()));
    }
    let named: BTreeSet<_> = pods.iter().flat_map(|pod| references(pod)).collect();
    for kind in [CONFIG_MAPS, SECRETS] {
        let lister = of(kind);
        let those = named.iter().filter(|r| r.plural == kind.1);
        for object in those.filter_map(|r| lister.get(&r.namespace, &r.name)) {
            body.object(kind.1, &essence(&object.value()));
        }
    }
    let uids = pods.iter().filter_map(|p| p.str_at("/metadata/uid").map(str::to_owned)).collect();
    for (key, token) in tokens.of(&uids) {
        body.token(&key, &token);
    }
    pods.iter().for_each(|pod| body.object(PODS.1, pod));
    body
}

/// What of the listers the network of a node is made of.
fn network(node: &str, listers: &dyn Listers) -> Body {
    let mut body = Body::new(node);
    for &(group, plural) in Part::Network.kinds() {
        for object in listers.lister(group, plural).list(None) {
            let value = object.value();
            match (group, plural) {
                // The other file has it.
                NODES if object.meta.name == node => {}
                NODES => body.object(plural, &place(&value)),
                _ => body.object(plural, &essence(&value)),
            }
        }
    }
    body
}

/// An object without its history of writers, which is half of it.
fn essence(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(meta) = object.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    object
}

/// The Node without what changes with every sign of life.
fn without_beats(node: &Value) -> Value {
    let mut node = essence(node);
    node["status"] = json!({"addresses": node["status"]["addresses"], "capacity": node["status"]["capacity"],
        "allocatable": node["status"]["allocatable"], "nodeInfo": node["status"]["nodeInfo"]});
    if let Some(meta) = node.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        meta.remove("resourceVersion");
    }
    node
}

/// Of another node, where it is.
fn place(node: &Value) -> Value {
    let meta = &node["metadata"];
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": meta["name"], "uid": meta["uid"], "creationTimestamp": meta["creationTimestamp"],
            "labels": meta["labels"]},
        "spec": node["spec"], "status": {"addresses": node["status"]["addresses"]}})
}

#[cfg(test)]
mod tests {
    use super::super::file::{Known, read, write};
    use super::*;
    use crate::client::{Res, res};
    use crate::runtime::fake::FakeListers;
    use std::sync::Arc;

    fn resource((group, plural): Kind) -> &'static Res {
        res::ALL.iter().find(|r| r.group == group && r.plural == plural).unwrap()
    }

    pub fn cluster() -> Arc<FakeListers> {
        let cluster = Arc::new(FakeListers::default());
        let meta = |name: &str, ns: &str| {
            json!({"name": name, "namespace": ns, "uid": format!("{name}-uid"), "creationTimestamp": "2026-01-01T00:00:00Z",
            "resourceVersion": "7", "managedFields": [{"manager": "m"}]})
        };
        let volume = json!([{"name": "v", "secret": {"secretName": "s"}}]);
        let pod = |name: &str, node: &str, phase: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta(name, "d"),
            "spec": {"nodeName": node, "volumes": volume}, "status": {"phase": phase}})
        };
        let node = |name: &str, range: &str| {
            json!({"apiVersion": "v1", "kind": "Node", "metadata": meta(name, ""), "spec": {"podCIDR": range},
            "status": {"conditions": [{}], "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}})
        };
        for (kind, object) in [
            (PODS, pod("mine", "n", "Running")),
            (PODS, pod("done", "n", "Succeeded")),
            (PODS, pod("other", "m", "Running")),
            (SECRETS, json!({"metadata": meta("s", "d"), "data": {"k": "dg=="}})),
            (SECRETS, json!({"metadata": meta("unused", "d")})),
            (SERVICES, json!({"metadata": meta("kubernetes", "default")})),
            (SERVICES, json!({"metadata": meta("far", "elsewhere")})),
            (SLICES, json!({"metadata": meta("far-1", "elsewhere")})),
            (NAMESPACES, json!({"metadata": meta("elsewhere", "")})),
            (NODES, node("n", "10.42.1.0/24")),
            (NODES, node("m", "10.42.2.0/24")),
        ] {
            cluster.upsert(resource(kind), &object);
        }
        for part in [Part::Pods, Part::Network] {
            // Each lister is there, and synced.
            assert!(part.kinds().iter().all(|(group, plural)| cluster.lister(group, plural).synced()));
        }
        cluster
    }

    async fn kept(part: Part, tokens: &Tokens) -> (String, Known) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(part.file());
        write(path.clone(), part.gather("n", &*cluster(), tokens)).await.unwrap();
        (std::fs::read_to_string(&path).unwrap(), read(&path, "n").unwrap())
    }

    fn names(part: Part, known: &Known) -> String {
        let of = |kind: &Kind| known.of(kind.1, &[]).iter().map(|o| o.meta.name.clone()).collect::<Vec<_>>().join(",");
        part.kinds().iter().map(of).collect::<Vec<_>>().join(" ")
    }

    #[tokio::test]
    async fn what_the_nodes_pods_need_is_kept_and_no_more() {
        let tokens = Tokens::new(Default::default());
        tokens.put("a".into(), "mine-uid".into(), json!({"status": {"token": "t"}}));
        tokens.put("b".into(), "gone-uid".into(), json!({}));
        let (text, known) = kept(Part::Pods, &tokens).await;
        assert_eq!(names(Part::Pods, &known), "n kubernetes  s mine");
        assert_eq!(known.tokens.keys().collect::<Vec<_>>(), ["a"]);
        assert!(!text.contains("managedFields"));
    }

    #[tokio::test]
    async fn the_network_is_kept_and_no_secret_with_it() {
        let tokens = Tokens::new(Default::default());
        tokens.put("a".into(), "mine-uid".into(), json!({"status": {"token": "t"}}));
        let (text, known) = kept(Part::Network, &tokens).await;
        assert_eq!(names(Part::Network, &known), "m elsewhere kubernetes,far far-1");
        assert!(known.tokens.is_empty() && !text.contains("conditions") && !text.contains("managedFields"));
        let other = known.of("nodes", &[])[0].value();
        assert_eq!(other.str_at("/spec/podCIDR"), Some("10.42.2.0/24"));
        assert_eq!(other.str_at("/status/addresses/0/address"), Some("192.0.2.1"));
    }

    #[test]
    fn a_sign_of_life_changes_nothing() {
        let node = |revision: &str, beat: &str, address: &str| {
            let value = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "resourceVersion": revision},
                "status": {"conditions": [{"lastHeartbeatTime": beat}], "addresses": [{"address": address}]}});
            Arc::new(crate::api::object::Object::from_value(&value, &[]))
        };
        let change = |new| Part::is_changed_by(&Delta::Upsert { old: Some(node("1", "a", "192.0.2.1")), new });
        assert!(!change(node("2", "b", "192.0.2.1")));
        assert!(change(node("2", "b", "192.0.2.2")));
        assert!(Part::is_changed_by(&Delta::Synced));
    }
}
