//! Thresholds that may be crossed for a while, and pods that get time to stop when it was too long. Pure.
//!
//! Rules: upstream `thresholdsMetGracePeriod` and `--eviction-soft`, `--eviction-soft-grace-period`,
//! `--eviction-max-pod-grace-period`.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::plan::{Met, Signal, Thresholds};
use crate::util::words::nearest;

/// Soft thresholds of a node; none by default.
#[derive(Debug, Clone, PartialEq)]
pub struct Soft {
    /// What should be left.
    pub thresholds: Thresholds,
    /// For how long less may be left.
    pub grace: BTreeMap<Signal, SignedDuration>,
    /// Seconds that a pod gets at most to stop.
    pub max_pod_grace: i64,
}

impl Default for Soft {
    fn default() -> Self {
        Self { thresholds: Thresholds(BTreeMap::new()), grace: BTreeMap::new(), max_pod_grace: 0 }
    }
}

/// Since when thresholds are crossed.
pub type Since = BTreeMap<Signal, Timestamp>;

impl Soft {
    /// Times from `memory.available=1m30s,nodefs.available=2m`.
    pub fn parse_grace(text: &str) -> Result<BTreeMap<Signal, SignedDuration>, String> {
        let mut out = BTreeMap::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (name, time) =
                part.split_once('=').ok_or_else(|| format!("{part:?} is not of the form SIGNAL=DURATION"))?;
            let known = Signal::NAMES.iter().find(|(n, _)| *n == name);
            let near = || nearest(Signal::NAMES.iter().map(|(n, _)| *n), name);
            let (_, signal) =
                known.ok_or_else(|| format!("there is no signal {name:?}; did you mean {:?}?", near()))?;
            let time = time.parse::<SignedDuration>().ok().filter(|t| !t.is_negative());
            out.insert(*signal, time.ok_or_else(|| format!("{part:?} has no duration like 1m30s"))?);
        }
        Ok(out)
    }

    /// Each threshold needs its time.
    pub fn check(&self) -> Result<(), String> {
        let without = self.thresholds.0.keys().find(|s| !self.grace.contains_key(s));
        let name = without.and_then(|s| Signal::NAMES.iter().find(|(_, signal)| signal == s));
        name.map_or(Ok(()), |(name, _)| Err(format!("eviction-soft {name} needs its eviction-soft-grace-period")))
    }

    /// What of `met` has been crossed for longer than it may. `since` remembers.
    pub fn due(&self, met: &[Met], since: &mut Since, now: Timestamp) -> Vec<Met> {
        since.retain(|signal, _| met.iter().any(|m| m.signal == *signal));
        let due = |m: &&Met| {
            let began = *since.entry(m.signal).or_insert(now);
            self.grace.get(&m.signal).is_some_and(|grace| now.duration_since(began) >= *grace)
        };
        met.iter().filter(due).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn what_lasts_is_due_and_what_comes_again_waits_again() {
        let soft = Soft { grace: Soft::parse_grace("memory.available=1m").unwrap(), ..Soft::default() };
        let met = [Met { signal: Signal::MemoryAvailable, threshold: 2, available: 1 }];
        let mut since = Since::new();
        let mut due = |met: &[Met], seconds| !soft.due(met, &mut since, at(seconds)).is_empty();
        assert_eq!([due(&met, 0), due(&met, 59), due(&met, 60)], [false, false, true]);
        assert_eq!([due(&[], 61), due(&met, 62), due(&met, 121), due(&met, 122)], [false, false, false, true]);
    }

    #[test_case("memory.available=1m30s,nodefs.available=0s" => Ok(2))]
    #[test_case("" => Ok(0); "nothing")]
    #[test_case("memory.avail=1m" => Err("there is no signal \"memory.avail\"; did you mean \"memory.available\"?".into()))]
    #[test_case("memory.available" => Err("\"memory.available\" is not of the form SIGNAL=DURATION".into()))]
    #[test_case("memory.available=soon" => Err("\"memory.available=soon\" has no duration like 1m30s".into()))]
    fn times(text: &str) -> Result<usize, String> {
        Soft::parse_grace(text).map(|t| t.len())
    }

    #[test]
    fn a_threshold_without_its_time_is_refused() {
        let soft = Soft { thresholds: Thresholds::parse("pid.available<10").unwrap(), ..Soft::default() };
        assert_eq!(soft.check(), Err("eviction-soft pid.available needs its eviction-soft-grace-period".into()));
        let grace = Soft::parse_grace("pid.available=1s").unwrap();
        assert_eq!(Soft { grace, ..soft }.check(), Ok(()));
    }
}
