//! When a claim's devices are to be given up. No IO, no clock.
//!
//! Rule: upstream `claimEvictionTime`.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::value::ValueExt;
use crate::controllers::common::pods::time;
use crate::controllers::common::taints::{NO_EXECUTE, tolerates};

/// A pool of devices: its driver and its name.
pub type Pool = (String, String);

fn pool(of: &Value, driver: &str, name: &str) -> Option<Pool> {
    Some((of.str_at(driver)?.to_owned(), of.str_at(name)?.to_owned()))
}

/// The pool of a slice that has a device whose taint makes pods go.
pub fn tainted(slice: &Value) -> Option<Pool> {
    let mut taints = slice.items_at("/spec/devices").iter().flat_map(|d| d.items_at("/taints"));
    taints.any(|t| t.str_at("/effect") == Some(NO_EXECUTE)).then(|| pool_of(slice)).flatten()
}

/// The pool of a slice.
pub fn pool_of(slice: &Value) -> Option<Pool> {
    pool(slice, "/spec/driver", "/spec/pool/name")
}

fn results(claim: &Value) -> &[Value] {
    claim.items_at("/status/allocation/devices/results")
}

/// The pools that a claim has devices of.
pub fn pools(claim: &Value) -> impl Iterator<Item = Pool> {
    results(claim).iter().filter_map(|r| pool(r, "/driver", "/pool"))
}

/// A device by its pool and name, in the newest generation of the pool.
fn device<'a>(slices: &'a [Value], of: &Pool, name: &str) -> Option<&'a Value> {
    let all = || slices.iter().filter(move |s| pool_of(s).as_ref() == Some(of));
    let generation = |s: &&Value| s.int_at("/spec/pool/generation").unwrap_or(0);
    let newest = all().map(|s| generation(&s)).max()?;
    let mut devices = all().filter(|s| generation(s) == newest).flat_map(|s| s.items_at("/spec/devices"));
    devices.find(|d| d.str_at("/name") == Some(name))
}

/// Seconds that a device's taint is tolerated; none for ever.
fn tolerated(result: &Value, taint: &Value) -> Option<i64> {
    let fits = |t: &&Value| t.str_at("/effect") == Some(NO_EXECUTE) && tolerates(t, taint);
    let all = result.items_at("/tolerations").iter().filter(fits).map(|t| t.int_at("/tolerationSeconds"));
    // One without an end counts for more than any with one.
    let all: Option<Vec<i64>> = all.collect();
    Some(all?.into_iter().min().unwrap_or(0).max(0))
}

/// When the pods that use a claim have to go; none when they may stay. `slices` are those of the claim's pools.
pub fn when(claim: &Value, slices: &[Value]) -> Option<Timestamp> {
    let of = |result: &Value| {
        let pool = pool(result, "/driver", "/pool")?;
        let taints = device(slices, &pool, result.str_at("/device")?)?.items_at("/taints").iter();
        let ends = taints.filter(|t| t.str_at("/effect") == Some(NO_EXECUTE)).filter_map(|taint| {
            // The API gives each taint a time.
            let added = time(taint.str_at("/timeAdded")).unwrap_or(Timestamp::UNIX_EPOCH);
            let end = added.as_second().saturating_add(tolerated(result, taint)?);
            Some(Timestamp::from_second(end).unwrap_or(Timestamp::MAX))
        });
        ends.min()
    };
    results(claim).iter().filter_map(of).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn slice(generation: i64, device: &str, taints: Value) -> Value {
        json!({"spec": {"driver": "d", "pool": {"name": "p", "generation": generation},
            "devices": [{"name": device, "taints": taints}]}})
    }

    fn taint(key: &str, second: i64) -> Value {
        json!({"key": key, "effect": "NoExecute", "timeAdded": Timestamp::from_second(second).unwrap().to_string()})
    }

    fn result(device: &str, tolerations: Value) -> Value {
        json!({"driver": "d", "pool": "p", "device": device, "tolerations": tolerations})
    }

    fn claim(results: &[Value]) -> Value {
        json!({"status": {"allocation": {"devices": {"results": results}}}})
    }

    #[test_case(json!([]), Some(100); "at once")]
    #[test_case(json!([{"key": "sick", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}]), Some(130))]
    #[test_case(json!([{"key": "sick", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": -5}]), Some(100); "less than nothing is nothing")]
    #[test_case(json!([{"key": "sick", "operator": "Exists", "effect": "NoExecute"}]), None; "for ever")]
    #[test_case(json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}, {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 9}]), Some(109); "the shortest counts")]
    #[test_case(json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}, {"operator": "Exists", "effect": "NoExecute"}]), None; "one for ever is enough")]
    #[test_case(json!([{"key": "old", "operator": "Exists", "effect": "NoExecute"}]), Some(100); "of another taint")]
    #[test_case(json!([{"key": "sick", "operator": "Exists"}]), Some(100); "an effect has to be named")]
    fn a_taint_is_tolerated_for_a_time(tolerations: Value, want: Option<i64>) {
        let slices = [slice(1, "a", json!([taint("sick", 100)]))];
        assert_eq!(when(&claim(&[result("a", tolerations)]), &slices).map(Timestamp::as_second), want);
    }

    #[test_case(&[slice(1, "a", json!([taint("x", 9)])), slice(2, "a", json!([]))], None; "the newest generation counts")]
    #[test_case(&[slice(1, "a", json!([])), slice(1, "b", json!([taint("x", 9)]))], Some(9); "the earliest of its devices")]
    #[test_case(&[slice(1, "a", json!([taint("x", 9), taint("y", 5)]))], Some(5); "the earliest of its taints")]
    #[test_case(&[slice(1, "other", json!([taint("x", 9)]))], None; "a device of somebody else")]
    #[test_case(&[slice(1, "a", json!([{"key": "x", "effect": "NoSchedule"}]))], None; "who has it may keep it")]
    #[test_case(&[slice(1, "a", json!([{"key": "x", "effect": "NoExecute"}]))], Some(0); "from before taints had times")]
    fn devices_count_as_they_are(slices: &[Value], want: Option<i64>) {
        let claim = claim(&[result("a", json!([])), result("b", json!([]))]);
        assert_eq!(when(&claim, slices).map(Timestamp::as_second), want);
    }

    #[test]
    fn only_what_is_tainted_is_noted() {
        let of = |taints: Value| tainted(&slice(1, "a", taints));
        assert_eq!(of(json!([taint("x", 1)])), Some(("d".into(), "p".into())));
        assert_eq!(of(json!([{"key": "x", "effect": "NoSchedule"}])), None);
    }
}
