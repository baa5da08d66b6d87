//! Devices whose drivers have to agree after they were chosen: whether they have.
//!
//! Upstream: `plugins/dynamicresources` (`isClaimReadyForBinding`, `isClaimTimeout`).

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::api::value::ValueExt;

/// How long drivers may take. Upstream: `BindingTimeoutDefaultSeconds`.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// What the drivers of an allocated claim say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Agreed {
    /// All agree, or nobody has to be asked.
    #[default]
    Yes,
    /// Somebody has not said it yet.
    NotYet,
    /// Somebody refuses; the error says who and why.
    No(String),
}

/// True where devices of an allocation wait for their drivers.
pub fn has_conditions(allocation: &Value) -> bool {
    allocation.items_at("/devices/results").iter().any(|r| !r.items_at("/bindingConditions").is_empty())
}

/// Whether the drivers of all devices of a claim agree. One without devices is not ready either.
pub fn agreed(claim: &Value) -> Agreed {
    if claim.get_at("/status/allocation").is_none_or(Value::is_null) {
        return Agreed::NotYet;
    }
    for result in claim.items_at("/status/allocation/devices/results") {
        let wanted = result.items_at("/bindingConditions");
        if wanted.is_empty() {
            continue;
        }
        let is_it = |d: &&Value| ["driver", "pool", "device"].iter().all(|part| d.get(part) == result.get(part));
        let Some(device) = claim.items_at("/status/devices").iter().find(is_it) else { return Agreed::NotYet };
        let is_true = |kind: &Value| {
            let mut all = device.items_at("/conditions").iter();
            all.find(|c| c.get("type") == Some(kind)).filter(|c| c.str_at("/status") == Some("True"))
        };
        if let Some(failed) = result.items_at("/bindingFailureConditions").iter().find_map(is_true) {
            let text = |at: &str| failed.str_at(at).unwrap_or_default();
            let name = claim.str_at("/metadata/name").unwrap_or_default();
            let (reason, message) = (text("/reason"), text("/message"));
            return Agreed::No(format!("claim {name} binding failed: reason={reason}, message={message:?}"));
        }
        if !wanted.iter().all(|kind| is_true(kind).is_some()) {
            return Agreed::NotYet;
        }
    }
    Agreed::Yes
}

/// When the drivers of a claim have taken too long; none where nobody has to be asked, or nobody knows since when.
pub fn late_at(claim: &Value) -> Option<Timestamp> {
    let allocation = claim.get_at("/status/allocation").filter(|a| has_conditions(a))?;
    let since: Timestamp = allocation.str_at("/allocationTimestamp")?.parse().ok()?;
    since.checked_add(PATIENCE).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use test_case::test_case;

    fn device(kind: &str, status: &str) -> Value {
        json!({"driver": "d", "pool": "p", "device": "x", "conditions": [
            {"type": kind, "status": status, "reason": "Why", "message": "so \"it\" is"}]})
    }

    #[test_case(json!([]), Agreed::NotYet; "nothing said")]
    #[test_case(json!([device("Ready", "False")]), Agreed::NotYet; "not true")]
    #[test_case(json!([device("Ready", "True")]), Agreed::Yes; "agreed")]
    #[test_case(json!([device("Broken", "False"), device("Ready", "True")]), Agreed::NotYet; "the first counts")]
    #[test_case(json!([device("Broken", "True")]),
        Agreed::No("claim c binding failed: reason=Why, message=\"so \\\"it\\\" is\"".into()); "refused")]
    #[test_case(json!([{"driver": "d", "pool": "p", "device": "y",
        "conditions": [{"type": "Ready", "status": "True"}]}]), Agreed::NotYet; "another device")]
    fn drivers_agree(devices: Value, want: Agreed) {
        let result = json!({"request": "r", "driver": "d", "pool": "p", "device": "x", "bindingConditions": ["Ready"],
            "bindingFailureConditions": ["Broken"]});
        let other = json!({"request": "r", "driver": "d", "pool": "p", "device": "z"});
        let claim = json!({"metadata": {"name": "c"}, "status": {"devices": devices, "allocation": {
            "allocationTimestamp": "2026-01-01T00:00:00Z", "devices": {"results": [other, result]}}}});
        assert_eq!(agreed(&claim), want);
        assert_eq!(late_at(&claim), Some("2026-01-01T00:10:00Z".parse().unwrap()));
    }
}
