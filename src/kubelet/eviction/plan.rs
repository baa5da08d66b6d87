//! When the node is short of something, and which pod has to go. Pure.
//!
//! Rules: upstream `pkg/kubelet/eviction/helpers.go`, with its default hard thresholds.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};

use crate::api::meta::quantity::Quantity;
use crate::util::order::Arrange;
use crate::util::words::nearest;

/// How long a condition holds after the last time that it was seen. Upstream: `evictionPressureTransitionPeriod`.
pub const TRANSITION: SignedDuration = SignedDuration::from_mins(5);

/// What may run short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // as upstream names them, in the order in which they are dealt with: memory first
pub enum Signal {
    MemoryAvailable,
    NodefsAvailable,
    NodefsInodesFree,
    ImagefsAvailable,
    ImagefsInodesFree,
    PidAvailable,
}

/// What a node tells of its shortage, as condition and as taint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Pressure {
    Memory,
    Disk,
    Pid,
}

impl Pressure {
    /// The node condition's type.
    pub fn condition(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pid => "PIDPressure",
        }
    }
}

impl Signal {
    /// All, by their names.
    pub const NAMES: [(&'static str, Signal); 6] = [
        ("memory.available", Self::MemoryAvailable),
        ("nodefs.available", Self::NodefsAvailable),
        ("nodefs.inodesFree", Self::NodefsInodesFree),
        ("imagefs.available", Self::ImagefsAvailable),
        ("imagefs.inodesFree", Self::ImagefsInodesFree),
        ("pid.available", Self::PidAvailable),
    ];

    /// The condition that it raises.
    pub fn pressure(self) -> Pressure {
        match self {
            Self::MemoryAvailable => Pressure::Memory,
            Self::PidAvailable => Pressure::Pid,
            _ => Pressure::Disk,
        }
    }

    /// The resource that messages name.
    pub fn resource(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory",
            Self::NodefsAvailable | Self::ImagefsAvailable => "ephemeral-storage",
            Self::NodefsInodesFree | Self::ImagefsInodesFree => "inodes",
            Self::PidAvailable => "pids",
        }
    }

    fn quantity(self, n: u64) -> Quantity {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        match self {
            Self::MemoryAvailable | Self::NodefsAvailable | Self::ImagefsAvailable => Quantity::bytes(n),
            _ => Quantity::units(n),
        }
    }
}

/// How much has to be left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Least {
    /// Bytes or pieces.
    Amount(u64),
    /// Of what there is in all.
    Percent(f64),
}

impl Least {
    /// The same in bytes or pieces.
    pub fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Amount(n) => n,
            Self::Percent(p) => (capacity as f64 * p / 100.0) as u64,
        }
    }
}

/// What has to be left of everything.
#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds(pub BTreeMap<Signal, Least>);

/// Percent of a disk that has to be left. k3s's, not upstream's 10 and 15: small machines have small disks, full ones.
const DISK_PERCENT: f64 = 5.0;

impl Default for Thresholds {
    fn default() -> Self {
        Self(
            [
                (Signal::MemoryAvailable, Least::Amount(100 << 20)),
                (Signal::NodefsAvailable, Least::Percent(DISK_PERCENT)),
                (Signal::NodefsInodesFree, Least::Percent(DISK_PERCENT)),
                (Signal::ImagefsAvailable, Least::Percent(DISK_PERCENT)),
                (Signal::ImagefsInodesFree, Least::Percent(DISK_PERCENT)),
            ]
            .into(),
        )
    }
}

impl Thresholds {
    /// From `memory.available<100Mi,nodefs.available<10%`. What is not named has no threshold, as upstream has it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut out = BTreeMap::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let Some((name, least)) = part.split_once('<') else {
                return Err(format!("{part:?} is not of the form SIGNAL<AMOUNT"));
            };
            let Some((_, signal)) = Signal::NAMES.iter().find(|(n, _)| *n == name) else {
                let near = nearest(Signal::NAMES.iter().map(|(n, _)| *n), name);
                return Err(format!("there is no signal {name:?}; did you mean {near:?}?"));
            };
            let least = match least.strip_suffix('%') {
                Some(p) => p.parse().ok().filter(|p| (0.0..=100.0).contains(p)).map(Least::Percent),
                None => Quantity::parse(least).ok().and_then(|q| u64::try_from(q.value()).ok()).map(Least::Amount),
            };
            out.insert(*signal, least.ok_or_else(|| format!("{part:?} has no amount"))?);
        }
        Ok(Self(out))
    }

    /// What has to be left of one thing; 0 when nothing has to.
    pub fn reserve(&self, signal: Signal, capacity: u64) -> u64 {
        self.0.get(&signal).map_or(0, |least| least.of(capacity))
    }

    /// What is crossed, in the order to be dealt with.
    pub fn met(&self, observed: &Observations) -> Vec<Met> {
        let met = |(signal, least): (&Signal, &Least)| {
            let Observed { available, capacity } = *observed.get(signal).filter(|o| o.capacity > 0)?;
            let threshold = least.of(capacity);
            (available < threshold).then_some(Met { signal: *signal, threshold, available })
        };
        self.0.iter().filter_map(met).collect()
    }
}

/// How much of a thing there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// Left.
    pub available: u64,
    /// In all; 0 where nobody knows.
    pub capacity: u64,
}

/// What was looked at.
pub type Observations = BTreeMap<Signal, Observed>;

/// A threshold that is crossed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Met {
    /// Which.
    pub signal: Signal,
    /// What should be left.
    pub threshold: u64,
    /// What is.
    pub available: u64,
}

/// Pressures by when they were seen last.
pub type LastSeen = BTreeMap<Pressure, Timestamp>;

/// The conditions that hold, given what is crossed now and when what was seen last.
pub fn pressures(met: &[Met], last: &mut LastSeen, now: Timestamp) -> Vec<Pressure> {
    last.extend(met.iter().map(|m| (m.signal.pressure(), now)));
    last.retain(|_, at| now.duration_since(*at) < TRANSITION);
    last.keys().copied().collect()
}

/// What a pod or a container uses of what is short, and what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Use {
    /// Bytes or inodes.
    pub used: u64,
    /// The same; 0 for nothing.
    pub request: u64,
}

/// A pod that might go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Uid.
    pub uid: String,
    /// Priority.
    pub priority: i32,
    /// All of it.
    pub whole: Use,
    /// Its containers, by name.
    pub containers: Vec<(String, Use)>,
}

/// Sorts pods so that the first one goes first: those that use more than they asked for before the others, then by
/// priority, then by how much more they use.
pub fn rank(pods: &mut [Candidate]) {
    let over = |u: Use| i128::from(u.used) - i128::from(u.request);
    pods.arrange_by_key(|p| (Reverse(p.whole.used > p.whole.request), p.priority, Reverse(over(p.whole))));
}

/// What its owner is told.
pub fn message(met: Met, pod: &Candidate) -> String {
    let (resource, quantity) = (met.signal.resource(), |n| met.signal.quantity(n).to_string());
    let mut out = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        quantity(met.threshold),
        quantity(met.available)
    );
    for (name, u) in pod.containers.iter().filter(|(_, u)| u.used > u.request) {
        let _ = write!(
            out,
            "Container {name} was using {}, request is {}, has larger consumption of {resource}. ",
            quantity(u.used),
            quantity(u.request)
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test_case(Signal::MemoryAvailable, 100 << 20, 4 << 30 => false; "just enough memory")]
    #[test_case(Signal::MemoryAvailable, (100 << 20) - 1, 4 << 30 => true; "too little memory")]
    #[test_case(Signal::NodefsAvailable, 4, 100 => true; "disk")]
    #[test_case(Signal::ImagefsAvailable, 5, 100 => false; "images, just enough")]
    #[test_case(Signal::ImagefsAvailable, 4, 100 => true; "images")]
    #[test_case(Signal::NodefsInodesFree, 4, 100 => true; "inodes")]
    #[test_case(Signal::NodefsInodesFree, 0, 0 => false; "a file system without inodes")]
    #[test_case(Signal::PidAvailable, 0, 100 => false; "no threshold")]
    fn thresholds(signal: Signal, available: u64, capacity: u64) -> bool {
        let observed = [(signal, Observed { available, capacity })].into();
        !Thresholds::default().met(&observed).is_empty()
    }

    #[test]
    fn memory_is_dealt_with_first() {
        let none = |capacity| Observed { available: 0, capacity };
        let observed = [(Signal::ImagefsAvailable, none(99)), (Signal::MemoryAvailable, none(99))].into();
        let met = Thresholds::default().met(&observed);
        assert_eq!(met.iter().map(|m| m.signal.resource()).collect::<Vec<_>>(), ["memory", "ephemeral-storage"]);
    }

    #[test]
    fn a_condition_holds_for_five_minutes_more() {
        let met = [Met { signal: Signal::NodefsAvailable, threshold: 1, available: 0 }];
        let mut last = LastSeen::new();
        assert_eq!(pressures(&met, &mut last, at(0)), [Pressure::Disk]);
        assert_eq!(pressures(&[], &mut last, at(299)), [Pressure::Disk]);
        assert_eq!(pressures(&[], &mut last, at(300)), []);
    }

    fn pod(uid: &str, priority: i32, used: u64, request: u64) -> Candidate {
        Candidate { uid: uid.into(), priority, whole: Use { used, request }, containers: Vec::new() }
    }

    #[test_case(&[pod("in", 0, 5, 9), pod("over", 100, 2, 1)] => "over in"; "who exceeds its request goes before any priority")]
    #[test_case(&[pod("high", 10, 9, 0), pod("low", 5, 1, 0)] => "low high"; "then priority")]
    #[test_case(&[pod("little", 0, 8, 7), pod("much", 0, 5, 1)] => "much little"; "then by how much")]
    #[test_case(&[pod("asked", 0, 5, 9), pod("less", 0, 5, 6)] => "less asked"; "also below the request")]
    fn ranking(pods: &[Candidate]) -> String {
        let mut pods = pods.to_vec();
        rank(&mut pods);
        pods.into_iter().map(|p| p.uid).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_message_is_upstreams() {
        let met = Met { signal: Signal::MemoryAvailable, threshold: 100 << 20, available: 50 << 20 };
        let mut p = pod("u", 0, 0, 0);
        p.containers = vec![("c".into(), Use { used: 5 << 20, request: 0 }), ("d".into(), Use { used: 1, request: 2 })];
        assert_eq!(
            message(met, &p),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 5Mi, \
             request is 0, has larger consumption of memory. "
        );
    }

    #[test_case("memory.available<1Gi,nodefs.available<5%" => Ok(2))]
    #[test_case("" => Ok(0); "nothing")]
    #[test_case("memory.avail<1Gi" => Err("there is no signal \"memory.avail\"; did you mean \"memory.available\"?".into()))]
    #[test_case("memory.available=1Gi" => Err("\"memory.available=1Gi\" is not of the form SIGNAL<AMOUNT".into()))]
    #[test_case("nodefs.available<101%" => Err("\"nodefs.available<101%\" has no amount".into()))]
    fn flags(text: &str) -> Result<usize, String> {
        Thresholds::parse(text).map(|t| t.0.len())
    }
}
