//! From a Service and its pods to the legacy Endpoints. No IO.
//!
//! Rules: upstream `pkg/controller/endpoint` and `pkg/api/v1/endpoints`.
//! **Invariant:** no address stands twice for one port.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::plan::{Address, copied_labels};
use crate::api::value::ValueExt;
use crate::util::order::Arrange;

/// Addresses of one Endpoints object; more are cut off, and an annotation says so.
const ENDPOINTS_MAX: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// The Endpoints object of a Service, without its resourceVersion.
pub fn endpoints(service: &Value, addresses: &[Address]) -> Value {
    let family = service.str_at("/spec/ipFamilies/0").unwrap_or("IPv4");
    let mut live: Vec<&Address> =
        addresses.iter().filter(|a| a.family == family && (!a.terminating || a.ready)).collect();
    live.arrange_by(|a, b| (&a.ip, &a.pod.2).cmp(&(&b.ip, &b.pod.2)));
    let mut subsets = subsets(service, &live);
    let cut = truncate(&mut subsets);
    let mut labels = copied_labels(service);
    labels.insert("endpoints.kubernetes.io/managed-by".into(), "endpoint-controller".into());
    let mut metadata = json!({"name": service["metadata"]["name"], "namespace": service["metadata"]["namespace"],
        "labels": labels});
    if cut {
        metadata["annotations"] = json!({OVER_CAPACITY: "truncated"});
    }
    let mut out = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata});
    if !subsets.is_empty() {
        out["subsets"] = subsets.into_iter().map(Subset::into_value).collect();
    }
    out
}

/// Addresses with the ports that all of them have.
struct Subset<'a> {
    ready: Vec<&'a Address>,
    others: Vec<&'a Address>,
    ports: Vec<Value>,
}

impl Subset<'_> {
    fn printed(&self) -> String {
        let addresses = |all: &[&Address]| printed_list(all, |a| printed_address(a));
        format!(
            "(v1.EndpointSubset){{Addresses:([]v1.EndpointAddress){} NotReadyAddresses:([]v1.EndpointAddress){} \
             Ports:([]v1.EndpointPort){}}}",
            addresses(&self.ready),
            addresses(&self.others),
            printed_list(&self.ports, printed_port),
        )
    }

    fn into_value(self) -> Value {
        let mut out = Map::new();
        for (list, addresses) in [("addresses", self.ready), ("notReadyAddresses", self.others)] {
            if !addresses.is_empty() {
                out.insert(list.into(), addresses.into_iter().map(endpoint_address).collect());
            }
        }
        if !self.ports.is_empty() {
            out.insert("ports".into(), self.ports.into());
        }
        out.into()
    }
}

/// Each port with its addresses; then ports that have the same addresses together. Who has none of the ports is nowhere,
/// unless the Service is headless and has no ports at all. Rules: upstream `syncService`, `RepackSubsets` and `SortSubsets`.
fn subsets<'a>(service: &Value, live: &[&'a Address]) -> Vec<Subset<'a>> {
    let mut by_port: Vec<(Value, Vec<usize>)> = Vec::new();
    for (i, a) in live.iter().enumerate() {
        for port in &a.ports {
            match by_port.iter_mut().find(|(p, _)| p == port) {
                Some((_, all)) if all.last() == Some(&i) => {}
                Some((_, all)) => all.push(i),
                None => by_port.push((port.clone(), vec![i])),
            }
        }
    }
    let mut sets: BTreeMap<Vec<usize>, Vec<Value>> = BTreeMap::new();
    for (mut port, all) in by_port {
        // Upstream leaves out an empty port name here, unlike in slices.
        if port["name"] == "" {
            port.remove_at("/name");
        }
        sets.entry(all).or_default().push(port);
    }
    let headless = service.str_at("/spec/clusterIP") == Some("None");
    if headless && service.items_at("/spec/ports").is_empty() && !live.is_empty() {
        sets.insert((0..live.len()).collect(), Vec::new());
    }
    let subset = |(all, mut ports): (Vec<usize>, Vec<Value>)| {
        ports.arrange_by_key(|p| fnv(&format!("(v1.EndpointPort){}", printed_port(p))));
        let (ready, others) = all.into_iter().map(|i| live[i]).partition(|a| a.ready);
        Subset { ready, others, ports }
    };
    let made = sets.into_iter().map(subset);
    let mut subsets: Vec<(u128, Subset<'_>)> = made.map(|s| (fnv(&s.printed()), s)).collect();
    subsets.arrange_by_key(|(hash, _)| *hash);
    subsets.into_iter().map(|(_, subset)| subset).collect()
}

/// Upstream orders ports and subsets by a hash of how Go's values print; whoever takes the first of them sees it.
fn fnv(text: &str) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    text.bytes().fold(BASIS, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

fn printed_list<T>(all: &[T], one: impl Fn(&T) -> String) -> String {
    if all.is_empty() { "<nil>".to_owned() } else { format!("[{}]", all.iter().map(one).collect::<Vec<_>>().join(" ")) }
}

fn printed_port(port: &Value) -> String {
    let text = |at: &str| port.str_at(at).unwrap_or_default();
    format!(
        "{{Name:(string){} Port:(int32){} Protocol:(v1.Protocol){} AppProtocol:(*string){}}}",
        text("/name"),
        port.int_at("/port").unwrap_or_default(),
        text("/protocol"),
        port.str_at("/appProtocol").unwrap_or("<nil>"),
    )
}

fn printed_address(a: &Address) -> String {
    let (ns, name, uid) = &a.pod;
    let (host, node) = (a.hostname.as_deref().unwrap_or_default(), if a.node.is_empty() { "<nil>" } else { &*a.node });
    format!(
        "{{IP:(string){} Hostname:(string){host} NodeName:(*string){node} TargetRef:(*v1.ObjectReference){{Kind:(string)Pod \
         Namespace:(string){ns} Name:(string){name} UID:(types.UID){uid} APIVersion:(string) ResourceVersion:(string) \
         FieldPath:(string)}}}}",
        a.ip
    )
}

/// Cuts to [`ENDPOINTS_MAX`], each subset in proportion, first those that are not ready; true when there were more.
/// Rule: upstream `truncateEndpoints`.
fn truncate(subsets: &mut [Subset<'_>]) -> bool {
    let ready: usize = subsets.iter().map(|s| s.ready.len()).sum();
    let others: usize = subsets.iter().map(|s| s.others.len()).sum();
    if ready + others <= ENDPOINTS_MAX {
        return false;
    }
    let all_ready_fit = ready <= ENDPOINTS_MAX;
    let (room, all) = if all_ready_fit { (ENDPOINTS_MAX - ready, others) } else { (ENDPOINTS_MAX, ready) };
    let mut left = room;
    for subset in subsets {
        let cut = if all_ready_fit { &mut subset.others } else { &mut subset.ready };
        let part = cut.len() as f64 / all as f64 * room as f64;
        cut.truncate((part.ceil() as usize).min(left));
        left -= cut.len();
        if !all_ready_fit {
            subset.others.clear();
        }
    }
    true
}

fn endpoint_address(a: &Address) -> Value {
    let (ns, name, uid) = &a.pod;
    let mut out = json!({"ip": a.ip});
    if let Some(hostname) = &a.hostname {
        out["hostname"] = hostname.as_str().into();
    }
    if !a.node.is_empty() {
        out["nodeName"] = a.node.as_str().into();
    }
    out["targetRef"] = json!({"kind": "Pod", "namespace": ns, "name": name, "uid": uid});
    out
}

#[cfg(test)]
mod tests {
    use super::super::plan::addresses;
    use super::super::plan::tests::{all, pod, service};
    use super::*;
    use test_case::test_case;

    /// A port that not all pods have: its addresses stand apart. Who has none stands nowhere.
    #[test]
    fn ports_with_equal_addresses_share_a_subset() {
        let mut service = service();
        service["spec"]["ports"] = json!([
            {"name": "http", "port": 80, "targetPort": "web"}, {"name": "more", "port": 81, "targetPort": "more"},
            {"name": "https", "port": 443, "targetPort": "web"},
        ]);
        let pod_with = |i: usize, names: &[&str]| {
            let mut pod = pod(i);
            pod["spec"]["containers"][0]["ports"] =
                names.iter().map(|n| json!({"name": n, "containerPort": 8080})).collect();
            addresses(&service, &pod, "")
        };
        let pods = [pod_with(0, &["web"]), pod_with(1, &["web", "more"]), pod_with(2, &[])].concat();
        let got = endpoints(&service, &pods);
        let shown: Vec<(Vec<&str>, Vec<&str>)> = got
            .items_at("/subsets")
            .iter()
            .map(|s| {
                let all = |list: &str, at: &str| s.items_at(list).iter().filter_map(|v| v.str_at(at)).collect();
                (all("/addresses", "/ip"), all("/ports", "/name"))
            })
            .collect();
        let both = shown.iter().find(|(ips, _)| ips.len() == 2).unwrap();
        assert_eq!((both.0.clone(), both.1.len()), (vec!["10.0.0.1", "10.0.0.2"], 2));
        assert!(shown.contains(&(vec!["10.0.0.2"], vec!["more"])) && shown.len() == 2, "{shown:?}");
        // Without ports there is nothing to tell, but for a headless Service's addresses.
        for (ip, subsets) in [("10.43.0.1", 0), ("None", 1)] {
            let service = json!({"metadata": service["metadata"], "spec": {"clusterIP": ip, "ipFamilies": ["IPv4"]}});
            let got = endpoints(&service, &addresses(&service, &pod(0), ""));
            assert_eq!(got.items_at("/subsets").len(), subsets, "{ip}");
        }
    }

    /// By the hash of `(v1.EndpointPort){Name:(string)dns …`.
    #[test]
    fn ports_stand_in_the_order_of_their_hashes() {
        let mut service = service();
        service["spec"]["ports"] = json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53},
            {"name": "metrics", "port": 9153, "protocol": "TCP"}]);
        let got = endpoints(&service, &addresses(&service, &pod(0), ""));
        let names: Vec<_> = got.items_at("/subsets/0/ports").iter().filter_map(|p| p.str_at("/name")).collect();
        assert_eq!(names, ["metrics", "dns-tcp", "dns"]);
    }

    /// As Go prints and hashes them.
    #[test]
    fn what_is_ordered_is_printed_as_upstream_does() {
        let port = json!({"name": "a", "port": 1, "protocol": "TCP", "appProtocol": "http"});
        assert_eq!(
            fnv(&format!("(v1.EndpointPort){}", printed_port(&port))),
            0xc475_3a17_9599_543c_e8de_b0e3_e8a7_e6da
        );
        let mut addresses = all(0..1);
        addresses[0].ip = "10.0.0.1".into();
        addresses[0].hostname = Some("h".into());
        addresses[0].node = "node-a".into();
        addresses[0].pod = ("ns".into(), "p".into(), "u".into());
        let subset = Subset { ready: vec![&addresses[0]], others: vec![], ports: vec![port] };
        assert_eq!(fnv(&subset.printed()), 0xae56_0439_fa31_e309_3890_8422_2ffb_832f);
    }

    /// Ready ones and others of two subsets, before and after.
    #[test_case([(600, 0), (400, 0)], [(600, 0), (400, 0)], false; "all fit")]
    #[test_case([(600, 5), (900, 5)], [(400, 0), (600, 0)], true; "the ready ones in proportion")]
    #[test_case([(500, 300), (300, 100)], [(500, 150), (300, 50)], true; "or else the others")]
    fn large_endpoints_are_cut(given: [(usize, usize); 2], want: [(usize, usize); 2], cut: bool) {
        let one = all(0..1);
        let subset =
            |(ready, others)| Subset { ready: vec![&one[0]; ready], others: vec![&one[0]; others], ports: vec![] };
        let mut subsets = given.map(subset);
        assert_eq!(truncate(&mut subsets), cut);
        assert_eq!(subsets.map(|s| (s.ready.len(), s.others.len())), want);
    }

    #[test]
    fn endpoints_mirror_the_ready_and_the_others() {
        let mut sick = pod(1);
        sick["status"]["conditions"] = json!([]);
        let mut both = all(0..1);
        both.extend(addresses(&service(), &sick, ""));
        let got = endpoints(&service(), &both);
        assert_eq!(got["subsets"][0]["addresses"][0]["ip"], "10.0.0.1");
        assert_eq!(got["subsets"][0]["notReadyAddresses"][0]["ip"], "10.0.0.2");
        assert_eq!(got["subsets"][0]["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
        assert!(endpoints(&service(), &[]).get("subsets").is_none());
        let many = endpoints(&service(), &all(0..1001));
        assert_eq!(many["metadata"]["annotations"][OVER_CAPACITY], "truncated");
    }
}
