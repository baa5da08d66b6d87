//! Which nodes' addresses a Service of type LoadBalancer has. No IO.
//!
//! Rules: k3s' `servicelb`, with nodes in place of its pods: a port of a node is one Service's, the eldest's that wants it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::api::object::Object;
use crate::api::value::ValueExt;
use crate::controllers::common::conditions;
use crate::util::families::Family;

/// Nodes with it serve alone, when there are any. k3s' name.
const ENABLE: &str = "svccontroller.k3s.cattle.io/enablelb";
/// Nodes with it serve none.
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// A protocol and a port.
pub type Port = (String, i64);

/// A Service that wants addresses of nodes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Wish {
    /// When it was made; elder ones go first.
    pub created: String,
    /// Namespace and name.
    pub name: (String, String),
    /// What it wants of each node.
    pub ports: BTreeSet<Port>,
    /// The families of its addresses.
    pub families: BTreeSet<Family>,
    /// The only nodes it may have: those with a pod that is ready, when its traffic has to stay on the node that it came to.
    pub only: Option<BTreeSet<String>>,
}

impl Wish {
    /// Of a Service that wants nodes' addresses, and not those of somebody who is named. The nodes of a local one are the
    /// caller's to add.
    pub fn new(object: &Object) -> Option<Self> {
        let service = object.value();
        let others = service.str_at("/spec/loadBalancerClass").is_some_and(|c| !c.is_empty());
        if object.is_deleting() || service.str_at("/spec/type") != Some("LoadBalancer") || others {
            return None;
        }
        let port = |p: &Value| Some((p.str_at("/protocol").unwrap_or("TCP").to_owned(), p.int_at("/port")?));
        Some(Self {
            created: object.meta.created.clone(),
            name: (object.meta.namespace.clone(), object.meta.name.clone()),
            ports: service.items_at("/spec/ports").iter().filter_map(port).collect(),
            families: service.items_at("/spec/ipFamilies").iter().filter_map(|f| Family::named(f.as_str()?)).collect(),
            only: (service.str_at("/spec/externalTrafficPolicy") == Some("Local")).then(BTreeSet::new),
        })
    }

    fn may_have(&self, place: &Place) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&place.name))
    }
}

/// A node that may serve.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// Those that others know it by; its own where there are none.
    pub addresses: Vec<String>,
    /// It was chosen by a label.
    pub chosen: bool,
}

impl Place {
    /// Of a node that is ready and not left out.
    pub fn new(node: &Value) -> Option<Self> {
        let labels = node.pointer("/metadata/labels");
        let label = |name: &str| labels.and_then(|l| l.get(name)).and_then(Value::as_str);
        let ready = conditions::is_true(node.items_at("/status/conditions"), "Ready");
        if !ready || label(EXCLUDE).is_some() || label(ENABLE).is_some_and(|v| v != "true") {
            return None;
        }
        let of = |kind: &str| -> Vec<String> {
            let all = node.items_at("/status/addresses").iter().filter(|a| a.str_at("/type") == Some(kind));
            all.filter_map(|a| a.str_at("/address").map(str::to_owned)).collect()
        };
        let outside = of("ExternalIP");
        Some(Self {
            name: node.str_at("/metadata/name").unwrap_or_default().to_owned(),
            addresses: if outside.is_empty() { of("InternalIP") } else { outside },
            chosen: label(ENABLE).is_some(),
        })
    }
}

/// The addresses of `me`, in order. `elder` are the wishes that go first; the ports of `reserved` are the nodes' own.
pub fn addresses(me: &Wish, elder: &[Wish], places: &[Place], reserved: &[Port]) -> Vec<String> {
    if reserved.iter().any(|p| me.ports.contains(p)) {
        return Vec::new();
    }
    let some_chosen = places.iter().any(|p| p.chosen);
    let is_taken = |place: &Place| elder.iter().any(|e| e.may_have(place) && !e.ports.is_disjoint(&me.ports));
    let mine = places.iter().filter(|p| p.chosen || !some_chosen).filter(|p| me.may_have(p) && !is_taken(p));
    let mut all: Vec<String> =
        mine.flat_map(|p| &p.addresses).filter(|ip| me.families.contains(&Family::of_text(ip))).cloned().collect();
    all.sort_unstable_by(|a, b| (Family::of_text(a), a).cmp(&(Family::of_text(b), b)));
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn wish(ports: &[i64], only: Option<&[&str]>) -> Wish {
        Wish {
            ports: ports.iter().map(|p| ("TCP".to_owned(), *p)).collect(),
            families: BTreeSet::from([Family::V4]),
            only: only.map(|o| o.iter().map(|n| (*n).to_owned()).collect()),
            ..Wish::default()
        }
    }

    fn places(names: &[&str]) -> Vec<Place> {
        let one = |n: &&str| Place {
            name: n[..1].to_owned(),
            addresses: vec![format!("10.0.0.{}", n.as_bytes()[0] - b'a' + 1), "fd00::1".into()],
            chosen: n.ends_with('!'),
        };
        names.iter().map(one).collect()
    }

    #[test_case(wish(&[80], None), &[], &["b", "a"], &["10.0.0.1", "10.0.0.2"]; "all nodes, of its family")]
    #[test_case(wish(&[80], None), &[], &["a", "b!"], &["10.0.0.2"]; "or those that were chosen")]
    #[test_case(wish(&[80], Some(&["a"])), &[], &["a", "b"], &["10.0.0.1"]; "or those with its pods")]
    #[test_case(wish(&[80, 443], None), &[wish(&[443], None)], &["a", "b"], &[]; "an elder one has a port")]
    #[test_case(wish(&[80], None), &[wish(&[80], Some(&["a"]))], &["a", "b"], &["10.0.0.2"]; "on one node only")]
    #[test_case(wish(&[80], None), &[wish(&[81], None)], &["a"], &["10.0.0.1"]; "another port is another's")]
    #[test_case(wish(&[6443], None), &[], &["a"], &[]; "the node's own")]
    fn nodes_are_given(me: Wish, elder: &[Wish], nodes: &[&str], want: &[&str]) {
        assert_eq!(addresses(&me, elder, &places(nodes), &[("TCP".to_owned(), 6443)]), want);
    }

    #[test_case(&[Family::V4, Family::V6], &["10.0.0.1", "10.0.0.2", "fd00::1"]; "of both families, the first one first")]
    #[test_case(&[Family::V6], &["fd00::1"]; "of the other one")]
    fn addresses_are_of_its_families(families: &[Family], want: &[&str]) {
        let me = Wish { families: families.iter().copied().collect(), ..wish(&[80], None) };
        assert_eq!(addresses(&me, &[], &places(&["b", "a"]), &[]), want);
    }

    #[test_case(json!({}), Some("192.0.2.1"))]
    #[test_case(json!({"status": {"addresses": [{"type": "InternalIP", "address": "a"}, {"type": "ExternalIP", "address": "b"}]}}), Some("b"))]
    #[test_case(json!({"status": {"conditions": []}}), None; "not ready")]
    #[test_case(json!({"metadata": {"labels": {EXCLUDE: ""}}}), None; "left out")]
    #[test_case(json!({"metadata": {"labels": {ENABLE: "false"}}}), None; "switched off")]
    fn nodes_that_serve(more: Value, want: Option<&str>) {
        let mut node = json!({"metadata": {"name": "a"}, "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "a"}]}});
        json_patch::merge(&mut node, &more);
        assert_eq!(Place::new(&node).map(|p| p.addresses.join(" ")).as_deref(), want);
    }
}
