//! A pod as the scheduler sees it: decoded once, compact, shared.

use std::sync::Arc;

use serde_json::Value;

use crate::api::meta::labels::{Op, Requirement, Selector, TOPOLOGY};
use crate::api::meta::quantity::Quantity;
use crate::api::object::Object;
use crate::api::value::ValueExt;
use crate::runtime::events::Regarding;

use super::devices::{PodClaim, extended};
use super::raw;
use super::requests;
use super::resources::Resources;
use super::volumes::Volumes;

/// The scheduler that pods name in `spec.schedulerName` to be ours.
pub const SCHEDULER_NAME: &str = "default-scheduler";

/// Labels, sorted by name.
pub type Labels = Box<[(Box<str>, Box<str>)]>;

/// The value of a label.
pub fn label<'a>(labels: &'a [(Box<str>, Box<str>)], name: &str) -> Option<&'a str> {
    labels.binary_search_by(|(k, _)| (**k).cmp(name)).ok().map(|at| &*labels[at].1)
}

/// What of a pod matters for placing it, or for placing others beside it.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)] // the names are those of the API
pub struct PodInfo {
    pub uid: Box<str>,
    pub namespace: Box<str>,
    pub name: Box<str>,
    pub generation: i64,
    pub labels: Labels,
    /// Its managing controller, if pods of such are spread, and that one's name.
    pub controller: Option<(Controller, Box<str>)>,
    pub deleting: bool,
    /// It is going because a scheduler sent it away.
    pub preempted: bool,
    /// It succeeded or failed and holds nothing any more.
    pub finished: bool,
    pub node: Box<str>,
    pub nominated: Box<str>,
    pub started: Box<str>,
    /// Who is to place it, `schedulerName`.
    pub scheduler: Box<str>,
    pub gated: bool,
    pub priority: i32,
    pub preempts: bool,
    /// Features that its node has to declare.
    pub features: &'static [&'static str],
    pub requests: Resources,
    /// CPU and memory with defaults for containers that ask for nothing, for scores.
    pub non_zero: (i64, i64),
    pub ports: Box<[HostPort]>,
    pub tolerations: Box<[Toleration]>,
    pub node_selector: Labels,
    pub node_required: Option<Box<[NodeTerm]>>,
    pub node_preferred: Box<[(i64, NodeTerm)]>,
    pub affinity: Box<[PodTerm]>,
    pub anti_affinity: Box<[PodTerm]>,
    pub affinity_preferred: Box<[(i64, PodTerm)]>,
    pub anti_affinity_preferred: Box<[(i64, PodTerm)]>,
    pub spread: Box<[Spread]>,
    pub images: Box<[Box<str>]>,
    pub volumes: Volumes,
    /// Claims of devices.
    pub device_claims: Box<[PodClaim]>,
    /// Its containers, where it asks for extended resources, which devices may stand for; else none.
    pub extended: Box<[extended::Container]>,
}

/// Controllers whose pods are spread though they say nothing of it. Upstream: `plugins/helper` (`DefaultSelector`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Controller {
    ReplicaSet,
    StatefulSet,
    ReplicationController,
}

impl Controller {
    fn new(api_version: &str, kind: &str) -> Option<Self> {
        match (api_version, kind) {
            ("apps/v1", "ReplicaSet") => Some(Self::ReplicaSet),
            ("apps/v1", "StatefulSet") => Some(Self::StatefulSet),
            ("v1", "ReplicationController") => Some(Self::ReplicationController),
            _ => None,
        }
    }
}

/// A port of the host that a pod wants for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct HostPort {
    pub ip: Box<str>,
    pub protocol: Box<str>,
    pub port: i32,
}

impl HostPort {
    /// True when both cannot be on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// A toleration; empty texts match everything where upstream's do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Toleration {
    pub key: Box<str>,
    pub operator: Box<str>,
    pub value: Box<str>,
    pub effect: Box<str>,
}

/// A taint of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Taint {
    pub key: Box<str>,
    pub value: Box<str>,
    pub effect: Box<str>,
}

impl Toleration {
    /// Upstream: `component-helpers/scheduling/corev1` (`ToleratesTaint`).
    pub fn tolerates(&self, taint: &Taint) -> bool {
        if !self.effect.is_empty() && self.effect != taint.effect {
            return false;
        }
        if !self.key.is_empty() && self.key != taint.key {
            return false;
        }
        match &*self.operator {
            "" | "Equal" => self.value == taint.value,
            "Exists" => true,
            _ => false,
        }
    }
}

/// A term of a node selector: all must hold; an empty one matches nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeTerm {
    /// Over labels.
    pub labels: Selector,
    /// Over `metadata.name`.
    pub names: Selector,
    /// It cannot be understood, so it matches nothing.
    pub invalid: bool,
}

impl NodeTerm {
    /// True when a node with this name and these labels is meant.
    pub fn matches(&self, name: &str, labels: &[(Box<str>, Box<str>)]) -> bool {
        !self.invalid
            && (!self.labels.is_empty() || !self.names.is_empty())
            && self.labels.matches(|k| label(labels, k))
            && self.names.matches(|k| (k == "metadata.name").then_some(name))
    }

    /// The terms of a `v1.NodeSelector`.
    pub fn all_from(selector: &Value) -> Box<[Self]> {
        let raw: raw::NodeSelector = serde::Deserialize::deserialize(selector).unwrap_or_default();
        raw.node_selector_terms.iter().map(Self::new).collect()
    }

    /// One that is preferred, and how much that counts.
    pub(super) fn preferred(raw: &raw::PreferredNode) -> (i64, Self) {
        (raw.weight, Self::new(&raw.preference))
    }

    fn new(raw: &raw::NodeTerm) -> Self {
        let read = |all: &[raw::Expression]| all.iter().map(requirement).collect::<Option<Vec<_>>>().map(Selector);
        match (read(&raw.match_expressions), read(&raw.match_fields)) {
            (Some(labels), Some(names)) => Self { labels, names, invalid: false },
            _ => Self { invalid: true, ..Self::default() },
        }
    }
}

fn requirement(e: &raw::Expression) -> Option<Requirement> {
    Requirement::of_node(&e.key, &e.operator, &e.values)
}

/// Which pods a term of pod affinity means, and within which part of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodTerm {
    /// Over labels; none matches nothing.
    pub selector: Option<Selector>,
    /// Namespaces by name.
    pub namespaces: Box<[Box<str>]>,
    /// Namespaces by label; none selects no more.
    pub namespace_selector: Option<Selector>,
    /// The node label whose values are the parts.
    pub key: Box<str>,
}

impl PodTerm {
    /// True when the term means `pod`, whose namespace has `labels`.
    pub fn matches(&self, pod: &PodInfo, labels: Option<&Labels>) -> bool {
        let Some(selector) = &self.selector else { return false };
        let ns = self.namespaces.contains(&pod.namespace)
            || self.namespace_selector.as_ref().is_some_and(|s| match labels {
                Some(labels) => s.matches(|k| label(labels, k)),
                None => s.is_empty(),
            });
        ns && selector.matches(|k| label(&pod.labels, k))
    }

    fn new(raw: &raw::PodTerm, object: &Object) -> Self {
        // `matchLabelKeys` and `mismatchLabelKeys` became part of the selector when the pod was created: it is the labels of
        // then that count.
        let selector = raw.label_selector.as_ref().and_then(|s| Selector::from_label_selector(s).ok());
        let namespace_selector = raw.namespace_selector.as_ref().and_then(|s| Selector::from_label_selector(s).ok());
        let namespaces: Vec<Box<str>> = match raw.namespaces.is_empty() && raw.namespace_selector.is_none() {
            true => vec![object.meta.namespace.as_str().into()],
            false => raw.namespaces.iter().map(|n| n.as_str().into()).collect(),
        };
        Self { selector, namespaces: namespaces.into(), namespace_selector, key: raw.topology_key.as_str().into() }
    }
}

/// A topology spread constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Spread {
    pub key: Box<str>,
    pub max_skew: i64,
    /// `DoNotSchedule`; else `ScheduleAnyway`.
    pub hard: bool,
    pub min_domains: i64,
    pub selector: Option<Selector>,
    /// Nodes that the pod's node affinity excludes do not count.
    pub honor_affinity: bool,
    /// Nodes whose taints the pod does not tolerate do not count.
    pub honor_taints: bool,
}

impl Spread {
    fn new(raw: &raw::Spread, object: &Object) -> Self {
        let mut selector = raw.label_selector.as_ref().and_then(|s| Selector::from_label_selector(s).ok());
        if let Some(Selector(all)) = &mut selector {
            for key in &raw.match_label_keys {
                let Some(value) = object.meta.label(key) else { continue };
                let added = Requirement { key: key.clone(), op: Op::In(vec![value.to_owned()]) };
                if !all.contains(&added) {
                    all.push(added);
                }
            }
        }
        Self::over(raw, selector)
    }

    /// One that counts the pods of a selector.
    pub(super) fn over(raw: &raw::Spread, selector: Option<Selector>) -> Self {
        Self {
            key: raw.topology_key.as_str().into(),
            max_skew: raw.max_skew,
            hard: raw.when_unsatisfiable != "ScheduleAnyway",
            min_domains: raw.min_domains.unwrap_or(1),
            selector,
            honor_affinity: raw.node_affinity_policy != "Ignore",
            honor_taints: raw.node_taints_policy == "Honor",
        }
    }

    /// True when `pod` counts.
    pub fn counts(&self, pod: &PodInfo) -> bool {
        self.selector.as_ref().is_some_and(|s| s.matches(|k| label(&pod.labels, k)))
    }
}

impl PodInfo {
    /// Decodes a pod. The error is the JSON decoder's.
    pub fn new(object: &Object) -> Result<Arc<Self>, serde_json::Error> {
        let raw::Pod { spec, status } = object.decode()?;
        let (requests, non_zero) = requests::of_pod(&spec, &status, &|| requests::is_infeasible(object));
        let ports = host_ports(&spec);
        let (extended, features) = (extended_needs(&spec, &requests), features(&spec));
        let affinity = &spec.affinity;
        let term = |t: &raw::PodTerm| PodTerm::new(t, object);
        let required = |a: &raw::PodAffinity| {
            a.required_during_scheduling_ignored_during_execution.iter().map(term).collect::<Box<[_]>>()
        };
        let preferred = |a: &raw::PodAffinity| {
            let all = a.preferred_during_scheduling_ignored_during_execution.iter();
            all.map(|p| (p.weight, term(&p.pod_affinity_term))).collect::<Box<[_]>>()
        };
        let node = &affinity.node_affinity;
        let controller = object.meta.controller();
        let controller =
            controller.and_then(|o| Some((Controller::new(&o.api_version, &o.kind)?, o.name.as_str().into())));
        Ok(Arc::new(Self {
            uid: object.meta.uid.as_str().into(),
            namespace: object.meta.namespace.as_str().into(),
            name: object.meta.name.as_str().into(),
            generation: object.meta.generation,
            labels: object.meta.labels.clone(),
            controller,
            deleting: object.is_deleting(),
            preempted: object.is_deleting() && sent_away(object),
            finished: matches!(&*status.phase, "Succeeded" | "Failed"),
            scheduler: spec.scheduler_name.into(),
            gated: !spec.scheduling_gates.is_empty(),
            priority: spec.priority,
            preempts: spec.preemption_policy != "Never",
            features,
            requests,
            non_zero,
            ports,
            tolerations: spec.tolerations.into_iter().map(Toleration::from).collect(),
            node_selector: spec.node_selector.into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
            node_required: node
                .required_during_scheduling_ignored_during_execution
                .as_ref()
                .map(|s| s.node_selector_terms.iter().map(NodeTerm::new).collect()),
            node_preferred: node
                .preferred_during_scheduling_ignored_during_execution
                .iter()
                .map(NodeTerm::preferred)
                .collect(),
            affinity: required(&affinity.pod_affinity),
            anti_affinity: required(&affinity.pod_anti_affinity),
            affinity_preferred: preferred(&affinity.pod_affinity),
            anti_affinity_preferred: preferred(&affinity.pod_anti_affinity),
            spread: spec.topology_spread_constraints.iter().map(|s| Spread::new(s, object)).collect(),
            images: spec
                .init_containers
                .iter()
                .chain(&spec.containers)
                .map(|c| normal_image(&c.image).into())
                .collect(),
            device_claims: device_claims(&spec.resource_claims, &status.resource_claim_statuses),
            extended,
            volumes: Volumes::new(&object.meta.name, &spec.volumes),
            node: spec.node_name.into(),
            nominated: status.nominated_node_name.into(),
            started: status.start_time.into(),
        }))
    }

    /// True where a new state of the pod asks for the same as this one.
    pub fn wants_the_same(&self, new: &Self) -> bool {
        let old_rest = Self {
            nominated: new.nominated.clone(),
            generation: new.generation,
            node: new.node.clone(),
            started: new.started.clone(),
            ..self.clone()
        };
        old_rest == *new
    }

    /// As it will be on a node with these labels: it gets zone and region of it, where it does not say its own
    /// (`PodTopologyLabels`). None where that changes nothing.
    pub fn on(&self, node: &[(Box<str>, Box<str>)]) -> Option<Arc<Self>> {
        let missing = TOPOLOGY.into_iter().filter(|name| label(&self.labels, name).is_none());
        let given: Vec<(&str, &str)> = missing.filter_map(|name| Some((name, label(node, name)?))).collect();
        if given.is_empty() {
            return None;
        }
        let mut labels = self.labels.to_vec();
        labels.extend(given.into_iter().map(|(name, value)| (name.into(), value.into())));
        labels.sort_unstable();
        Some(Arc::new(Self { labels: labels.into(), ..self.clone() }))
    }

    /// `namespace/name`, as events name it.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// What its events are about.
    pub fn regarding(&self) -> Regarding {
        Regarding {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: self.namespace.to_string(),
            name: self.name.to_string(),
            uid: self.uid.to_string(),
            ..Regarding::default()
        }
    }

    /// True when it says anything about other pods beside it.
    pub fn has_affinity(&self) -> bool {
        !self.affinity.is_empty()
            || !self.anti_affinity.is_empty()
            || !self.affinity_preferred.is_empty()
            || !self.anti_affinity_preferred.is_empty()
    }

    /// True where it has claims of devices, or may need one for its extended resources.
    pub fn wants_devices(&self) -> bool {
        !self.device_claims.is_empty() || !self.extended.is_empty()
    }

    /// True when `taint` does not keep it away.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|t| t.tolerates(taint))
    }

    /// True when its node selector and required node affinity mean this node.
    pub fn wants_node(&self, name: &str, labels: &[(Box<str>, Box<str>)]) -> bool {
        self.node_selector.iter().all(|(k, v)| label(labels, k) == Some(v))
            && self.node_required.as_ref().is_none_or(|terms| terms.iter().any(|t| t.matches(name, labels)))
    }
}

/// True where the pod's condition says that a scheduler made room with it. Upstream: `plugins/defaultpreemption`
/// (`podTerminatingByPreemption`).
fn sent_away(pod: &Object) -> bool {
    let pod = pod.only(&["status", "conditions"]);
    let disrupted = pod.items_at("/status/conditions").iter().find(|c| c.str_at("/type") == Some("DisruptionTarget"));
    disrupted
        .is_some_and(|c| (c.str_at("/status"), c.str_at("/reason")) == (Some("True"), Some("PreemptionByScheduler")))
}

/// Those made from templates stand in the status; one without a name there is not needed.
fn device_claims(claims: &[raw::DeviceClaim], made: &[raw::DeviceClaim]) -> Box<[PodClaim]> {
    let of = |c: &raw::DeviceClaim| {
        if let Some(name) = &c.resource_claim_name {
            return Some(PodClaim { claim: Some(name.as_str().into()), own: false });
        }
        match made.iter().find(|s| s.name == c.name) {
            Some(made) => Some(PodClaim { claim: Some(made.resource_claim_name.as_deref()?.into()), own: true }),
            None => Some(PodClaim { claim: None, own: true }),
        }
    };
    claims.iter().filter_map(of).collect()
}

/// What a node has to be able to do for the pod, of what not every version can. Upstream: `component-helpers/nodedeclaredfeatures`
/// (`InferForScheduling`); its other features are asked for by changes of pods, or off.
fn features(spec: &raw::PodSpec) -> &'static [&'static str] {
    let rules = spec.init_containers.iter().chain(&spec.containers).flat_map(|c| &c.restart_policy_rules);
    let mut actions = rules.map(|r| &*r.action);
    if actions.any(|a| a == "RestartAllContainers") { &["RestartAllContainersOnContainerExits"] } else { &[] }
}

/// All containers, those that start first before the others, if anything is asked for that devices may stand for.
fn extended_needs(spec: &raw::PodSpec, requests: &Resources) -> Box<[extended::Container]> {
    if !requests.scalar.iter().any(|(name, want)| *want > 0 && extended::is_name(name)) {
        return Box::default();
    }
    let of = |c: &raw::Container, ends: bool| {
        let amount = |text: &str| Quantity::parse(text).ok().and_then(|q| usize::try_from(q.value()).ok()).unwrap_or(0);
        let wants = c.resources.requests.iter().enumerate().filter(|(_, (name, _))| extended::is_name(name));
        extended::Container {
            name: c.name.as_str().into(),
            ends,
            wants: wants.map(|(at, (name, text))| (at, name.as_str().into(), amount(text))).collect(),
        }
    };
    let first = spec.init_containers.iter().map(|c| of(c, c.restart_policy != "Always"));
    first.chain(spec.containers.iter().map(|c| of(c, false))).collect()
}

impl From<raw::Toleration> for Toleration {
    fn from(t: raw::Toleration) -> Self {
        Self { key: t.key.into(), operator: t.operator.into(), value: t.value.into(), effect: t.effect.into() }
    }
}

/// With a tag: an image without one is `:latest`.
fn normal_image(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') || last.contains('@') { name.to_owned() } else { format!("{name}:latest") }
}

fn host_ports(spec: &raw::PodSpec) -> Box<[HostPort]> {
    let sidecars = spec.init_containers.iter().filter(|c| c.restart_policy == "Always");
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| &c.ports).filter(|p| p.host_port > 0);
    let or = |text: &str, default: &str| if text.is_empty() { default.into() } else { text.into() };
    ports
        .map(|p| HostPort { ip: or(&p.host_ip, "0.0.0.0"), protocol: or(&p.protocol, "TCP"), port: p.host_port })
        .collect()
}
