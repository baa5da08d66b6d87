//! When that happened which led to a change of a Service's endpoints: how late its readers are can be told from it.
//!
//! In: a Service and the pods that it selects, at each look. Out: a time for what is written then.
//! Rule: upstream `TriggerTimeTracker`.
//! **Invariant:** of a pod eight bytes are remembered: large clusters have many.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::api::object::ObjectKey;
use crate::api::value::ValueExt;
use crate::util::clock::rfc3339;

/// The annotation that says it.
pub const ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// When a pod became ready or ceased to be; its name as a hash, and seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodTime {
    name: u32,
    second: u32,
}

impl PodTime {
    /// Of a pod, if its time is one.
    pub fn new(name: &str, time: Option<Timestamp>) -> Option<Self> {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let second = u32::try_from(time?.as_second()).ok()?;
        Some(Self { name: hasher.finish() as u32, second })
    }
}

/// What was seen of each Service at the last look.
#[derive(Debug, Default)]
pub struct Triggers {
    seen: Mutex<HashMap<ObjectKey, Seen>>,
}

#[derive(Debug)]
struct Seen {
    created: Option<Timestamp>,
    /// Sorted.
    pods: Vec<PodTime>,
}

impl Triggers {
    /// Notes what is there now. The time is that of the first change since the last look; of the Service's creation at the
    /// first one; none when nothing has a newer time.
    pub fn look(&self, service: &ObjectKey, created: Option<Timestamp>, mut pods: Vec<PodTime>) -> Option<Timestamp> {
        pods.sort_unstable();
        let mut seen = self.seen.lock();
        let Some(before) = seen.insert(service.clone(), Seen { created, pods }) else { return created };
        let now = &seen[service];
        let is_new = |pod: &&PodTime| {
            let at = before.pods.partition_point(|p| p.name < pod.name);
            before.pods.get(at).is_none_or(|p| p.name != pod.name || p.second < pod.second)
        };
        let first = now.pods.iter().filter(is_new).map(|p| p.second).min();
        let first = first.and_then(|second| Timestamp::from_second(second.into()).ok());
        let anew = created.filter(|_| created > before.created);
        first.into_iter().chain(anew).min()
    }

    /// A Service is gone.
    pub fn forget(&self, service: &ObjectKey) {
        self.seen.lock().remove(service);
    }
}

/// Writes into what is written anyway when that which led to it happened; takes it away when nobody knows.
/// Rule: upstream `addTriggerTimeAnnotation`.
pub fn mark(object: &mut Value, trigger: Option<Timestamp>) {
    let at = ["/metadata/annotations/", &ANNOTATION.replace('/', "~1")].concat();
    match trigger {
        Some(time) => object.set_at(&at, rfc3339(time)),
        None => drop(object.remove_at(&at)),
    }
    if object.get_at("/metadata/annotations").and_then(Value::as_object).is_some_and(Map::is_empty) {
        object.remove_at("/metadata/annotations");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use test_case::test_case;

    fn at(second: i64) -> Option<Timestamp> {
        Timestamp::from_second(second).ok()
    }

    /// Pods and their times at the last look and at this one; the time that comes out. The Service is of second 5.
    #[test_case(&[], &[("a", 7), ("b", 6)], Some(6); "the first of those that came")]
    #[test_case(&[("a", 7)], &[("a", 7), ("b", 6)], Some(6); "one that came late")]
    #[test_case(&[("a", 7)], &[("a", 7), ("b", 7)], Some(7); "within the same second")]
    #[test_case(&[("a", 7), ("b", 7)], &[("a", 9), ("b", 7)], Some(9); "one changed")]
    #[test_case(&[("a", 7), ("b", 7)], &[("b", 7)], None; "one went")]
    #[test_case(&[("a", 7)], &[("a", 7)], None; "nothing")]
    fn times(before: &[(&str, i64)], now: &[(&str, i64)], want: Option<i64>) {
        let triggers = Triggers::default();
        let key = ObjectKey::new("n", "web");
        let pods = |all: &[(&str, i64)]| all.iter().filter_map(|(name, t)| PodTime::new(name, at(*t))).collect();
        assert_eq!(triggers.look(&key, at(5), pods(before)), at(5), "the first look");
        assert_eq!(triggers.look(&key, at(5), pods(now)), want.and_then(at));
    }

    #[test]
    fn a_service_that_was_made_anew_has_its_own_time() {
        let triggers = Triggers::default();
        let key = ObjectKey::new("n", "web");
        triggers.look(&key, at(5), Vec::new());
        assert_eq!(triggers.look(&key, at(8), Vec::new()), at(8), "nobody saw it go");
        triggers.forget(&key);
        assert_eq!(triggers.look(&key, at(8), Vec::new()), at(8));
        assert_eq!(triggers.look(&key, at(8), Vec::new()), None);
    }
}
