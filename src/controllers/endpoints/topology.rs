//! Which zone each endpoint serves, when a Service asks for topology-aware routing: each zone gets a part of the endpoints that
//! is as large as its part of the nodes' CPUs, of its own ones first. No IO.
//!
//! Rule: upstream `k8s.io/endpointslice/topologycache`. Upstream remembers what it gave; here the slices tell.
//! **Invariant:** no zone's clients are left to so few endpoints that these get more than a fifth over their part; where that
//! cannot be, there are no hints, and all endpoints serve all zones.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::api::meta::quantity::Quantity;
use crate::api::value::ValueExt;
use crate::controllers::common::conditions;

/// How much more than its part an endpoint may get.
const OVERLOAD: f64 = 0.2;
/// Annotations of a Service, the elder one first, which counts.
pub const ANNOTATIONS: [&str; 2] =
    ["service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"];
/// Nodes that are no place for clients.
const EXCLUDED: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

/// A zone's part of the CPUs, by the zone's name.
pub type Parts = BTreeMap<String, f64>;

/// True when a Service asks for it.
pub fn is_asked_for(service: &Value) -> bool {
    let annotations = service.pointer("/metadata/annotations");
    let first = ANNOTATIONS.iter().find_map(|a| annotations?.get(*a)?.as_str());
    matches!(first, Some("Auto" | "auto"))
}

/// Zone and thousandths of a CPU of a node that counts; none of one that is no place for clients, or not ready.
pub fn place(node: &Value) -> Option<(String, i64)> {
    let label = |name: &str| node.pointer("/metadata/labels").and_then(|l| l.get(name)?.as_str());
    let ready = conditions::is_true(node.items_at("/status/conditions"), "Ready");
    let cpu = node.str_at("/status/allocatable/cpu").and_then(|q| Quantity::parse(q).ok());
    (ready && EXCLUDED.iter().all(|l| label(l).is_none()))
        .then(|| (label(super::ZONE).unwrap_or_default().to_owned(), cpu.map_or(0, |q| q.milli_value())))
}

/// The zones' parts; none when a node does not say enough, or there are fewer than two zones.
pub fn parts(places: impl Iterator<Item = (String, i64)>) -> Option<Parts> {
    let mut cpus: BTreeMap<String, i64> = BTreeMap::new();
    for (zone, cpu) in places {
        if zone.is_empty() || cpu == 0 {
            return None;
        }
        *cpus.entry(zone).or_default() += cpu;
    }
    let total: i64 = cpus.values().sum();
    (cpus.len() > 1).then(|| cpus.into_iter().map(|(zone, cpu)| (zone, cpu as f64 / total as f64)).collect())
}

/// A ready endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Spot<'a> {
    /// The zone it is in, or empty.
    pub zone: &'a str,
    /// The zone that it served until now.
    pub before: Option<&'a str>,
}

struct Share {
    desired: f64,
    most: usize,
}

fn shares(parts: &Parts, endpoints: usize) -> Option<BTreeMap<&str, Share>> {
    let least = |part: f64| (part * endpoints as f64 / (1.0 + OVERLOAD)).ceil();
    let all: usize = parts.values().map(|p| least(*p) as usize).sum();
    let spare = endpoints.checked_sub(all)?;
    let share =
        |part: f64| Share { desired: (part * endpoints as f64).max(least(part)), most: least(part) as usize + spare };
    Some(parts.iter().map(|(zone, part)| (zone.as_str(), share(*part))).collect())
}

/// The zone that each endpoint serves, or why there are none. Who serves a zone goes on with it, as long as there is no need
/// for a change.
pub fn zones(spots: &[Spot<'_>], parts: Option<&Parts>) -> Result<Vec<String>, String> {
    let Some(parts) = parts else {
        return Err(
            "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes".to_owned()
        );
    };
    let counted = format!("({} endpoints, {} zones)", spots.len(), parts.len());
    if parts.len() > spots.len() {
        return Err(format!("Insufficient number of endpoints {counted}"));
    }
    let Some(shares) = shares(parts, spots.len()) else {
        let why = "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold";
        return Err(format!("{why} {counted}"));
    };
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let keeps = |counts: &BTreeMap<&str, usize>, zone: &str| {
        shares.get(zone).is_some_and(|share| counts.get(zone).copied().unwrap_or(0) < share.most)
    };
    let mut out: Vec<(&str, bool)> = Vec::with_capacity(spots.len());
    for spot in spots {
        let kept = spot.before.filter(|zone| keeps(&counts, zone));
        let zone = kept.unwrap_or(spot.zone);
        if zone.is_empty() {
            return Err("One or more endpoints do not have a zone specified".to_owned());
        }
        *counts.entry(zone).or_default() += 1;
        out.push((zone, kept.is_some()));
    }
    let (mut giving, mut receiving) = moves(&shares, &counts);
    for (zone, _) in out.iter_mut().filter(|(_, kept)| !kept) {
        let Some(left) = giving.get_mut(*zone).filter(|n| **n > 0) else { continue };
        let Some((to, wanted)) = receiving.iter_mut().find(|(_, n)| **n > 0) else { break };
        (*left, *wanted) = (*left - 1, *wanted - 1);
        *zone = *to;
    }
    Ok(out.into_iter().map(|(zone, _)| zone.to_owned()).collect())
}

type Moves<'a> = BTreeMap<&'a str, usize>;

/// How many endpoints each zone has too many, and how many it lacks: always as many in all.
fn moves<'a>(shares: &BTreeMap<&'a str, Share>, counts: &BTreeMap<&str, usize>) -> (Moves<'a>, Moves<'a>) {
    let (mut giving, mut receiving) = (Moves::new(), Moves::new());
    let surplus = |zone: &str, share: &Share| counts.get(zone).copied().unwrap_or(0) as f64 - share.desired;
    let mut left: BTreeMap<&'a str, f64> = shares.iter().map(|(zone, share)| (*zone, surplus(zone, share))).collect();
    loop {
        let most = |sign: f64| left.iter().map(|(z, n)| (*z, n * sign)).max_by(|a, b| a.1.total_cmp(&b.1));
        let (Some((from, give)), Some((to, take))) = (most(1.0), most(-1.0)) else { break };
        if (give < 1.0 && take < 1.0) || give < 0.5 || take < 0.5 {
            break;
        }
        for (zone, by, list) in [(from, -1.0, &mut giving), (to, 1.0, &mut receiving)] {
            *list.entry(zone).or_default() += 1;
            *left.entry(zone).or_default() += by;
        }
    }
    (giving, receiving)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn even(zones: &[&str]) -> Parts {
        parts(zones.iter().map(|z| ((*z).to_owned(), 1000))).unwrap()
    }

    fn spots<'a>(text: &'a [&'a str]) -> Vec<Spot<'a>> {
        let one = |t: &'a str| match t.split_once('>') {
            Some((zone, before)) => Spot { zone, before: Some(before) },
            None => Spot { zone: t, before: None },
        };
        text.iter().map(|t| one(t)).collect()
    }

    /// Endpoints by their zone, `>` and the zone they served; then the zones that they serve.
    #[test_case(&["a", "b", "c"], Ok("a b c"); "each its own")]
    #[test_case(&["a", "a", "a", "a", "b", "c"], Ok("b c a a b c"); "a zone with many gives")]
    #[test_case(&["a>b", "a>c", "a>a", "a>a", "b>b", "c>c"], Ok("b c a a b c"); "and goes on giving")]
    #[test_case(&["a", "a", "b"], Ok("c a b"); "one for each zone")]
    #[test_case(&["a", "b>gone", "c"], Ok("a b c"); "a zone that is gone is served no more")]
    #[test_case(&["a", "b"], Err("Insufficient number of endpoints (2 endpoints, 3 zones)"))]
    #[test_case(&["a", "b", "c", "c"], Err("Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (4 endpoints, 3 zones)"))]
    #[test_case(&["a", "b", ""], Err("One or more endpoints do not have a zone specified"))]
    fn three_equal_zones(given: &[&str], want: Result<&str, &str>) {
        let got = zones(&spots(given), Some(&even(&["a", "b", "c"]))).map(|z| z.join(" "));
        assert_eq!(got.as_deref().map_err(String::as_str), want);
    }

    #[test]
    fn a_larger_zone_gets_more() {
        let parts =
            parts([("a".to_owned(), 4000), ("b".to_owned(), 1000), ("b".to_owned(), 1000)].into_iter()).unwrap();
        let got = zones(&spots(&["b"; 6]), Some(&parts)).unwrap();
        assert_eq!(got.iter().filter(|z| *z == "a").count(), 4, "{got:?}");
    }

    #[test_case(&[("a", 1)], false; "one zone")]
    #[test_case(&[("a", 1), ("b", 1)], true)]
    #[test_case(&[("a", 1), ("b", 1), ("", 1)], false; "a node in no zone")]
    #[test_case(&[("a", 1), ("b", 0)], false; "a node of no size")]
    fn nodes_have_to_say_enough(nodes: &[(&str, i64)], want: bool) {
        assert_eq!(parts(nodes.iter().map(|(z, n)| ((*z).to_owned(), *n))).is_some(), want);
    }

    #[test_case(json!({}), Some(("z".to_owned(), 2000)))]
    #[test_case(json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": "true"}}}), None)]
    #[test_case(json!({"status": {"conditions": []}}), None; "not ready")]
    #[test_case(json!({"status": {"allocatable": null}}), Some(("z".to_owned(), 0)))]
    fn nodes(more: Value, want: Option<(String, i64)>) {
        let mut node = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z"}},
            "status": {"allocatable": {"cpu": "2"}, "conditions": [{"type": "Ready", "status": "True"}]}});
        json_patch::merge(&mut node, &more);
        assert_eq!(place(&node), want);
    }

    #[test]
    fn services_ask() {
        let of = |annotations: Value| is_asked_for(&json!({"metadata": {"annotations": annotations}}));
        assert!(of(json!({"service.kubernetes.io/topology-mode": "Auto"})));
        assert!(!of(json!({"service.kubernetes.io/topology-mode": "Disabled"})) && !of(json!(null)));
        assert!(!of(
            json!({"service.kubernetes.io/topology-mode": "Auto", "service.kubernetes.io/topology-aware-hints": ""})
        ));
    }
}
