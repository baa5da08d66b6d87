//! Devices, classes and claims as the scheduler sees them: decoded once.
//!
//! In: objects of `resource.k8s.io`. **Invariant:** what cannot be understood is kept as such and refuses, it is never
//! taken for something else.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::super::cluster::NodeInfo;
use super::super::pod::{NodeTerm, Taint, Toleration};
use super::agreed::{Agreed, agreed, has_conditions, late_at};
use super::extended::{ANNOTATION, IMPLICIT, UNMADE};
use crate::api::cel::device::{selector, value};
use crate::api::cel::{Program, Val};
use crate::api::meta::quantity::Quantity;
use crate::api::object::Object;
use crate::api::value::ValueExt;

/// Amounts by name, in the unit of [`Quantity::nanos`].
pub type Amounts = BTreeMap<Box<str>, i128>;

/// Which device of all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct DeviceId {
    pub driver: Arc<str>,
    pub pool: Arc<str>,
    pub device: Arc<str>,
}

impl std::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.driver, self.pool, self.device)
    }
}

/// From which nodes devices are reached.
#[derive(Debug, Clone, PartialEq)]
pub enum Reach {
    /// One node, by name.
    Node(Box<str>),
    /// All of them.
    All,
    /// Those that a selector means; its terms, and as it was written.
    Nodes(Box<[NodeTerm]>, Value),
    /// Each device says it itself.
    Each,
    /// Nothing that this version knows.
    Unknown,
}

impl Reach {
    fn new(of: &Value, per_device: bool) -> Self {
        match (of.str_at("/nodeName"), of.get("nodeSelector")) {
            (Some(name), _) if !name.is_empty() => Self::Node(name.into()),
            _ if of.bool_at("/allNodes") == Some(true) => Self::All,
            (_, Some(selector)) => Self::Nodes(NodeTerm::all_from(selector), selector.clone()),
            _ if per_device => Self::Each,
            _ => Self::Unknown,
        }
    }

    /// True when the node is one of them.
    pub fn includes(&self, node: &NodeInfo) -> bool {
        match self {
            Self::Node(name) => **name == *node.name,
            Self::All => true,
            Self::Nodes(terms, _) => terms.iter().any(|t| t.matches(&node.name, &node.labels)),
            Self::Each | Self::Unknown => false,
        }
    }
}

/// A `ResourceSlice`: a part of a pool.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Slice {
    pub driver: Arc<str>,
    pub pool: Arc<str>,
    pub generation: i64,
    /// How many slices of this generation the pool has.
    pub slices: i64,
    pub reach: Reach,
    /// Sets of counters that devices of the pool share.
    pub counters: Vec<(Box<str>, Amounts)>,
    pub devices: Vec<Device>,
    /// Drivers of some devices have to agree after they were chosen.
    pub conditional: bool,
}

/// A device.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Device {
    pub name: Arc<str>,
    /// As it was written: the values of attributes, by name.
    pub attributes: BTreeMap<Box<str>, Value>,
    /// What selectors see.
    pub value: Val,
    pub capacity: Vec<(Box<str>, Capacity)>,
    /// What it takes of sets of counters.
    pub consumes: Vec<(Box<str>, Amounts)>,
    /// Where each device says it itself.
    pub reach: Reach,
    pub taints: Box<[Taint]>,
    /// Several claims may have it at once.
    pub shared: bool,
    /// Conditions by which its driver agrees after it was chosen, before the pod is bound.
    pub conditions: Box<[Box<str>]>,
    /// Those by which it refuses.
    pub failures: Box<[Box<str>]>,
    /// It is for the node that it was chosen on, whoever else reaches it.
    pub binds_to_node: bool,
}

/// How much a device has of something, and how it may be asked for.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Capacity {
    pub value: i128,
    pub default: Option<i128>,
    /// Only these, ascending.
    pub valid: Vec<i128>,
    /// At least, at most, and in steps of.
    pub range: Option<(i128, Option<i128>, Option<i128>)>,
}

fn nanos(v: &Value) -> Option<i128> {
    v.as_str().and_then(|text| Quantity::parse(text).ok()).map(|q| q.nanos())
}

fn text(v: &Value, at: &str) -> Box<str> {
    v.str_at(at).unwrap_or_default().into()
}

fn texts(list: &[Value]) -> Box<[Box<str>]> {
    list.iter().filter_map(Value::as_str).map(Into::into).collect()
}

/// `name: {value: quantity}`.
fn counters(of: &Value) -> Amounts {
    let all = of.get("counters").and_then(Value::as_object).into_iter().flatten();
    all.filter_map(|(name, c)| Some((name.as_str().into(), nanos(c.get("value")?)?))).collect()
}

/// A set of counters with its name under `name`.
fn sets(of: &Value, list: &str, name: &str) -> Vec<(Box<str>, Amounts)> {
    of.items_at(list).iter().map(|s| (text(s, name), counters(s))).collect()
}

impl Capacity {
    fn new(of: &Value) -> Option<Self> {
        let policy = of.get("requestPolicy").unwrap_or(&Value::Null);
        let at = |path: &str| policy.get_at(path).and_then(nanos);
        Some(Self {
            value: nanos(of.get("value")?)?,
            default: at("/default"),
            valid: policy.items_at("/validValues").iter().filter_map(nanos).collect(),
            range: at("/validRange/min").map(|min| (min, at("/validRange/max"), at("/validRange/step"))),
        })
    }
}

impl Device {
    fn new(driver: &str, of: &Value) -> Self {
        let taint = |t: &Value| Taint { key: text(t, "/key"), value: text(t, "/value"), effect: text(t, "/effect") };
        let members = |name: &str| of.get(name).and_then(Value::as_object).into_iter().flatten();
        Self {
            name: of.str_at("/name").unwrap_or_default().into(),
            attributes: members("attributes").map(|(k, v)| (k.as_str().into(), v.clone())).collect(),
            value: value(driver, of),
            capacity: members("capacity").filter_map(|(k, v)| Some((k.as_str().into(), Capacity::new(v)?))).collect(),
            consumes: sets(of, "/consumesCounters", "/counterSet"),
            reach: Reach::new(of, false),
            taints: of.items_at("/taints").iter().map(taint).collect(),
            shared: of.bool_at("/allowMultipleAllocations") == Some(true),
            conditions: texts(of.items_at("/bindingConditions")),
            failures: texts(of.items_at("/bindingFailureConditions")),
            binds_to_node: of.bool_at("/bindsToNode") == Some(true),
        }
    }

    /// An attribute by its full name; one without a domain is of the driver's.
    pub fn attribute(&self, driver: &str, name: &str) -> Option<&Value> {
        let own = || name.split_once('/').filter(|(domain, _)| *domain == driver).map(|(_, own)| own);
        self.attributes.get(name).or_else(|| self.attributes.get(own()?))
    }
}

impl Slice {
    /// From the object.
    pub fn new(o: &Object) -> Self {
        let v = o.value();
        let spec = v.get("spec").unwrap_or(&Value::Null);
        let driver = spec.str_at("/driver").unwrap_or_default();
        let devices: Vec<Device> = spec.items_at("/devices").iter().map(|d| Device::new(driver, d)).collect();
        Self {
            driver: driver.into(),
            pool: spec.str_at("/pool/name").unwrap_or_default().into(),
            generation: spec.int_at("/pool/generation").unwrap_or(0),
            slices: spec.int_at("/pool/resourceSliceCount").unwrap_or(0),
            reach: Reach::new(spec, spec.bool_at("/perDeviceNodeSelection") == Some(true)),
            counters: sets(spec, "/sharedCounters", "/name"),
            conditional: devices.iter().any(|d| !d.conditions.is_empty()),
            devices,
        }
    }

    /// True when the node reaches any of its devices.
    pub fn reaches(&self, node: &NodeInfo) -> bool {
        match self.reach {
            Reach::Each => self.devices.iter().any(|d| d.reach.includes(node)),
            _ => self.reach.includes(node),
        }
    }

    /// Who of all a device is.
    pub fn id(&self, device: &Device) -> DeviceId {
        DeviceId { driver: self.driver.clone(), pool: self.pool.clone(), device: device.name.clone() }
    }
}

/// Selectors: expressions, or why there is none.
pub type Selectors = Vec<Result<Program, String>>;

fn selectors(of: &Value) -> Selectors {
    let compile = |s: &Value| match s.str_at("/cel/expression") {
        Some(text) => selector(text).map_err(|error| format!("CEL compile error: {error}")),
        None => Err("CEL expression empty (unsupported selector type?)".to_owned()),
    };
    of.items_at("/selectors").iter().map(compile).collect()
}

/// A `DeviceClass`.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Class {
    pub name: Box<str>,
    pub selectors: Selectors,
    /// Configurations for drivers, as they were written.
    pub config: Vec<Value>,
    /// The extended resource that it stands for, beside the one of its own name.
    pub extended: Option<Box<str>>,
    /// When it was made; RFC 3339.
    created: Box<str>,
}

impl Class {
    /// From the object.
    pub fn new(o: &Object) -> Self {
        let v = o.value();
        let spec = v.get("spec").unwrap_or(&Value::Null);
        Self {
            name: o.meta.name.as_str().into(),
            selectors: selectors(spec),
            config: spec.items_at("/config").to_vec(),
            extended: spec.str_at("/extendedResourceName").map(Into::into),
            created: o.meta.created.as_str().into(),
        }
    }

    /// True where it stands for the extended resource.
    pub fn stands_for(&self, resource: &str) -> bool {
        self.extended.as_deref() == Some(resource) || resource.strip_prefix(IMPLICIT) == Some(&self.name)
    }

    /// True where it counts and the other does not, of two that name the same resource: the newer one, so that one may take
    /// the other's place. Upstream: `extended/deviceclassresolver`.
    pub fn supersedes(&self, other: &Self) -> bool {
        (&self.created, &other.name) > (&other.created, &self.name)
    }
}

/// How many devices are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Count {
    /// So many.
    Exactly(usize),
    /// All that match.
    All,
    /// Nothing that this version knows.
    Unknown(String),
}

/// One way to satisfy a request.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Choice {
    /// `request` or `request/choice`.
    pub name: Box<str>,
    pub class: Box<str>,
    pub selectors: Selectors,
    pub count: Count,
    /// Whoever has the device does not matter.
    pub admin: bool,
    pub tolerations: Box<[Toleration]>,
    /// The same as they were written.
    pub raw_tolerations: Vec<Value>,
    /// How much of each capacity.
    pub capacity: Amounts,
}

impl Choice {
    fn new(name: String, of: &Value) -> Self {
        let raw_tolerations = of.items_at("/tolerations").to_vec();
        let toleration = |t: &Value| Toleration {
            key: text(t, "/key"),
            operator: text(t, "/operator"),
            value: text(t, "/value"),
            effect: text(t, "/effect"),
        };
        let count = match of.str_at("/allocationMode") {
            Some("All") => Count::All,
            Some("ExactCount") | None => {
                Count::Exactly(of.int_at("/count").map_or(1, |n| usize::try_from(n).unwrap_or(usize::MAX)))
            }
            Some(other) => Count::Unknown(other.to_owned()),
        };
        let wanted = of.get_at("/capacity/requests").and_then(Value::as_object).into_iter().flatten();
        Self {
            name: name.into(),
            class: text(of, "/deviceClassName"),
            selectors: selectors(of),
            count,
            admin: of.bool_at("/adminAccess") == Some(true),
            tolerations: raw_tolerations.iter().map(toleration).collect(),
            raw_tolerations,
            capacity: wanted.filter_map(|(k, v)| Some((k.as_str().into(), nanos(v)?))).collect(),
        }
    }
}

/// What a claim asks for.
#[derive(Debug)]
pub struct Request {
    /// Its name.
    pub name: Box<str>,
    /// The ways to satisfy it, the best first.
    pub choices: Vec<Choice>,
    /// The choices have names of their own.
    pub prioritized: bool,
}

impl Request {
    fn new(of: &Value) -> Self {
        let name = of.str_at("/name").unwrap_or_default();
        let several = of.items_at("/firstAvailable");
        let choices = match of.get("exactly") {
            Some(exactly) => vec![Choice::new(name.to_owned(), exactly)],
            None => several
                .iter()
                .map(|c| Choice::new(format!("{name}/{}", c.str_at("/name").unwrap_or_default()), c))
                .collect(),
        };
        Self { name: name.into(), choices, prioritized: !several.is_empty() }
    }
}

/// A rule over the devices of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// Requests, or choices of them; none means all.
    pub requests: Box<[Box<str>]>,
    /// The attribute.
    pub attribute: Box<str>,
    /// Its values all differ; else all are the same.
    pub distinct: bool,
}

/// What a claim holds of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The device.
    pub id: DeviceId,
    /// How much, of one that is shared; none has all of it.
    pub part: Option<Amounts>,
}

/// A `ResourceClaim`.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Claim {
    pub namespace: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
    pub revision: u64,
    pub deleting: bool,
    /// The uid of the object it was made for.
    pub owner: Option<Box<str>>,
    /// It stands for the extended resources of its owner.
    pub extended: bool,
    /// `status.allocation` is there.
    pub allocated: bool,
    /// Nodes that reach the devices; none means all.
    pub nodes: Option<Box<[NodeTerm]>>,
    /// Uids of those who use it.
    pub reserved: Box<[Box<str>]>,
    /// What the drivers of its devices say.
    pub agreed: Agreed,
    /// When they have taken too long.
    pub late_at: Option<Timestamp>,
    pub uses: Vec<Use>,
    pub requests: Vec<Request>,
    pub constraints: Vec<Option<Constraint>>,
    /// Configurations for drivers, as they were written.
    pub config: Vec<Value>,
}

impl Claim {
    /// From the object. What an allocated claim asked for is not looked at.
    pub fn new(o: &Object) -> Self {
        let v = o.value();
        let allocation = v.get_at("/status/allocation").filter(|a| !a.is_null());
        let waits = allocation.is_some_and(has_conditions);
        let reserved = v.items_at("/status/reservedFor");
        let of = |list: &str| if allocation.is_some() { &[][..] } else { v.items_at(list) };
        Self {
            namespace: o.meta.namespace.as_str().into(),
            name: o.meta.name.as_str().into(),
            uid: o.meta.uid.as_str().into(),
            revision: o.revision,
            deleting: o.is_deleting(),
            owner: o.meta.controller().map(|c| c.uid.as_str().into()),
            extended: v.get_at("/metadata/annotations").and_then(|a| a.get(ANNOTATION)?.as_str()) == Some("true"),
            allocated: allocation.is_some(),
            nodes: allocation.and_then(|a| a.get("nodeSelector")).map(NodeTerm::all_from),
            reserved: reserved.iter().map(|r| text(r, "/uid")).collect(),
            agreed: if waits { agreed(&v) } else { Agreed::Yes },
            late_at: if waits { late_at(&v) } else { None },
            uses: allocation.map(uses_of).unwrap_or_default(),
            requests: of("/spec/devices/requests").iter().map(Request::new).collect(),
            constraints: of("/spec/devices/constraints").iter().map(constraint).collect(),
            config: of("/spec/devices/config").to_vec(),
        }
    }

    /// One that is not made yet, with these requests.
    pub fn unmade(namespace: &str, uid: Box<str>, requests: &[Value]) -> Self {
        let requests = requests.iter().map(Request::new).collect();
        Self { namespace: namespace.into(), name: UNMADE.into(), uid, requests, ..Self::default() }
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// None for one that this version does not know.
fn constraint(of: &Value) -> Option<Constraint> {
    let requests = of.items_at("/requests").iter().filter_map(Value::as_str).map(Into::into).collect();
    let (attribute, distinct) = match (of.str_at("/matchAttribute"), of.str_at("/distinctAttribute")) {
        (Some(name), _) => (name.into(), false),
        (None, name) => (name?.into(), true),
    };
    Some(Constraint { requests, attribute, distinct })
}

/// What an allocation takes from others. Administrators take nothing.
pub fn uses_of(allocation: &Value) -> Vec<Use> {
    let results = allocation.items_at("/devices/results").iter();
    let of = |r: &Value| {
        let get = |at: &str| Arc::from(r.str_at(at).unwrap_or_default());
        let amounts = || {
            let all = r.get("consumedCapacity").and_then(Value::as_object).into_iter().flatten();
            all.filter_map(|(k, v)| Some((k.as_str().into(), nanos(v)?))).collect()
        };
        Use {
            id: DeviceId { driver: get("/driver"), pool: get("/pool"), device: get("/device") },
            part: r.get("shareID").is_some().then(amounts),
        }
    };
    results.filter(|r| r.bool_at("/adminAccess") != Some(true)).map(of).collect()
}
